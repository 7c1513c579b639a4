//! Deliveries a channel has not settled yet, as runs of consecutive delivery tags.

use hornpipe_types::ids::{QueueId, Seq, Tag};
use hornpipe_types::message::Batch;
use hornpipe_types::range::SeqRange;
use hornpipe_types::time::Instant;
use std::collections::VecDeque;
use std::sync::Arc;

/// Consecutive deliveries of one queue to one consumer (or one basic.get).
#[derive(Debug, Clone)]
pub(crate) struct Unacked {
    pub(crate) first_tag: Tag,
    pub(crate) count: u32,
    pub(crate) queue: QueueId,
    /// The consumer they went to; `None` for basic.get.
    pub(crate) consumer: Option<u64>,
    pub(crate) first: Seq,
    /// Distance of two seqs (and of two indexes in the batch).
    pub(crate) step: u32,
    pub(crate) batch: Arc<Batch>,
    pub(crate) from: u32,
    pub(crate) deadline: u64,
    /// Counters as they were when handed out.
    pub(crate) delivery_count: u32,
    pub(crate) acquired: u32,
    pub(crate) logged: bool,
    pub(crate) level: u8,
    pub(crate) since: Instant,
    /// Bit i: delivery `first_tag + i` is settled already. `None` = none is.
    holes: Option<Box<Holes>>,
}

#[derive(Debug, Clone)]
struct Holes {
    bits: Vec<u64>,
    live: u32,
}

impl Holes {
    fn get(&self, i: u32) -> bool {
        self.bits.get(i as usize / 64).is_some_and(|w| w >> (i % 64) & 1 == 1)
    }
    fn set(&mut self, i: u32) {
        if let Some(w) = self.bits.get_mut(i as usize / 64) {
            *w |= 1 << (i % 64);
            self.live -= 1;
        }
    }
}

impl Unacked {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        first_tag: Tag,
        count: u32,
        queue: QueueId,
        consumer: Option<u64>,
        first: Seq,
        step: u32,
        batch: Arc<Batch>,
        from: u32,
    ) -> Self {
        Self {
            first_tag,
            count,
            queue,
            consumer,
            first,
            step,
            batch,
            from,
            deadline: 0,
            delivery_count: 0,
            acquired: 0,
            logged: false,
            level: 0,
            since: Instant::default(),
            holes: None,
        }
    }
    pub(crate) fn range(&self) -> SeqRange {
        SeqRange { first: self.first, count: self.count, step: self.step }
    }
    /// Sum of body octets.
    pub(crate) fn bytes(&self) -> u64 {
        self.batch.body_bytes(self.from, self.count, self.step)
    }
    fn live(&self) -> u32 {
        self.holes.as_ref().map_or(self.count, |h| h.live)
    }
    /// Deliveries `offset .. offset + count` as a run of their own, without holes.
    fn piece(&self, offset: u32, count: u32) -> Self {
        Self {
            first_tag: self.first_tag + u64::from(offset),
            count,
            first: self.first + u64::from(offset) * u64::from(self.step),
            from: self.from + offset * self.step,
            batch: Arc::clone(&self.batch),
            holes: None,
            ..*self
        }
    }
    fn advance(&mut self, n: u32) {
        self.first_tag += u64::from(n);
        self.first += u64::from(n) * u64::from(self.step);
        self.from += n * self.step;
        self.count -= n;
    }
    /// The live parts of deliveries `0 .. upto`.
    fn live_pieces(&self, upto: u32, out: &mut Vec<Unacked>) {
        let Some(holes) = &self.holes else {
            if upto > 0 {
                out.push(self.piece(0, upto));
            }
            return;
        };
        let mut start = None;
        for i in 0..=upto {
            let live = i < upto && !holes.get(i);
            match (live, start) {
                (true, None) => start = Some(i),
                (false, Some(s)) => {
                    out.push(self.piece(s, i - s));
                    start = None;
                }
                _ => {}
            }
        }
    }
}

