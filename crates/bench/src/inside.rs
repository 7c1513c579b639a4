//! The broker's own code without sockets, threads and clocks: connection machines, shard and store in this process, driven
//! in lock step by the load of a case. The same case does the same work each time, so its instructions can be counted.
//!
//! What a real run has beside: the kernel, sockets, tokio, the inbox, sled and the disk. The store writes to memory here, and
//! each sync lasts as many turns as the one before.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use bytes::{Buf, BytesMut};
use hornpipe_amqp::{AuthOutcome, Connection, MachineConfig};
use hornpipe_core::{Bootstrap, CoreConfig, Shard};
use hornpipe_store::{Memory, Store, StoreConfig};
use hornpipe_types::command::Command;
use hornpipe_types::definition::UserDefinition;
use hornpipe_types::effect::Outbox;
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::limits::Limits;
use hornpipe_types::op::Group;
use hornpipe_types::time::{Now, UnixMillis};

use crate::batch::{Batch, topic_binding};
use crate::client::{consume, exchange_declare, qos, queue_bind, queue_declare, start_ok, tune_ok_and_open};
use crate::confirms::Confirms;
use crate::plan::{Plan, Route};
use crate::scanner::Scanner;
use crate::wire::{self, Out};

/// Octets the server reads at once.
const READ_BYTES: usize = 64 * 1024;
/// Turns from handing a group to the store until it reports it: about as many as a disk's sync leaves time for.
const SYNC_TURNS: u64 = 12;
/// Time that passes with a turn, microseconds.
const TURN_US: u64 = 100;

/// One connection as the server sees it, and what its client has not looked at yet.
struct Side {
    id: ConnectionId,
    machine: Connection,
    received: Vec<u8>,
}

/// The broker.
struct Rig {
    shard: Shard,
    store: Store,
    outbox: Outbox,
    sides: Vec<Side>,
    commands: Vec<Command>,
    now: Now,
    turns: u64,
    /// What the store is writing, and the turn in which it is done.
    writing: Option<(u64, Group)>,
    config: Arc<MachineConfig>,
}

/// Moves so many messages through a broker in this process, as a case wants them.
///
/// # Errors
/// When a message is lost, changed or out of order, or the case has something that can't be driven without sockets.
pub(crate) fn drive(plan: &Plan, count: u64) -> Result<()> {
    if plan.rate.is_some() || plan.drain {
        bail!("only cases that publish and consume at full speed are driven in lock step");
    }
    let mut rig = Rig::new()?;
    let mut set_up = Out::default();
    topology(&mut set_up, plan);
    let admin = rig.connect()?;
    rig.call(admin, &set_up.0)?;
    let mut consumers = Vec::new();
    for index in 0..plan.consumers {
        let side = rig.connect()?;
        let mut out = Out::default();
        if plan.ack.is_some() {
            out.method(1, wire::BASIC_QOS, |args| qos(args, plan.prefetch));
        }
        out.method(1, wire::BASIC_CONSUME, |args| consume(args, &plan.queue(index), "c0", plan.ack.is_none()));
        rig.call(side, &out.0)?;
        consumers.push((side, Scanner::new(plan, index)));
    }
    let mut publishers = Vec::new();
    for index in 0..plan.publishers {
        let side = rig.connect()?;
        let mut out = Out::default();
        for channel in 2..=plan.channels {
            out.method(channel as u16, wire::CHANNEL_OPEN, |args| args.short(""));
        }
        if plan.confirm.is_some() {
            out.method(1, wire::CONFIRM_SELECT, |args| args.u8(0));
        }
        rig.call(side, &out.0)?;
        publishers.push(Source::new(side, plan, index, count));
    }
    let wanted = count * plan.copies();
    let mut idle = 0;
    while idle < 1000 {
        let mut moved = false;
        for source in &mut publishers {
            let side = source.side;
            if let Some(bytes) = source.next() {
                rig.read(side, bytes)?;
                moved = true;
            }
            source.look(&mut rig)?;
        }
        for (side, scanner) in &mut consumers {
            moved |= rig.look(*side, scanner)?;
            if !scanner.acks.0.is_empty() {
                rig.read(*side, &scanner.acks.0)?;
                scanner.acks.0.clear();
            }
        }
        let received: u64 = consumers.iter().map(|(_, scanner)| scanner.received).sum();
        if received == wanted && publishers.iter().all(Source::is_done) {
            return Ok(());
        }
        if !moved {
            rig.turn()?;
        }
        idle = if moved { 0 } else { idle + 1 };
    }
    let received: u64 = consumers.iter().map(|(_, scanner)| scanner.received).sum();
    bail!("{received} of {wanted} messages came, then nothing")
}

