//! The daemon: parse, resolve, log, start, wait for a signal, stop.

mod allocator;
mod cli;
mod config;
mod data_dir;
mod healthcheck;
mod logging;
mod store;

use anyhow::Context;
use clap::Parser;
use cli::{Cli, Command};
use config::Config;
use data_dir::DataDir;
use hornpipe_server::auth::PasswordHashing;
use hornpipe_server::{Broker, Handle};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code for a wrong command line or configuration, clap's own.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let resolved = match config::load(&cli.settings, std::env::vars_os().filter_map(utf8)) {
        Ok(resolved) => resolved,
        Err(errors) => {
            for error in errors {
                eprintln!("hornpipe: {error}");
            }
            return ExitCode::from(USAGE);
        }
    };
    let result = match cli.command {
        Some(Command::HashPassword { password, argon2id }) => hash_password(password, argon2id),
        Some(Command::Store(command)) => return store::run(command, &resolved.config),
        Some(Command::Healthcheck { url, timeout }) => healthcheck(&resolved.config, url, timeout),
        None if cli.settings.print_config => say(resolved.to_toml().trim_end()),
        None => {
            return serve(resolved.config);
        }
    };
    exit_code(result, |error| eprintln!("hornpipe: {error:#}"))
}

fn exit_code(result: anyhow::Result<()>, tell: impl Fn(anyhow::Error)) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(error);
            ExitCode::FAILURE
        }
    }
}

fn utf8((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

/// A line on standard output.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("can't write to standard output")
}

fn hash_password(password: Option<String>, argon2id: bool) -> anyhow::Result<()> {
    let password = match password {
        Some(password) => password,
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("can't read the password")?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
    };
    anyhow::ensure!(!password.is_empty(), "a blank password is never accepted");
    let hashing = if argon2id { PasswordHashing::Argon2id } else { PasswordHashing::Sha256 };
    let (_, hash) = hornpipe_server::auth::new_password_hash(hashing, &password)
        .map_err(|error| anyhow::anyhow!("no random octets: {error}"))?;
    say(&hash)
}

fn healthcheck(config: &Config, url: Option<String>, timeout: u64) -> anyhow::Result<()> {
    let url = url.map_or_else(|| healthcheck::default_url(config), Ok)?;
    say(&healthcheck::run(&url, Duration::from_secs(timeout.max(1)))?)
}

/// The daemon's life. Once there is a log, errors go there.
fn serve(config: Config) -> ExitCode {
    if let Err(error) = logging::start(&config.log_level, config.log_format) {
        return exit_code(Err(error), |error| eprintln!("hornpipe: {error:#}"));
    }
    raise_descriptor_limit();
    if let Err(error) = allocator::give_back_in_background() {
        tracing::warn!("can't start a thread that gives memory back, others do it: {error}");
    }
    exit_code(serve_logged(config), |error| tracing::error!("{error:#}"))
}

fn serve_logged(config: Config) -> anyhow::Result<()> {
    let data_dir = DataDir::lock(&config.server.data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.worker_threads)
        .thread_name("worker")
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    let result = runtime.block_on(run(config, &data_dir));
    // Connections that didn't close in time, and a recovery that was interrupted, are not waited for.
    runtime.shutdown_background();
    data_dir.forget_ports();
    result
}

/// SIGTERM or SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

async fn run(config: Config, data_dir: &DataDir) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("can't listen for signals")?;
    tracing::info!("starting hornpipe {} on {}", config.server.product_version, config.server.node_name);
    let shutdown_timeout = config.shutdown_timeout;
    let starting = allocator::Starting::begin();
    let broker = Broker::new(config.server);
    let handle = broker.handle();
    // Health answers while recovery runs.
    let admin = hornpipe_admin::start(config.admin, Arc::new(handle.clone())).context("can't listen for HTTP")?;
    for address in admin.http_addrs() {
        handle.add_listener("http", *address);
    }
    for address in admin.metrics_addrs() {
        handle.add_listener("http/prometheus", *address);
    }
    tokio::select! {
        started = broker.start() => started?,
        name = signals.next() => {
            tracing::info!("{name} during the start: ending at once");
            return Ok(());
        }
    };
    drop(starting);
    let amqp = handle.amqp_addresses();
    data_dir.tell_ports(&amqp, admin.http_addrs(), admin.metrics_addrs())?;
    say(&ready_line(&amqp, admin.http_addrs(), admin.metrics_addrs()))?;
    tracing::info!("Server startup complete");

    let name = signals.next().await;
    tracing::info!("{name}: stopping");
    data_dir.forget_ports();
    let stopped = tokio::select! {
        stopped = stop(&handle, shutdown_timeout) => stopped,
        name = signals.next() => Err(anyhow::anyhow!("{name} while stopping: ending at once")),
    };
    admin.stop();
    stopped
}

async fn stop(handle: &Handle, timeout: Duration) -> anyhow::Result<()> {
    handle.stop(timeout).await.map_err(anyhow::Error::msg).context("the stop was not clean")?;
    tracing::info!("stopped; the data folder is clean");
    Ok(())
}

/// What a person or a script waits for.
fn ready_line(amqp: &[SocketAddr], http: &[SocketAddr], metrics: &[SocketAddr]) -> String {
    let reachable = |address: &SocketAddr| match address.ip() {
        ip if ip.is_unspecified() => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()),
        _ => *address,
    };
    let mut line = "hornpipe is ready:".to_owned();
    for (scheme, path, list) in [("amqp", "", amqp), ("http", "/", http), ("http", "/metrics", metrics)] {
        for address in list {
            line += &format!(" {scheme}://{}{path}", reachable(address));
        }
    }
    line
}

/// Each connection is a descriptor, and the soft limit is often 1024.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!("can't raise the limit of file descriptors: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_has_addresses_one_can_use() {
        let at = |text: &str| vec![text.parse().unwrap()];
        assert_eq!(
            ready_line(&at("[::]:5672"), &at("0.0.0.0:15672"), &at("10.1.2.3:15692")),
            "hornpipe is ready: amqp://127.0.0.1:5672 http://127.0.0.1:15672/ http://10.1.2.3:15692/metrics"
        );
    }
}
