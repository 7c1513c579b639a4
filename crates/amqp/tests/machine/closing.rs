use crate::client::*;
use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, channel, connection};
use hornpipe_amqp::{CloseReason, MachineConfig, Status};
use hornpipe_types::command::{ChannelCommand, Command};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::error::{AmqpError, ReplyCode};

fn is_close(f: &AMQPFrame) -> bool {
    matches!(f, AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(_))))
}
fn is_close_ok(f: &AMQPFrame) -> bool {
    matches!(f, AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(_))))
}
fn is_channel_close(f: &AMQPFrame) -> bool {
    matches!(f, AMQPFrame::Method(_, AMQPClass::Channel(channel::AMQPMethod::Close(_))))
}
fn is_channel_close_ok(f: &AMQPFrame) -> bool {
    matches!(f, AMQPFrame::Method(_, AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))))
}
fn forced() -> AmqpError {
    AmqpError::new(ReplyCode::ConnectionForced, "broker forced connection closure with reason 'shutdown'")
}
fn lost() -> AmqpError {
    AmqpError::no_queue("q", "/").in_method(60, 20)
}

#[test]
fn by_the_client() {
    let mut p = Peer::opened_with(MachineConfig::default(), 9, 4096, 7);
    p.open_channels(&[1]);
    p.send(&[close(), publish(1, "q", b"too late")].concat());
    assert!(matches!(p.take()[..], [Command::Close]));
    assert!(p.received_bytes().is_empty());
    p.effect(ConnectionEffect::CloseOk);
    assert!(matches!(&p.received()[..], [f] if is_close_ok(f)));
    assert_eq!(p.machine.status(), Status::Closing { drop_at: p.now.plus_ms(7000) });
    p.send(&raw(5, 9, b"ignored"));
    p.advance(7000);
    assert_eq!(p.machine.status(), Status::Closed(CloseReason::ByClient));
}

#[test]
fn by_the_server() {
    let mut p = Peer::with_channels(&[1]);
    p.effect(ConnectionEffect::Close(forced()));
    let text = "320 CONNECTION_FORCED - broker forced connection closure with reason 'shutdown' (0,0)";
    assert_eq!(p.received_close(), text);
    assert_eq!(p.machine.status(), Status::Closing { drop_at: p.now.plus_ms(30_000) });
    p.send(&publish(1, "q", b"ignored"));
    p.channel_effect(1, ChannelEffect::GetEmpty);
    p.send(&close());
    assert!(matches!(&p.received()[..], [f] if is_close_ok(f)));
    p.send(&close_ok());
    assert_eq!(p.machine.status(), Status::Closed(CloseReason::ByServer(forced())));
    assert!(p.take().is_empty());
}

#[test]
fn by_both_at_once() {
    let mut p = Peer::opened();
    p.send(&close());
    p.effect(ConnectionEffect::Close(forced()));
    assert!(matches!(&p.received()[..], [a, b] if is_close(a) && is_close_ok(b)));

    let mut p = Peer::opened();
    p.send(&[open("/"), close()].concat());
    assert!(matches!(p.take()[..], [Command::Fail(_)]));
    p.effect(ConnectionEffect::Close(forced()));
    assert!(matches!(&p.received()[..], [a, b] if is_close(a) && is_close_ok(b)));
}

#[test]
fn nothing_is_read_after_a_fatal_error() {
    let mut p = Peer::opened();
    p.send(&raw(8, 0, &[])[..7]);
    p.send(&[&[0][..], &close_ok(), &close()].concat());
    p.failed();
    p.received();
    assert_eq!(p.machine.status(), Status::Closing { drop_at: p.now.plus_ms(3000) });
    p.send(&close_ok());
    assert!(p.is_closing());
    p.advance(3000);
    assert!(matches!(p.machine.status(), Status::Closed(CloseReason::ByServer(_))));
}

#[test]
fn a_channel_by_the_client() {
    let mut p = Peer::with_channels(&[1]);
    p.send(&method(1, channel_close()));
    assert!(matches!(p.take()[..], [Command::Channel(1, ChannelCommand::Close)]));
    p.channel_effect(1, ChannelEffect::CloseOk);
    assert!(matches!(&p.received()[..], [f] if is_channel_close_ok(f)));
    p.channel_effect(1, ChannelEffect::GetEmpty);
    assert!(p.received_bytes().is_empty());
    p.open_channels(&[1]);
}

#[test]
fn a_channel_by_the_server() {
    let mut p = Peer::with_channels(&[1]);
    p.send(&publish(1, "q", &[1; 100])[..60]);
    p.channel_effect(1, ChannelEffect::Close(lost()));
    assert_eq!(p.received_close(), "#1 404 NOT_FOUND - no queue 'q' in vhost '/' (60,20)");
    // the rest of the content, then all sorts of things: ignored, but a crossing close is answered
    p.send(&publish(1, "q", &[1; 100])[60..]);
    p.send(&[publish(1, "q", b"x"), raw(3, 1, b"y"), method(1, channel_close())].concat());
    assert!(p.take().is_empty());
    assert!(matches!(&p.received()[..], [f] if is_channel_close_ok(f)));
    p.send(&publish(1, "q", b"x"));
    assert!(p.take().is_empty());
    p.send(&method(1, channel_close_ok()));
    p.open_channels(&[1]);
    p.send(&publish(1, "q", b"x"));
    assert_eq!(p.take().len(), 1);
}

#[test]
fn a_channel_by_both_at_once() {
    let mut p = Peer::with_channels(&[1]);
    p.send(&method(1, channel_close()));
    p.channel_effect(1, ChannelEffect::Close(lost()));
    assert!(matches!(&p.received()[..], [a, b] if is_channel_close(a) && is_channel_close_ok(b)));
    p.send(&method(1, channel_close_ok()));
    p.take();
    p.open_channels(&[1]);
}
