//! What the log writes again, and in what shape: short runs are joined, what a fan-out shares stays shared.

use hornpipe_testkit::Broker;
use hornpipe_testkit::message;
use hornpipe_types::command::{Bind, ChannelCommand, Command, Consume, PublishRun, QueueDeclare, Settle};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect, Loaded, Outbox};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::{ConnectionId, QueueId};
use hornpipe_types::limits::Limits;
use hornpipe_types::message::{Batch, BatchBuilder};
use hornpipe_types::table::FieldTable;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

const CLIENT: ConnectionId = ConnectionId(1);

fn channel(command: ChannelCommand) -> Command {
    Command::Channel(1, command)
}

/// Durable queues bound to amq.fanout.
fn broker(limits: Limits, queues: usize) -> Broker {
    let mut broker = Broker::new(limits, 1);
    broker.open(CLIENT, 2, false);
    for n in 0..queues {
        let declare = QueueDeclare {
            queue: format!("q{n}").as_str().into(),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            nowait: true,
            arguments: FieldTable::default(),
        };
        let bind = Bind {
            destination: format!("q{n}").as_str().into(),
            source: "amq.fanout".into(),
            routing_key: "".into(),
            nowait: true,
            arguments: FieldTable::default(),
        };
        let commands = [ChannelCommand::QueueDeclare(Box::new(declare)), ChannelCommand::QueueBind(Box::new(bind))];
        broker.run(CLIENT, commands.map(channel).into());
    }
    broker.commit_all();
    broker
}

/// Publishes one persistent message in a read of its own.
fn publish(broker: &mut Broker, exchange: &str, key: &str, id: u64) {
    let mut b = BatchBuilder::default();
    let route = b.push_route(exchange, key);
    let properties = Properties { delivery_mode: Some(2), ..Properties::default() };
    message::push(&mut b, route, &properties, id, 20);
    let run = PublishRun { batch: b.finish(), from: 0, count: 1, mandatory: false };
    broker.run(CLIENT, vec![channel(ChannelCommand::Publish(run))]);
}

fn queue_id(broker: &mut Broker, n: u64) -> QueueId {
    // ids count up from one in the order of declaration
    assert!(broker.queue(&format!("q{n}")).is_some());
    QueueId(n + 1)
}

/// The ids of a queue's messages on disk, checked for their bodies, and the number of runs that hold them.
fn on_disk(broker: &Broker, queue: QueueId) -> (Vec<u64>, usize) {
    let found = broker.disk.messages(queue);
    let runs: BTreeSet<*const Batch> = found.iter().map(|(batch, _)| Arc::as_ptr(batch)).collect();
    (found.iter().map(|(batch, i)| message::id_of(batch, *i)).collect(), runs.len())
}

#[test]
fn messages_that_wait_for_a_group_alone_are_logged_as_one_run() {
    let mut broker = broker(Limits::default(), 1);
    for id in 0..50 {
        publish(&mut broker, "", "q0", id);
    }
    broker.commit_all();
    let queue = queue_id(&mut broker, 0);
    assert_eq!(on_disk(&broker, queue), ((0..50).collect(), 1));
}

#[test]
fn runs_of_one_message_are_joined_once_there_are_many() {
    let mut broker = broker(Limits { short_runs: 100, ..Limits::default() }, 1);
    for id in 0..1000 {
        publish(&mut broker, "", "q0", id);
        // a group for each
        broker.take_group();
        broker.commit();
    }
    broker.commit_all();
    let queue = queue_id(&mut broker, 0);
    let (ids, runs) = on_disk(&broker, queue);
    assert_eq!(ids, (0..1000).collect::<Vec<_>>());
    assert!(runs < 150, "{runs} runs");
}

#[test]
fn the_more_queues_fill_message_by_message_the_sooner_their_runs_are_joined() {
    const QUEUES: u64 = 100;
    const EACH: u64 = 140;
    // more than any queue gets
    let mut broker = broker(Limits { short_runs: 150, ..Limits::default() }, QUEUES as usize);
    for id in 0..EACH {
        for n in 0..QUEUES {
            publish(&mut broker, "", &format!("q{n}"), id);
        }
        broker.take_group();
        broker.commit();
    }
    broker.commit_all();
    let mut runs = 0;
    for n in 0..QUEUES {
        let queue = queue_id(&mut broker, n);
        let (ids, more) = on_disk(&broker, queue);
        assert_eq!(ids, (0..EACH).collect::<Vec<_>>(), "queue {n}");
        runs += more;
    }
    assert!(runs < 12_000, "{runs} runs hold {} messages", QUEUES * EACH);
}

