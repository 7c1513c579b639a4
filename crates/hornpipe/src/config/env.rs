//! Environment variables: `HORNPIPE_<KEY>`, and those of RabbitMQ's container image that have a meaning here.

use super::{ConfigError, RawConfig, Source};
use std::collections::BTreeMap;
use toml::Value;

/// RabbitMQ's variables; ours win over them.
const RABBITMQ: &[(&str, &str)] = &[
    ("RABBITMQ_DEFAULT_USER", "default_user"),
    ("RABBITMQ_DEFAULT_PASS", "default_pass"),
    ("RABBITMQ_DEFAULT_VHOST", "default_vhost"),
    ("RABBITMQ_NODENAME", "node_name"),
];
/// Keys whose value may lie in a file (a mounted secret) named by `…_FILE`.
const FROM_FILE: &[&str] = &["default_user", "default_pass", "default_vhost"];
/// Read elsewhere.
const OTHERS: &[&str] = &["HORNPIPE_CONFIG", "HORNPIPE_SNAPSHOT_PASSWORD"];

/// Lays the environment over `raw`.
pub(crate) fn read(
    environment: impl IntoIterator<Item = (String, String)>,
    raw: &mut RawConfig,
    errors: &mut Vec<ConfigError>,
) {
    let all: BTreeMap<String, String> = environment.into_iter().collect();
    for (name, key) in RABBITMQ {
        if let Some(value) = direct_or_file(&all, name, key, errors) {
            put(raw, key, value, name, errors);
        }
    }
    if let Some(port) = all.get("RABBITMQ_NODE_PORT") {
        put(raw, "amqp", format!("[::]:{port}"), "RABBITMQ_NODE_PORT", errors);
    }
    for key in FROM_FILE {
        let name = format!("HORNPIPE_{}", key.to_uppercase());
        if let Some(value) = direct_or_file(&all, &name, key, errors) {
            put(raw, key, value, &name, errors);
        }
    }
    for (name, value) in &all {
        let Some(rest) = name.strip_prefix("HORNPIPE_") else { continue };
        let key = rest.to_lowercase();
        let by_file = key.strip_suffix("_file").is_some_and(|key| FROM_FILE.contains(&key));
        if OTHERS.contains(&name.as_str()) || by_file || FROM_FILE.contains(&key.as_str()) || is_service_link(rest) {
            continue;
        }
        put(raw, &key, value.clone(), name, errors);
    }
}

fn put(raw: &mut RawConfig, key: &str, value: String, name: &str, errors: &mut Vec<ConfigError>) {
    errors.extend(raw.set(key, Value::String(value), Source::Env(name.to_owned())).err());
}

/// The variable, or the contents of the file that `name_FILE` names, without the line end.
fn direct_or_file(
    all: &BTreeMap<String, String>,
    name: &str,
    key: &str,
    errors: &mut Vec<ConfigError>,
) -> Option<String> {
    let by_file = if FROM_FILE.contains(&key) { all.get(&format!("{name}_FILE")) } else { None };
    match (all.get(name), by_file) {
        (Some(_), Some(_)) => {
            errors.push(ConfigError(format!("{name} and {name}_FILE are both set; set one of them")));
            None
        }
        (Some(value), None) => Some(value.clone()),
        (None, Some(path)) => match std::fs::read_to_string(path) {
            Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => {
                errors.push(ConfigError(format!("{name}_FILE = '{path}' can't be read: {error}")));
                None
            }
        },
        (None, None) => None,
    }
}

/// Kubernetes and old container links describe a service named `hornpipe…` in variables of these forms; none is ours.
fn is_service_link(rest: &str) -> bool {
    rest == "PORT"
        || rest.ends_with("_PORT")
        || rest.contains("SERVICE_PORT")
        || rest.contains("SERVICE_HOST")
        || rest.contains("PORT_") && (rest.contains("_TCP") || rest.contains("_UDP"))
}
