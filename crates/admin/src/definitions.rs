//! Definitions: everything but messages as one JSON document, out and in [RabbitMQ "Definitions Export and Import"].

use crate::body::{Body, short};
use crate::http::{Reply, Request};
use crate::{App, access, change, json, list, objects, snapshot};
use hornpipe_types::definition::{
    BindingDefinition, Definition, ExchangeDefinition, ParameterDefinition, QueueDefinition,
};
use hornpipe_types::names::ShortStr;
use hornpipe_types::operate::{Operation, Outcome};
use hornpipe_types::stats::AdminUser;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// Components that are kept elsewhere but travel as parameters.
const OPERATOR_POLICY: &str = "operator_policy";
const VHOST_LIMITS: &str = "vhost-limits";

/// `GET /api/definitions`, `GET /api/definitions/{vhost}`.
pub(crate) async fn export(
    app: &App,
    request: &Request,
    user: &AdminUser,
    vhost: Option<&str>,
) -> Result<Reply, Reply> {
    if let Some(vhost) = vhost {
        access::vhost(app, user, vhost).await?;
    }
    let here = |name: &ShortStr| vhost.is_none_or(|v| *name == *v);
    let vhosts = snapshot::vhosts(app).await?;
    let mut out = Map::new();
    let node = app.broker.node();
    for (key, value) in [
        ("rabbit_version", &node.rabbitmq_version),
        ("rabbitmq_version", &node.rabbitmq_version),
        ("product_name", &node.product),
        ("product_version", &node.product_version),
    ] {
        out.insert(key.to_owned(), value.as_str().into());
    }
    let mut put = |key: &str, items: Vec<Value>| out.insert(key.to_owned(), Value::Array(items));
    let parameters = snapshot::parameters(app).await?;
    let policies = snapshot::policies(app).await?;
    let mut of_vhosts: Vec<Value> =
        parameters.iter().filter(|p| p.vhost.as_ref().is_some_and(here)).map(parameter).collect();
    for policy in policies.iter().filter(|p| p.operator && here(&p.vhost)) {
        let value = json!({
            "pattern": policy.pattern,
            "apply-to": policy.apply_to,
            "definition": json::table(&policy.definition),
            "priority": policy.priority,
        });
        of_vhosts.push(json!({
            "vhost": policy.vhost.as_str(), "component": OPERATOR_POLICY, "name": policy.name.as_str(), "value": value,
        }));
    }
    for v in vhosts.iter().filter(|v| !v.limits.is_empty() && here(&v.name)) {
        let value = objects::limits(&v.limits);
        of_vhosts.push(json!({"vhost": v.name.as_str(), "component": VHOST_LIMITS, "name": "limits", "value": value}));
    }
    if vhost.is_none() {
        put("users", snapshot::users(app).await?.iter().map(objects::user).collect());
        let vhosts = vhosts.iter().map(|v| {
            let kind = v.default_queue_type.as_deref();
            json!({
                "name": v.name.as_str(),
                "description": v.description,
                "tags": v.tags,
                "default_queue_type": kind,
                "metadata": {"description": v.description, "tags": v.tags, "default_queue_type": kind},
            })
        });
        put("vhosts", vhosts.collect());
        put("permissions", snapshot::permissions(app).await?.iter().map(objects::permission).collect());
        let topics = snapshot::topic_permissions(app).await?;
        put("topic_permissions", topics.iter().map(objects::topic_permission).collect());
        let global = parameters.iter().filter(|p| p.vhost.is_none());
        put("global_parameters", global.map(global_parameter).collect());
    }
    put("parameters", of_vhosts);
    put("policies", policies.iter().filter(|p| !p.operator && here(&p.vhost)).map(objects::policy).collect());
    let queues = snapshot::queues(app, vhost).await?;
    let lasting = || queues.iter().filter(|q| q.durable && !q.exclusive);
    let kept_queues = lasting().map(|q| {
        json!({
            "name": q.name.as_str(),
            "vhost": q.vhost.as_str(),
            "durable": q.durable,
            "auto_delete": q.auto_delete,
            "arguments": json::table(&q.arguments),
            "type": q.kind,
        })
    });
    put("queues", kept_queues.collect());
    let exchanges = snapshot::exchanges(app, vhost).await?;
    let durable = || exchanges.iter().map(|x| &x.definition).filter(|d| d.durable);
    let own = durable().filter(|d| !d.name.is_empty() && !d.name.starts_with("amq."));
    let own = own.map(|d| {
        json!({
            "name": d.name.as_str(),
            "vhost": d.vhost.as_str(),
            "type": d.kind.as_str(),
            "durable": d.durable,
            "auto_delete": d.auto_delete,
            "internal": d.internal,
            "arguments": json::table(&d.arguments),
        })
    });
    put("exchanges", own.collect());
    // there may be as many bindings as queues
    let kept_queues: HashSet<_> = lasting().map(|q| (&q.vhost, &q.name)).collect();
    let kept_exchanges: HashSet<_> = durable().map(|d| (&d.vhost, &d.name)).collect();
    let bindings = snapshot::bindings(app, vhost).await?;
    let bindings = bindings.iter().filter(|b| {
        let to = if b.destination_is_queue { &kept_queues } else { &kept_exchanges };
        let (source, destination) = ((&b.vhost, &b.source), (&b.vhost, &b.destination));
        !b.source.is_empty() && to.contains(&destination) && kept_exchanges.contains(&source)
    });
    let bindings = bindings.map(|b| {
        json!({
            "source": b.source.as_str(),
            "vhost": b.vhost.as_str(),
            "destination": b.destination.as_str(),
            "destination_type": if b.destination_is_queue { "queue" } else { "exchange" },
            "routing_key": b.routing_key.as_str(),
            "arguments": json::table(&b.arguments),
        })
    });
    put("bindings", bindings.collect());
    if vhost.is_some() {
        // what belongs to one vhost does not name it
        for items in out.values_mut().filter_map(Value::as_array_mut) {
            for item in items.iter_mut().filter_map(Value::as_object_mut) {
                item.remove("vhost");
            }
        }
    }
    Ok(list::one(&request.query, Value::Object(out)))
}

