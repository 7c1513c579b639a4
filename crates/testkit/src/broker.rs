//! The core as a broker: commands in, effects by connection out.

use crate::disk::Disk;
use hornpipe_core::{Bootstrap, CoreConfig, Shard};
use hornpipe_types::command::{ChannelCommand, Command, OpenConnection};
use hornpipe_types::definition::UserDefinition;
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect, Outbox, span_cost};
use hornpipe_types::ids::{ConnectionId, QueueId, RequestId};
use hornpipe_types::limits::Limits;
use hornpipe_types::op::Recovered;
use hornpipe_types::stats::{Answer, BrokerStats, ConnectionStats, QueueStats, Request};
use hornpipe_types::time::{Now, UnixMillis};
use std::collections::BTreeMap;

/// The vhost that exists.
pub const VHOST: &str = "/";
/// The user that exists, with all permissions.
pub const USER: &str = "guest";

/// See the crate's documentation.
#[derive(Debug)]
pub struct Broker {
    /// The core.
    pub shard: Shard,
    /// Both clocks.
    pub now: Now,
    /// What is written.
    pub disk: Disk,
    /// Sockets take everything at once; else [`Self::write`] says when.
    pub sockets_write: bool,
    effects: BTreeMap<ConnectionId, Vec<ConnectionEffect>>,
    /// Octets handed to sockets and not reported as written.
    unwritten: BTreeMap<ConnectionId, u64>,
    out: Outbox,
    requests: u64,
}

impl Broker {
    /// A broker with an empty data folder.
    pub fn new(limits: Limits, seed: u64) -> Self {
        let mut shard = Shard::new(CoreConfig { limits, seed, number: 0 });
        // any day will do, but zero milliseconds since 1970 means none
        let now = Now { wall: UnixMillis(1_000_000), ..Now::default() };
        shard.handle_recovered(Recovered::End { clean: true, orphan_files: Vec::new() });
        let user = UserDefinition { name: USER.into(), ..UserDefinition::default() };
        shard.finish_recovery(now, &Bootstrap { vhost: VHOST.into(), user });
        Self {
            shard,
            now,
            disk: Disk::default(),
            sockets_write: true,
            effects: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            out: Outbox::default(),
            requests: 0,
        }
    }

    /// One read of a connection: one turn.
    pub fn run(&mut self, from: ConnectionId, mut commands: Vec<Command>) {
        self.shard.handle_commands(self.now, from, &mut commands);
        self.turn();
    }

    /// Opens a connection and channels 1 to `channels` on it. `notify`: it declares the capabilities for being told of
    /// cancelled consumers and of alarms.
    pub fn open(&mut self, id: ConnectionId, channels: u16, notify: bool) {
        let open = OpenConnection {
            cancel_notify: notify,
            blocked_notify: notify,
            ..OpenConnection::without_socket(&format!("peer {id}"), USER, VHOST)
        };
        let mut commands = vec![Command::Open(Box::new(open))];
        commands.extend((1..=channels).map(|n| Command::Channel(n, ChannelCommand::Open)));
        self.run(id, commands);
    }

