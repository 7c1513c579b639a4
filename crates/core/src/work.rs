//! Work that grows with the length of a queue: purging or deleting millions of messages, letting them expire or fall out
//! by a lowered limit, settling or returning a million outstanding deliveries. And what grows with the number of queues:
//! policies that change, and memory that runs out. And transactions, which may be both.
//!
//! Such work is begun at once and, when it is more than a command may do ([`Limits::slice_units`]), goes on in slices, one
//! at the end of each turn, so that nobody else waits for it. What a client is told and what reaches the disk does not
//! depend on where it is cut:
//!
//! - A purge and a deletion are one operation in the log, counters fall and the client is answered at once; what follows
//!   is bookkeeping about messages that nobody can see any more.
//! - Deliveries that are settled or returned have left their channel. Until a slice comes to them they are outstanding:
//!   after a crash they come back, as they would have if the command had come a moment later.
//! - What their connection says next waits until all are settled ([`Shard::is_settling`]), and so does the reply to what
//!   settled them: commands of a channel have their effects one after the other.
//! - A queue to which messages return hands out nothing until all are at their old positions, and one from whose head
//!   messages must go hands out nothing until they are gone.
//! - What dies in a slice and what that puts into other queues share a commit.
//!
//! Slices are counted in units of work, never in time: the same calls cut in the same places.
//!
//! [`Limits::slice_units`]: hornpipe_types::limits::Limits::slice_units

use crate::channel::unacked::{Taken, Unacked};
use crate::chunked::Chunked;
use crate::committing::Committing;
use crate::dead_letter::Reason;
use crate::depart::{Abandoning, Leaving, Razing};
use crate::log::Left;
use crate::paging::PageOut;
use crate::queue::ready::Segment;
use crate::queue::{Queue, kept_books};
use crate::settle::Back;
use crate::shard::Shard;
use crate::spread::Spreading;
use hornpipe_types::args::QueueKind;
use hornpipe_types::definition::DefinitionKey;
use hornpipe_types::effect::ConnectionEffect;
use hornpipe_types::ids::{CommitSeq, ConnectionId, EnqueueId, QueueId, Seq};
use hornpipe_types::op::StoreOp;
use hornpipe_types::range::{SeqRange, SeqSet, in_order};
use hornpipe_types::time::Now;
use std::collections::BTreeSet;

/// Units a message costs that is dead-lettered: its header is read and written anew.
pub(crate) const DEATH_UNITS: u32 = 16;
/// Messages whose marking in a bit map costs about a unit.
const BITS_PER_UNIT: u32 = 64;

/// How deliveries end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Taken by the client.
    Acked,
    /// Back to their queues.
    Returned(Back),
    /// Rejected for good.
    Discarded,
}

/// Something that is left to do.
#[derive(Debug)]
pub(crate) enum Work {
    /// Messages at a queue's head expired, or are too many.
    Trim(QueueId),
    /// Messages were purged; the log knows, for runs up to `mark`.
    Purged { queue: QueueId, mark: EnqueueId, segments: Vec<Chunked<Segment>> },
    /// A queue was deleted, and what stays of it is to be dead-lettered; the log knows, for runs up to `mark`. Those below
    /// `next` have been looked at.
    Emptied { queue: QueueId, mark: EnqueueId, stay: SeqSet, next: Seq },
    /// A queue is gone; the log knows, for runs up to `mark`.
    Dropped { queue: Box<Queue>, mark: EnqueueId },
    /// Deliveries end.
    Settle(Box<Settling>),
    /// Messages that a delayed exchange held are due.
    Release(QueueId),
    /// Policies of a vhost changed, which queues up to `after` know.
    Policies { vhost: usize, after: QueueId },
    /// Bodies leave memory, and what keeps more of it than them.
    PageOut(Box<PageOut>),
    /// Messages are put into many queues.
    Spread(Box<Spreading>),
    /// A transaction is committed.
    Commit(Box<Committing>),
    /// An exchange is deleted.
    Leave(Box<Leaving>),
    /// A queue is deleted.
    Abandon(Box<Abandoning>),
    /// A vhost is deleted.
    Raze(Box<Razing>),
    /// A connection ended, and with it its exclusive queues.
    Bereave { owner: ConnectionId, queues: BTreeSet<QueueId> },
}

