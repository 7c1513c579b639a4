//! Short runs become long ones: where a group is made, whoever its runs come from, and in the background what publishers
//! logged one group at a time.
//!
//! In the background a queue's runs are read as one batch and logged again as one run. How many short runs a queue may have
//! falls with the number of all runs, so that memory holds whether few queues are long or many are. What came of joining is
//! joined again when enough of about the same size lies side by side: however long a queue gets, a message is written again a
//! few times only.

use super::{At, Log, LogRun, LoggedRun, Meta, Pending, PendingOp, Targets, copy::STEP_BYTES};
use crate::queue::{Queue, Queues};
use hornpipe_types::Map;
use hornpipe_types::ids::{EnqueueId, QueueId, Seq};
use hornpipe_types::limits::Limits;
use hornpipe_types::message::{Batch, Span};
use hornpipe_types::op::{Enqueue, Place, StoreOp, Target};
use std::borrow::Cow;
use std::sync::Arc;

/// A run with fewer messages is short.
const SHORT: u32 = 16;
/// Runs are not joined beyond so many octets and messages: a run is what one read brings back.
const JOINED_BYTES: u64 = 256 << 10;
const JOINED_MESSAGES: u32 = 16 << 10;
/// Runs that become one in the background: it is done in one go.
const JOINED_RUNS: usize = 1024;
/// A short run with more octets than this is not worth copying.
const SHORT_BYTES: u64 = 16 << 10;
/// Most short runs of one step.
const STEP_SHORT_RUNS: usize = 8192;
/// With so many runs in all, a queue may have the configured number of short ones; with more, less.
const FEW_RUNS: u64 = 8192;
/// So many short ones a queue may always have, unless the configuration says less.
const ALWAYS: u64 = 4;
/// So many joined runs side by side are worth being written again with those that are joined now, if each has less than
/// twice their messages.
const AGAIN: usize = 7;

/// A part of the limit for all runs: publishers don't wait for the joining of fewer.
const WORTH_A_WAIT: u64 = 16;

/// A run on disk that is to become a part of a longer one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) id: EnqueueId,
    pub(crate) place: Place,
    count: u32,
}

impl Member {
    fn is_at_its_place(&self, run: &LoggedRun) -> bool {
        matches!(run.at, At::Stored(place) if place == self.place)
    }
    fn is_as_planned(&self, run: &LoggedRun) -> bool {
        self.is_at_its_place(run) && run.count == self.count
    }
}

/// Members that are one behind the other in the batch that was read, and in all queues that hold them.
struct Side {
    targets: Vec<Target>,
    /// Index of the first message in the batch.
    from: u32,
    count: u32,
    members: Vec<Member>,
}

/// Runs on disk that lie side by side in all their queues.
#[derive(Debug, Default)]
struct Stretch<'a> {
    /// Meta of the first one, and the queues that hold it.
    head: Option<(&'a Meta, Cow<'a, [Target]>)>,
    members: Vec<Member>,
    count: u32,
    bytes: u64,
}

impl<'a> Stretch<'a> {
    fn of(Candidate { member, run, holders }: Candidate<'a>) -> Self {
        Self { head: Some((&run.meta, holders)), members: vec![member], count: run.count, bytes: run.bytes }
    }
    fn has_room(&self, run: &LoggedRun) -> bool {
        self.bytes + run.bytes <= JOINED_BYTES
            && self.count + run.count <= JOINED_MESSAGES
            && self.members.len() < JOINED_RUNS
    }
    fn goes_on_with(&self, next: &Candidate<'_>) -> bool {
        let follows = |(meta, holders): &(&Meta, Cow<'_, [Target]>)| {
            **meta == next.run.meta && in_step(holders, self.count, &next.holders)
        };
        self.has_room(next.run) && self.head.as_ref().is_some_and(follows)
    }
    fn begins_behind(&self, before: &Candidate<'_>) -> bool {
        let follows = |(meta, holders): &(&Meta, Cow<'_, [Target]>)| {
            **meta == before.run.meta && in_step(&before.holders, before.run.count, holders)
        };
        self.head.as_ref().is_some_and(follows)
    }
}

