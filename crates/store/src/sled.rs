//! The medium on disk: sled 0.34 for the map, plain files for bodies. The only file that names sled.
//!
//! What sled does and what is done about it:
//! - its flush hands pages to the kernel and goes on: fdatasync on a descriptor of our own follows each flush;
//! - values and leaves above a quarter of a segment go to files in `blobs/` which nothing syncs: segments are 8 MiB, values
//!   at most 64 KiB, and a file found there is an error;
//! - it may panic, while opening too: every call is caught;
//! - a kill while it opens can leave `snap.*.generating`, which makes every later open fail: removed before;
//! - its file never shrinks: now and then all that is live is copied to a fresh database, a *generation*, and the old one
//!   is removed when its last reader has let go.

use crate::crew::Crew;
use crate::disk::{FolderLock, Mark, Pointer, create_dir, io_error, read_at, remove_dir, sync_dir};
use crate::error::StoreError;
use crate::medium::{Batch, Entry, Medium, Rest, View, Visit};
use ::sled::{Config, Db, Mode};
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Fixed when a database is created.
const SEGMENT_BYTES: usize = 8 << 20;
/// Cache of a database that is only written once, octets.
const SNAPSHOT_CACHE: u64 = 8 << 20;
/// Open files kept for reading.
const HANDLES_MAX: usize = 128;

/// Calls sled; a panic becomes an error.
fn caught<T>(file: &Path, call: impl FnOnce() -> ::sled::Result<T>) -> Result<T, StoreError> {
    caught_as(file, |e| matches!(e, ::sled::Error::Corruption { .. }), call)
}

/// What sled says when its own threads are gone. That is so in the whole process, whatever database they met it in.
const SLED_BROKEN: &str = "IO thread unexpectedly panicked";

/// Whether an error of opening means damage. sled tells of most of what it finds in its files by other errors than that of
/// damage; what the system tells, and its lock, are other things.
fn is_damage_when_opening(e: &::sled::Error) -> bool {
    match e {
        ::sled::Error::Io(e) => e.raw_os_error().is_none() && !e.to_string().contains(SLED_LOCKED),
        ::sled::Error::ReportableBug(text) => !text.contains(SLED_BROKEN),
        _ => true,
    }
}

fn caught_as<T>(
    file: &Path,
    is_damage: impl Fn(&::sled::Error) -> bool,
    call: impl FnOnce() -> ::sled::Result<T>,
) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(v)) => Ok(v),
        Ok(Err(e)) if is_damage(&e) => Err(StoreError::damaged(file.display().to_string(), e.to_string())),
        Ok(Err(e)) => Err(StoreError::Fatal(format!("{}: {e}", file.display()))),
        Err(panic) => {
            let text = crate::panic_text(&*panic);
            Err(StoreError::damaged(file.display().to_string(), format!("the database gave up: {text}")))
        }
    }
}

/// One database.
#[derive(Debug)]
struct Generation {
    number: u64,
    dir: PathBuf,
    /// sled's file.
    path: PathBuf,
    /// Our own descriptor of it.
    file: File,
    /// Taken when this is dropped.
    db: Option<Db>,
    /// Nothing counts on it any more: it goes with the last one who reads it.
    obsolete: AtomicBool,
}

