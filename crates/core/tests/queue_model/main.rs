//! Two queues of the real core against plain lists: who gets what in which order, what expires, what is dropped, what moves
//! on, what is counted, what is confirmed when, and what a restart would bring back.

#![allow(clippy::unwrap_used)]

mod model;

use hornpipe_testkit::{Broker, message};
use hornpipe_types::command::{Bind, ChannelCommand, Command, Consume, PublishRun, QueueDeclare, Settle};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::limits::Limits;
use hornpipe_types::message::{Batch, BatchBuilder};
use hornpipe_types::table::{FieldTable, Value};
use model::{End, Heard, Message, Model, Plan, Seen};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 2] = ["first", "second"];
/// Publishes on channel 1, consumes and gets on the others.
const CLIENT: ConnectionId = ConnectionId(1);
/// Declares and purges: its replies may wait for the disk.
const ADMIN: ConnectionId = ConnectionId(2);
const CHANNELS: usize = 3;
/// Never a whole number of tens, which is how time moves: no deadline falls on a moment. Zero is a case of its own.
const LIFETIMES: [Option<u64>; 5] = [None, Some(0), Some(5), Some(25), Some(95)];

#[derive(Debug, Clone)]
enum Op {
    /// Priority, lifetime, persistent, padding.
    Publish {
        both: bool,
        messages: Vec<(u8, usize, bool, usize)>,
    },
    Get {
        queue: usize,
        channel: usize,
        no_ack: bool,
    },
    Consume {
        queue: usize,
        channel: usize,
        prefetch: u16,
        no_ack: bool,
        priority: i8,
    },
    Cancel {
        which: usize,
    },
    Settle {
        channel: usize,
        which: usize,
        count: u32,
        how: u8,
        multiple: bool,
    },
    Recover {
        channel: usize,
    },
    Close {
        channel: usize,
    },
    Purge {
        queue: usize,
    },
    /// A limit for the channel's consumers together.
    GlobalQos {
        channel: usize,
        count: u16,
    },
    TxSelect {
        channel: usize,
    },
    TxEnd {
        channel: usize,
        commit: bool,
    },
    Advance {
        tens: u64,
    },
    TakeGroup,
    Commit,
    CommitAll,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let message = (0u8..6, prop_oneof![3 => Just(0usize), 1 => 1usize..5], any::<bool>(), 0usize..80);
    let channel = 0..CHANNELS;
    let op = prop_oneof![
        8 => (any::<bool>(), prop::collection::vec(message, 1..6)).prop_map(|(both, messages)| Op::Publish { both, messages }),
        5 => (0..2usize, channel.clone(), any::<bool>()).prop_map(|(queue, channel, no_ack)| Op::Get { queue, channel, no_ack }),
        // a channel's consumers are of one queue: nothing is promised on the order of two queues' deliveries
        3 => (channel.clone(), 0u16..4, prop::bool::weighted(0.2), -1i8..2).prop_map(|(channel, prefetch, no_ack, priority)| {
            Op::Consume { queue: channel / 2, channel, prefetch, no_ack, priority }
        }),
        1 => (0..9usize).prop_map(|which| Op::Cancel { which }),
        8 => (channel.clone(), 0..9usize, 1u32..4, 0u8..5, any::<bool>())
            .prop_map(|(channel, which, count, how, multiple)| Op::Settle { channel, which, count, how, multiple }),
        1 => channel.clone().prop_map(|channel| Op::Recover { channel }),
        1 => channel.clone().prop_map(|channel| Op::Close { channel }),
        1 => (channel.clone(), 0u16..4).prop_map(|(channel, count)| Op::GlobalQos { channel, count }),
        1 => channel.clone().prop_map(|channel| Op::TxSelect { channel }),
        2 => (channel, any::<bool>()).prop_map(|(channel, commit)| Op::TxEnd { channel, commit }),
        1 => (0..2usize).prop_map(|queue| Op::Purge { queue }),
        4 => prop_oneof![Just(1u64), Just(3), Just(10)].prop_map(|tens| Op::Advance { tens }),
        3 => Just(Op::TakeGroup),
        3 => Just(Op::Commit),
        2 => Just(Op::CommitAll),
    ];
    prop::collection::vec(op, 1..90)
}