fn topology(out: &mut Out, plan: &Plan) {
    for index in 0..plan.queues {
        out.method(1, wire::QUEUE_DECLARE, |args| queue_declare(args, &plan.queue(index), None, false));
    }
    let (kind, bindings) = match plan.route {
        Route::Queue => return,
        Route::Fanout => ("fanout", plan.queues),
        Route::Topic(bindings) => ("topic", bindings),
    };
    out.method(1, wire::EXCHANGE_DECLARE, |args| exchange_declare(args, plan.exchange(), kind));
    for index in 0..bindings {
        let key = if plan.route == Route::Fanout { String::new() } else { topic_binding(index) };
        out.method(1, wire::QUEUE_BIND, |args| queue_bind(args, &plan.queue(index), plan.exchange(), &key));
    }
}

/// A publisher: what it has left and, with confirms, what is unconfirmed.
struct Source {
    side: usize,
    index: usize,
    batch: Batch,
    confirms: Option<(u64, Confirms)>,
    sent: u64,
    count: u64,
    at: usize,
}

impl Source {
    fn new(side: usize, plan: &Plan, index: usize, count: u64) -> Self {
        let (publishers, batch) = (plan.publishers as u64, Batch::new(plan, index));
        let share = count / publishers + u64::from((index as u64) < count % publishers);
        let confirms = plan.confirm.map(|window| (window, Confirms::new(window * 4)));
        Self { side, index, batch, confirms, sent: 0, count: share, at: 0 }
    }

    /// The next write, if its window allows one.
    fn next(&mut self) -> Option<&[u8]> {
        let room = self.confirms.as_ref().map_or(u64::MAX, |(window, book)| window - book.outstanding());
        let take = (self.count - self.sent).min(self.batch.write_from(self.at) as u64).min(room) as usize;
        if take == 0 {
            return None;
        }
        for index in 0..take {
            self.batch.stamp(self.at + index, self.index, self.sent + index as u64, 1);
            if let Some((_, book)) = &mut self.confirms {
                book.sent(1);
            }
        }
        let from = self.at;
        self.at = (from + take) % self.batch.capacity();
        self.sent += take as u64;
        Some(self.batch.bytes(from, from + take))
    }

    /// Takes confirms in.
    fn look(&mut self, rig: &mut Rig) -> Result<()> {
        let received = rig.take(self.side)?;
        match &mut self.confirms {
            Some((_, book)) => {
                let used = book.scan(received, 2)?;
                received.drain(..used);
                Ok(())
            }
            None if received.is_empty() => Ok(()),
            None => Err(anyhow!("the broker said something to a publisher without confirms")),
        }
    }

    fn is_done(&self) -> bool {
        self.sent == self.count && self.confirms.as_ref().is_none_or(|(_, book)| book.outstanding() == 0)
    }
}

impl Rig {
    fn new() -> Result<Self> {
        let limits = Limits::default();
        let mut shard = Shard::new(CoreConfig { limits: limits.clone(), seed: 1, number: 0 });
        let mut store = Store::with_medium(Box::new(Memory::new()), StoreConfig::default());
        store.recover(&mut |item| shard.handle_recovered(item))?;
        let now = Now { wall: UnixMillis(1_000_000), ..Now::default() };
        let user = UserDefinition { name: "guest".into(), ..UserDefinition::default() };
        shard.finish_recovery(now, &Bootstrap { vhost: "/".into(), user });
        Ok(Self {
            shard,
            store,
            outbox: Outbox::default(),
            sides: Vec::new(),
            commands: Vec::new(),
            now,
            turns: 0,
            writing: None,
            config: Arc::new(MachineConfig { limits, ..MachineConfig::default() }),
        })
    }

    /// A connection that has logged in and opened channel 1.
    fn connect(&mut self) -> Result<usize> {
        let end = ("127.0.0.1".to_owned(), 1);
        let machine = Connection::new(Arc::clone(&self.config), end.clone(), end, false, self.now.mono);
        let index = self.sides.len();
        self.sides.push(Side { id: ConnectionId(index as u64 + 1), machine, received: Vec::new() });
        let mut out = Out(b"AMQP\x00\x00\x09\x01".to_vec());
        start_ok(&mut out, "guest", "guest");
        tune_ok_and_open(&mut out, 2047, 128 * 1024, "/");
        out.method(1, wire::CHANNEL_OPEN, |args| args.short(""));
        self.call(index, &out.0)?;
        Ok(index)
    }

    /// Lets a connection say something and drops all answers, once there are no more.
    fn call(&mut self, side: usize, bytes: &[u8]) -> Result<()> {
        self.read(side, bytes)?;
        // A durable declaration is answered when it is written.
        let mut quiet = 0;
        while quiet < 4 * SYNC_TURNS {
            self.turn()?;
            let received = self.take(side)?;
            quiet = if received.is_empty() { quiet + 1 } else { 0 };
            received.clear();
        }
        Ok(())
    }

