//! The real store on a medium in memory, with the faults of a disk.
//!
//! **Fault model.**
//! - A group is handed over, written some time later, and durable some time after that: any other thing may happen between.
//! - A crash keeps everything that was synced and any number of the batches written since, in order; of bodies that were
//!   not synced it keeps nothing. A failed sync ends the process, so it is a crash too.
//! - A stop in order writes everything and marks the store as clean.
//! - Not here: torn or flipped bits, and bodies that outlive a crash by halves. The store's own tests damage every octet.

use crate::invariants::Violation;
use hornpipe_core::Shard;
use hornpipe_store::{Memory, Store, StoreConfig, StoreError};
use hornpipe_types::effect::{Load, Loaded};
use hornpipe_types::op::{Committed, Group};
use std::collections::VecDeque;

/// A store at work and the medium below it.
#[derive(Debug)]
pub(crate) struct Disk {
    medium: Memory,
    store: Store,
    /// Handed over and not written: the turn they were taken in, the group.
    waiting: VecDeque<(u64, Group)>,
    /// Written and not synced: the turn, whether there was anything to write.
    written: Vec<(u64, bool)>,
    /// Everything up to the end of this turn is on disk.
    pub(crate) durable: u64,
    depth: usize,
}

fn failed(what: &str, error: &StoreError) -> Violation {
    Violation::new("store", format!("{what}: {error}"))
}

impl Disk {
    /// Opens what a crash or a stop left and recovers a shard from it.
    pub(crate) fn open(
        medium: Memory,
        config: &StoreConfig,
        depth: usize,
        durable: u64,
        shard: &mut Shard,
    ) -> Result<Self, Violation> {
        let mut store = Store::with_medium(Box::new(medium.clone()), config.clone());
        store.recover(&mut |item| shard.handle_recovered(item)).map_err(|e| failed("it does not open", &e))?;
        let (waiting, written) = (VecDeque::new(), Vec::new());
        Ok(Self { medium, store, waiting, written, durable, depth })
    }

    /// Whether one more group may be handed over.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() + self.written.len() < self.depth
    }
    /// Takes a group that holds everything up to the end of `turn`.
    pub(crate) fn hand_over(&mut self, turn: u64, group: Group) {
        self.waiting.push_back((turn, group));
    }
    /// Writes the oldest group handed over. Says whether a sync is to follow.
    pub(crate) fn write(&mut self) -> Result<bool, Violation> {
        let Some((turn, group)) = self.waiting.pop_front() else { return Ok(false) };
        // Renews the mark behind the report of the group before, unless the power went in between.
        self.store.tend().map_err(|e| failed("it can't be tended", &e))?;
        let before = self.medium.unsynced();
        self.store.commit(&group).map_err(|e| failed("it can't write", &e))?;
        self.written.push((turn, self.medium.unsynced() > before));
        Ok(self.written.len() == 1)
    }
    /// Makes what was written durable.
    pub(crate) fn sync(&mut self) -> Result<Vec<Committed>, Violation> {
        let done = self.store.sync().map_err(|e| failed("it can't sync", &e))?;
        if let Some((turn, _)) = self.written.last() {
            self.durable = *turn;
        }
        self.written.clear();
        Ok(done)
    }
    /// Reads a run back. An error is for the shard to bear: the run may have died while the read waited. Where it has not,
    /// its messages never come, which other checks see.
    pub(crate) fn read(&self, load: &Load) -> Loaded {
        let reader = self.store.reader();
        Loaded { id: load.id, batch: load.read_with(|place| reader.read(place)).map_err(|e| e.to_string()) }
    }
    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.written.is_empty()
    }
    /// Batches a crash may keep or lose.
    pub(crate) fn unsynced(&self) -> usize {
        self.medium.unsynced()
    }
    /// The turn up to whose end everything is on disk if the power goes and `keep` batches more survive.
    pub(crate) fn durable_after(&self, keep: usize) -> u64 {
        let (mut left, mut durable) = (keep, self.durable);
        for (turn, something) in &self.written {
            if *something {
                if left == 0 {
                    break;
                }
                left -= 1;
            }
            durable = *turn;
        }
        durable
    }
    /// The power goes. Returns what is left, and the turn up to whose end everything is in it.
    pub(crate) fn crash(self, keep: usize) -> (Memory, u64) {
        (self.medium.after_crash(keep), self.durable_after(keep))
    }
    /// Stops in order.
    pub(crate) fn close(self) -> Result<Memory, Violation> {
        self.store.close().map_err(|e| failed("it does not close", &e))?;
        // what close left unsynced must not matter any more
        Ok(self.medium.after_crash(0))
    }
}
