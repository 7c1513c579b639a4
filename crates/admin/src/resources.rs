//! Declaring and deleting queues, exchanges and bindings: what clients do over AMQP, in the caller's name.

use crate::body::{Body, short};
use crate::http::{Reply, Request, percent_encode};
use crate::objects::{exchange_name, find_binding, properties_key};
use crate::routes::between;
use crate::{App, access, change, snapshot};
use hornpipe_types::command::{Bind, ExchangeDeclare, QueueDeclare};
use hornpipe_types::definition::BindingDefinition;
use hornpipe_types::operate::{Operation, Outcome};
use hornpipe_types::stats::AdminUser;

/// PUT, POST and DELETE at the paths of these objects.
pub(crate) async fn change(app: &App, request: &Request, user: &AdminUser, path: &[&str]) -> Result<Reply, Reply> {
    let [_, vhost_name, ..] = path else { return Err(Reply::not_found()) };
    access::vhost(app, user, vhost_name).await?;
    let vhost = short(vhost_name)?;
    let put = request.method == "PUT";
    let flag = |key: &str| request.query.flag(key);
    let operation = match *path {
        ["queues", _, name] if put => {
            let body = Body::read(&request.body)?;
            let declare = QueueDeclare {
                queue: short(name)?,
                passive: false,
                durable: body.flag("durable")?,
                exclusive: false,
                auto_delete: body.flag("auto_delete")?,
                nowait: false,
                arguments: body.table("arguments")?,
            };
            Operation::DeclareQueue { vhost, declare }
        }
        ["queues", _, name] => {
            let (if_unused, if_empty) = (flag("if-unused"), flag("if-empty"));
            Operation::DeleteQueue { vhost, queue: short(name)?, if_unused, if_empty }
        }
        ["queues", _, name, "contents"] => Operation::PurgeQueue { vhost, queue: short(name)? },
        ["exchanges", _, name] if put => {
            let body = Body::read(&request.body)?;
            let declare = ExchangeDeclare {
                exchange: short(exchange_name(name))?,
                kind: short(body.text("type")?.unwrap_or("direct"))?,
                passive: false,
                durable: body.flag("durable")?,
                auto_delete: body.flag("auto_delete")?,
                internal: body.flag("internal")?,
                nowait: false,
                arguments: body.table("arguments")?,
            };
            Operation::DeclareExchange { vhost, declare }
        }
        ["exchanges", _, name] => {
            Operation::DeleteExchange { vhost, exchange: short(exchange_name(name))?, if_unused: flag("if-unused") }
        }
        ["bindings", _, _, source, kind, destination] => {
            return bind(app, request, user, [vhost_name, source, kind, destination]).await;
        }
        ["bindings", _, _, source, kind, destination, key] => {
            let found = find_binding(app, vhost_name, between(source, kind, destination), key).await?;
            let bind = Bind {
                destination: found.destination,
                source: found.source,
                routing_key: found.routing_key,
                nowait: false,
                arguments: found.arguments,
            };
            Operation::Unbind { vhost, to_queue: kind == "q", bind }
        }
        _ => return Err(Reply::not_found()),
    };
    Ok(change::reply(snapshot::operate(app, user, operation).await?))
}

async fn bind(
    app: &App,
    request: &Request,
    user: &AdminUser,
    [vhost, source, kind, destination]: [&str; 4],
) -> Result<Reply, Reply> {
    let body = Body::read(&request.body)?;
    let to_queue = kind == "q";
    let bind = Bind {
        destination: short(if to_queue { destination } else { exchange_name(destination) })?,
        source: short(exchange_name(source))?,
        routing_key: body.short("routing_key")?,
        nowait: false,
        arguments: body.table("arguments")?,
    };
    let binding = BindingDefinition {
        vhost: short(vhost)?,
        source: bind.source.clone(),
        destination: bind.destination.clone(),
        destination_is_queue: to_queue,
        routing_key: bind.routing_key.clone(),
        arguments: bind.arguments.clone(),
        ..BindingDefinition::default()
    };
    let operation = Operation::Bind { vhost: binding.vhost.clone(), to_queue, bind };
    let outcome = snapshot::operate(app, user, operation).await?;
    let created = matches!(outcome, Outcome::Created);
    let reply = change::reply(outcome);
    if !created {
        return Ok(reply);
    }
    let location = format!("{}/{}", percent_encode(destination), properties_key(&binding));
    Ok(reply.with("location", &location))
}
