//! Vhosts, users, permissions, policies, exchanges, bindings.

use crate::access::{self, Visible};
use crate::http::{Reply, Request, percent_encode};
use crate::{App, definitions, json, list, snapshot};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hornpipe_types::definition::{
    BindingDefinition, DefinitionKey, PermissionDefinition, PolicyDefinition, TopicPermissionDefinition,
    UserDefinition, VhostDefinition,
};
use hornpipe_types::names::ShortStr;
use hornpipe_types::stats::{AdminUser, ExchangeStats};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};

/// `/api/vhosts`, or one of them.
pub(crate) async fn vhosts(app: &App, request: &Request, user: &AdminUser, one: Option<&str>) -> Result<Reply, Reply> {
    if let Some(name) = one {
        access::vhost(app, user, name).await?;
    }
    let visible = access::visible(app, user).await?;
    let mut counts: BTreeMap<ShortStr, (u64, u64)> = BTreeMap::new();
    for queue in snapshot::queues(app, one).await? {
        let (ready, unacked) = counts.entry(queue.vhost).or_default();
        *ready += queue.messages_ready;
        *unacked += queue.messages_unacknowledged;
    }
    let node = app.broker.node().node_name;
    let mut items: Vec<Value> = snapshot::vhosts(app)
        .await?
        .iter()
        .filter(|v| visible.has(&v.name) && one.is_none_or(|name| v.name == *name))
        .map(|v| vhost(v, counts.get(&v.name).copied().unwrap_or_default(), &node))
        .collect();
    match one {
        None => Ok(list::reply(&request.query, items)),
        Some(_) => items.pop().map(|item| list::one(&request.query, item)).ok_or_else(Reply::not_found),
    }
}

fn vhost(v: &VhostDefinition, (ready, unacked): (u64, u64), node: &str) -> Value {
    let queue_type = v.default_queue_type.as_deref().unwrap_or("classic");
    json!({
        "name": v.name.as_str(),
        "description": v.description,
        "tags": v.tags,
        "default_queue_type": queue_type,
        "metadata": {"description": v.description, "tags": v.tags, "default_queue_type": queue_type},
        "tracing": false,
        "protected_from_deletion": false,
        "cluster_state": {node: "running"},
        "messages": ready + unacked,
        "messages_ready": ready,
        "messages_unacknowledged": unacked,
    })
}

pub(crate) fn limits(limits: &[(ShortStr, i64)]) -> Value {
    Value::Object(limits.iter().map(|(k, v)| (k.to_string(), (*v).into())).collect::<Map<_, _>>())
}

/// `/api/vhost-limits`, or of one vhost: only vhosts with limits are listed.
pub(crate) async fn vhost_limits(
    app: &App,
    request: &Request,
    user: &AdminUser,
    one: Option<&str>,
) -> Result<Reply, Reply> {
    if let Some(name) = one {
        access::vhost(app, user, name).await?;
    }
    let visible = access::visible(app, user).await?;
    let items = snapshot::vhosts(app)
        .await?
        .iter()
        .filter(|v| !v.limits.is_empty() && visible.has(&v.name) && one.is_none_or(|name| v.name == *name))
        .map(|v| json!({"vhost": v.name.as_str(), "value": limits(&v.limits)}))
        .collect();
    Ok(list::reply(&request.query, items))
}

pub(crate) fn user(u: &UserDefinition) -> Value {
    json!({
        "name": u.name.as_str(),
        "password_hash": u.password_hash,
        "hashing_algorithm": u.hashing_algorithm,
        "tags": u.tags,
        "limits": limits(&u.limits),
    })
}

/// `/api/users`, `/api/users/without-permissions`.
pub(crate) async fn users(app: &App, request: &Request, without_permissions: bool) -> Result<Reply, Reply> {
    let mut users = snapshot::users(app).await?;
    if without_permissions {
        let permissions = snapshot::permissions(app).await?;
        let permitted: HashSet<_> = permissions.iter().map(|p| &p.user).collect();
        users.retain(|u| !permitted.contains(&u.name));
    }
    Ok(list::reply(&request.query, users.iter().map(user).collect()))
}

/// `/api/users/{name}`.
pub(crate) async fn one_user(app: &App, request: &Request, name: &str) -> Result<Reply, Reply> {
    let users = snapshot::users(app).await?;
    let found = users.iter().find(|u| u.name == *name).ok_or_else(Reply::not_found)?;
    Ok(list::one(&request.query, user(found)))
}

