//! A shard over the real store, driven by hand: what clients say, what they are told, and restarts between.

use hornpipe_core::{Bootstrap, CoreConfig, Shard};
use hornpipe_store::{Medium, Memory, Store, StoreConfig};
use hornpipe_types::command::{
    Bind, ChannelCommand, Command, Consume, ExchangeDeclare, OpenConnection, PublishRun, QueueDeclare, Settle,
};
use hornpipe_types::definition::UserDefinition;
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect, Load, Loaded, Outbox};
use hornpipe_types::header::{Properties, scan};
use hornpipe_types::ids::{ConnectionId, RequestId};
use hornpipe_types::limits::Limits;
use hornpipe_types::message::{BatchBuilder, MessageMeta, Span};
use hornpipe_types::operate::Operation;
use hornpipe_types::table::{FieldTable, Value};
use hornpipe_types::time::{Now, UnixMillis};

/// The one connection; it is opened anew after each restart, with these channels.
pub(crate) const PEER: ConnectionId = ConnectionId(1);
pub(crate) const CHANNELS: u16 = 3;

pub(crate) struct Rig {
    pub(crate) limits: Limits,
    pub(crate) config: StoreConfig,
    pub(crate) now: Now,
    shard: Shard,
    store: Option<Store>,
    medium: Memory,
    told: Vec<ConnectionEffect>,
    /// Reads not done yet.
    loads: Vec<Load>,
    seed: u64,
}

/// A delivered message as tests look at it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Got {
    pub(crate) tag: u64,
    pub(crate) body: String,
    pub(crate) redelivered: bool,
    pub(crate) headers: FieldTable,
}

impl Got {
    pub(crate) fn int(&self, header: &str) -> Option<i64> {
        self.headers.get(header).and_then(Value::as_int)
    }
}

pub(crate) fn table(entries: &[(&str, Value)]) -> FieldTable {
    let mut t = FieldTable::default();
    for (key, value) in entries {
        t.set(key, value.clone());
    }
    t
}

pub(crate) fn text(s: &str) -> Value {
    Value::long_str(s)
}

pub(crate) fn persistent() -> Properties {
    Properties { delivery_mode: Some(2), ..Properties::default() }
}

