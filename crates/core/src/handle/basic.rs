//! Class basic but for publish and settlements: qos, consume, cancel, get [spec §1.8; RabbitMQ "Consumers", "Consumer
//! Prefetch", "Consumer Priorities", "Single Active Consumer", "Direct Reply-to"].

use crate::access::{Permission, Resource};
use crate::channel::unacked::Unacked;
use crate::connection::Consumer;
use crate::log::Left;
use crate::publish::REPLY_TO;
use crate::queue::WaitingGet;
use crate::shard::Shard;
use hornpipe_types::args::{ConsumerArgs, QueueKind};
use hornpipe_types::command::Consume;
use hornpipe_types::effect::{ChannelEffect, span_cost};
use hornpipe_types::error::{AmqpError, ReplyCode};
use hornpipe_types::ids::{ConnectionId, QueueId};
use hornpipe_types::names::ShortStr;
use hornpipe_types::range::SeqRange;
use hornpipe_types::time::Now;

fn exclusive_use(queue: &str, vhost: &str) -> AmqpError {
    AmqpError::access_refused(format!("queue '{queue}' in vhost '{vhost}' in exclusive use"))
}

impl Shard {
    pub(crate) fn on_qos(
        &mut self,
        from: ConnectionId,
        number: u16,
        prefetch_size: u32,
        prefetch_count: u16,
        global: bool,
    ) -> Result<(), AmqpError> {
        if prefetch_size != 0 {
            return Err(AmqpError::not_implemented(format!("prefetch_size!=0 ({prefetch_size})")));
        }
        let honoured = self.limits.global_qos;
        let mut consumers = Vec::new();
        if let Some(channel) = self.channel_mut(from, number) {
            if global && honoured {
                channel.global_prefetch = prefetch_count.into();
                consumers.extend(channel.consumers.iter().map(|(_, key)| *key));
            } else {
                channel.prefetch = prefetch_count.into();
                // a limit for each consumer lifts the one they shared, as at RabbitMQ
                if std::mem::take(&mut channel.global_prefetch) > 0 {
                    consumers.extend(channel.consumers.iter().map(|(_, key)| *key));
                }
            }
        }
        for key in consumers {
            self.reactivate(key);
        }
        self.reply(from, number, ChannelEffect::QosOk, None);
        Ok(())
    }