prop_compose! {
    fn plan(paged: bool)(
        durable in any::<bool>(),
        ttl in 0usize..9,
        max_length in prop::option::weighted(0.3, 0usize..6),
        max_bytes in prop::option::weighted(0.2, 0u64..200),
        (refuses, refused_die) in any::<(bool, bool)>(),
        quorum in prop::option::weighted(0.3, prop::option::of(0u32..3)),
        max_priority in prop::option::weighted(0.3, 1u8..5),
        single_active in prop::bool::weighted(0.2),
        dead_letters in any::<bool>(),
    ) -> Plan {
        // when heads must be read first, what is dropped meanwhile is nobody's promise: no limits then
        let (max_length, max_bytes) = if paged { (None, None) } else { (max_length, max_bytes) };
        let ttl = LIFETIMES.get(ttl).copied().flatten().filter(|ttl| *ttl > 0 || !paged);
        Plan {
            durable: durable || paged || quorum.is_some(),
            ttl,
            max_length,
            max_bytes,
            refuses,
            refused_die: refuses && refused_die && quorum.is_none(),
            quorum: quorum.is_some(),
            delivery_limit: quorum.flatten(),
            max_priority: max_priority.filter(|_| quorum.is_none()),
            single_active,
            dead_letters,
        }
    }
}

#[derive(Debug, Clone)]
struct Case {
    plans: [Plan; 2],
    limits: Limits,
    in_files: bool,
    ops: Vec<Op>,
}

fn case() -> impl Strategy<Value = Case> {
    any::<bool>().prop_flat_map(|paged| {
        let small = (prop_oneof![Just(0u64), Just(60)], prop_oneof![Just(512u64), Just(0), Just(3)]);
        (plan(paged), plan(paged), small, any::<bool>(), any::<bool>(), ops()).prop_map(
            move |(a, b, (keep, slack), at_once, in_files, mut ops)| {
                if paged {
                    // a lifetime of zero may end while a head is read
                    for op in &mut ops {
                        if let Op::Publish { messages, .. } = op {
                            messages.iter_mut().filter(|m| m.1 == 1).for_each(|m| m.1 = 2);
                        }
                    }
                }
                let limits = Limits {
                    resident_bytes: if paged { 0 } else { 64 << 20 },
                    resident_bytes_per_queue: keep,
                    log_records_slack: slack,
                    // what is being written again can't be read until it is on disk: the lists don't wait
                    short_runs: if paged || slack == 512 { 1024 } else { slack + 2 },
                    settle_delay_ms: if at_once { 0 } else { 50 },
                    unsent_bytes: 1 << 40,
                    ..Limits::default()
                };
                let mut plans = [a, b];
                for q in 0..2 {
                    // of what dies and arrives at the same moment either may be first: where the dead go nothing is refused
                    // and nothing overtakes
                    if plans[1 - q].dead_letters {
                        plans[q].max_priority = None;
                        (plans[q].quorum, plans[q].delivery_limit) = (false, None);
                        if plans[q].refuses {
                            (plans[q].max_length, plans[q].max_bytes) = (None, None);
                        }
                    }
                }
                Case { plans, limits, in_files, ops }
            },
        )
    })
}

struct World {
    broker: Broker,
    model: Model,
    at_once: bool,
    paged: bool,
    next_id: u64,
    next_consumer: usize,
    consumers: Vec<String>,
    /// Publish tag by message, and those that were answered: by tag, whether with an ack.
    tags: BTreeMap<u64, u64>,
    refused: BTreeSet<u64>,
    answered: BTreeMap<u64, bool>,
    purged: Vec<u64>,
}

fn on(channel: usize, command: ChannelCommand) -> Vec<Command> {
    vec![Command::Channel(channel as u16 + 2, command)]
}

fn arguments(plan: &Plan, q: usize) -> FieldTable {
    let mut t = FieldTable::default();
    let mut number = |key: &str, value: Option<u64>| {
        if let Some(value) = value {
            t.set(key, Value::I64(value as i64));
        }
    };
    number("x-message-ttl", plan.ttl);
    number("x-max-length", plan.max_length.map(|n| n as u64));
    number("x-max-length-bytes", plan.max_bytes);
    number("x-max-priority", plan.max_priority.map(u64::from));
    if plan.refuses {
        let how = if plan.refused_die { "reject-publish-dlx" } else { "reject-publish" };
        t.set("x-overflow", Value::long_str(how));
    }
    if plan.quorum {
        t.set("x-queue-type", Value::long_str("quorum"));
        t.set("x-delivery-limit", Value::I32(plan.delivery_limit.map_or(-1, |n| n as i32)));
    }
    if plan.single_active {
        t.set("x-single-active-consumer", Value::Bool(true));
    }
    if plan.dead_letters {
        t.set("x-dead-letter-exchange", Value::long_str(""));
        t.set("x-dead-letter-routing-key", Value::long_str(NAMES[1 - q]));
    }
    t
}

