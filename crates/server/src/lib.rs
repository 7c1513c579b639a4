//! Drives the broker: sockets, tasks, threads, the clock, logins, alarms and the stop.
//!
//! Everything that touches the outside stands here, beside the deterministic machines of `amqp` and `core` and the
//! blocking `store`. This crate must not know clap, HTTP or configuration files. Read first: [`Broker`] (start),
//! [`Handle`] (ask and stop), `shard_task::Owner` (the one task that touches the shard).
//!
//! One task per connection parses and encodes; one owner task per shard decides; one thread per shard writes, one reads back.
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
mod handle;
mod inbox;
mod listener;
mod shard_task;
mod shutdown;
mod store_thread;
mod turns;

pub use alarms::{AlarmConfig, memory_total};
pub use clock::Clock;
pub use handle::Handle;
pub use listener::bind;
pub use shutdown::SHUTDOWN_TEXT;

use hornpipe_amqp::MachineConfig;
use hornpipe_core::{Bootstrap, CoreConfig, Shard};
use hornpipe_store::{Ballast, Medium, Memory, Store, StoreConfig, StoreError, Usage};
use hornpipe_types::definition::UserDefinition;
use hornpipe_types::effect::Outbox;
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::limits::Limits;
use hornpipe_types::op::Recovered;
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
    /// How the store is opened.
    pub store: StoreConfig,
    /// AMQP listeners; port 0 picks a free one.
    pub amqp: Vec<SocketAddr>,
    /// Octets kept back on the volume for opening on a full disk; 0 = none.
    pub ballast_bytes: u64,
    /// Limits of the core and the connection machine.
    pub limits: Limits,
    /// What an empty data folder starts with.
    pub first: FirstUser,
    /// How passwords of users created here are hashed.
    pub password_hashing: auth::PasswordHashing,
    /// Users who may log in from loopback addresses only.
    pub loopback_users: Vec<String>,
    /// Memory and disk watermarks.
    pub alarms: AlarmConfig,
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
            ballast_bytes: 0,
            amqp: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            limits: Limits::default(),
            first: FirstUser::default(),
            password_hashing: auth::PasswordHashing::default(),
            loopback_users: vec!["guest".to_owned()],
            alarms: AlarmConfig::default(),
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
    #[error("can't open the data folder: {0}")]
    Store(#[from] StoreError),
    /// A listener's address can't be bound.
    #[error("can't listen for AMQP on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// Folder, thread or random source.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
    /// Recovery panicked; the log has more.
    #[error("recovery panicked")]
    Panicked,
}

