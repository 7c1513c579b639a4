//! Publishers that are faster than the sockets of their consumers.

use hornpipe_testkit::{Broker, message};
use hornpipe_types::command::{ChannelCommand, Command, Consume, PublishRun, QueueDeclare};
use hornpipe_types::effect::ConnectionEffect;
use hornpipe_types::header::Properties;
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::limits::Limits;
use hornpipe_types::message::BatchBuilder;
use hornpipe_types::table::FieldTable;

const PUBLISHER: ConnectionId = ConnectionId(1);
const CONSUMER: ConnectionId = ConnectionId(2);

fn say(broker: &mut Broker, peer: ConnectionId, command: ChannelCommand) {
    broker.run(peer, vec![Command::Channel(1, command)]);
    broker.commit_all();
    let told = broker.told(peer);
    assert!(!told.iter().any(|e| matches!(e, ConnectionEffect::Close(_))), "{told:?}");
}

/// A queue and a consumer whose socket takes what it is told to take.
fn broker(prefetch: Option<u16>) -> Broker {
    let mut broker = Broker::new(Limits { unsent_bytes: 1000, ..Limits::default() }, 1);
    broker.sockets_write = false;
    for peer in [PUBLISHER, CONSUMER] {
        broker.open(peer, 1, true);
        broker.told(peer);
    }
    say(
        &mut broker,
        PUBLISHER,
        ChannelCommand::QueueDeclare(Box::new(QueueDeclare {
            queue: "q".into(),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: FieldTable::default(),
        })),
    );
    if let Some(prefetch_count) = prefetch {
        say(&mut broker, CONSUMER, ChannelCommand::Qos { prefetch_size: 0, prefetch_count, global: false });
    }
    broker
}

fn consume(broker: &mut Broker, no_ack: bool) {
    say(
        broker,
        CONSUMER,
        ChannelCommand::Consume(Box::new(Consume {
            queue: "q".into(),
            consumer_tag: "c".into(),
            no_ack,
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        })),
    );
}

/// Publishes messages of about 100 octets; whether they were too many.
fn publish(broker: &mut Broker, count: u32) -> bool {
    let mut b = BatchBuilder::default();
    let route = b.push_route("", "q");
    for id in 0..u64::from(count) {
        message::push(&mut b, route, &Properties::default(), id, 40);
    }
    let run = PublishRun { batch: b.finish(), from: 0, count, mandatory: false };
    say(broker, PUBLISHER, ChannelCommand::Publish(run));
    // what the turn could hand on doesn't count
    broker.shard.poll_outrun().is_some_and(|queue| broker.shard.is_outrun(queue))
}

#[test]
fn a_publisher_is_slowed_down_while_the_consumers_socket_is_behind() {
    let mut broker = broker(None);
    consume(&mut broker, true);
    assert!(!publish(&mut broker, 10), "the socket takes them");
    assert!(!publish(&mut broker, 10), "a few may wait");
    assert!(publish(&mut broker, 30));
    let queue = broker.queue("q").expect("declared").id;
    for _ in 0..10 {
        broker.write(CONSUMER);
    }
    assert!(!broker.shard.is_outrun(queue));
    assert!(!publish(&mut broker, 1));
}

#[test]
fn a_queue_that_keeps_messages_slows_nobody_down() {
    let mut nobody = broker(None);
    assert!(!publish(&mut nobody, 50), "no consumer");

    let mut acks = broker(Some(1));
    acks.sockets_write = true;
    consume(&mut acks, false);
    assert!(!publish(&mut acks, 50), "the consumer has what it asked for");

    let mut long = broker(None);
    consume(&mut long, true);
    publish(&mut long, 1000);
    assert!(!publish(&mut long, 1), "the consumer is beyond help");
}

#[test]
fn nobody_waits_for_a_socket_that_takes_nothing() {
    let mut broker = broker(None);
    consume(&mut broker, true);
    publish(&mut broker, 20);
    assert!(publish(&mut broker, 30));
    let queue = broker.queue("q").expect("declared").id;
    assert!(broker.shard.waiting_for_sockets(queue) > 2000);
    for _ in 0..7 {
        broker.shard.note_held(queue, false);
    }
    assert!(broker.shard.is_outrun(queue));
    broker.shard.note_held(queue, true);
    for _ in 0..8 {
        assert!(broker.shard.is_outrun(queue));
        broker.shard.note_held(queue, false);
    }
    assert!(!broker.shard.is_outrun(queue));
    assert!(!publish(&mut broker, 50), "the queue has not been short since");
    while broker.shard.waiting_for_sockets(queue) > 0 {
        broker.write(CONSUMER);
    }
    publish(&mut broker, 20);
    assert!(publish(&mut broker, 30), "it has now");
}
