//! Any octets as commands of several clients, sensible and not, and what must hold whatever they say.
//!
//! Kept from a connection machine's promises: a channel that is open is not opened again, a run's messages have one route.
//! Everything else may be nonsense: unknown names, wrong tags, huge counts, the middle of a transaction cut off.

use crate::broker::Broker;
use crate::message;
use hornpipe_types::command::{
    Bind, ChannelCommand, Command, Consume, ExchangeDeclare, PublishRun, QueueDeclare, Settle,
};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::error::{AmqpError, Scope};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::limits::Limits;
use hornpipe_types::message::BatchBuilder;
use hornpipe_types::names::ShortStr;
use hornpipe_types::table::{FieldTable, Value};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

/// Most commands of a script.
const STEPS: usize = 600;
/// The connection that purges.
const ADMIN: ConnectionId = ConnectionId(1);
const QUEUES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "quorum"];
const EXCHANGES: [&str; 8] = ["", "amq.direct", "amq.fanout", "amq.topic", "amq.headers", "x", "y", "no such exchange"];
const KEYS: [&str; 6] = ["a", "b", "c.d", "#", "*.d", ""];

/// What a script came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Of everything that was told to anybody, in order.
    pub hash: u64,
    /// How much that was.
    pub effects: u64,
    /// Commands given.
    pub commands: u64,
    /// Messages that entered queues.
    pub entered: u64,
}

/// Octets as choices; zeros when they have run out.
#[derive(Debug)]
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn octet(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }
    fn below(&mut self, n: usize) -> usize {
        usize::from(self.octet()) % n
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
    /// In so many of 256 cases.
    fn chance(&mut self, of_256: u8) -> bool {
        // no octets, no rare events
        !self.0.is_empty() && self.octet() < of_256
    }
}

struct Run<'a> {
    choices: Choices<'a>,
    broker: Broker,
    /// Open channels by connection.
    open: BTreeMap<ConnectionId, BTreeSet<u16>>,
    /// Highest delivery tag seen.
    tags: BTreeMap<(ConnectionId, u16), u64>,
    hasher: DefaultHasher,
    effects: u64,
    commands: u64,
    next_connection: u64,
    next_message: u64,
    purged: u64,
    /// Purges whose reply waits for the disk.
    purging: u64,
    /// What was said and heard, kept where `SCRIPT_LOG` is set.
    log: Option<Vec<String>>,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.log.iter().flatten() {
                eprintln!("{line}");
            }
        }
    }
}

/// Runs a script to its end and everything it left behind to nothing. Panics where something does not add up.
pub fn run(octets: &[u8]) -> Outcome {
    let mut choices = Choices(octets);
    let limits = Limits {
        resident_bytes: choices.pick(&[64 << 20, 0, 500]),
        resident_bytes_per_queue: choices.pick(&[0, 100, 1 << 20]),
        unsent_bytes: choices.pick(&[128 << 10, 1, 600]),
        settle_delay_ms: choices.pick(&[50, 0]),
        log_records_slack: choices.pick(&[512, 0, 3]),
        short_runs: choices.pick(&[1024, 2, 5]),
        slice_units: choices.pick(&[2048, 1, 3]),
        inline_live_bytes: choices.pick(&[32 << 20, 200]),
        group_messages: choices.pick(&[4096, 3]),
        tx_operations: 50,
        consumer_timeout_ms: choices.pick(&[0, 400]),
        ..Limits::default()
    };
    let mut broker = Broker::new(limits, 7);
    broker.disk.in_files = choices.chance(128);
    broker.sockets_write = choices.chance(128);
    let mut run = Run {
        choices,
        broker,
        open: BTreeMap::new(),
        tags: BTreeMap::new(),
        hasher: DefaultHasher::new(),
        effects: 0,
        commands: 0,
        next_connection: 2,
        next_message: 0,
        purged: 0,
        purging: 0,
        log: std::env::var_os("SCRIPT_LOG").map(|_| Vec::new()),
    };
    run.broker.open(ADMIN, 1, true);
    for _ in 0..3 {
        run.connect();
    }
    for _ in 0..STEPS {
        if run.choices.0.is_empty() {
            break;
        }
        run.step();
        run.listen();
        run.check();
    }
    run.drain();
    let entered = run.broker.totals().message_stats.routed;
    Outcome { hash: run.hasher.finish(), effects: run.effects, commands: run.commands, entered }
}