/// What all tasks and threads share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) inbox: inbox::Inbox,
    pub(crate) auth: auth::Auth,
    /// Room for logins whose hash is slow.
    pub(crate) slow_logins: Semaphore,
    pub(crate) machine: Arc<MachineConfig>,
    pub(crate) buffers: buffers::Buffers,
    pub(crate) sockets: Sockets,
    pub(crate) levels: Arc<alarms::Levels>,
    pub(crate) store_usage: Mutex<Usage>,
    pub(crate) ballast_bytes: AtomicU64,
    /// The disk has no room for work that can wait.
    pub(crate) no_spare_room: AtomicBool,
    /// A snapshot asked for and not answered yet; the sender is taken when it is begun.
    pub(crate) snapshot: Mutex<Option<SnapshotAsked>>,
    pub(crate) turns: turns::Turns,
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
            inbox: inbox::Inbox::default(),
            auth: auth::Auth::new(config.loopback_users.iter().cloned(), config.password_hashing),
            slow_logins: Semaphore::new(auth::Auth::slow_max()),
            machine: Arc::new(machine),
            buffers: buffers::Buffers::default(),
            sockets: Sockets { open: AtomicU64::new(0), max: sockets_max, none: Notify::new() },
            levels: Arc::default(),
            store_usage: Mutex::default(),
            ballast_bytes: AtomicU64::new(0),
            no_spare_room: AtomicBool::new(false),
            snapshot: Mutex::default(),
            turns: turns::Turns::default(),
            listeners: Mutex::default(),
            config,
            health: RwLock::new(Health::Starting("opening the store".to_owned())),
            last_connection: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            stop: watch::Sender::new(false),
        }
    }

    pub(crate) fn next_connection_id(&self) -> ConnectionId {
        ConnectionId(self.last_connection.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(crate) fn health(&self) -> Health {
        self.health.read().unwrap_or_else(PoisonError::into_inner).clone()
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
pub(crate) type SnapshotAsked = (PathBuf, oneshot::Sender<Result<SnapshotMade, String>>);

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

/// A broker that is about to start. Its [`Handle`] can be asked before, and says that it is starting.
#[derive(Debug)]
pub struct Broker {
    handle: Handle,
}

impl Broker {
    /// Nothing happens yet.
    pub fn new(config: ServerConfig) -> Self {
        Self { handle: Handle::new(Arc::new(Shared::new(config))) }
    }

    /// For asking and stopping.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Opens the store, recovers, then listens. Must be called inside a tokio runtime with IO and time.
    ///
    /// # Errors
    /// When the store, a thread or a listener can't be had; nothing is left running then but threads that end by themselves.
    pub async fn start(self) -> Result<Handle, StartError> {
        let shared = self.handle.shared.clone();
        let config = &shared.config;
        // Bound before recovery, so that a taken port fails at once; accepted from only after it.
        let listeners = listener::bind_all(&config.amqp)?;
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|error| StartError::Io("can't create the data folder", error))?;
        let recovering = shared.clone();
        let recovered = tokio::task::spawn_blocking(move || recover(&recovering)).await;
        let (store, shard, outbox) = recovered.map_err(|_| StartError::Panicked)??;

        let io = |error| StartError::Io("can't start a thread", error);
        let reader = store_thread::ReaderThread::start(shared.clone(), store.reader()).map_err(io)?;
        let writer = store_thread::StoreThread::start(shared.clone(), store).map_err(io)?;
        let owner = tokio::spawn(shard_task::Owner::new(shared.clone(), shard, outbox, writer, reader).run());
        let watched = shared.clone();
        tokio::spawn(async move {
            if owner.await.is_err_and(|error| error.is_panic()) {
                watched.fatal("the shard panicked");
            }
        });
        let alarmed = shared.clone();
        let changed = move |alarms| alarmed.inbox.push(inbox::Item::Alarms(alarms));
        let watch =
            alarms::Watch::start(config.alarms.clone(), config.data_dir.clone(), shared.levels.clone(), changed)
                .map_err(io)?;
        self.handle.keep(watch);
        let addresses: Vec<_> = listeners.iter().map(|(_, address)| *address).collect();
        for address in &addresses {
            self.handle.add_listener("amqp", *address);
        }
        // Started once only, so it is empty.
        let _ = shared.amqp.set(addresses);
        shared.set_health(Health::Ready);
        for (listener, address) in listeners {
            tokio::spawn(listener::accept(shared.clone(), listener, address));
        }
        Ok(self.handle)
    }
}

/// Body files are smaller on a small volume: their room is taken and given back whole.
fn body_file_bytes(config: &ServerConfig) -> u64 {
    const LEAST: u64 = 1 << 20;
    let volume = alarms::volume_bytes(&config.data_dir).unwrap_or(u64::MAX);
    config.store.body_file_bytes.min(LEAST.max(volume / 32))
}

/// Opens the store and rebuilds the shard from it; the outbox is for the owner to hand out. Blocking.
fn recover(shared: &Shared) -> Result<(Store, Shard, Outbox), StartError> {
    let config = &shared.config;
    let random = |error: getrandom::Error| StartError::Io("no random octets", std::io::Error::other(error.to_string()));
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(random)?;
    let started = shared.clock.mono();
    let on_disk = matches!(config.storage, Storage::Disk);
    if on_disk && Ballast::new(&config.data_dir, config.ballast_bytes).release_last() {
        tracing::warn!("the disk is full: the ballast was given up to open the data folder");
    }
    let mut store = match &config.storage {
        Storage::Disk => {
            let body_file_bytes = body_file_bytes(config);
            Store::open(&config.data_dir, StoreConfig { body_file_bytes, ..config.store.clone() })?
        }
        Storage::Memory => Store::with_medium(Box::new(Memory::new()), config.store.clone()),
        Storage::Medium(make) => Store::with_medium(make(), config.store.clone()),
    };
    let mut shard = Shard::new(CoreConfig { limits: config.limits.clone(), seed: u64::from_le_bytes(seed) });
    let mut items = 0u64;
    let mut is_new = true;
    store.recover(&mut |item| {
        items += 1;
        is_new &= !matches!(item, Recovered::Definition(_));
        if items.is_multiple_of(100_000) {
            shared.set_health(Health::Starting(format!("recovering: {items} log entries read")));
        }
        if let Recovered::End { clean: false, .. } = item {
            tracing::warn!("the last stop was not clean: recovered messages count as redelivered");
        }
        shard.handle_recovered(item);
    })?;
    let first = &config.first;
    // the first user is made on an empty folder only, and the hash may be slow
    let (algorithm, password_hash) = match is_new {
        true => auth::new_password_hash(config.password_hashing, &first.password).map_err(random)?,
        false => (auth::SHA256, String::new()),
    };
    let user = UserDefinition {
        name: first.name.as_str().into(),
        password_hash,
        hashing_algorithm: algorithm.to_owned(),
        tags: first.tags.clone(),
        limits: Vec::new(),
    };
    let bootstrap = Bootstrap { vhost: first.vhost.as_str().into(), user };
    let remarks = shard.finish_recovery(shared.clock.now(), &bootstrap);
    for remark in store.losses().iter().chain(&remarks) {
        tracing::warn!("recovery: {remark}");
    }
    let ms = shared.clock.mono().ms_since(started);
    tracing::info!("recovered {items} log entries in {ms} ms");
    // Nobody may meet a broker that is ready and knows no user.
    let mut outbox = Outbox::default();
    shard.poll_effects(shared.clock.now(), &mut outbox);
    if let Some(table) = outbox.logins.take() {
        shared.auth.set_table(table);
    }
    Ok((store, shard, outbox))
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
    let _room = shared.slow_logins.acquire().await;
    let shared = Arc::clone(&shared);
    let verdict = tokio::task::spawn_blocking(move || shared.auth.login(&user, &password, loopback)).await;
    verdict.unwrap_or(Err(LoginRefused::Credentials))
}
