//! From what is pending to a group, and what a group on disk changes.

use super::{At, Log, Pending, PendingOp, Targets, span_bytes, whole_frame};
use crate::queue::{Queue, Queues};
use hornpipe_types::ids::{EnqueueId, QueueId, Seq};
use hornpipe_types::message::{Span, SpanKey};
use hornpipe_types::op::{BodyPlace, Committed, Enqueue, Group, StoreOp, Target};
use hornpipe_types::range::{SeqRange, push_range};
use hornpipe_types::time::Now;

/// Most records removed with one group.
const REMOVE_MAX: usize = 64;
/// Fewer than these stay where a group writes something: one that removes nothing is a single key in sled, and costs half.
const REMOVE_MIN: usize = 16;
/// Most records removed with a group that holds nothing else, so that nobody waits for it.
const REMOVE_MAX_ALONE: usize = 512;

impl Log {
    /// Makes a group of all that is pending, when there is something worth a sync.
    pub(crate) fn take_group(&mut self, now: Now, queues: &mut Queues, settles_max: u64) -> Option<Group> {
        let due = self.settle_deadline.is_some_and(|d| d <= now.mono) || self.pending_settles >= settles_max;
        if !self.is_urgent() && !due {
            return None;
        }
        let mut group = Group { upto: self.commit, ..Group::default() };
        group.ops.reserve(self.pending_live as usize);
        let mut ops = std::mem::take(&mut self.pending).into_iter().peekable();
        // of the run before, as it was
        let mut before = None;
        while let Some(op) = ops.next() {
            match op {
                PendingOp::Op(op) => group.ops.push(*op),
                PendingOp::Run(id) => {
                    let next = match ops.peek() {
                        Some(PendingOp::Run(next)) => Some(*next),
                        _ => None,
                    };
                    group.ops.extend(self.write_run(id, next, &mut before, queues).map(StoreOp::Enqueue));
                }
            }
        }
        for id in std::mem::take(&mut self.settled_queues) {
            if let Some(queue) = queues.get_mut(&id) {
                queue.settle_listed = false;
                let ranges = std::mem::take(&mut queue.settled);
                if !ranges.is_empty() {
                    group.ops.push(StoreOp::Settled { queue: id, ranges });
                }
            }
        }
        self.join_runs(&mut group.ops, queues);
        self.pending_bytes = 0;
        self.pending_copies = 0;
        self.pending_live = 0;
        self.pending_settles = 0;
        self.settle_deadline = None;
        // records go from the head only: what a record settles concerns older ones, which are gone before it
        let dead = self.records.values().take(REMOVE_MIN).take_while(|record| record.live == 0).count();
        let most = match group.ops.is_empty() {
            true => REMOVE_MAX_ALONE,
            false if dead == REMOVE_MIN => REMOVE_MAX,
            false => 0,
        };
        while group.remove_records.len() < most
            && let Some(entry) = self.records.first_entry()
            && entry.get().live == 0
        {
            group.remove_records.push(*entry.key());
            entry.remove();
        }
        for file in std::mem::take(&mut self.dead_files) {
            // the newest file may be taking the messages of a group under way: it goes once a newer one is known
            match self.files.get(&file) {
                Some(state) if state.live > 0 => {}
                _ if file >= self.newest_file => self.dead_files.push(file),
                _ => {
                    self.files.remove(&file);
                    group.remove_files.push(file);
                }
            }
        }
        if group.is_empty() {
            // all of it cancelled in memory
            if self.groups_out == 0 {
                self.durable = self.durable.max(group.upto);
                return None;
            }
        }
        self.groups_out += 1;
        self.copied.push_back(std::mem::take(&mut self.copied_next));
        Some(group)
    }

