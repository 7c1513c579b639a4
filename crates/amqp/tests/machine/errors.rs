use crate::client::*;
use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, access, basic, channel, connection, exchange, queue};
use amq_protocol::types::FieldTable;
use hornpipe_amqp::MachineConfig;
use hornpipe_types::command::{ChannelCommand, Command};
use hornpipe_types::effect::ChannelEffect;
use hornpipe_types::error::AmqpError;
use hornpipe_types::limits::Limits;
use hornpipe_types::table::{FieldTable as Table, Value};

/// What a client gets for `bytes` on a connection with channel 1 open.
fn check(bytes: &[u8], expected: &str) {
    let mut p = Peer::with_channels(&[1]);
    p.send(bytes);
    assert_eq!(p.failed(), expected);
    assert_eq!(p.received_close(), expected);
    assert!(p.is_closing() || expected.starts_with('#'));
}

fn method_1(class: AMQPClass) -> Vec<u8> {
    method(1, class)
}

fn header(class: u16, weight: u16, size: u64) -> Vec<u8> {
    let mut h = class.to_be_bytes().to_vec();
    h.extend(weight.to_be_bytes());
    h.extend(size.to_be_bytes());
    h.extend([0, 0]);
    raw(2, 1, &h)
}

fn publish_frame() -> Vec<u8> {
    method_1(publish_method("", "q", false, false))
}

#[test]
fn framing() {
    check(&[3, 0, 1, 0, 2, 0, 1], "501 FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,131073,131064} (0,0)");
    check(
        &[8, 0, 0, 0, 0, 0, 0, 0xCD],
        "501 FRAME_ERROR - type 8, all octets = <<>>: {invalid_frame_end_marker,205} (0,0)",
    );
    check(&raw(5, 1, &[]), "501 FRAME_ERROR - type 5, all octets = <<>>: unknown_frame (0,0)");
    check(&raw(5, 0, b"hi"), "501 FRAME_ERROR - type 5, all octets = <<\"hi\">>: unknown_frame (0,0)");
    check(&raw(1, 1, &[0, 60]), "501 FRAME_ERROR - type 1, all octets = <<0,60>>: unknown_frame (0,0)");
    check(&raw(8, 1, &[]), "505 UNEXPECTED_FRAME - type 8, all octets = <<>> (0,0)");
    check(&raw(3, 0, &[]), "505 UNEXPECTED_FRAME - type 3, all octets = <<>> (0,0)");
}

#[test]
fn content_out_of_place() {
    let after_publish = |more: Vec<u8>| [publish_frame(), more].concat();
    let with_header = |size, more: Vec<u8>| [publish_frame(), header(60, 0, size), more].concat();
    let no_method = "505 UNEXPECTED_FRAME - expected method frame, got non method frame instead (0,0)";
    let no_header =
        "505 UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead (60,40)";
    let no_body = "505 UNEXPECTED_FRAME - expected content body, got non content body frame instead (60,40)";
    check(&header(60, 0, 1), no_method);
    check(&raw(3, 1, b"x"), no_method);
    check(&after_publish(publish_frame()), no_header);
    check(&after_publish(raw(3, 1, b"x")), no_header);
    check(&after_publish(header(60, 1, 1)), no_header);
    check(
        &after_publish(header(50, 0, 1)),
        "505 UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead (60,40)",
    );
    check(&with_header(2, publish_frame()), no_body);
    check(&with_header(2, header(60, 0, 2)), no_body);
    check(
        &with_header(2, raw(3, 1, b"abc")),
        "501 FRAME_ERROR - content body frame exceeds remaining content size (60,40)",
    );
    check(
        &after_publish(header(60, 0, 536_870_913)),
        "501 FRAME_ERROR - content body size 536870913 exceeds maximum allowed size 536870912 (60,40)",
    );
    let broken = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x80, 0, 9][..], b"x"].concat();
    check(
        &after_publish(raw(2, 1, &broken)),
        "501 FRAME_ERROR - cannot decode <<0,60,0,0,0,0,0,0,0,0,0,1,128,0,9,120>> (60,40)",
    );
}

