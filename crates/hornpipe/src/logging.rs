//! Log lines on standard error, as text or JSON.

use crate::config::LogFormat;
use anyhow::Context;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Reads a level or a list of directives.
///
/// # Errors
/// When it is neither.
pub(crate) fn filter(level: &str) -> Result<EnvFilter, String> {
    // The storage library logs its inner life at info.
    let quiet = format!("sled=warn,{level}");
    EnvFilter::builder().parse(quiet).map_err(|error| error.to_string())
}

/// Starts logging for the whole process; panics are logged too.
pub(crate) fn start(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = filter(level).map_err(anyhow::Error::msg).context("log_level")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
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
    }
}
