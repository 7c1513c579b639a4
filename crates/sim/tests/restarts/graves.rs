//! What died in a queue before the queue was deleted gets where its dead letters go, whenever the process ends.

use crate::rig::{Got, Rig, persistent, table, text};
use hornpipe_types::command::{ChannelCommand, QueueDeclare, Settle};
use hornpipe_types::definition::PolicyDefinition;
use hornpipe_types::limits::Limits;
use hornpipe_types::operate::Operation;
use hornpipe_types::table::{FieldTable, Value};

/// One dead letter a slice.
fn rig() -> Rig {
    let mut rig = Rig::with(Limits { slice_units: 8, ..Limits::default() });
    rig.declare("dead", true, &[]);
    rig.exchange("all", "fanout", &[]);
    rig
}

/// A queue that gets what goes to the exchange `all`.
fn declare_work(rig: &mut Rig, arguments: &[(&str, Value)]) {
    let to_dead = [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("dead"))];
    rig.declare("work", true, &[&to_dead, arguments].concat());
    rig.bind("work", "all", "");
}

/// The same while the disk does nothing.
fn declare_work_only(rig: &mut Rig, exclusive: bool, arguments: &[(&str, Value)]) {
    let to_dead = [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("dead"))];
    rig.say_only(
        1,
        ChannelCommand::QueueDeclare(Box::new(QueueDeclare {
            queue: "work".into(),
            passive: false,
            durable: true,
            exclusive,
            auto_delete: false,
            nowait: true,
            arguments: table(&[&to_dead, arguments].concat()),
        })),
    );
}

fn delete(queue: &str) -> ChannelCommand {
    ChannelCommand::QueueDelete { queue: queue.into(), if_unused: false, if_empty: false, nowait: true }
}

fn reject(tag: u64, multiple: bool) -> ChannelCommand {
    ChannelCommand::Settle { how: Settle::Reject { requeue: false }, tag, count: 1, multiple }
}

fn numbers(from: u32, to: u32) -> Vec<String> {
    (from..to).map(|n| format!("{n:02}")).collect()
}

fn publish(rig: &mut Rig, from: u32, to: u32) {
    let bodies = numbers(from, to);
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    rig.publish("all", "", &persistent(), &bodies);
}

