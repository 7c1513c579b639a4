//! What the admin side can ask and is told: plain numbers and names, and the two traits that are its only doors.

use crate::definition::{
    BindingDefinition, ExchangeDefinition, ParameterDefinition, PermissionDefinition, PolicyDefinition,
    TopicPermissionDefinition, UserDefinition, VhostDefinition,
};
use crate::ids::{ConnectionId, QueueId};
use crate::names::ShortStr;
use crate::table::FieldTable;
use std::future::Future;
use std::pin::Pin;

/// A boxed future, so that the traits stay usable as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A question. Lists are sliced: at most `limit` items with an id above `after`, in id order, so that no answer stalls traffic.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Broker-wide totals. A shard leaves out what takes a look at every queue: that is asked for as [`Request::Sums`].
    Totals,
    /// What some queues hold together, for the totals.
    Sums {
        /// Ids above this one.
        after: QueueId,
        /// At most so many queues.
        limit: u32,
    },
    /// Queues, of all vhosts or one.
    Queues {
        /// Only this vhost.
        vhost: Option<ShortStr>,
        /// Ids above this one.
        after: QueueId,
        /// At most so many.
        limit: u32,
    },
    /// One queue.
    Queue {
        /// Its vhost.
        vhost: ShortStr,
        /// Its name.
        name: ShortStr,
    },
    /// Connections with their channels and consumers.
    Connections {
        /// Ids above this one.
        after: ConnectionId,
        /// At most so many.
        limit: u32,
    },
    /// Exchanges of all vhosts or one.
    Exchanges {
        /// Only this vhost.
        vhost: Option<ShortStr>,
    },
    /// Bindings of all vhosts or one.
    Bindings {
        /// Only this vhost.
        vhost: Option<ShortStr>,
    },
    /// Vhosts.
    Vhosts,
    /// Users.
    Users,
    /// Permissions.
    Permissions,
    /// Topic permissions.
    TopicPermissions,
    /// Policies.
    Policies,
    /// Runtime parameters, those of vhosts and the global ones.
    Parameters,
}

/// The answer to a [`Request`]; the variant follows the request's.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Answer {
    Totals(Box<BrokerStats>),
    Sums(QueueSums),
    Queues(Vec<QueueStats>),
    Queue(Option<Box<QueueStats>>),
    Connections(Vec<ConnectionStats>),
    Exchanges(Vec<ExchangeStats>),
    Bindings(Vec<BindingDefinition>),
    Vhosts(Vec<VhostDefinition>),
    Users(Vec<UserDefinition>),
    Permissions(Vec<PermissionDefinition>),
    TopicPermissions(Vec<TopicPermissionDefinition>),
    Policies(Vec<PolicyDefinition>),
    Parameters(Vec<ParameterDefinition>),
}

/// Counts of what happened to messages; all only grow. Field names are the management API's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct MessageStats {
    pub publish: u64,
    pub confirm: u64,
    /// Handed to consumers with manual acknowledgement.
    pub deliver: u64,
    pub deliver_no_ack: u64,
    pub get: u64,
    pub get_no_ack: u64,
    pub get_empty: u64,
    pub redeliver: u64,
    pub ack: u64,
    pub return_unroutable: u64,
    pub drop_unroutable: u64,
    /// Publishes on channels in confirm mode.
    pub publish_confirm_mode: u64,
    /// Publishes that reached at least one queue.
    pub routed: u64,
    pub dead_lettered_expired: u64,
    pub dead_lettered_rejected: u64,
    pub dead_lettered_maxlen: u64,
    pub dead_lettered_delivery_limit: u64,
}

/// Adds up all fields of two structs.
macro_rules! add_fields {
    ($to:ident, $from:ident: $($field:ident)*) => {
        $($to.$field += $from.$field;)*
    };
}