/// `/api/user-limits`, or of one user: only users with limits are listed.
pub(crate) async fn user_limits(app: &App, request: &Request, one: Option<&str>) -> Result<Reply, Reply> {
    let users = snapshot::users(app).await?;
    let items = users
        .iter()
        .filter(|u| !u.limits.is_empty() && one.is_none_or(|name| u.name == *name))
        .map(|u| json!({"user": u.name.as_str(), "value": limits(&u.limits)}))
        .collect();
    Ok(list::reply(&request.query, items))
}

pub(crate) fn permission(p: &PermissionDefinition) -> Value {
    json!({
        "user": p.user.as_str(),
        "vhost": p.vhost.as_str(),
        "configure": p.configure,
        "write": p.write,
        "read": p.read,
    })
}

/// `/api/permissions`, `/api/users/{user}/permissions`, `/api/vhosts/{vhost}/permissions`.
pub(crate) async fn permissions(
    app: &App,
    request: &Request,
    of_user: Option<&str>,
    of_vhost: Option<&str>,
) -> Result<Reply, Reply> {
    if let Some(name) = of_user
        && !snapshot::users(app).await?.iter().any(|u| u.name == *name)
    {
        return Err(Reply::not_found());
    }
    if let Some(name) = of_vhost
        && !snapshot::vhosts(app).await?.iter().any(|v| v.name == *name)
    {
        return Err(Reply::not_found());
    }
    let items = snapshot::permissions(app)
        .await?
        .iter()
        .filter(|p| of_user.is_none_or(|name| p.user == *name) && of_vhost.is_none_or(|name| p.vhost == *name))
        .map(permission)
        .collect();
    Ok(list::reply(&request.query, items))
}

/// `/api/permissions/{vhost}/{user}`.
pub(crate) async fn one_permission(app: &App, request: &Request, vhost: &str, user: &str) -> Result<Reply, Reply> {
    let all = snapshot::permissions(app).await?;
    let found = all.iter().find(|p| p.vhost == *vhost && p.user == *user).ok_or_else(Reply::not_found)?;
    Ok(list::one(&request.query, permission(found)))
}

pub(crate) fn topic_permission(p: &TopicPermissionDefinition) -> Value {
    json!({
        "user": p.user.as_str(),
        "vhost": p.vhost.as_str(),
        "exchange": p.exchange.as_str(),
        "write": p.write,
        "read": p.read,
    })
}

/// `/api/topic-permissions`, those of a user, of a vhost, or of both. Of both there must be one.
pub(crate) async fn topic_permissions(
    app: &App,
    request: &Request,
    of_user: Option<&str>,
    of_vhost: Option<&str>,
) -> Result<Reply, Reply> {
    let items: Vec<Value> = snapshot::topic_permissions(app)
        .await?
        .iter()
        .filter(|p| of_user.is_none_or(|name| p.user == *name) && of_vhost.is_none_or(|name| p.vhost == *name))
        .map(topic_permission)
        .collect();
    if items.is_empty() && of_user.is_some() && of_vhost.is_some() {
        return Err(Reply::not_found());
    }
    Ok(list::reply(&request.query, items))
}

/// `/api/parameters[/{component}[/{vhost}[/{name}]]]`.
pub(crate) async fn parameters(
    app: &App,
    request: &Request,
    user: &AdminUser,
    component: Option<&str>,
    vhost: Option<&str>,
    name: Option<&str>,
) -> Result<Reply, Reply> {
    if let Some(vhost) = vhost {
        access::vhost(app, user, vhost).await?;
    }
    let visible = access::visible(app, user).await?;
    let is = |asked: Option<&str>, own: &ShortStr| asked.is_none_or(|asked| *own == *asked);
    let mut items: Vec<Value> = snapshot::parameters(app)
        .await?
        .iter()
        .filter(|p| p.vhost.as_ref().is_some_and(|v| visible.has(v) && is(vhost, v)))
        .filter(|p| is(component, &p.component) && is(name, &p.name))
        .map(definitions::parameter)
        .collect();
    match name {
        None => Ok(list::reply(&request.query, items)),
        Some(_) => items.pop().map(|item| list::one(&request.query, item)).ok_or_else(Reply::not_found),
    }
}

/// `/api/global-parameters[/{name}]`.
pub(crate) async fn global_parameters(app: &App, request: &Request, name: Option<&str>) -> Result<Reply, Reply> {
    let all = snapshot::parameters(app).await?;
    let global = all.iter().filter(|p| p.vhost.is_none() && name.is_none_or(|name| p.name == *name));
    let mut items: Vec<Value> = global.map(definitions::global_parameter).collect();
    match name {
        None => Ok(list::reply(&request.query, items)),
        Some(_) => items.pop().map(|item| list::one(&request.query, item)).ok_or_else(Reply::not_found),
    }
}

