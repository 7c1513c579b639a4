//! Messages waiting in a queue, as segments: consecutive seqs whose bodies lie in one batch, or on disk.

use hornpipe_types::ids::Seq;
use hornpipe_types::message::{Batch, Span};
use std::collections::VecDeque;
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

    /// Appends `next` when the two can be one segment; gives it back otherwise.
    fn try_join(&mut self, next: Segment) -> Option<Segment> {
        let joins = self.alike(&next)
            && match (&self.batch, &next.batch) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) && self.from + self.count == next.from,
                (None, None) => true,
                _ => false,
            };
        if !joins {
            return Some(next);
        }
        self.count += next.count;
        self.bytes += next.bytes;
        None
    }
}

/// One ordered list of ready segments (a queue has one, a priority queue one per level).
#[derive(Debug, Default)]
pub(crate) struct Ready {
    segments: VecDeque<Segment>,
    /// Not in the order of seqs but in that of their return; such a list is only appended to.
    by_return: bool,
}

impl Ready {
    pub(crate) fn new(by_return: bool) -> Self {
        Self { segments: VecDeque::new(), by_return }
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
    #[cfg(test)]
    fn len(&self) -> usize {
        self.segments.len()
    }

    /// Appends a segment whose seqs are above all here.
    pub(crate) fn push_back(&mut self, segment: Segment) {
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
        if head.count <= n { self.segments.pop_front() } else { Some(head.split_front(n)) }
    }

    /// Takes everything.
    pub(crate) fn take_all(&mut self) -> VecDeque<Segment> {
        std::mem::take(&mut self.segments)
    }

    /// Puts returned messages back at their own positions. `returned` is sorted by seq and overlaps nothing here.
    ///
    /// Costs the number of returned segments plus the segments in front of the last of them.
    pub(crate) fn insert_sorted(&mut self, returned: Vec<Segment>) {
        let Some(last) = returned.last().map(|s| s.first) else { return };
        let mut ahead = Vec::new();
        while self.segments.front().is_some_and(|s| s.first < last) {
            if let Some(mut head) = self.segments.pop_front() {
                // a segment may enclose a returned seq only when seqs between were taken from its middle, which
                // never happens: segments lose messages at the front only
                if head.end() > last {
                    let n = (last - head.first) as u32;
                    ahead.push(head.split_front(n));
                    self.segments.push_front(head);
                    break;
                }
                ahead.push(head);
            }
        }
        let mut merged = Vec::with_capacity(ahead.len() + returned.len());
        let (mut a, mut b) = (ahead.into_iter().peekable(), returned.into_iter().peekable());
        loop {
            let next = match (a.peek(), b.peek()) {
                (Some(x), Some(y)) if x.first < y.first => a.next(),
                (_, Some(_)) => b.next(),
                (Some(_), None) => a.next(),
                (None, None) => break,
            };
            let Some(next) = next else { break };
            let rest = match merged.last_mut() {
                Some(previous) => Segment::try_join(previous, next),
                None => Some(next),
            };
            merged.extend(rest);
        }
        for segment in merged.into_iter().rev() {
            match self.segments.front_mut() {
                Some(head) if segment.alike(head) => {
                    let mut joined = segment;
                    if let Some(head) = self.segments.pop_front()
                        && let Some(head) = joined.try_join(head)
                    {
                        self.segments.push_front(head);
                    }
                    self.segments.push_front(joined);
                }
                _ => self.segments.push_front(segment),
            }
        }
    }

    /// Gives bodies read back from the log to the waiting messages among `first ..`: message i of the batch has seq
    /// `first + i`. Returns the octets of bodies that became resident and the correction of the byte count.
    pub(crate) fn attach(&mut self, first: Seq, batch: &Arc<Batch>) -> (u64, i64) {
        let end = first + u64::from(batch.len());
        let mut k = if self.by_return { 0 } else { self.segments.partition_point(|s| s.end() <= first) };
        let (mut resident, mut correction) = (0, 0);
        while let Some(segment) = self.segments.get_mut(k) {
            if segment.first >= end && !self.by_return {
                break;
            }
            if segment.batch.is_some() || segment.end() <= first || segment.first >= end {
                k += 1;
                continue;
            }
            if segment.first < first {
                let front = segment.split_front((first - segment.first) as u32);
                self.segments.insert(k, front);
                k += 1;
                continue;
            }
            if segment.end() > end {
                let n = (end - segment.first) as u32;
                let front = segment.split_front(n);
                self.segments.insert(k, front);
                continue;
            }
            segment.from = (segment.first - first) as u32;
            let bytes = batch.body_bytes(segment.from, segment.count, 1);
            correction += bytes as i64 - segment.bytes as i64;
            segment.bytes = bytes;
            segment.batch = Some(Arc::clone(batch));
            resident += bytes;
            k += 1;
        }
        (resident, correction)
    }

    /// Drops the bodies of segments that are in the log (`logged`, all seqs below `stored`), from the tail towards the
    /// head, until `keep` octets from the head on are reached or an already paged-out segment is met. Returns the octets freed.
    pub(crate) fn page_out(&mut self, stored: Seq, keep: u64) -> u64 {
        let mut head_bytes = 0;
        let mut first = 0;
        for segment in &self.segments {
            if head_bytes >= keep {
                break;
            }
            head_bytes += if segment.batch.is_some() { segment.bytes } else { 0 };
            first += 1;
        }
        let mut freed = 0;
        let mut k = self.segments.len();
        while k > first {
            k -= 1;
            let Some(segment) = self.segments.get_mut(k) else { break };
            if segment.batch.is_none() {
                break;
            }
            if segment.logged && segment.end() <= stored {
                segment.batch = None;
                segment.from = 0;
                freed += segment.bytes;
            }
        }
        if freed > 0 {
            self.join_from(k);
        }
        freed
    }

    /// Joins what can be joined from index `k` on.
    fn join_from(&mut self, k: usize) {
        let tail = self.segments.split_off(k);
        for segment in tail {
            self.push_back(segment);
        }
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
        r.iter().flat_map(|s| s.first..s.end()).collect()
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
        fn paging_out_and_reading_back_keeps_order_and_bytes(cuts in prop::collection::vec(1u32..9, 1..9), keep in 0u64..20) {
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
            let freed = r.page_out(first, keep);
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
