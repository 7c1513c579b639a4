//! The front: one thread with a runtime of its own that accepts connections and serves them for as long as they only come and
//! go. Those that do more move to the workers.
//!
//! A client that logs in waits for each answer in turn, so there is nothing to do side by side: on several threads most of
//! the time goes into waking each other. With one that looks a moment before it sleeps
//! (`lookout.rs`), and the owner's turns taken in place ([`Desk`](crate::shard_task::Desk)), nobody is woken.

use crate::{Shared, StartError, listener};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Starts accepting. Ends when the runtime it is called in does.
pub(crate) fn start(shared: &Arc<Shared>, listeners: Vec<(TcpListener, SocketAddr)>) -> Result<(), StartError> {
    let failed = |error| StartError::Io("can't start the front", error);
    let workers = Handle::current();
    let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(failed)?;
    runtime.spawn({
        let shared = shared.clone();
        async move { shared.lookout.look().await }
    });
    {
        let _inside = runtime.enter();
        for (listener, address) in listeners {
            let listener = listener.into_std().and_then(TcpListener::from_std).map_err(failed)?;
            runtime.spawn(listener::accept(shared.clone(), workers.clone(), listener, address));
        }
    }
    let (alive, over) = oneshot::channel::<()>();
    workers.spawn(async move {
        let _alive = alive;
        std::future::pending::<()>().await;
    });
    let run = move || {
        // An error is what it waits for: the other end is gone.
        let _ = runtime.block_on(over);
    };
    std::thread::Builder::new().name("front".to_owned()).spawn(run).map_err(failed)?;
    Ok(())
}
