//! Publishing and getting single messages, for tests and first aid.

use crate::body::{Body, short};
use crate::http::Reply;
use crate::objects::exchange_name;
use crate::{App, access, change, json, snapshot};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hornpipe_types::header::Properties;
use hornpipe_types::operate::{GetMode, GotMessage, Operation, Outcome};
use hornpipe_types::stats::AdminUser;
use serde_json::{Map, Value, json};

/// `POST /api/exchanges/{vhost}/{exchange}/publish`.
pub(crate) async fn publish(
    app: &App,
    user: &AdminUser,
    vhost: &str,
    exchange: &str,
    body: &Body,
) -> Result<Reply, Reply> {
    access::vhost(app, user, vhost).await?;
    let properties = match body.required("properties")? {
        Value::Object(map) => properties(&Body(map.clone()))?,
        Value::Array(items) if items.is_empty() => Properties::default(),
        _ => return Err(Reply::bad_request("properties must be an object")),
    };
    let payload = body.required_text("payload")?;
    let octets = match body.required_text("payload_encoding")? {
        "string" => payload.as_bytes().to_vec(),
        "base64" => STANDARD.decode(payload).map_err(|_| Reply::bad_request("payload is not base64"))?,
        other => return Err(Reply::bad_request(&format!("{{unsupported_encoding,{other}}}"))),
    };
    let operation = Operation::Publish {
        vhost: short(vhost)?,
        exchange: short(exchange_name(exchange))?,
        routing_key: short(body.required_text("routing_key")?)?,
        properties: Box::new(properties),
        body: octets,
    };
    match snapshot::operate(app, user, operation).await? {
        Outcome::Routed(routed) => Ok(Reply::json(200, &json!({"routed": routed}))),
        other => Ok(change::reply(other)),
    }
}

fn properties(body: &Body) -> Result<Properties, Reply> {
    let text = |key: &str| body.text(key)?.map(short).transpose();
    let octet = |key: &str| -> Result<Option<u8>, Reply> {
        let bad = |_| Reply::bad_request(&format!("{key} must be between 0 and 255"));
        body.int(key)?.map(u8::try_from).transpose().map_err(bad)
    };
    let expiration = match body.get("expiration") {
        Some(Value::Number(n)) => Some(short(&n.to_string())?),
        _ => text("expiration")?,
    };
    Ok(Properties {
        content_type: text("content_type")?,
        content_encoding: text("content_encoding")?,
        headers: body.get("headers").map(|_| body.table("headers")).transpose()?,
        delivery_mode: octet("delivery_mode")?,
        priority: octet("priority")?,
        correlation_id: text("correlation_id")?,
        reply_to: text("reply_to")?,
        expiration,
        message_id: text("message_id")?,
        timestamp: body.int("timestamp")?.and_then(|t| u64::try_from(t).ok()),
        kind: text("type")?,
        user_id: text("user_id")?,
        app_id: text("app_id")?,
        cluster_id: text("cluster_id")?,
    })
}

/// `POST /api/queues/{vhost}/{queue}/get`.
pub(crate) async fn get(app: &App, user: &AdminUser, vhost: &str, queue: &str, body: &Body) -> Result<Reply, Reply> {
    access::vhost(app, user, vhost).await?;
    let mode = match body.text("ackmode")? {
        Some("ack_requeue_true" | "reject_requeue_true") => GetMode::Requeue,
        Some("ack_requeue_false") => GetMode::Ack,
        Some("reject_requeue_false") => GetMode::Reject,
        Some(_) => {
            return Err(Reply::bad_request(
                "ackmode must be one of ack_requeue_true, ack_requeue_false, reject_requeue_true, reject_requeue_false",
            ));
        }
        // before 3.7
        None if body.get("requeue").is_none() => return Err(Reply::bad_request("{key_missing,ackmode}")),
        None if body.flag("requeue")? => GetMode::Requeue,
        None => GetMode::Ack,
    };
    body.required("count")?;
    let count = body.int("count")?.and_then(|n| u32::try_from(n).ok());
    let count = count.ok_or_else(|| Reply::bad_request("count must be a positive integer"))?;
    let base64 = match body.required_text("encoding")? {
        "auto" => false,
        "base64" => true,
        other => return Err(Reply::bad_request(&format!("{{unsupported_encoding,{other}}}"))),
    };
    let truncate = body.int("truncate")?.and_then(|n| usize::try_from(n).ok());
    let operation = Operation::Get { vhost: short(vhost)?, queue: short(queue)?, count, mode };
    match snapshot::operate(app, user, operation).await? {
        Outcome::Messages(got) => {
            let items: Vec<Value> = got.iter().map(|m| message(m, base64, truncate)).collect();
            Ok(Reply::json(200, &Value::Array(items)))
        }
        other => Ok(change::reply(other)),
    }
}

fn message(m: &GotMessage, base64: bool, truncate: Option<usize>) -> Value {
    let (batch, i) = (&m.span.batch, m.span.from);
    let mut octets: Vec<u8> = Vec::with_capacity(batch.meta(i).body as usize);
    for piece in batch.body(i) {
        octets.extend_from_slice(piece);
    }
    let size = octets.len();
    octets.truncate(truncate.unwrap_or(usize::MAX));
    let (payload, encoding) = match String::from_utf8(octets) {
        Ok(text) if !base64 => (text, "string"),
        Ok(text) => (STANDARD.encode(text), "base64"),
        Err(binary) => (STANDARD.encode(binary.as_bytes()), "base64"),
    };
    json!({
        "payload_bytes": size,
        "redelivered": m.redelivered,
        "exchange": batch.exchange(i),
        "routing_key": batch.routing_key(i),
        "message_count": m.messages,
        "properties": shown(&Properties::decode(batch.header(i)).unwrap_or_default()),
        "payload": payload,
        "payload_encoding": encoding,
    })
}

/// The properties that are set.
fn shown(p: &Properties) -> Value {
    let mut out = Map::new();
    let texts = [
        ("content_type", &p.content_type),
        ("content_encoding", &p.content_encoding),
        ("correlation_id", &p.correlation_id),
        ("reply_to", &p.reply_to),
        ("expiration", &p.expiration),
        ("message_id", &p.message_id),
        ("type", &p.kind),
        ("user_id", &p.user_id),
        ("app_id", &p.app_id),
        ("cluster_id", &p.cluster_id),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            out.insert(key.to_owned(), value.as_str().into());
        }
    }
    for (key, value) in [("delivery_mode", p.delivery_mode), ("priority", p.priority)] {
        if let Some(value) = value {
            out.insert(key.to_owned(), value.into());
        }
    }
    if let Some(timestamp) = p.timestamp {
        out.insert("timestamp".to_owned(), timestamp.into());
    }
    if let Some(headers) = &p.headers {
        out.insert("headers".to_owned(), json::table(headers));
    }
    // RabbitMQ shows none as an empty list, and its command-line tool counts on that
    if out.is_empty() { json!([]) } else { Value::Object(out) }
}
