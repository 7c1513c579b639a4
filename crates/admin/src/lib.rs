//! The admin side of hornpipe: RabbitMQ-shaped HTTP API, Prometheus metrics and health.
//!
//! Runs in the daemon's process on a thread and a tokio runtime of its own, so that neither its load nor a panic in it stops
//! the broker. Its only doors to the broker are [`Inspect`](hornpipe_types::stats::Inspect),
//! snapshots asked in slices, and [`Operate`](hornpipe_types::operate::Operate), changes. It must not know queues' insides, the
//! store or AMQP. Read first: `routes` (which path is what), `queues` (what autoscalers read) and `metrics`.

mod access;
mod body;
mod change;
mod connections;
mod definitions;
mod encode;
mod families;
mod health;
mod http;
mod json;
mod list;
mod listen;
mod messages;
mod metrics;
mod objects;
mod overview;
mod page;
mod queues;
mod rates;
mod resources;
mod routes;
mod snapshot;

#[cfg(test)]
mod tests;

use hornpipe_types::operate::Manage;
use rates::Rates;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Where the admin side listens and how it samples.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Addresses of the management API, the status page and health; port 0 picks a free one. `[::]` also takes IPv4.
    pub http: Vec<SocketAddr>,
    /// Addresses of the metrics pages; port 0 picks a free one. `[::]` also takes IPv4.
    pub metrics: Vec<SocketAddr>,
    /// Put before every path of the HTTP listener (`management.path_prefix`); empty or `/something`.
    pub path_prefix: String,
    /// `/metrics` answers like `/metrics/per-object` (`prometheus.return_per_object_metrics`).
    pub per_object_metrics: bool,
    /// Time between the two samples rates are computed from. RabbitMQ's is 5 s.
    pub sample_interval: Duration,
    /// Most connections served at a time, each listener for itself; more wait in the kernel's backlog.
    pub connections_max: usize,
    /// Longest body of a request, octets (`management.http.max_body_size`).
    pub body_bytes_max: u64,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            http: Vec::new(),
            metrics: Vec::new(),
            path_prefix: String::new(),
            per_object_metrics: false,
            sample_interval: Duration::from_secs(5),
            connections_max: 256,
            body_bytes_max: 20_000_000,
        }
    }
}

/// What every request may look at.
pub(crate) struct App {
    pub(crate) broker: Arc<dyn Manage>,
    pub(crate) rates: Mutex<Rates>,
    pub(crate) config: AdminConfig,
    pub(crate) http: Vec<SocketAddr>,
    pub(crate) metrics: Vec<SocketAddr>,
}

impl App {
    /// Rates are plain numbers: after a panic in the middle of an update they are at worst stale.
    pub(crate) fn rates(&self) -> std::sync::MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The running admin side. Dropping it stops it too.
#[derive(Debug)]
pub struct AdminHandle {
    http: Vec<SocketAddr>,
    metrics: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AdminHandle {
    /// Bound addresses of the management API, in the order of the configuration.
    pub fn http_addrs(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Bound addresses of the metrics pages, in the order of the configuration.
    pub fn metrics_addrs(&self) -> &[SocketAddr] {
        &self.metrics
    }

    /// Stops listening, drops open connections and waits for the thread's end.
    pub fn stop(mut self) {
        self.shut();
    }

    fn shut(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin thread had panicked");
        }
    }
}

impl Drop for AdminHandle {
    fn drop(&mut self) {
        self.shut();
    }
}

/// Binds the sockets and starts the admin thread. Fails when an address can't be bound or no thread can be had.
pub fn start(config: AdminConfig, broker: Arc<dyn Manage>) -> io::Result<AdminHandle> {
    let (http, http_addrs) = listen::bind_all(&config.http)?;
    let (metrics, metrics_addrs) = listen::bind_all(&config.metrics)?;
    let app = Arc::new(App {
        broker,
        rates: Mutex::new(Rates::default()),
        config,
        http: http_addrs.clone(),
        metrics: metrics_addrs.clone(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async {
            for listener in http {
                listen::spawn(listener, app.clone(), listen::Door::Http);
            }
            for listener in metrics {
                listen::spawn(listener, app.clone(), listen::Door::Metrics);
            }
            tokio::spawn(rates::sample(app));
            // Ends on the handle's drop as well: then the sender is gone.
            let _ = stopped.await;
        });
        runtime.shutdown_background();
    })?;
    Ok(AdminHandle { http: http_addrs, metrics: metrics_addrs, stop: Some(stop), thread: Some(thread) })
}
