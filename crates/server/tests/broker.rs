//! The whole broker in this process, over real sockets.

#![allow(clippy::unwrap_used)] // the helpers, which clippy does not take for tests

#[allow(dead_code)]
mod peer;

use hornpipe_server::auth::PasswordHashing;
use hornpipe_server::{AlarmConfig, Broker, Handle, SHUTDOWN_TEXT, ServerConfig, Storage};
use hornpipe_store::{Call, Fault, Faulty, Memory};
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::stats::{Answer, Health, Inspect, LoginRefused, Request};
use peer::Peer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A stop that takes longer has hung.
const LONG: Duration = Duration::from_secs(60);

async fn start(config: ServerConfig) -> (Handle, SocketAddr) {
    let broker = Broker::new(config);
    let early = broker.handle();
    assert!(matches!(early.health(), Health::Starting(_)));
    assert!(early.ask(Request::Totals).await.unwrap_err().contains("starting"));
    let handle = broker.start().await.unwrap();
    let address = handle.amqp_addresses()[0];
    (handle, address)
}

fn in_memory() -> ServerConfig {
    ServerConfig { storage: Storage::Memory, ..ServerConfig::local(std::env::temp_dir()) }
}

/// Looks again until it is so.
async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    while !holds().await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn confirmed_messages_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, address) = start(ServerConfig::local(folder.path())).await;
    let big: Vec<u8> = (0..3_000_000u32).map(|i| i as u8).collect();
    let mut peer = Peer::open(address).await;
    peer.declare_durable("q").await;
    peer.confirm_select().await;
    for body in [b"one".as_slice(), &big, b""] {
        peer.publish("q", body).await;
        assert_eq!(peer.read().await.method(), (60, 80));
    }
    peer.close().await;
    handle.stop(LONG).await.unwrap();
    assert_eq!(handle.health(), Health::Stopping);
    assert!(handle.ask(Request::Totals).await.is_err(), "nobody answers any more");
    assert!(handle.stop(LONG).await.is_err());

    let (handle, address) = start(ServerConfig::local(folder.path())).await;
    let mut peer = Peer::open(address).await;
    assert_eq!(peer.get("q").await.as_deref(), Some(b"one".as_slice()));
    assert!(peer.get("q").await == Some(big));
    assert_eq!(peer.get("q").await.as_deref(), Some(b"".as_slice()));
    assert_eq!(peer.get("q").await, None);
    drop(peer);
    handle.stop(LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_closes_connections_with_320_and_drops_those_not_logged_in() {
    let (handle, address) = start(in_memory()).await;
    let mut open = Peer::open(address).await;
    let mut half = Peer::connect(address).await;
    half.write(b"AMQP\x00\x00\x09\x01").await;
    assert_eq!(half.read().await.method(), (10, 10));
    let stop = tokio::spawn(async move { handle.stop(LONG).await });
    let close = open.read().await;
    assert_eq!(close.method(), (10, 50));
    assert_eq!(close.payload[4..6], 320u16.to_be_bytes());
    assert!(close.text().contains(SHUTDOWN_TEXT), "{}", close.text());
    open.method(0, (10, 51), b"").await;
    assert!(half.rest().await.is_empty());
    drop(open);
    stop.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_protocol_header_is_answered_and_the_answer_arrives() {
    let (_handle, address) = start(in_memory()).await;
    let mut peer = Peer::connect(address).await;
    // More than the broker reads before it answers: closing then must not reset the connection.
    peer.write(&[&b"GET / HTTP/1.1\r\n"[..], &[b'x'; 200_000]].concat()).await;
    assert_eq!(peer.rest().await, b"AMQP\x00\x00\x09\x01");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_counted_and_limited() {
    let (handle, address) = start(ServerConfig { sockets_max: 2, ..in_memory() }).await;
    let first = Peer::open(address).await;
    let probe = Peer::connect(address).await;
    eventually(async || handle.node().sockets_used == 2).await;
    assert!(Peer::connect(address).await.rest().await.is_empty(), "one too many");
    drop(probe);
    eventually(async || handle.node().sockets_used == 1).await;
    let second = Peer::open(address).await;
    drop((first, second));
    eventually(async || handle.node().sockets_used == 0).await;
    let connections = || async { handle.ask(Request::Totals).await };
    eventually(async || matches!(connections().await, Ok(Answer::Totals(totals)) if totals.connections == 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_told_with_their_octets() {
    let (handle, address) = start(in_memory()).await;
    let _peer = Peer::open(address).await;
    let request = Request::Connections { after: ConnectionId(0), limit: 10 };
    let Answer::Connections(list) = handle.ask(request).await.unwrap() else { panic!("another answer") };
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].open.user, "guest");
    assert!(list[0].recv_oct > 100 && list[0].send_oct > 100, "{:?}", list[0]);
    let node = handle.node();
    assert_eq!(node.listeners, [("amqp".to_owned(), "127.0.0.1".to_owned(), address.port(), false)]);
    assert!(node.mem_used > 0 && node.fd_used > 0 && node.fd_total > 0 && node.processors > 0);
    assert_eq!((node.auth_attempts_succeeded, node.auth_attempts_failed), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_side_logs_in_by_the_same_table() {
    let (handle, _) = start(in_memory()).await;
    let user = handle.login("guest", "guest", true).await.unwrap();
    assert_eq!(user.tags, ["administrator"]);
    assert_eq!(handle.login("guest", "guest", false).await, Err(LoginRefused::NotLoopback));
    assert_eq!(handle.login("guest", "no", true).await, Err(LoginRefused::Credentials));
    assert_eq!(handle.login("who", "guest", true).await, Err(LoginRefused::Credentials));
}

/// Several at once, more than are computed at a time; a client that leaves meanwhile disturbs nobody.
#[tokio::test(flavor = "multi_thread")]
async fn logins_with_a_slow_hash() {
    let (handle, address) = start(ServerConfig { password_hashing: PasswordHashing::Argon2id, ..in_memory() }).await;
    assert_eq!(handle.login("guest", "no", true).await, Err(LoginRefused::Credentials));
    let leaves = tokio::spawn(Peer::open(address));
    let peers: Vec<_> = (0..5).map(|_| tokio::spawn(Peer::open(address))).collect();
    leaves.abort();
    for peer in peers {
        peer.await.unwrap().declare_durable("q").await;
    }
    assert_eq!(handle.login("guest", "guest", true).await.unwrap().tags, ["administrator"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_alarm_blocks_publishers_and_not_consumers() {
    let alarms = AlarmConfig { memory_limit: 4096, interval_ms: 10, ..AlarmConfig::default() };
    let (handle, address) = start(ServerConfig { alarms, ..in_memory() }).await;
    let alarmed = || async { handle.ask(Request::Totals).await };
    eventually(async || matches!(alarmed().await, Ok(Answer::Totals(totals)) if totals.memory_alarm)).await;
    let mut consumer = Peer::open(address).await;
    consumer.declare_durable("q").await;
    let mut publisher = Peer::open(address).await;
    publisher.publish("q", b"behind the block").await;
    let blocked = publisher.read().await;
    assert_eq!(blocked.method(), (10, 60));
    assert!(blocked.text().contains("low on memory"));
    // the connection is read up to the header and no further
    assert_eq!(consumer.get("q").await, None);
    drop(publisher);
    assert_eq!(consumer.get("q").await, None);
}

async fn dies_of(call: Call, fault: Fault) {
    let (medium, faults) = Faulty::new(Memory::new());
    let medium = std::sync::Mutex::new(Some(medium));
    let storage = Storage::Medium(Arc::new(move || Box::new(medium.lock().unwrap().take().unwrap())));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let on_fatal = Some(Arc::new(move |text: &str| tell.send(text.to_owned()).unwrap()) as _);
    let (handle, address) = start(ServerConfig { storage, on_fatal, ..in_memory() }).await;
    let mut peer = Peer::open(address).await;
    peer.declare_durable("q").await;
    peer.confirm_select().await;
    faults.arm(call, 0, fault);
    peer.publish("q", b"never confirmed").await;
    let text = told.recv().await.unwrap();
    assert!(text.contains("store"), "{text}");
    assert_eq!(handle.health(), Health::Failed(text));
    assert!(handle.ask(Request::Totals).await.unwrap_err().contains("failed"));
    // Whatever comes back now, it is no confirm.
    peer.method(1, (20, 40), &[0, 200, 0, 0, 0, 0, 0]).await;
    while let Some(frame) = peer.try_read().await {
        assert_ne!(frame.method(), (60, 80));
        if frame.method() == (20, 41) {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_the_process_and_confirms_nothing() {
    dies_of(Call::Sync, Fault::Error).await;
    dies_of(Call::Apply, Fault::Error).await;
    dies_of(Call::Sync, Fault::Panic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_of_another_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _) = start(ServerConfig::local(folder.path())).await;
    let error = Broker::new(ServerConfig::local(folder.path())).start().await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("in use"), "{error}: {cause}");
    handle.stop(LONG).await.unwrap();
}
