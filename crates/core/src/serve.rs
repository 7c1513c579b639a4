//! Serving a queue: ready messages meet consumers with credit, expired and excess ones leave.
//!
//! Dispatch is round robin per message among consumers of the highest priority that have credit [RabbitMQ "Consumer
//! Priorities"]; a run going to several consumers is split by stride, never given whole to one.

use crate::channel::unacked::Unacked;
use crate::dead_letter::Reason;
use crate::log::Left;
use crate::queue::Dying;
use crate::queue::ready::Segment;
use crate::shard::Shard;
use crate::timer::TimerKey;
use hornpipe_types::Set;
use hornpipe_types::args::{Overflow, QueueKind};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect, Delivery, content_cost};
use hornpipe_types::ids::{ConnectionId, QueueId};
use hornpipe_types::message::Span;
use hornpipe_types::range::SeqRange;
use hornpipe_types::time::Now;
use std::sync::Arc;

/// What stopped the dispatch of a queue.
enum Stop {
    NoConsumer,
    NoMessage,
    NotResident,
}

impl Shard {
    /// Hands out what can be handed out, drops what must go.
    pub(crate) fn serve(&mut self, now: Now, id: QueueId) {
        let Some(queue) = self.queues.get(&id).filter(|q| !q.is_held_up()) else { return };
        if queue.is_grave() {
            return self.close_grave(now, id);
        }
        // a deadline of this very moment still lets a waiting consumer have the message (TTL 0)
        if !self.expire_head(now, id, now.wall.0) {
            return;
        }
        loop {
            let waits = matches!(self.dispatch(now, id), Stop::NotResident);
            if self.is_held_up(id) {
                return;
            }
            let head = |shard: &Self| shard.queues.get(&id).and_then(|q| q.head()).map(|(_, head)| head.first);
            let awaited = head(self);
            if waits {
                self.load_head(id);
            }
            self.expire_head(now, id, now.wall.0 + 1);
            self.enforce_length(now, id);
            if self.is_held_up(id) {
                return;
            }
            // the message that has to be read may have gone now: the next one need not wait for it
            if !waits || head(self) == awaited {
                break;
            }
        }
        // the head may be another one now; arms the timer for it
        self.expire_head(now, id, now.wall.0 + 1);
        self.page_out(id);
        // what a get waits for may have been returned, taken or dropped
        self.serve_waiting_gets(now, id);
    }

    /// Dispatches until messages or credit run out.
    fn dispatch(&mut self, now: Now, id: QueueId) -> Stop {
        let mut takers = std::mem::take(&mut self.takers);
        let stop = self.dispatch_to(now, id, &mut takers);
        self.takers = takers;
        stop
    }

    fn dispatch_to(&mut self, now: Now, id: QueueId, takers: &mut Vec<u64>) -> Stop {
        // the only one that is willing gets segment after segment, as long as its credit reaches
        let mut sole = None;
        loop {
            let Some(queue) = self.queues.get(&id) else { return Stop::NoMessage };
            let Some((level, head)) = queue.head() else { return Stop::NoMessage };
            if head.deadline != 0 && head.deadline < now.wall.0 {
                if !self.expire_head(now, id, now.wall.0) {
                    return Stop::NotResident;
                }
                continue;
            }
            let resident = head.batch.is_some();
            let available = head.count;
            let mut each = sole.map_or(0, |key| self.credit(key, id));
            if each == 0 {
                sole = None;
                match self.willing(id, available, takers) {
                    Some(n) => each = n,
                    None => return Stop::NoConsumer,
                }
            }
            if !resident {
                return Stop::NotResident;
            }
            let Some(queue) = self.queues.get_mut(&id) else { return Stop::NoMessage };
            let k = takers.len() as u32;
            let n = available.min(each.saturating_mul(k));
            let Some(segment) = queue.take(level, n) else { return Stop::NoMessage };
            self.resident -= segment.bytes.min(self.resident);
            if let [taker] = takers[..] {
                if sole.is_none() && each > 1 && queue.listens_alone(taker) {
                    sole = Some(taker);
                }
                self.hand_over(now, id, level as u8, taker, &segment, 0, 1, segment.count);
            } else {
                for (j, taker) in takers.iter().enumerate() {
                    let j = j as u32;
                    if j >= segment.count {
                        break;
                    }
                    let count = (segment.count - j).div_ceil(k);
                    self.hand_over(now, id, level as u8, *taker, &segment, j, k, count);
                }
            }
            if sole.is_none() {
                self.rotate(id, takers, segment.count);
            }
        }
    }

