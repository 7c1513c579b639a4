//! What concerns very many queues goes on in slices: others come to their turn between, and nobody can tell but by the clock.

use hornpipe_testkit::{Broker, message};
use hornpipe_types::command::{
    Bind, ChannelCommand, Command, Consume, PublishRun, Publishes, QueueDeclare, RunHead, Settle,
};
use hornpipe_types::definition::DefinitionKey;
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect, Outbox};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::{ConnectionId, RequestId};
use hornpipe_types::limits::Limits;
use hornpipe_types::message::BatchBuilder;
use hornpipe_types::op::StoreOp;
use hornpipe_types::operate::{Operation, Outcome, VhostSettings};
use hornpipe_types::table::{FieldTable, Value};
use std::collections::{BTreeSet, VecDeque};

const PEER: ConnectionId = ConnectionId(1);
const OTHER: ConnectionId = ConnectionId(2);
const OWNER: ConnectionId = ConnectionId(3);
const UNITS: u32 = 16;
/// Many slices.
const QUEUES: usize = 200;

fn on(command: ChannelCommand) -> Command {
    Command::Channel(1, command)
}

fn name(n: usize) -> String {
    format!("q{n}")
}

fn declare_with(queue: &str, exclusive: bool, arguments: FieldTable) -> Command {
    let declare = QueueDeclare {
        queue: queue.into(),
        durable: true,
        exclusive,
        nowait: true,
        arguments,
        ..QueueDeclare::default()
    };
    on(ChannelCommand::QueueDeclare(Box::new(declare)))
}

fn declare(queue: &str) -> Command {
    declare_with(queue, false, FieldTable::default())
}

fn ask(queue: &str) -> Command {
    let declare = QueueDeclare { queue: queue.into(), passive: true, ..QueueDeclare::default() };
    on(ChannelCommand::QueueDeclare(Box::new(declare)))
}

fn bind(queue: &str) -> Command {
    let bind = Bind {
        destination: queue.into(),
        source: "amq.fanout".into(),
        routing_key: "".into(),
        nowait: true,
        arguments: FieldTable::default(),
    };
    on(ChannelCommand::QueueBind(Box::new(bind)))
}

fn delete(queue: &str) -> Command {
    on(ChannelCommand::QueueDelete { queue: queue.into(), if_unused: false, if_empty: false, nowait: true })
}

/// Messages of one run, all persistent or, `special`, every second one with an expiration.
fn publish(ids: std::ops::Range<u64>, special: bool) -> Command {
    publish_as("amq.fanout", ids, special)
}

fn publish_to(exchange: &str, ids: std::ops::Range<u64>) -> Command {
    publish_as(exchange, ids, false)
}

fn publish_as(exchange: &str, ids: std::ops::Range<u64>, special: bool) -> Command {
    let mut batch = BatchBuilder::default();
    let route = batch.push_route(exchange, "");
    let count = (ids.end - ids.start) as u32;
    for id in ids {
        let expiration = (special && id % 2 == 0).then(|| "10000000".into());
        let properties = Properties { delivery_mode: Some(2), expiration, ..Properties::default() };
        message::push(&mut batch, route, &properties, id, 10);
    }
    on(ChannelCommand::Publish(PublishRun { batch: batch.finish(), from: 0, count, mandatory: true }))
}

/// Queues bound to amq.fanout; `PEER` wants confirms.
fn broker() -> Broker {
    broker_with(Limits::default())
}

fn broker_with(limits: Limits) -> Broker {
    let mut broker = Broker::new(Limits { slice_units: UNITS, ..limits }, 1);
    [PEER, OTHER, OWNER].into_iter().for_each(|id| broker.open(id, 1, true));
    let made = (0..QUEUES).flat_map(|n| [declare(&name(n)), bind(&name(n))]);
    broker.run(PEER, made.chain([on(ChannelCommand::ConfirmSelect { nowait: true })]).collect());
    broker.commit_all();
    broker
}

/// One turn in which a connection has something to say, as a driver takes it; what everybody was told.
fn turn(
    broker: &mut Broker,
    from: ConnectionId,
    commands: &mut VecDeque<Command>,
) -> Vec<(ConnectionId, ConnectionEffect)> {
    broker.shard.handle_some(broker.now, from, commands);
    let mut out = Outbox::default();
    broker.shard.poll_effects(broker.now, &mut out);
    if let Some(group) = broker.shard.poll_group(broker.now) {
        broker.disk.hand_over(group);
    }
    if let Some(committed) = broker.disk.commit() {
        broker.shard.handle_committed(broker.now, committed);
    }
    out.connections.into_iter().flat_map(|(id, effects)| effects.into_iter().map(move |e| (id, e))).collect()
}