impl Generation {
    /// Opens or creates a database; durable in its folder when this returns.
    fn open(shard: &Path, number: u64, cache_bytes: u64, accept_data_loss: bool) -> Result<Self, StoreError> {
        let dir = Pointer::folder(shard, number);
        let path = dir.join("db");
        create_dir(&dir)?;
        remove_leftovers(&dir)?;
        let conf = Conf::check(&dir, accept_data_loss)?;
        let db = open_db(&dir, &path, cache_bytes).map_err(|e| match e {
            StoreError::Fatal(text) if text.contains(SLED_LOCKED) => {
                StoreError::Locked { dir: shard.display().to_string() }
            }
            e => e,
        })?;
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io_error("cannot open", &path))?;
        file.sync_data().map_err(io_error("cannot sync", &path))?;
        conf.sync_new()?;
        sync_dir(&dir)?;
        Ok(Self { number, dir, path, file, db: Some(db), obsolete: AtomicBool::new(false) })
    }
    /// Calls the database.
    fn call<T>(&self, call: impl FnOnce(&Db) -> ::sled::Result<T>) -> Result<T, StoreError> {
        let Some(db) = &self.db else {
            return Err(StoreError::Fatal(format!("{} is closed", self.path.display())));
        };
        caught(&self.path, || call(db))
    }
    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        // One key is atomic by itself. sled writes a batch out at once, and what is flushed after it again; each time it wakes
        // all of its threads.
        if let [(key, value)] = &batch[..] {
            let done = self.call(|db| match value {
                Some(v) => db.insert(&key[..], &v[..]),
                None => db.remove(&key[..]),
            });
            return done.map(drop).map_err(fatal);
        }
        let mut b = ::sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(v) => b.insert(&key[..], &v[..]),
                None => b.remove(&key[..]),
            }
        }
        self.call(|db| db.apply_batch(b)).map_err(fatal)
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.call(|db| db.flush()).map_err(fatal)?;
        self.file.sync_data().map_err(io_error("cannot sync", &self.path))
    }
    fn check_blobs(&self) -> Result<(), StoreError> {
        let blobs = self.dir.join("blobs");
        match fs::read_dir(&blobs) {
            Ok(mut entries) => match entries.next() {
                None => Ok(()),
                Some(_) => Err(StoreError::Fatal(format!("{} is not empty: a record was too large", blobs.display()))),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io_error("cannot read", &blobs)(e)),
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        let db = self.db.take();
        // sled flushes once more and may panic when it can't.
        let closed = catch_unwind(AssertUnwindSafe(|| drop(db)));
        if closed.is_ok() && self.obsolete.load(Ordering::Acquire) {
            // What stays behind goes at the next start.
            let _ = remove_dir(&self.dir);
        }
    }
}

/// Everything the reading side needs; alive as long as a reader is, and the lock with it.
#[derive(Debug)]
struct Shared {
    current: RwLock<Arc<Generation>>,
    bodies: PathBuf,
    handles: Mutex<HashMap<u64, Arc<File>>>,
    _lock: FolderLock,
}

/// The medium.
#[derive(Debug)]
pub(crate) struct SledMedium {
    shared: Arc<Shared>,
    dir: PathBuf,
    cache_bytes: u64,
    current: Arc<Generation>,
    /// A copy in the making, and the folder it is in when it becomes a snapshot.
    next: Option<(Generation, Option<PathBuf>)>,
    active: Option<(u64, File)>,
    mark: Mark,
    crew: Crew,
    /// Messages went to body files since the map was changed last.
    wrote_bodies: bool,
    /// What was met and accepted.
    accepted: Accepted,
}

/// What opening a folder met that is accepted only where loss is.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    /// Damage, in words.
    pub(crate) losses: Vec<String>,
    /// What could not be checked for that reason.
    pub(crate) unchecked: Vec<String>,
}

impl SledMedium {
    /// Opens or creates `dir`; a new one starts with `first_mark`, and without that none is made.
    pub(crate) fn open(
        dir: &Path,
        cache_bytes: u64,
        accept_data_loss: bool,
        first_mark: Option<&[u8]>,
    ) -> Result<Self, StoreError> {
        create_dir(dir)?;
        let lock = FolderLock::take(dir)?;
        match Self::open_locked(dir, cache_bytes, accept_data_loss, first_mark, lock) {
            Err(error @ StoreError::Damaged { .. }) if accept_data_loss => {
                // Moved aside, never deleted: someone may still get something out of it.
                let aside = (1..)
                    .map(|n| dir.with_extension(format!("damaged-{n}")))
                    .find(|p| !p.exists())
                    .unwrap_or_else(|| dir.with_extension("damaged"));
                fs::rename(dir, &aside).map_err(io_error("cannot move aside", dir))?;
                create_dir(dir)?;
                let lock = FolderLock::take(dir)?;
                let mut new = Self::open_locked(dir, cache_bytes, accept_data_loss, first_mark, lock)?;
                let (dir, aside) = (dir.display(), aside.display());
                new.accepted.losses.push(format!("{error}; all of {dir} was moved to {aside}, an empty one begun"));
                Ok(new)
            }
            other => other,
        }
    }

