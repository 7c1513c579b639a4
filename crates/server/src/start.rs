//! The start: open the stores, recover the shards, bring them in line with each other, then listen.

use crate::handle::Handle;
use crate::homes::Home;
use crate::inbox::Item;
use crate::progress::{Phase, Teller};
use crate::{
    ServerConfig, Shared, StartError, Storage, alarms, auth, front, listener, shard_task, spread, store_thread,
};
use hornpipe_core::{Bootstrap, CoreConfig, Shard};
use hornpipe_store::{Ballast, Memory, Store, StoreConfig, has_shard, set_shard_count, shard_count, tools};
use hornpipe_types::definition::UserDefinition;
use hornpipe_types::effect::Outbox;
use hornpipe_types::limits::Limits;
use hornpipe_types::op::Recovered;
use hornpipe_types::stats::Health;
use std::sync::Arc;

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

    /// Opens the stores, recovers, then listens. Must be called inside a tokio runtime with IO and time.
    ///
    /// # Errors
    /// When a store, a thread or a listener can't be had; nothing is left running then but threads that end by themselves.
    pub async fn start(self) -> Result<Handle, StartError> {
        let shared = self.handle.shared.clone();
        let config = &shared.config;
        // Bound before recovery, so that a taken port fails at once; accepted from only after it.
        let listeners = listener::bind_all(&config.amqp)?;
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|error| StartError::Io("can't create the data folder", error))?;
        let _teller = Teller::start(shared.clone());
        let looking = shared.clone();
        let looked = tokio::task::spawn_blocking(move || look(&looking.config)).await;
        looked.map_err(|_| StartError::Panicked)??;
        let recovering: Vec<_> = shared
            .homes
            .all()
            .map(|home| {
                let (shared, home) = (shared.clone(), home.clone());
                tokio::task::spawn_blocking(move || recover(&shared, &home))
            })
            .collect();
        let mut recovered = Vec::with_capacity(recovering.len());
        for shard in recovering {
            recovered.push(shard.await.map_err(|_| StartError::Panicked)??);
        }
        // Only now that there are all of them; what is counted must be there at the next start.
        if matches!(config.storage, Storage::Disk) {
            set_shard_count(&config.data_dir, config.shards)?;
        }
        for (home, shard) in shared.homes.all().zip(recovered) {
            run(&shared, home, shard)?;
        }
        spread::reconcile(&shared.homes).await.map_err(StartError::Shards)?;
        let alarmed = shared.clone();
        let changed = move |alarms| alarmed.homes.all().for_each(|home| home.inbox.push(Item::Alarms(alarms)));
        let watch =
            alarms::Watch::start(config.alarms.clone(), config.data_dir.clone(), shared.levels.clone(), changed)
                .map_err(no_thread)?;
        self.handle.keep(watch);
        let addresses: Vec<_> = listeners.iter().map(|(_, address)| *address).collect();
        for address in &addresses {
            self.handle.add_listener("amqp", *address);
        }
        // Started once only, so it is empty.
        let _ = shared.amqp.set(addresses);
        shared.set_health(Health::Ready);
        front::start(&shared, listeners)?;
        Ok(self.handle)
    }
}

fn no_thread(error: std::io::Error) -> StartError {
    StartError::Io("can't start a thread", error)
}

/// Starts what belongs to a shard: its threads and its owner.
fn run(shared: &Arc<Shared>, home: &Arc<Home>, (store, shard, outbox): Opened) -> Result<(), StartError> {
    let reader = store_thread::ReaderThread::start(shared.clone(), home.clone(), store.reader()).map_err(no_thread)?;
    let writer = store_thread::StoreThread::start(shared.clone(), home.clone(), store).map_err(no_thread)?;
    let owner = shard_task::Owner::new(shared.clone(), home.clone(), shard, outbox, writer, reader);
    let owner = tokio::spawn(owner.run());
    let watched = shared.clone();
    tokio::spawn(async move {
        if owner.await.is_err_and(|error| error.is_panic()) {
            watched.fatal(shard_task::PANICKED);
        }
    });
    Ok(())
}

