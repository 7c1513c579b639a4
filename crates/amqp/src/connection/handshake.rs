//! From the protocol header to connection.open [spec §2.2.4]: what is refused, and how loudly, follows RabbitMQ.

use super::{AuthOutcome, AuthRequest, CloseReason, Connection, State};
use crate::codec::frame::{Frame, HEARTBEAT, METHOD, unexpected_frame};
use crate::codec::method::{self, ConnectionMethod, put_method, put_start};
use amq_protocol::protocol::{AMQPClass, connection as amqp};
use bytes::BufMut;
use hornpipe_types::command::{Command, OpenConnection};
use hornpipe_types::error::{AmqpError, ReplyCode};
use hornpipe_types::names::ShortStr;
use hornpipe_types::table::{FieldTable, Value};
use hornpipe_types::time::Instant;

/// A peer that isn't logged in is left waiting so long before the socket is dropped, so that guessing is slow.
pub(super) const SILENT_DROP_MS: u64 = 3000;

/// What start-ok and tune-ok said; boxed, and moved into `Command::Open`.
#[derive(Debug, Default)]
pub(super) struct Login {
    pub(super) client_properties: FieldTable,
    pub(super) mechanism: &'static str,
    pub(super) user: ShortStr,
    pub(super) channel_max: u16,
    pub(super) frame_max: u32,
    pub(super) heartbeat: u16,
}

impl Login {
    fn capability(&self, name: &str) -> bool {
        match self.client_properties.get("capabilities") {
            Some(Value::Table(t)) => t.get(name).and_then(Value::as_bool).unwrap_or(false),
            _ => false,
        }
    }
}

impl Connection {
    /// Octets of protocol header consumed; `None` when more must come.
    pub(super) fn on_protocol_header(&mut self, bytes: &[u8]) -> Option<usize> {
        const KNOWN: [[u8; 8]; 2] = [*b"AMQP\x00\x00\x09\x01", *b"AMQP\x01\x01\x00\x09"];
        match bytes.first_chunk::<8>() {
            Some(header) if KNOWN.contains(header) => {
                put_start(&mut self.output.bytes, &self.config.server_properties, &self.config.mechanisms);
                self.state = State::Start;
                Some(8)
            }
            None if KNOWN.iter().any(|h| h.starts_with(bytes)) => None,
            // RabbitMQ 4 would offer AMQP 1.0 here; we speak 0-9-1 alone [spec §4.2.2]
            _ => {
                self.output.bytes.put_slice(&KNOWN[0]);
                self.state = State::Closed(CloseReason::ProtocolHeader);
                Some(bytes.len())
            }
        }
    }

    /// Drops the socket after a while without a word.
    pub(super) fn drop_silently(&mut self, now: Instant, reason: CloseReason) {
        self.heartbeat.stop();
        self.state = State::Draining { drop_at: now.plus_ms(SILENT_DROP_MS), reason };
    }

    /// An error before the core knows the connection. Until the login nothing is told.
    pub(super) fn fail_handshake(&mut self, now: Instant, error: AmqpError, fatal: bool) {
        match self.state {
            State::Tune | State::Opening => self.send_close(now, error, fatal, false),
            _ => self.drop_silently(now, CloseReason::Handshake("unexpected data")),
        }
    }

    /// A frame while the handshake goes on.
    pub(super) fn on_handshake_frame(&mut self, now: Instant, frame: Frame<'_>) {
        if frame.kind == HEARTBEAT && frame.channel == 0 {
            return;
        }
        let id = match frame.method() {
            Some(id) if frame.kind == METHOD && frame.channel == 0 => id,
            _ => return self.fail_handshake(now, unexpected_frame(frame.kind, frame.payload), false),
        };
        let method = match method::on_connection(id, frame.payload) {
            Ok(method) => method,
            Err(error) => return self.fail_handshake(now, error, false),
        };
        match (&self.state, method) {
            (State::Start, ConnectionMethod::StartOk { client_properties, mechanism, response }) => {
                self.on_start_ok(now, client_properties, &mechanism, &response);
            }
            (State::Tune, ConnectionMethod::TuneOk { channel_max, frame_max, heartbeat }) => {
                self.on_tune_ok(now, channel_max, frame_max, heartbeat);
            }
            (State::Opening, ConnectionMethod::Open { vhost }) => self.on_open(vhost),
            (state, _) => {
                // before connection.open is due RabbitMQ says nothing and lets go of the socket
                if !matches!(state, State::Opening) {
                    return self.drop_silently(now, CloseReason::Handshake("unexpected method during the handshake"));
                }
                let text = "unexpected method in connection state opening";
                let error = AmqpError::new(ReplyCode::ChannelError, text).in_method(id.0, id.1);
                self.fail_handshake(now, error, false);
            }
        }
    }

