//! Read buffers, shared by all connections: only one that is being read from holds any.

use crate::connection::READ_BYTES;
use bytes::BytesMut;
use hornpipe_types::copy::with_room;
use std::sync::{Mutex, PoisonError};

/// With less room than this a buffer grows before a read.
const ROOM_MIN: usize = 16 * 1024;
/// Buffers kept when nobody uses them.
const KEPT: usize = 32;
/// A buffer that has grown past this is freed rather than kept.
const KEPT_BYTES: usize = 2 * READ_BYTES;

/// The pool.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<BytesMut>>);

impl Buffers {
    /// An empty buffer with room for a read.
    pub(crate) fn take(&self) -> BytesMut {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = kept.unwrap_or_default();
        // Takes back the room in front that was read and consumed, when nobody else holds a part of it.
        buffer.reserve(READ_BYTES);
        buffer
    }

    /// Makes room for a read behind what the buffer holds: so much that it holds `wanted` octets then and no more, where that is
    /// not 0.
    pub(crate) fn make_room(&self, buffer: &mut BytesMut, wanted: usize) {
        let len = buffer.len();
        if wanted > len {
            if buffer.capacity() != wanted {
                self.give(with_room(buffer, wanted));
            }
            return;
        }
        // What was used up in front is room again where no batch has it.
        let _ = buffer.try_reclaim(buffer.capacity() - len + 1);
        if buffer.capacity() == 0 {
            *buffer = self.take();
        }
        if buffer.capacity() - len < ROOM_MIN {
            buffer.reserve(READ_BYTES.saturating_sub(len).max(ROOM_MIN));
        }
    }

    /// Takes a buffer back.
    pub(crate) fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        // What was used up in front counts as room, unless a batch holds it.
        let _ = buffer.try_reclaim(READ_BYTES);
        if !(READ_BYTES..=KEPT_BYTES).contains(&buffer.capacity()) {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Buf;

    #[test]
    fn a_buffer_comes_back_empty_and_is_used_again() {
        let pool = Buffers::default();
        let mut buffer = pool.take();
        assert!(buffer.capacity() >= READ_BYTES);
        buffer.extend_from_slice(&[7; 1000]);
        let address = buffer.as_ptr();
        buffer.advance(1000);
        pool.give(buffer);
        // not the allocator, which may have given out the same place
        assert_eq!(pool.0.lock().unwrap().len(), 1);
        let again = pool.take();
        assert!(again.is_empty() && again.capacity() >= READ_BYTES);
        assert_eq!(again.as_ptr(), address, "the consumed room in front is taken back");
    }

    #[test]
    fn a_wanted_message_fills_its_buffer() {
        let pool = Buffers::default();
        let mut buffer = BytesMut::new();
        pool.make_room(&mut buffer, 0);
        assert_eq!((buffer.len(), buffer.capacity()), (0, READ_BYTES));
        // what is behind the first message does not fit any more
        buffer.extend_from_slice(&[7; READ_BYTES]);
        buffer.advance(READ_BYTES - 1000);
        pool.make_room(&mut buffer, 70_000);
        assert_eq!((&buffer[..], buffer.capacity()), (&[7; 1000][..], 70_000));
        // all of it is there: the next are as large, then smaller, then no matter
        for wanted in [70_000, 50_000] {
            buffer.clear();
            pool.make_room(&mut buffer, wanted);
            assert_eq!((buffer.len(), buffer.capacity()), (0, wanted));
        }
        pool.give(std::mem::take(&mut buffer));
        pool.make_room(&mut buffer, 0);
        assert_eq!(buffer.capacity(), READ_BYTES);
    }

    /// Where little has come the gap would be taken for room.
    #[test]
    fn a_buffer_made_for_a_message_keeps_its_place() {
        let pool = Buffers::default();
        let mut buffer = BytesMut::new();
        pool.make_room(&mut buffer, 70_000);
        let address = buffer.as_ptr();
        for part in [&[7; 40][..], &[8; 2000]] {
            buffer.extend_from_slice(part);
            pool.make_room(&mut buffer, 70_000);
            assert_eq!((buffer.as_ptr(), buffer.capacity()), (address, 70_000));
        }
    }

    /// What lies in front would live as long as the batch that the rest becomes, and nobody would count it.
    #[test]
    fn a_wanted_message_has_no_used_room_in_front() {
        let pool = Buffers::default();
        let mut buffer = BytesMut::with_capacity(500_000);
        buffer.extend_from_slice(&[7; 440_000]);
        buffer.advance(439_000);
        pool.make_room(&mut buffer, 50_000);
        assert_eq!((&buffer[..], buffer.capacity()), (&[7; 1000][..], 50_000));
    }

    #[test]
    fn big_and_surplus_buffers_are_freed() {
        let pool = Buffers::default();
        pool.give(BytesMut::with_capacity(KEPT_BYTES + 1));
        pool.give(BytesMut::new());
        for _ in 0..2 * KEPT {
            pool.give(BytesMut::with_capacity(READ_BYTES));
        }
        assert_eq!(pool.0.lock().unwrap().len(), KEPT);
    }
}
