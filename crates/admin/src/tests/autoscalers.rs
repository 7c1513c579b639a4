//! The exact requests of autoscalers, and what they decode from the answers.

use super::World;
use serde_json::Value;

/// What KEDA's scaler decodes a queue into: Go refuses a float where it expects an integer.
fn keda_decodes(queue: &Value) -> (u64, f64, f64) {
    for field in ["messages", "messages_ready", "messages_unacknowledged"] {
        assert!(queue[field].is_u64(), "{field} in {queue}");
    }
    assert!(queue["name"].is_string());
    let rate = |details: &str| {
        let value = &queue["message_stats"][details]["rate"];
        assert!(value.is_f64() || value.is_null(), "{details}: {value}");
        value.as_f64().unwrap_or(0.0)
    };
    (queue["messages"].as_u64().unwrap(), rate("publish_details"), rate("deliver_get_details"))
}

#[test]
fn keda_one_queue() {
    let world = World::new();
    for path in ["/api/queues/%2F/orders", "/api/queues/%2f/orders", "/api/queues/%2F/orders/"] {
        let got = world.get(path);
        assert_eq!(got.status, 200, "{got:?}");
        assert_eq!(keda_decodes(&got.json()).0, 5);
        assert_eq!(got.json().get("message_stats"), None, "nothing happened yet");
    }
}

#[test]
fn keda_encodes_names_as_query_parameters() {
    let world = World::new();
    assert_eq!(world.get("/api/queues/%2F/a+b").json()["messages"], 11, "a space");
    assert_eq!(world.get("/api/queues/%2F/a%20b").json()["messages"], 11);
    assert_eq!(world.get("/api/queues/team%2Fa/c%2Bd").json()["name"], "c+d");
    assert_eq!(world.get("/api/queues/team%2Fa/c+d").json()["name"], "c+d", "a literal plus wins");
    assert_eq!(world.get("/api/queues/%2F/a+c").status, 404);
}

#[test]
fn keda_queues_by_pattern() {
    let world = World::new();
    let query = "page=1&use_regex=true&pagination=false&name=%5Eorders&page_size=100";
    let got = world.get(&format!("/api/queues/%2F?{query}"));
    assert_eq!(got.status, 200);
    let page = got.json();
    assert_eq!(page["page_count"], 1, "KEDA refuses more than one page");
    let names: Vec<&str> = page["items"].as_array().unwrap().iter().map(|q| q["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["orders", "orders.dead"]);
    let sum: u64 = page["items"].as_array().unwrap().iter().map(|q| keda_decodes(q).0).sum();
    assert_eq!(sum, 5);

    let none = world.get("/api/queues/%2F?page=1&use_regex=true&pagination=false&name=%5Ezzz&page_size=100");
    assert_eq!((none.status, none.json()["page_count"].as_u64()), (200, Some(0)));
}

#[test]
fn keda_rates_move() {
    let world = World::new();
    // Publishing goes on until both samples the rate is made of have seen it.
    loop {
        world.broker.change(|s| {
            s.queues[0].message_stats.publish += 10;
            s.queues[0].message_stats.deliver += 4;
        });
        let got = world.get("/api/queues/%2F/orders").json();
        let (_, publish, deliver) = keda_decodes(&got);
        if publish > 0.0 && deliver > 0.0 {
            assert!(publish > deliver, "{got}");
            break;
        }
    }
    // Then it stops, and the rate is an honest zero, still a float.
    let got = world.wait("/api/queues/%2F/orders", |q| q["message_stats"]["publish_details"]["rate"] == 0.0);
    assert_eq!(keda_decodes(&got).1, 0.0);
    assert!(got["message_stats"]["publish"].as_u64().unwrap() >= 10);
}

#[test]
fn guv_reads_the_whole_list() {
    let world = World::new();
    world.broker.change(|s| {
        for q in &mut s.queues {
            q.message_stats.publish = 1;
        }
    });
    let got = world.get("/api/queues");
    let queues = got.json();
    let queues = queues.as_array().expect("a plain array");
    assert_eq!(queues.len(), 4, "more than one slice");
    for queue in queues {
        assert!(queue["name"].is_string() && queue["messages"].is_u64() && queue["consumers"].is_u64());
        assert!(queue["message_stats"]["publish_details"]["rate"].is_f64());
        assert!(queue["message_stats"]["ack_details"]["rate"].is_f64());
    }
}

#[test]
fn only_200_is_success() {
    let world = World::new();
    assert_eq!(world.get("/api/queues/%2F/missing").status, 404);
    assert_eq!(world.get("/api/queues/missing/orders").status, 404);
    assert_eq!(world.get_as("admin:wrong", "/api/queues/%2F/orders").status, 401);
    world.broker.change(|s| s.health = hornpipe_types::stats::Health::Starting("half".into()));
    assert_eq!(world.get("/api/queues/%2F/orders").status, 503);
}

#[test]
fn flower_reads_a_vhost() {
    let world = World::new();
    let got = world.get("/api/queues/%2F?columns=name,messages,messages_ready,messages_unacknowledged,consumers");
    assert_eq!(got.json()[1]["name"], "orders");
    assert_eq!(got.json()[1].as_object().unwrap().len(), 5);
    let detailed = world.get("/api/queues/detailed").json();
    assert_eq!(detailed[0]["idle_since"], "2024-01-31T10:00:00.000+00:00");
    assert_eq!(world.get("/api/queues").json()[0].get("idle_since"), None);
}
