//! Writing again: what keeps dead space from going is copied to the end of the log.
//!
//! A run that is written again keeps what it shares: stretches that are live in the same queues stay one run with all of
//! them as targets, so a fan-out is never written more than once. Runs that share a frame of a body file go together and share
//! one again, see [`super::shared`].

use super::files::BodyFile;
use super::join::Member;
use super::{At, Log, LogRun, LoggedRun, Pending, PendingOp};
use crate::queue::{Queue, Queues};
use hornpipe_types::ids::{EnqueueId, QueueId, Seq};
use hornpipe_types::limits::Limits;
use hornpipe_types::message::{Batch, Span};
use hornpipe_types::op::{Place, StoreOp, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most runs that one step makes, about.
const STEP_RUNS: usize = 2048;
/// Runs in records, beside twice as many as live, with which the oldest records are not yet copied from.
const ENTRIES_SLACK: u64 = 64 << 10;
/// Body files are rid of what is dead in them before anything is joined when that is so much more than what lives, octets.
const DEAD_FIRST: u64 = 64 << 20;
/// Octets of messages of one step, about.
pub(super) const STEP_BYTES: u64 = 4 << 20;

/// Runs to be written again.
#[derive(Debug, Default)]
pub(crate) struct CopyPlan {
    /// By reference: their bodies stay where they are.
    pub(crate) refer: Vec<(EnqueueId, Place)>,
    /// With their bodies, which are to be read first; each list holds the same, once on disk.
    pub(crate) rewrite: Vec<Vec<(EnqueueId, Place)>>,
    /// With their bodies, each list as one run.
    pub(crate) join: Vec<Vec<Member>>,
}

/// Runs that are to be written again with their bodies, as they are found.
#[derive(Debug, Default)]
struct Step {
    rewrite: Vec<Vec<(EnqueueId, Place)>>,
    runs: usize,
    bytes: u64,
    /// File and offset of shared frames among them.
    frames: BTreeSet<(u64, u64)>,
}

impl CopyPlan {
    pub(crate) fn is_empty(&self) -> bool {
        self.refer.is_empty() && self.rewrite.is_empty() && self.join.is_empty()
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
        self.unjoinable = self.unjoinable.min(self.runs());
        self.weigh_joins(limits);
        let too_many_entries = self.too_many_entries();
        if self.too_many_records(limits) || (too_many_entries && !self.head_was_last) {
            self.plan_head(&mut plan);
        } else if self.inline_live > limits.inline_live_bytes {
            let runs = self.records.values().filter(|r| r.live > 0).flat_map(|r| r.runs.iter());
            plan.rewrite = self.up_to_a_step(runs.filter_map(|id| self.stored(id)).filter(|r| r.1.body.is_none()));
        } else if self.too_much_dead() {
            plan.rewrite = self.half_dead_file();
        }
        self.head_was_last = !plan.is_empty() && too_many_entries;
        // what is joined leaves the files it lay in: those are looked at when that is done, unless they take too much room
        if plan.is_empty() {
            plan.join = self.plan_joins(limits, queues);
        }
        if plan.is_empty() {
            plan.rewrite = self.half_dead_file();
        }
        plan
    }

    /// Whether what was copied is being written, or about to be.
    pub(crate) fn writes_copies(&self) -> bool {
        !self.copied_next.is_empty() || self.copied.iter().any(|places| !places.is_empty())
    }

    fn too_many_records(&self, limits: &Limits) -> bool {
        self.records.len() > 2 * self.live_records + limits.log_records_slack as usize
    }
    /// What joined runs left behind in records that live on: the joined ones are to go on to newer records.
    fn too_many_entries(&self) -> bool {
        self.entries > 2 * self.runs.len() as u64 + ENTRIES_SLACK
    }
    fn too_much_dead(&self) -> bool {
        let (live, dead) = self.in_files();
        dead > live + DEAD_FIRST
    }
    /// Whether something else is to be copied before runs are joined.
    pub(super) fn presses(&self, limits: &Limits) -> bool {
        self.too_many_records(limits)
            || self.too_many_entries()
            || self.inline_live > limits.inline_live_bytes
            || self.too_much_dead()
    }

    /// What lives in a body file of which most is dead, as far as one step takes it.
    fn half_dead_file(&mut self) -> Vec<Vec<(EnqueueId, Place)>> {
        // a file still being filled is the newest one
        let is_half_dead = |(_, file): &(&u64, &mut BodyFile)| file.is_half_dead();
        for (_, file) in self.files.range_mut(..self.newest_file).filter(is_half_dead) {
            // steps before moved these
            file.runs.drop_front(&self.runs);
        }
        let half_dead = self.files.range(..self.newest_file).filter(|(_, file)| file.is_half_dead());
        let mut steps =
            half_dead.map(|(_, file)| self.up_to_a_step(file.runs.within(&self.runs).filter_map(|id| self.stored(id))));
        // what is damaged stays, the other files need not wait for it
        steps.find(|step| !step.is_empty()).unwrap_or_default()
    }

    /// As many runs as one step may write, each with those that share its frame.
    fn up_to_a_step(&self, runs: impl Iterator<Item = (EnqueueId, Place, u64)>) -> Vec<Vec<(EnqueueId, Place)>> {
        let mut step = Step::default();
        for run in runs {
            self.add_to_step(&mut step, run);
            if step.bytes > STEP_BYTES || step.runs >= STEP_RUNS {
                break;
            }
        }
        step.rewrite
    }

    fn add_to_step(&self, step: &mut Step, (id, place, bytes): (EnqueueId, Place, u64)) {
        let sharers = place.body.filter(|_| !place.is_part()).and_then(|body| {
            let runs = self.files.get(&body.file)?.sharers(&body)?;
            Some((body, runs))
        });
        let Some((body, runs)) = sharers else {
            step.rewrite.push(vec![(id, place)]);
            (step.runs, step.bytes) = (step.runs + self.most_pieces(id), step.bytes + bytes);
            return;
        };
        if !step.frames.insert((body.file, body.offset)) {
            return;
        }
        let whole = |(id, place, _): (EnqueueId, Place, u64)| (!place.is_part()).then_some((id, place));
        // more than a step takes have the frame once for each step
        let together: Vec<_> =
            runs.within(&self.runs).filter_map(|id| self.stored(id)).filter_map(whole).take(STEP_RUNS).collect();
        step.runs += together.iter().map(|(id, _)| self.most_pieces(*id)).sum::<usize>();
        step.bytes += u64::from(body.len);
        step.rewrite.push(together);
    }

    /// How many runs one may become at most when it is copied: each stretch that is left between dead messages is one.
    fn most_pieces(&self, id: EnqueueId) -> usize {
        let Some(run) = self.runs.get(id) else { return 1 };
        let dead = run.copies().saturating_sub(run.live) as usize;
        (dead + run.targets.len()).min(run.live as usize).max(1)
    }

    /// Whether several runs use the frame of a body file at a place.
    pub(super) fn is_shared(&self, place: &Place) -> bool {
        place.body.is_some_and(|body| self.files.get(&body.file).is_some_and(|file| file.is_shared(&body)))
    }

    /// Octets of all body files that live, and that don't.
    fn in_files(&self) -> (u64, u64) {
        let all = self.files.values().map(|file| (file.live_bytes, file.end));
        let (live, total) = all.fold((0, 0), |(a, b), (live, total)| (a + live, b + total));
        (live, total.saturating_sub(live))
    }

    /// A run on disk with something live in it that can be read: its place and octets.
    pub(super) fn stored(&self, id: EnqueueId) -> Option<(EnqueueId, Place, u64)> {
        match self.runs.get(id) {
            Some(LoggedRun { at: At::Stored(place), bytes, live, .. })
                if *live > 0 && !self.unreadable.contains(&id) =>
            {
                Some((id, *place, *bytes))
            }
            _ => None,
        }
    }

    fn plan_head(&self, plan: &mut CopyPlan) {
        const RUNS_MAX: usize = 1024;
        let head = self.records.values().filter(|r| r.live > 0).take(64).flat_map(|r| r.runs.iter());
        let mut step = Step::default();
        for (id, place, n) in head.filter_map(|id| self.stored(id)).take(RUNS_MAX) {
            // parts of a shared frame would not be seen to be the same again
            let whole = || self.runs.get(id).is_some_and(|run| run.live == run.copies());
            if place.body.is_some() && (!self.is_shared(&place) || whole()) {
                plan.refer.push((id, place));
                step.runs += self.most_pieces(id);
            } else {
                self.add_to_step(&mut step, (id, place, n));
            }
            if step.bytes > STEP_BYTES || step.runs >= STEP_RUNS {
                break;
            }
        }
        // some of a frame's runs may be whole
        plan.refer.retain(|(_, place)| {
            !place.body.is_some_and(|body| step.frames.contains(&(body.file, body.offset))) || place.is_part()
        });
        plan.rewrite = step.rewrite;
    }

    /// Moves the unsettled messages of a run on disk to new runs: by reference, or with their bodies in `batch`.
    pub(crate) fn copy_forward(&mut self, id: EnqueueId, from: Place, batch: Option<&Arc<Batch>>, queues: &mut Queues) {
        let Some(run) = self.runs.get(id) else { return };
        if !matches!(&run.at, At::Stored(place) if *place == from) {
            return;
        }
        let (bytes, of, meta) = (run.bytes, run.count.max(1), run.meta.get());
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
                    At::Pending(Box::new(Pending { span, settled: Vec::new(), publisher: None, copy: true }))
                }
                None => {
                    let (targets, place) = (targets.clone(), from);
                    let op = StoreOp::Refer { id: copy, targets, meta, place, from: start, count };
                    self.pending.push(PendingOp::Op(Box::new(op)));
                    At::Writing(None)
                }
            };
            self.pending_live += 1;
            let live = count.saturating_mul(targets.len() as u32);
            let (meta, targets) = (meta.into(), targets.into());
            self.runs.push(copy, LoggedRun { live, count, bytes: part, at, meta, targets });
        }
        for (queue, fresh) in fresh {
            if let Some(queue) = queues.get_mut(&queue) {
                fresh.iter().for_each(|run| self.repeat_counters(queue, run));
                queue.replace_log_runs_of(id, fresh);
            }
        }
        self.touch();
        let died = self.runs.remove(id).map_or(0, |run| run.live_bytes());
        self.copied_next.push((from, died));
    }

    /// What was noted of messages since they were logged may stand in records that go when they are logged again.
    pub(super) fn repeat_counters(&mut self, queue: &Queue, run: &LogRun) {
        for (seq, counters) in queue.counters.range(run.first..run.end()) {
            self.pending.push(PendingOp::Op(Box::new(counters.op(queue.id, *seq))));
            self.pending_live += 1;
        }
    }
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