/// Turns until a connection's commands are done and nothing is left to do; how many, and what it was told.
fn turns(broker: &mut Broker, from: ConnectionId, commands: Vec<Command>) -> (usize, Vec<ConnectionEffect>) {
    let (mut commands, mut told) = (VecDeque::from(commands), Vec::new());
    let mut done = false;
    for n in 1.. {
        assert!(n < 100_000, "it comes to no end");
        let all = turn(broker, from, &mut commands);
        told.extend(all.into_iter().filter(|(id, _)| *id == from).map(|(_, effect)| effect));
        // what the disk reported last is told a turn later
        if std::mem::replace(&mut done, commands.is_empty() && !broker.shard.is_working() && !broker.shard.has_work()) {
            return (n, told);
        }
    }
    unreachable!()
}

fn depth(broker: &mut Broker, queue: &str) -> Option<u64> {
    broker.queue(queue).map(|q| q.messages_ready)
}

fn drain(broker: &mut Broker, queue: &str) -> Vec<u64> {
    let consume = Consume { queue: queue.into(), no_ack: true, ..Consume::default() };
    broker.run(OTHER, vec![on(ChannelCommand::Consume(Box::new(consume)))]);
    let told = broker.told(OTHER).into_iter();
    told.flat_map(|effect| match effect {
        ConnectionEffect::Channel(1, ChannelEffect::Deliver(delivery)) => {
            delivery.span.indexes().map(|i| message::id_of(&delivery.span.batch, i)).collect()
        }
        _ => Vec::new(),
    })
    .collect()
}

/// Tags that were confirmed or refused, in the order in which that was told.
fn confirms(told: &[ConnectionEffect]) -> Vec<(u64, bool)> {
    let mut found: Vec<(u64, bool)> = Vec::new();
    for effect in told {
        if let ConnectionEffect::Channel(1, ChannelEffect::Confirm { tag, count, ack, multiple }) = effect {
            let below = found.last().map_or(1, |(last, _)| last + 1);
            let first = if *multiple { below } else { tag + 1 - u64::from(*count) };
            found.extend((first..=*tag).map(|tag| (tag, *ack)));
        }
    }
    found
}

/// What replies say of the lengths of queues.
fn lengths(told: &[ConnectionEffect]) -> Vec<u32> {
    let length = |effect: &ConnectionEffect| match effect {
        ConnectionEffect::Channel(1, ChannelEffect::QueueDeclareOk { messages, .. }) => Some(*messages),
        _ => None,
    };
    told.iter().filter_map(length).collect()
}

#[test]
fn each_queue_gets_the_messages_of_a_channel_in_order_and_all_are_confirmed() {
    let mut broker = broker();
    let priorities = || {
        let mut table = FieldTable::default();
        table.set("x-max-priority", Value::I32(5));
        table
    };
    broker.run(PEER, vec![declare_with("p", false, priorities()), bind("p")]);
    let (turns, told) =
        turns(&mut broker, PEER, vec![publish(0..10, false), publish(10..20, true), publish(20..21, false)]);
    assert!(turns > 3 * QUEUES / UNITS as usize, "{turns} turns");
    assert_eq!(confirms(&told), (1..=21).map(|tag| (tag, true)).collect::<Vec<_>>());
    for queue in [name(0), name(QUEUES / 2), name(QUEUES - 1), "p".to_owned()] {
        assert_eq!(drain(&mut broker, &queue), (0..21).collect::<Vec<_>>(), "{queue}");
    }
}

#[test]
fn others_are_served_between_and_the_publisher_waits() {
    let mut broker = broker();
    let mut said = VecDeque::from([publish(0..1, false), ask("q0"), ask(&name(QUEUES - 1))]);
    turn(&mut broker, PEER, &mut said);
    assert!(broker.shard.is_settling(PEER) && said.len() == 2);
    let told = turn(&mut broker, OTHER, &mut VecDeque::from([ask("q0"), ask(&name(QUEUES - 1))]));
    let told: Vec<_> = told.into_iter().filter(|(id, _)| *id == OTHER).map(|(_, effect)| effect).collect();
    assert_eq!(lengths(&told), [1, 0]);
    assert!(broker.shard.is_settling(PEER));
    // what it says next finds all of it done
    let (_, told) = turns(&mut broker, PEER, said.into());
    assert_eq!(lengths(&told), [1, 1]);
}

