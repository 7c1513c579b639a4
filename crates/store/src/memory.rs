//! A medium of maps, with what is visible and what is durable told apart: for tests, and for brokers that keep nothing.

use crate::error::StoreError;
use crate::medium::{Batch, Entry, Medium, Rest, View, Visit};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Clone, Default)]
struct BodyFile {
    bytes: Vec<u8>,
    /// Octets from the start that a crash can't take.
    durable: usize,
    /// Highest octet written.
    written: usize,
}

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Clone, Default)]
struct State {
    map: Contents,
    held: u64,
    /// The most it ever was: given back by a renewal alone, as on disk.
    reserved: u64,
    /// A copy in the making, and where it goes.
    next: Option<(Contents, Option<PathBuf>)>,
    snapshots: BTreeMap<PathBuf, Memory>,
    /// For each batch not yet synced, what it replaced, in reverse order.
    undo: Vec<Batch>,
    files: BTreeMap<u64, BodyFile>,
    mark: Option<Vec<u8>>,
}

impl State {
    fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let size = key.len() as u64;
        let old = match value {
            Some(v) => {
                self.held += size + v.len() as u64;
                self.map.insert(key, v)
            }
            None => self.map.remove(&key),
        };
        if let Some(old) = &old {
            self.held -= size + old.len() as u64;
        }
        self.reserved = self.reserved.max(self.held);
        old
    }
}

/// The medium. Clones share the same data: keep one to look at it, or to go on with it after a crash.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<State>>);

impl Memory {
    /// An empty medium.
    pub fn new() -> Self {
        Self::default()
    }
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// What a power cut would leave: everything synced, the first `keep` of the batches that were not, and of bodies that
    /// were not synced nothing. The original is not changed.
    #[must_use]
    pub fn after_crash(&self, keep: usize) -> Self {
        let mut s = self.state().clone();
        while s.undo.len() > keep {
            for (key, value) in s.undo.pop().unwrap_or_default() {
                s.put(key, value);
            }
        }
        s.undo.clear();
        s.next = None;
        for f in s.files.values_mut() {
            let durable = f.durable;
            f.bytes[durable..].fill(0);
            f.written = durable;
        }
        Self(Arc::new(Mutex::new(s)))
    }
    /// The snapshot that was made in a folder.
    pub fn snapshot(&self, to: &Path) -> Option<Self> {
        self.state().snapshots.get(to).cloned()
    }
    /// Batches applied and not synced.
    pub fn unsynced(&self) -> usize {
        self.state().undo.len()
    }
    /// All keys of the map, for tests that damage values.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        self.state().map.keys().cloned().collect()
    }
    /// Changes or (`None`) removes the value of a key behind the store's back.
    pub fn tamper(&self, key: &[u8], change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
        let mut s = self.state();
        if let Some(old) = s.map.get(key).cloned() {
            let new = change(old);
            s.put(key.to_vec(), new);
        }
    }
    /// Changes a body file behind the store's back.
    pub fn tamper_file(&self, file: u64, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(f) = self.state().files.get_mut(&file) {
            change(&mut f.bytes);
            f.durable = f.durable.min(f.bytes.len());
            f.written = f.written.min(f.bytes.len());
        }
    }
}

fn no_file(file: u64) -> StoreError {
    StoreError::damaged(name(file), "the file is missing")
}

fn no_copy() -> StoreError {
    StoreError::Fatal("no copy was begun".to_owned())
}

fn name(file: u64) -> String {
    format!("body file {file}")
}

