//! The methods that carry the traffic, by hand: publish, ack, nack, reject and the split of content in; deliver, get-ok,
//! return and confirms out. Property tests hold them to `amq-protocol`.

use super::frame::{BODY, END, HEADER, METHOD, OVERHEAD, PREFIX};
use bytes::{BufMut, BytesMut};
use hornpipe_types::command::Settle;
use hornpipe_types::header;
use hornpipe_types::ids::Tag;
use hornpipe_types::message::{CONTENT_HEADER_FIXED, MULTI_FRAME, MessageMeta};

/// basic.publish
pub(crate) const PUBLISH: (u16, u16) = (60, 40);
/// The first octets of a publish payload.
pub(crate) const PUBLISH_START: [u8; 4] = [0, 60, 0, 40];
/// Where in a publish payload exchange and routing key begin: behind class, method and ticket.
pub(crate) const ROUTE_AT: usize = 6;
/// The first octets of a content header payload of class basic: class and weight.
pub(crate) const HEADER_START: [u8; 4] = [0, 60, 0, 0];

/// basic.publish, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    /// Exchange and routing key with their length octets.
    pub(crate) route: &'a [u8],
    pub(crate) mandatory: bool,
    pub(crate) immediate: bool,
}

/// Why a publish does not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublishError {
    Malformed,
    NotUtf8,
}

/// Decodes a publish payload, class and method id included (and known to be right).
pub(crate) fn publish(payload: &[u8]) -> Result<Publish<'_>, PublishError> {
    let rest = payload.get(ROUTE_AT..).ok_or(PublishError::Malformed)?;
    let short = |at: usize| -> Result<usize, PublishError> {
        let len = usize::from(*rest.get(at).ok_or(PublishError::Malformed)?);
        let text = rest.get(at + 1..at + 1 + len).ok_or(PublishError::Malformed)?;
        std::str::from_utf8(text).map_err(|_| PublishError::NotUtf8)?;
        Ok(at + 1 + len)
    };
    let end = short(short(0)?)?;
    match rest.split_at_checked(end) {
        Some((route, &[bits])) => Ok(Publish { route, mandatory: bits & 1 != 0, immediate: bits & 2 != 0 }),
        _ => Err(PublishError::Malformed),
    }
}

/// A settlement as sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settlement {
    pub(crate) how: Settle,
    pub(crate) tag: Tag,
    pub(crate) multiple: bool,
}

/// Decodes ack, nack and reject; `None` for any other method and for wrong lengths.
pub(crate) fn settlement(payload: &[u8]) -> Option<Settlement> {
    let (&[0, 60, 0, method, tag @ .., bits], []) = payload.split_first_chunk::<13>()? else {
        return None;
    };
    let tag = Tag::from_be_bytes(tag);
    Some(match method {
        80 => Settlement { how: Settle::Ack, tag, multiple: bits & 1 != 0 },
        90 => Settlement { how: Settle::Reject { requeue: bits & 1 != 0 }, tag, multiple: false },
        120 => Settlement { how: Settle::Nack { requeue: bits & 2 != 0 }, tag, multiple: bits & 1 != 0 },
        _ => return None,
    })
}

/// The content header scanned last: the next one often differs in body size only, and is then not scanned again.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Scanned<'a> {
    header: &'a [u8],
    meta: MessageMeta,
}

/// Splits content that lies complete at the front of `bytes`: octets of header frame and body frames together, and what
/// the header says (`offset`, `len`, `route` stay 0).
///
/// `None` for anything out of the ordinary: incomplete, malformed, other frames in between, bodies over `body_max`, empty
/// body frames. The general path sorts those out.
pub(crate) fn content<'a>(
    bytes: &'a [u8],
    channel: [u8; 2],
    frame_max: u32,
    body_max: u64,
    last: &mut Scanned<'a>,
) -> Option<(usize, MessageMeta)> {
    let header = envelope(bytes, HEADER, channel, frame_max)?;
    let fixed = header.first_chunk::<CONTENT_HEADER_FIXED>()?;
    let &[0, 60, 0, 0, size @ ..] = fixed else {
        return None;
    };
    let body = u64::from_be_bytes(size);
    if body > body_max {
        return None;
    }
    if last.header.len() != header.len() || last.header[CONTENT_HEADER_FIXED..] != header[CONTENT_HEADER_FIXED..] {
        let meta = header::scan(header).ok()?;
        *last = Scanned { header, meta };
    }
    let mut meta = last.meta;
    meta.body = u32::try_from(body).ok()?;
    let mut at = header.len() + OVERHEAD;
    let mut missing = body;
    while missing > 0 {
        let piece = envelope(&bytes[at..], BODY, channel, frame_max)?;
        if piece.is_empty() {
            return None;
        }
        missing = missing.checked_sub(piece.len() as u64)?;
        if missing > 0 {
            meta.flags |= MULTI_FRAME;
        }
        at += piece.len() + OVERHEAD;
    }
    Some((at, meta))
}

/// Largest body that is waited for in the input, octets.
const AWAITED_MAX: u64 = 512 * 1024;
/// Body frames smaller than this aren't waited for, but where they end the body: they would be looked at again with each read.
const AWAITED_FRAME_MIN: u64 = 2048;