#[test]
fn methods() {
    check(&method(2, channel_close()), "504 CHANNEL_ERROR - expected 'channel.open' (20,40)");
    check(&method(2, publish_method("", "", false, false)), "504 CHANNEL_ERROR - expected 'channel.open' (60,40)");
    check(&channel_open(1), "504 CHANNEL_ERROR - second 'channel.open' seen (20,10)");
    check(
        &method_1(AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active: false }))),
        "540 NOT_IMPLEMENTED - active=false (20,20)",
    );
    check(&method_1(publish_method("", "q", false, true)), "540 NOT_IMPLEMENTED - immediate=true (60,40)");
    let deliver = AMQPClass::Basic(basic::AMQPMethod::Deliver(basic::Deliver::default()));
    check(&method_1(deliver), "503 COMMAND_INVALID - unimplemented method (60,60)");
    check(&raw(1, 1, &[0, 60, 0, 99]), "503 COMMAND_INVALID - unimplemented method (60,99)");
    check(&raw(1, 1, &[0, 99, 0, 1]), "503 COMMAND_INVALID - unimplemented method (99,1)");
    check(&raw(1, 0, &[0, 10, 0, 99]), "503 COMMAND_INVALID - unimplemented method (10,99)");
    let declare = queue::AMQPMethod::Declare(queue::Declare::default());
    check(
        &method(0, AMQPClass::Queue(declare)),
        "504 CHANNEL_ERROR - unexpected method in connection state running (50,10)",
    );
    check(&open("/"), "504 CHANNEL_ERROR - unexpected method in connection state running (10,40)");
    check(&close_ok(), "504 CHANNEL_ERROR - unexpected method in connection state running (10,51)");
}

#[test]
fn arguments_that_do_not_decode() {
    check(&raw(1, 1, &[0, 60, 0, 80, 1]), "501 FRAME_ERROR - cannot decode <<1>> (60,80)");
    check(&raw(1, 1, &[0, 60, 0, 40, 0, 0, 0, 9, 1]), "501 FRAME_ERROR - cannot decode <<0,0,0,9,1>> (60,40)");
    check(&raw(1, 1, &[0, 60, 0, 40, 0, 0, 0, 1, 0xFF, 0]), "501 FRAME_ERROR - Malformed UTF-8 in shortstr (0,0)");
    check(
        &raw(1, 1, &[0, 50, 0, 10, 0, 0, 1, 0xFF, 0, 0, 0, 0, 0]),
        "501 FRAME_ERROR - Malformed UTF-8 in shortstr (0,0)",
    );
    // one octet too many
    check(&raw(1, 1, &[0, 90, 0, 10, 7]), "501 FRAME_ERROR - cannot decode <<7>> (90,10)");
    // an unknown tag in a table
    check(
        &raw(1, 1, &[0, 50, 0, 10, 0, 0, 0, 0, 0, 0, 0, 3, 1, b'k', b'q']),
        "501 FRAME_ERROR - cannot decode <<0,0,0,0,0,0,0,3,1,107,113>> (50,10)",
    );
}

#[test]
fn channels_are_counted() {
    let mut p = Peer::opened_with(MachineConfig::default(), 2, 4096, 0);
    p.open_channels(&[1, 60_000]);
    p.send(&method(1, channel_close()));
    p.channel_effect(1, ChannelEffect::CloseOk);
    p.take();
    p.received();
    p.open_channels(&[3]);
    p.send(&channel_open(4));
    let text = "530 NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2) (0,0)";
    assert_eq!(p.failed(), text);
    assert_eq!(p.received_close(), text);
}

#[test]
fn a_message_over_the_limit_fails_its_channel_once_it_is_there() {
    let limits = Limits { max_message_size: 10, ..Limits::default() };
    let mut p = Peer::opened_with(MachineConfig { limits, ..MachineConfig::default() }, 9, 4096, 0);
    p.open_channels(&[1, 2]);
    p.send(&publish(1, "q", &[7; 10]));
    assert_eq!(p.take().len(), 1);
    let long = publish(1, "q", &[7; 11]);
    p.send(&long[..long.len() - 1]);
    assert!(p.take().is_empty());
    // what follows on the channel is ignored, other channels go on
    p.send(&[&long[long.len() - 1..], &publish(1, "q", b"x"), &publish(2, "q", b"y")].concat());
    let commands = p.take();
    match &commands[..] {
        [Command::Channel(1, ChannelCommand::Fail(error)), Command::Channel(2, ChannelCommand::Publish(_))] => {
            let expected = "406 PRECONDITION_FAILED - message size 11 is larger than configured max size 10 (60,40)";
            assert_eq!(text(error), expected);
        }
        other => panic!("{other:?}"),
    }
}

