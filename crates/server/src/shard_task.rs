//! The owner of a shard: nobody else touches it. Takes everything that waits in the inbox, up to a work budget,
//! then hands out all effects, one hand-over per connection, and feeds the store when it is free.
//!
//! Its turns are taken by its task, but for the few that a connection's task takes in its place: see [`Desk::serve`].

#[cfg(test)]
mod tests;

use crate::Shared;
use crate::homes::Home;
use crate::inbox::{Item, Link};
use crate::lines::{Lines, says};
use crate::patience::Patience;
use crate::store_thread::{ReaderThread, StoreThread};
use crate::turns::Begun;
use hornpipe_core::Shard;
use hornpipe_types::Map;
use hornpipe_types::command::{ChannelCommand, Command};
use hornpipe_types::effect::Outbox;
use hornpipe_types::ids::{ConnectionId, QueueId, RequestId};
use hornpipe_types::operate::Outcome;
use hornpipe_types::stats::Answer;
use hornpipe_types::time::{Instant, Now};
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::oneshot;

/// Commands of one turn before effects go out and other tasks get a chance.
const COMMANDS_PER_TURN: usize = 4096;
/// Items of one turn.
const ITEMS_PER_TURN: usize = 256;
/// No further item is begun in a turn that has handled items for so long already, µs.
const TURN_US: u64 = 1000;
/// A publisher that outran a queue's consumers is read again after so long at the latest.
const PACE_MS: u64 = 5;
/// A read with fewer octets of publishes is not held back: who sends little, or waits for confirms, is in no hurry.
const PACED_READ: usize = 16 << 10;
/// Runs that a report of the store tells of, above which the next group is put together in another turn.
const MANY_RUNS: usize = 1024;
/// Most that a connection adds to a group, octets, before it waits with those that add much.
const SHARE_MAX: u64 = 1 << 20;
/// At the end the shard is asked for its last group as if so much later, so that nothing waits for company any more.
const AFTER_ALL_DELAYS_MS: u64 = 60_000;

/// Why the process ends when a turn panics.
pub(crate) const PANICKED: &str = "the shard panicked";

/// A read that is handled in slices.
struct Unfinished {
    id: ConnectionId,
    commands: VecDeque<Command>,
    /// The read brought publishes when the store had too much already.
    withhold: bool,
    /// The read brought so many publishes that it may be held back for the consumers' sockets.
    hasty: bool,
    /// A queue they were faster than.
    outrun: Option<QueueId>,
    /// What came from the same connection since.
    later: VecDeque<Item>,
}

/// A connection whose credit is kept back while the consumers of a queue take some of what it brought.
struct Paced {
    link: Arc<Link>,
    queue: QueueId,
    until: Instant,
    /// What waited in the queue when it began.
    waiting: u64,
}

/// The owner of a shard.
pub(crate) struct Owner {
    shared: Arc<Shared>,
    home: Arc<Home>,
    shard: Shard,
    store: StoreThread,
    /// There until the store is closed.
    reader: Option<ReaderThread>,
    /// A group is being written.
    store_busy: bool,
    /// Whether what consumers may acknowledge at once is kept back.
    patience: Patience,
    /// The store is to rest once deliveries of this turn are written.
    rests: bool,
    /// What the store reported was so much work that it gets nothing before the next turn.
    put_off: bool,
    links: Map<ConnectionId, Arc<Link>>,
    /// Connections whose credit is kept back until less waits for the store.
    withheld: Vec<Arc<Link>>,
    /// What each connection has added to the group that gathers.
    shares: Map<ConnectionId, u64>,
    /// The same until a queue they outran is shorter, or some time has passed.
    paced: Vec<Paced>,
    asks: Map<RequestId, oneshot::Sender<Answer>>,
    /// Operations under way; ids are drawn together with those of `asks`.
    operations: Map<RequestId, oneshot::Sender<Outcome>>,
    last_ask: RequestId,
    /// Reads that were too much for one slice of work, with what their connections said since. They take turns.
    unfinished: VecDeque<Unfinished>,
    outbox: Outbox,
    finish: Option<oneshot::Sender<Result<(), String>>>,
    stopping: bool,
    /// Items taken out of the inbox.
    lines: Lines,
    /// The next turn is for those who bring much, whoever else waits.
    much_next: bool,
    /// Of these the next is one who has not begun, even if others are to go on.
    begin_next: bool,
    /// Room for taking them.
    taken: Vec<Item>,
    /// What the task's timer is set to.
    armed: Option<Instant>,
}

