//! Large bodies: left where they were read, wherever they are cut.

use crate::client::*;
use crate::content::{Seen, flatten, properties, runs};
use bytes::BytesMut;
use hornpipe_types::command::{ChannelCommand, Command};
use hornpipe_types::copy::with_room;
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::error::AmqpError;
use proptest::prelude::*;

/// A publish of this body on channel 1 in frames of so many octets of body.
fn publish_of(body: &[u8], piece: usize) -> Vec<u8> {
    let mut bytes = method(1, publish_method("", "q", true, false));
    bytes.extend(content(1, &properties(1), body, piece));
    bytes
}

fn body_of(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i / 7) as u8).collect()
}

/// Sends the octets in reads of at most `most`, into buffers as the machine wants them; messages of up to `known` octets were
/// complete before. Returns how many octets were moved to another buffer.
fn read_into(p: &mut Peer, mut octets: &[u8], most: usize, known: usize) -> usize {
    let mut moved = 0;
    while !octets.is_empty() {
        let wanted = p.machine.wanted_input();
        let input = p.machine.input();
        let have = input.len();
        let mut count = most.min(octets.len());
        if wanted > have {
            assert!(wanted <= (16 * have).max(512 * 1024).max(known), "{wanted} for {have}");
            if input.capacity() != wanted {
                moved += have;
                with_room(input, wanted);
            }
            count = count.min(wanted - have);
        }
        let (now, rest) = octets.split_at(count);
        p.send(now);
        octets = rest;
    }
    moved
}

