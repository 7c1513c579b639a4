//! With faults off every confirm and every reply arrives, and every ready message with a willing consumer moves.

use super::{Violation, ensure};
use crate::oracle::Oracle;
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::stats::QueueStats;

/// Nothing is on its way any more: nobody may still wait for an answer.
pub(crate) fn on_quiet(oracle: &Oracle) -> Result<(), Violation> {
    for ((connection, number), channel) in &oracle.channels {
        ensure(channel.replies.is_empty(), "liveness", || {
            format!("connection {connection} channel {number} waits for {:?}", channel.replies)
        })?;
        let open = channel.confirms.as_ref().map_or(0, |c| c.open.len());
        ensure(open == 0, "liveness", || {
            format!("connection {connection} channel {number} waits for {open} confirms")
        })?;
    }
    Ok(())
}

/// No load and nothing unsent is under way: a queue with ready messages has no consumer that may have more.
pub(crate) fn on_inspected(
    oracle: &Oracle,
    stats: &[QueueStats],
    unsent: impl Fn(ConnectionId) -> bool,
) -> Result<(), Violation> {
    for s in stats.iter().filter(|s| s.messages_ready > 0) {
        let Some(q) = oracle.plan.queues.iter().position(|q| q.name == s.name.as_str()) else { continue };
        if oracle.plan.queues[q].single_active {
            continue;
        }
        for ((connection, number), channel) in &oracle.channels {
            if unsent(*connection) || !channel.replies.is_empty() {
                continue;
            }
            let full = channel.global > 0 && channel.unacked() >= u64::from(channel.global);
            for (tag, c) in channel.consumers.iter().filter(|(_, c)| c.queue == q && !full) {
                let may_have_more = c.no_ack || c.prefetch == 0 || c.unacked < u64::from(c.prefetch);
                ensure(!may_have_more, "liveness", || {
                    format!(
                        "{} has {} ready, but consumer {tag} of connection {connection} channel {number} gets none ({} unacked, prefetch {})",
                        s.name, s.messages_ready, c.unacked, c.prefetch
                    )
                })?;
            }
        }
    }
    Ok(())
}
