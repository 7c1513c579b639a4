//! Messages of one channel, with one priority, leave a queue towards one channel in the order of their publishing, unless
//! they were handed out before [spec §4.7].

use super::{Violation, ensure};
use crate::oracle::{Copy, Oracle, OrderKey};

/// To be called before the delivery is entered into the books, for deliveries to consumers.
pub(crate) fn on_delivery(oracle: &Oracle, copy: &Copy, key: &OrderKey) -> Result<(), Violation> {
    let m = &oracle.messages[copy.message];
    let before = oracle.order.get(key).copied().unwrap_or(0);
    ensure(m.index > before, "order", || {
        format!(
            "message {} is the {}th of its channel and is delivered from {} after the {before}th",
            copy.message, m.index, oracle.plan.queues[key.queue].name
        )
    })
}
