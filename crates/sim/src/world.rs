//! The loop: pick the next event, call the real machines, drain all effects, check.

use crate::client::{self, Client};
use crate::clock::Clock;
use crate::invariants::{Violation, counts, durability, ensure, liveness};
use crate::oracle::Oracle;
use crate::store::Disk;
use crate::workload::{Choose, ConsumerPlan, Plan, Role, USER, VHOST};
use hornpipe_core::rng::Rng;
use hornpipe_core::{Bootstrap, CoreConfig, Shard};
use hornpipe_store::Memory;
use hornpipe_types::command::{ChannelCommand, Command};
use hornpipe_types::definition::UserDefinition;
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect, Load, Outbox, span_cost};
use hornpipe_types::ids::{ConnectionId, QueueId, RequestId};
use hornpipe_types::message::Span;
use hornpipe_types::op::{Group, StoreOp};
use hornpipe_types::stats::{Answer, QueueStats, Request};
use hornpipe_types::time::Now;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// More turns than any run needs to come to rest.
const TURNS_MAX: u64 = 60_000;
/// Later than all delays.
const AFTER_ALL_MS: u64 = 60_000;

#[derive(Debug)]
enum Event {
    Client(usize),
    Write,
    Sync,
    Load(Load),
    Written(ConnectionId, u64),
}

/// What a run did, for those who want to know that it did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Turns.
    pub turns: u64,
    /// Messages published.
    pub published: u64,
    /// Of them held by a delayed exchange.
    pub held: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Confirms.
    pub confirmed: u64,
    /// Crashes.
    pub crashes: u64,
    /// Stops in order.
    pub stops: u64,
    /// Runs read back from the store.
    pub loads: u64,
    /// Reads that failed because the run had died meanwhile.
    pub failed_loads: u64,
}

pub(crate) struct World {
    rng: Rng,
    plan: Rc<Plan>,
    clock: Clock,
    shard: Shard,
    disk: Option<Disk>,
    oracle: Oracle,
    events: BTreeMap<(u64, u64), Event>,
    last_event: u64,
    clients: Vec<Client>,
    /// What connections said that has to wait.
    waiting: BTreeMap<ConnectionId, VecDeque<Command>>,
    setting_up: Option<ConnectionId>,
    /// The last inspection came in the middle of work that goes on in slices.
    counts_lag: bool,
    /// Octets of bodies in memory, when it was asked last.
    resident: u64,
    /// By the turn of a group: the last turn before whose work was all done when it was taken.
    rested: BTreeMap<u64, u64>,
    last_connection: ConnectionId,
    /// Octets of deliveries whose `Written` is still to come.
    unsent: BTreeMap<ConnectionId, u64>,
    loads: u64,
    alarm: bool,
    calm: bool,
    seed: u64,
    traced: bool,
    pub(crate) summary: Summary,
}

impl World {
    pub(crate) fn new(seed: u64, traced: bool) -> Result<Self, Violation> {
        let mut rng = Rng::new(seed);
        let mut plan = Plan::new(&mut rng);
        let late = seed >= crate::LATE;
        if seed >= crate::RESTLESS && (!late || seed % 2 == 1) {
            plan.make_restless(&mut rng);
        }
        if seed >= crate::QUITTING {
            plan.make_quitting(&mut rng);
        } else if late {
            plan.make_late(&mut rng);
        }
        let plan = Rc::new(plan);
        let clock = Clock::default();
        let mut world = Self {
            oracle: Oracle::new(Rc::clone(&plan), clock.now()),
            clients: plan.clients.iter().map(|r| Client::new(*r)).collect(),
            shard: Shard::new(CoreConfig::default()),
            rng,
            plan,
            clock,
            disk: None,
            events: BTreeMap::new(),
            waiting: BTreeMap::new(),
            last_event: 0,
            setting_up: None,
            counts_lag: false,
            resident: 0,
            rested: BTreeMap::new(),
            last_connection: ConnectionId(0),
            unsent: BTreeMap::new(),
            loads: 0,
            alarm: false,
            calm: false,
            seed,
            traced,
            summary: Summary::default(),
        };
        world.start(Memory::new())?;
        Ok(world)
    }

