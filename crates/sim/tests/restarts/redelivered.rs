//! What may have been handed out before says so, at little cost.

use crate::rig::{Rig, persistent};
use hornpipe_types::command::{ChannelCommand, Settle};

fn flags(rig: &mut Rig, queue: &str) -> Vec<(String, bool)> {
    let all: Vec<_> = std::iter::from_fn(|| rig.get(1, queue, false)).map(|g| (g.tag, g.body, g.redelivered)).collect();
    all.into_iter()
        .map(|(tag, body, redelivered)| {
            rig.settle(1, Settle::Ack, tag);
            (body, redelivered)
        })
        .collect()
}

/// After a crash every message that was there counts as redelivered, also after later stops in order; those that came since don't.
#[test]
fn a_crash_marks_what_was_there_for_good() {
    let mut rig = Rig::new();
    rig.declare("q", true, &[]);
    rig.publish("", "q", &persistent(), &["1", "2"]);
    rig.publish("", "q", &persistent(), &["3"]);
    rig.crash();
    rig.publish("", "q", &persistent(), &["4"]);
    rig.restart();
    rig.restart();
    rig.publish("", "q", &persistent(), &["5"]);
    let expected = [("1", true), ("2", true), ("3", true), ("4", false), ("5", false)];
    assert_eq!(flags(&mut rig, "q"), expected.map(|(body, mark)| (body.to_owned(), mark)));
    assert_eq!(rig.restarts(), 3);
}

/// What is handed out and comes back at a stop is marked alone.
#[test]
fn a_stop_marks_what_was_handed_out() {
    let mut rig = Rig::new();
    rig.declare("q", true, &[]);
    rig.publish("", "q", &persistent(), &["1", "2", "3", "4"]);
    rig.get(1, "q", false).unwrap();
    rig.get(1, "q", false).unwrap();
    rig.say(1, ChannelCommand::Settle { how: Settle::Ack, tag: 1, count: 1, multiple: false });
    rig.restart();
    rig.restart();
    let expected = [("2", true), ("3", false), ("4", false)];
    assert_eq!(flags(&mut rig, "q"), expected.map(|(body, mark)| (body.to_owned(), mark)));
}

#[test]
fn stops_behind_a_crash_do_not_grow_the_log() {
    let mut rig = Rig::new();
    rig.declare("q", true, &[]);
    for n in 0..500 {
        rig.publish("", "q", &persistent(), &[&n.to_string()]);
    }
    rig.crash();
    rig.restart();
    let before = rig.log_bytes();
    for _ in 0..5 {
        rig.crash();
        rig.restart();
    }
    let grown = rig.log_bytes() - before;
    // A record with a range in it each time, and no word for each message.
    assert!(grown < 5 * 500, "{grown} octets");
    assert_eq!(rig.drain("q").len(), 500);
}
