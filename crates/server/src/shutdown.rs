//! The stop: no new sockets, close what is open, write what is left, mark the store clean.

use crate::handle::Handle;
use crate::homes::Home;
use crate::inbox::Item;
use hornpipe_types::stats::Health;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The text of connection.close with 320 when the broker stops, as RabbitMQ words it.
pub const SHUTDOWN_TEXT: &str = "broker forced connection closure with reason 'shutdown'";

impl Handle {
    /// Stops the broker: every connection is closed with 320, then everything that waits is written and the store is
    /// marked clean. Connections get half of `timeout` to say goodbye. A second stop fails.
    ///
    /// # Errors
    /// A sentence when the store couldn't be closed within `timeout`; the next start then recovers as after a crash.
    pub async fn stop(&self, timeout: Duration) -> Result<(), String> {
        let shared = &self.shared;
        if !matches!(shared.health(), Health::Ready) {
            return Err(format!("not running: {:?}", shared.health()));
        }
        let end = tokio::time::Instant::now() + timeout;
        shared.set_health(Health::Stopping);
        shared.stop.send_replace(true);
        for home in shared.homes.all() {
            home.inbox.push(Item::CloseAll(SHUTDOWN_TEXT.to_owned()));
        }
        if tokio::time::timeout(timeout / 2, shared.sockets.all_gone()).await.is_err() {
            tracing::warn!("{} connections did not close in time", shared.sockets.count());
        }
        let finish = |home: &Arc<Home>| {
            let (done, closed) = oneshot::channel();
            home.inbox.push(Item::Finish(done));
            closed
        };
        let closing: Vec<_> = shared.homes.all().map(finish).collect();
        let mut result = Ok(());
        for closed in closing {
            // Every one is waited for, whatever became of those before.
            let this = match tokio::time::timeout_at(end, closed).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err("the shard has ended".to_owned()),
                Err(_) => Err("the store was not closed in time".to_owned()),
            };
            result = result.and(this);
        }
        self.end_watch();
        result
    }
}