#[test]
fn it_is_confirmed_when_the_last_queue_has_it_on_disk() {
    let mut broker = broker();
    let mut said = VecDeque::from([publish(0..1, false)]);
    let last = hornpipe_types::ids::QueueId(QUEUES as u64);
    for n in 0.. {
        assert!(n < 10_000);
        let on_disk = broker.disk.messages(last).len();
        let told = turn(&mut broker, PEER, &mut said);
        if !told.is_empty() {
            let told: Vec<_> = told.into_iter().map(|(_, effect)| effect).collect();
            assert_eq!((on_disk, confirms(&told)), (1, vec![(1, true)]));
            return;
        }
    }
}

#[test]
fn one_refusal_among_many_queues_is_told_once_all_others_have_it() {
    let mut broker = broker();
    let mut full = FieldTable::default();
    full.set("x-max-length", Value::I32(0));
    full.set("x-overflow", Value::long_str("reject-publish"));
    broker.run(PEER, vec![delete("q7"), declare_with("q7", false, full), bind("q7")]);
    // others behind it
    broker.run(PEER, (8..100).flat_map(|n| [delete(&name(n)), declare(&name(n)), bind(&name(n))]).collect());
    broker.commit_all();
    let (_, told) = turns(&mut broker, PEER, vec![publish(0..3, false)]);
    assert_eq!(confirms(&told), [(1, false), (2, false), (3, false)]);
    assert_eq!(depth(&mut broker, "q7"), Some(0));
    for queue in [name(0), name(QUEUES - 1)] {
        assert_eq!(drain(&mut broker, &queue), [0, 1, 2]);
    }
}

#[test]
fn a_queue_that_goes_before_its_turn_gets_nothing_nor_does_its_successor() {
    let mut broker = broker();
    turn(&mut broker, PEER, &mut VecDeque::from([publish(0..2, false)]));
    let (late, gone) = (name(QUEUES - 1), name(QUEUES - 2));
    let mut said = VecDeque::from([delete(&late), delete(&gone), declare(&late), bind(&late)]);
    while !said.is_empty() {
        turn(&mut broker, OTHER, &mut said);
    }
    assert!(broker.shard.is_settling(PEER));
    let (_, told) = turns(&mut broker, PEER, Vec::new());
    assert_eq!(confirms(&told), [(1, true), (2, true)]);
    assert_eq!((depth(&mut broker, &late), depth(&mut broker, &gone)), (Some(0), None));
    assert_eq!(depth(&mut broker, &name(QUEUES - 3)), Some(2));
}

/// With a queue `late` whose dead go to `dead`, and 50 messages of it that OTHER has in hand.
fn mortal() -> Broker {
    let mut broker = broker();
    let mut arguments = FieldTable::default();
    arguments.set("x-dead-letter-exchange", Value::long_str(""));
    arguments.set("x-dead-letter-routing-key", Value::long_str("dead"));
    broker.run(PEER, vec![declare("dead"), declare_with("late", false, arguments), bind("late")]);
    let consume = Consume { queue: "late".into(), ..Consume::default() };
    broker.run(OTHER, vec![on(ChannelCommand::Consume(Box::new(consume)))]);
    turns(&mut broker, PEER, vec![publish(0..50, false)]);
    broker
}

/// OTHER lets all die; each is a slice.
fn reject() -> Command {
    let how = Settle::Nack { requeue: false };
    on(ChannelCommand::Settle { how, tag: 0, count: 1, multiple: true })
}

/// What died in it is on its way to where the dead go, so it is there still, though nobody sees it.
#[test]
fn a_queue_that_is_a_grave_when_its_turn_comes_gets_nothing() {
    let mut broker = mortal();
    let late = broker.queue("late").expect("declared").id;
    turn(&mut broker, PEER, &mut VecDeque::from([publish(50..52, false)]));
    assert!(broker.shard.is_settling(PEER));
    turn(&mut broker, OTHER, &mut VecDeque::from([reject()]));
    turn(&mut broker, OWNER, &mut VecDeque::from([delete("late")]));
    assert!(broker.shard.is_settling(PEER), "its turn has not come");
    // whatever is on disk for it would be dead-lettered after a crash
    while broker.shard.is_working() {
        turn(&mut broker, OWNER, &mut VecDeque::new());
        assert!(broker.disk.messages(late).iter().all(|(batch, i)| message::id_of(batch, *i) < 50));
    }
    broker.commit_all();
    assert_eq!(broker.disk.messages(late).len(), 0);
    assert_eq!(drain(&mut broker, "dead"), (0..50).collect::<Vec<_>>());
    assert_eq!(broker.totals().messages_ready, 52 * QUEUES as u64);
}

