//! Runs that hold the same messages are written again together, so that these are on disk once again.
//!
//! Their queues need not have the same of it left. The messages are cut into pieces, each of which some queue has left whole,
//! and each run gets a copy of every piece it has something of: the copies of a piece are the same span, which the store
//! writes once. A message that is dead in one of the queues but not in all comes along and is settled in the same group.
//! So what is dead everywhere goes, nothing is on disk twice, and there are no more runs than before where queues are consumed
//! from the front.

use super::{At, Log, LogRun, LoggedRun, Pending, PendingOp};
use crate::queue::Queues;
use hornpipe_types::ids::{EnqueueId, QueueId, Seq};
use hornpipe_types::message::{Batch, Span};
use hornpipe_types::op::{Place, RunMeta, Target};
use hornpipe_types::range::{SeqRange, push_range};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Messages `start .. end` of the batch are live in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Live {
    /// The piece they are in, once there are pieces.
    piece: usize,
    /// Which run, and which of its targets.
    member: usize,
    target: usize,
    start: u32,
    end: u32,
}

/// One of the runs.
#[derive(Debug)]
struct Sharer {
    id: EnqueueId,
    place: Place,
    count: u32,
    meta: RunMeta,
    targets: Vec<Target>,
}

impl Log {
    /// Writes runs on disk again that all hold the messages of a batch.
    pub(crate) fn rewrite(&mut self, runs: &[(EnqueueId, Place)], batch: &Arc<Batch>, queues: &mut Queues) {
        if let [(id, place)] = runs {
            return self.copy_forward(*id, *place, Some(batch), queues);
        }
        let sharers: Vec<Sharer> = runs.iter().filter_map(|(id, place)| self.sharer(*id, *place, batch)).collect();
        let mut pieces = Vec::new();
        let live = cut(live_in(&sharers, queues), &mut pieces);
        let mut fresh: BTreeMap<(usize, QueueId), Vec<LogRun>> = BTreeMap::new();
        // the piece that was counted last, and its octets
        let mut counted = (usize::MAX, 0);
        for copy in live.chunk_by(|a, b| (a.piece, a.member) == (b.piece, b.member)) {
            let Some(first) = copy.first() else { continue };
            let (Some(sharer), Some((start, end))) = (sharers.get(first.member), pieces.get(first.piece)) else {
                continue;
            };
            self.last_enqueue = self.last_enqueue.next();
            let (id, count) = (self.last_enqueue, end - start);
            let mut targets = Vec::new();
            for held in copy.chunk_by(|a, b| a.target == b.target) {
                let Some(target) = held.first().and_then(|h| sharer.targets.get(h.target)) else { continue };
                let seq = |index: u32| target.first_seq + Seq::from(index);
                targets.push(Target { queue: target.queue, first_seq: seq(*start) });
                let log_runs = held.iter().map(|h| LogRun::new(seq(h.start), h.end - h.start, id, h.start - start));
                fresh.entry((first.member, target.queue)).or_default().extend(log_runs);
                let mut dead_from = *start;
                let gaps = held.iter().map(|h| (h.start, h.end)).chain([(*end, *end)]).filter_map(|(from, to)| {
                    let gap = (dead_from, from);
                    dead_from = to;
                    (gap.0 < gap.1).then(|| SeqRange::dense(seq(gap.0), gap.1 - gap.0))
                });
                self.settle_again(target.queue, gaps, queues);
            }
            let span = Span { batch: Arc::clone(batch), from: *start, count, step: 1 };
            // it is written once
            if counted.0 != first.piece {
                counted = (first.piece, super::span_bytes(&span));
                self.pending_bytes += counted.1;
            }
            let bytes = counted.1;
            let at = At::Pending(Box::new(Pending { span, settled: Vec::new(), publisher: None, copy: true }));
            let live = copy.iter().map(|h| h.end - h.start).fold(0, u32::saturating_add);
            let run = LoggedRun { live, count, bytes, at, meta: sharer.meta.into(), targets: targets.into() };
            self.runs.push(id, run);
            self.pending.push(PendingOp::Run(id));
            self.pending_live += 1;
        }
        for ((member, queue), log_runs) in fresh {
            let (Some(sharer), Some(queue)) = (sharers.get(member), queues.get_mut(&queue)) else { continue };
            log_runs.iter().for_each(|run| self.repeat_counters(queue, run));
            queue.replace_log_runs_of(sharer.id, log_runs);
        }
        self.touch();
        for sharer in sharers {
            let left = self.runs.remove(sharer.id).map_or(0, |run| run.live_bytes());
            self.copied_next.push((sharer.place, left));
        }
    }

