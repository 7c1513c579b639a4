//! Queues with messages that can't be read back: which, how many, and why. For operators; what such a queue does stands
//! where its messages are read.

use crate::queue::Queue;
use crate::shard::Shard;
use hornpipe_types::ids::QueueId;
use hornpipe_types::stats::QueueDamage;

impl Shard {
    /// A queue met something that can't be read. The first reason stays, until its messages are gone.
    pub(crate) fn note_damage(&mut self, id: QueueId, reason: String) {
        let is_known = self.queues.get(&id).is_some_and(|queue| self.damage_of(queue).is_some());
        if !is_known || !self.damaged.contains_key(&id) {
            self.damaged.insert(id, reason);
        }
    }

    /// It is empty, or gone.
    pub(crate) fn forget_damage(&mut self, id: QueueId) {
        self.damaged.remove(&id);
    }

    /// What of a queue can't be read, so far as it is known. Only one that was hurt is looked at.
    pub(crate) fn damage_of(&self, queue: &Queue) -> Option<QueueDamage> {
        let reason = self.damaged.get(&queue.id)?;
        let hurt = queue.logged.iter().filter(|run| self.log.is_unreadable(run.enqueue));
        let messages = hurt.map(|run| u64::from(run.live)).sum();
        (messages > 0).then(|| QueueDamage { messages, reason: reason.clone() })
    }

    /// How many queues are damaged, and how many messages of them can't be read.
    pub(crate) fn damage(&self) -> (u64, u64) {
        let queues = self.damaged.keys().filter_map(|id| self.queues.get(id));
        let messages = queues.filter_map(|queue| Some(self.damage_of(queue)?.messages));
        messages.fold((0, 0), |(queues, sum), messages| (queues + 1, sum + messages))
    }
}
