//! A commit that is more than a turn should do goes on in slices: others come to their turn between, and nothing is settled before all is
//! published.

use hornpipe_testkit::{Broker, message};
use hornpipe_types::command::{
    Bind, ChannelCommand, Command, Consume, ExchangeDeclare, PublishRun, QueueDeclare, Settle,
};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect, Outbox};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::{ConnectionId, QueueId, RequestId};
use hornpipe_types::limits::Limits;
use hornpipe_types::message::BatchBuilder;
use hornpipe_types::operate::Operation;
use hornpipe_types::table::{FieldTable, Value};
use std::collections::VecDeque;

const PEER: ConnectionId = ConnectionId(1);
const OTHER: ConnectionId = ConnectionId(2);
const OWNER: ConnectionId = ConnectionId(3);
const UNITS: u32 = 16;
/// Bound to the exchange `wide`: each publish there is several slices.
const QUEUES: u64 = 40;
/// What PEER has in hand of the queue `work` when its transaction begins.
const WORK: u64 = 100;
/// What the transaction publishes.
const PUBLISHES: u64 = 10;

fn on(command: ChannelCommand) -> Command {
    Command::Channel(1, command)
}

fn name(n: u64) -> String {
    format!("q{n}")
}

fn declare(queue: &str, arguments: &[(&str, Value)]) -> Command {
    let mut table = FieldTable::default();
    arguments.iter().for_each(|(key, value)| table.set(key, value.clone()));
    let declare =
        QueueDeclare { queue: queue.into(), durable: true, nowait: true, arguments: table, ..QueueDeclare::default() };
    on(ChannelCommand::QueueDeclare(Box::new(declare)))
}

