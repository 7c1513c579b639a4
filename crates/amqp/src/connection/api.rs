//! What the driver of a connection sees beside [`super::Connection`] itself.

use hornpipe_types::error::AmqpError;
use hornpipe_types::limits::Limits;
use hornpipe_types::names::ShortStr;
use hornpipe_types::table::FieldTable;
use hornpipe_types::time::Instant;
use std::fmt;

/// What all connections of a listener have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct MachineConfig {
    /// Frame, channel and message limits, heartbeat and handshake timeout.
    pub limits: Limits,
    /// `server-properties` of connection.start, sent as they are.
    pub server_properties: FieldTable,
    /// Space-separated mechanisms offered in connection.start. The machine can parse `PLAIN` and `AMQPLAIN`.
    pub mechanisms: String,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            server_properties: FieldTable::default(),
            mechanisms: "PLAIN AMQPLAIN".to_owned(),
        }
    }
}

/// Credentials to be verified by the driver, answered with [`super::Connection::handle_auth`].
#[derive(Clone, PartialEq, Eq)]
pub struct AuthRequest {
    /// `PLAIN` or `AMQPLAIN`.
    pub mechanism: &'static str,
    /// The user, as sent.
    pub username: String,
    /// The password, as sent.
    pub password: String,
}

impl fmt::Debug for AuthRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // the password must not reach a log by way of Debug
        f.debug_struct("AuthRequest").field("mechanism", &self.mechanism).field("username", &self.username).finish()
    }
}

/// The driver's verdict on an [`AuthRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthOutcome {
    /// The login is good; the user's name.
    Ok(ShortStr),
    /// Wrong password, unknown user, not from loopback …; the reason belongs to the log alone.
    Refused,
}

/// Where a connection stands, as far as the driver of the socket must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Handshake or normal operation.
    Running,
    /// The last words are said or about to be; the socket is to be dropped at `drop_at`, or as soon as the peer closes it.
    Closing {
        /// When [`super::Connection::handle_timeout`] will turn this into `Closed`.
        drop_at: Instant,
    },
    /// Over: drop the socket once the output is empty.
    Closed(CloseReason),
}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// The first octets were no AMQP 0-9-1 protocol header; our own was answered [spec §4.2.2].
    ProtocolHeader,
    /// The handshake was not finished in time.
    HandshakeTimeout,
    /// The peer broke the rules of the handshake before it was logged in; a word about how.
    Handshake(&'static str),
    /// The login was refused.
    LoginRefused,
    /// Nothing was received for two heartbeat intervals.
    HeartbeatTimeout,
    /// The client closed the connection.
    ByClient,
    /// The server closed it with this error.
    ByServer(AmqpError),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProtocolHeader => f.write_str("unsupported protocol header"),
            Self::HandshakeTimeout => f.write_str("handshake timed out"),
            Self::Handshake(what) => write!(f, "handshake error: {what}"),
            Self::LoginRefused => f.write_str("login refused"),
            Self::HeartbeatTimeout => f.write_str("missed heartbeats from client"),
            Self::ByClient => f.write_str("closed by client"),
            Self::ByServer(error) => write!(f, "closed by server: {error}"),
        }
    }
}
