//! The budget for bodies in memory, whatever queues there are and were.

use hornpipe_testkit::{Broker, message};
use hornpipe_types::command::{
    Bind, ChannelCommand, Command, Consume, ExchangeDeclare, PublishRun, QueueDeclare, Settle,
};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect, Outbox};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::{ConnectionId, RequestId};
use hornpipe_types::limits::Limits;
use hornpipe_types::message::BatchBuilder;
use hornpipe_types::stats::{Answer, Request};
use hornpipe_types::table::{FieldTable, Value};
use std::sync::Arc;

const PEER: ConnectionId = ConnectionId(1);

fn say(broker: &mut Broker, command: ChannelCommand) {
    broker.run(PEER, vec![Command::Channel(1, command)]);
}

fn declare(broker: &mut Broker, queue: &str, arguments: &[(&str, Value)]) {
    declare_as(broker, queue, true, arguments);
}

fn declare_as(broker: &mut Broker, queue: &str, durable: bool, arguments: &[(&str, Value)]) {
    let mut table = FieldTable::default();
    arguments.iter().for_each(|(key, value)| table.set(key, value.clone()));
    let declare = QueueDeclare {
        queue: queue.into(),
        passive: false,
        durable,
        exclusive: false,
        auto_delete: false,
        nowait: true,
        arguments: table,
    };
    say(broker, ChannelCommand::QueueDeclare(Box::new(declare)));
}

/// Starts a consumer `c` that acknowledges.
fn consume(broker: &mut Broker, queue: &str) {
    let consume = Consume {
        queue: queue.into(),
        consumer_tag: "c".into(),
        no_ack: false,
        exclusive: false,
        nowait: true,
        arguments: FieldTable::default(),
    };
    say(broker, ChannelCommand::Consume(Box::new(consume)));
}

/// Publishes persistent messages of 1000 octets and more, of a priority.
fn publish(broker: &mut Broker, queue: &str, count: u64, priority: u8) {
    let mut b = BatchBuilder::default();
    let route = b.push_route("", queue);
    let properties = Properties { delivery_mode: Some(2), priority: Some(priority), ..Properties::default() };
    (0..count).for_each(|id| message::push(&mut b, route, &properties, id, 1000));
    let run = PublishRun { batch: b.finish(), from: 0, count: count as u32, mandatory: false };
    say(broker, ChannelCommand::Publish(run));
}

fn broker() -> Broker {
    let limits = Limits { resident_bytes: 64_000, resident_bytes_per_queue: 8000, ..Limits::default() };
    let mut broker = Broker::new(limits, 1);
    broker.open(PEER, 1, false);
    broker
}

#[test]
fn queues_that_were_do_not_count() {
    let mut broker = broker();
    for n in 0..3000 {
        let queue = format!("q{n}");
        declare(&mut broker, &queue, &[]);
        publish(&mut broker, &queue, 1, 0);
        broker.commit_all();
        let name = queue.as_str().into();
        say(&mut broker, ChannelCommand::QueueDelete { queue: name, if_unused: false, if_empty: false, nowait: true });
        broker.commit_all();
    }
    declare(&mut broker, "long", &[]);
    for _ in 0..4 {
        publish(&mut broker, "long", 50, 0);
        broker.commit_all();
    }
    let held = broker.totals().resident_bytes;
    assert!(held < 64_000 + 50_000, "{held} octets in memory");
}

#[test]
fn a_queue_has_one_share_however_many_priorities_it_has() {
    let mut broker = broker();
    declare(&mut broker, "p", &[("x-max-priority", Value::I32(50))]);
    say(&mut broker, ChannelCommand::Qos { prefetch_size: 0, prefetch_count: 1, global: false });
    consume(&mut broker, "p");
    for priority in 0..50 {
        publish(&mut broker, "p", 20, priority);
        broker.commit_all();
    }
    let held = broker.queue("p").expect("it was declared").message_bytes_ram;
    // the budget, and what came last: fifty shares would be 400 000
    assert!(held < 64_000 + 20_000, "{held} octets in memory");
}

#[test]
fn a_message_that_stays_does_not_keep_all_that_came_with_it() {
    // without the alarm so little would not matter
    let mut broker = small_broker(Limits::default().resident_bytes);
    declare(&mut broker, "slow", &[]);
    let mut b = BatchBuilder::default();
    let route = b.push_route("", "slow");
    (0..64).for_each(|id| message::push(&mut b, route, &Properties::default(), id, 1000));
    let read = b.finish();
    // the others went elsewhere
    let run = PublishRun { batch: Arc::clone(&read), from: 7, count: 1, mandatory: false };
    say(&mut broker, ChannelCommand::Publish(run));
    assert_eq!(Arc::strong_count(&read), 2);
    broker.shard.handle_alarms(broker.now, true, false);
    assert_eq!(Arc::strong_count(&read), 1);
    let get = ChannelCommand::Get { queue: "slow".into(), no_ack: true };
    say(&mut broker, get);
    let told = broker.told(PEER);
    let Some(ConnectionEffect::Channel(1, ChannelEffect::GetOk { span, .. })) = told.last() else { panic!("{told:?}") };
    assert_eq!(message::id_of(&span.batch, span.from), 7);
}

