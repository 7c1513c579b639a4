//! The threads that block on the disk: one writes groups, one reads messages back.

use crate::Shared;
use crate::inbox::Item;
use hornpipe_store::{Reader, Store, StoreError};
use hornpipe_types::effect::{Load, Loaded};
use hornpipe_types::op::Group;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// What the store thread is given.
#[derive(Debug)]
enum Job {
    Group(Group),
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
    pub(crate) fn start(shared: Arc<Shared>, mut store: Store) -> std::io::Result<Self> {
        let slot = Arc::new(Slot::default());
        let jobs = slot.clone();
        std::thread::Builder::new().name("store".into()).spawn(move || {
            note_usage(&shared, &store);
            while let Some(job) = jobs.take() {
                match job {
                    Job::Group(group) => {
                        let written = catch_unwind(AssertUnwindSafe(|| write(&mut store, &group)));
                        match written {
                            Ok(Ok(committed)) => {
                                shared.inbox.push(Item::Committed(committed));
                                note_usage(&shared, &store);
                            }
                            Ok(Err(error)) => return shared.fatal(&format!("the store failed: {error}")),
                            Err(_) => return shared.fatal("the store thread panicked"),
                        }
                    }
                    Job::Close(reader, done) => {
                        // It has the files open too: once we say closed, the folder is free for another process.
                        reader.end();
                        let closed = catch_unwind(AssertUnwindSafe(|| store.close()));
                        let result = match closed {
                            Ok(result) => result.map_err(|error| error.to_string()),
                            Err(_) => Err("the store panicked while closing".to_owned()),
                        };
                        // Nobody waits when the stop took too long.
                        let _ = done.send(result);
                        return;
                    }
                }
            }
        })?;
        Ok(Self { slot })
    }

    /// Hands over a group. Only when the one before was reported.
    pub(crate) fn write(&self, group: Group) {
        self.slot.update(|job| *job = Some(Job::Group(group)));
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

fn write(store: &mut Store, group: &Group) -> Result<Vec<hornpipe_types::op::Committed>, StoreError> {
    store.commit(group)?;
    store.sync()
}

fn note_usage(shared: &Shared, store: &Store) {
    let (db, bodies) = store.usage();
    shared.store_db_bytes.store(db, Ordering::Relaxed);
    shared.store_body_bytes.store(bodies, Ordering::Relaxed);
}

/// The owner's end of the thread that reads messages back.
#[derive(Debug)]
pub(crate) struct ReaderThread {
    slot: Arc<Slot<Vec<Load>>>,
    thread: Option<JoinHandle<()>>,
}

impl ReaderThread {
    /// Starts the thread.
    pub(crate) fn start(shared: Arc<Shared>, reader: Reader) -> std::io::Result<Self> {
        let slot = Arc::new(Slot::<Vec<Load>>::default());
        let jobs = slot.clone();
        let thread = std::thread::Builder::new().name("store-reader".into()).spawn(move || {
            while let Some(loads) = jobs.take() {
                let answers = catch_unwind(AssertUnwindSafe(|| loads.iter().map(|l| read(&reader, l)).collect()));
                match answers {
                    Ok(answers) => shared.inbox.push(Item::Loaded(answers)),
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

fn read(reader: &Reader, load: &Load) -> Loaded {
    let batch = reader.read(&load.place).map_err(|error| {
        tracing::error!(enqueue = %load.enqueue, place = ?load.place, "messages can't be read back: {error}");
        error.to_string()
    });
    Loaded { id: load.id, batch }
}

#[cfg(test)]
mod tests {
    use super::*;

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