    /// A pending run goes to the store: what was not settled of it, unless the runs beside it hold the same, which is written once
    /// only as a whole. `before` is the span of the one before it, as it was. A run that is gone was cancelled by its own
    /// acknowledgements.
    fn write_run(
        &mut self,
        id: EnqueueId,
        next: Option<EnqueueId>,
        before: &mut Option<SpanKey>,
        queues: &mut Queues,
    ) -> Option<Enqueue> {
        let run = self.runs.get_mut(id)?;
        let At::Pending(pending) = std::mem::replace(&mut run.at, At::Writing(None)) else { return None };
        let Pending { mut span, settled, mut publisher, copy } = *pending;
        let key = span.key();
        let is_same = before.replace(key) == Some(key);
        if !settled.is_empty() && !copy {
            let shares = is_same || next.is_some_and(|next| self.is_pending(next, key));
            let run = self.runs.get_mut(id)?;
            if let Targets::One(target) = &mut run.targets
                && !shares
            {
                let queue = queues.get_mut(&target.queue).map(Box::as_mut);
                let front = trim_settled(id, target, &mut span, &settled, queue);
                run.count = span.count;
                run.bytes = span_bytes(&span);
                if let Some(publisher) = &mut publisher {
                    publisher.first_tag += u64::from(front);
                }
            }
            for (id, part) in settled {
                let Some(queue) = queues.get_mut(&id) else { continue };
                let kept = run.targets.iter().filter(|t| t.queue == id).map(|t| t.first_seq).next();
                push_within(&mut queue.settled, part, kept.unwrap_or(0), u64::from(span.count));
                if !queue.settle_listed && !queue.settled.is_empty() {
                    queue.settle_listed = true;
                    self.settled_queues.push(id);
                }
            }
        }
        let run = self.runs.get_mut(id)?;
        run.at = At::Writing(publisher);
        Some(Enqueue { id, targets: run.targets.to_vec(), meta: run.meta.get(), span, more: Vec::new() })
    }

    /// Whether a run waits with the very messages of a span.
    fn is_pending(&self, id: EnqueueId, key: SpanKey) -> bool {
        self.runs.get(id).is_some_and(|run| matches!(&run.at, At::Pending(p) if p.span.key() == key))
    }

    /// A group is on disk. Fills `touched` with the queues whose runs have a place now.
    pub(crate) fn committed(&mut self, committed: Committed, touched: &mut Vec<(QueueId, Seq)>) {
        self.groups_out = self.groups_out.saturating_sub(1);
        self.groups_committed += 1;
        self.durable = self.durable.max(committed.upto);
        if committed.lsn != 0 {
            self.records.entry(committed.lsn).or_default();
        }
        // the run before, where it came with a frame of its own
        let mut before: Option<(EnqueueId, BodyPlace)> = None;
        for (id, place) in committed.places {
            let same = before.filter(|(_, body)| place.body == Some(*body)).map(|(id, _)| id);
            let live = match self.runs.get_mut(id) {
                Some(run) => {
                    run.at = At::Stored(place);
                    run.bytes = whole_frame(&place).unwrap_or(run.bytes);
                    let count = u64::from(run.count);
                    touched.extend(run.targets.iter().map(|t| (t.queue, t.first_seq + count)));
                    run.live_bytes()
                }
                // settled while it was written
                None => 0,
            };
            if let Some(first) = same
                && let Some(body) = place.body
                && let Some(file) = self.files.get_mut(&body.file).filter(|file| file.sharers(&body).is_none())
                && let Some(run) = self.runs.get(first)
            {
                file.share(first, &body, run.live_bytes());
            }
            let is_new = self.settle_down(id, place, live);
            before = place.body.filter(|_| is_new || same.is_some()).map(|body| (id, body));
            if self.runs.get(id).is_none_or(|run| run.live == 0) {
                self.runs.remove(id);
                self.bury(place, live);
            }
        }
        for (place, live) in self.copied.pop_front().unwrap_or_default() {
            self.bury(place, live);
        }
    }
}

/// Leaves out the settled messages at both ends of a pending run with one target; those in the middle are written and
/// settled in the same group. Returns how many went at the front.
fn trim_settled(
    id: EnqueueId,
    target: &mut Target,
    span: &mut Span,
    parts: &[(QueueId, SeqRange)],
    queue: Option<&mut Queue>,
) -> u32 {
    let Some(queue) = queue else { return 0 };
    let first = target.first_seq;
    let mut settled = vec![false; span.count as usize];
    for seq in parts.iter().flat_map(|(_, range)| range.iter()) {
        if let Some(bit) = settled.get_mut(seq.saturating_sub(first) as usize) {
            *bit = true;
        }
    }
    let front = settled.iter().take_while(|s| **s).count() as u32;
    let back = settled.iter().rev().take_while(|s| **s).count() as u32;
    if front + back >= span.count || front + back == 0 {
        return 0;
    }
    for k in queue.log_runs_of(id, first, first + u64::from(span.count)) {
        if let Some(run) = queue.logged.get_mut(k) {
            run.index -= front;
        }
    }
    target.first_seq += u64::from(front);
    span.from += front;
    span.count -= front + back;
    front
}

/// Adds the members of `part` that lie in `first .. first + count`.
fn push_within(ranges: &mut Vec<SeqRange>, part: SeqRange, first: Seq, count: u64) {
    for seq in part.iter().filter(|s| (first..first + count).contains(s)) {
        push_range(ranges, SeqRange::dense(seq, 1));
    }
}
