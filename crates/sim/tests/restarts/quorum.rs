//! What quorum queues remember of messages that came back.

use crate::rig::{Rig, persistent, text};
use hornpipe_types::command::{ChannelCommand, Settle};
use hornpipe_types::header::Properties;
use hornpipe_types::limits::Limits;
use hornpipe_types::table::Value;
use std::collections::{BTreeMap, BTreeSet};

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

fn with_priority(priority: Option<u8>) -> Properties {
    Properties { priority, ..persistent() }
}

/// 32 levels without being asked: no priority is 4, what is above 31 is 31; a restart changes nothing.
#[test]
fn messages_leave_by_their_priority() {
    let mut rig = Rig::new();
    rig.declare("q", true, &quorum(&[]));
    for (priority, body) in [
        (None, "4a"),
        (Some(0), "0"),
        (Some(4), "4b"),
        (Some(255), "31a"),
        (Some(31), "31b"),
        (Some(5), "5"),
        (None, "4c"),
    ] {
        rig.publish("", "q", &with_priority(priority), &[body]);
    }
    for stop in [Rig::crash, Rig::restart] {
        stop(&mut rig);
        assert_eq!(rig.get(1, "q", true).unwrap().body, if rig.restarts() == 1 { "31a" } else { "31b" });
    }
    assert_eq!(rig.drain("q"), ["5", "4a", "4b", "4c", "0"]);
}

/// Returned messages go before all others, whatever their priority, in the order of their return.
#[test]
fn returned_messages_go_first_in_the_order_of_return() {
    let mut rig = Rig::new();
    rig.declare("q", true, &quorum(&[]));
    rig.publish("", "q", &with_priority(Some(1)), &["a", "b", "c", "d"]);
    let tags: Vec<u64> = (0..3).map(|_| rig.get(1, "q", false).unwrap().tag).collect();
    for k in [2, 0] {
        rig.settle(1, Settle::Nack { requeue: true }, tags[k]);
    }
    rig.publish("", "q", &with_priority(Some(9)), &["high"]);
    assert_eq!(rig.drain("q"), ["c", "a", "high", "d"]);
}

/// What came back is still before the others after a crash.
#[test]
fn returned_messages_go_first_after_a_crash() {
    let mut rig = Rig::new();
    rig.declare("q", true, &quorum(&[]));
    rig.publish("", "q", &with_priority(Some(1)), &["a", "b"]);
    let b = {
        let a = rig.get(1, "q", false).unwrap();
        let b = rig.get(1, "q", false).unwrap();
        rig.settle(1, Settle::Ack, a.tag);
        b
    };
    rig.settle(1, Settle::Nack { requeue: true }, b.tag);
    rig.publish("", "q", &with_priority(Some(9)), &["high"]);
    rig.crash();
    assert_eq!(rig.drain("q"), ["b", "high"]);
}

/// Takes ten messages and returns some in another order than they were published in, and one again; those left are settled
/// first, last and in between.
fn return_some(rig: &mut Rig) -> Vec<&'static str> {
    rig.publish("", "q", &persistent(), &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    let tags: Vec<u64> = (0..8).map(|_| rig.get(1, "q", false).unwrap().tag).collect();
    rig.settle(1, Settle::Ack, tags[2]);
    for k in [3, 0, 7, 5] {
        rig.settle(1, Settle::Nack { requeue: true }, tags[k]);
    }
    let three = rig.get(1, "q", false).unwrap();
    assert_eq!(three.body, "3");
    // several at once come back in the order they were handed out in, whatever that is
    rig.settle(1, Settle::Ack, tags[4]);
    rig.say(
        1,
        ChannelCommand::Settle { how: Settle::Reject { requeue: true }, tag: three.tag, count: 1, multiple: true },
    );
    rig.publish("", "q", &with_priority(Some(9)), &["high"]);
    let zero = rig.get(1, "q", false).unwrap();
    assert_eq!(zero.body, "0");
    rig.settle(1, Settle::Ack, zero.tag);
    vec!["7", "5", "1", "6", "3", "high", "8", "9"]
}

/// The order of return is in the log: however the broker stops, and wherever the messages have been written to since.
#[test]
fn the_order_of_return_survives_every_stop() {
    for stop in [Rig::crash as fn(&mut Rig), Rig::restart] {
        for copied in [false, true] {
            let mut rig = Rig::with(Limits { log_records_slack: 0, ..Limits::default() });
            rig.declare("q", true, &quorum(&[]));
            rig.declare("busy", true, &[]);
            let mut order = return_some(&mut rig);
            if copied {
                stop(&mut rig);
                // the head of the log is written again and removed
                for _ in 0..200 {
                    rig.publish("", "busy", &persistent(), &["x"]);
                    assert_eq!(rig.drain("busy"), ["x"]);
                }
                assert!(rig.records() < 100, "{} records: nothing was copied", rig.records());
            }
            stop(&mut rig);
            let last = rig.get(1, "q", false).unwrap();
            rig.settle(1, Settle::Nack { requeue: true }, last.tag);
            stop(&mut rig);
            // once more behind those that came back before
            order[..5].rotate_left(1);
            assert_eq!(rig.drain("q"), order, "copied: {copied}");
        }
    }
}

/// A quorum queue as plain lists: what was never out, what came back with its place, and what is out by its tag.
#[derive(Default)]
struct Plain {
    published: usize,
    fresh: BTreeSet<usize>,
    returned: BTreeMap<usize, usize>,
    out: BTreeMap<u64, (usize, Option<usize>)>,
    places: usize,
}

