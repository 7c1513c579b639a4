//! The books: what must be true, rebuilt from commands and effects alone.
//!
//! Every queue a message was routed to holds one *copy*, which is in one place at a time: it moves on when it is
//! dead-lettered, and ends when it is acknowledged, purged or dropped. What happens without a client's doing (expiry, the
//! length limit) isn't seen, so a copy is somewhere in its *reach*: the queues it can get to by itself. A turn is the unit
//! of durability: a group handed to the store after turn n holds everything up to it, so that after a crash the books can
//! be wound back to the turn of the last group that was kept.

mod judge;

use crate::invariants::{Violation, durability};
use crate::workload::Plan;
use hornpipe_types::command::Settle;
use hornpipe_types::ids::{ConnectionId, Tag};
use hornpipe_types::time::Now;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// What a publisher was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing yet; or it never asked.
    Pending,
    /// Confirmed, or its transaction committed.
    Acked,
    Refused,
    /// The channel ended first.
    Unknown,
}

/// A published message; its number is its index, and what its body begins with.
#[derive(Debug)]
pub(crate) struct Message {
    /// Position among the publishes of its channel, from 1.
    pub(crate) index: u64,
    pub(crate) publisher: (ConnectionId, u16),
    pub(crate) persistent: bool,
    pub(crate) priority: u8,
    pub(crate) expiration: Option<u64>,
    /// How long the delayed exchange holds it, milliseconds.
    pub(crate) delay: Option<u64>,
    pub(crate) turn: u64,
    pub(crate) outcome: Outcome,
    pub(crate) copies: Vec<usize>,
    targets: Vec<usize>,
    returns: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In its queue, or on its way by itself.
    Ready,
    /// Delivered, not settled.
    Out,
    /// Settled, or lost with good reason.
    Done,
}

/// A change of a copy that the log knows too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) turn: u64,
    at: usize,
    deaths: u64,
    deadline: Option<u64>,
    done: bool,
    /// Ended by a purge or with its queue, not by a consumer.
    pub(crate) swept: bool,
    /// By a deletion.
    dropped: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) message: usize,
    /// The queue it was routed to.
    pub(crate) origin: usize,
    /// Where it was seen last.
    pub(crate) at: usize,
    pub(crate) phase: Phase,
    /// Times it was dead-lettered, as far as is known.
    pub(crate) deaths: u64,
    /// Wall clock, milliseconds, when the delayed exchange lets it go: until it has been delivered nobody knows whether it has.
    pub(crate) due: Option<u64>,
    /// Wall clock, milliseconds, when it may be delivered last, if that is known.
    pub(crate) deadline: Option<u64>,
    pub(crate) history: Vec<Entry>,
    /// Losing it is no fault.
    lost_ok: bool,
    /// It was dead-lettered by time or length at least once.
    died_alone: bool,
    /// Its end was answered: no crash may undo it.
    ended: bool,
    /// Who rejected it where it died last, and how many were rejected before: until it has been delivered again.
    rejected: Option<((ConnectionId, u16), u64)>,
    /// Queue and deaths at its last delivery.
    pub(crate) last: Option<(usize, u64)>,
    /// It went through a crash.
    pub(crate) unclean: bool,
    /// Nothing can be said of its redelivered flag.
    pub(crate) flag_unknown: bool,
    /// Incarnation it was delivered in last.
    seen: u64,
    /// Turn it came, or came back, to its queue.
    pub(crate) ready_since: u64,
    /// The turn at whose end it was in its queue for certain: it may get there in a slice of work.
    arrived: Option<u64>,
    /// How long it lives in its first queue, milliseconds.
    life: Option<u64>,
}

/// A consumer.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) queue: usize,
    pub(crate) prefetch: u16,
    pub(crate) no_ack: bool,
    pub(crate) unacked: u64,
}

#[derive(Debug)]
pub(crate) struct Confirms {
    next: Tag,
    /// Publishes that were not confirmed, by tag.
    pub(crate) open: BTreeMap<Tag, usize>,
}

#[derive(Debug, Default)]
struct Tx {
    publishes: Vec<usize>,
    settles: Vec<(Settle, Vec<Tag>)>,
}

