//! fanout [spec §3.1.3.2], x-random and x-local-random: they need no more than the list of bindings every exchange has.

use super::{BindTo, Leaf, Node};
use crate::rng::Rng;
use hornpipe_types::error::AmqpError;

/// Every binding.
pub(crate) fn all(outgoing: &Leaf, sink: &mut impl FnMut(Node)) {
    outgoing.iter().for_each(|t| sink(t.node));
}

/// One binding, each as likely as any other.
pub(crate) fn one(outgoing: &Leaf, rng: &mut Rng, sink: &mut impl FnMut(Node)) {
    if let Some(t) = outgoing.get(rng.below(outgoing.len() as u64) as usize) {
        sink(t.node);
    }
}

/// x-local-random takes classic queues with the empty binding key only (RabbitMQ "Local Random Exchange").
pub(crate) fn check_local_random(key: &str, to: BindTo<'_>) -> Result<(), AmqpError> {
    if !key.is_empty() {
        return Err(AmqpError::precondition(format!("Non empty binding '{key}' key not permitted")));
    }
    match to {
        BindTo::Queue("classic") => Ok(()),
        BindTo::Queue(kind) => {
            Err(AmqpError::precondition(format!("Queue type rabbit_{kind}_queue not valid for this exchange type")))
        }
        BindTo::Exchange => Err(AmqpError::precondition("Destination not found")),
    }
}