impl Plain {
    fn hand_out(&mut self) -> Option<(usize, Option<usize>)> {
        let back = self.returned.pop_first().map(|(place, message)| (message, Some(place)));
        back.or_else(|| self.fresh.pop_first().map(|message| (message, None)))
    }
    fn come_back(&mut self, message: usize) {
        self.places += 1;
        self.returned.insert(self.places, message);
    }
    /// Whoever was out when the broker died is where it was; when it stopped in order they came back.
    fn stop(&mut self, in_order: bool) {
        for (message, place) in std::mem::take(&mut self.out).into_values() {
            match place {
                _ if in_order => self.come_back(message),
                Some(place) => drop(self.returned.insert(place, message)),
                None => drop(self.fresh.insert(message)),
            }
        }
    }
}

/// Whatever comes and goes between, and however often the log is written again.
#[test]
fn a_quorum_queue_is_a_plain_list_over_many_stops() {
    for seed in 1..=24u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % n
        };
        let mut rig = Rig::with(Limits { log_records_slack: 0, ..Limits::default() });
        rig.declare("q", true, &quorum(&[("x-delivery-limit", Value::I32(-1))]));
        rig.declare("busy", true, &[]);
        let (mut plain, mut stops) = (Plain::default(), 0);
        for step in 0..300 {
            match below(16) {
                0..4 => {
                    let bodies: Vec<String> = (0..1 + below(4)).map(|i| (plain.published + i).to_string()).collect();
                    rig.publish("", "q", &persistent(), &bodies.iter().map(String::as_str).collect::<Vec<_>>());
                    plain.fresh.extend(plain.published..plain.published + bodies.len());
                    plain.published += bodies.len();
                }
                4..9 => {
                    let got = rig.get(1, "q", false);
                    let handed = plain.hand_out();
                    assert_eq!(
                        got.as_ref().map(|g| g.body.clone()),
                        handed.map(|(message, _)| message.to_string()),
                        "seed {seed}, step {step}, after {stops} stops"
                    );
                    plain.out.extend(got.map(|g| g.tag).zip(handed));
                }
                9..14 if !plain.out.is_empty() => {
                    let tag = *plain.out.keys().nth(below(plain.out.len())).unwrap();
                    let (multiple, requeue) = (below(4) == 0, below(4) > 0);
                    let how = if requeue { Settle::Nack { requeue } } else { Settle::Ack };
                    rig.say(1, ChannelCommand::Settle { how, tag, count: 1, multiple });
                    let first = if multiple { 0 } else { tag };
                    for tag in plain.out.range(first..=tag).map(|(tag, _)| *tag).collect::<Vec<_>>() {
                        let (message, _) = plain.out.remove(&tag).unwrap();
                        if requeue {
                            plain.come_back(message);
                        }
                    }
                }
                14 => {
                    for _ in 0..8 {
                        rig.publish("", "busy", &persistent(), &["x"]);
                        assert_eq!(rig.drain("busy"), ["x"]);
                    }
                }
                15 if below(2) == 0 => {
                    let in_order = below(2) == 0;
                    if in_order {
                        rig.restart()
                    } else {
                        rig.crash()
                    }
                    plain.stop(in_order);
                    stops += 1;
                }
                _ => {}
            }
        }
        plain.stop(false);
        rig.crash();
        let left: Vec<String> =
            std::iter::from_fn(|| plain.hand_out()).map(|(message, _)| message.to_string()).collect();
        assert_eq!(rig.drain("q"), left, "seed {seed}, after {stops} stops");
    }
}

/// What has waited for its time stands in the order of these times, behind what did not wait.
#[test]
fn what_waited_for_its_retry_comes_back_in_the_order_of_its_time() {
    let mut rig = Rig::new();
    rig.declare("q", true, &retry("failed", 100, 1000));
    rig.publish("", "q", &persistent(), &["a", "b", "c", "d"]);
    let tags: Vec<u64> = (0..3).map(|_| rig.get(1, "q", false).unwrap().tag).collect();
    for k in [2, 0] {
        rig.settle(1, Settle::Reject { requeue: true }, tags[k]);
        rig.advance(1);
    }
    rig.settle(1, Settle::Nack { requeue: true }, tags[1]);
    rig.crash();
    rig.advance(100);
    rig.restart();
    assert_eq!(rig.drain("q"), ["b", "c", "a", "d"]);
}

/// A consumer of higher priority takes the place of the single active one once that has settled what it has.
#[test]
fn a_higher_priority_displaces_the_single_active_consumer_of_a_quorum_queue() {
    let mut rig = Rig::new();
    let mut arguments = quorum(&[]);
    arguments.push(("x-single-active-consumer", Value::Bool(true)));
    rig.declare("q", true, &arguments);
    rig.consume(1, "q", "low", 0);
    rig.publish("", "q", &persistent(), &["1"]);
    let first = rig.delivered();
    assert_eq!(first.iter().map(|(tag, g)| (tag.as_str(), g.body.as_str())).collect::<Vec<_>>(), [("low", "1")]);
    rig.consume(2, "q", "high", 5);
    rig.consume(3, "q", "also high", 5);
    rig.publish("", "q", &persistent(), &["2"]);
    assert_eq!(rig.delivered(), [], "the old one has not settled yet, the new one has to wait");
    rig.settle(1, Settle::Ack, first[0].1.tag);
    rig.publish("", "q", &persistent(), &["3"]);
    let then: Vec<_> = rig.delivered().into_iter().map(|(tag, g)| (tag, g.body)).collect();
    assert_eq!(then, [("high".to_owned(), "2".to_owned()), ("high".to_owned(), "3".to_owned())]);
}
