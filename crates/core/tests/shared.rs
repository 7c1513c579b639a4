//! What queues that differ in deadline share on disk: it is there once, counts once, and goes when no queue has it any more.

use hornpipe_testkit::{Broker, message};
use hornpipe_types::command::{Bind, ChannelCommand, Command, PublishRun, QueueDeclare};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::{ConnectionId, QueueId};
use hornpipe_types::limits::Limits;
use hornpipe_types::message::BatchBuilder;
use hornpipe_types::table::{FieldTable, Value};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

const CLIENT: ConnectionId = ConnectionId(1);

fn say(broker: &mut Broker, command: ChannelCommand) {
    broker.run(CLIENT, vec![Command::Channel(1, command)]);
}

/// Queues bound to amq.fanout, each with a time to live of its own, and one that is not bound.
fn broker(limits: Limits, queues: usize) -> Broker {
    let mut broker = Broker::new(limits, 1);
    broker.disk.in_files = true;
    broker.open(CLIENT, 1, false);
    for n in 0..=queues {
        let (passive, durable, exclusive, auto_delete, nowait) = (false, true, false, false, true);
        let mut arguments = FieldTable::default();
        arguments.set("x-message-ttl", Value::I64(10_000_000 + n as i64));
        let queue = format!("q{n}").as_str().into();
        let declare = QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments };
        say(&mut broker, ChannelCommand::QueueDeclare(Box::new(declare)));
        let bind = Bind {
            destination: format!("q{n}").as_str().into(),
            source: "amq.fanout".into(),
            routing_key: "".into(),
            nowait: true,
            arguments: FieldTable::default(),
        };
        if n < queues {
            say(&mut broker, ChannelCommand::QueueBind(Box::new(bind)));
        }
    }
    broker.commit_all();
    broker
}

/// Publishes persistent messages in one read.
fn publish(broker: &mut Broker, exchange: &str, key: &str, ids: std::ops::Range<u64>) {
    let mut b = BatchBuilder::default();
    let route = b.push_route(exchange, key);
    let properties = Properties { delivery_mode: Some(2), ..Properties::default() };
    let count = (ids.end - ids.start) as u32;
    ids.for_each(|id| message::push(&mut b, route, &properties, id, 100));
    let run = PublishRun { batch: b.finish(), from: 0, count, mandatory: false };
    say(broker, ChannelCommand::Publish(run));
}

fn get(broker: &mut Broker, n: usize) {
    say(broker, ChannelCommand::Get { queue: format!("q{n}").as_str().into(), no_ack: true });
}

fn purge(broker: &mut Broker, n: usize) {
    say(broker, ChannelCommand::QueuePurge { queue: format!("q{n}").as_str().into(), nowait: true });
}

/// Until the log has nothing more to do.
fn rest(broker: &mut Broker) {
    for round in 0.. {
        assert!(round < 200, "the log never rests: {:?}", broker.disk.files());
        let before = broker.disk.files();
        broker.advance(1000);
        broker.commit_all();
        if broker.disk.files() == before && round > 2 {
            return;
        }
    }
}

fn on_disk(broker: &Broker, n: usize) -> Vec<u64> {
    // ids count up from one in the order of declaration
    broker.disk.messages(QueueId(n as u64 + 1)).iter().map(|(batch, i)| message::id_of(batch, *i)).collect()
}

/// Of each file but the newest at least half lives.
fn check_files(broker: &Broker) {
    let files = broker.disk.files();
    for (file, (total, live)) in files.iter().rev().skip(1) {
        assert!(live * 2 >= *total, "{live} of {total} live in file {file}: {files:?}");
    }
}

fn octets(broker: &Broker) -> u64 {
    broker.disk.files().values().map(|(total, _)| total).sum()
}

#[test]
fn a_shared_body_is_written_again_once_for_all_its_queues() {
    const QUEUES: usize = 60;
    let mut broker = broker(Limits::default(), QUEUES);
    publish(&mut broker, "amq.fanout", "", 0..20);
    publish(&mut broker, "", "q60", 100..140);
    broker.commit_all();
    // two more groups: the next file
    for id in [140, 141, 142] {
        publish(&mut broker, "", "q60", id..id + 1);
        broker.commit_all();
    }
    let (before, newest) = (octets(&broker), broker.disk.files().len());
    assert!(newest > 1);
    (0..31).for_each(|n| purge(&mut broker, n));
    rest(&mut broker);
    assert!(octets(&broker) <= before, "{} octets, {before} before", octets(&broker));
    // what was not shared goes, and takes the file with it
    for _ in 0..43 {
        get(&mut broker, 60);
    }
    rest(&mut broker);
    assert!(octets(&broker) < before / 2, "{} octets, {before} before", octets(&broker));
    for n in 0..QUEUES {
        assert_eq!(on_disk(&broker, n), if n < 31 { vec![] } else { (0..20).collect::<Vec<_>>() }, "queue {n}");
    }
}