#[test]
fn runs_that_were_joined_are_joined_again_when_there_are_many() {
    let mut broker = broker(Limits { short_runs: 4, ..Limits::default() }, 1);
    for id in 0..4000 {
        publish(&mut broker, "", "q0", id);
        broker.take_group();
        broker.commit();
    }
    broker.commit_all();
    let queue = queue_id(&mut broker, 0);
    let (ids, runs) = on_disk(&broker, queue);
    assert_eq!(ids, (0..4000).collect::<Vec<_>>());
    assert!(runs < 40, "{runs} runs");
}

#[test]
fn a_fan_out_is_one_run_for_all_queues_also_after_it_was_written_again() {
    const QUEUES: u64 = 40;
    // whatever lies in records is moved at once
    let mut broker = broker(Limits { log_records_slack: 0, short_runs: 5, ..Limits::default() }, QUEUES as usize);
    for id in 0..30 {
        publish(&mut broker, "amq.fanout", "", id);
        broker.take_group();
        broker.commit();
    }
    broker.commit_all();
    let mut batches: BTreeSet<*const Batch> = BTreeSet::new();
    let mut held = Vec::new();
    for n in 0..QUEUES {
        let queue = queue_id(&mut broker, n);
        let found = broker.disk.messages(queue);
        let ids: Vec<u64> = found.iter().map(|(batch, i)| message::id_of(batch, *i)).collect();
        assert_eq!(ids, (0..30).collect::<Vec<_>>(), "queue {n}");
        batches.extend(found.iter().map(|(batch, _)| Arc::as_ptr(batch)));
        held.extend(found);
    }
    assert!(batches.len() < 15, "{} batches hold 30 messages of {QUEUES} queues", batches.len());
}

/// The oldest group gets onto the disk; nothing is read back yet.
fn commit_alone(broker: &mut Broker) {
    broker.take_group();
    let committed = broker.disk.commit().expect("a group is under way");
    broker.shard.handle_committed(broker.now, committed);
}

#[test]
fn with_too_many_runs_publishers_wait_for_those_that_are_being_joined() {
    let mut broker = broker(Limits { short_runs: 16, log_runs: 3, ..Limits::default() }, 1);
    for id in 0..7 {
        publish(&mut broker, "", "q0", id);
        commit_alone(&mut broker);
        assert!(!broker.shard.is_full(), "{id}: nothing is joined yet");
    }
    publish(&mut broker, "", "q0", 7);
    commit_alone(&mut broker);
    assert!(broker.shard.is_full(), "eight runs, half of what they might be, are read to be joined");
    broker.turn();
    assert!(!broker.shard.is_full(), "they are one");
    assert_eq!(broker.totals().log_runs, 1);
}

#[test]
fn publishers_wait_for_the_write_of_joined_runs_but_not_where_nothing_can_be_joined() {
    const QUEUES: u64 = 20;
    let mut broker = broker(Limits { short_runs: 4, log_runs: 8, ..Limits::default() }, QUEUES as usize);
    for n in 0..QUEUES {
        publish(&mut broker, "", &format!("q{n}"), n);
        commit_alone(&mut broker);
        broker.turn();
        assert!(!broker.shard.is_full(), "a queue with one message has nothing to join");
    }
    for id in 0..3 {
        publish(&mut broker, "", "q0", id);
        commit_alone(&mut broker);
    }
    assert!(broker.shard.is_full(), "four runs are read to be joined");
    broker.turn();
    assert!(broker.shard.is_full(), "they are to be written as one");
    broker.take_group();
    assert!(broker.shard.is_full(), "they are being written");
    broker.commit();
    assert!(!broker.shard.is_full(), "they are on disk");
    assert_eq!(broker.totals().log_runs, QUEUES);
}