    /// The first queue a run went to.
    pub(crate) fn first_queue(&self, id: EnqueueId) -> Option<QueueId> {
        self.runs.get(id)?.targets.first().map(|target| target.queue)
    }

    /// A run that is still where it was and holds all of a batch.
    fn sharer(&self, id: EnqueueId, place: Place, batch: &Batch) -> Option<Sharer> {
        let run = self.runs.get(id).filter(|run| run.count == batch.len())?;
        matches!(&run.at, At::Stored(at) if *at == place).then(|| Sharer {
            id,
            place,
            count: run.count,
            meta: run.meta.get(),
            targets: run.targets.to_vec(),
        })
    }

    /// Messages that are dead are enqueued again with others: the group settles them again.
    fn settle_again(&mut self, id: QueueId, ranges: impl Iterator<Item = SeqRange>, queues: &mut Queues) {
        let Some(queue) = queues.get_mut(&id) else { return };
        ranges.for_each(|range| push_range(&mut queue.settled, range));
        if !queue.settled.is_empty() && !std::mem::replace(&mut queue.settle_listed, true) {
            self.settled_queues.push(id);
        }
    }
}

/// What the queues of some runs have left of their messages.
fn live_in(sharers: &[Sharer], queues: &Queues) -> Vec<Live> {
    let mut live = Vec::new();
    for (member, sharer) in sharers.iter().enumerate() {
        for (target, t) in sharer.targets.iter().enumerate() {
            let Some(queue) = queues.get(&t.queue) else { continue };
            for k in queue.log_runs_of(sharer.id, t.first_seq, t.first_seq + Seq::from(sharer.count)) {
                let stretches = queue.logged.get(k).map(LogRun::stretches).unwrap_or_default();
                live.extend(stretches.into_iter().map(|(_, count, start)| Live {
                    piece: 0,
                    member,
                    target,
                    start,
                    end: start + count,
                }));
            }
        }
    }
    live
}

