//! Questions to the broker: whole lists out of slices, and what is answered when there is no answer.

use crate::App;
use crate::http::Reply;
use hornpipe_types::definition::{
    BindingDefinition, ParameterDefinition, PermissionDefinition, PolicyDefinition, TopicPermissionDefinition,
    UserDefinition, VhostDefinition,
};
use hornpipe_types::ids::{ConnectionId, QueueId};
use hornpipe_types::names::ShortStr;
use hornpipe_types::operate::{Operation, Outcome};
use hornpipe_types::stats::{AdminUser, Answer, BrokerStats, ConnectionStats, ExchangeStats, QueueStats, Request};
use std::time::Duration;

/// Items of one slice: small enough that the broker's owner spends well under a millisecond on it.
const SLICE: u32 = 1000;
/// The broker answers between two turns; this long means that it is stuck.
const PATIENCE: Duration = Duration::from_secs(30);

async fn ask(app: &App, request: Request) -> Result<Answer, Reply> {
    match tokio::time::timeout(PATIENCE, app.broker.ask(request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(reason)) => Err(Reply::unavailable(&reason)),
        Err(_) => Err(Reply::unavailable("the broker did not answer in time")),
    }
}

/// Has the broker change something in the name of `user`. After the time is up it may still be done.
pub(crate) async fn operate(app: &App, user: &AdminUser, operation: Operation) -> Result<Outcome, Reply> {
    match tokio::time::timeout(PATIENCE, app.broker.operate(&user.name, operation)).await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(reason)) => Err(Reply::unavailable(&reason)),
        Err(_) => Err(Reply::unavailable("the broker did not answer in time")),
    }
}

fn mismatch<T>() -> Result<T, Reply> {
    tracing::error!("the broker answered another question than was asked");
    Err(Reply::error(500, "internal_error", "the broker answered another question than was asked"))
}

/// Broker-wide totals.
pub(crate) async fn totals(app: &App) -> Result<Box<BrokerStats>, Reply> {
    match ask(app, Request::Totals).await? {
        Answer::Totals(totals) => Ok(totals),
        _ => mismatch(),
    }
}

/// All queues, or those of a vhost, by vhost and name.
pub(crate) async fn queues(app: &App, vhost: Option<&str>) -> Result<Vec<QueueStats>, Reply> {
    let mut all: Vec<QueueStats> = Vec::new();
    let mut after = QueueId(0);
    loop {
        let request = Request::Queues { vhost: vhost.map(ShortStr::new), after, limit: SLICE };
        let Answer::Queues(slice) = ask(app, request).await? else { return mismatch() };
        // A slice may hold fewer than asked for and still not be the last one.
        let Some(last) = slice.last() else { break };
        if last.id <= after {
            return mismatch();
        }
        after = last.id;
        all.extend(slice);
    }
    all.sort_by(|a, b| (&a.vhost, &a.name).cmp(&(&b.vhost, &b.name)));
    Ok(all)
}

/// One queue.
pub(crate) async fn queue(app: &App, vhost: &str, name: &str) -> Result<Option<Box<QueueStats>>, Reply> {
    let request = Request::Queue { vhost: ShortStr::new(vhost), name: ShortStr::new(name) };
    match ask(app, request).await? {
        Answer::Queue(queue) => Ok(queue),
        _ => mismatch(),
    }
}

/// All connections in the order they were opened.
pub(crate) async fn connections(app: &App) -> Result<Vec<ConnectionStats>, Reply> {
    let mut all: Vec<ConnectionStats> = Vec::new();
    let mut after = ConnectionId(0);
    loop {
        let Answer::Connections(slice) = ask(app, Request::Connections { after, limit: SLICE }).await? else {
            return mismatch();
        };
        let Some(last) = slice.last() else { break };
        if last.id <= after {
            return mismatch();
        }
        after = last.id;
        all.extend(slice);
    }
    Ok(all)
}

/// One connection.
pub(crate) async fn connection(app: &App, id: ConnectionId) -> Result<Option<ConnectionStats>, Reply> {
    let request = Request::Connections { after: ConnectionId(id.0.saturating_sub(1)), limit: 1 };
    match ask(app, request).await? {
        Answer::Connections(slice) => Ok(slice.into_iter().find(|c| c.id == id)),
        _ => mismatch(),
    }
}

/// Exchanges of all vhosts or one, by vhost and name.
pub(crate) async fn exchanges(app: &App, vhost: Option<&str>) -> Result<Vec<ExchangeStats>, Reply> {
    match ask(app, Request::Exchanges { vhost: vhost.map(ShortStr::new) }).await? {
        Answer::Exchanges(mut all) => {
            all.sort_by(|a, b| {
                (&a.definition.vhost, &a.definition.name).cmp(&(&b.definition.vhost, &b.definition.name))
            });
            Ok(all)
        }
        _ => mismatch(),
    }
}

/// Bindings of all vhosts or one.
pub(crate) async fn bindings(app: &App, vhost: Option<&str>) -> Result<Vec<BindingDefinition>, Reply> {
    match ask(app, Request::Bindings { vhost: vhost.map(ShortStr::new) }).await? {
        Answer::Bindings(all) => Ok(all),
        _ => mismatch(),
    }
}

macro_rules! definitions {
    ($($(#[$doc:meta])* $name:ident: $variant:ident -> $item:ty, by $key:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) async fn $name(app: &App) -> Result<Vec<$item>, Reply> {
            match ask(app, Request::$variant).await? {
                Answer::$variant(mut all) => {
                    all.sort_by_key($key);
                    Ok(all)
                }
                _ => mismatch(),
            }
        }
    )*};
}

definitions! {
    /// Vhosts by name.
    vhosts: Vhosts -> VhostDefinition, by |d| d.name.clone();
    /// Users by name.
    users: Users -> UserDefinition, by |d| d.name.clone();
    /// Permissions by vhost and user.
    permissions: Permissions -> PermissionDefinition, by |d| (d.vhost.clone(), d.user.clone());
    /// Topic permissions by vhost, user and exchange.
    topic_permissions: TopicPermissions -> TopicPermissionDefinition,
        by |d| (d.vhost.clone(), d.user.clone(), d.exchange.clone());
    /// Parameters, the global ones first.
    parameters: Parameters -> ParameterDefinition, by |d| (d.vhost.clone(), d.component.clone(), d.name.clone());
    /// Policies and operator policies by vhost and name.
    policies: Policies -> PolicyDefinition, by |d| (d.vhost.clone(), d.name.clone());
}