    pub(crate) fn on_consume(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        c: Consume,
    ) -> Result<(), AmqpError> {
        let Some((user, vhost, _)) = self.who(from) else { return Ok(()) };
        if c.queue == REPLY_TO {
            return self.consume_reply_to(from, number, &c);
        }
        let name = self.named_queue(from, number, &c.queue)?;
        self.access.check(&user, &vhost, Permission::Read, Resource::Queue, &name)?;
        let taken = self
            .channel_mut(from, number)
            .is_some_and(|ch| !c.consumer_tag.is_empty() && ch.consumers.iter().any(|(t, _)| *t == c.consumer_tag));
        if taken {
            let text = format!("attempt to reuse consumer tag '{}'", c.consumer_tag);
            return Err(AmqpError::new(ReplyCode::NotAllowed, text));
        }
        let id = self.find_queue(from, &name)?;
        let limit = self.limits.consumers_per_channel;
        let Some(channel) = self.channel_mut(from, number) else { return Ok(()) };
        let have = channel.consumers.len() as u32;
        let (prefetch, global) = (channel.prefetch, channel.global_prefetch);
        if limit > 0 && have >= limit {
            let text = format!("reached maximum ({limit}) of consumers per channel");
            return Err(AmqpError::new(ReplyCode::NotAllowed, text));
        }
        let Some(queue) = self.queues.get(&id) else { return Ok(()) };
        let kind = queue.args.kind;
        let args = ConsumerArgs::parse(&c.arguments, kind, &name, &vhost)?;
        if kind == QueueKind::Quorum && global > 0 {
            return Err(AmqpError::not_implemented(format!(
                "queue '{name}' in vhost '{vhost}' does not support global qos"
            )));
        }
        let exclusive = c.exclusive && kind == QueueKind::Classic;
        if queue.exclusive_consumer.is_some()
            || (exclusive && (!queue.consumers.is_empty() || queue.args.single_active))
        {
            return Err(exclusive_use(&name, &vhost));
        }
        let tag = if c.consumer_tag.is_empty() { self.generated_name("amq.ctag-") } else { c.consumer_tag.clone() };
        let key = self.next_consumer;
        self.next_consumer += 1;
        let consumer = Consumer {
            tag: tag.clone(),
            connection: from,
            channel: number,
            queue: id,
            no_ack: c.no_ack,
            exclusive,
            priority: args.priority,
            prefetch,
            unacked: 0,
            active: false,
            stalled: false,
            held: !c.nowait && self.is_held(from, number),
            timeout_ms: args.consumer_timeout_ms,
            timer: None,
            arguments: c.arguments,
        };
        self.consumers.insert(key, consumer);
        if let Some(channel) = self.channel_mut(from, number) {
            channel.consumers.push((tag.clone(), key));
        }
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.consumers.push(key);
            queue.had_consumer = true;
            if exclusive {
                queue.exclusive_consumer = Some(key);
            }
        }
        self.choose_single_active(id);
        if !c.nowait {
            self.reply(from, number, ChannelEffect::ConsumeOk { consumer_tag: tag }, None);
        }
        self.reactivate(key);
        let _ = now;
        Ok(())
    }

    /// Direct reply-to: a consumer without a queue.
    fn consume_reply_to(&mut self, from: ConnectionId, number: u16, c: &Consume) -> Result<(), AmqpError> {
        if !c.no_ack {
            return Err(AmqpError::precondition("reply consumer cannot acknowledge"));
        }
        if self.channel_mut(from, number).is_some_and(|ch| ch.reply_consumer.is_some()) {
            return Err(AmqpError::precondition("reply consumer already set"));
        }
        let tag = if c.consumer_tag.is_empty() { self.generated_name("amq.ctag-") } else { c.consumer_tag.clone() };
        let address = self.generated_name("g1h").to_string() + &format!(".{}.{number}", from.0);
        let address = ShortStr::new(&address);
        self.reply_addresses.insert(address.clone(), (from, number));
        if let Some(channel) = self.channel_mut(from, number) {
            channel.reply_consumer = Some((tag.clone(), address));
        }
        if !c.nowait {
            self.reply(from, number, ChannelEffect::ConsumeOk { consumer_tag: tag }, None);
        }
        Ok(())
    }

    /// Makes sure a single-active-consumer queue has an active one: the first registered among the highest priority.
    pub(crate) fn choose_single_active(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if !queue.args.single_active || queue.single_active.is_some() {
            return;
        }
        let consumers = &self.consumers;
        let next =
            queue.consumers.iter().copied().min_by_key(|key| (consumers.get(key).map_or(0, |c| -c.priority), *key));
        queue.single_active = next;
        if let Some(key) = next {
            if let Some(consumer) = self.consumers.get_mut(&key) {
                consumer.active = false;
            }
            self.reactivate(key);
        }
    }

    pub(crate) fn on_cancel(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        tag: &ShortStr,
        nowait: bool,
    ) -> Result<(), AmqpError> {
        let Some(channel) = self.channel_mut(from, number) else { return Ok(()) };
        if channel.reply_consumer.as_ref().is_some_and(|(t, _)| t == tag)
            && let Some((_, address)) = channel.reply_consumer.take()
        {
            self.reply_addresses.remove(&address);
        }
        let key = self
            .channel_mut(from, number)
            .and_then(|c| c.consumers.iter().position(|(t, _)| t == tag).map(|k| c.consumers.remove(k).1));
        if !nowait {
            self.reply(from, number, ChannelEffect::CancelOk { consumer_tag: tag.clone() }, None);
        }
        if let Some(key) = key
            && let Some(queue) = self.remove_consumer(now, key)
        {
            self.after_consumer_left(now, queue);
        }
        Ok(())
    }

    /// Takes a consumer off its queue; the channel has forgotten it already.
    pub(crate) fn remove_consumer(&mut self, now: Now, key: u64) -> Option<QueueId> {
        let consumer = self.consumers.remove(&key)?;
        let queue = self.queues.get_mut(&consumer.queue)?;
        queue.consumers.retain(|k| *k != key);
        queue.deactivate(key);
        if queue.exclusive_consumer == Some(key) {
            queue.exclusive_consumer = None;
        }
        if queue.single_active == Some(key) {
            queue.single_active = None;
        }
        queue.last_used = now.mono;
        Some(consumer.queue)
    }

    /// The next single active consumer takes over, an auto-delete queue without consumers goes.
    pub(crate) fn after_consumer_left(&mut self, now: Now, id: QueueId) {
        self.choose_single_active(id);
        // the active one goes on if this was the one of higher priority that it made way for
        if self.queues.get(&id).is_some_and(|q| q.args.single_active && q.ready > 0) {
            self.mark_dirty(id);
        }
        let Some(queue) = self.queues.get(&id) else { return };
        if queue.definition.auto_delete && queue.had_consumer && queue.consumers.is_empty() {
            self.delete_queue(now, id);
        } else if queue.consumers.is_empty() {
            self.arm_expiry(now, id);
        }
    }

    /// The broker ends a consumer: clients that asked for it are told.
    pub(crate) fn cancel_by_server(&mut self, key: u64) {
        let Some(consumer) = self.consumers.remove(&key) else { return };
        let (from, number) = (consumer.connection, consumer.channel);
        let Some(connection) = self.connections.get_mut(&from) else { return };
        let notify = connection.open.cancel_notify;
        if let Some(channel) = connection.channels.get_mut(&number) {
            channel.consumers.retain(|(_, k)| *k != key);
        }
        if notify && self.deleting == Some((from, number)) {
            self.cancelled.push(consumer.tag);
        } else if notify {
            self.tell(from, number, ChannelEffect::Cancel { consumer_tag: consumer.tag });
        }
    }

    pub(crate) fn on_get(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        queue: &ShortStr,
        no_ack: bool,
    ) -> Result<(), AmqpError> {
        let Some((user, vhost, _)) = self.who(from) else { return Ok(()) };
        let name = self.named_queue(from, number, queue)?;
        self.access.check(&user, &vhost, Permission::Read, Resource::Queue, &name)?;
        let id = self.find_queue(from, &name)?;
        if let Some(queue) = self.queues.get_mut(&id) {
            if queue.args.kind == QueueKind::Quorum && queue.args.single_active {
                return Err(AmqpError::new(
                    ReplyCode::ResourceLocked,
                    format!(
                        "cannot obtain access to locked queue '{name}' in vhost '{vhost}'. basic.get operations are not \
                         supported by quorum queues with single active consumer"
                    ),
                ));
            }
            queue.last_used = now.mono;
        }
        self.serve(now, id);
        let get = WaitingGet { connection: from, channel: number, no_ack, place: 0 };
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.waiting_gets.push_back(get);
        }
        self.serve_waiting_gets(now, id);
        let waits = |shard: &Self| shard.queues.get(&id)?.waiting_gets.iter().rposition(|g| g.place == 0);
        if let Some(k) = waits(self) {
            // what is answered meanwhile on this channel comes after it
            let place = self.hold_place(from, number);
            if let Some(get) = self.queues.get_mut(&id).and_then(|q| q.waiting_gets.get_mut(k)) {
                get.place = place;
            }
        }
        Ok(())
    }

    /// Answers basic.gets, in order, as far as the head is resident.
    pub(crate) fn serve_waiting_gets(&mut self, now: Now, id: QueueId) {
        loop {
            // while a get waited for the disk the head may have expired
            if self.queues.get(&id).is_none_or(|q| q.waiting_gets.is_empty())
                || self.is_held_up(id)
                || !self.expire_head(now, id, now.wall.0)
            {
                return;
            }
            let Some(queue) = self.queues.get_mut(&id) else { return };
            let Some(get) = queue.waiting_gets.front() else { return };
            let (from, number, no_ack, place) = (get.connection, get.channel, get.no_ack, get.place);
            if !self.is_wanted(from, number, place) {
                // a channel that closed while its get waited takes nothing
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.waiting_gets.pop_front();
                }
                continue;
            }
            let Some(queue) = self.queues.get_mut(&id) else { return };
            match queue.head() {
                None => {
                    queue.waiting_gets.pop_front();
                    queue.stats.get_empty += 1;
                    self.totals.get_empty += 1;
                    self.reply_in(from, number, place, ChannelEffect::GetEmpty);
                    continue;
                }
                Some((_, head)) if head.batch.is_none() => {
                    self.load_head(id);
                    return;
                }
                Some((level, _)) => {
                    queue.waiting_gets.pop_front();
                    self.answer_get(now, id, level, WaitingGet { connection: from, channel: number, no_ack, place });
                }
            }
        }
    }

    fn answer_get(&mut self, now: Now, id: QueueId, level: usize, get: WaitingGet) {
        let WaitingGet { connection: from, channel: number, no_ack, place } = get;
        let delay = self.limits.settle_delay_ms;
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Some(segment) = queue.take(level, 1) else { return };
        let Some(mut span) = segment.span() else { return };
        self.resident -= segment.bytes.min(self.resident);
        // what has expired behind it is not counted
        self.expire_head(now, id, now.wall.0 + 1);
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let messages = u32::try_from(queue.ready).unwrap_or(u32::MAX);
        if queue.args.kind == QueueKind::Quorum && (segment.delivery_count > 0 || segment.acquired > 0) {
            span = crate::dead_letter::with_counts(&span, segment.delivery_count, segment.acquired);
        }
        let Some(connection) = self.connections.get_mut(&from) else { return };
        connection.unsent += span_cost(&span);
        let Some(channel) = connection.channels.get_mut(&number) else { return };
        channel.last_tag += 1;
        let tag = channel.last_tag;
        for stats in [&mut queue.stats, &mut channel.stats, &mut self.totals] {
            if segment.redelivered {
                stats.redeliver += 1;
            }
            if no_ack { stats.get_no_ack += 1 } else { stats.get += 1 }
        }
        if no_ack {
            if segment.logged {
                let range = SeqRange::dense(segment.first, 1);
                self.log.settle(now, delay, queue, range, Left::Taken, &mut self.early);
            }
        } else if let Some(batch) = segment.batch.clone() {
            let mut run = Unacked::new(tag, 1, id, None, segment.first, 1, batch, segment.from);
            run.deadline = segment.deadline;
            run.delivery_count = segment.delivery_count;
            run.acquired = segment.acquired;
            run.logged = segment.logged;
            run.level = level as u8;
            run.since = now.mono;
            queue.unacked += 1;
            queue.unacked_bytes += segment.bytes;
            self.resident += segment.bytes;
            channel.unacked.push(run);
            if channel.unacked.is_crowded() {
                self.paging.note_crowded((from, number));
            }
        }
        let redelivered = segment.redelivered;
        self.reply_in(from, number, place, ChannelEffect::GetOk { tag, redelivered, messages, span });
    }
}
