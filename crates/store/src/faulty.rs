//! A medium that fails on command, around any other one.

use crate::error::StoreError;
use crate::medium::{Batch, Medium, Rest, View};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A call that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Call {
    Apply,
    Sync,
    CreateFile,
    WriteFile,
    SyncFile,
    SealFile,
    RemoveFile,
    WriteMark,
    NoteMark,
    BeginCopy,
    ApplyCopy,
    FinishCopy,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Apply,
        Self::Sync,
        Self::CreateFile,
        Self::WriteFile,
        Self::SyncFile,
        Self::SealFile,
        Self::RemoveFile,
        Self::WriteMark,
        Self::NoteMark,
        Self::BeginCopy,
        Self::ApplyCopy,
        Self::FinishCopy,
    ];
}

/// How it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// With an IO error, nothing done.
    Error,
    /// Because no space is left, nothing done.
    Full,
    /// With an IO error when half of it is done. A batch is cut between two keys, which sled rules out and the record
    /// format must find nevertheless.
    Torn,
    /// With a panic, nothing done.
    Panic,
    /// Not at all, but so much later.
    Delay(Duration),
}

#[derive(Debug, Default)]
struct Plan {
    armed: Vec<(Call, u32, Fault)>,
    calls: Vec<Call>,
}

/// The switchboard of a [`Faulty`] medium.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

impl Faults {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The call after `skip` more of its kind fails.
    pub fn arm(&self, call: Call, skip: u32, fault: Fault) {
        self.plan().armed.push((call, skip, fault));
    }
    /// All calls made since the last time asked.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.plan().calls)
    }
    fn check(&self, call: Call) -> Result<bool, StoreError> {
        let mut plan = self.plan();
        plan.calls.push(call);
        let mut hit = None;
        plan.armed.retain_mut(|(c, skip, fault)| {
            if *c != call || hit.is_some() {
                return true;
            }
            if *skip > 0 {
                *skip -= 1;
                return true;
            }
            hit = Some(*fault);
            false
        });
        drop(plan);
        match hit {
            None => Ok(false),
            Some(Fault::Delay(time)) => {
                std::thread::sleep(time);
                Ok(false)
            }
            Some(Fault::Torn) => Ok(true),
            Some(Fault::Error) => Err(torn(call)),
            Some(Fault::Full) => Err(StoreError::Fatal(format!("{call:?}: no space left on device"))),
            Some(Fault::Panic) => panic!("{call:?} panics on command"),
        }
    }
}

fn torn(call: Call) -> StoreError {
    StoreError::Fatal(format!("{call:?}: input/output error on command"))
}

/// The medium.
#[derive(Debug)]
pub struct Faulty<M> {
    inner: M,
    faults: Faults,
}

impl<M: Medium> Faulty<M> {
    /// Wraps a medium; the second value commands it.
    pub fn new(inner: M) -> (Self, Faults) {
        let faults = Faults::default();
        (Self { inner, faults: faults.clone() }, faults)
    }
}

impl<M: Medium> Medium for Faulty<M> {
    fn apply(&mut self, mut batch: Batch) -> Result<(), StoreError> {
        if self.faults.check(Call::Apply)? {
            batch.truncate(batch.len() / 2);
            self.inner.apply(batch)?;
            return Err(torn(Call::Apply));
        }
        self.inner.apply(batch)
    }
    fn sync(&mut self) -> Result<(), StoreError> {
        if self.faults.check(Call::Sync)? {
            self.inner.sync()?;
            return Err(torn(Call::Sync));
        }
        self.inner.sync()
    }
    fn create_file(&mut self, file: u64, size: u64) -> Result<(), StoreError> {
        if self.faults.check(Call::CreateFile)? {
            self.inner.create_file(file, size / 2)?;
            return Err(torn(Call::CreateFile));
        }
        self.inner.create_file(file, size)
    }
    fn write_file(&mut self, file: u64, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        if self.faults.check(Call::WriteFile)? {
            self.inner.write_file(file, offset, &bytes[..bytes.len() / 2])?;
            return Err(torn(Call::WriteFile));
        }
        self.inner.write_file(file, offset, bytes)
    }
    fn sync_file(&mut self, file: u64) -> Result<(), StoreError> {
        if self.faults.check(Call::SyncFile)? {
            self.inner.sync_file(file)?;
            return Err(torn(Call::SyncFile));
        }
        self.inner.sync_file(file)
    }
    fn seal_file(&mut self, file: u64, size: u64) -> Result<(), StoreError> {
        if self.faults.check(Call::SealFile)? {
            return Err(torn(Call::SealFile));
        }
        self.inner.seal_file(file, size)
    }
    fn remove_file(&mut self, file: u64) -> Result<(), StoreError> {
        if self.faults.check(Call::RemoveFile)? {
            return Err(torn(Call::RemoveFile));
        }
        self.inner.remove_file(file)
    }
    fn files(&self) -> Result<Vec<(u64, u64)>, StoreError> {
        self.inner.files()
    }
    fn read_mark(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.read_mark()
    }
    fn write_mark(&mut self, mark: &[u8]) -> Result<(), StoreError> {
        if self.faults.check(Call::WriteMark)? {
            return Err(torn(Call::WriteMark));
        }
        self.inner.write_mark(mark)
    }
    fn note_mark(&mut self, mark: &[u8]) -> Result<(), StoreError> {
        if self.faults.check(Call::NoteMark)? {
            return Err(torn(Call::NoteMark));
        }
        self.inner.note_mark(mark)
    }
    fn begin_copy(&mut self, to: Option<&Path>) -> Result<(), StoreError> {
        if self.faults.check(Call::BeginCopy)? {
            self.inner.begin_copy(to)?;
            return Err(torn(Call::BeginCopy));
        }
        self.inner.begin_copy(to)
    }
    fn apply_copy(&mut self, mut batch: Batch) -> Result<(), StoreError> {
        if self.faults.check(Call::ApplyCopy)? {
            batch.truncate(batch.len() / 2);
            self.inner.apply_copy(batch)?;
            return Err(torn(Call::ApplyCopy));
        }
        self.inner.apply_copy(batch)
    }
    fn finish_copy(&mut self, mark: &[u8]) -> Result<Rest, StoreError> {
        if self.faults.check(Call::FinishCopy)? {
            self.inner.finish_copy(mark)?;
            return Err(torn(Call::FinishCopy));
        }
        self.inner.finish_copy(mark)
    }
    fn drop_copy(&mut self) {
        self.inner.drop_copy();
    }
    fn view(&self) -> Arc<dyn View> {
        self.inner.view()
    }
    fn shares_room(&self, to: &Path) -> bool {
        self.inner.shares_room(to)
    }
    fn map_bytes(&self) -> u64 {
        self.inner.map_bytes()
    }
    fn file_name(&self, file: u64) -> String {
        self.inner.file_name(file)
    }
}