/// Cuts messages into as few pieces as possible, each live as a whole in some queue, together all that live; and what is live
/// at the borders of the pieces.
fn cut(mut live: Vec<Live>, pieces: &mut Vec<(u32, u32)>) -> Vec<Live> {
    live.sort_unstable_by_key(|l| (l.start, l.end));
    let mut ahead = live.iter().peekable();
    let (mut at, mut reach) = (0, 0);
    while let Some(next) = ahead.peek().map(|next| next.start) {
        if reach <= at {
            at = at.max(next);
        }
        while let Some(begun) = ahead.next_if(|l| l.start <= at) {
            reach = reach.max(begun.end);
        }
        if reach > at {
            pieces.push((at, reach));
            at = reach;
        }
    }
    let mut parts = Vec::new();
    for l in live {
        let first = pieces.partition_point(|(_, end)| *end <= l.start);
        let within = pieces.iter().enumerate().skip(first).take_while(|(_, (start, _))| *start < l.end);
        parts.extend(within.map(|(piece, (start, end))| Live {
            piece,
            start: l.start.max(*start),
            end: l.end.min(*end),
            ..l
        }));
    }
    parts.sort_unstable();
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use hornpipe_types::message::{BatchBuilder, MessageMeta};
    use hornpipe_types::op::{BodyPlace, Committed};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Stretches of a queue, from the lengths of what is dead and live in turn.
    fn stretches(member: usize, lengths: &[(u32, u32)]) -> Vec<Live> {
        let mut at = 0;
        let stretch = |(dead, alive): &(u32, u32)| {
            let start = at + dead;
            at = start + alive;
            Live { piece: 0, member, target: 0, start, end: at }
        };
        lengths.iter().map(stretch).collect()
    }

    proptest! {
        #[test]
        fn pieces_are_what_lives_and_each_is_whole_somewhere(
            queues in prop::collection::vec(prop::collection::vec((1u32..6, 1u32..9), 0..6), 1..6),
        ) {
            let live: Vec<Live> = queues.iter().enumerate().flat_map(|(k, lengths)| stretches(k, lengths)).collect();
            let mut pieces = Vec::new();
            let parts = cut(live.clone(), &mut pieces);
            let all = |of: &[Live]| of.iter().flat_map(|l| (l.start..l.end).map(|i| (l.member, i))).collect::<Vec<_>>();
            let (before, after): (BTreeSet<_>, Vec<_>) = (all(&live).into_iter().collect(), all(&parts));
            prop_assert_eq!(after.len(), before.len());
            prop_assert_eq!(after.into_iter().collect::<BTreeSet<_>>(), before.clone());
            let lives: BTreeSet<u32> = before.iter().map(|(_, i)| *i).collect();
            let cut: Vec<u32> = pieces.iter().flat_map(|(start, end)| *start..*end).collect();
            prop_assert_eq!(cut, lives.into_iter().collect::<Vec<_>>());
            for (piece, (start, end)) in pieces.iter().enumerate() {
                prop_assert!(live.iter().any(|l| l.start <= *start && l.end >= *end));
                prop_assert!(parts.iter().filter(|l| l.piece == piece).all(|l| l.start >= *start && l.end <= *end));
            }
        }

        /// Whoever logged the runs, this process or one before, the files count the same.
        #[test]
        fn a_start_counts_what_the_process_before_counted(
            frames in prop::collection::vec((1u64..5, prop::collection::vec(0u32..=32, 5)), 1..12),
        ) {
            const COUNT: u32 = 32;
            let (mut log, mut again) = (Log::default(), Log::default());
            let mut places = Vec::new();
            let mut taken = Vec::new();
            for (n, (sharers, left)) in frames.iter().enumerate() {
                let body = BodyPlace { file: n as u64 / 5 + 1, offset: n as u64 % 5 * 4000, len: 3200, crc: 0 };
                let mut b = BatchBuilder::default();
                (0..COUNT).for_each(|_| b.push_frames(&[1; 98], MessageMeta { len: 98, ..MessageMeta::default() }));
                let batch = b.finish();
                for k in 0..*sharers {
                    let targets = vec![Target { queue: QueueId(k), first_seq: n as u64 * 32 }];
                    let span = Span { batch: Arc::clone(&batch), from: 0, count: COUNT, step: 1 };
                    let (id, _) = log.enqueue(span, targets.clone(), RunMeta::default(), None);
                    let place = Place { lsn: n as u64 / 2 + 1, part: 0, index: places.len() as u16, body: Some(body) };
                    places.push((id, place));
                    again.recovered(place, targets, RunMeta::default(), COUNT, 3000);
                    // one at least stays, as a process counts one that is left of some in sixteenths
                    taken.push(if k < 2 { COUNT - left[k as usize].max(2) / 2 * 2 } else { COUNT - left[k as usize] });
                }
            }
            log.committed(Committed { places: places.clone(), lsn: 1, ..Committed::default() }, &mut Vec::new());
            for ((id, _), taken) in places.iter().zip(&taken) {
                again.recovered_live(*id, COUNT - taken);
                let queue = log.first_queue(*id).unwrap_or_default();
                if *taken > 0 {
                    let part = SeqRange::dense(0, *taken);
                    log.settle_in_run(*id, queue, part, 0, super::super::Left::Taken, &mut Vec::new());
                }
            }
            again.recovery_done();
            let count = |log: &Log| -> Vec<(u64, u32, u64, u64)> {
                log.files.iter().map(|(n, file)| (*n, file.live, file.live_bytes, file.end)).collect()
            };
            prop_assert_eq!(count(&log), count(&again));
        }
    }
}