fn full() -> [(&'static str, Value); 2] {
    [("x-max-length", Value::I32(0)), ("x-overflow", Value::long_str("reject-publish"))]
}

fn bind(queue: &str) -> Command {
    let bind = Bind {
        destination: queue.into(),
        source: "wide".into(),
        routing_key: "".into(),
        nowait: true,
        arguments: FieldTable::default(),
    };
    on(ChannelCommand::QueueBind(Box::new(bind)))
}

fn publish(exchange: &str, key: &str, id: u64) -> Command {
    let mut batch = BatchBuilder::default();
    let route = batch.push_route(exchange, key);
    let properties = Properties { delivery_mode: Some(2), ..Properties::default() };
    message::push(&mut batch, route, &properties, id, 10);
    on(ChannelCommand::Publish(PublishRun { batch: batch.finish(), from: 0, count: 1, mandatory: false }))
}

fn settle(how: Settle, tag: u64) -> Command {
    on(ChannelCommand::Settle { how, tag, count: 1, multiple: false })
}

fn commit() -> Command {
    on(ChannelCommand::TxCommit)
}

/// Publishes that are many slices, and the settlement of all that is in hand but the last, each second one by itself: that many runs.
fn transaction(how: Settle) -> Vec<Command> {
    // a key that would be a queue in the default exchange
    let mut said: Vec<Command> = (0..PUBLISHES).map(|id| publish("wide", "q0", id)).collect();
    // nobody gets it
    said.insert(PUBLISHES as usize / 2, publish("narrow", "", 77));
    let tags = || 1..WORK;
    said.extend(tags().filter(|tag| tag % 2 == 1).chain(tags().filter(|tag| tag % 2 == 0)).map(|tag| settle(how, tag)));
    said
}

const WORK_QUEUE: QueueId = QueueId(1);
const DEAD_QUEUE: QueueId = QueueId(2);

fn queue_id(n: u64) -> QueueId {
    QueueId(n + 3)
}

/// PEER has a transaction and all of `work` in hand; what dies there goes to `dead`.
fn broker() -> Broker {
    let mut broker = Broker::new(Limits { slice_units: UNITS, settle_delay_ms: 0, ..Limits::default() }, 1);
    [PEER, OTHER, OWNER].into_iter().for_each(|id| broker.open(id, 1, true));
    let mortal =
        [("x-dead-letter-exchange", Value::long_str("")), ("x-dead-letter-routing-key", Value::long_str("dead"))];
    let exchange = |name: &str| {
        let declare =
            ExchangeDeclare { exchange: name.into(), kind: "fanout".into(), nowait: true, ..Default::default() };
        on(ChannelCommand::ExchangeDeclare(Box::new(declare)))
    };
    let mut said = vec![declare("work", &mortal), declare("dead", &[]), exchange("wide"), exchange("narrow")];
    said.extend((0..QUEUES).flat_map(|n| [declare(&name(n), &[]), bind(&name(n))]));
    said.extend((0..WORK).map(|id| publish("", "work", id)));
    broker.run(OWNER, said);
    let consume = Consume { queue: "work".into(), ..Consume::default() };
    broker.run(PEER, vec![on(ChannelCommand::Consume(Box::new(consume))), on(ChannelCommand::TxSelect)]);
    broker.commit_all();
    assert_eq!(ids(&broker.told(PEER)).len() as u64, WORK);
    assert_eq!(broker.queue("dead").expect("declared").id, DEAD_QUEUE);
    assert_eq!(broker.queue(&name(QUEUES - 1)).expect("declared").id, queue_id(QUEUES - 1));
    broker
}

type Told = Vec<(ConnectionId, ConnectionEffect)>;

/// One turn, as a driver takes it, without the disk.
fn turn(broker: &mut Broker, from: ConnectionId, commands: &mut VecDeque<Command>) -> Told {
    broker.shard.handle_some(broker.now, from, commands);
    let mut out = Outbox::default();
    broker.shard.poll_effects(broker.now, &mut out);
    out.connections.into_iter().flat_map(|(id, effects)| effects.into_iter().map(move |e| (id, e))).collect()
}

/// The disk takes what there is.
fn write(broker: &mut Broker) {
    if let Some(group) = broker.shard.poll_group(broker.now) {
        broker.disk.hand_over(group);
    }
    while let Some(committed) = broker.disk.commit() {
        broker.shard.handle_committed(broker.now, committed);
    }
}

/// Turns until nothing is left to do.
fn rest(broker: &mut Broker) -> Told {
    let mut told = Vec::new();
    for _ in 0..10_000 {
        told.extend(turn(broker, OWNER, &mut VecDeque::new()));
        let done = !broker.shard.is_working() && !broker.shard.has_work();
        write(broker);
        if done {
            told.extend(turn(broker, OWNER, &mut VecDeque::new()));
            return told;
        }
    }
    panic!("it comes to no end");
}

/// A transaction has been said and its commit begun; what is left to say.
fn begin(broker: &mut Broker, how: Settle) -> VecDeque<Command> {
    broker.run(PEER, transaction(how));
    let asks = QueueDeclare { queue: "work".into(), passive: true, ..QueueDeclare::default() };
    let mut said = VecDeque::from([commit(), on(ChannelCommand::QueueDeclare(Box::new(asks)))]);
    assert_eq!(is_committed(&turn(broker, PEER, &mut said)), 0);
    assert!(broker.shard.is_settling(PEER) && said.len() == 1);
    said
}

fn is_committed(told: &Told) -> usize {
    let ok =
        |e: &&(ConnectionId, ConnectionEffect)| matches!(e.1, ConnectionEffect::Channel(1, ChannelEffect::TxCommitOk));
    told.iter().filter(ok).count()
}

/// The errors that closed a connection's channel.
fn errors(told: &Told, of: ConnectionId) -> Vec<(u16, (u16, u16))> {
    told.iter()
        .filter(|(id, _)| *id == of)
        .filter_map(|(_, effect)| match effect {
            ConnectionEffect::Channel(1, ChannelEffect::Close(e)) | ConnectionEffect::Close(e) => {
                Some((e.code as u16, e.method))
            }
            _ => None,
        })
        .collect()
}

fn ids<'a>(told: impl IntoIterator<Item = &'a ConnectionEffect>) -> Vec<u64> {
    told.into_iter()
        .flat_map(|effect| match effect {
            ConnectionEffect::Channel(1, ChannelEffect::Deliver(delivery)) => {
                delivery.span.indexes().map(|i| message::id_of(&delivery.span.batch, i)).collect()
            }
            _ => Vec::new(),
        })
        .collect()
}

fn on_disk(broker: &Broker, queue: QueueId) -> Vec<u64> {
    broker.disk.messages(queue).iter().map(|(batch, i)| message::id_of(batch, *i)).collect()
}

/// Ready and unacked.
fn depth(broker: &mut Broker, queue: &str) -> (u64, u64) {
    let queue = broker.queue(queue).expect("declared");
    (queue.messages_ready, queue.messages_unacknowledged)
}

