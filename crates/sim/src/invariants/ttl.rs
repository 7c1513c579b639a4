//! Nothing is delivered past its time to live.

use super::{Violation, ensure};
use crate::oracle::{Copy, Oracle};

/// For a copy that is where the oracle knows it to be.
pub(crate) fn on_delivery(oracle: &Oracle, copy: &Copy, queue: usize) -> Result<(), Violation> {
    // what goes in slices begins its time when it arrives
    if oracle.may_arrive(copy) || (copy.deaths > 0 && oracle.plan.limits.slice_units < 100) {
        return Ok(());
    }
    let now = oracle.now.wall.0;
    ensure(copy.deadline.is_none_or(|d| now <= d), "ttl", || {
        format!(
            "message {} is delivered from {} {} ms after its end",
            copy.message,
            oracle.plan.queues[queue].name,
            now - copy.deadline.unwrap_or(now)
        )
    })
}
