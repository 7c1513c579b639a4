//! Content that has begun to come, and is left in the input until all of it is there: so it needs no copy.

use super::frame::{BODY, HEADER, OVERHEAD, PREFIX};
use super::hot::envelope;
use hornpipe_types::header;
use hornpipe_types::message::CONTENT_HEADER_FIXED;

/// Body frames smaller than this aren't waited for, but where they end the body: consumers would get as many.
const FRAME_MIN: u64 = 2048;

/// What is known of content that has begun to come. Each of its frames is looked at once, however many reads bring it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Awaited {
    /// Octets of the frames that are there, the header's first.
    at: usize,
    /// Octets of body in the frames that are not.
    missing: u64,
    /// Octets of body in the first frame; 0 before it has begun.
    each: u64,
}

impl Awaited {
    /// Whether `bytes` are the beginning of content that [`super::hot::content`] will take once the rest has come: a header frame
    /// and body frames that are no crumbs. Returns how many octets it will measure, as far as that is known.
    ///
    /// `bytes` must begin with what it was asked about before.
    pub(crate) fn goes_on(&mut self, bytes: &[u8], channel: [u8; 2], frame_max: u32, body_max: u64) -> Option<usize> {
        let most = u64::from(frame_max).saturating_sub(OVERHEAD as u64).max(1);
        if self.at == 0 {
            let (header, body) = match begun(bytes, channel, frame_max)? {
                Begun::Unknown => return Some(0),
                Begun::Header { frame, body } => (frame, body),
            };
            if body > body_max {
                return None;
            }
            if bytes.len() < header {
                return Some(Self { at: header, missing: body, each: 0 }.in_all(most));
            }
            header::scan(envelope(bytes, HEADER, channel, frame_max)?).ok()?;
            (self.at, self.missing) = (header, body);
        }
        while self.missing > 0 {
            let rest = bytes.get(self.at..)?;
            if !begins(rest, BODY, channel) {
                return None;
            }
            let Some(size) = rest.get(3..PREFIX) else { return Some(self.in_all(most)) };
            let size = u64::from(size_of_frame(size));
            if size > u64::from(frame_max) || size > self.missing || (size < self.missing && size < FRAME_MIN) {
                return None;
            }
            if self.each == 0 {
                self.each = size.max(1);
            }
            if rest.len() < size as usize + OVERHEAD {
                return (size > 0).then(|| self.in_all(most));
            }
            envelope(rest, BODY, channel, frame_max)?;
            self.missing -= size;
            self.at += size as usize + OVERHEAD;
        }
        None
    }

    /// Whether the header is there.
    pub(crate) fn has_header(self) -> bool {
        self.at > 0
    }

    /// Octets of all of it when what is missing comes in frames like the first, or of `most`.
    fn in_all(self, most: u64) -> usize {
        let each = if self.each > 0 { self.each } else { most };
        self.at + (self.missing + self.missing.div_ceil(each) * OVERHEAD as u64) as usize
    }
}

/// What the begin of a header frame says.
enum Begun {
    /// Nothing yet.
    Unknown,
    /// Octets of the frame, and of the body behind it.
    Header { frame: usize, body: u64 },
}

/// `None` where it is no header frame, or a strange one.
fn begun(bytes: &[u8], channel: [u8; 2], frame_max: u32) -> Option<Begun> {
    if !begins(bytes, HEADER, channel) {
        return None;
    }
    // a header without properties has their flags all the same
    let sizes = CONTENT_HEADER_FIXED as u32 + 2..=frame_max;
    let Some(size) = bytes.get(3..PREFIX).map(size_of_frame) else { return Some(Begun::Unknown) };
    if !sizes.contains(&size) {
        return None;
    }
    let Some(fixed) = bytes[PREFIX..].first_chunk::<CONTENT_HEADER_FIXED>() else { return Some(Begun::Unknown) };
    let &[0, 60, 0, 0, body @ ..] = fixed else { return None };
    Some(Begun::Header { frame: size as usize + OVERHEAD, body: u64::from_be_bytes(body) })
}

/// Begin of a frame as far as it has come.
fn begins(bytes: &[u8], kind: u8, channel: [u8; 2]) -> bool {
    bytes.iter().zip([kind, channel[0], channel[1]]).all(|(a, b)| *a == b)
}

/// The number in the four octets of a frame's size.
fn size_of_frame(octets: &[u8]) -> u32 {
    octets.iter().fold(0, |sum, octet| sum << 8 | u32::from(*octet))
}

#[cfg(test)]
mod tests {
    use super::super::frame::{METHOD, put};
    use super::super::hot::{HEADER_START, Scanned, content};
    use super::*;
    use bytes::{BufMut, BytesMut};

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
        Awaited::default().goes_on(bytes, [0, 5], 4096, MOST).is_some()
    }

    #[test]
    fn what_is_waited_for_is_taken_once_it_is_there() {
        let full = &[7; 4096 - OVERHEAD][..];
        for pieces in [&[][..], &[&b"x"[..]], &[&[7; 1000]], &[full, full, &[7; 1]], &[full, &[7; 2048], full]] {
            let bytes = content_of(pieces.iter().map(|p| p.len() as u64).sum(), pieces);
            let mut awaited = Awaited::default();
            for end in 0..bytes.len() {
                let known = end >= PREFIX + CONTENT_HEADER_FIXED;
                let told = Some(if known { bytes.len() } else { 0 });
                assert_eq!(awaited.goes_on(&bytes[..end], [0, 5], 4096, MOST), told, "{end}");
                assert_eq!(Awaited::default().goes_on(&bytes[..end], [0, 5], 4096, MOST), told, "{end}");
                assert!(content(&bytes[..end], [0, 5], 4096, MOST, &mut Scanned::default()).is_none());
            }
            assert!(!waits(&bytes));
            assert_eq!(awaited.goes_on(&bytes, [0, 5], 4096, MOST), None);
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