/// The last death of each of the dead letters: reason and queue.
fn deaths(rig: &mut Rig) -> Vec<(String, String, String)> {
    let entry = |m: &Got| match m.headers.get("x-death") {
        Some(Value::Array(deaths)) => match deaths.first() {
            Some(Value::Table(death)) => death.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let word = |death: &FieldTable, key| death.get(key).and_then(Value::as_str).unwrap().to_owned();
    std::iter::from_fn(|| rig.get(3, "dead", true))
        .map(|m| (m.body.clone(), word(&entry(&m), "reason"), word(&entry(&m), "queue")))
        .collect()
}

#[test]
fn what_was_rejected_outlives_its_queue_and_the_process() {
    rejected_and_deleted(&[]);
}

/// A quorum queue counts deliveries in the log too: of a grave nobody asks for them.
#[test]
fn what_was_rejected_outlives_its_quorum_queue_and_the_process() {
    rejected_and_deleted(&[("x-queue-type", text("quorum"))]);
}

/// Rejected, deleted, declared again at once; the process ends after so many turns.
fn rejected_and_deleted(kind: &[(&str, Value)]) {
    for turns in 0..24 {
        let mut rig = rig();
        rig.declare("keep", true, &[]);
        rig.bind("keep", "all", "");
        declare_work(&mut rig, kind);
        publish(&mut rig, 0, 12);
        rig.consume(2, "work", "c", 0);
        assert_eq!(rig.delivered().len(), 12);
        // two are acknowledged, eight rejected, and two outstanding: these go with the queue
        rig.say_only(2, ChannelCommand::Settle { how: Settle::Ack, tag: 3, count: 2, multiple: false });
        rig.say_only(2, reject(10, true));
        rig.say_only(1, delete("work"));
        // the channel goes on with what it has left
        rig.say_only(2, reject(11, false));
        rig.say_only(2, ChannelCommand::Settle { how: Settle::Ack, tag: 12, count: 1, multiple: false });
        rig.turn();
        declare_work_only(&mut rig, false, kind);
        (0..turns).for_each(|_| rig.turn());
        rig.crash();
        declare_work(&mut rig, kind);
        publish(&mut rig, 50, 52);
        rig.crash();
        let expected = [numbers(0, 2), numbers(4, 10)].concat();
        assert_eq!(rig.drain("dead"), expected, "after {turns} turns");
        assert_eq!(rig.drain("work"), numbers(50, 52), "after {turns} turns");
        // the runs it shared with the other queue were not counted off twice
        assert_eq!(rig.drain("keep"), [numbers(0, 12), numbers(50, 52)].concat(), "after {turns} turns");
        rig.restart();
        assert!(rig.records() < 3, "{} records are left after {turns} turns", rig.records());
    }
}

/// Six messages whose bodies left memory before a policy gave their queue a dead-letter exchange, rejected and being read back
/// when the queue is deleted.
fn rejected_without_bodies() -> Rig {
    let mut rig = rig();
    rig.config.inline_bytes_max = 1;
    rig.restart();
    rig.declare("work", true, &[]);
    rig.bind("work", "all", "");
    (0..6).for_each(|n| publish(&mut rig, n, n + 1));
    rig.consume(2, "work", "c", 0);
    rig.shortage();
    rig.operate(Operation::PutPolicy(PolicyDefinition {
        vhost: "/".into(),
        name: "p".into(),
        pattern: "^work$".to_owned(),
        apply_to: "queues".to_owned(),
        definition: table(&[("dead-letter-exchange", text("")), ("dead-letter-routing-key", text("dead"))]),
        ..PolicyDefinition::default()
    }));
    rig.say_only(2, reject(6, true));
    rig.say_only(1, delete("work"));
    rig
}

#[test]
fn what_waits_for_its_body_outlives_its_queue() {
    for reads in 0..8 {
        for stop in [Rig::crash, Rig::restart] {
            let mut rig = rejected_without_bodies();
            for _ in 0..reads {
                rig.turn();
                rig.read_one();
            }
            rig.turn();
            stop(&mut rig);
            rig.crash();
            let expected = |n| (n, "rejected".to_owned(), "work".to_owned());
            assert_eq!(deaths(&mut rig), numbers(0, 6).into_iter().map(expected).collect::<Vec<_>>(), "{reads} reads");
        }
    }
}

/// Without a crash too; and nothing of the queue is left then.
#[test]
fn what_waits_for_its_body_is_dead_lettered_when_that_is_there() {
    let mut rig = rejected_without_bodies();
    rig.settle_down();
    assert_eq!(rig.drain("dead"), numbers(0, 6));
    rig.restart();
    assert!(rig.records() < 3, "{} records are left", rig.records());
}

/// An exclusive queue is not logged, so a crash takes what was rejected in it; the end of its connection does not.
#[test]
fn what_was_rejected_outlives_the_connection_of_its_exclusive_queue() {
    let mut rig = rig();
    declare_work_only(&mut rig, true, &[]);
    rig.bind("work", "all", "");
    publish(&mut rig, 0, 12);
    rig.consume(2, "work", "c", 0);
    assert_eq!(rig.delivered().len(), 12);
    rig.say_only(2, reject(10, true));
    rig.reconnect();
    let expected = |n| (n, "rejected".to_owned(), "work".to_owned());
    assert_eq!(deaths(&mut rig), numbers(0, 10).into_iter().map(expected).collect::<Vec<_>>());
    rig.restart();
    assert!(rig.records() < 3, "{} records are left", rig.records());
}

/// A purge just before the deletion takes what it takes, and no more.
#[test]
fn a_purge_before_the_deletion_keeps_what_was_rejected() {
    for turns in 0..12 {
        let mut rig = rig();
        declare_work(&mut rig, &[]);
        (0..20).for_each(|n| publish(&mut rig, n, n + 1));
        rig.say(2, ChannelCommand::Qos { prefetch_size: 0, prefetch_count: 4, global: false });
        rig.consume(2, "work", "c", 0);
        rig.say_only(2, reject(4, true));
        rig.say_only(1, ChannelCommand::QueuePurge { queue: "work".into(), nowait: true });
        rig.say_only(1, delete("work"));
        (0..turns).for_each(|_| rig.turn());
        let deleted = turns > 0;
        rig.crash();
        if deleted {
            // what came in place of the rejected ones was outstanding
            assert_eq!(rig.drain("dead"), numbers(0, 4), "after {turns} turns");
        }
    }
}
