//! How many shards a data folder has: `DATA/shards` says so when there are more than one, so that none goes missing unseen.

use crate::disk::{create_dir, io_error, remove_dir, sync_dir};
use crate::error::StoreError;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const FILE: &str = "shards";

/// Folder of a shard.
pub(crate) fn folder(dir: &Path, shard: u32) -> PathBuf {
    dir.join(format!("shard-{shard}"))
}

fn line(count: u32) -> String {
    let text = format!("shards {count}");
    format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()))
}

/// Whether a shard's store is there.
pub fn has_shard(dir: &Path, shard: u32) -> bool {
    folder(dir, shard).join("mark").exists()
}

/// Shards there are in a data folder; 0 when it is new. A folder that was made and not counted yet counts: it may be that
/// the file was taken away.
///
/// # Errors
/// When one that was there is missing, or the file makes no sense, unless `accept_data_loss` says that it may.
pub fn shard_count(dir: &Path, accept_data_loss: bool) -> Result<u32, StoreError> {
    let found = (0..).take_while(|shard| has_shard(dir, *shard)).last().map_or(0, |last| last + 1);
    let path = dir.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(io_error("cannot read", &path)(e)),
    };
    let told = text.strip_prefix("shards ").and_then(|t| t.split(' ').next()?.parse().ok());
    match told.filter(|count| line(*count) == text) {
        Some(told) if told <= found => Ok(found),
        told if accept_data_loss => Ok(told.unwrap_or(found)),
        Some(told) => {
            let reason = format!("it says that there are {told} shards, and shard-{found} is missing or not whole");
            Err(StoreError::damaged(path.display().to_string(), reason))
        }
        None => Err(StoreError::damaged(path.display().to_string(), "it does not say how many shards there are")),
    }
}

/// Notes how many shards a data folder has; durable when this returns. Shards above are removed with all in them.
///
/// # Errors
/// The file system's.
pub fn set_shard_count(dir: &Path, count: u32) -> Result<(), StoreError> {
    create_dir(dir)?;
    let (path, next) = (dir.join(FILE), dir.join(format!("{FILE}.next")));
    fs::write(&next, line(count))
        .and_then(|()| File::open(&next)?.sync_all())
        .map_err(io_error("cannot write", &next))?;
    fs::rename(&next, &path).map_err(io_error("cannot replace", &path))?;
    sync_dir(dir)?;
    let above = (count..).take_while(|shard| folder(dir, *shard).is_dir()).last();
    // From the last one on: what an interruption leaves still counts on from the first one.
    for shard in (count..above.map_or(count, |last| last + 1)).rev() {
        remove_dir(&folder(dir, shard))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(dir: &Path, shard: u32) {
        fs::create_dir_all(folder(dir, shard)).unwrap();
        fs::write(folder(dir, shard).join("mark"), "").unwrap();
    }

    #[test]
    fn shards_are_counted_and_a_missing_one_is_told() {
        let bed = tempfile::tempdir().unwrap();
        let dir = bed.path();
        assert_eq!(shard_count(dir, false).unwrap(), 0, "a new folder");
        make(dir, 0);
        assert_eq!(shard_count(dir, false).unwrap(), 1, "a folder of one shard has no file");
        make(dir, 1);
        make(dir, 2);
        assert_eq!(shard_count(dir, false).unwrap(), 3, "made, and not counted yet");
        set_shard_count(dir, 3).unwrap();
        fs::remove_dir_all(folder(dir, 2)).unwrap();
        let error = shard_count(dir, false).unwrap_err().to_string();
        assert!(error.contains("there are 3 shards, and shard-2 is missing"), "{error}");
        assert_eq!(shard_count(dir, true).unwrap(), 3);
        make(dir, 2);
        set_shard_count(dir, 1).unwrap();
        assert_eq!(shard_count(dir, false).unwrap(), 1);
        assert!(!folder(dir, 1).exists() && !folder(dir, 2).exists());
    }

    #[test]
    fn a_damaged_count_is_refused() {
        let bed = tempfile::tempdir().unwrap();
        let dir = bed.path();
        make(dir, 0);
        make(dir, 1);
        set_shard_count(dir, 2).unwrap();
        let whole = fs::read(dir.join(FILE)).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            fs::write(dir.join(FILE), &bad).unwrap();
            assert!(shard_count(dir, false).is_err(), "{at}");
            fs::write(dir.join(FILE), &whole[..at]).unwrap();
            assert!(shard_count(dir, false).is_err());
            assert_eq!(shard_count(dir, true).unwrap(), 2);
        }
    }
}