#[test]
fn a_queue_that_two_delete_while_its_rejected_messages_go_on_leaves_one_grave() {
    let mut broker = mortal();
    let bind_more = |n| bind_to("amq.direct", "late", &format!("k{n}"), FieldTable::default());
    broker.run(PEER, (0..10 * QUEUES).map(bind_more).collect());
    let deleted = broker.totals().queues_deleted;
    let mut said = [
        (OTHER, VecDeque::from([reject()])),
        (PEER, VecDeque::from([delete("late")])),
        (OWNER, VecDeque::from([delete("late")])),
    ];
    for _ in 0..10_000 {
        for (id, commands) in &mut said {
            turn(&mut broker, *id, commands);
        }
    }
    broker.commit_all();
    assert!(said.iter().all(|(_, commands)| commands.is_empty()) && !broker.shard.is_working());
    assert_eq!(broker.totals().queues_deleted, deleted + 1);
    assert_eq!(drain(&mut broker, "dead"), (0..50).collect::<Vec<_>>());
}

/// What is published is published, whatever becomes of the connection.
#[test]
fn a_publish_is_finished_for_a_publisher_that_is_gone() {
    let gone = |broker: &mut Broker| broker.shard.handle_commands(broker.now, PEER, &mut vec![Command::Gone]);
    let closed = |broker: &mut Broker| {
        let close = Operation::CloseConnection { connection: PEER, reason: "enough".to_owned() };
        broker.shard.handle_operation(broker.now, RequestId(7), &"guest".into(), close);
        assert!(broker.shard.is_settling(PEER));
    };
    let ends: [fn(&mut Broker); 2] = [gone, closed];
    for end in ends {
        let mut broker = broker();
        turn(&mut broker, PEER, &mut VecDeque::from([publish(0..2, false)]));
        end(&mut broker);
        turns(&mut broker, OTHER, Vec::new());
        for queue in [name(0), name(QUEUES - 1)] {
            assert_eq!(drain(&mut broker, &queue), [0, 1]);
        }
    }
}

/// Publishes that need a look of their own count as what they are.
#[test]
fn a_run_of_special_messages_to_some_queues_goes_in_slices_too() {
    let mut broker = broker();
    let gone = (10..QUEUES).map(|n| delete(&name(n)));
    broker.run(PEER, gone.collect());
    broker.commit_all();
    let (turns, told) = turns(&mut broker, PEER, vec![publish(0..200, true)]);
    assert!(turns > 50, "{turns} turns");
    assert_eq!(confirms(&told).len(), 200);
    assert_eq!(drain(&mut broker, "q9"), (0..200).collect::<Vec<_>>());
}

#[test]
fn methods_count_as_work() {
    let mut broker = broker();
    let mut said: VecDeque<Command> = (0..100).map(|n| declare(&format!("more{n}"))).collect();
    turn(&mut broker, PEER, &mut said);
    assert!((1..=97).contains(&said.len()), "{} of 100 are left", said.len());
}

/// Deletes an exchange with so many bindings twice at once and declares it anew behind the first; in each round those who speak do so
/// in this order.
fn delete_twice(bindings: usize, order: &[ConnectionId]) {
    // a slice fills the log, so that works take turns
    let mut broker = broker_with(Limits { pending_copies: 1, ..Limits::default() });
    let bind = |n: usize| bind_to("wide", &name(n), "", FieldTable::default());
    let exchange = || declare_exchange("wide", "fanout");
    let gone = || on(ChannelCommand::ExchangeDelete { exchange: "wide".into(), if_unused: false, nowait: false });
    broker.run(PEER, [exchange()].into_iter().chain((0..bindings).map(bind)).collect());
    broker.commit_all();
    let mut said = VecDeque::from([gone(), exchange(), bind(0)]);
    turn(&mut broker, PEER, &mut said);
    assert!(broker.shard.is_settling(PEER) && said.len() == 2);
    // another one who deletes it is answered, too, and does not take what the first declares anew
    let (mut other, mut answers) = (VecDeque::from([gone()]), Vec::new());
    for n in 0.. {
        assert!(n < 10_000);
        for &id in order {
            let (mut nothing, mut rest) = (VecDeque::new(), [&mut said, &mut other]);
            let said = [PEER, OTHER].iter().position(|of| *of == id).map_or(&mut nothing, |k| &mut *rest[k]);
            let is_ok = |effect: &ConnectionEffect| {
                matches!(effect, ConnectionEffect::Channel(1, ChannelEffect::ExchangeDeleteOk))
            };
            let told = turn(&mut broker, id, said);
            answers.extend(told.into_iter().filter_map(|(id, effect)| is_ok(&effect).then_some(id)));
        }
        if answers.len() == 2 && said.is_empty() && other.is_empty() && !broker.shard.is_working() {
            break;
        }
    }
    answers.sort_unstable();
    assert_eq!(answers, [PEER, OTHER]);
    assert_eq!(broker.totals().exchanges, Broker::new(Limits::default(), 1).totals().exchanges + 1);
    let told = turns(&mut broker, PEER, vec![publish_to("wide", 0..1), ask("q0"), ask("q1")]).1;
    assert_eq!(lengths(&told), [1, 0]);
}

