//! Peers: what each role says next, straight as commands. What it says is told the oracle in the same breath.

use crate::oracle::{Consumer, Oracle, Publish, make_tag};
use crate::workload::{Choose, ConsumerPlan, DEAD, FANOUT, KEYS, LATE, Mode, Plan, Role, TOPIC, USER, VHOST};
use hornpipe_core::rng::Rng;
use hornpipe_types::command::{
    Bind, ChannelCommand, Command, Consume, ExchangeDeclare, OpenConnection, PublishRun, Publishes, QueueDeclare,
    RunHead, Settle,
};
use hornpipe_types::header::{Properties, scan};
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::message::BatchBuilder;
use hornpipe_types::names::ShortStr;
use hornpipe_types::table::{FieldTable, Value};

/// The channel all peers use.
const CHANNEL: u16 = 1;

/// A peer.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) role: Role,
    pub(crate) connection: Option<ConnectionId>,
    /// A turn of its own is due.
    pub(crate) scheduled: bool,
    /// It rejected all it had, and its queue is to be deleted in the same turn.
    pub(crate) quits: Option<usize>,
    tags: u64,
}

fn on(command: ChannelCommand) -> Command {
    Command::Channel(CHANNEL, command)
}

fn opens(connection: ConnectionId, oracle: &mut Oracle) -> Vec<Command> {
    oracle.channel_opened((connection, CHANNEL));
    let open = OpenConnection::without_socket(&format!("peer {connection}"), USER, VHOST);
    vec![Command::Open(Box::new(open)), on(ChannelCommand::Open)]
}

fn declare(plan: &Plan, queue: usize) -> ChannelCommand {
    let q = &plan.queues[queue];
    ChannelCommand::QueueDeclare(Box::new(QueueDeclare {
        queue: ShortStr::new(&q.name),
        passive: false,
        durable: q.durable,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: q.arguments(&plan.queues),
    }))
}

fn bind(plan: &Plan, exchange: &str, key: &str, queue: usize) -> ChannelCommand {
    ChannelCommand::QueueBind(Box::new(Bind {
        destination: ShortStr::new(&plan.queues[queue].name),
        source: exchange.into(),
        routing_key: key.into(),
        nowait: false,
        arguments: FieldTable::default(),
    }))
}

/// Everything that is to exist, on a connection of its own.
pub(crate) fn set_up(connection: ConnectionId, plan: &Plan, oracle: &mut Oracle) -> Vec<Command> {
    let mut commands = opens(connection, oracle);
    let at = (connection, CHANNEL);
    let late = (plan.delayed > 0).then_some((LATE, "x-delayed-message"));
    for (exchange, kind) in [(FANOUT, "fanout"), (TOPIC, "topic"), (DEAD, "direct")].into_iter().chain(late) {
        let mut arguments = FieldTable::default();
        if exchange == LATE {
            arguments.set("x-delayed-type", Value::long_str("direct"));
        }
        commands.push(on(ChannelCommand::ExchangeDeclare(Box::new(ExchangeDeclare {
            exchange: exchange.into(),
            kind: kind.into(),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments,
        }))));
        oracle.awaits(at, "exchange-declare");
    }
    for q in 0..plan.queues.len() {
        make_queue(at, plan, q, &mut commands, oracle);
    }
    commands
}

/// Declares a queue and binds it.
fn make_queue(at: (ConnectionId, u16), plan: &Plan, q: usize, commands: &mut Vec<Command>, oracle: &mut Oracle) {
    commands.push(on(declare(plan, q)));
    oracle.awaits(at, "declare");
    let own = [Some(DEAD), (plan.delayed > 0).then_some(LATE)];
    let own = own.into_iter().flatten().map(|exchange| (exchange, plan.queues[q].name.as_str()));
    let planned = plan.bindings.iter().filter(|b| b.2 == q).map(|(exchange, key, _)| (*exchange, *key));
    for (exchange, key) in own.chain(planned) {
        commands.push(on(bind(plan, exchange, key, q)));
        oracle.awaits(at, "bind");
    }
}

impl Client {
    pub(crate) fn new(role: Role) -> Self {
        Self { role, connection: None, scheduled: false, quits: None, tags: 0 }
    }