impl Work {
    /// The connection whose next commands wait for it.
    fn waits(&self) -> Option<ConnectionId> {
        match self {
            Self::Settle(settling) => Some(settling.from),
            Self::Spread(left) => Some(left.from),
            Self::Commit(committing) => Some(committing.from),
            Self::Leave(leaving) => Some(leaving.from),
            Self::Abandon(abandoning) => Some(abandoning.from),
            Self::Bereave { owner, .. } => Some(*owner),
            _ => None,
        }
    }

    /// Deliveries that left their channel with it.
    pub(crate) fn settlings(&self) -> &[Settling] {
        match self {
            Self::Settle(settling) => std::slice::from_ref(settling),
            Self::Commit(committing) => &committing.settlings,
            _ => &[],
        }
    }

    pub(crate) fn settlings_mut(&mut self) -> &mut [Settling] {
        match self {
            Self::Settle(settling) => std::slice::from_mut(settling),
            Self::Commit(committing) => &mut committing.settlings,
            _ => &mut [],
        }
    }
}

/// Deliveries that left their channel and are being settled.
#[derive(Debug)]
pub(crate) struct Settling {
    /// The connection they were made to.
    from: ConnectionId,
    /// The channel, while it is open: it gets credit back.
    channel: Option<u16>,
    pub(crate) ending: Ending,
    pub(crate) taken: Taken,
    /// Purges with a higher stamp take what is returned, too.
    stamp: u64,
    /// Queues that wait for it.
    pub(crate) holds: Vec<QueueId>,
    /// It is part of a transaction.
    pub(crate) in_tx: bool,
}

impl Settling {
    /// Deliveries that left an open channel.
    pub(crate) fn new((from, number): (ConnectionId, u16), ending: Ending, taken: Taken, stamp: u64) -> Self {
        Self { from, channel: Some(number), ending, taken, stamp, holds: Vec::new(), in_tx: false }
    }
}

/// What a connection waits for.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    /// Listed works about its deliveries.
    works: u32,
    /// What it is told when they are done.
    effects: Vec<ConnectionEffect>,
}

impl Shard {
    /// A command begins, or what is like one: it has an allowance of its own.
    pub(crate) fn allow(&mut self) {
        self.spent = self.done();
        self.units = self.limits.slice_units;
    }

    /// Takes units off the allowance.
    pub(crate) fn spend(&mut self, units: u32) {
        self.units = self.units.saturating_sub(units);
    }

    /// Begins a work: what the allowance permits is done now, the rest is listed.
    pub(crate) fn begin_work(&mut self, now: Now, mut work: Work) {
        if self.step(now, &mut work) {
            if let Work::Leave(leaving) = &work {
                self.left(leaving);
            }
            return;
        }
        if let Some(from) = work.waits() {
            self.unsettled.entry(from).or_default().works += 1;
        }
        self.hold_for(work.settlings_mut());
        if let Work::Emptied { queue, .. } = &work
            && let Some(queue) = self.queues.get_mut(queue)
        {
            queue.returning += 1;
        }
        self.work.push_back(work);
    }

    /// What is settled goes on some other time: queues to which it returns messages wait for it.
    pub(crate) fn hold_for(&mut self, settlings: &mut [Settling]) {
        for settling in settlings {
            if settling.holds.is_empty() && matches!(settling.ending, Ending::Returned(_)) {
                settling.holds = settling.taken.queues();
                for id in &settling.holds {
                    if let Some(queue) = self.queues.get_mut(id) {
                        queue.returning += 1;
                    }
                }
            }
        }
    }

    /// Whether the log has so much to write that more is not made for it.
    fn log_is_full(&self) -> bool {
        self.store_is_full() || self.log.pending_ops() > self.limits.pending_copies
    }

    /// Whether purged messages still look alive in their runs. Written again, they would stand behind the purge in the log and
    /// outlive it.
    pub(crate) fn is_burying(&self) -> bool {
        self.work.iter().any(|w| matches!(w, Work::Purged { .. } | Work::Emptied { .. }))
    }

    /// Whether a slice of listed work can be done now.
    pub(crate) fn can_work(&self) -> bool {
        !self.work.is_empty() && !self.log_is_full()
    }