/// Whether `bytes` are the beginning of content that [`content`] will take once the rest has come: a header frame and few body
/// frames. In the input it costs nothing to wait, and a message needs no copy. Returns how many octets it will measure,
/// as far as that is known.
pub(crate) fn is_on_its_way(bytes: &[u8], channel: [u8; 2], frame_max: u32, body_max: u64) -> Option<usize> {
    /// Begin of a frame as far as it has come; what its payload may measure.
    fn begins(bytes: &[u8], kind: u8, channel: [u8; 2]) -> bool {
        bytes.iter().zip([kind, channel[0], channel[1]]).all(|(a, b)| *a == b)
    }
    // a header without properties has their flags all the same
    let sizes = CONTENT_HEADER_FIXED as u32 + 2..=frame_max;
    let Some(fixed) = bytes.first_chunk::<{ PREFIX + CONTENT_HEADER_FIXED }>() else {
        let is_begin = begins(bytes, HEADER, channel)
            && bytes.get(3..PREFIX).is_none_or(|size| sizes.contains(&size_of_frame(size)));
        return is_begin.then_some(0);
    };
    let header = size_of_frame(&fixed[3..PREFIX]);
    let &[0, 60, 0, 0, ref size @ ..] = &fixed[PREFIX..] else { return None };
    let body = size.iter().fold(0, |sum, octet| sum << 8 | u64::from(*octet));
    if !begins(bytes, HEADER, channel) || !sizes.contains(&header) || body > body_max.min(AWAITED_MAX) {
        return None;
    }
    let mut at = header as usize + OVERHEAD;
    // what is still missing, in frames as large as the first
    let in_all =
        |at: usize, missing: u64, frame: u64| at + (missing + missing.div_ceil(frame) * OVERHEAD as u64) as usize;
    let most = u64::from(frame_max).saturating_sub(OVERHEAD as u64).max(1);
    if bytes.len() < at {
        return Some(in_all(at, body, most));
    }
    let header = envelope(bytes, HEADER, channel, frame_max)?;
    header::scan(header).ok()?;
    let (mut missing, mut each) = (body, None);
    while missing > 0 {
        let rest = bytes.get(at..)?;
        if !begins(rest, BODY, channel) {
            return None;
        }
        let Some(size) = rest.get(3..PREFIX) else { return Some(in_all(at, missing, each.unwrap_or(most))) };
        let size = u64::from(size_of_frame(size));
        if size > u64::from(frame_max) || size > missing || (size < missing && size < AWAITED_FRAME_MIN) {
            return None;
        }
        let each = *each.get_or_insert(size.max(1));
        if rest.len() < size as usize + OVERHEAD {
            return (size > 0).then(|| in_all(at, missing, each));
        }
        envelope(rest, BODY, channel, frame_max)?;
        missing -= size;
        at += size as usize + OVERHEAD;
    }
    None
}

/// The number in the four octets of a frame's size.
fn size_of_frame(octets: &[u8]) -> u32 {
    octets.iter().fold(0, |sum, octet| sum << 8 | u32::from(*octet))
}

/// The payload of the frame at the front of `bytes` if it is complete, sound, and of this kind and channel.
pub(crate) fn envelope(bytes: &[u8], kind: u8, channel: [u8; 2], frame_max: u32) -> Option<&[u8]> {
    let &[k, c0, c1, s0, s1, s2, s3] = bytes.first_chunk::<PREFIX>()?;
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    if k != kind || [c0, c1] != channel || size > frame_max {
        return None;
    }
    let end = PREFIX + size as usize;
    if bytes.get(end) != Some(&END) {
        return None;
    }
    bytes.get(PREFIX..end)
}

/// Begins a method frame of class basic in `out` (cleared before); ended by [`end_method`].
fn begin_method(out: &mut Vec<u8>, channel: u16, method: u8) {
    out.clear();
    out.put_u8(METHOD);
    out.put_u16(channel);
    out.put_u32(0);
    out.put_slice(&[0, 60, 0, method]);
}

fn end_method(out: &mut Vec<u8>) {
    let size = (out.len() - PREFIX) as u32;
    out[3..PREFIX].copy_from_slice(&size.to_be_bytes());
    out.put_u8(END);
}

fn put_short(out: &mut Vec<u8>, text: &str) {
    // short strings are at most 255 octets by construction
    out.put_u8(text.len() as u8);
    out.put_slice(text.as_bytes());
}

/// Makes a basic.deliver frame in `out` with delivery tag 0 and returns where the tag stands in it.
pub(crate) fn deliver(out: &mut Vec<u8>, channel: u16, consumer: &str, redelivered: bool, route: &[u8]) -> usize {
    begin_method(out, channel, 60);
    put_short(out, consumer);
    let tag_at = out.len();
    out.put_u64(0);
    out.put_u8(redelivered.into());
    out.put_slice(route);
    end_method(out);
    tag_at
}