impl MessageStats {
    /// Counts those of another shard in.
    pub fn add(&mut self, more: &Self) {
        add_fields!(self, more: publish confirm deliver deliver_no_ack get get_no_ack get_empty redeliver ack
            return_unroutable drop_unroutable publish_confirm_mode routed dead_lettered_expired
            dead_lettered_rejected dead_lettered_maxlen dead_lettered_delivery_limit);
    }
    /// `deliver_get`: all hand-overs.
    pub fn deliver_get(&self) -> u64 {
        self.deliver + self.deliver_no_ack + self.get + self.get_no_ack
    }
}

/// Upper bounds of the message size histogram's buckets, octets; the last bucket is open.
pub const SIZE_BUCKETS: [u64; 8] = [100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000, 100_000_000];

/// Broker-wide counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct BrokerStats {
    pub connections: u64,
    pub channels: u64,
    pub consumers: u64,
    pub queues: u64,
    pub exchanges: u64,
    pub bindings: u64,
    pub messages_ready: u64,
    pub messages_unacknowledged: u64,
    /// Channels that have published.
    pub publishers: u64,
    pub message_stats: MessageStats,
    pub connections_opened: u64,
    pub connections_closed: u64,
    pub channels_opened: u64,
    pub channels_closed: u64,
    pub queues_declared: u64,
    pub queues_created: u64,
    pub queues_deleted: u64,
    /// Published messages by body size; not cumulative. One more than the bounds for the open bucket.
    pub size_buckets: [u64; SIZE_BUCKETS.len() + 1],
    pub size_sum: u64,
    /// Resident body octets.
    pub resident_bytes: u64,
    /// Octets in memory of the batches that bodies came in, whoever holds them.
    pub batch_bytes: u64,
    /// Operations waiting for the store.
    pub pending_ops: u64,
    pub pending_bytes: u64,
    /// Runs of messages in the log.
    pub log_runs: u64,
    /// Works on long lists that go on in slices.
    pub work_items: u64,
    /// Groups written since start.
    pub groups_committed: u64,
    /// Queues with messages that can't be read back, so far as it is known.
    pub damaged_queues: u64,
    /// Those messages.
    pub unreadable_messages: u64,
    pub memory_alarm: bool,
    pub disk_alarm: bool,
}

/// What queues hold together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct QueueSums {
    pub queues: u64,
    pub messages_ready: u64,
    pub messages_unacknowledged: u64,
    /// Where to go on; `None` when these were the last.
    pub next: Option<QueueId>,
}

impl BrokerStats {
    /// Counts what some queues hold in.
    pub fn add_queues(&mut self, more: &QueueSums) {
        self.queues += more.queues;
        self.messages_ready += more.messages_ready;
        self.messages_unacknowledged += more.messages_unacknowledged;
    }

    /// Counts those of another shard in.
    pub fn add(&mut self, more: &Self) {
        // Named in a pattern first, so that none that is added to the struct is forgotten here.
        let Self {
            connections: _,
            channels: _,
            consumers: _,
            queues: _,
            exchanges: _,
            bindings: _,
            messages_ready: _,
            messages_unacknowledged: _,
            publishers: _,
            message_stats,
            connections_opened: _,
            connections_closed: _,
            channels_opened: _,
            channels_closed: _,
            queues_declared: _,
            queues_created: _,
            queues_deleted: _,
            size_buckets,
            size_sum: _,
            resident_bytes: _,
            batch_bytes: _,
            pending_ops: _,
            pending_bytes: _,
            log_runs: _,
            work_items: _,
            groups_committed: _,
            damaged_queues: _,
            unreadable_messages: _,
            memory_alarm,
            disk_alarm,
        } = more;
        add_fields!(self, more: connections channels consumers queues exchanges bindings messages_ready
            messages_unacknowledged publishers connections_opened connections_closed channels_opened channels_closed
            queues_declared queues_created queues_deleted size_sum resident_bytes batch_bytes pending_ops pending_bytes
            log_runs work_items groups_committed damaged_queues unreadable_messages);
        self.message_stats.add(message_stats);
        self.size_buckets.iter_mut().zip(size_buckets).for_each(|(sum, count)| *sum += count);
        self.memory_alarm |= memory_alarm;
        self.disk_alarm |= disk_alarm;
    }
}

