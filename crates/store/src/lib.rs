//! The durable side of hornpipe: groups of [`StoreOp`](hornpipe_types::op::StoreOp)s go in, and come back after a restart.
//!
//! The store is blocking and belongs on a thread of its own. It must not know tokio, AMQP or the broker's decisions: the
//! shard says what is written and what may go, the store owns bytes and files. Read first: [`Store`], [`Medium`],
//! [`StoreError`].
//!
//! Order of a commit, and the reason why a confirm may follow it: bodies are written and fdatasync'ed, then one atomic
//! batch names them, then the map is flushed and fdatasync'ed. Only then does [`Store::sync`] report the group.

pub mod error;
pub mod medium;

pub use error::StoreError;
pub use medium::Medium;

use hornpipe_types::message::Batch;
use hornpipe_types::op::{Committed, Group, Place, Recovered};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Which folder below the data folder: `shard-N`.
    pub shard: u32,
    /// Cache of the map, octets. Real memory is about half as much again.
    pub cache_bytes: u64,
    /// Groups whose encoded messages come to this many octets go to body files, smaller ones into the map. At most 48 KiB.
    pub inline_bytes_max: usize,
    /// Size of a body file, octets. A run that is bigger gets a file of its own.
    pub body_file_bytes: u64,
    /// How often the mark (watermark, clean flag) is renewed at most.
    pub mark_every: Duration,
    /// Opens a damaged store, dropping what can't be read.
    pub accept_data_loss: bool,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            shard: 0,
            cache_bytes: 64 << 20,
            inline_bytes_max: 32 << 10,
            body_file_bytes: 16 << 20,
            mark_every: Duration::from_secs(2),
            accept_data_loss: false,
        }
    }
}

/// The store of one shard.
#[derive(Debug)]
pub struct Store {}

impl Store {
    /// Opens or creates `dir/shard-N`. A second process is refused. Damage that shows only in the log is found by
    /// [`Self::recover`].
    pub fn open(_dir: &Path, _config: StoreConfig) -> Result<Self, StoreError> {
        Ok(Self {})
    }
    /// Tells what is there: definitions, then the log in order, then `End`. To be called once, before the first commit.
    pub fn recover(&mut self, visit: &mut dyn FnMut(Recovered)) -> Result<(), StoreError> {
        visit(Recovered::End { clean: true, orphan_files: vec![] });
        Ok(())
    }
    /// Writes a group: bodies, their fdatasync, then everything else as one atomic batch. Returns the lsn, 0 when the group
    /// put nothing into the log. Durable after [`Self::sync`].
    pub fn commit(&mut self, _group: &Group) -> Result<u64, StoreError> {
        Err(StoreError::Fatal("not built yet".to_owned()))
    }
    /// Makes all groups committed so far durable and reports them, in order.
    pub fn sync(&mut self) -> Result<Vec<Committed>, StoreError> {
        Ok(Vec::new())
    }
    /// A handle that reads messages back, for other threads.
    pub fn reader(&self) -> Reader {
        Reader {}
    }
    /// Octets on disk: of the map, of the body files.
    pub fn usage(&self) -> (u64, u64) {
        (0, 0)
    }
    /// Syncs and marks the stop as clean.
    pub fn close(self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Reads messages back.
#[derive(Debug, Clone)]
pub struct Reader {}

impl Reader {
    /// All messages of the run at a place. Damage is an error, never wrong bytes.
    pub fn read(&self, _place: &Place) -> Result<Arc<Batch>, StoreError> {
        Err(StoreError::Fatal("not built yet".to_owned()))
    }
}
