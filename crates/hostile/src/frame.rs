//! Frames on an open connection: how the octets are cut into reads must not change what they say.
//!
//! The input is a list of (kind, channel, length, payload); envelopes are put around them, so that the fuzzer gets past the framing.

use hornpipe_amqp::{AuthOutcome, Connection, MachineConfig};
use hornpipe_types::command::Command;
use hornpipe_types::effect::ConnectionEffect;
use hornpipe_types::header::{Properties, scan};
use hornpipe_types::table::FieldTable;
use hornpipe_types::time::Instant;
use std::sync::Arc;

const NOW: Instant = Instant(0);

fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.push(kind);
    out.extend(channel.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out.push(0xCE);
}

/// A client's half of the handshake, and channel 1.
fn opened() -> Connection {
    let end = || ("127.0.0.1".to_owned(), 5672);
    let mut connection = Connection::new(Arc::new(MachineConfig::default()), end(), end(), false, NOW);
    let mut start_ok = vec![0, 10, 0, 11, 0, 0, 0, 0, 5];
    start_ok.extend(b"PLAIN\x00\x00\x00\x04\x00a\x00b\x05en_US");
    let mut bytes = b"AMQP\x00\x00\x09\x01".to_vec();
    frame(&mut bytes, 1, 0, &start_ok);
    connection.input().extend_from_slice(&bytes);
    connection.handle_input(NOW);
    assert!(connection.poll_auth().is_some());
    connection.handle_auth(NOW, AuthOutcome::Ok("a".into()));
    let mut bytes = Vec::new();
    frame(&mut bytes, 1, 0, &[0, 10, 0, 31, 0, 10, 0, 2, 0, 0, 0, 0]);
    frame(&mut bytes, 1, 0, &[0, 10, 0, 40, 1, b'/', 0, 0]);
    connection.input().extend_from_slice(&bytes);
    connection.handle_input(NOW);
    let mut commands = Vec::new();
    connection.poll_commands(&mut commands);
    assert!(matches!(commands[..], [Command::Open(_)]));
    connection.handle_effects(NOW, &mut vec![ConnectionEffect::Opened]);
    let mut bytes = Vec::new();
    frame(&mut bytes, 1, 1, &[0, 20, 0, 10, 0]);
    connection.input().extend_from_slice(&bytes);
    connection.handle_input(NOW);
    connection.poll_commands(&mut commands);
    connection
}

/// What the octets ask for: number of messages and settlements, and everything else word by word.
fn said(octets: &[u8], piece: usize) -> (u64, Vec<String>) {
    let mut connection = opened();
    let (mut messages, mut others) = (0, Vec::new());
    for part in octets.chunks(piece) {
        connection.input().extend_from_slice(part);
        connection.handle_input(NOW);
        let mut commands = Vec::new();
        connection.poll_commands(&mut commands);
        for command in commands {
            use hornpipe_types::command::ChannelCommand as C;
            match command {
                Command::Channel(_, C::Publish(run)) => messages += u64::from(run.count),
                Command::Publishes(all) => messages += all.runs.iter().map(|run| u64::from(run.count)).sum::<u64>(),
                Command::Channel(_, C::Settle { count, .. }) => messages += u64::from(count),
                Command::Written(_) => {}
                other => others.push(format!("{other:?}")),
            }
        }
    }
    (messages, others)
}

/// Any octets as properties, as a table, and as frames on an open connection.
///
/// # Panics
/// Where a reading depends on how the octets were cut, or a table does not survive being written.
pub fn run(octets: &[u8]) {
    assert_eq!(scan(octets).is_ok(), Properties::decode(octets).is_ok());
    if let Ok((table, rest)) = FieldTable::decode(octets) {
        let mut again = Vec::new();
        table.encode(&mut again);
        assert!(rest.len() < octets.len());
        assert_eq!(FieldTable::decode(&again).map(|(t, _)| format!("{t:?}")), Ok(format!("{table:?}")));
    }
    let (mut bytes, mut rest) = (Vec::new(), octets);
    while let [kind, channel, len, tail @ ..] = rest {
        let (payload, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        frame(&mut bytes, *kind, u16::from(*channel % 3), payload);
        rest = tail;
    }
    if !bytes.is_empty() {
        assert_eq!(said(&bytes, bytes.len()), said(&bytes, 5));
    }
}