#[test]
fn an_exchange_with_many_bindings_goes_in_slices_and_is_gone_when_it_is_told() {
    // whose slice is the last, and who speaks first after it, differs
    for bindings in (QUEUES - 48..=QUEUES).step_by(4) {
        delete_twice(bindings, &[OTHER, PEER]);
        delete_twice(bindings, &[PEER, OTHER]);
        delete_twice(bindings, &[OTHER, OWNER, PEER]);
    }
}

/// A crash between slices finds an exchange with the bindings it has left, and after the last slice there are none.
#[test]
fn each_binding_of_an_exchange_that_goes_in_slices_leaves_the_disk_and_the_exchange_last() {
    let mut broker = broker();
    let bound = (0..QUEUES).map(|n| bind_to("wide", &name(n), "k", FieldTable::default()));
    broker.run(PEER, [declare_exchange("wide", "topic")].into_iter().chain(bound).collect());
    broker.commit_all();
    let gone = ChannelCommand::ExchangeDelete { exchange: "wide".into(), if_unused: false, nowait: false };
    broker.shard.handle_some(broker.now, PEER, &mut VecDeque::from([on(gone)]));
    let (mut out, mut groups) = (Outbox::default(), 0);
    let (mut bindings, mut exchanges) = (BTreeSet::new(), 0);
    for n in 0.. {
        assert!(n < 10_000);
        broker.shard.poll_effects(broker.now, &mut out);
        let Some(group) = broker.shard.poll_group(broker.now) else { break };
        groups += 1;
        for op in &group.ops {
            match op {
                StoreOp::Delete(DefinitionKey::Binding { source, destination, .. }) if source == "wide" => {
                    assert!(bindings.insert(destination.to_string()));
                    assert_eq!(exchanges, 0, "a binding outlives its exchange");
                }
                StoreOp::Delete(DefinitionKey::Exchange { name, .. }) if name == "wide" => exchanges += 1,
                _ => {}
            }
        }
        broker.disk.hand_over(group);
        let committed = broker.disk.commit().expect("handed over");
        broker.shard.handle_committed(broker.now, committed);
    }
    assert!(groups > 5, "{groups} groups");
    assert_eq!((bindings.len(), exchanges), (QUEUES, 1));
}

#[test]
fn exclusive_queues_go_in_slices_and_the_close_is_answered_after_the_last() {
    let mut broker = broker();
    broker.run(OWNER, (0..QUEUES).map(|n| declare_with(&format!("own{n}"), true, FieldTable::default())).collect());
    let mut said = VecDeque::from([Command::Close]);
    for n in 0.. {
        assert!(n < 10_000);
        let told = turn(&mut broker, OWNER, &mut said);
        assert_eq!(told.is_empty(), broker.shard.is_working());
        if let [(OWNER, ConnectionEffect::CloseOk)] = told[..] {
            assert!(n > 10, "{n} turns");
            break;
        }
    }
    assert_eq!(broker.queues().len(), QUEUES);
}

/// Declares a topic or headers exchange.
fn declare_exchange(exchange: &str, kind: &str) -> Command {
    let declare = hornpipe_types::command::ExchangeDeclare {
        exchange: exchange.into(),
        kind: kind.into(),
        durable: true,
        nowait: true,
        ..Default::default()
    };
    on(ChannelCommand::ExchangeDeclare(Box::new(declare)))
}

