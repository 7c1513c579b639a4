//! What framing must know of a channel: whether it is open, and content that is not complete yet.

use crate::codec::frame::{BODY, HEADER, OVERHEAD, PREFIX, put};
use bytes::{BufMut, BytesMut};
use hornpipe_types::copy::with_room;
use hornpipe_types::message::{BatchBuilder, MULTI_FRAME, MessageMeta};

/// Body frames smaller than this are joined with the frame before, so that a body in crumbs costs no more than its size.
const CRUMB: usize = 4096;

/// Room that may be made for a message that has begun, octets …
const AT_ONCE: usize = 512 * 1024;
/// … or so many times what has come of it, where that is more: what is not used is not touched, and costs addresses alone.
const AHEAD: usize = 16;

/// Octets of room for a message that will measure `size`, of which `have` are there.
pub(super) fn room_ahead(have: usize, size: usize) -> usize {
    size.min(AT_ONCE.max(have.saturating_mul(AHEAD)))
}

/// Life of a channel number. Numbers that are not in the table are not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChannelState {
    Open,
    /// The client closed it; the core has yet to answer.
    ClosingByClient,
    /// The machine found an error; the core has yet to answer.
    Failed {
        /// The client sent channel.close meanwhile.
        owes_close_ok: bool,
    },
    /// channel.close was sent: all but close and close-ok is ignored [spec §1.5.2.5].
    CloseSent,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) state: ChannelState,
    /// Content on its way in.
    pub(super) assembly: Option<Box<Assembly>>,
}

/// A publish whose content did not come in one piece.
#[derive(Debug)]
pub(super) struct Assembly {
    /// Exchange and routing key as sent.
    pub(super) route: Vec<u8>,
    pub(super) mandatory: bool,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The content header is due.
    Header,
    /// Body frames are due.
    Body {
        /// Octets of body missing, ≥ 1.
        missing: u64,
        into: Sink,
    },
}

/// Where the frames of a message go while it is incomplete.
#[derive(Debug)]
pub(super) enum Sink {
    /// To be copied into the batch of the read that completes it.
    Small { frames: Collected, meta: MessageMeta },
    /// A batch of its own, for bodies too large to copy again.
    Large { builder: BatchBuilder, last: Option<usize> },
    /// Over `max_message_size`: counted and dropped. Octets of the whole body.
    Discard(u64),
}

/// Content frames collected one after the other.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) bytes: BytesMut,
    last: Option<usize>,
    pub(super) body_frames: u32,
}

impl Sink {
    /// A sink for small messages with the header frame in it.
    pub(super) fn small(header: &[u8], meta: MessageMeta) -> Self {
        let mut frames = Collected::default();
        let body = meta.body as usize;
        frames.bytes.reserve(header.len() + OVERHEAD + if body > 0 { body + OVERHEAD } else { 0 });
        put(&mut frames.bytes, HEADER, 0, header);
        Self::Small { frames, meta }
    }

    /// A sink for large messages with route and header frame in it.
    pub(super) fn large(route: &[u8], header: &[u8], mut meta: MessageMeta) -> Self {
        let mut builder = BatchBuilder::default();
        meta.route = builder.push_route_bytes(route);
        // bodies are large when they exceed what one frame can hold
        meta.flags |= MULTI_FRAME;
        builder.begin_message(meta);
        put(builder.buf(), HEADER, 0, header);
        Self::Large { builder, last: None }
    }

    /// Adds a piece of body, of which `missing` octets were to come.
    pub(super) fn push(&mut self, piece: &[u8], missing: u64, frame_max: u32) {
        match self {
            Self::Small { frames, .. } => {
                if push_body(&mut frames.bytes, &mut frames.last, piece, frame_max) {
                    frames.body_frames += 1;
                }
            }
            Self::Large { builder, last } => {
                let out = builder.buf();
                if out.capacity() - out.len() < piece.len() + OVERHEAD {
                    let frames = missing.div_ceil(piece.len().max(CRUMB) as u64);
                    let size = out.len() + missing as usize + (frames as usize + 1) * OVERHEAD;
                    with_room(out, room_ahead(out.len(), size).max(out.len() + piece.len() + OVERHEAD));
                }
                push_body(out, last, piece, frame_max);
            }
            Self::Discard(_) => {}
        }
    }
}

/// Appends a body frame, or crumbs to the frame that began at `last`; says whether there is one frame more.
fn push_body(out: &mut BytesMut, last: &mut Option<usize>, piece: &[u8], frame_max: u32) -> bool {
    if piece.is_empty() {
        return false;
    }
    if let Some(at) = *last
        && piece.len() < CRUMB
    {
        let size = out.len() - at - OVERHEAD + piece.len();
        if size + OVERHEAD <= frame_max as usize {
            out.truncate(out.len() - 1);
            out.put_slice(piece);
            out.put_u8(crate::codec::frame::END);
            out[at + 3..at + PREFIX].copy_from_slice(&(size as u32).to_be_bytes());
            return false;
        }
    }
    *last = Some(out.len());
    put(out, BODY, 0, piece);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use hornpipe_types::header::Properties;

    #[test]
    fn what_is_collected_has_room_for_its_message_and_no_more() {
        let piece = [7; 131_064];
        let mut missing = 30 * piece.len() as u64;
        let mut sink = Sink::large(b"\0\x01q", &Properties::default().encode(missing), MessageMeta::default());
        while missing > 0 {
            sink.push(&piece, missing, 131_072);
            missing -= piece.len() as u64;
        }
        let Sink::Large { mut builder, .. } = sink else { panic!("small") };
        let out = builder.buf();
        assert!(out.len() > 30 * piece.len() && out.capacity() - out.len() < 100);
    }
}
