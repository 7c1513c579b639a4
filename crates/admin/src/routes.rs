//! Which path is what on the HTTP listener.

use crate::App;
use crate::http::{Reply, Request};
use hornpipe_types::stats::Health;

/// Answers a request.
pub(crate) async fn answer(app: &App, request: &Request) -> Reply {
    match app.broker.health() {
        Health::Ready if request.path == ["health", "live"] => Reply::text("text/plain", "ok\n".into()),
        _ => Reply::not_found(),
    }
}