    /// Puts those who take part in the next dispatch into `takers`, in turn order; how many messages each can take. Consumers
    /// without credit are unlisted on the way; they list themselves again when credit returns.
    fn willing(&mut self, id: QueueId, available: u32, takers: &mut Vec<u64>) -> Option<u32> {
        takers.clear();
        let single = {
            let queue = self.queues.get(&id)?;
            if queue.args.single_active { Some(queue.single_active?) } else { None }
        };
        let single = match single {
            Some(key) => Some(self.succeeded(id, key)?),
            None => None,
        };
        if let Some(key) = single {
            let credit = self.credit(key, id);
            if credit == 0 {
                self.unlist(id, key);
                return None;
            }
            takers.push(key);
            return Some(credit);
        }
        let mut group = 0;
        loop {
            let listed = {
                let queue = self.queues.get(&id)?;
                queue.groups.get(group)?.active.len()
            };
            let mut channels = Set::default();
            let mut each = u32::MAX;
            let mut position = 0;
            for _ in 0..listed {
                let key = *self.queues.get(&id)?.groups.get(group)?.active.get(position)?;
                let credit = self.credit(key, id);
                if credit == 0 {
                    if let Some(g) = self.queues.get_mut(&id)?.groups.get_mut(group) {
                        g.active.remove(position);
                    }
                    self.unlist(id, key);
                    continue;
                }
                // a limit the channel's consumers share is spent message by message
                if self.shares_credit(key) {
                    if takers.is_empty() {
                        takers.push(key);
                        return Some(1);
                    }
                    each = 1;
                    break;
                }
                // a channel gets its deliveries in the queue's order, whichever of its consumers they are for [spec §4.7]:
                // those who share one take turns message by message
                let channel = self.consumers.get(&key).map(|c| (c.connection, c.channel));
                if listed > 1 && !channels.insert(channel) {
                    each = 1;
                    break;
                }
                position += 1;
                takers.push(key);
                each = each.min(credit);
                if takers.len() >= available as usize {
                    break;
                }
            }
            if !takers.is_empty() {
                return Some(each);
            }
            group += 1;
        }
    }

    /// The single active consumer of a queue. In a quorum queue one of higher priority takes its place, once it has settled
    /// what it was given; till then nobody gets anything [RabbitMQ "Single Active Consumer"].
    fn succeeded(&mut self, id: QueueId, key: u64) -> Option<u64> {
        let queue = self.queues.get(&id)?;
        if queue.args.kind != QueueKind::Quorum {
            return Some(key);
        }
        let active = self.consumers.get(&key)?;
        let highest = queue.consumers.iter().filter_map(|k| self.consumers.get(k)).map(|c| c.priority).max();
        if highest.is_none_or(|p| p <= active.priority) {
            return Some(key);
        }
        if active.unacked > 0 {
            return None;
        }
        self.queues.get_mut(&id)?.single_active = None;
        self.choose_single_active(id);
        self.queues.get(&id)?.single_active
    }

    /// Whether the consumer's channel has a limit for all its consumers together.
    fn shares_credit(&self, key: u64) -> bool {
        self.consumers.get(&key).filter(|c| !c.no_ack).is_some_and(|c| {
            let channel = self.connections.get(&c.connection).and_then(|n| n.channels.get(&c.channel));
            channel.is_some_and(|ch| ch.global_prefetch > 0)
        })
    }