/// A reply that is awaited.
#[derive(Debug)]
pub(crate) struct Reply {
    kind: &'static str,
    /// The turn of what it answers.
    turn: u64,
    /// The queue it is about was one whose content is on disk.
    durable: bool,
    /// Copies whose end it answers, as far as they were not handed out before, as it turned out.
    ends: Vec<usize>,
    /// Messages it makes certain.
    messages: Vec<usize>,
}

/// A channel.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    pub(crate) consumers: BTreeMap<String, Consumer>,
    pub(crate) confirms: Option<Confirms>,
    pub(crate) global: u16,
    pub(crate) replies: VecDeque<Reply>,
    /// Outstanding deliveries: the copy, the consumer.
    outstanding: BTreeMap<Tag, (usize, Option<String>)>,
    last_tag: Tag,
    published: u64,
    tx: Option<Tx>,
    /// basic.gets under way: queue, no-ack.
    gets: VecDeque<(usize, bool)>,
    returns: VecDeque<usize>,
}

impl Channel {
    /// Tags a client may settle now.
    pub(crate) fn settleable(&self) -> Vec<Tag> {
        let held = |t: &Tag| self.tx.as_ref().is_some_and(|tx| tx.settles.iter().any(|(_, tags)| tags.contains(t)));
        self.outstanding.keys().copied().filter(|t| !held(t)).collect()
    }
    /// Outstanding deliveries of all its consumers, those that were cancelled included; gets don't count.
    pub(crate) fn unacked(&self) -> u64 {
        self.outstanding.values().filter(|(_, consumer)| consumer.is_some()).count() as u64
    }
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.confirms.as_ref().map_or(0, |c| c.open.len() as u64)
    }
    /// Whether a transaction holds something.
    pub(crate) fn in_tx(&self) -> bool {
        self.tx.as_ref().is_some_and(|tx| !tx.publishes.is_empty() || !tx.settles.is_empty())
    }
    pub(crate) fn waiting_gets(&self) -> usize {
        self.gets.len()
    }
    fn awaits(&mut self, kind: &'static str) {
        self.replies.push_back(Reply { kind, turn: 0, durable: false, ends: Vec::new(), messages: Vec::new() });
    }
}

/// Whose order is checked where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OrderKey {
    to: (ConnectionId, u16),
    pub(crate) queue: usize,
    /// Who published it or, of dead letters, rejected it.
    source: (ConnectionId, u16),
    priority: u8,
}

/// A message to be published.
#[derive(Debug, Clone)]
pub(crate) struct Publish {
    pub(crate) targets: Vec<usize>,
    pub(crate) mandatory: bool,
    pub(crate) persistent: bool,
    pub(crate) priority: u8,
    pub(crate) expiration: Option<u64>,
    pub(crate) delay: Option<u64>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) plan: Rc<Plan>,
    pub(crate) turn: u64,
    /// The last turn at whose end the broker had nothing on its work list.
    pub(crate) rested: u64,
    /// The turn since which something that was said waits.
    pub(crate) waits_since: Option<u64>,
    pub(crate) now: Now,
    /// The latest the wall clock has shown, milliseconds: it may go back.
    pub(crate) latest: u64,
    pub(crate) messages: Vec<Message>,
    pub(crate) copies: Vec<Copy>,
    /// Copies that have not ended.
    pub(crate) live: BTreeSet<usize>,
    /// Copies that may be on their way to their first queue.
    under_way: Vec<usize>,
    pub(crate) channels: BTreeMap<(ConnectionId, u16), Channel>,
    pub(crate) order: BTreeMap<OrderKey, u64>,
    incarnation: u64,
    /// When a queue was deleted last, and how many copies there were then.
    dropped: BTreeMap<usize, (u64, usize)>,
    /// Messages rejected so far that went on to another queue.
    rejects: u64,
    /// Turn of the last basic.recover. Two in one turn could not be told from their effects.
    pub(crate) recovered: u64,
    /// What was delivered in this turn of each queue, channel and priority: the highest index.
    pub(crate) furthest: BTreeMap<(usize, (ConnectionId, u16), u8), u64>,
    /// Messages confirmed or refused in this turn.
    to_check: Vec<(usize, bool)>,
    /// For the summary.
    pub(crate) delivered: u64,
    pub(crate) confirmed: u64,
}

