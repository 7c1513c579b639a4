//! How many shards a data folder has: `DATA/shards` says so, so that none goes missing unseen.

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

/// Where an import is made until it is whole.
pub(crate) const IMPORTING: &str = "importing";

/// Where a compaction writes the copy.
pub(crate) const COMPACTING: &str = "compacting";

/// Removes what a compaction that was interrupted left of the store in the folder `shard`, which is held: no other is under way.
pub(crate) fn remove_copy(shard: &Path) -> Result<(), StoreError> {
    let (Some(dir), Some(name)) = (shard.parent(), shard.file_name()) else { return Ok(()) };
    let beside = dir.join(COMPACTING);
    remove_dir(&beside.join(name))?;
    // Copies of other shards are theirs: then it is not empty.
    let _ = fs::remove_dir(beside);
    Ok(())
}

/// Whether a shard's store is there, or something of one.
pub fn has_shard(dir: &Path, shard: u32) -> bool {
    ["mark", "db", "generation", "bodies"].iter().any(|name| folder(dir, shard).join(name).exists())
}

/// Shards there are in a data folder; 0 when it is new. A folder that was made and not counted yet counts: it may be that
/// the file was taken away.
///
/// # Errors
/// When one that was there is missing, the file makes no sense, or an import was not finished, unless `accept` takes the damage.
pub fn shard_count(dir: &Path, accept: Option<&mut Vec<String>>) -> Result<u32, StoreError> {
    let found = (0..).take_while(|shard| has_shard(dir, *shard)).last().map_or(0, |last| last + 1);
    let (told, error) = match read(dir, found)? {
        Ok(count) => return Ok(count),
        Err(told) => told,
    };
    let Some(accepted) = accept else { return Err(error) };
    accepted.push(error.to_string());
    Ok(told)
}

/// The count, or the one there should be and what is wrong.
fn read(dir: &Path, found: u32) -> Result<Result<u32, (u32, StoreError)>, StoreError> {
    let path = dir.join(FILE);
    let importing = dir.join(IMPORTING);
    if importing.exists() {
        let reason = "an import was not finished; make it again, or remove this folder";
        return Ok(Err((found, StoreError::damaged(importing.display().to_string(), reason))));
    }
    let text = match fs::read(&path) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Ok(found)),
        Err(e) => return Err(io_error("cannot read", &path)(e)),
    };
    let told = text.strip_prefix("shards ").and_then(|t| t.split(' ').next()?.parse().ok());
    let damaged = |reason: &str| StoreError::damaged(path.display().to_string(), reason);
    Ok(match told.filter(|count| line(*count) == text) {
        Some(told) if told <= found => Ok(found),
        Some(told) => {
            let folder = folder(dir, found);
            let reason = match told {
                1 => "it says that there is one shard".to_owned(),
                told => format!("it says that there are {told} shards"),
            };
            let reason = format!("{reason}, and there is nothing in {}", folder.display());
            // What is there above the gap counts on.
            Err((told.max(found), damaged(&reason)))
        }
        None => Err((found, damaged("it does not say how many shards there are"))),
    })
}

/// Notes how many shards a data folder has; durable when this returns. Shards above are removed with all in them, and what an
/// import that was given up left.
///
/// # Errors
/// The file system's.
pub fn set_shard_count(dir: &Path, count: u32) -> Result<(), StoreError> {
    create_dir(dir)?;
    let (path, next) = (dir.join(FILE), dir.join(format!("{FILE}.next")));
    // Most starts find what they would write, and on a full disk they could not.
    if !fs::read(&path).is_ok_and(|text| text == line(count).as_bytes()) {
        fs::write(&next, line(count))
            .and_then(|()| File::open(&next)?.sync_all())
            .map_err(io_error("cannot write", &next))?;
        fs::rename(&next, &path).map_err(io_error("cannot replace", &path))?;
        sync_dir(dir)?;
    }
    let above = (count..).take_while(|shard| folder(dir, *shard).is_dir()).last();
    // From the last one on: what an interruption leaves still counts on from the first one.
    for shard in (count..above.map_or(count, |last| last + 1)).rev() {
        remove_dir(&folder(dir, shard))?;
    }
    remove_dir(&dir.join(IMPORTING))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(dir: &Path, shard: u32) {
        fs::create_dir_all(folder(dir, shard)).unwrap();
        fs::write(folder(dir, shard).join("mark"), "").unwrap();
    }

    fn count(dir: &Path) -> Result<u32, StoreError> {
        shard_count(dir, None)
    }

    /// What is taken for the count when damage is accepted, and the words for that.
    fn accepted(dir: &Path) -> (u32, String) {
        let mut told = Vec::new();
        let count = shard_count(dir, Some(&mut told)).unwrap();
        (count, told.pop().unwrap())
    }

    #[test]
    fn shards_are_counted_and_a_missing_one_is_told() {
        let bed = tempfile::tempdir().unwrap();
        let dir = bed.path();
        assert_eq!(count(dir).unwrap(), 0, "a new folder");
        make(dir, 0);
        assert_eq!(count(dir).unwrap(), 1, "as earlier versions left it");
        set_shard_count(dir, 1).unwrap();
        fs::remove_dir_all(folder(dir, 0)).unwrap();
        let error = count(dir).unwrap_err().to_string();
        assert!(error.contains("there is one shard, and there is nothing in") && error.contains("shard-0"), "{error}");
        assert_eq!(accepted(dir), (1, error));
        make(dir, 0);
        make(dir, 1);
        make(dir, 2);
        assert_eq!(count(dir).unwrap(), 3, "made, and not counted yet");
        set_shard_count(dir, 3).unwrap();
        fs::remove_dir_all(folder(dir, 2)).unwrap();
        let error = count(dir).unwrap_err().to_string();
        assert!(error.contains("there are 3 shards, and there is nothing in") && error.contains("shard-2"), "{error}");
        assert_eq!(accepted(dir), (3, error));
        make(dir, 2);
        set_shard_count(dir, 1).unwrap();
        assert_eq!(count(dir).unwrap(), 1);
        assert!(!folder(dir, 1).exists() && !folder(dir, 2).exists());
        // What is there without its mark is no new one.
        fs::rename(folder(dir, 0).join("mark"), folder(dir, 0).join("bodies")).unwrap();
        assert_eq!(count(dir).unwrap(), 1);
    }

    #[test]
    fn an_import_that_was_not_finished_is_told() {
        let bed = tempfile::tempdir().unwrap();
        fs::create_dir(bed.path().join(IMPORTING)).unwrap();
        let error = count(bed.path()).unwrap_err().to_string();
        assert!(error.contains("importing is damaged: an import was not finished"), "{error}");
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
            assert!(count(dir).is_err(), "{at}");
            fs::write(dir.join(FILE), &whole[..at]).unwrap();
            assert!(count(dir).is_err());
            assert_eq!(accepted(dir).0, 2);
            // Once accepted it is made anew.
            set_shard_count(dir, 2).unwrap();
            assert_eq!(fs::read(dir.join(FILE)).unwrap(), whole);
        }
    }
}
