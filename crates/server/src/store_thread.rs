//! The threads that block on the disk: one writes groups, one reads messages back.

use crate::Shared;
use crate::homes::Home;
use crate::inbox::Item;
use hornpipe_store::{Ballast, ReadAhead, Reader, Snapshot, Store, StoreError, Tended};
use hornpipe_types::effect::{Load, Loaded};
use hornpipe_types::message::Span;
use hornpipe_types::op::{Group, StoreOp};
use hornpipe_types::operate::SnapshotMade;
use hornpipe_types::stats::Health;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What a message is kept back for that its consumer may acknowledge before it is written: a little more than that takes, and
/// less than a sync.
const REST: Duration = Duration::from_micros(100);
/// How often the store is tended while no groups come, and how often its files are looked at.
const TICK: Duration = Duration::from_secs(1);

/// What the log's database may take at once beside what is written, octets.
const SEGMENT: u64 = 9 << 20;
/// What the last groups before a stop may take beside what is written.
const AT_THE_END: u64 = 1 << 20;
/// Octets that are copied forward at once, about.
const STEP: u64 = 4 << 20;
/// With so much free beside a write nothing else is looked at for it.
const AMPLE: u64 = 1 << 30;
/// Runs to be written as one that are read, and handled, at once.
const JOINED_AT_ONCE: usize = 512;
/// How often a full disk is looked at.
const FULL_PAUSE: Duration = Duration::from_millis(50);

/// What the store thread is given.
#[derive(Debug)]
enum Job {
    Group(Group),
    Rest,
    Close(ReaderThread, oneshot::Sender<Result<(), String>>),
}

/// A place for one thing that a thread waits for.
#[derive(Debug)]
struct Slot<T> {
    held: Mutex<(Option<T>, bool)>,
    filled: Condvar,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { held: Mutex::new((None, false)), filled: Condvar::new() }
    }
}

impl<T> Slot<T> {
    fn update(&self, change: impl FnOnce(&mut Option<T>)) {
        change(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner).0);
        self.filled.notify_one();
    }
    /// Waits for something; `None` once the slot is closed and empty.
    fn take(&self) -> Option<T> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.filled.wait_while(held, |(value, closed)| value.is_none() && !*closed);
        waiting.unwrap_or_else(PoisonError::into_inner).0.take()
    }
    /// The same for a while only: `Some(None)` when nothing came.
    fn take_within(&self, wait: Duration) -> Option<Option<T>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.filled.wait_timeout_while(held, wait, |(value, closed)| value.is_none() && !*closed);
        let (mut held, timeout) = waiting.unwrap_or_else(PoisonError::into_inner);
        match held.0.take() {
            None if !timeout.timed_out() => None,
            taken => Some(taken),
        }
    }
    fn close(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.filled.notify_one();
    }
}

/// The owner's end of the store thread. It has room for one group at a time: what comes while that one syncs is
/// collected in the shard, where acknowledgements can still cancel it.
#[derive(Debug)]
pub(crate) struct StoreThread {
    slot: Arc<Slot<Job>>,
}

impl StoreThread {
    /// Starts the thread.
    pub(crate) fn start(shared: Arc<Shared>, home: Arc<Home>, store: Store) -> std::io::Result<Self> {
        let slot = Arc::new(Slot::default());
        let jobs = slot.clone();
        let name = home.thread_name("store");
        let mut keeper = Keeper::new(shared, home, store);
        std::thread::Builder::new().name(name).spawn(move || {
            let mut busy = false;
            while let Some(job) = jobs.take_within(if busy { Duration::ZERO } else { keeper.pause() }) {
                match job {
                    Some(Job::Close(reader, done)) => {
                        // Nobody waits when the stop took too long.
                        let _ = done.send(keeper.close(reader));
                        return;
                    }
                    Some(Job::Group(group)) if !keeper.write(&group) => return,
                    Some(Job::Rest) => keeper.rest(),
                    _ => {}
                }
                match keeper.tend() {
                    Some(more) => busy = more,
                    None => return,
                }
            }
        })?;
        Ok(Self { slot })
    }

    /// Hands over a group. Only when the one before was reported.
    pub(crate) fn write(&self, group: Group) {
        self.slot.update(|job| *job = Some(Job::Group(group)));
    }

    /// Lets a moment pass, then reports that nothing was written. Only when the group before was reported.
    pub(crate) fn rest(&self) {
        self.slot.update(|job| *job = Some(Job::Rest));
    }

    /// Closes the store and ends both threads; answered when the clean mark is on disk. Only when no group is being written.
    pub(crate) fn finish(&self, reader: ReaderThread, done: oneshot::Sender<Result<(), String>>) {
        self.slot.update(|job| *job = Some(Job::Close(reader, done)));
    }
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        self.slot.close();
    }
}

