//! Read buffers, shared by all connections: only one that is being read from holds any.

use crate::connection::READ_BYTES;
use bytes::BytesMut;
use std::sync::{Mutex, PoisonError};

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

    /// Takes a buffer back.
    pub(crate) fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        if buffer.capacity() == 0 || buffer.capacity() > KEPT_BYTES {
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
        let again = pool.take();
        assert!(again.is_empty() && again.capacity() >= READ_BYTES);
        assert_eq!(again.as_ptr(), address, "the consumed room in front is taken back");
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
