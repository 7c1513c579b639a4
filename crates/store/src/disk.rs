//! Files and folders: what the medium on disk needs beside its database.

use crate::error::StoreError;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The mark file has two slots, so that one is always whole.
const SLOT: u64 = 4096;

pub(crate) fn io_error(what: &str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |e| StoreError::io(format!("{what} {}", path.display()), &e)
}

pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io_error("cannot sync the folder", dir))
}

/// Creates a folder and those above it, each durable in its parent.
pub(crate) fn create_dir(dir: &Path) -> Result<(), StoreError> {
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

/// A folder that no other process may open.
#[derive(Debug)]
pub struct FolderLock {
    _folder: Option<File>,
    _file: File,
}

impl FolderLock {
    /// Holds the folder `dir`, which must be there, as long as this lives: the folder itself, since the file `lock` in it may be
    /// removed by anybody who tidies up, and that file too, by which earlier versions know each other.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it.
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let refused = |e| match e {
            rustix::io::Errno::WOULDBLOCK => StoreError::Locked { dir: dir.display().to_string() },
            e => io_error("cannot lock", &path)(e.into()),
        };
        let folder = File::open(dir).map_err(io_error("cannot open", dir))?;
        let folder = match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Some(folder),
            Err(e @ rustix::io::Errno::WOULDBLOCK) => return Err(refused(e)),
            // Some file systems lock files only.
            Err(_) => None,
        };
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(io_error("cannot open", &path))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(refused)?;
        Ok(Self { _folder: folder, _file: file })
    }
}

/// Reads up to `len` octets; fewer at the end of the file, whatever `len` says.
pub(crate) fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
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

/// Removes a folder with all in it; not an error when there is none.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("cannot remove", dir)(e)),
        _ => Ok(()),
    }
}

/// The small file that is renewed in place.
///
/// One slot is always as the disk has it and stays as it is; what is written goes to the other one. So neither a cut of power
/// nor a torn write takes more than what was written since the last sync.
#[derive(Debug)]
pub(crate) struct Mark {
    /// Not there until it is written: a look at a folder leaves nothing behind.
    file: Option<File>,
    pub(crate) path: PathBuf,
    seq: u64,
    /// The slot that was synced last.
    safe: u64,
    /// The last one; `None` on a medium that is new.
    pub(crate) bytes: Option<Vec<u8>>,
}

impl Mark {
    pub(crate) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { file: None, path, seq: 0, safe: 0, bytes: None });
            }
            Err(e) => return Err(io_error("cannot open", &path)(e)),
        };
        let mut mark = Self { file: None, path, seq: 0, safe: 0, bytes: None };
        for slot in 0..2 {
            let raw = read_at(&file, slot * SLOT, SLOT as usize).map_err(io_error("cannot read", &mark.path))?;
            let mut r = crate::wire::Input(&raw);
            let (Some(crc), Some(seq), Some(len)) = (r.u32(), r.u64(), r.u16()) else { continue };
            let Some(bytes) = r.bytes(len.into()) else { continue };
            if crc32c::crc32c(&raw[4..14 + usize::from(len)]) == crc && (mark.bytes.is_none() || seq > mark.seq) {
                mark.seq = seq;
                mark.safe = slot;
                mark.bytes = Some(bytes.to_vec());
            }
        }
        mark.file = Some(file);
        // The newest one may be a note of an earlier process, not yet on the disk: only then may the other one be overwritten.
        mark.sync()?;
        Ok(mark)
    }
    /// Replaces the mark; durable when this returns.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.bytes.is_none() {
            // Room for both slots, so that renewing them needs none on a full disk.
            self.put(&[0; 2 * SLOT as usize], 0)?;
        }
        self.note(bytes)?;
        self.sync()?;
        self.safe = 1 - self.safe;
        Ok(())
    }
    /// Replaces the mark for whoever opens it while the system lives. A cut of power leaves this one or the one synced last.
    pub(crate) fn note(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let seq = self.seq + 1;
        let mut raw = Vec::with_capacity(64);
        raw.extend_from_slice(&[0; 4]);
        raw.extend_from_slice(&seq.to_be_bytes());
        raw.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        raw.extend_from_slice(bytes);
        let crc = crc32c::crc32c(&raw[4..]).to_be_bytes();
        raw[..4].copy_from_slice(&crc);
        self.put(&raw, (1 - self.safe) * SLOT)?;
        self.seq = seq;
        self.bytes = Some(bytes.to_vec());
        Ok(())
    }
    fn put(&mut self, bytes: &[u8], at: u64) -> Result<(), StoreError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.path);
                sync_dir(self.path.parent().unwrap_or(Path::new(".")))?;
                file.map_err(io_error("cannot open", &self.path))?
            }
        };
        file.write_all_at(bytes, at).map_err(io_error("cannot write", &self.path))?;
        self.file = Some(file);
        Ok(())
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.file.as_ref().map_or(Ok(()), File::sync_data).map_err(io_error("cannot sync", &self.path))
    }
}

