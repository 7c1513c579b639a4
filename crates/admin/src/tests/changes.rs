//! Changes: which request becomes which operation, who may, and what is answered.

use super::{Got, World, send};
use crate::AdminConfig;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hornpipe_types::error::{AmqpError, ReplyCode};
use hornpipe_types::header::Properties;
use hornpipe_types::message::{BatchBuilder, MessageMeta, Span};
use hornpipe_types::operate::{GotMessage, Operation, Outcome};
use serde_json::{Value, json};

impl World {
    fn change(&self, login: &str, method: &str, path: &str, body: &str) -> Got {
        let header = format!("authorization: Basic {}\r\ncontent-length: {}\r\n", STANDARD.encode(login), body.len());
        self.send_body(method, path, &header, body)
    }
    fn send_body(&self, method: &str, path: &str, headers: &str, body: &str) -> Got {
        super::send_body(self.handle.http_addrs()[0], method, path, headers, body)
    }
    /// The operation a request of the administrator becomes.
    fn becomes(&self, method: &str, path: &str, body: &Value) -> String {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let got = self.change("admin:secret", method, path, &body);
        assert!(got.status < 300, "{method} {path}: {got:?}");
        let asked = self.broker.operations();
        let [(user, operation)] = &asked[..] else { panic!("{method} {path}: {asked:?}") };
        assert_eq!(user, "admin");
        format!("{operation:?}")
    }
    fn outcome(&self, outcome: Outcome) {
        self.broker.change(|s| s.outcomes = vec![outcome]);
    }
}

#[test]
fn requests_become_operations() {
    let world = World::new();
    let none = Value::Null;
    for (method, path, body, parts) in [
        ("PUT", "/api/vhosts/a%2Fb", json!({"description": "d", "tags": "x,y"}), vec!["PutVhost", "\"a/b\"", "\"y\""]),
        ("PUT", "/api/vhosts/v", none.clone(), vec!["PutVhost", "description: None"]),
        ("DELETE", "/api/vhosts/v", none.clone(), vec!["DeleteVhost", "\"v\""]),
        ("PUT", "/api/users/u", json!({"password": "geheim", "tags": ["a"]}), vec!["PutUser", "Clear(…)", "[\"a\"]"]),
        ("PUT", "/api/users/u", json!({"password_hash": "aGFzaA==", "tags": ""}), vec!["Hashed", "aGFzaA==", "sha256"]),
        ("DELETE", "/api/users/u", none.clone(), vec!["DeleteUser"]),
        (
            "PUT",
            "/api/permissions/%2F/u",
            json!({"configure": "c", "write": "w", "read": "r"}),
            vec!["PutPermission", "\"/\"", "\"u\"", "configure: \"c\""],
        ),
        ("DELETE", "/api/permissions/%2F/u", none.clone(), vec!["DeletePermission"]),
        (
            "PUT",
            "/api/topic-permissions/%2F/u",
            json!({"exchange": "x", "write": "w", "read": "r"}),
            vec!["PutTopicPermission", "\"x\""],
        ),
        ("DELETE", "/api/topic-permissions/%2F/u", none.clone(), vec!["DeleteTopicPermission", "exchange: None"]),
        (
            "PUT",
            "/api/policies/%2F/p",
            json!({"pattern": "^a", "definition": {"max-length": 3}, "priority": "2", "apply-to": "queues"}),
            vec!["PutPolicy", "operator: false", "I64(3)", "priority: 2", "\"queues\""],
        ),
        (
            "PUT",
            "/api/operator-policies/%2F/p",
            json!({"pattern": "^a", "definition": {"max-length": 3}}),
            vec!["operator: true", "\"queues\""],
        ),
        ("DELETE", "/api/policies/%2F/p", none.clone(), vec!["DeletePolicy"]),
        ("PUT", "/api/vhost-limits/%2F/max-queues", json!({"value": 5}), vec!["LimitVhost", "Some(5)"]),
        ("DELETE", "/api/user-limits/u/max-channels", none.clone(), vec!["LimitUser", "value: None"]),
        (
            "PUT",
            "/api/queues/%2F/q%20r",
            json!({"durable": true, "arguments": {"x-max-length": 5}}),
            vec!["DeclareQueue", "\"q r\"", "durable: true", "auto_delete: false", "I64(5)"],
        ),
        (
            "DELETE",
            "/api/queues/%2F/q?if-unused=true&if-empty=true",
            none.clone(),
            vec!["DeleteQueue", "if_unused: true, if_empty: true"],
        ),
        ("DELETE", "/api/queues/%2F/q/contents", none.clone(), vec!["PurgeQueue"]),
        (
            "PUT",
            "/api/exchanges/%2F/x",
            json!({"type": "topic", "durable": true, "internal": true}),
            vec!["DeclareExchange", "\"topic\"", "internal: true"],
        ),
        ("DELETE", "/api/exchanges/%2F/x?if-unused=true", none.clone(), vec!["DeleteExchange", "if_unused: true"]),
        ("POST", "/api/bindings/%2F/e/x/e/y", json!({"routing_key": "k"}), vec!["Bind", "to_queue: false", "\"k\""]),
        ("DELETE", "/api/bindings/%2F/e/events/q/orders/order.%2523", none.clone(), vec!["Unbind", "\"order.#\""]),
        ("DELETE", "/api/bindings/%2F/e/events/q/orders/order.%23", none.clone(), vec!["Unbind", "\"order.#\""]),
        (
            "DELETE",
            "/api/connections/10.0.0.9:4000%20-%3E%2010.0.0.1:5672",
            none.clone(),
            vec!["CloseConnection", "ConnectionId(7)", "Closed via management plugin"],
        ),
        ("PUT", "/api/parameters/c/%2F/n", json!({"value": {"a": 1}}), vec!["PutParameter", "{\\\"a\\\":1}"]),
        ("PUT", "/api/global-parameters/n", json!({"value": 1}), vec!["PutParameter", "vhost: None"]),
    ] {
        let operation = world.becomes(method, path, &body);
        for part in parts {
            assert!(operation.contains(part), "{method} {path}: {part} in {operation}");
        }
    }
}

