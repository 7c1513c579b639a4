//! All a connection can ask of the broker: a closed set. The connection machine in `amqp` produces these, the core
//! consumes them; neither knows the other.

use crate::error::AmqpError;
use crate::ids::Tag;
use crate::message::Batch;
use crate::names::ShortStr;
use crate::table::FieldTable;
use std::sync::Arc;

/// What a connection tells the broker. All commands of one read travel in one vector.
#[derive(Debug)]
pub enum Command {
    /// connection.open after a successful login [spec §1.4.2.7]; answered by `Opened` or `Close`.
    Open(Box<OpenConnection>),
    /// connection.close by the client: everything it held is let go, then `CloseOk` is answered.
    Close,
    /// The machine found a connection error: everything is let go, then `Close(error)` is sent.
    Fail(AmqpError),
    /// The socket is gone, or the connection has ended for good; nothing is answered.
    Gone,
    /// So many octets of deliveries, get-oks and returns (content frames as counted by [`crate::effect::content_cost`]) have been
    /// written to the socket: the connection may be given more.
    Written(u64),
    /// Content came during an alarm: the connection is not read until it is over.
    Blocked,
    /// A method on a channel.
    Channel(u16, ChannelCommand),
    /// Several runs of publishes in a row.
    Publishes(Publishes),
}

/// Who opens a connection and what it said of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenConnection {
    /// `peer:port -> local:port`, the name the management API shows.
    pub name: String,
    /// The authenticated user.
    pub user: ShortStr,
    /// The vhost asked for, literally.
    pub vhost: ShortStr,
    /// `PLAIN`, `AMQPLAIN`, …
    pub mechanism: &'static str,
    /// Client properties as sent in start-ok.
    pub client_properties: FieldTable,
    /// The client declared the capability `consumer_cancel_notify`.
    pub cancel_notify: bool,
    /// The client declared the capability `connection.blocked`.
    pub blocked_notify: bool,
    /// Negotiated frame_max.
    pub frame_max: u32,
    /// Negotiated channel_max.
    pub channel_max: u16,
    /// Negotiated heartbeat in seconds, 0 = off.
    pub heartbeat: u16,
    /// Address and port of the peer.
    pub peer: (String, u16),
    /// Address and port of our end.
    pub local: (String, u16),
    /// Whether the connection is encrypted.
    pub tls: bool,
}

impl OpenConnection {
    /// A connection without a socket: what the broker does by itself in a user's name, and peers in tests. It has declared the
    /// capabilities for being told of cancelled consumers and of alarms.
    pub fn without_socket(name: &str, user: &str, vhost: &str) -> Self {
        Self {
            name: name.to_owned(),
            user: user.into(),
            vhost: vhost.into(),
            mechanism: "PLAIN",
            client_properties: FieldTable::default(),
            cancel_notify: true,
            blocked_notify: true,
            frame_max: 131_072,
            channel_max: 2047,
            heartbeat: 0,
            peer: (String::new(), 0),
            local: (String::new(), 0),
            tls: false,
        }
    }
}

/// What a client does with outstanding deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Settle {
    /// basic.ack
    Ack,
    /// basic.nack with this `requeue`
    Nack {
        /// Back to the queue, else dead-letter or drop.
        requeue: bool,
    },
    /// basic.reject with this `requeue`
    Reject {
        /// Back to the queue, else dead-letter or drop.
        requeue: bool,
    },
}

/// Consecutive publishes with the same exchange, routing key and bits: routed once, queued once.
#[derive(Debug, Clone)]
pub struct PublishRun {
    /// The buffer, shared by all runs of one read.
    pub batch: Arc<Batch>,
    /// First message of the run.
    pub from: u32,
    /// Number of messages, ≥ 1; all have the route of the first.
    pub count: u32,
    /// basic.publish `mandatory`.
    pub mandatory: bool,
}

