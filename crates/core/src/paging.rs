//! Which bodies stay in memory. What is in the log can leave it and is read again when it is wanted.
//!
//! One budget (`resident_bytes`) serves all queues, for bodies and what is kept beside them: of small messages less stays. Above it a queue keeps its head at most, and a smaller one the more queues
//! hold something; queues nobody serves give up what they have, in turn. Deliveries that wait for their acknowledgement keep
//! their bodies only while there is room: they are needed again only when a message comes back. Where they may be dead-lettered
//! they stay, so that a rejected message is in the next queue at once.

use crate::chunked::At;
use crate::dead_letter::{Death, Grave};
use crate::log::Left;
use crate::queue::{Dying, Queue};
use crate::shard::Shard;
use crate::thinning::Look;
use crate::work::Work;
use hornpipe_types::gauge::BatchGauge;
use hornpipe_types::ids::{ConnectionId, QueueId, Seq, Tag};
use hornpipe_types::message::{Batch, Span};
use hornpipe_types::range::SeqRange;
use hornpipe_types::time::Now;
use std::collections::VecDeque;
use std::sync::Arc;

/// Queues that hold bodies, and channels that may hold too many.
#[derive(Debug)]
pub(crate) struct Paging {
    /// Octets of bodies that may be in memory: what `resident_bytes` leaves when the books of messages of the size that comes
    /// in are counted.
    room: u64,
    /// Messages that came in, octets of their bodies, and octets kept beside them; halved now and then.
    came: (u64, u64, u64),
    /// Queues that had bodies in memory when they were last served, the longest unseen first.
    holders: VecDeque<QueueId>,
    /// How many of them are no more.
    gone: usize,
    /// Channels with many deliveries that keep their bodies.
    crowded: Vec<(ConnectionId, u16)>,
    /// What all batches keep in memory that came in or were made here.
    batches: BatchGauge,
    /// So much of it is worth a look for waste.
    batches_next: u64,
    /// Looks for it so far.
    round: u32,
}

/// What a message takes in memory beside its body, octets, at least and about.
const BESIDE: u64 = 128;
/// Messages after which those that came before count half.
const CAME_MAX: u64 = 1 << 16;

/// What is done on a walk over all that holds bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Memory has run out: those that are on disk leave it.
    Forget,
    /// Batches learn how much of them is wanted.
    Want,
    /// What is wanted of those that are mostly waste is copied.
    Copy,
}

/// How far it has come.
#[derive(Debug)]
pub(crate) struct PageOut {
    pub(crate) stage: Stage,
    pub(crate) round: u32,
    /// Channels whose deliveries are to be looked at, and from which tag on those of the last.
    unacked: Vec<(ConnectionId, u16)>,
    tag: Tag,
    /// Queues up to this one have been.
    after: QueueId,
    /// Where it is in the one after it: which list, and place or key there. What is consumed meanwhile moves others past that
    /// place; they stay as they are.
    pub(crate) list: usize,
    pub(crate) at: Option<At>,
    pub(crate) key: Option<(u64, Seq)>,
}

impl Paging {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            room: limit,
            came: (0, 0, 0),
            holders: VecDeque::new(),
            gone: 0,
            crowded: Vec::new(),
            batches: BatchGauge::default(),
            batches_next: 0,
            round: 0,
        }
    }
    /// Counts what batches keep in memory.
    pub(crate) fn batches(&self) -> &BatchGauge {
        &self.batches
    }
    /// What they keep when it is much more than it was; else nothing.
    pub(crate) fn batches_grew(&mut self) -> u64 {
        let held = self.batches.octets();
        let grew = held >= self.batches_next;
        // where much has gone, what comes is waste sooner
        self.batches_next = self.batches_next.min(2 * held);
        if grew { held } else { 0 }
    }
    /// Messages came in, with so many octets of bodies.
    pub(crate) fn note(&mut self, span: &Span, bytes: u64) {
        span.batch.count_in(&self.batches);
        let count = u64::from(span.count);
        // a batch that was taken over from a read holds more than its messages
        let held = span.batch.resident_bytes() as u64 * count / u64::from(span.batch.len().max(1));
        let beside = held.saturating_sub(bytes).max(count * BESIDE);
        self.came = (self.came.0 + count, self.came.1 + bytes, self.came.2 + beside);
    }
    /// A channel may have too many deliveries that keep their bodies.
    pub(crate) fn note_crowded(&mut self, channel: (ConnectionId, u16)) {
        if self.crowded.last() != Some(&channel) {
            self.crowded.push(channel);
        }
    }
    /// A queue that stood in the list is no more. Takes such ones off the list as they come, so that it doesn't grow with all
    /// queues there ever were.
    fn gone(&mut self, lives: impl Fn(QueueId) -> bool) {
        self.gone += 1;
        for _ in 0..2 {
            match self.holders.pop_front() {
                Some(id) if lives(id) => self.holders.push_back(id),
                Some(_) => self.gone -= 1,
                None => return,
            }
        }
    }
    /// Works out how many octets of bodies may stay of the messages there are now.
    fn measure(&mut self, limit: u64) {
        let (count, bytes, beside) = self.came;
        if count > 0 {
            let part = u128::from(limit) * u128::from(bytes) / u128::from((bytes + beside).max(1));
            self.room = (part as u64).max(limit / 16);
        }
        if count > CAME_MAX {
            self.came = (count / 2, bytes / 2, beside / 2);
        }
    }
}

