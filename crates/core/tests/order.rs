//! Commands of a channel have their effects one after the other, however long each takes.

use hornpipe_testkit::{Broker, message};
use hornpipe_types::command::{ChannelCommand, Command, Consume, PublishRun, QueueDeclare, Settle};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect, Outbox};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::limits::Limits;
use hornpipe_types::message::BatchBuilder;
use hornpipe_types::table::{FieldTable, Value};
use std::collections::VecDeque;

const PEER: ConnectionId = ConnectionId(1);
const OTHER: ConnectionId = ConnectionId(2);
/// More than a slice, even where each costs least.
const COUNT: u64 = 3000;

fn on(command: ChannelCommand) -> Command {
    Command::Channel(1, command)
}

fn declare(queue: &str, passive: bool, arguments: &[(&str, Value)]) -> Command {
    let mut table = FieldTable::default();
    arguments.iter().for_each(|(key, value)| table.set(key, value.clone()));
    let queue = queue.into();
    on(ChannelCommand::QueueDeclare(Box::new(QueueDeclare {
        queue,
        passive,
        durable: true,
        arguments: table,
        ..QueueDeclare::default()
    })))
}

fn publish(queue: &str, count: u64) -> Command {
    let mut batch = BatchBuilder::default();
    let route = batch.push_route("", queue);
    let properties = Properties { delivery_mode: Some(2), ..Properties::default() };
    (0..count).for_each(|id| message::push(&mut batch, route, &properties, id, 10));
    let run = PublishRun { batch: batch.finish(), from: 0, count: count as u32, mandatory: false };
    on(ChannelCommand::Publish(run))
}

fn consume(queue: &str, no_ack: bool) -> Command {
    on(ChannelCommand::Consume(Box::new(Consume { queue: queue.into(), no_ack, ..Consume::default() })))
}

fn cancel() -> Command {
    on(ChannelCommand::Cancel { consumer_tag: "c".into(), nowait: true })
}

fn settle(how: Settle, tag: u64, multiple: bool) -> Command {
    on(ChannelCommand::Settle { how, tag, count: 1, multiple })
}

/// A broker whose connection `PEER` holds [`COUNT`] deliveries of `q`, two by two, and consumes no more.
fn broker(arguments: &[(&str, Value)]) -> Broker {
    let mut broker = Broker::new(Limits { slice_units: 64, ..Limits::default() }, 1);
    broker.open(PEER, 1, true);
    broker.open(OTHER, 1, true);
    broker.run(PEER, vec![declare("q", false, arguments), declare("dead", false, &[])]);
    broker.run(PEER, vec![publish("q", 3 * COUNT / 2)]);
    let consume = Consume { queue: "q".into(), consumer_tag: "c".into(), ..Consume::default() };
    broker.run(PEER, vec![on(ChannelCommand::Consume(Box::new(consume)))]);
    broker.commit_all();
    // gaps, so that it takes many slices whatever becomes of them
    let acks = (1..=3 * COUNT / 2).step_by(3).map(|tag| settle(Settle::Ack, tag, false));
    broker.run(PEER, acks.chain([cancel()]).collect());
    broker.commit_all();
    broker.told(PEER);
    broker
}

/// Ids of messages that `broker` leaves outstanding.
fn outstanding() -> Vec<u64> {
    (0..3 * COUNT / 2).filter(|id| id % 3 != 0).collect()
}

/// Hands in what `PEER` says as a driver does, a slice a turn, until it has been told what `until` looks for; all it was told.
fn hand_in(
    broker: &mut Broker,
    commands: Vec<Command>,
    until: impl Fn(&ConnectionEffect) -> bool,
) -> Vec<ConnectionEffect> {
    let (mut commands, mut out, mut told) = (VecDeque::from(commands), Outbox::default(), Vec::new());
    for turn in 0.. {
        broker.shard.handle_some(broker.now, PEER, &mut commands);
        broker.shard.poll_effects(broker.now, &mut out);
        let of_peer = out.connections.drain(..).filter(|(id, _)| *id == PEER);
        told.extend(of_peer.flat_map(|(_, effects)| effects));
        if told.iter().any(&until) {
            assert!(turn > 20, "{turn} turns for what is to be done in slices");
            break;
        }
        // the disk keeps pace
        if let Some(group) = broker.shard.poll_group(broker.now) {
            broker.disk.hand_over(group);
        }
        if let Some(committed) = broker.disk.commit() {
            broker.shard.handle_committed(broker.now, committed);
        }
        assert!(turn < 10_000, "it comes to no end");
    }
    told
}

fn is_purge_ok(effect: &ConnectionEffect) -> bool {
    matches!(effect, ConnectionEffect::Channel(1, ChannelEffect::QueuePurgeOk { .. }))
}

/// What a queue holds, in its order.
fn drain(broker: &mut Broker, queue: &str) -> Vec<u64> {
    broker.run(OTHER, vec![consume(queue, true)]);
    let mut ids = Vec::new();
    for effect in broker.told(OTHER) {
        let ConnectionEffect::Channel(1, ChannelEffect::Deliver(delivery)) = effect else { continue };
        ids.extend(delivery.span.indexes().map(|i| message::id_of(&delivery.span.batch, i)));
    }
    ids
}

/// Whether these are the ids of [`outstanding`].
fn assert_in_order(ids: &[u64]) {
    let wanted = outstanding();
    let wrong = ids.iter().zip(&wanted).position(|(id, wanted)| id != wanted);
    assert_eq!((ids.len(), wrong), (wanted.len(), None));
}

