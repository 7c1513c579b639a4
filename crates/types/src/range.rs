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

/// The members of all `ranges`, each once and in order. What lies apart is taken as it is; ranges that lie into each other are
/// spread out, unless they are the parts of one run that consumers took in turn and are dense together.
pub fn in_order(mut ranges: Vec<SeqRange>) -> Vec<SeqRange> {
    ranges.sort_unstable_by_key(|r| r.first);
    let mut sorted = Vec::new();
    let mut rest = &ranges[..];
    while let Some(first) = rest.first() {
        let (mut n, mut last) = (1, first.last());
        while let Some(next) = rest.get(n).filter(|next| next.first <= last) {
            last = last.max(next.last());
            n += 1;
        }
        let (tangled, behind) = rest.split_at(n);
        rest = behind;
        if let [alone] = tangled {
            push_range(&mut sorted, *alone);
        } else if let Some(dense) = woven(tangled) {
            push_range(&mut sorted, dense);
        } else {
            let mut seqs: Vec<Seq> = tangled.iter().flat_map(SeqRange::iter).collect();
            seqs.sort_unstable();
            seqs.dedup();
            seqs.into_iter().for_each(|seq| push_range(&mut sorted, SeqRange::dense(seq, 1)));
        }
    }
    sorted
}

/// The one dense range that is made of these: as many as they are apart, each beginning one behind the other.
fn woven(ranges: &[SeqRange]) -> Option<SeqRange> {
    let head = ranges.first()?;
    let count = ranges.iter().try_fold(0u32, |sum, r| sum.checked_add(r.count))?;
    let n = ranges.len() as u32;
    let fits = |(k, r): (u32, &SeqRange)| {
        // the first ones have one more when the members don't divide evenly
        let own = count / n + u32::from(k < count % n);
        r.first == head.first + Seq::from(k) && r.count == own && (r.step == n || own == 1)
    };
    (0..).zip(ranges).all(fits).then(|| SeqRange::dense(head.first, count))
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

    /// Sorted, whole, and nothing twice, whatever lies across what.
    #[test]
    fn ranges_are_put_in_order() {
        let range = |first, count, step| SeqRange { first, count, step };
        let turns = |first: Seq, n: u32, count: u32| (0..n).map(move |k| range(first + Seq::from(k), count, n));
        let mut state = 1u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        for _ in 0..2000 {
            let mut ranges = Vec::new();
            for _ in 0..below(6) {
                let first = below(120);
                match below(3) {
                    0 => ranges.push(range(first, below(9) as u32 + 1, below(4) as u32 + 1)),
                    1 => ranges.extend(turns(first, below(4) as u32 + 1, below(5) as u32 + 1)),
                    _ => ranges.push(SeqRange::dense(first, below(30) as u32 + 1)),
                }
            }
            let expected: std::collections::BTreeSet<Seq> = ranges.iter().flat_map(SeqRange::iter).collect();
            let sorted: Vec<Seq> = in_order(ranges.clone()).iter().flat_map(SeqRange::iter).collect();
            assert_eq!(sorted, expected.into_iter().collect::<Vec<_>>(), "{ranges:?}");
        }
        // three consumers of a run of eleven, and what one had alone behind it
        let mut ranges: Vec<SeqRange> = turns(100, 2, 4).map(|r| range(r.first, r.count, 3)).collect();
        ranges.extend([range(102, 3, 3), SeqRange::dense(111, 9)]);
        assert_eq!(in_order(ranges), [SeqRange::dense(100, 20)]);
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
