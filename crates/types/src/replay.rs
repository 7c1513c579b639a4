//! What a log says of one queue's seqs when it is read from its start: which messages entered, and which have left. Recovery
//! and the tools for stopped stores read it by this one rule.

use crate::ids::Seq;
use crate::range::SeqRange;
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
    /// First → end (exclusive) of what has left; merged.
    gone: BTreeMap<Seq, Seq>,
}

impl<R> Default for Replay<R> {
    fn default() -> Self {
        Self { runs: BTreeMap::new(), gone: BTreeMap::new() }
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
        if range.step == 1 {
            self.remove(range.first, range.last() + 1);
        } else {
            range.iter().for_each(|seq| self.remove(seq, seq + 1));
        }
    }
    /// All up to `upto` left, except these, which are in order.
    pub fn purge(&mut self, upto: Seq, except: &[SeqRange]) {
        let mut at = 0;
        for seq in except.iter().flat_map(SeqRange::iter) {
            if seq > at {
                self.remove(at, seq);
            }
            at = seq + 1;
        }
        if at <= upto {
            self.remove(at, upto + 1);
        }
    }
    fn remove(&mut self, mut first: Seq, mut end: Seq) {
        if let Some((f, e)) = self.gone.range(..=first).next_back().map(|(f, e)| (*f, *e))
            && e >= first
        {
            (first, end) = (f, end.max(e));
        }
        while let Some((f, e)) = self.gone.range(first..=end).next().map(|(f, e)| (*f, *e)) {
            end = end.max(e);
            self.gone.remove(&f);
        }
        self.gone.insert(first, end);
    }
    /// The runs by their first seqs, in order, with those of their messages that have left.
    pub fn runs(&self) -> impl Iterator<Item = (Seq, &R)> {
        self.runs.iter().map(|(first, run)| (*first, run))
    }
    /// The stretches of `first .. end` that have not left, as first and end (exclusive).
    pub fn live(&self, first: Seq, end: Seq) -> Vec<(Seq, Seq)> {
        let mut out = Vec::new();
        let mut at = first;
        let before = self.gone.range(..=first).next_back().map(|(f, e)| (*f, *e));
        let inside = self.gone.range(first + 1..end).map(|(f, e)| (*f, *e));
        for (f, e) in before.into_iter().chain(inside) {
            if f > at {
                out.push((at, f.min(end)));
            }
            at = at.max(e);
            if at >= end {
                break;
            }
        }
        if at < end {
            out.push((at, end));
        }
        out
    }
}