/// What the store thread works with.
struct Keeper {
    shared: Arc<Shared>,
    home: Arc<Home>,
    store: Store,
    ballast: Option<Ballast>,
    /// What this thread added to [`crate::alarms::Levels::writing`].
    writing: u64,
    /// What this thread holds of [`crate::room::Room`].
    granted: u64,
    noted: Instant,
    /// The store has housekeeping that goes on.
    busy: bool,
    /// Renewals that were logged.
    renewals: u64,
    /// Who waits for the snapshot under way.
    snapshot: Option<oneshot::Sender<Result<SnapshotMade, String>>>,
}

impl Keeper {
    fn new(shared: Arc<Shared>, home: Arc<Home>, store: Store) -> Self {
        let config = &shared.config;
        let on_disk = matches!(config.storage, crate::Storage::Disk);
        let mut ballast = on_disk.then(|| Ballast::new(&config.data_dir, config.ballast_bytes, config.shards));
        let noted = Instant::now();
        // The ballast is made once clients are served: a start shouldn't wait for it. But what this one took the next may need.
        if let Some(error) =
            ballast.as_mut().filter(|b| home.number == 0 && b.is_scarce()).and_then(|b| b.restore(u64::MAX / 2).err())
        {
            tracing::warn!("{error}");
        }
        *home.usage.lock().unwrap_or_else(PoisonError::into_inner) = store.usage();
        Self { shared, home, store, ballast, writing: 0, granted: 0, noted, busy: false, renewals: 0, snapshot: None }
    }

