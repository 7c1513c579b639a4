//! Tools for a stopped store: check it, write it to a portable file and back, write it anew.
//!
//! They take the store's lock, so a running broker and they keep each other out. Nothing here is used by the broker.

mod compact;
mod export;
mod resolve;
mod verify;

pub use compact::{Compacted, compact};
pub use export::{Ported, export, import};
pub use verify::{Hurt, QueueReport, Report, verify};

use crate::error::StoreError;
use crate::medium::Medium;
use crate::recover::{self, Inspected};
use crate::sled::SledMedium;
use crate::{Reader, StoreConfig};
use hornpipe_types::definition::Definition;
use hornpipe_types::names::ShortStr;
use resolve::Resolved;
use std::path::Path;

/// How the store of each shard of a data folder is opened.
fn shards(dir: &Path, config: &StoreConfig) -> Result<impl Iterator<Item = StoreConfig>, StoreError> {
    Ok(numbered(crate::shard_count(dir, None)?, config))
}

/// The same for so many of them, at least one: of a folder that has none, opening the first one says so.
fn numbered(count: u32, config: &StoreConfig) -> impl Iterator<Item = StoreConfig> {
    let config = config.clone();
    (0..count.max(1)).map(move |shard| StoreConfig { shard, ..config.clone() })
}

/// Vhosts in the store in `dir/shard-N`, by their names.
///
/// # Errors
/// When the store can't be looked at.
pub fn vhosts(dir: &Path, config: &StoreConfig) -> Result<Vec<ShortStr>, StoreError> {
    let stopped = Stopped::open(dir, config)?;
    let name = |d: &Definition| match d {
        Definition::Vhost(d) => Some(d.name.clone()),
        _ => None,
    };
    Ok(stopped.resolved.definitions.iter().filter_map(name).collect())
}

/// A store that is only looked at.
#[derive(Debug)]
pub(crate) struct Stopped {
    medium: Box<dyn Medium>,
    pub(crate) resolved: Resolved,
    pub(crate) inspected: Inspected,
}

impl Stopped {
    /// Opens `dir/shard-N`, which must be there. The database may write files of its own, nothing of ours is changed.
    pub(crate) fn open(dir: &Path, config: &StoreConfig) -> Result<Self, StoreError> {
        let shard = crate::shards::folder(dir, config.shard);
        if !crate::has_shard(dir, config.shard) {
            let text = format!("{} is no data folder: there is no store in shard-{}", dir.display(), config.shard);
            return Err(StoreError::Fatal(text));
        }
        let medium = SledMedium::open(&shard, config.cache_bytes, false, None)?;
        Self::on(Box::new(medium))
    }
    /// On any medium.
    pub(crate) fn on(medium: Box<dyn Medium>) -> Result<Self, StoreError> {
        let mut resolved = Resolved::default();
        let inspected = recover::inspect(&*medium, &mut |item| resolved.add(item))?;
        Ok(Self { medium, resolved, inspected })
    }
    pub(crate) fn reader(&self) -> Reader {
        Reader::on(self.medium.view())
    }
    /// Nothing was found wrong before messages are read.
    pub(crate) fn check_log(&self) -> Result<(), StoreError> {
        match self.inspected.losses.first() {
            None => Ok(()),
            Some(first) => Err(StoreError::damaged("the store", format!("{first}; see what `store verify` says"))),
        }
    }
}
