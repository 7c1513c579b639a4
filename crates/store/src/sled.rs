//! The medium on disk: sled 0.34 for the map, plain files for bodies. The only file that names sled.
//!
//! What sled does and what is done about it:
//! - its flush hands pages to the kernel and goes on: fdatasync on a descriptor of our own follows each flush;
//! - values and leaves above a quarter of a segment go to files in `blobs/` which nothing syncs: segments are 8 MiB, values
//!   at most 64 KiB, and a file found there is an error;
//! - it may panic, while opening too: every call is caught;
//! - a kill while it opens can leave `snap.*.generating`, which makes every later open fail: removed before.

use crate::error::StoreError;
use crate::medium::{Batch, Entry, Medium, View, Visit};
use ::sled::{Config, Db, Mode};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Fixed when a database is created.
const SEGMENT_BYTES: usize = 8 << 20;
/// Open files kept for reading.
const HANDLES_MAX: usize = 128;
/// The mark file has two slots, written in turn, so that one is always whole.
const SLOT: u64 = 4096;

fn io_error(what: &str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let what = format!("{what} {}", path.display());
    move |e| StoreError::io(what, &e)
}

/// Calls sled; a panic becomes an error.
fn caught<T>(file: &Path, call: impl FnOnce() -> ::sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(v)) => Ok(v),
        Ok(Err(e @ ::sled::Error::Corruption { .. })) => {
            Err(StoreError::damaged(file.display().to_string(), e.to_string()))
        }
        Ok(Err(e)) => Err(StoreError::Fatal(format!("{}: {e}", file.display()))),
        Err(panic) => {
            let text = crate::panic_text(&*panic);
            Err(StoreError::damaged(file.display().to_string(), format!("the database gave up: {text}")))
        }
    }
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io_error("cannot sync the folder", dir))
}

/// Creates a folder and those above it, each durable in its parent.
fn create_dir(dir: &Path) -> Result<(), StoreError> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir(parent)?;
    }
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(io_error("cannot create", dir)(e)),
        _ => {}
    }
    sync_dir(parent.unwrap_or(Path::new(".")))
}

/// Everything the reading side needs; alive as long as a reader is, and the lock with it.
#[derive(Debug)]
struct Shared {
    db: Db,
    db_path: PathBuf,
    bodies: PathBuf,
    handles: Mutex<HashMap<u64, Arc<File>>>,
    _lock: File,
}

/// The medium.
#[derive(Debug)]
pub(crate) struct SledMedium {
    shared: Arc<Shared>,
    /// Our own descriptor of sled's file.
    db_file: File,
    active: Option<(u64, File)>,
    mark: Mark,
}

#[derive(Debug)]
struct Mark {
    file: File,
    path: PathBuf,
    seq: u64,
    /// The last one; `None` on a medium that is new.
    bytes: Option<Vec<u8>>,
}

impl Mark {
    fn open(path: PathBuf) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_error("cannot open", &path))?;
        let mut mark = Self { file, path, seq: 0, bytes: None };
        for slot in 0..2 {
            let raw = read_at(&mark.file, slot * SLOT, SLOT as usize).map_err(io_error("cannot read", &mark.path))?;
            let mut r = crate::wire::Input(&raw);
            let (Some(crc), Some(seq), Some(len)) = (r.u32(), r.u64(), r.u16()) else { continue };
            let Some(bytes) = r.bytes(len.into()) else { continue };
            if crc32c::crc32c(&raw[4..14 + usize::from(len)]) == crc && (mark.bytes.is_none() || seq > mark.seq) {
                mark.seq = seq;
                mark.bytes = Some(bytes.to_vec());
            }
        }
        Ok(mark)
    }
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let seq = self.seq + 1;
        let mut raw = vec![0; 4];
        raw.extend_from_slice(&seq.to_be_bytes());
        raw.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        raw.extend_from_slice(bytes);
        let crc = crc32c::crc32c(&raw[4..]).to_be_bytes();
        raw[..4].copy_from_slice(&crc);
        self.file
            .write_all_at(&raw, (seq % 2) * SLOT)
            .and_then(|()| self.file.sync_data())
            .map_err(io_error("cannot write", &self.path))?;
        self.seq = seq;
        self.bytes = Some(bytes.to_vec());
        Ok(())
    }
}

/// Reads up to `len` octets; fewer at the end of the file, whatever `len` says.
fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let left = file.metadata()?.len().saturating_sub(offset);
    let mut bytes = vec![0; len.min(usize::try_from(left).unwrap_or(usize::MAX))];
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