/// The one message of these commands: where its content lies, and where it ends.
fn place(commands: &[Command]) -> (*const u8, *const u8) {
    match commands {
        [Command::Channel(1, ChannelCommand::Publish(run))] => {
            assert_eq!((run.count, run.batch.len()), (1, 1));
            let frames = run.batch.frames(0).as_ptr_range();
            (frames.start, frames.end)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_large_message_is_left_where_it_was_read() {
    let mut p = Peer::with_channels(&[1]);
    // in one body frame and in several
    for size in [60_000, 300_000] {
        let mut one = method(1, publish_method("", "a", false, false));
        one.extend(content(1, &properties(0), &vec![5; size], 131_064));
        p.send(&one[..1000]);
        assert_eq!((p.machine.wanted_input(), p.take().len()), (one.len(), 0));
        p.send(&one[1000..]);
        assert_eq!((p.machine.wanted_input(), runs(&p.take())), (one.len(), vec![1]), "the next may be as large");
        *p.machine.input() = BytesMut::with_capacity(one.len());
        p.send(&one[..1000]);
        let address = p.machine.input().as_ptr();
        p.send(&one[1000..]);
        match &p.take()[..] {
            [Command::Channel(1, ChannelCommand::Publish(run))] => {
                assert_eq!(run.batch.frames(0).as_ptr(), address.wrapping_add(one.len() - run.batch.frames(0).len()));
            }
            other => panic!("{other:?}"),
        }
        p.send(&publish(1, "b", b"small"));
        assert_eq!((p.machine.wanted_input(), runs(&p.take())), (0, vec![1]));
    }
}

#[test]
fn a_large_body_gets_room_as_it_comes_and_the_next_one_at_once() {
    let mut p = Peer::with_channels(&[1]);
    let one = publish_of(&body_of(9_000_000), 131_064);
    let moved = read_into(&mut p, &one, 60_000, 0);
    assert!((1..one.len() / 8).contains(&moved), "{moved}");
    place(&p.take());
    assert_eq!(p.machine.wanted_input(), one.len());
    *p.machine.input() = BytesMut::with_capacity(one.len());
    let address = p.machine.input().as_ptr();
    assert_eq!(read_into(&mut p, &one, 60_000, one.len()), 0);
    let (begin, end) = place(&p.take());
    assert!(address < begin && end == address.wrapping_add(one.len()));
}

#[test]
fn a_buffer_with_hardly_too_much_room_is_kept() {
    let mut p = Peer::with_channels(&[1]);
    read_into(&mut p, &publish_of(&body_of(1_000_000), 131_064), 60_000, 0);
    let room = p.machine.wanted_input();
    *p.machine.input() = BytesMut::with_capacity(room);
    let next = publish_of(&body_of(990_000), 131_064);
    let address = p.machine.input().as_ptr();
    p.take();
    assert_eq!(read_into(&mut p, &[&next[..], &next[..5000]].concat(), 60_000, room), 0);
    let (begin, end) = place(&p.take());
    assert!(address < begin && end == address.wrapping_add(next.len()));
    // much less is not kept with so much room
    let small = publish_of(&body_of(500_000), 131_064);
    read_into(&mut p, &next[5000..], 60_000, room);
    p.take();
    *p.machine.input() = BytesMut::with_capacity(p.machine.wanted_input());
    assert!(read_into(&mut p, &small, 60_000, room) > 0);
    match &p.take()[..] {
        [Command::Channel(1, ChannelCommand::Publish(run))] => assert!(run.batch.resident_bytes() < 510_000),
        other => panic!("{other:?}"),
    }
}

/// What has come is not moved, else it would be there twice when memory is short.
#[test]
fn a_large_body_stays_where_it_is_while_an_alarm_is_up() {
    let mut p = Peer::with_channels(&[1]);
    let one = publish_of(&body_of(2_000_000), 131_064);
    p.machine.input().reserve(one.len());
    p.send(&one[..1_000_000]);
    let address = p.machine.input().as_ptr();
    p.effect(ConnectionEffect::Hold(Some("low on memory")));
    assert!(!p.machine.is_held(), "it is read up to the next content");
    p.send(&one[1_000_000..1_100_000]);
    assert!(p.machine.is_held() && matches!(p.take()[..], [Command::Blocked]));
    assert_eq!((p.machine.input().len(), p.machine.input().as_ptr()), (1_100_000, address));
    p.effect(ConnectionEffect::Hold(None));
    assert!(!p.machine.is_held());
    p.send(&one[1_100_000..]);
    assert_eq!(place(&p.take()).1, address.wrapping_add(one.len()));
}

#[test]
fn a_message_whose_header_is_not_there_is_held_by_its_header() {
    let mut p = Peer::with_channels(&[1]);
    let one = publish_of(&body_of(100_000), 131_064);
    let method_len = method(1, publish_method("", "q", true, false)).len();
    p.send(&one[..method_len + 10]);
    p.effect(ConnectionEffect::Hold(Some("low on memory")));
    p.send(&one[method_len + 10..method_len + 15]);
    assert!(!p.machine.is_held());
    p.send(&one[method_len + 15..50_000]);
    assert!(p.machine.is_held());
    p.effect(ConnectionEffect::Hold(None));
    p.send(&one[50_000..]);
    assert!(matches!(&flatten(&p.take()[1..])[..], [Seen::Message { body, .. }] if *body == body_of(100_000)));
}

#[test]
fn a_large_body_on_a_channel_that_was_closed_is_let_go() {
    let mut p = Peer::with_channels(&[1]);
    let one = publish_of(&body_of(2_000_000), 131_064);
    p.send(&one[..1_000_000]);
    p.channel_effect(1, ChannelEffect::Close(AmqpError::not_allowed("no")));
    p.send(&one[1_000_000..1_000_001]);
    assert!(p.machine.input().len() < 131_072);
    p.send(&one[1_000_001..]);
    assert_eq!((p.machine.input().len(), p.take().len()), (0, 0));
}

/// Frames of other channels or heartbeats come in between: what waited is collected frame by frame.
#[test]
fn a_large_body_with_other_frames_in_it_is_collected_as_it_comes() {
    let mut p = Peer::with_channels(&[1]);
    let body = body_of(3_000_000);
    let mut bytes = publish_of(&body, 131_064);
    let after_nine = bytes.len() - (body.len() - 9 * 131_064) - (body.len().div_ceil(131_064) - 9) * 8;
    bytes.splice(after_nine..after_nine, raw(8, 0, &[]));
    for (n, part) in bytes.chunks(10_000).enumerate() {
        p.send(part);
        assert!(n * 10_000 < after_nine || p.machine.input().len() <= 131_072 + 8);
    }
    p.send(&publish(1, "q", b"next"));
    let seen = flatten(&p.take());
    assert_eq!(seen.len(), 2);
    assert!(matches!(&seen[0], Seen::Message { body: b, mandatory: true, .. } if *b == body));
}

#[test]
fn a_body_in_crumbs_costs_what_it_weighs() {
    let mut p = Peer::with_channels(&[1]);
    let body = vec![9u8; 200_000];
    let mut bytes = method(1, publish_method("", "q", false, false));
    bytes.extend(content(1, &properties(0), &body, 1));
    for part in bytes.chunks(65_536) {
        p.send(part);
    }
    match &p.take()[..] {
        [Command::Channel(1, ChannelCommand::Publish(run))] => {
            assert_eq!(run.batch.body(0).collect::<Vec<_>>().concat(), body);
            assert!(run.batch.meta(0).len < 201_000);
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Large bodies in frames and reads of any size, with a heartbeat behind any frame, and small messages in between.
    #[test]
    fn large_bodies_cut_anywhere(
        sizes in prop::collection::vec(30_000usize..1_500_000, 1..4),
        piece in prop::sample::select(vec![2000usize, 2048, 5000, 131_064]),
        reads in prop::collection::vec(prop_oneof![1usize..50, 1usize..200_000], 1..20),
        beat in any::<prop::sample::Index>(), beats in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        // no part of a body is like another, nor like one of another body
        let body = |k: usize, size: usize| -> Vec<u8> {
            (0..size).map(|i| ((i + k * 1_500_000) as u32 / 4).to_be_bytes()[i % 4]).collect()
        };
        for (k, size) in sizes.iter().enumerate() {
            let mut one = publish_of(&body(k, *size), piece);
            if beats {
                let frames = size.div_ceil(piece);
                let body_frames = size + 8 * frames;
                let at = one.len() - body_frames + beat.index(frames) * (piece + 8);
                one.splice(at..at, raw(8, 0, &[]));
            }
            bytes.extend(one);
            bytes.extend(publish(1, "small", b"one"));
        }
        let mut p = Peer::with_channels(&[1]);
        let (mut rest, mut reads) = (&bytes[..], reads.iter().cycle());
        while !rest.is_empty() {
            // of small ones not too many
            let most = (*reads.next().unwrap()).max(rest.len() / 200);
            let (now, later) = rest.split_at(most.min(rest.len()));
            read_into(&mut p, now, usize::MAX, 1_600_000);
            rest = later;
        }
        let seen = flatten(&p.take());
        prop_assert_eq!(seen.len(), 2 * sizes.len());
        for ((k, size), pair) in sizes.iter().enumerate().zip(seen.chunks(2)) {
            let is_it = |seen: &Seen, wanted: &[u8]| matches!(seen, Seen::Message { body, .. } if body == wanted);
            prop_assert!(is_it(&pair[0], &body(k, *size)) && is_it(&pair[1], b"one"));
        }
        prop_assert!(p.machine.input().is_empty());
    }
}