/// Upper bounds of the buckets of [`TurnTimes`], µs; the last bucket is open.
pub const TURN_BOUNDS_US: [u64; 15] =
    [100, 250, 500, 1000, 2000, 3000, 4000, 5000, 7500, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

/// How long turns of the owner took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TurnTimes {
    /// Turns by duration; not cumulative. One more than the bounds for the open bucket.
    pub counts: [u64; TURN_BOUNDS_US.len() + 1],
    /// All of them together, µs.
    pub sum_us: u64,
    /// The longest since start, µs.
    pub max_us: u64,
}

impl TurnTimes {
    /// Counts those of another owner in.
    pub fn add(&mut self, more: &Self) {
        self.counts.iter_mut().zip(more.counts).for_each(|(sum, count)| *sum += count);
        self.sum_us += more.sum_us;
        self.max_us = self.max_us.max(more.max_us);
    }
}

/// Turns of one shard's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardTurns {
    /// By wall clock.
    pub wall: TurnTimes,
    /// By processor time.
    pub cpu: TurnTimes,
}

/// State of a consumer as the management API names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ActivityStatus {
    Up,
    SingleActive,
    Waiting,
}

/// A consumer.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct ConsumerStats {
    pub vhost: ShortStr,
    pub queue: ShortStr,
    pub consumer_tag: ShortStr,
    pub connection: ConnectionId,
    pub channel: u16,
    pub ack_required: bool,
    pub exclusive: bool,
    pub prefetch_count: u32,
    pub priority: i64,
    pub status: ActivityStatus,
    pub arguments: FieldTable,
}

/// A queue.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct QueueStats {
    pub id: QueueId,
    pub vhost: ShortStr,
    pub name: ShortStr,
    pub kind: &'static str,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub arguments: FieldTable,
    /// Connection name of the owner of an exclusive queue.
    pub owner: Option<String>,
    pub policy: Option<ShortStr>,
    pub operator_policy: Option<ShortStr>,
    pub effective_policy: FieldTable,
    pub messages_ready: u64,
    pub messages_unacknowledged: u64,
    /// Returned messages of a quorum queue that wait for their retry: neither ready nor unacknowledged.
    pub messages_delayed: u64,
    /// Octets of their bodies in memory; those on disk have left it.
    pub message_bytes_delayed: u64,
    pub message_bytes_ready: u64,
    pub message_bytes_unacknowledged: u64,
    /// Messages in the log.
    pub messages_persistent: u64,
    /// Messages that died and wait to be read back for their dead-letter exchange; neither ready nor unacknowledged.
    pub messages_dlx: u64,
    pub message_bytes_persistent: u64,
    /// Messages whose bodies are in memory.
    pub messages_ram: u64,
    pub message_bytes_ram: u64,
    /// Messages of it that can't be read back, so far as it is known.
    pub damage: Option<QueueDamage>,
    /// The publisher's `timestamp` of the head, seconds, when it is in memory and has one.
    pub head_message_timestamp: Option<u64>,
    pub consumers: u32,
    /// Share of time the queue could deliver at once, 0…1.
    pub consumer_capacity: f64,
    pub exclusive_consumer_tag: Option<ShortStr>,
    pub single_active_consumer_tag: Option<ShortStr>,
    /// Wall clock, milliseconds, since nothing happened; `None` while it has messages or traffic.
    pub idle_since_ms: Option<u64>,
    pub message_stats: MessageStats,
    pub consumer_details: Vec<ConsumerStats>,
    /// Octets of index and chunks in memory, roughly.
    pub memory: u64,
}

/// Messages of a queue that can't be read back. It goes on up to the first of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDamage {
    /// How many.
    pub messages: u64,
    /// The file, and what is wrong with it, of the first that was met.
    pub reason: String,
}