    /// Drains the core: bodies are read at once, sockets take what they take.
    pub fn turn(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "a turn that does not end");
            self.shard.poll_effects(self.now, &mut self.out);
            let mut more = self.shard.has_work();
            for (id, effects) in std::mem::take(&mut self.out.connections) {
                let cost: u64 = effects.iter().map(cost).sum();
                self.effects.entry(id).or_default().extend(effects);
                if cost > 0 {
                    *self.unwritten.entry(id).or_default() += cost;
                }
            }
            for load in std::mem::take(&mut self.out.loads) {
                assert!(self.disk.has(&load.place), "{load:?}: the run is not on disk");
                let loaded = self.disk.read(&load);
                self.shard.handle_loaded(self.now, loaded);
                more = true;
            }
            if self.sockets_write {
                for (id, n) in std::mem::take(&mut self.unwritten) {
                    self.shard.handle_commands(self.now, id, &mut vec![Command::Written(n)]);
                    more = true;
                }
            }
            if !more {
                return;
            }
        }
    }

    /// A socket takes all that waits for it.
    pub fn write(&mut self, id: ConnectionId) {
        if let Some(n) = self.unwritten.remove(&id) {
            self.run(id, vec![Command::Written(n)]);
        }
    }

    /// What a connection was told since last asked.
    pub fn told(&mut self, id: ConnectionId) -> Vec<ConnectionEffect> {
        self.effects.remove(&id).unwrap_or_default()
    }

    /// Both clocks move on, timers come due.
    pub fn advance(&mut self, ms: u64) {
        self.now.mono = self.now.mono.plus_ms(ms);
        self.now.wall.0 += ms;
        if self.shard.poll_timeout().is_some_and(|at| at <= self.now.mono) {
            self.shard.handle_timeout(self.now);
            self.turn();
        }
    }

    /// Hands a group to the disk, if there is one. Says whether.
    pub fn take_group(&mut self) -> bool {
        let Some(group) = self.shard.poll_group(self.now) else { return false };
        self.disk.hand_over(group);
        true
    }
    /// The oldest group gets onto the disk. Says whether there was one.
    pub fn commit(&mut self) -> bool {
        let Some(committed) = self.disk.commit() else { return false };
        self.shard.handle_committed(self.now, committed);
        self.turn();
        true
    }
    /// Until nothing waits for the disk but settlements whose delay has not passed.
    pub fn commit_all(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "the disk is never done");
            self.turn();
            let took = self.take_group();
            if !self.commit() && !took {
                return;
            }
        }
    }

    /// Asks the core.
    pub fn ask(&mut self, request: Request) -> Answer {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.shard.handle_request(self.now, id, request);
        self.turn();
        let at = self.out.answers.iter().position(|(r, _)| *r == id).expect("every request is answered");
        self.out.answers.remove(at).1
    }
    /// All counts.
    pub fn totals(&mut self) -> BrokerStats {
        let mut totals = match self.ask(Request::Totals) {
            Answer::Totals(totals) => *totals,
            other => panic!("{other:?}"),
        };
        let mut next = Some(QueueId(0));
        while let Some(after) = next {
            match self.ask(Request::Sums { after, limit: 2 }) {
                Answer::Sums(sums) => {
                    totals.add_queues(&sums);
                    next = sums.next;
                }
                other => panic!("{other:?}"),
            }
        }
        totals
    }
    /// One queue.
    pub fn queue(&mut self, name: &str) -> Option<Box<QueueStats>> {
        match self.ask(Request::Queue { vhost: VHOST.into(), name: name.into() }) {
            Answer::Queue(queue) => queue,
            other => panic!("{other:?}"),
        }
    }
    /// All queues.
    pub fn queues(&mut self) -> Vec<QueueStats> {
        match self.ask(Request::Queues { vhost: None, after: Default::default(), limit: u32::MAX }) {
            Answer::Queues(queues) => queues,
            other => panic!("{other:?}"),
        }
    }
    /// All connections.
    pub fn connections(&mut self) -> Vec<ConnectionStats> {
        match self.ask(Request::Connections { after: Default::default(), limit: u32::MAX }) {
            Answer::Connections(connections) => connections,
            other => panic!("{other:?}"),
        }
    }
}

/// What the connection machine would report as written for an effect.
fn cost(effect: &ConnectionEffect) -> u64 {
    match effect {
        ConnectionEffect::Channel(_, ChannelEffect::Deliver(d)) => span_cost(&d.span),
        ConnectionEffect::Channel(_, ChannelEffect::GetOk { span, .. } | ChannelEffect::Return { span, .. }) => {
            span_cost(span)
        }
        _ => 0,
    }
}
