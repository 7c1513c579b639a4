//! A client's bytes, made and read by `amq-protocol`, so that the machine is held to somebody else's codec.

use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic, channel, connection};
use amq_protocol::types::{AMQPValue, FieldTable};
use bytes::Buf;
use hornpipe_amqp::{AuthOutcome, Connection, MachineConfig, Status};
use hornpipe_types::command::{ChannelCommand, Command};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::error::AmqpError;
use hornpipe_types::time::Instant;
use std::sync::Arc;

pub(crate) const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// One frame's bytes.
pub(crate) fn frame(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(WriteContext::from(Vec::new())).unwrap().write
}

pub(crate) fn method(channel: u16, class: AMQPClass) -> Vec<u8> {
    frame(&AMQPFrame::Method(channel, class))
}

pub(crate) fn conn(m: connection::AMQPMethod) -> Vec<u8> {
    method(0, AMQPClass::Connection(m))
}

pub(crate) fn raw(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(channel.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out.push(0xCE);
    out
}

pub(crate) fn publish_method(exchange: &str, key: &str, mandatory: bool, immediate: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Publish(basic::Publish {
        exchange: exchange.into(),
        routing_key: key.into(),
        mandatory,
        immediate,
    }))
}

/// Header and body frames; the body in pieces of at most `piece` octets.
pub(crate) fn content(channel: u16, properties: &basic::AMQPProperties, body: &[u8], piece: usize) -> Vec<u8> {
    let mut out = frame(&AMQPFrame::Header(
        channel,
        amq_protocol::frame::AMQPContentHeader {
            class_id: 60,
            body_size: body.len() as u64,
            properties: properties.clone(),
        },
    ));
    for part in body.chunks(piece.max(1)) {
        out.extend(frame(&AMQPFrame::Body(channel, part.to_vec())));
    }
    out
}

pub(crate) fn publish(channel: u16, key: &str, body: &[u8]) -> Vec<u8> {
    let mut out = method(channel, publish_method("", key, false, false));
    out.extend(content(channel, &basic::AMQPProperties::default(), body, 4088));
    out
}

pub(crate) fn channel_open(channel: u16) -> Vec<u8> {
    method(channel, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})))
}

pub(crate) fn channel_close() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close::default()))
}

pub(crate) fn channel_close_ok() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
}