#[test]
fn what_queues_took_before_it_was_written_does_not_part_them() {
    const QUEUES: usize = 10;
    let mut broker = broker(Limits::default(), QUEUES);
    publish(&mut broker, "amq.fanout", "", 0..20);
    for n in 0..QUEUES {
        (0..n).for_each(|_| get(&mut broker, n));
    }
    broker.commit_all();
    let once = octets(&broker);
    publish(&mut broker, "", "q10", 0..20);
    broker.commit_all();
    assert!(
        once <= octets(&broker) - once,
        "{once} octets for twenty messages, {} more for as many",
        octets(&broker) - once
    );
    for n in 0..QUEUES {
        assert_eq!(on_disk(&broker, n), (n as u64..20).collect::<Vec<_>>(), "queue {n}");
    }
}

#[test]
fn shared_bodies_do_not_hide_what_is_dead_beside_them() {
    const QUEUES: usize = 60;
    let mut broker = broker(Limits::default(), QUEUES);
    for k in 0..30 {
        publish(&mut broker, "amq.fanout", "", k..k + 1);
        publish(&mut broker, "", "q60", 1000 + 20 * k..1020 + 20 * k);
        broker.take_group();
        broker.commit();
    }
    broker.commit_all();
    let before = octets(&broker);
    purge(&mut broker, 60);
    rest(&mut broker);
    check_files(&broker);
    assert!(octets(&broker) < before / 8, "{} octets, {before} before", octets(&broker));
    for n in 0..QUEUES {
        assert_eq!(on_disk(&broker, n), (0..30).collect::<Vec<_>>(), "queue {n}");
    }
}

#[derive(Debug, Clone)]
enum Op {
    Fan(u64),
    Alone(usize, u64),
    Get(usize, usize),
    Purge(usize),
    Commit,
    Rest,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever each queue has left of what they share, at rest no file but the newest is more than half dead, nothing is lost
    /// and nothing comes back.
    #[test]
    fn files_that_queues_share_stay_half_alive(
        slack in prop_oneof![Just(0u64), Just(3), Just(512)],
        short_runs in prop_oneof![Just(3u64), Just(1024)],
        ops in prop::collection::vec(prop_oneof![
            4 => (1u64..12).prop_map(Op::Fan),
            2 => (0..6usize, 1u64..30).prop_map(|(n, count)| Op::Alone(n, count)),
            4 => (0..6usize, 1..25usize).prop_map(|(n, count)| Op::Get(n, count)),
            1 => (0..6usize).prop_map(Op::Purge),
            4 => Just(Op::Commit),
            1 => Just(Op::Rest),
        ], 1..60),
    ) {
        const QUEUES: usize = 5;
        let mut broker = broker(Limits { log_records_slack: slack, short_runs, ..Limits::default() }, QUEUES);
        let mut model: BTreeMap<usize, VecDeque<u64>> = (0..=QUEUES).map(|n| (n, VecDeque::new())).collect();
        let mut next = 0;
        for op in ops.into_iter().chain([Op::Rest]) {
            match op {
                Op::Fan(count) => {
                    publish(&mut broker, "amq.fanout", "", next..next + count);
                    (0..QUEUES).for_each(|n| model.entry(n).or_default().extend(next..next + count));
                    next += count;
                }
                Op::Alone(n, count) => {
                    publish(&mut broker, "", &format!("q{n}"), next..next + count);
                    model.entry(n).or_default().extend(next..next + count);
                    next += count;
                }
                Op::Get(n, count) => {
                    for _ in 0..count {
                        get(&mut broker, n);
                        model.entry(n).or_default().pop_front();
                    }
                }
                Op::Purge(n) => {
                    purge(&mut broker, n);
                    model.entry(n).or_default().clear();
                }
                Op::Commit => {
                    broker.take_group();
                    broker.commit();
                }
                Op::Rest => {
                    rest(&mut broker);
                    check_files(&broker);
                    for (n, messages) in &model {
                        prop_assert_eq!(on_disk(&broker, *n), Vec::from(messages.clone()), "queue {}", n);
                    }
                }
            }
        }
    }
}
