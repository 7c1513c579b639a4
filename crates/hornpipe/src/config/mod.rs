//! Configuration: flags, environment and file are laid over each other as they are ([`RawConfig`]), then `resolve` makes
//! typed, checked values of them in one place. Nothing later reads any of the sources.

mod env;
mod file;
mod keys;
mod resolve;
mod value;

pub(crate) use resolve::Resolved;

use crate::cli::Settings;
use hornpipe_admin::AdminConfig;
use hornpipe_server::ServerConfig;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use toml::Value;

/// Where a setting came from, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A flag.
    Flag,
    /// An environment variable.
    Env(String),
    /// The configuration file.
    File(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => f.write_str(path),
        }
    }
}

/// Something wrong with the configuration, in a sentence that says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigError(pub(crate) String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Settings as written, by known key; what is laid on later wins.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawConfig(BTreeMap<&'static str, (Value, Source)>);

impl RawConfig {
    /// Lays a setting over what is there.
    ///
    /// # Errors
    /// For an unknown key; names the nearest known one, or says what became of it.
    pub(crate) fn set(&mut self, key: &str, value: Value, source: Source) -> Result<(), ConfigError> {
        let known = keys::known(key).map_err(|nearest| {
            ConfigError(match keys::gone(key) {
                Some(instead) => format!("the key '{key}' ({source}) is no more: {instead}"),
                None => format!("unknown key '{key}' ({source}); did you mean '{nearest}'?"),
            })
        })?;
        self.0.insert(known, (value, source));
        Ok(())
    }
}

/// `text` or `json` log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Everything the process is configured with.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The broker.
    pub(crate) server: ServerConfig,
    /// The admin side.
    pub(crate) admin: AdminConfig,
    /// Level or directives.
    pub(crate) log_level: String,
    /// Form of log lines.
    pub(crate) log_format: LogFormat,
    /// Threads of the runtime.
    pub(crate) worker_threads: usize,
    /// The whole stop must end within this.
    pub(crate) shutdown_timeout: Duration,
}

/// Reads all sources: file, then environment, then flags on top.
///
/// # Errors
/// All that is wrong, each in a line.
pub(crate) fn load(
    settings: &Settings,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Resolved, Vec<ConfigError>> {
    let mut raw = RawConfig::default();
    let mut errors = Vec::new();
    if let Some(path) = &settings.config {
        file::read(path, &mut raw, &mut errors);
    }
    env::read(environment, &mut raw, &mut errors);
    flags(settings, &mut raw, &mut errors);
    let resolved = resolve::resolve(&raw);
    match resolved {
        Ok(resolved) if errors.is_empty() => Ok(resolved),
        Ok(_) => Err(errors),
        Err(more) => {
            errors.extend(more);
            Err(errors)
        }
    }
}

fn flags(settings: &Settings, raw: &mut RawConfig, errors: &mut Vec<ConfigError>) {
    let mut put = |key: &str, value: Value| errors.extend(raw.set(key, value, Source::Flag).err());
    for pair in &settings.set {
        match pair.split_once('=') {
            Some((key, value)) => put(key.trim(), Value::String(value.trim().to_owned())),
            None => put(pair, Value::String(String::new())),
        }
    }
    for (key, value) in
        [("data_dir", &settings.data_dir), ("log_level", &settings.log_level), ("log_format", &settings.log_format)]
    {
        if let Some(value) = value {
            put(key, Value::String(value.clone()));
        }
    }
    if settings.accept_data_loss {
        put("accept_data_loss", Value::Boolean(true));
    }
    for (key, list) in [("amqp", &settings.amqp), ("http", &settings.http), ("metrics", &settings.metrics)] {
        if !list.is_empty() {
            put(key, Value::Array(list.iter().cloned().map(Value::String).collect()));
        }
    }
}

#[cfg(test)]
mod tests;
