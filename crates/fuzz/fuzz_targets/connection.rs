//! The first octets of a connection and all that follow, against the machine and the core together. The same octets in
//! other pieces must give the same answer.

#![no_main]

use bytes::Buf;
use hornpipe_amqp::{AuthOutcome, Connection, MachineConfig, Status};
use hornpipe_testkit::Broker;
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::limits::Limits;
use hornpipe_types::time::Instant;
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

const NOW: Instant = Instant(0);

fn answer(octets: &[u8], piece: usize) -> Vec<u8> {
    let config = Arc::new(MachineConfig::default());
    let end = || ("127.0.0.1".to_owned(), 5672);
    let mut connection = Connection::new(config, end(), end(), false, NOW);
    let mut broker = Broker::new(Limits::default(), 1);
    let id = ConnectionId(1);
    let mut told = Vec::new();
    for part in octets.chunks(piece.max(1)) {
        if !matches!(connection.status(), Status::Running) {
            break;
        }
        connection.input().extend_from_slice(part);
        connection.handle_input(NOW);
        if let Some(request) = connection.poll_auth() {
            connection.handle_auth(NOW, AuthOutcome::Ok(request.username.as_str().into()));
        }
        let mut commands = Vec::new();
        connection.poll_commands(&mut commands);
        broker.run(id, commands);
        broker.commit_all();
        connection.handle_effects(NOW, &mut broker.told(id));
        let n = connection.output().len();
        told.extend_from_slice(connection.output().chunk());
        connection.output().advance(n);
    }
    told
}

fuzz_target!(|octets: &[u8]| {
    answer(octets, octets.len());
    // what is said meanwhile depends on when it is heard; the first answer does not
    let (whole, pieces) = (answer(octets, usize::MAX), answer(octets, 7));
    assert_eq!(whole.is_empty(), pieces.is_empty());
});