impl Oracle {
    pub(crate) fn new(plan: Rc<Plan>, now: Now) -> Self {
        Self {
            plan,
            turn: 1,
            rested: 0,
            waits_since: None,
            now,
            latest: now.wall.0,
            messages: Vec::new(),
            copies: Vec::new(),
            live: BTreeSet::new(),
            under_way: Vec::new(),
            channels: BTreeMap::new(),
            order: BTreeMap::new(),
            incarnation: 1,
            dropped: BTreeMap::new(),
            rejects: 0,
            recovered: 0,
            furthest: BTreeMap::new(),
            to_check: Vec::new(),
            delivered: 0,
            confirmed: 0,
        }
    }

    /// All copies, for one who looks for the cause of a failure.
    pub(crate) fn dump(&self) {
        for copy in &self.copies {
            let m = &self.messages[copy.message];
            eprintln!("{copy:?} persistent {} {:?}", m.persistent, m.outcome);
        }
    }

    /// Time goes on.
    pub(crate) fn at(&mut self, now: Now) {
        self.now = now;
        self.latest = self.latest.max(now.wall.0);
    }

    // ---- what may be ------------------------------------------------------------------------------------------------

    /// Where a copy may be, and whether it may have ended by itself.
    pub(crate) fn reach(&self, copy: &Copy) -> (Vec<usize>, bool) {
        if copy.phase == Phase::Out {
            return (vec![copy.at], false);
        }
        let expires = copy.deaths == 0 && self.messages[copy.message].expiration.is_some();
        self.plan.reach(copy.at, expires)
    }

    /// Whether the delayed exchange may hold a copy still.
    pub(crate) fn may_be_held(&self, copy: &Copy) -> bool {
        copy.due.is_some() && copy.seen != self.incarnation
    }

    /// Whether a copy may be on its way to its first queue still.
    pub(crate) fn may_arrive(&self, copy: &Copy) -> bool {
        copy.arrived.is_none() && copy.phase == Phase::Ready && copy.last.is_none()
    }

    /// Whether a copy that went back to its queue may be outstanding still, since what returns it waits.
    pub(crate) fn may_return(&self, copy: &Copy) -> bool {
        let back = copy.phase == Phase::Ready && copy.last.is_some();
        back && self.waits_since.is_some_and(|turn| copy.ready_since >= turn)
    }

    /// Whether a copy may have ended without anybody's fault.
    pub(crate) fn may_be_gone(&self, copy: &Copy) -> bool {
        let refusable = self.plan.queues[copy.origin].refuses
            && copy.last.is_none()
            && copy.deaths == 0
            && self.messages[copy.message].outcome != Outcome::Acked;
        let (reach, cut) = self.reach(copy);
        // who has died by himself and may do so again may be going round
        copy.lost_ok || refusable || cut || (copy.died_alone && reach.len() > 1)
    }

    // ---- what clients do --------------------------------------------------------------------------------------------

    pub(crate) fn channel(&self, at: (ConnectionId, u16)) -> Option<&Channel> {
        self.channels.get(&at)
    }
    pub(crate) fn channel_opened(&mut self, at: (ConnectionId, u16)) {
        let mut channel = Channel::default();
        channel.awaits("open");
        self.channels.insert(at, channel);
    }
    /// A method that is answered by this reply was sent.
    pub(crate) fn awaits(&mut self, at: (ConnectionId, u16), kind: &'static str) {
        if let Some(channel) = self.channels.get_mut(&at) {
            channel.awaits(kind);
        }
    }
    pub(crate) fn confirm_selected(&mut self, at: (ConnectionId, u16)) {
        if let Some(channel) = self.channels.get_mut(&at) {
            channel.awaits("confirm-select");
            channel.confirms = Some(Confirms { next: 1, open: BTreeMap::new() });
        }
    }
    pub(crate) fn tx_selected(&mut self, at: (ConnectionId, u16)) {
        if let Some(channel) = self.channels.get_mut(&at) {
            channel.awaits("tx-select");
            channel.tx = Some(Tx::default());
        }
    }
    pub(crate) fn consumed(&mut self, at: (ConnectionId, u16), tag: &str, consumer: Consumer, global: u16) {
        if let Some(channel) = self.channels.get_mut(&at) {
            channel.awaits("consume");
            channel.global = global;
            channel.consumers.insert(tag.to_owned(), consumer);
        }
    }
    pub(crate) fn cancelled(&mut self, at: (ConnectionId, u16), tag: &str) {
        if let Some(channel) = self.channels.get_mut(&at) {
            channel.awaits("cancel");
            channel.consumers.remove(tag);
        }
    }
    pub(crate) fn got(&mut self, at: (ConnectionId, u16), queue: usize, no_ack: bool) {
        if let Some(channel) = self.channels.get_mut(&at) {
            channel.awaits("get");
            channel.gets.push_back((queue, no_ack));
        }
    }