/// What comes after a turn.
enum Next {
    /// Another one.
    Turn,
    /// Rest until something comes, or until then.
    Rest(Option<Instant>),
    /// The shard is closed.
    End,
}

/// Where those who are not the owner's task find the owner, as long as there is one.
#[derive(Default)]
pub(crate) struct Desk(OnceLock<Weak<Mutex<Owner>>>);

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Desk").finish()
    }
}

impl Desk {
    /// Takes the owner's turn for an item right here, if the owner has nothing to do and nobody else is at it; else gives the item
    /// back. For what takes no longer than waking another thread would.
    ///
    /// What was waiting quietly is done first. The task goes on with what is left.
    pub(crate) fn serve(&self, item: Item) -> Option<Item> {
        let Some(owner) = self.0.get().and_then(Weak::upgrade) else { return Some(item) };
        let Ok(mut owner) = owner.try_lock() else { return Some(item) };
        if !owner.is_idle() {
            return Some(item);
        }
        let home = owner.home.clone();
        if let Some(item) = home.inbox.push_unless_told(item) {
            return Some(item);
        }
        let mut fuse = Fuse(Some(owner.shared.clone()));
        let needs_task = match owner.step() {
            Next::Turn | Next::End => true,
            Next::Rest(deadline) => deadline.is_some_and(|at| owner.armed.is_none_or(|armed| at < armed)),
        };
        fuse.0 = None;
        drop(owner);
        if needs_task {
            home.inbox.wake();
        }
        None
    }
}

/// Ends the process when a turn panics in the task of a connection.
struct Fuse(Option<Arc<Shared>>);

impl Drop for Fuse {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.fatal(PANICKED);
        }
    }
}

fn lock(owner: &Mutex<Owner>) -> MutexGuard<'_, Owner> {
    // After a panic the process ends.
    owner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.home.inbox.close();
    }
}

impl Owner {
    /// Takes over a recovered shard.
    pub(crate) fn new(
        shared: Arc<Shared>,
        home: Arc<Home>,
        shard: Shard,
        outbox: Outbox,
        store: StoreThread,
        reader: ReaderThread,
    ) -> Self {
        Self {
            shared,
            home,
            shard,
            store,
            reader: Some(reader),
            store_busy: false,
            patience: Patience::default(),
            rests: false,
            put_off: false,
            links: Map::default(),
            withheld: Vec::new(),
            shares: Map::default(),
            paced: Vec::new(),
            asks: Map::default(),
            operations: Map::default(),
            last_ask: RequestId::default(),
            unfinished: VecDeque::new(),
            outbox,
            finish: None,
            stopping: false,
            lines: Lines::default(),
            much_next: false,
            begin_next: false,
            taken: Vec::new(),
            armed: None,
        }
    }

    /// Runs until [`Item::Finish`] has been done.
    pub(crate) async fn run(self) {
        let home = self.home.clone();
        let clock = self.shared.clock;
        let owner = Arc::new(Mutex::new(self));
        // Started once only, so it is empty.
        let _ = home.desk.0.set(Arc::downgrade(&owner));
        let mut bell = home.inbox.hang_bell();
        let mut sleep = pin!(tokio::time::sleep(Duration::from_secs(86_400)));
        loop {
            let armed = {
                let mut owner = lock(&owner);
                match owner.step() {
                    Next::End => return,
                    Next::Turn => None,
                    Next::Rest(deadline) => {
                        // Only an earlier deadline moves the timer; a wake-up that comes too early is harmless.
                        if let Some(at) = deadline
                            && owner.armed.is_none_or(|armed| at < armed)
                        {
                            sleep.as_mut().reset(clock.deadline(at));
                            owner.armed = Some(at);
                        }
                        Some(owner.armed.is_some())
                    }
                }
            };
            let Some(armed) = armed else {
                tokio::task::yield_now().await;
                continue;
            };
            tokio::select! {
                biased;
                () = home.inbox.wait() => {}
                () = bell.rung() => {}
                () = sleep.as_mut(), if armed => lock(&owner).armed = None,
            }
        }
    }

    /// Whether nothing is left to do but what may wait in the inbox.
    fn is_idle(&self) -> bool {
        !self.goes_on() && !self.stopping && self.finish.is_none()
    }