    fn open_locked(
        dir: &Path,
        cache_bytes: u64,
        accept_data_loss: bool,
        first_mark: Option<&[u8]>,
        lock: FolderLock,
    ) -> Result<Self, StoreError> {
        // First of all: it takes room that opening may need. Who only looks leaves it.
        if first_mark.is_some() {
            crate::shards::remove_copy(dir)?;
        }
        let bodies = dir.join("bodies");
        let mut accepted = Accepted::default();
        let mut mark = Mark::open(dir.join("mark"))?;
        let generation = match Pointer::read(dir, false) {
            Err(error @ StoreError::Damaged { .. }) if accept_data_loss => {
                accepted.losses.push(error.to_string());
                Pointer::read(dir, true)?
            }
            told => told?,
        };
        let map = Pointer::folder(dir, generation).join("db");
        let has_map = map.exists();
        if mark.bytes.is_none() {
            let is_new = !has_map && is_empty(&bodies)?;
            if let (true, Some(first)) = (is_new, first_mark) {
                mark.write(first)?;
            } else {
                let reason = "it is missing or unreadable, though there is data beside it";
                let error = StoreError::damaged(mark.path.display().to_string(), reason);
                if !accept_data_loss {
                    return Err(error);
                }
                accepted.losses.push(error.to_string());
                accepted.unchecked.push(format!(
                    "without {} nothing but the bodies of large messages says how far the log in {} reached: \
                     groups at its end may be missing unseen",
                    mark.path.display(),
                    map.display(),
                ));
            }
        }
        // The first mark is written before the database is made, every later one after.
        if !has_map && mark.bytes.as_deref() != first_mark {
            let reason = "it is missing, though there was data in it";
            return Err(StoreError::damaged(map.display().to_string(), reason));
        }
        create_dir(&bodies)?;
        let current = Generation::open(dir, generation, cache_bytes, accept_data_loss)?;
        current.check_blobs()?;
        Pointer::remove_leftovers(dir, generation)?;
        crate::snapshot::remove_leftovers(dir)?;
        for d in [&bodies, dir] {
            sync_dir(d)?;
        }
        let current = Arc::new(current);
        let handles = Mutex::default();
        let shared = Arc::new(Shared { current: RwLock::new(current.clone()), bodies, handles, _lock: lock });
        Ok(Self {
            shared,
            dir: dir.to_owned(),
            cache_bytes,
            current,
            next: None,
            active: None,
            mark,
            crew: Crew::new(),
            wrote_bodies: false,
            accepted,
        })
    }

    /// What opening met and accepted; once.
    pub(crate) fn take_accepted(&mut self) -> Accepted {
        std::mem::take(&mut self.accepted)
    }

    fn active(&self, file: u64) -> Result<&File, StoreError> {
        match &self.active {
            Some((number, f)) if *number == file => Ok(f),
            _ => Err(StoreError::Fatal(format!("{} is not open for writing", self.shared.path(file).display()))),
        }
    }
}

/// What sled says when its file is locked.
const SLED_LOCKED: &str = "could not acquire lock";

/// Opens sled. Its threads keep its own lock for a moment after a database of this process was dropped, so that is waited
/// for; other processes are kept out by our lock.
fn open_db(dir: &Path, file: &Path, cache_bytes: u64) -> Result<Db, StoreError> {
    let mut tries = 500;
    loop {
        let opened = caught_as(file, is_damage_when_opening, || {
            Config::new()
                .path(dir)
                .mode(Mode::HighThroughput)
                .flush_every_ms(None)
                .cache_capacity(cache_bytes)
                .segment_size(SEGMENT_BYTES)
                .open()
        });
        match opened {
            Err(StoreError::Fatal(text)) if text.contains(SLED_LOCKED) && tries > 0 => {
                tries -= 1;
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

/// sled's parameters beside its file. They are the same in every database of ours, so damage shows, and the file can be made
/// anew.
struct Conf {
    path: PathBuf,
    is_new: bool,
}

impl Conf {
    /// What sled writes, then a checksum that it does not insist on.
    fn text() -> String {
        format!("segment_size: {SEGMENT_BYTES}\nuse_compression: false\nversion: 0.34\n")
    }
    /// sled writes the text, then the checksum: a kill between must not make every later start fail.
    fn is_begun(bytes: &[u8]) -> bool {
        let text = Self::text();
        bytes.len() < text.len() + 4 && (bytes.starts_with(text.as_bytes()) || text.as_bytes().starts_with(bytes))
    }
    fn check(db_dir: &Path, anew: bool) -> Result<Self, StoreError> {
        let path = db_dir.join("conf");
        match fs::read(&path) {
            // So sled takes it for missing.
            Ok(bytes) if bytes.len() <= 8 => Ok(Self { path, is_new: true }),
            Ok(bytes) if bytes.len() == Self::text().len() + 4 && bytes.starts_with(Self::text().as_bytes()) => {
                Ok(Self { path, is_new: false })
            }
            Ok(bytes) if anew || Self::is_begun(&bytes) => {
                fs::remove_file(&path).map_err(io_error("cannot remove", &path))?;
                Ok(Self { path, is_new: true })
            }
            Ok(_) => {
                let reason = "it does not hold the parameters every database has; remove it, and it is made anew";
                Err(StoreError::damaged(path.display().to_string(), reason))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self { path, is_new: true }),
            Err(e) => Err(io_error("cannot read", &path)(e)),
        }
    }
    /// sled does not sync it.
    fn sync_new(&self) -> Result<(), StoreError> {
        if self.is_new {
            File::open(&self.path).and_then(|f| f.sync_all()).map_err(io_error("cannot sync", &self.path))?;
        }
        Ok(())
    }
}

/// Whether a folder holds nothing or is not there.
fn is_empty(dir: &Path) -> Result<bool, StoreError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(io_error("cannot read", dir)(e)),
    }
}

fn remove_leftovers(db_dir: &Path) -> Result<(), StoreError> {
    let mut found = false;
    for entry in fs::read_dir(db_dir).map_err(io_error("cannot read", db_dir))? {
        let entry = entry.map_err(io_error("cannot read", db_dir))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path()).map_err(io_error("cannot remove", &entry.path()))?;
            found = true;
        }
    }
    if found { sync_dir(db_dir) } else { Ok(()) }
}

