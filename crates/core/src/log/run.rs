//! What a queue knows of its part of a logged run.

use hornpipe_types::ids::{EnqueueId, Seq};
use hornpipe_types::range::SeqRange;

/// Settled seqs in the middle of a [`LogRun`].
#[derive(Debug, Clone)]
pub(crate) struct Holes {
    base: Seq,
    bits: Vec<u64>,
}

impl Holes {
    fn new(base: Seq, count: u32) -> Self {
        Self { base, bits: vec![0; count as usize / 64 + 1] }
    }
    fn set(&mut self, seq: Seq) {
        let i = seq - self.base;
        if let Some(word) = self.bits.get_mut(i as usize / 64) {
            *word |= 1 << (i % 64);
        }
    }
    fn get(&self, seq: Seq) -> bool {
        let i = seq - self.base;
        self.bits.get(i as usize / 64).is_some_and(|w| w >> (i % 64) & 1 == 1)
    }
}

/// A stretch of a queue's seqs that one logged run holds. Shrinks at its ends as messages are settled there.
#[derive(Debug, Clone)]
pub(crate) struct LogRun {
    pub(crate) first: Seq,
    pub(crate) count: u32,
    /// Unsettled ones among them.
    pub(crate) live: u32,
    pub(crate) enqueue: EnqueueId,
    /// Index of the first message in the logged run.
    pub(crate) index: u32,
    pub(crate) holes: Option<Box<Holes>>,
}

impl LogRun {
    pub(crate) fn new(first: Seq, count: u32, enqueue: EnqueueId, index: u32) -> Self {
        Self { first, count, live: count, enqueue, index, holes: None }
    }
    /// Seq after the last.
    pub(crate) fn end(&self) -> Seq {
        self.first + u64::from(self.count)
    }
    /// Members of `part`, all within this run, are settled.
    pub(super) fn forget(&mut self, part: SeqRange) {
        self.live -= part.count.min(self.live);
        if self.live == 0 {
            return;
        }
        if part.step == 1 && self.holes.is_none() {
            if part.first == self.first {
                self.first += u64::from(part.count);
                self.index += part.count;
                self.count -= part.count;
                return;
            }
            if part.last() + 1 == self.end() {
                self.count -= part.count;
                return;
            }
        }
        let (first, count) = (self.first, self.count);
        let holes = self.holes.get_or_insert_with(|| Box::new(Holes::new(first, count)));
        part.iter().for_each(|seq| holes.set(seq));
        while self.count > 0 && holes.get(self.first) {
            self.first += 1;
            self.index += 1;
            self.count -= 1;
        }
    }
    /// The unsettled stretches as (first seq, count, index).
    pub(crate) fn stretches(&self) -> Vec<(Seq, u32, u32)> {
        let Some(holes) = &self.holes else { return vec![(self.first, self.count, self.index)] };
        let mut out: Vec<(Seq, u32, u32)> = Vec::new();
        for k in 0..self.count {
            let seq = self.first + u64::from(k);
            if holes.get(seq) {
                continue;
            }
            match out.last_mut() {
                Some((first, count, _)) if *first + u64::from(*count) == seq => *count += 1,
                _ => out.push((seq, 1, self.index + k)),
            }
        }
        out
    }
}