pub(crate) fn policy(p: &PolicyDefinition) -> Value {
    json!({
        "vhost": p.vhost.as_str(),
        "name": p.name.as_str(),
        "pattern": p.pattern,
        "apply-to": p.apply_to,
        "definition": json::table(&p.definition),
        "priority": p.priority,
    })
}

/// `/api/policies[/{vhost}[/{name}]]` and `/api/operator-policies…`.
pub(crate) async fn policies(
    app: &App,
    request: &Request,
    user: &AdminUser,
    operator: bool,
    vhost: Option<&str>,
    name: Option<&str>,
) -> Result<Reply, Reply> {
    if let Some(vhost) = vhost {
        access::vhost(app, user, vhost).await?;
    }
    let visible = access::visible(app, user).await?;
    let mut items: Vec<Value> = snapshot::policies(app)
        .await?
        .iter()
        .filter(|p| {
            p.operator == operator
                && visible.has(&p.vhost)
                && vhost.is_none_or(|vhost| p.vhost == *vhost)
                && name.is_none_or(|name| p.name == *name)
        })
        .map(policy)
        .collect();
    match name {
        None => Ok(list::reply(&request.query, items)),
        Some(_) => items.pop().map(|item| list::one(&request.query, item)).ok_or_else(Reply::not_found),
    }
}

fn exchange(x: &ExchangeStats) -> Value {
    let d = &x.definition;
    let mut item = json!({
        "name": d.name.as_str(),
        "vhost": d.vhost.as_str(),
        "type": d.kind.as_str(),
        "durable": d.durable,
        "auto_delete": d.auto_delete,
        "internal": d.internal,
        "arguments": json::table(&d.arguments),
        "policy": x.policy.as_deref(),
        "user_who_performed_action": "rmq-internal",
    });
    if x.publish_in + x.publish_out > 0 {
        item["message_stats"] = json!({"publish_in": x.publish_in, "publish_out": x.publish_out});
    }
    if let Some(delayed) = x.messages_delayed {
        item["messages_delayed"] = delayed.into();
    }
    item
}

/// The name an exchange has inside: paths call the default one `amq.default`.
pub(crate) fn exchange_name(in_path: &str) -> &str {
    if in_path == "amq.default" { "" } else { in_path }
}

/// `/api/exchanges`, `/api/exchanges/{vhost}`.
pub(crate) async fn exchanges(
    app: &App,
    request: &Request,
    user: &AdminUser,
    vhost: Option<&str>,
) -> Result<Reply, Reply> {
    if let Some(vhost) = vhost {
        access::vhost(app, user, vhost).await?;
    }
    let visible = access::visible(app, user).await?;
    let all = snapshot::exchanges(app, vhost).await?;
    let items = all.iter().filter(|x| visible.has(&x.definition.vhost)).map(exchange).collect();
    Ok(list::reply(&request.query, items))
}

async fn find_exchange(app: &App, vhost: &str, name: &str) -> Result<ExchangeStats, Reply> {
    let name = exchange_name(name);
    let all = snapshot::exchanges(app, Some(vhost)).await?;
    all.into_iter().find(|x| x.definition.name == *name).ok_or_else(Reply::not_found)
}

/// `/api/exchanges/{vhost}/{name}`.
pub(crate) async fn one_exchange(
    app: &App,
    request: &Request,
    user: &AdminUser,
    vhost: &str,
    name: &str,
) -> Result<Reply, Reply> {
    access::vhost(app, user, vhost).await?;
    let found = find_exchange(app, vhost, name).await?;
    let mut item = exchange(&found);
    item["incoming"] = json!([]);
    item["outgoing"] = json!([]);
    Ok(list::one(&request.query, item))
}