/// However long a queue is, the turn in which memory runs out does not look at all of it.
#[test]
fn an_alarm_is_worked_off_in_slices() {
    const READS: usize = 300;
    const SLICE: usize = 32;
    let limits = Limits { slice_units: SLICE as u32, ..Limits::default() };
    let mut broker = Broker::new(limits, 1);
    broker.open(PEER, 1, false);
    declare(&mut broker, "slow", &[]);
    declare(&mut broker, "other", &[]);
    let mut reads = Vec::new();
    for n in 0..READS {
        let mut b = BatchBuilder::default();
        let queue = if n % 2 == 0 { "slow" } else { "other" };
        let route = b.push_route("", queue);
        (0..64).for_each(|id| message::push(&mut b, route, &Properties::default(), id, 10));
        let batch = b.finish();
        // the others went elsewhere
        say(
            &mut broker,
            ChannelCommand::Publish(PublishRun { batch: batch.clone(), from: 7, count: 1, mandatory: false }),
        );
        reads.push(batch);
    }
    let let_go = |reads: &[Arc<_>]| reads.iter().filter(|read| Arc::strong_count(read) == 1).count();
    assert_eq!(let_go(&reads), 0);
    broker.shard.handle_alarms(broker.now, true, false);
    let mut before = let_go(&reads);
    assert!(before <= SLICE, "{before} in the first turn");
    let mut out = Outbox::default();
    let mut turns = 0;
    while broker.shard.has_work() {
        broker.shard.poll_effects(broker.now, &mut out);
        let now = let_go(&reads);
        assert!(now <= before + SLICE, "{now} after {before}");
        before = now;
        turns += 1;
    }
    assert_eq!(before, READS);
    // each is looked at twice and copied once
    assert!(turns > 2 * READS / SLICE && turns < 10 * READS / SLICE, "{turns} turns");
}

/// However many gaps there are between the deliveries of a channel, what becomes of them is done in slices.
#[test]
fn deliveries_with_gaps_go_back_in_slices() {
    const COUNT: u64 = 6000;
    const SLICE: u64 = 64;
    for multiple in [Some(0), Some(COUNT - 2), None] {
        let mut broker = Broker::new(Limits { slice_units: SLICE as u32, ..Limits::default() }, 1);
        broker.open(PEER, 1, false);
        declare(&mut broker, "q", &[]);
        let mut b = BatchBuilder::default();
        let route = b.push_route("", "q");
        (0..COUNT).for_each(|id| message::push(&mut b, route, &Properties::default(), id, 10));
        let run = PublishRun { batch: b.finish(), from: 0, count: COUNT as u32, mandatory: false };
        say(&mut broker, ChannelCommand::Publish(run));
        consume(&mut broker, "q");
        let settle = |how, tag, multiple| ChannelCommand::Settle { how, tag, count: 1, multiple };
        let acks = (1..=COUNT).step_by(2).map(|tag| Command::Channel(1, settle(Settle::Ack, tag, false)));
        broker.run(PEER, acks.collect());
        say(&mut broker, ChannelCommand::Cancel { consumer_tag: "c".into(), nowait: true });
        let mut goes_back = vec![match multiple {
            Some(tag) => Command::Channel(1, settle(Settle::Nack { requeue: true }, tag, true)),
            None => Command::Channel(1, ChannelCommand::Close),
        }];
        broker.shard.handle_commands(broker.now, PEER, &mut goes_back);
        let (mut left, mut turns) = (COUNT / 2, 0);
        let mut out = Outbox::default();
        while broker.shard.has_work() {
            let asked = Request::Queue { vhost: "/".into(), name: "q".into() };
            // as it was before this turn
            broker.shard.handle_request(broker.now, RequestId(turns), asked);
            broker.shard.poll_effects(broker.now, &mut out);
            let Some((_, Answer::Queue(Some(queue)))) = out.answers.pop() else { panic!("{:?}", out.answers) };
            let now = queue.messages_unacknowledged;
            assert!(left - now <= SLICE, "{} in a turn", left - now);
            (left, turns) = (now, turns + 1);
        }
        let unacked = broker.queue("q").expect("it was declared").messages_unacknowledged;
        assert!(left - unacked <= SLICE, "{} in the last turn", left - unacked);
        assert_eq!(unacked, if multiple == Some(COUNT - 2) { 1 } else { 0 });
        assert!(turns >= COUNT / 2 / SLICE - 1, "{turns} turns");
    }
}