/// All outstanding deliveries of a channel in tag order.
#[derive(Debug, Default)]
pub(crate) struct UnackedList {
    runs: VecDeque<Unacked>,
    live: u64,
}

impl UnackedList {
    /// Number of outstanding deliveries.
    pub(crate) fn len(&self) -> u64 {
        self.live
    }
    /// Appends a run with tags above all here.
    pub(crate) fn push(&mut self, run: Unacked) {
        self.live += u64::from(run.count);
        if let Some(last) = self.runs.back_mut()
            && last.holes.is_none()
            && last.queue == run.queue
            && last.consumer == run.consumer
            && last.step == run.step
            && last.first_tag + u64::from(last.count) == run.first_tag
            && last.first + u64::from(last.count) * u64::from(last.step) == run.first
            && last.from + last.count * last.step == run.from
            && Arc::ptr_eq(&last.batch, &run.batch)
            && (last.deadline, last.delivery_count, last.acquired, last.logged, last.level)
                == (run.deadline, run.delivery_count, run.acquired, run.logged, run.level)
        {
            last.count += run.count;
            return;
        }
        self.runs.push_back(run);
    }

    fn find(&self, tag: Tag) -> Option<(usize, u32)> {
        let k = self.runs.partition_point(|r| r.first_tag <= tag).checked_sub(1)?;
        let run = self.runs.get(k)?;
        let offset = tag - run.first_tag;
        if offset >= u64::from(run.count) || run.holes.as_ref().is_some_and(|h| h.get(offset as u32)) {
            return None;
        }
        Some((k, offset as u32))
    }

    /// Takes `count` deliveries from `tag` on, each on its own account. Stops at the first tag that is not outstanding
    /// and names it.
    pub(crate) fn take(&mut self, tag: Tag, count: u32, out: &mut Vec<Unacked>) -> Result<(), Tag> {
        // a client may name any tag: nothing is added to one before it is found
        let (mut tag, mut left) = (tag, count);
        while left > 0 {
            let (k, offset) = self.find(tag).ok_or(tag)?;
            let Some(run) = self.runs.get_mut(k) else { return Err(tag) };
            if run.holes.is_none() {
                let n = (run.count - offset).min(left);
                if offset == 0 {
                    out.push(run.piece(0, n));
                    run.advance(n);
                    if run.count == 0 {
                        self.runs.remove(k);
                    }
                    self.live -= u64::from(n);
                    tag += u64::from(n);
                    left -= n;
                    continue;
                }
                if offset + n == run.count {
                    out.push(run.piece(offset, n));
                    run.count -= n;
                    self.live -= u64::from(n);
                    tag += u64::from(n);
                    left -= n;
                    continue;
                }
                run.holes = Some(Box::new(Holes { bits: vec![0; run.count as usize / 64 + 1], live: run.count }));
            }
            out.push(run.piece(offset, 1));
            if let Some(holes) = &mut run.holes {
                holes.set(offset);
            }
            self.live -= 1;
            tag += 1;
            left -= 1;
            if run.live() == 0 {
                self.runs.remove(k);
            }
        }
        Ok(())
    }

    /// Takes all deliveries up to `tag`, which must be outstanding; 0 takes all.
    pub(crate) fn take_upto(&mut self, tag: Tag, out: &mut Vec<Unacked>) -> Result<(), Tag> {
        if tag == 0 {
            self.take_all(out);
            return Ok(());
        }
        let (k, offset) = self.find(tag).ok_or(tag)?;
        let before = out.len();
        for _ in 0..k {
            if let Some(run) = self.runs.pop_front() {
                if run.holes.is_none() { out.push(run) } else { run.live_pieces(run.count, out) }
            }
        }
        if let Some(run) = self.runs.front_mut() {
            let n = offset + 1;
            run.live_pieces(n, out);
            if n == run.count {
                self.runs.pop_front();
            } else if let Some(holes) = &mut run.holes {
                for i in 0..n {
                    if !holes.get(i) {
                        holes.set(i);
                    }
                }
                if holes.live == 0 {
                    self.runs.pop_front();
                }
            } else {
                run.advance(n);
            }
        }
        self.live -= out.iter().skip(before).map(|r| u64::from(r.count)).sum::<u64>();
        Ok(())
    }

