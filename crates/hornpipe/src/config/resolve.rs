//! The one place with rules: raw settings in, typed and checked configuration out.

use super::{Config, ConfigError, LogFormat, RawConfig, value};
use hornpipe_admin::AdminConfig;
use hornpipe_server::auth::PasswordHashing;
use hornpipe_server::{AlarmConfig, FirstUser, ServerConfig, Storage};
use hornpipe_store::StoreConfig;
use hornpipe_types::limits::Limits;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toml::Value;

/// The configuration and what each key came to.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// Typed.
    pub(crate) config: Config,
    /// Key and value in the order asked for; no secrets.
    effective: Vec<(&'static str, Value)>,
}

impl Resolved {
    /// As TOML, one key a line.
    pub(crate) fn to_toml(&self) -> String {
        self.effective.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
    }
}

/// Takes settings out of a raw configuration one by one, collecting what is wrong.
struct Resolver<'a> {
    raw: &'a RawConfig,
    effective: Vec<(&'static str, Value)>,
    errors: Vec<ConfigError>,
}

impl Resolver<'_> {
    /// Reads a key; `read` says `None` for a value that isn't allowed, `allowed` says in words what is.
    fn take<T>(&mut self, key: &'static str, default: T, allowed: &str, read: impl Fn(&Value) -> Option<T>) -> T {
        let Some((value, source)) = self.raw.0.get(key) else { return default };
        read(value).unwrap_or_else(|| {
            self.errors.push(ConfigError(format!("{key} = {value} ({source}) is not allowed: must be {allowed}")));
            default
        })
    }

    fn note(&mut self, key: &'static str, value: impl Into<Value>) {
        self.effective.push((key, value.into()));
    }

    fn text(&mut self, key: &'static str, default: &str) -> String {
        let text = self.take(key, default.to_owned(), "text", value::text);
        self.note(key, text.clone());
        text
    }

    /// Text of 1 to 255 octets, as AMQP carries names.
    fn name(&mut self, key: &'static str, default: &str) -> String {
        let name = self.take(key, default.to_owned(), "text of 1 to 255 octets", |v| {
            value::text(v).filter(|text| (1..=255).contains(&text.len()))
        });
        self.note(key, name.clone());
        name
    }

    /// Not noted: may not be shown.
    fn secret(&mut self, key: &'static str, default: &str) -> String {
        self.note(key, "***");
        match self.raw.0.get(key) {
            None => default.to_owned(),
            Some((v, source)) => value::text(v).filter(|text| !text.is_empty()).unwrap_or_else(|| {
                self.errors
                    .push(ConfigError(format!("{key} ({source}) is not allowed: must be text that is not empty")));
                default.to_owned()
            }),
        }
    }

    fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        let yes = self.take(key, default, "true or false", value::boolean);
        self.note(key, yes);
        yes
    }

    fn number<T>(&mut self, key: &'static str, default: T, range: RangeInclusive<T>) -> T
    where
        T: TryFrom<i64> + TryInto<i64> + PartialOrd + Copy + std::fmt::Display,
    {
        let allowed = format!("an integer from {} to {}", range.start(), range.end());
        let read = |v: &Value| value::integer(v).and_then(|n| T::try_from(n).ok()).filter(|n| range.contains(n));
        let number = self.take(key, default, &allowed, read);
        self.note(key, number.try_into().unwrap_or(i64::MAX));
        number
    }

    fn size(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let allowed =
            format!("octets from {} to {}, as an integer or with a unit like 16MiB", range.start(), range.end());
        let read = |v: &Value| value::size(v).and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n));
        let octets = self.take(key, default, &allowed, read);
        self.note(key, i64::try_from(octets).unwrap_or(i64::MAX));
        octets
    }

    fn duration(&mut self, key: &'static str, default: Duration, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.number(key, u64::try_from(default.as_millis()).unwrap_or(u64::MAX), range))
    }

    fn fraction(&mut self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let allowed = format!("a number from {} to {}", range.start(), range.end());
        let number = self.take(key, default, &allowed, |v| value::fraction(v).filter(|n| range.contains(n)));
        self.note(key, number);
        number
    }

    fn list(&mut self, key: &'static str, default: &[String]) -> Vec<String> {
        let list = self.take(key, default.to_vec(), "a list of texts", value::list);
        self.note(key, list.clone());
        list
    }

    fn addresses(&mut self, key: &'static str, default_port: u16) -> Vec<SocketAddr> {
        let default = vec![SocketAddr::from(([0u16; 8], default_port))];
        let allowed = "HOST:PORT, or a list of them; the port from 0 to 65535, 0 picks a free one";
        let read = |v: &Value| value::list(v)?.iter().map(|text| value::address(text)).collect();
        let addresses = self.take(key, default, allowed, read);
        self.note(key, addresses.iter().map(ToString::to_string).collect::<Vec<_>>());
        addresses
    }
}

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;
const TIB: u64 = 1 << 40;

