//! Publishers that outrun the sockets of their consumers are read a little slower: what is handed on while it is in the
//! processor's cache costs half of what it costs after it waited in memory.
//!
//! Only haste is taken off. A queue that nobody consumes, whose consumers wait for acknowledgements, or that is long already
//! slows nobody down: keeping messages is what it is for. And a publisher waits a few milliseconds at most, for its
//! connection may carry what its consumers wait for.

use crate::queue::Queue;
use crate::shard::Shard;
use hornpipe_types::effect::content_cost;
use hornpipe_types::ids::QueueId;

/// A queue is outrun from so many times `unsent_bytes` on, till half of it …
const FROM: u64 = 2;
/// … and no longer above this: its consumers can't keep up, however they are helped.
const UPTO: u64 = 64;
/// How often in a row publishers wait in vain: a client that is only short of processor time gets so much.
const IN_VAIN: u8 = 8;
/// Consumers looked at, so that many cost no more than a few.
const CONSUMERS: usize = 8;

/// What waits in a queue, as sockets count it.
fn waiting(queue: &Queue) -> u64 {
    content_cost(queue.ready_bytes, u32::try_from(queue.ready).unwrap_or(u32::MAX))
}

/// Whether a queue is long enough to have been outrun.
pub(crate) fn is_long(queue: &Queue, unsent_bytes: u64) -> bool {
    waiting(queue) > FROM * unsent_bytes
}

impl Shard {
    /// The queue a publisher has outrun since this was asked last, if any: its connection should be read no more until
    /// [`Self::is_outrun`] says otherwise, or a few milliseconds have passed.
    pub fn poll_outrun(&mut self) -> Option<QueueId> {
        self.outrun.take()
    }

    /// Whether more waits in a queue than the sockets of its consumers have just taken.
    pub fn is_outrun(&self, queue: QueueId) -> bool {
        self.queues.get(&queue).is_some_and(|q| self.waits_for_sockets(q, FROM * self.limits.unsent_bytes / 2))
    }

    /// What waits in a queue, octets as sockets count them.
    pub fn waiting_for_sockets(&self, queue: QueueId) -> u64 {
        self.queues.get(&queue).map_or(0, |queue| waiting(queue))
    }

    /// A publisher waited for the sockets until its time was over; `took`: they took some meanwhile. Where they did not, time
    /// after time, nobody waits for them again until the queue was short.
    pub fn note_held(&mut self, queue: QueueId, took: bool) {
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.held_in_vain = if took { 0 } else { queue.held_in_vain.saturating_add(1) };
        }
    }

    /// Notes that a queue which [`is_long`] was published to.
    pub(crate) fn note_pace(&mut self, id: QueueId) {
        let outrun = self.queues.get(&id).is_some_and(|q| self.waits_for_sockets(q, FROM * self.limits.unsent_bytes));
        if outrun {
            self.outrun = Some(id);
        }
    }

    fn waits_for_sockets(&self, queue: &Queue, from: u64) -> bool {
        let waiting = waiting(queue);
        if queue.held_in_vain >= IN_VAIN || waiting <= from || waiting > UPTO * self.limits.unsent_bytes {
            return false;
        }
        queue.consumers.iter().take(CONSUMERS).any(|key| {
            let connection = self.consumers.get(key).and_then(|c| self.connections.get(&c.connection));
            connection.is_some_and(|c| c.unsent >= self.limits.unsent_bytes / 2)
        })
    }
}
