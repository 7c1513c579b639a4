//! Header and body frames out [spec §4.2.6]: copied as received, channel numbers patched, bodies cut anew only where a frame
//! would exceed what this peer takes.

use super::frame::{BODY, OVERHEAD, PREFIX, put};
use bytes::BytesMut;
use hornpipe_types::copy::put_octets;
use hornpipe_types::message::{Batch, MULTI_FRAME};

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
    use super::*;
    use hornpipe_types::header::Properties;
    use hornpipe_types::message::{BatchBuilder, MessageMeta};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_keep_the_body_and_the_limit(
            body in prop::collection::vec(any::<u8>(), 0..3000), built_for in 9usize..2000, frame_max in 9usize..2000,
            channel in any::<u16>(),
        ) {
            let mut b = BatchBuilder::default();
            let route = b.push_route("", "q");
            let header = Properties { priority: Some(3), ..Properties::default() }.encode(body.len() as u64);
            b.push_message(&header, [&body[..]], MessageMeta { route, ..MessageMeta::default() }, built_for);
            let batch = b.finish();
            let mut out = BytesMut::new();
            put_content(&mut out, channel, &batch, 0, frame_max);
            let mut rest = &out[..];
            let mut got = Vec::new();
            let mut first = true;
            while let Some(f) = super::super::frame::first(rest, u32::MAX).unwrap() {
                prop_assert_eq!(f.channel, channel);
                if first {
                    prop_assert_eq!(f.payload, &header[..]);
                } else {
                    prop_assert_eq!(f.kind, BODY);
                    prop_assert!(f.len() <= frame_max);
                    got.extend_from_slice(f.payload);
                }
                first = false;
                rest = &rest[f.len()..];
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(got, body);
        }
    }
}
