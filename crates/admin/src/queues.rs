//! Queue objects: what autoscalers read.

use crate::access::{self, Visible};
use crate::http::{Reply, Request};
use crate::rates::{QueueSample, Span, queue_message_stats};
use crate::{App, connections, json, list, snapshot};
use hornpipe_types::stats::{AdminUser, QueueStats};
use serde_json::{Value, json};

/// How much a queue object holds.
#[derive(Debug, Clone, Copy)]
struct Detail {
    /// Counts that happened and rates.
    stats: bool,
    /// What the plain list leaves out since RabbitMQ 3.13.
    full: bool,
}

/// `/api/queues`, `/api/queues/detailed`, `/api/queues/{vhost}`.
pub(crate) async fn list(
    app: &App,
    request: &Request,
    user: &AdminUser,
    vhost: Option<&str>,
    full: bool,
) -> Result<Reply, Reply> {
    let visible = match vhost {
        Some(vhost) => {
            access::vhost(app, user, vhost).await?;
            Visible::All
        }
        None => access::visible(app, user).await?,
    };
    let queues = snapshot::queues(app, vhost).await?;
    let detail = Detail { stats: !request.query.flag("disable_stats"), full };
    let node = app.broker.node().node_name;
    let rates = app.rates();
    let items =
        queues.iter().filter(|q| visible.has(&q.vhost)).map(|q| object(q, rates.queue(q.id), &node, detail)).collect();
    drop(rates);
    Ok(list::reply(&request.query, items))
}

/// `/api/queues/{vhost}/{name}`.
pub(crate) async fn one(
    app: &App,
    request: &Request,
    user: &AdminUser,
    vhost: &str,
    name: &str,
) -> Result<Reply, Reply> {
    access::vhost(app, user, vhost).await?;
    let queue = find(app, vhost, name).await?.ok_or_else(Reply::not_found)?;
    let node = app.broker.node().node_name;
    let stats = !request.query.flag("disable_stats");
    let mut item = object(&queue, app.rates().queue(queue.id), &node, Detail { stats, full: true });
    if stats {
        item["consumer_details"] = connections::consumers_of(app, &queue.consumer_details).await?;
        item["deliveries"] = json!([]);
        item["incoming"] = json!([]);
        item["backing_queue_status"] = json!({"mode": "default", "version": 2, "len": queue.messages_ready});
    }
    Ok(list::one(&request.query, item))
}

/// Looks a queue up by its name as the path has it. KEDA encodes names as query parameters are, with `+` for a space, so a name
/// that isn't there is looked up once more that way.
pub(crate) async fn find(app: &App, vhost: &str, name: &str) -> Result<Option<Box<QueueStats>>, Reply> {
    let found = snapshot::queue(app, vhost, name).await?;
    if found.is_none() && name.contains('+') {
        return snapshot::queue(app, vhost, &name.replace('+', " ")).await;
    }
    Ok(found)
}

fn object(q: &QueueStats, span: Span<QueueSample>, node: &str, detail: Detail) -> Value {
    let messages = q.messages_ready + q.messages_unacknowledged + q.messages_delayed;
    let bytes = q.message_bytes_ready + q.message_bytes_unacknowledged;
    let mut item = json!({
        "name": q.name.as_str(),
        "vhost": q.vhost.as_str(),
        "type": q.kind,
        "durable": q.durable,
        "auto_delete": q.auto_delete,
        "exclusive": q.exclusive,
        "internal": false,
        "arguments": json::table(&q.arguments),
        "node": node,
        "state": "running",
        "policy": q.policy.as_deref(),
        "operator_policy": q.operator_policy.as_deref(),
        "effective_policy_definition": json::table(&q.effective_policy),
        "messages": messages,
        "messages_ready": q.messages_ready,
        "messages_unacknowledged": q.messages_unacknowledged,
        "message_bytes": bytes,
        "message_bytes_ready": q.message_bytes_ready,
        "message_bytes_unacknowledged": q.message_bytes_unacknowledged,
        "message_bytes_persistent": q.message_bytes_persistent,
        "message_bytes_ram": q.message_bytes_ram,
        "message_bytes_paged_out": bytes.saturating_sub(q.message_bytes_ram),
        "messages_persistent": q.messages_persistent,
        "messages_ram": q.messages_ram,
        "messages_paged_out": messages.saturating_sub(q.messages_ram),
        "head_message_timestamp": q.head_message_timestamp,
        "consumers": q.consumers,
        "consumer_capacity": q.consumer_capacity,
        "consumer_utilisation": q.consumer_capacity,
        "exclusive_consumer_tag": q.exclusive_consumer_tag.as_deref(),
        "single_active_consumer_tag": q.single_active_consumer_tag.as_deref(),
        "memory": q.memory,
    });
    if q.messages_delayed > 0 {
        item["messages_delayed"] = q.messages_delayed.into();
    }
    // RabbitMQ's clients know its states only: ours goes beside.
    if let Some(damage) = &q.damage {
        item["hornpipe_damage"] = json!({"messages": damage.messages, "reason": damage.reason});
    }
    if let Some(owner) = &q.owner {
        item["owner_pid_details"] = json::connection_details(owner);
    }
    if q.kind != "classic" {
        item["leader"] = node.into();
        item["members"] = json!([node]);
        item["online"] = json!([node]);
    }
    if detail.stats {
        item["messages_details"] = span.details(|s| s.ready + s.unacked);
        item["messages_ready_details"] = span.details(|s| s.ready);
        item["messages_unacknowledged_details"] = span.details(|s| s.unacked);
        if let Some(stats) = queue_message_stats(&q.message_stats, span.part(|s| s.stats)) {
            item["message_stats"] = stats;
        }
        if detail.full
            && let Some(since) = q.idle_since_ms
        {
            item["idle_since"] = json::timestamp(since).into();
        }
    }
    item
}
