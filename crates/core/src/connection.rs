//! The core's side of connections, channels and consumers: what couples to queues.

use crate::channel::confirms::Confirms;
use crate::channel::unacked::{Taken, UnackedList};
use crate::routes::Routes;
use hornpipe_types::Map;
use hornpipe_types::command::{OpenConnection, PublishRun, Settle};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::ids::{CommitSeq, ConnectionId, QueueId, Tag};
use hornpipe_types::names::ShortStr;
use hornpipe_types::stats::MessageStats;
use hornpipe_types::table::FieldTable;
use hornpipe_types::time::{Instant, UnixMillis};
use std::collections::{BTreeSet, VecDeque};

/// A connection that has opened a vhost.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) open: OpenConnection,
    /// Index of the vhost in the shard.
    pub(crate) vhost: usize,
    pub(crate) connected_at: UnixMillis,
    pub(crate) channels: Map<u16, Channel>,
    /// To be sent at the end of the turn.
    pub(crate) effects: Vec<ConnectionEffect>,
    /// Octets of content handed over and not written yet.
    pub(crate) unsent: u64,
    /// Consumers that ran into the limit of unsent octets.
    pub(crate) stalled: VecDeque<u64>,
    /// Replies that wait, and what waits behind them, by channel.
    pub(crate) held: Map<u16, VecDeque<Held>>,
    pub(crate) exclusive_queues: BTreeSet<QueueId>,
    /// Not read any more, for it published during an alarm.
    pub(crate) blocked: bool,
}

/// A place among the replies of a channel, which go out in the order of what they answer.
#[derive(Debug)]
pub(crate) enum Held {
    /// Goes out when the watermark covers the commit.
    Reply(CommitSeq, ChannelEffect),
    /// The answer to a basic.get whose message is being read back.
    Get(u64),
}

/// A transaction under way.
#[derive(Debug, Default)]
pub(crate) struct Tx {
    pub(crate) publishes: Vec<PublishRun>,
    pub(crate) settles: Vec<(Settle, Taken)>,
    pub(crate) operations: u64,
    pub(crate) bytes: u64,
    /// Copies that the publishes would bring to queues.
    pub(crate) copies: u64,
}

/// A channel.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    /// Next delivery tag minus one.
    pub(crate) last_tag: Tag,
    pub(crate) unacked: UnackedList,
    pub(crate) consumers: Vec<(ShortStr, u64)>,
    /// prefetch-count for consumers started later.
    pub(crate) prefetch: u32,
    /// Limit shared by all consumers of the channel; 0 = none.
    pub(crate) global_prefetch: u32,
    /// Outstanding deliveries to consumers.
    pub(crate) consumer_unacked: u64,
    pub(crate) confirms: Option<Confirms>,
    pub(crate) confirms_listed: bool,
    pub(crate) tx: Option<Tx>,
    pub(crate) last_queue: Option<ShortStr>,
    pub(crate) routes: Routes,
    pub(crate) published: bool,
    /// Tag of the direct reply-to consumer and the opaque part of its address.
    pub(crate) reply_consumer: Option<(ShortStr, ShortStr)>,
    pub(crate) stats: MessageStats,
}

/// A consumer.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) tag: ShortStr,
    pub(crate) connection: ConnectionId,
    pub(crate) channel: u16,
    pub(crate) queue: QueueId,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) priority: i64,
    /// 0 = no limit.
    pub(crate) prefetch: u32,
    pub(crate) unacked: u64,
    /// Listed in its queue among those with credit.
    pub(crate) active: bool,
    /// It is on its connection's list of those that wait for the socket.
    pub(crate) stalled: bool,
    /// Its consume-ok waits for the watermark.
    pub(crate) held: bool,
    /// `x-consumer-timeout` of a quorum queue's consumer, ms.
    pub(crate) timeout_ms: Option<u64>,
    /// When its oldest delivery is looked at next.
    pub(crate) timer: Option<Instant>,
    pub(crate) arguments: FieldTable,
}