    /// Runs a step of the store; `None` when it failed and the process ends.
    fn guarded<T>(&mut self, step: impl FnOnce(&mut Store) -> Result<T, StoreError>) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(|| step(&mut self.store))) {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => self.shared.fatal(&format!("the store failed: {error}")),
            Err(_) => self.shared.fatal("the store thread panicked"),
        }
        None
    }

    fn rest(&self) {
        let takes = self.home.inbox.takes();
        std::thread::sleep(REST);
        self.home.inbox.push_from_outside(Item::Committed(Vec::new()), takes);
    }

    /// Writes a group and reports it; whether to go on.
    fn write(&mut self, group: &Group) -> bool {
        let takes = self.home.inbox.takes();
        let octets = octets(group);
        self.tell_writing(2 * octets);
        self.find_room(octets);
        let written = self.guarded(|store| {
            store.commit(group)?;
            store.sync()
        });
        self.shared.room.give_back(std::mem::take(&mut self.granted));
        let Some(committed) = written else { return false };
        self.home.inbox.push_from_outside(Item::Committed(committed), takes);
        true
    }

    /// Says how much this shard may still write.
    fn tell_writing(&mut self, octets: u64) {
        let writing = &self.shared.levels.writing;
        writing.fetch_add(octets, Ordering::Relaxed);
        writing.fetch_sub(std::mem::replace(&mut self.writing, octets), Ordering::Relaxed);
    }

    /// Gives up the ballast for a write of so many octets, and waits while the disk is too full for it all the same:
    /// publishers are blocked then, consumers go on, and everything does once there is space. What the next start needs is
    /// left, unless this process is about to end. All shards share the room: what the group may take is granted to it.
    fn find_room(&mut self, octets: u64) {
        let mut told = false;
        if self.ballast.as_ref().is_none_or(|b| b.free() >= octets.saturating_add(AMPLE)) {
            return;
        }
        while let Some(ballast) = &self.ballast {
            let stopping = matches!(self.shared.health(), Health::Stopping);
            if ballast.release_for(octets.saturating_add(self.shared.room.granted())) {
                tracing::warn!(
                    "the disk is nearly full: a part of the ballast was given up; it is made again when there is space"
                );
                self.note();
                continue;
            }
            if stopping {
                // Nobody would make room in time. The last groups are small, and most likely fit into what the database has.
                if ballast.free() < octets.saturating_add(AT_THE_END) && ballast.release_last() {
                    tracing::warn!("the disk is full: the rest of the ballast was given up for the stop");
                }
                break;
            }
            let need = octets.saturating_add(SEGMENT);
            if self.shared.room.take(need, || ballast.free()) {
                self.granted = need;
                break;
            }
            if !told {
                tracing::error!("the disk is full: what is to be written waits, and confirms with it");
                told = true;
            }
            std::thread::sleep(FULL_PAUSE);
        }
        self.look_for_spare_room();
    }

    /// Work that can wait is done while there is room beside what is kept back. All shards may come upon some at the same time,
    /// so each counts on its share.
    fn look_for_spare_room(&mut self) {
        let Some(ballast) = &self.ballast else { return };
        let others = self.shared.room.granted().saturating_sub(self.granted);
        let spare = ballast.spare().saturating_sub(others) / u64::from(self.shared.config.shards.max(1));
        self.store.set_spare_room(spare);
        // A step of copying forward may begin a body file and a segment.
        let step = crate::body_file_bytes(&self.shared.config).saturating_add(SEGMENT);
        let short = spare < step.saturating_add(STEP);
        if short != self.shared.no_spare_room.swap(short, Ordering::Relaxed) && short {
            tracing::warn!(spare, "little room is left on the disk: the log is not tidied until there is more");
        }
    }

    /// How long to wait for a group before the next housekeeping.
    fn pause(&self) -> Duration {
        self.store.mark_due().map_or(TICK, |due| due.min(TICK))
    }

    /// Housekeeping; says whether there is more, `None` when the process ends.
    fn tend(&mut self) -> Option<bool> {
        self.begin_snapshot();
        let Tended { more, snapshot } = self.guarded(Store::tend)?;
        if let Some(made) = snapshot {
            self.end_snapshot(made);
        }
        if self.noted.elapsed() >= TICK || more != self.busy {
            // Grows again with the next group.
            self.tell_writing(0);
            self.note();
        }
        self.busy = more;
        Some(more)
    }

    fn begin_snapshot(&mut self) {
        let asked = {
            let mut held = self.home.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
            if self.snapshot.is_some() { None } else { held.take() }
        };
        let Some((to, asker)) = asked else { return };
        match self.store.snapshot(&to) {
            Ok(()) => self.snapshot = Some(asker),
            Err(error) => drop(asker.send(Err(error.to_string()))),
        }
    }

    fn end_snapshot(&mut self, made: Result<Snapshot, StoreError>) {
        let Some(asker) = self.snapshot.take() else { return };
        let finish = move || {
            let told = made.and_then(|snapshot| {
                let (folder, db_bytes) = (snapshot.to.display().to_string(), snapshot.map_bytes);
                snapshot.finish().map(|body_bytes| SnapshotMade { folder, db_bytes, body_bytes })
            });
            match &told {
                Ok(made) => tracing::info!(folder = made.folder, "a snapshot was made"),
                Err(error) => tracing::error!("{error}"),
            }
            // Who asked may have gone away.
            let _ = asker.send(told.map_err(|error| error.to_string()));
        };
        // Copying to another file system takes long, and groups wait for us.
        if let Err(error) = std::thread::Builder::new().name("snapshot".into()).spawn(finish) {
            tracing::error!("can't start a thread to finish a snapshot: {error}");
        }
    }

    /// Looks at files and room on the volume, so it is not done with each group.
    fn note(&mut self) {
        let shared = &self.shared;
        let usage = self.store.usage();
        if usage.renewals > self.renewals {
            self.renewals = usage.renewals;
            let (size, live) = (usage.map_bytes, usage.map_live_bytes);
            tracing::info!(size, live, "the log's database was copied to a fresh one, to give back disk space");
        }
        *self.home.usage.lock().unwrap_or_else(PoisonError::into_inner) = usage;
        // All shards can give it up, the first one makes it.
        if let Some(ballast) = self.ballast.as_mut().filter(|_| self.home.number == 0) {
            if let Err(error) = ballast.restore(shared.config.alarms.disk_free_limit) {
                tracing::warn!("{error}");
            }
            shared.ballast_bytes.store(ballast.held(), Ordering::Relaxed);
            shared.levels.reserve.store(ballast.missing(), Ordering::Relaxed);
        }
        self.look_for_spare_room();
        self.noted = Instant::now();
    }

    fn close(self, reader: ReaderThread) -> Result<(), String> {
        // It has the files open too: once we say closed, the folder is free for another process.
        reader.end();
        match catch_unwind(AssertUnwindSafe(|| self.store.close())) {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("the store panicked while closing".to_owned()),
        }
    }
}

/// Octets of messages in a group, about.
fn octets(group: &Group) -> u64 {
    let span = |s: &Span| s.batch.resident_bytes() as u64 * u64::from(s.count) / u64::from(s.batch.len().max(1));
    let of = |op: &StoreOp| match op {
        StoreOp::Enqueue(e) => e.spans().map(span).sum(),
        _ => 0,
    };
    group.ops.iter().map(of).sum()
}

/// The owner's end of the thread that reads messages back.
#[derive(Debug)]
pub(crate) struct ReaderThread {
    slot: Arc<Slot<Vec<Load>>>,
    thread: Option<JoinHandle<()>>,
}

