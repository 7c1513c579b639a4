//! Logins, rights, methods, health, and the objects other clients read.

use super::{World, send};
use crate::{AdminConfig, start};
use hornpipe_types::stats::Health;
use serde_json::json;
use std::net::SocketAddr;

#[test]
fn logins() {
    let world = World::new();
    let none = world.send("GET", "/api/whoami", "");
    assert_eq!((none.status, none.body.as_str()), (401, ""));
    assert_eq!(none.header("www-authenticate"), Some("Basic realm=\"RabbitMQ Management\""));
    for (login, path, body) in [
        ("admin:wrong", "/api/whoami", json!({"error": "not_authorized", "reason": "Not_Authorized"})),
        ("nobody:secret", "/api/whoami", json!({"error": "not_authorised", "reason": "Not management user"})),
        (
            "remote:secret",
            "/api/whoami",
            json!({"error": "not_authorised", "reason": "User can only log in via localhost"}),
        ),
        ("worker:secret", "/api/nodes", json!({"error": "not_authorised", "reason": "Not monitor user"})),
        ("monitor:secret", "/api/users", json!({"error": "not_authorised", "reason": "Not administrator user"})),
        (
            "worker:secret",
            "/api/queues/team%2Fa",
            json!({"error": "not_authorised", "reason": "User not authorised to access virtual host"}),
        ),
    ] {
        let got = world.get_as(login, path);
        assert_eq!((got.status, got.json()), (401, body), "{login} {path}");
    }
    let me = world.get("/api/whoami").json();
    assert_eq!(me, json!({"name": "admin", "tags": ["administrator"], "is_internal_user": true}));
}