#[test]
fn what_fits_a_turn_is_one_turn_and_one_group() {
    let mut broker = broker();
    broker
        .run(PEER, (0..4).map(|id| publish("", &name(id), id)).chain((1..4).map(|t| settle(Settle::Ack, t))).collect());
    turn(&mut broker, PEER, &mut VecDeque::from([commit()]));
    assert!(!broker.shard.is_working());
    let group = broker.shard.poll_group(broker.now).expect("there is something to write");
    assert!(broker.shard.poll_group(broker.now).is_none());
    broker.disk.hand_over(group);
    assert_eq!((on_disk(&broker, queue_id(3)).len(), on_disk(&broker, WORK_QUEUE).len() as u64), (0, WORK));
    write(&mut broker);
    assert_eq!((on_disk(&broker, queue_id(3)).len(), on_disk(&broker, WORK_QUEUE).len() as u64), (1, WORK - 3));
    assert_eq!(is_committed(&turn(&mut broker, PEER, &mut VecDeque::new())), 1);
}

#[test]
fn others_are_served_between_and_the_channel_waits() {
    let mut broker = broker();
    let mut said = begin(&mut broker, Settle::Ack);
    let mut turns = 0;
    while broker.shard.is_settling(PEER) {
        let ask = on(ChannelCommand::Get { queue: "q0".into(), no_ack: true });
        let told = turn(&mut broker, OTHER, &mut VecDeque::from([ask]));
        assert!(told.iter().any(|(id, _)| *id == OTHER), "{told:?}");
        turn(&mut broker, PEER, &mut said);
        assert!(said.len() == 1 || !broker.shard.is_settling(PEER));
        write(&mut broker);
        turns += 1;
    }
    assert!(turns > (PUBLISHES * QUEUES + WORK) as u32 / UNITS / 4, "{turns} turns");
    turn(&mut broker, PEER, &mut said);
    rest(&mut broker);
    assert_eq!((depth(&mut broker, "q1"), depth(&mut broker, "work")), ((PUBLISHES, 0), (0, 1)));
}

#[test]
fn each_queue_gets_the_publishes_in_their_order() {
    let mut broker = broker();
    let said = begin(&mut broker, Settle::Ack);
    // from another, while it goes on
    turn(&mut broker, OTHER, &mut VecDeque::from([publish("", &name(QUEUES - 1), 99)]));
    let told = rest(&mut broker);
    assert_eq!((is_committed(&told), said.len()), (1, 1));
    for n in 0..QUEUES {
        let mut ids = on_disk(&broker, queue_id(n));
        ids.retain(|id| *id != 99);
        assert_eq!(ids, (0..PUBLISHES).collect::<Vec<_>>(), "{}", name(n));
    }
}

/// Whatever the disk holds when the broker dies, and whenever that is.
#[test]
fn nothing_is_settled_on_disk_before_all_is_published_there_and_commit_ok_comes_last() {
    // the disk takes what there is in each turn, or in each so-many-th
    for every in [1, 2, 7] {
        for how in [Settle::Ack, Settle::Nack { requeue: false }] {
            let mut broker = broker();
            begin(&mut broker, how);
            let (mut partly, mut committed) = (0, 0);
            for n in 1..10_000 {
                let told = turn(&mut broker, OWNER, &mut VecDeque::new());
                let published: usize = (0..QUEUES).map(|n| on_disk(&broker, queue_id(n)).len()).sum();
                let all = published as u64 == PUBLISHES * QUEUES;
                let held = on_disk(&broker, WORK_QUEUE).len() as u64;
                let dead = on_disk(&broker, DEAD_QUEUE).len() as u64;
                assert!(all || held == WORK, "{published} are published and {held} left");
                assert_eq!(held + if how == Settle::Ack { WORK - held } else { dead }, WORK);
                partly += u32::from(published > 0 && !all);
                committed += is_committed(&told);
                assert!(committed == 0 || (all && held == 1), "{published} are published and {held} left");
                if committed > 0 {
                    break;
                }
                if n % every == 0 {
                    write(&mut broker);
                }
            }
            assert!(committed == 1 && partly > 0, "{committed} commits after {partly} parts");
        }
    }
}

/// What died is routed on in the order in which it was rejected.
#[test]
fn dead_letters_of_a_commit_keep_their_order() {
    let mut broker = broker();
    begin(&mut broker, Settle::Nack { requeue: false });
    assert_eq!(is_committed(&rest(&mut broker)), 1);
    let odd = (0..WORK - 1).filter(|id| id % 2 == 0);
    let even = (0..WORK - 1).filter(|id| id % 2 == 1);
    assert_eq!(on_disk(&broker, DEAD_QUEUE), odd.chain(even).collect::<Vec<_>>());
}

