//! The metrics listener: RabbitMQ's names and labels [RabbitMQ "Monitoring with Prometheus and Grafana"], so that its dashboards
//! and alert rules work; what it has no name for is `hornpipe_…`. The list with meanings is in `docs/metrics.md`.

use crate::connections::channel_name;
use crate::families::{Families, Labels};
use crate::http::{Reply, Request};
use crate::{App, encode, snapshot};
use hornpipe_types::stats::{
    BrokerStats, ChannelStats, ConnectionStats, ExchangeStats, Health, MessageStats, NodeStats, QueueStats,
    SIZE_BUCKETS, ShardTurns, TURN_BOUNDS_US, TurnTimes,
};
use std::collections::BTreeMap;

/// Answers a request.
pub(crate) async fn answer(app: &App, request: &Request) -> Reply {
    let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    let endpoint = match path.as_slice() {
        ["metrics"] if app.config.per_object_metrics => Endpoint::PerObject,
        ["metrics"] => Endpoint::Aggregated,
        ["metrics", "per-object"] => Endpoint::PerObject,
        ["metrics", "detailed"] => Endpoint::Detailed,
        _ => return Reply::not_found(),
    };
    if !request.is_read() {
        return Reply::method_not_allowed(&request.method);
    }
    let mut families = Families::new("rabbitmq_");
    let node = app.broker.node();
    identity(&mut families, &node, endpoint);
    let filled = match endpoint {
        Endpoint::Aggregated => aggregated(app, &mut families, &node).await,
        Endpoint::PerObject => per_object(app, &mut families, &node).await,
        Endpoint::Detailed => {
            let asked: Vec<&str> = request.query.all("family").collect();
            let vhosts: Vec<&str> = request.query.all("vhost").collect();
            detailed(app, &mut families, &node, &asked, &vhosts).await
        }
    };
    // While the broker does not answer, what the process knows is still worth a scrape; counters are left out rather than zero.
    if filled.is_err() {
        tracing::debug!("metrics without the broker's part");
    }
    Reply::text(encode::CONTENT_TYPE, encode::text(&families.take()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Aggregated,
    PerObject,
    Detailed,
}

const PROTOCOL: &str = "amqp091";
const CLASSIC: &str = "rabbit_classic_queue";
const QUORUM: &str = "rabbit_quorum_queue";

fn number(value: u64) -> f64 {
    value as f64
}

fn bare(value: u64) -> [(Labels, f64); 1] {
    [(Vec::new(), number(value))]
}

fn identity(f: &mut Families, node: &NodeStats, endpoint: Endpoint) {
    let page = match endpoint {
        Endpoint::Aggregated => "aggregated",
        Endpoint::PerObject => "per-object",
        Endpoint::Detailed => "detailed",
    };
    let build = vec![
        ("rabbitmq_version", node.rabbitmq_version.clone()),
        ("prometheus_plugin_version", node.rabbitmq_version.clone()),
        ("prometheus_client_version", "none".to_owned()),
        ("erlang_version", "none".to_owned()),
        ("product_name", node.product.clone()),
        ("product_version", node.product_version.clone()),
    ];
    f.untyped("build_info", "Versions of the broker and of the RabbitMQ it behaves like.", [(build, 1.0)]);
    let own = vec![
        ("rabbitmq_node", node.node_name.clone()),
        ("rabbitmq_cluster", node.cluster_name.clone()),
        ("rabbitmq_cluster_permanent_id", node.cluster_name.clone()),
        ("rabbitmq_endpoint", page.to_owned()),
    ];
    f.untyped("identity_info", "Node and cluster; dashboards join on it.", [(own, 1.0)]);
}

async fn aggregated(app: &App, f: &mut Families, node: &NodeStats) -> Result<(), Reply> {
    node_metrics(f, node);
    own_node(app, f, node);
    let totals = snapshot::totals(app).await?;
    let queues = snapshot::queues(app, None).await?;
    let connections = snapshot::connections(app).await?;
    broker_metrics(f, node, &totals);
    queue_sums(f, &totals, &queues);
    channel_sums(f, &totals, &connections);
    Ok(())
}

async fn per_object(app: &App, f: &mut Families, node: &NodeStats) -> Result<(), Reply> {
    node_metrics(f, node);
    own_node(app, f, node);
    let totals = snapshot::totals(app).await?;
    let queues = snapshot::queues(app, None).await?;
    let connections = snapshot::connections(app).await?;
    let exchanges = snapshot::exchanges(app, None).await?;
    broker_metrics(f, node, &totals);
    queue_info(f, &queues);
    queue_coarse(f, &queues);
    queue_metrics(f, &queues);
    queue_damage(f, &queues);
    queue_delivery(f, &queues);
    channel_metrics(f, &connections);
    connection_metrics(f, &connections);
    exchange_metrics(f, &exchanges);
    Ok(())
}

async fn detailed(app: &App, f: &mut Families, node: &NodeStats, asked: &[&str], vhosts: &[&str]) -> Result<(), Reply> {
    f.prefix("rabbitmq_detailed_");
    let wants = |names: &[&str]| names.iter().any(|name| asked.contains(name));
    let kept = |vhost: &str| vhosts.is_empty() || vhosts.contains(&vhost);
    if wants(&["node_coarse_metrics", "node_metrics"]) {
        node_metrics(f, node);
    }
    if wants(&["auth_attempt_metrics"]) {
        auth(f, node);
    }
    if wants(&["connection_churn_metrics"]) {
        churn(f, &*snapshot::totals(app).await?);
    }
    let queue_families = ["queue_coarse_metrics", "queue_consumer_count", "queue_metrics", "queue_delivery_metrics"];
    if wants(&queue_families) {
        let mut queues = snapshot::queues(app, None).await?;
        queues.retain(|q| kept(&q.vhost));
        queue_info(f, &queues);
        if wants(&["queue_coarse_metrics"]) {
            queue_coarse(f, &queues);
        }
        if wants(&["queue_consumer_count"]) {
            queue_consumers(f, &queues);
        }
        if wants(&["queue_metrics"]) {
            queue_metrics(f, &queues);
        }
        if wants(&["queue_delivery_metrics"]) {
            queue_delivery(f, &queues);
        }
    }
    if wants(&["channel_metrics", "connection_coarse_metrics", "connection_metrics"]) {
        let mut connections = snapshot::connections(app).await?;
        connections.retain(|c| kept(&c.open.vhost));
        if wants(&["channel_metrics"]) {
            channel_metrics(f, &connections);
        }
        if wants(&["connection_coarse_metrics"]) {
            connection_bytes(f, &connections);
        }
        if wants(&["connection_metrics"]) {
            connection_channels(f, &connections);
        }
    }
    if wants(&["exchange_metrics", "exchange_names"]) {
        let mut exchanges = snapshot::exchanges(app, None).await?;
        exchanges.retain(|x| kept(&x.definition.vhost));
        if wants(&["exchange_metrics"]) {
            exchange_metrics(f, &exchanges);
        }
        if wants(&["exchange_names"]) {
            f.prefix("rabbitmq_cluster_");
            let names = exchanges.iter().map(|x| (exchange_labels(x), 1.0));
            f.gauge("exchange_name", "Exchanges there are.", names);
        }
    }
    f.prefix("rabbitmq_cluster_");
    if wants(&["exchange_bindings"]) {
        exchange_bindings(app, f, &kept).await?;
    }
    if wants(&["vhost_status"]) {
        let all = snapshot::vhosts(app).await?;
        let names = all.iter().filter(|v| kept(&v.name)).map(|v| (vec![("vhost", v.name.to_string())], 1.0));
        f.gauge("vhost_status", "Whether a vhost is running.", names);
    }
    Ok(())
}

fn exchange_labels(x: &ExchangeStats) -> Labels {
    vec![
        ("vhost", x.definition.vhost.to_string()),
        ("exchange", x.definition.name.to_string()),
        ("type", x.definition.kind.to_string()),
    ]
}

async fn exchange_bindings(app: &App, f: &mut Families, kept: &(dyn Fn(&str) -> bool + Sync)) -> Result<(), Reply> {
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    for binding in snapshot::bindings(app, None).await? {
        *counts.entry((binding.vhost.to_string(), binding.source.to_string())).or_default() += 1;
    }
    let exchanges = snapshot::exchanges(app, None).await?;
    let series = exchanges.iter().filter(|x| kept(&x.definition.vhost)).map(|x| {
        let key = (x.definition.vhost.to_string(), x.definition.name.to_string());
        (exchange_labels(x), number(counts.get(&key).copied().unwrap_or(0)))
    });
    f.gauge("exchange_bindings", "Bindings an exchange is the source of.", series);
    Ok(())
}

fn node_metrics(f: &mut Families, node: &NodeStats) {
    f.gauge("process_open_fds", "Open file descriptors.", bare(node.fd_used));
    f.gauge("process_max_fds", "Open file descriptors limit.", bare(node.fd_total));
    f.gauge("process_open_tcp_sockets", "Open TCP sockets.", bare(node.sockets_used));
    f.gauge("process_resident_memory_bytes", "Memory used in bytes.", bare(node.mem_used));
    f.gauge("resident_memory_limit_bytes", "Memory high watermark in bytes.", bare(node.mem_limit));
    f.gauge("disk_space_available_bytes", "Disk space available in bytes.", bare(node.disk_free));
    f.gauge("disk_space_available_limit_bytes", "Free disk space low watermark in bytes.", bare(node.disk_free_limit));
    let uptime = [(Vec::new(), number(node.uptime_ms) / 1000.0)];
    f.gauge("erlang_uptime_seconds", "Time since the broker started (the name is RabbitMQ's).", uptime);
}

/// What RabbitMQ has no name for and the broker needn't be asked for.
fn own_node(app: &App, f: &mut Families, node: &NodeStats) {
    f.prefix("hornpipe_");
    let ready = u64::from(app.broker.health() == Health::Ready);
    f.gauge("ready", "Whether clients are served.", bare(ready));
    f.gauge("store_db_bytes", "Size of the log's database on disk.", bare(node.store_db_bytes));
    let looked = [(Vec::new(), number(node.front_looked_us) / 1e6)];
    f.counter("front_looked_seconds_total", "Time the front looked for more from clients that log in.", looked);
    let live = node.store_db_live_bytes;
    f.gauge("store_db_live_bytes", "Contents of the log's database; the rest of its size is reserved.", bare(live));
    f.counter(
        "store_db_renewals_total",
        "Times the log's database was copied to a fresh one.",
        bare(node.store_db_renewals),
    );
    f.gauge("store_ballast_bytes", "Octets kept back for opening on a full disk.", bare(node.store_ballast_bytes));
    f.gauge("store_body_bytes", "Size of the body files on disk.", bare(node.store_body_bytes));
    owner_turns(f, &node.turns);
    f.prefix("rabbitmq_");
}

/// How long the owners' turns take, of all together and, when there are several, of each: whoever waits, waits for one.
fn owner_turns(f: &mut Families, turns: &[ShardTurns]) {
    let mut all = ShardTurns::default();
    for of in turns {
        all.wall.add(&of.wall);
        all.cpu.add(&of.cpu);
    }
    let unlabelled = [(Vec::new(), all)];
    turn_times(f, "owner", "Turns of the owners of all queues", &unlabelled);
    if turns.len() > 1 {
        let label = |number: usize| vec![("shard", number.to_string())];
        let each: Vec<_> = turns.iter().enumerate().map(|(number, of)| (label(number), *of)).collect();
        turn_times(f, "shard", "Turns of each shard's owner", &each);
    }
}

fn turn_times(f: &mut Families, whose: &str, help: &str, series: &[(Labels, ShardTurns)]) {
    let bounds = TURN_BOUNDS_US.map(|us| us as f64 / 1e6);
    let wall: fn(&ShardTurns) -> &TurnTimes = |of| &of.wall;
    let cpu: fn(&ShardTurns) -> &TurnTimes = |of| &of.cpu;
    let waited = format!("{help}: whatever a client asks for waits at most for one under way.");
    let worked = format!("{help} by processor time: what the machine did otherwise is left out.");
    for (kind, help, times) in [("", waited, wall), ("cpu_", worked, cpu)] {
        let sums = series.iter().map(|(labels, of)| {
            let times = times(of);
            (labels.clone(), times.counts.as_slice(), number(times.sum_us) / 1e6)
        });
        f.histogram(&format!("{whose}_turn_{kind}seconds"), &help, &bounds, sums);
        let max = series.iter().map(|(labels, of)| (labels.clone(), number(times(of).max_us) / 1e6));
        f.gauge(&format!("{whose}_turn_{kind}max_seconds"), "The longest of them since start.", max);
    }
}

fn auth(f: &mut Families, node: &NodeStats) {
    let labelled = |value| [(vec![("protocol", PROTOCOL.to_owned())], number(value))];
    let (good, bad) = (node.auth_attempts_succeeded, node.auth_attempts_failed);
    f.counter("auth_attempts_total", "Logins tried.", labelled(good + bad));
    f.counter("auth_attempts_succeeded_total", "Logins that succeeded.", labelled(good));
    f.counter("auth_attempts_failed_total", "Logins that failed.", labelled(bad));
}

fn churn(f: &mut Families, t: &BrokerStats) {
    f.counter("connections_opened_total", "Connections opened.", bare(t.connections_opened));
    f.counter("connections_closed_total", "Connections closed or lost.", bare(t.connections_closed));
    f.counter("channels_opened_total", "Channels opened.", bare(t.channels_opened));
    f.counter("channels_closed_total", "Channels closed.", bare(t.channels_closed));
    f.counter("queues_declared_total", "Queues declared, existing ones too.", bare(t.queues_declared));
    f.counter("queues_created_total", "Queues created.", bare(t.queues_created));
    f.counter("queues_deleted_total", "Queues deleted.", bare(t.queues_deleted));
}

/// What the aggregated and the per-object page have in common.
fn broker_metrics(f: &mut Families, node: &NodeStats, t: &BrokerStats) {
    f.gauge("connections", "Connections currently open.", bare(t.connections));
    f.gauge("channels", "Channels currently open.", bare(t.channels));
    f.gauge("consumers", "Consumers currently connected.", bare(t.consumers));
    f.gauge("queues", "Queues there are.", bare(t.queues));
    churn(f, t);
    auth(f, node);
    global(f, t);
    let alarm = |on: bool| bare(u64::from(on));
    f.gauge("alarms_memory_used_watermark", "Is 1 while the memory alarm is on.", alarm(t.memory_alarm));
    f.gauge("alarms_free_disk_space_watermark", "Is 1 while the disk alarm is on.", alarm(t.disk_alarm));
    f.gauge("unreachable_cluster_peers_count", "Peers of the cluster that can't be reached: there are none.", bare(0));
    f.prefix("hornpipe_");
    f.gauge("resident_body_bytes", "Message bodies held in memory.", bare(t.resident_bytes));
    f.gauge("batch_bytes", "Memory of the reads that message bodies came in.", bare(t.batch_bytes));
    f.gauge("pending_ops", "Operations waiting for the store.", bare(t.pending_ops));
    f.gauge("pending_bytes", "Octets waiting for the store.", bare(t.pending_bytes));
    f.gauge("log_runs", "Runs of messages in the log.", bare(t.log_runs));
    f.gauge("work_items", "Works on long queues that go on in slices.", bare(t.work_items));
    f.counter("groups_committed_total", "Groups of operations made durable.", bare(t.groups_committed));
    f.gauge("damaged_queues", "Queues with messages that can't be read back.", bare(t.damaged_queues));
    f.gauge("unreadable_messages", "Messages that can't be read back.", bare(t.unreadable_messages));
    f.prefix("rabbitmq_");
}

fn global(f: &mut Families, t: &BrokerStats) {
    let s = &t.message_stats;
    let protocol = || vec![("protocol", PROTOCOL.to_owned())];
    let queue = || vec![("protocol", PROTOCOL.to_owned()), ("queue_type", CLASSIC.to_owned())];
    let by_protocol = [
        ("received", "Messages received from publishers.", s.publish),
        ("received_confirm", "Messages received from publishers that use confirms.", s.publish_confirm_mode),
        ("routed", "Messages routed to a queue.", s.routed),
        ("unroutable_dropped", "Messages dropped because no queue took them.", s.drop_unroutable),
        ("unroutable_returned", "Messages returned because no queue took them.", s.return_unroutable),
        ("confirmed", "Messages confirmed to publishers.", s.confirm),
    ];
    for (name, help, value) in by_protocol {
        f.counter(&format!("global_messages_{name}_total"), help, [(protocol(), number(value))]);
    }
    f.gauge("global_publishers", "Channels that have published.", [(protocol(), number(t.publishers))]);
    f.gauge("global_consumers", "Consumers.", [(protocol(), number(t.consumers))]);
    let by_queue = [
        ("delivered", "Messages handed to clients in any way.", s.deliver_get()),
        ("delivered_consume_manual_ack", "Messages sent to consumers that acknowledge.", s.deliver),
        ("delivered_consume_auto_ack", "Messages sent to consumers that don't.", s.deliver_no_ack),
        ("delivered_get_manual_ack", "Messages fetched, to be acknowledged.", s.get),
        ("delivered_get_auto_ack", "Messages fetched without acknowledgement.", s.get_no_ack),
        ("get_empty", "Fetches that found nothing.", s.get_empty),
        ("redelivered", "Messages delivered again.", s.redeliver),
        ("acknowledged", "Messages acknowledged.", s.ack),
    ];
    for (name, help, value) in by_queue {
        f.counter(&format!("global_messages_{name}_total"), help, [(queue(), number(value))]);
    }
    let dead = [
        ("expired", "Messages dead-lettered because their time was over.", CLASSIC, s.dead_lettered_expired),
        ("rejected", "Messages dead-lettered because they were rejected.", CLASSIC, s.dead_lettered_rejected),
        ("maxlen", "Messages dead-lettered because the queue was full.", CLASSIC, s.dead_lettered_maxlen),
        (
            "delivery_limit",
            "Messages dead-lettered because they were delivered too often.",
            QUORUM,
            s.dead_lettered_delivery_limit,
        ),
    ];
    for (name, help, kind, value) in dead {
        let labels = vec![("queue_type", kind.to_owned()), ("dead_letter_strategy", "at_most_once".to_owned())];
        f.counter(&format!("global_messages_dead_lettered_{name}_total"), help, [(labels, number(value))]);
    }
    let bounds = SIZE_BUCKETS.map(|octets| octets as f64);
    let sizes = [(protocol(), &t.size_buckets[..], number(t.size_sum))];
    f.histogram("message_size_bytes", "Sizes of published bodies.", &bounds, sizes);
}

/// How to read a number of a queue.
type QueueNumber = fn(&QueueStats) -> u64;

const QUEUE_COARSE: [(&str, &str, QueueNumber); 3] = [
    ("queue_messages_ready", "Messages ready to be delivered.", |q| q.messages_ready),
    ("queue_messages_unacked", "Messages delivered but not yet acknowledged.", |q| q.messages_unacknowledged),
    ("queue_messages", "Ready and unacknowledged messages.", |q| q.messages_ready + q.messages_unacknowledged),
];

const QUEUE_GAUGES: [(&str, &str, QueueNumber); 9] = [
    ("queue_consumers", "Consumers on a queue.", |q| q.consumers.into()),
    ("queue_process_memory_bytes", "Memory of a queue's index and buffers.", |q| q.memory),
    ("queue_messages_ram", "Messages whose bodies are in memory.", |q| q.messages_ram),
    ("queue_messages_ram_bytes", "Octets of bodies in memory.", |q| q.message_bytes_ram),
    ("queue_messages_persistent", "Messages in the log.", |q| q.messages_persistent),
    ("queue_messages_persistent_bytes", "Octets of bodies in the log.", |q| q.message_bytes_persistent),
    ("queue_messages_bytes", "Octets of all bodies.", |q| q.message_bytes_ready + q.message_bytes_unacknowledged),
    ("queue_messages_ready_bytes", "Octets of ready bodies.", |q| q.message_bytes_ready),
    ("queue_messages_unacked_bytes", "Octets of unacknowledged bodies.", |q| q.message_bytes_unacknowledged),
];

/// How to read a count.
type Count = fn(&MessageStats) -> u64;

/// After `queue_`: what consumers did.
const DELIVERY: [(&str, &str, Count); 7] = [
    ("get_ack_total", "Messages fetched, to be acknowledged.", |s| s.get),
    ("get_total", "Messages fetched without acknowledgement.", |s| s.get_no_ack),
    ("messages_delivered_ack_total", "Messages sent to consumers that acknowledge.", |s| s.deliver),
    ("messages_delivered_total", "Messages sent to consumers that don't.", |s| s.deliver_no_ack),
    ("messages_redelivered_total", "Messages delivered again.", |s| s.redeliver),
    ("messages_acked_total", "Messages acknowledged.", |s| s.ack),
    ("get_empty_total", "Fetches that found nothing.", |s| s.get_empty),
];

fn queue_sums(f: &mut Families, t: &BrokerStats, queues: &[QueueStats]) {
    f.gauge(QUEUE_COARSE[0].0, QUEUE_COARSE[0].1, bare(t.messages_ready));
    f.gauge(QUEUE_COARSE[1].0, QUEUE_COARSE[1].1, bare(t.messages_unacknowledged));
    f.gauge(QUEUE_COARSE[2].0, QUEUE_COARSE[2].1, bare(t.messages_ready + t.messages_unacknowledged));
    for (name, help, of) in QUEUE_GAUGES {
        f.gauge(name, help, bare(queues.iter().map(of).sum()));
    }
    // From the totals, not the queues: a sum over the queues there are would fall with every queue that goes.
    for (name, help, of) in DELIVERY {
        f.counter(&format!("queue_{name}"), help, bare(of(&t.message_stats)));
    }
}

fn queue_labels(q: &QueueStats) -> Labels {
    vec![("vhost", q.vhost.to_string()), ("queue", q.name.to_string())]
}

fn queue_info(f: &mut Families, queues: &[QueueStats]) {
    let series = queues.iter().map(|q| {
        let kind = match q.kind {
            "classic" => CLASSIC,
            "quorum" => QUORUM,
            "stream" => "rabbit_stream_queue",
            other => other,
        };
        let mut labels = queue_labels(q);
        labels.extend([("queue_type", kind.to_owned()), ("membership", "leader".to_owned())]);
        (labels, 1.0)
    });
    f.gauge("queue_info", "Queues there are, with their type.", series);
}

fn queue_coarse(f: &mut Families, queues: &[QueueStats]) {
    for (name, help, of) in QUEUE_COARSE {
        f.gauge(name, help, queues.iter().map(|q| (queue_labels(q), number(of(q)))));
    }
}

fn queue_consumers(f: &mut Families, queues: &[QueueStats]) {
    let (name, help, of) = QUEUE_GAUGES[0];
    f.gauge(name, help, queues.iter().map(|q| (queue_labels(q), number(of(q)))));
}

fn queue_metrics(f: &mut Families, queues: &[QueueStats]) {
    for (name, help, of) in QUEUE_GAUGES {
        f.gauge(name, help, queues.iter().map(|q| (queue_labels(q), number(of(q)))));
    }
    for name in ["queue_consumer_capacity", "queue_consumer_utilisation"] {
        let series = queues.iter().map(|q| (queue_labels(q), q.consumer_capacity));
        f.gauge(name, "Share of time a queue could deliver at once, 0 to 1.", series);
    }
    let heads = queues.iter().filter_map(|q| Some((queue_labels(q), number(q.head_message_timestamp?))));
    f.gauge("queue_head_message_timestamp", "Publisher's timestamp of the first message.", heads);
}

/// Of damaged queues alone.
fn queue_damage(f: &mut Families, queues: &[QueueStats]) {
    let hurt = queues.iter().filter_map(|q| Some((queue_labels(q), number(q.damage.as_ref()?.messages))));
    f.prefix("hornpipe_");
    f.gauge("queue_unreadable_messages", "Messages of a queue that can't be read back.", hurt);
    f.prefix("rabbitmq_");
}

fn queue_delivery(f: &mut Families, queues: &[QueueStats]) {
    for (name, help, of) in DELIVERY {
        let series = queues.iter().map(|q| (queue_labels(q), number(of(&q.message_stats))));
        f.counter(&format!("queue_{name}"), help, series);
    }
}

/// How to read a number of a channel.
type ChannelNumber = fn(&ChannelStats) -> u64;

const CHANNEL_GAUGES: [(&str, &str, ChannelNumber); 7] = [
    ("channel_consumers", "Consumers on a channel.", |c| c.consumers.len() as u64),
    ("channel_messages_unacked", "Delivered but not yet acknowledged.", |c| c.messages_unacknowledged),
    ("channel_messages_unconfirmed", "Published but not yet confirmed.", |c| c.messages_unconfirmed),
    ("channel_messages_uncommitted", "Published in an open transaction.", |c| c.messages_uncommitted),
    ("channel_acks_uncommitted", "Acknowledged in an open transaction.", |c| c.acks_uncommitted),
    ("consumer_prefetch", "Prefetch limit of new consumers.", |c| c.prefetch_count.into()),
    ("channel_prefetch", "Prefetch limit of the channel as a whole.", |c| c.global_prefetch_count.into()),
];

/// After `channel_`: what publishers did.
const PUBLISHING: [(&str, &str, Count); 4] = [
    ("messages_published_total", "Messages published.", |s| s.publish),
    ("messages_confirmed_total", "Messages confirmed.", |s| s.confirm),
    ("messages_unroutable_returned_total", "Messages returned as unroutable.", |s| s.return_unroutable),
    ("messages_unroutable_dropped_total", "Messages dropped as unroutable.", |s| s.drop_unroutable),
];

fn channels(connections: &[ConnectionStats]) -> impl Iterator<Item = (Labels, &ChannelStats)> {
    connections
        .iter()
        .flat_map(|c| c.channels.iter().map(|ch| (vec![("channel", channel_name(&c.open.name, ch.number))], ch)))
}

fn channel_sums(f: &mut Families, t: &BrokerStats, connections: &[ConnectionStats]) {
    for (name, help, of) in CHANNEL_GAUGES {
        f.gauge(name, help, bare(connections.iter().flat_map(|c| &c.channels).map(of).sum()));
    }
    // From the totals, for the same reason as in `queue_sums`.
    for (name, help, of) in PUBLISHING.iter().chain(&DELIVERY) {
        f.counter(&format!("channel_{name}"), help, bare(of(&t.message_stats)));
    }
}

fn channel_metrics(f: &mut Families, connections: &[ConnectionStats]) {
    for (name, help, of) in CHANNEL_GAUGES {
        f.gauge(name, help, channels(connections).map(|(labels, ch)| (labels, number(of(ch)))));
    }
}

fn connection_metrics(f: &mut Families, connections: &[ConnectionStats]) {
    connection_bytes(f, connections);
    connection_channels(f, connections);
}

/// RabbitMQ labels connections with an Erlang pid under the name `channel`; here it is the connection's name.
fn connection_labels(c: &ConnectionStats) -> Labels {
    vec![("channel", c.open.name.clone())]
}

fn connection_bytes(f: &mut Families, connections: &[ConnectionStats]) {
    let series = connections.iter().map(|c| (connection_labels(c), number(c.recv_oct)));
    f.counter("connection_incoming_bytes_total", "Octets received on a connection.", series);
    let series = connections.iter().map(|c| (connection_labels(c), number(c.send_oct)));
    f.counter("connection_outgoing_bytes_total", "Octets sent on a connection.", series);
}

fn connection_channels(f: &mut Families, connections: &[ConnectionStats]) {
    let series = connections.iter().map(|c| (connection_labels(c), c.channels.len() as f64));
    f.gauge("connection_channels", "Channels on a connection.", series);
}

fn exchange_metrics(f: &mut Families, exchanges: &[ExchangeStats]) {
    let series = exchanges.iter().map(|x| {
        let labels = vec![("vhost", x.definition.vhost.to_string()), ("exchange", x.definition.name.to_string())];
        (labels, number(x.publish_in))
    });
    f.counter("exchange_messages_published_total", "Messages published to an exchange.", series);
}