    /// Where its channel is, if it is open.
    pub(crate) fn at(&self) -> Option<(ConnectionId, u16)> {
        self.connection.map(|c| (c, CHANNEL))
    }

    /// Opens a connection with all that belongs to the role.
    pub(crate) fn connect(&mut self, connection: ConnectionId, oracle: &mut Oracle) -> Vec<Command> {
        self.connection = Some(connection);
        let mut commands = opens(connection, oracle);
        let at = (connection, CHANNEL);
        match self.role {
            Role::Publisher(mode) => select(at, mode, &mut commands, oracle),
            Role::Consumer(c) => {
                if c.tx {
                    select(at, Mode::Tx, &mut commands, oracle);
                }
                commands.push(on(ChannelCommand::Qos {
                    prefetch_size: 0,
                    prefetch_count: c.prefetch,
                    global: c.global,
                }));
                oracle.awaits(at, "qos");
                if !c.get {
                    self.consume(at, c, &mut commands, oracle);
                }
            }
            Role::Meddler => {}
        }
        commands
    }

    fn consume(&mut self, at: (ConnectionId, u16), c: ConsumerPlan, commands: &mut Vec<Command>, oracle: &mut Oracle) {
        self.tags += 1;
        let tag = make_tag(c.queue, c.no_ack, self.tags);
        let mut arguments = FieldTable::default();
        if c.priority != 0 {
            arguments.set("x-priority", Value::I64(c.priority));
        }
        commands.push(on(ChannelCommand::Consume(Box::new(Consume {
            queue: ShortStr::new(&oracle.plan.queues[c.queue].name),
            consumer_tag: ShortStr::new(&tag),
            no_ack: c.no_ack,
            exclusive: false,
            nowait: false,
            arguments,
        }))));
        let prefetch = if c.global { 0 } else { c.prefetch };
        let consumer = Consumer { queue: c.queue, prefetch, no_ack: c.no_ack, unacked: 0 };
        oracle.consumed(at, &tag, consumer, if c.global { c.prefetch } else { 0 });
    }

    /// What it says in its turn; nothing when it has nothing to say. `calm`: no new work, what is open is finished.
    pub(crate) fn act(&mut self, rng: &mut Rng, plan: &Plan, oracle: &mut Oracle, calm: bool) -> Vec<Command> {
        let Some(at) = self.at() else { return Vec::new() };
        match self.role {
            Role::Publisher(mode) => publisher(at, mode, rng, plan, oracle, calm),
            Role::Consumer(c) => self.consumer(at, c, rng, oracle, calm),
            Role::Meddler if !calm && oracle.channel(at).is_some_and(|c| c.replies.is_empty()) => {
                meddler(at, rng, plan, oracle)
            }
            Role::Meddler => Vec::new(),
        }
    }

    fn consumer(
        &mut self,
        at: (ConnectionId, u16),
        c: ConsumerPlan,
        rng: &mut Rng,
        oracle: &mut Oracle,
        calm: bool,
    ) -> Vec<Command> {
        let mut commands = Vec::new();
        let Some(channel) = oracle.channel(at) else { return commands };
        let (tags, idle) = (channel.settleable(), channel.consumers.is_empty());
        if c.get && !calm && channel.waiting_gets() < 3 {
            for _ in 0..rng.between(1, 3) {
                let queue = ShortStr::new(&oracle.plan.queues[c.queue].name);
                commands.push(on(ChannelCommand::Get { queue, no_ack: c.no_ack }));
                oracle.got(at, c.queue, c.no_ack);
            }
        } else if idle && !c.get && !calm {
            self.consume(at, c, &mut commands, oracle);
        } else if !calm && !c.plain && rng.chance(2) {
            let tag = oracle.channel(at).and_then(|ch| ch.consumers.keys().next().cloned());
            if let Some(tag) = tag {
                oracle.cancelled(at, &tag);
                commands.push(on(ChannelCommand::Cancel { consumer_tag: ShortStr::new(&tag), nowait: false }));
            }
        }
        // a get may wait for the disk: nobody asks for something else before its answer
        let waits = oracle.channel(at).is_some_and(|c| c.waiting_gets() > 0);
        let awaits = oracle.recovered == oracle.turn || oracle.channel(at).is_some_and(|c| !c.replies.is_empty());
        let recovering = !calm && !c.plain && !awaits && rng.chance(2);
        if recovering {
            commands.push(on(ChannelCommand::Recover { requeue: true, nowait: false }));
            oracle.recovers(at);
        } else if !tags.is_empty() && !calm && !waits && !awaits && quits(c, rng, &oracle.plan) {
            let how = Settle::Nack { requeue: false };
            let last = tags.last().copied().unwrap_or_default();
            commands.push(on(ChannelCommand::Settle { how, tag: last, count: 1, multiple: true }));
            oracle.settled(at, how, tags);
            self.quits = Some(c.queue);
        } else if !tags.is_empty() {
            settle(at, c, rng, tags, calm, &mut commands, oracle);
        }
        if c.tx && !waits && !recovering && oracle.channel(at).is_some_and(|c| c.in_tx()) && (calm || rng.chance(50)) {
            end_tx(at, calm || rng.chance(75), &mut commands, oracle);
        }
        commands
    }
}

