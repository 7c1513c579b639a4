//! Writing again: what keeps dead space from going is copied to the end of the log, and short runs become long ones.
//!
//! A run that is written again keeps what it shares: stretches that are live in the same queues stay one run with all of
//! them as targets, so a fan-out is never written more than once. Short runs next to each other are joined where a group is
//! made, whether they come from publishers or from here.

use super::{At, Log, LogRun, LoggedRun, Pending, PendingOp, span_bytes};
use crate::queue::{Queue, Queues};
use hornpipe_types::ids::{EnqueueId, QueueId, Seq};
use hornpipe_types::limits::Limits;
use hornpipe_types::message::{Batch, Span};
use hornpipe_types::op::{Enqueue, Place, StoreOp, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A run with fewer messages is short.
const SHORT: u32 = 16;
/// Runs are not joined beyond so many octets and messages: a run is what one read brings back.
const JOINED_BYTES: u64 = 256 << 10;
const JOINED_MESSAGES: u32 = 16 << 10;
/// A short run with more octets than this is not worth copying.
const SHORT_BYTES: u64 = 16 << 10;
/// Most runs of one step.
const STEP_RUNS: usize = 4096;
/// Octets of messages of one step, about.
const STEP_BYTES: u64 = 4 << 20;

/// Runs to be written again.
#[derive(Debug, Default)]
pub(crate) struct CopyPlan {
    /// By reference: their bodies stay where they are.
    pub(crate) refer: Vec<(EnqueueId, Place)>,
    /// With their bodies, which are to be read first.
    pub(crate) rewrite: Vec<(EnqueueId, Place)>,
}

impl CopyPlan {
    pub(crate) fn is_empty(&self) -> bool {
        self.refer.is_empty() && self.rewrite.is_empty()
    }
}

impl Log {
    /// What should be copied forward, so that the head of the log, half-dead body files and messages inside records don't
    /// keep space that is not theirs, and short runs don't keep memory. At most about 4 MiB at a time.
    pub(crate) fn copy_plan(&mut self, limits: &Limits, queues: &mut Queues) -> CopyPlan {
        let mut plan = CopyPlan::default();
        if self.groups_out > 0 || !self.copied_next.is_empty() {
            return plan;
        }
        if self.records.len() > 2 * self.live_records + limits.log_records_slack as usize {
            self.plan_head(&mut plan);
        } else if self.inline_live > limits.inline_live_bytes {
            let runs = self.records.values().filter(|r| r.live > 0).flat_map(|r| &r.runs);
            plan.rewrite = up_to_a_step(runs.filter_map(|id| self.stored(*id)).filter(|r| r.1.body.is_none()));
        } else {
            // a file still being filled is the newest one
            let newest = self.newest_file;
            let half_dead = self.files.range(..newest).filter(|(_, s)| s.live_bytes * 2 < s.total_bytes);
            let steps = half_dead.map(|(_, file)| up_to_a_step(file.runs.iter().filter_map(|id| self.stored(*id))));
            // what is damaged stays, the other files need not wait for it
            plan.rewrite = steps.into_iter().find(|step| !step.is_empty()).unwrap_or_default();
        }
        if plan.is_empty() {
            self.plan_crowd(limits.short_runs, queues, &mut plan);
        }
        plan
    }

    /// A run on disk with something live in it that can be read: its place and octets.
    fn stored(&self, id: EnqueueId) -> Option<(EnqueueId, Place, u64)> {
        match self.runs.get(&id) {
            Some(LoggedRun { at: At::Stored(place), bytes, live, .. })
                if *live > 0 && !self.unreadable.contains(&id) =>
            {
                Some((id, *place, *bytes))
            }
            _ => None,
        }
    }

    fn plan_head(&self, plan: &mut CopyPlan) {
        const RUNS_MAX: usize = 256;
        let head = self.records.values().filter(|r| r.live > 0).take(64).flat_map(|r| &r.runs);
        let mut bytes = 0;
        for (id, place, n) in head.filter_map(|id| self.stored(*id)).take(RUNS_MAX) {
            if place.body.is_some() {
                plan.refer.push((id, place));
            } else {
                plan.rewrite.push((id, place));
                bytes += n;
            }
            if bytes > STEP_BYTES {
                break;
            }
        }
    }

    /// Short runs of a queue that has many of them.
    fn plan_crowd(&mut self, crowd: u64, queues: &mut Queues, plan: &mut CopyPlan) {
        while let Some(queue) = self.crowded.pop_front().and_then(|id| queues.get_mut(&id)) {
            let k = queue.logged.partition_point(|r| r.end() <= queue.joined_upto);
            let mut picked = BTreeSet::new();
            let (mut bytes, mut upto) = (0, queue.joined_upto);
            for run in queue.logged.iter().skip(k) {
                if picked.len() >= STEP_RUNS || bytes > STEP_BYTES {
                    break;
                }
                // what is still on its way to the disk is looked at when there is a new crowd
                match self.runs.get(&run.enqueue) {
                    Some(LoggedRun { at: At::Stored(place), bytes: n, .. }) => {
                        upto = run.end();
                        if run.live > 0 && run.count < SHORT && *n <= SHORT_BYTES {
                            bytes += n;
                            picked.insert((run.enqueue, *place));
                        }
                    }
                    Some(_) => break,
                    None => {}
                }
            }
            queue.crowded = false;
            queue.joined_upto = upto;
            if picked.len() as u64 >= crowd / 2 {
                // there may be more behind them
                queue.crowded = true;
                self.crowded.push_back(queue.id);
                plan.rewrite = picked.into_iter().collect();
                return;
            }
        }
    }

    /// Notes a queue whose runs on disk are many and short.
    pub(crate) fn note_crowd(&mut self, crowd: u64, queue: &mut Queue) {
        if queue.crowded || (queue.logged.len() as u64) < crowd {
            return;
        }
        let k = queue.logged.partition_point(|r| r.end() <= queue.joined_upto);
        let Some(first) = queue.logged.get(k).map(|r| r.first) else { return };
        let runs = (queue.logged.len() - k) as u64;
        if runs >= crowd && queue.next_seq - first < runs * u64::from(SHORT) {
            queue.crowded = true;
            self.crowded.push_back(queue.id);
        }
    }

    /// Moves the unsettled messages of a run on disk to new runs: by reference, or with their bodies in `batch`.
    pub(crate) fn copy_forward(&mut self, id: EnqueueId, from: Place, batch: Option<&Arc<Batch>>, queues: &mut Queues) {
        let Some(run) = self.runs.get(&id) else { return };
        if !matches!(&run.at, At::Stored(place) if *place == from) {
            return;
        }
        let (bytes, of, meta) = (run.bytes, run.count.max(1), run.meta);
        let shared = shared_stretches(id, &run.targets, of, queues);
        let mut fresh: BTreeMap<QueueId, Vec<LogRun>> = BTreeMap::new();
        for Shared { start, end, targets } in shared {
            self.last_enqueue = self.last_enqueue.next();
            let copy = self.last_enqueue;
            let count = end - start;
            for target in &targets {
                fresh.entry(target.queue).or_default().push(LogRun::new(target.first_seq, count, copy, 0));
            }
            let part = bytes * u64::from(count) / u64::from(of);
            let at = match batch {
                Some(batch) => {
                    let span = Span { batch: Arc::clone(batch), from: start, count, step: 1 };
                    self.pending.push(PendingOp::Run(copy));
                    self.pending_bytes += part;
                    At::Pending(Box::new(Pending { span, settled: Vec::new() }))
                }
                None => {
                    let (targets, place) = (targets.clone(), from);
                    let op = StoreOp::Refer { id: copy, targets, meta, place, from: start, count };
                    self.pending.push(PendingOp::Op(op));
                    At::Writing
                }
            };
            self.pending_live += 1;
            let live = count.saturating_mul(targets.len() as u32);
            let run = LoggedRun { live, count, bytes: part, at, meta, targets, publisher: None, copy: true };
            self.runs.insert(copy, run);
        }
        for (queue, fresh) in fresh {
            if let Some(queue) = queues.get_mut(&queue) {
                // what was noted of them since they were logged may stand in records that go now
                for run in &fresh {
                    for (seq, counters) in queue.counters.range(run.first..run.end()) {
                        self.pending.push(PendingOp::Op(counters.op(queue.id, *seq)));
                        self.pending_live += 1;
                    }
                }
                queue.replace_log_runs_of(id, fresh);
            }
        }
        self.touch();
        let died = self.runs.remove(&id).map_or(0, |run| run.live_bytes());
        self.copied_next.push((from, died));
    }

    /// Joins runs of a group that went to the same queues at consecutive seqs, so that a queue filled message by message, or
    /// read by read, costs what one filled at once does. Enqueues may move ahead of other operations of the group: those on the
    /// same queue concern older seqs.
    pub(super) fn join_runs(&mut self, ops: &mut Vec<StoreOp>, queues: &mut Queues) {
        // by their first queue, the run that may grow
        let mut open: BTreeMap<QueueId, Joined> = BTreeMap::new();
        let mut closed: Vec<Joined> = Vec::new();
        for (at, op) in ops.iter().enumerate() {
            let StoreOp::Enqueue(e) = op else { continue };
            let Some(first) = e.targets.first() else { continue };
            let Some(run) = self.runs.get(&e.id) else { continue };
            let bytes = span_bytes(&e.span);
            let whole = run.live == run.count.saturating_mul(run.targets.len() as u32);
            if !whole || bytes > JOINED_BYTES / 2 || e.span.step != 1 {
                closed.extend(open.remove(&first.queue));
                continue;
            }
            if let Some(joined) = open.get_mut(&first.queue)
                && let Some(StoreOp::Enqueue(head)) = joined.members.first().and_then(|k| ops.get(*k))
                && joined.bytes + bytes <= JOINED_BYTES
                && joined.count + e.span.count <= JOINED_MESSAGES
                && follows(head, joined.count, e)
            {
                joined.members.push(at);
                joined.count += e.span.count;
                joined.bytes += bytes;
                continue;
            }
            let fresh = Joined { members: vec![at], count: e.span.count, bytes };
            closed.extend(open.insert(first.queue, fresh));
        }
        closed.extend(open.into_values());
        closed.retain(|j| j.members.len() > 1);
        if closed.is_empty() {
            return;
        }
        let mut gone = vec![false; ops.len()];
        for joined in closed {
            self.join(&joined, ops, &mut gone, queues);
        }
        let mut gone = gone.into_iter();
        ops.retain(|_| !gone.next().unwrap_or(false));
    }

    fn join(&mut self, joined: &Joined, ops: &mut [StoreOp], gone: &mut [bool], queues: &mut Queues) {
        let members = joined.members.iter().filter_map(|k| match ops.get(*k) {
            Some(StoreOp::Enqueue(e)) => Some(e.clone()),
            _ => None,
        });
        let members: Vec<Enqueue> = members.collect();
        let Some(head) = members.first() else { return };
        // each queue must still hold the members as they were enqueued, one beside the other
        let counts: Vec<(EnqueueId, u32)> = members.iter().map(|m| (m.id, m.span.count)).collect();
        let intact = |t: &Target| queues.get(&t.queue).is_some_and(|q| q.holds_whole_runs(t.first_seq, &counts));
        if !head.targets.iter().all(intact) {
            return;
        }
        for target in &head.targets {
            if let Some(queue) = queues.get_mut(&target.queue) {
                let run = LogRun::new(target.first_seq, joined.count, head.id, 0);
                queue.join_log_runs(target.first_seq, counts.len(), run);
            }
        }
        // one publisher's tags in a row, or nobody is told early
        let mut publisher = self.runs.get(&head.id).and_then(|r| r.publisher);
        let mut next_tag = publisher.map_or(0, |p| p.first_tag + u64::from(head.span.count));
        for member in members.iter().skip(1) {
            let own = self.runs.remove(&member.id).and_then(|r| r.publisher);
            let same = own.zip(publisher).is_some_and(|(own, p)| {
                (own.connection, own.channel, own.first_tag) == (p.connection, p.channel, next_tag)
            });
            next_tag += u64::from(member.span.count);
            if !same {
                publisher = None;
            }
        }
        if let Some(run) = self.runs.get_mut(&head.id) {
            run.live = joined.count.saturating_mul(head.targets.len() as u32);
            run.count = joined.count;
            run.bytes = joined.bytes;
            run.publisher = publisher;
        }
        let mut more: Vec<Span> = members.iter().skip(1).map(|m| m.span.clone()).collect();
        for (k, at) in joined.members.iter().enumerate() {
            match ops.get_mut(*at) {
                Some(StoreOp::Enqueue(e)) if k == 0 => e.more.append(&mut more),
                _ => gone.get_mut(*at).into_iter().for_each(|g| *g = true),
            }
        }
    }
}

/// Runs of a group that become one: their indexes among its ops, messages and octets.
#[derive(Debug)]
struct Joined {
    members: Vec<usize>,
    count: u32,
    bytes: u64,
}

/// Whether `next` continues `head`, which has grown to `count` messages, in every queue.
fn follows(head: &Enqueue, count: u32, next: &Enqueue) -> bool {
    let in_step = |(a, b): (&Target, &Target)| a.queue == b.queue && a.first_seq + Seq::from(count) == b.first_seq;
    head.meta == next.meta
        && head.targets.len() == next.targets.len()
        && head.targets.iter().zip(&next.targets).all(in_step)
}

/// As many runs as one step may write.
fn up_to_a_step(runs: impl Iterator<Item = (EnqueueId, Place, u64)>) -> Vec<(EnqueueId, Place)> {
    let (mut step, mut bytes) = (Vec::new(), 0);
    for (id, place, n) in runs {
        step.push((id, place));
        bytes += n;
        if bytes > STEP_BYTES || step.len() >= STEP_RUNS {
            break;
        }
    }
    step
}

/// Messages `start .. end` of a run, live in the same queues.
#[derive(Debug, PartialEq, Eq)]
struct Shared {
    start: u32,
    end: u32,
    targets: Vec<Target>,
}

/// Cuts a run wherever a live stretch begins or ends in one of its queues.
fn shared_stretches(id: EnqueueId, targets: &[Target], of: u32, queues: &Queues) -> Vec<Shared> {
    // (index, begins, target); an end sorts before a beginning at the same index
    let mut edges: Vec<(u32, bool, usize)> = Vec::new();
    for (t, target) in targets.iter().enumerate() {
        let Some(queue) = queues.get(&target.queue) else { continue };
        for k in queue.log_runs_of(id, target.first_seq, target.first_seq + Seq::from(of)) {
            for (_, count, index) in queue.logged.get(k).map(LogRun::stretches).unwrap_or_default() {
                edges.push((index, true, t));
                edges.push((index + count, false, t));
            }
        }
    }
    edges.sort_unstable();
    let mut shared = Vec::new();
    let mut live: BTreeSet<usize> = BTreeSet::new();
    let mut start = 0;
    for (end, begins, t) in edges {
        if end > start && !live.is_empty() {
            let at = |t: &Target| Target { queue: t.queue, first_seq: t.first_seq + Seq::from(start) };
            let targets = live.iter().filter_map(|t| targets.get(*t)).map(at).collect();
            shared.push(Shared { start, end, targets });
        }
        start = end;
        if begins {
            live.insert(t);
        } else {
            live.remove(&t);
        }
    }
    shared
}