/// A run on disk that may become a part of a longer one.
struct Candidate<'a> {
    member: Member,
    run: &'a LoggedRun,
    /// The queues that hold all of it; no other has anything of it.
    holders: Cow<'a, [Target]>,
}

impl Log {
    /// How many short runs a queue may have.
    pub(super) fn crowd(&self, limits: &Limits) -> u64 {
        let (most, runs) = (limits.short_runs, self.runs());
        let share = most.saturating_mul(FEW_RUNS) / runs.max(1);
        // near the limit it is time, however few each queue has
        let share = if runs > limits.log_runs / 2 { share.min(2 * ALWAYS) } else { share };
        share.clamp(ALWAYS.min(most), most)
    }

    /// Notes a queue whose runs on disk are many and short.
    pub(crate) fn note_crowd(&mut self, limits: &Limits, queue: &mut Queue) {
        if queue.crowded || (queue.logged.len() as u64) < ALWAYS.min(limits.short_runs) {
            return;
        }
        let crowd = self.crowd(limits);
        if (queue.logged.len() as u64) < crowd {
            return;
        }
        let from = queue.logged.partition_point(|r| r.end() <= queue.joined_upto);
        let upto = queue.logged.partition_point(|r| r.end() <= queue.stored_upto);
        let (Some(first), Some(last)) = (queue.logged.get(from), queue.logged.get(upto.wrapping_sub(1))) else {
            return;
        };
        let runs = upto.saturating_sub(from) as u64;
        if runs >= crowd && last.end() - first.first < runs * u64::from(SHORT) {
            queue.crowded = true;
            self.crowded.push_back(queue.id);
        }
    }

    /// More runs to be joined when those of the last step are there, as long as the store keeps pace and nothing else presses.
    /// Short runs come as fast as publishers bring them; these wait for the store too.
    pub(crate) fn more_joins(&mut self, limits: &Limits, queues: &mut Queues) -> Vec<Vec<Member>> {
        if self.crowded.is_empty() || self.pending_bytes > limits.pending_bytes / 2 || self.presses(limits) {
            return Vec::new();
        }
        self.plan_joins(limits, queues)
    }

    /// Runs to be joined, of as many queues as one step takes.
    pub(super) fn plan_joins(&mut self, limits: &Limits, queues: &mut Queues) -> Vec<Vec<Member>> {
        let (mut plan, mut room, mut bytes) = (Vec::new(), STEP_SHORT_RUNS, 0);
        while room > 0
            && bytes < STEP_BYTES
            && let Some(id) = self.crowded.pop_front()
        {
            let Some(queue) = queues.get(&id) else { continue };
            let (stretches, upto, seen) = self.short_stretches(queue, queues, room);
            bytes += stretches.iter().map(|s| s.bytes).sum::<u64>();
            plan.extend(stretches.into_iter().map(|s| s.members));
            let Some(queue) = queues.get_mut(&id) else { continue };
            queue.joined_upto = upto;
            // there may be more behind them
            queue.crowded = seen >= room;
            room = room.saturating_sub(seen);
            if queue.crowded {
                self.crowded.push_back(queue.id);
            }
        }
        if self.crowded.is_empty() {
            let fewer: usize = plan.iter().map(|members: &Vec<Member>| members.len() - 1).sum();
            self.unjoinable = self.runs().saturating_sub(fewer as u64);
        }
        self.weigh_joins(limits);
        plan
    }

    /// Works out whether joining is worth a publisher's wait.
    pub(super) fn weigh_joins(&mut self, limits: &Limits) {
        self.joins_little = self.runs() <= self.unjoinable + limits.log_runs / WORTH_A_WAIT;
    }

    /// Whether there are so many runs that those who bring more are to wait while some are joined: more than the limit, and
    /// more than joining leaves, by what is worth waiting for.
    pub(crate) fn too_many_runs(&self, limits: &Limits) -> bool {
        self.runs() > limits.log_runs && !self.joins_little
    }