/// Most queues looked at at the end of a turn when memory is short: a turn may bring something to as many.
const STEP: usize = 4096;
/// Runs of a channel's deliveries looked at in a turn.
const LOOK: usize = 4096;
/// Dead messages that wait for their bodies, looked at behind the last one whose body has come: a million may have died one by one.
/// What is further behind is read again when its turn comes.
const BEHIND: usize = 1 << 14;
/// Visits in a turn where there are fewer queues than this.
const FEW: usize = 4;
/// So many that give up nothing, one behind the other, say that the others hardly have more.
const IN_VAIN: usize = 64;

impl Shard {
    /// Forgets bodies of a queue that are on disk when memory is short.
    pub(crate) fn page_out(&mut self, id: QueueId) {
        let short = self.is_short();
        let Some(queue) = self.queues.get_mut(&id) else { return };
        // what is transient only can't leave memory
        if queue.resident > 0 && !queue.resident_listed && !queue.logged.is_empty() {
            queue.resident_listed = true;
            self.paging.holders.push_back(id);
        }
        // under an alarm nothing that is on disk stays beyond what the next deliveries need
        if !short && !self.memory_alarm {
            return;
        }
        // those nobody waits for take turns: messages that came together must leave together, else a batch stays for a few
        if queue.consumers.is_empty() && !self.memory_alarm {
            return;
        }
        let keep = self.share();
        self.page_out_to(id, keep);
    }

    /// When memory is short, queues give up what they hold, the one that kept it longest first, some at the end of each turn.
    pub(crate) fn page_out_others(&mut self) {
        self.paging.measure(self.limits.resident_bytes);
        let mut in_vain = 0;
        // a visit frees one slice only: few queues are visited more than once
        for _ in 0..STEP.min(self.paging.holders.len().max(FEW)) {
            if !self.is_short() || in_vain >= IN_VAIN {
                return;
            }
            let before = self.resident;
            let keep = self.share();
            let Some(id) = self.paging.holders.pop_front() else { return };
            self.page_out_to(id, keep);
            let Some(queue) = self.queues.get_mut(&id) else {
                self.paging.gone -= self.paging.gone.min(1);
                continue;
            };
            queue.resident_listed = queue.resident > 0 && !queue.logged.is_empty();
            if queue.resident_listed {
                self.paging.holders.push_back(id);
                in_vain = if self.resident < before { 0 } else { in_vain + 1 };
            }
        }
    }

    /// Whether more bodies are in memory than should be.
    pub(crate) fn is_short(&self) -> bool {
        self.resident > self.paging.room
    }

    /// Octets a queue with consumers may keep when memory is short.
    pub(crate) fn share(&self) -> u64 {
        let living = self.paging.holders.len().saturating_sub(self.paging.gone);
        let each = self.paging.room / (living as u64).max(1);
        self.limits.resident_bytes_per_queue.min(each)
    }

    /// A queue leaves the broker: it holds nothing any more.
    pub(crate) fn forget_holder(&mut self, queue: &Queue) {
        if queue.resident_listed {
            self.paging.gone(|id| self.queues.contains_key(&id));
        }
    }

