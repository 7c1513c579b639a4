//! Changes: which method on which path does what, and who may.
//!
//! Queues, exchanges, bindings and messages are guarded by the broker with the caller's permissions; everything else by the
//! caller's tags, here.

use crate::access::{self, Need};
use crate::body::{Body, short};
use crate::http::{Reply, Request};
use crate::{App, connections, definitions, messages, resources, snapshot};
use hornpipe_types::definition::{
    ParameterDefinition, PermissionDefinition, PolicyDefinition, TopicPermissionDefinition, UserDefinition,
};
use hornpipe_types::error::{AmqpError, ReplyCode};
use hornpipe_types::names::ShortStr;
use hornpipe_types::operate::{Operation, Outcome, Password, SnapshotRefused, VhostSettings};
use hornpipe_types::stats::AdminUser;
use serde_json::Value;

/// Answers a request that is no GET.
pub(crate) async fn answer(app: &App, request: &Request, path: &[&str]) -> Reply {
    change(app, request, path).await.unwrap_or_else(|reply| reply)
}

/// Who may: the tags a change needs.
fn need(path: &[&str]) -> Need {
    match path {
        ["vhosts" | "users" | "permissions" | "topic-permissions" | "vhost-limits" | "user-limits", ..] => {
            Need::Administrator
        }
        ["operator-policies" | "definitions" | "hornpipe", ..] => Need::Administrator,
        ["policies" | "parameters" | "global-parameters", ..] => Need::Policymaker,
        _ => Need::Management,
    }
}

async fn change(app: &App, request: &Request, path: &[&str]) -> Result<Reply, Reply> {
    let user = &access::login(app, request, need(path)).await?;
    let body = || Body::read(&request.body);
    let operation = match (request.method.as_str(), path) {
        ("PUT", ["vhosts", name]) => put_vhost(name, &body()?)?,
        ("DELETE", ["vhosts", name]) => Operation::DeleteVhost { name: short(name)? },
        ("PUT", ["users", name]) => put_user(name, &body()?)?,
        ("DELETE", ["users", name]) => Operation::DeleteUser { name: short(name)? },
        ("POST", ["users", "bulk-delete"]) => return delete_users(app, user, &body()?).await,
        ("PUT", ["permissions", vhost, name]) => {
            Operation::PutPermission(permission(short(vhost)?, short(name)?, &body()?)?)
        }
        ("DELETE", ["permissions", vhost, name]) => {
            Operation::DeletePermission { vhost: short(vhost)?, user: short(name)? }
        }
        ("PUT", ["topic-permissions", vhost, name]) => {
            Operation::PutTopicPermission(topic_permission(short(vhost)?, short(name)?, &body()?)?)
        }
        ("DELETE", ["topic-permissions", vhost, name]) => {
            Operation::DeleteTopicPermission { vhost: short(vhost)?, user: short(name)?, exchange: None }
        }
        ("DELETE", ["topic-permissions", vhost, name, exchange]) => Operation::DeleteTopicPermission {
            vhost: short(vhost)?,
            user: short(name)?,
            exchange: Some(short(exchange)?),
        },
        ("PUT", [kind @ ("policies" | "operator-policies"), vhost, name]) => {
            access::vhost(app, user, vhost).await?;
            let operator = *kind == "operator-policies";
            Operation::PutPolicy(policy(short(vhost)?, operator, short(name)?, &body()?)?)
        }
        ("DELETE", [kind @ ("policies" | "operator-policies"), vhost, name]) => {
            access::vhost(app, user, vhost).await?;
            let operator = *kind == "operator-policies";
            Operation::DeletePolicy { vhost: short(vhost)?, operator, name: short(name)? }
        }
        ("PUT", ["vhost-limits", vhost, limit]) => {
            Operation::LimitVhost { vhost: short(vhost)?, limit: short(limit)?, value: Some(limit_value(&body()?)?) }
        }
        ("DELETE", ["vhost-limits", vhost, limit]) => {
            Operation::LimitVhost { vhost: short(vhost)?, limit: short(limit)?, value: None }
        }
        ("PUT", ["user-limits", name, limit]) => {
            Operation::LimitUser { user: short(name)?, limit: short(limit)?, value: Some(limit_value(&body()?)?) }
        }
        ("DELETE", ["user-limits", name, limit]) => {
            Operation::LimitUser { user: short(name)?, limit: short(limit)?, value: None }
        }
        ("PUT", ["parameters", component, vhost, name]) => {
            access::vhost(app, user, vhost).await?;
            let value = body()?.required("value")?.to_string();
            let vhost = Some(short(vhost)?);
            Operation::PutParameter(ParameterDefinition {
                vhost,
                component: short(component)?,
                name: short(name)?,
                value,
            })
        }
        ("DELETE", ["parameters", component, vhost, name]) => {
            access::vhost(app, user, vhost).await?;
            Operation::DeleteParameter { vhost: Some(short(vhost)?), component: short(component)?, name: short(name)? }
        }
        ("PUT", ["global-parameters", name]) => {
            let value = body()?.required("value")?.to_string();
            Operation::PutParameter(ParameterDefinition { name: short(name)?, value, ..ParameterDefinition::default() })
        }
        ("DELETE", ["global-parameters", name]) => {
            Operation::DeleteParameter { vhost: None, component: short("")?, name: short(name)? }
        }
        ("POST", ["definitions"]) => return definitions::import(app, user, None, &body()?).await,
        ("POST", ["definitions", vhost]) => return definitions::import(app, user, Some(vhost), &body()?).await,

        ("PUT" | "DELETE", ["queues" | "exchanges", _, _])
        | ("DELETE", ["queues", _, _, "contents"])
        | ("POST", ["bindings", _, "e", _, "q" | "e", _])
        | ("DELETE", ["bindings", _, "e", _, "q" | "e", _, _]) => {
            return resources::change(app, request, user, path).await;
        }
        ("POST", ["exchanges", vhost, exchange, "publish"]) => {
            return messages::publish(app, user, vhost, exchange, &body()?).await;
        }
        ("POST", ["queues", vhost, queue, "get"]) => return messages::get(app, user, vhost, queue, &body()?).await,
        ("DELETE", ["connections", "username", name]) => {
            return connections::close(app, request, user, connections::Of::User(name)).await;
        }
        ("DELETE", ["connections", name]) => {
            return connections::close(app, request, user, connections::Of::Name(name)).await;
        }
        ("POST", ["hornpipe", "snapshot"]) => return make_snapshot(app, body()?.required_text("folder")?).await,
        // Known to clients of the API, but not built: better said than to look like a missing object.
        (_, ["cluster-name" | "reset" | "auth" | "rebalance", ..])
        | ("PUT", ["feature-flags", ..])
        | ("POST", ["queues", _, _, "actions"] | ["vhosts", _, "start", _] | ["vhosts", _, "deletion", ..]) => {
            return Err(Reply::not_implemented("this part of the management API is not built"));
        }
        _ => return Err(Reply::method_not_allowed(&request.method)),
    };
    Ok(reply(snapshot::operate(app, user, operation).await?))
}