    /// Runs of a queue, short ones among them, that lie side by side, from where joining stopped; up to where it was looked,
    /// and how many short ones there are: `most` when there may be more.
    fn short_stretches(&self, queue: &Queue, queues: &Queues, most: usize) -> (Vec<Stretch<'_>>, Seq, usize) {
        let from = queue.logged.partition_point(|r| r.end() <= queue.joined_upto);
        let (mut found, mut upto, mut seen) = (Vec::new(), queue.joined_upto, 0);
        let mut open = Stretch::default();
        for log_run in queue.logged.iter().skip(from) {
            let run = self.runs.get(log_run.enqueue);
            // what is still on its way to the disk is looked at when there is a new crowd
            if seen >= most || run.is_some_and(|r| !matches!(r.at, At::Stored(_))) {
                break;
            }
            upto = log_run.end();
            let short = |c: &Candidate<'_>| c.run.count < SHORT && c.run.bytes <= SHORT_BYTES;
            let Some(next) = self.candidate(queue, log_run, queues).filter(short) else {
                found.push(std::mem::take(&mut open));
                continue;
            };
            seen += 1;
            if open.goes_on_with(&next) {
                open.members.push(next.member);
                open.count += next.run.count;
                open.bytes += next.run.bytes;
            } else {
                found.push(std::mem::replace(&mut open, Stretch::of(next)));
            }
        }
        found.push(open);
        found.retain(|s| s.count > 0);
        if let Some(first) = found.first_mut() {
            self.reach_back(queue, queues, from, first);
        }
        found.retain(|s| s.members.len() > 1);
        (found, upto, seen)
    }

