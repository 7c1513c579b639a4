//! Single rules of RabbitMQ's that need a clock or a limit at hand.

use hornpipe_testkit::{Broker, message};
use hornpipe_types::command::{ChannelCommand, Command, Consume, PublishRun, QueueDeclare, Settle};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::limits::Limits;
use hornpipe_types::message::BatchBuilder;
use hornpipe_types::table::{FieldTable, Value};

const PEER: ConnectionId = ConnectionId(1);

fn broker(limits: Limits) -> Broker {
    let mut broker = Broker::new(limits, 1);
    broker.open(PEER, 1, true);
    broker.told(PEER);
    broker
}

fn say(broker: &mut Broker, command: ChannelCommand) -> Vec<ConnectionEffect> {
    broker.run(PEER, vec![Command::Channel(1, command)]);
    broker.commit_all();
    broker.told(PEER)
}

fn declare(kind: &str, passive: bool) -> ChannelCommand {
    let mut arguments = FieldTable::default();
    arguments.set("x-queue-type", Value::long_str(kind));
    arguments.set("x-expires", Value::I32(1000));
    let (queue, durable) = (kind.into(), true);
    let (exclusive, auto_delete, nowait) = (false, false, false);
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

fn consume(queue: &str, tag: &str, exclusive: bool) -> ChannelCommand {
    ChannelCommand::Consume(Box::new(Consume {
        queue: queue.into(),
        consumer_tag: tag.into(),
        no_ack: false,
        exclusive,
        nowait: false,
        arguments: FieldTable::default(),
    }))
}

fn is_consume_ok(told: &[ConnectionEffect]) -> bool {
    matches!(told, [ConnectionEffect::Channel(1, ChannelEffect::ConsumeOk { .. })])
}

#[test]
fn a_channel_has_so_many_consumers_and_no_more() {
    let mut broker = broker(Limits { consumers_per_channel: 2, ..Limits::default() });
    say(&mut broker, declare("classic", false));
    for tag in ["a", "b"] {
        assert!(is_consume_ok(&say(&mut broker, consume("classic", tag, false))));
    }
    let told = say(&mut broker, consume("classic", "c", false));
    let Some(ConnectionEffect::Close(error)) = told.last() else { panic!("{told:?}") };
    assert_eq!(error.to_string(), "530 NOT_ALLOWED - reached maximum (2) of consumers per channel");
}

#[test]
fn quorum_queues_take_exclusive_consumers_as_any_others() {
    let mut broker = broker(Limits::default());
    say(&mut broker, declare("quorum", false));
    for (tag, exclusive) in [("a", true), ("b", true), ("c", false)] {
        assert!(is_consume_ok(&say(&mut broker, consume("quorum", tag, exclusive))), "{tag}");
    }
}

/// Declaring again is use of a classic queue, not of a quorum queue; looking for it is use of both.
#[test]
fn what_renews_the_lease_of_a_queue() {
    for (kind, passive, lives) in
        [("classic", false, true), ("classic", true, true), ("quorum", false, false), ("quorum", true, true)]
    {
        let mut broker = broker(Limits::default());
        say(&mut broker, declare(kind, false));
        broker.advance(600);
        say(&mut broker, declare(kind, passive));
        broker.advance(600);
        broker.commit_all();
        assert_eq!(broker.queue(kind).is_some(), lives, "{kind}, passive {passive}");
    }
}

/// Consumers that wait for a socket are served a few at a time as it takes content: all of them in the end, in the order they
/// came to wait, also when nothing is left for those whose turn it is.
#[test]
fn consumers_that_wait_for_a_socket_all_get_their_turn() {
    const OTHER: ConnectionId = ConnectionId(2);
    const QUEUES: usize = 300;
    let mut broker = broker(Limits { unsent_bytes: 2000, ..Limits::default() });
    broker.open(OTHER, 1, true);
    let name = |k: usize| format!("q{k}");
    for k in 0..QUEUES {
        let (queue, arguments) = (name(k).as_str().into(), FieldTable::default());
        let (passive, durable, exclusive, auto_delete, nowait) = (false, true, false, false, false);
        let declare = QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments };
        say(&mut broker, ChannelCommand::QueueDeclare(Box::new(declare)));
        say(&mut broker, consume(&name(k), &name(k), false));
    }
    broker.sockets_write = false;
    let publish = |broker: &mut Broker, k: usize| {
        let mut batch = BatchBuilder::default();
        let route = batch.push_route("", &name(k));
        message::push(&mut batch, route, &Properties::default(), k as u64, 400);
        let run = PublishRun { batch: batch.finish(), from: 0, count: 1, mandatory: false };
        broker.run(OTHER, vec![Command::Channel(1, ChannelCommand::Publish(run))]);
    };
    for k in 0..QUEUES {
        publish(&mut broker, k);
    }
    // Somebody else empties what waits for consumers in the middle of the list.
    for k in 50..250 {
        broker.run(
            OTHER,
            vec![Command::Channel(1, ChannelCommand::QueuePurge { queue: name(k).as_str().into(), nowait: true })],
        );
    }
    let mut came = Vec::new();
    for _ in 0..QUEUES {
        for effect in broker.told(PEER) {
            if let ConnectionEffect::Channel(1, ChannelEffect::Deliver(delivery)) = effect {
                came.push(delivery.consumer_tag.to_string());
            }
        }
        broker.write(PEER);
    }
    let expected: Vec<String> = (0..50).chain(250..QUEUES).map(name).collect();
    assert_eq!(came, expected);
}

