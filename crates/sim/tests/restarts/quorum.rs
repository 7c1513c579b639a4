//! What quorum queues remember of messages that came back.

use crate::rig::{Rig, persistent, text};
use hornpipe_types::command::{ChannelCommand, Settle};
use hornpipe_types::limits::Limits;
use hornpipe_types::table::Value;

fn quorum(more: &[(&str, Value)]) -> Vec<(&'static str, Value)> {
    let mut arguments = vec![("x-queue-type", text("quorum"))];
    for (key, value) in more {
        let key = ["x-delayed-retry-type", "x-delayed-retry-min", "x-delayed-retry-max", "x-delivery-limit"]
            .into_iter()
            .find(|k| k == key)
            .unwrap();
        arguments.push((key, value.clone()));
    }
    arguments
}

fn retry(kind: &str, min: i32, max: i32) -> Vec<(&'static str, Value)> {
    quorum(&[
        ("x-delayed-retry-type", text(kind)),
        ("x-delayed-retry-min", Value::I32(min)),
        ("x-delayed-retry-max", Value::I32(max)),
    ])
}

/// The wait grows with the number of failures up to the maximum, and a restart neither shortens nor lengthens it.
#[test]
fn a_returned_message_waits_before_it_is_ready_again() {
    let mut rig = Rig::new();
    rig.declare("q", true, &retry("all", 100, 250));
    rig.publish("", "q", &persistent(), &["a", "b"]);
    for (n, wait) in [100, 200, 250, 250].into_iter().enumerate() {
        let a = rig.get(1, "q", false).unwrap();
        assert_eq!((a.body.as_str(), a.int("x-delivery-count")), ("a", (n > 0).then_some(n as i64)));
        rig.settle(1, Settle::Reject { requeue: true }, a.tag);
        // the one behind it does not wait
        let b = rig.get(1, "q", false).unwrap();
        assert_eq!(b.body, "b");
        rig.say(1, ChannelCommand::Settle { how: Settle::Ack, tag: b.tag, count: 1, multiple: false });
        assert_eq!(rig.get(1, "q", false), None);
        rig.advance(wait - 1);
        assert_eq!(rig.get(1, "q", false), None, "before its {wait} ms are over");
        if n % 2 == 0 {
            rig.crash()
        } else {
            rig.restart()
        }
        assert_eq!(rig.get(1, "q", false), None, "a restart does not end the wait");
        rig.publish("", "q", &persistent(), &["b"]);
        rig.advance(1);
    }
    let a = rig.get(1, "q", false).unwrap();
    assert_eq!((a.body.as_str(), a.int("x-delivery-count"), a.redelivered), ("a", Some(4), true));
}

/// `failed` and `returned` choose by what kind of return it was: basic.reject counts as a failure, basic.nack does not.
#[test]
fn delayed_retry_looks_at_the_kind_of_return() {
    for (kind, rejected_waits, nacked_waits) in
        [("failed", true, false), ("returned", false, true), ("all", true, true), ("disabled", false, false)]
    {
        for (how, waits) in
            [(Settle::Reject { requeue: true }, rejected_waits), (Settle::Nack { requeue: true }, nacked_waits)]
        {
            let mut rig = Rig::new();
            rig.declare("q", true, &retry(kind, 50, 1000));
            rig.publish("", "q", &persistent(), &["m"]);
            let m = rig.get(1, "q", false).unwrap();
            rig.settle(1, how, m.tag);
            assert_eq!(rig.get(2, "q", false).is_none(), waits, "{kind} {how:?}");
        }
    }
}

/// A queue with messages that wait for their retry can be deleted; nothing comes back.
#[test]
fn a_queue_goes_with_messages_that_wait() {
    let mut rig = Rig::new();
    rig.declare("q", true, &retry("all", 100, 100));
    rig.publish("", "q", &persistent(), &["m"]);
    let m = rig.get(1, "q", false).unwrap();
    rig.settle(1, Settle::Reject { requeue: true }, m.tag);
    let delete = ChannelCommand::QueueDelete { queue: "q".into(), if_unused: false, if_empty: false, nowait: false };
    rig.say(1, delete);
    rig.advance(200);
    rig.crash();
    rig.declare("q", true, &retry("all", 100, 100));
    rig.advance(200);
    assert_eq!(rig.get(1, "q", true), None);
}

/// The counters stand in the log apart from the message. When the message is written again elsewhere, they must be too.
#[test]
fn counters_move_with_a_message_that_is_copied_forward() {
    let mut rig = Rig::with(Limits { log_records_slack: 0, ..Limits::default() });
    rig.declare("q", true, &quorum(&[("x-delivery-limit", Value::I32(3))]));
    rig.declare("busy", true, &[]);
    rig.publish("", "q", &persistent(), &["m"]);
    for _ in 0..2 {
        let m = rig.get(1, "q", false).unwrap();
        rig.settle(1, Settle::Reject { requeue: true }, m.tag);
    }
    // much that comes and goes behind it: the head of the log is written again and removed
    for _ in 0..200 {
        rig.publish("", "busy", &persistent(), &["x"]);
        assert_eq!(rig.drain("busy"), ["x"]);
    }
    assert!(rig.records() < 100, "{} records: nothing was copied", rig.records());
    rig.crash();
    let m = rig.get(1, "q", false).unwrap();
    assert_eq!((m.body.as_str(), m.int("x-delivery-count"), m.int("x-acquired-count")), ("m", Some(2), Some(2)));
    rig.settle(1, Settle::Reject { requeue: true }, m.tag);
    let m = rig.get(1, "q", false).unwrap();
    rig.settle(1, Settle::Reject { requeue: true }, m.tag);
    assert_eq!(rig.get(1, "q", true), None, "its deliveries were counted on, so the limit is reached");
}