/// What asks for nothing but an answer gets it from the core, behind the answers that are due.
#[test]
fn flow_and_access_request_are_answered_in_their_turn() {
    let mut p = Peer::with_channels(&[1]);
    let flow = channel::AMQPMethod::Flow(channel::Flow { active: true });
    p.send(&method_1(AMQPClass::Channel(flow)));
    p.send(&method_1(AMQPClass::Access(access::AMQPMethod::Request(access::Request::default()))));
    assert_eq!(p.received(), []);
    let commands = p.take();
    assert!(
        matches!(
            commands[..],
            [Command::Channel(1, ChannelCommand::Flow), Command::Channel(1, ChannelCommand::AccessRequest)]
        ),
        "{commands:?}"
    );
    p.channel_effect(1, ChannelEffect::FlowOk);
    let flow_ok = channel::AMQPMethod::FlowOk(channel::FlowOk { active: true });
    assert_eq!(p.received(), [AMQPFrame::Method(1, AMQPClass::Channel(flow_ok))]);
    p.channel_effect(1, ChannelEffect::AccessRequestOk);
    assert_eq!(p.received_bytes(), raw(1, 1, &[0, 30, 0, 11, 0, 1]));
}

/// Until both sides have let go of a channel its number is in use, whoever closes it.
#[test]
fn a_channel_that_closes_is_not_opened_again() {
    let text = "504 CHANNEL_ERROR - second 'channel.open' seen (20,10)";
    let failed = || ChannelEffect::Close(AmqpError::precondition("nonsense"));
    let mut p = Peer::with_channels(&[1]);
    p.channel_effect(1, failed());
    p.received();
    p.send(&channel_open(1));
    assert_eq!(p.failed(), text);
    // the client closes
    let mut p = Peer::with_channels(&[1]);
    p.send(&method(1, channel_close()));
    p.take();
    p.send(&channel_open(1));
    assert_eq!(p.failed(), text);
    // after close-ok it is free
    let mut p = Peer::with_channels(&[1]);
    p.channel_effect(1, failed());
    p.received();
    p.send(
        &[method_1(AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))), channel_open(1)].concat(),
    );
    assert!(matches!(p.take()[..], [Command::Channel(1, ChannelCommand::Open)]));
}

#[test]
fn what_the_machine_answers_itself() {
    let mut p = Peer::with_channels(&[1]);
    let replies = |p: &mut Peer, bytes: &[u8]| {
        p.send(bytes);
        assert!(p.take().is_empty());
        p.received()
    };
    let update = connection::AMQPMethod::UpdateSecret(connection::UpdateSecret::default());
    let update_ok = connection::AMQPMethod::UpdateSecretOk(connection::UpdateSecretOk {});
    assert_eq!(replies(&mut p, &conn(update)), [AMQPFrame::Method(0, AMQPClass::Connection(update_ok))]);
    let cancel_ok = basic::AMQPMethod::CancelOk(basic::CancelOk { consumer_tag: "c".into() });
    assert_eq!(replies(&mut p, &method_1(AMQPClass::Basic(cancel_ok))), []);
    assert_eq!(replies(&mut p, &raw(8, 0, &[])), []);
}

#[test]
fn tables_reach_the_core_as_sent() {
    let table = Table(vec![
        ("z".into(), Value::I32(1)),
        ("a".into(), Value::LongStr(b"\xff"[..].into())),
        ("z".into(), Value::Timestamp(2)),
    ]);
    let mut payload = vec![0, 50, 0, 10, 0, 0, 1, b'q', 0b10110];
    table.encode(&mut payload);
    let mut p = Peer::with_channels(&[1]);
    p.send(&raw(1, 1, &payload));
    match &p.take()[..] {
        [Command::Channel(1, ChannelCommand::QueueDeclare(d))] => {
            assert_eq!(d.arguments, table);
            assert!(!d.passive && d.durable && d.exclusive && !d.auto_delete && d.nowait);
        }
        other => panic!("{other:?}"),
    }
}