/// Makes a basic.get-ok frame in `out`.
pub(crate) fn get_ok(out: &mut Vec<u8>, channel: u16, tag: Tag, redelivered: bool, route: &[u8], messages: u32) {
    begin_method(out, channel, 71);
    out.put_u64(tag);
    out.put_u8(redelivered.into());
    out.put_slice(route);
    out.put_u32(messages);
    end_method(out);
}

/// Makes a basic.return frame in `out`.
pub(crate) fn returned(out: &mut Vec<u8>, channel: u16, code: u16, text: &str, route: &[u8]) {
    begin_method(out, channel, 50);
    out.put_u16(code);
    put_short(out, text);
    out.put_slice(route);
    end_method(out);
}

/// Appends `count` basic.ack or basic.nack frames to a publisher, tags counting up from `tag`.
pub(crate) fn confirms(out: &mut BytesMut, channel: u16, tag: Tag, count: u32, multiple: bool, ack: bool) {
    let mut frame = [0u8; 21];
    frame[0] = METHOD;
    frame[1..3].copy_from_slice(&channel.to_be_bytes());
    frame[6] = 13;
    frame[7..11].copy_from_slice(&[0, 60, 0, if ack { 80 } else { 120 }]);
    // RabbitMQ sets requeue in a nack to a publisher, where it means nothing
    frame[19] = u8::from(multiple) | if ack { 0 } else { 2 };
    frame[20] = END;
    out.reserve(count as usize * frame.len());
    for k in 0..u64::from(count) {
        frame[11..19].copy_from_slice(&tag.saturating_add(k).to_be_bytes());
        out.put_slice(&frame);
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::put;
    use super::*;

    /// Header and body frames on channel 5: the body as these pieces, announced as so many octets.
    fn content_of(announced: u64, pieces: &[&[u8]]) -> BytesMut {
        let mut header = HEADER_START.to_vec();
        header.put_u64(announced);
        header.put_slice(&[0x10, 0, 2]);
        let mut bytes = BytesMut::new();
        put(&mut bytes, HEADER, 5, &header);
        for piece in pieces {
            put(&mut bytes, BODY, 5, piece);
        }
        bytes
    }

    const MOST: u64 = 11_000;

    fn waits(bytes: &[u8]) -> bool {
        is_on_its_way(bytes, [0, 5], 4096, MOST).is_some()
    }

    #[test]
    fn what_is_waited_for_is_taken_once_it_is_there() {
        let full = &[7; 4096 - OVERHEAD][..];
        for pieces in [&[][..], &[&b"x"[..]], &[&[7; 1000]], &[full, full, &[7; 1]], &[full, &[7; 2048], full]] {
            let bytes = content_of(pieces.iter().map(|p| p.len() as u64).sum(), pieces);
            for end in 0..bytes.len() {
                let known = end >= PREFIX + CONTENT_HEADER_FIXED;
                assert_eq!(
                    is_on_its_way(&bytes[..end], [0, 5], 4096, MOST),
                    Some(if known { bytes.len() } else { 0 }),
                    "{end}"
                );
                assert!(content(&bytes[..end], [0, 5], 4096, MOST, &mut Scanned::default()).is_none());
            }
            assert!(!waits(&bytes));
            assert!(content(&bytes, [0, 5], 4096, MOST, &mut Scanned::default()).is_some());
        }
    }

    #[test]
    fn what_will_never_be_taken_is_not_waited_for() {
        let whole = content_of(1000, &[&[7; 1000]]);
        let cut = |bytes: &[u8]| bytes[..bytes.len() - 5].to_vec();
        let with = |at: usize, octet: u8| {
            let mut bytes = cut(&whole);
            bytes[at] = octet;
            bytes
        };
        // the end of the first of two body frames
        let with_end = |mut bytes: BytesMut, octet: u8| {
            let at = bytes.len() - 3 - OVERHEAD - 1;
            bytes[at] = octet;
            cut(&bytes)
        };
        let body = whole.len() - 1000 - OVERHEAD;
        let never = [
            ("a heartbeat", with(0, 8)),
            ("another channel", with(2, 6)),
            ("a header larger than a frame", with(4, 1)),
            ("another class", with(8, 10)),
            ("a header without an end", with(body - 1, 0)),
            ("an unknown property flag", with(body - 2 - 2, 0xff)),
            ("another frame in between", with(body, METHOD)),
            ("a body on another channel", with(body + 2, 6)),
            ("a body in crumbs", cut(&content_of(3000, &[&[7; 2047]]))),
            ("a body frame without an end", with_end(content_of(3000, &[&[7; 2048], &[7; 3]]), 0)),
            ("a body that is too large", cut(&content_of(MOST + 1, &[&[7; 4000]]))),
            ("a body larger than announced", cut(&content_of(1000, &[&[7; 1001]]))),
            ("a header of nothing", vec![HEADER, 0, 5, 0, 0, 0, 0, 0xce]),
            ("a header without flags", vec![HEADER, 0, 5, 0, 0, 0, 12, 0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xce]),
            ("an empty body frame", content_of(3, &[&[]]).to_vec()),
        ];
        for (what, bytes) in never {
            assert!(!waits(&bytes), "{what}");
        }
    }
}
