//! Deliveries a channel has not settled yet, as runs of consecutive delivery tags.

use crate::chunked::{At, Chunked};
use crate::thinning::Look;
use hornpipe_types::Set;
use hornpipe_types::ids::{QueueId, Seq, Tag};
use hornpipe_types::message::{Batch, Span};
use hornpipe_types::range::SeqRange;
use hornpipe_types::time::Instant;
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
    /// The bodies; `None` = in the log only, to be read again when they are wanted.
    pub(crate) batch: Option<Arc<Batch>>,
    pub(crate) from: u32,
    /// Sum of body octets of what is outstanding; an estimate for parts whose bodies are not in memory.
    pub(crate) bytes: u64,
    pub(crate) deadline: u64,
    /// Counters as they were when handed out.
    pub(crate) delivery_count: u32,
    pub(crate) acquired: u32,
    pub(crate) logged: bool,
    pub(crate) level: u8,
    pub(crate) since: Instant,
    /// Which of them are settled already. `None` = none is.
    holes: Option<Box<Holes>>,
}

/// Settled deliveries of a run that has others.
#[derive(Debug, Clone)]
struct Holes {
    /// Bit `from + i`: delivery `first_tag + i` is settled.
    bits: Vec<u64>,
    from: u32,
    /// Deliveries that are not.
    live: u32,
}

impl Holes {
    /// None yet, among so many deliveries.
    fn none(count: u32) -> Box<Self> {
        Box::new(Self { bits: vec![0; count as usize / 64 + 1], from: 0, live: count })
    }
    fn get(&self, i: u32) -> bool {
        let i = self.from + i;
        self.bits.get(i as usize / 64).is_some_and(|w| w >> (i % 64) & 1 == 1)
    }
    fn set(&mut self, i: u32) {
        let i = self.from + i;
        if let Some(w) = self.bits.get_mut(i as usize / 64) {
            *w |= 1 << (i % 64);
            self.live -= 1;
        }
    }
    fn clear(&mut self, i: u32) {
        let i = self.from + i;
        if let Some(w) = self.bits.get_mut(i as usize / 64) {
            *w &= !(1 << (i % 64));
            self.live += 1;
        }
    }
    /// The first from `at` on that is `settled` or not, below `end`; a word at a step.
    fn find(&self, settled: bool, mut at: u32, end: u32) -> u32 {
        while at < end {
            let bit = self.from + at;
            let word = self.bits.get(bit as usize / 64).copied().unwrap_or(0);
            let word = if settled { word } else { !word } >> (bit % 64);
            let left = 64 - bit % 64;
            if word.trailing_zeros() < left {
                return (at + word.trailing_zeros()).min(end);
            }
            at += left;
        }
        end
    }
    /// Splits off those of the first `n` deliveries, fewer than all.
    fn split_front(&mut self, n: u32) -> Self {
        let first = self.from as usize / 64;
        let end = (self.from + n).div_ceil(64) as usize;
        let bits = self.bits.get(first..end).unwrap_or_default().to_vec();
        let mut front = Self { bits, from: self.from % 64, live: 0 };
        front.live = stretches(Some(&front), n).map(|(_, live)| live).sum();
        self.from += n;
        self.live -= front.live;
        front
    }
}

