//! Bodies that are damaged: their queues stop there, the others go on.

use crate::rig::{Rig, persistent};
use hornpipe_store::{Medium, Memory};
use hornpipe_types::command::{ChannelCommand, Settle};

const BODIES: [&str; 6] = ["1", "2", "3", "4", "5", "6"];

/// Two queues with a message in each group, so that each is a body of its own.
fn filled() -> Rig {
    let mut rig = Rig::with_bodies_apart();
    for queue in ["hurt", "sound"] {
        rig.declare(queue, true, &[]);
    }
    for body in BODIES {
        rig.publish("", "hurt", &persistent(), &[body]);
    }
    // The next file: one is closed at a stop.
    rig.restart();
    for body in BODIES {
        rig.publish("", "sound", &persistent(), &[body]);
    }
    rig
}

/// Changes the body whose message is "3", in the first file.
fn flip_the_third(medium: &mut Memory) {
    let (file, _) = medium.files().unwrap()[0];
    medium.tamper_file(file, |bytes| {
        let at = bytes.iter().rposition(|b| *b == b'3').unwrap();
        bytes[at] ^= 1;
    });
}

/// Deliveries up to the hurt one, acknowledged.
fn taken(rig: &mut Rig, queue: &str) -> Vec<String> {
    rig.told();
    rig.consume(2, queue, "c", 0);
    let got: Vec<_> = rig.delivered().into_iter().map(|(_, g)| (g.tag, g.body)).collect();
    got.iter().for_each(|(tag, _)| rig.settle(2, Settle::Ack, *tag));
    rig.say(2, ChannelCommand::Cancel { consumer_tag: "c".into(), nowait: true });
    got.into_iter().map(|(_, body)| body).collect()
}

#[test]
fn a_queue_goes_on_up_to_what_is_hurt() {
    let mut rig = filled();
    // Nothing is told of what is not looked at.
    assert_eq!(rig.restart_with(false, flip_the_third), Vec::<String>::new());
    assert_eq!(taken(&mut rig, "hurt"), BODIES[..2]);
    assert_eq!(taken(&mut rig, "sound"), BODIES);
    // With leave to lose data all is looked at, and what is hurt leaves.
    let remarks = rig.restart_with(true, |_| {});
    assert_eq!(remarks.len(), 1, "{remarks:?}");
    assert!(remarks[0].starts_with("1 message of queue 'hurt' in vhost '/' can't be read and left it"), "{remarks:?}");
    rig.restart();
    assert_eq!(taken(&mut rig, "hurt"), BODIES[3..]);
    rig.crash();
    assert_eq!(rig.drain("hurt"), Vec::<String>::new());
}

#[test]
fn a_missing_file_is_told_with_its_queue() {
    let mut rig = filled();
    let lost = |medium: &mut Memory| {
        let (file, _) = medium.files().unwrap()[0];
        medium.remove_file(file).unwrap();
    };
    let remarks = rig.restart_with(false, lost);
    assert_eq!(remarks.len(), 1, "{remarks:?}");
    assert!(remarks[0].starts_with("6 messages of queue 'hurt' in vhost '/' can't be read"), "{remarks:?}");
    assert!(remarks[0].contains("the file is missing, and 5 bodies more"), "{remarks:?}");
    assert_eq!(taken(&mut rig, "hurt"), Vec::<String>::new());
    assert_eq!(taken(&mut rig, "sound"), BODIES);
    // It is told each time, until the queue is purged.
    assert_eq!(rig.restart_with(false, |_| {}).len(), 1);
    rig.say(1, ChannelCommand::QueuePurge { queue: "hurt".into(), nowait: true });
    rig.publish("", "hurt", &persistent(), &["7"]);
    assert_eq!(taken(&mut rig, "hurt"), ["7"]);
    rig.restart();
    rig.crash();
}