    fn on_start_ok(&mut self, now: Instant, client_properties: FieldTable, mechanism: &str, response: &[u8]) {
        let offered = self.config.mechanisms.split(' ').any(|m| m == mechanism);
        let (mechanism, credentials) = match mechanism {
            "PLAIN" if offered => ("PLAIN", plain(response)),
            "AMQPLAIN" if offered => ("AMQPLAIN", amqplain(response)),
            _ => return self.drop_silently(now, CloseReason::Handshake("unknown authentication mechanism")),
        };
        let Some((username, password)) = credentials else {
            return self.drop_silently(now, CloseReason::Handshake("malformed credentials"));
        };
        self.login = Some(Box::new(Login { client_properties, mechanism, ..Login::default() }));
        self.auth = Some(AuthRequest { mechanism, username, password });
        self.state = State::Authenticating;
    }

    /// The verdict on the credentials.
    pub(super) fn on_auth(&mut self, now: Instant, outcome: AuthOutcome) {
        if self.state != State::Authenticating {
            return;
        }
        let Some(login) = &mut self.login else {
            return;
        };
        match outcome {
            AuthOutcome::Ok(user) => {
                login.user = user;
                let limits = &self.config.limits;
                let tune = AMQPClass::Connection(amqp::AMQPMethod::Tune(amqp::Tune {
                    channel_max: limits.channel_max,
                    frame_max: limits.frame_max,
                    heartbeat: limits.heartbeat,
                }));
                put_method(&mut self.output.bytes, &mut self.scratch, 0, &tune);
                self.state = State::Tune;
            }
            AuthOutcome::Refused if login.capability("authentication_failure_close") => {
                let error = AmqpError::access_refused(format!(
                    "Login was refused using authentication mechanism {}. For details see the broker logfile.",
                    login.mechanism
                ));
                self.send_close(now, error, false, false);
                // RabbitMQ waits no longer than for the silent ones
                if let State::CloseSent { drop_at, .. } = &mut self.state {
                    *drop_at = now.plus_ms(SILENT_DROP_MS);
                }
            }
            AuthOutcome::Refused => self.drop_silently(now, CloseReason::LoginRefused),
        }
    }

    fn on_tune_ok(&mut self, now: Instant, channel_max: u16, frame_max: u32, heartbeat: u16) {
        let limits = &self.config.limits;
        let checked = negotiated("frame_max", frame_max, limits.frame_max_min, limits.frame_max)
            .and_then(|()| negotiated("channel_max", channel_max.into(), 1, limits.channel_max.into()));
        if let Err(error) = checked {
            return self.fail_handshake(now, error, false);
        }
        if let Some(login) = &mut self.login {
            (login.channel_max, login.frame_max, login.heartbeat) = (channel_max, frame_max, heartbeat);
        }
        // 0 is accepted only where the server has no limit either
        self.frame_max = if frame_max == 0 { u32::MAX } else { frame_max };
        self.channel_max = if channel_max == 0 { u16::MAX } else { channel_max };
        self.heartbeat_seconds = heartbeat;
        self.heartbeat.start(heartbeat, now);
        self.state = State::Opening;
    }

    fn on_open(&mut self, vhost: ShortStr) {
        let login = self.login.take().unwrap_or_default();
        self.blocked_notify = login.capability("connection.blocked");
        self.commands.push(Command::Open(Box::new(OpenConnection {
            name: format!("{}:{} -> {}:{}", self.peer.0, self.peer.1, self.local.0, self.local.1),
            cancel_notify: login.capability("consumer_cancel_notify"),
            blocked_notify: self.blocked_notify,
            user: login.user,
            vhost,
            mechanism: login.mechanism,
            client_properties: login.client_properties,
            frame_max: login.frame_max,
            channel_max: login.channel_max,
            heartbeat: login.heartbeat,
            peer: std::mem::take(&mut self.peer),
            local: std::mem::take(&mut self.local),
            tls: self.tls,
        })));
        self.state = State::OpenSent;
    }
}

/// tune-ok is refused, never clamped; 0 means no limit, for client and server.
fn negotiated(field: &str, value: u32, min: u32, max: u32) -> Result<(), AmqpError> {
    let detail = if value == 0 && field == "channel_max" { " (no limit)" } else { "" };
    let text = if value != 0 && value < min {
        format!("negotiated {field} = {value}{detail} is lower than the minimum allowed value ({min})")
    } else if max != 0 && (value == 0 || value > max) {
        format!("negotiated {field} = {value}{detail} is higher than the maximum allowed value ({max})")
    } else {
        return Ok(());
    };
    Err(AmqpError::not_allowed(text).in_method(10, 30))
}

/// SASL PLAIN without authorization identity: NUL user NUL password [RFC 4616].
fn plain(response: &[u8]) -> Option<(String, String)> {
    let mut parts = response.strip_prefix(&[0])?.split(|&b| b == 0);
    let (user, password) = (parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some((text(user)?, text(password)?))
}

/// AMQPLAIN: a table without its length prefix, keys LOGIN and PASSWORD.
fn amqplain(response: &[u8]) -> Option<(String, String)> {
    let table = FieldTable::decode_pairs(response).ok()?;
    let get = |key| table.get(key).and_then(Value::as_octets).and_then(text);
    Some((get("LOGIN")?, get("PASSWORD")?))
}

fn text(octets: &[u8]) -> Option<String> {
    std::str::from_utf8(octets).ok().map(str::to_owned)
}
