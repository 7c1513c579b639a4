//! x-recent-history: a fanout that keeps the last messages and replays them to whoever is newly bound, oldest first
//! (RabbitMQ "Recent History Exchange"). Kept in memory only.

use hornpipe_types::error::AmqpError;
use hornpipe_types::message::{BatchBuilder, Span};
use hornpipe_types::table::{FieldTable, Value};
use std::collections::VecDeque;

const LENGTH: &str = "x-recent-history-length";
const NO_STORE: &str = "x-recent-history-no-store";
const DEFAULT_LENGTH: usize = 20;

/// The last messages.
#[derive(Debug)]
pub(crate) struct RecentHistory {
    length: usize,
    recent: VecDeque<Span>,
}

/// Checks the exchange's arguments (406).
pub(crate) fn check_exchange(arguments: &FieldTable) -> Result<(), AmqpError> {
    match arguments.get(LENGTH) {
        Some(v) if v.as_int().is_none_or(|n| n <= 0) => Err(AmqpError::precondition(format!(
            "Invalid argument {}, 'x-recent-history-length' must be a positive integer",
            super::declare::value_term(v)
        ))),
        _ => Ok(()),
    }
}

/// Whether a message with these headers is to be kept.
pub(crate) fn is_kept(headers: Option<&FieldTable>) -> bool {
    headers.and_then(|h| h.get(NO_STORE)) != Some(&Value::Bool(true))
}

impl RecentHistory {
    pub(crate) fn new(arguments: &FieldTable) -> Self {
        let length = arguments.get(LENGTH).and_then(Value::as_int).and_then(|n| usize::try_from(n).ok());
        Self { length: length.filter(|n| *n > 0).unwrap_or(DEFAULT_LENGTH), recent: VecDeque::new() }
    }

    /// Keeps the last messages of a span, each copied to a batch of its own, so that one kept message doesn't keep a
    /// whole read in memory.
    pub(crate) fn remember(&mut self, span: &Span) {
        let skip = (span.count as usize).saturating_sub(self.length);
        for i in span.indexes().skip(skip) {
            if self.recent.len() == self.length {
                self.recent.pop_front();
            }
            let mut builder = BatchBuilder::with_capacity(span.batch.frames(i).len() + 64);
            let route = builder.push_full_route(span.batch.full_route(i));
            builder.push_copy(&span.batch, i, route);
            self.recent.push_back(Span::whole(builder.finish()));
        }
    }

    /// The kept messages, oldest first, one per span.
    pub(crate) fn replay(&self) -> Vec<Span> {
        self.recent.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hornpipe_types::message::MessageMeta;

    fn span(bodies: &[&str]) -> Span {
        let mut b = BatchBuilder::default();
        let route = b.push_route("x", "k");
        let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for body in bodies {
            b.push_message(&header, [body.as_bytes()], MessageMeta { route, ..MessageMeta::default() }, 0);
        }
        Span::whole(b.finish())
    }

    fn bodies(h: &RecentHistory) -> Vec<String> {
        h.replay()
            .iter()
            .map(|s| {
                assert_eq!((s.count, s.batch.routing_key(s.from)), (1, "k"));
                String::from_utf8(s.batch.body(s.from).collect::<Vec<_>>().concat()).unwrap()
            })
            .collect()
    }

    #[test]
    fn keeps_the_last_messages_in_order() {
        let mut h = RecentHistory::new(&FieldTable(vec![(LENGTH.into(), Value::I32(3))]));
        assert_eq!(bodies(&h), Vec::<String>::new());
        h.remember(&span(&["a", "b"]));
        assert_eq!(bodies(&h), ["a", "b"]);
        h.remember(&span(&["c", "d", "e", "f", "g"]));
        assert_eq!(bodies(&h), ["e", "f", "g"]);
        h.remember(&span(&["h"]));
        assert_eq!(bodies(&h), ["f", "g", "h"]);
    }

    #[test]
    fn length_argument() {
        let check = |v: Value| check_exchange(&FieldTable(vec![(LENGTH.into(), v)])).map_err(|e| e.text);
        assert_eq!(check(Value::I64(1)), Ok(()));
        for (bad, shown) in [(Value::I32(0), "0"), (Value::I8(-1), "-1"), (Value::Bool(true), "true")] {
            let text = format!("Invalid argument {shown}, 'x-recent-history-length' must be a positive integer");
            assert_eq!(check(bad), Err(text));
        }
        assert!(check(Value::long_str("20")).unwrap_err().starts_with("Invalid argument <<\"20\">>, "));
        assert_eq!(check_exchange(&FieldTable::default()), Ok(()));
    }

    #[test]
    fn no_store_header() {
        let with = |v: Value| FieldTable(vec![(NO_STORE.into(), v)]);
        assert!(is_kept(None));
        assert!(is_kept(Some(&FieldTable::default())));
        assert!(!is_kept(Some(&with(Value::Bool(true)))));
        assert!(is_kept(Some(&with(Value::Bool(false)))));
        assert!(is_kept(Some(&with(Value::long_str("true")))));
    }
}