/// Publishes messages of 16 octets, ids from `first` on, of the priorities that `priority` says.
fn publish_small(broker: &mut Broker, queue: &str, first: u64, count: u64, priority: impl Fn(u64) -> u8) {
    let mut b = BatchBuilder::default();
    let route = b.push_route("", queue);
    for id in first..first + count {
        let properties = Properties { priority: Some(priority(id)), ..Properties::default() };
        message::push(&mut b, route, &properties, id, 8);
    }
    let batch = b.finish();
    // each has another priority than the one before, which makes it a run
    let publish = |from| {
        let run = PublishRun { batch: Arc::clone(&batch), from, count: 1, mandatory: false };
        Command::Channel(1, ChannelCommand::Publish(run))
    };
    broker.run(PEER, (0..count as u32).map(publish).collect());
}

/// The ids that are left in a queue, in its order.
fn drain(broker: &mut Broker, queue: &str) -> Vec<u64> {
    let get = || Command::Channel(1, ChannelCommand::Get { queue: queue.into(), no_ack: true });
    let waiting = broker.queue(queue).expect("it was declared").messages_ready;
    broker.told(PEER);
    broker.run(PEER, (0..waiting).map(|_| get()).collect());
    let told = broker.told(PEER);
    let got = told.iter().map(|effect| match effect {
        ConnectionEffect::Channel(1, ChannelEffect::GetOk { span, .. }) => message::id_of(&span.batch, span.from),
        other => panic!("{other:?}"),
    });
    got.collect()
}

/// A broker with so much for bodies, whose work is cut in small slices.
fn small_broker(resident_bytes: u64) -> Broker {
    let mut broker = Broker::new(Limits { resident_bytes, slice_units: 256, ..Limits::default() }, 1);
    broker.open(PEER, 1, false);
    broker
}

const SMALL: u64 = 200_000;
const READ: u64 = 500;
const READS: u64 = 400;

/// Of each read that comes in a few messages stay behind all others: they are bounded by number, and so is what they keep.
#[test]
fn a_queue_of_priorities_under_churn_does_not_keep_every_read() {
    const LENGTH: u64 = 2000;
    let mut broker = small_broker(SMALL);
    let arguments = [("x-max-priority", Value::I32(255)), ("x-max-length", Value::I32(LENGTH as i32))];
    // nowhere else than in memory
    declare_as(&mut broker, "p", false, &arguments);
    // the highest are dropped first: one in a hundred stays
    let priority = |id: u64| if id.is_multiple_of(100) { (id / 100 % 50) as u8 } else { 200 };
    let mut most = 0;
    for n in 0..READS {
        publish_small(&mut broker, "p", n * READ, READ, priority);
        most = most.max(broker.totals().batch_bytes);
    }
    assert!(most < 5 * SMALL, "{most} octets for {LENGTH} messages");
    let mut wanted: Vec<u64> = (0..READS * READ).step_by(100).collect();
    wanted.sort_by_key(|id| (std::cmp::Reverse(priority(*id)), *id));
    assert_eq!(wanted.len() as u64, LENGTH);
    assert!(drain(&mut broker, "p") == wanted, "other messages, or in another order");
    assert_eq!(broker.totals().batch_bytes, 0);
}

/// Of each read one delivery stays unacknowledged.
#[test]
fn deliveries_that_stay_do_not_keep_every_read() {
    let mut broker = small_broker(SMALL);
    declare_as(&mut broker, "q", false, &[]);
    consume(&mut broker, "q");
    let mut most = 0;
    for n in 0..READS {
        publish_small(&mut broker, "q", n * READ, READ, |_| 0);
        // in pieces from the middle on, as acknowledgements come in
        let settle = |tag, count| {
            let how = Settle::Ack;
            Command::Channel(1, ChannelCommand::Settle { how, tag, count, multiple: false })
        };
        let first = 1 + n * READ;
        broker.run(PEER, vec![settle(first + 100, 200)]);
        broker.run(PEER, vec![settle(first + 300, READ as u32 - 300), settle(first + 1, 99)]);
        broker.told(PEER);
        most = most.max(broker.totals().batch_bytes);
    }
    assert!(most < 5 * SMALL, "{most} octets for {READS} deliveries");
    say(&mut broker, ChannelCommand::Cancel { consumer_tag: "c".into(), nowait: true });
    let nack = ChannelCommand::Settle { how: Settle::Nack { requeue: true }, tag: 0, count: 1, multiple: true };
    say(&mut broker, nack);
    assert_eq!(drain(&mut broker, "q"), (0..READS).map(|n| n * READ).collect::<Vec<_>>());
}