fn select(at: (ConnectionId, u16), mode: Mode, commands: &mut Vec<Command>, oracle: &mut Oracle) {
    match mode {
        Mode::Plain => {}
        Mode::Confirm => {
            commands.push(on(ChannelCommand::ConfirmSelect { nowait: false }));
            oracle.confirm_selected(at);
        }
        Mode::Tx => {
            commands.push(on(ChannelCommand::TxSelect));
            oracle.tx_selected(at);
        }
    }
}

fn end_tx(at: (ConnectionId, u16), commit: bool, commands: &mut Vec<Command>, oracle: &mut Oracle) {
    oracle.tx_ended(at, commit);
    commands.push(on(if commit { ChannelCommand::TxCommit } else { ChannelCommand::TxRollback }));
}

fn settle(
    at: (ConnectionId, u16),
    c: ConsumerPlan,
    rng: &mut Rng,
    mut tags: Vec<u64>,
    calm: bool,
    commands: &mut Vec<Command>,
    oracle: &mut Oracle,
) {
    for _ in 0..rng.between(1, 3) {
        if tags.is_empty() {
            return;
        }
        let how = match rng.below(100) {
            _ if calm || c.plain => Settle::Ack,
            0..70 => Settle::Ack,
            70..80 => Settle::Nack { requeue: true },
            80..85 => Settle::Reject { requeue: true },
            85..93 => Settle::Nack { requeue: false },
            _ => Settle::Reject { requeue: false },
        };
        let multiple = !matches!(how, Settle::Reject { .. }) && rng.chance(40);
        let k = if calm { tags.len() - 1 } else { rng.below(tags.len() as u64) as usize };
        if multiple || calm {
            let taken: Vec<u64> = tags.drain(..=k).collect();
            commands.push(on(ChannelCommand::Settle { how, tag: taken[k], count: 1, multiple: true }));
            oracle.settled(at, how, taken);
            continue;
        }
        // as many consecutive tags as lie there, as the connection machine joins them
        let run = (1..=rng.below(5) as usize).take_while(|i| tags.get(k + i) == Some(&(tags[k] + *i as u64))).count();
        let taken: Vec<u64> = tags.drain(k..=k + run).collect();
        let count = taken.len() as u32;
        commands.push(on(ChannelCommand::Settle { how, tag: taken[0], count, multiple: false }));
        oracle.settled(at, how, taken);
    }
}

fn publisher(
    at: (ConnectionId, u16),
    mode: Mode,
    rng: &mut Rng,
    plan: &Plan,
    oracle: &mut Oracle,
    calm: bool,
) -> Vec<Command> {
    let mut commands = Vec::new();
    let Some(channel) = oracle.channel(at) else { return commands };
    // a commit may end the channel, and what is said before that is known goes nowhere
    if mode == Mode::Tx && !channel.replies.is_empty() {
        return commands;
    }
    if !calm && channel.unconfirmed() < plan.window && oracle.messages.len() < 6000 {
        publish(at, rng, plan, oracle, &mut commands);
    }
    if mode == Mode::Tx && oracle.channel(at).is_some_and(|c| c.in_tx()) && (calm || rng.chance(50)) {
        end_tx(at, calm || rng.chance(75), &mut commands, oracle);
    }
    commands
}

