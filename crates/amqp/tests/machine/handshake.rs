use crate::client::*;
use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, connection};
use hornpipe_amqp::{AuthOutcome, CloseReason, MachineConfig, Status};
use hornpipe_types::command::Command;
use hornpipe_types::effect::ConnectionEffect;
use hornpipe_types::error::AmqpError;
use hornpipe_types::table::{FieldTable, Value};

fn config() -> MachineConfig {
    let mut server_properties = FieldTable::default();
    server_properties.set("product", Value::long_str("RabbitMQ"));
    MachineConfig { server_properties, ..MachineConfig::default() }
}

#[test]
fn a_client_logs_in() {
    let mut p = Peer::new(config());
    p.send(&HEADER[..3]);
    assert!(p.received_bytes().is_empty());
    p.send(&HEADER[3..]);
    match &p.received()[..] {
        [AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Start(s)))] => {
            assert_eq!((s.version_major, s.version_minor), (0, 9));
            assert_eq!(s.mechanisms.as_bytes(), b"PLAIN AMQPLAIN");
            assert_eq!(s.locales.as_bytes(), b"en_US");
            assert!(s.server_properties.contains_key("product"));
        }
        other => panic!("{other:?}"),
    }
    p.send(&start_ok("PLAIN", b"\0bob\0secret", &["connection.blocked"]));
    let auth = p.machine.poll_auth().unwrap();
    assert_eq!((auth.mechanism, &*auth.username, &*auth.password), ("PLAIN", "bob", "secret"));
    assert!(!format!("{auth:?}").contains("secret"));
    assert!(p.machine.poll_auth().is_none());
    p.machine.handle_auth(p.now, AuthOutcome::Ok("bob".into()));
    match &p.received()[..] {
        [AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Tune(t)))] => {
            assert_eq!((t.channel_max, t.frame_max, t.heartbeat), (2047, 131_072, 60));
        }
        other => panic!("{other:?}"),
    }
    // pipelined, with a method that must wait for open-ok
    let mut bytes = tune_ok(100, 4096, 7);
    bytes.extend(open("/v"));
    bytes.extend(channel_open(1));
    p.send(&bytes);
    match &p.take()[..] {
        [Command::Open(o)] => {
            assert_eq!(o.name, "10.0.0.9:4711 -> 10.0.0.1:5672");
            assert_eq!((o.user.as_str(), o.vhost.as_str(), o.mechanism), ("bob", "/v", "PLAIN"));
            assert_eq!((o.channel_max, o.frame_max, o.heartbeat), (100, 4096, 7));
            assert!(o.blocked_notify && !o.cancel_notify);
            assert!(o.client_properties.get("capabilities").is_some());
        }
        other => panic!("{other:?}"),
    }
    p.effect(ConnectionEffect::Opened);
    let open_ok = AMQPClass::Connection(connection::AMQPMethod::OpenOk(connection::OpenOk {}));
    assert_eq!(p.received(), [AMQPFrame::Method(0, open_ok)]);
    assert!(matches!(p.take()[..], [Command::Channel(1, _)]));
    assert_eq!(p.machine.status(), Status::Running);
}

#[test]
fn protocol_headers() {
    let check = |header: &[u8], good: bool| {
        let mut p = Peer::new(config());
        p.send(header);
        if good {
            assert_eq!(p.received().len(), 1, "{header:?}");
            assert_eq!(p.machine.status(), Status::Running);
        } else {
            assert_eq!(p.received_bytes(), HEADER, "{header:?}");
            assert_eq!(p.machine.status(), Status::Closed(CloseReason::ProtocolHeader));
        }
    };
    check(b"AMQP\x00\x00\x09\x01", true);
    check(b"AMQP\x01\x01\x00\x09", true);
    check(b"AMQP\x00\x00\x09\x02", false);
    check(b"AMQP\x03\x01\x00\x00", false);
    check(b"AMQP\x01\x01\x08\x00", false);
    check(b"GET / HTTP/1.1\r\n", false);
    check(b"\x16\x03\x01", false);
}

#[test]
fn amqplain_has_no_length_prefix() {
    let mut table = FieldTable::default();
    table.set("LOGIN", Value::long_str("ann"));
    table.set("PASSWORD", Value::Binary(b"pw"[..].into()));
    let mut response = Vec::new();
    table.encode_pairs(&mut response);
    let mut p = Peer::new(config());
    p.send(HEADER);
    p.send(&start_ok("AMQPLAIN", &response, &[]));
    let auth = p.machine.poll_auth().unwrap();
    assert_eq!((auth.mechanism, &*auth.username, &*auth.password), ("AMQPLAIN", "ann", "pw"));
}