impl Run<'_> {
    fn connect(&mut self) {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.broker.open(id, 3, !id.0.is_multiple_of(3));
        self.open.insert(id, (1..=3).collect());
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(line());
        }
    }

    fn step(&mut self) {
        let kind = self.choices.octet();
        self.note(|| format!("step {kind}"));
        match kind {
            0..16 => self.broker.advance([0, 1, 30, 60, 1000][self.choices.below(5)]),
            16..36 => {
                self.broker.take_group();
            }
            36..56 => {
                self.broker.commit();
            }
            56..60 => {
                let (memory, disk) = (self.choices.chance(80), self.choices.chance(80));
                self.broker.shard.handle_alarms(self.broker.now, memory, disk);
                self.broker.turn();
            }
            60..76 => {
                if let Some(id) = self.connection() {
                    self.broker.write(id);
                }
            }
            80..84 => self.purge(),
            76..80 => {
                let Some(id) = self.connection() else { return };
                let command = match self.choices.below(3) {
                    0 => Command::Close,
                    1 => Command::Fail(AmqpError::not_allowed("nonsense")),
                    _ => Command::Gone,
                };
                self.open.remove(&id);
                self.broker.run(id, vec![command]);
                self.connect();
            }
            _ => {
                let Some(id) = self.connection() else { return };
                let mut commands = Vec::new();
                for _ in 0..=self.choices.below(3) {
                    let number = 1 + self.choices.below(3) as u16;
                    let command = self.command(id, number);
                    self.commands += 1;
                    self.note(|| format!("{id}.{number} says {command:?}"));
                    commands.push(Command::Channel(number, command));
                }
                self.broker.run(id, commands);
            }
        }
    }

    /// By a client of its own, which never leaves and so hears how much it was.
    fn purge(&mut self) {
        let queue = self.queue();
        self.purging += 1;
        self.broker.run(ADMIN, vec![Command::Channel(1, ChannelCommand::QueuePurge { queue, nowait: false })]);
    }

    fn connection(&mut self) -> Option<ConnectionId> {
        let ids: Vec<ConnectionId> = self.open.keys().copied().collect();
        let k = self.choices.below(ids.len().max(1));
        ids.get(k).copied()
    }

    fn queue(&mut self) -> ShortStr {
        match self.choices.octet() {
            0..220 => self.choices.pick(&QUEUES).into(),
            220..235 => "".into(),
            235..245 => "amq.rabbitmq.reply-to".into(),
            _ => "no such queue".into(),
        }
    }

    fn tag(&mut self, id: ConnectionId, number: u16) -> u64 {
        let last = self.tags.get(&(id, number)).copied().unwrap_or(0);
        match self.choices.octet() {
            0..120 => last.saturating_sub(u64::from(self.choices.octet() % 4)),
            120..220 => u64::from(self.choices.octet()) % (last + 1),
            220..235 => 0,
            235..245 => last + 1,
            245..250 => u64::MAX,
            _ => u64::MAX - 3,
        }
    }

    fn command(&mut self, id: ConnectionId, number: u16) -> ChannelCommand {
        if !self.open.get(&id).is_some_and(|o| o.contains(&number)) {
            self.open.entry(id).or_default().insert(number);
            self.tags.remove(&(id, number));
            return ChannelCommand::Open;
        }
        match self.choices.octet() {
            0..70 => self.publish(),
            70..100 => self.consume(),
            100..115 => ChannelCommand::Get { queue: self.queue(), no_ack: self.choices.chance(100) },
            115..165 => {
                let how = match self.choices.below(6) {
                    0..3 => Settle::Ack,
                    3 => Settle::Nack { requeue: self.choices.chance(128) },
                    4 => Settle::Nack { requeue: true },
                    _ => Settle::Reject { requeue: self.choices.chance(128) },
                };
                let multiple = self.choices.chance(80);
                let count = match self.choices.octet() {
                    _ if multiple => 1,
                    0..200 => 1,
                    200..250 => 2 + u32::from(self.choices.octet() % 4),
                    _ => u32::MAX,
                };
                ChannelCommand::Settle { how, tag: self.tag(id, number), count, multiple }
            }
            165..180 => self.declare(),
            180..190 => ChannelCommand::Qos {
                prefetch_size: u32::from(self.choices.chance(5)),
                prefetch_count: self.choices.pick(&[0, 1, 2, 5]),
                global: self.choices.chance(60),
            },
            190..196 => ChannelCommand::Cancel { consumer_tag: self.consumer_tag(), nowait: self.choices.chance(128) },
            196..207 => ChannelCommand::QueueDelete {
                queue: self.queue(),
                if_unused: self.choices.chance(60),
                if_empty: self.choices.chance(60),
                nowait: self.choices.chance(60),
            },
            207..215 => self.bind(),
            215..219 => self.exchange(),
            219..223 => ChannelCommand::Recover { requeue: !self.choices.chance(20), nowait: self.choices.chance(128) },
            223..229 => ChannelCommand::ConfirmSelect { nowait: self.choices.chance(128) },
            229..234 => ChannelCommand::TxSelect,
            234..242 => ChannelCommand::TxCommit,
            242..246 => ChannelCommand::TxRollback,
            // it is open until the answer comes
            246..250 => ChannelCommand::Close,
            _ => ChannelCommand::Fail(AmqpError::precondition("nonsense")),
        }
    }

    fn shut(&mut self, id: ConnectionId, number: u16) {
        if let Some(open) = self.open.get_mut(&id) {
            assert!(open.remove(&number), "{id}.{number} was closed twice");
        }
    }

    fn publish(&mut self) -> ChannelCommand {
        let (exchange, key) = match self.choices.octet() {
            0..170 => ("", self.choices.pick(&QUEUES)),
            _ => (self.choices.pick(&EXCHANGES), self.choices.pick(&KEYS)),
        };
        let mut b = BatchBuilder::default();
        let route = b.push_route(exchange, key);
        for _ in 0..=self.choices.below(4) {
            let kind = self.choices.octet();
            let mut headers = None;
            if kind & 0xf0 == 0xf0 {
                let mut table = FieldTable::default();
                table.set(
                    if kind & 4 == 0 { "CC" } else { "BCC" },
                    Value::Array(vec![Value::long_str(self.choices.pick(&QUEUES))]),
                );
                headers = Some(table);
            }
            let properties = Properties {
                delivery_mode: Some(1 + (kind & 1)),
                priority: (kind & 2 != 0).then_some(kind >> 2 & 7),
                expiration: (kind & 0x38 == 0x38).then(|| ["0", "1", "30", "x"][usize::from(kind & 3)].into()),
                reply_to: (kind & 0xe7 == 0xe0).then(|| "amq.rabbitmq.reply-to".into()),
                headers,
                ..Properties::default()
            };
            self.next_message += 1;
            let padding = if kind == 255 { 3000 } else { usize::from(kind) % 90 };
            message::push(&mut b, route, &properties, self.next_message, padding);
        }
        let count = b.len();
        let run = PublishRun { batch: b.finish(), from: 0, count, mandatory: self.choices.chance(80) };
        ChannelCommand::Publish(run)
    }

    fn consumer_tag(&mut self) -> ShortStr {
        self.choices.pick(&["t1", "t2", "t3", "t4", ""]).into()
    }

    fn consume(&mut self) -> ChannelCommand {
        let mut arguments = FieldTable::default();
        if self.choices.chance(60) {
            arguments.set("x-priority", Value::I8(self.choices.octet() as i8));
        }
        ChannelCommand::Consume(Box::new(Consume {
            queue: self.queue(),
            consumer_tag: if self.choices.chance(128) { "".into() } else { self.consumer_tag() },
            no_ack: self.choices.chance(80),
            exclusive: self.choices.chance(15),
            nowait: self.choices.chance(80),
            arguments,
        }))
    }

    fn declare(&mut self) -> ChannelCommand {
        let queue = self.queue();
        let mut arguments = FieldTable::default();
        let quorum = queue == "quorum";
        if quorum {
            arguments.set("x-queue-type", Value::long_str("quorum"));
            arguments.set("x-delivery-limit", Value::I32(i32::from(self.choices.octet() % 4)));
            if self.choices.chance(80) {
                let kind = self.choices.pick(&["all", "failed", "returned"]);
                arguments.set("x-delayed-retry-type", Value::long_str(kind));
                arguments.set("x-delayed-retry-min", Value::I32(i32::from(self.choices.octet() % 40)));
            }
        }
        let mut number = |choices: &mut Choices<'_>, key: &str, of: [i32; 3], chance: u8| {
            if choices.chance(chance) {
                arguments.set(key, Value::I32(choices.pick(&of)));
            }
        };
        number(&mut self.choices, "x-message-ttl", [0, 5, 60], 60);
        number(&mut self.choices, "x-max-length", [0, 2, 6], 60);
        number(&mut self.choices, "x-max-length-bytes", [0, 60, 400], 30);
        number(&mut self.choices, "x-expires", [1, 50, 400], 15);
        if !quorum {
            number(&mut self.choices, "x-max-priority", [0, 3, 255], 60);
        }
        if self.choices.chance(60) {
            let overflow = ["reject-publish", "drop-head"][self.choices.below(2)];
            arguments.set("x-overflow", Value::long_str(overflow));
        }
        if self.choices.chance(120) {
            arguments.set("x-dead-letter-exchange", Value::long_str(self.choices.pick(&EXCHANGES)));
            if self.choices.chance(128) {
                arguments.set("x-dead-letter-routing-key", Value::long_str(self.choices.pick(&QUEUES)));
            }
        }
        if self.choices.chance(30) {
            arguments.set("x-single-active-consumer", Value::Bool(true));
        }
        ChannelCommand::QueueDeclare(Box::new(QueueDeclare {
            queue,
            passive: self.choices.chance(20),
            durable: quorum || self.choices.chance(150),
            exclusive: !quorum && self.choices.chance(10),
            auto_delete: !quorum && self.choices.chance(10),
            nowait: self.choices.chance(60),
            arguments,
        }))
    }

    fn bind(&mut self) -> ChannelCommand {
        let mut arguments = FieldTable::default();
        if self.choices.chance(40) {
            arguments.set("h", Value::Bool(true));
        }
        let exchanges = self.choices.chance(40);
        let bind = Box::new(Bind {
            destination: if exchanges { self.choices.pick(&EXCHANGES).into() } else { self.queue() },
            source: self.choices.pick(&EXCHANGES).into(),
            routing_key: self.choices.pick(&KEYS).into(),
            nowait: false,
            arguments,
        });
        match (exchanges, self.choices.chance(40)) {
            (true, true) => ChannelCommand::ExchangeUnbind(bind),
            (true, false) => ChannelCommand::ExchangeBind(bind),
            (false, true) => ChannelCommand::QueueUnbind(bind),
            (false, false) => ChannelCommand::QueueBind(bind),
        }
    }

    fn exchange(&mut self) -> ChannelCommand {
        let exchange = ShortStr::new(self.choices.pick(&EXCHANGES));
        if self.choices.chance(60) {
            return ChannelCommand::ExchangeDelete { exchange, if_unused: self.choices.chance(128), nowait: false };
        }
        let kinds = ["direct", "fanout", "topic", "headers", "x-consistent-hash", "x-random", "no such type"];
        ChannelCommand::ExchangeDeclare(Box::new(ExchangeDeclare {
            exchange,
            kind: self.choices.pick(&kinds).into(),
            passive: self.choices.chance(20),
            durable: self.choices.chance(128),
            auto_delete: self.choices.chance(30),
            internal: self.choices.chance(10),
            nowait: self.choices.chance(60),
            arguments: FieldTable::default(),
        }))
    }

    /// Hears what everybody was told.
    fn listen(&mut self) {
        for n in 1..self.next_connection {
            let id = ConnectionId(n);
            for effect in self.broker.told(id) {
                self.effects += 1;
                let text = format!("{effect:?}");
                (n, &text).hash(&mut self.hasher);
                self.note(|| format!("{n} hears {text}"));
                match effect {
                    ConnectionEffect::Channel(1, ChannelEffect::Close(_)) if id == ADMIN => {
                        self.purging -= 1;
                        self.broker.run(ADMIN, vec![Command::Channel(1, ChannelCommand::Open)]);
                    }
                    ConnectionEffect::Close(error) => {
                        assert_eq!(error.scope(), Scope::Connection, "{error}");
                        if self.open.remove(&id).is_some() {
                            self.connect();
                        }
                    }
                    ConnectionEffect::Channel(number, effect) => self.hear(id, number, effect),
                    _ => {}
                }
            }
        }
    }

    fn hear(&mut self, id: ConnectionId, number: u16, effect: ChannelEffect) {
        match effect {
            ChannelEffect::Close(error) => {
                assert_eq!(error.scope(), Scope::Channel, "{error}");
                self.shut(id, number);
            }
            ChannelEffect::CloseOk => self.shut(id, number),
            ChannelEffect::Deliver(d) => {
                self.tags.insert((id, number), d.first_tag + u64::from(d.span.count) - 1);
                d.span.indexes().for_each(|i| {
                    message::id_of(&d.span.batch, i);
                });
            }
            ChannelEffect::GetOk { tag, span, .. } => {
                self.tags.insert((id, number), tag);
                assert_eq!(span.count, 1);
                message::id_of(&span.batch, span.from);
            }
            ChannelEffect::QueuePurgeOk { messages } => {
                self.purged += u64::from(messages);
                self.purging -= 1;
            }
            _ => {}
        }
    }

    /// What must hold between any two turns.
    fn check(&mut self) {
        let totals = self.broker.totals();
        let queues = self.broker.queues();
        let connections = self.broker.connections();
        let channels = || connections.iter().flat_map(|c| &c.channels);
        let sum = |of: fn(&hornpipe_types::stats::QueueStats) -> u64| queues.iter().map(of).sum::<u64>();
        assert_eq!(totals.messages_ready, sum(|q| q.messages_ready));
        assert_eq!(totals.messages_unacknowledged, sum(|q| q.messages_unacknowledged));
        assert_eq!(totals.queues, queues.len() as u64);
        assert_eq!(totals.connections, connections.len() as u64);
        assert_eq!(totals.channels, channels().count() as u64);
        assert_eq!(totals.consumers, channels().map(|c| c.consumers.len() as u64).sum::<u64>());
        assert_eq!(totals.consumers, sum(|q| u64::from(q.consumers)));
        let there: Vec<_> = connections.iter().map(|c| c.id).filter(|id| *id != ADMIN).collect();
        assert_eq!(there, self.open.keys().copied().collect::<Vec<_>>());
        let outstanding: u64 = channels().map(|c| c.messages_unacknowledged + c.acks_uncommitted).sum();
        if totals.queues_deleted == 0 {
            assert_eq!(totals.messages_unacknowledged, outstanding);
            let gone = |q: &hornpipe_types::stats::QueueStats| {
                let s = q.message_stats;
                s.publish - s.ack - s.deliver_no_ack - s.get_no_ack
            };
            let m = totals.message_stats;
            let died = m.dead_lettered_expired
                + m.dead_lettered_maxlen
                + m.dead_lettered_rejected
                + m.dead_lettered_delivery_limit;
            let held = totals.messages_ready + totals.messages_unacknowledged + sum(|q| q.messages_delayed);
            let died = died + queues.iter().map(|q| q.messages_dlx).sum::<u64>();
            let left = queues.iter().map(gone).sum::<u64>();
            if self.purging == 0 {
                assert_eq!(left, held + died + self.purged, "entered and not gone = there, died, purged");
            } else {
                assert!(left >= held + died + self.purged);
            }
        } else {
            // deliveries of a queue that is gone are still the channel's
            assert!(totals.messages_unacknowledged <= outstanding);
        }
        for q in &queues {
            assert!(q.messages_ram <= q.messages_ready, "{q:?}");
            assert!(q.messages_persistent <= q.messages_ready, "{q:?}");
            assert!(q.message_bytes_ram <= q.message_bytes_ready, "{q:?}");
            if q.messages_ready == 0 {
                assert_eq!((q.message_bytes_ready, q.message_bytes_ram), (0, 0), "{q:?}");
            }
            if q.messages_unacknowledged == 0 {
                assert_eq!(q.message_bytes_unacknowledged, 0, "{q:?}");
            }
        }
        // deliveries that wait for their acknowledgement may be on disk only
        let ready: u64 = queues.iter().map(|q| q.message_bytes_ram + q.message_bytes_delayed).sum();
        let unacked: u64 = queues.iter().map(|q| q.message_bytes_unacknowledged).sum();
        if totals.queues_deleted == 0 {
            // between two questions more may leave memory, never come back
            let (before, after) = (totals.resident_bytes, self.broker.totals().resident_bytes);
            assert!(
                ready <= before && after <= ready + unacked,
                "octets in memory: {before}, then {after}, of {ready} + {unacked}"
            );
        }
    }

    /// Everybody leaves, every queue is deleted: nothing must remain.
    fn drain(&mut self) {
        for id in std::mem::take(&mut self.open).into_keys().chain([ADMIN]) {
            self.broker.run(id, vec![Command::Gone]);
        }
        self.listen();
        self.open.clear();
        let totals = self.broker.totals();
        let held: u64 = self.broker.queues().iter().map(|q| q.message_bytes_ram + q.message_bytes_delayed).sum();
        assert_eq!((totals.connections, totals.channels, totals.consumers), (0, 0, 0));
        assert_eq!(totals.messages_unacknowledged, 0, "everybody is gone");
        // between two questions more may leave memory, never come back
        let (before, after) = (totals.resident_bytes, self.broker.totals().resident_bytes);
        assert!(after <= held && held <= before, "octets in memory: {before}, then {after}, of {held}");
        let id = ConnectionId(self.next_connection);
        self.broker.open(id, 1, true);
        for queue in self.broker.queues() {
            let delete =
                ChannelCommand::QueueDelete { queue: queue.name, if_unused: false, if_empty: false, nowait: false };
            self.broker.run(id, vec![Command::Channel(1, delete)]);
        }
        self.broker.run(id, vec![Command::Gone]);
        self.broker.commit_all();
        self.broker.advance(1000);
        self.broker.commit_all();
        let totals = self.broker.totals();
        assert_eq!((totals.queues, totals.messages_ready, totals.messages_unacknowledged), (0, 0, 0));
        assert_eq!((totals.resident_bytes, totals.pending_ops, totals.pending_bytes), (0, 0, 0), "all is drained");
        assert_eq!(self.broker.disk.live(), 0, "messages a restart would bring back");
        assert!(!self.broker.shard.has_work());
        assert_eq!(self.broker.shard.poll_timeout(), None, "a timer of something that is gone");
    }
}
