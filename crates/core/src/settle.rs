//! Acknowledgements, rejections and requeueing [spec §1.8.3.13-16; RabbitMQ "Consumer Acknowledgements", "Negative
//! Acknowledgements"].

use crate::channel::unacked::{Taken, Unacked};
use crate::dead_letter::Reason;
use crate::log::Left;
use crate::queue::ready::Segment;
use crate::queue::{Counters, Dying, kept_books};
use crate::shard::Shard;
use crate::work::Ending;
use hornpipe_types::args::QueueKind;
use hornpipe_types::command::Settle;
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::error::AmqpError;
use hornpipe_types::ids::{ConnectionId, QueueId, Tag};
use hornpipe_types::time::Now;
use std::collections::BTreeMap;

/// Why messages go back to their queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Back {
    /// basic.nack or recover: no failure is counted.
    Returned,
    /// basic.reject, or the channel ended with the message outstanding: quorum queues count a failed delivery.
    Failed,
}

impl Ending {
    /// What a client's method means.
    pub(crate) fn of(how: Settle) -> Self {
        match how {
            Settle::Ack => Self::Acked,
            Settle::Nack { requeue: true } => Self::Returned(Back::Returned),
            Settle::Reject { requeue: true } => Self::Returned(Back::Failed),
            Settle::Nack { requeue: false } | Settle::Reject { requeue: false } => Self::Discarded,
        }
    }
}

/// Messages on their way back, by queue, the time they are held back until, and priority level.
#[derive(Debug, Default)]
pub(crate) struct Returning(BTreeMap<(QueueId, u64, u8), Vec<Segment>>);

impl Shard {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn on_settle(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        how: Settle,
        tag: Tag,
        count: u32,
        multiple: bool,
    ) -> Result<(), AmqpError> {
        let limits = (self.limits.tx_operations, self.limits.tx_bytes);
        let Some(channel) = self.channel_mut(from, number) else { return Ok(()) };
        let mut taken = Taken::default();
        let result = if multiple {
            channel.unacked.take_upto(tag).map(|all| taken = all)
        } else {
            channel.unacked.take(tag, count, &mut taken)
        };
        if let Some(tx) = &mut channel.tx {
            tx.operations += u64::from(count).max(taken.runs() as u64);
            let full = tx.operations > limits.0;
            if !taken.is_empty() {
                tx.settles.push((how, taken));
            }
            if full {
                return Err(crate::handle::tx::too_large(limits));
            }
        } else {
            self.settle_taken(now, (from, number), true, Ending::of(how), taken);
        }
        result.map_err(|tag| AmqpError::precondition(format!("unknown delivery tag {tag}")))
    }

    pub(crate) fn on_acked(&mut self, now: Now, channel: Option<(ConnectionId, u16)>, run: &Unacked, left: Left) {
        let n = u64::from(run.count);
        self.totals.ack += n;
        if let Some(channel) = channel.and_then(|(from, number)| self.channel_mut(from, number)) {
            channel.stats.ack += n;
        }
        let delay = self.limits.settle_delay_ms;
        let Some(queue) = kept_books(&mut self.queues, run.queue) else { return };
        queue.stats.ack += n;
        if run.logged {
            self.log.settle(now, delay, queue, run.range(), left, &mut self.early);
        }
    }

    /// A delivery is settled: consumer, channel and queue count it no longer.
    pub(crate) fn release_credit(&mut self, channel: Option<(ConnectionId, u16)>, run: &Unacked) {
        let n = u64::from(run.count);
        self.resident -= run.resident().min(self.resident);
        if let Some(queue) = self.queues.get_mut(&run.queue) {
            queue.unacked -= n.min(queue.unacked);
            queue.unacked_bytes -= run.bytes.min(queue.unacked_bytes);
            // parts of runs without bodies are estimates
            if queue.unacked == 0 {
                queue.unacked_bytes = 0;
            }
        }
        let mut channel = channel.and_then(|(from, number)| self.channel_mut(from, number));
        if let Some(channel) = &mut channel {
            channel.unacked.settled(n);
        }
        let Some(key) = run.consumer else { return };
        let mut shared = Vec::new();
        if let Some(channel) = channel {
            channel.consumer_unacked -= n.min(channel.consumer_unacked);
            if channel.global_prefetch > 0 {
                shared.extend(channel.consumers.iter().map(|(_, key)| *key));
            }
        }
        if let Some(consumer) = self.consumers.get_mut(&key) {
            consumer.unacked -= n.min(consumer.unacked);
            let settled_all = consumer.unacked == 0;
            if !consumer.active {
                self.reactivate(key);
            }
            // another of higher priority may have waited for this
            if settled_all && self.queues.get(&run.queue).is_some_and(|q| q.args.single_active) {
                self.mark_dirty(run.queue);
            }
        }
        for key in shared {
            self.reactivate(key);
        }
    }