fn bind_to(exchange: &str, queue: &str, key: &str, arguments: FieldTable) -> Command {
    let (destination, source) = (queue.into(), exchange.into());
    let bind = Bind { destination, source, routing_key: key.into(), nowait: true, arguments };
    on(ChannelCommand::QueueBind(Box::new(bind)))
}

/// Messages with a key and headers each, as one read brings them.
fn read_of(exchange: &str, messages: impl Iterator<Item = (String, Option<FieldTable>)>) -> Command {
    let mut batch = BatchBuilder::default();
    let mut runs = Vec::new();
    for (from, (key, headers)) in messages.enumerate() {
        let route = batch.push_route(exchange, &key);
        let properties = Properties { headers, ..Properties::default() };
        message::push(&mut batch, route, &properties, from as u64, 10);
        runs.push(RunHead { channel: 1, from: from as u32, count: 1, mandatory: false });
    }
    Command::Publishes(Publishes { batch: batch.finish(), runs })
}

/// Turns that a read of 100 messages takes, all of which get into `q0`.
fn turns_of_read(setup: Vec<Command>, exchange: &str, headers: Option<FieldTable>) -> usize {
    let mut broker = broker();
    broker.run(PEER, setup);
    broker.commit_all();
    let read = read_of(exchange, (0..100).map(|n| (format!("a.a.a.a.k{n}"), headers.clone())));
    let (turns, told) = turns(&mut broker, PEER, vec![read]);
    assert_eq!(confirms(&told).len(), 100);
    assert_eq!(drain(&mut broker, "q0"), (0..100).collect::<Vec<_>>());
    turns
}

fn table(pairs: &[(&str, i32)]) -> FieldTable {
    FieldTable(pairs.iter().map(|(name, value)| ((*name).into(), Value::I32(*value))).collect())
}

#[test]
fn plain_routing_is_no_work_to_speak_of() {
    let setup = vec![declare_exchange("x", "topic"), bind_to("x", "q0", "#", FieldTable::default())];
    let turns = turns_of_read(setup, "x", None);
    assert!(turns < 20, "{turns} turns");
}

#[test]
fn headers_bindings_that_are_tested_count_as_work() {
    let mut setup = vec![declare_exchange("x", "headers"), bind_to("x", "q0", "", table(&[("n", 0)]))];
    setup.extend((1..500).map(|n| bind_to("x", "q0", "", table(&[("n", n)]))));
    let turns = turns_of_read(setup, "x", Some(table(&[("n", 0)])));
    assert!(turns > 50, "{turns} turns");
}

#[test]
fn headers_that_are_decoded_count_as_work() {
    let setup = vec![declare_exchange("x", "headers"), bind_to("x", "q0", "", table(&[("n", 0)]))];
    let mut headers = table(&[("n", 0)]);
    headers.0.extend((0..500).map(|n| (name(n).as_str().into(), Value::long_str("as long as that"))));
    let turns = turns_of_read(setup, "x", Some(headers));
    assert!(turns > 50, "{turns} turns");
}

#[test]
fn nodes_of_a_topic_that_are_met_count_as_work() {
    let mut setup = vec![declare_exchange("x", "topic")];
    setup.extend((0..16).map(|n| {
        let words: Vec<&str> = (0..4).map(|k| if n >> k & 1 == 0 { "*" } else { "a" }).collect();
        bind_to("x", "q0", &format!("{}.#", words.join(".")), FieldTable::default())
    }));
    let turns = turns_of_read(setup, "x", None);
    assert!(turns > 20, "{turns} turns");
}

#[test]
fn exchanges_on_the_way_count_as_work() {
    let mut setup: Vec<Command> = (0..100).map(|n| declare_exchange(&format!("x{n}"), "fanout")).collect();
    setup.extend((1..100).map(|n| {
        let (destination, source) = (format!("x{n}").as_str().into(), format!("x{}", n - 1).as_str().into());
        let (routing_key, arguments) = ("".into(), FieldTable::default());
        on(ChannelCommand::ExchangeBind(Box::new(Bind { destination, source, routing_key, nowait: true, arguments })))
    }));
    setup.push(bind_to("x99", "q0", "", FieldTable::default()));
    let turns = turns_of_read(setup, "x0", None);
    assert!(turns > 50, "{turns} turns");
}

