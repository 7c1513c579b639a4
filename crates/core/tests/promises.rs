//! What a client is told, and what the disk must have before.

use hornpipe_testkit::{Broker, message};
use hornpipe_types::command::{
    Bind, ChannelCommand, Command, Consume, ExchangeDeclare, PublishRun, QueueDeclare, Settle,
};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::limits::Limits;
use hornpipe_types::message::BatchBuilder;

const PUBLISHER: ConnectionId = ConnectionId(1);
const CONSUMER: ConnectionId = ConnectionId(2);

fn broker() -> Broker {
    let mut broker = Broker::new(Limits::default(), 1);
    for peer in [PUBLISHER, CONSUMER] {
        broker.open(peer, 1, true);
    }
    for queue in ["a", "z"] {
        broker.run(PUBLISHER, vec![on_channel(declare(queue))]);
    }
    broker.commit_all();
    told(&mut broker, PUBLISHER);
    told(&mut broker, CONSUMER);
    broker
}

fn on_channel(command: ChannelCommand) -> Command {
    Command::Channel(1, command)
}

/// What channel 1 of a connection was told, without what was delivered.
fn told(broker: &mut Broker, peer: ConnectionId) -> Vec<ChannelEffect> {
    let of_channel = |effect| match effect {
        ConnectionEffect::Channel(1, effect) if !matches!(effect, ChannelEffect::Deliver(_)) => Some(effect),
        _ => None,
    };
    broker.told(peer).into_iter().filter_map(of_channel).collect()
}

fn say(broker: &mut Broker, peer: ConnectionId, command: ChannelCommand) -> Vec<ChannelEffect> {
    broker.run(peer, vec![on_channel(command)]);
    told(broker, peer)
}

fn declare(queue: &str) -> ChannelCommand {
    let declare = QueueDeclare { queue: queue.into(), durable: true, ..QueueDeclare::default() };
    ChannelCommand::QueueDeclare(Box::new(declare))
}

fn publish(exchange: &str, key: &str, count: u32) -> ChannelCommand {
    let mut batch = BatchBuilder::default();
    let route = batch.push_route(exchange, key);
    let properties = Properties { delivery_mode: Some(2), ..Properties::default() };
    for k in 0..count {
        message::push(&mut batch, route, &properties, k.into(), 10);
    }
    ChannelCommand::Publish(PublishRun { batch: batch.finish(), from: 0, count, mandatory: false })
}

fn consume(queue: &str) -> ChannelCommand {
    ChannelCommand::Consume(Box::new(Consume { queue: queue.into(), ..Consume::default() }))
}

fn settle(how: Settle, upto: u64) -> ChannelCommand {
    ChannelCommand::Settle { how, tag: upto, count: 1, multiple: true }
}

/// What a consumer took needs no disk any more, and its publisher is told so: not another channel that has its number.
#[test]
fn a_channel_number_used_again_inherits_no_confirms() {
    for being_written in [false, true] {
        let mut broker = broker();
        say(&mut broker, CONSUMER, consume("a"));
        say(&mut broker, PUBLISHER, ChannelCommand::ConfirmSelect { nowait: true });
        say(&mut broker, PUBLISHER, publish("", "a", 5));
        if being_written {
            assert!(broker.take_group());
        }
        for command in [ChannelCommand::Close, ChannelCommand::Open, ChannelCommand::ConfirmSelect { nowait: true }] {
            say(&mut broker, PUBLISHER, command);
        }
        say(&mut broker, PUBLISHER, publish("", "z", 5));
        say(&mut broker, CONSUMER, settle(Settle::Ack, 5));
        let early = told(&mut broker, PUBLISHER);
        assert!(early.is_empty(), "the disk has none of it; being written {being_written}: {early:?}");
        broker.commit_all();
        let confirmed = told(&mut broker, PUBLISHER);
        assert!(matches!(confirmed[..], [ChannelEffect::Confirm { tag: 5, .. }]), "{confirmed:?}");
    }
}

/// The same channel's publishes are confirmed by what their consumer takes.
#[test]
fn what_a_consumer_took_is_confirmed_at_once() {
    let mut broker = broker();
    say(&mut broker, CONSUMER, consume("a"));
    say(&mut broker, PUBLISHER, ChannelCommand::ConfirmSelect { nowait: true });
    say(&mut broker, PUBLISHER, publish("", "a", 5));
    say(&mut broker, CONSUMER, settle(Settle::Ack, 5));
    let confirmed = told(&mut broker, PUBLISHER);
    assert!(matches!(confirmed[..], [ChannelEffect::Confirm { tag: 5, .. }]), "{confirmed:?}");
}

