//! Messages waiting in a queue, as segments: consecutive seqs whose bodies lie in one batch, or on disk.

use crate::chunked::{At, Chunked};
use crate::thinning::Look;
use hornpipe_types::ids::Seq;
use hornpipe_types::message::{Batch, Span};
use std::sync::Arc;

/// Consecutive messages of a queue that share everything expiry, redelivery and paging must know.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    /// Seq of the first message.
    pub(crate) first: Seq,
    /// Number of messages, ≥ 1.
    pub(crate) count: u32,
    /// Index of the first message in the batch.
    pub(crate) from: u32,
    /// The bodies; `None` = in the log only.
    pub(crate) batch: Option<Arc<Batch>>,
    /// Sum of body octets; an estimate for the parts of a paged-out segment.
    pub(crate) bytes: u64,
    /// Wall-clock deadline in ms; 0 = none.
    pub(crate) deadline: u64,
    /// `x-delivery-count` so far.
    pub(crate) delivery_count: u32,
    /// Times handed out so far.
    pub(crate) acquired: u32,
    /// Handed out before.
    pub(crate) redelivered: bool,
    /// All messages are logged (or will be with the pending group).
    pub(crate) logged: bool,
}

impl Segment {
    /// Seq after the last message.
    pub(crate) fn end(&self) -> Seq {
        self.first + u64::from(self.count)
    }

    /// Cuts off the first `n` messages; `n` < `count`.
    pub(crate) fn split_front(&mut self, n: u32) -> Segment {
        let bytes = match &self.batch {
            Some(batch) => batch.body_bytes(self.from, n, 1).min(self.bytes),
            None => self.bytes * u64::from(n) / u64::from(self.count.max(1)),
        };
        let front = Segment { count: n, bytes, batch: self.batch.clone(), ..*self };
        self.first += u64::from(n);
        self.from += n;
        self.count -= n;
        self.bytes -= bytes;
        front
    }

    /// The messages as a span; `None` when they are not resident.
    pub(crate) fn span(&self) -> Option<Span> {
        let batch = self.batch.clone()?;
        Some(Span { batch, from: self.from, count: self.count, step: 1 })
    }

    fn alike(&self, next: &Segment) -> bool {
        self.end() == next.first
            && self.deadline == next.deadline
            && self.delivery_count == next.delivery_count
            && self.acquired == next.acquired
            && self.redelivered == next.redelivered
            && self.logged == next.logged
            && self.count.checked_add(next.count).is_some()
    }

    /// Whether the two can be one segment.
    fn joins(&self, next: &Segment) -> bool {
        self.alike(next)
            && match (&self.batch, &next.batch) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) && self.from + self.count == next.from,
                (None, None) => true,
                _ => false,
            }
    }

    /// Appends `next` when the two can be one segment; gives it back otherwise.
    fn try_join(&mut self, next: Segment) -> Option<Segment> {
        if !self.joins(&next) {
            return Some(next);
        }
        self.count += next.count;
        self.bytes += next.bytes;
        None
    }
}

/// What a list of segments comes to, kept as they come and go: a question must not walk a long queue.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Messages whose bodies are in memory.
    pub(crate) resident: u64,
    pub(crate) logged: u64,
    pub(crate) logged_bytes: u64,
}

impl Tally {
    fn of(segment: &Segment) -> Self {
        let count = u64::from(segment.count);
        Self {
            resident: if segment.batch.is_some() { count } else { 0 },
            logged: if segment.logged { count } else { 0 },
            logged_bytes: if segment.logged { segment.bytes } else { 0 },
        }
    }
    pub(crate) fn add(&mut self, other: Self) {
        self.resident += other.resident;
        self.logged += other.logged;
        self.logged_bytes += other.logged_bytes;
    }
    fn subtract(&mut self, other: Self) {
        self.resident -= other.resident.min(self.resident);
        self.logged -= other.logged.min(self.logged);
        self.logged_bytes -= other.logged_bytes.min(self.logged_bytes);
    }
}

/// One ordered list of ready segments (a queue has one, a priority queue one per level).
#[derive(Debug, Default)]
pub(crate) struct Ready {
    segments: Chunked<Segment>,
    tally: Tally,
    /// Not in the order of seqs but in that of their return; such a list is only appended to.
    by_return: bool,
    /// Paging out stopped in the middle: it goes on with what lies below this seq.
    paging: Option<Seq>,
}

