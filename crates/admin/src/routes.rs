//! Which path is what on the HTTP listener.

use crate::access::{self, Need};
use crate::connections::{self, Of};
use crate::http::{Reply, Request};
use crate::objects::{self, Between};
use crate::{App, change, definitions, health, list, overview, page, queues};
use serde_json::json;

/// Answers a request.
pub(crate) async fn answer(app: &App, request: &Request) -> Reply {
    let mut path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    for part in app.config.path_prefix.split('/').filter(|part| !part.is_empty()) {
        if path.first() != Some(&part) {
            return Reply::not_found();
        }
        path.remove(0);
    }
    match path.as_slice() {
        ["api", rest @ ..] => api(app, request, rest).await,
        _ if request.method == "OPTIONS" => options(),
        _ if !request.is_read() => Reply::method_not_allowed(&request.method),
        [] => page::index(app, request).await,
        ["queues"] => page::queues(app, request).await,
        ["health", "live"] => health::live(app),
        ["health", "ready"] => health::ready(app),
        _ => Reply::not_found(),
    }
}

fn options() -> Reply {
    Reply::text("", String::new()).with("allow", "GET, HEAD, PUT, POST, DELETE, OPTIONS")
}

async fn api(app: &App, request: &Request, path: &[&str]) -> Reply {
    if request.method == "OPTIONS" {
        return options();
    }
    if !request.is_read() {
        return change::answer(app, request, path).await;
    }
    get(app, request, path).await.unwrap_or_else(|reply| reply)
}