/// The history in a message's headers.
fn deaths(batch: &Batch, i: u32) -> Vec<(usize, &'static str, i64)> {
    let headers = message::properties(batch, i).headers.unwrap_or_default();
    let Some(Value::Array(entries)) = headers.get("x-death") else { return Vec::new() };
    let entry = |v: &Value| {
        let Value::Table(t) = v else { panic!("{v:?}") };
        let text = |key| t.get(key).and_then(Value::as_str).unwrap_or_default();
        let reason = ["expired", "maxlen", "rejected", "delivery_limit"].into_iter().find(|r| *r == text("reason"));
        (
            NAMES.iter().position(|n| *n == text("queue")).unwrap(),
            reason.unwrap(),
            t.get("count").and_then(Value::as_int).unwrap(),
        )
    };
    entries.iter().map(entry).collect()
}

/// A message as a client sees it.
fn seen(batch: &Batch, i: u32) -> Seen {
    let headers = message::properties(batch, i).headers.unwrap_or_default();
    let count = |key| headers.get(key).and_then(Value::as_int).unwrap_or(0) as u32;
    Seen {
        id: message::id_of(batch, i),
        deaths: deaths(batch, i),
        counts: (count("x-delivery-count"), count("x-acquired-count")),
    }
}

impl World {
    fn new(case: &Case) -> Self {
        let mut broker = Broker::new(case.limits.clone(), 1);
        broker.disk.in_files = case.in_files;
        broker.open(CLIENT, 1 + CHANNELS as u16, true);
        broker.open(ADMIN, 1, true);
        let mut commands = vec![];
        for (q, plan) in case.plans.iter().enumerate() {
            commands.push(ChannelCommand::QueueDeclare(Box::new(QueueDeclare {
                queue: NAMES[q].into(),
                passive: false,
                durable: plan.durable,
                exclusive: false,
                auto_delete: false,
                nowait: false,
                arguments: arguments(plan, q),
            })));
            commands.push(ChannelCommand::QueueBind(Box::new(Bind {
                destination: NAMES[q].into(),
                source: "amq.fanout".into(),
                routing_key: "".into(),
                nowait: false,
                arguments: FieldTable::default(),
            })));
        }
        broker.run(ADMIN, commands.into_iter().map(|c| Command::Channel(1, c)).collect());
        broker.run(CLIENT, vec![Command::Channel(1, ChannelCommand::ConfirmSelect { nowait: true })]);
        broker.commit_all();
        let told = broker.told(ADMIN);
        let ok = |e: &ConnectionEffect| matches!(e, ConnectionEffect::Channel(_, ChannelEffect::QueueDeclareOk { .. }));
        assert_eq!(told.iter().filter(|e| ok(e)).count(), 2, "{told:?}");
        broker.told(CLIENT);
        let mut model = Model { now: broker.now.wall.0, ..Model::default() };
        model.channels.resize_with(CHANNELS, Default::default);
        for (q, plan) in case.plans.iter().enumerate() {
            model.queues[q].plan = plan.clone();
        }
        Self {
            broker,
            model,
            at_once: case.limits.settle_delay_ms == 0,
            paged: case.limits.resident_bytes == 0,
            next_id: 0,
            next_consumer: 0,
            consumers: Vec::new(),
            tags: BTreeMap::new(),
            refused: BTreeSet::new(),
            answered: BTreeMap::new(),
            purged: Vec::new(),
        }
    }

