//! Delayed retry: a returned message of a quorum queue waits before it is ready again [RabbitMQ "Quorum Queues: Delayed
//! Retry"].
//!
//! It waits beside the ready messages, is counted in `messages` but not as ready, and then stands among those that came back. When it
//! is due stands in the log, so that a restart does not shorten the wait.

use crate::queue::Queue;
use crate::queue::ready::Segment;
use crate::shard::Shard;
use crate::timer::TimerKey;
use hornpipe_types::ids::QueueId;
use hornpipe_types::time::{Instant, Now};
use std::collections::BTreeMap;

/// What a queue that goes leaves behind of this.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    pub(crate) timer: Option<Instant>,
    /// Octets of bodies in memory.
    pub(crate) bytes: u64,
}

impl Queue {
    /// Keeps messages aside until a time by the wall clock. Returns the octets of their bodies that stay in memory: those on
    /// disk leave it, for the wait may be long.
    pub(crate) fn hold_back(&mut self, until: u64, level: u8, segments: Vec<Segment>) -> u64 {
        let mut resident = 0;
        for mut segment in segments {
            if segment.logged && segment.end() <= self.stored_upto {
                (segment.batch, segment.from) = (None, 0);
            }
            if segment.batch.is_some() {
                resident += segment.bytes;
            }
            self.held_back.insert((until, segment.first), (level, segment));
        }
        resident
    }
    /// Messages held back.
    pub(crate) fn held_back_count(&self) -> u64 {
        self.held_back.values().map(|(_, s)| u64::from(s.count)).sum()
    }
    /// Octets of their bodies in memory.
    pub(crate) fn held_back_resident(&self) -> u64 {
        self.held_back.values().filter(|(_, s)| s.batch.is_some()).map(|(_, s)| s.bytes).sum()
    }
    /// Forgets them: the queue goes.
    pub(crate) fn drop_held_back(&mut self) -> Dropped {
        let bytes = self.held_back_resident();
        self.held_back.clear();
        Dropped { timer: self.held_timer.take(), bytes }
    }
}

impl Shard {
    /// Arms the timer for the first message that is due.
    pub(crate) fn arm_held_back(&mut self, now: Now, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Some((due, _)) = queue.held_back.first_key_value().map(|(key, _)| *key) else { return };
        let at = now.mono.plus_ms(due.saturating_sub(now.wall.0));
        if queue.held_timer.is_some_and(|t| t <= at) {
            return;
        }
        if let Some(old) = queue.held_timer.replace(at) {
            self.timers.disarm(old, TimerKey::HeldBack(id));
        }
        self.timers.arm(at, TimerKey::HeldBack(id));
    }

    /// Messages that are due are ready again, behind those that were returned before.
    pub(crate) fn on_held_back_due(&mut self, now: Now, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        queue.held_timer = None;
        let mut due: BTreeMap<u8, Vec<Segment>> = BTreeMap::new();
        while let Some(entry) = queue.held_back.first_entry().filter(|e| e.key().0 <= now.wall.0) {
            let (level, segment) = entry.remove();
            due.entry(level).or_default().push(segment);
        }
        for (level, segments) in due {
            queue.put_back(level, segments);
        }
        self.mark_dirty(id);
        self.arm_held_back(now, id);
    }
}