    /// What a queue has in a log run, if that is a whole run on disk that is no other queue's to join.
    fn candidate(&self, queue: &Queue, log_run: &LogRun, queues: &Queues) -> Option<Candidate<'_>> {
        let id = log_run.enqueue;
        let run = self.runs.get(id)?;
        let At::Stored(place) = run.at else { return None };
        // what others share would be there once for each of them
        if (log_run.index, log_run.count) != (0, run.count) || self.unreadable.contains(&id) || self.is_shared(&place) {
            return None;
        }
        let holders = holders(id, run, queues)?;
        let ours = holders.first().is_some_and(|t| t.queue == queue.id);
        ours.then_some(Candidate { member: Member { id, place, count: run.count }, run, holders })
    }

    /// Takes in what was joined before and lies in front of a stretch, where that is worth it.
    fn reach_back<'a>(&'a self, queue: &Queue, queues: &Queues, mut from: usize, stretch: &mut Stretch<'a>) {
        loop {
            let mut longer = Stretch { head: stretch.head.clone(), ..Stretch::default() };
            for k in (0..from).rev() {
                let log_run = queue.logged.get(k).filter(|r| r.first >= queue.join_from);
                let Some(before) = log_run.and_then(|r| self.candidate(queue, r, queues)) else { break };
                let run = before.run;
                if run.count >= stretch.count.saturating_mul(2) || !longer.begins_behind(&before) {
                    break;
                }
                let sums = Stretch {
                    count: stretch.count + longer.count,
                    bytes: stretch.bytes + longer.bytes,
                    ..Stretch::default()
                };
                if !sums.has_room(run) {
                    break;
                }
                longer.members.push(before.member);
                longer.count += run.count;
                longer.bytes += run.bytes;
                longer.head = Some((&run.meta, before.holders));
            }
            if longer.members.len() < AGAIN {
                return;
            }
            from -= longer.members.len();
            longer.members.reverse();
            longer.members.append(&mut stretch.members);
            longer.count += stretch.count;
            longer.bytes += stretch.bytes;
            *stretch = longer;
        }
    }

    /// The messages of some runs came back in one batch: what is still as it was is logged again, as one run where the same
    /// queues hold all of it. One that changed meanwhile parts those before it from those behind it and keeps nobody apart else.
    pub(crate) fn join_stored(&mut self, members: &[Member], batch: &Arc<Batch>, queues: &mut Queues) {
        let mut from = 0;
        let mut side: Option<Side> = None;
        for member in members {
            let run = self.runs.get(member.id).filter(|run| member.is_as_planned(run));
            let held = run.and_then(|run| holders(member.id, run, queues));
            let goes_on = |(side, held): (&Side, &Cow<'_, [Target]>)| in_step(&side.targets, side.count, held);
            if !side.as_ref().zip(held.as_ref()).is_some_and(goes_on) {
                let next = held.map(|held| Side { targets: held.into_owned(), from, count: 0, members: Vec::new() });
                if let Some(side) = std::mem::replace(&mut side, next) {
                    self.write_as_one(side, batch, queues);
                }
            }
            if let Some(side) = &mut side {
                side.members.push(*member);
                side.count += member.count;
            }
            from += member.count;
        }
        if let Some(side) = side {
            self.write_as_one(side, batch, queues);
        }
    }

    /// Logs runs that came back as one.
    fn write_as_one(&mut self, side: Side, batch: &Arc<Batch>, queues: &mut Queues) {
        let Side { targets, from, count, members } = side;
        let ([head, _, ..], Some(run)) = (&*members, members.first().and_then(|m| self.runs.get(m.id))) else { return };
        let targets = Targets::from(targets);
        let meta = run.meta.clone();
        let counts: Vec<(EnqueueId, u32)> = members.iter().map(|m| (m.id, m.count)).collect();
        if !self.stand_side_by_side(&targets, &counts, queues) || from + count > batch.len() {
            return;
        }
        debug_assert_eq!(counts.first().map(|c| c.0), Some(head.id));
        self.last_enqueue = self.last_enqueue.next();
        let id = self.last_enqueue;
        let mut bytes = 0;
        for member in &members {
            let Some(run) = self.runs.remove(member.id) else { continue };
            bytes += run.bytes;
            self.copied_next.push((member.place, run.live_bytes()));
        }
        for target in targets.iter() {
            if let Some(queue) = queues.get_mut(&target.queue) {
                let run = LogRun::new(target.first_seq, count, id, 0);
                self.repeat_counters(queue, &run);
                queue.join_log_runs(target.first_seq, counts.len(), run);
            }
        }
        let span = Span { batch: Arc::clone(batch), from, count, step: 1 };
        let at = At::Pending(Box::new(Pending { span, settled: Vec::new(), publisher: None, copy: true }));
        let live = count.saturating_mul(targets.len() as u32);
        self.runs.push(id, LoggedRun { live, count, bytes, at, meta, targets });
        self.pending.push(PendingOp::Run(id));
        self.pending_bytes += bytes;
        self.pending_live += 1;
        self.touch();
    }

    /// Whether each of the queues holds these runs as they were logged, one beside the other.
    fn stand_side_by_side(&self, targets: &[Target], runs: &[(EnqueueId, u32)], queues: &Queues) -> bool {
        let intact = |t: &Target| queues.get(&t.queue).is_some_and(|q| q.holds_whole_runs(t.first_seq, runs));
        targets.iter().all(intact)
    }

    /// Some runs are not to be joined now: their queues are looked at again.
    pub(crate) fn join_later(&mut self, members: &[Member], queues: &mut Queues) {
        let Some(first) = members.iter().find_map(|m| self.runs.get(m.id)) else { return };
        for target in first.targets.iter() {
            let Some(queue) = queues.get_mut(&target.queue) else { continue };
            queue.joined_upto = queue.joined_upto.min(target.first_seq);
            if !std::mem::replace(&mut queue.crowded, true) {
                self.crowded.push_back(queue.id);
            }
        }
    }

    /// Some runs can't be read as one. When one of them has left its place since that was planned, it is what is missing: the
    /// others are planned anew, which can't go on for ever, for each time there are fewer. Else all stay as they are.
    pub(crate) fn leave_apart(&mut self, members: &[Member], queues: &mut Queues) {
        let is_there = |m: &Member| self.runs.get(m.id).is_some_and(|run| m.is_at_its_place(run));
        if !members.iter().all(is_there) {
            return self.join_later(members, queues);
        }
        let Some(last) = members.iter().rev().find_map(|m| self.runs.get(m.id)) else { return };
        for target in last.targets.iter() {
            if let Some(queue) = queues.get_mut(&target.queue) {
                queue.join_from = queue.join_from.max(target.first_seq + Seq::from(last.count));
            }
        }
    }

    /// Joins runs of a group that went to the same queues at consecutive seqs, so that a queue filled message by message, or
    /// read by read, costs what one filled at once does. Enqueues may move ahead of other operations of the group: those on the
    /// same queue concern older seqs. Runs that hold the same messages, for queues that differ in deadline or priority limit, are
    /// joined with those of the next ones all or not at all: only then they hold the same again and are on disk once.
    pub(super) fn join_runs(&mut self, ops: &mut Vec<StoreOp>, queues: &mut Queues) {
        // by their first queue, the run that may grow
        let mut open: Map<QueueId, Joined> = Map::default();
        let mut closed: Vec<Joined> = Vec::new();
        let mut rest = 0;
        while let Some(op) = ops.get(rest) {
            let at = rest;
            rest += 1;
            let StoreOp::Enqueue(e) = op else { continue };
            let Some(first) = e.targets.first() else { continue };
            let same = |op: &&StoreOp| matches!(op, StoreOp::Enqueue(next) if next.span.is_same(&e.span));
            let copies = 1 + ops.iter().skip(rest).take_while(same).count();
            rest = at + copies;
            // as it was counted when it came: its messages were read on another core, and looking at each again is most of a group
            let Some(bytes) = self.runs.get(e.id).map(|run| run.bytes) else { continue };
            let whole = |op: &StoreOp| {
                let StoreOp::Enqueue(e) = op else { return false };
                self.runs.get(e.id).is_some_and(|run| run.live == run.copies())
            };
            let all_whole = ops.get(at..rest).is_some_and(|same| same.iter().all(whole));
            if !all_whole || bytes > JOINED_BYTES / 2 || e.span.step != 1 {
                closed.extend(open.remove(&first.queue));
                continue;
            }
            if let Some(joined) = open.get_mut(&first.queue)
                && joined.bytes + bytes <= JOINED_BYTES
                && joined.count + e.span.count <= JOINED_MESSAGES
                && joined.copies == copies
                && (0..copies).all(|k| follows(ops.get(joined.head + k), joined.count, ops.get(at + k)))
            {
                joined.behind.push(at);
                joined.count += e.span.count;
                joined.bytes += bytes;
                continue;
            }
            let fresh = Joined { head: at, copies, behind: Vec::new(), count: e.span.count, bytes };
            closed.extend(open.insert(first.queue, fresh));
        }
        closed.extend(open.into_values());
        closed.retain(|j| !j.behind.is_empty());
        if closed.is_empty() {
            return;
        }
        let mut gone = vec![false; ops.len()];
        for joined in closed {
            let all_stand = (0..joined.copies).all(|copy| self.may_join(&joined.members(copy, ops), queues));
            for copy in (0..joined.copies).filter(|_| all_stand) {
                self.join(&joined, copy, ops, &mut gone, queues);
            }
        }
        let mut gone = gone.into_iter();
        ops.retain(|_| !gone.next().unwrap_or(false));
    }

    /// Whether each queue still holds some runs as they were enqueued, one beside the other.
    fn may_join(&self, members: &[&Enqueue], queues: &Queues) -> bool {
        let counts: Vec<(EnqueueId, u32)> = members.iter().map(|m| (m.id, m.span.count)).collect();
        members.first().is_some_and(|head| self.stand_side_by_side(&head.targets, &counts, queues))
    }

    fn join(&mut self, joined: &Joined, copy: usize, ops: &mut [StoreOp], gone: &mut [bool], queues: &mut Queues) {
        let members: Vec<Enqueue> = joined.members(copy, ops).into_iter().cloned().collect();
        let Some(head) = members.first() else { return };
        for target in &head.targets {
            if let Some(queue) = queues.get_mut(&target.queue) {
                let run = LogRun::new(target.first_seq, joined.count, head.id, 0);
                queue.join_log_runs(target.first_seq, members.len(), run);
            }
        }
        // one publisher's tags in a row, or nobody is told early
        let of = |run: Option<&mut LoggedRun>| run.and_then(|r| r.publisher().and_then(|p| *p));
        let mut publisher = of(self.runs.get_mut(head.id));
        let mut count = u64::from(head.span.count);
        for member in members.iter().skip(1) {
            let own = of(self.runs.remove(member.id).as_mut());
            let same = own.zip(publisher).is_some_and(|(own, p)| p.goes_on_with(count, own));
            count += u64::from(member.span.count);
            if !same {
                publisher = None;
            }
        }
        if let Some(run) = self.runs.get_mut(head.id) {
            run.live = joined.count.saturating_mul(head.targets.len() as u32);
            run.count = joined.count;
            run.bytes = joined.bytes;
            run.publisher().into_iter().for_each(|p| *p = publisher);
        }
        let mut more: Vec<Span> = members.iter().skip(1).map(|m| m.span.clone()).collect();
        for at in &joined.behind {
            gone.get_mut(*at + copy).into_iter().for_each(|g| *g = true);
        }
        if let Some(StoreOp::Enqueue(e)) = ops.get_mut(joined.head + copy) {
            e.more.append(&mut more);
        }
    }
}