impl SledMedium {
    /// Opens or creates `dir`; a new one starts with `first_mark`.
    pub(crate) fn open(
        dir: &Path,
        cache_bytes: u64,
        accept_data_loss: bool,
        first_mark: &[u8],
    ) -> Result<Self, StoreError> {
        create_dir(dir)?;
        let lock = lock(dir)?;
        match Self::open_locked(dir, cache_bytes, accept_data_loss, first_mark, lock) {
            Err(StoreError::Damaged { .. }) if accept_data_loss => {
                // Moved aside, never deleted: someone may still get something out of it.
                let aside = (1..)
                    .map(|n| dir.with_extension(format!("damaged-{n}")))
                    .find(|p| !p.exists())
                    .unwrap_or_else(|| dir.with_extension("damaged"));
                fs::rename(dir, &aside).map_err(io_error("cannot move aside", dir))?;
                create_dir(dir)?;
                let lock = self::lock(dir)?;
                Self::open_locked(dir, cache_bytes, accept_data_loss, first_mark, lock)
            }
            other => other,
        }
    }

    fn open_locked(
        dir: &Path,
        cache_bytes: u64,
        accept_data_loss: bool,
        first_mark: &[u8],
        lock: File,
    ) -> Result<Self, StoreError> {
        let (db_dir, bodies) = (dir.join("db"), dir.join("bodies"));
        let db_path = db_dir.join("db");
        let mut mark = Mark::open(dir.join("mark"))?;
        if mark.bytes.is_none() {
            if !db_path.exists() {
                mark.write(first_mark)?;
                sync_dir(dir)?;
            } else if !accept_data_loss {
                let reason = "it is missing or unreadable, though there is a database beside it";
                return Err(StoreError::damaged(mark.path.display().to_string(), reason));
            }
        }
        create_dir(&db_dir)?;
        create_dir(&bodies)?;
        remove_leftovers(&db_dir)?;
        let db = open_db(&db_dir, &db_path, cache_bytes).map_err(|e| match e {
            StoreError::Fatal(text) if text.contains(SLED_LOCKED) => {
                StoreError::Locked { dir: dir.display().to_string() }
            }
            e => e,
        })?;
        let db_file =
            OpenOptions::new().read(true).write(true).open(&db_path).map_err(io_error("cannot open", &db_path))?;
        db_file.sync_data().map_err(io_error("cannot sync", &db_path))?;
        for d in [&db_dir, &bodies, dir] {
            sync_dir(d)?;
        }
        let handles = Mutex::default();
        let shared = Arc::new(Shared { db, db_path, bodies, handles, _lock: lock });
        let medium = Self { shared, db_file, active: None, mark };
        medium.check_blobs()?;
        Ok(medium)
    }

    fn check_blobs(&self) -> Result<(), StoreError> {
        let blobs = self.shared.db_path.with_file_name("blobs");
        match fs::read_dir(&blobs) {
            Ok(mut entries) => match entries.next() {
                None => Ok(()),
                Some(_) => Err(StoreError::Fatal(format!("{} is not empty: a record was too large", blobs.display()))),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io_error("cannot read", &blobs)(e)),
        }
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
        let opened = caught(file, || {
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

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io_error("cannot open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked { dir: dir.display().to_string() }),
        Err(e) => Err(io_error("cannot lock", &path)(e.into())),
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
        let mut b = ::sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(v) => b.insert(key, v),
                None => b.remove(key),
            }
        }
        let s = &*self.shared;
        caught(&s.db_path, || s.db.apply_batch(b)).map_err(fatal)
    }
    fn sync(&mut self) -> Result<(), StoreError> {
        let s = &*self.shared;
        caught(&s.db_path, || s.db.flush()).map_err(fatal)?;
        self.db_file.sync_data().map_err(io_error("cannot sync", &s.db_path))
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
            // Not every file system can; then blocks are found while writing.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                f.set_len(size).map_err(io_error("cannot enlarge", &path))?;
            }
            Err(e) => return Err(io_error("no room for", &path)(e.into())),
        }
        self.active = Some((file, f));
        sync_dir(&self.shared.bodies)
    }
    fn write_file(&mut self, file: u64, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
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
        self.check_blobs()?;
        self.mark.write(mark)
    }
    fn view(&self) -> Arc<dyn View> {
        Arc::new(SledView(self.shared.clone()))
    }
    fn map_bytes(&self) -> u64 {
        self.db_file.metadata().map_or(0, |m| m.len())
    }
    fn file_name(&self, file: u64) -> String {
        self.shared.path(file).display().to_string()
    }
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
        caught(&self.0.db_path, || self.0.db.get(key)).map(|v| v.map(|v| v.to_vec()))
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let path = &self.0.db_path;
        let mut entries = caught(path, || Ok(self.0.db.range(from..to)))?;
        while let Some((key, value)) = caught(path, || entries.next().transpose())? {
            if !visit(&key, &value)? {
                break;
            }
        }
        Ok(())
    }
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Entry>, StoreError> {
        let entry = caught(&self.0.db_path, || self.0.db.range(from..to).next_back().transpose())?;
        Ok(entry.map(|(k, v)| (k.to_vec(), v.to_vec())))
    }
    fn read_file(&self, file: u64, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let f = self.0.handle(file)?;
        read_at(&f, offset, len).map_err(io_error("cannot read", &self.0.path(file)))
    }
    fn file_name(&self, file: u64) -> String {
        self.0.path(file).display().to_string()
    }
}