    /// Messages leave for good: dead-lettered where the queue says so.
    pub(crate) fn discard(&mut self, now: Now, run: &Unacked, reason: Reason) {
        let batch = run.batch.clone().map(|batch| (batch, run.from));
        self.die(now, run.queue, Dying { range: run.range(), batch, logged: run.logged, reason });
    }

    /// Messages that were to return leave for good: a purge came between.
    pub(crate) fn settle_gone(&mut self, now: Now, run: &Unacked) {
        let delay = self.limits.settle_delay_ms;
        let Some(queue) = kept_books(&mut self.queues, run.queue) else { return };
        if run.logged {
            self.log.settle(now, delay, queue, run.range(), Left::Otherwise, &mut self.early);
        }
    }

    /// Takes messages back, marked as redelivered: they are put to their positions with others.
    pub(crate) fn take_back(&mut self, now: Now, run: &Unacked, back: Back, returned: &mut Returning) {
        let Some(queue) = kept_books(&mut self.queues, run.queue) else { return };
        let quorum = queue.args.kind == QueueKind::Quorum;
        let (mut delivery_count, mut acquired) = (run.delivery_count, run.acquired);
        if quorum {
            acquired += 1;
            if back == Back::Failed {
                delivery_count += 1;
            }
            if queue.settings.delivery_limit(&self.limits).is_some_and(|limit| u64::from(delivery_count) > limit) {
                self.discard(now, run, Reason::DeliveryLimit);
                return;
            }
        }
        let failed = back == Back::Failed;
        let wait = queue.settings.retry_delay_ms(u64::from(delivery_count), failed);
        let hold_until = if wait > 0 { now.wall.0 + wait } else { 0 };
        if run.logged && quorum {
            // quorum queues remember every count, and in which order messages came back
            for seq in run.range().iter() {
                let hold_until = if hold_until > 0 { hold_until } else { queue.give_place() };
                let counters = Counters { delivery_count, acquired: acquired.max(1), hold_until };
                queue.counters.insert(seq, counters);
                self.log.op(counters.op(run.queue, seq));
            }
        }
        // a quorum queue's returned messages stand together, whatever their priority
        let level = if quorum { 0 } else { run.level };
        let segments = returned.0.entry((run.queue, hold_until, level)).or_default();
        let piece = |offset: u32, count: u32| Segment {
            first: run.first + u64::from(offset) * u64::from(run.step),
            count,
            from: if run.batch.is_some() { run.from + offset * run.step } else { 0 },
            batch: run.batch.clone(),
            bytes: run.bytes_of(offset, count),
            deadline: run.deadline,
            delivery_count,
            acquired,
            redelivered: true,
            logged: run.logged,
        };
        if run.step == 1 {
            segments.push(piece(0, run.count));
        } else {
            segments.extend((0..run.count).map(|i| piece(i, 1)));
        }
    }

    /// Puts returned messages to their positions, or among those returned before.
    pub(crate) fn put_back(&mut self, now: Now, returned: Returning) {
        for ((id, hold_until, level), segments) in returned.0 {
            if hold_until > 0 {
                if let Some(queue) = self.queues.get_mut(&id) {
                    self.resident += queue.hold_back(hold_until, level, segments);
                    self.arm_held_back(now, id);
                }
                continue;
            }
            if let Some(queue) = self.queues.get_mut(&id) {
                self.resident += segments.iter().filter(|s| s.batch.is_some()).map(|s| s.bytes).sum::<u64>();
                queue.put_back(level, segments);
                self.mark_dirty(id);
            }
        }
    }

    pub(crate) fn on_recover(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        requeue: bool,
        nowait: bool,
    ) -> Result<(), AmqpError> {
        if !requeue {
            return Err(AmqpError::not_implemented("requeue=false"));
        }
        let taken = self.channel_mut(from, number).map(|channel| channel.unacked.take_all()).unwrap_or_default();
        self.settle_taken(now, (from, number), true, Ending::Returned(Back::Returned), taken);
        if !nowait {
            self.tell_settled(from, ConnectionEffect::Channel(number, ChannelEffect::RecoverOk));
        }
        Ok(())
    }
}
