//! The data folder: one process at a time, and `ports.json`, by which others find the listeners.

use anyhow::Context;
use hornpipe_store::{FolderLock, StoreError};
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Name of the file with the bound ports.
pub(crate) const PORTS: &str = "ports.json";

/// The folder, locked until dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: FolderLock,
}

impl DataDir {
    /// Creates the folder when missing and locks it. A `ports.json` of an earlier run goes, so that nobody takes it for ours.
    pub(crate) fn lock(path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("can't create the data folder {}", path.display()))?;
        let lock = FolderLock::take(path).map_err(|error| match error {
            StoreError::Locked { .. } => {
                anyhow::anyhow!("the data folder {} is in use by another process", path.display())
            }
            error => error.into(),
        })?;
        let this = Self { path: path.to_owned(), _lock: lock };
        this.forget_ports();
        Ok(this)
    }

    /// Says where we listen: the first address of each kind, 0 for none. Readers see the whole file or none.
    pub(crate) fn tell_ports(
        &self,
        amqp: &[SocketAddr],
        http: &[SocketAddr],
        metrics: &[SocketAddr],
    ) -> anyhow::Result<()> {
        let port = |list: &[SocketAddr]| list.first().map_or(0, SocketAddr::port);
        let ports = serde_json::json!({ "amqp": port(amqp), "http": port(http), "metrics": port(metrics) });
        let new = self.path.join("ports.json.new");
        let mut file = File::create(&new).with_context(|| format!("can't create {}", new.display()))?;
        writeln!(file, "{ports}")?;
        drop(file);
        std::fs::rename(&new, self.path.join(PORTS)).context("can't name ports.json")
    }

    /// We don't listen any more.
    pub(crate) fn forget_ports(&self) {
        // It may not be there; a folder that can't be written to shows elsewhere.
        let _ = std::fs::remove_file(self.path.join(PORTS));
    }
}

/// The port a running process says it has for `kind` (`amqp`, `http`, `metrics`).
pub(crate) fn told_port(path: &Path, kind: &str) -> anyhow::Result<u16> {
    let name = path.join(PORTS);
    let text = std::fs::read_to_string(&name).with_context(|| format!("can't read {}", name.display()))?;
    let ports: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", name.display()))?;
    let port = ports.get(kind).and_then(serde_json::Value::as_u64).and_then(|port| u16::try_from(port).ok());
    port.filter(|port| *port != 0).with_context(|| format!("{} names no {kind} port", name.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once_and_tells_its_ports() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let first = DataDir::lock(&path).unwrap();
        for tidied in [false, true] {
            if tidied {
                std::fs::remove_file(path.join("lock")).unwrap();
            }
            let second = DataDir::lock(&path).unwrap_err();
            assert!(second.to_string().contains("in use by another process"), "{second}");
        }
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        first.tell_ports(&[at(1), at(2)], &[at(3)], &[]).unwrap();
        assert_eq!(std::fs::read_to_string(path.join(PORTS)).unwrap(), "{\"amqp\":1,\"http\":3,\"metrics\":0}\n");
        assert_eq!(told_port(&path, "http").unwrap(), 3);
        assert!(told_port(&path, "metrics").is_err());
        drop(first);
        let _third = DataDir::lock(&path).unwrap();
        assert!(told_port(&path, "http").is_err(), "of an earlier run");
    }
}
