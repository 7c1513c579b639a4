//! Log lines on standard error, as text or JSON.

use crate::config::LogFormat;
use anyhow::Context;
use std::io::{self, IsTerminal, Write};
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
    let lines = tracing_subscriber::fmt::layer().with_writer(|| OneLine(io::stderr()));
    let kept = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Text => kept.with(lines.with_ansi(io::stderr().is_terminal())).try_init(),
        LogFormat::Json => kept.with(lines.json().flatten_event(true)).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("can't start logging: {error}"))?;
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        for line in format!("{info}\n{backtrace}").lines() {
            tracing::error!(thread = thread.name().unwrap_or("?"), "{line}");
        }
    }));
    Ok(())
}

/// Writes each event, which comes in one piece, as one line: what peers call themselves may have line ends in it, and must not
/// look like another event.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let (text, end) = match event.split_last() {
            Some((b'\n', text)) => (text, &b"\n"[..]),
            _ => (event, &b""[..]),
        };
        if !text.iter().any(|octet| matches!(octet, b'\n' | b'\r')) {
            return self.0.write(event);
        }
        let mut line = Vec::with_capacity(event.len() + 16);
        for octet in text {
            match octet {
                b'\n' => line.extend_from_slice(b"\\n"),
                b'\r' => line.extend_from_slice(b"\\r"),
                _ => line.push(*octet),
            }
        }
        line.extend_from_slice(end);
        self.0.write_all(&line)?;
        Ok(event.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let mut out = Vec::new();
        for event in ["plain\n", "user 'a\n2026 INFO forged\r\n'\n", "no end", "\n", ""] {
            OneLine(&mut out).write_all(event.as_bytes()).unwrap();
        }
        assert_eq!(String::from_utf8(out).unwrap(), "plain\nuser 'a\\n2026 INFO forged\\r\\n'\nno end\n");
    }

    #[test]
    fn levels_and_directives() {
        for level in ["info", "debug", "warn", "error", "trace", "off", "info,hornpipe_server=debug"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        assert!(filter("hornpipe=loud").is_err());
        assert_eq!(filter("info,").map(|f| f.to_string()), filter("info").map(|f| f.to_string()));
    }
}