/// Segments without bodies that may stand between those at the head that have one.
const HEAD_GAPS: usize = 64;

impl Ready {
    pub(crate) fn new(by_return: bool) -> Self {
        Self { by_return, ..Self::default() }
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }
    pub(crate) fn front(&self) -> Option<&Segment> {
        self.segments.front()
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }
    /// Number of segments.
    pub(crate) fn len(&self) -> usize {
        self.segments.len()
    }
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// Appends a segment whose seqs are above all here.
    pub(crate) fn push_back(&mut self, segment: Segment) {
        self.tally.add(Tally::of(&segment));
        let rest = match self.segments.back_mut() {
            Some(last) => last.try_join(segment),
            None => Some(segment),
        };
        if let Some(segment) = rest {
            self.segments.push_back(segment);
        }
    }

    /// Takes at most `n` messages off the front, all of one segment.
    pub(crate) fn take_front(&mut self, n: u32) -> Option<Segment> {
        let head = self.segments.front_mut()?;
        let taken = if head.count <= n { self.segments.pop_front()? } else { head.split_front(n) };
        self.tally.subtract(Tally::of(&taken));
        Some(taken)
    }

    /// Takes everything.
    pub(crate) fn take_all(&mut self) -> Chunked<Segment> {
        self.tally = Tally::default();
        std::mem::take(&mut self.segments)
    }

    /// Puts returned messages back at their own positions. `returned` is sorted by seq and overlaps nothing here.
    pub(crate) fn insert_sorted(&mut self, returned: Vec<Segment>) {
        for segment in returned {
            self.tally.add(Tally::of(&segment));
            let first = segment.first;
            let at = self.segments.partition_point(|s| s.first < first);
            // segments lose messages at the front only, so none encloses a returned one; were it so, order is kept
            if let Some(before) = self.segments.previous(at)
                && let Some(encloses) = self.segments.get_mut(before)
                && encloses.end() > first
            {
                let front = encloses.split_front((first - encloses.first) as u32);
                let front = self.segments.insert(before, front);
                let between = self.segments.next(front);
                self.place(between, segment);
                continue;
            }
            self.place(at, segment);
        }
    }

    /// Puts a segment before the one at `at`, or joins it to its neighbours.
    fn place(&mut self, at: At, segment: Segment) {
        let before = self.segments.previous(at);
        let rest = match before.and_then(|p| self.segments.get_mut(p)) {
            Some(previous) => previous.try_join(segment),
            None => Some(segment),
        };
        let own = match (rest, before) {
            (None, Some(before)) => before,
            (Some(segment), _) => self.segments.insert(at, segment),
            (None, None) => return,
        };
        self.join_next(own);
    }

    /// Joins the segment at `at` with the one behind it where they make one.
    fn join_next(&mut self, at: At) {
        let next = self.segments.next(at);
        let joins = match (self.segments.get(at), self.segments.get(next)) {
            (Some(a), Some(b)) => a.joins(b),
            _ => false,
        };
        if joins
            && let Some((behind, _)) = self.segments.remove(next)
            && let Some(segment) = self.segments.get_mut(at)
        {
            segment.try_join(behind);
        }
    }

    /// Gives bodies read back from the log to the waiting messages among `first ..`: message i of the batch has seq
    /// `first + i`. Returns the octets of bodies that became resident and the correction of the byte count.
    pub(crate) fn attach(&mut self, first: Seq, batch: &Arc<Batch>) -> (u64, i64) {
        let end = first + u64::from(batch.len());
        let start = self.segments.start();
        let mut at = if self.by_return { start } else { self.segments.partition_point(|s| s.end() <= first) };
        let (mut resident, mut correction) = (0, 0);
        while let Some(segment) = self.segments.get_mut(at) {
            if segment.first >= end && !self.by_return {
                break;
            }
            if segment.batch.is_some() || segment.end() <= first || segment.first >= end {
                at = self.segments.next(at);
                continue;
            }
            if segment.first < first {
                let front = segment.split_front((first - segment.first) as u32);
                at = self.segments.insert(at, front);
                at = self.segments.next(at);
                continue;
            }
            if segment.end() > end {
                let n = (end - segment.first) as u32;
                let front = segment.split_front(n);
                at = self.segments.insert(at, front);
                continue;
            }
            segment.from = (segment.first - first) as u32;
            let bytes = batch.body_bytes(segment.from, segment.count, 1);
            correction += bytes as i64 - segment.bytes as i64;
            self.tally.subtract(Tally::of(segment));
            segment.bytes = bytes;
            segment.batch = Some(Arc::clone(batch));
            self.tally.add(Tally::of(segment));
            resident += bytes;
            at = self.segments.next(at);
        }
        (resident, correction)
    }