/// Checks everything and makes it typed.
///
/// # Errors
/// All that is wrong.
pub(crate) fn resolve(raw: &RawConfig) -> Result<Resolved, Vec<ConfigError>> {
    let mut r = Resolver { raw, effective: Vec::new(), errors: Vec::new() };
    let data_dir = PathBuf::from(r.name("data_dir", "data"));
    let storage = r.take("storage", Storage::Disk, "disk or memory", |v| match v.as_str()? {
        "disk" => Some(Storage::Disk),
        "memory" => Some(Storage::Memory),
        _ => None,
    });
    r.note("storage", if matches!(storage, Storage::Memory) { "memory" } else { "disk" });
    let amqp = r.addresses("amqp", 5672);
    let http = r.addresses("http", 15672);
    let metrics = r.addresses("metrics", 15692);
    let node_name = match r.text("node_name", "") {
        name if name.is_empty() => format!("hornpipe@{}", host_name()),
        name => name,
    };
    let cluster_name = match r.text("cluster_name", "") {
        name if name.is_empty() => node_name.clone(),
        name => name,
    };
    let rabbitmq_version = r.name("rabbitmq_version", "4.3.0");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let worker_threads = match r.number("worker_threads", 0, 0..=1024u32) {
        0 => cores,
        some => some as usize,
    };
    let front_look = Duration::from_micros(r.number("front_look_us", 100, 0..=10_000u64));
    let shards = r.number("shards", 1, 1..=64u32);
    let shutdown_timeout = r.duration("shutdown_timeout_ms", Duration::from_secs(8), 100..=60 * MINUTE_MS);
    let log_level =
        r.take("log_level", "info".to_owned(), "error, warn, info, debug, trace, off, or directives", |v| {
            value::text(v).filter(|level| !level.is_empty() && crate::logging::filter(level).is_ok())
        });
    r.note("log_level", log_level.clone());
    let log_format = r.take("log_format", LogFormat::Text, "text or json", |v| match v.as_str()? {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    });
    r.note("log_format", if log_format == LogFormat::Json { "json" } else { "text" });

    let first = FirstUser::default();
    let first = FirstUser {
        name: r.name("default_user", &first.name),
        password: r.secret("default_pass", &first.password),
        vhost: r.name("default_vhost", &first.vhost),
        tags: r.list("default_user_tags", &first.tags),
    };
    let password_hashing =
        r.take("password_hashing", PasswordHashing::default(), "sha256 or argon2id", |v| match v.as_str()? {
            "sha256" => Some(PasswordHashing::Sha256),
            "argon2id" => Some(PasswordHashing::Argon2id),
            _ => None,
        });
    r.note("password_hashing", if password_hashing == PasswordHashing::Argon2id { "argon2id" } else { "sha256" });
    let loopback_users = r.list("loopback_users", &["guest".to_owned()]);
    let d = AlarmConfig::default();
    let alarms = AlarmConfig {
        memory_watermark: r.fraction("memory_watermark", d.memory_watermark, 0.0..=1.0),
        memory_limit: r.size("memory_limit", d.memory_limit, 0..=64 * TIB),
        disk_free_limit: r.size("disk_free_limit", d.disk_free_limit, 0..=1 << 60),
        interval_ms: r.number("alarm_interval_ms", d.interval_ms, 10..=MINUTE_MS),
    };
    // a small container needs most of its memory for what it must hold: what is only faster in memory gets a share
    let memory = match alarms.memory_limit {
        0 => hornpipe_server::memory_total(),
        limit => limit,
    };
    let share = |bytes: u64, part: u64| if memory == 0 { bytes } else { bytes.min((memory / part).max(1 << 20)) };
    let d = Limits::default();
    let d = Limits {
        resident_bytes: share(d.resident_bytes, 16),
        pending_bytes: share(d.pending_bytes, 16),
        inline_live_bytes: share(d.inline_live_bytes, 64),
        ..d
    };
    let frame_max = r.number("frame_max", d.frame_max, 4096..=128 << 20);
    let frame_max_min = r.number("frame_max_min", d.frame_max_min, 4096..=128 << 20);
    let initial_frame_max = r.number("initial_frame_max", d.initial_frame_max, 4096..=16 << 20);
    let channel_max = r.number("channel_max", d.channel_max, 1..=u16::MAX);
    let heartbeat = r.number("heartbeat", d.heartbeat, 0..=u16::MAX);
    let handshake_timeout_ms = r.number("handshake_timeout_ms", d.handshake_timeout_ms, 100..=60 * MINUTE_MS);
    let connections = r.number("connections", d.connections, 0..=1 << 32);
    let sockets_max = r.number("sockets_max", 0, 0..=1 << 32);
    let limits = Limits {
        frame_max,
        frame_max_min,
        initial_frame_max,
        channel_max,
        heartbeat,
        handshake_timeout_ms,
        connections,
        consumers_per_channel: r.number("consumers_per_channel", d.consumers_per_channel, 0..=u32::MAX),
        max_message_size: r.size("max_message_size", d.max_message_size, 1..=512 << 20),
        consumer_timeout_ms: r.number("consumer_timeout_ms", d.consumer_timeout_ms, 0..=3650 * DAY_MS),
        delivery_limit: r.number("delivery_limit", d.delivery_limit, -1..=1 << 32),
        global_qos: r.boolean("global_qos", d.global_qos),
        transient_nonexcl_queues: r.boolean("transient_nonexcl_queues", d.transient_nonexcl_queues),
        tx_operations: r.number("tx_operations", d.tx_operations, 1..=1 << 32),
        tx_bytes: r.size("tx_bytes", d.tx_bytes, 1..=TIB),
        unsent_bytes: r.size("unsent_bytes", d.unsent_bytes, 4096..=1 << 30),
        resident_bytes: r.size("resident_bytes", d.resident_bytes, 1 << 20..=64 * TIB),
        resident_bytes_per_queue: r.size("resident_bytes_per_queue", d.resident_bytes_per_queue, 0..=64 * TIB),
        pending_bytes: r.size("pending_bytes", d.pending_bytes, 1 << 20..=TIB),
        pending_copies: r.number("pending_copies", d.pending_copies, 256..=1 << 32),
        slice_units: r.number("slice_units", d.slice_units, 1..=1 << 20),
        group_messages: r.number("group_messages", d.group_messages, 1..=1 << 24),
        settle_delay_ms: r.number("settle_delay_ms", d.settle_delay_ms, 0..=MINUTE_MS),
        log_records_slack: r.number("log_records_slack", d.log_records_slack, 0..=1 << 32),
        short_runs: r.number("short_runs", d.short_runs, 2..=1 << 32),
        log_runs: r.number("log_runs", d.log_runs, 1024..=1 << 32),
        inline_live_bytes: r.size("inline_live_bytes", d.inline_live_bytes, 1 << 20..=TIB),
    };
    if limits.frame_max_min > limits.frame_max {
        let text = format!(
            "frame_max_min = {} is not allowed: must not be above frame_max = {}",
            limits.frame_max_min, limits.frame_max
        );
        r.errors.push(ConfigError(text));
    }
    let d = StoreConfig::default();
    let d = StoreConfig { cache_bytes: share(d.cache_bytes, 32), ..d };
    let inline = d.inline_bytes_max as u64;
    let store = StoreConfig {
        cache_bytes: r.size("store_cache_bytes", d.cache_bytes, 1 << 20..=TIB),
        inline_bytes_max: r.size("store_inline_bytes_max", inline, 1024..=40 << 10) as usize,
        body_file_bytes: r.size("store_body_file_bytes", d.body_file_bytes, 1 << 20..=1 << 30),
        mark_every: r.duration("store_mark_every_ms", d.mark_every, 10..=60 * MINUTE_MS),
        map_slack_bytes: r.size("store_db_slack_bytes", d.map_slack_bytes, 8 << 20..=TIB),
        map_min_bytes: r.size("store_db_min_bytes", d.map_min_bytes, 1 << 20..=TIB),
        accept_data_loss: r.boolean("accept_data_loss", d.accept_data_loss),
        ..d
    };
    let ballast_bytes = r.size("store_ballast_bytes", 64 << 20, 0..=TIB);
    let d = AdminConfig::default();
    let admin = AdminConfig {
        http,
        metrics,
        path_prefix: r.take("http_path_prefix", d.path_prefix.clone(), "empty, or text that begins with /", |v| {
            value::text(v).filter(|p| p.is_empty() || p.starts_with('/')).map(|p| p.trim_end_matches('/').to_owned())
        }),
        connections_max: r.number("http_connections_max", d.connections_max, 1..=1 << 20),
        body_bytes_max: r.size("http_body_bytes_max", d.body_bytes_max, 1024..=1 << 30),
        per_object_metrics: r.boolean("per_object_metrics", d.per_object_metrics),
        sample_interval: r.duration("sample_interval_ms", d.sample_interval, 100..=60 * MINUTE_MS),
    };
    r.note("http_path_prefix", admin.path_prefix.clone());
    if !r.errors.is_empty() {
        return Err(r.errors);
    }
    let server = ServerConfig {
        data_dir,
        storage,
        store,
        shards,
        front_look,
        ballast_bytes,
        amqp,
        limits,
        first,
        password_hashing,
        loopback_users,
        alarms,
        sockets_max,
        node_name,
        cluster_name,
        product_version: env!("CARGO_PKG_VERSION").to_owned(),
        rabbitmq_version,
        on_fatal: None,
    };
    let config = Config { server, admin, log_level, log_format, worker_threads, shutdown_timeout };
    Ok(Resolved { config, effective: r.effective })
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}