    /// What the run is about, for failure reports.
    pub(crate) fn describe(&self) -> String {
        if self.traced {
            eprintln!("{:#?}", self.shard);
            self.oracle.dump();
        }
        format!("turn {}, {:#?}", self.oracle.turn, self.plan)
    }

    /// The whole run.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        while self.oracle.turn < self.plan.turns {
            self.step()?;
            self.faults()?;
        }
        self.calm = true;
        if self.alarm {
            self.shard.handle_alarms(self.clock.now(), false, false);
        }
        self.come_to_rest()?;
        liveness::on_quiet(&self.oracle)?;
        self.inspect()?;
        self.drain()?;
        // what is settled stays so, whatever the end
        let keep = self.disk.as_ref().map_or(0, Disk::unsynced);
        if self.rng.chance(50) {
            self.crash(keep)?
        } else {
            self.stop()?
        }
        self.summary.turns = self.oracle.turn;
        self.summary.published = self.oracle.messages.len() as u64;
        self.summary.held = self.oracle.messages.iter().filter(|m| m.delay.is_some()).count() as u64;
        self.summary.delivered = self.oracle.delivered;
        self.summary.confirmed = self.oracle.confirmed;
        Ok(())
    }

    /// All peers leave, and one willing consumer a queue takes what is left.
    fn drain(&mut self) -> Result<(), Violation> {
        for k in 0..self.clients.len() {
            if let Some(connection) = self.clients[k].connection.take() {
                self.oracle.connection_gone(connection);
                self.say(connection, vec![Command::Close]);
            }
        }
        let drainer = |queue| ConsumerPlan {
            queue,
            prefetch: 7,
            global: false,
            no_ack: false,
            get: false,
            tx: false,
            plain: true,
            priority: 0,
        };
        self.clients = (0..self.plan.queues.len()).map(|q| Client::new(Role::Consumer(drainer(q)))).collect();
        for k in 0..self.clients.len() {
            self.schedule_client(k);
        }
        self.end_turn(false)?;
        self.come_to_rest()?;
        liveness::on_quiet(&self.oracle)?;
        let stats = self.inspect()?;
        for s in stats {
            ensure(s.messages_ready == 0 && s.messages_unacknowledged == 0, "liveness", || {
                format!("{} is not drained: {} ready, {} unacked", s.name, s.messages_ready, s.messages_unacknowledged)
            })?;
        }
        // whoever took memory for bodies has given it back
        self.shard.handle_request(self.clock.now(), RequestId(2), Request::Totals);
        self.drain_effects(self.clock.now())?;
        ensure(self.resident == 0, "counts", || {
            format!("{} octets of bodies count as in memory, and all queues are drained", self.resident)
        })?;
        durability::at_end(&self.oracle)
    }

    fn come_to_rest(&mut self) -> Result<(), Violation> {
        let limit = self.oracle.turn + TURNS_MAX;
        while self.step()? {
            ensure(self.oracle.turn < limit, "liveness", || "it does not come to rest".to_owned())?;
        }
        Ok(())
    }

    // ---- events -----------------------------------------------------------------------------------------------------

    fn schedule(&mut self, delay_us: u64, event: Event) {
        self.last_event += 1;
        self.events.insert((self.clock.micros() + delay_us, self.last_event), event);
    }

    fn schedule_client(&mut self, k: usize) {
        if !self.clients[k].scheduled {
            self.clients[k].scheduled = true;
            let delay = if self.rng.chance(70) { self.rng.between(1, 2000) } else { self.rng.between(1, 60_000) };
            self.schedule(delay, Event::Client(k));
        }
    }

    /// The next thing that happens, with all that follows from it. `false`: nothing will happen any more.
    fn step(&mut self) -> Result<bool, Violation> {
        let now = self.clock.now();
        let room = self.disk.as_ref().is_some_and(Disk::has_room);
        // what is due and waits for the store is woken by the store
        let timeout = self.shard.poll_timeout().filter(|at| room || *at > now.mono).map(|at| at.0);
        let goes_on = self.shard.has_work() || self.waiting.keys().any(|id| !self.shard.is_settling(*id));
        let timeout = if goes_on { Some(now.mono.0) } else { timeout };
        let event = self.events.first_key_value().map(|(k, _)| k.0);
        let Some(next) = [timeout, event].into_iter().flatten().min() else { return Ok(false) };
        self.clock.advance_to(next);
        // several items may come to one turn, as they do when the owner is busy: all of it happens at one moment
        let mut batch = Vec::new();
        while let Some(entry) = self.events.first_entry() {
            let at = entry.key().0;
            let joins = batch.is_empty() && at <= self.clock.micros()
                || (1..4).contains(&batch.len()) && at < self.clock.micros() + 3000 && self.rng.chance(25);
            if !joins {
                break;
            }
            self.clock.advance_to(at);
            batch.push(entry.remove());
        }
        self.oracle.at(self.clock.now());
        for connection in self.waiting.keys().copied().collect::<Vec<_>>() {
            self.go_on(connection);
        }
        for event in batch {
            self.trace(|| format!("{event:?}"));
            self.handle(event)?;
        }
        let inspect = !self.calm && (self.rng.chance(5) || self.traced);
        self.end_turn(inspect)?;
        Ok(true)
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        let now = self.clock.now();
        match event {
            Event::Client(k) => self.client_turn(k),
            Event::Write => {
                let delay = self.rng.between(20, self.plan.slow_us);
                let first = match &mut self.disk {
                    Some(disk) => disk.write()?,
                    None => false,
                };
                if first {
                    self.schedule(delay, Event::Sync);
                }
            }
            Event::Sync => {
                let done = match &mut self.disk {
                    Some(disk) => disk.sync()?,
                    None => Vec::new(),
                };
                for committed in done {
                    self.shard.handle_committed(now, committed);
                }
            }
            Event::Load(load) => {
                if let Some(disk) = &self.disk {
                    let loaded = disk.read(&load);
                    self.loads -= 1;
                    self.summary.loads += 1;
                    self.summary.failed_loads += u64::from(loaded.batch.is_err());
                    self.shard.handle_loaded(now, loaded);
                }
            }
            Event::Written(connection, octets) => {
                if let Some(left) = self.unsent.get_mut(&connection) {
                    *left -= octets;
                }
                self.say(connection, vec![Command::Written(octets)]);
            }
        }
        Ok(())
    }

    fn say(&mut self, connection: ConnectionId, commands: Vec<Command>) {
        for command in &commands {
            self.trace(|| format!("  {connection} > {}", brief_command(command)));
        }
        self.waiting.entry(connection).or_default().extend(commands);
        self.go_on(connection);
    }

    /// Hands the shard what a connection said, as far as it need not wait.
    fn go_on(&mut self, connection: ConnectionId) {
        let Some(mut commands) = self.waiting.remove(&connection) else { return };
        while let Some(first) = commands.front() {
            if matches!(first, Command::Gone) && !self.shard.is_settling(connection) {
                self.shard.handle_commands(self.clock.now(), connection, &mut commands.drain(..1).collect());
            } else if self.shard.is_settling(connection) {
                self.waiting.insert(connection, commands);
                self.oracle.waits_since.get_or_insert(self.oracle.turn);
                return;
            } else {
                self.shard.handle_some(self.clock.now(), connection, &mut commands);
            }
        }
    }

    /// Whether what a connection says now would have to wait.
    fn waits(&self, connection: ConnectionId) -> bool {
        self.waiting.contains_key(&connection) || self.shard.is_settling(connection)
    }

    /// For one who looks for the cause of a failure.
    fn trace(&self, text: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{:>5} {:>9} {}", self.oracle.turn, self.clock.micros(), text());
        }
    }

    fn connection(&mut self) -> ConnectionId {
        self.last_connection = self.last_connection.next();
        self.last_connection
    }

    fn client_turn(&mut self, k: usize) {
        self.clients[k].scheduled = false;
        // the books hold what is said for done
        if self.clients[k].connection.is_some_and(|connection| self.waits(connection)) {
            self.schedule_client(k);
            return;
        }
        // its channel may have been closed by the broker
        if let Some(at) = self.clients[k].at()
            && self.oracle.channel(at).is_none()
        {
            self.clients[k].connection = None;
            self.say(at.0, vec![Command::Gone]);
        }
        let fresh = self.clients[k].connection.is_none().then(|| self.connection());
        let (plan, oracle, client) = (Rc::clone(&self.plan), &mut self.oracle, &mut self.clients[k]);
        let commands = match fresh {
            Some(connection) => client.connect(connection, oracle),
            None => client.act(&mut self.rng, &plan, oracle, self.calm),
        };
        if let Some(connection) = client.connection {
            self.say(connection, commands);
        }
        if let Some(queue) = self.clients[k].quits.take() {
            self.delete_at_once(queue);
        }
        if !self.calm {
            self.schedule_client(k);
        }
    }

    /// One whose channel has nothing to wait for deletes a queue and makes it again.
    fn delete_at_once(&mut self, queue: usize) {
        let mut meddlers = self.clients.iter().filter(|client| matches!(client.role, Role::Meddler));
        let idle = |at: &_| self.oracle.channel(*at).is_some_and(|channel| channel.replies.is_empty());
        let Some(at) = meddlers.find_map(|client| client.at().filter(idle)) else { return };
        let mut commands = Vec::new();
        client::delete_queue(at, &Rc::clone(&self.plan), queue, &mut commands, &mut self.oracle);
        self.say(at.0, commands);
    }

    /// The end of a turn, as the driver of a real broker goes about it.
    fn end_turn(&mut self, inspect: bool) -> Result<Vec<QueueStats>, Violation> {
        let now = self.clock.now();
        if self.shard.poll_timeout().is_some_and(|at| at <= now.mono) {
            self.shard.handle_timeout(now);
        }
        if inspect {
            let all = Request::Queues { vhost: None, after: QueueId(0), limit: u32::MAX };
            self.shard.handle_request(now, RequestId(1), all);
            // while work goes on in slices counters may lag
            self.counts_lag = !self.rests();
        }
        let stats = self.drain_effects(now)?;
        let before = self.rested.last_key_value().map_or(0, |(_, rested)| *rested);
        let rested = if self.rests() { self.oracle.turn } else { before };
        self.rested.insert(self.oracle.turn, rested);
        self.oracle.rested = rested;
        let (waiting, shard) = (&self.waiting, &self.shard);
        self.oracle.arrive(|connection| waiting.contains_key(&connection) || shard.is_settling(connection));
        if self.waiting.is_empty() {
            self.oracle.waits_since = None;
        }
        while self.disk.as_ref().is_some_and(Disk::has_room) {
            let Some(group) = self.shard.poll_group(now) else {
                // all of it cancelled in memory: confirms go out without the disk
                self.drain_effects(now)?;
                break;
            };
            self.trace(|| format!("  {}", brief_group(&group)));
            if let Some(disk) = &mut self.disk {
                disk.hand_over(self.oracle.turn, group);
            }
            let delay = self.rng.between(10, self.plan.slow_us / 2);
            self.schedule(delay, Event::Write);
        }
        // a head may wait for its body, or for its place while it is being written
        if self.loads == 0
            && !self.shard.has_work()
            && !self.shard.is_working()
            && self.waiting.is_empty()
            && self.disk.as_ref().is_some_and(Disk::is_idle)
        {
            let unsent = |c| self.unsent.get(&c).is_some_and(|n| *n > 0);
            if !self.counts_lag {
                liveness::on_inspected(&self.oracle, &stats, unsent)?;
            }
        }
        self.after_turn();
        Ok(stats)
    }

    /// Whether all that was said is done.
    fn rests(&self) -> bool {
        !self.shard.is_working() && !self.shard.has_graves() && self.waiting.is_empty()
    }

    fn drain_effects(&mut self, now: Now) -> Result<Vec<QueueStats>, Violation> {
        let mut outbox = Outbox::default();
        self.shard.poll_effects(now, &mut outbox);
        let durable = self.disk.as_ref().map_or(0, |d| d.durable);
        for (connection, effects) in &outbox.connections {
            for effect in effects {
                self.trace(|| format!("  {connection} < {}", brief_effect(effect)));
            }
        }
        self.oracle.effects(&outbox.connections, durable)?;
        for (connection, effects) in &outbox.connections {
            let cost = |e: &ConnectionEffect| match e {
                ConnectionEffect::Channel(_, ChannelEffect::Deliver(d)) => span_cost(&d.span),
                ConnectionEffect::Channel(_, ChannelEffect::GetOk { span, .. }) => span_cost(span),
                _ => 0,
            };
            let octets: u64 = effects.iter().map(cost).sum();
            if octets > 0 {
                *self.unsent.entry(*connection).or_default() += octets;
                let delay = self.rng.between(5, 5000);
                self.schedule(delay, Event::Written(*connection, octets));
            }
        }
        for load in outbox.loads {
            self.loads += 1;
            let delay = self.rng.between(5, self.plan.slow_us);
            self.schedule(delay, Event::Load(load));
        }
        let mut all = Vec::new();
        for (_, answer) in outbox.answers {
            if let Answer::Totals(totals) = &answer {
                self.resident = totals.resident_bytes;
            }
            if let Answer::Queues(stats) = answer {
                let depths =
                    || stats.iter().map(|s| format!(" {}:{}+{}", s.name, s.messages_ready, s.messages_unacknowledged));
                self.trace(|| format!("  depths{}", depths().collect::<String>()));
                self.shard.check_log().map_err(|text| Violation::new("log", text))?;
                if !self.counts_lag {
                    counts::on_inspected(&self.oracle, &stats)?;
                }
                all = stats;
            }
        }
        Ok(all)
    }

    fn after_turn(&mut self) {
        self.oracle.turn += 1;
        if let Some(connection) = self.setting_up
            && self.oracle.channel((connection, 1)).is_none_or(|c| c.replies.is_empty())
        {
            self.setting_up = None;
            self.oracle.connection_gone(connection);
            self.say(connection, vec![Command::Close]);
            for k in 0..self.clients.len() {
                self.schedule_client(k);
            }
        }
        if self.calm {
            for k in 0..self.clients.len() {
                let channel = self.clients[k].at().and_then(|at| self.oracle.channel(at));
                if channel.is_some_and(|c| !c.settleable().is_empty() || c.in_tx()) {
                    self.schedule_client(k);
                }
            }
        }
    }

    fn inspect(&mut self) -> Result<Vec<QueueStats>, Violation> {
        self.end_turn(true)
    }

    // ---- faults -----------------------------------------------------------------------------------------------------

    fn roll(&mut self, in_ten_thousand: u64) -> bool {
        self.rng.below(10_000) < in_ten_thousand
    }

    fn faults(&mut self) -> Result<(), Violation> {
        let plan = Rc::clone(&self.plan);
        if self.roll(plan.crash) {
            let unsynced = self.disk.as_ref().map_or(0, Disk::unsynced);
            let keep = self.rng.below(unsynced as u64 + 1) as usize;
            return self.crash(keep);
        }
        if self.roll(plan.stop) {
            return self.stop();
        }
        if self.roll(plan.vanish) {
            let k = self.rng.below(self.clients.len() as u64) as usize;
            if let Some(connection) = self.clients[k].connection.take() {
                // in order or not: what it held is let go either way
                let gone = if self.rng.chance(70) { Command::Gone } else { Command::Close };
                self.oracle.connection_gone(connection);
                self.say(connection, vec![gone]);
                self.end_turn(false)?;
            }
        }
        if self.roll(plan.jump) {
            let by = self.rng.between(0, 20_000) as i64 - 10_000;
            self.clock.jump_ms(by);
            self.oracle.at(self.clock.now());
        }
        if self.roll(plan.alarm) {
            self.alarm = !self.alarm;
            self.shard.handle_alarms(self.clock.now(), self.alarm, false);
        }
        Ok(())
    }

    /// The power goes; the first `keep` of the batches that were not synced survive.
    fn crash(&mut self, keep: usize) -> Result<(), Violation> {
        let Some(disk) = self.disk.take_if(|disk| {
            let durable = disk.durable_after(keep);
            let rested = self.rested.get(&durable).copied().unwrap_or(durable);
            !self.oracle.was_moving(rested, durable)
        }) else {
            return Ok(());
        };
        self.summary.crashes += 1;
        let (medium, durable) = disk.crash(keep);
        self.trace(|| format!("crash, {keep} kept, durable {durable}"));
        let rested = self.rested.get(&durable).copied().unwrap_or(durable);
        self.oracle.restarted(durable, rested, false)?;
        self.start(medium)
    }

    /// A stop in order.
    fn stop(&mut self) -> Result<(), Violation> {
        self.summary.stops += 1;
        self.trace(|| "stop".to_owned());
        let now = self.clock.now();
        for (connection, commands) in std::mem::take(&mut self.waiting) {
            self.shard.handle_commands(now, connection, &mut commands.into());
        }
        self.shard.handle_shutdown(now, "broker forced connection closure with reason 'shutdown'");
        self.drain_effects(now)?;
        let later = Now { mono: now.mono.plus_ms(AFTER_ALL_MS), wall: now.wall };
        let Some(mut disk) = self.disk.take() else { return Ok(()) };
        loop {
            while !disk.is_idle() {
                disk.write()?;
                for committed in disk.sync()? {
                    self.shard.handle_committed(now, committed);
                }
            }
            self.drain_effects(now)?;
            match self.shard.poll_group(later) {
                Some(group) => {
                    self.trace(|| format!("  {}", brief_group(&group)));
                    disk.hand_over(self.oracle.turn, group);
                }
                None => break,
            }
        }
        let medium = disk.close()?;
        self.oracle.restarted(0, 0, true)?;
        self.start(medium)
    }

    /// Starts the broker on what is there, and has everything declared.
    fn start(&mut self, medium: Memory) -> Result<(), Violation> {
        self.events.clear();
        self.waiting.clear();
        self.oracle.waits_since = None;
        self.unsent.clear();
        self.loads = 0;
        self.alarm = false;
        for client in &mut self.clients {
            (client.connection, client.scheduled) = (None, false);
        }
        self.oracle.turn += 1;
        let now = self.clock.now();
        self.shard = Shard::new(CoreConfig { limits: self.plan.limits.clone(), seed: self.seed, number: 0 });
        let disk = Disk::open(medium, &self.plan.store, self.plan.depth, self.oracle.turn, &mut self.shard)?;
        self.disk = Some(disk);
        let user = UserDefinition { name: USER.into(), ..UserDefinition::default() };
        self.shard.finish_recovery(now, &Bootstrap { vhost: VHOST.into(), user });
        self.inspect()?;
        let connection = self.connection();
        let commands = client::set_up(connection, &self.plan, &mut self.oracle);
        self.setting_up = Some(connection);
        self.say(connection, commands);
        self.end_turn(false)?;
        Ok(())
    }
}

