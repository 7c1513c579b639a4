//! A broker that is made up: a few of everything, changeable while it runs.

use hornpipe_types::command::OpenConnection;
use hornpipe_types::definition::{
    BindingDefinition, ExchangeDefinition, PermissionDefinition, PolicyDefinition, UserDefinition, VhostDefinition,
};
use hornpipe_types::ids::{ConnectionId, QueueId};
use hornpipe_types::names::ShortStr;
use hornpipe_types::operate::{Operate, Operation, Outcome, SnapshotMade, SnapshotRefused};
use hornpipe_types::stats::{
    ActivityStatus, AdminUser, Answer, BoxFuture, BrokerStats, ChannelStats, ConnectionStats, ConsumerStats,
    ExchangeStats, Health, Inspect, LoginRefused, MessageStats, NodeStats, QueueStats, Request, SIZE_BUCKETS,
};
use hornpipe_types::table::{FieldTable, Value};
use std::sync::Mutex;

pub(crate) struct State {
    pub(crate) health: Health,
    pub(crate) queues: Vec<QueueStats>,
    pub(crate) totals: BrokerStats,
    /// Slices never hold more than this, whatever is asked.
    pub(crate) slice: usize,
    /// What was asked to be changed, and by whom.
    pub(crate) operations: Vec<(String, Operation)>,
    /// What the next changes come to; then all is done.
    pub(crate) outcomes: Vec<Outcome>,
    /// Asking panics.
    pub(crate) panics: bool,
}

pub(crate) struct Fake(Mutex<State>);

impl Fake {
    /// What was asked to be changed since the last time.
    pub(crate) fn operations(&self) -> Vec<(String, Operation)> {
        std::mem::take(&mut self.0.lock().unwrap().operations)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }
}

impl Default for Fake {
    fn default() -> Self {
        let mut orders = queue(1, "/", "orders");
        orders.messages_ready = 3;
        orders.messages_unacknowledged = 2;
        orders.message_bytes_ready = 300;
        orders.durable = true;
        orders.arguments.set("x-max-length", Value::I32(1000));
        orders.consumers = 1;
        orders.consumer_details = vec![consumer()];
        let mut totals = BrokerStats {
            connections: 1,
            channels: 1,
            consumers: 1,
            queues: 4,
            exchanges: 2,
            messages_ready: 3,
            messages_unacknowledged: 2,
            connections_opened: 1,
            size_sum: 1_000_150,
            ..BrokerStats::default()
        };
        totals.size_buckets[0] = 1;
        totals.size_buckets[1] = 2;
        totals.size_buckets[SIZE_BUCKETS.len()] = 4;
        let mut spaced = queue(3, "/", "a b");
        spaced.messages_ready = 11;
        let mut plus = queue(4, "team/a", "c+d");
        plus.kind = "quorum";
        Self(Mutex::new(State {
            health: Health::Ready,
            queues: vec![orders, queue(2, "/", "orders.dead"), spaced, plus],
            totals,
            slice: 2,
            operations: Vec::new(),
            outcomes: Vec::new(),
            panics: false,
        }))
    }
}

pub(crate) fn queue(id: u64, vhost: &str, name: &str) -> QueueStats {
    QueueStats {
        id: QueueId(id),
        vhost: vhost.into(),
        name: name.into(),
        kind: "classic",
        durable: false,
        exclusive: false,
        auto_delete: false,
        arguments: FieldTable::default(),
        owner: None,
        policy: None,
        operator_policy: None,
        effective_policy: FieldTable::default(),
        messages_ready: 0,
        messages_delayed: 0,
        message_bytes_delayed: 0,
        messages_unacknowledged: 0,
        message_bytes_ready: 0,
        message_bytes_unacknowledged: 0,
        messages_persistent: 0,
        messages_dlx: 0,
        message_bytes_persistent: 0,
        messages_ram: 0,
        message_bytes_ram: 0,
        damage: None,
        head_message_timestamp: None,
        consumers: 0,
        consumer_capacity: 0.0,
        exclusive_consumer_tag: None,
        single_active_consumer_tag: None,
        idle_since_ms: Some(1_706_695_200_000),
        message_stats: MessageStats::default(),
        consumer_details: Vec::new(),
        memory: 0,
    }
}