    /// Notes a publish; returns its number, which its body must begin with.
    pub(crate) fn published(&mut self, at: (ConnectionId, u16), publish: Publish) -> usize {
        let number = self.messages.len();
        let Some(channel) = self.channels.get_mut(&at) else { return number };
        channel.published += 1;
        self.messages.push(Message {
            index: channel.published,
            publisher: at,
            persistent: publish.persistent,
            priority: publish.priority,
            expiration: publish.expiration,
            delay: publish.delay,
            turn: self.turn,
            outcome: Outcome::Pending,
            copies: Vec::new(),
            // what is held counts as unroutable [delayed message exchange plugin]
            returns: publish.mandatory && (publish.targets.is_empty() || publish.delay.is_some()),
            targets: publish.targets,
        });
        if let Some(confirms) = &mut channel.confirms {
            confirms.open.insert(confirms.next, number);
            confirms.next += 1;
        }
        match &mut channel.tx {
            Some(tx) => tx.publishes.push(number),
            None => self.routed(at, number),
        }
        number
    }

    /// A message enters its queues, or comes back.
    fn routed(&mut self, at: (ConnectionId, u16), number: usize) {
        let wall = self.now.wall.0;
        let in_slices = self.plan.limits.slice_units < 100;
        let message = &mut self.messages[number];
        message.turn = self.turn;
        if message.returns
            && let Some(channel) = self.channels.get_mut(&at)
        {
            channel.returns.push_back(number);
        }
        for origin in message.targets.clone() {
            let queue = &self.plan.queues[origin];
            let life = match (queue.ttl_ms, message.expiration) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let due = message.delay.map(|ms| wall + ms);
            // its life begins when it is let go
            let deadline = life.filter(|_| due.is_none()).map(|ms| wall + ms);
            // what is held is a classic queue's, and what comes out of it too late for a refusal is dropped
            let lost_ok = due.is_some() && (!message.persistent || queue.refuses);
            let entry =
                Entry { turn: self.turn, at: origin, deaths: 0, deadline, done: false, swept: false, dropped: false };
            let id = self.copies.len();
            self.live.insert(id);
            message.copies.push(id);
            self.copies.push(Copy {
                message: number,
                origin,
                at: origin,
                phase: Phase::Ready,
                deaths: 0,
                due,
                deadline,
                history: vec![entry],
                lost_ok,
                died_alone: false,
                ended: false,
                rejected: None,
                last: None,
                unclean: false,
                flag_unknown: false,
                seen: 0,
                ready_since: self.turn,
                arrived: (!in_slices).then_some(self.turn),
                life,
            });
            if in_slices {
                self.under_way.push(id);
            }
        }
    }

    /// The turn ends, and these connections wait for something that is not done: what others published is where it belongs.
    pub(crate) fn arrive(&mut self, waits: impl Fn(ConnectionId) -> bool) {
        let (turn, wall) = (self.turn, self.now.wall.0);
        let Self { under_way, copies, messages, .. } = self;
        under_way.retain(|id| {
            let copy = &mut copies[*id];
            let waits = waits(messages[copy.message].publisher.0);
            copy.arrived = (!waits).then_some(turn);
            // the clock may have gone back before a delayed exchange took it
            if let Some(delay) = messages[copy.message].delay {
                copy.due = copy.due.min(Some(wall + delay));
            }
            // it may have begun to live as late as now
            if let (Some(life), [first]) = (copy.life, &mut copy.history[..])
                && copy.deadline.is_some()
            {
                let deadline = copy.deadline.max(Some(wall + life));
                (copy.deadline, first.deadline) = (deadline, deadline);
            }
            waits
        });
    }