/// Publishes that one read brought in a row, with nothing else between them. They mean the same as a
/// [`ChannelCommand::Publish`] for each run, in this order.
#[derive(Debug)]
pub struct Publishes {
    /// The buffer. Whoever owns it alone may put its messages in another order, see [`Batch::gather`].
    pub batch: Arc<Batch>,
    /// The runs; each begins in the batch where the one before ends.
    pub runs: Vec<RunHead>,
}

/// A run of [`Publishes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunHead {
    /// The channel it was published on.
    pub channel: u16,
    /// See [`PublishRun`].
    pub mandatory: bool,
    /// First message of the run.
    pub from: u32,
    /// Number of messages, ≥ 1; all have the route of the first.
    pub count: u32,
}

impl Publishes {
    /// One of the runs as a command of its own.
    pub fn run(&self, head: RunHead) -> (u16, ChannelCommand) {
        let RunHead { channel, mandatory, from, count } = head;
        (channel, ChannelCommand::Publish(PublishRun { batch: Arc::clone(&self.batch), from, count, mandatory }))
    }
}

/// queue.declare [spec §1.7.2.1].
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct QueueDeclare {
    pub queue: ShortStr,
    pub passive: bool,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub nowait: bool,
    pub arguments: FieldTable,
}

/// exchange.declare [spec §1.6.2.1].
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct ExchangeDeclare {
    pub exchange: ShortStr,
    pub kind: ShortStr,
    pub passive: bool,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub nowait: bool,
    pub arguments: FieldTable,
}

/// basic.consume [spec §1.8.3.3].
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Consume {
    pub queue: ShortStr,
    pub consumer_tag: ShortStr,
    pub no_ack: bool,
    pub exclusive: bool,
    pub nowait: bool,
    pub arguments: FieldTable,
}

/// A bind or unbind, of a queue or an exchange.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Bind {
    pub destination: ShortStr,
    pub source: ShortStr,
    pub routing_key: ShortStr,
    pub nowait: bool,
    pub arguments: FieldTable,
}

/// Methods on a channel. Names and fields are the methods' own.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum ChannelCommand {
    Open,
    /// channel.close by the client; answered by `CloseOk` once everything is let go.
    Close,
    /// The machine found a channel error (e.g. a message over `max_message_size`).
    Fail(AmqpError),
    ExchangeDeclare(Box<ExchangeDeclare>),
    ExchangeDelete {
        exchange: ShortStr,
        if_unused: bool,
        nowait: bool,
    },
    ExchangeBind(Box<Bind>),
    ExchangeUnbind(Box<Bind>),
    QueueDeclare(Box<QueueDeclare>),
    QueueBind(Box<Bind>),
    /// queue.unbind has no nowait: the field is false.
    QueueUnbind(Box<Bind>),
    QueuePurge {
        queue: ShortStr,
        nowait: bool,
    },
    QueueDelete {
        queue: ShortStr,
        if_unused: bool,
        if_empty: bool,
        nowait: bool,
    },
    Qos {
        prefetch_size: u32,
        prefetch_count: u16,
        global: bool,
    },
    Consume(Box<Consume>),
    Cancel {
        consumer_tag: ShortStr,
        nowait: bool,
    },
    Get {
        queue: ShortStr,
        no_ack: bool,
    },
    Publish(PublishRun),
    /// ack, nack and reject. A machine joins consecutive single acks of consecutive tags: `count` tags from `tag` on,
    /// each settled alone. With `multiple`, `count` is 1.
    Settle {
        how: Settle,
        tag: Tag,
        count: u32,
        multiple: bool,
    },
    /// basic.recover (`nowait` false) and recover-async (`nowait` true).
    Recover {
        requeue: bool,
        nowait: bool,
    },
    ConfirmSelect {
        nowait: bool,
    },
    /// channel.flow with `active` true, which asks for nothing but its answer.
    Flow,
    /// access.request, likewise.
    AccessRequest,
    TxSelect,
    TxCommit,
    TxRollback,
}
