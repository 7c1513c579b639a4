//! Header and body frames out [spec §4.2.6]: copied as received, channel numbers patched, bodies cut anew only where a frame
//! would exceed what this peer takes. Large ones are written from where they lie.

use super::frame::{BODY, END, HEADER, OVERHEAD, PREFIX, put, put_prefix};
use crate::connection::Output;
use bytes::{BufMut, BytesMut};
use hornpipe_types::copy::put_octets;
use hornpipe_types::message::{Batch, MULTI_FRAME, Span};

/// Smallest message that is written from its batch, octets: below it a copy costs less than a slice more to write.
const SHARED_MIN: usize = 32 * 1024;
/// Smallest piece of its body that is.
const PIECE_MIN: usize = 16 * 1024;

/// Whether a span is one message that is not copied. What is written slowly keeps the whole batch in memory and is counted as what
/// it measures itself, so it must be at least half of it.
pub(crate) fn is_shared(span: &Span) -> bool {
    let len = if span.count == 1 { span.batch.meta(span.from).len as usize } else { 0 };
    len >= SHARED_MIN && len >= span.batch.resident_bytes() / 2
}

/// Puts the content frames of message `i` on `channel`, its body where it lies.
pub(crate) fn share_content(out: &mut Output, channel: u16, batch: &Batch, i: u32, frame_max: usize) {
    put(&mut out.bytes, HEADER, channel, batch.header(i));
    let room = frame_max.saturating_sub(OVERHEAD).max(1);
    for piece in batch.body(i).flat_map(|piece| piece.chunks(room)) {
        if piece.len() < PIECE_MIN {
            put(&mut out.bytes, BODY, channel, piece);
            continue;
        }
        put_prefix(&mut out.bytes, BODY, channel, piece.len());
        out.share(batch.share(piece));
        out.bytes.put_u8(END);
    }
}

/// Appends the content frames of message `i` on `channel`. `frame_max` counts the envelope.
pub(crate) fn put_content(out: &mut BytesMut, channel: u16, batch: &Batch, i: u32, frame_max: usize) {
    let frames = batch.frames(i);
    let number = channel.to_be_bytes();
    let start = out.len();
    put_octets(out, frames);
    let copied = &mut out[start..];
    let Some(header) = patch(copied, number) else {
        return;
    };
    let mut at = header;
    let mut fits = true;
    if batch.meta(i).flags & MULTI_FRAME == 0 {
        fits = copied.len() - at <= frame_max;
        patch(&mut copied[at..], number);
    } else {
        while let Some(len) = patch(&mut copied[at..], number) {
            fits &= len <= frame_max;
            at += len;
        }
    }
    if !fits {
        out.truncate(start + header);
        let room = frame_max.saturating_sub(OVERHEAD).max(1);
        for piece in batch.body(i).flat_map(|piece| piece.chunks(room)) {
            put(out, BODY, channel, piece);
        }
    }
}

/// Writes the channel number into the frame at the front and returns the frame's length; `None` at the end.
fn patch(frames: &mut [u8], number: [u8; 2]) -> Option<usize> {
    let [_, c0, c1, s0, s1, s2, s3] = frames.first_chunk_mut::<PREFIX>()?;
    [*c0, *c1] = number;
    let len = u32::from_be_bytes([*s0, *s1, *s2, *s3]) as usize + OVERHEAD;
    (len <= frames.len()).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::super::frame::first;
    use super::*;
    use bytes::Buf;
    use hornpipe_types::header::Properties;
    use hornpipe_types::message::{BatchBuilder, MessageMeta};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// A batch of one message, and its header.
    fn batch_of(body: &[u8], built_for: usize) -> (Arc<Batch>, Vec<u8>) {
        let mut b = BatchBuilder::default();
        let route = b.push_route("", "q");
        let header = Properties { priority: Some(3), ..Properties::default() }.encode(body.len() as u64);
        b.push_message(&header, [body], MessageMeta { route, ..MessageMeta::default() }, built_for);
        (b.finish(), header)
    }

    /// The frames must be this header and this body on the channel, within the limit.
    fn check(frames: &[u8], channel: u16, header: &[u8], body: &[u8], frame_max: usize) {
        let mut rest = frames;
        let (mut got, mut is_header) = (Vec::new(), true);
        while let Some(f) = first(rest, u32::MAX).unwrap() {
            assert_eq!(f.channel, channel);
            if is_header {
                assert_eq!((f.kind, f.payload), (HEADER, header));
            } else {
                assert_eq!(f.kind, BODY);
                assert!(f.len() <= frame_max);
                got.extend_from_slice(f.payload);
            }
            is_header = false;
            rest = &rest[f.len()..];
        }
        assert!(rest.is_empty());
        assert_eq!(got, body);
    }

    proptest! {
        #[test]
        fn frames_keep_the_body_and_the_limit(
            body in prop::collection::vec(any::<u8>(), 0..3000), built_for in 9usize..2000, frame_max in 9usize..2000,
            channel in any::<u16>(),
        ) {
            let (batch, header) = batch_of(&body, built_for);
            let mut out = BytesMut::new();
            put_content(&mut out, channel, &batch, 0, frame_max);
            check(&out, channel, &header, &body, frame_max);
        }

        #[test]
        fn so_do_frames_of_a_body_that_is_left_where_it_lies(
            size in 0u32..150_000, built_for in 20_000usize..200_000, frame_max in 4096usize..140_000, channel in any::<u16>(),
        ) {
            let body: Vec<u8> = (0..size).map(|i| (i / 7) as u8).collect();
            let (batch, header) = batch_of(&body, built_for);
            let mut out = Output::default();
            share_content(&mut out, channel, &batch, 0, frame_max);
            let all = out.copy_to_bytes(out.remaining());
            check(&all, channel, &header, &body, frame_max);
        }
    }

    /// Who reads slowly keeps the batch.
    #[test]
    fn a_message_is_shared_where_it_is_half_of_its_batch() {
        let is = |octets: &[usize], from| {
            let mut b = BatchBuilder::default();
            let route = b.push_route("", "q");
            for size in octets {
                let header = Properties::default().encode(*size as u64);
                b.push_message(&header, [&vec![7; *size][..]], MessageMeta { route, ..MessageMeta::default() }, 0);
            }
            is_shared(&Span { batch: b.finish(), from, count: 1, step: 1 })
        };
        assert!(is(&[40_000], 0) && is(&[100, 40_000, 30_000], 1));
        assert!(!is(&[100, 40_000, 30_000], 0) && !is(&[40_000, 41_000, 30_000], 1) && !is(&[30_000], 0));
    }

    #[test]
    fn a_shared_body_is_not_copied() {
        let (batch, header) = batch_of(&vec![7; 3 * 131_064], 131_072);
        let mut out = Output::default();
        share_content(&mut out, 1, &batch, 0, 131_072);
        assert_eq!(out.bytes.len(), header.len() + 4 * OVERHEAD);
    }
}
