//! What a peer did wrong is data: code, text, scope.

use serde::{Deserialize, Serialize};
use std::fmt;

/// AMQP reply codes with RabbitMQ's names [spec §1.2].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum ReplyCode {
    ContentTooLarge = 311,
    NoRoute = 312,
    NoConsumers = 313,
    ConnectionForced = 320,
    InvalidPath = 402,
    AccessRefused = 403,
    NotFound = 404,
    ResourceLocked = 405,
    PreconditionFailed = 406,
    FrameError = 501,
    SyntaxError = 502,
    CommandInvalid = 503,
    ChannelError = 504,
    UnexpectedFrame = 505,
    ResourceError = 506,
    NotAllowed = 530,
    NotImplemented = 540,
    InternalError = 541,
}

impl ReplyCode {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }
    /// The name RabbitMQ begins its reply texts with.
    pub fn name(self) -> &'static str {
        match self {
            Self::ContentTooLarge => "CONTENT_TOO_LARGE",
            Self::NoRoute => "NO_ROUTE",
            Self::NoConsumers => "NO_CONSUMERS",
            Self::ConnectionForced => "CONNECTION_FORCED",
            Self::InvalidPath => "INVALID_PATH",
            Self::AccessRefused => "ACCESS_REFUSED",
            Self::NotFound => "NOT_FOUND",
            Self::ResourceLocked => "RESOURCE_LOCKED",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::FrameError => "FRAME_ERROR",
            Self::SyntaxError => "SYNTAX_ERROR",
            Self::CommandInvalid => "COMMAND_INVALID",
            Self::ChannelError => "CHANNEL_ERROR",
            Self::UnexpectedFrame => "UNEXPECTED_FRAME",
            Self::ResourceError => "RESOURCE_ERROR",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }
    /// Whether the error closes the channel only ("soft") [spec §1.2].
    pub fn scope(self) -> Scope {
        match self.number() {
            311 | 312 | 313 | 403..=406 => Scope::Channel,
            _ => Scope::Connection,
        }
    }
}

/// What an error closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// channel.close
    Channel,
    /// connection.close
    Connection,
}

/// An error a peer is told of, in RabbitMQ's words: clients match on the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpError {
    /// The reply code.
    pub code: ReplyCode,
    /// The explanation, without the leading code name.
    pub text: String,
    /// Class and method id of the offending method, or (0, 0).
    pub method: (u16, u16),
}

impl AmqpError {
    /// An error with no offending method yet; see [`Self::in_method`].
    pub fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), method: (0, 0) }
    }
    /// The same with the offending method's ids, unless it already has some.
    #[must_use]
    pub fn in_method(mut self, class: u16, method: u16) -> Self {
        if self.method == (0, 0) {
            self.method = (class, method);
        }
        self
    }
    /// Whether it closes the channel or the connection.
    pub fn scope(&self) -> Scope {
        self.code.scope()
    }
    /// reply-text on the wire: `NAME - explanation`, of at most 255 octets: longer ones are cut and end in `...`, as
    /// RabbitMQ's do.
    pub fn reply_text(&self) -> String {
        let mut text = format!("{} - {}", self.code.name(), self.text);
        if text.len() > 255 {
            let mut end = 252;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push_str("...");
        }
        text
    }

    /// 403.
    pub fn access_refused(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::AccessRefused, text)
    }
    /// 404.
    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::NotFound, text)
    }
    /// 404 for a queue.
    pub fn no_queue(queue: &str, vhost: &str) -> Self {
        Self::not_found(format!("no queue '{queue}' in vhost '{vhost}'"))
    }
    /// 404 for an exchange.
    pub fn no_exchange(exchange: &str, vhost: &str) -> Self {
        Self::not_found(format!("no exchange '{exchange}' in vhost '{vhost}'"))
    }
    /// 405.
    pub fn resource_locked(queue: &str, vhost: &str) -> Self {
        Self::new(
            ReplyCode::ResourceLocked,
            format!(
                "cannot obtain exclusive access to locked queue '{queue}' in vhost '{vhost}'. It could be originally declared \
                 on another connection or the exclusive property value does not match that of the original declaration."
            ),
        )
    }
    /// 406.
    pub fn precondition(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::PreconditionFailed, text)
    }
    /// 530.
    pub fn not_allowed(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::NotAllowed, text)
    }
    /// 540.
    pub fn not_implemented(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::NotImplemented, text)
    }
}

impl fmt::Display for AmqpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} - {}", self.code.number(), self.code.name(), self.text)
    }
}
impl std::error::Error for AmqpError {}
