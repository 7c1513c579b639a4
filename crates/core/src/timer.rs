//! One ordered set of deadlines. Waking early is harmless: whoever is woken looks again.

use hornpipe_types::ids::QueueId;
use hornpipe_types::time::Instant;
use std::collections::BTreeSet;

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerKey {
    /// The head of a queue expires.
    MessageTtl(QueueId),
    /// The lease of a queue with `x-expires` ends.
    QueueExpiry(QueueId),
    /// A consumer's oldest delivery has waited too long for its acknowledgement.
    ConsumerTimeout(u64),
    /// A returned message of a quorum queue has waited long enough.
    HeldBack(QueueId),
    /// A delayed message of an exchange's hidden queue is due.
    Delayed(QueueId),
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    deadlines: BTreeSet<(Instant, TimerKey)>,
}

impl Timers {
    pub(crate) fn arm(&mut self, at: Instant, key: TimerKey) {
        self.deadlines.insert((at, key));
    }
    pub(crate) fn disarm(&mut self, at: Instant, key: TimerKey) {
        self.deadlines.remove(&(at, key));
    }
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<TimerKey> {
        let &(at, key) = self.deadlines.first()?;
        if at > now {
            return None;
        }
        self.deadlines.remove(&(at, key));
        Some(key)
    }
}