    fn publish(&mut self, both: bool, messages: &[(u8, usize, bool, usize)]) {
        let mut b = BatchBuilder::default();
        let route = if both { b.push_route("amq.fanout", "") } else { b.push_route("", NAMES[0]) };
        for (priority, lifetime, persistent, padding) in messages {
            self.next_id += 1;
            let id = self.next_id;
            let expiration = LIFETIMES[*lifetime];
            let properties = Properties {
                delivery_mode: Some(if *persistent { 2 } else { 1 }),
                priority: (*priority > 0).then_some(*priority),
                expiration: expiration.map(|ms| ms.to_string().into()),
                ..Properties::default()
            };
            message::push(&mut b, route, &properties, id, *padding);
            let bytes = (message::NAME + padding) as u64;
            let message = Message::new(id, bytes, *priority, *persistent, expiration);
            self.tags.insert(id, id);
            let targets: &[usize] = if both { &[0, 1] } else { &[0] };
            // a queue that refuses takes one message at a time
            let one_by_one = targets.iter().any(|q| {
                let plan = &self.model.queues[*q].plan;
                plan.refuses && (plan.max_length.is_some() || plan.max_bytes.is_some())
            });
            for q in targets {
                if !self.model.enter(*q, message.clone()) {
                    self.refused.insert(id);
                }
            }
            if one_by_one {
                targets.iter().for_each(|q| self.model.serve(*q));
            }
        }
        let count = b.len();
        let run = PublishRun { batch: b.finish(), from: 0, count, mandatory: false };
        self.broker.run(CLIENT, vec![Command::Channel(1, ChannelCommand::Publish(run))]);
        self.model.settle_down();
    }

