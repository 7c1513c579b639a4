//! What a log says of one queue's seqs when it is read from its start: which messages entered, and which have left. Recovery
//! and the tools for stopped stores read it by this one rule.

use crate::ids::Seq;
use crate::range::{SeqRange, SeqSet};
use std::collections::BTreeMap;

/// Consecutive messages that entered together.
pub trait Run: Clone {
    /// How many, ≥ 1.
    fn count(&self) -> u32;
    /// `count` of them from index `from` on.
    fn part(&self, from: u32, count: u32) -> Self;
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Replay<R> {
    /// By first seq; no two overlap.
    runs: BTreeMap<Seq, R>,
    /// What has left.
    gone: SeqSet,
    redelivered: SeqSet,
}

impl<R> Default for Replay<R> {
    fn default() -> Self {
        Self { runs: BTreeMap::new(), gone: SeqSet::default(), redelivered: SeqSet::default() }
    }
}

impl<R: Run> Replay<R> {
    /// A run entered; what it overlaps is replaced by it.
    pub fn enter(&mut self, first: Seq, run: R) {
        let end = first + Seq::from(run.count());
        let before = self.runs.range(..end).rev();
        let hit: Vec<Seq> = before.take_while(|(f, r)| **f + Seq::from(r.count()) > first).map(|(f, _)| *f).collect();
        for f in hit {
            let Some(old) = self.runs.remove(&f) else { continue };
            let old_end = f + Seq::from(old.count());
            if f < first {
                self.runs.insert(f, old.part(0, (first - f) as u32));
            }
            if old_end > end {
                let cut = (end - f) as u32;
                self.runs.insert(end, old.part(cut, old.count() - cut));
            }
        }
        self.runs.insert(first, run);
    }
    /// Messages left, whether they entered before or enter later.
    pub fn leave(&mut self, range: SeqRange) {
        self.gone.insert_range(range);
    }
    /// Messages count as redelivered, whether they entered before or enter later.
    pub fn mark_redelivered(&mut self, range: SeqRange) {
        self.redelivered.insert_range(range);
    }
    /// Whether `seq` counts as redelivered, and the first seq behind it of which the opposite is true.
    pub fn is_redelivered(&self, seq: Seq) -> (bool, Seq) {
        self.redelivered.at(seq)
    }
    /// All up to `upto` left, except these, which are in order.
    pub fn purge(&mut self, upto: Seq, except: &[SeqRange]) {
        let mut at = 0;
        for seq in except.iter().flat_map(SeqRange::iter) {
            if seq > at {
                self.gone.insert(at, seq);
            }
            at = seq + 1;
        }
        if at <= upto {
            self.gone.insert(at, upto + 1);
        }
    }
    /// The runs by their first seqs, in order, with those of their messages that have left.
    pub fn runs(&self) -> impl Iterator<Item = (Seq, &R)> {
        self.runs.iter().map(|(first, run)| (*first, run))
    }
    /// The stretches of `first .. end` that have not left, as first and end (exclusive).
    pub fn live(&self, first: Seq, end: Seq) -> Vec<(Seq, Seq)> {
        let mut out = Vec::new();
        let mut at = first;
        while at < end {
            let (gone, until) = self.gone.at(at);
            if !gone {
                out.push((at, until.min(end)));
            }
            at = until;
        }
        out
    }
}
