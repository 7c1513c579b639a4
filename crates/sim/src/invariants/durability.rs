//! A confirmed persistent message in a durable queue is delivered and acknowledged, or still there, after any crash; so
//! is what an answered commit published. Without a crash nothing is lost at all.

use super::{Violation, ensure};
use crate::oracle::{Copy, Oracle, Outcome, Phase};

/// A crash kept everything up to the end of turn `durable`; `copy` entered its queue later.
pub(crate) fn on_cut_off(oracle: &Oracle, copy: &Copy, durable: u64) -> Result<(), Violation> {
    let m = &oracle.messages[copy.message];
    let logs = |q: usize| oracle.plan.queues[q].logs(m.persistent);
    let lost = m.outcome == Outcome::Acked
        && copy.phase != Phase::Done
        && !oracle.may_be_gone(copy)
        && logs(copy.origin)
        && oracle.reach(copy).0.into_iter().all(logs);
    ensure(!lost, "durability", || {
        let since = copy.history.first().map_or(0, |h| h.turn);
        format!(
            "message {} in {} is confirmed and lost: published in turn {since}, the disk kept {durable}",
            copy.message, oracle.plan.queues[copy.origin].name
        )
    })
}

/// Everything was drained: what is still expected will not come.
pub(crate) fn at_end(oracle: &Oracle) -> Result<(), Violation> {
    for id in &oracle.live {
        let copy = &oracle.copies[*id];
        ensure(oracle.may_be_gone(copy), "durability", || {
            let m = &oracle.messages[copy.message];
            format!(
                "message {} (persistent {}, outcome {:?}) is lost: it entered {} in turn {}, was last seen in {}, {:?}",
                copy.message,
                m.persistent,
                m.outcome,
                oracle.plan.queues[copy.origin].name,
                m.turn,
                oracle.plan.queues[copy.at].name,
                copy.history
            )
        })?;
    }
    Ok(())
}