    /// Units of work done in this turn.
    pub(crate) fn done(&self) -> u32 {
        self.spent.saturating_add(self.limits.slice_units.saturating_sub(self.units))
    }

    /// Does a slice of what is listed, as much as the turn has left. Works take turns.
    pub(crate) fn work_slice(&mut self, now: Now) {
        // some in any case: traffic without end must not keep what is listed from being done
        let least = (self.limits.slice_units / 4).max(1);
        let left = self.limits.slice_units.saturating_sub(self.done()).max(least);
        self.allow();
        self.units = left;
        for _ in 0..self.work.len() {
            if self.units == 0 || self.log_is_full() {
                return;
            }
            let Some(work) = self.work.pop_front() else { return };
            let aside = matches!(work, Work::PageOut(_)) && !self.memory_alarm;
            let units = self.units;
            if aside {
                // beside the others: what trims a queue must keep up with those who fill it
                self.units = least;
            }
            self.go_on_with(now, work);
            if aside {
                self.units = units;
            }
        }
    }

    /// Does as much of a listed work as the allowance permits.
    pub(crate) fn go_on_with(&mut self, now: Now, mut work: Work) {
        self.log.begin_command();
        if self.step(now, &mut work) {
            self.end_work(now, work);
        } else {
            self.work.push_back(work);
        }
        self.work_off_deaths(now);
    }

    /// Does all that a connection waits for.
    pub(crate) fn finish_settling(&mut self, now: Now, id: ConnectionId) {
        for _ in 0..self.work.len() {
            let Some(work) = self.work.pop_front() else { return };
            if work.waits() == Some(id) {
                self.units = u32::MAX;
                self.go_on_with(now, work);
            } else {
                self.work.push_back(work);
            }
        }
        self.units = self.limits.slice_units;
    }

    /// Does all that is listed: the broker stops.
    pub(crate) fn finish_work(&mut self, now: Now) {
        while let Some(mut work) = self.work.pop_front() {
            self.log.begin_command();
            self.units = u32::MAX;
            // what is left over at a queue's head is found there again
            if !matches!(work, Work::Trim(_) | Work::PageOut(_)) && self.step(now, &mut work) {
                self.end_work(now, work);
            }
            self.work_off_deaths(now);
        }
        self.units = self.limits.slice_units;
    }

    fn end_work(&mut self, now: Now, work: Work) {
        match work {
            Work::Trim(id) => self.serve(now, id),
            Work::Settle(settling) => {
                settling.holds.into_iter().for_each(|id| self.release_hold(id));
                self.settled_more(settling.from);
            }
            Work::Emptied { queue, .. } => self.release_hold(queue),
            Work::Release(id) => self.released(id),
            Work::Spread(left) => self.settled_more(left.from),
            Work::Commit(committing) => self.settled_more(committing.from),
            Work::Bereave { owner, .. } => self.settled_more(owner),
            Work::Abandon(abandoning) => self.settled_more(abandoning.from),
            Work::Leave(leaving) => {
                self.left(&leaving);
                self.settled_more(leaving.from);
            }
            Work::Purged { .. } | Work::Dropped { .. } | Work::Policies { .. } | Work::PageOut(_) | Work::Raze(_) => {}
        }
    }