/// Publishes a read to a queue that keeps one message of it.
fn publish_rest(broker: &mut Broker) -> Arc<hornpipe_types::message::Batch> {
    declare_as(broker, "rest", false, &[("x-max-length", Value::I32(1))]);
    let mut b = BatchBuilder::default();
    let route = b.push_route("", "rest");
    (0..2000).for_each(|id| message::push(&mut b, route, &Properties::default(), id, 100));
    let read = b.finish();
    let run = PublishRun { batch: Arc::clone(&read), from: 0, count: 2000, mandatory: false };
    say(broker, ChannelCommand::Publish(run));
    read
}

/// What many queues have of a read is not copied for each of them where that is more than the read.
#[test]
fn a_read_that_many_queues_share_stays_shared() {
    for (queues, stays) in [(2, false), (40, true)] {
        let mut broker = small_broker(0);
        let mut b = BatchBuilder::default();
        let route = b.push_route("amq.fanout", "any");
        (0..64).for_each(|id| message::push(&mut b, route, &Properties::default(), id, 100));
        let read = b.finish();
        for n in 0..queues {
            let queue = format!("q{n}");
            declare_as(&mut broker, &queue, false, &[("x-max-length", Value::I32(2))]);
            let bind = Bind {
                destination: queue.as_str().into(),
                source: "amq.fanout".into(),
                routing_key: "".into(),
                nowait: true,
                arguments: FieldTable::default(),
            };
            say(&mut broker, ChannelCommand::QueueBind(Box::new(bind)));
        }
        let run = PublishRun { batch: Arc::clone(&read), from: 0, count: 64, mandatory: false };
        say(&mut broker, ChannelCommand::Publish(run));
        // another read of which little is left, so that batches are looked at
        let waste = publish_rest(&mut broker);
        assert_eq!(Arc::strong_count(&waste), 1, "its one message was copied");
        let holders = Arc::strong_count(&read) - 1;
        assert_eq!(holders, if stays { queues } else { 0 });
        for n in 0..queues {
            assert_eq!(drain(&mut broker, &format!("q{n}")), [62, 63]);
        }
    }
}

/// Of each read a few messages are held by a delayed exchange, and the others go at once.
#[test]
fn delayed_messages_do_not_keep_every_read() {
    let mut broker = small_broker(SMALL);
    let mut arguments = FieldTable::default();
    arguments.set("x-delayed-type", Value::long_str("fanout"));
    let exchange = ExchangeDeclare {
        exchange: "later".into(),
        kind: "x-delayed-message".into(),
        nowait: true,
        arguments,
        ..ExchangeDeclare::default()
    };
    say(&mut broker, ChannelCommand::ExchangeDeclare(Box::new(exchange)));
    declare_as(&mut broker, "late", false, &[]);
    declare_as(&mut broker, "now", false, &[("x-max-length", Value::I32(1))]);
    let bind = Bind {
        destination: "late".into(),
        source: "later".into(),
        routing_key: "".into(),
        nowait: true,
        arguments: FieldTable::default(),
    };
    say(&mut broker, ChannelCommand::QueueBind(Box::new(bind)));
    let mut headers = FieldTable::default();
    headers.set("x-delay", Value::I32(3_600_000));
    let mut most = 0;
    for n in 0..READS {
        let mut b = BatchBuilder::default();
        let (later, now) = (b.push_route("later", ""), b.push_route("", "now"));
        for id in n * READ..(n + 1) * READ {
            let held = id % 100 == 7;
            let properties = Properties { headers: held.then(|| headers.clone()), ..Properties::default() };
            message::push(&mut b, if held { later } else { now }, &properties, id, 8);
        }
        let batch = b.finish();
        let publish = |from| {
            let run = PublishRun { batch: Arc::clone(&batch), from, count: 1, mandatory: false };
            Command::Channel(1, ChannelCommand::Publish(run))
        };
        let commands = (0..READ as u32).map(publish).collect();
        drop(batch);
        broker.run(PEER, commands);
        most = most.max(broker.totals().batch_bytes);
    }
    assert!(most < 5 * SMALL, "{most} octets for {} messages", READS * READ / 100);
    broker.advance(3_600_000);
    assert_eq!(drain(&mut broker, "late"), (0..READS * READ).filter(|id| id % 100 == 7).collect::<Vec<_>>());
}
