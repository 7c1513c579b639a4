//! Every limit of the core and the connection machine, with its default and reason.

/// Limits and behaviours the core and the connection machine are configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest frame offered in tune, octets. RabbitMQ's default.
    pub frame_max: u32,
    /// Smallest frame_max accepted in tune-ok; the spec's minimum, because older amqplib versions ask for it.
    pub frame_max_min: u32,
    /// Largest frame before tune-ok, octets.
    pub initial_frame_max: u32,
    /// Most channels a connection, offered in tune.
    pub channel_max: u16,
    /// Heartbeat offered in tune, seconds.
    pub heartbeat: u16,
    /// The whole handshake must end within this, milliseconds.
    pub handshake_timeout_ms: u64,
    /// Largest message body, octets; over it: soft 406 after the body arrived. RabbitMQ ≥ 4.0: 16 MiB.
    pub max_message_size: u64,
    /// Unsent octets per connection above which the core stops delivering there.
    pub unsent_bytes: u64,
    /// Octets of pending log operations above which publishers are no longer read.
    pub pending_bytes: u64,
    /// Pending logged runs, times their queues, above which publishers are no longer read: bounds the turn in which the store
    /// reports them.
    pub pending_copies: u64,
    /// So many settlements are handed to the store without waiting for company.
    pub group_messages: u64,
    /// A group of settlements alone waits this long for company, milliseconds.
    pub settle_delay_ms: u64,
    /// Log records without live messages that may pile up behind the oldest live one, beside as many as there are live
    /// ones twice over, before the head is copied forward.
    pub log_records_slack: u64,
    /// Short runs (messages logged one by one) a queue may have in the log before they are joined in the background.
    pub short_runs: u64,
    /// Runs in the log above which publishers are no longer read while short ones are being joined: each takes memory. From
    /// half of it on a few short ones of a queue are enough to be joined.
    pub log_runs: u64,
    /// Octets of waiting messages inside log records above which they are rewritten to body files.
    pub inline_live_bytes: u64,
    /// Units of work on long lists (a run of messages settled, a segment returned; a message dead-lettered counts as sixteen)
    /// that a command or a turn does before others come to their turn. A unit is well under a microsecond.
    pub slice_units: u32,
    /// Resident body octets of all queues together above which queues page out what is in the log.
    pub resident_bytes: u64,
    /// Resident body octets a queue may always keep.
    pub resident_bytes_per_queue: u64,
    /// Consumers per channel; 0 = no limit.
    pub consumers_per_channel: u32,
    /// Connections; 0 = no limit.
    pub connections: u64,
    /// Messages + settlements an open transaction holds.
    pub tx_operations: u64,
    /// Octets an open transaction holds.
    pub tx_bytes: u64,
    /// basic.qos global=true is honoured (true) or treated as global=false (RabbitMQ 4.3's default).
    pub global_qos: bool,
    /// Non-durable non-exclusive queues are permitted.
    pub transient_nonexcl_queues: bool,
    /// Default `x-consumer-timeout`, milliseconds; 0 = none.
    pub consumer_timeout_ms: u64,
    /// Default delivery limit of quorum queues.
    pub delivery_limit: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_max: 131_072,
            frame_max_min: 4096,
            initial_frame_max: 8192,
            channel_max: 2047,
            heartbeat: 60,
            handshake_timeout_ms: 10_000,
            max_message_size: 16 * 1024 * 1024,
            unsent_bytes: 128 * 1024,
            pending_bytes: 8 * 1024 * 1024,
            pending_copies: 4096,
            group_messages: 4096,
            settle_delay_ms: 50,
            log_records_slack: 512,
            short_runs: 1024,
            log_runs: 200_000,
            inline_live_bytes: 32 * 1024 * 1024,
            slice_units: 2048,
            resident_bytes: 32 * 1024 * 1024,
            resident_bytes_per_queue: 256 * 1024,
            consumers_per_channel: 0,
            connections: 0,
            tx_operations: 10_000,
            tx_bytes: 64 * 1024 * 1024,
            global_qos: true,
            transient_nonexcl_queues: true,
            consumer_timeout_ms: 30 * 60 * 1000,
            delivery_limit: 20,
        }
    }
}
