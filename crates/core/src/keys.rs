//! The routing keys of a message that is routed once more: dead-lettered, or released by a delayed exchange [RabbitMQ
//! "Sender-selected Distribution", "Dead Letter Exchanges"].

use hornpipe_types::header::Properties;
use hornpipe_types::message::Batch;
use hornpipe_types::names::ShortStr;
use hornpipe_types::table::Value;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Keys {
    /// The routing key, then those of the header `CC`.
    pub(crate) shown: Vec<ShortStr>,
    /// Those of the header `BCC`, which is no longer there.
    pub(crate) hidden: Vec<ShortStr>,
    /// `CC` does not count any more.
    pub(crate) cc_spent: bool,
}

impl Keys {
    /// Those of message `i`, whose properties have been decoded.
    pub(crate) fn of(batch: &Batch, i: u32, properties: &Properties) -> Self {
        let cc_spent = batch.cc_spent(i);
        let mut shown = vec![ShortStr::new(batch.routing_key(i))];
        let copies = properties.headers.as_ref().and_then(|h| h.get("CC")).filter(|_| !cc_spent);
        if let Some(Value::Array(items)) = copies {
            shown.extend(items.iter().filter_map(Value::as_str).map(ShortStr::new));
        }
        Self { shown, hidden: batch.hidden_keys(i).map(ShortStr::new).collect(), cc_spent }
    }
    /// A key that takes the place of all.
    pub(crate) fn replaced(key: &ShortStr) -> Self {
        Self { shown: vec![key.clone()], hidden: Vec::new(), cc_spent: true }
    }
    /// The routing key a consumer will see.
    pub(crate) fn first(&self) -> &str {
        self.shown.first().map_or("", ShortStr::as_str)
    }
    pub(crate) fn shown(&self) -> Vec<&str> {
        self.shown.iter().map(ShortStr::as_str).collect()
    }
    pub(crate) fn hidden(&self) -> Vec<&str> {
        self.hidden.iter().map(ShortStr::as_str).collect()
    }
    pub(crate) fn all(&self) -> Vec<&str> {
        self.shown.iter().chain(&self.hidden).map(ShortStr::as_str).collect()
    }
}