#[test]
fn lists_show_only_what_the_user_may_see() {
    let world = World::new();
    let vhosts = |login: &str, path: &str| -> Vec<String> {
        let got = world.get_as(login, path).json();
        got.as_array().unwrap().iter().map(|q| q["vhost"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(vhosts("worker:secret", "/api/queues"), ["/", "/", "/"]);
    assert_eq!(vhosts("monitor:secret", "/api/queues"), ["/", "/", "/", "team/a"]);
    assert_eq!(world.get_as("worker:secret", "/api/vhosts").json().as_array().unwrap().len(), 1);
    assert_eq!(world.get_as("worker:secret", "/api/connections").json().as_array().unwrap().len(), 1, "its own");
}

#[test]
fn methods_and_unknown_paths() {
    let world = World::new();
    let admin = "authorization: Basic YWRtaW46c2VjcmV0\r\n";
    for (method, path, status) in [
        ("PUT", "/api/queues/%2F/new", 204),
        ("DELETE", "/api/vhosts/x", 204),
        ("POST", "/api/rebalance/queues", 501),
        ("POST", "/api/overview", 405),
        ("DELETE", "/", 405),
        ("GET", "/api/definitions", 200),
        ("GET", "/api/auth/hash_password/x", 501),
        ("GET", "/api/nowhere", 404),
        ("GET", "/nowhere", 404),
        ("OPTIONS", "/api/queues", 200),
        ("GET", "/api/queues/%ff", 400),
    ] {
        let got = world.send(method, path, admin);
        assert_eq!(got.status, status, "{method} {path}");
        if status >= 400 {
            assert!(got.json()["reason"].is_string(), "{got:?}");
        }
    }
    let get = world.send("GET", "/api/whoami", admin);
    let head = world.send("HEAD", "/api/whoami", admin);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()));
}

#[test]
fn health_needs_no_login() {
    let world = World::new();
    let ask = |path: &str| {
        let got = world.send("GET", path, "");
        (got.status, got.json())
    };
    assert_eq!(ask("/health/ready"), (200, json!({"status": "ok"})));
    world.broker.change(|s| s.health = Health::Starting("reading the log".into()));
    assert_eq!(ask("/health/ready"), (503, json!({"status": "starting", "reason": "reading the log"})));
    assert_eq!(ask("/health/live").0, 200);
    world.broker.change(|s| s.health = Health::Failed("disk".into()));
    assert_eq!(ask("/health/ready"), (503, json!({"status": "failed", "reason": "disk"})));
    assert_eq!(ask("/health/live").0, 503);
}

#[test]
fn health_checks() {
    let world = World::new();
    for (path, status) in [
        ("alarms", 200),
        ("virtual-hosts", 200),
        ("port-listener/5672", 200),
        ("port-listener/1", 503),
        ("port-listener/x", 400),
        ("protocol-listener/amqp", 200),
        ("protocol-listener/amqp091", 200),
        ("protocol-listener/http", 200),
        ("protocol-listener/mqtt", 503),
        ("ready-to-serve-clients", 200),
        ("certificate-expiration/1/days", 501),
        ("nothing", 404),
    ] {
        assert_eq!(world.get(&format!("/api/health/checks/{path}")).status, status, "{path}");
    }
    assert_eq!(world.get("/api/health/checks/port-listener/1").json()["missing"], 1);
    world.broker.change(|s| s.totals.disk_alarm = true);
    let got = world.get("/api/health/checks/alarms");
    assert_eq!(got.status, 503);
    assert_eq!(got.json()["alarms"], json!([{"node": "hornpipe@test", "resource": "disk space"}]));
    assert_eq!(world.get("/api/aliveness-test/%2F").json(), json!({"status": "ok"}));
    assert_eq!(world.get("/api/aliveness-test/none").status, 404);
}

#[test]
fn overview_has_what_clients_require() {
    let world = World::new();
    let got = world.get("/api/overview").json();
    for field in [
        "management_version",
        "rates_mode",
        "exchange_types",
        "product_version",
        "product_name",
        "rabbitmq_version",
        "cluster_name",
        "erlang_version",
        "erlang_full_version",
        "node",
        "statistics_db_event_queue",
        "churn_rates",
        "queue_totals",
        "object_totals",
        "message_stats",
        "listeners",
        "contexts",
        "default_queue_type",
    ] {
        assert!(!got[field].is_null(), "{field}");
    }
    assert_eq!(got["message_stats"], json!({}), "an object even when empty");
    assert_eq!(got["queue_totals"]["messages"], 5);
    assert_eq!(got["listeners"].as_array().unwrap().len(), 3, "the broker's and our own two");
    assert_eq!(world.get("/api/nodes/hornpipe@test").json()["os_pid"], "0");
    assert_eq!(world.get("/api/nodes/other").status, 404);
}

#[test]
fn connections_channels_consumers() {
    let world = World::new();
    let connection = world.get("/api/connections/10.0.0.9%3A4000%20-%3E%2010.0.0.1%3A5672").json();
    assert_eq!(connection["user_provided_name"], "worker");
    assert_eq!((&connection["channels"], &connection["peer_port"]), (&json!(1), &json!(4000)));
    let channel = world.get("/api/channels/10.0.0.9%3A4000%20-%3E%2010.0.0.1%3A5672%20(1)").json();
    assert_eq!(channel["consumer_details"][0]["consumer_tag"], "ctag-1");
    assert_eq!(world.get("/api/channels/10.0.0.9%3A4000%20-%3E%2010.0.0.1%3A5672%20(2)").status, 404);
    let consumer = &world.get("/api/consumers/%2F").json()[0];
    assert_eq!(consumer["queue"], json!({"name": "orders", "vhost": "/"}));
    assert_eq!(consumer["activity_status"], "up");
    assert_eq!(consumer["channel_details"]["name"], "10.0.0.9:4000 -> 10.0.0.1:5672 (1)");
    assert_eq!(world.get("/api/consumers/team%2Fa").json(), json!([]));
    let queue = world.get("/api/queues/%2F/orders").json();
    assert_eq!(queue["consumer_details"][0]["prefetch_count"], 10);
    assert_eq!(queue["arguments"], json!({"x-max-length": 1000}));
}

#[test]
fn exchanges_and_bindings() {
    let world = World::new();
    assert_eq!(world.get("/api/exchanges/%2F/amq.default").json()["name"], "");
    assert_eq!(world.get("/api/exchanges/%2F/nothing").status, 404);
    let of_queue = world.get("/api/queues/%2F/orders/bindings").json();
    let keys: Vec<&str> = of_queue.as_array().unwrap().iter().map(|b| b["properties_key"].as_str().unwrap()).collect();
    assert_eq!(keys.len(), 3, "{of_queue}");
    assert_eq!((of_queue[0]["source"].as_str(), keys[0]), (Some(""), "orders"), "the implicit one");
    assert!(keys[1].starts_with('~') && keys[1].len() > 1, "arguments are told apart: {}", keys[1]);
    assert_eq!(keys[2], "order.%23");
    for key in ["order.%23", "order.%2523", keys[1]] {
        let got = world.get(&format!("/api/bindings/%2F/e/events/q/orders/{key}"));
        assert_eq!(got.status, 200, "{key}");
    }
    assert_eq!(world.get("/api/bindings/%2F/e/events/q/orders/other").status, 404);
    assert_eq!(world.get("/api/bindings/%2F/e/events/q/nothing").status, 404);
    assert_eq!(world.get("/api/bindings/%2F/e/events/q/orders.dead").json(), json!([]));
}

#[test]
fn definitions_are_listed() {
    let world = World::new();
    assert_eq!(world.get("/api/vhosts/%2F").json()["messages"], 16);
    assert_eq!(world.get("/api/users/without-permissions").json()[0]["name"], "admin");
    assert_eq!(world.get("/api/permissions/%2F/worker").json()["configure"], ".*");
    assert_eq!(world.get("/api/permissions/%2F/admin").status, 404);
    assert_eq!(world.get("/api/policies/%2F/ttl").json()["apply-to"], "queues");
    assert_eq!(world.get("/api/operator-policies").json(), json!([]));
    assert_eq!(world.get("/api/vhost-limits").json(), json!([]));
}

#[test]
fn the_page_escapes_and_asks_for_a_login() {
    let world = World::new();
    world.broker.change(|s| s.queues[0].name = "<script>&\"'".into());
    let open = world.send("GET", "/", "");
    assert_eq!(open.status, 200);
    assert!(!open.body.contains("script"), "queues are not for everyone");
    assert_eq!(world.send("GET", "/queues", "").status, 401);
    let page = world.get("/queues");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("<td>&lt;script&gt;&amp;&quot;&#39;</td><td>3</td><td>2</td>"), "{}", page.body);
    assert!(!page.body.contains("<script"));
}