fn consumer() -> ConsumerStats {
    ConsumerStats {
        vhost: "/".into(),
        queue: "orders".into(),
        consumer_tag: "ctag-1".into(),
        connection: ConnectionId(7),
        channel: 1,
        ack_required: true,
        exclusive: false,
        prefetch_count: 10,
        priority: 0,
        status: ActivityStatus::Up,
        arguments: FieldTable::default(),
    }
}

fn connection() -> ConnectionStats {
    let mut client_properties = FieldTable::default();
    client_properties.set("connection_name", Value::long_str("worker"));
    ConnectionStats {
        id: ConnectionId(7),
        open: OpenConnection {
            name: "10.0.0.9:4000 -> 10.0.0.1:5672".into(),
            user: "worker".into(),
            vhost: "/".into(),
            mechanism: "PLAIN",
            client_properties,
            cancel_notify: true,
            blocked_notify: true,
            frame_max: 131_072,
            channel_max: 2047,
            heartbeat: 60,
            peer: ("10.0.0.9".into(), 4000),
            local: ("10.0.0.1".into(), 5672),
            tls: false,
        },
        connected_at_ms: 1_706_695_200_000,
        state: "running",
        channels: vec![ChannelStats {
            number: 1,
            prefetch_count: 10,
            global_prefetch_count: 0,
            consumers: vec![consumer()],
            messages_unacknowledged: 2,
            messages_unconfirmed: 0,
            messages_uncommitted: 0,
            acks_uncommitted: 0,
            confirm: true,
            transactional: false,
            message_stats: MessageStats::default(),
        }],
        recv_oct: 100,
        send_oct: 200,
    }
}

fn exchange(name: &str, kind: &str) -> ExchangeStats {
    ExchangeStats {
        definition: ExchangeDefinition {
            vhost: "/".into(),
            name: name.into(),
            kind: kind.into(),
            durable: true,
            ..ExchangeDefinition::default()
        },
        policy: None,
        publish_in: 5,
        publish_out: 5,
        messages_delayed: None,
    }
}

impl Operate for Fake {
    fn operate(&self, user: &ShortStr, operation: Operation) -> BoxFuture<'_, Result<Outcome, String>> {
        let mut state = self.0.lock().unwrap();
        state.operations.push((user.to_string(), operation));
        let outcome = if state.outcomes.is_empty() { Outcome::Done } else { state.outcomes.remove(0) };
        Box::pin(std::future::ready(Ok(outcome)))
    }

    fn snapshot(&self, folder: &str) -> BoxFuture<'_, Result<SnapshotMade, SnapshotRefused>> {
        let made = match folder {
            "/good" => Ok(SnapshotMade { folder: folder.to_owned(), db_bytes: 1, body_bytes: 2 }),
            "/bad" => Err(SnapshotRefused::Folder("'/bad' is not empty".to_owned())),
            _ => Err(SnapshotRefused::Broker("the disk is full".to_owned())),
        };
        Box::pin(std::future::ready(made))
    }
}