    /// Takes everything, in tag order.
    pub(crate) fn take_all(&mut self, out: &mut Vec<Unacked>) {
        for run in self.runs.drain(..) {
            if run.holes.is_none() { out.push(run) } else { run.live_pieces(run.count, out) }
        }
        self.live = 0;
    }

    /// Puts runs back that were taken (a rolled back transaction).
    pub(crate) fn restore(&mut self, taken: Vec<Unacked>) {
        let mut all = Vec::new();
        self.take_all(&mut all);
        all.extend(taken);
        all.sort_by_key(|r| r.first_tag);
        self.live = all.iter().map(|r| u64::from(r.count)).sum();
        self.runs = all.into();
    }

    /// Since when the oldest outstanding delivery of a consumer waits.
    pub(crate) fn oldest_of(&self, consumer: u64) -> Option<Instant> {
        self.runs.iter().find(|r| r.consumer == Some(consumer)).map(|r| r.since)
    }

    /// Takes everything a consumer has, in tag order.
    pub(crate) fn take_of(&mut self, consumer: u64, out: &mut Vec<Unacked>) {
        let (theirs, others): (Vec<_>, Vec<_>) = self.runs.drain(..).partition(|r| r.consumer == Some(consumer));
        self.runs = others.into();
        for run in theirs {
            self.live -= u64::from(run.live());
            if run.holes.is_none() { out.push(run) } else { run.live_pieces(run.count, out) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hornpipe_types::message::BatchBuilder;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Against a plain set of tags.
        #[test]
        fn behaves_as_a_set_of_tags(
            runs in prop::collection::vec(1u32..70, 1..6),
            ops in prop::collection::vec((0u8..4, 0u64..200, 1u32..6), 1..40),
        ) {
            let batch = BatchBuilder::default().finish();
            let mut list = UnackedList::default();
            let mut model = BTreeSet::new();
            let mut tag = 1;
            for (i, n) in runs.into_iter().enumerate() {
                list.push(Unacked::new(tag, n, QueueId(i as u64), None, tag * 10, 10, Arc::clone(&batch), 0));
                model.extend(tag..tag + u64::from(n));
                tag += u64::from(n);
            }
            for (op, t, n) in ops {
                let mut out = vec![];
                let mut want = vec![];
                match op {
                    0 | 1 => {
                        let n = if op == 0 { 1 } else { n };
                        let mut expect = Ok(());
                        for x in t..t + u64::from(n) {
                            if model.remove(&x) { want.push(x) } else { expect = Err(x); break; }
                        }
                        prop_assert_eq!(list.take(t, n, &mut out), expect);
                    }
                    2 => {
                        let ok = t == 0 || model.contains(&t);
                        if ok {
                            want = model.iter().copied().filter(|x| t == 0 || *x <= t).collect();
                            for x in &want { model.remove(x); }
                        }
                        prop_assert_eq!(list.take_upto(t, &mut out).is_ok(), ok);
                    }
                    _ => {
                        list.take(t, n, &mut out).ok();
                        list.restore(std::mem::take(&mut out));
                    }
                }
                let mut got = vec![];
                for r in &out {
                    for i in 0..u64::from(r.count) {
                        got.push(r.first_tag + i);
                        prop_assert_eq!(r.first + i * 10, (r.first_tag + i) * 10);
                    }
                }
                prop_assert_eq!(got, want);
                prop_assert_eq!(list.len(), model.len() as u64);
            }
        }
    }
}
