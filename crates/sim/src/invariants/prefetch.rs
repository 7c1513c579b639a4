//! Unacked deliveries of a consumer, or of a channel, stay within its prefetch.

use super::{Violation, ensure};
use crate::oracle::Channel;

pub(crate) fn on_delivery(channel: &Channel, tag: &str) -> Result<(), Violation> {
    let Some(consumer) = channel.consumers.get(tag) else { return Ok(()) };
    let limit = u64::from(consumer.prefetch);
    ensure(limit == 0 || consumer.unacked <= limit, "prefetch", || {
        format!("consumer {tag} has {} unacked and a prefetch of {limit}", consumer.unacked)
    })?;
    let (limit, all) = (u64::from(channel.global), channel.unacked());
    ensure(limit == 0 || all <= limit, "prefetch", || format!("a channel has {all} unacked and a prefetch of {limit}"))
}