impl Medium for Memory {
    fn apply(&mut self, batch: Batch) -> Result<(), StoreError> {
        let mut s = self.state();
        let mut undo = Batch::new();
        for (key, value) in batch {
            let old = s.put(key.clone(), value);
            undo.push((key, old));
        }
        undo.reverse();
        s.undo.push(undo);
        Ok(())
    }
    fn sync(&mut self) -> Result<(), StoreError> {
        self.state().undo.clear();
        Ok(())
    }
    fn create_file(&mut self, file: u64, size: u64) -> Result<(), StoreError> {
        let room = BodyFile { bytes: vec![0; size as usize], durable: 0, written: 0 };
        match self.state().files.insert(file, room) {
            None => Ok(()),
            Some(_) => Err(StoreError::Fatal(format!("{} exists already", name(file)))),
        }
    }
    fn write_file(&mut self, file: u64, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let mut s = self.state();
        let f = s.files.get_mut(&file).ok_or_else(|| no_file(file))?;
        let end = offset as usize + bytes.len();
        if f.bytes.len() < end {
            f.bytes.resize(end, 0);
        }
        f.bytes[offset as usize..end].copy_from_slice(bytes);
        f.written = f.written.max(end);
        Ok(())
    }
    fn sync_file(&mut self, file: u64) -> Result<(), StoreError> {
        let mut s = self.state();
        let f = s.files.get_mut(&file).ok_or_else(|| no_file(file))?;
        f.durable = f.written;
        Ok(())
    }
    fn seal_file(&mut self, file: u64, size: u64) -> Result<(), StoreError> {
        let mut s = self.state();
        let f = s.files.get_mut(&file).ok_or_else(|| no_file(file))?;
        f.bytes.truncate(size as usize);
        f.bytes.shrink_to_fit();
        f.written = f.written.min(f.bytes.len());
        f.durable = f.durable.min(f.bytes.len());
        Ok(())
    }
    fn remove_file(&mut self, file: u64) -> Result<(), StoreError> {
        self.state().files.remove(&file);
        Ok(())
    }
    fn files(&self) -> Result<Vec<(u64, u64)>, StoreError> {
        Ok(self.state().files.iter().map(|(n, f)| (*n, f.bytes.len() as u64)).collect())
    }
    fn read_mark(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.state().mark.clone())
    }
    fn write_mark(&mut self, mark: &[u8]) -> Result<(), StoreError> {
        self.state().mark = Some(mark.to_vec());
        Ok(())
    }
    fn note_mark(&mut self, mark: &[u8]) -> Result<(), StoreError> {
        // That it outlives every crash here is the harder case: it must never claim too much.
        self.write_mark(mark)
    }
    fn begin_copy(&mut self, to: Option<&Path>) -> Result<(), StoreError> {
        self.state().next = Some((Contents::new(), to.map(Path::to_owned)));
        Ok(())
    }
    fn apply_copy(&mut self, batch: Batch) -> Result<(), StoreError> {
        let mut s = self.state();
        let (next, _) = s.next.as_mut().ok_or_else(no_copy)?;
        for (key, value) in batch {
            match value {
                Some(v) => next.insert(key, v),
                None => next.remove(&key),
            };
        }
        Ok(())
    }
    fn finish_copy(&mut self, mark: &[u8]) -> Result<Rest, StoreError> {
        let mut s = self.state();
        let (map, to) = s.next.take().ok_or_else(no_copy)?;
        let held = map.iter().map(|(k, v)| (k.len() + v.len()) as u64).sum();
        if let Some(to) = to {
            let (files, mark) = (s.files.clone(), Some(mark.to_vec()));
            let bytes = files.values().map(|f| f.bytes.len() as u64).sum();
            let copy = State { map, held, reserved: held, files, mark, ..State::default() };
            s.snapshots.insert(to, Self(Arc::new(Mutex::new(copy))));
            return Ok(Some(Box::new(move || Ok(bytes))));
        }
        s.undo.clear();
        (s.map, s.held, s.reserved) = (map, held, held);
        Ok(None)
    }
    fn drop_copy(&mut self) {
        self.state().next = None;
    }
    fn view(&self) -> Arc<dyn View> {
        Arc::new(self.clone())
    }
    fn shares_room(&self, _: &Path) -> bool {
        true
    }
    fn map_bytes(&self) -> u64 {
        self.state().reserved
    }
    fn file_name(&self, file: u64) -> String {
        name(file)
    }
}

impl View for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.state().map.get(key).cloned())
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        // In steps, so that the visitor may use the medium.
        let mut next = std::ops::Bound::Included(from.to_vec());
        loop {
            let step: Vec<(Vec<u8>, Vec<u8>)> = {
                let s = self.state();
                let range = (next.as_ref().map(Vec::as_slice), std::ops::Bound::Excluded(to));
                s.map.range::<[u8], _>(range).take(64).map(|(k, v)| (k.clone(), v.clone())).collect()
            };
            for (key, value) in &step {
                if !visit(key, value)? {
                    return Ok(());
                }
            }
            match step.into_iter().next_back() {
                Some((key, _)) => next = std::ops::Bound::Excluded(key),
                None => return Ok(()),
            }
        }
    }
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Entry>, StoreError> {
        Ok(self.state().map.range(from.to_vec()..to.to_vec()).next_back().map(|(k, v)| (k.clone(), v.clone())))
    }
    fn read_file(&self, file: u64, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let s = self.state();
        let f = s.files.get(&file).ok_or_else(|| no_file(file))?;
        let from = f.bytes.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        let to = f.bytes.len().min(from.saturating_add(len));
        Ok(f.bytes[from..to].to_vec())
    }
    fn file_name(&self, file: u64) -> String {
        name(file)
    }
    fn map_name(&self) -> String {
        "the map".to_owned()
    }
}
