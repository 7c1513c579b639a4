//! A confirm answers a publish once, and never promises what the disk does not hold: when it comes, every copy of a
//! persistent message that still exists in a durable queue is below the watermark. A refusal needs a queue that refuses.

use super::{Violation, ensure};
use crate::oracle::{Oracle, Phase};

pub(crate) fn on_confirm(oracle: &Oracle, message: usize, ack: bool, durable: u64) -> Result<(), Violation> {
    let m = &oracle.messages[message];
    if !ack {
        let refuses = m.copies.iter().any(|c| oracle.plan.queues[oracle.copies[*c].origin].refuses);
        return ensure(refuses, "confirms", || {
            format!("message {message} was refused, but none of its queues refuses")
        });
    }
    for id in &m.copies {
        let copy = &oracle.copies[*id];
        let exists = copy.phase != Phase::Done && !oracle.may_be_gone(copy);
        let logs = |q: usize| oracle.plan.queues[q].logs(m.persistent);
        let logged = logs(copy.origin) && oracle.reach(copy).0.into_iter().all(logs);
        let since = copy.history.first().map_or(0, |h| h.turn);
        ensure(!exists || !logged || since <= durable, "confirms", || {
            format!(
                "message {message} in {} is confirmed, but was published in turn {since} and the disk holds {durable}",
                oracle.plan.queues[copy.at].name
            )
        })?;
    }
    Ok(())
}