/// The stretches of deliveries `0 .. count` that are not settled: offset, count.
fn stretches(holes: Option<&Holes>, count: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = holes.map_or(at, |h| h.find(false, at, count));
        let end = holes.map_or(count, |h| h.find(true, start, count));
        at = end;
        (start < end).then_some((start, end - start))
    })
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
        let bytes = batch.body_bytes(from, count, step);
        Self {
            first_tag,
            count,
            queue,
            consumer,
            first,
            step,
            batch: Some(batch),
            from,
            bytes,
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
    /// Body octets that are in memory.
    pub(crate) fn resident(&self) -> u64 {
        if self.batch.is_some() { self.bytes } else { 0 }
    }
    /// Body octets of deliveries `offset .. offset + count`, all outstanding.
    pub(crate) fn bytes_of(&self, offset: u32, count: u32) -> u64 {
        match &self.batch {
            _ if offset == 0 && count == self.count && self.holes.is_none() => self.bytes,
            Some(batch) => batch.body_bytes(self.from + offset * self.step, count, self.step),
            None => self.bytes * u64::from(count) / u64::from(self.live().max(1)),
        }
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
            bytes: self.bytes_of(offset, count),
            batch: self.batch.clone(),
            holes: None,
            ..*self
        }
    }
    /// What is outstanding, in runs whose messages lie one beside the other in the batch.
    fn dense_pieces(&self) -> impl Iterator<Item = Self> {
        let most = if self.step == 1 { u32::MAX } else { 1 };
        self.stretches(self.count).flat_map(move |(offset, count)| {
            let starts = (offset..offset + count).step_by(most as usize);
            starts.map(move |at| self.piece(at, most.min(offset + count - at)))
        })
    }
    /// The messages, when there is a batch and they lie one beside the other there.
    fn span(&self) -> Option<Span> {
        let batch = self.batch.clone()?;
        (self.step == 1 || self.count == 1).then_some(Span { batch, from: self.from, count: self.count, step: 1 })
    }
    /// Loses its first `n` deliveries, all of them settled or all outstanding, which have `bytes` octets.
    fn advance(&mut self, n: u32, bytes: u64) {
        if let Some(holes) = &mut self.holes {
            holes.live -= if holes.get(0) { 0 } else { n };
            holes.from += n;
        }
        self.trim(n, bytes);
    }
    fn trim(&mut self, n: u32, bytes: u64) {
        self.bytes -= bytes.min(self.bytes);
        self.first_tag += u64::from(n);
        self.first += u64::from(n) * u64::from(self.step);
        self.from += n * self.step;
        self.count -= n;
    }
    /// Splits off its first `n` deliveries, fewer than all, some of which may be settled.
    fn split_front(&mut self, n: u32) -> Self {
        if self.holes.is_none() {
            let front = self.piece(0, n);
            self.trim(n, front.bytes);
            return front;
        }
        let bytes = self.stretches(n).map(|(offset, count)| self.bytes_of(offset, count)).sum();
        let holes = self.holes.as_mut().map(|holes| Box::new(holes.split_front(n)));
        let front = Self { count: n, bytes, batch: self.batch.clone(), holes, ..*self };
        self.trim(n, bytes);
        front
    }
    /// The stretches of deliveries `0 .. upto` that are outstanding: offset, count.
    fn stretches(&self, upto: u32) -> impl Iterator<Item = (u32, u32)> {
        stretches(self.holes.as_deref(), upto)
    }
}

/// All outstanding deliveries of a channel in tag order.
#[derive(Debug, Default)]
pub(crate) struct UnackedList {
    runs: Chunked<Unacked>,
    /// Outstanding deliveries, with those that were taken and are not settled yet.
    live: u64,
    /// The queues they came from; never one too few.
    queues: Set<QueueId>,
    /// Runs that were added with their bodies since a pass over them ended, and those that had to keep them then.
    fresh: usize,
    kept: usize,
    /// Before this tag no run has a body.
    bodies_from: Tag,
    /// Runs the last pass walked over.
    walked: usize,
    pass: Option<Pass>,
}

/// A pass over the runs with bodies, to see which can do without.
#[derive(Debug, Default)]
struct Pass {
    /// It goes on at this tag.
    next: Tag,
    walked: usize,
    kept: usize,
    first_kept: Option<Tag>,
}

/// Runs with bodies that a channel may have before they are looked at.
const CROWD: usize = 256;
/// A pass is worth it when one run has come for so many it will walk over.
const WALKED: usize = 8;
/// With so many that had to keep them a channel is not looked at again until it is empty.
const CROWD_MAX: usize = 8192;

/// Deliveries taken off a channel, to be settled one after the other.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    runs: Chunked<Unacked>,
    queues: Set<QueueId>,
}

