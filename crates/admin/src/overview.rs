//! `/api/overview`, `/api/nodes`, `/api/whoami`.

use crate::access;
use crate::http::{Reply, Request};
use crate::rates::{Span, publisher_message_stats};
use crate::{App, list, snapshot};
use hornpipe_types::stats::{AdminUser, BrokerStats, NodeStats};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// All listeners: the broker's, and our own where it does not list them. Protocol, address, port, TLS.
pub(crate) fn listeners(app: &App, node: &NodeStats) -> Vec<(String, String, u16, bool)> {
    let mut all = node.listeners.clone();
    let own = |protocol: &str, addrs: &[SocketAddr]| -> Vec<_> {
        if node.listeners.iter().any(|(p, ..)| p == protocol) {
            return Vec::new();
        }
        addrs.iter().map(|a| (protocol.to_owned(), a.ip().to_string(), a.port(), false)).collect()
    };
    all.extend(own("http", &app.http));
    all.extend(own("http/prometheus", &app.metrics));
    all
}

/// `/api/overview`. Everyone with access sees the same totals.
pub(crate) async fn overview(app: &App, request: &Request, user: &AdminUser) -> Result<Reply, Reply> {
    let totals = snapshot::totals(app).await?;
    let exchanges = snapshot::exchanges(app, None).await?;
    let node = app.broker.node();
    let span = app.rates().totals();
    let mut kinds: BTreeSet<String> = ["direct", "fanout", "headers", "topic"].map(String::from).into();
    kinds.extend(exchanges.iter().map(|x| x.definition.kind.to_string()));
    let listeners: Vec<Value> = listeners(app, &node)
        .into_iter()
        .map(|(protocol, ip, port, tls)| {
            json!({"node": node.node_name, "protocol": protocol, "ip_address": ip, "port": port, "tls": tls,
                   "socket_opts": {}})
        })
        .collect();
    let contexts: Vec<Value> = app
        .http
        .iter()
        .map(|addr| {
            json!({"node": node.node_name, "description": "hornpipe management", "path": "/",
                   "ip": addr.ip().to_string(), "port": addr.port().to_string(), "ssl_opts": []})
        })
        .collect();
    let mut item = json!({
        "management_version": node.rabbitmq_version,
        "rates_mode": "basic",
        "sample_retention_policies": {"global": [], "basic": [], "detailed": []},
        "exchange_types": kinds.iter().map(|kind| json!({"name": kind, "description": "", "enabled": true}))
            .collect::<Vec<_>>(),
        "product_version": node.product_version,
        "product_name": node.product,
        "rabbitmq_version": node.rabbitmq_version,
        "cluster_name": node.cluster_name,
        "cluster_tags": {},
        "node_tags": {},
        // There is no Erlang here, but clients refuse an overview without these.
        "erlang_version": "none",
        "erlang_full_version": "none",
        "release_series_support_status": "supported",
        "disable_stats": false,
        "is_op_policy_updating_enabled": false,
        "enable_queue_totals": false,
        "default_queue_type": "classic",
        "churn_rates": churn(&totals, &span),
        "queue_totals": queue_totals(&totals, &span),
        "object_totals": {
            "connections": totals.connections,
            "channels": totals.channels,
            "queues": totals.queues,
            "exchanges": totals.exchanges,
            "consumers": totals.consumers,
        },
        "message_stats": publisher_message_stats(&totals.message_stats, span.part(|t| t.message_stats))
            .unwrap_or_else(|| json!({})),
        "statistics_db_event_queue": 0,
        "node": node.node_name,
    });
    if access::is_monitor(user) {
        item["listeners"] = listeners.into();
        item["contexts"] = contexts.into();
    } else {
        item["listeners"] = json!([]);
        item["contexts"] = json!([]);
    }
    Ok(list::one(&request.query, item))
}

fn queue_totals(totals: &BrokerStats, span: &Span<BrokerStats>) -> Value {
    json!({
        "messages": totals.messages_ready + totals.messages_unacknowledged,
        "messages_ready": totals.messages_ready,
        "messages_unacknowledged": totals.messages_unacknowledged,
        "messages_details": span.details(|t| t.messages_ready + t.messages_unacknowledged),
        "messages_ready_details": span.details(|t| t.messages_ready),
        "messages_unacknowledged_details": span.details(|t| t.messages_unacknowledged),
    })
}

fn churn(totals: &BrokerStats, span: &Span<BrokerStats>) -> Value {
    type Count = fn(&BrokerStats) -> u64;
    let counts: [(&str, Count); 7] = [
        ("connection_created", |t| t.connections_opened),
        ("connection_closed", |t| t.connections_closed),
        ("channel_created", |t| t.channels_opened),
        ("channel_closed", |t| t.channels_closed),
        ("queue_declared", |t| t.queues_declared),
        ("queue_created", |t| t.queues_created),
        ("queue_deleted", |t| t.queues_deleted),
    ];
    let mut out = Map::new();
    for (name, of) in counts {
        out.insert(name.to_owned(), of(totals).into());
        out.insert(format!("{name}_details"), span.details(of));
    }
    Value::Object(out)
}

/// `/api/nodes`, or one of them: there is one.
pub(crate) async fn nodes(app: &App, request: &Request, one: Option<&str>) -> Result<Reply, Reply> {
    let node = app.broker.node();
    if one.is_some_and(|name| name != node.node_name) {
        return Err(Reply::not_found());
    }
    let totals = snapshot::totals(app).await?;
    let item = json!({
        "name": node.node_name,
        "type": "disc",
        "running": true,
        "being_drained": false,
        "uptime": node.uptime_ms,
        "os_pid": node.os_pid.to_string(),
        "processors": node.processors,
        "run_queue": 0,
        "proc_total": 0,
        "proc_used": 0,
        "fd_total": node.fd_total,
        "fd_used": node.fd_used,
        "sockets_total": node.fd_total,
        "sockets_used": node.sockets_used,
        "mem_limit": node.mem_limit,
        "mem_used": node.mem_used,
        "mem_alarm": totals.memory_alarm,
        "disk_free": node.disk_free,
        "disk_free_limit": node.disk_free_limit,
        "disk_free_alarm": totals.disk_alarm,
        "rates_mode": "basic",
        "enabled_plugins": ["rabbitmq_management", "rabbitmq_prometheus"],
        "applications": [{
            "name": "rabbit",
            "description": node.product,
            "version": node.rabbitmq_version,
        }],
        "auth_mechanisms": [],
        "exchange_types": [],
        "log_files": [],
        "partitions": [],
        "net_ticktime": 0,
        "cluster_links": [],
    });
    match one {
        None => Ok(list::reply(&request.query, vec![item])),
        Some(_) => Ok(list::one(&request.query, item)),
    }
}

/// `/api/whoami`.
pub(crate) fn whoami(user: &AdminUser) -> Reply {
    Reply::json(200, &json!({"name": user.name.as_str(), "tags": user.tags, "is_internal_user": true}))
}
