//! Drives the broker: sockets, tasks, threads, the clock, logins, alarms and the stop.
//!
//! Everything that touches the outside stands here, beside the deterministic machines of `amqp` and `core` and the
//! blocking `store`. This crate must not know clap, HTTP or configuration files. Read first: [`Broker`] (start),
//! [`Handle`] (ask and stop), `shard_task::Owner` (all that touches a shard), `homes::Homes` (all shards), `front.rs` (where
//! connections begin).
//!
//! One task per connection parses and encodes; one owner per shard decides; one thread per shard writes, one reads back.
//! They meet in the inbox (`inbox.rs`): vectors swapped whole under a lock held for a few instructions.
//!
//! **Invariant:** a panic in a connection's task ends that connection; a panic of the owner or a store thread, or a failed
//! sync, ends the process, because only a recovery can tell what is true then.

mod alarms;
mod argon;
pub mod auth;
mod buffers;
mod clock;
mod connection;
mod front;
mod handle;
mod homes;
mod inbox;
mod lines;
mod listener;
mod lookout;
mod patience;
mod progress;
mod room;
mod shard_task;
mod shutdown;
mod spread;
mod start;
mod store_thread;
mod turns;

pub use alarms::{AlarmConfig, memory_total};
pub use clock::Clock;
pub use handle::Handle;
pub use listener::bind;
pub use shutdown::SHUTDOWN_TEXT;
pub use start::Broker;

use hornpipe_amqp::MachineConfig;
use hornpipe_store::{Medium, StoreConfig, StoreError};
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::limits::Limits;
use hornpipe_types::operate::SnapshotMade;
use hornpipe_types::stats::{AdminUser, Health, LoginRefused};
use hornpipe_types::table::{FieldTable, Value};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use tokio::sync::{Notify, Semaphore, oneshot, watch};

/// What happens when the process can't go on: gets a sentence. The default ends the process with exit code 1.
pub type FatalHook = Arc<dyn Fn(&str) + Send + Sync>;

/// All a broker needs to know.
#[derive(Clone)]
pub struct ServerConfig {
    /// The data folder; created when missing.
    pub data_dir: PathBuf,
    /// Where the log is kept.
    pub storage: Storage,
    /// How a store is opened. Its cache is that of all shards together; which shard it is of is filled in.
    pub store: StoreConfig,
    /// How many shards vhosts are spread over, at least 1.
    pub shards: u32,
    /// AMQP listeners; port 0 picks a free one.
    pub amqp: Vec<SocketAddr>,
    /// Octets kept back on the volume for opening on a full disk; 0 = none.
    pub ballast_bytes: u64,
    /// Limits of the core and the connection machine. Budgets of memory are those of all shards together.
    pub limits: Limits,
    /// What an empty data folder starts with.
    pub first: FirstUser,
    /// How passwords of users created here are hashed.
    pub password_hashing: auth::PasswordHashing,
    /// Users who may log in from loopback addresses only.
    pub loopback_users: Vec<String>,
    /// Memory and disk watermarks.
    pub alarms: AlarmConfig,
    /// How long the front looks for what logging in clients say next before it sleeps; zero = not at all.
    pub front_look: std::time::Duration,
    /// Most sockets accepted at once; 0 = what the limit of file descriptors leaves.
    pub sockets_max: u64,
    /// Name of the node.
    pub node_name: String,
    /// Name of the cluster, told to clients.
    pub cluster_name: String,
    /// Version of this program.
    pub product_version: String,
    /// RabbitMQ version announced to clients, who switch features by it.
    pub rabbitmq_version: String,
    /// See [`FatalHook`].
    pub on_fatal: Option<FatalHook>,
}

impl std::fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerConfig")
            .field("data_dir", &self.data_dir)
            .field("amqp", &self.amqp)
            .finish_non_exhaustive()
    }
}

impl ServerConfig {
    /// The defaults with one listener on a free loopback port, for tests and in-process use.
    pub fn local(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            storage: Storage::Disk,
            store: StoreConfig::default(),
            shards: 1,
            ballast_bytes: 0,
            amqp: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            limits: Limits::default(),
            first: FirstUser::default(),
            password_hashing: auth::PasswordHashing::default(),
            loopback_users: vec!["guest".to_owned()],
            alarms: AlarmConfig::default(),
            front_look: std::time::Duration::from_micros(100),
            sockets_max: 0,
            node_name: "hornpipe@localhost".to_owned(),
            cluster_name: "hornpipe@localhost".to_owned(),
            product_version: env!("CARGO_PKG_VERSION").to_owned(),
            rabbitmq_version: "4.3.0".to_owned(),
            on_fatal: None,
        }
    }
}