impl Taken {
    /// Whether none is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
    /// Runs left.
    pub(crate) fn runs(&self) -> usize {
        self.runs.len()
    }
    /// Messages left.
    pub(crate) fn messages(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.live())).sum()
    }
    /// Adds a run with tags above all here.
    pub(crate) fn push(&mut self, run: Unacked) {
        self.queues.insert(run.queue);
        self.runs.push_back(run);
    }
    /// The run whose deliveries are next: its first one is outstanding.
    pub(crate) fn peek(&mut self) -> Option<&Unacked> {
        while let Some(run) = self.runs.front_mut() {
            let settled = run.holes.as_ref().map_or(0, |holes| holes.find(false, 0, run.count));
            if settled < run.count {
                if settled > 0 {
                    run.advance(settled, 0);
                }
                break;
            }
            self.runs.pop_front();
        }
        self.runs.front()
    }
    /// Takes the next deliveries: at most `most`, of one run, one beside the other.
    pub(crate) fn next(&mut self, most: u32) -> Option<Unacked> {
        self.peek()?;
        let run = self.runs.front_mut()?;
        let (_, beside) = run.stretches(run.count).next()?;
        let n = beside.min(most);
        if n == run.count && run.holes.is_none() {
            return self.runs.pop_front();
        }
        let piece = run.piece(0, n);
        run.advance(n, piece.bytes);
        if run.count == 0 {
            self.runs.pop_front();
        }
        Some(piece)
    }
    /// The queues they came from, in order; perhaps some of which none is left.
    pub(crate) fn queues(&self) -> Vec<QueueId> {
        let mut queues: Vec<QueueId> = self.queues.iter().copied().collect();
        queues.sort_unstable();
        queues
    }
    /// Whether deliveries of a queue are among them.
    pub(crate) fn has_queue(&self, queue: QueueId) -> bool {
        self.queues.contains(&queue)
    }
    /// The deliveries of a queue.
    pub(crate) fn ranges_of(&self, queue: QueueId, out: &mut Vec<SeqRange>) {
        if self.queues.contains(&queue) {
            ranges_of(&self.runs, queue, out);
        }
    }
}

fn ranges_of(runs: &Chunked<Unacked>, queue: QueueId, out: &mut Vec<SeqRange>) {
    for run in runs.iter().filter(|r| r.queue == queue) {
        let range = |(offset, count)| SeqRange {
            first: run.first + Seq::from(offset) * Seq::from(run.step),
            count,
            step: run.step,
        };
        out.extend(run.stretches(run.count).map(range));
    }
}

impl UnackedList {
    /// Number of outstanding deliveries.
    pub(crate) fn len(&self) -> u64 {
        self.live
    }
    /// Runs of them.
    pub(crate) fn runs(&self) -> usize {
        self.runs.len()
    }
    /// So many that were taken are settled.
    pub(crate) fn settled(&mut self, n: u64) {
        self.live -= n.min(self.live);
    }
    /// Appends a run with tags above all here.
    pub(crate) fn push(&mut self, run: Unacked) {
        if self.runs.is_empty() {
            self.queues.clear();
            (self.fresh, self.kept, self.bodies_from, self.walked, self.pass) = (0, 0, 0, 0, None);
        }
        self.live += u64::from(run.count);
        if self.runs.back().is_none_or(|last| last.queue != run.queue) {
            self.queues.insert(run.queue);
        }
        let (before, bodies) = (self.runs.len(), usize::from(run.batch.is_some()));
        self.append(run);
        self.fresh += bodies * (self.runs.len() - before);
    }

