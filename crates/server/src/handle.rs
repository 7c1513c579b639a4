//! The door to a running broker: for the admin side, for `main` and for tests.

use crate::Shared;
use crate::alarms::Watch;
use crate::auth::PasswordHashing;
use crate::inbox::Item;
use hornpipe_types::names::ShortStr;
use hornpipe_types::operate::{Operate, Operation, Outcome, Password};
use hornpipe_types::stats::{AdminUser, Answer, BoxFuture, Health, Inspect, LoginRefused, NodeStats, Request};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

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
            let (asker, outcome) = oneshot::channel();
            self.shared.inbox.push(Item::Operate(user, Box::new(operation), asker));
            outcome.await.map_err(|_| "the broker has stopped".to_owned())
        })
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
            let (asker, answer) = oneshot::channel();
            self.shared.inbox.push(Item::Ask(request, asker));
            answer.await.map_err(|_| "the broker has stopped".to_owned())
        })
    }

    fn node(&self) -> NodeStats {
        let shared = &self.shared;
        let config = &shared.config;
        let levels = &shared.levels;
        let (auth_attempts_succeeded, auth_attempts_failed) = shared.auth.attempts();
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
            store_db_bytes: shared.store_db_bytes.load(Ordering::Relaxed),
            store_body_bytes: shared.store_body_bytes.load(Ordering::Relaxed),
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
