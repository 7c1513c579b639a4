//! Text lines of the log, the same as `tracing-subscriber` writes where there is no terminal, for less: it escapes octet by octet
//! and works the date out anew for each. Connections that come and go write two lines each.

use std::cell::RefCell;
use std::fmt::{self, Debug, Write};
use std::time::{Duration, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Octets of a timestamp that are the same for a second: `2026-11-27T03:44:42.`
const SECOND: usize = 20;

/// Timestamps, of which each thread keeps what stays the same for a second.
#[derive(Debug)]
pub(crate) struct Stamps;

thread_local! {
    static KEPT: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

fn since_epoch() -> Duration {
    std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl FormatTime for Stamps {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let now = since_epoch();
        KEPT.with_borrow_mut(|(second, text)| {
            if *second == now.as_secs() {
                w.write_str(text)?;
                return write!(w, "{:06}Z", now.subsec_micros());
            }
            text.clear();
            SystemTime.format_time(&mut Writer::new(text))?;
            w.write_str(text)?;
            text.truncate(SECOND);
            // Unless the next one began meanwhile.
            *second = if since_epoch().as_secs() == now.as_secs() { now.as_secs() } else { 0 };
            Ok(())
        })
    }
}

/// Message and fields.
#[derive(Debug)]
pub(crate) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line { writer, begun: false, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'w> {
    writer: Writer<'w>,
    begun: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn put(&mut self, name: &str, value: &dyn Debug) -> fmt::Result {
        if std::mem::replace(&mut self.begun, true) {
            self.writer.write_char(' ')?;
        }
        match name {
            // What a peer can have in it.
            "message" => write!(Escaping(&mut self.writer), "{value:?}"),
            name => write!(self.writer, "{}={value:?}", name.strip_prefix("r#").unwrap_or(name)),
        }
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Where a record of the `log` crate comes from stands in front already.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.put(field.name(), value);
        }
    }
}

/// Writes what could tell a terminal something as text.
struct Escaping<'a, 'w>(&'a mut Writer<'w>);

fn tells_terminal(c: char) -> bool {
    matches!(c, '\x1b' | '\x07' | '\x08' | '\x0c' | '\x7f'..='\u{9f}')
}

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The usual case is told by its octets.
        if text.bytes().all(|b| matches!(b, b' '..=b'~' | b'\n')) {
            return self.0.write_str(text);
        }
        for c in text.chars() {
            match c {
                c if !tells_terminal(c) => self.0.write_char(c)?,
                c if c.is_ascii() => write!(self.0, "\\x{:02x}", c as u32)?,
                c => write!(self.0, "\\u{{{:x}}}", c as u32)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::Registry;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::prelude::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Sink {
        type Writer = Self;
        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    impl Sink {
        /// What was written, without the time.
        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
            text.split("Z ").map(|line| line.get(..line.len().saturating_sub(27)).unwrap_or("").to_owned()).collect()
        }
    }

    #[test]
    fn lines_are_those_of_the_library() {
        let (ours, theirs) = (Sink::default(), Sink::default());
        let usual = || tracing_subscriber::fmt::layer::<Registry>().with_ansi(false);
        let both = Registry::default().with(usual().with_writer(theirs.clone())).with(
            tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_timer(Stamps)
                .fmt_fields(Fields)
                .with_writer(ours.clone()),
        );
        tracing::subscriber::with_default(both, || {
            let peer = "é \u{1b}[31m \u{85} \u{7f} \u{a0} tab\t line\n bell\u{7} 漢";
            tracing::info!("plain");
            tracing::warn!("connection {peer}: {}", 17);
            tracing::error!(thread = "front", number = 3, r#type = ?Some("x"), "{peer}");
            tracing::debug!(message = peer, "other");
            tracing::trace!(reason = %peer);
            tracing::info!(name: "event", target: "elsewhere", { octets = 1.5 }, "with a target");
        });
        let lines = theirs.lines();
        assert!(lines.len() > 6, "{lines:?}");
        assert_eq!(ours.lines(), lines);
    }

    #[test]
    fn stamps_go_on() {
        let stamp = || {
            let mut text = String::new();
            Stamps.format_time(&mut Writer::new(&mut text)).unwrap();
            text
        };
        let mut last = String::new();
        let mut check = || {
            let mut before = String::new();
            SystemTime.format_time(&mut Writer::new(&mut before)).unwrap();
            let now = stamp();
            assert!(now >= before && now >= last && now.len() == before.len(), "{last} {before} {now}");
            last = now;
        };
        let begin = since_epoch().as_secs();
        while since_epoch().as_secs() == begin {
            check();
        }
        // Into a second of which nothing is kept, and once more when something is.
        check();
        check();
    }
}
