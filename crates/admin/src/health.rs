//! Health: for orchestrators without a login, for RabbitMQ's tools at their paths.

use crate::http::Reply;
use crate::overview::listeners;
use crate::{App, snapshot};
use hornpipe_types::stats::Health;
use serde_json::{Value, json};

fn word(health: &Health) -> (&'static str, String) {
    match health {
        Health::Ready => ("ready", String::new()),
        Health::Starting(how_far) => ("starting", how_far.clone()),
        Health::Stopping => ("stopping", "shutting down".to_owned()),
        Health::Failed(reason) => ("failed", reason.clone()),
    }
}

/// `/health/live`: the process answers. A failed store is said here too, because only a restart helps then.
pub(crate) fn live(app: &App) -> Reply {
    let health = app.broker.health();
    let (status, reason) = word(&health);
    match health {
        Health::Failed(_) => Reply::json(503, &json!({"status": status, "reason": reason})),
        _ => Reply::json(200, &json!({"status": "ok"})),
    }
}

/// `/health/ready`: clients are served.
pub(crate) fn ready(app: &App) -> Reply {
    let health = app.broker.health();
    let (status, reason) = word(&health);
    match health {
        Health::Ready => Reply::json(200, &json!({"status": "ok"})),
        _ => Reply::json(503, &json!({"status": status, "reason": reason})),
    }
}

/// A line for the status page.
pub(crate) fn sentence(app: &App) -> String {
    match word(&app.broker.health()) {
        (status, reason) if reason.is_empty() => status.to_owned(),
        (status, reason) => format!("{status}: {reason}"),
    }
}

fn failed(reason: &str, more: Value) -> Reply {
    let mut body = json!({"status": "failed", "reason": reason});
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    Reply::json(503, &body)
}

fn serving(app: &App) -> Reply {
    match app.broker.health() {
        Health::Ready => Reply::json(200, &json!({"status": "ok"})),
        other => failed(&word(&other).1, json!({})),
    }
}

/// `/api/health/checks/…`.
pub(crate) async fn check(app: &App, path: &[&str]) -> Result<Reply, Reply> {
    Ok(match path {
        ["alarms"] => alarms(app, "in the cluster").await?,
        ["local-alarms"] => alarms(app, "on the node").await?,
        ["virtual-hosts"] => {
            snapshot::vhosts(app).await?;
            serving(app)
        }
        ["port-listener", port] => {
            let port: u16 = port.parse().map_err(|_| Reply::bad_request("Invalid port"))?;
            let ports: Vec<u16> = listeners(app, &app.broker.node()).iter().map(|l| l.2).collect();
            if ports.contains(&port) {
                Reply::json(200, &json!({"status": "ok", "port": port}))
            } else {
                failed("No active listener", json!({"missing": port, "ports": ports}))
            }
        }
        ["protocol-listener", protocol] => {
            let all = listeners(app, &app.broker.node());
            if all.iter().any(|(name, _, _, tls)| same_protocol(protocol, name, *tls)) {
                Reply::json(200, &json!({"status": "ok", "protocol": protocol}))
            } else {
                let protocols: Vec<&String> = all.iter().map(|l| &l.0).collect();
                failed("No active listener", json!({"missing": protocol, "protocols": protocols}))
            }
        }
        // One node is its own quorum; its definitions are read before it is ready.
        ["ready-to-serve-clients" | "is-in-service" | "node-is-quorum-critical" | "node-is-mirror-sync-critical"]
        | ["metadata-store", "initialized" | "initialized-with-data"] => serving(app),
        ["below-node-connection-limit" | "quorum-queues-without-elected-leaders" | "certificate-expiration", ..] => {
            Reply::not_implemented("this health check is not built")
        }
        _ => Reply::not_found(),
    })
}

fn same_protocol(asked: &str, listener: &str, tls: bool) -> bool {
    match asked {
        "amqp" | "amqp091" | "amqp0-9-1" | "amqp-0-9-1" => listener == "amqp" && !tls,
        "amqps" | "amqp/ssl" => listener == "amqp/ssl" || listener == "amqp" && tls,
        other => other.eq_ignore_ascii_case(listener),
    }
}

/// `place`: how the check words where it looked.
async fn alarms(app: &App, place: &str) -> Result<Reply, Reply> {
    let totals = snapshot::totals(app).await?;
    let node = app.broker.node().node_name;
    let alarms: Vec<Value> = [(totals.disk_alarm, "disk space"), (totals.memory_alarm, "memory")]
        .into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, resource)| json!({"node": node, "resource": resource}))
        .collect();
    if alarms.is_empty() {
        return Ok(Reply::json(200, &json!({"status": "ok"})));
    }
    Ok(failed(&format!("There are alarms in effect {place}"), json!({"alarms": alarms})))
}

/// `/api/aliveness-test/{vhost}`: since RabbitMQ 4 nothing is declared or published for it.
pub(crate) fn aliveness(app: &App) -> Reply {
    serving(app)
}