pub(crate) fn start_ok(mechanism: &str, response: &[u8], capabilities: &[&str]) -> Vec<u8> {
    let mut table = FieldTable::default();
    for c in capabilities {
        table.insert((*c).into(), AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    properties.insert("capabilities".into(), AMQPValue::FieldTable(table));
    conn(connection::AMQPMethod::StartOk(connection::StartOk {
        client_properties: properties,
        mechanism: mechanism.into(),
        response: response.into(),
        locale: "en_US".into(),
    }))
}

pub(crate) fn tune_ok(channel_max: u16, frame_max: u32, heartbeat: u16) -> Vec<u8> {
    conn(connection::AMQPMethod::TuneOk(connection::TuneOk { channel_max, frame_max, heartbeat }))
}

pub(crate) fn open(vhost: &str) -> Vec<u8> {
    conn(connection::AMQPMethod::Open(connection::Open { virtual_host: vhost.into() }))
}

pub(crate) fn close() -> Vec<u8> {
    conn(connection::AMQPMethod::Close(connection::Close::default()))
}

pub(crate) fn close_ok() -> Vec<u8> {
    conn(connection::AMQPMethod::CloseOk(connection::CloseOk {}))
}

/// The machine with a clock and its other side at hand.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) machine: Connection,
    pub(crate) now: Instant,
    /// Commands not yet looked at.
    pub(crate) commands: Vec<Command>,
}

impl Peer {
    pub(crate) fn new(config: MachineConfig) -> Self {
        let now = Instant(5_000_000);
        let machine =
            Connection::new(Arc::new(config), ("10.0.0.9".into(), 4711), ("10.0.0.1".into(), 5672), false, now);
        Self { machine, now, commands: Vec::new() }
    }

    /// Up to the answer to connection.open, with these values in tune-ok.
    pub(crate) fn opened_with(config: MachineConfig, channel_max: u16, frame_max: u32, heartbeat: u16) -> Self {
        let mut p = Self::new(config);
        p.send(HEADER);
        p.send(&start_ok("PLAIN", b"\0bob\0secret", &["connection.blocked", "consumer_cancel_notify"]));
        assert_eq!(p.machine.poll_auth().unwrap().username, "bob");
        p.machine.handle_auth(p.now, AuthOutcome::Ok("bob".into()));
        p.send(&tune_ok(channel_max, frame_max, heartbeat));
        p.send(&open("/"));
        assert!(matches!(p.take()[..], [Command::Open(_)]));
        p.effect(ConnectionEffect::Opened);
        p.received();
        p
    }

    pub(crate) fn opened() -> Self {
        Self::opened_with(MachineConfig::default(), 2047, 131_072, 0)
    }

    /// An open connection with these channels open.
    pub(crate) fn with_channels(channels: &[u16]) -> Self {
        let mut p = Self::opened();
        p.open_channels(channels);
        p
    }

    pub(crate) fn open_channels(&mut self, channels: &[u16]) {
        for &n in channels {
            self.send(&channel_open(n));
            self.channel_effect(n, ChannelEffect::OpenOk);
        }
        self.take();
        self.received();
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.machine.input().extend_from_slice(bytes);
        self.machine.handle_input(self.now);
        self.machine.poll_commands(&mut self.commands);
    }

    pub(crate) fn effect(&mut self, effect: ConnectionEffect) {
        self.machine.handle_effects(self.now, &mut vec![effect]);
        self.machine.poll_commands(&mut self.commands);
    }

    pub(crate) fn channel_effect(&mut self, channel: u16, effect: ChannelEffect) {
        self.effect(ConnectionEffect::Channel(channel, effect));
    }

    pub(crate) fn take(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    /// The output as bytes, written in full.
    pub(crate) fn received_bytes(&mut self) -> Vec<u8> {
        let out = self.machine.output();
        let bytes = out.copy_to_bytes(out.remaining()).to_vec();
        self.machine.handle_written(self.now);
        self.machine.poll_commands(&mut self.commands);
        bytes
    }

    /// The output as `amq-protocol` reads it.
    pub(crate) fn received(&mut self) -> Vec<AMQPFrame> {
        let bytes = self.received_bytes();
        let mut rest = &bytes[..];
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let (after, frame) = parse_frame(rest).unwrap();
            frames.push(frame);
            rest = after;
        }
        frames
    }

    /// The text of the connection.close or channel.close received, with code and method ids.
    pub(crate) fn received_close(&mut self) -> String {
        let frames = self.received();
        match &frames[..] {
            [AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(c)))] => {
                format!("{} {} ({},{})", c.reply_code, c.reply_text, c.class_id, c.method_id)
            }
            [AMQPFrame::Method(n, AMQPClass::Channel(channel::AMQPMethod::Close(c)))] => {
                format!("#{n} {} {} ({},{})", c.reply_code, c.reply_text, c.class_id, c.method_id)
            }
            other => panic!("no close alone: {other:?}"),
        }
    }

    /// The error the machine tells the core of; it must be the last command. The core's answer is played too.
    pub(crate) fn failed(&mut self) -> String {
        match self.take().pop() {
            Some(Command::Fail(error)) => {
                self.effect(ConnectionEffect::Close(error.clone()));
                text(&error)
            }
            Some(Command::Channel(n, ChannelCommand::Fail(error))) => {
                self.channel_effect(n, ChannelEffect::Close(error.clone()));
                format!("#{n} {}", text(&error))
            }
            other => panic!("no failure: {other:?}"),
        }
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.machine.handle_timeout(self.now);
    }

    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.machine.status(), Status::Closing { .. })
    }
}

pub(crate) fn text(e: &AmqpError) -> String {
    format!("{} {} ({},{})", e.code.number(), e.reply_text(), e.method.0, e.method.1)
}
