//! Messages of one channel, with one priority, leave a queue towards one channel in the order of their publishing, unless
//! they were handed out before [spec §4.7]. Nor is one that was returned overtaken: it is back at its own position. Dead letters
//! are in the order in which a channel rejected them.

use super::{Violation, ensure};
use crate::oracle::{Copy, Oracle, OrderKey, Phase};

/// To be called before the delivery is entered into the books, for deliveries to consumers.
pub(crate) fn on_delivery(oracle: &Oracle, copy: &Copy, key: &OrderKey, index: u64) -> Result<(), Violation> {
    let before = oracle.order.get(key).copied().unwrap_or(0);
    ensure(index > before, "order", || {
        format!(
            "message {} is the {index}th of its source and is delivered from {} after the {before}th",
            copy.message, oracle.plan.queues[key.queue].name
        )
    })
}

/// Whoever was ready during all of the turn, and is still, has nobody behind him that was delivered.
pub(crate) fn at_turn_end(oracle: &Oracle) -> Result<(), Violation> {
    if oracle.furthest.is_empty() {
        return Ok(());
    }
    for id in &oracle.live {
        let copy = &oracle.copies[*id];
        // what was held comes when it is let go
        if copy.phase != Phase::Ready
            || copy.deaths > 0
            || copy.due.is_some()
            || copy.ready_since >= oracle.turn
            || oracle.may_return(copy)
        {
            continue;
        }
        // those that came back to a quorum queue go in the order of their return
        if oracle.plan.queues[copy.at].quorum && copy.last.is_some() {
            continue;
        }
        let m = &oracle.messages[copy.message];
        let Some(furthest) = oracle.furthest.get(&(copy.at, m.publisher, m.priority)) else { continue };
        if *furthest <= m.index || oracle.may_be_gone(copy) || oracle.reach(copy).0.len() > 1 {
            continue;
        }
        return Err(Violation::new(
            "order",
            format!(
                "message {}, the {}th of its channel, waits in {} while the {furthest}th is delivered",
                copy.message, m.index, oracle.plan.queues[copy.at].name
            ),
        ));
    }
    Ok(())
}