/// Whether all shards of the data folder are there. One that has vhosts in more than are configured is refused. Blocking.
fn look(config: &ServerConfig) -> Result<(), StartError> {
    if !matches!(config.storage, Storage::Disk) {
        return Ok(());
    }
    if Ballast::new(&config.data_dir, config.ballast_bytes, config.shards).release_last() {
        tracing::warn!("the disk is full: the ballast was given up to open the data folder");
    }
    let mut accepted = Vec::new();
    let found = shard_count(&config.data_dir, config.store.accept_data_loss.then_some(&mut accepted))?;
    for loss in accepted {
        tracing::warn!("recovery: {loss}");
    }
    // One that is missing all the same was given up by `accept_data_loss`.
    for shard in (config.shards..found).filter(|shard| has_shard(&config.data_dir, *shard)) {
        let store = StoreConfig { shard, ..config.store.clone() };
        if let Some(vhost) = tools::vhosts(&config.data_dir, &store)?.first() {
            let (shards, least) = (config.shards, shard + 1);
            return Err(StartError::Shards(format!(
                "shards = {shards} is not allowed: vhost '{vhost}' is in shard-{shard} of the data folder; \
                 set shards to at least {least}, or delete the vhosts in it first"
            )));
        }
    }
    Ok(())
}

/// What one of several shards may have of the budgets of all.
fn share(config: &ServerConfig) -> (Limits, StoreConfig) {
    const LEAST: u64 = 1 << 20;
    let shards = u64::from(config.shards.max(1));
    let part = |bytes: u64| if shards == 1 { bytes } else { (bytes / shards).max(LEAST) };
    let limits = Limits {
        resident_bytes: part(config.limits.resident_bytes),
        pending_bytes: part(config.limits.pending_bytes),
        inline_live_bytes: part(config.limits.inline_live_bytes),
        log_runs: (config.limits.log_runs / shards).max(1),
        ..config.limits.clone()
    };
    let cache_bytes = part(config.store.cache_bytes);
    (limits, StoreConfig { cache_bytes, body_file_bytes: crate::body_file_bytes(config), ..config.store.clone() })
}

/// A store, the shard out of it, and what its owner is to hand out first.
type Opened = (Store, Shard, Outbox);

/// Opens the store of a shard and rebuilds the shard from it. Blocking.
fn recover(shared: &Shared, home: &Home) -> Result<Opened, StartError> {
    let config = &shared.config;
    let random = |error: getrandom::Error| StartError::Io("no random octets", std::io::Error::other(error.to_string()));
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(random)?;
    let started = shared.clock.mono();
    home.progress.enter(Phase::Opening);
    let (limits, store) = share(config);
    let store = StoreConfig { shard: home.number, ..store };
    let mut store = match &config.storage {
        Storage::Disk => Store::open(&config.data_dir, store)?,
        Storage::Memory => Store::with_medium(Box::new(Memory::new()), store),
        Storage::Medium(make) => Store::with_medium(make(), store),
    };
    home.progress.enter(Phase::Reading);
    let mut shard = Shard::new(CoreConfig { limits, seed: u64::from_le_bytes(seed), number: home.number });
    let mut items = 0u64;
    let mut is_new = home.number == 0;
    store.recover(&mut |item| {
        items += 1;
        is_new &= !matches!(item, Recovered::Definition(_));
        home.progress.note(items);
        if let Recovered::End { clean: false, .. } = item {
            tracing::warn!("the last stop was not clean: recovered messages count as redelivered");
        }
        shard.handle_recovered(item);
    })?;
    home.progress.enter(Phase::Filling);
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
    for what in store.unchecked() {
        tracing::warn!("recovery: not checked: {what}");
    }
    home.progress.enter(Phase::Done);
    let ms = shared.clock.mono().ms_since(started);
    match shared.homes.is_single() {
        true => tracing::info!("recovered {items} log entries in {ms} ms"),
        false => tracing::info!("recovered {items} log entries of shard {} in {ms} ms", home.number),
    }
    let mut outbox = Outbox::default();
    shard.poll_effects(shared.clock.now(), &mut outbox);
    // Nobody may meet a broker that is ready and knows no user.
    if let Some(table) = outbox.logins.take()
        && home.number == 0
    {
        shared.auth.set_table(table);
    }
    Ok((store, shard, outbox))
}
