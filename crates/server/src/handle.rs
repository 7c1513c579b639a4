//! The door to a running broker: for the admin side, for `main` and for tests.

use crate::Shared;
use crate::alarms::Watch;
use crate::auth::PasswordHashing;
use crate::homes::Home;
use crate::spread;
use hornpipe_store::Usage;
use hornpipe_types::names::ShortStr;
use hornpipe_types::operate::{Operate, Operation, Outcome, Password, SnapshotMade, SnapshotRefused};
use hornpipe_types::stats::{
    AdminUser, Answer, BoxFuture, Health, Inspect, LoginRefused, NodeStats, Request, ShardTurns,
};
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// Asks and stops a broker. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
    /// Runs as long as a handle is there.
    watch: Arc<Mutex<Option<Watch>>>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("health", &self.shared.health()).finish_non_exhaustive()
    }
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, watch: Arc::default() }
    }

    pub(crate) fn keep(&self, watch: Watch) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(watch);
    }

    pub(crate) fn end_watch(&self) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Addresses of the AMQP listeners as bound, in the order of the configuration; empty while starting.
    pub fn amqp_addresses(&self) -> Vec<SocketAddr> {
        self.shared.amqp.get().cloned().unwrap_or_default()
    }

    /// Adds a listener of another crate to what [`Inspect::node`] tells. `protocol`: `http`, `http/prometheus`, …
    pub fn add_listener(&self, protocol: &str, address: SocketAddr) {
        let row = (protocol.to_owned(), address.ip().to_string(), address.port(), false);
        self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    }
}

impl Handle {
    /// Refuses with a sentence while there is no owner to ask.
    fn check_serving(&self) -> Result<(), String> {
        match self.shared.health() {
            Health::Ready | Health::Stopping => Ok(()),
            Health::Starting(how_far) => Err(format!("the broker is starting: {how_far}")),
            Health::Failed(why) => Err(format!("the broker has failed: {why}")),
        }
    }
}

impl Operate for Handle {
    fn operate(&self, user: &ShortStr, mut operation: Operation) -> BoxFuture<'_, Result<Outcome, String>> {
        let user = user.clone();
        Box::pin(async move {
            self.check_serving()?;
            hash(self.shared.config.password_hashing, &mut operation)?;
            spread::operate(&self.shared, &user, operation).await
        })
    }

    fn snapshot(&self, folder: &str) -> BoxFuture<'_, Result<SnapshotMade, SnapshotRefused>> {
        let folder = folder.to_owned();
        Box::pin(async move {
            self.check_serving().map_err(SnapshotRefused::Broker)?;
            let path = snapshot_folder(&folder, &self.shared.config.data_dir).map_err(SnapshotRefused::Folder)?;
            let asked = self.shared.homes.ask_snapshot(&path).map_err(SnapshotRefused::Broker)?;
            let mut sum = SnapshotMade { folder: path.display().to_string(), db_bytes: 0, body_bytes: 0 };
            let mut failed = None;
            for made in asked {
                match made.await.unwrap_or_else(|_| Err("the broker has stopped".to_owned())) {
                    Ok(made) => {
                        sum.db_bytes += made.db_bytes;
                        sum.body_bytes += made.body_bytes;
                    }
                    Err(reason) => failed = failed.or(Some(reason)),
                }
            }
            let Some(reason) = failed else { return Ok(sum) };
            // It was empty, and nobody writes to it any more. What can't be removed is no snapshot, for it lacks a mark.
            let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(path)).await;
            Err(SnapshotRefused::Broker(reason))
        })
    }
}

/// A folder a snapshot may go to: absolute, empty or not there, outside the data folder.
fn snapshot_folder(folder: &str, data_dir: &Path) -> Result<PathBuf, String> {
    let path = Path::new(folder);
    if !path.is_absolute() || path.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(format!("'{folder}' is no absolute path without '..'"));
    }
    let parent = path.parent().filter(|p| p.is_dir());
    let parent = parent.ok_or_else(|| format!("'{folder}' has no folder above it on the broker's machine"))?;
    let resolved = |p: &Path| p.canonicalize().map_err(|e| format!("can't look at {}: {e}", p.display()));
    let real = resolved(parent)?.join(path.file_name().unwrap_or_default());
    if real.starts_with(resolved(data_dir)?) {
        return Err(format!("'{folder}' is within the broker's own data folder"));
    }
    match std::fs::read_dir(&real).map(Iterator::count) {
        Ok(entries) if entries > 0 => Err(format!("'{folder}' is not empty")),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("'{folder}' can't be a folder: {e}")),
        _ => Ok(real),
    }
}