/// Waits as long as it takes: bodies may be copied to another file system.
async fn make_snapshot(app: &App, folder: &str) -> Result<Reply, Reply> {
    match app.broker.snapshot(folder).await {
        Ok(made) => Ok(Reply::json(
            200,
            &serde_json::json!({
                "folder": made.folder,
                "db_bytes": made.db_bytes,
                "body_bytes": made.body_bytes,
            }),
        )),
        Err(SnapshotRefused::Folder(reason)) => Err(Reply::bad_request(&reason)),
        Err(SnapshotRefused::Broker(reason)) => Err(Reply::unavailable(&reason)),
    }
}

/// What became of a change as an answer.
pub(crate) fn reply(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Created => Reply::empty(201),
        Outcome::Exists | Outcome::Done => Reply::empty(204),
        Outcome::NotFound => Reply::not_found(),
        Outcome::Refused(error) => refused(&error),
        Outcome::Invalid(reason) => Reply::bad_request(&reason),
        Outcome::Rejected => Reply::bad_request("rejected"),
        Outcome::Messages(_) | Outcome::Routed(_) => {
            Reply::error(500, "internal_error", "the broker answered another question than was asked")
        }
    }
}

/// What a client of AMQP would have been told, as the API says it.
pub(crate) fn refused(error: &AmqpError) -> Reply {
    match error.code {
        ReplyCode::NotFound => Reply::error(404, "not_found", &error.reply_text()),
        ReplyCode::AccessRefused => access::unauthorised(&error.reply_text()),
        ReplyCode::NotAllowed if error.text.starts_with("access to vhost") => access::unauthorised("Access refused."),
        code => Reply::bad_request(&format!("{} {}", code.number(), error.reply_text())),
    }
}