/// Which of the databases in a folder counts, told by a file that is replaced by renaming: `db` is the first one, later
/// ones are `db-2`, `db-3` …; without the file it is the first.
#[derive(Debug)]
pub(crate) struct Pointer;

const POINTER: &str = "generation";

impl Pointer {
    /// Folder of a generation.
    pub(crate) fn folder(dir: &Path, generation: u64) -> PathBuf {
        dir.join(if generation <= 1 { "db".to_owned() } else { format!("db-{generation}") })
    }
    fn line(generation: u64) -> String {
        let text = format!("generation {generation}");
        format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()))
    }
    /// All database folders there are, by generation.
    fn all(dir: &Path) -> Result<Vec<u64>, StoreError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(io_error("cannot read", dir))? {
            let name = entry.map_err(io_error("cannot read", dir))?.file_name();
            let name = name.to_str().unwrap_or_default();
            if name == "db" {
                found.push(1);
            } else if let Some(Ok(n)) = name.strip_prefix("db-").map(str::parse::<u64>) {
                found.push(n);
            }
        }
        found.sort_unstable();
        Ok(found)
    }
    /// The generation that counts.
    pub(crate) fn read(dir: &Path, accept_data_loss: bool) -> Result<u64, StoreError> {
        let path = dir.join(POINTER);
        let text = match fs::read(&path) {
            Ok(text) => Some(String::from_utf8_lossy(&text).into_owned()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io_error("cannot read", &path)(e)),
        };
        let all = Self::all(dir)?;
        let told = match &text {
            None if all.is_empty() || all.contains(&1) => Some(1),
            None => None,
            Some(text) => {
                let number = text.strip_prefix("generation ").and_then(|t| t.split(' ').next()?.parse().ok());
                number.filter(|n| Self::line(*n) == *text && (*n == 1 || all.contains(n)))
            }
        };
        match (told, all.first()) {
            (Some(generation), _) => Ok(generation),
            // The oldest was whole once; a newer one need not have been.
            (None, Some(oldest)) if accept_data_loss => Ok(*oldest),
            _ => {
                let reason = match text {
                    None => "it is missing, though there is a database of a later generation",
                    Some(_) => "it does not name a database that is there",
                };
                Err(StoreError::damaged(path.display().to_string(), reason))
            }
        }
    }
    /// Makes a generation the one that counts; durable when this returns.
    pub(crate) fn write(dir: &Path, generation: u64) -> Result<(), StoreError> {
        let (path, next) = (dir.join(POINTER), dir.join(format!("{POINTER}.next")));
        fs::write(&next, Self::line(generation))
            .and_then(|()| File::open(&next)?.sync_all())
            .map_err(io_error("cannot write", &next))?;
        fs::rename(&next, &path).map_err(io_error("cannot replace", &path))?;
        sync_dir(dir)
    }
    /// Removes what other generations and a switch that was interrupted left.
    pub(crate) fn remove_leftovers(dir: &Path, generation: u64) -> Result<(), StoreError> {
        let mut found = false;
        for other in Self::all(dir)?.into_iter().filter(|n| *n != generation) {
            remove_dir(&Self::folder(dir, other))?;
            found = true;
        }
        match fs::remove_file(dir.join(format!("{POINTER}.next"))) {
            Ok(()) => found = true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io_error("cannot remove what is left in", dir)(e)),
        }
        if found { sync_dir(dir) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a cut of power may leave of the mark: each slot as it was synced, as it was written last, or torn.
    #[test]
    fn a_note_survives_the_process_and_never_harms_what_was_synced() {
        let bed = tempfile::tempdir().unwrap();
        let path = bed.path().join("mark");
        let seen = || Mark::open(path.clone()).unwrap().bytes;
        let mut mark = Mark::open(path.clone()).unwrap();
        assert_eq!(mark.bytes, None);
        mark.write(b"1").unwrap();
        for n in 2u8..60 {
            let before = fs::read(&path).unwrap();
            let synced = mark.bytes.clone().unwrap();
            for k in 0..3 {
                let noted = [n, k];
                mark.note(&noted).unwrap();
                assert_eq!(seen().as_deref(), Some(&noted[..]), "after a kill");
                let after = fs::read(&path).unwrap();
                for slot in [0, SLOT as usize] {
                    let mut image = after.clone();
                    image[slot..slot + 4096].copy_from_slice(&before[slot..slot + 4096]);
                    let torn = slot + 12;
                    for image in [image.clone(), [&image[..torn], &after[torn..]].concat(), {
                        let mut zeroed = after.clone();
                        // the slot that is written to may be anything at all
                        zeroed[(1 - mark.safe) as usize * 4096..][..4096].fill(0);
                        zeroed
                    }] {
                        let other = bed.path().join("image");
                        fs::write(&other, image).unwrap();
                        let found = Mark::open(other).unwrap().bytes.unwrap();
                        assert!(found == synced || found == noted, "{n} {k}: {found:?}");
                    }
                }
            }
            if n % 7 == 0 {
                // The next process takes the note for granted only once it is on disk.
                mark = Mark::open(path.clone()).unwrap();
            }
            mark.write(&[n]).unwrap();
            assert_eq!(seen().as_deref(), Some(&[n][..]));
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * SLOT);
    }

    #[test]
    fn the_pointer_names_one_database_or_is_refused() {
        let bed = tempfile::tempdir().unwrap();
        let dir = bed.path();
        assert_eq!(Pointer::read(dir, false).unwrap(), 1, "a new folder");
        fs::create_dir(dir.join("db")).unwrap();
        fs::create_dir(dir.join("db-2")).unwrap();
        assert_eq!(Pointer::read(dir, false).unwrap(), 1, "interrupted before the switch");
        Pointer::write(dir, 2).unwrap();
        assert_eq!(Pointer::read(dir, false).unwrap(), 2, "interrupted after the switch");
        fs::write(dir.join("generation.next"), "half").unwrap();
        Pointer::remove_leftovers(dir, 2).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["db-2", "generation"]);
        let line = fs::read(dir.join("generation")).unwrap();
        for at in 0..line.len() {
            let mut bad = line.clone();
            bad[at] ^= 1;
            fs::write(dir.join("generation"), &bad).unwrap();
            assert!(matches!(Pointer::read(dir, false), Err(StoreError::Damaged { .. })), "{at}");
            fs::write(dir.join("generation"), &line[..at]).unwrap();
            assert!(Pointer::read(dir, false).is_err());
            assert_eq!(Pointer::read(dir, true).unwrap(), 2);
        }
        fs::remove_file(dir.join("generation")).unwrap();
        assert!(Pointer::read(dir, false).is_err(), "gone");
    }
}
