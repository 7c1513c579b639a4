//! What waits for the disk keeps its order, and what was promised holds.

use crate::rig::{Rig, persistent, text};
use hornpipe_types::command::{ChannelCommand, Settle};
use hornpipe_types::effect::ChannelEffect;
use hornpipe_types::header::Properties;
use hornpipe_types::limits::Limits;

fn names(told: &[(u16, ChannelEffect)]) -> Vec<(u16, &'static str)> {
    let name = |e: &ChannelEffect| match e {
        ChannelEffect::GetOk { .. } => "get-ok",
        ChannelEffect::GetEmpty => "get-empty",
        ChannelEffect::QosOk => "qos-ok",
        ChannelEffect::ConsumeOk { .. } => "consume-ok",
        ChannelEffect::Deliver(_) => "deliver",
        ChannelEffect::CloseOk => "close-ok",
        ChannelEffect::TxCommitOk => "commit-ok",
        _ => "other",
    };
    told.iter().map(|(n, e)| (*n, name(e))).collect()
}

fn get(queue: &str) -> ChannelCommand {
    ChannelCommand::Get { queue: queue.into(), no_ack: true }
}
fn qos() -> ChannelCommand {
    ChannelCommand::Qos { prefetch_size: 0, prefetch_count: 1, global: false }
}

/// While a get's message is read back, later replies of its channel wait; those of other channels don't.
#[test]
fn a_get_that_waits_for_the_disk_keeps_its_place_among_the_replies() {
    let mut rig = Rig::new();
    for queue in ["far", "near"] {
        rig.declare(queue, true, &[]);
    }
    rig.publish("", "far", &persistent(), &["1", "2"]);
    // after a restart bodies are on disk only
    rig.crash();
    rig.publish("", "near", &persistent(), &["3"]);
    rig.told();
    rig.say_only(1, get("far"));
    rig.say_only(1, qos());
    rig.say_only(1, get("near"));
    rig.say_only(1, get("near"));
    rig.say_only(2, qos());
    assert_eq!(names(&rig.told()), [(2, "qos-ok")]);
    rig.settle_down();
    assert_eq!(names(&rig.told()), [(1, "get-ok"), (1, "qos-ok"), (1, "get-ok"), (1, "get-empty")]);
}

/// A channel that closes does not wait for its gets, takes no message by them, and its number is free for another.
#[test]
fn a_channel_closes_while_its_get_waits() {
    let mut rig = Rig::new();
    rig.declare("far", true, &[]);
    rig.publish("", "far", &persistent(), &["1"]);
    rig.crash();
    rig.say_only(1, get("far"));
    rig.say_only(1, ChannelCommand::Close);
    rig.say_only(1, ChannelCommand::Open);
    rig.say_only(1, qos());
    rig.settle_down();
    assert_eq!(names(&rig.told()), [(1, "close-ok"), (1, "other"), (1, "qos-ok")]);
    assert_eq!(rig.drain("far"), ["1"]);
}

/// A dead letter that is settled may not be logged where it is: in a transient queue never, in a durable one when it goes before
/// the disk has it. Its old queue must have forgotten it on disk before a transaction that settled it is said to have happened.
#[test]
fn a_dead_letter_settled_in_a_transaction_stays_away_after_a_crash() {
    for durable in [false, true] {
        let mut rig = Rig::with(Limits { settle_delay_ms: 50, ..Limits::default() });
        rig.declare("aside", durable, &[]);
        rig.declare("q", true, &[("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("aside"))]);
        rig.publish("", "q", &Properties { expiration: Some("10".into()), ..persistent() }, &["m"]);
        rig.say(2, ChannelCommand::TxSelect);
        rig.told();
        rig.advance_only(20);
        rig.say_only(2, ChannelCommand::Get { queue: "aside".into(), no_ack: false });
        let told = rig.told();
        let Some((2, ChannelEffect::GetOk { tag, .. })) = told.first() else { panic!("{told:?}") };
        rig.say_only(2, ChannelCommand::Settle { how: Settle::Ack, tag: *tag, count: 1, multiple: false });
        rig.say_only(2, ChannelCommand::TxCommit);
        assert_eq!(names(&rig.told()), [], "aside durable: {durable}");
        rig.settle_down();
        assert_eq!(names(&rig.told()), [(2, "commit-ok")]);
        rig.crash();
        rig.advance(20);
        let mut left = rig.drain("q");
        if durable {
            left.extend(rig.drain("aside"));
        }
        assert_eq!(left, Vec::<String>::new(), "aside durable: {durable}");
    }
}