#[test]
fn publishers_do_not_wait_for_a_few_runs_beside_many_that_can_not_be_joined() {
    const QUEUES: u64 = 200;
    let mut broker = broker(Limits { short_runs: 4, log_runs: 160, ..Limits::default() }, QUEUES as usize);
    for n in 0..QUEUES {
        publish(&mut broker, "", &format!("q{n}"), n);
    }
    broker.commit_all();
    for id in 0..40 {
        publish(&mut broker, "", "q0", id);
        commit_alone(&mut broker);
        assert!(!broker.shard.is_full(), "{id}: at most four can be joined");
        broker.commit_all();
    }
    assert!(broker.totals().log_runs < QUEUES + 8, "they were joined meanwhile");
    // three more in each of five
    for id in 0..3 {
        for n in 1..6 {
            publish(&mut broker, "", &format!("q{n}"), id);
        }
        commit_alone(&mut broker);
    }
    assert!(broker.shard.is_full(), "twenty become five");
    broker.commit_all();
    assert!(!broker.shard.is_full());
}

#[test]
fn what_a_fan_out_left_is_joined_though_one_queue_has_taken_its_copies() {
    const MESSAGES: u64 = 400;
    let mut broker = broker(Limits { short_runs: 16, ..Limits::default() }, 3);
    for id in 0..MESSAGES {
        publish(&mut broker, "amq.fanout", "", id);
        broker.take_group();
        broker.commit();
        // at once, or when it is on disk in a run with others
        let behind = id % 100;
        match behind {
            0..59 => get(&mut broker, "q1", 1),
            99 => get(&mut broker, "q1", 41),
            _ => {}
        }
    }
    broker.commit_all();
    for (n, left) in [(0, 0..MESSAGES), (1, 0..0), (2, 0..MESSAGES)] {
        let queue = queue_id(&mut broker, n);
        let (mut ids, runs) = on_disk(&broker, queue);
        ids.sort_unstable();
        assert_eq!(broker.queue(&format!("q{n}")).unwrap().messages_ready, left.end, "queue {n}");
        assert!(left.clone().all(|id| ids.binary_search(&id).is_ok()), "queue {n}");
        assert!(left.is_empty() || runs < 60, "{runs} runs in queue {n}");
    }
}

/// However scattered what is left of long runs is, one step makes a limited number of runs of it: the owner does it in one turn.
#[test]
fn scattered_messages_are_written_again_in_small_steps() {
    const RUNS: u64 = 12;
    const EACH: u64 = 3000;
    let mut broker = broker(Limits { log_records_slack: 0, ..Limits::default() }, 2);
    for run in 0..RUNS {
        let mut b = BatchBuilder::default();
        let route = b.push_route("", "q0");
        let properties = Properties { delivery_mode: Some(2), ..Properties::default() };
        (0..EACH).for_each(|n| message::push(&mut b, route, &properties, run * EACH + n, 0));
        let run = PublishRun { batch: b.finish(), from: 0, count: EACH as u32, mandatory: false };
        broker.run(CLIENT, vec![channel(ChannelCommand::Publish(run))]);
        commit_alone(&mut broker);
    }
    let consume = Consume {
        queue: "q0".into(),
        consumer_tag: "c".into(),
        no_ack: false,
        exclusive: false,
        nowait: true,
        arguments: FieldTable::default(),
    };
    broker.run(CLIENT, vec![channel(ChannelCommand::Consume(Box::new(consume)))]);
    let ack = |tag| ChannelCommand::Settle { how: Settle::Ack, tag, count: 1, multiple: false };
    broker.run(CLIENT, (1..=RUNS * EACH).step_by(2).map(|tag| channel(ack(tag))).collect());
    // records behind them that are not needed, so that theirs are to go as well
    let mut most = 0;
    for id in 0..2 * RUNS {
        publish(&mut broker, "", "q1", id);
        broker.take_group();
        get(&mut broker, "q1", 1);
        while let Some(committed) = broker.disk.commit() {
            most = most.max(committed.places.len());
            broker.shard.handle_committed(broker.now, committed);
            broker.turn();
            broker.take_group();
        }
    }
    let queue = queue_id(&mut broker, 0);
    let (ids, runs) = on_disk(&broker, queue);
    assert_eq!(ids, (1..RUNS * EACH).step_by(2).collect::<Vec<_>>());
    assert!(runs as u64 > RUNS * EACH / 4, "{runs} runs: they were not written again");
    assert!(most as u64 <= 2048 + EACH / 2, "{most} runs in one step");
}

