//! A message is outstanding at one consumer at a time.

use super::{Violation, ensure};
use crate::oracle::{Copy, Oracle, Phase};

pub(crate) fn on_delivery(oracle: &Oracle, copy: &Copy, queue: usize) -> Result<(), Violation> {
    ensure(copy.phase != Phase::Out, "once", || {
        format!(
            "message {} is delivered from {} and outstanding elsewhere (last in {})",
            copy.message, oracle.plan.queues[queue].name, oracle.plan.queues[copy.at].name
        )
    })
}
