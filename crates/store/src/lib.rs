//! The durable side of hornpipe: groups of [`StoreOp`](hornpipe_types::op::StoreOp)s go in, and come back after a restart.
//!
//! The store is blocking and belongs on a thread of its own. It must not know tokio, AMQP or the broker's decisions: the
//! shard says what is written and what may go, the store owns bytes and files. Read first: [`Store`], [`Medium`],
//! [`StoreError`].
//!
//! Order of a commit, and the reason why a confirm may follow it: bodies are written and fdatasync'ed, then one atomic
//! batch names them, then the map is flushed and fdatasync'ed. Only then does [`Store::sync`] report the group.
//!
//! ```text
//! shards            how many shards there are, when there are several
//! shard-N/lock      held by the process that has the store open
//! shard-N/mark      watermark and clean flag, in two slots written in turn
//! shard-N/db/       the map: definitions, log records, small messages; later generations are db-2, db-3 …
//! shard-N/generation  which of them counts; without it the first one
//! shard-N/bodies/   big groups' messages, one frame a run
//! ```

mod ahead;
mod ballast;
mod body;
mod crew;
mod definition;
mod disk;
pub mod error;
pub mod faulty;
mod key;
pub mod medium;
pub mod memory;
mod reader;
mod record;
mod recover;
mod run;
mod shards;
mod sled;
mod snapshot;
mod space;
mod store;
pub mod tools;
mod wire;

pub use ballast::Ballast;
pub use disk::FolderLock;
pub use error::StoreError;
pub use faulty::{Call, Fault, Faults, Faulty};
pub use medium::Medium;
pub use memory::Memory;
pub use reader::{ReadAhead, Reader};
pub use shards::{has_shard, set_shard_count, shard_count};
pub use space::{Snapshot, Tended};
pub use store::{Store, Usage};

use std::time::Duration;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Which folder below the data folder: `shard-N`.
    pub shard: u32,
    /// Cache of the map, octets. Real memory is about half as much again.
    pub cache_bytes: u64,
    /// Groups whose encoded messages come to this many octets go to body files, smaller ones into the map. At most 40 KiB.
    pub inline_bytes_max: usize,
    /// Size of a body file, octets. A run that is bigger gets a file of its own.
    pub body_file_bytes: u64,
    /// How long the mark (watermark, clean flag) may lag behind on disk.
    pub mark_every: Duration,
    /// The map is copied to a fresh place when it takes twice its contents and so many octets more on disk.
    pub map_slack_bytes: u64,
    /// The same when it takes eight times its contents, but not below so many octets.
    pub map_min_bytes: u64,
    /// Opens a damaged store, dropping what can't be read. A database that can't be opened at all is moved aside.
    pub accept_data_loss: bool,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            shard: 0,
            cache_bytes: 64 << 20,
            inline_bytes_max: 32 << 10,
            body_file_bytes: 16 << 20,
            mark_every: Duration::from_millis(250),
            map_slack_bytes: 192 << 20,
            map_min_bytes: 64 << 20,
            accept_data_loss: false,
        }
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}