/// Takes messages out of a queue.
fn get(broker: &mut Broker, queue: &str, count: u64) {
    for _ in 0..count {
        broker.run(CLIENT, vec![channel(ChannelCommand::Get { queue: queue.into(), no_ack: true })]);
    }
}

#[test]
fn runs_that_are_read_while_a_purge_goes_on_are_joined_after_it() {
    let mut broker = broker(Limits { short_runs: 16, slice_units: 1, ..Limits::default() }, 2);
    for id in 0..15 {
        publish(&mut broker, "", "q1", id);
        commit_alone(&mut broker);
    }
    for id in 0..16 {
        publish(&mut broker, "", "q0", id);
        commit_alone(&mut broker);
    }
    broker.run(CLIENT, vec![channel(ChannelCommand::QueuePurge { queue: "q1".into(), nowait: true })]);
    broker.commit_all();
    let queue = queue_id(&mut broker, 0);
    let (ids, runs) = on_disk(&broker, queue);
    assert_eq!((ids, runs), ((0..16).collect(), 1));
}

#[test]
fn runs_of_other_queues_part_those_that_are_joined_and_no_more() {
    let mut broker = broker(Limits { short_runs: 16, ..Limits::default() }, 2);
    for id in 0..15 {
        publish(&mut broker, "amq.fanout", "", id);
        commit_alone(&mut broker);
    }
    let take = |queue: &str, no_ack| channel(ChannelCommand::Get { queue: queue.into(), no_ack });
    broker.run(CLIENT, (0..8).map(|_| take("q0", false)).collect());
    publish(&mut broker, "amq.fanout", "", 15);
    commit_alone(&mut broker);
    // while all are read: the first stays in one queue, the next seven in the other, what follows in both
    let acked = ChannelCommand::Settle { how: Settle::Ack, tag: 2, count: 7, multiple: false };
    broker.run(CLIENT, vec![take("q1", true), channel(acked)]);
    broker.commit_all();
    assert_eq!(broker.totals().log_runs, 3);
    let queues = [0, 1].map(|n| queue_id(&mut broker, n));
    assert_eq!(on_disk(&broker, queues[0]).0, [vec![0], (8..16).collect()].concat());
    assert_eq!(on_disk(&broker, queues[1]).0, (1..16).collect::<Vec<_>>());
    broker.shard.check_log().unwrap();
}

#[test]
fn what_could_not_be_read_since_one_of_it_has_gone_is_planned_anew() {
    let mut broker = broker(Limits { short_runs: 16, log_records_slack: 1 << 20, ..Limits::default() }, 1);
    for id in 0..16 {
        publish(&mut broker, "", "q0", id);
        commit_alone(&mut broker);
    }
    // they are asked for, and the first one goes before they are read
    let mut asked = Outbox::default();
    broker.shard.poll_effects(broker.now, &mut asked);
    assert_eq!(asked.loads.len(), 1);
    get(&mut broker, "q0", 1);
    for load in asked.loads {
        let gone = Err("a part of it is gone".into());
        broker.shard.handle_loaded(broker.now, Loaded { id: load.id, batch: gone });
    }
    broker.commit_all();
    publish(&mut broker, "", "q0", 16);
    broker.commit_all();
    let queue = queue_id(&mut broker, 0);
    assert_eq!(on_disk(&broker, queue).0, (1..17).collect::<Vec<_>>());
    assert!(broker.totals().log_runs <= 2, "{} runs", broker.totals().log_runs);
    broker.shard.check_log().unwrap();
}

#[test]
fn what_can_not_be_read_though_nothing_changed_is_not_asked_for_again() {
    let mut broker = broker(Limits { short_runs: 16, ..Limits::default() }, 1);
    for id in 0..16 {
        publish(&mut broker, "", "q0", id);
        commit_alone(&mut broker);
    }
    let mut asked = Outbox::default();
    broker.shard.poll_effects(broker.now, &mut asked);
    for load in asked.loads {
        broker.shard.handle_loaded(broker.now, Loaded { id: load.id, batch: Err("damaged".into()) });
    }
    for id in 16..20 {
        publish(&mut broker, "", "q0", id);
        commit_alone(&mut broker);
        let mut asked = Outbox::default();
        broker.shard.poll_effects(broker.now, &mut asked);
        assert!(asked.loads.is_empty(), "{:?}", asked.loads);
    }
    assert_eq!(broker.totals().log_runs, 20);
}

