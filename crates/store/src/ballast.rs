//! Room kept back on the volume, so that a full disk can be written to once more: the database needs some to open, and what
//! was accepted before the disk alarm was up must still get somewhere.

use crate::disk::{io_error, sync_dir};
use crate::error::StoreError;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// What opening the database or using a few more of its segments takes, octets.
const LOW: u64 = 24 << 20;

/// A file of the data folder that holds nothing.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    /// Of so many octets, or an eighth of the volume if that is less; 0 = none. Nothing is written yet.
    pub fn new(dir: &Path, bytes: u64) -> Self {
        let volume = statvfs(dir).map_or(u64::MAX, |s| s.f_blocks.saturating_mul(s.f_frsize));
        Self { path: dir.join("ballast"), bytes: bytes.min(volume / 8) }
    }

    /// Octets held back now.
    pub fn held(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |m| m.len())
    }

    fn free(&self) -> u64 {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        statvfs(dir).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize))
    }

    /// Lets the room go when less than `need` octets beside some for the database are free; says whether it did.
    pub fn release_for(&self, need: u64) -> bool {
        self.free() < LOW.saturating_add(need) && fs::remove_file(&self.path).is_ok()
    }

    /// Whether less than `need` octets are free.
    pub fn lacks(&self, need: u64) -> bool {
        self.free() < need
    }

    /// Octets that should be held back and are not.
    pub fn missing(&self) -> u64 {
        self.bytes.saturating_sub(self.held())
    }

    /// Takes the room again when so much is free that `floor` octets and as much again stay free.
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
        if self.free().saturating_add(held) < floor.saturating_add(LOW).saturating_add(2 * self.bytes) {
            return Ok(());
        }
        let made = File::create(&self.path).and_then(|f| {
            fallocate(&f, FallocateFlags::empty(), 0, self.bytes)?;
            f.sync_all()
        });
        let Err(e) = made else { return sync_dir(self.path.parent().unwrap_or(Path::new("."))) };
        let _ = fs::remove_file(&self.path);
        match Errno::from_io_error(&e) {
            Some(Errno::NOSPC) => Ok(()),
            // Where room can't be reserved there is nothing to keep back.
            Some(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.bytes = 0;
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
        let mut ballast = Ballast::new(bed.path(), 1 << 20);
        assert_eq!(ballast.held(), 0);
        ballast.restore(u64::MAX / 2).unwrap();
        assert_eq!(ballast.held(), 0, "there is not so much room");
        ballast.restore(0).unwrap();
        assert_eq!(ballast.held(), 1 << 20);
        assert!(!ballast.release_for(0), "there is room");
        Ballast::new(bed.path(), 2 << 20).restore(0).unwrap();
        assert_eq!(ballast.held(), 2 << 20, "as configured now");
        Ballast::new(bed.path(), 0).restore(0).unwrap();
        assert_eq!(ballast.held(), 0);
        Ballast::new(bed.path(), 0).restore(0).unwrap();
    }
}