    /// Looks at segments from `from` on, or from the head, for batches that are mostly waste; where to go on, `None` at the end.
    pub(crate) fn look_at(&mut self, from: Option<At>, look: &mut Look<'_>) -> Option<At> {
        if self.tally.resident == 0 {
            return None;
        }
        let mut at = from.unwrap_or_else(|| self.segments.start());
        let (mut found, mut next) = (Vec::new(), None);
        while let Some(segment) = self.segments.get(at) {
            if look.units() == 0 {
                next = Some(at);
                break;
            }
            found.extend(look.at_segment(segment).map(|span| (at, span)));
            at = self.segments.next(at);
        }
        look.copy(found, |at, batch, from| {
            if let Some(segment) = self.segments.get_mut(at) {
                (segment.batch, segment.from) = (Some(batch), from);
            }
        });
        next
    }

    /// Drops the bodies of segments that are in the log (`logged`, all seqs below `stored`), from the tail towards the
    /// head, until `keep` octets from the head on are reached or an already paged-out segment is met; `keep` falls by what the
    /// head has. Looks at `most` segments at most, the next call goes on from there. Returns the octets freed.
    pub(crate) fn page_out(&mut self, stored: Seq, keep: &mut u64, most: usize) -> u64 {
        // what the head keeps: bodies there are loaded side by side, so looking ends behind them, with the last one that is in memory at all,
        // and after a slice's worth of segments anyway
        let (mut head_bytes, mut head_count, mut gone, mut first) = (0, 0, 0, self.segments.start());
        for _ in 0..most {
            if head_bytes >= *keep || head_count >= self.tally.resident || gone >= HEAD_GAPS {
                break;
            }
            let Some(segment) = self.segments.get(first) else { break };
            if segment.batch.is_some() {
                head_bytes += segment.bytes;
                head_count += u64::from(segment.count);
            } else {
                gone += 1;
            }
            first = self.segments.next(first);
        }
        if head_count >= self.tally.resident {
            *keep -= head_bytes.min(*keep);
            return 0;
        }
        *keep -= head_bytes.min(*keep);
        let mut freed = 0;
        // first what came since, then what the last call left
        let below = self.paging.take();
        let mut looked = 0;
        let end = self.segments.end();
        let mut at = if self.by_return { end } else { self.segments.partition_point(|s| s.end() <= stored) };
        let mut goes_on = below.is_some();
        while let Some(previous) = self.segments.previous(at).filter(|p| *p >= first) {
            at = previous;
            let Some(segment) = self.segments.get_mut(at) else { break };
            if segment.batch.is_none() {
                // what went before this call and what goes with it is one
                self.join_next(at);
                // everything behind is on disk already, but for where an earlier call stopped
                match below {
                    Some(below) if goes_on && !self.by_return => {
                        goes_on = false;
                        at = at.min(self.segments.partition_point(|s| s.first < below));
                        continue;
                    }
                    _ => break,
                }
            }
            if looked >= most {
                self.paging = Some(segment.end());
                break;
            }
            looked += 1;
            if segment.logged && segment.end() <= stored {
                segment.batch = None;
                segment.from = 0;
                freed += segment.bytes;
                self.tally.resident -= u64::from(segment.count).min(self.tally.resident);
                self.join_next(at);
            }
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hornpipe_types::message::{BatchBuilder, MessageMeta};
    use proptest::prelude::*;

    fn batch(n: u32) -> Arc<Batch> {
        let mut b = BatchBuilder::default();
        let route = b.push_route("", "q");
        for _ in 0..n {
            b.push_message(&[0; 14], [&b"x"[..]], MessageMeta { route, ..MessageMeta::default() }, 0);
        }
        b.finish()
    }

    fn segment(first: Seq, batch: &Arc<Batch>, from: u32, count: u32) -> Segment {
        Segment {
            first,
            count,
            from,
            batch: Some(Arc::clone(batch)),
            bytes: batch.body_bytes(from, count, 1),
            deadline: 0,
            delivery_count: 0,
            acquired: 0,
            redelivered: false,
            logged: true,
        }
    }

    fn seqs(r: &Ready) -> Vec<Seq> {
        let mut walked = Tally::default();
        r.iter().for_each(|s| walked.add(Tally::of(s)));
        assert_eq!(r.tally(), walked);
        r.iter().flat_map(|s| s.first..s.end()).collect()
    }

    /// A list of single messages that don't join: so many whose bodies are gone, then three in memory.
    fn gone_then_three(gone: u64) -> Ready {
        let (b, mut r) = (batch(1), Ready::default());
        let single = |k| Segment { deadline: k, ..segment(k, &b, 0, 1) };
        (0..gone).for_each(|k| r.push_back(single(k)));
        assert_eq!(r.page_out(gone, &mut 0, 1000), gone);
        (gone..gone + 3).for_each(|k| r.push_back(single(k)));
        r
    }

    #[test]
    fn looking_for_what_the_head_keeps_ends_soon() {
        let (mut few, mut many) = (gone_then_three(HEAD_GAPS as u64 / 2), gone_then_three(HEAD_GAPS as u64 * 2));
        let mut keep = 50;
        assert_eq!(
            (few.page_out(999, &mut keep, 1000), keep),
            (0, 47),
            "all bodies were seen, and are less than may stay"
        );
        assert_eq!(few.page_out(999, &mut 50, 10), 3, "more stand before them than is looked at");
        assert_eq!(many.page_out(999, &mut 50, 1000), 3, "they are not at the head");
    }

    proptest! {
        /// Any subset taken out and returned in any grouping leaves the order of seqs; indexes stay tied to seqs.
        #[test]
        fn returned_messages_find_their_places(taken in prop::collection::vec(1u32..5, 1..12), back in any::<u64>()) {
            let b = batch(60);
            let mut r = Ready::default();
            r.push_back(segment(1, &b, 0, 60));
            let mut out = vec![];
            for n in taken {
                if let Some(s) = r.take_front(n) { out.push(s); }
            }
            let (first, second): (Vec<_>, Vec<_>) = out.into_iter().partition(|s| back >> (s.first % 64) & 1 == 1);
            r.insert_sorted(first);
            r.insert_sorted(second);
            prop_assert_eq!(seqs(&r), (1..=60).collect::<Vec<_>>());
            for s in r.iter() {
                prop_assert_eq!(u64::from(s.from) + 1, s.first);
                prop_assert_eq!(s.bytes, u64::from(s.count));
            }
            prop_assert_eq!(r.len(), 1);
        }

        #[test]
        fn paging_out_and_reading_back_keeps_order_and_bytes(cuts in prop::collection::vec(1u32..9, 1..9), keep in 0u64..20, most in 1usize..9) {
            let mut r = Ready::default();
            let mut parts = vec![];
            let mut first = 1;
            for n in cuts {
                let b = batch(n);
                r.push_back(segment(first, &b, 0, n));
                parts.push((first, b));
                first += u64::from(n);
            }
            let total = first - 1;
            let mut freed = 0;
            // however small the slices, all that is not kept goes
            for _ in 0..parts.len() { freed += r.page_out(first, &mut keep.clone(), most); }
            prop_assert_eq!(r.page_out(first, &mut keep.clone(), 100), 0);
            prop_assert!(freed <= total);
            prop_assert_eq!(seqs(&r), (1..first).collect::<Vec<_>>());
            let mut back = 0;
            for (first, b) in &parts {
                let (resident, correction) = r.attach(*first, b);
                back += resident;
                let _ = correction;
            }
            prop_assert_eq!(back, freed);
            prop_assert_eq!(seqs(&r), (1..first).collect::<Vec<_>>());
            for s in r.iter() { prop_assert!(s.batch.is_some()); prop_assert_eq!(s.bytes, u64::from(s.count)); }
        }
    }
}