pub(crate) fn parameter(p: &ParameterDefinition) -> Value {
    json!({
        "vhost": p.vhost.as_deref(),
        "component": p.component.as_str(),
        "name": p.name.as_str(),
        "value": serde_json::from_str::<Value>(&p.value).unwrap_or(Value::Null),
    })
}

pub(crate) fn global_parameter(p: &ParameterDefinition) -> Value {
    json!({"name": p.name.as_str(), "value": serde_json::from_str::<Value>(&p.value).unwrap_or(Value::Null)})
}

/// `POST /api/definitions`, `POST /api/definitions/{vhost}`: adds what is missing. Users, permissions, policies and
/// parameters are overwritten, queues and exchanges of the same name left as they are.
///
/// The first thing that can't be done ends the import; what came before it stays.
pub(crate) async fn import(app: &App, user: &AdminUser, vhost: Option<&str>, body: &Body) -> Result<Reply, Reply> {
    if let Some(vhost) = vhost {
        access::vhost(app, user, vhost).await?;
    }
    // all is read before anything is done: a malformed document changes nothing
    for (what, operation) in operations(vhost, body)? {
        match snapshot::operate(app, user, operation).await? {
            Outcome::NotFound => {
                return Err(Reply::bad_request(&format!("{what}: its virtual host is not there")));
            }
            Outcome::Invalid(reason) => return Err(Reply::bad_request(&format!("{what}: {reason}"))),
            Outcome::Refused(error) => return Err(Reply::bad_request(&format!("{what}: {error}"))),
            _ => {}
        }
    }
    Ok(Reply::empty(204))
}

/// The objects of one array.
fn items(body: &Body, key: &str) -> Result<Vec<Body>, Reply> {
    let bad = || Reply::bad_request(&format!("{key} must be a list of objects"));
    match body.get(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => {
            let objects = items.iter().map(|item| item.as_object().cloned().map(Body).ok_or_else(bad));
            objects.collect()
        }
        Some(_) => Err(bad()),
    }
}