/// A queue hands out none of what comes back to it before all of it is at its place.
#[test]
fn what_a_commit_returns_is_handed_out_in_order() {
    let mut broker = broker();
    begin(&mut broker, Settle::Nack { requeue: true });
    let consume = Consume { queue: "work".into(), no_ack: true, ..Consume::default() };
    let mut told = turn(&mut broker, OTHER, &mut VecDeque::from([on(ChannelCommand::Consume(Box::new(consume)))]));
    told.extend(turn(&mut broker, OWNER, &mut VecDeque::from([])));
    // so that PEER gets nothing of it
    let cancel = Operation::CloseConnection { connection: PEER, reason: String::new() };
    while on_disk(&broker, queue_id(QUEUES - 1)).len() as u64 != PUBLISHES {
        told.extend(turn(&mut broker, OWNER, &mut VecDeque::new()));
        write(&mut broker);
    }
    assert!(broker.shard.is_settling(PEER));
    broker.shard.handle_operation(broker.now, RequestId(7), &"guest".into(), cancel);
    told.extend(rest(&mut broker));
    let to = |of| ids(told.iter().filter(move |(id, _)| *id == of).map(|(_, effect)| effect));
    assert_eq!((to(OTHER), to(PEER)), ((0..WORK).collect(), Vec::new()));
}

/// How a channel may end while its commit goes on, and of what it is told then.
type End = (fn(&mut Broker), (u16, (u16, u16)));

#[test]
fn a_channel_that_ends_before_all_is_published_settles_nothing() {
    let closed: End = (
        |broker| {
            let close = Operation::CloseConnection { connection: PEER, reason: "enough".to_owned() };
            broker.shard.handle_operation(broker.now, RequestId(7), &"guest".into(), close);
        },
        (320, (0, 0)),
    );
    let gone: End = (
        |broker| {
            let (exchange, if_unused, nowait) = ("narrow".into(), false, true);
            let delete = on(ChannelCommand::ExchangeDelete { exchange, if_unused, nowait });
            turn(broker, OTHER, &mut VecDeque::from([delete]));
        },
        (404, (90, 20)),
    );
    for (end, error) in [closed, gone] {
        for how in [Settle::Ack, Settle::Nack { requeue: false }] {
            let mut broker = broker();
            begin(&mut broker, how);
            turn(&mut broker, OWNER, &mut VecDeque::new());
            end(&mut broker);
            let told = rest(&mut broker);
            assert_eq!((errors(&told, PEER), is_committed(&told)), (vec![error], 0));
            assert_eq!((depth(&mut broker, "work"), depth(&mut broker, "dead")), ((WORK, 0), (0, 0)));
            assert_eq!(on_disk(&broker, WORK_QUEUE).len() as u64, WORK);
            // in whole messages
            let there = depth(&mut broker, "q0").0;
            assert!((1..PUBLISHES).contains(&there), "{there}");
            assert!((0..QUEUES).all(|n| depth(&mut broker, &name(n)).0 == there));
        }
    }
}

#[test]
fn a_channel_that_ends_after_all_is_published_settles_all() {
    let mut broker = broker();
    begin(&mut broker, Settle::Nack { requeue: false });
    while on_disk(&broker, DEAD_QUEUE).is_empty() {
        turn(&mut broker, OWNER, &mut VecDeque::new());
        write(&mut broker);
    }
    assert!(broker.shard.is_settling(PEER));
    let close = Operation::CloseConnection { connection: PEER, reason: "enough".to_owned() };
    broker.shard.handle_operation(broker.now, RequestId(7), &"guest".into(), close);
    let told = rest(&mut broker);
    assert_eq!((errors(&told, PEER), is_committed(&told)), (vec![(320, (0, 0))], 0));
    assert_eq!((depth(&mut broker, "work"), depth(&mut broker, "dead")), ((1, 0), (WORK - 1, 0)));
}