/// What costs more than a slice leaves others one of their own.
#[test]
fn others_have_a_slice_of_their_own_in_a_turn() {
    let mut broker = broker();
    let mut methods: VecDeque<Command> = (0..50).map(|n| ask(&name(n))).collect();
    broker.shard.handle_some(broker.now, PEER, &mut methods);
    assert!(broker.shard.is_tired() && !methods.is_empty());
    broker.shard.begin_slice();
    assert!(!broker.shard.is_tired());
    let mut others: VecDeque<Command> = (0..50).map(|n| ask(&name(n))).collect();
    broker.shard.handle_some(broker.now, OTHER, &mut others);
    assert!(broker.shard.is_tired());
    assert_eq!(others.len(), methods.len());
}

#[test]
fn a_transaction_that_makes_too_many_copies_is_refused() {
    let refused = |effect: &ConnectionEffect| match effect {
        ConnectionEffect::Channel(1, ChannelEffect::Close(error)) => Some(error.clone()),
        ConnectionEffect::Close(error) => Some(error.clone()),
        _ => None,
    };
    // 400 copies, those of two messages
    let limits = || Limits { tx_operations: 20, ..Limits::default() };
    let text = "transaction exceeds the limit of 400 messages times queues";
    for (count, more) in [(2, false), (3, false), (2, true)] {
        let mut broker = broker_with(limits());
        broker.run(OTHER, vec![on(ChannelCommand::TxSelect), publish(0..count, false)]);
        if more {
            broker.run(PEER, vec![declare("more"), bind("more")]);
        }
        broker.run(OTHER, vec![on(ChannelCommand::TxCommit)]);
        broker.commit_all();
        let told = broker.told(OTHER);
        let found: Vec<_> = told.iter().filter_map(refused).collect();
        let fits = count == 2 && !more;
        assert_eq!(found.is_empty(), fits, "{told:?}");
        assert!(found.iter().all(|error| error.code as u16 == 506 && error.text.contains(text)), "{found:?}");
        assert_eq!(depth(&mut broker, "q0"), Some(if fits { 2 } else { 0 }));
    }
}

#[test]
fn who_deletes_an_exchange_that_another_is_deleting_is_answered_when_that_is_on_disk() {
    let mut broker = broker();
    broker.run(PEER, vec![declare_exchange("wide", "topic")]);
    let bound = (0..QUEUES).map(|n| bind_to("wide", &name(n), "k", FieldTable::default()));
    broker.run(PEER, bound.collect());
    broker.commit_all();
    let gone = || on(ChannelCommand::ExchangeDelete { exchange: "wide".into(), if_unused: false, nowait: false });
    let is_ok =
        |effect: &ConnectionEffect| matches!(effect, ConnectionEffect::Channel(1, ChannelEffect::ExchangeDeleteOk));
    [PEER, OTHER].into_iter().for_each(|id| drop(broker.told(id)));
    for id in [PEER, OTHER] {
        broker.shard.handle_some(broker.now, id, &mut VecDeque::from([gone()]));
    }
    assert!(broker.shard.is_settling(PEER) && broker.shard.is_settling(OTHER));
    // all is written but what the last turn did
    let mut out = Outbox::default();
    for n in 0.. {
        assert!(n < 10_000);
        broker.shard.poll_effects(broker.now, &mut out);
        if !broker.shard.is_working() {
            break;
        }
        if let Some(group) = broker.shard.poll_group(broker.now) {
            broker.disk.hand_over(group);
        }
        if let Some(committed) = broker.disk.commit() {
            broker.shard.handle_committed(broker.now, committed);
        }
    }
    broker.shard.poll_effects(broker.now, &mut out);
    assert!(!out.connections.iter().any(|(_, effects)| effects.iter().any(is_ok)), "{out:?}");
    broker.commit_all();
    for id in [PEER, OTHER] {
        assert_eq!(broker.told(id).iter().filter(|effect| is_ok(effect)).count(), 1, "{id:?}");
    }
}