/// A commit does all it holds or nothing: an exchange that went meanwhile takes neither the publishes to others nor the
/// settlements with it.
#[test]
fn a_commit_that_fails_does_nothing() {
    let mut broker = broker();
    let fanout = ExchangeDeclare { exchange: "x".into(), kind: "fanout".into(), ..ExchangeDeclare::default() };
    say(&mut broker, PUBLISHER, ChannelCommand::ExchangeDeclare(Box::new(fanout)));
    say(&mut broker, PUBLISHER, publish("", "a", 10));
    say(&mut broker, CONSUMER, ChannelCommand::TxSelect);
    say(&mut broker, CONSUMER, consume("a"));
    say(&mut broker, CONSUMER, settle(Settle::Ack, 5));
    say(&mut broker, CONSUMER, settle(Settle::Nack { requeue: false }, 7));
    for exchange in ["", "x"] {
        say(&mut broker, CONSUMER, publish(exchange, "z", 1));
    }
    broker.commit_all();
    let delete = ChannelCommand::ExchangeDelete { exchange: "x".into(), if_unused: false, nowait: true };
    say(&mut broker, PUBLISHER, delete);
    let answer = say(&mut broker, CONSUMER, ChannelCommand::TxCommit);
    assert!(
        matches!(&answer[..], [ChannelEffect::Close(error)] if error.text.contains("no exchange 'x'")),
        "{answer:?}"
    );
    broker.commit_all();
    let queue = |broker: &mut Broker, name| broker.queue(name).map(|q| (q.messages_ready, q.messages_unacknowledged));
    assert_eq!(queue(&mut broker, "z"), Some((0, 0)), "published by a commit that failed");
    assert_eq!(queue(&mut broker, "a"), Some((10, 0)), "settlements of a commit that failed");
}

/// What somebody else made or removed a moment ago is there, or gone, once the disk knows: until then nobody is told so. What
/// waits for the disk beside it holds nobody up.
#[test]
fn what_another_made_is_there_once_the_disk_has_it() {
    let exchange = |passive| {
        let (exchange, kind) = ("x".into(), "direct".into());
        let declare = ExchangeDeclare { exchange, kind, passive, durable: true, ..ExchangeDeclare::default() };
        ChannelCommand::ExchangeDeclare(Box::new(declare))
    };
    let queue = |passive| {
        let declare = QueueDeclare { queue: "q".into(), passive, durable: true, ..QueueDeclare::default() };
        ChannelCommand::QueueDeclare(Box::new(declare))
    };
    let to = |destination: &str| {
        let source = "amq.direct".into();
        Box::new(Bind { destination: destination.into(), source, routing_key: "k".into(), ..Bind::default() })
    };
    let (if_unused, if_empty, nowait) = (false, false, false);
    let steps: [(ChannelCommand, Vec<ChannelCommand>); 8] = [
        (queue(false), vec![queue(false), queue(true)]),
        (exchange(false), vec![exchange(false), exchange(true)]),
        (ChannelCommand::QueueBind(to("q")), vec![ChannelCommand::QueueBind(to("q"))]),
        (ChannelCommand::ExchangeBind(to("x")), vec![ChannelCommand::ExchangeBind(to("x"))]),
        (ChannelCommand::QueueUnbind(to("q")), vec![ChannelCommand::QueueUnbind(to("q"))]),
        (ChannelCommand::ExchangeUnbind(to("x")), vec![ChannelCommand::ExchangeUnbind(to("x"))]),
        (
            ChannelCommand::QueueDelete { queue: "q".into(), if_unused, if_empty, nowait },
            vec![ChannelCommand::QueueDelete { queue: "q".into(), if_unused, if_empty, nowait }],
        ),
        (
            ChannelCommand::ExchangeDelete { exchange: "x".into(), if_unused, nowait },
            vec![ChannelCommand::ExchangeDelete { exchange: "x".into(), if_unused, nowait }],
        ),
    ];
    let mut broker = broker();
    for (first, again) in steps {
        let told_first = say(&mut broker, PUBLISHER, first);
        assert!(told_first.is_empty(), "{told_first:?}");
        assert!(broker.take_group());
        for command in again {
            let what = format!("{command:?}");
            let early = say(&mut broker, CONSUMER, command);
            assert!(early.is_empty(), "{what} told {early:?} before the disk knows");
        }
        assert!(broker.commit());
        assert!(!told(&mut broker, CONSUMER).is_empty());
        assert_eq!(told(&mut broker, PUBLISHER).len(), 1);
    }
    say(&mut broker, PUBLISHER, publish("", "a", 1));
    assert!(broker.take_group());
    assert_eq!(say(&mut broker, CONSUMER, declare("a")).len(), 1, "a message is on its way, the queue is there");
}

/// A reply waits for its own commit only, whatever was asked for before it on other channels.
#[test]
fn a_reply_does_not_wait_for_one_of_a_later_commit() {
    let mut broker = broker();
    assert!(say(&mut broker, PUBLISHER, declare("new")).is_empty());
    assert!(broker.take_group());
    say(&mut broker, PUBLISHER, publish("", "a", 1));
    let purge = ChannelCommand::QueuePurge { queue: "z".into(), nowait: false };
    assert!(say(&mut broker, PUBLISHER, purge).is_empty(), "it waits for all there is");
    assert!(say(&mut broker, CONSUMER, declare("new")).is_empty(), "it waits for the queue");
    assert!(broker.commit());
    let answers = told(&mut broker, CONSUMER);
    assert!(matches!(answers[..], [ChannelEffect::QueueDeclareOk { .. }]), "{answers:?}");
}

/// What asks for nothing but an answer waits like all others for those before it.
#[test]
fn answers_that_wait_for_nothing_come_behind_those_that_wait_for_the_disk() {
    let mut broker = broker();
    let asks = [declare("late"), ChannelCommand::Flow, ChannelCommand::AccessRequest];
    broker.run(PUBLISHER, asks.map(on_channel).into());
    assert!(told(&mut broker, PUBLISHER).is_empty());
    broker.commit_all();
    let told = told(&mut broker, PUBLISHER);
    let in_order = matches!(
        told[..],
        [ChannelEffect::QueueDeclareOk { .. }, ChannelEffect::FlowOk, ChannelEffect::AccessRequestOk]
    );
    assert!(in_order, "{told:?}");
}
