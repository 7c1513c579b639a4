//! What waits to be written: octets of its own, and between them pieces of bodies that are left where they are.

use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::IoSlice;

/// Octets waiting to be written, read through [`bytes::Buf`]: `chunk` or `chunks_vectored` what is there, `advance` what was
/// written.
#[derive(Debug, Default)]
pub struct Output {
    /// Its own octets, in order. What is put behind them is written after all that is there.
    pub(crate) bytes: BytesMut,
    shared: VecDeque<Shared>,
    /// How many of its own octets come before the last shared piece.
    before: usize,
    /// Octets of the shared pieces.
    shared_len: usize,
}

/// Octets of a batch.
#[derive(Debug)]
struct Shared {
    /// How many of the output's own octets come between the piece before and this one.
    after: usize,
    octets: Bytes,
}

impl Output {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.shared.is_empty()
    }
    /// Octets waiting.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.shared_len
    }
    /// Adds octets that are kept, and not copied.
    pub(crate) fn share(&mut self, octets: Bytes) {
        if !octets.is_empty() {
            let after = self.bytes.len() - self.before;
            self.before += after;
            self.shared_len += octets.len();
            self.shared.push_back(Shared { after, octets });
        }
    }
    /// Drops all that waits.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.shared.clear();
        (self.before, self.shared_len) = (0, 0);
    }
    /// Gives memory back where there is more of it than `most` and nothing waits.
    pub(crate) fn release(&mut self, most: usize) {
        if self.is_empty() {
            if self.bytes.capacity() > most {
                self.bytes = BytesMut::new();
            }
            self.shared = VecDeque::new();
        }
    }
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.len()
    }
    fn chunk(&self) -> &[u8] {
        match self.shared.front() {
            Some(Shared { after: 0, octets }) => octets,
            Some(Shared { after, .. }) => &self.bytes[..*after],
            None => &self.bytes,
        }
    }
    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut at = 0;
        let between = self.shared.iter().flat_map(|Shared { after, octets }| {
            at += after;
            [&self.bytes[at - after..at], &octets[..]]
        });
        let chunks = between.chain([&self.bytes[self.before..]]).filter(|chunk| !chunk.is_empty());
        let mut used = 0;
        for (slice, chunk) in slices.iter_mut().zip(chunks) {
            *slice = IoSlice::new(chunk);
            used += 1;
        }
        used
    }
    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let Some(front) = self.shared.front_mut() else { return self.bytes.advance(count) };
            let own = front.after.min(count);
            self.bytes.advance(own);
            front.after -= own;
            self.before -= own;
            count -= own;
            let taken = front.octets.len().min(count);
            front.octets.advance(taken);
            self.shared_len -= taken;
            count -= taken;
            if front.octets.is_empty() {
                self.shared.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All that is there, by `chunks_vectored` with so many slices.
    fn vectored(out: &Output, slices: usize) -> Vec<u8> {
        let mut slices = vec![IoSlice::new(&[]); slices];
        let used = out.chunks_vectored(&mut slices);
        assert_eq!(used == 0, out.is_empty());
        slices[..used].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    proptest! {
        /// Octets put and shared in any order come out in that order, however they are taken.
        #[test]
        fn octets_come_out_as_they_went_in(
            steps in prop::collection::vec(
                (any::<bool>(), prop::collection::vec(any::<u8>(), 0..6), 0usize..12), 1..30,
            ),
        ) {
            let (mut out, mut wanted) = (Output::default(), Vec::new());
            for (shared, octets, take) in steps {
                wanted.extend_from_slice(&octets);
                if shared {
                    out.share(octets.into());
                } else {
                    out.bytes.extend_from_slice(&octets);
                }
                prop_assert_eq!((out.len(), out.is_empty()), (wanted.len(), wanted.is_empty()));
                prop_assert!(wanted.starts_with(out.chunk()) && out.chunk().is_empty() == wanted.is_empty());
                prop_assert!(wanted.starts_with(&vectored(&out, 2)));
                prop_assert_eq!(&vectored(&out, 100), &wanted);
                let take = take.min(wanted.len());
                out.advance(take);
                wanted.drain(..take);
            }
            out.release(0);
            prop_assert_eq!(&vectored(&out, 100), &wanted);
            out.clear();
            prop_assert_eq!((out.len(), out.is_empty(), out.chunk().len()), (0, true, 0));
            // nothing of before is left
            out.bytes.extend_from_slice(b"ab");
            out.share(Bytes::from_static(b"c"));
            prop_assert_eq!(vectored(&out, 3), b"abc");
        }
    }
}