impl Shared {
    fn db(&self) -> Arc<Generation> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn path(&self, file: u64) -> PathBuf {
        self.bodies.join(format!("{file:016x}.body"))
    }
    fn handle(&self, file: u64) -> Result<Arc<File>, StoreError> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(f) = handles.get(&file) {
            return Ok(f.clone());
        }
        let path = self.path(file);
        let f = match File::open(&path) {
            Ok(f) => Arc::new(f),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::damaged(path.display().to_string(), "the file is missing"));
            }
            Err(e) => return Err(io_error("cannot open", &path)(e)),
        };
        if handles.len() >= HANDLES_MAX {
            handles.clear();
        }
        handles.insert(file, f.clone());
        Ok(f)
    }
}

impl Medium for SledMedium {
    fn apply(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.crew.write(std::mem::take(&mut self.wrote_bodies));
        self.current.apply(&batch)
    }
    fn sync(&mut self) -> Result<(), StoreError> {
        self.current.sync()
    }
    fn create_file(&mut self, file: u64, size: u64) -> Result<(), StoreError> {
        let path = self.shared.path(file);
        let f = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(io_error("cannot create", &path))?;
        match fallocate(&f, FallocateFlags::empty(), 0, size) {
            Ok(()) => {}
            // Not every file system can, and on a nearly full one there may be room for less; then blocks are found while
            // writing.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::NOSPC) => {
                f.set_len(size).map_err(io_error("cannot enlarge", &path))?;
            }
            Err(e) => return Err(io_error("no room for", &path)(e.into())),
        }
        self.active = Some((file, f));
        sync_dir(&self.shared.bodies)
    }
    fn write_file(&mut self, file: u64, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.wrote_bodies = true;
        self.active(file)?.write_all_at(bytes, offset).map_err(io_error("cannot write", &self.shared.path(file)))
    }
    fn sync_file(&mut self, file: u64) -> Result<(), StoreError> {
        self.active(file)?.sync_data().map_err(io_error("cannot sync", &self.shared.path(file)))
    }
    fn seal_file(&mut self, file: u64, size: u64) -> Result<(), StoreError> {
        let path = self.shared.path(file);
        let f = match self.active.take_if(|a| a.0 == file) {
            Some((_, f)) => f,
            None => OpenOptions::new().write(true).open(&path).map_err(io_error("cannot open", &path))?,
        };
        // A snapshot may share the file and need what is dead here: then its end stays.
        if f.metadata().map_err(io_error("cannot read", &path))?.nlink() > 1 {
            return Ok(());
        }
        f.set_len(size).map_err(io_error("cannot cut", &path))
    }
    fn remove_file(&mut self, file: u64) -> Result<(), StoreError> {
        self.shared.handles.lock().unwrap_or_else(PoisonError::into_inner).remove(&file);
        let path = self.shared.path(file);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("cannot remove", &path)(e)),
            _ => Ok(()),
        }
    }
    fn files(&self) -> Result<Vec<(u64, u64)>, StoreError> {
        let dir = &self.shared.bodies;
        let mut files = Vec::new();
        for entry in fs::read_dir(dir).map_err(io_error("cannot read", dir))? {
            let entry = entry.map_err(io_error("cannot read", dir))?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|n| n.strip_suffix(".body")).map(|n| u64::from_str_radix(n, 16));
            if let Some(Ok(number)) = number {
                let meta = entry.metadata().map_err(io_error("cannot read", &entry.path()))?;
                files.push((number, meta.len()));
            }
        }
        files.sort_unstable();
        Ok(files)
    }
    fn read_mark(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.mark.bytes.clone())
    }
    fn write_mark(&mut self, mark: &[u8]) -> Result<(), StoreError> {
        self.current.check_blobs()?;
        self.mark.write(mark)
    }
    fn note_mark(&mut self, mark: &[u8]) -> Result<(), StoreError> {
        self.mark.note(mark)
    }
    fn begin_copy(&mut self, to: Option<&Path>) -> Result<(), StoreError> {
        self.drop_copy();
        let (dir, number) = match to {
            None => (self.dir.clone(), self.current.number + 1),
            // A snapshot is a data folder, so it has a folder for the shard.
            Some(to) => (to.join(self.dir.file_name().unwrap_or_default()), 1),
        };
        remove_dir(&Pointer::folder(&dir, number))?;
        create_dir(&dir)?;
        let cache_bytes = if to.is_some() { SNAPSHOT_CACHE } else { self.cache_bytes };
        let next = Generation::open(&dir, number, cache_bytes, false).map_err(fatal)?;
        self.next = Some((next, to.map(|_| dir)));
        Ok(())
    }
    fn apply_copy(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.crew.write(true);
        let (next, _) = self.next.as_ref().ok_or_else(no_copy)?;
        next.apply(&batch)?;
        next.sync()
    }
    fn finish_copy(&mut self, mark: &[u8]) -> Result<Rest, StoreError> {
        let (next, snapshot) = self.next.take().ok_or_else(no_copy)?;
        next.sync()?;
        next.check_blobs()?;
        if let Some(dir) = snapshot {
            drop(next);
            return crate::snapshot::link(&self.dir, &dir, mark).map(Some);
        }
        sync_dir(&self.dir)?;
        Pointer::write(&self.dir, next.number)?;
        let next = Arc::new(next);
        *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = next.clone();
        let old = std::mem::replace(&mut self.current, next);
        old.obsolete.store(true, Ordering::Release);
        Ok(None)
    }
    fn drop_copy(&mut self) {
        if let Some((next, snapshot)) = self.next.take() {
            next.obsolete.store(true, Ordering::Release);
            drop(next);
            if let Some(dir) = snapshot {
                // It was empty before; what can't be removed is no snapshot, for it has no mark.
                let _ = remove_dir(&dir);
            }
        }
    }
    fn view(&self) -> Arc<dyn View> {
        Arc::new(SledView(self.shared.clone()))
    }
    fn shares_room(&self, to: &Path) -> bool {
        let device = |p: &Path| p.ancestors().find_map(|p| fs::metadata(p).ok()).map(|m| m.dev());
        device(to) == device(&self.dir)
    }
    fn map_bytes(&self) -> u64 {
        self.current.file.metadata().map_or(0, |m| m.len())
    }
    fn file_name(&self, file: u64) -> String {
        self.shared.path(file).display().to_string()
    }
}