    /// Whether the next turn is due at once.
    fn goes_on(&self) -> bool {
        !self.lines.is_empty() || self.goes_on_at().is_some() || self.rests || self.put_off || self.shard.has_work()
    }

    /// The first read in slices that need not wait until its connection's deliveries are settled.
    fn goes_on_at(&self) -> Option<usize> {
        self.unfinished.iter().position(|unfinished| !self.shard.is_settling(unfinished.id))
    }

    /// Takes a turn.
    fn step(&mut self) -> Next {
        if !self.much_next || !self.lines.asks() {
            self.home.inbox.take(&mut self.taken);
            self.taken.drain(..).for_each(|item| self.lines.add(item));
        }
        let begun = Begun::now();
        let now = self.shared.clock.now_at(begun.at());
        self.turn(now, &begun);
        self.home.turns.note(&begun);
        if self.try_finish(now) {
            return Next::End;
        }
        // What is due after a turn can only be a group that waits for the store: its report wakes us.
        let due = self.shard.poll_timeout().filter(|at| !self.store_busy || *at > now.mono);
        let deadline = self.paced.iter().map(|paced| paced.until).chain(due).min();
        match self.goes_on() || deadline.is_some_and(|at| at <= now.mono) {
            true => Next::Turn,
            false => Next::Rest(deadline),
        }
    }

    /// One turn: some items, the timer, then everything that follows from them.
    fn turn(&mut self, now: Now, begun: &Begun) {
        self.put_off = false;
        // What sockets took is told along with the rest: that is no reason for a turn of its own.
        let quiet = !self.lines.asks();
        let mut much = self.much_next && self.much_waits();
        if quiet || !much {
            self.do_little(now, begun);
        }
        if quiet {
            much = self.much_waits();
        }
        if much {
            // However long the others took, it has a slice.
            self.shard.begin_slice();
            self.do_much(now);
        }
        self.much_next = !much && self.much_waits();
        if self.shard.poll_timeout().is_some_and(|at| at <= now.mono) {
            self.shard.handle_timeout(now);
        }
        self.shard.poll_effects(now, &mut self.outbox);
        self.distribute();
        if !self.store_busy && !self.put_off {
            self.employ_store(now);
        }
        if !self.withheld.is_empty() && !self.shard.is_full() {
            for link in self.withheld.drain(..) {
                link.credit();
            }
        }
        let shard = &mut self.shard;
        self.paced.retain(|paced| {
            let outrun = shard.is_outrun(paced.queue);
            let waits = outrun && paced.until > now.mono;
            if !waits {
                let took = !outrun || shard.waiting_for_sockets(paced.queue) < paced.waiting;
                shard.note_held(paced.queue, took);
                paced.link.credit();
            }
            waits
        });
    }

    /// Whether somebody who brings much is to have a turn.
    fn much_waits(&self) -> bool {
        self.lines.has_long() || self.goes_on_at().is_some()
    }

    /// A slice of what one connection brings much of. Those who have begun and those who have not take turns.
    fn do_much(&mut self, now: Now) {
        let goes_on = self.goes_on_at();
        let begins = self.lines.has_long() && (self.begin_next || goes_on.is_none());
        self.begin_next = !begins;
        if begins {
            while let Some(item) = self.lines.next_long() {
                // What comes behind its own that goes on is only put there.
                let has_begun = says(&item).is_some_and(|id| self.unfinished.iter().any(|u| u.id == id));
                self.handle(now, item);
                if !has_begun {
                    break;
                }
            }
        } else if let Some(unfinished) = goes_on.and_then(|at| self.unfinished.remove(at)) {
            self.go_on(now, unfinished);
        }
    }

    /// Many that bring little each.
    fn do_little(&mut self, now: Now, begun: &Begun) {
        let (mut items, mut commands) = (0, 0);
        while items < ITEMS_PER_TURN && commands < COMMANDS_PER_TURN && !self.shard.is_tired() {
            if items > 0 && begun.us() >= TURN_US {
                break;
            }
            let Some(item) = self.lines.next_short() else { break };
            items += 1;
            commands += self.handle(now, item);
        }
    }