/// Makes the medium of a store.
pub type MediumFactory = Arc<dyn Fn() -> Box<dyn Medium> + Send + Sync>;

/// Where the log is kept.
#[derive(Clone, Default)]
pub enum Storage {
    /// In the data folder.
    #[default]
    Disk,
    /// Nowhere: a restart begins empty. For tests and for brokers of transient messages.
    Memory,
    /// On a medium of the caller's, such as one that fails on command.
    Medium(MediumFactory),
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disk => "Disk",
            Self::Memory => "Memory",
            Self::Medium(_) => "Medium",
        })
    }
}

/// What an empty data folder starts with: a vhost and a user with full permissions in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstUser {
    /// The vhost.
    pub vhost: String,
    /// The user.
    pub name: String,
    /// Its password.
    pub password: String,
    /// Its tags.
    pub tags: Vec<String>,
}

impl Default for FirstUser {
    fn default() -> Self {
        Self {
            vhost: "/".to_owned(),
            name: "guest".to_owned(),
            password: "guest".to_owned(),
            tags: vec!["administrator".to_owned()],
        }
    }
}

/// Why a broker doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store can't be opened or recovered.
    #[error("can't open the data folder")]
    Store(#[from] StoreError),
    /// A listener's address can't be bound.
    #[error("can't listen for AMQP on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// Folder, thread or random source.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
    /// The shards of the data folder don't fit the configuration or each other.
    #[error("{0}")]
    Shards(String),
    /// Recovery panicked; the log has more.
    #[error("recovery panicked")]
    Panicked,
}

/// What all tasks and threads share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) homes: homes::Homes,
    pub(crate) auth: auth::Auth,
    /// Room for logins whose hash is slow.
    pub(crate) slow_logins: Semaphore,
    pub(crate) machine: Arc<MachineConfig>,
    pub(crate) buffers: buffers::Buffers,
    pub(crate) sockets: Sockets,
    pub(crate) lookout: lookout::Lookout,
    pub(crate) levels: Arc<alarms::Levels>,
    pub(crate) ballast_bytes: AtomicU64,
    /// The disk has no room for work that can wait.
    pub(crate) no_spare_room: AtomicBool,
    pub(crate) room: room::Room,
    /// protocol, address, port, tls
    pub(crate) listeners: Mutex<Vec<(String, String, u16, bool)>>,
    pub(crate) config: ServerConfig,
    pub(crate) started: hornpipe_types::time::Instant,
    /// AMQP listeners as bound.
    pub(crate) amqp: OnceLock<Vec<SocketAddr>>,
    health: RwLock<Health>,
    last_connection: AtomicU64,
    failed: AtomicBool,
    /// True once no more sockets are accepted.
    pub(crate) stop: watch::Sender<bool>,
}

impl Shared {
    fn new(config: ServerConfig) -> Self {
        let machine = MachineConfig {
            limits: config.limits.clone(),
            server_properties: server_properties(&config),
            ..MachineConfig::default()
        };
        let sockets_max = if config.sockets_max > 0 { config.sockets_max } else { sockets_by_descriptors() };
        let clock = Clock::new();
        Self {
            started: clock.mono(),
            clock,
            amqp: OnceLock::new(),
            homes: homes::Homes::new(config.shards.max(1)),
            auth: auth::Auth::new(config.loopback_users.iter().cloned(), config.password_hashing),
            slow_logins: Semaphore::new(auth::Auth::slow_max()),
            machine: Arc::new(machine),
            buffers: buffers::Buffers::default(),
            sockets: Sockets { open: AtomicU64::new(0), max: sockets_max, none: Notify::new() },
            lookout: lookout::Lookout::new(config.front_look),
            levels: Arc::default(),
            ballast_bytes: AtomicU64::new(0),
            no_spare_room: AtomicBool::new(false),
            room: room::Room::default(),
            listeners: Mutex::default(),
            config,
            health: RwLock::new(Health::Starting(String::new())),
            last_connection: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            stop: watch::Sender::new(false),
        }
    }

