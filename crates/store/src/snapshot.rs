//! Body files of a snapshot: names for the same files where that is possible, else copies.

use crate::disk::{Mark, create_dir, io_error, remove_dir, sync_dir};
use crate::error::StoreError;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Folder in the shard's own for names that are copied to another file system.
const STAGE: &str = "snapshot-links";

type Step = Box<dyn FnOnce() -> Result<u64, StoreError> + Send>;

/// Gives all body files of the shard in `from` a second name, so that they can't go any more: in the snapshot's folder `to`
/// itself, or beside the first one when that is on another file system. What is left to do may run elsewhere: copying in the
/// second case, and in both the mark, by which the snapshot becomes one.
pub(crate) fn link(from: &Path, to: &Path, mark: &[u8]) -> Result<Step, StoreError> {
    let (bodies, target, stage) = (from.join("bodies"), to.join("bodies"), from.join(STAGE));
    create_dir(&target)?;
    remove_dir(&stage)?;
    let mut staged = false;
    let mut bytes = 0;
    for entry in fs::read_dir(&bodies).map_err(io_error("cannot read", &bodies))? {
        let entry = entry.map_err(io_error("cannot read", &bodies))?;
        let (path, name) = (entry.path(), entry.file_name());
        bytes += entry.metadata().map_err(io_error("cannot read", &path))?.len();
        if !staged {
            match fs::hard_link(&path, target.join(&name)) {
                Ok(()) => continue,
                Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                    create_dir(&stage)?;
                    staged = true;
                }
                Err(e) => return Err(io_error("cannot link", &path)(e)),
            }
        }
        fs::hard_link(&path, stage.join(&name)).map_err(io_error("cannot link", &path))?;
    }
    let (to, mark) = (to.to_owned(), mark.to_vec());
    Ok(Box::new(move || {
        if staged {
            let copied = copy(&stage, &target);
            remove_dir(&stage)?;
            copied?;
        }
        sync_dir(&target)?;
        let mut file = Mark::open(to.join("mark"))?;
        file.write(&mark)?;
        sync_dir(&to)?;
        Ok(bytes)
    }))
}

fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(from).map_err(io_error("cannot read", from))? {
        let entry = entry.map_err(io_error("cannot read", from))?;
        let target: PathBuf = to.join(entry.file_name());
        fs::copy(entry.path(), &target)
            .and_then(|_| File::open(&target)?.sync_all())
            .map_err(io_error("cannot copy to", &target))?;
    }
    Ok(())
}

/// Removes names that a copy which was interrupted left.
pub(crate) fn remove_leftovers(shard: &Path) -> Result<(), StoreError> {
    remove_dir(&shard.join(STAGE))
}