/// Returns or rejects two thirds of all deliveries with one command and the rest one by one, right behind it.
fn all_but_some_at_once(how: Settle, one: Settle) -> Vec<Command> {
    let tags = outstanding().into_iter().map(|id| id + 1);
    let upto = COUNT;
    let rest = tags.filter(|tag| *tag > upto).map(|tag| settle(one, tag, false));
    // something that is answered
    let last = on(ChannelCommand::QueuePurge { queue: "empty".into(), nowait: false });
    [declare("empty", false, &[]), settle(how, upto, true)].into_iter().chain(rest).chain([last]).collect()
}

#[test]
fn dead_letters_come_in_the_order_of_rejection() {
    let to_dead =
        [("x-dead-letter-exchange", Value::long_str("")), ("x-dead-letter-routing-key", Value::long_str("dead"))];
    let mut broker = broker(&to_dead);
    let (all, one) = (Settle::Nack { requeue: false }, Settle::Reject { requeue: false });
    hand_in(&mut broker, all_but_some_at_once(all, one), is_purge_ok);
    broker.commit_all();
    assert_in_order(&drain(&mut broker, "dead"));
}

#[test]
fn messages_return_to_a_quorum_queue_in_the_order_they_are_sent_back() {
    let mut broker = broker(&[("x-queue-type", Value::long_str("quorum"))]);
    let (all, one) = (Settle::Nack { requeue: true }, Settle::Nack { requeue: true });
    hand_in(&mut broker, all_but_some_at_once(all, one), is_purge_ok);
    broker.commit_all();
    assert_in_order(&drain(&mut broker, "q"));
}

/// Whoever acts on a reply finds everything done that it answers.
#[test]
fn a_reply_comes_when_all_is_back_in_its_queue() {
    use ChannelEffect as E;
    use ConnectionEffect::Channel;
    type Case = (Command, fn(&ConnectionEffect) -> bool);
    let cases: [Case; 5] = [
        (on(ChannelCommand::Close), |e| matches!(e, Channel(1, E::CloseOk))),
        (on(ChannelCommand::Recover { requeue: true, nowait: false }), |e| matches!(e, Channel(1, E::RecoverOk))),
        (consume("unheard of", true), |e| matches!(e, Channel(1, E::Close(_)))),
        (Command::Close, |e| matches!(e, ConnectionEffect::CloseOk)),
        (settle(Settle::Nack { requeue: true }, 0, true), is_purge_ok),
    ];
    for (command, is_reply) in cases {
        let shown = format!("{command:?}");
        let mut broker = broker(&[]);
        broker.run(PEER, vec![declare("empty", false, &[])]);
        let purge = on(ChannelCommand::QueuePurge { queue: "empty".into(), nowait: false });
        hand_in(&mut broker, vec![command, purge], is_reply);
        broker.run(OTHER, vec![declare("q", true, &[])]);
        let told = broker.told(OTHER);
        let ready = told.iter().find_map(|effect| match effect {
            Channel(1, E::QueueDeclareOk { messages, .. }) => Some(u64::from(*messages)),
            _ => None,
        });
        assert_eq!(ready, Some(COUNT), "after {shown}");
    }
}

/// A channel counts with what it sent back just before.
#[test]
fn counts_in_replies_include_what_was_sent_back_just_before() {
    use ChannelEffect as E;
    let count = |effect: &ConnectionEffect| match effect {
        ConnectionEffect::Channel(1, E::QueueDeclareOk { messages, .. }) => Some(*messages),
        ConnectionEffect::Channel(1, E::QueuePurgeOk { messages }) => Some(*messages),
        ConnectionEffect::Channel(1, E::QueueDeleteOk { messages }) => Some(*messages),
        ConnectionEffect::Channel(1, E::GetOk { messages, .. }) => Some(*messages + 1),
        _ => None,
    };
    let queue = || "q".into();
    for asks in [
        declare("q", true, &[]),
        on(ChannelCommand::QueuePurge { queue: queue(), nowait: false }),
        on(ChannelCommand::QueueDelete { queue: queue(), if_unused: false, if_empty: false, nowait: false }),
        on(ChannelCommand::Get { queue: queue(), no_ack: true }),
    ] {
        let shown = format!("{asks:?}");
        let mut broker = broker(&[]);
        let back = settle(Settle::Nack { requeue: true }, 0, true);
        let told = hand_in(&mut broker, vec![back, asks], |effect| count(effect).is_some());
        assert_eq!(told.iter().find_map(count).map(u64::from), Some(COUNT), "{shown}");
    }
}

/// Only the connection waits whose deliveries these are.
#[test]
fn others_go_on_while_a_connection_waits() {
    let mut broker = broker(&[]);
    let back = settle(Settle::Nack { requeue: true }, 0, true);
    let mut said = VecDeque::from([back, declare("q", true, &[])]);
    broker.shard.handle_some(broker.now, PEER, &mut said);
    assert_eq!(said.len(), 1);
    assert!(broker.shard.is_settling(PEER) && !broker.shard.is_settling(OTHER));
    let mut others = VecDeque::from([declare("dead", true, &[])]);
    broker.shard.handle_some(broker.now, OTHER, &mut others);
    let mut out = Outbox::default();
    broker.shard.poll_effects(broker.now, &mut out);
    assert!(format!("{:?}", out.connections).contains("QueueDeclareOk"), "{out:?}");
    assert!(broker.shard.is_settling(PEER));
    // what it was to be told goes nowhere, and nothing is left of it
    broker.shard.handle_commands(broker.now, PEER, &mut vec![Command::Gone]);
    broker.turn();
    assert!(!broker.shard.is_settling(PEER));
    assert_eq!(broker.queue("q").map(|q| (q.messages_ready, q.messages_unacknowledged)), Some((COUNT, 0)));
}
