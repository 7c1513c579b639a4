//! The metrics pages, read back with a small parser.

use super::World;
use hornpipe_types::stats::Health;
use std::collections::BTreeMap;

/// Series by name with labels as printed, and types by name.
struct Page {
    series: BTreeMap<String, f64>,
    types: BTreeMap<String, String>,
}

impl Page {
    /// Parses and checks what a scraper checks: one TYPE per name, before its series; no series twice.
    fn parse(text: &str) -> Self {
        let mut page = Self { series: BTreeMap::new(), types: BTreeMap::new() };
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(page.types.insert(name.into(), kind.into()).is_none(), "{name} is declared twice");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
                assert!(page.types.contains_key(name) || page.types.contains_key(base), "{name} has no type");
                let value = value.parse().unwrap_or_else(|e| panic!("{e} in {line}"));
                assert!(page.series.insert(series.into(), value).is_none(), "{series} is there twice");
            }
        }
        page
    }
    #[track_caller]
    fn get(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("{series} not in {:#?}", self.series.keys()))
    }
    fn has(&self, name: &str) -> bool {
        self.series.keys().any(|series| series.split('{').next() == Some(name))
    }
}

fn scrape(world: &World, path: &str) -> Page {
    let got = world.metrics(path);
    assert_eq!(got.status, 200, "{path}");
    assert!(got.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    Page::parse(&got.body)
}

#[test]
fn the_overview_dashboard_finds_everything() {
    let page = scrape(&World::new(), "/metrics");
    let mut names: Vec<String> = [
        "identity_info",
        "build_info",
        "queue_messages_ready",
        "queue_messages_unacked",
        "global_publishers",
        "global_consumers",
        "connections",
        "channels",
        "consumers",
        "queues",
        "resident_memory_limit_bytes",
        "process_resident_memory_bytes",
        "disk_space_available_bytes",
        "disk_space_available_limit_bytes",
        "process_max_fds",
        "process_open_fds",
        "erlang_uptime_seconds",
        "message_size_bytes_bucket",
        "message_size_bytes_sum",
        "message_size_bytes_count",
    ]
    .map(String::from)
    .into();
    for counter in [
        "received",
        "received_confirm",
        "routed",
        "confirmed",
        "unroutable_dropped",
        "unroutable_returned",
        "delivered",
        "redelivered",
        "acknowledged",
        "get_empty",
        "delivered_consume_manual_ack",
        "delivered_consume_auto_ack",
        "delivered_get_manual_ack",
        "delivered_get_auto_ack",
    ] {
        names.push(format!("global_messages_{counter}_total"));
    }
    for counter in [
        "connections_opened",
        "connections_closed",
        "channels_opened",
        "channels_closed",
        "queues_declared",
        "queues_created",
        "queues_deleted",
    ] {
        names.push(format!("{counter}_total"));
    }
    for name in names {
        assert!(page.has(&format!("rabbitmq_{name}")), "{name}");
    }
    assert_eq!(page.get("rabbitmq_global_messages_received_total{protocol=\"amqp091\"}"), 0.0, "there from the start");
    assert_eq!(page.types["rabbitmq_identity_info"], "untyped");
    assert_eq!(
        page.get(
            "rabbitmq_identity_info{rabbitmq_node=\"hornpipe@test\",rabbitmq_cluster=\"test\",\
             rabbitmq_cluster_permanent_id=\"test\",rabbitmq_endpoint=\"aggregated\"}"
        ),
        1.0
    );
    assert_eq!(page.get("rabbitmq_queue_messages_ready"), 3.0);
    assert_eq!(page.get("rabbitmq_erlang_uptime_seconds"), 1.5);
}

#[test]
fn size_buckets_are_cumulative_with_literal_bounds() {
    let page = scrape(&World::new(), "/metrics");
    for (bound, count) in [
        ("100.0", 1.0),
        ("1000.0", 3.0),
        ("100000.0", 3.0),
        ("1e+06", 3.0),
        ("5e+07", 3.0),
        ("1e+08", 3.0),
        ("+Inf", 7.0),
    ] {
        let series = format!("rabbitmq_message_size_bytes_bucket{{protocol=\"amqp091\",le=\"{bound}\"}}");
        assert_eq!(page.get(&series), count, "{bound}");
    }
    assert_eq!(page.get("rabbitmq_message_size_bytes_count{protocol=\"amqp091\"}"), 7.0);
    assert_eq!(page.get("rabbitmq_message_size_bytes_sum{protocol=\"amqp091\"}"), 1_000_150.0);
}

#[test]
fn counters_do_not_fall_with_a_queue() {
    let world = World::new();
    world.broker.change(|s| {
        s.totals.message_stats.ack = 9;
        s.queues[0].message_stats.ack = 9;
    });
    assert_eq!(scrape(&world, "/metrics").get("rabbitmq_queue_messages_acked_total"), 9.0);
    world.broker.change(|s| s.queues.clear());
    let page = scrape(&world, "/metrics");
    assert_eq!(page.get("rabbitmq_queue_messages_acked_total"), 9.0);
    assert_eq!(page.get("rabbitmq_queue_messages_bytes"), 0.0, "gauges without objects are there");
}

#[test]
fn per_object() {
    let world = World::new();
    world.broker.change(|s| s.queues[1].name = "a\"b\\c\nd".into());
    let page = scrape(&world, "/metrics/per-object");
    assert_eq!(page.get("rabbitmq_queue_messages_ready{vhost=\"/\",queue=\"orders\"}"), 3.0);
    assert_eq!(page.get("rabbitmq_queue_messages{vhost=\"/\",queue=\"a\\\"b\\\\c\\nd\"}"), 0.0);
    assert_eq!(page.get("rabbitmq_channel_consumers{channel=\"10.0.0.9:4000 -> 10.0.0.1:5672 (1)\"}"), 1.0);
    assert_eq!(
        page.get("rabbitmq_queue_info{vhost=\"team/a\",queue=\"c+d\",queue_type=\"rabbit_quorum_queue\",membership=\"leader\"}"),
        1.0
    );
    assert!(!page.series.contains_key("rabbitmq_queue_messages_ready"), "no sum beside the parts");
}

#[test]
fn detailed() {
    let world = World::new();
    let page = scrape(
        &world,
        "/metrics/detailed?family=queue_coarse_metrics&vhost=%2F&family=queue_consumer_count&family=queue_metrics",
    );
    assert_eq!(page.get("rabbitmq_detailed_queue_messages{vhost=\"/\",queue=\"orders\"}"), 5.0);
    assert_eq!(page.get("rabbitmq_detailed_queue_consumers{vhost=\"/\",queue=\"orders\"}"), 1.0);
    assert!(!page.series.keys().any(|s| s.contains("team/a")), "only the vhost asked for");
    assert!(page.has("rabbitmq_identity_info"));
    assert!(!page.has("rabbitmq_connections"));

    let page = scrape(&world, "/metrics/detailed?family=exchange_bindings&family=vhost_status&family=exchange_names");
    assert_eq!(page.get("rabbitmq_cluster_exchange_bindings{vhost=\"/\",exchange=\"events\",type=\"topic\"}"), 2.0);
    assert_eq!(page.get("rabbitmq_cluster_vhost_status{vhost=\"team/a\"}"), 1.0);
    assert_eq!(page.get("rabbitmq_cluster_exchange_name{vhost=\"/\",exchange=\"events\",type=\"topic\"}"), 1.0);

    assert_eq!(scrape(&world, "/metrics/detailed").series.len(), 2, "nothing but identity unless asked");
}

#[test]
fn other_paths_and_methods() {
    let world = World::new();
    for path in ["/", "/metrics/memory-breakdown", "/metrics/x", "/api/queues"] {
        assert_eq!(world.metrics(path).status, 404, "{path}");
    }
    assert_eq!(super::send(world.handle.metrics_addrs()[0], "POST", "/metrics", "").status, 405);
}

#[test]
fn a_broker_that_is_not_ready_is_scraped_without_its_counters() {
    let world = World::new();
    world.broker.change(|s| s.health = Health::Starting(String::new()));
    let page = scrape(&world, "/metrics");
    assert_eq!(page.get("hornpipe_ready"), 0.0);
    assert!(page.has("rabbitmq_identity_info"));
    assert!(!page.has("rabbitmq_global_messages_received_total"), "an invented zero would look like a restart");
}