    /// A client settles these tags, all outstanding on its channel.
    pub(crate) fn settled(&mut self, at: (ConnectionId, u16), how: Settle, tags: Vec<Tag>) {
        let Some(channel) = self.channels.get_mut(&at) else { return };
        if let Some(tx) = &mut channel.tx {
            tx.settles.push((how, tags));
            return;
        }
        self.settle_now(at, how, &tags);
    }

    /// basic.recover: everything outstanding goes back at once, in a transaction too.
    pub(crate) fn recovers(&mut self, at: (ConnectionId, u16)) {
        self.recovered = self.turn;
        let tags = self.channels.get(&at).map(Channel::settleable).unwrap_or_default();
        self.settle_now(at, Settle::Nack { requeue: true }, &tags);
        if let Some(channel) = self.channels.get_mut(&at) {
            channel.awaits("recover");
            channel.replies.back_mut().into_iter().for_each(|reply| reply.turn = self.turn);
        }
    }

    fn settle_now(&mut self, at: (ConnectionId, u16), how: Settle, tags: &[Tag]) -> Vec<usize> {
        let mut ended = Vec::new();
        for tag in tags {
            let Some(channel) = self.channels.get_mut(&at) else { break };
            let Some((id, consumer)) = channel.outstanding.remove(tag) else { continue };
            if let Some(consumer) = consumer.and_then(|c| channel.consumers.get_mut(&c)) {
                consumer.unacked -= 1;
            }
            if self.copies[id].phase != Phase::Out {
                continue;
            }
            match how {
                Settle::Nack { requeue: true } | Settle::Reject { requeue: true } => self.back(id),
                Settle::Ack => {
                    self.end(id, false, false);
                    ended.push(id);
                }
                Settle::Nack { requeue: false } | Settle::Reject { requeue: false } => self.discard(id, at),
            }
        }
        ended
    }

    /// Back to its place in its queue.
    fn back(&mut self, id: usize) {
        (self.copies[id].phase, self.copies[id].ready_since) = (Phase::Ready, self.turn);
    }

    /// Rejected for good: on to where the dead go.
    fn discard(&mut self, id: usize, by: (ConnectionId, u16)) {
        let copy = &mut self.copies[id];
        let Some((to, _)) = self.plan.queues[copy.at].dead_to else { return self.end(id, false, false) };
        copy.at = to;
        copy.deaths += 1;
        copy.phase = Phase::Ready;
        self.rejects += 1;
        copy.rejected = Some((by, self.rejects));
        copy.deadline = self.plan.queues[to].ttl_ms.map(|ttl| self.now.wall.0 + ttl);
        let (at, deaths, deadline) = (copy.at, copy.deaths, copy.deadline);
        copy.history.push(Entry { turn: self.turn, at, deaths, deadline, done: false, swept: false, dropped: false });
    }

    fn end(&mut self, id: usize, swept: bool, dropped: bool) {
        let copy = &mut self.copies[id];
        copy.phase = Phase::Done;
        let (at, deaths, deadline) = (copy.at, copy.deaths, copy.deadline);
        copy.history.push(Entry { turn: self.turn, at, deaths, deadline, done: true, swept, dropped });
        self.live.remove(&id);
    }

    /// A queue is purged, or (`dropped`) deleted and declared again.
    pub(crate) fn swept(&mut self, at: (ConnectionId, u16), queue: usize, dropped: bool) {
        let mut ends = Vec::new();
        for id in self.live.clone() {
            let copy = &self.copies[id];
            let (reach, _) = self.reach(copy);
            let taken = copy.phase == Phase::Ready || dropped;
            let held = self.may_be_held(copy);
            if !taken || !reach.contains(&queue) || held && !dropped && copy.due > Some(self.latest) {
                continue;
            }
            // what was rejected may be on a work list still, and arrive after this
            let moves = copy.history.len() > 1 && copy.history.last().is_some_and(|h| h.turn > self.rested);
            let arrives = moves || self.may_arrive(copy);
            if reach.len() == 1 && !arrives && !held && !self.may_return(copy) {
                // what had ended by itself before is not answered by this
                if !self.may_be_gone(copy) {
                    ends.push(id);
                }
                self.end(id, true, dropped);
            } else {
                self.copies[id].lost_ok = true;
            }
        }
        if dropped {
            self.dropped.insert(queue, (self.turn, self.copies.len()));
            // a reject that waits comes too late for what goes with the queue
            if let Some(since) = self.waits_since {
                for copy in &mut self.copies {
                    let from = copy.history.iter().rev().nth(1).filter(|_| copy.rejected.is_some());
                    let rejected = copy.history.last().is_some_and(|h| h.turn >= since);
                    copy.lost_ok |= rejected && from.is_some_and(|h| h.at == queue);
                }
            }
            for channel in self.channels.values_mut() {
                channel.consumers.retain(|_, c| c.queue != queue);
            }
        }
        if let Some(channel) = self.channels.get_mut(&at) {
            let kind = if dropped { "delete" } else { "purge" };
            let durable = self.plan.queues[queue].durable;
            channel.replies.push_back(Reply { kind, turn: self.turn, durable, ends, messages: Vec::new() });
        }
    }

