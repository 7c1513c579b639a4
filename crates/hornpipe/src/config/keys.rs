//! The names of all keys. `resolve` asks for each of them exactly once, a test sees to it.

/// All keys, in the order of `config/hornpipe.toml`.
pub(crate) const KEYS: &[&str] = &[
    "data_dir",
    "storage",
    "amqp",
    "http",
    "metrics",
    "node_name",
    "cluster_name",
    "rabbitmq_version",
    "worker_threads",
    "front_look_us",
    "shards",
    "shutdown_timeout_ms",
    "log_level",
    "log_format",
    "default_user",
    "default_pass",
    "default_vhost",
    "default_user_tags",
    "password_hashing",
    "loopback_users",
    "frame_max",
    "frame_max_min",
    "initial_frame_max",
    "channel_max",
    "heartbeat",
    "handshake_timeout_ms",
    "connections",
    "sockets_max",
    "consumers_per_channel",
    "max_message_size",
    "consumer_timeout_ms",
    "delivery_limit",
    "global_qos",
    "transient_nonexcl_queues",
    "tx_operations",
    "tx_bytes",
    "unsent_bytes",
    "resident_bytes",
    "resident_bytes_per_queue",
    "pending_bytes",
    "pending_copies",
    "slice_units",
    "group_messages",
    "settle_delay_ms",
    "log_records_slack",
    "short_runs",
    "log_runs",
    "inline_live_bytes",
    "store_cache_bytes",
    "store_inline_bytes_max",
    "store_body_file_bytes",
    "store_mark_every_ms",
    "store_db_slack_bytes",
    "store_db_min_bytes",
    "store_ballast_bytes",
    "accept_data_loss",
    "memory_watermark",
    "memory_limit",
    "disk_free_limit",
    "alarm_interval_ms",
    "http_path_prefix",
    "http_connections_max",
    "http_body_bytes_max",
    "per_object_metrics",
    "sample_interval_ms",
];

/// Keys of earlier versions, and what is to be done instead.
const GONE: &[(&str, &str)] =
    &[("group_bytes", "it never had an effect; `pending_bytes` bounds what is written at once. Leave it out")];

/// What became of a key that was known once.
pub(crate) fn gone(key: &str) -> Option<&'static str> {
    GONE.iter().find(|(gone, _)| *gone == key).map(|(_, instead)| *instead)
}

/// The known key, or the nearest one.
pub(crate) fn known(key: &str) -> Result<&'static str, &'static str> {
    if let Some(known) = KEYS.iter().find(|known| **known == key) {
        return Ok(known);
    }
    let nearness = |known: &&&'static str| (strsim::jaro_winkler(known, key) * 1e6) as u64;
    Err(KEYS.iter().max_by_key(nearness).copied().unwrap_or("data_dir"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_the_key_that_was_meant() {
        for (typed, meant) in [
            ("hearbeat", "heartbeat"),
            ("datadir", "data_dir"),
            ("log_levle", "log_level"),
            ("max_mesage_size", "max_message_size"),
            ("loopback_user", "loopback_users"),
            ("Heartbeat", "heartbeat"),
        ] {
            assert_eq!(known(typed), Err(meant), "{typed}");
        }
        assert_eq!(known("heartbeat"), Ok("heartbeat"));
    }
}