/// The queue "work", whose messages die after a while, and "dead", where they go.
fn declare_work_and_dead(broker: &mut Broker) {
    let mut arguments = FieldTable::default();
    arguments.set("x-dead-letter-exchange", Value::long_str(""));
    arguments.set("x-dead-letter-routing-key", Value::long_str("dead"));
    arguments.set("x-message-ttl", Value::I32(60_000));
    for (queue, arguments) in [("work", arguments), ("dead", FieldTable::default())] {
        let (passive, durable, exclusive, auto_delete, nowait) = (false, true, false, false, false);
        let queue = queue.into();
        let declare = QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments };
        say(broker, ChannelCommand::QueueDeclare(Box::new(declare)));
    }
}

/// What alike messages become is worked out once: each still has its own body, and headers and key where they differ.
#[test]
fn messages_that_die_together_keep_what_is_their_own() {
    let mut broker = broker(Limits::default());
    declare_work_and_dead(&mut broker);
    let marked = |mark: &str| {
        let mut headers = FieldTable::default();
        headers.set("mark", Value::long_str(mark));
        Properties { headers: Some(headers), delivery_mode: Some(2), ..Properties::default() }
    };
    let properties = [marked("a"), marked("a"), marked("b"), marked("a"), Properties::default(), Properties::default()];
    let mut batch = BatchBuilder::default();
    for (k, properties) in properties.iter().enumerate() {
        // the last ones have a route of their own, with the same words
        let hidden: &[&str] = if k < 5 { &[] } else { &["other"] };
        let route = batch.push_route_beside("", "work", false, hidden);
        message::push(&mut batch, route, properties, k as u64, 10 * k);
    }
    let run = PublishRun { batch: batch.finish(), from: 0, count: 6, mandatory: false };
    say(&mut broker, ChannelCommand::Publish(run));
    broker.advance(60_001);
    let mut came = Vec::new();
    for effect in say(&mut broker, consume("dead", "c", false)) {
        let ConnectionEffect::Channel(1, ChannelEffect::Deliver(delivery)) = effect else { continue };
        for i in delivery.span.indexes() {
            let batch = &delivery.span.batch;
            let mut found = message::properties(batch, i);
            let mut headers = found.headers.take().unwrap_or_default();
            assert!(matches!(headers.get("x-death"), Some(Value::Array(deaths)) if deaths.len() == 1));
            headers.0.retain(|(name, _)| name == "mark");
            found.headers = (!headers.is_empty()).then_some(headers);
            came.push((message::id_of(batch, i), batch.routing_key(i).to_owned(), found));
        }
    }
    let wanted = properties.into_iter().enumerate().map(|(k, p)| (k as u64, "dead".to_owned(), p));
    assert_eq!(came, wanted.collect::<Vec<_>>());
}

/// Work in slices doesn't change what a client sees: what it rejected before another deleted the queue is dead-lettered.
#[test]
fn what_was_rejected_before_its_queue_went_is_dead_lettered() {
    // one dead letter a slice
    let mut broker = broker(Limits { slice_units: 8, ..Limits::default() });
    declare_work_and_dead(&mut broker);
    say(&mut broker, consume("work", "c", false));
    let mut batch = BatchBuilder::default();
    let route = batch.push_route("", "work");
    for k in 0..3 {
        message::push(&mut batch, route, &Properties::default(), k, 10);
    }
    let run = PublishRun { batch: batch.finish(), from: 0, count: 3, mandatory: false };
    say(&mut broker, ChannelCommand::Publish(run));
    let reject = ChannelCommand::Settle { how: Settle::Reject { requeue: false }, tag: 1, count: 3, multiple: false };
    let delete = ChannelCommand::QueueDelete { queue: "work".into(), if_unused: false, if_empty: false, nowait: false };
    let other = ConnectionId(2);
    broker.open(other, 1, false);
    // the one that rejected them would wait
    broker.shard.handle_commands(broker.now, PEER, &mut vec![Command::Channel(1, reject)]);
    assert!(broker.shard.is_settling(PEER));
    broker.run(other, vec![Command::Channel(1, delete)]);
    broker.commit_all();
    assert_eq!(broker.queue("dead").map(|q| q.messages_ready), Some(3));
}

