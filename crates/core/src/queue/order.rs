//! The ids of all queues in ascending order. Lists of queues are asked for page by page; without an order each page would
//! begin with a look at every queue.

use super::Queues;
use hornpipe_types::ids::QueueId;

/// Ids in ascending order, some perhaps of queues that are gone.
#[derive(Debug, Default)]
pub(crate) struct Order {
    ids: Vec<QueueId>,
    /// Ids come in ascending order but at recovery.
    unsorted: bool,
}

impl Order {
    pub(crate) fn insert(&mut self, id: QueueId) {
        self.unsorted |= self.ids.last().is_some_and(|last| *last > id);
        self.ids.push(id);
    }

    /// Queues are gone: forgets their ids once they are most.
    pub(crate) fn tidy(&mut self, queues: &Queues) {
        const FEW: usize = 64;
        if self.ids.len() > FEW.max(queues.len() * 2) {
            self.ids.retain(|id| queues.contains_key(id));
        }
    }

    /// Ids above that one, some perhaps of queues that are gone.
    pub(crate) fn after(&mut self, id: QueueId) -> &[QueueId] {
        if std::mem::take(&mut self.unsorted) {
            self.ids.sort_unstable();
        }
        &self.ids[self.ids.partition_point(|known| *known <= id)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_in_order_however_they_were_put_in() {
        let mut order = Order::default();
        [3, 1, 7, 5].into_iter().for_each(|id| order.insert(QueueId(id)));
        assert_eq!(order.after(QueueId(1)), [3, 5, 7].map(QueueId));
        order.insert(QueueId(8));
        assert_eq!(order.after(QueueId(5)), [7, 8].map(QueueId));
        assert!(order.after(QueueId(8)).is_empty());
    }

    #[test]
    fn ids_of_queues_that_are_gone_do_not_pile_up() {
        let mut order = Order::default();
        let queues = Queues::default();
        for id in 0..10_000 {
            order.insert(QueueId(id));
            order.tidy(&queues);
        }
        assert!(order.ids.len() <= 64);
    }
}
