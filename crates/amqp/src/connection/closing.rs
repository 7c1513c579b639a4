//! The end of a connection, from either side [spec §1.4.2.9], and errors on the way there.

use super::handshake::SILENT_DROP_MS;
use super::{CloseReason, Connection, State};
use crate::codec::frame::{Frame, METHOD, put};
use crate::codec::method::{CONNECTION_CLOSE_OK, put_method};
use amq_protocol::protocol::{AMQPClass, connection as amqp};
use hornpipe_types::command::Command;
use hornpipe_types::error::AmqpError;
use hornpipe_types::time::Instant;

/// Longest wait for the peer to close its end, milliseconds.
const CLOSING_MS: u64 = 30_000;

impl Connection {
    /// How long the peer has to answer close, or to go away after close-ok.
    fn closing_ms(&self) -> u64 {
        match u64::from(self.heartbeat_seconds) * 1000 {
            0 => CLOSING_MS,
            ms => ms.min(CLOSING_MS),
        }
    }

    /// A connection error: the core is told first and sends the close once everything is let go. After a `fatal` one no
    /// input makes sense any more.
    pub(super) fn fail(&mut self, now: Instant, error: AmqpError, fatal: bool) {
        match self.state {
            State::Running => {
                self.commands.push(Command::Fail(error));
                self.state = State::Failing { fatal, owes_close_ok: false };
            }
            State::Failing { owes_close_ok, .. } => self.state = State::Failing { fatal, owes_close_ok },
            State::ClosingByClient | State::CloseSent { .. } | State::Draining { .. } | State::Closed(_) => {}
            _ => self.fail_handshake(now, error, fatal),
        }
    }

    /// Writes connection.close and waits for close-ok.
    pub(super) fn send_close(&mut self, now: Instant, error: AmqpError, fatal: bool, owes_close_ok: bool) {
        let close = AMQPClass::Connection(amqp::AMQPMethod::Close(amqp::Close {
            reply_code: error.code.number(),
            reply_text: error.reply_text().into(),
            class_id: error.method.0,
            method_id: error.method.1,
        }));
        put_method(&mut self.output.bytes, &mut self.scratch, 0, &close);
        if owes_close_ok {
            self.put_close_ok();
        }
        let wait = if fatal { SILENT_DROP_MS } else { self.closing_ms() };
        self.state = State::CloseSent { drop_at: now.plus_ms(wait), error, fatal };
        self.let_go();
    }

    /// The core has let everything go after the client's close.
    pub(super) fn on_close_ok_effect(&mut self, now: Instant) {
        if self.state == State::ClosingByClient {
            self.put_close_ok();
            self.state = State::Draining { drop_at: now.plus_ms(self.closing_ms()), reason: CloseReason::ByClient };
            self.let_go();
        }
    }

    /// The core closes the connection, by its own will or because of `Command::Fail`.
    pub(super) fn on_close_effect(&mut self, now: Instant, error: AmqpError) {
        match self.state {
            State::Running | State::OpenSent => self.send_close(now, error, false, false),
            State::Failing { fatal, owes_close_ok } => self.send_close(now, error, fatal, owes_close_ok),
            // both sides closed at once: each gets its answer
            State::ClosingByClient => self.send_close(now, error, false, true),
            _ => {}
        }
    }

    fn put_close_ok(&mut self) {
        put(&mut self.output.bytes, METHOD, 0, &CONNECTION_CLOSE_OK);
    }

    fn let_go(&mut self) {
        self.heartbeat.stop();
        self.channels = hornpipe_types::Map::default();
        self.live_channels = 0;
        self.hold = None;
        self.held = false;
    }

    /// A frame after an error or close: all but close and close-ok is ignored.
    pub(super) fn on_frame_while_closing(&mut self, frame: Frame<'_>) {
        if frame.kind != METHOD || frame.channel != 0 {
            return;
        }
        match (frame.method(), &mut self.state) {
            (Some((10, 50)), State::Failing { owes_close_ok, .. }) => *owes_close_ok = true,
            (Some((10, 50)), State::CloseSent { .. }) => self.put_close_ok(),
            (Some((10, 51)), State::CloseSent { error, .. }) => {
                self.state = State::Closed(CloseReason::ByServer(error.clone()));
            }
            _ => {}
        }
    }
}
