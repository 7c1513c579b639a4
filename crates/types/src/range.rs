//! Arithmetic progressions of sequence numbers.

use crate::ids::Seq;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `first, first + step, …`, `count` of them. A run split over n consumers gives progressions of step n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeqRange {
    /// First member.
    pub first: Seq,
    /// Number of members, ≥ 1.
    pub count: u32,
    /// Distance of two members, ≥ 1.
    pub step: u32,
}

impl SeqRange {
    /// `count` members from `first` on, one apart.
    pub fn dense(first: Seq, count: u32) -> Self {
        Self { first, count, step: 1 }
    }
    /// The last member.
    pub fn last(&self) -> Seq {
        self.first + u64::from(self.count.saturating_sub(1)) * u64::from(self.step)
    }
    /// All members in order.
    pub fn iter(&self) -> impl Iterator<Item = Seq> + use<> {
        let (first, step) = (self.first, u64::from(self.step));
        (0..u64::from(self.count)).map(move |i| first + i * step)
    }
    /// Joins `next` to the end of this range when the two make one progression; says whether it did.
    pub fn try_append(&mut self, next: &SeqRange) -> bool {
        let step = if self.count == 1 && next.count == 1 {
            match next.first.checked_sub(self.first) {
                Some(d) if d >= 1 && d <= u64::from(u32::MAX) => d as u32,
                _ => return false,
            }
        } else if self.count == 1 {
            next.step
        } else {
            self.step
        };
        let joins = next.first == self.last() + u64::from(step)
            && (next.count == 1 || next.step == step)
            && self.count.checked_add(next.count).is_some();
        if joins {
            self.step = step;
            self.count += next.count;
        }
        joins
    }
}

/// Appends `next` to `ranges`, merging it with the last one where they make one progression.
pub fn push_range(ranges: &mut Vec<SeqRange>, next: SeqRange) {
    if let Some(last) = ranges.last_mut()
        && last.try_append(&next)
    {
        return;
    }
    ranges.push(next);
}

/// A set of seqs that lie in long stretches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeqSet {
    /// First → end (exclusive); no two touch.
    stretches: BTreeMap<Seq, Seq>,
}

impl SeqSet {
    /// Adds `first .. end`.
    pub fn insert(&mut self, mut first: Seq, mut end: Seq) {
        if let Some((f, e)) = self.stretches.range(..=first).next_back().map(|(f, e)| (*f, *e))
            && e >= first
        {
            first = f;
            end = end.max(e);
        }
        while let Some((f, e)) = self.stretches.range(first..).next().map(|(f, e)| (*f, *e)) {
            if f > end {
                break;
            }
            end = end.max(e);
            self.stretches.remove(&f);
        }
        self.stretches.insert(first, end);
    }
    /// Adds the members of a range.
    pub fn insert_range(&mut self, range: SeqRange) {
        if range.step == 1 {
            self.insert(range.first, range.last() + 1);
        } else {
            range.iter().for_each(|seq| self.insert(seq, seq + 1));
        }
    }
    /// Whether `seq` is a member, and the first seq behind it of which the opposite is true.
    pub fn at(&self, seq: Seq) -> (bool, Seq) {
        match self.stretches.range(..=seq).next_back() {
            Some((_, end)) if *end > seq => (true, *end),
            _ => (false, self.stretches.range(seq..).next().map_or(Seq::MAX, |(first, _)| *first)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_in() {
        let mut set = SeqSet::default();
        set.insert(10, 20);
        set.insert_range(SeqRange { first: 30, count: 3, step: 5 });
        set.insert(20, 25);
        set.insert(0, 2);
        set.insert(4, 6);
        let members: Vec<Seq> = (0..50).filter(|s| set.at(*s).0).collect();
        let expected: Vec<Seq> = [0, 1, 4, 5].into_iter().chain(10..25).chain([30, 35, 40]).collect();
        assert_eq!(members, expected);
        assert_eq!([set.at(0), set.at(2), set.at(12), set.at(25)], [(true, 2), (false, 4), (true, 25), (false, 30)]);
        assert_eq!(set.at(41), (false, Seq::MAX));
        set.insert(3, 45);
        assert_eq!(set.at(3), (true, 45));
    }

    #[test]
    fn appends_only_what_makes_one_progression() {
        let mut r = vec![];
        for s in [1, 2, 3, 10, 12, 14, 15] {
            push_range(&mut r, SeqRange::dense(s, 1));
        }
        let all: Vec<u64> = r.iter().flat_map(SeqRange::iter).collect();
        assert_eq!(all, [1, 2, 3, 10, 12, 14, 15]);
        assert_eq!(r.first(), Some(&SeqRange::dense(1, 3)));
        assert_eq!(r.get(1), Some(&SeqRange { first: 10, count: 3, step: 2 }));
    }
}