    /// How many messages a consumer may be given now.
    fn credit(&self, key: u64, queue: QueueId) -> u32 {
        let Some(consumer) = self.consumers.get(&key) else { return 0 };
        if consumer.held {
            return 0;
        }
        let Some(connection) = self.connections.get(&consumer.connection) else { return 0 };
        if connection.unsent >= self.limits.unsent_bytes {
            return 0;
        }
        let mut credit = u32::MAX;
        if !consumer.no_ack {
            if consumer.prefetch > 0 {
                credit = credit.min(u64::from(consumer.prefetch).saturating_sub(consumer.unacked) as u32);
            }
            if let Some(channel) = connection.channels.get(&consumer.channel)
                && channel.global_prefetch > 0
            {
                let left = u64::from(channel.global_prefetch).saturating_sub(channel.consumer_unacked);
                credit = credit.min(left as u32);
            }
        }
        // bound what is in flight: at least one message, else as many as fit the window
        let window = self.limits.unsent_bytes - connection.unsent;
        let mean = self
            .queues
            .get(&queue)
            .and_then(|q| q.head())
            .map_or(1, |(_, head)| content_cost(head.bytes, head.count) / u64::from(head.count.max(1)) + 30);
        credit.min((window / mean.max(1)).max(1).min(u64::from(u32::MAX)) as u32)
    }

    /// Remembers that a consumer has no credit and why it will come back.
    fn unlist(&mut self, queue: QueueId, key: u64) {
        let _ = queue;
        let Some(consumer) = self.consumers.get_mut(&key) else { return };
        consumer.active = false;
        if let Some(connection) = self.connections.get_mut(&consumer.connection)
            && connection.unsent >= self.limits.unsent_bytes
            && !std::mem::replace(&mut consumer.stalled, true)
        {
            connection.stalled.push_back(key);
        }
    }

    /// Lists a consumer again whose credit may have returned.
    pub(crate) fn reactivate(&mut self, key: u64) {
        let Some(consumer) = self.consumers.get_mut(&key) else { return };
        if consumer.active {
            return;
        }
        consumer.active = true;
        let (queue_id, priority) = (consumer.queue, consumer.priority);
        if let Some(queue) = self.queues.get_mut(&queue_id) {
            if !queue.args.single_active {
                queue.activate(priority, key);
            }
            if queue.ready > 0 {
                self.mark_dirty(queue_id);
            }
        }
    }

    /// The socket took content: consumers that ran into the limit go on.
    pub(crate) fn on_written(&mut self, from: ConnectionId, n: u64) {
        let Some(connection) = self.connections.get_mut(&from) else { return };
        connection.unsent = connection.unsent.saturating_sub(n);
        if !connection.stalled.is_empty() && connection.unsent <= self.limits.unsent_bytes / 2 {
            self.relisting.push(from);
        }
    }

    /// Lists consumers again whose sockets have taken content: of each connection those of one queue, the one that has waited
    /// longest. Says whether a queue has to be served for that; it is called again until the room is spent. If all came
    /// back at once, the first would take the room each time, and of thousands of queues each would be served for nothing.
    pub(crate) fn relist(&mut self) -> bool {
        while self.dirty_queues.is_empty() && !self.relisting.is_empty() {
            for id in std::mem::take(&mut self.relisting) {
                let Some(connection) = self.connections.get_mut(&id) else { continue };
                if connection.unsent >= self.limits.unsent_bytes {
                    // it will be told of more that was written
                    continue;
                }
                let mut keys = Vec::new();
                let mut queue = None;
                // those of a queue ran out of room together, so they are neighbours
                while let Some(&key) = connection.stalled.front() {
                    if let Some(consumer) = self.consumers.get_mut(&key) {
                        if *queue.get_or_insert(consumer.queue) != consumer.queue {
                            break;
                        }
                        consumer.stalled = false;
                        keys.push(key);
                    }
                    connection.stalled.pop_front();
                }
                if !connection.stalled.is_empty() {
                    self.relisting.push(id);
                }
                for key in keys {
                    self.reactivate(key);
                }
            }
        }
        !self.dirty_queues.is_empty()
    }