fn operations(vhost: Option<&str>, body: &Body) -> Result<Vec<(String, Operation)>, Reply> {
    let mut out = Vec::new();
    if vhost.is_none() {
        for item in items(body, "users")? {
            let name = item.required_text("name")?;
            out.push((format!("user '{name}'"), change::put_user(name, &item)?));
        }
        for item in items(body, "vhosts")? {
            let name = item.required_text("name")?;
            out.push((format!("virtual host '{name}'"), change::put_vhost(name, &item)?));
            if let Some(Value::Object(limits)) = item.get("limits") {
                limit_vhost(&mut out, name, limits)?;
            }
        }
        for item in items(body, "permissions")? {
            let (of, name) = (item.required_text("vhost")?, item.required_text("user")?);
            let definition = change::permission(short(of)?, short(name)?, &item)?;
            out.push((format!("permission of user '{name}'"), Operation::PutPermission(definition)));
        }
        for item in items(body, "topic_permissions")? {
            let (of, name) = (item.required_text("vhost")?, item.required_text("user")?);
            let definition = change::topic_permission(short(of)?, short(name)?, &item)?;
            out.push((format!("topic permission of user '{name}'"), Operation::PutTopicPermission(definition)));
        }
    }
    let vhost_of = |item: &Body| -> Result<String, Reply> {
        Ok(vhost.map_or_else(|| item.required_text("vhost"), Ok)?.to_owned())
    };
    for item in items(body, "parameters")? {
        parameter_operations(&mut out, &vhost_of(&item)?, &item)?;
    }
    if vhost.is_none() {
        for item in items(body, "global_parameters")? {
            let name = item.required_text("name")?;
            // the identity of a broker is its own
            if matches!(name, "cluster_name" | "internal_cluster_id") {
                continue;
            }
            let value = item.required("value")?.to_string();
            let definition = ParameterDefinition { name: short(name)?, value, ..ParameterDefinition::default() };
            out.push((format!("global parameter '{name}'"), Operation::PutParameter(definition)));
        }
    }
    for item in items(body, "policies")? {
        let name = item.required_text("name")?;
        let definition = change::policy(short(&vhost_of(&item)?)?, false, short(name)?, &item)?;
        out.push((format!("policy '{name}'"), Operation::PutPolicy(definition)));
    }
    for item in items(body, "queues")? {
        let name = item.required_text("name")?;
        let definition = Definition::Queue(queue(short(&vhost_of(&item)?)?, &item)?);
        out.push((format!("queue '{name}'"), Operation::Import(Box::new(definition))));
    }
    for item in items(body, "exchanges")? {
        let name = item.required_text("name")?;
        if name.is_empty() || name.starts_with("amq.") {
            continue;
        }
        let definition = Definition::Exchange(ExchangeDefinition {
            vhost: short(&vhost_of(&item)?)?,
            name: short(name)?,
            kind: short(item.required_text("type")?)?,
            durable: item.flag("durable")?,
            auto_delete: item.flag("auto_delete")?,
            internal: item.flag("internal")?,
            arguments: item.table("arguments")?,
        });
        out.push((format!("exchange '{name}'"), Operation::Import(Box::new(definition))));
    }
    for item in items(body, "bindings")? {
        let source = item.required_text("source")?;
        let definition = Definition::Binding(BindingDefinition {
            vhost: short(&vhost_of(&item)?)?,
            source: short(source)?,
            destination: short(item.required_text("destination")?)?,
            destination_is_queue: item.required_text("destination_type")? == "queue",
            routing_key: item.short("routing_key")?,
            arguments: item.table("arguments")?,
            ..BindingDefinition::default()
        });
        out.push((format!("binding of exchange '{source}'"), Operation::Import(Box::new(definition))));
    }
    Ok(out)
}

fn queue(vhost: ShortStr, item: &Body) -> Result<QueueDefinition, Reply> {
    let mut arguments = item.table("arguments")?;
    if let Some(kind) = item.text("type")?
        && kind != "classic"
        && arguments.get("x-queue-type").is_none()
    {
        arguments.set("x-queue-type", hornpipe_types::table::Value::long_str(kind));
    }
    Ok(QueueDefinition {
        vhost,
        name: short(item.required_text("name")?)?,
        durable: item.flag("durable")?,
        auto_delete: item.flag("auto_delete")?,
        arguments,
        ..QueueDefinition::default()
    })
}

fn parameter_operations(out: &mut Vec<(String, Operation)>, vhost: &str, item: &Body) -> Result<(), Reply> {
    let (component, name) = (item.required_text("component")?, item.required_text("name")?);
    let value = item.required("value")?;
    let inner = || match value {
        Value::Object(map) => Ok(Body(map.clone())),
        _ => Err(Reply::bad_request(&format!("parameter '{name}': the value must be an object"))),
    };
    match component {
        OPERATOR_POLICY => {
            let definition = change::policy(short(vhost)?, true, short(name)?, &inner()?)?;
            out.push((format!("operator policy '{name}'"), Operation::PutPolicy(definition)));
        }
        VHOST_LIMITS => limit_vhost(out, vhost, &inner()?.0)?,
        _ => {
            let definition = ParameterDefinition {
                vhost: Some(short(vhost)?),
                component: short(component)?,
                name: short(name)?,
                value: value.to_string(),
            };
            out.push((format!("parameter '{name}'"), Operation::PutParameter(definition)));
        }
    }
    Ok(())
}

fn limit_vhost(out: &mut Vec<(String, Operation)>, vhost: &str, limits: &Map<String, Value>) -> Result<(), Reply> {
    for (key, value) in limits {
        let value = value.as_i64().ok_or_else(|| Reply::bad_request("limits must be integers"))?;
        let operation = Operation::LimitVhost { vhost: short(vhost)?, limit: short(key)?, value: Some(value) };
        out.push((format!("limits of virtual host '{vhost}'"), operation));
    }
    Ok(())
}