/// Methods decoded argument by argument agree with `amq-protocol`'s idea of them.
#[test]
fn every_method_reaches_the_core() {
    let mut p = Peer::with_channels(&[1]);
    let mut check = |class: AMQPClass, expected: &str| {
        p.send(&method_1(class));
        let commands = p.take();
        assert_eq!(format!("{commands:?}"), format!("[Channel(1, {expected})]"));
    };
    let q = |m| AMQPClass::Queue(m);
    let e = |m| AMQPClass::Exchange(m);
    let b = |m| AMQPClass::Basic(m);
    let no_arguments = FieldTable::default;
    check(
        e(exchange::AMQPMethod::Declare(exchange::Declare {
            exchange: "e".into(),
            kind: "topic".into(),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: true,
            nowait: false,
            arguments: no_arguments(),
        })),
        "ExchangeDeclare(ExchangeDeclare { exchange: \"e\", kind: \"topic\", passive: false, durable: true, auto_delete: \
         false, internal: true, nowait: false, arguments: FieldTable([]) })",
    );
    let bind =
        "Bind { destination: \"d\", source: \"s\", routing_key: \"k\", nowait: true, arguments: FieldTable([]) }";
    check(
        e(exchange::AMQPMethod::Bind(exchange::Bind {
            destination: "d".into(),
            source: "s".into(),
            routing_key: "k".into(),
            nowait: true,
            arguments: no_arguments(),
        })),
        &format!("ExchangeBind({bind})"),
    );
    check(
        e(exchange::AMQPMethod::Unbind(exchange::Unbind {
            destination: "d".into(),
            source: "s".into(),
            routing_key: "k".into(),
            nowait: true,
            arguments: no_arguments(),
        })),
        &format!("ExchangeUnbind({bind})"),
    );
    check(
        q(queue::AMQPMethod::Bind(queue::Bind {
            queue: "d".into(),
            exchange: "s".into(),
            routing_key: "k".into(),
            nowait: true,
            arguments: no_arguments(),
        })),
        &format!("QueueBind({bind})"),
    );
    check(
        q(queue::AMQPMethod::Unbind(queue::Unbind {
            queue: "d".into(),
            exchange: "s".into(),
            routing_key: "k".into(),
            arguments: no_arguments(),
        })),
        &format!("QueueUnbind({})", bind.replace("true", "false")),
    );
    check(
        e(exchange::AMQPMethod::Delete(exchange::Delete { exchange: "e".into(), if_unused: true, nowait: false })),
        "ExchangeDelete { exchange: \"e\", if_unused: true, nowait: false }",
    );
    check(
        q(queue::AMQPMethod::Purge(queue::Purge { queue: "q".into(), nowait: true })),
        "QueuePurge { queue: \"q\", nowait: true }",
    );
    check(
        q(queue::AMQPMethod::Delete(queue::Delete {
            queue: "q".into(),
            if_unused: false,
            if_empty: true,
            nowait: false,
        })),
        "QueueDelete { queue: \"q\", if_unused: false, if_empty: true, nowait: false }",
    );
    check(
        b(basic::AMQPMethod::Qos(basic::Qos { prefetch_count: 300, global: true })),
        "Qos { prefetch_size: 0, prefetch_count: 300, global: true }",
    );
    check(
        b(basic::AMQPMethod::Consume(basic::Consume {
            queue: "q".into(),
            consumer_tag: "c".into(),
            no_local: true,
            no_ack: false,
            exclusive: true,
            nowait: false,
            arguments: no_arguments(),
        })),
        "Consume(Consume { queue: \"q\", consumer_tag: \"c\", no_ack: false, exclusive: true, nowait: false, arguments: \
         FieldTable([]) })",
    );
    check(
        b(basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: "c".into(), nowait: false })),
        "Cancel { consumer_tag: \"c\", nowait: false }",
    );
    check(
        b(basic::AMQPMethod::Get(basic::Get { queue: "q".into(), no_ack: true })),
        "Get { queue: \"q\", no_ack: true }",
    );
    check(b(basic::AMQPMethod::Recover(basic::Recover { requeue: true })), "Recover { requeue: true, nowait: false }");
    check(
        b(basic::AMQPMethod::RecoverAsync(basic::RecoverAsync { requeue: true })),
        "Recover { requeue: true, nowait: true }",
    );
    use amq_protocol::protocol::{confirm, tx};
    check(
        AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: true })),
        "ConfirmSelect { nowait: true }",
    );
    check(AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {})), "TxSelect");
    check(AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {})), "TxCommit");
    check(AMQPClass::Tx(tx::AMQPMethod::Rollback(tx::Rollback {})), "TxRollback");
}
