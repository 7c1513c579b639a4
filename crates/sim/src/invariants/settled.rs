//! What was acknowledged, purged, or dropped with its queue does not return, unless a crash took the settlement.

use super::{Violation, ensure};
use crate::oracle::{Copy, Oracle, Phase};

pub(crate) fn on_delivery(oracle: &Oracle, copy: &Copy, queue: usize) -> Result<(), Violation> {
    // a purge or a deletion takes what a delivery of the same turn left
    let same_turn = copy.history.last().is_some_and(|h| h.turn == oracle.turn && h.swept);
    // and what is dead-lettered in slices may get there after a purge
    let late = copy.deaths > 0 && oracle.plan.limits.slice_units < 100 && copy.history.last().is_some_and(|h| h.swept);
    ensure(copy.phase != Phase::Done || same_turn || late, "settled", || {
        format!(
            "message {} is delivered from {} although it was settled or lost for good: {:?}, turn {}",
            copy.message, oracle.plan.queues[queue].name, copy.history, oracle.turn
        )
    })
}