/// Numbers of the messages of a span.
fn numbers(span: &Span) -> Vec<u64> {
    let number = |i| {
        let body: Vec<u8> = span.batch.body(i).flatten().copied().take(8).collect();
        body.try_into().map_or(u64::MAX, u64::from_be_bytes)
    };
    span.indexes().map(number).collect()
}

fn brief_command(command: &Command) -> String {
    match command {
        Command::Open(_) => "Open".to_owned(),
        Command::Publishes(all) => {
            let each = all.runs.iter().map(|head| all.run(*head));
            each.map(|(channel, publish)| brief_command(&Command::Channel(channel, publish)))
                .collect::<Vec<_>>()
                .join("; ")
        }
        Command::Channel(_, ChannelCommand::Publish(r)) => {
            let span = Span { batch: Arc::clone(&r.batch), from: r.from, count: r.count, step: 1 };
            let to = (r.batch.exchange(r.from), r.batch.routing_key(r.from));
            format!("publish {to:?} {:?}", numbers(&span))
        }
        Command::Channel(_, other) => format!("{other:?}"),
        other => format!("{other:?}"),
    }
}

fn brief_effect(effect: &ConnectionEffect) -> String {
    match effect {
        ConnectionEffect::Channel(_, ChannelEffect::Deliver(d)) => {
            let flag = if d.redelivered { " again" } else { "" };
            format!("deliver {} tag {}{flag} {:?}", d.consumer_tag, d.first_tag, numbers(&d.span))
        }
        ConnectionEffect::Channel(_, ChannelEffect::GetOk { tag, span, .. }) => {
            format!("get-ok tag {tag} {:?}", numbers(span))
        }
        ConnectionEffect::Channel(_, ChannelEffect::Return { span, .. }) => format!("return {:?}", numbers(span)),
        ConnectionEffect::Channel(_, other) => format!("{other:?}"),
        other => format!("{other:?}"),
    }
}

fn brief_group(group: &Group) -> String {
    let op = |op: &StoreOp| match op {
        StoreOp::Enqueue(e) => format!("{:?} to {:?}", e.spans().flat_map(numbers).collect::<Vec<_>>(), e.targets),
        other => format!("{other:?}"),
    };
    let ops: Vec<String> = group.ops.iter().map(op).collect();
    format!("group {} without {:?} {:?}: {}", group.upto, group.remove_records, group.remove_files, ops.join("; "))
}
