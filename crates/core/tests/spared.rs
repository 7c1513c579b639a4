//! What need not be written if its consumers acknowledge it at once.

use hornpipe_testkit::{Broker, message};
use hornpipe_types::command::{ChannelCommand, Command, Consume, PublishRun, QueueDeclare, Settle};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::limits::Limits;
use hornpipe_types::message::BatchBuilder;
use hornpipe_types::table::FieldTable;

const PEER: ConnectionId = ConnectionId(1);

fn say(broker: &mut Broker, command: ChannelCommand) {
    broker.run(PEER, vec![Command::Channel(1, command)]);
}

fn declare(queue: &str) -> ChannelCommand {
    let (queue, arguments) = (queue.into(), FieldTable::default());
    let (passive, durable, exclusive, auto_delete, nowait) = (false, true, false, false, false);
    ChannelCommand::QueueDeclare(Box::new(QueueDeclare {
        queue,
        passive,
        durable,
        exclusive,
        auto_delete,
        nowait,
        arguments,
    }))
}

fn publish(queue: &str) -> ChannelCommand {
    let mut batch = BatchBuilder::default();
    let route = batch.push_route("", queue);
    message::push(&mut batch, route, &Properties { delivery_mode: Some(2), ..Properties::default() }, 1, 10);
    ChannelCommand::Publish(PublishRun { batch: batch.finish(), from: 0, count: 1, mandatory: false })
}

fn ack(tag: u64) -> ChannelCommand {
    ChannelCommand::Settle { how: Settle::Ack, tag, count: 1, multiple: false }
}

/// A queue with a consumer that takes two messages at a time, and one without.
fn broker() -> Broker {
    let mut broker = Broker::new(Limits::default(), 1);
    broker.open(PEER, 1, true);
    for queue in ["read", "unread"] {
        say(&mut broker, declare(queue));
    }
    say(&mut broker, ChannelCommand::Qos { prefetch_size: 0, prefetch_count: 2, global: false });
    let (no_ack, exclusive, nowait, arguments) = (false, false, false, FieldTable::default());
    let (queue, consumer_tag) = ("read".into(), "c".into());
    let consume = Consume { queue, consumer_tag, no_ack, exclusive, nowait, arguments };
    say(&mut broker, ChannelCommand::Consume(Box::new(consume)));
    broker.commit_all();
    broker
}

#[test]
fn what_a_consumer_has_may_be_spared_until_it_has_acknowledged_it() {
    let mut broker = broker();
    assert_eq!((broker.shard.may_be_spared(), broker.shard.oldest_pending()), (None, None));
    say(&mut broker, publish("read"));
    let first = broker.shard.may_be_spared();
    assert!(first.is_some() && first == broker.shard.oldest_pending());
    say(&mut broker, publish("read"));
    assert_eq!(broker.shard.may_be_spared(), first);
    say(&mut broker, ack(1));
    let second = broker.shard.may_be_spared();
    assert!(second > first);
    say(&mut broker, ack(2));
    assert_eq!((broker.shard.may_be_spared(), broker.shard.oldest_pending()), (None, None));
    assert!(!broker.take_group(), "all of it has cancelled itself");
}

#[test]
fn what_nobody_will_acknowledge_soon_is_written_at_once() {
    // it waits in a queue beside those that a consumer has
    let mut one = broker();
    say(&mut one, publish("read"));
    say(&mut one, publish("unread"));
    assert_eq!(one.shard.may_be_spared(), None);
    assert!(one.shard.oldest_pending().is_some());
    // the consumer has all it takes
    let mut two = broker();
    (0..3).for_each(|_| say(&mut two, publish("read")));
    assert_eq!(two.shard.may_be_spared(), None);
    // a definition waits too
    let mut three = broker();
    say(&mut three, publish("read"));
    say(&mut three, declare("more"));
    assert_eq!(three.shard.may_be_spared(), None);
}
