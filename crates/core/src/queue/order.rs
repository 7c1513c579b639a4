//! The ids of all queues in ascending order. Lists of queues are asked for page by page; without an order each page would
//! begin with a look at every queue.

use hornpipe_types::ids::QueueId;
use std::collections::BTreeSet;
use std::ops::Bound;

/// Ids in ascending order.
#[derive(Debug, Default)]
pub(crate) struct Order(BTreeSet<QueueId>);

impl Order {
    pub(crate) fn insert(&mut self, id: QueueId) {
        self.0.insert(id);
    }

    pub(crate) fn remove(&mut self, id: QueueId) {
        self.0.remove(&id);
    }

    /// Ids above that one.
    pub(crate) fn after(&self, id: QueueId) -> impl Iterator<Item = QueueId> {
        self.0.range((Bound::Excluded(id), Bound::Unbounded)).copied()
    }
}