impl ReaderThread {
    /// Starts the thread.
    pub(crate) fn start(shared: Arc<Shared>, home: Arc<Home>, reader: Reader) -> std::io::Result<Self> {
        let slot = Arc::new(Slot::<Vec<Load>>::default());
        let jobs = slot.clone();
        let thread = std::thread::Builder::new().name(home.thread_name("store-reader")).spawn(move || {
            let mut joins = VecDeque::new();
            while let Some(asked) = take_loads(&jobs, joins.is_empty()) {
                let loads = next_loads(asked, &mut joins);
                let answers = catch_unwind(AssertUnwindSafe(|| read_all(&reader, &loads)));
                match answers {
                    Ok(answers) => home.inbox.push(Item::Loaded(answers)),
                    Err(_) => return shared.fatal("the store's reader panicked"),
                }
            }
        })?;
        Ok(Self { slot, thread: Some(thread) })
    }

    /// Asks for messages; drains `loads`.
    pub(crate) fn read(&self, loads: &mut Vec<Load>) {
        self.slot.update(|waiting| waiting.get_or_insert_default().append(loads));
    }

    /// Waits for the thread's end. Blocking.
    fn end(mut self) {
        self.slot.close();
        if let Some(thread) = self.thread.take() {
            // A panic in it was told when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for ReaderThread {
    fn drop(&mut self) {
        self.slot.close();
    }
}

/// What was asked for since; waits for it when there is nothing else to do. `None` once nobody asks any more.
fn take_loads(jobs: &Slot<Vec<Load>>, idle: bool) -> Option<Vec<Load>> {
    if idle { jobs.take() } else { jobs.take_within(Duration::ZERO).map(Option::unwrap_or_default) }
}

/// What to read next: runs that somebody waits for, else a part of those that are to be written as one.
fn next_loads(asked: Vec<Load>, joins: &mut VecDeque<Load>) -> Vec<Load> {
    let (mut next, later): (Vec<Load>, Vec<Load>) = asked.into_iter().partition(|l| l.behind.is_empty());
    joins.extend(later);
    let mut runs = 0;
    while next.is_empty() || (runs > 0 && runs < JOINED_AT_ONCE) {
        let Some(join) = joins.pop_front() else { break };
        runs += join.behind.len();
        next.push(join);
    }
    next
}

fn read_all(reader: &Reader, loads: &[Load]) -> Vec<Loaded> {
    // short runs, which lie beside those of other queues
    let ahead = reader.ahead(loads.iter().filter(|l| !l.behind.is_empty()).flat_map(Load::places));
    loads.iter().map(|load| read(&ahead, load)).collect()
}

fn read(reader: &ReadAhead<'_>, load: &Load) -> Loaded {
    let batch = load.read_with(|place| reader.read(place)).map_err(|error| {
        // The shard knows whose they are; it says so unless they have gone or moved meanwhile.
        tracing::warn!(enqueue = %load.enqueue, place = ?load.place, "a run of messages can't be read back: {error}");
        error.to_string()
    });
    Loaded { id: load.id, batch }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hornpipe_types::ids::{EnqueueId, LoadId};
    use hornpipe_types::op::Place;

    #[test]
    fn runs_somebody_waits_for_are_read_before_those_to_be_joined() {
        let place = Place { lsn: 1, part: 0, index: 0, body: None };
        let load =
            |id, behind: usize| Load { id: LoadId(id), enqueue: EnqueueId(id), place, behind: vec![place; behind] };
        let ids = |loads: Vec<Load>| loads.iter().map(|l| l.id.0).collect::<Vec<_>>();
        let mut joins = VecDeque::new();
        let asked = vec![load(1, 1), load(2, 0), load(3, JOINED_AT_ONCE), load(4, 1), load(5, 0)];
        assert_eq!(ids(next_loads(asked, &mut joins)), [2, 5]);
        assert_eq!(ids(next_loads(vec![load(6, 0)], &mut joins)), [6]);
        assert_eq!(ids(next_loads(vec![], &mut joins)), [1, 3]);
        assert_eq!(ids(next_loads(vec![], &mut joins)), [4]);
        assert!(joins.is_empty() && next_loads(vec![], &mut joins).is_empty());
    }

    #[test]
    fn a_slot_hands_over_what_is_in_it_and_ends_when_closed() {
        let slot = Arc::new(Slot::<Vec<u32>>::default());
        let taker = std::thread::spawn({
            let slot = slot.clone();
            move || {
                let mut all = Vec::new();
                while let Some(some) = slot.take() {
                    all.extend(some);
                }
                all
            }
        });
        for i in 0..100 {
            slot.update(|held| held.get_or_insert_default().push(i));
        }
        slot.close();
        assert_eq!(taker.join().unwrap(), (0..100).collect::<Vec<_>>());
    }
}