fn got(first_tag: u64, redelivered: bool, span: &Span) -> Vec<Got> {
    let one = |(k, i): (usize, u32)| Got {
        tag: first_tag + k as u64,
        body: String::from_utf8(span.batch.body(i).flatten().copied().collect()).unwrap(),
        redelivered,
        headers: Properties::decode(span.batch.header(i)).unwrap().headers.unwrap_or_default(),
    };
    span.indexes().enumerate().map(one).collect()
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }
    pub(crate) fn with(limits: Limits) -> Self {
        let now = Now { wall: UnixMillis(1_700_000_000_000), ..Now::default() };
        let mut rig = Self {
            shard: Shard::new(CoreConfig { limits: limits.clone(), seed: 0, number: 0 }),
            limits,
            config: StoreConfig::default(),
            now,
            store: None,
            medium: Memory::default(),
            told: Vec::new(),
            loads: Vec::new(),
            seed: 0,
        };
        rig.start_well();
        rig
    }
    /// With all messages in body files.
    pub(crate) fn with_bodies_apart() -> Self {
        let mut rig = Self::new();
        rig.config.inline_bytes_max = 1;
        rig.restart();
        rig
    }

    fn start_well(&mut self) {
        assert_eq!(self.start(), Vec::<String>::new());
    }

    /// Returns what an operator is told.
    fn start(&mut self) -> Vec<String> {
        // another seed each time: nothing that must outlive a restart may hang on it
        self.seed += 1;
        self.shard = Shard::new(CoreConfig { limits: self.limits.clone(), seed: self.seed, number: 0 });
        let mut store = Store::with_medium(Box::new(self.medium.clone()), self.config.clone());
        store.recover(&mut |item| self.shard.handle_recovered(item)).unwrap();
        self.store = Some(store);
        let user = UserDefinition { name: "guest".into(), ..UserDefinition::default() };
        let remarks = self.shard.finish_recovery(self.now, &Bootstrap { vhost: "/".into(), user });
        self.told.clear();
        self.loads.clear();
        self.connect();
        remarks
    }

    fn connect(&mut self) {
        let open = OpenConnection::without_socket("peer", "guest", "/");
        let mut commands = vec![Command::Open(Box::new(open))];
        commands.extend((1..=CHANNELS).map(|n| Command::Channel(n, ChannelCommand::Open)));
        self.shard.handle_commands(self.now, PEER, &mut commands);
        self.settle_down();
        self.told.clear();
    }

    /// The connection's socket is gone, at once and whatever is under way; the client comes back when all is done.
    pub(crate) fn reconnect(&mut self) {
        self.shard.handle_commands(self.now, PEER, &mut vec![Command::Gone]);
        self.settle_down();
        self.connect();
    }

    /// The process dies; what was synced stays, and perhaps some of what was not.
    pub(crate) fn crash(&mut self) {
        self.store = None;
        self.medium = self.medium.after_crash(0);
        self.start_well();
    }

    /// A stop in order and a new start.
    pub(crate) fn restart(&mut self) {
        assert_eq!(self.restart_with(false, |_| {}), Vec::<String>::new());
    }

    /// The same with something done to the medium between, and perhaps with leave to lose data; what an operator is told.
    pub(crate) fn restart_with(&mut self, accept_data_loss: bool, between: impl FnOnce(&mut Memory)) -> Vec<String> {
        self.shard.handle_shutdown(self.now, "shutdown");
        self.settle_down();
        self.store.take().unwrap().close().unwrap();
        self.medium = self.medium.after_crash(0);
        between(&mut self.medium);
        self.config.accept_data_loss = accept_data_loss;
        self.start()
    }

    /// Everything the shard wants done is done, however often it asks; nothing is left for the disk.
    pub(crate) fn settle_down(&mut self) {
        let mut out = Outbox::default();
        for round in 0.. {
            assert!(round < 10_000, "it never settles down");
            self.shard.poll_effects(self.now, &mut out);
            let mut more = self.shard.has_work();
            for (id, effects) in std::mem::take(&mut out.connections) {
                assert_eq!(id, PEER);
                self.told.extend(effects);
            }
            let store = self.store.as_mut().unwrap();
            self.loads.append(&mut out.loads);
            for load in std::mem::take(&mut self.loads) {
                let batch = load.read_with(|place| store.reader().read(place)).map_err(|e| e.to_string());
                self.shard.handle_loaded(self.now, Loaded { id: load.id, batch });
                more = true;
            }
            more |= self.write();
            if !more {
                return;
            }
        }
    }

    /// A turn of the owner and what the disk does with it: a slice of work, a group. Nothing is read back.
    pub(crate) fn turn(&mut self) {
        let mut out = Outbox::default();
        self.shard.poll_effects(self.now, &mut out);
        self.loads.append(&mut out.loads);
        self.told.extend(out.connections.into_iter().flat_map(|(_, effects)| effects));
        self.write();
    }

    /// Writes a group and makes it durable, if there is one.
    fn write(&mut self) -> bool {
        // settlements wait for company: here they have waited long enough
        let later = Now { mono: self.now.mono.plus_ms(60_000), ..self.now };
        let Some(group) = self.shard.poll_group(later) else { return false };
        let store = self.store.as_mut().unwrap();
        store.commit(&group).unwrap();
        for committed in store.sync().unwrap() {
            self.shard.handle_committed(self.now, committed);
        }
        true
    }
    /// Memory is short for a moment: bodies that can be read back leave it.
    pub(crate) fn shortage(&mut self) {
        for short in [true, false] {
            self.shard.handle_alarms(self.now, short, false);
        }
    }
    /// A change of the admin side's.
    pub(crate) fn operate(&mut self, operation: Operation) {
        self.shard.handle_operation(self.now, RequestId(1), &"guest".into(), operation);
        self.settle_down();
    }
    /// One read is done.
    pub(crate) fn read_one(&mut self) {
        if self.loads.is_empty() {
            return;
        }
        let load = self.loads.remove(0);
        let store = self.store.as_ref().unwrap();
        let batch = load.read_with(|place| store.reader().read(place)).map_err(|e| e.to_string());
        self.shard.handle_loaded(self.now, Loaded { id: load.id, batch });
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.advance_only(ms);
        self.settle_down();
    }
    /// The same, and the disk does nothing yet.
    pub(crate) fn advance_only(&mut self, ms: u64) {
        self.now.mono = self.now.mono.plus_ms(ms);
        self.now.wall.0 += ms;
        self.shard.handle_timeout(self.now);
    }
    /// Octets of the log.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.medium.map_bytes()
    }
    /// Records in the log.
    pub(crate) fn records(&self) -> usize {
        self.medium.keys().iter().filter(|k| k.first() == Some(&1)).count()
    }

    /// Says something on a channel; what was told in answer waits for [`Self::told`].
    pub(crate) fn say(&mut self, channel: u16, command: ChannelCommand) {
        self.say_only(channel, command);
        self.settle_down();
    }
    /// The same, and the disk does nothing yet.
    pub(crate) fn say_only(&mut self, channel: u16, command: ChannelCommand) {
        self.shard.handle_commands(self.now, PEER, &mut vec![Command::Channel(channel, command)]);
        let mut out = Outbox::default();
        self.shard.poll_effects(self.now, &mut out);
        self.loads.append(&mut out.loads);
        self.told.extend(out.connections.into_iter().flat_map(|(_, effects)| effects));
    }

    /// What channels were told since last asked.
    pub(crate) fn told(&mut self) -> Vec<(u16, ChannelEffect)> {
        let of_channel = |e| match e {
            ConnectionEffect::Channel(n, effect) => Some((n, effect)),
            _ => None,
        };
        std::mem::take(&mut self.told).into_iter().filter_map(of_channel).collect()
    }

    pub(crate) fn declare(&mut self, queue: &str, durable: bool, arguments: &[(&str, Value)]) {
        self.say(
            1,
            ChannelCommand::QueueDeclare(Box::new(QueueDeclare {
                queue: queue.into(),
                passive: false,
                durable,
                exclusive: false,
                auto_delete: false,
                nowait: false,
                arguments: table(arguments),
            })),
        );
        let told = self.told();
        assert!(matches!(told.last(), Some((1, ChannelEffect::QueueDeclareOk { .. }))), "{told:?}");
    }

    pub(crate) fn exchange(&mut self, name: &str, kind: &str, arguments: &[(&str, Value)]) {
        self.say(
            1,
            ChannelCommand::ExchangeDeclare(Box::new(ExchangeDeclare {
                exchange: name.into(),
                kind: kind.into(),
                passive: false,
                durable: true,
                auto_delete: false,
                internal: false,
                nowait: false,
                arguments: table(arguments),
            })),
        );
        let told = self.told();
        assert!(matches!(told.last(), Some((1, ChannelEffect::ExchangeDeclareOk))), "{told:?}");
    }

    pub(crate) fn bind(&mut self, queue: &str, exchange: &str, key: &str) {
        self.say(
            1,
            ChannelCommand::QueueBind(Box::new(Bind {
                destination: queue.into(),
                source: exchange.into(),
                routing_key: key.into(),
                nowait: false,
                arguments: FieldTable::default(),
            })),
        );
        let told = self.told();
        assert!(matches!(told.last(), Some((1, ChannelEffect::QueueBindOk))), "{told:?}");
    }

    /// Publishes messages with these bodies in one run on channel 1.
    pub(crate) fn publish(&mut self, exchange: &str, key: &str, properties: &Properties, bodies: &[&str]) {
        self.publish_on(1, exchange, key, properties, bodies);
    }
    pub(crate) fn publish_on(&mut self, channel: u16, exchange: &str, key: &str, p: &Properties, bodies: &[&str]) {
        let mut b = BatchBuilder::default();
        let route = b.push_route(exchange, key);
        for body in bodies {
            let header = p.encode(body.len() as u64);
            let meta = scan(&header).unwrap();
            b.push_message(&header, [body.as_bytes()], MessageMeta { route, ..meta }, 0);
        }
        let count = b.len();
        let run = PublishRun { batch: b.finish(), from: 0, count, mandatory: false };
        self.say(channel, ChannelCommand::Publish(run));
    }

    /// Starts a consumer that acknowledges, with a priority.
    pub(crate) fn consume(&mut self, channel: u16, queue: &str, tag: &str, priority: i32) {
        let consume = Consume {
            queue: queue.into(),
            consumer_tag: tag.into(),
            no_ack: false,
            exclusive: false,
            nowait: true,
            arguments: table(&[("x-priority", Value::I32(priority))]),
        };
        self.say(channel, ChannelCommand::Consume(Box::new(consume)));
    }

    /// Deliveries since last asked, with the tags of their consumers.
    pub(crate) fn delivered(&mut self) -> Vec<(String, Got)> {
        let told = self.told();
        let deliveries = told.iter().filter_map(|(_, e)| match e {
            ChannelEffect::Deliver(d) => Some((d.consumer_tag.to_string(), got(d.first_tag, d.redelivered, &d.span))),
            _ => None,
        });
        deliveries.flat_map(|(tag, all)| all.into_iter().map(move |g| (tag.clone(), g))).collect()
    }

    /// How often it was started after the first time.
    pub(crate) fn restarts(&self) -> u64 {
        self.seed - 1
    }

    /// One basic.get.
    pub(crate) fn get(&mut self, channel: u16, queue: &str, no_ack: bool) -> Option<Got> {
        self.told();
        self.say(channel, ChannelCommand::Get { queue: queue.into(), no_ack });
        match self.told().pop() {
            Some((n, ChannelEffect::GetOk { tag, redelivered, span, .. })) if n == channel => {
                got(tag, redelivered, &span).pop()
            }
            Some((n, ChannelEffect::GetEmpty)) if n == channel => None,
            other => panic!("{other:?}"),
        }
    }

    /// Takes all that is ready; the bodies.
    pub(crate) fn drain(&mut self, queue: &str) -> Vec<String> {
        std::iter::from_fn(|| self.get(CHANNELS, queue, true)).map(|g| g.body).collect()
    }

    pub(crate) fn settle(&mut self, channel: u16, how: Settle, tag: u64) {
        self.say(channel, ChannelCommand::Settle { how, tag, count: 1, multiple: false });
    }
}