#[test]
fn a_queue_with_many_bindings_goes_in_slices_and_is_gone_when_it_is_told() {
    let mut broker = broker();
    broker.run(
        PEER,
        (0..10 * QUEUES).map(|n| bind_to("amq.direct", "q0", &format!("k{n}"), FieldTable::default())).collect(),
    );
    broker.commit_all();
    [PEER, OTHER].into_iter().for_each(|id| drop(broker.told(id)));
    let gone = || {
        let (queue, if_unused, if_empty) = ("q0".into(), false, false);
        on(ChannelCommand::QueueDelete { queue, if_unused, if_empty, nowait: false })
    };
    broker.run(OTHER, vec![publish(0..1, false)]);
    let mut said = VecDeque::from([gone(), declare("q0"), ask("q0")]);
    turn(&mut broker, PEER, &mut said);
    assert!(broker.shard.is_settling(PEER) && said.len() == 2, "it goes on in slices");
    // until it is gone it is there, and another one may delete it, too
    let told = turn(&mut broker, OTHER, &mut VecDeque::from([ask("q0")])).into_iter().map(|(_, effect)| effect);
    assert_eq!(lengths(&told.collect::<Vec<_>>()), [1]);
    let (mut other, mut answers, mut asked) = (VecDeque::from([gone()]), Vec::new(), Vec::new());
    let mut slices = 0;
    for n in 0.. {
        assert!(n < 10_000);
        for id in [OTHER, PEER] {
            let commands = if id == PEER { &mut said } else { &mut other };
            for (id, effect) in turn(&mut broker, id, commands) {
                match effect {
                    ConnectionEffect::Channel(1, ChannelEffect::QueueDeleteOk { messages }) => {
                        answers.push((id, messages))
                    }
                    effect => asked.extend(lengths(&[effect])),
                }
            }
        }
        slices += usize::from(broker.shard.is_working());
        if answers.len() == 2 && said.is_empty() && !broker.shard.is_working() && !asked.is_empty() {
            break;
        }
    }
    assert!(slices > 10, "{slices}");
    answers.sort_unstable();
    assert!(matches!(answers[..], [(PEER, a), (OTHER, b)] if a + b == 1), "{answers:?}");
    // the one declared anew is another
    assert_eq!(asked, [0]);
    assert_eq!(depth(&mut broker, "q0"), Some(0));
}

#[test]
fn a_queue_that_goes_only_if_it_is_empty_goes_at_once() {
    let mut broker = broker();
    broker.run(
        PEER,
        (0..10 * QUEUES).map(|n| bind_to("amq.direct", "q0", &format!("k{n}"), FieldTable::default())).collect(),
    );
    let gone = ChannelCommand::QueueDelete { queue: "q0".into(), if_unused: false, if_empty: true, nowait: false };
    broker.shard.handle_some(broker.now, PEER, &mut VecDeque::from([on(gone)]));
    assert!(!broker.shard.is_settling(PEER));
    assert_eq!(depth(&mut broker, "q0"), None);
}

#[test]
fn a_vhost_goes_in_slices_and_its_deletion_is_told_when_it_is_gone() {
    let mut broker = broker();
    let delete = Operation::DeleteVhost { name: "/".into() };
    let mut out = Outbox::default();
    for n in [1, 2] {
        broker.shard.handle_operation(broker.now, RequestId(n), &"guest".into(), delete.clone());
    }
    for n in 0.. {
        assert!(n < 10_000);
        broker.shard.poll_effects(broker.now, &mut out);
        if let Some(group) = broker.shard.poll_group(broker.now) {
            broker.disk.hand_over(group);
        }
        let told = out.outcomes.len();
        assert!(told == 0 || n > QUEUES / UNITS as usize, "told in turn {n}");
        if told == 2 {
            break;
        }
        if let Some(committed) = broker.disk.commit() {
            broker.shard.handle_committed(broker.now, committed);
        }
    }
    assert!(out.outcomes.iter().all(|(_, outcome)| matches!(outcome, Outcome::Done)), "{:?}", out.outcomes);
    assert_eq!(broker.totals().queues, 0);
}

#[test]
fn a_vhost_that_is_made_anew_while_it_goes_is_a_new_one() {
    let mut broker = broker();
    let (delete, settings) = (Operation::DeleteVhost { name: "/".into() }, VhostSettings::default());
    let mut out = Outbox::default();
    broker.shard.handle_operation(broker.now, RequestId(1), &"guest".into(), delete);
    broker.shard.poll_effects(broker.now, &mut out);
    assert!(broker.shard.is_working());
    let put = Operation::PutVhost { name: "/".into(), settings };
    broker.shard.handle_operation(broker.now, RequestId(2), &"guest".into(), put);
    assert!(!broker.shard.is_working());
    assert_eq!(broker.totals().queues, 0);
    while out.outcomes.len() < 2 {
        broker.shard.poll_effects(broker.now, &mut out);
        if let Some(group) = broker.shard.poll_group(broker.now) {
            broker.disk.hand_over(group);
        }
        if let Some(committed) = broker.disk.commit() {
            broker.shard.handle_committed(broker.now, committed);
        }
    }
    assert!(matches!(out.outcomes[..], [(_, Outcome::Done), (_, Outcome::Created)]), "{:?}", out.outcomes);
}
