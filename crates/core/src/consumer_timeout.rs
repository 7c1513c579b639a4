//! Deliveries that wait too long for their acknowledgement [RabbitMQ "Consumers: Delivery Acknowledgement Timeout"].
//!
//! As in RabbitMQ 4.3 only quorum queues look. The messages return to the queue; a client that asked to be told of
//! cancellations keeps its channel and loses the consumer, any other loses the channel.

use crate::settle::Back;
use crate::shard::Shard;
use crate::timer::TimerKey;
use crate::work::Ending;
use hornpipe_types::args::QueueKind;
use hornpipe_types::effect::ChannelEffect;
use hornpipe_types::error::AmqpError;
use hornpipe_types::time::Now;

impl Shard {
    /// Begins to watch a consumer that was just given messages, unless it is watched already.
    pub(crate) fn watch_consumer(&mut self, now: Now, key: u64) {
        let Some(consumer) = self.consumers.get_mut(&key) else { return };
        if consumer.timer.is_some() || consumer.no_ack {
            return;
        }
        let Some(queue) = self.queues.get(&consumer.queue) else { return };
        if queue.args.kind != QueueKind::Quorum {
            return;
        }
        let Some(timeout) = queue.settings.consumer_timeout(consumer.timeout_ms, &self.limits) else { return };
        let at = now.mono.plus_ms(timeout);
        consumer.timer = Some(at);
        self.timers.arm(at, TimerKey::ConsumerTimeout(key));
    }

    /// Looks whether the oldest delivery of a consumer is too old.
    pub(crate) fn on_consumer_timeout(&mut self, now: Now, key: u64) {
        let Some(consumer) = self.consumers.get_mut(&key) else { return };
        consumer.timer = None;
        let (from, number, queue) = (consumer.connection, consumer.channel, consumer.queue);
        let of_consumer = consumer.timeout_ms;
        let Some(queue) = self.queues.get(&queue) else { return };
        let Some(timeout) = queue.settings.consumer_timeout(of_consumer, &self.limits) else { return };
        let Some(connection) = self.connections.get_mut(&from) else { return };
        let notify = connection.open.cancel_notify;
        let Some(channel) = connection.channels.get_mut(&number) else { return };
        let Some(since) = channel.unacked.oldest_of(key) else { return };
        let due = since.plus_ms(timeout);
        if due > now.mono {
            if let Some(consumer) = self.consumers.get_mut(&key) {
                consumer.timer = Some(due);
                self.timers.arm(due, TimerKey::ConsumerTimeout(key));
            }
            return;
        }
        if !notify {
            let error = AmqpError::precondition(format!(
                "delivery acknowledgement on channel {number} timed out. Timeout value used: {timeout} ms. This timeout \
                 value can be configured, see consumers doc guide to learn more"
            ));
            self.fail_channel(now, from, number, error);
            return;
        }
        let taken = channel.unacked.take_of(key);
        channel.consumers.retain(|(_, k)| *k != key);
        let tag = self.consumers.get(&key).map(|c| c.tag.clone()).unwrap_or_default();
        let queue = self.remove_consumer(now, key);
        self.settle_taken(now, (from, number), true, Ending::Returned(Back::Failed), taken);
        self.tell(from, number, ChannelEffect::Cancel { consumer_tag: tag });
        if let Some(queue) = queue {
            self.after_consumer_left(now, queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Bootstrap, CoreConfig, Shard};
    use hornpipe_types::command::{ChannelCommand, Command, Consume, OpenConnection, PublishRun, QueueDeclare};
    use hornpipe_types::definition::UserDefinition;
    use hornpipe_types::effect::{ChannelEffect, ConnectionEffect, Outbox};
    use hornpipe_types::ids::ConnectionId;
    use hornpipe_types::message::{BatchBuilder, MessageMeta};
    use hornpipe_types::table::{FieldTable, Value};
    use hornpipe_types::time::{Instant, Now, UnixMillis};

    fn at(ms: u64) -> Now {
        Now { mono: Instant(ms * 1000), wall: UnixMillis(1_000_000 + ms) }
    }

    /// A consumer holds one message of a quorum queue longer than it may; what it is told.
    fn overdue(cancel_notify: bool) -> Vec<String> {
        let mut shard = Shard::new(CoreConfig::default());
        let user = UserDefinition { name: "u".into(), ..UserDefinition::default() };
        shard.finish_recovery(at(0), &Bootstrap { vhost: "/".into(), user });
        let open = OpenConnection { cancel_notify, ..OpenConnection::without_socket("c", "u", "/") };
        let mut arguments = FieldTable::default();
        arguments.set("x-queue-type", Value::long_str("quorum"));
        arguments.set("x-consumer-timeout", Value::I32(1000));
        let declare = QueueDeclare {
            queue: "q".into(),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            nowait: true,
            arguments,
        };
        let consume = Consume {
            queue: "q".into(),
            consumer_tag: "t".into(),
            no_ack: false,
            exclusive: false,
            nowait: true,
            arguments: FieldTable::default(),
        };
        let mut batch = BatchBuilder::default();
        let route = batch.push_route("", "q");
        batch.push_message(
            &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [&b"m"[..]],
            MessageMeta { route, ..MessageMeta::default() },
            0,
        );
        let run = PublishRun { batch: batch.finish(), from: 0, count: 1, mandatory: false };
        let mut commands = vec![Command::Open(Box::new(open))];
        for command in [
            ChannelCommand::Open,
            ChannelCommand::QueueDeclare(Box::new(declare)),
            ChannelCommand::Consume(Box::new(consume)),
            ChannelCommand::Publish(run),
        ] {
            commands.push(Command::Channel(1, command));
        }
        let mut out = Outbox::default();
        shard.handle_commands(at(0), ConnectionId(1), &mut commands);
        shard.poll_effects(at(0), &mut out);
        shard.handle_timeout(at(999));
        shard.poll_effects(at(999), &mut out);
        assert!(!format!("{out:?}").contains("Cancel"));
        let mut out = Outbox::default();
        assert_eq!(shard.poll_timeout(), Some(at(1000).mono));
        shard.handle_timeout(at(1000));
        shard.poll_effects(at(1000), &mut out);
        assert_eq!(shard.queues.values().map(|q| (q.ready, q.unacked)).collect::<Vec<_>>(), [(1, 0)]);
        let told = out.connections.into_iter().flat_map(|(_, effects)| effects);
        told.map(|e| match e {
            ConnectionEffect::Channel(_, ChannelEffect::Cancel { consumer_tag }) => format!("cancel {consumer_tag}"),
            ConnectionEffect::Channel(_, ChannelEffect::Close(error)) => error.to_string(),
            other => format!("{other:?}"),
        })
        .collect()
    }

    #[test]
    fn clients_that_ask_for_it_lose_the_consumer_others_the_channel() {
        assert_eq!(overdue(true), ["cancel t"]);
        let told = overdue(false);
        assert!(
            told[0].starts_with(
                "406 PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1000 ms."
            ),
            "{told:?}"
        );
    }
}