/// A read's worth of publishes: runs that share a batch.
fn publish(at: (ConnectionId, u16), rng: &mut Rng, plan: &Plan, oracle: &mut Oracle, commands: &mut Vec<Command>) {
    let mut builder = BatchBuilder::default();
    let mut runs = Vec::new();
    for _ in 0..rng.between(1, 3) {
        let queue = plan.queues[rng.below(plan.queues.len() as u64) as usize].name.as_str();
        let (exchange, key) = match rng.below(10) {
            _ if plan.delayed > 0 && rng.chance(plan.delayed) => (LATE, queue),
            0..6 => ("", queue),
            6 | 7 => (FANOUT, "any"),
            8 => (TOPIC, rng.pick(&KEYS)),
            _ if rng.chance(20) => ("", "nowhere"),
            _ => (TOPIC, rng.pick(&KEYS)),
        };
        let (from, count, mandatory) = (builder.len(), rng.between(1, 6) as u32, rng.chance(30));
        let route = builder.push_route(exchange, key);
        for _ in 0..count {
            let expiration = rng.chance(plan.expiration).then(|| rng.pick(&[0, 1, 30, 2000]));
            let publish = Publish {
                targets: plan.route(exchange, key),
                mandatory,
                persistent: rng.chance(plan.persistent),
                priority: rng.below(5) as u8,
                expiration,
                delay: (exchange == LATE && rng.chance(90)).then(|| rng.pick(&[1, 5, 60, 500, 5000])),
            };
            let properties = Properties {
                delivery_mode: Some(if publish.persistent { 2 } else { 1 }),
                priority: Some(publish.priority),
                expiration: expiration.map(|ms| ms.to_string().into()),
                headers: publish.delay.map(|ms| FieldTable(vec![("x-delay".into(), Value::I64(ms as i64))])),
                ..Properties::default()
            };
            let size = if rng.chance(plan.big) { 5000 } else { rng.below(120) };
            let number = oracle.published(at, publish);
            let mut body = (number as u64).to_be_bytes().to_vec();
            body.resize(8 + size as usize, number as u8);
            let header = properties.encode(body.len() as u64);
            let meta = scan(&header).unwrap_or_default();
            builder.push_message(&header, [&body[..]], hornpipe_types::message::MessageMeta { route, ..meta }, 4096);
        }
        runs.push((from, count, mandatory));
    }
    let batch = builder.finish();
    match runs[..] {
        [(from, count, mandatory)] => {
            commands.push(on(ChannelCommand::Publish(PublishRun { batch, from, count, mandatory })));
        }
        _ => {
            let head = |&(from, count, mandatory): &_| RunHead { channel: CHANNEL, mandatory, from, count };
            commands.push(Command::Publishes(Publishes { batch, runs: runs.iter().map(head).collect() }));
        }
    }
}

fn meddler(at: (ConnectionId, u16), rng: &mut Rng, plan: &Plan, oracle: &mut Oracle) -> Vec<Command> {
    let mut commands = Vec::new();
    if !rng.chance(15) {
        return commands;
    }
    let q = rng.below(plan.queues.len() as u64) as usize;
    let queue = ShortStr::new(&plan.queues[q].name);
    if !plan.queues[q].replaceable {
        oracle.swept(at, q, false);
        return vec![on(ChannelCommand::QueuePurge { queue, nowait: false })];
    }
    delete_queue(at, plan, q, &mut commands, oracle);
    commands
}

/// Deletes a queue and makes it again.
pub(crate) fn delete_queue(
    at: (ConnectionId, u16),
    plan: &Plan,
    q: usize,
    commands: &mut Vec<Command>,
    oracle: &mut Oracle,
) {
    oracle.swept(at, q, true);
    let queue = ShortStr::new(&plan.queues[q].name);
    commands.push(on(ChannelCommand::QueueDelete { queue, if_unused: false, if_empty: false, nowait: false }));
    make_queue(at, plan, q, commands, oracle);
}

/// Whether a consumer rejects all, and its queue is deleted.
fn quits(c: ConsumerPlan, rng: &mut Rng, plan: &Plan) -> bool {
    plan.quits > 0 && !c.tx && !c.no_ack && plan.queues[c.queue].replaceable && rng.chance(plan.quits)
}