/// A channel.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct ChannelStats {
    pub number: u16,
    pub prefetch_count: u32,
    pub global_prefetch_count: u32,
    pub consumers: Vec<ConsumerStats>,
    pub messages_unacknowledged: u64,
    pub messages_unconfirmed: u64,
    pub messages_uncommitted: u64,
    pub acks_uncommitted: u64,
    pub confirm: bool,
    pub transactional: bool,
    pub message_stats: MessageStats,
}

/// A connection.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct ConnectionStats {
    pub id: ConnectionId,
    pub open: crate::command::OpenConnection,
    pub connected_at_ms: u64,
    /// `running`, `blocked`, `blocking`.
    pub state: &'static str,
    pub channels: Vec<ChannelStats>,
    /// Octets read and written; filled in by the server, which counts them.
    pub recv_oct: u64,
    pub send_oct: u64,
}

/// An exchange.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct ExchangeStats {
    pub definition: ExchangeDefinition,
    pub policy: Option<ShortStr>,
    pub publish_in: u64,
    pub publish_out: u64,
    /// Messages held by a delayed-message exchange.
    pub messages_delayed: Option<u64>,
}

/// Facts about the process and its machine, sampled by the server.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)]
pub struct NodeStats {
    pub node_name: String,
    pub cluster_name: String,
    pub product: String,
    pub product_version: String,
    /// The RabbitMQ version whose behaviour is announced to clients.
    pub rabbitmq_version: String,
    pub uptime_ms: u64,
    pub os_pid: u32,
    pub processors: u32,
    pub mem_used: u64,
    pub mem_limit: u64,
    pub disk_free: u64,
    pub disk_free_limit: u64,
    pub fd_used: u64,
    pub fd_total: u64,
    pub sockets_used: u64,
    /// Microseconds the front has looked for more from clients that log in, instead of sleeping.
    pub front_looked_us: u64,
    /// Octets of the data folder's log database and body files.
    pub store_db_bytes: u64,
    /// What the log's database holds, octets, roughly; the rest of its size is reserved and used again or given back.
    pub store_db_live_bytes: u64,
    /// How many times the database was copied to a fresh one since the start.
    pub store_db_renewals: u64,
    /// Octets kept back for opening on a full disk.
    pub store_ballast_bytes: u64,
    pub store_body_bytes: u64,
    /// Turns of each shard's owner.
    pub turns: Vec<ShardTurns>,
    /// protocol (`amqp`, `http`, `http/prometheus`), address, port, tls.
    pub listeners: Vec<(String, String, u16, bool)>,
    pub auth_attempts_succeeded: u64,
    pub auth_attempts_failed: u64,
}

/// Whether the broker serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Recovery is still going on; a word about how far.
    Starting(String),
    /// Serving.
    Ready,
    /// Shutting down.
    Stopping,
    /// The store failed; nothing is confirmed any more.
    Failed(String),
}

/// A logged-in user of the admin side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminUser {
    /// Name.
    pub name: ShortStr,
    /// Tags.
    pub tags: Vec<String>,
}

/// Why a login was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginRefused {
    /// Unknown user or wrong password.
    Credentials,
    /// The user may log in from loopback addresses only.
    NotLoopback,
}

/// The admin's door for looking: snapshots, answered from the shard's inbox.
pub trait Inspect: Send + Sync {
    /// Asks the broker. Fails with a sentence when the broker is not serving.
    fn ask(&self, request: Request) -> BoxFuture<'_, Result<Answer, String>>;
    /// Facts about the node; never waits for the broker.
    fn node(&self) -> NodeStats;
    /// Health; never waits for the broker.
    fn health(&self) -> Health;
    /// Checks a password; `loopback` says whether the peer's address is a loopback one.
    fn login(&self, user: &str, password: &str, loopback: bool) -> BoxFuture<'_, Result<AdminUser, LoginRefused>>;
}