    fn page_out_to(&mut self, id: QueueId, keep: u64) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        // nobody waits for what a queue without consumers holds
        let keep = if queue.consumers.is_empty() { 0 } else { keep };
        if queue.resident > keep && !queue.logged.is_empty() {
            let freed = queue.page_out(keep, self.limits.slice_units as usize);
            self.resident -= freed.min(self.resident);
        }
    }

    /// Memory is short: every body that is on disk leaves it, a slice at a time, and then what only waste keeps.
    pub(crate) fn page_out_all(&mut self, now: Now) {
        self.work.retain(|work| !matches!(work, Work::PageOut(_)));
        let out = self.page_out_from(Stage::Forget);
        self.begin_work(now, Work::PageOut(Box::new(out)));
    }

    /// A walk that begins with a stage.
    pub(crate) fn page_out_from(&mut self, stage: Stage) -> PageOut {
        if stage == Stage::Want {
            // a batch that was never looked at has 0
            self.paging.round = self.paging.round.wrapping_add(1).max(1);
        }
        // the longest lists come first
        let mut unacked = Vec::new();
        for (id, connection) in &self.connections {
            unacked.extend(connection.channels.keys().map(|number| (*id, *number)));
        }
        let round = self.paging.round;
        PageOut { stage, round, unacked, tag: 0, after: QueueId::default(), list: 0, at: None, key: None }
    }

    /// Goes on with it as far as the allowance reaches; whether it is done.
    pub(crate) fn page_out_some(&mut self, out: &mut PageOut) -> bool {
        loop {
            let over = out.stage == Stage::Forget && !self.memory_alarm;
            if self.units == 0 && !over {
                return false;
            }
            if !over && let Some((id, number)) = out.unacked.last().copied() {
                if self.page_out_channel(id, number, out) {
                    out.unacked.pop();
                    out.tag = 0;
                }
                continue;
            }
            let queue = self.queue_order.after(out.after).next();
            if !over && let Some(id) = queue {
                let done = if out.stage == Stage::Forget {
                    self.forget_queue(id);
                    true
                } else {
                    self.look_at_queue(id, out)
                };
                if done {
                    (out.after, out.list) = (id, 0);
                }
                continue;
            }
            let next = match out.stage {
                Stage::Forget => Stage::Want,
                Stage::Want => Stage::Copy,
                Stage::Copy => {
                    self.paging.batches_next = 2 * self.paging.batches.octets();
                    return true;
                }
            };
            *out = self.page_out_from(next);
        }
    }

    /// Goes on with a channel's deliveries; whether that is done with.
    fn page_out_channel(&mut self, id: ConnectionId, number: u16, out: &mut PageOut) -> bool {
        if out.stage == Stage::Forget {
            let (walked, done) = self.drop_unacked(id, number, self.units as usize);
            self.spend(1 + walked as u32);
            return done;
        }
        let mut look = Look::new(out.round, out.stage == Stage::Copy, self.units, &self.paging.batches);
        let channel = self.connections.get_mut(&id).and_then(|c| c.channels.get_mut(&number));
        let next = channel.and_then(|channel| channel.unacked.look_at(out.tag, &mut look));
        out.tag = next.unwrap_or(0);
        look.spend(1);
        self.units = look.units();
        next.is_none()
    }

    /// Bodies of a queue that are on disk leave memory; what is left of a long one does when it is served.
    fn forget_queue(&mut self, id: QueueId) {
        self.spend(1);
        if let Some(queue) = self.queues.get_mut(&id).filter(|q| !q.logged.is_empty()) {
            let most = self.limits.slice_units as usize;
            let looked: usize = queue.levels.iter().map(|level| level.len().min(most)).sum();
            let freed = queue.page_out(0, most);
            self.resident -= freed.min(self.resident);
            self.spend(u32::try_from(looked).unwrap_or(u32::MAX));
        }
    }

    /// Looks after channels with many deliveries that keep their bodies, some of these at a time.
    pub(crate) fn thin_out_channels(&mut self) {
        for (id, number) in std::mem::take(&mut self.paging.crowded) {
            let channel = self.connections.get(&id).and_then(|c| c.channels.get(&number));
            if channel.is_some_and(|c| c.unacked.is_crowded()) && !self.drop_unacked(id, number, LOOK).1 {
                self.paging.note_crowded((id, number));
            }
        }
    }

    /// Whether deliveries are being looked at.
    pub(crate) fn is_thinning_out(&self) -> bool {
        !self.paging.crowded.is_empty()
    }

    /// Forgets bodies of deliveries that wait for their acknowledgement and are on disk, `most` runs of them. How many it looked
    /// at, and whether it came to the end.
    fn drop_unacked(&mut self, id: ConnectionId, number: u16, most: usize) -> (usize, bool) {
        let Some(channel) = self.connections.get_mut(&id).and_then(|c| c.channels.get_mut(&number)) else {
            return (0, true);
        };
        let queues = &self.queues;
        let walked = most.min(channel.unacked.runs());
        let freed = channel.unacked.drop_bodies(most, |queue| queues.get(&queue).map_or(0, |q| q.droppable_upto()));
        self.resident -= freed.min(self.resident);
        (walked, !channel.unacked.is_thinning())
    }

    /// Messages have left their queue for good: they are dead-lettered where it says so, and settled in the same step.
    pub(crate) fn die(&mut self, now: Now, id: QueueId, dying: Dying) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        // nobody gets them where there is no exchange, so they need not be read from disk
        let waits = dying.batch.is_none() && queue.settings.dead_letter_exchange.is_some();
        if waits || !queue.dying.is_empty() {
            // in the order in which they died
            queue.dying.push_back(dying);
            self.bury(now, id);
            self.load_dying(id);
        } else {
            self.bury_one(now, id, dying);
        }
    }

    fn bury_one(&mut self, now: Now, id: QueueId, dying: Dying) {
        let delay = self.limits.settle_delay_ms;
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Dying { range, batch, logged, reason } = dying;
        match batch {
            Some((batch, from)) => {
                let span = Span { batch, from, count: range.count, step: range.step };
                self.deaths.push_back(Death::new(Grave::of(queue), span, reason));
            }
            None => reason.count(&mut self.totals, range.count),
        }
        if logged {
            self.log.settle(now, delay, queue, range, Left::Otherwise, &mut self.early);
        }
    }

    /// Buries those at the front whose bodies are there.
    fn bury(&mut self, now: Now, id: QueueId) {
        loop {
            let Some(queue) = self.queues.get_mut(&id) else { return };
            let dead_letters = queue.settings.dead_letter_exchange.is_some();
            if queue.dying.front().is_none_or(|d| d.batch.is_none() && dead_letters) {
                return;
            }
            let Some(dying) = queue.dying.pop_front() else { return };
            self.bury_one(now, id, dying);
        }
    }

    /// Asks for the bodies of messages that wait to be dead-lettered.
    pub(crate) fn load_dying(&mut self, id: QueueId) {
        /// Runs asked for at once.
        const AHEAD: usize = 8;
        let Some(queue) = self.queues.get(&id) else { return };
        let mut wanted: Vec<Seq> = Vec::new();
        // the last run asked for
        let mut asked = 0..0;
        for dying in queue.dying.iter().filter(|d| d.batch.is_none()).take(BEHIND) {
            let (first, last) = (dying.range.first, dying.range.last());
            if asked.contains(&first) && last < asked.end {
                continue;
            }
            let runs = queue.log_runs_from(first).take_while(|r| r.first <= last).filter(|r| r.live > 0);
            for run in runs.take(AHEAD) {
                wanted.push(run.first.max(first));
                asked = run.first..run.end();
            }
            if wanted.len() >= AHEAD {
                break;
            }
        }
        for seq in wanted {
            self.load_run(id, seq);
        }
    }

    /// Bodies of the messages from `first` on came back: dead ones that waited for them leave their queue.
    pub(crate) fn bury_loaded(&mut self, now: Now, id: QueueId, first: Seq, batch: &Arc<Batch>) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if queue.dying.is_empty() {
            return;
        }
        let end = first + Seq::from(batch.len());
        let mut seen = VecDeque::new();
        let mut behind = 0;
        while behind < BEHIND
            && let Some(dying) = queue.dying.pop_front()
        {
            behind += 1;
            let SeqRange { count, step, .. } = dying.range;
            let s = Seq::from(step);
            // members `a .. b` of the range are in the batch
            let a = first.saturating_sub(dying.range.first).div_ceil(s).min(count.into()) as u32;
            let b = end.saturating_sub(dying.range.first).div_ceil(s).min(count.into()) as u32;
            if a >= b || dying.batch.is_some() {
                seen.push_back(dying);
                continue;
            }
            behind = 0;
            let part = |from: u32, to: u32| {
                let range = SeqRange { first: dying.range.first + Seq::from(from) * s, count: to - from, step };
                (from < to).then(|| Dying { range, ..dying.clone() })
            };
            seen.extend(part(0, a));
            seen.extend(part(a, b).map(|d| {
                let from = (d.range.first - first) as u32;
                Dying { batch: Some((Arc::clone(batch), from)), ..d }
            }));
            seen.extend(part(b, count));
        }
        seen.into_iter().rev().for_each(|dying| queue.dying.push_front(dying));
        self.bury(now, id);
        self.load_dying(id);
    }
}
