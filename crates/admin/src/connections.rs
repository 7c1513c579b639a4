//! Connections, their channels and consumers.

use crate::access::{self, Visible};
use crate::http::{Reply, Request};
use crate::rates::{Rates, publisher_message_stats};
use crate::{App, json, list, snapshot};
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::operate::Operation;
use hornpipe_types::stats::{ActivityStatus, AdminUser, ChannelStats, ConnectionStats, ConsumerStats};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Which connections a list is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of<'a> {
    All,
    Vhost(&'a str),
    User(&'a str),
    Name(&'a str),
}

/// The connections of a list, of those the user may see: without a monitoring tag only their own.
async fn seen(app: &App, user: &AdminUser, of: Of<'_>) -> Result<Vec<ConnectionStats>, Reply> {
    if let Of::Vhost(vhost) = of {
        access::vhost(app, user, vhost).await?;
    }
    let monitor = access::is_monitor(user);
    let mut all = snapshot::connections(app).await?;
    all.retain(|c| {
        (monitor || c.open.user == user.name)
            && match of {
                Of::All => true,
                Of::Vhost(vhost) => c.open.vhost == *vhost,
                Of::User(name) => c.open.user == *name,
                Of::Name(name) => c.open.name == name,
            }
    });
    Ok(all)
}

/// `/api/connections`, `/api/vhosts/{vhost}/connections`, `/api/connections/username/{user}`.
pub(crate) async fn list(app: &App, request: &Request, user: &AdminUser, of: Of<'_>) -> Result<Reply, Reply> {
    let seen = seen(app, user, of).await?;
    let node = app.broker.node().node_name;
    let rates = app.rates();
    let items = seen.iter().map(|c| object(c, &rates, &node)).collect();
    drop(rates);
    Ok(list::reply(&request.query, items))
}

/// `/api/connections/{name}`.
pub(crate) async fn one(app: &App, request: &Request, user: &AdminUser, name: &str) -> Result<Reply, Reply> {
    let seen = seen(app, user, Of::Name(name)).await?;
    let connection = seen.first().ok_or_else(Reply::not_found)?;
    let node = app.broker.node().node_name;
    let item = object(connection, &app.rates(), &node);
    Ok(list::one(&request.query, item))
}

/// `DELETE /api/connections/{name}` and `…/username/{user}`: one's own, or as administrator anyone's.
pub(crate) async fn close(app: &App, request: &Request, user: &AdminUser, of: Of<'_>) -> Result<Reply, Reply> {
    let mut all = snapshot::connections(app).await?;
    all.retain(|c| match of {
        Of::Name(name) => c.open.name == name,
        Of::User(name) => c.open.user == *name,
        Of::All | Of::Vhost(_) => false,
    });
    if matches!(of, Of::Name(_)) && all.is_empty() {
        return Err(Reply::not_found());
    }
    if all.iter().any(|c| c.open.user != user.name) && access::require(user, access::Need::Administrator).is_err() {
        return Err(access::unauthorised("User not authorised to access object"));
    }
    for connection in all {
        let reason = request.reason.clone().unwrap_or_else(|| "Closed via management plugin".to_owned());
        let operation = Operation::CloseConnection { connection: connection.id, reason };
        // One that has closed in the meantime is closed.
        snapshot::operate(app, user, operation).await?;
    }
    Ok(Reply::empty(204))
}

/// `/api/channels`, `/api/vhosts/{vhost}/channels`, `/api/connections/{name}/channels`.
pub(crate) async fn channels(app: &App, request: &Request, user: &AdminUser, of: Of<'_>) -> Result<Reply, Reply> {
    let seen = seen(app, user, of).await?;
    if matches!(of, Of::Name(_)) && seen.is_empty() {
        return Err(Reply::not_found());
    }
    let node = app.broker.node().node_name;
    let rates = app.rates();
    let items = seen.iter().flat_map(|c| c.channels.iter().map(|ch| channel(c, ch, &rates, &node))).collect();
    drop(rates);
    Ok(list::reply(&request.query, items))
}

/// `/api/channels/{name}`: `<connection name> (<number>)`.
pub(crate) async fn one_channel(app: &App, request: &Request, user: &AdminUser, name: &str) -> Result<Reply, Reply> {
    let (connection, number) = name
        .strip_suffix(')')
        .and_then(|rest| rest.rsplit_once(" ("))
        .and_then(|(connection, number)| Some((connection, number.parse::<u16>().ok()?)))
        .ok_or_else(Reply::not_found)?;
    let seen = seen(app, user, Of::Name(connection)).await?;
    let node = app.broker.node().node_name;
    let item = seen
        .iter()
        .find_map(|c| Some((c, c.channels.iter().find(|ch| ch.number == number)?)))
        .map(|(c, ch)| {
            let mut item = channel(c, ch, &app.rates(), &node);
            item["consumer_details"] =
                ch.consumers.iter().map(|consumer| self::consumer(consumer, &c.open.name)).collect();
            item
        })
        .ok_or_else(Reply::not_found)?;
    Ok(list::one(&request.query, item))
}

/// `/api/consumers`, `/api/consumers/{vhost}`: all of the vhosts the user may look into.
pub(crate) async fn consumers(
    app: &App,
    request: &Request,
    user: &AdminUser,
    vhost: Option<&str>,
) -> Result<Reply, Reply> {
    let visible = match vhost {
        Some(vhost) => {
            access::vhost(app, user, vhost).await?;
            Visible::Only([vhost.to_owned()].into())
        }
        None => access::visible(app, user).await?,
    };
    let items = snapshot::connections(app)
        .await?
        .iter()
        .flat_map(|c| c.channels.iter().flat_map(|ch| &ch.consumers).map(move |consumer| (consumer, &c.open.name)))
        .filter(|(consumer, _)| visible.has(&consumer.vhost))
        .map(|(consumer, name)| self::consumer(consumer, name))
        .collect();
    Ok(list::reply(&request.query, items))
}

/// The `consumer_details` of a queue. A consumer whose connection has just gone is left out.
pub(crate) async fn consumers_of(app: &App, consumers: &[ConsumerStats]) -> Result<Value, Reply> {
    let mut names: BTreeMap<ConnectionId, String> = BTreeMap::new();
    let mut items = Vec::with_capacity(consumers.len());
    for consumer in consumers {
        if !names.contains_key(&consumer.connection)
            && let Some(connection) = snapshot::connection(app, consumer.connection).await?
        {
            names.insert(consumer.connection, connection.open.name);
        }
        if let Some(name) = names.get(&consumer.connection) {
            items.push(self::consumer(consumer, name));
        }
    }
    Ok(Value::Array(items))
}

fn object(c: &ConnectionStats, rates: &Rates, node: &str) -> Value {
    let span = rates.connection(c.id);
    let open = &c.open;
    let mut item = json!({
        "name": open.name,
        "node": node,
        "state": c.state,
        "type": "network",
        "protocol": "AMQP 0-9-1",
        "user": open.user.as_str(),
        "user_who_performed_action": open.user.as_str(),
        "vhost": open.vhost.as_str(),
        "connected_at": c.connected_at_ms,
        "host": open.local.0,
        "port": open.local.1,
        "peer_host": open.peer.0,
        "peer_port": open.peer.1,
        "channel_max": open.channel_max,
        "frame_max": open.frame_max,
        "timeout": open.heartbeat,
        "channels": c.channels.len(),
        "client_properties": json::table(&open.client_properties),
        "ssl": open.tls,
        "auth_mechanism": open.mechanism,
        "recv_oct": c.recv_oct,
        "send_oct": c.send_oct,
        "recv_oct_details": span.details(|s| s.recv_oct),
        "send_oct_details": span.details(|s| s.send_oct),
    });
    if let Some(name) = open.client_properties.get("connection_name").and_then(|v| v.as_str()) {
        item["user_provided_name"] = name.into();
    }
    item
}

/// `<connection name> (<number>)`.
pub(crate) fn channel_name(connection: &str, number: u16) -> String {
    format!("{connection} ({number})")
}

fn channel(c: &ConnectionStats, ch: &ChannelStats, rates: &Rates, node: &str) -> Value {
    let mut item = json!({
        "name": channel_name(&c.open.name, ch.number),
        "number": ch.number,
        "connection_details": json::connection_details(&c.open.name),
        "user": c.open.user.as_str(),
        "user_who_performed_action": c.open.user.as_str(),
        "vhost": c.open.vhost.as_str(),
        "node": node,
        "state": "running",
        "prefetch_count": ch.prefetch_count,
        "global_prefetch_count": ch.global_prefetch_count,
        "consumer_count": ch.consumers.len(),
        "messages_unacknowledged": ch.messages_unacknowledged,
        "messages_unconfirmed": ch.messages_unconfirmed,
        "messages_uncommitted": ch.messages_uncommitted,
        "acks_uncommitted": ch.acks_uncommitted,
        "confirm": ch.confirm,
        "transactional": ch.transactional,
    });
    if let Some(stats) = publisher_message_stats(&ch.message_stats, rates.channel(c.id, ch.number)) {
        item["message_stats"] = stats;
    }
    item
}

fn consumer(consumer: &ConsumerStats, connection: &str) -> Value {
    let mut channel_details = json::connection_details(connection);
    channel_details["connection_name"] = connection.into();
    channel_details["name"] = channel_name(connection, consumer.channel).into();
    channel_details["number"] = consumer.channel.into();
    let status = match consumer.status {
        ActivityStatus::Up => "up",
        ActivityStatus::SingleActive => "single_active",
        ActivityStatus::Waiting => "waiting",
    };
    json!({
        "consumer_tag": consumer.consumer_tag.as_str(),
        "queue": {"name": consumer.queue.as_str(), "vhost": consumer.vhost.as_str()},
        "channel_details": channel_details,
        "ack_required": consumer.ack_required,
        "exclusive": consumer.exclusive,
        "prefetch_count": consumer.prefetch_count,
        "arguments": json::table(&consumer.arguments),
        "active": consumer.status != ActivityStatus::Waiting,
        "activity_status": status,
    })
}