pub(crate) fn put_vhost(name: &str, body: &Body) -> Result<Operation, Reply> {
    // RabbitMQ exports these once at the top and once within `metadata`.
    let metadata = match body.get("metadata") {
        Some(Value::Object(map)) => Body(map.clone()),
        _ => Body::default(),
    };
    let text =
        |key: &str| -> Result<Option<String>, Reply> { Ok(body.text(key)?.or(metadata.text(key)?).map(str::to_owned)) };
    let default_queue_type = text("default_queue_type")?.or(text("defaultqueuetype")?);
    let settings = VhostSettings {
        description: text("description")?,
        tags: body.tags("tags")?.or(metadata.tags("tags")?),
        default_queue_type: default_queue_type.map(|t| short(&t)).transpose()?,
    };
    Ok(Operation::PutVhost { name: short(name)?, settings })
}

pub(crate) fn put_user(name: &str, body: &Body) -> Result<Operation, Reply> {
    let tags = body.tags("tags")?.ok_or_else(|| Reply::bad_request("tags_not_present"))?;
    let mut user = UserDefinition { name: short(name)?, tags, ..UserDefinition::default() };
    let password = match (body.text("password")?, body.text("password_hash")?) {
        (Some(_), Some(_)) => return Err(Reply::bad_request("both_password_and_password_hash_are_provided")),
        (Some(password), None) => Password::Clear(password.to_owned()),
        (None, hash) => {
            user.password_hash = hash.unwrap_or_default().to_owned();
            let algorithm = body.text("hashing_algorithm")?.unwrap_or("rabbit_password_hashing_sha256");
            if !matches!(
                algorithm,
                "rabbit_password_hashing_sha256"
                    | "rabbit_password_hashing_sha512"
                    | "rabbit_password_hashing_md5"
                    | "hornpipe_password_hashing_argon2id"
            ) {
                return Err(Reply::bad_request(&format!("unknown hashing algorithm {algorithm}")));
            }
            user.hashing_algorithm = algorithm.to_owned();
            Password::Hashed
        }
    };
    if let Some(Value::Object(limits)) = body.get("limits") {
        for (key, value) in limits {
            let value = value.as_i64().ok_or_else(|| Reply::bad_request("limits must be integers"))?;
            user.limits.push((short(key)?, value));
        }
    }
    Ok(Operation::PutUser { user, password })
}

async fn delete_users(app: &App, user: &AdminUser, body: &Body) -> Result<Reply, Reply> {
    let names = body.tags("users")?.ok_or_else(|| Reply::bad_request("{key_missing,users}"))?;
    for name in names {
        // Those that are not there are gone already.
        snapshot::operate(app, user, Operation::DeleteUser { name: short(&name)? }).await?;
    }
    Ok(Reply::empty(204))
}

pub(crate) fn permission(vhost: ShortStr, user: ShortStr, body: &Body) -> Result<PermissionDefinition, Reply> {
    let text = |key: &str| body.required_text(key).map(str::to_owned);
    Ok(PermissionDefinition { user, vhost, configure: text("configure")?, write: text("write")?, read: text("read")? })
}

pub(crate) fn topic_permission(
    vhost: ShortStr,
    user: ShortStr,
    body: &Body,
) -> Result<TopicPermissionDefinition, Reply> {
    let text = |key: &str| body.required_text(key).map(str::to_owned);
    let exchange = short(body.required_text("exchange")?)?;
    Ok(TopicPermissionDefinition { user, vhost, exchange, write: text("write")?, read: text("read")? })
}

pub(crate) fn policy(vhost: ShortStr, operator: bool, name: ShortStr, body: &Body) -> Result<PolicyDefinition, Reply> {
    body.required("definition")?;
    Ok(PolicyDefinition {
        vhost,
        operator,
        name,
        pattern: body.required_text("pattern")?.to_owned(),
        apply_to: body.text("apply-to")?.unwrap_or(if operator { "queues" } else { "all" }).to_owned(),
        priority: body.int("priority")?.unwrap_or(0),
        definition: body.table("definition")?,
    })
}

fn limit_value(body: &Body) -> Result<i64, Reply> {
    body.required("value")?;
    Ok(body.int("value")?.unwrap_or(-1))
}
