//! What a delayed exchange holds is not delivered before its time.

use super::{Violation, ensure};
use crate::oracle::{Copy, Oracle};

pub(crate) fn on_delivery(oracle: &Oracle, copy: &Copy) -> Result<(), Violation> {
    ensure(copy.due.is_none_or(|due| due <= oracle.latest), "delayed", || {
        let early = copy.due.unwrap_or_default() - oracle.latest;
        format!("message {} is delivered {early} ms before it is due", copy.message)
    })
}