/// Each is told of its own.
#[test]
fn a_refusal_is_told_to_the_commit_it_was_part_of() {
    for peers_is_refused in [true, false] {
        let mut broker = broker();
        broker.run(OWNER, vec![declare("full", &full())]);
        broker.run(OTHER, vec![on(ChannelCommand::TxSelect)]);
        broker.commit_all();
        let wide = |id| publish("wide", "", id);
        let refused = || publish("", "full", 7);
        let (first, second) = if peers_is_refused { (Some(refused()), None) } else { (None, Some(refused())) };
        broker.run(PEER, first.into_iter().chain((0..4).map(wide)).chain([settle(Settle::Ack, 1)]).collect());
        broker.run(OTHER, (10..12).map(wide).chain(second).chain([wide(12)]).collect());
        let mut told = Vec::new();
        // both go on, and a third that has no transaction is refused in each turn
        for id in [PEER, OTHER] {
            told.extend(turn(&mut broker, id, &mut VecDeque::from([commit()])));
            assert!(broker.shard.is_settling(id));
        }
        while broker.shard.is_working() {
            told.extend(turn(&mut broker, OWNER, &mut VecDeque::from([refused()])));
            write(&mut broker);
        }
        told.extend(rest(&mut broker));
        let (wrong, right) = if peers_is_refused { (PEER, OTHER) } else { (OTHER, PEER) };
        assert_eq!((errors(&told, wrong), errors(&told, right)), (vec![(406, (90, 20))], vec![]));
        assert_eq!(is_committed(&told), 1);
        // what was not refused is there, and what was settled is settled, as ever
        assert_eq!((depth(&mut broker, "q0").0, on_disk(&broker, WORK_QUEUE).len() as u64), (7, WORK - 1));
    }
}

/// A refusal in one of the slices of a message for many queues.
#[test]
fn a_refusal_among_many_queues_is_told() {
    let mut broker = broker();
    broker.run(OWNER, vec![declare("full", &full()), bind("full")]);
    broker.commit_all();
    begin(&mut broker, Settle::Ack);
    let told = rest(&mut broker);
    assert_eq!((errors(&told, PEER), is_committed(&told)), (vec![(406, (90, 20))], 0));
    assert_eq!((depth(&mut broker, "q39"), depth(&mut broker, "work")), ((PUBLISHES, 0), (1, 0)));
}

/// Who published what a transaction acknowledges is told when that is on disk with the rest: else a crash may find neither what was
/// published nor what was taken for it.
#[test]
fn what_a_commit_acknowledges_is_not_confirmed_before_the_disk_has_all_of_it() {
    let mut broker = broker();
    broker.run(OTHER, vec![on(ChannelCommand::ConfirmSelect { nowait: true })]);
    let confirms = |told: &Told| {
        let is = |e: &ConnectionEffect| matches!(e, ConnectionEffect::Channel(1, ChannelEffect::Confirm { .. }));
        told.iter().filter(|(id, effect)| *id == OTHER && is(effect)).count()
    };
    let mut told = turn(&mut broker, OTHER, &mut VecDeque::from([publish("", "work", WORK)]));
    let mut said = VecDeque::from([publish("", "q0", 500), settle(Settle::Ack, WORK + 1), commit()]);
    told.extend(turn(&mut broker, PEER, &mut said));
    told.extend(turn(&mut broker, PEER, &mut VecDeque::new()));
    assert_eq!((ids(told.iter().map(|(_, effect)| effect)), confirms(&told), is_committed(&told)), (vec![WORK], 0, 0));
    write(&mut broker);
    let told = turn(&mut broker, PEER, &mut VecDeque::new());
    assert_eq!((confirms(&told), is_committed(&told)), (1, 1));
    assert_eq!(depth(&mut broker, "q0"), (1, 0));
}

/// What the turn did before takes nothing from a commit: what fits an allowance is one group.
#[test]
fn what_others_did_in_the_same_turn_cuts_no_commit() {
    let mut broker = broker();
    let short = [("x-max-length", Value::I32(1)), ("x-dead-letter-exchange", Value::long_str("narrow"))];
    broker.run(OTHER, vec![declare("short", &short)]);
    broker.commit_all();
    broker.run(PEER, (0..4).map(|id| publish("", &name(id), id)).collect());
    let mut out = Outbox::default();
    broker.shard.handle_some(broker.now, OTHER, &mut (0..40).map(|id| publish("", "short", id)).collect());
    broker.shard.handle_some(broker.now, PEER, &mut VecDeque::from([commit()]));
    assert!(!broker.shard.is_settling(PEER));
    broker.shard.poll_effects(broker.now, &mut out);
}
