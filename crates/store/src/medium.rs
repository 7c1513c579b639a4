//! What the store needs of a medium: one ordered map with atomic batches, numbered append-only files and a small mark.
//!
//! All formats and rules live above this line, so that every backend is held to the same ones: sled and files
//! (module `sled`), maps in memory ([`crate::memory`]), and a wrapper that fails on command ([`crate::faulty`]).

use crate::error::StoreError;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

/// Changes to the map, applied in order and all or none: `None` removes the key.
pub type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Key and value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// What is told a visitor of [`View::scan`]: key, value; `false` ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool, StoreError> + 'a;

/// What is left to do for a snapshot, and how many octets of body files are in it.
pub type Rest = Option<Box<dyn FnOnce() -> Result<u64, StoreError> + Send>>;

/// The writing side. Any error is final: the store does not call again.
pub trait Medium: Send + Debug {
    /// Applies a batch atomically. Visible at once, durable after [`Self::sync`].
    fn apply(&mut self, batch: Batch) -> Result<(), StoreError>;
    /// Makes all applied batches durable.
    fn sync(&mut self) -> Result<(), StoreError>;
    /// Creates a body file with `size` octets of room. The name is durable when this returns.
    fn create_file(&mut self, file: u64, size: u64) -> Result<(), StoreError>;
    /// Writes into a body file.
    fn write_file(&mut self, file: u64, offset: u64, bytes: &[u8]) -> Result<(), StoreError>;
    /// Makes what was written to a body file durable.
    fn sync_file(&mut self, file: u64) -> Result<(), StoreError>;
    /// Cuts a body file to its used size and closes it for writing; also one of an earlier process.
    fn seal_file(&mut self, file: u64, size: u64) -> Result<(), StoreError>;
    /// Removes a body file; not an error when there is none.
    fn remove_file(&mut self, file: u64) -> Result<(), StoreError>;
    /// All body files: number and size in octets, by number.
    fn files(&self) -> Result<Vec<(u64, u64)>, StoreError>;
    /// The mark written last; `None` on a medium that is new.
    fn read_mark(&self) -> Result<Option<Vec<u8>>, StoreError>;
    /// Replaces the mark atomically (at most 256 octets); durable when this returns.
    fn write_mark(&mut self, mark: &[u8]) -> Result<(), StoreError>;
    /// Replaces the mark for the next process of a system that lives on. A cut of power leaves this one or one before it, and
    /// never less than [`Self::write_mark`] wrote last.
    fn note_mark(&mut self, mark: &[u8]) -> Result<(), StoreError>;
    /// Begins a copy of the map, empty: to take this one's place, or (`to`) to become a snapshot in that folder. One begun
    /// before and not finished is dropped. Of no effect on what is read or recovered until [`Self::finish_copy`].
    fn begin_copy(&mut self, to: Option<&Path>) -> Result<(), StoreError>;
    /// Applies a batch to the copy and makes it durable there.
    fn apply_copy(&mut self, batch: Batch) -> Result<(), StoreError>;
    /// Ends the copy: it takes this map's place, durably and at once, whose room is given back; or the snapshot gets all
    /// body files and `mark`, by what is returned, which may run on any thread while the medium is used.
    fn finish_copy(&mut self, mark: &[u8]) -> Result<Rest, StoreError>;
    /// Gives up a copy that was begun.
    fn drop_copy(&mut self);
    /// The reading side, usable from any thread.
    fn view(&self) -> Arc<dyn View>;
    /// Whether a snapshot in this folder would take room of the disk that this medium is on.
    fn shares_room(&self, to: &Path) -> bool;
    /// Octets the map takes on disk, a copy in the making not counted.
    fn map_bytes(&self) -> u64;
    /// What the files are called in error texts.
    fn file_name(&self, file: u64) -> String;
}

/// The reading side. Errors of reading are not final.
pub trait View: Send + Sync + Debug {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Visits keys in `from..to`, in order.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError>;
    /// The last key in `from..to` with its value.
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Entry>, StoreError>;
    /// Reads up to `len` octets of a body file from `offset` on; fewer at its end.
    fn read_file(&self, file: u64, offset: u64, len: usize) -> Result<Vec<u8>, StoreError>;
    /// What the file is called in error texts.
    fn file_name(&self, file: u64) -> String;
    /// What the map is called in error texts.
    fn map_name(&self) -> String;
}
