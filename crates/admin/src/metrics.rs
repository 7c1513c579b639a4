//! The metrics listener.

use crate::App;
use crate::http::{Reply, Request};

/// Answers a request.
pub(crate) async fn answer(_app: &App, _request: &Request) -> Reply {
    Reply::not_found()
}