/// Runs of a group that become one: their indexes among its ops, messages and octets. Where several hold the same messages, those
/// of the first of them; the others follow each.
#[derive(Debug)]
struct Joined {
    head: usize,
    /// How many hold the same.
    copies: usize,
    behind: Vec<usize>,
    count: u32,
    bytes: u64,
}

impl Joined {
    /// The first, second … of those that hold the same.
    fn members<'a>(&self, copy: usize, ops: &'a [StoreOp]) -> Vec<&'a Enqueue> {
        let all = std::iter::once(&self.head).chain(&self.behind);
        let member = |at: &usize| match ops.get(at + copy) {
            Some(StoreOp::Enqueue(e)) => Some(e),
            _ => None,
        };
        all.filter_map(member).collect()
    }
}

/// Whether `next` continues `head`, which has grown to `count` messages, in every queue.
fn follows(head: Option<&StoreOp>, count: u32, next: Option<&StoreOp>) -> bool {
    let (Some(StoreOp::Enqueue(head)), Some(StoreOp::Enqueue(next))) = (head, next) else { return false };
    head.meta == next.meta && in_step(&head.targets, count, &next.targets)
}

/// The queues that hold all of a run, if none holds a part of it: one may have taken its copies before the others.
fn holders<'a>(id: EnqueueId, run: &'a LoggedRun, queues: &Queues) -> Option<Cow<'a, [Target]>> {
    if run.live == run.copies() {
        return Some(Cow::Borrowed(&run.targets));
    }
    let whole = [(id, run.count)];
    let holds = |t: &&Target| queues.get(&t.queue).is_some_and(|q| q.holds_whole_runs(t.first_seq, &whole));
    let left: Vec<Target> = run.targets.iter().filter(holds).copied().collect();
    (!left.is_empty() && run.live == run.count.saturating_mul(left.len() as u32)).then_some(Cow::Owned(left))
}

/// Whether the second targets are those of messages that follow `count` others to the first ones.
fn in_step(head: &[Target], count: u32, next: &[Target]) -> bool {
    let follows = |(a, b): (&Target, &Target)| a.queue == b.queue && a.first_seq + Seq::from(count) == b.first_seq;
    head.len() == next.len() && head.iter().zip(next).all(follows)
}