    fn settle(&mut self, c: usize, which: usize, count: u32, how: u8, multiple: bool) {
        let tags: Vec<u64> = self.model.channels[c].outstanding.keys().copied().collect();
        if tags.is_empty() {
            return;
        }
        let k = which % tags.len();
        let tag = tags[k];
        let (how, end) = match how {
            0 | 1 => (Settle::Ack, End::Ack),
            2 => (Settle::Nack { requeue: true }, End::Back),
            3 => (Settle::Reject { requeue: true }, End::Failed),
            _ => (Settle::Nack { requeue: false }, End::Drop),
        };
        let consecutive = tags[k..].iter().enumerate().take_while(|(i, t)| **t == tag + *i as u64).count() as u32;
        let count = if multiple { 1 } else { count.min(consecutive) };
        let taken = if multiple { &tags[..=k] } else { &tags[k..k + count as usize] };
        self.model.end(c, taken, end);
        self.model.settle_down();
        self.broker.run(CLIENT, on(c, ChannelCommand::Settle { how, tag, count, multiple }));
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Publish { both, ref messages } => self.publish(both, messages),
            // not to be had
            Op::Get { queue, .. }
                if self.model.queues[queue].plan.quorum && self.model.queues[queue].plan.single_active => {}
            Op::Get { queue, channel, no_ack } => {
                self.model.get(queue, channel, no_ack);
                self.broker.run(CLIENT, on(channel, ChannelCommand::Get { queue: NAMES[queue].into(), no_ack }));
            }
            Op::Consume { queue, channel, prefetch, no_ack, priority } => {
                let name = format!("consumer {}", self.next_consumer);
                self.next_consumer += 1;
                let qos = ChannelCommand::Qos { prefetch_size: 0, prefetch_count: prefetch, global: false };
                let mut arguments = FieldTable::default();
                arguments.set("x-priority", Value::I8(priority));
                let consume = ChannelCommand::Consume(Box::new(Consume {
                    queue: NAMES[queue].into(),
                    consumer_tag: name.as_str().into(),
                    no_ack,
                    exclusive: false,
                    nowait: true,
                    arguments,
                }));
                // in two reads: what the first lets go may have to come from disk
                self.broker.run(CLIENT, on(channel, qos));
                self.model.lift_limit(channel);
                self.broker.run(CLIENT, on(channel, consume));
                self.model.consume(queue, &name, channel, prefetch.into(), no_ack, priority.into());
                self.consumers.push(name);
            }
            Op::Cancel { which } if !self.consumers.is_empty() => {
                let name = self.consumers.remove(which % self.consumers.len());
                // a cancel for a consumer of another channel is not for it: every channel is told
                for c in 0..CHANNELS {
                    let cancel = ChannelCommand::Cancel { consumer_tag: name.as_str().into(), nowait: true };
                    self.broker.run(CLIENT, on(c, cancel));
                }
                self.model.cancel(&name);
            }
            Op::Cancel { .. } => {}
            Op::Settle { channel, which, count, how, multiple } => self.settle(channel, which, count, how, multiple),
            Op::Recover { channel } => {
                self.model.recover(channel);
                self.broker.run(CLIENT, on(channel, ChannelCommand::Recover { requeue: true, nowait: true }));
            }
            Op::Close { channel } => {
                self.model.close(channel);
                let commands = [on(channel, ChannelCommand::Close), on(channel, ChannelCommand::Open)];
                self.broker.run(CLIENT, commands.into_iter().flatten().collect());
            }
            // refused to consumers of quorum queues
            Op::GlobalQos { channel, .. } if self.model.queues[channel / 2].plan.quorum => {}
            Op::GlobalQos { channel, count } => {
                self.model.limit_channel(channel, count.into());
                let qos = ChannelCommand::Qos { prefetch_size: 0, prefetch_count: count, global: true };
                self.broker.run(CLIENT, on(channel, qos));
            }
            Op::TxSelect { channel } => {
                self.model.tx_select(channel);
                self.broker.run(CLIENT, on(channel, ChannelCommand::TxSelect));
            }
            Op::TxEnd { channel, commit } if self.model.is_tx(channel) => {
                self.model.tx_end(channel, commit);
                self.model.settle_down();
                let end = if commit { ChannelCommand::TxCommit } else { ChannelCommand::TxRollback };
                self.broker.run(CLIENT, on(channel, end));
                // later replies of the channel wait behind the answer to a commit, and that for the disk: at once for what was
                // published, after a delay for what was only settled
                self.apply(&Op::CommitAll);
                self.apply(&Op::Advance { tens: 6 });
                self.apply(&Op::CommitAll);
            }
            Op::TxEnd { .. } => {}
            Op::Purge { queue } => {
                let n = self.model.purge(queue);
                self.purged.push(n);
                let purge = ChannelCommand::QueuePurge { queue: NAMES[queue].into(), nowait: false };
                self.broker.run(ADMIN, vec![Command::Channel(1, purge)]);
            }
            Op::Advance { tens } => {
                self.model.advance(tens * 10);
                self.broker.advance(tens * 10);
            }
            Op::TakeGroup => {
                self.broker.take_group();
            }
            Op::Commit => {
                self.broker.commit();
            }
            Op::CommitAll => self.broker.commit_all(),
        }
        self.model.settle_down();
    }

    fn hear(&mut self) {
        let mut heard: Vec<Vec<Heard>> = vec![Vec::new(); CHANNELS];
        let mut told = self.broker.told(CLIENT);
        if self.paged {
            // a head that is being written elsewhere comes when that is done
            let messages = |e: &ConnectionEffect| match e {
                ConnectionEffect::Channel(_, ChannelEffect::Deliver(d)) => d.span.count as usize,
                ConnectionEffect::Channel(_, ChannelEffect::GetOk { .. } | ChannelEffect::GetEmpty) => 1,
                _ => 0,
            };
            let expected: usize = self.model.channels.iter().map(|c| c.heard.len()).sum();
            if told.iter().map(messages).sum::<usize>() < expected {
                self.broker.commit_all();
                told.extend(self.broker.told(CLIENT));
            }
        }
        for effect in told {
            let ConnectionEffect::Channel(number, effect) = effect else { panic!("{effect:?}") };
            let channel = usize::from(number).wrapping_sub(2);
            match effect {
                ChannelEffect::Deliver(d) => {
                    for (k, i) in d.span.indexes().enumerate() {
                        heard[channel].push(Heard::Delivery {
                            consumer: d.consumer_tag.to_string(),
                            tag: d.first_tag + k as u64,
                            redelivered: d.redelivered,
                            message: seen(&d.span.batch, i),
                        });
                    }
                }
                ChannelEffect::GetOk { tag, redelivered, messages, span } => heard[channel].push(Heard::Got {
                    tag,
                    redelivered,
                    left: messages.into(),
                    message: seen(&span.batch, span.from),
                }),
                ChannelEffect::GetEmpty => heard[channel].push(Heard::Empty),
                ChannelEffect::Confirm { tag, count, multiple, ack } => self.confirmed(tag, count, multiple, ack),
                ChannelEffect::QosOk | ChannelEffect::CloseOk | ChannelEffect::OpenOk => {}
                ChannelEffect::TxSelectOk | ChannelEffect::TxCommitOk | ChannelEffect::TxRollbackOk => {}
                other => panic!("{other:?}"),
            }
        }
        for (c, mut heard) in heard.into_iter().enumerate() {
            let mut expected = std::mem::take(&mut self.model.channels[c].heard);
            if self.paged {
                // what expired and must be read before it can move on is counted as left
                for h in heard.iter_mut().chain(&mut expected) {
                    if let Heard::Got { left, .. } = h {
                        *left = 0;
                    }
                }
            }
            assert_eq!(heard, expected, "channel {c}: real, expected");
        }
        for effect in self.broker.told(ADMIN) {
            match effect {
                ConnectionEffect::Channel(1, ChannelEffect::QueuePurgeOk { messages }) => {
                    assert_eq!(u64::from(messages), self.purged.remove(0), "purged");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn confirmed(&mut self, tag: u64, count: u32, multiple: bool, ack: bool) {
        let last = tag + u64::from(count) - 1;
        let first = if multiple { 1 } else { tag };
        for t in first..=last {
            if multiple && self.answered.contains_key(&t) {
                continue;
            }
            assert_eq!(self.answered.insert(t, ack), None, "publish {t} was answered twice");
            assert_eq!(ack, !self.refused.contains(&t), "publish {t}: ack, expected");
            let stored = (0..2).any(|q| self.on_disk(q).contains(&t));
            assert!(!ack || stored || !self.model.is_durable(t), "publish {t} was confirmed before it was safe");
        }
    }

    /// Ids a restart would bring back.
    fn on_disk(&mut self, q: usize) -> Vec<u64> {
        let id = self.broker.queue(NAMES[q]).unwrap().id;
        self.broker.disk.messages(id).iter().map(|(batch, i)| message::id_of(batch, *i)).collect()
    }

    fn check(&mut self) {
        for (q, name) in NAMES.into_iter().enumerate() {
            let mut stats = self.broker.queue(name).unwrap();
            let (ready, bytes, logged) = self.model.ready(q);
            if self.paged && stats.messages_ready != ready {
                // what must be read before it can move on may be on its way to another place
                self.broker.commit_all();
                stats = self.broker.queue(name).unwrap();
            }
            let (consumers, active) = self.model.consumers(q);
            assert_eq!(stats.messages_ready, ready, "ready in {name}");
            assert_eq!(stats.messages_unacknowledged, self.model.unacked(q), "unacked in {name}");
            if self.paged {
                // transient ones may be in the log, too
                assert!((logged..=ready).contains(&stats.messages_persistent), "persistent in {name}");
            } else {
                assert_eq!(stats.messages_persistent, logged, "persistent in {name}");
                assert_eq!(stats.message_bytes_ready, bytes, "octets in {name}");
            }
            assert_eq!(stats.consumers, consumers);
            assert_eq!(stats.single_active_consumer_tag.map(|t| t.to_string()), active);
        }
    }

    /// After everything was written.
    fn check_disk(&mut self) {
        for (q, name) in NAMES.iter().enumerate() {
            assert_eq!(self.on_disk(q), self.model.durable(q), "on disk in {name}");
        }
        let open: Vec<_> = self.tags.values().filter(|t| !self.answered.contains_key(t)).collect();
        assert!(open.is_empty(), "not confirmed: {open:?}");
        assert!(self.purged.is_empty(), "purges without answer");
    }
}

impl World {
    /// Time for all that expires to do so, and for settlements alone to be written.
    fn rest(&mut self) {
        for _ in 0..6 {
            for op in [Op::CommitAll, Op::Advance { tens: 10 }] {
                self.apply(&op);
                self.hear();
                self.check();
            }
        }
        self.apply(&Op::CommitAll);
        self.hear();
        self.check_disk();
    }
}

fn run(case: &Case) {
    let mut world = World::new(case);
    for op in &case.ops {
        world.apply(op);
        world.hear();
        world.check();
        if matches!(op, Op::CommitAll) && world.at_once {
            world.check_disk();
        }
    }
    world.rest();
    // what is left is drained
    for channel in 0..CHANNELS {
        world.apply(&Op::Close { channel });
    }
    for queue in [0, 1, 0] {
        while world.model.ready(queue).0 > 0 {
            let plan = &case.plans[queue];
            let only_consumers = plan.quorum && plan.single_active;
            let get = Op::Get { queue, channel: 0, no_ack: true };
            world.apply(&if only_consumers { Op::Purge { queue } } else { get });
            world.hear();
        }
    }
    world.rest();
    let totals = world.broker.totals();
    assert_eq!((totals.messages_ready, totals.messages_unacknowledged, totals.resident_bytes), (0, 0, 0));
    assert_eq!((totals.pending_ops, totals.pending_bytes, world.broker.disk.live()), (0, 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_plain_lists(case in case()) {
        run(&case);
    }
}