/// What can't go in whole goes in as far as it fits.
#[test]
fn dead_letters_fill_a_queue_that_refuses_what_is_too_much() {
    let mut broker = broker(Limits::default());
    let queue = |name: &str, arguments: &[(&str, Value)]| {
        let mut table = FieldTable::default();
        arguments.iter().for_each(|(key, value)| table.set(key, value.clone()));
        let (passive, durable, exclusive, auto_delete, nowait) = (false, true, false, false, false);
        let queue = name.into();
        let declare = QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments: table };
        ChannelCommand::QueueDeclare(Box::new(declare))
    };
    let full = [("x-max-length", Value::I32(50)), ("x-overflow", Value::long_str("reject-publish"))];
    say(&mut broker, queue("dead", &full));
    let dying = [
        ("x-message-ttl", Value::I32(100)),
        ("x-dead-letter-exchange", Value::long_str("")),
        ("x-dead-letter-routing-key", Value::long_str("dead")),
    ];
    say(&mut broker, queue("q", &dying));
    let mut batch = BatchBuilder::default();
    let route = batch.push_route("", "q");
    (0..100).for_each(|id| message::push(&mut batch, route, &Properties::default(), id, 10));
    let run = PublishRun { batch: batch.finish(), from: 0, count: 100, mandatory: false };
    say(&mut broker, ChannelCommand::Publish(run));
    broker.advance(200);
    broker.commit_all();
    assert_eq!(broker.queue("q").map(|q| q.messages_ready), Some(0));
    assert_eq!(broker.queue("dead").map(|q| q.messages_ready), Some(50));
}

#[test]
fn a_connection_that_opens_behind_the_stop_is_closed_like_the_others() {
    let mut broker = broker(Limits::default());
    broker.shard.handle_shutdown(broker.now, "the end");
    let late = ConnectionId(2);
    broker.open(late, 1, true);
    for peer in [PEER, late] {
        let told = broker.told(peer);
        let [ConnectionEffect::Close(error)] = &told[..] else { panic!("{peer}: {told:?}") };
        assert_eq!((error.code.number(), &*error.text), (320, "the end"));
    }
    assert!(broker.connections().is_empty());
}

/// The active consumer stops for one of higher priority, until what it has is settled; and goes on when that one leaves.
#[test]
fn a_single_active_consumer_goes_on_when_the_one_it_makes_way_for_leaves() {
    let mut broker = broker(Limits::default());
    let mut arguments = FieldTable::default();
    arguments.set("x-queue-type", Value::long_str("quorum"));
    arguments.set("x-single-active-consumer", Value::Bool(true));
    let (passive, durable, exclusive, auto_delete, nowait) = (false, true, false, false, false);
    let queue = "q".into();
    let declare = QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments };
    say(&mut broker, ChannelCommand::QueueDeclare(Box::new(declare)));
    let publish = |broker: &mut Broker| {
        let mut batch = BatchBuilder::default();
        let route = batch.push_route("", "q");
        message::push(&mut batch, route, &Properties::default(), 1, 10);
        let run = PublishRun { batch: batch.finish(), from: 0, count: 1, mandatory: false };
        say(broker, ChannelCommand::Publish(run)).len()
    };
    say(&mut broker, consume("q", "low", false));
    assert_eq!(publish(&mut broker), 1, "it is delivered");
    let mut arguments = FieldTable::default();
    arguments.set("x-priority", Value::I32(1));
    let (queue, consumer_tag) = ("q".into(), "high".into());
    let high = Consume { queue, consumer_tag, no_ack: false, exclusive: false, nowait: false, arguments };
    say(&mut broker, ChannelCommand::Consume(Box::new(high)));
    assert_eq!(publish(&mut broker), 0, "it waits for the first one to be settled");
    let told = say(&mut broker, ChannelCommand::Cancel { consumer_tag: "high".into(), nowait: true });
    assert!(
        matches!(&told[..], [ConnectionEffect::Channel(1, ChannelEffect::Deliver(d))] if d.consumer_tag == "low"),
        "{told:?}"
    );
}