#[test]
fn breaches_before_the_login_are_met_with_silence() {
    let check = |bytes: &[u8]| {
        let mut p = Peer::new(config());
        p.send(HEADER);
        p.received();
        p.send(bytes);
        assert!(p.received_bytes().is_empty());
        assert!(p.machine.poll_auth().is_none());
        assert_eq!(p.machine.status(), Status::Closing { drop_at: p.now.plus_ms(3000) });
        assert_eq!(p.machine.poll_timeout().unwrap(), p.now.plus_ms(1000).min(p.now.plus_ms(3000)));
        p.advance(3000);
        assert!(matches!(p.machine.status(), Status::Closed(CloseReason::Handshake(_))));
    };
    check(&start_ok("EXTERNAL", b"", &[]));
    check(&start_ok("PLAIN", b"bob\0secret", &[]));
    check(&start_ok("PLAIN", b"\0bob", &[]));
    check(&start_ok("PLAIN", b"\0bob\0secret\0more", &[]));
    check(&start_ok("AMQPLAIN", b"\x05LOGIN", &[]));
    check(&open("/"));
    check(&channel_open(1));
    check(&raw(1, 0, &[0, 10, 0, 11, 9, 9, 9, 9]));
    check(&raw(9, 0, &[]));
    check(&[1, 0, 0, 0, 0, 0x20, 1]); // 8193 octets before tune-ok
}

#[test]
fn a_refused_login_is_told_to_those_who_asked_for_it() {
    let refuse = |capabilities: &[&str]| {
        let mut p = Peer::new(config());
        p.send(HEADER);
        p.send(&start_ok("PLAIN", b"\0bob\0wrong", capabilities));
        p.received();
        p.machine.handle_auth(p.now, AuthOutcome::Refused);
        p
    };
    let mut p = refuse(&[]);
    assert!(p.received_bytes().is_empty());
    assert_eq!(p.machine.status(), Status::Closing { drop_at: p.now.plus_ms(3000) });
    p.advance(3000);
    assert_eq!(p.machine.status(), Status::Closed(CloseReason::LoginRefused));

    let mut p = refuse(&["authentication_failure_close"]);
    assert_eq!(
        p.received_close(),
        "403 ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker \
         logfile. (0,0)"
    );
    p.send(&close_ok());
    assert!(matches!(p.machine.status(), Status::Closed(CloseReason::ByServer(_))));
    assert!(p.take().is_empty());
}

fn tuning() -> Peer {
    let mut p = Peer::new(config());
    p.send(HEADER);
    p.send(&start_ok("PLAIN", b"\0bob\0secret", &[]));
    p.machine.handle_auth(p.now, AuthOutcome::Ok("bob".into()));
    p.received();
    p
}

#[test]
fn tune_ok_is_refused_not_clamped() {
    let check = |channel_max, frame_max, expected: &str| {
        let mut p = tuning();
        p.send(&tune_ok(channel_max, frame_max, 0));
        if expected.is_empty() {
            assert!(p.received_bytes().is_empty());
            p.send(&open("/"));
            assert_eq!(p.take().len(), 1);
        } else {
            assert_eq!(p.received_close(), format!("530 NOT_ALLOWED - negotiated {expected} (10,30)"));
            assert!(p.take().is_empty());
            p.send(&close_ok());
            assert!(matches!(p.machine.status(), Status::Closed(_)));
        }
    };
    check(2047, 131_072, "");
    check(1, 4096, "");
    check(1, 4095, "frame_max = 4095 is lower than the minimum allowed value (4096)");
    check(1, 131_073, "frame_max = 131073 is higher than the maximum allowed value (131072)");
    check(1, 0, "frame_max = 0 is higher than the maximum allowed value (131072)");
    check(0, 4096, "channel_max = 0 (no limit) is higher than the maximum allowed value (2047)");
    check(2048, 4096, "channel_max = 2048 is higher than the maximum allowed value (2047)");
}

#[test]
fn unexpected_methods_are_told_only_where_open_is_due() {
    let mut p = tuning();
    p.send(&open("/"));
    assert!(p.received().is_empty());
    let mut p = tuning();
    p.send(&tune_ok(1, 4096, 0));
    p.send(&tune_ok(1, 4096, 0));
    assert_eq!(p.received_close(), "504 CHANNEL_ERROR - unexpected method in connection state opening (10,31)");
}

#[test]
fn the_handshake_has_a_deadline() {
    let mut p = Peer::new(config());
    assert_eq!(p.machine.poll_timeout(), Some(p.now.plus_ms(10_000)));
    p.send(HEADER);
    p.advance(9_999);
    assert_eq!(p.machine.status(), Status::Running);
    p.advance(1);
    assert_eq!(p.machine.status(), Status::Closed(CloseReason::HandshakeTimeout));
    assert!(p.machine.output().is_empty());
    assert_eq!(p.machine.poll_timeout(), None);

    let mut p = Peer::opened();
    p.advance(20_000);
    assert_eq!(p.machine.status(), Status::Running);
}

#[test]
fn a_refused_vhost_closes() {
    let mut p = tuning();
    p.send(&[tune_ok(1, 4096, 0), open("nope")].concat());
    p.take();
    let error = AmqpError::not_allowed("vhost nope not found").in_method(10, 40);
    p.effect(ConnectionEffect::Close(error));
    assert_eq!(p.received_close(), "530 NOT_ALLOWED - vhost nope not found (10,40)");
}

#[test]
fn input_ahead_of_an_answer_is_bounded() {
    let mut p = Peer::new(config());
    p.send(HEADER);
    p.send(&start_ok("PLAIN", b"\0bob\0secret", &[]));
    assert!(!p.machine.is_held());
    p.send(&[0; 70_000]);
    assert!(p.machine.is_held());
}