    /// Appends a run, to the last one where it continues that.
    fn append(&mut self, run: Unacked) {
        if let Some(last) = self.runs.back_mut()
            && last.holes.is_none()
            && run.holes.is_none()
            && last.queue == run.queue
            && last.consumer == run.consumer
            && last.step == run.step
            && last.first_tag + u64::from(last.count) == run.first_tag
            && last.first + u64::from(last.count) * u64::from(last.step) == run.first
            && match (&last.batch, &run.batch) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) && last.from + last.count * last.step == run.from,
                (None, None) => true,
                _ => false,
            }
            && (last.deadline, last.delivery_count, last.acquired, last.logged, last.level)
                == (run.deadline, run.delivery_count, run.acquired, run.logged, run.level)
        {
            last.count += run.count;
            last.bytes += run.bytes;
            return;
        }
        self.runs.push_back(run);
    }

    /// Whether so many runs hold bodies that it is worth to see which can do without.
    pub(crate) fn is_crowded(&self) -> bool {
        // what was settled since holds none any more
        let with = (self.kept + self.fresh).min(self.runs.len());
        // a long list that could not do without them is not walked again and again, unless most of it has gone: what is left may
        // be on disk since
        let grown = self.kept < CROWD_MAX && with >= CROWD.max(2 * self.kept) && self.fresh >= self.walked / WALKED;
        self.is_thinning() || grown || (with >= CROWD && with < self.kept / 2)
    }
    /// Whether a pass is under way that [`Self::drop_bodies`] goes on with.
    pub(crate) fn is_thinning(&self) -> bool {
        self.pass.is_some()
    }

    /// Forgets bodies that are in the log: `stored` says up to which seq they are in each queue. Looks at `most` runs; the next
    /// call goes on behind them. Returns the octets freed.
    pub(crate) fn drop_bodies(&mut self, most: usize, mut stored: impl FnMut(QueueId) -> Seq) -> u64 {
        let mut pass = self.pass.take().unwrap_or(Pass { next: self.bodies_from, ..Pass::default() });
        let head = self.runs.take_head(self.runs.partition_point(|run| run.first_tag < pass.next));
        let mut ahead = std::mem::replace(&mut self.runs, head);
        let mut freed = 0;
        for _ in 0..most {
            let Some(mut run) = ahead.pop_front() else { break };
            pass.walked += 1;
            if run.batch.is_some() {
                if run.logged && run.range().last() < stored(run.queue) {
                    freed += run.bytes;
                    run.batch = None;
                    run.from = 0;
                } else {
                    pass.kept += 1;
                    pass.first_kept.get_or_insert(run.first_tag);
                }
            }
            // neighbours without bodies become one; holes keep a run apart
            self.append(run);
        }
        if let Some(next) = ahead.front() {
            pass.next = next.first_tag;
            self.runs.append(ahead);
            self.pass = Some(pass);
            return freed;
        }
        let end = self.runs.back().map_or(0, |last| last.first_tag + u64::from(last.count));
        (self.fresh, self.kept, self.walked) = (0, pass.kept, pass.walked);
        self.bodies_from = pass.first_kept.unwrap_or(end);
        freed
    }

    /// Looks at runs from a tag on for batches that are mostly waste; where to go on, `None` at the end.
    pub(crate) fn look_at(&mut self, from: Tag, look: &mut Look<'_>) -> Option<Tag> {
        let from = from.max(self.bodies_from);
        let head = self.runs.take_head(self.runs.partition_point(|run| run.first_tag < from));
        let mut ahead = std::mem::replace(&mut self.runs, head);
        let (mut passed, mut found) = (Vec::new(), Vec::new());
        while look.units() > 0
            && let Some(run) = ahead.pop_front()
        {
            let parts = run.stretches(run.count).map(|(offset, n)| (run.from + offset * run.step, n, run.step));
            if !look.at(run.batch.as_deref(), run.bytes, parts) {
                passed.push(run);
                continue;
            }
            for piece in run.dense_pieces() {
                look.spend(1);
                found.extend(piece.span().map(|span| (passed.len(), span)));
                passed.push(piece);
            }
        }
        look.copy(found, |at, batch, from| {
            if let Some(run) = passed.get_mut(at) {
                (run.batch, run.from) = (Some(batch), from);
            }
        });
        passed.into_iter().for_each(|run| self.append(run));
        let next = ahead.front().map(|run| run.first_tag);
        self.runs.append(ahead);
        next
    }

    fn find(&self, tag: Tag) -> Option<(At, u32)> {
        let k = self.runs.previous(self.runs.partition_point(|r| r.first_tag <= tag))?;
        let run = self.runs.get(k)?;
        let offset = tag - run.first_tag;
        if offset >= u64::from(run.count) || run.holes.as_ref().is_some_and(|h| h.get(offset as u32)) {
            return None;
        }
        Some((k, offset as u32))
    }

    /// Takes `count` deliveries from `tag` on, each on its own account. Stops at the first tag that is not outstanding
    /// and names it.
    pub(crate) fn take(&mut self, tag: Tag, count: u32, out: &mut Taken) -> Result<(), Tag> {
        // a client may name any tag: nothing is added to one before it is found
        let (mut tag, mut left) = (tag, count);
        while left > 0 {
            let (k, offset) = self.find(tag).ok_or(tag)?;
            let Some(run) = self.runs.get_mut(k) else { return Err(tag) };
            if run.holes.is_none() {
                let n = (run.count - offset).min(left);
                if offset == 0 {
                    let piece = run.piece(0, n);
                    run.advance(n, piece.bytes);
                    out.push(piece);
                    if run.count == 0 {
                        self.runs.remove(k);
                    }
                    tag += u64::from(n);
                    left -= n;
                    continue;
                }
                if offset + n == run.count {
                    let piece = run.piece(offset, n);
                    run.bytes -= piece.bytes.min(run.bytes);
                    out.push(piece);
                    run.count -= n;
                    tag += u64::from(n);
                    left -= n;
                    continue;
                }
                run.holes = Some(Holes::none(run.count));
            }
            let piece = run.piece(offset, 1);
            run.bytes -= piece.bytes.min(run.bytes);
            out.push(piece);
            if let Some(holes) = &mut run.holes {
                holes.set(offset);
            }
            tag += 1;
            left -= 1;
            if run.live() == 0 {
                self.runs.remove(k);
            }
        }
        Ok(())
    }

    /// Takes all deliveries up to `tag`, which must be outstanding; 0 takes all. However many they are, only chunks move.
    pub(crate) fn take_upto(&mut self, tag: Tag) -> Result<Taken, Tag> {
        if tag == 0 {
            return Ok(self.take_all());
        }
        let (k, offset) = self.find(tag).ok_or(tag)?;
        let mut taken = Taken { runs: self.runs.take_head(k), queues: self.queues.clone() };
        if let Some(run) = self.runs.front_mut() {
            let n = offset + 1;
            if n < run.count {
                taken.push(run.split_front(n));
                if run.live() == 0 {
                    self.runs.pop_front();
                }
            } else if let Some(run) = self.runs.pop_front() {
                taken.push(run);
            }
        }
        Ok(taken)
    }

    /// Takes everything, in tag order.
    pub(crate) fn take_all(&mut self) -> Taken {
        Taken { runs: std::mem::take(&mut self.runs), queues: std::mem::take(&mut self.queues) }
    }

    /// Puts runs back that were taken (a rolled back transaction). Returns the octets of bodies that need not stay: those
    /// of the run they are put back into have left memory.
    pub(crate) fn restore(&mut self, mut taken: Taken) -> u64 {
        let mut freed = 0;
        self.queues.extend(taken.queues());
        self.bodies_from = 0;
        while let Some(run) = taken.next(u32::MAX) {
            let at = self.runs.partition_point(|r| r.first_tag <= run.first_tag);
            // one with holes may have lost this
            let within = self.runs.previous(at).and_then(|p| self.runs.get_mut(p));
            if let Some(around) = within
                && around.first_tag + u64::from(around.count) > run.first_tag
                && let Some(holes) = &mut around.holes
            {
                let offset = (run.first_tag - around.first_tag) as u32;
                (offset..offset + run.count).for_each(|i| holes.clear(i));
                around.bytes += run.bytes;
                if around.batch.is_none() {
                    freed += run.resident();
                }
                continue;
            }
            self.runs.insert(at, run);
        }
        freed
    }

    /// The deliveries of a queue.
    pub(crate) fn ranges_of(&self, queue: QueueId, out: &mut Vec<SeqRange>) {
        if self.queues.contains(&queue) {
            ranges_of(&self.runs, queue, out);
        }
    }

    /// Since when the oldest outstanding delivery of a consumer waits.
    pub(crate) fn oldest_of(&self, consumer: u64) -> Option<Instant> {
        self.runs.iter().find(|r| r.consumer == Some(consumer)).map(|r| r.since)
    }

    /// Takes everything a consumer has, in tag order.
    pub(crate) fn take_of(&mut self, consumer: u64) -> Taken {
        let mut taken = Taken::default();
        let mut others = Chunked::default();
        while let Some(run) = self.runs.pop_front() {
            if run.consumer == Some(consumer) { taken.push(run) } else { others.push_back(run) }
        }
        self.runs = others;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hornpipe_types::gauge::BatchGauge;
    use hornpipe_types::message::{BatchBuilder, MessageMeta};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Messages of a batch handed out one by one, every `step`-th of them.
    fn one_by_one(of: u32, step: usize) -> (Arc<Batch>, UnackedList) {
        let mut builder = BatchBuilder::default();
        builder.push_route("", "");
        (0..of).for_each(|_| builder.push_frames(&[1; 20], MessageMeta { body: 4, ..MessageMeta::default() }));
        let batch = builder.finish();
        let mut list = UnackedList::default();
        for i in (0..of).step_by(step) {
            let (tag, queue) = (u64::from(i) + 1, QueueId(u64::from(i)));
            list.push(Unacked::new(tag, 1, queue, None, 1, 1, Arc::clone(&batch), i));
        }
        (batch, list)
    }

    /// Both looks of a round, all at once.
    fn look_twice(list: &mut UnackedList, round: u32) -> BatchGauge {
        let gauge = BatchGauge::default();
        for copies in [false, true] {
            assert_eq!(list.look_at(0, &mut Look::new(round, copies, u32::MAX, &gauge)), None);
        }
        gauge
    }

    #[test]
    fn messages_are_copied_out_of_a_batch_only_when_they_are_few_of_it() {
        for (of, step, copied) in [(600, 1, false), (600, 2, false), (6000, 10, true)] {
            let (batch, mut list) = one_by_one(of, step);
            let gauge = look_twice(&mut list, 1);
            let alone = list.runs.iter().all(|r| !Arc::ptr_eq(r.batch.as_ref().expect("kept"), &batch));
            assert_eq!(alone, copied, "every {step}. of {of}");
            // together, not each with a batch of its own
            assert!(gauge.octets() < 60_000, "{} octets for 600 messages", gauge.octets());
        }
    }

    #[test]
    fn a_list_is_looked_at_again_when_most_of_it_is_settled() {
        let (_, mut list) = one_by_one(20_000, 1);
        list.drop_bodies(usize::MAX, |_| 0);
        assert!(!list.is_crowded(), "all of the batch is outstanding");
        for tag in (1..=20_000).filter(|tag| tag % 20 != 0) {
            list.take(tag, 1, &mut Taken::default()).expect("outstanding");
        }
        assert!(list.is_crowded());
        list.drop_bodies(usize::MAX, |_| 0);
        assert_eq!((list.kept, list.is_crowded()), (1000, false));
    }

    /// What memory holds is counted by who puts deliveries in and takes them out.
    #[test]
    fn what_comes_back_to_a_run_without_bodies_has_none_either() {
        let (batch, mut list) = one_by_one(10, 20);
        list.take_all();
        list.push(Unacked { logged: true, ..Unacked::new(1, 10, QueueId(1), None, 1, 1, batch, 0) });
        let mut taken = Taken::default();
        list.take(5, 2, &mut taken).expect("outstanding");
        assert_eq!(list.drop_bodies(usize::MAX, |_| Seq::MAX), 8 * 4);
        assert_eq!(list.restore(taken), 2 * 4);
        assert_eq!(list.runs.iter().map(Unacked::resident).sum::<u64>(), 0);
        assert_eq!(list.runs.iter().map(|run| run.bytes).sum::<u64>(), 10 * 4);
    }

    /// However many deliveries there are whose bodies have gone, those that came since are looked at and no others.
    #[test]
    fn deliveries_without_bodies_are_not_walked_over_again() {
        let (batch, mut list) = one_by_one(3000, 1);
        let on_disk = |list: &mut UnackedList| {
            let runs = list.runs.iter().filter(|run| run.batch.is_some()).count();
            let mut slices = 0;
            while slices == 0 || list.is_thinning() {
                list.drop_bodies(100, |_| Seq::MAX);
                slices += 1;
            }
            (runs, slices)
        };
        let logged = |list: &mut UnackedList| {
            let mut runs = std::mem::take(&mut list.runs);
            while let Some(run) = runs.pop_front() {
                list.runs.push_back(Unacked { logged: true, ..run });
            }
        };
        logged(&mut list);
        assert_eq!(on_disk(&mut list), (3000, 30));
        let mut tag = 3000;
        for _ in 0..10 {
            let mut fresh = 0;
            while !list.is_crowded() {
                (tag, fresh) = (tag + 1, fresh + 1);
                list.push(Unacked::new(tag, 1, QueueId(tag), None, 1, 1, Arc::clone(&batch), 0));
            }
            assert!((CROWD..1000).contains(&fresh), "{fresh} came");
            logged(&mut list);
            assert_eq!(on_disk(&mut list), (fresh, fresh.div_ceil(100)));
        }
    }

    proptest! {
        /// Against a plain set of tags. Whatever is copied, a delivery keeps its message.
        #[test]
        fn behaves_as_a_set_of_tags(
            runs in prop::collection::vec(1u32..70, 1..6),
            ops in prop::collection::vec((0u8..6, 0u64..200, 1u32..6), 1..40),
        ) {
            let mut builder = BatchBuilder::default();
            builder.push_route("", "");
            for i in 0..700u32 {
                builder.push_frames(&i.to_be_bytes(), MessageMeta { body: 1, ..MessageMeta::default() });
            }
            let batch = builder.finish();
            let mut list = UnackedList::default();
            let mut model = BTreeSet::new();
            let mut messages = vec![0];
            let gauge = BatchGauge::default();
            let mut tag = 1;
            for (i, n) in runs.into_iter().enumerate() {
                let mut run = Unacked::new(tag, n, QueueId(i as u64), None, tag * 10, 10, Arc::clone(&batch), 0);
                run.logged = true;
                list.push(run);
                model.extend(tag..tag + u64::from(n));
                messages.extend((0..n).map(|k| 10 * k));
                tag += u64::from(n);
            }
            for (round, (op, t, n)) in ops.into_iter().enumerate() {
                let mut out = Taken::default();
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
                        let taken = list.take_upto(t);
                        prop_assert_eq!(taken.is_ok(), ok);
                        out = taken.unwrap_or_default();
                    }
                    3 => {
                        // as a transaction does: several, then the last of all
                        let mut parts = vec![];
                        for from in [t + 3, t] {
                            let mut part = Taken::default();
                            list.take(from, n, &mut part).ok();
                            parts.push(part);
                        }
                        parts.extend(list.take_upto(t + 1));
                        for part in parts {
                            list.restore(part);
                        }
                    }
                    4 => {
                        for copies in [false, true] {
                            let mut next = Some(0);
                            while let Some(from) = next {
                                next = list.look_at(from, &mut Look::new(round as u32 + 1, copies, 10 * n, &gauge));
                            }
                        }
                    }
                    _ => {
                        // of every other queue all is on disk
                        let kept: u64 = list.runs.iter().map(Unacked::resident).sum();
                        let mut freed = 0;
                        loop {
                            freed += list.drop_bodies(n as usize, |q| if q.0 % 2 == 0 { Seq::MAX } else { 0 });
                            if !list.is_thinning() {
                                break;
                            }
                        }
                        let left: u64 = list.runs.iter().map(Unacked::resident).sum();
                        prop_assert_eq!(kept, left + freed);
                        prop_assert!(list.runs.iter().all(|r| r.batch.is_some() == (r.queue.0 % 2 == 1)));
                    }
                }
                let mut got = vec![];
                // in slices of any size
                for r in std::iter::from_fn(|| out.next(n)) {
                    list.settled(u64::from(r.count));
                    prop_assert_eq!(r.bytes, u64::from(r.count));
                    for i in 0..u64::from(r.count) {
                        got.push(r.first_tag + i);
                        prop_assert_eq!(r.first + i * 10, (r.first_tag + i) * 10);
                        if let Some(batch) = &r.batch {
                            let message: u32 = messages[(r.first_tag + i) as usize];
                            prop_assert_eq!(batch.frames(r.from + i as u32 * r.step), message.to_be_bytes());
                        }
                    }
                }
                let mut left = vec![];
                (0..6).for_each(|q| list.ranges_of(QueueId(q), &mut left));
                let left: BTreeSet<u64> = left.iter().flat_map(SeqRange::iter).map(|seq| seq / 10).collect();
                prop_assert_eq!(&left, &model);
                prop_assert_eq!(got, want);
                prop_assert_eq!(list.len(), model.len() as u64);
                prop_assert_eq!(list.runs.iter().map(|r| r.bytes).sum::<u64>(), model.len() as u64);
            }
        }
    }
}