    /// Gives the store what there is to write, unless that may become needless in a moment.
    fn employ_store(&mut self, now: Now) {
        let rests = std::mem::take(&mut self.rests);
        if rests && let Some(oldest) = self.shard.may_be_spared() {
            self.store_busy = true;
            self.store.rest();
            return self.patience.begin(oldest);
        }
        if self.finish.is_none() && !rests && self.shard.may_be_spared().is_some() && self.patience.allows() {
            // Deliveries go out first: waking a thread takes time that their consumers can use.
            self.rests = true;
            return;
        }
        if let Some(group) = self.shard.poll_group(now) {
            self.store_busy = true;
            self.shares.clear();
            self.store.write(group);
        } else {
            // Everything was cancelled in memory, or nothing was there: confirms may go out without the disk.
            self.shard.poll_effects(now, &mut self.outbox);
            self.distribute();
        }
    }

    /// Handles one item; returns how many commands it was.
    fn handle(&mut self, now: Now, item: Item) -> usize {
        match item {
            Item::Connected(id, link) => self.connect(id, link),
            Item::Opening(id, link, (connections, of_user)) => {
                self.connect(id, link);
                self.shard.handle_elsewhere(id, connections, of_user);
            }
            Item::Commands(id, commands) => {
                if let Some(before) = self.unfinished.iter_mut().find(|u| u.id == id) {
                    before.later.push_back(Item::Commands(id, commands));
                    return 1;
                }
                let count = commands.len();
                self.begin(now, id, commands, VecDeque::new());
                return count;
            }
            Item::Gone(id) => {
                if let Some(before) = self.unfinished.iter_mut().find(|u| u.id == id) {
                    before.later.push_back(Item::Gone(id));
                    return 1;
                }
                if self.shard.is_settling(id) {
                    // What it said before it went is done to the end.
                    let (commands, later) = (VecDeque::new(), VecDeque::from([Item::Gone(id)]));
                    let last = Unfinished { id, commands, withhold: false, hasty: false, outrun: None, later };
                    self.unfinished.push_back(last);
                    return 1;
                }
                self.shard.handle_commands(now, id, &mut vec![Command::Gone]);
                self.links.remove(&id);
            }
            Item::Committed(groups) => {
                self.store_busy = false;
                if groups.is_empty() {
                    self.patience.end(self.shard.oldest_pending());
                }
                self.put_off = groups.iter().map(|g| g.places.len()).sum::<usize>() > MANY_RUNS;
                self.shard.set_spare_room(!self.shared.no_spare_room.load(Ordering::Relaxed));
                for committed in groups {
                    self.shard.handle_committed(now, committed);
                }
            }
            Item::Loaded(answers) => {
                for loaded in answers {
                    self.shard.handle_loaded(now, loaded);
                }
            }
            Item::Ask(request, answer) => {
                self.last_ask = self.last_ask.next();
                self.asks.insert(self.last_ask, answer);
                self.shard.handle_request(now, self.last_ask, request);
            }
            Item::Operate(user, operation, answer) => {
                self.last_ask = self.last_ask.next();
                self.operations.insert(self.last_ask, answer);
                self.shard.handle_operation(now, self.last_ask, &user, *operation);
            }
            Item::Alarms(alarms) => self.shard.handle_alarms(now, alarms.memory, alarms.disk),
            Item::CloseAll(text) => {
                self.stopping = true;
                for link in self.links.values() {
                    link.stop();
                }
                self.shard.handle_shutdown(now, &text);
            }
            Item::Finish(done) => self.finish = Some(done),
            #[cfg(test)]
            Item::Meet(meeting) => meeting.arrive(),
            #[cfg(test)]
            Item::PanicOnFront => assert_ne!(std::thread::current().name(), Some("front"), "as asked"),
        }
        1
    }

    fn connect(&mut self, id: ConnectionId, link: Arc<Link>) {
        if self.stopping {
            link.stop();
        }
        self.links.insert(id, link);
    }

    /// Handles what a read brought, or a slice of it.
    fn begin(&mut self, now: Now, id: ConnectionId, commands: Vec<Command>, later: VecDeque<Item>) {
        // Publishers that are faster than the disk are read no more for a while. Nothing a client does is needed for the
        // disk to catch up, so this can't last.
        let publishes = commands.iter().filter_map(|c| {
            let (batch, count) = match c {
                Command::Channel(_, ChannelCommand::Publish(run)) => (&run.batch, run.count),
                Command::Publishes(many) => (&many.batch, many.runs.iter().map(|run| run.count).sum()),
                _ => return None,
            };
            Some(batch.resident_bytes() * count as usize / batch.len().max(1) as usize)
        });
        let (any, octets) = publishes.fold((false, 0), |(_, sum), octets| (true, sum + octets));
        let (withhold, hasty) = (any && self.shard.is_full(), octets >= PACED_READ);
        self.go_on(now, Unfinished { id, commands: commands.into(), withhold, hasty, outrun: None, later });
    }