fn no_copy() -> StoreError {
    StoreError::Fatal("no second database was begun".to_owned())
}

/// Whatever a write meets is final.
fn fatal(e: StoreError) -> StoreError {
    match e {
        StoreError::Fatal(_) => e,
        other => StoreError::Fatal(other.to_string()),
    }
}

#[derive(Debug)]
struct SledView(Arc<Shared>);

impl View for SledView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.db().call(|db| db.get(key)).map(|v| v.map(|v| v.to_vec()))
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let generation = self.0.db();
        let mut entries = generation.call(|db| Ok(db.range(from..to)))?;
        while let Some((key, value)) = caught(&generation.path, || entries.next().transpose())? {
            if !visit(&key, &value)? {
                break;
            }
        }
        Ok(())
    }
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Entry>, StoreError> {
        let entry = self.0.db().call(|db| db.range(from..to).next_back().transpose())?;
        Ok(entry.map(|(k, v)| (k.to_vec(), v.to_vec())))
    }
    fn read_file(&self, file: u64, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let f = self.0.handle(file)?;
        // its name is only made when there is something to tell
        read_at(&f, offset, len).map_err(|e| io_error("cannot read", &self.0.path(file))(e))
    }
    fn file_name(&self, file: u64) -> String {
        self.0.path(file).display().to_string()
    }
    fn map_name(&self) -> String {
        self.0.db().path.display().to_string()
    }
}