/// Passwords are hashed here, on the caller's thread. A blank one means that there is no login by password.
fn hash(hashing: PasswordHashing, operation: &mut Operation) -> Result<(), String> {
    let Operation::PutUser { user, password } = operation else { return Ok(()) };
    if let Password::Clear(text) = std::mem::replace(password, Password::Hashed) {
        let (algorithm, hash) = match text.as_str() {
            "" => (crate::auth::SHA256, String::new()),
            text => crate::auth::new_password_hash(hashing, text).map_err(|e| format!("no random octets: {e}"))?,
        };
        (user.hashing_algorithm, user.password_hash) = (algorithm.to_owned(), hash);
    }
    Ok(())
}

impl Inspect for Handle {
    fn ask(&self, request: Request) -> BoxFuture<'_, Result<Answer, String>> {
        Box::pin(async move {
            self.check_serving()?;
            spread::ask(&self.shared.homes, request).await
        })
    }

    fn node(&self) -> NodeStats {
        let shared = &self.shared;
        let config = &shared.config;
        let levels = &shared.levels;
        let (auth_attempts_succeeded, auth_attempts_failed) = shared.auth.attempts();
        let mut usage = Usage::default();
        for of in shared.homes.all().map(|home| home.usage()) {
            usage.map_bytes += of.map_bytes;
            usage.map_live_bytes += of.map_live_bytes;
            usage.renewals += of.renewals;
            usage.body_bytes += of.body_bytes;
        }
        let turns = |home: &Arc<Home>| ShardTurns { wall: home.turns.wall(), cpu: home.turns.cpu() };
        NodeStats {
            node_name: config.node_name.clone(),
            cluster_name: config.cluster_name.clone(),
            product: "Hornpipe".to_owned(),
            product_version: config.product_version.clone(),
            rabbitmq_version: config.rabbitmq_version.clone(),
            uptime_ms: shared.clock.mono().ms_since(shared.started),
            os_pid: std::process::id(),
            processors: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            mem_used: crate::alarms::resident_bytes().unwrap_or(0),
            mem_limit: levels.memory_limit.load(Ordering::Relaxed),
            disk_free: levels.disk_free.load(Ordering::Relaxed),
            disk_free_limit: levels.disk_free_limit.load(Ordering::Relaxed),
            fd_used: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            fd_total: rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(0),
            sockets_used: shared.sockets.count(),
            front_looked_us: shared.lookout.looked_us(),
            store_db_bytes: usage.map_bytes,
            store_db_live_bytes: usage.map_live_bytes,
            store_db_renewals: usage.renewals,
            store_body_bytes: usage.body_bytes,
            store_ballast_bytes: shared.ballast_bytes.load(Ordering::Relaxed),
            turns: shared.homes.all().map(turns).collect(),
            listeners: shared.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            auth_attempts_succeeded,
            auth_attempts_failed,
        }
    }

    fn health(&self) -> Health {
        self.shared.health()
    }

    fn login(&self, user: &str, password: &str, loopback: bool) -> BoxFuture<'_, Result<AdminUser, LoginRefused>> {
        let (shared, user, password) = (Arc::clone(&self.shared), user.to_owned(), password.to_owned());
        Box::pin(crate::login(shared, user, password, loopback))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_goes_to_an_empty_folder_outside_the_data() {
        let bed = tempfile::tempdir().unwrap();
        let at = |name: &str| bed.path().join(name);
        std::fs::create_dir_all(at("data/shard-0")).unwrap();
        std::fs::create_dir_all(at("empty")).unwrap();
        std::fs::create_dir_all(at("full/x")).unwrap();
        std::fs::write(at("file"), "x").unwrap();
        std::os::unix::fs::symlink(at("data"), at("link")).unwrap();
        let check = |path: &Path, expected: &str| {
            let found = snapshot_folder(path.to_str().unwrap(), &at("data"));
            match expected {
                "" => assert!(found.is_ok(), "{found:?}"),
                text => assert!(found.clone().is_err_and(|e| e.contains(text)), "{path:?}: {found:?}"),
            }
        };
        check(&at("new"), "");
        check(&at("empty"), "");
        check(&at("full"), "is not empty");
        check(&at("file"), "can't be a folder");
        check(&at("none/new"), "no folder above it");
        check(&at("data/new"), "own data folder");
        check(&at("link/new"), "own data folder");
        check(&at("empty/../data/new"), "absolute path without '..'");
        check(Path::new("relative"), "absolute path");
        check(Path::new("/"), "no folder above it");
    }
}
