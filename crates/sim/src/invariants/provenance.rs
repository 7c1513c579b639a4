//! Nothing is delivered that nobody published there: the body is the publisher's, a transaction that was rolled back
//! leaves nothing, and a message is in a queue because it was routed there or dead-lettered there.

use super::{Violation, ensure};
use crate::oracle::{Copy, Oracle};

/// The number a body begins with, when the body is one that was published.
pub(crate) fn read_body(body: &[u8], published: usize) -> Result<usize, Violation> {
    let number = body.get(..8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    let message = number.map(|n| n as usize).filter(|n| *n < published);
    let message = message.ok_or_else(|| Violation::new("provenance", "a body is delivered that nobody published"))?;
    ensure(body[8..].iter().all(|b| *b == message as u8), "provenance", || {
        format!("the body of message {message} is not what was published")
    })?;
    Ok(message)
}

pub(crate) fn not_routed(oracle: &Oracle, message: usize, queue: usize) -> Violation {
    let m = &oracle.messages[message];
    Violation::new(
        "provenance",
        format!(
            "message {message} is delivered from {}, where it was never routed (published in turn {}, {:?})",
            oracle.plan.queues[queue].name, m.turn, m.outcome
        ),
    )
}

/// A copy shows up with `deaths` in its history.
pub(crate) fn on_delivery(oracle: &Oracle, copy: &Copy, queue: usize, deaths: u64) -> Result<(), Violation> {
    let name = |q: usize| &oracle.plan.queues[q].name;
    ensure(deaths >= copy.deaths, "provenance", || {
        format!("message {} has died {} times, but is delivered with {deaths} deaths", copy.message, copy.deaths)
    })?;
    let here = if deaths == copy.deaths { queue == copy.at } else { oracle.reach(copy).0.contains(&queue) };
    ensure(here, "provenance", || {
        format!("message {} is delivered from {}, but is in {}", copy.message, name(queue), name(copy.at))
    })
}
