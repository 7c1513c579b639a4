//! All the broker can do to a connection: a closed set. The core produces these, the connection machine in `amqp`
//! encodes them.

use crate::error::{AmqpError, ReplyCode};
use crate::ids::{ConnectionId, EnqueueId, LoadId, RequestId, Tag};
use crate::message::{Batch, BatchBuilder, Span};
use crate::names::ShortStr;
use crate::op::Place;
use crate::stats::Answer;
use std::sync::Arc;

/// Octets the core counts as unsent for one content-bearing effect with `octets` of content frames in `count` messages.
/// The machine reports the same sum back as `Command::Written` once they are on the socket.
pub fn content_cost(octets: u64, count: u32) -> u64 {
    octets + u64::from(count) * 48
}

/// The sum of [`content_cost`] over a span.
pub fn span_cost(span: &Span) -> u64 {
    let octets = span.indexes().map(|i| u64::from(span.batch.meta(i).len)).sum();
    content_cost(octets, span.count)
}

/// Something to tell one connection.
#[derive(Debug)]
pub enum ConnectionEffect {
    /// connection.open-ok
    Opened,
    /// connection.close-ok: all is let go
    CloseOk,
    /// connection.close; all is let go
    Close(AmqpError),
    /// An alarm is up, for this reason (RabbitMQ's words), or (`None`) it is over. From the next content on the connection is
    /// not read any more, and a client with the capability is told connection.blocked(reason), later connection.unblocked.
    Hold(Option<&'static str>),
    /// Something on a channel.
    Channel(u16, ChannelEffect),
}

/// Deliveries of one consumer, in order; tags count up by one from `first_tag`.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The consumer's tag.
    pub consumer_tag: ShortStr,
    /// Delivery tag of the first message.
    pub first_tag: Tag,
    /// The flag, the same for all of the span.
    pub redelivered: bool,
    /// The messages.
    pub span: Span,
}

/// Something to tell on one channel. Replies carry their method's own fields.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum ChannelEffect {
    OpenOk,
    CloseOk,
    /// channel.close by the broker; the channel's state in the core is gone already
    Close(AmqpError),
    ExchangeDeclareOk,
    ExchangeDeleteOk,
    ExchangeBindOk,
    ExchangeUnbindOk,
    QueueDeclareOk {
        queue: ShortStr,
        messages: u32,
        consumers: u32,
    },
    QueueBindOk,
    QueueUnbindOk,
    QueuePurgeOk {
        messages: u32,
    },
    QueueDeleteOk {
        messages: u32,
    },
    QosOk,
    ConsumeOk {
        consumer_tag: ShortStr,
    },
    CancelOk {
        consumer_tag: ShortStr,
    },
    /// basic.cancel sent by the broker
    Cancel {
        consumer_tag: ShortStr,
    },
    Deliver(Delivery),
    GetOk {
        tag: Tag,
        redelivered: bool,
        messages: u32,
        span: Span,
    },
    GetEmpty,
    /// basic.return of each message of the span
    Return {
        code: ReplyCode,
        text: ShortStr,
        span: Span,
    },
    RecoverOk,
    ConfirmSelectOk,
    FlowOk,
    AccessRequestOk,
    /// basic.ack or (`ack` false) basic.nack to a publisher. `count` single confirms of consecutive tags from `tag` on when
    /// `multiple` is false; one cumulative confirm of all up to `tag` when true (`count` is 1 then).
    Confirm {
        tag: Tag,
        count: u32,
        multiple: bool,
        ack: bool,
    },
    TxSelectOk,
    TxCommitOk,
    TxRollbackOk,
}

/// A request to read messages back from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Names the request in its answer.
    pub id: LoadId,
    /// The logged run, for error texts.
    pub enqueue: EnqueueId,
    /// Where the store put it.
    pub place: Place,
    /// Runs whose messages are wanted behind these, in the same batch: they are to be written as one. Nobody waits for that.
    pub behind: Vec<Place>,
}

impl Load {
    /// All places it reads.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.place).chain(&self.behind)
    }
    /// What is wanted, as one batch, by whoever can read a run.
    pub fn read_with<E>(&self, mut read: impl FnMut(&Place) -> Result<Arc<Batch>, E>) -> Result<Arc<Batch>, E> {
        let first = read(&self.place)?;
        if self.behind.is_empty() {
            return Ok(first);
        }
        let mut all = BatchBuilder::default();
        all.append(&Span::whole(first));
        for place in &self.behind {
            all.append(&Span::whole(read(place)?));
        }
        Ok(all.finish())
    }
}

/// The answer to a [`Load`]: all that was wanted as one batch, or what is wrong with it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The request.
    pub id: LoadId,
    /// All messages of the run, and of those behind it, in order.
    pub batch: Result<Arc<Batch>, String>,
}

/// All output of a turn, drained after each change.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Effects grouped by connection, each connection at most once.
    pub connections: Vec<(ConnectionId, Vec<ConnectionEffect>)>,
    /// Bodies wanted back from disk.
    pub loads: Vec<Load>,
    /// Answers to requests of the admin side.
    pub answers: Vec<(RequestId, Answer)>,
    /// What became of operations of the admin side; ids are those of the operations, apart from the requests'.
    pub outcomes: Vec<(RequestId, crate::operate::Outcome)>,
    /// Users changed: the new table, for logins.
    pub logins: Option<Arc<crate::definition::LoginTable>>,
    /// What an operator should read, for the log.
    pub remarks: Vec<String>,
}
