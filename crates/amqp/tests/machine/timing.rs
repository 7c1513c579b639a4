use crate::client::*;
use hornpipe_amqp::{CloseReason, MachineConfig, Status};
use hornpipe_types::command::Command;
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};

const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 0xCE];

/// Goes on to the next deadline and says how far that was, milliseconds.
fn step(p: &mut Peer) -> u64 {
    let ms = p.machine.poll_timeout().unwrap().ms_since(p.now);
    p.advance(ms);
    ms
}

fn beating(seconds: u16) -> Peer {
    Peer::opened_with(MachineConfig::default(), 9, 4096, seconds)
}

#[test]
fn ours_after_half_an_interval_of_silence() {
    let mut p = beating(10);
    p.advance(3000);
    p.channel_effect(0, ChannelEffect::GetEmpty);
    assert!(p.received_bytes().is_empty());
    p.advance(2999);
    assert!(p.machine.output().is_empty());
    p.advance(2001);
    assert_eq!(p.received_bytes(), HEARTBEAT);
    p.advance(4999);
    assert!(p.machine.output().is_empty());
    p.advance(1);
    assert_eq!(p.received_bytes(), HEARTBEAT);
}

#[test]
fn a_silent_peer_is_dropped_after_two_intervals() {
    let mut p = beating(10);
    p.advance(9000);
    p.send(&HEARTBEAT);
    let mut waited = 0;
    while p.machine.status() == Status::Running {
        waited += step(&mut p);
        p.received_bytes();
    }
    assert_eq!(p.machine.status(), Status::Closed(CloseReason::HeartbeatTimeout));
    assert!((20_000..=30_000).contains(&waited), "{waited}");
    assert!(p.machine.output().is_empty());
}

#[test]
fn a_held_peer_may_be_silent() {
    let mut p = beating(10);
    p.open_channels(&[1]);
    p.effect(ConnectionEffect::Hold(Some("low on disk")));
    assert!(!p.machine.is_held());
    p.send(&publish(1, "q", b"x"));
    assert!(p.machine.is_held());
    for _ in 0..20 {
        p.advance(5000);
        p.received_bytes();
    }
    assert_eq!(p.machine.status(), Status::Running);
    p.effect(ConnectionEffect::Hold(None));
    assert!(!p.machine.is_held());
    p.send(&publish(1, "q", b"x"));
    assert!(!p.machine.is_held());
}

#[test]
fn no_heartbeat_no_deadline() {
    let mut p = beating(0);
    p.advance(10_000);
    assert_eq!(p.machine.poll_timeout(), None);
}

#[test]
fn idle_connections_give_their_buffers_back() {
    let mut p = beating(0);
    p.open_channels(&[1]);
    p.machine.input().reserve(100_000);
    p.send(&publish(1, "q", &[1; 50_000]));
    assert!(p.machine.input().capacity() > 4096);
    while p.machine.poll_timeout().is_some() {
        step(&mut p);
    }
    assert!(p.machine.input().capacity() <= 4096);
    p.send(&publish(1, "q", b"again"));
    assert_eq!(p.take().len(), 2);
}

#[test]
fn blocked_is_told() {
    let mut p = beating(0);
    p.open_channels(&[1]);
    p.effect(ConnectionEffect::Hold(Some("low on memory")));
    assert!(!p.machine.is_held() && p.received_bytes().is_empty());
    // nothing behind the first content is looked at, be it in the buffer already
    p.send(&[publish(1, "q", b"one"), publish(1, "q", b"two")].concat());
    assert!(p.machine.is_held());
    assert!(matches!(p.take()[..], [Command::Blocked]));
    p.effect(ConnectionEffect::Hold(Some("low on disk & memory")));
    p.effect(ConnectionEffect::Hold(None));
    assert!(!p.machine.is_held());
    assert_eq!(p.take().len(), 1);
    let mut expected = raw(1, 0, &[&[0, 10, 0, 60, 13][..], b"low on memory"].concat());
    expected.extend(raw(1, 0, &[0, 10, 0, 61]));
    assert_eq!(p.received_bytes(), expected);
}

#[test]
fn gets_wait_for_those_before_them() {
    let mut p = beating(0);
    p.open_channels(&[1]);
    p.take();
    let get = raw(1, 1, &[0, 60, 0, 70, 0, 0, 1, b'q', 1]);
    p.send(&get.repeat(50));
    let ahead = p.take().len();
    assert!(ahead < 50 && p.machine.is_behind() && p.machine.is_held());
    let mut more = Vec::new();
    while p.machine.is_behind() {
        p.machine.handle_caught_up(p.now);
        p.machine.poll_commands(&mut more);
    }
    assert_eq!(ahead + more.len(), 50);
}