impl Inspect for Fake {
    fn ask(&self, request: Request) -> BoxFuture<'_, Result<Answer, String>> {
        let state = self.0.lock().unwrap();
        if state.panics {
            drop(state);
            panic!("asked for");
        }
        let answer = match request {
            _ if state.health != Health::Ready => Err("recovering".to_owned()),
            Request::Totals => Ok(Answer::Totals(Box::new(state.totals))),
            Request::Sums { .. } => Err("sums are part of the totals".to_owned()),
            Request::Queues { vhost, after, limit } => Ok(Answer::Queues(
                state
                    .queues
                    .iter()
                    .filter(|q| q.id > after && vhost.as_ref().is_none_or(|v| q.vhost == *v))
                    .take(state.slice.min(limit as usize))
                    .cloned()
                    .collect(),
            )),
            Request::Queue { vhost, name } => Ok(Answer::Queue(
                state.queues.iter().find(|q| q.vhost == vhost && q.name == name).cloned().map(Box::new),
            )),
            Request::Connections { after, .. } => {
                Ok(Answer::Connections([connection()].into_iter().filter(|c| c.id > after).collect()))
            }
            Request::Exchanges { vhost } => Ok(Answer::Exchanges(
                [exchange("", "direct"), exchange("events", "topic")]
                    .into_iter()
                    .filter(|x| vhost.as_ref().is_none_or(|v| x.definition.vhost == *v))
                    .collect(),
            )),
            Request::Bindings { vhost } => {
                let mut arguments = FieldTable::default();
                arguments.set("x-match", Value::long_str("all"));
                let plain = BindingDefinition {
                    vhost: "/".into(),
                    source: "events".into(),
                    destination: "orders".into(),
                    destination_is_queue: true,
                    routing_key: "order.#".into(),
                    arguments: FieldTable::default(),
                    ..BindingDefinition::default()
                };
                let with_arguments = BindingDefinition { routing_key: "".into(), arguments, ..plain.clone() };
                Ok(Answer::Bindings(
                    [plain, with_arguments]
                        .into_iter()
                        .filter(|b| vhost.as_ref().is_none_or(|v| b.vhost == *v))
                        .collect(),
                ))
            }
            Request::Vhosts => Ok(Answer::Vhosts(
                ["team/a", "/"].map(|name| VhostDefinition { name: name.into(), ..VhostDefinition::default() }).into(),
            )),
            Request::Users => Ok(Answer::Users(
                ["admin", "worker"]
                    .map(|name| UserDefinition { name: name.into(), ..UserDefinition::default() })
                    .into(),
            )),
            Request::Permissions => Ok(Answer::Permissions(vec![PermissionDefinition {
                user: "worker".into(),
                vhost: "/".into(),
                configure: ".*".into(),
                write: ".*".into(),
                read: ".*".into(),
            }])),
            Request::TopicPermissions => Ok(Answer::TopicPermissions(Vec::new())),
            Request::Parameters => Ok(Answer::Parameters(Vec::new())),
            Request::Policies => Ok(Answer::Policies(vec![PolicyDefinition {
                vhost: "/".into(),
                name: "ttl".into(),
                pattern: "^o".into(),
                apply_to: "queues".into(),
                priority: 1,
                ..PolicyDefinition::default()
            }])),
        };
        Box::pin(std::future::ready(answer))
    }

    fn node(&self) -> NodeStats {
        NodeStats {
            node_name: "hornpipe@test".into(),
            cluster_name: "test".into(),
            product: "hornpipe".into(),
            product_version: "0.1.0".into(),
            rabbitmq_version: "4.1.0".into(),
            uptime_ms: 1500,
            listeners: vec![("amqp".into(), "127.0.0.1".into(), 5672, false)],
            auth_attempts_succeeded: 3,
            auth_attempts_failed: 1,
            ..NodeStats::default()
        }
    }

    fn health(&self) -> Health {
        self.0.lock().unwrap().health.clone()
    }

    fn login(&self, user: &str, password: &str, loopback: bool) -> BoxFuture<'_, Result<AdminUser, LoginRefused>> {
        assert!(loopback, "tests come from loopback");
        let tags: &[&str] = match (user, password) {
            ("admin", "secret") => &["administrator"],
            ("worker", "secret") => &["management"],
            ("monitor", "secret") => &["monitoring"],
            ("nobody", "secret") => &[],
            ("remote", "secret") => return Box::pin(std::future::ready(Err(LoginRefused::NotLoopback))),
            _ => return Box::pin(std::future::ready(Err(LoginRefused::Credentials))),
        };
        let user = AdminUser { name: user.into(), tags: tags.iter().map(|t| (*t).to_owned()).collect() };
        Box::pin(std::future::ready(Ok(user)))
    }
}