    pub(crate) fn tx_ended(&mut self, at: (ConnectionId, u16), commit: bool) {
        let Some(channel) = self.channels.get_mut(&at) else { return };
        let Some(tx) = channel.tx.replace(Tx::default()) else { return };
        let (mut ends, mut messages) = (Vec::new(), Vec::new());
        if commit {
            for number in tx.publishes {
                self.routed(at, number);
                messages.push(number);
            }
            for (how, tags) in tx.settles {
                ends.extend(self.settle_now(at, how, &tags));
            }
        }
        if let Some(channel) = self.channels.get_mut(&at) {
            let kind = if commit { "tx-commit" } else { "tx-rollback" };
            channel.replies.push_back(Reply { kind, turn: self.turn, durable: true, ends, messages });
        }
    }

    /// A channel is gone: what it held goes back.
    pub(crate) fn channel_gone(&mut self, at: (ConnectionId, u16)) {
        let Some(channel) = self.channels.remove(&at) else { return };
        for (id, _) in channel.outstanding.into_values() {
            if self.copies[id].phase == Phase::Out {
                self.back(id);
            }
        }
        let unknown = channel.confirms.into_iter().flat_map(|c| c.open.into_values());
        let pending = channel.replies.into_iter().flat_map(|r| r.messages);
        for number in unknown.chain(pending) {
            self.messages[number].outcome = Outcome::Unknown;
        }
        // the answer of a get may have been on its way and was never seen
        for (queue, no_ack) in channel.gets {
            for id in self.live.clone() {
                if self.reach(&self.copies[id]).0.contains(&queue) {
                    self.copies[id].flag_unknown = true;
                    self.copies[id].lost_ok |= no_ack;
                }
            }
        }
    }

    /// A socket is gone.
    pub(crate) fn connection_gone(&mut self, connection: ConnectionId) {
        let channels: Vec<_> = self.channels.keys().copied().filter(|c| c.0 == connection).collect();
        for at in channels {
            self.channel_gone(at);
        }
    }

    // ---- the end of a process ---------------------------------------------------------------------------------------

    /// The broker starts again from what the disk held at the end of turn `durable`; after a stop in order that is
    /// everything. What was settled after turn `rested` may still have been on a work list then.
    pub(crate) fn restarted(&mut self, durable: u64, rested: u64, clean: bool) -> Result<(), Violation> {
        let channels: Vec<_> = self.channels.keys().copied().collect();
        for at in channels {
            self.channel_gone(at);
        }
        self.order.clear();
        self.incarnation += 1;
        let (durable, rested) = if clean { (u64::MAX, u64::MAX) } else { (durable, rested) };
        for id in 0..self.copies.len() {
            self.rewind(id, durable, rested, clean)?;
        }
        for id in std::mem::take(&mut self.under_way) {
            self.copies[id].arrived = Some(self.turn);
        }
        Ok(())
    }

    /// Whether messages were to be moved to other queues in these turns, which may have been done or not: the books can't
    /// hold both.
    pub(crate) fn was_moving(&self, rested: u64, durable: u64) -> bool {
        let moved = |c: &Copy, k: usize, h: &Entry| {
            let open = !h.done && !h.swept && h.turn > rested && h.turn <= durable;
            open && !self.outlives_its_queue(c, k, durable)
        };
        let moves = |c: &Copy| c.history.iter().enumerate().skip(1).any(|(k, h)| moved(c, k, h));
        rested < durable && self.copies.iter().any(|c| !c.ended && moves(c))
    }