#[test]
fn a_panic_ends_one_connection_only() {
    let world = World::new();
    world.broker.change(|s| s.panics = true);
    let mut stream = std::net::TcpStream::connect(world.handle.http_addrs()[0]).unwrap();
    std::io::Write::write_all(
        &mut stream,
        b"GET /api/overview HTTP/1.1\r\nhost: t\r\nauthorization: Basic YWRtaW46c2VjcmV0\r\n\r\n",
    )
    .unwrap();
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    world.broker.change(|s| s.panics = false);
    assert_eq!(world.get("/api/overview").status, 200);
    // Sampling, which met the panic too, goes on.
    let mut published = 0;
    world.wait("/api/overview", |overview| {
        published += 1;
        world.broker.change(|s| s.totals.message_stats.publish = published);
        overview["message_stats"]["publish_details"]["rate"].as_f64().is_some_and(|rate| rate > 0.0)
    });
}

#[test]
fn a_path_prefix() {
    let world = World::with(AdminConfig { path_prefix: "/rabbit".into(), ..AdminConfig::default() });
    assert_eq!(world.get("/rabbit/api/queues/%2F/orders").status, 200);
    assert_eq!(world.get("/api/queues").status, 404);
}

#[test]
fn stop_ends_the_listeners_and_a_taken_port_is_an_error() {
    let world = World::new();
    let addr = world.handle.http_addrs()[0];
    let taken = AdminConfig { http: vec![addr], ..AdminConfig::default() };
    let error = start(taken, world.broker.clone()).unwrap_err();
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
    world.handle.stop();
    assert!(std::net::TcpStream::connect(addr).is_err());
}

#[test]
fn the_unspecified_v6_address_takes_v4_too() {
    let any = SocketAddr::from(([0u16; 8], 0));
    // A machine without IPv6 can't show it.
    if std::net::TcpListener::bind(any).is_err() {
        return;
    }
    let config = AdminConfig { http: vec![any], ..AdminConfig::default() };
    let handle = start(config, std::sync::Arc::new(super::fake::Fake::default())).unwrap();
    let v4 = SocketAddr::from(([127, 0, 0, 1], handle.http_addrs()[0].port()));
    assert_eq!(send(v4, "GET", "/health/ready", "").status, 200);
    let admin = "authorization: Basic YWRtaW46c2VjcmV0\r\n";
    // The fake insists on loopback: `::ffff:127.0.0.1` has to count as one.
    assert_eq!(send(v4, "GET", "/api/whoami", admin).status, 200);
}