    /// Handles a slice of what a read brought.
    fn go_on(&mut self, now: Now, mut unfinished: Unfinished) {
        let id = unfinished.id;
        // What timers and others have outrun is not this connection's haste.
        self.shard.poll_outrun();
        let before = self.shard.waiting_for_store();
        self.shard.handle_some(now, id, &mut unfinished.commands);
        let added = self.shard.waiting_for_store().saturating_sub(before);
        if added > 0 {
            *self.shares.entry(id).or_default() += added;
        }
        unfinished.outrun = self.shard.poll_outrun().or(unfinished.outrun);
        if !unfinished.commands.is_empty() {
            self.unfinished.push_back(unfinished);
            return;
        }
        match (self.links.get(&id), unfinished.outrun) {
            (Some(link), _) if unfinished.withhold && self.has_its_share(id) => self.withheld.push(link.clone()),
            (Some(link), Some(queue)) if unfinished.hasty => {
                let (until, waiting) = (now.mono.plus_ms(PACE_MS), self.shard.waiting_for_sockets(queue));
                self.paced.push(Paced { link: link.clone(), queue, until, waiting });
            }
            (Some(link), _) => link.credit(),
            (None, _) => {}
        }
        match unfinished.later.pop_front() {
            Some(Item::Commands(_, commands)) => self.begin(now, id, commands, unfinished.later),
            Some(other) => {
                self.handle(now, other);
            }
            None => {}
        }
    }

    /// Whether a connection has put as much into the group that gathers as any of them may while there is too much for the
    /// store. So little traffic doesn't wait for what others fill the disk with; together they get a quarter on top.
    fn has_its_share(&self, id: ConnectionId) -> bool {
        let part = self.shard.waiting_max() / (4 * self.links.len().max(1) as u64);
        self.shares.get(&id).is_some_and(|share| *share > part.min(SHARE_MAX))
    }

    /// Hands out everything a turn brought.
    fn distribute(&mut self) {
        for (id, mut effects) in self.outbox.connections.drain(..) {
            if let Some(link) = self.links.get(&id) {
                link.deliver(&mut effects);
            }
        }
        if !self.outbox.loads.is_empty()
            && let Some(reader) = &self.reader
        {
            reader.read(&mut self.outbox.loads);
        }
        // Before what asked for it is told: a new user can log in at once.
        if let Some(table) = self.outbox.logins.take()
            && self.home.number == 0
        {
            self.shared.auth.set_table(table);
        }
        for remark in self.outbox.remarks.drain(..) {
            tracing::error!("{remark}");
        }
        for (id, outcome) in self.outbox.outcomes.drain(..) {
            if let Some(asker) = self.operations.remove(&id) {
                let _ = asker.send(outcome);
            }
        }
        for (id, mut answer) in self.outbox.answers.drain(..) {
            if let Answer::Connections(connections) = &mut answer {
                for connection in connections {
                    if let Some(link) = self.links.get(&connection.id) {
                        connection.recv_oct = link.received.load(Ordering::Relaxed);
                        connection.send_oct = link.sent.load(Ordering::Relaxed);
                    }
                }
            }
            if let Some(asker) = self.asks.remove(&id) {
                // An asker that has gone away needs no answer.
                let _ = asker.send(answer);
            }
        }
    }

    /// At the end: writes group after group until nothing is left, then closes the store. Says whether that was started.
    fn try_finish(&mut self, now: Now) -> bool {
        let waits = !self.lines.is_empty() || !self.unfinished.is_empty();
        if self.finish.is_none() || self.store_busy || waits || self.shard.has_work() {
            return false;
        }
        let later = Now { mono: now.mono.plus_ms(AFTER_ALL_DELAYS_MS), wall: now.wall };
        if let Some(group) = self.shard.poll_group(later) {
            self.store_busy = true;
            self.store.write(group);
            return false;
        }
        if let (Some(done), Some(reader)) = (self.finish.take(), self.reader.take()) {
            self.store.finish(reader, done);
        }
        true
    }
}