    /// Whether what a copy went through last but may not have come to the end of is certain all the same: it died in a queue
    /// that was deleted since, and goes on to where the dead go whatever happens.
    fn outlives_its_queue(&self, copy: &Copy, k: usize, durable: u64) -> bool {
        let (Some(from), Some(h)) = (copy.history.get(k.wrapping_sub(1)), copy.history.get(k)) else { return false };
        let deleted = self.dropped.get(&from.at).is_some_and(|(turn, _)| (h.turn..=durable).contains(turn));
        deleted && !h.done && self.plan.queues[from.at].logs(self.messages[copy.message].persistent)
    }

    /// Takes a copy back to the end of turn `durable` and asks whether it survives the process.
    fn rewind(&mut self, id: usize, durable: u64, rested: u64, clean: bool) -> Result<(), Violation> {
        self.copies[id].rejected = None;
        let copy = &self.copies[id];
        if copy.ended {
            return Ok(());
        }
        if copy.history.first().is_some_and(|h| h.turn > durable) {
            durability::on_cut_off(self, copy, durable)?;
            let copy = &mut self.copies[id];
            (copy.phase, copy.ended) = (Phase::Done, true);
            self.live.remove(&id);
            return Ok(());
        }
        // the disk may have it in some of its queues, unless its publisher was told
        let may_lack = copy.arrived.is_none_or(|turn| turn > durable);
        let may_lack = !clean && may_lack && self.messages[copy.message].outcome != Outcome::Acked;
        let persistent = self.messages[copy.message].persistent;
        let was_done = copy.phase == Phase::Done;
        let first = copy.history.first().map(|h| h.turn);
        let on_disk = |(k, h): &(usize, &Entry)| {
            let at_once = h.swept || Some(h.turn) == first && !h.done || self.outlives_its_queue(copy, *k, durable);
            h.turn <= if at_once { durable } else { rested }
        };
        let kept = copy.history.iter().enumerate().take_while(on_disk).count();
        // it waits in a grave for going to where it is by the books
        let waits = kept > 1 && self.outlives_its_queue(copy, kept - 1, durable);
        // what arrives after the crash has not been delivered before it
        let arrives = copy.history.get(kept.wrapping_sub(1)).is_some_and(|h| kept > 1 && h.turn > rested);
        let copy = &mut self.copies[id];
        // what was on a work list may have been done or not
        copy.lost_ok |= may_lack || copy.history.get(kept).is_some_and(|h| h.turn <= durable);
        let undone = kept < copy.history.len();
        copy.history.truncate(kept);
        let Some(last) = copy.history.last().copied() else { return Ok(()) };
        (copy.at, copy.deaths, copy.deadline) = (last.at, last.deaths, last.deadline);
        // it never got to where it was delivered from
        copy.last = copy.last.filter(|(_, deaths)| *deaths <= last.deaths);
        // what it lost in an earlier process does not come back
        if was_done && !undone {
            return Ok(());
        }
        copy.lost_ok |= was_done;
        copy.phase = if last.done { Phase::Done } else { Phase::Ready };
        let (reach, _) = self.reach(&self.copies[id]);
        let logged = reach.iter().filter(|q| self.plan.queues[**q].logs(persistent)).count();
        let copy = &mut self.copies[id];
        if logged == 0 && copy.due.is_none() && !waits {
            (copy.phase, copy.ended) = (Phase::Done, true);
        }
        // a queue that is gone until it is declared again takes no dead letters either
        copy.lost_ok |= reach.iter().any(|q| !self.plan.queues[*q].durable) || logged < reach.len();
        if !clean {
            copy.unclean = true;
            // it may be where nothing has been delivered from
            copy.flag_unknown |= copy.due.is_some() || arrives || waits;
        }
        if copy.phase == Phase::Done {
            self.live.remove(&id);
        } else {
            self.live.insert(id);
        }
        Ok(())
    }
}

/// Consumer tags say which queue they are for and whether they acknowledge: `QUEUE/a/…` or `QUEUE/n/…`.
pub(crate) fn make_tag(queue: usize, no_ack: bool, number: u64) -> String {
    format!("{queue}/{}/{number}", if no_ack { 'n' } else { 'a' })
}