/// The path table. Users and permissions are for administrators, nodes for monitors, the rest for whoever has a management tag,
/// each page showing only the vhosts its user may look into.
async fn get(app: &App, request: &Request, path: &[&str]) -> Result<Reply, Reply> {
    let need = match path {
        ["users" | "permissions" | "topic-permissions" | "user-limits", ..]
        | ["vhosts", _, "permissions" | "topic-permissions"]
        | ["definitions"] => Need::Administrator,
        ["nodes", ..] => Need::Monitoring,
        ["policies" | "operator-policies" | "parameters" | "global-parameters", ..] => Need::Policymaker,
        _ => Need::Management,
    };
    let user = &access::login(app, request, need).await?;
    match *path {
        [] => {
            Ok(Reply::text("text/html; charset=utf-8", "<p>The management API; see RabbitMQ's reference.</p>".into()))
        }
        ["overview"] => overview::overview(app, request, user).await,
        ["whoami"] => Ok(overview::whoami(user)),
        ["nodes"] => overview::nodes(app, request, None).await,
        ["nodes", name] => overview::nodes(app, request, Some(name)).await,
        ["cluster-name"] => Ok(Reply::json(200, &json!({"name": app.broker.node().cluster_name}))),
        ["version"] => Ok(Reply::json(200, &json!(app.broker.node().rabbitmq_version))),
        ["extensions"] => Ok(list::reply(&request.query, Vec::new())),

        ["queues"] => queues::list(app, request, user, None, false).await,
        ["queues", "detailed"] => queues::list(app, request, user, None, true).await,
        ["queues", vhost] => queues::list(app, request, user, Some(vhost), false).await,
        ["queues", vhost, name] => queues::one(app, request, user, vhost, name).await,
        ["queues", vhost, name, "bindings"] => {
            objects::bindings(app, request, user, Some(vhost), Between::Queue(name)).await
        }

        ["exchanges"] => objects::exchanges(app, request, user, None).await,
        ["exchanges", vhost] => objects::exchanges(app, request, user, Some(vhost)).await,
        ["exchanges", vhost, name] => objects::one_exchange(app, request, user, vhost, name).await,
        ["exchanges", vhost, name, "bindings", "source"] => {
            objects::bindings(app, request, user, Some(vhost), Between::Source(name)).await
        }
        ["exchanges", vhost, name, "bindings", "destination"] => {
            objects::bindings(app, request, user, Some(vhost), Between::Exchange(name)).await
        }
        ["bindings"] => objects::bindings(app, request, user, None, Between::Anything).await,
        ["bindings", vhost] => objects::bindings(app, request, user, Some(vhost), Between::Anything).await,
        ["bindings", vhost, "e", source, kind @ ("q" | "e"), destination] => {
            let between = between(source, kind, destination);
            objects::bindings(app, request, user, Some(vhost), between).await
        }
        ["bindings", vhost, "e", source, kind @ ("q" | "e"), destination, key] => {
            let between = between(source, kind, destination);
            objects::one_binding(app, request, user, vhost, between, key).await
        }

        ["connections"] => connections::list(app, request, user, Of::All).await,
        ["connections", "username", name] => connections::list(app, request, user, Of::User(name)).await,
        ["connections", name] => connections::one(app, request, user, name).await,
        ["connections", name, "channels"] => connections::channels(app, request, user, Of::Name(name)).await,
        ["vhosts", vhost, "connections"] => connections::list(app, request, user, Of::Vhost(vhost)).await,
        ["channels"] => connections::channels(app, request, user, Of::All).await,
        ["channels", name] => connections::one_channel(app, request, user, name).await,
        ["vhosts", vhost, "channels"] => connections::channels(app, request, user, Of::Vhost(vhost)).await,
        ["consumers"] => connections::consumers(app, request, user, None).await,
        ["consumers", vhost] => connections::consumers(app, request, user, Some(vhost)).await,

        ["vhosts"] => objects::vhosts(app, request, user, None).await,
        ["vhosts", vhost] => objects::vhosts(app, request, user, Some(vhost)).await,
        ["vhosts", vhost, "permissions"] => objects::permissions(app, request, None, Some(vhost)).await,
        ["vhost-limits"] => objects::vhost_limits(app, request, user, None).await,
        ["vhost-limits", vhost] => objects::vhost_limits(app, request, user, Some(vhost)).await,
        ["users"] => objects::users(app, request, false).await,
        ["users", "without-permissions"] => objects::users(app, request, true).await,
        ["users", name] => objects::one_user(app, request, name).await,
        ["users", name, "permissions"] => objects::permissions(app, request, Some(name), None).await,
        ["user-limits"] => objects::user_limits(app, request, None).await,
        ["user-limits", name] => objects::user_limits(app, request, Some(name)).await,
        ["permissions"] => objects::permissions(app, request, None, None).await,
        ["permissions", vhost, name] => objects::one_permission(app, request, vhost, name).await,
        ["topic-permissions"] => objects::topic_permissions(app, request, None, None).await,
        ["topic-permissions", vhost, name] => objects::topic_permissions(app, request, Some(name), Some(vhost)).await,
        ["users", name, "topic-permissions"] => objects::topic_permissions(app, request, Some(name), None).await,
        ["vhosts", vhost, "topic-permissions"] => objects::topic_permissions(app, request, None, Some(vhost)).await,
        ["parameters"] => objects::parameters(app, request, user, None, None, None).await,
        ["parameters", component] => objects::parameters(app, request, user, Some(component), None, None).await,
        ["parameters", component, vhost] => {
            objects::parameters(app, request, user, Some(component), Some(vhost), None).await
        }
        ["parameters", component, vhost, name] => {
            objects::parameters(app, request, user, Some(component), Some(vhost), Some(name)).await
        }
        ["global-parameters"] => objects::global_parameters(app, request, None).await,
        ["global-parameters", name] => objects::global_parameters(app, request, Some(name)).await,
        ["definitions"] => definitions::export(app, request, user, None).await,
        ["definitions", vhost] => definitions::export(app, request, user, Some(vhost)).await,
        // There are none to switch.
        ["feature-flags"] | ["deprecated-features"] | ["deprecated-features", "used"] => {
            Ok(list::reply(&request.query, Vec::new()))
        }
        ["policies"] => objects::policies(app, request, user, false, None, None).await,
        ["policies", vhost] => objects::policies(app, request, user, false, Some(vhost), None).await,
        ["policies", vhost, name] => objects::policies(app, request, user, false, Some(vhost), Some(name)).await,
        ["operator-policies"] => objects::policies(app, request, user, true, None, None).await,
        ["operator-policies", vhost] => objects::policies(app, request, user, true, Some(vhost), None).await,
        ["operator-policies", vhost, name] => {
            objects::policies(app, request, user, true, Some(vhost), Some(name)).await
        }

        ["health", "checks", ref check @ ..] => health::check(app, check).await,
        ["aliveness-test", vhost] => {
            access::vhost(app, user, vhost).await?;
            Ok(health::aliveness(app))
        }
        // Known to clients of the API, but not built: better said than to look like a missing object.
        ["auth" | "rebalance" | "reset", ..] => {
            Err(Reply::not_implemented("this part of the management API is not built"))
        }
        _ => Err(Reply::not_found()),
    }
}

pub(crate) fn between<'a>(source: &'a str, kind: &str, destination: &'a str) -> Between<'a> {
    if kind == "q" {
        Between::SourceAndQueue(source, destination)
    } else {
        Between::SourceAndExchange(source, destination)
    }
}