    /// A queue need not wait for a work any more.
    pub(crate) fn release_hold(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.returning -= 1;
            self.mark_dirty(id);
        }
    }

    /// Goes on with a work as far as the allowance reaches; whether it is done.
    fn step(&mut self, now: Now, work: &mut Work) -> bool {
        match work {
            Work::Trim(id) => self.trim(now, *id),
            Work::Purged { queue, mark, segments } => self.bury_purged(now, *queue, *mark, segments),
            Work::Emptied { queue, mark, stay, next } => self.empty_grave(now, *queue, *mark, stay, next),
            Work::Dropped { queue, mark } => self.bury_dropped(now, queue, *mark),
            Work::Settle(settling) => self.settle_some(now, settling),
            Work::Release(id) => self.release_due(now, *id),
            Work::Policies { vhost, after } => self.apply_to_some(now, *vhost, after),
            Work::PageOut(out) => self.page_out_some(out),
            Work::Spread(left) => self.spread_some(now, left),
            Work::Commit(committing) => self.commit_some(now, committing),
            Work::Leave(leaving) => self.leave_some(leaving),
            Work::Abandon(abandoning) => self.abandon_some(now, abandoning),
            Work::Raze(razing) => self.raze_some(now, razing),
            Work::Bereave { queues, .. } => self.bereave_some(now, queues),
        }
    }

    // ---- heads ------------------------------------------------------------------------------------------------------

    /// The allowance ended while messages had to leave a queue's head: they leave in slices.
    pub(crate) fn fall_behind(&mut self, id: QueueId, dropping: bool) {
        if let Some(queue) = self.queues.get_mut(&id)
            && !queue.behind
        {
            queue.behind = true;
            queue.dropping = dropping;
            self.work.push_back(Work::Trim(id));
        }
    }

    /// Whether a queue hands out nothing for now.
    pub(crate) fn is_held_up(&self, id: QueueId) -> bool {
        self.queues.get(&id).is_some_and(|q| q.is_held_up())
    }

    fn trim(&mut self, now: Now, id: QueueId) -> bool {
        let Some(queue) = self.queues.get_mut(&id) else { return true };
        // until it falls behind again, which would list it anew
        let listed = self.work.len();
        queue.behind = false;
        // where it stopped: what was too much stays too much, even if it has expired since, and what is behind the expired
        // may still be handed out before the length counts
        if std::mem::take(&mut queue.dropping) {
            self.enforce_length(now, id);
        } else {
            self.expire_head(now, id, now.wall.0);
        }
        if self.queues.get(&id).is_some_and(|q| q.behind) {
            self.work.truncate(listed);
            return false;
        }
        true
    }

    /// How many messages of the segment at a queue's head the allowance reaches for, which is spent on them.
    pub(crate) fn afford_head(&mut self, id: QueueId, level: usize, dead_lettered: bool, most: u32) -> u32 {
        let units = self.units;
        let Some(queue) = self.queues.get(&id) else { return most };
        let Some(head) = queue.levels.get(level).and_then(|l| l.front()) else { return most };
        let most = most.min(head.count);
        let (n, spent) = if dead_lettered {
            let n = most.min((units / DEATH_UNITS).max(1));
            (n, n.saturating_mul(DEATH_UNITS))
        } else if head.logged {
            queue.within(head.first, most, units)
        } else {
            (most, 1)
        };
        self.spend(spent);
        n
    }

    // ---- purge and delete -------------------------------------------------------------------------------------------

    /// Takes all ready messages of a queue away.
    pub(crate) fn purge_ready(&mut self, now: Now, id: QueueId) {
        self.stamp += 1;
        let stamp = self.stamp;
        let Some(queue) = self.queues.get_mut(&id) else { return };
        queue.purged = stamp;
        self.resident -= queue.resident.min(self.resident);
        (queue.ready, queue.ready_bytes, queue.resident) = (0, 0, 0);
        let segments: Vec<Chunked<Segment>> = queue.levels.iter_mut().map(|level| level.take_all()).collect();
        let count: usize = segments.iter().map(Chunked::len).sum();
        // what is on its way back is purged with the rest, and must not be there after a crash either
        let known =
            !queue.logged.is_empty() && (queue.returning > 0 || count + queue.logged.len() > self.units as usize);
        let mut mark = EnqueueId::default();
        if known {
            mark = self.log.last_enqueue();
            let except = self.outstanding(id);
            let upto = self.queues.get(&id).map_or(0, |q| q.next_seq - 1);
            self.log.op(StoreOp::Purge { queue: id, upto, except });
        }
        self.begin_work(now, Work::Purged { queue: id, mark, segments });
    }

    /// Seqs of a queue's messages that are not ready and yet not gone, in order.
    fn outstanding(&self, id: QueueId) -> Vec<SeqRange> {
        if self.queues.get(&id).is_none_or(|q| q.unacked == 0 && q.dying.is_empty() && q.held_back.is_empty()) {
            return Vec::new();
        }
        let mut found: Vec<SeqRange> = Vec::new();
        // what died and waits for its body has not got where it goes; what is held back is not purged
        if let Some(queue) = self.queues.get(&id) {
            found.extend(queue.dying.iter().map(|d| d.range));
            found.extend(queue.held_back.values().map(|(_, s)| SeqRange::dense(s.first, s.count)));
        }
        for channel in self.connections.values().flat_map(|c| c.channels.values()) {
            channel.unacked.ranges_of(id, &mut found);
            for (_, taken) in channel.tx.iter().flat_map(|tx| &tx.settles) {
                taken.ranges_of(id, &mut found);
            }
        }
        for settling in self.work.iter().flat_map(Work::settlings) {
            if !matches!(settling.ending, Ending::Returned(_)) {
                settling.taken.ranges_of(id, &mut found);
            }
        }
        in_order(found)
    }

    fn bury_purged(&mut self, now: Now, id: QueueId, mark: EnqueueId, segments: &mut Vec<Chunked<Segment>>) -> bool {
        let delay = self.limits.settle_delay_ms;
        let left = if mark == EnqueueId::default() { Left::Otherwise } else { Left::Known(mark) };
        while let Some(level) = segments.last_mut() {
            let Some(mut segment) = level.pop_front() else {
                segments.pop();
                continue;
            };
            if self.units == 0 {
                level.push_front(segment);
                return false;
            }
            let units = self.units;
            let Some(queue) = kept_books(&mut self.queues, id).filter(|_| segment.logged) else {
                self.spend(1);
                continue;
            };
            let (n, spent) = queue.within(segment.first, segment.count, units);
            if n < segment.count {
                let rest = segment;
                segment = Segment { count: n, batch: None, ..rest };
                let mut rest = rest;
                rest.split_front(n);
                level.push_front(rest);
            }
            self.log.settle(now, delay, queue, SeqRange::dense(segment.first, n), left, &mut self.early);
            self.spend(spent);
        }
        true
    }

    /// A queue is no more, on disk neither: what is left of it goes.
    pub(crate) fn drop_queue(&mut self, now: Now, queue: Box<Queue>) -> Option<CommitSeq> {
        self.queue_order.remove(queue.id);
        self.forget_holder(&queue);
        queue.dying.iter().for_each(|dying| dying.reason.count(&mut self.totals, dying.range.count));
        let commit = queue.is_logged().then(|| {
            self.log.op(StoreOp::DropQueue(queue.id));
            let (vhost, name) = (queue.definition.vhost.clone(), queue.definition.name.clone());
            self.log.op(StoreOp::Delete(DefinitionKey::Queue { vhost, name }))
        });
        let mark = self.log.last_enqueue();
        self.begin_work(now, Work::Dropped { queue, mark });
        commit
    }

    fn bury_dropped(&mut self, now: Now, queue: &mut Queue, mark: EnqueueId) -> bool {
        let delay = self.limits.settle_delay_ms;
        // only what is live: a copy counted off twice would take those of other queues from the disk
        while let Some(run) = queue.logged.front() {
            if self.units == 0 {
                return false;
            }
            let stretches = if run.live > 0 { run.stretches() } else { Vec::new() };
            self.spend(stretches.len() as u32 + 1);
            for (first, count, _) in stretches {
                let range = SeqRange::dense(first, count);
                self.log.settle(now, delay, queue, range, Left::Known(mark), &mut self.early);
            }
            queue.drop_dead_runs(0);
        }
        while let Some(level) = queue.levels.last_mut() {
            while !level.is_empty() {
                if self.units == 0 {
                    return false;
                }
                level.take_front(u32::MAX);
                self.spend(1);
            }
            queue.levels.pop();
        }
        while queue.delayed.as_mut().is_some_and(|held| held.forget_first()) {
            if self.units == 0 {
                return false;
            }
            self.spend(1);
        }
        true
    }

    // ---- delayed messages -------------------------------------------------------------------------------------------

    /// Releases what a delayed exchange held and is due.
    pub(crate) fn begin_release(&mut self, now: Now, id: QueueId) {
        if self.release_due(now, id) {
            self.released(id);
        } else {
            self.work.push_back(Work::Release(id));
        }
    }

    // ---- deliveries -------------------------------------------------------------------------------------------------

    /// Whether deliveries made to a connection are being settled in slices: what it says meanwhile is to wait.
    pub fn is_settling(&self, id: ConnectionId) -> bool {
        !self.unsettled.is_empty() && self.unsettled.contains_key(&id)
    }

    /// Tells a connection something once none of its deliveries are being settled.
    pub(crate) fn tell_settled(&mut self, id: ConnectionId, effect: ConnectionEffect) {
        if let Some(unsettled) = self.unsettled.get_mut(&id) {
            unsettled.effects.push(effect);
            return;
        }
        match effect {
            ConnectionEffect::Channel(number, effect) => self.reply(id, number, effect, None),
            last => self.last_effect(id, last),
        }
    }

    /// A work about a connection's deliveries is done.
    fn settled_more(&mut self, id: ConnectionId) {
        let Some(unsettled) = self.unsettled.get_mut(&id) else { return };
        unsettled.works -= 1;
        if unsettled.works == 0
            && let Some(unsettled) = self.unsettled.remove(&id)
        {
            unsettled.effects.into_iter().for_each(|effect| self.tell_settled(id, effect));
        }
    }

    /// Settles deliveries that were taken off a channel; `open`: it gets credit back.
    pub(crate) fn settle_taken(
        &mut self,
        now: Now,
        (from, number): (ConnectionId, u16),
        open: bool,
        ending: Ending,
        taken: Taken,
    ) {
        if taken.is_empty() {
            return;
        }
        self.stamp += 1;
        let stamp = self.stamp;
        let mut settling = Settling::new((from, number), ending, taken, stamp);
        settling.channel = settling.channel.filter(|_| open);
        self.begin_work(now, Work::Settle(Box::new(settling)));
    }

    /// A channel is gone: what is left of its deliveries gives it nothing back.
    pub(crate) fn forget_channel(&mut self, channel: (ConnectionId, u16)) {
        for settling in self.work.iter_mut().flat_map(Work::settlings_mut) {
            if (settling.from, settling.channel) == (channel.0, Some(channel.1)) {
                settling.channel = None;
            }
        }
    }

    /// Settles deliveries as far as the allowance reaches; whether that was all of them.
    pub(crate) fn settle_some(&mut self, now: Now, settling: &mut Settling) -> bool {
        let mut returned = crate::settle::Returning::default();
        let channel = settling.channel.map(|number| (settling.from, number));
        // what is published beside it may not be on disk yet: a crash must not find neither, and the publisher told
        let left = if settling.in_tx { Left::Otherwise } else { Left::Taken };
        while self.units > 0
            && let Some(run) = settling.taken.peek()
        {
            let each = self.units_of_each(run, settling.ending);
            let most = self.units.checked_div(each).map_or(u32::MAX, |n| n.max(1));
            let Some(run) = settling.taken.next(most) else { break };
            self.spend(1 + run.count.saturating_mul(each) + run.count / BITS_PER_UNIT);
            let queue = self.queues.get(&run.queue);
            let purged = queue.is_some_and(|q| q.purged > settling.stamp);
            // what was rejected before its queue was deleted is among what stayed, all else has left with it
            let gone = queue.is_none_or(|q| q.is_grave() && !purged);
            self.release_credit(channel, &run);
            match settling.ending {
                Ending::Acked => self.on_acked(now, channel, &run, left),
                Ending::Discarded if gone => Reason::Rejected.count(&mut self.totals, run.count),
                Ending::Discarded => self.discard(now, &run, Reason::Rejected),
                Ending::Returned(_) if purged => self.settle_gone(now, &run),
                Ending::Returned(back) => self.take_back(now, &run, back, &mut returned),
            }
        }
        self.put_back(now, returned);
        settling.taken.is_empty()
    }

    /// What each message of a run costs, beyond what the run does.
    fn units_of_each(&self, run: &Unacked, ending: Ending) -> u32 {
        if ending == Ending::Discarded {
            return DEATH_UNITS;
        }
        let Some(queue) = self.queues.get(&run.queue) else { return 0 };
        match ending {
            Ending::Acked | Ending::Discarded => 0,
            // a segment of its own, or counters of its own on disk
            Ending::Returned(_) if run.step > 1 || queue.args.kind == QueueKind::Quorum => 1,
            Ending::Returned(_) => 0,
        }
    }
}
