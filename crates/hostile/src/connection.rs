//! The first octets of a connection and all that follow, against the machine and the core together.

use bytes::BufMut;
use hornpipe_amqp::{AuthOutcome, Connection, MachineConfig, Status};
use hornpipe_testkit::Broker;
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::limits::Limits;
use hornpipe_types::time::Instant;
use std::sync::Arc;

const NOW: Instant = Instant(0);

/// What a peer is told that sends these octets in pieces of this size.
fn answer(octets: &[u8], piece: usize) -> Vec<u8> {
    let end = || ("127.0.0.1".to_owned(), 5672);
    let mut connection = Connection::new(Arc::new(MachineConfig::default()), end(), end(), false, NOW);
    let mut broker = Broker::new(Limits::default(), 1);
    let id = ConnectionId(1);
    let mut told = Vec::new();
    for part in octets.chunks(piece.max(1)) {
        if !matches!(connection.status(), Status::Running) {
            break;
        }
        connection.input().extend_from_slice(part);
        connection.handle_input(NOW);
        // an answer lets the connection read on in what it has
        loop {
            let request = connection.poll_auth();
            let asked = request.is_some();
            if let Some(request) = request {
                connection.handle_auth(NOW, AuthOutcome::Ok(request.username.as_str().into()));
            }
            let mut commands = Vec::new();
            connection.poll_commands(&mut commands);
            let more = asked || !commands.is_empty();
            broker.run(id, commands);
            broker.commit_all();
            connection.handle_effects(NOW, &mut broker.told(id));
            told.put(connection.output());
            if connection.is_behind() {
                connection.handle_caught_up(NOW);
            } else if !more {
                break;
            }
        }
    }
    told
}

/// A peer that says these octets and nothing else.
///
/// # Panics
/// Where machine or core do, and where the octets are answered in one piece and not in several, or the other way round. (What is
/// said meanwhile depends on when it is heard; whether anything is said does not.)
pub fn run(octets: &[u8]) {
    let (whole, pieces) = (answer(octets, usize::MAX), answer(octets, 7));
    assert_eq!(whole.is_empty(), pieces.is_empty());
}