    /// Those that took messages go to the end of the turn order.
    fn rotate(&mut self, id: QueueId, takers: &[u64], taken: u32) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Some(priority) = takers.first().and_then(|k| self.consumers.get(k)).map(|c| c.priority) else { return };
        if let Some(group) = queue.groups.iter_mut().find(|g| g.priority == priority) {
            let (n, k) = (taken as usize, takers.len().max(1));
            let turns = if k == group.active.len() { n % k } else { k };
            if !group.active.is_empty() {
                let n = turns % group.active.len();
                group.active.rotate_left(n);
            }
        }
    }

    /// Gives every `step`-th message of a segment from `offset` on to a consumer.
    #[allow(clippy::too_many_arguments)]
    fn hand_over(
        &mut self,
        now: Now,
        id: QueueId,
        level: u8,
        key: u64,
        segment: &Segment,
        offset: u32,
        step: u32,
        count: u32,
    ) {
        let Some(batch) = segment.batch.clone() else { return };
        let short = self.is_short();
        let Some(consumer) = self.consumers.get_mut(&key) else { return };
        let Some(connection) = self.connections.get_mut(&consumer.connection) else { return };
        let Some(channel) = connection.channels.get_mut(&consumer.channel) else { return };
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let from = segment.from + offset;
        let mut span = Span { batch: Arc::clone(&batch), from, count, step };
        let n = u64::from(count);
        let first_tag = channel.last_tag + 1;
        channel.last_tag += n;
        if segment.redelivered {
            queue.stats.redeliver += n;
            channel.stats.redeliver += n;
            self.totals.redeliver += n;
        }
        let range = SeqRange { first: segment.first + u64::from(offset), count, step };
        if queue.args.kind == QueueKind::Quorum && (segment.delivery_count > 0 || segment.acquired > 0) {
            span = crate::dead_letter::with_counts(&span, segment.delivery_count, segment.acquired);
        }
        let queue_is_quorum = queue.args.kind == QueueKind::Quorum;
        let octets: u64 = span.indexes().map(|i| u64::from(span.batch.meta(i).len)).sum();
        connection.unsent += content_cost(octets, count);
        if consumer.no_ack {
            for stats in [&mut queue.stats, &mut channel.stats, &mut self.totals] {
                stats.deliver_no_ack += n;
            }
            if segment.logged {
                let delay = self.limits.settle_delay_ms;
                self.log.settle(now, delay, queue, range, Left::Taken, &mut self.early);
            }
        } else {
            for stats in [&mut queue.stats, &mut channel.stats, &mut self.totals] {
                stats.deliver += n;
            }
            consumer.unacked += n;
            channel.consumer_unacked += n;
            let mut run = Unacked::new(first_tag, count, id, Some(key), range.first, step, batch, from);
            run.deadline = segment.deadline;
            run.delivery_count = segment.delivery_count;
            run.acquired = segment.acquired;
            run.logged = segment.logged;
            run.level = level;
            run.since = now.mono;
            let bytes = run.bytes;
            // when memory is short, what the log has is not kept for the case that it comes back
            if short && run.logged && run.range().last() < queue.droppable_upto() {
                run.batch = None;
                run.from = 0;
            } else {
                self.resident += bytes;
            }
            channel.unacked.push(run);
            if channel.unacked.is_crowded() {
                self.paging.note_crowded((consumer.connection, consumer.channel));
            }
            queue.unacked += n;
            queue.unacked_bytes += bytes;
        }
        let delivery =
            Delivery { consumer_tag: consumer.tag.clone(), first_tag, redelivered: segment.redelivered, span };
        if connection.effects.is_empty() {
            self.dirty_connections.push(connection.id);
        }
        connection.effects.push(ConnectionEffect::Channel(consumer.channel, ChannelEffect::Deliver(delivery)));
        let watched = consumer.timer.is_some();
        if !watched && queue_is_quorum {
            self.watch_consumer(now, key);
        }
    }

    /// Removes messages from the head whose deadline lies before `before`. Returns false when the head must be read from
    /// disk first (it is to be dead-lettered), or when there were too many for one slice.
    pub(crate) fn expire_head(&mut self, now: Now, id: QueueId, before: u64) -> bool {
        loop {
            let Some(queue) = self.queues.get_mut(&id) else { return true };
            // of a priority queue only the very next message is looked at, as RabbitMQ does
            let due = queue.head().filter(|(_, s)| s.deadline != 0 && s.deadline < before).map(|(level, _)| level);
            let Some(level) = due else {
                // a get changes the head without serving the queue
                self.arm_ttl(now, id);
                return true;
            };
            let dead_lettered = queue.settings.dead_letter_exchange.is_some();
            let resident = queue.levels.get(level).and_then(|r| r.front()).is_some_and(|s| s.batch.is_some());
            if dead_lettered && !resident {
                self.load_head(id);
                return false;
            }
            if self.units == 0 {
                self.fall_behind(id, false);
                return false;
            }
            let n = self.afford_head(id, level, dead_lettered, u32::MAX);
            let Some(segment) = self.queues.get_mut(&id).and_then(|q| q.take(level, n)) else { return true };
            self.let_die(now, id, segment, Reason::Expired);
        }
    }

    /// Drops from the head until the queue is inside its limits (`drop-head`).
    pub(crate) fn enforce_length(&mut self, now: Now, id: QueueId) {
        loop {
            let Some(queue) = self.queues.get_mut(&id) else { return };
            if queue.settings.overflow != Overflow::DropHead {
                return;
            }
            let excess = queue.settings.max_length.map_or(0, |max| queue.ready.saturating_sub(max));
            let over_bytes = queue.settings.max_length_bytes.is_some_and(|max| queue.ready_bytes > max);
            if excess == 0 && !over_bytes {
                return;
            }
            let Some((level, head)) = queue.head() else { return };
            let dead_lettered = queue.settings.dead_letter_exchange.is_some();
            if dead_lettered && head.batch.is_none() {
                self.load_head(id);
                return;
            }
            let mut n = u32::try_from(excess).unwrap_or(u32::MAX).min(head.count);
            if over_bytes {
                let mut over = queue.ready_bytes - queue.settings.max_length_bytes.unwrap_or(u64::MAX);
                let mut k = 0;
                while over > 0 && k < head.count {
                    let body = match &head.batch {
                        Some(batch) => u64::from(batch.meta(head.from + k).body),
                        None => head.bytes / u64::from(head.count),
                    };
                    over = over.saturating_sub(body.max(1));
                    k += 1;
                }
                n = n.max(k);
            }
            if self.units == 0 {
                self.fall_behind(id, true);
                return;
            }
            let n = self.afford_head(id, level, dead_lettered, n.max(1));
            let Some(segment) = self.queues.get_mut(&id).and_then(|q| q.take(level, n)) else { return };
            self.let_die(now, id, segment, Reason::MaxLen);
        }
    }

    /// A segment has left the ready list for good: it is dead-lettered where the queue says so, and settled.
    fn let_die(&mut self, now: Now, id: QueueId, segment: Segment, reason: Reason) {
        if segment.batch.is_some() {
            self.resident -= segment.bytes.min(self.resident);
        }
        let range = SeqRange::dense(segment.first, segment.count);
        let batch = segment.batch.map(|batch| (batch, segment.from));
        self.die(now, id, Dying { range, batch, logged: segment.logged, reason });
    }

    /// Arms the timer for the next deadline at a head.
    fn arm_ttl(&mut self, now: Now, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let next = queue.head().map(|(_, s)| s.deadline).filter(|d| *d != 0);
        let Some(deadline) = next else { return };
        // one ms later: a message dies when its deadline has passed
        let at = now.mono.plus_ms(deadline.saturating_sub(now.wall.0) + 1);
        if queue.ttl_timer.is_some_and(|t| t <= at) {
            return;
        }
        if let Some(old) = queue.ttl_timer.replace(at) {
            self.timers.disarm(old, TimerKey::MessageTtl(id));
        }
        self.timers.arm(at, TimerKey::MessageTtl(id));
    }

    pub(crate) fn on_timer(&mut self, now: Now, key: TimerKey) {
        match key {
            TimerKey::MessageTtl(id) => {
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.ttl_timer = None;
                    self.serve(now, id);
                }
            }
            TimerKey::QueueExpiry(id) => self.on_queue_expiry(now, id),
            TimerKey::ConsumerTimeout(key) => self.on_consumer_timeout(now, key),
            TimerKey::HeldBack(id) => self.on_held_back_due(now, id),
            TimerKey::Delayed(id) => self.on_delayed_due(now, id),
        }
    }
}