/// Which bindings a list is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Between<'a> {
    Anything,
    Source(&'a str),
    Queue(&'a str),
    Exchange(&'a str),
    SourceAndQueue(&'a str, &'a str),
    SourceAndExchange(&'a str, &'a str),
}

impl Between<'_> {
    fn takes(self, b: &BindingDefinition) -> bool {
        let to_queue = |name: &str| b.destination_is_queue && b.destination == *name;
        let to_exchange = |name: &str| !b.destination_is_queue && b.destination == *exchange_name(name);
        let from = |name: &str| b.source == *exchange_name(name);
        match self {
            Self::Anything => true,
            Self::Source(source) => from(source),
            Self::Queue(queue) => to_queue(queue),
            Self::Exchange(exchange) => to_exchange(exchange),
            Self::SourceAndQueue(source, queue) => from(source) && to_queue(queue),
            Self::SourceAndExchange(source, exchange) => from(source) && to_exchange(exchange),
        }
    }
}

async fn all_bindings(app: &App, visible: &Visible, vhost: Option<&str>) -> Result<Vec<BindingDefinition>, Reply> {
    let mut all = snapshot::bindings(app, vhost).await?;
    // Every queue is bound to the default exchange by its name; the broker may leave it to us to say so.
    if !all.iter().any(|b| b.source.is_empty()) {
        let implicit = snapshot::queues(app, vhost).await?.into_iter().map(|q| BindingDefinition {
            vhost: q.vhost,
            source: ShortStr::default(),
            destination: q.name.clone(),
            destination_is_queue: true,
            routing_key: q.name,
            ..BindingDefinition::default()
        });
        all.extend(implicit);
    }
    all.retain(|b| visible.has(&b.vhost));
    all.sort_by(|a, b| {
        (&a.vhost, &a.source, &a.destination, &a.routing_key).cmp(&(
            &b.vhost,
            &b.source,
            &b.destination,
            &b.routing_key,
        ))
    });
    Ok(all)
}

/// `/api/bindings[/{vhost}]`, the bindings of a queue, of an exchange and between two. What they are of must exist.
pub(crate) async fn bindings(
    app: &App,
    request: &Request,
    user: &AdminUser,
    vhost: Option<&str>,
    between: Between<'_>,
) -> Result<Reply, Reply> {
    let visible = access::visible(app, user).await?;
    if let Some(vhost) = vhost {
        access::vhost(app, user, vhost).await?;
        let (exchanges, queue): (Vec<&str>, Option<&str>) = match between {
            Between::Anything => (vec![], None),
            Between::Source(x) | Between::Exchange(x) => (vec![x], None),
            Between::Queue(q) => (vec![], Some(q)),
            Between::SourceAndQueue(x, q) => (vec![x], Some(q)),
            Between::SourceAndExchange(x, y) => (vec![x, y], None),
        };
        for name in exchanges {
            // The default exchange is always there, listed or not.
            if !exchange_name(name).is_empty() {
                find_exchange(app, vhost, name).await?;
            }
        }
        if let Some(name) = queue
            && snapshot::queue(app, vhost, name).await?.is_none()
        {
            return Err(Reply::not_found());
        }
    }
    let all = all_bindings(app, &visible, vhost).await?;
    let items = all.iter().filter(|b| between.takes(b)).map(binding).collect();
    Ok(list::reply(&request.query, items))
}

/// `/api/bindings/{vhost}/e/{source}/{q|e}/{destination}/{properties key}`.
pub(crate) async fn one_binding(
    app: &App,
    request: &Request,
    user: &AdminUser,
    vhost: &str,
    between: Between<'_>,
    key: &str,
) -> Result<Reply, Reply> {
    access::vhost(app, user, vhost).await?;
    let found = find_binding(app, vhost, between, key).await?;
    Ok(list::one(&request.query, binding(&found)))
}

/// The binding of this properties key.
pub(crate) async fn find_binding(
    app: &App,
    vhost: &str,
    between: Between<'_>,
    key: &str,
) -> Result<BindingDefinition, Reply> {
    let all = all_bindings(app, &Visible::All, Some(vhost)).await?;
    let found = all.into_iter().find(|b| {
        // The key is itself percent-encoded, so in a path it may come encoded once or twice.
        let own = properties_key(b);
        between.takes(b) && (own == key || crate::http::percent_decode(&own, false).as_deref() == Some(key))
    });
    found.ok_or_else(Reply::not_found)
}

fn binding(b: &BindingDefinition) -> Value {
    json!({
        "source": b.source.as_str(),
        "vhost": b.vhost.as_str(),
        "destination": b.destination.as_str(),
        "destination_type": if b.destination_is_queue { "queue" } else { "exchange" },
        "routing_key": b.routing_key.as_str(),
        "arguments": json::table(&b.arguments),
        "properties_key": properties_key(b),
    })
}

/// What tells bindings between the same two apart: the routing key, and a hash of the arguments when there are any. Clients
/// only hand it back, so the hash need not be RabbitMQ's (which is one of an Erlang term).
pub(crate) fn properties_key(b: &BindingDefinition) -> String {
    let key = percent_encode(&b.routing_key);
    let DefinitionKey::Binding { arguments, .. } = b.key() else { return key };
    if arguments.is_empty() {
        return if key.is_empty() { "~".to_owned() } else { key };
    }
    // FNV-1a: the same in every process.
    let hash = arguments
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3));
    format!("{key}~{}", URL_SAFE_NO_PAD.encode(hash.to_be_bytes()))
}