/// What happens to queues that share some messages while their runs are read, joined and moved.
#[derive(Debug, Clone)]
enum Step {
    Publish(usize),
    Take(usize, u64),
    Hold(usize),
    Settle(u64, bool),
    Purge(usize),
    Group,
    Written,
    Turn,
    AllWritten,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3usize).prop_map(Step::Publish),
        2 => (0..2usize, 1..4u64).prop_map(|(queue, n)| Step::Take(queue, n)),
        1 => (0..2usize).prop_map(Step::Hold),
        1 => (0..8u64, any::<bool>()).prop_map(|(tag, acked)| Step::Settle(tag, acked)),
        1 => (0..2usize).prop_map(Step::Purge),
        5 => Just(Step::Group),
        5 => Just(Step::Written),
        2 => Just(Step::Turn),
        1 => Just(Step::AllWritten),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    /// Whatever is published, taken, returned or purged between planning, reading, writing and having written: every sum of
    /// the log is that of what it lists, each run is counted once, and the disk has what the queues have.
    #[test]
    fn the_logs_sums_are_those_of_what_it_lists(
        steps in prop::collection::vec(step(), 1..250),
        (short_runs, log_records_slack, slice_units) in (4u64..12, 0u64..20, 1u32..40),
    ) {
        let limits = Limits { short_runs, log_records_slack, slice_units, ..Limits::default() };
        let mut broker = broker(limits, 2);
        let (mut id, mut tags, mut settled) = (0, 0, 0);
        for step in steps {
            match step {
                Step::Publish(to) => {
                    let (exchange, key) = [("", "q0"), ("", "q1"), ("amq.fanout", "")][to];
                    publish(&mut broker, exchange, key, id);
                    id += 1;
                }
                Step::Take(queue, n) => get(&mut broker, &format!("q{queue}"), n),
                Step::Hold(queue) => {
                    let get = ChannelCommand::Get { queue: format!("q{queue}").as_str().into(), no_ack: false };
                    broker.run(CLIENT, vec![Command::Channel(2, get)]);
                }
                Step::Settle(behind, acked) => {
                    // all that are outstanding up to one of them
                    let how = if acked { Settle::Ack } else { Settle::Nack { requeue: true } };
                    let known = broker.told(CLIENT).iter().filter_map(get_ok).max();
                    tags = known.unwrap_or(tags);
                    let tag = tags.saturating_sub(behind);
                    if tag > settled {
                        settled = tag;
                        let settle = ChannelCommand::Settle { how, tag, count: 1, multiple: true };
                        broker.run(CLIENT, vec![Command::Channel(2, settle)]);
                    }
                }
                Step::Purge(queue) => {
                    let purge = ChannelCommand::QueuePurge { queue: format!("q{queue}").as_str().into(), nowait: true };
                    broker.run(CLIENT, vec![channel(purge)]);
                }
                Step::Group => _ = broker.take_group(),
                Step::Written => {
                    if let Some(committed) = broker.disk.commit() {
                        broker.shard.handle_committed(broker.now, committed);
                    }
                }
                Step::Turn => broker.turn(),
                Step::AllWritten => broker.commit_all(),
            }
            prop_assert_eq!(broker.shard.check_log(), Ok(()));
        }
        broker.commit_all();
        broker.advance(10_000);
        broker.commit_all();
        prop_assert_eq!(broker.shard.check_log(), Ok(()));
        let mut there = 0;
        for n in 0..2 {
            let queue = queue_id(&mut broker, n);
            let (ids, _) = on_disk(&broker, queue);
            there += ids.len() as u64;
            prop_assert!(ids.is_sorted_by(|a, b| a < b), "{:?}", ids);
        }
        let waiting: u64 = broker.queues().iter().map(|q| q.messages_ready + q.messages_unacknowledged).sum();
        prop_assert_eq!(there, waiting);
    }
}

/// The tag of an answer to a get.
fn get_ok(effect: &ConnectionEffect) -> Option<u64> {
    match effect {
        ConnectionEffect::Channel(2, ChannelEffect::GetOk { tag, .. }) => Some(*tag),
        _ => None,
    }
}
