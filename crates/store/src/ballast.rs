//! Room kept back on the volume, so that a full disk can be written to once more.
//!
//! It is given up in two steps. A running broker that meets a full disk gets the first part, for what was accepted before the
//! disk alarm was up. The last part is for opening: without it a broker that is killed on a full disk could not start before
//! somebody makes space. Only a start and an orderly stop take that.

use crate::disk::{io_error, sync_dir};
use crate::error::StoreError;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

/// What opening the database a few times may take, octets: each time the rest of its last segment, a new one, and a few
/// pages.
const OPENING: u64 = 32 << 20;
/// What using one more of its segments takes.
const LOW: u64 = 12 << 20;

/// A file of the data folder that holds nothing.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    bytes: u64,
    shards: u64,
}

impl Ballast {
    /// Of so many octets, or an eighth of the volume if that is less; 0 = none; for so many shards. Nothing is written yet.
    pub fn new(dir: &Path, bytes: u64, shards: u32) -> Self {
        let volume = statvfs(dir).map_or(u64::MAX, |s| s.f_blocks.saturating_mul(s.f_frsize));
        Self { path: dir.join("ballast"), bytes: bytes.min(volume / 8), shards: u64::from(shards.max(1)) }
    }

    /// Octets held back now.
    pub fn held(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |m| m.len())
    }

    /// The part that is kept for the next start.
    fn last(&self) -> u64 {
        self.bytes.min(self.opening())
    }

    /// What opening all shards a few times may take.
    fn opening(&self) -> u64 {
        OPENING + (self.shards - 1) * LOW
    }

    /// What using one more segment in each shard takes.
    fn low(&self) -> u64 {
        self.shards * LOW
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Octets that are free on the volume.
    pub fn free(&self) -> u64 {
        statvfs(self.dir()).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize))
    }

    /// Octets that may be used for work that can wait: without them there is enough for what can't, and to hold back
    /// everything that should be.
    pub fn spare(&self) -> u64 {
        self.free().saturating_add(self.held()).saturating_sub(self.bytes.saturating_add(self.low()))
    }

    /// Lets the first part go when less than `need` octets beside some for the database are free; says whether it did.
    pub fn release_for(&self, need: u64) -> bool {
        if self.free() >= self.low().saturating_add(need) || self.held() <= self.last() {
            return false;
        }
        let cut = OpenOptions::new().write(true).open(&self.path).and_then(|f| f.set_len(self.last()));
        cut.is_ok()
    }

    /// Lets all of it go when a start or a stop may need it; says whether it did.
    pub fn release_last(&self) -> bool {
        self.free() < self.opening() && fs::remove_file(&self.path).is_ok()
    }

    /// Whether room is so scarce that the last part is wanted at once.
    pub fn is_scarce(&self) -> bool {
        self.held() < self.last() && self.free() < 2 * self.opening()
    }

    /// Octets that should be held back and are not.
    pub fn missing(&self) -> u64 {
        self.bytes.saturating_sub(self.held())
    }

    /// Takes the room again: of the last part whatever leaves enough to go on with, all when so much is free that `floor`
    /// octets and as much again stay free.
    ///
    /// # Errors
    /// When the file system refuses for another reason than want of space; nothing depends on it.
    pub fn restore(&mut self, floor: u64) -> Result<(), StoreError> {
        let held = self.held();
        if held == self.bytes {
            return Ok(());
        }
        if self.bytes == 0 {
            return fs::remove_file(&self.path).map_err(io_error("cannot remove", &self.path));
        }
        let room = self.free().saturating_add(held);
        let wanted = if room >= floor.saturating_add(self.low()).saturating_add(2 * self.bytes) {
            self.bytes
        } else {
            self.last().min(room.saturating_sub(self.low()))
        };
        if wanted <= held && held <= self.bytes {
            return Ok(());
        }
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(&self.path);
        let made = open.and_then(|f: File| {
            if held > wanted {
                f.set_len(wanted)?;
            }
            fallocate(&f, FallocateFlags::empty(), 0, wanted)?;
            f.sync_all()
        });
        let Err(e) = made else { return sync_dir(self.dir()) };
        match Errno::from_io_error(&e) {
            // What was held before is held still.
            Some(Errno::NOSPC) => Ok(()),
            // Where room can't be reserved there is nothing to keep back.
            Some(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.bytes = 0;
                let _ = fs::remove_file(&self.path);
                Ok(())
            }
            _ => Err(io_error("cannot make", &self.path)(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_kept_while_there_is_some_and_given_up_when_none_is_wanted() {
        let bed = tempfile::tempdir().unwrap();
        let mut ballast = Ballast::new(bed.path(), 1 << 20, 1);
        assert_eq!(ballast.held(), 0);
        ballast.restore(0).unwrap();
        assert_eq!(ballast.held(), 1 << 20);
        assert!(!ballast.release_for(0) && !ballast.release_last(), "there is room");
        Ballast::new(bed.path(), 2 << 20, 1).restore(0).unwrap();
        assert_eq!(ballast.held(), 2 << 20, "as configured now");
        Ballast::new(bed.path(), 0, 1).restore(0).unwrap();
        assert_eq!(ballast.held(), 0);
        Ballast::new(bed.path(), 0, 1).restore(0).unwrap();
    }

    #[test]
    fn a_running_broker_leaves_what_a_start_needs() {
        let bed = tempfile::tempdir().unwrap();
        let mut ballast = Ballast::new(bed.path(), OPENING + (4 << 20), 1);
        ballast.restore(0).unwrap();
        assert_eq!((ballast.held(), ballast.missing()), (OPENING + (4 << 20), 0));
        assert!(ballast.release_for(u64::MAX / 2));
        assert_eq!((ballast.held(), ballast.missing()), (OPENING, 4 << 20));
        assert!(!ballast.release_for(u64::MAX / 2), "the rest is not for it");
        let spare = ballast.spare();
        ballast.restore(0).unwrap();
        assert_eq!(ballast.held(), OPENING + (4 << 20));
        assert!(spare <= ballast.free() && ballast.free() > 0);
        // Too little for all of it, enough for the last part.
        fs::remove_file(&ballast.path).unwrap();
        ballast.restore(u64::MAX / 2).unwrap();
        assert_eq!(ballast.held(), OPENING);
        // Each shard that is opened needs some.
        fs::remove_file(&ballast.path).unwrap();
        let mut ballast = Ballast::new(bed.path(), OPENING + 2 * LOW, 2);
        ballast.restore(0).unwrap();
        assert!(ballast.release_for(u64::MAX / 2));
        assert_eq!(ballast.held(), OPENING + LOW);
    }
}