    pub(crate) fn next_connection_id(&self) -> ConnectionId {
        ConnectionId(self.last_connection.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(crate) fn health(&self) -> Health {
        match self.health.read().unwrap_or_else(PoisonError::into_inner).clone() {
            Health::Starting(_) => Health::Starting(self.homes.progress()),
            health => health,
        }
    }

    /// A failed broker stays failed.
    pub(crate) fn set_health(&self, health: Health) {
        let mut held = self.health.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*held, Health::Failed(_)) {
            *held = health;
        }
    }

    /// The process can't go on.
    pub(crate) fn fatal(&self, text: &str) {
        if self.failed.swap(true, Ordering::SeqCst) {
            return;
        }
        tracing::error!("{text}; the process ends, a restart recovers what was confirmed");
        self.set_health(Health::Failed(text.to_owned()));
        match &self.config.on_fatal {
            Some(hook) => hook(text),
            None => {
                // A moment for the log line and a last health check to get out.
                std::thread::sleep(std::time::Duration::from_millis(200));
                std::process::exit(1);
            }
        }
    }
}

/// The folder of a snapshot, and who waits for it.
pub(crate) type SnapshotAsked = (PathBuf, oneshot::Sender<SnapshotTold>);

/// What became of a snapshot of a shard.
pub(crate) type SnapshotTold = Result<SnapshotMade, String>;

/// Sockets accepted and not yet closed.
#[derive(Debug)]
pub(crate) struct Sockets {
    open: AtomicU64,
    max: u64,
    none: Notify,
}

impl Sockets {
    /// Counts one in, unless there are too many.
    pub(crate) fn enter(&self) -> bool {
        let counted = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        if counted > self.max {
            self.leave();
            return false;
        }
        true
    }
    pub(crate) fn leave(&self) {
        if self.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.none.notify_waiters();
        }
    }
    pub(crate) fn count(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }
    /// Waits until none is open.
    pub(crate) async fn all_gone(&self) {
        loop {
            let gone = self.none.notified();
            if self.count() == 0 {
                return;
            }
            gone.await;
        }
    }
}

/// What the file descriptor limit leaves after the store, the admin side and some air.
fn sockets_by_descriptors() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(u64::MAX, |limit| limit.saturating_sub(128).max(16))
}

/// What connection.start says of us. Clients choose features by `product`, `version` and `capabilities`.
fn server_properties(config: &ServerConfig) -> FieldTable {
    let mut capabilities = FieldTable::default();
    for name in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ] {
        capabilities.set(name, Value::Bool(true));
    }
    let mut properties = FieldTable::default();
    properties.set("capabilities", Value::Table(capabilities));
    for (key, text) in [
        ("cluster_name", config.cluster_name.as_str()),
        ("copyright", "The Hornpipe authors"),
        ("information", &format!("Hornpipe {}, an AMQP 0-9-1 broker", config.product_version)),
        ("platform", "Rust"),
        ("product", "RabbitMQ"),
        ("version", &config.rabbitmq_version),
    ] {
        properties.set(key, Value::long_str(text));
    }
    properties
}

/// Body files are smaller on a small volume: their room is taken and given back whole.
pub(crate) fn body_file_bytes(config: &ServerConfig) -> u64 {
    const LEAST: u64 = 1 << 20;
    let volume = alarms::volume_bytes(&config.data_dir).unwrap_or(u64::MAX);
    config.store.body_file_bytes.min(LEAST.max(volume / 32))
}

/// A login, on a thread of its own when its hash is slow.
pub(crate) async fn login(
    shared: Arc<Shared>,
    user: String,
    password: String,
    loopback: bool,
) -> Result<AdminUser, LoginRefused> {
    if !shared.auth.is_slow(&user, &password) {
        return shared.auth.login(&user, &password, loopback);
    }
    slow_login(shared, user, password, loopback).await
}

/// A login whose hash is slow.
pub(crate) async fn slow_login(
    shared: Arc<Shared>,
    user: String,
    password: String,
    loopback: bool,
) -> Result<AdminUser, LoginRefused> {
    let _room = shared.slow_logins.acquire().await;
    let shared = Arc::clone(&shared);
    let verdict = tokio::task::spawn_blocking(move || shared.auth.login(&user, &password, loopback)).await;
    verdict.unwrap_or(Err(LoginRefused::Credentials))
}