#[test]
fn who_may_change_what() {
    let world = World::new();
    let policy = json!({"pattern": "", "definition": {"max-length": 1}}).to_string();
    for (login, method, path, body, status, reason) in [
        ("worker:secret", "PUT", "/api/vhosts/v", "{}", 401, "Not administrator user"),
        ("monitor:secret", "DELETE", "/api/users/u", "", 401, "Not administrator user"),
        ("worker:secret", "PUT", "/api/policies/%2F/p", &policy, 401, "User not authorised to access object"),
        ("worker:secret", "PUT", "/api/queues/%2F/q", "{}", 204, ""),
        ("worker:secret", "PUT", "/api/queues/team%2Fa/q", "{}", 401, "User not authorised to access virtual host"),
        ("worker:secret", "POST", "/api/definitions", "{}", 401, "Not administrator user"),
        ("nobody:secret", "PUT", "/api/queues/%2F/q", "{}", 401, "Not management user"),
        ("worker:secret", "DELETE", "/api/connections/10.0.0.9:4000%20-%3E%2010.0.0.1:5672", "", 204, ""),
        (
            "monitor:secret",
            "DELETE",
            "/api/connections/10.0.0.9:4000%20-%3E%2010.0.0.1:5672",
            "",
            401,
            "User not authorised to access object",
        ),
    ] {
        let got = world.change(login, method, path, body);
        assert_eq!(got.status, status, "{login} {method} {path}: {got:?}");
        assert_eq!(world.broker.operations().len(), usize::from(status == 204), "{login} {method} {path}");
        if status == 401 {
            assert_eq!(got.json(), json!({"error": "not_authorised", "reason": reason}));
        }
    }
}

