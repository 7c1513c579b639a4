//! Log lines on standard error, as text or JSON.

use crate::config::LogFormat;
use anyhow::Context;
use std::io::IsTerminal;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// Reads a level or a list of directives.
///
/// # Errors
/// When it is neither.
pub(crate) fn filter(level: &str) -> Result<Targets, String> {
    // The storage library logs its inner life at info.
    // An empty directive would be taken for one that lets nothing but errors through.
    let given = level.split(',').filter(|directive| !directive.trim().is_empty());
    let quiet = ["sled=warn"].into_iter().chain(given).collect::<Vec<_>>().join(",");
    quiet.parse().map_err(|error: tracing_subscriber::filter::ParseError| error.to_string())
}

/// Starts logging for the whole process; panics are logged too.
pub(crate) fn start(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = filter(level).map_err(anyhow::Error::msg).context("log_level")?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let kept = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Text => kept.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
        LogFormat::Json => kept.with(lines.json().flatten_event(true)).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("can't start logging: {error}"))?;
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(thread = thread.name().unwrap_or("?"), "{info}\n{backtrace}");
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives() {
        for level in ["info", "debug", "warn", "error", "trace", "off", "info,hornpipe_server=debug"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        assert!(filter("hornpipe=loud").is_err());
        assert_eq!(filter("info,").map(|f| f.to_string()), filter("info").map(|f| f.to_string()));
    }
}