    /// One read of a socket, and the turn it makes.
    fn read(&mut self, side: usize, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(READ_BYTES) {
            room(self.sides[side].machine.input());
            self.sides[side].machine.input().extend_from_slice(piece);
            self.counted_input(side);
            self.turn()?;
        }
        Ok(())
    }

    /// What a connection has been sent, moved out of the machine as a socket would.
    fn take(&mut self, side: usize) -> Result<&mut Vec<u8>> {
        if !self.sides[side].machine.output().is_empty() {
            let Side { machine, received, .. } = &mut self.sides[side];
            let output = machine.output();
            while output.has_remaining() {
                let chunk = output.chunk();
                received.extend_from_slice(chunk);
                let count = chunk.len();
                output.advance(count);
            }
            self.counted_written(side);
            self.turn()?;
        }
        Ok(&mut self.sides[side].received)
    }

    /// Scans deliveries; says whether there were any.
    fn look(&mut self, side: usize, scanner: &mut Scanner) -> Result<bool> {
        let received = self.take(side)?;
        let used = scanner.scan(received, 2)?;
        received.drain(..used);
        scanner.ack_rest();
        Ok(used > 0)
    }

    fn turn(&mut self) -> Result<()> {
        self.now.mono.0 += TURN_US;
        self.now.wall.0 = 1_000_000 + self.now.mono.0 / 1000;
        self.turns += 1;
        let done = self.writing.take_if(|(turn, _)| *turn <= self.turns);
        self.counted_turn(done.map(|(_, group)| group)).context("in a turn of the broker")
    }

    // ---- what is counted: callgrind is told these names ----------------------------------------------------------------

    /// A connection's task after a read.
    #[inline(never)]
    fn counted_input(&mut self, side: usize) {
        let Side { id, machine, .. } = &mut self.sides[side];
        machine.handle_input(self.now.mono);
        if machine.poll_auth().is_some() {
            machine.handle_auth(self.now.mono, AuthOutcome::Ok("guest".into()));
        }
        machine.poll_commands(&mut self.commands);
        self.shard.handle_commands(self.now, *id, &mut self.commands);
    }

    /// The same after a write.
    #[inline(never)]
    fn counted_written(&mut self, side: usize) {
        let Side { id, machine, .. } = &mut self.sides[side];
        machine.handle_written(self.now.mono);
        machine.poll_commands(&mut self.commands);
        self.shard.handle_commands(self.now, *id, &mut self.commands);
    }

    /// A turn of the owner, what connections make of it, and the store's work.
    #[inline(never)]
    fn counted_turn(&mut self, done: Option<Group>) -> Result<()> {
        if let Some(group) = done {
            self.store.commit(&group)?;
            for committed in self.store.sync()? {
                self.shard.handle_committed(self.now, committed);
            }
        }
        if self.shard.poll_timeout().is_some_and(|at| at <= self.now.mono) {
            self.shard.handle_timeout(self.now);
        }
        for polled in 0.. {
            self.shard.poll_effects(self.now, &mut self.outbox);
            self.distribute()?;
            if polled > 0 || self.writing.is_some() {
                break;
            }
            self.writing = self.shard.poll_group(self.now).map(|group| (self.turns + SYNC_TURNS, group));
        }
        Ok(())
    }

    fn distribute(&mut self) -> Result<()> {
        if !self.outbox.loads.is_empty() {
            bail!("messages left memory, which these loads are too small for");
        }
        for (id, mut effects) in self.outbox.connections.drain(..) {
            if let Some(side) = self.sides.get_mut(id.0 as usize - 1) {
                side.machine.handle_effects(self.now.mono, &mut effects);
                side.machine.poll_commands(&mut self.commands);
                // Input that waited for the answer to a login.
                self.shard.handle_commands(self.now, id, &mut self.commands);
            }
        }
        Ok(())
    }
}

/// Room for a read, as the server makes it.
fn room(input: &mut BytesMut) {
    input.reserve(READ_BYTES);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Case, Flags};

    #[test]
    fn every_counted_case_comes_through_whole_and_in_order() {
        for case in crate::instructions::CASES {
            let plan = Plan::new(Some(case), &Flags::default()).expect("sound");
            drive(&plan, 3000).unwrap_or_else(|error| panic!("{case:?}: {error:#}"));
        }
    }

    #[test]
    fn what_needs_a_clock_is_refused() {
        let plan = Plan::new(Some(Case::H), &Flags::default()).expect("sound");
        assert!(drive(&plan, 10).is_err());
    }
}