#[test]
fn outcomes_become_answers() {
    let world = World::new();
    let refused = |code, text: &str| Outcome::Refused(AmqpError::new(code, text));
    for (outcome, status, reason) in [
        (Outcome::Created, 201, None),
        (Outcome::Exists, 204, None),
        (Outcome::NotFound, 404, Some("Not Found")),
        (refused(ReplyCode::PreconditionFailed, "why"), 400, Some("406 PRECONDITION_FAILED - why")),
        (refused(ReplyCode::AccessRefused, "why"), 401, Some("ACCESS_REFUSED - why")),
        (refused(ReplyCode::NotAllowed, "access to vhost '/' refused for user 'u'"), 401, Some("Access refused.")),
        (refused(ReplyCode::NotFound, "no exchange"), 404, Some("NOT_FOUND - no exchange")),
        (Outcome::Invalid("no".to_owned()), 400, Some("no")),
    ] {
        let what = format!("{outcome:?}");
        world.outcome(outcome);
        let got = world.change("admin:secret", "PUT", "/api/queues/%2F/q", "{}");
        assert_eq!(got.status, status, "{what}");
        match reason {
            Some(reason) => assert_eq!(got.json()["reason"], reason, "{what}"),
            None => assert_eq!(got.body, "", "{what}"),
        }
    }
    world.outcome(Outcome::Created);
    let got = world.change("admin:secret", "POST", "/api/bindings/%2F/e/x/q/a%2Fb", r#"{"routing_key":"k.#"}"#);
    assert_eq!((got.status, got.header("location")), (201, Some("a%2Fb/k.%23")));
}

#[test]
fn malformed_requests_change_nothing() {
    let world = World::new();
    for (method, path, body, status) in [
        ("PUT", "/api/queues/%2F/q", "{", 400),
        ("PUT", "/api/queues/%2F/q", r#"{"durable":"perhaps"}"#, 400),
        ("PUT", "/api/queues/%2F/q", r#"{"arguments":3}"#, 400),
        ("PUT", "/api/users/u", r#"{"password":"x"}"#, 400),
        ("PUT", "/api/users/u", r#"{"password":"x","password_hash":"y","tags":""}"#, 400),
        ("PUT", "/api/permissions/%2F/u", r#"{"configure":"x"}"#, 400),
        ("PUT", "/api/policies/%2F/p", r#"{"pattern":"x"}"#, 400),
        ("POST", "/api/queues/%2F/q/get", r#"{"count":1,"encoding":"auto"}"#, 400),
        ("POST", "/api/exchanges/%2F/x/publish", r#"{"properties":{},"routing_key":"k","payload":"p"}"#, 400),
        ("DELETE", "/api/bindings/%2F/e/events/q/orders/none", "", 404),
        ("DELETE", "/api/connections/none", "", 404),
        ("POST", "/api/definitions", r#"{"queues":[{"name":"q","vhost":"/"},{"vhost":"/"}]}"#, 400),
        ("PUT", "/api/overview", "{}", 405),
        ("PUT", "/api/cluster-name", "{}", 501),
    ] {
        let got = world.change("admin:secret", method, path, body);
        assert_eq!(got.status, status, "{method} {path} {body}: {got:?}");
        assert!(world.broker.operations().is_empty(), "{method} {path} {body}");
    }
}

/// A client that looks for an answer only when it has sent all gets one; so does one that asks first and sends nothing.
#[test]
fn a_body_that_is_too_long_is_answered() {
    let world = World::with(AdminConfig { body_bytes_max: 2000, ..AdminConfig::default() });
    let send = |headers: &str, body: &str| {
        let headers = format!("authorization: Basic {}\r\n{headers}\r\n", STANDARD.encode("admin:secret"));
        world.send_body("PUT", "/api/queues/%2F/q", &headers, body)
    };
    let of = |octets: usize| format!("{{}}{}", " ".repeat(octets - 2));
    assert_eq!(send("content-length: 2000", &of(2000)).status, 204);
    let chunked = |octets: usize| format!("{octets:x}\r\n{}\r\n0\r\n\r\n", of(octets));
    assert_eq!(send("transfer-encoding: chunked", &chunked(2000)).status, 204);
    // far more than the sockets hold
    let much = 16 << 20;
    for (headers, body) in [
        ("content-length: 2001".to_owned(), of(2001)),
        (format!("content-length: {much}"), of(much)),
        ("transfer-encoding: chunked".to_owned(), chunked(much)),
        ("expect: 100-continue\r\ncontent-length: 2001".to_owned(), String::new()),
        (format!("content-length: {}", 2u64 << 30), String::new()),
    ] {
        let got = send(&headers, &body);
        let reason = "Exceeded HTTP request body size limit: http_body_bytes_max is 2000 octets";
        assert_eq!((got.status, &got.json()["reason"]), (413, &json!(reason)), "{headers}");
    }
    assert_eq!(world.broker.operations().len(), 2);
}

#[test]
fn messages_are_published_and_got() {
    let world = World::new();
    world.outcome(Outcome::Routed(true));
    let body = json!({
        "properties": {"delivery_mode": 2, "headers": {"n": 1}, "type": "t"},
        "routing_key": "q", "payload": "AAH/", "payload_encoding": "base64",
    });
    let got = world.change("admin:secret", "POST", "/api/exchanges/%2F/amq.default/publish", &body.to_string());
    assert_eq!((got.status, got.json()), (200, json!({"routed": true})));
    let asked = world.broker.operations();
    let Operation::Publish { exchange, properties, body, .. } = &asked[0].1 else { panic!("{asked:?}") };
    assert_eq!((exchange.as_str(), properties.delivery_mode, body.as_slice()), ("", Some(2), &[0, 1, 255][..]));

    let message = |octets: &[u8]| {
        let properties = Properties { message_id: Some("7".into()), ..Properties::default() };
        let mut b = BatchBuilder::with_capacity(100);
        let route = b.push_route("x", "k");
        let header = properties.encode(octets.len() as u64);
        b.push_message(&header, [octets], MessageMeta { route, ..MessageMeta::default() }, 0);
        GotMessage { span: Span::whole(b.finish()), redelivered: false, messages: 4 }
    };
    world.outcome(Outcome::Messages(vec![message("grüße".as_bytes()), message(&[255])]));
    let body = r#"{"count":5,"ackmode":"ack_requeue_true","encoding":"auto","truncate":4}"#;
    let got = world.change("admin:secret", "POST", "/api/queues/%2F/q/get", body).json();
    let expected = json!({
        "payload_bytes": 7, "redelivered": false, "exchange": "x", "routing_key": "k", "message_count": 4,
        "properties": {"message_id": "7"}, "payload": "grü", "payload_encoding": "string",
    });
    assert_eq!(got[0], expected);
    assert_eq!((&got[1]["payload"], &got[1]["payload_encoding"]), (&json!("/w=="), &json!("base64")));
    for (body, mode) in [
        (r#"{"count":1,"ackmode":"ack_requeue_false","encoding":"auto"}"#, "Ack"),
        (r#"{"count":1,"ackmode":"reject_requeue_true","encoding":"auto"}"#, "Requeue"),
        (r#"{"count":1,"ackmode":"reject_requeue_false","encoding":"auto"}"#, "Reject"),
        (r#"{"count":1,"requeue":false,"encoding":"base64"}"#, "Ack"),
        (r#"{"count":1,"requeue":"true","encoding":"base64"}"#, "Requeue"),
    ] {
        world.broker.operations();
        world.change("admin:secret", "POST", "/api/queues/%2F/q/get", body);
        let asked = format!("{:?}", world.broker.operations());
        assert!(asked.contains(&format!("mode: {mode}")), "{body}: {asked}");
    }
}

#[test]
fn definitions_go_out_and_in() {
    let world = World::new();
    let got = world.get("/api/definitions").json();
    assert_eq!(got["queues"].as_array().unwrap().len(), 1, "only durable ones");
    assert_eq!(got["users"].as_array().unwrap().len(), 2);
    assert_eq!(got["policies"][0]["name"], "ttl");
    assert_eq!(world.get_as("worker:secret", "/api/definitions").status, 401);
    let of_vhost = world.get_as("worker:secret", "/api/definitions/%2F").json();
    assert_eq!(of_vhost["queues"][0]["name"], "orders");
    assert!(of_vhost["queues"][0].get("vhost").is_none() && of_vhost.get("users").is_none());

    let body = json!({
        "users": [{"name": "u", "password_hash": "h", "hashing_algorithm": "rabbit_password_hashing_sha512", "tags": ["administrator"]}],
        "vhosts": [{"name": "v", "limits": {"max-queues": 4}}],
        "permissions": [{"user": "u", "vhost": "v", "configure": "", "write": "", "read": ""}],
        "parameters": [
            {"vhost": "v", "component": "operator_policy", "name": "o", "value": {"pattern": "", "definition": {"max-length": 1}}},
            {"vhost": "v", "component": "vhost-limits", "name": "limits", "value": {"max-connections": 2}},
            {"vhost": "v", "component": "c", "name": "n", "value": 1},
        ],
        "global_parameters": [{"name": "cluster_name", "value": "x"}, {"name": "g", "value": "y"}],
        "policies": [{"vhost": "v", "name": "p", "pattern": ".*", "definition": {"expires": 1}}],
        "queues": [{"vhost": "v", "name": "q", "durable": true, "type": "quorum", "arguments": {}}],
        "exchanges": [{"vhost": "v", "name": "x", "type": "fanout", "durable": true}, {"vhost": "v", "name": "amq.direct", "type": "direct"}],
        "bindings": [{"vhost": "v", "source": "x", "destination": "q", "destination_type": "queue", "routing_key": "", "arguments": {}}],
    });
    assert_eq!(world.change("admin:secret", "POST", "/api/definitions", &body.to_string()).status, 204);
    let asked: Vec<String> = world.broker.operations().iter().map(|(_, o)| format!("{o:?}")).collect();
    for (asked, start) in asked.iter().zip([
        "PutUser",
        "PutVhost",
        "LimitVhost",
        "PutPermission",
        "PutPolicy",
        "LimitVhost",
        "PutParameter",
        "PutParameter",
        "PutPolicy",
        "Import(Queue",
        "Import(Exchange",
        "Import(Binding",
    ]) {
        assert!(asked.starts_with(start), "{start}: {asked}");
    }
    assert_eq!(asked.len(), 12);
    assert!(asked[9].contains("quorum"), "{}", asked[9]);
    // of one vhost: names of vhosts are not looked at, and the rest is not for it
    let body = json!({"users": [{"name": "u", "tags": ""}], "queues": [{"name": "q", "durable": true}]}).to_string();
    assert_eq!(world.change("admin:secret", "POST", "/api/definitions/team%2Fa", &body).status, 204);
    let asked = format!("{:?}", world.broker.operations());
    assert!(asked.contains("team/a") && !asked.contains("PutUser"), "{asked}");
    world.outcome(Outcome::NotFound);
    let got = world.change("admin:secret", "POST", "/api/definitions", r#"{"queues":[{"name":"q","vhost":"none"}]}"#);
    assert_eq!((got.status, &got.json()["reason"]), (400, &json!("queue 'q': its virtual host is not there")));
}

#[test]
fn a_body_is_read_only_from_who_has_logged_in() {
    let world = World::new();
    // the body never comes: who waited for it would not answer
    let got = send(world.handle.http_addrs()[0], "PUT", "/api/queues/%2F/q", "content-length: 1000000\r\n");
    assert_eq!(got.status, 401);
}

#[test]
fn a_snapshot_is_made_for_administrators_alone() {
    let world = World::new();
    let ask = |login: &str, body: &str| world.change(login, "POST", "/api/hornpipe/snapshot", body);
    let got = ask("admin:secret", r#"{"folder":"/good"}"#);
    assert_eq!((got.status, got.json()), (200, json!({"folder": "/good", "db_bytes": 1, "body_bytes": 2})));
    for (body, status, says) in [
        (r#"{"folder":"/bad"}"#, 400, "is not empty"),
        (r#"{"folder":"/other"}"#, 503, "the disk is full"),
        ("{}", 400, "key_missing"),
        (r#"{"folder":7}"#, 400, "must be a string"),
    ] {
        let got = ask("admin:secret", body);
        assert!(got.status == status && got.body.contains(says), "{body}: {got:?}");
    }
    assert_eq!(ask("monitor:secret", r#"{"folder":"/good"}"#).status, 401);
    assert_eq!(world.change("admin:secret", "PUT", "/api/hornpipe/snapshot", "{}").status, 405);
}
