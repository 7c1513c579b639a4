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
