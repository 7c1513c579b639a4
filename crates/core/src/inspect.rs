//! Answers for the admin side: snapshots of plain numbers, lists in slices.

use crate::connection::{Connection, Consumer};
use crate::policy::Target;
use crate::queue::Queue;
use crate::queue::ready::{Ready, Tally};
use crate::shard::Shard;
use hornpipe_types::header::Properties;
use hornpipe_types::ids::{ConnectionId, QueueId};
use hornpipe_types::names::ShortStr;
use hornpipe_types::stats::{
    ActivityStatus, Answer, BrokerStats, ChannelStats, ConnectionStats, ConsumerStats, ExchangeStats, QueueStats,
    QueueSums, Request,
};
use hornpipe_types::time::Now;

/// Keeps the lowest so many, in order. The others are not sorted: lists are asked for page by page, and each page begins with
/// all that is left.
fn keep_lowest<T: Ord>(ids: &mut Vec<T>, count: usize) {
    if count < ids.len() {
        ids.select_nth_unstable(count);
        ids.truncate(count);
    }
    ids.sort_unstable();
}

impl Shard {
    pub(crate) fn answer(&mut self, now: Now, request: Request) -> Answer {
        match request {
            Request::Totals => Answer::Totals(Box::new(self.broker_stats())),
            Request::Queues { vhost, after, limit } => {
                let ids = self.page(vhost.as_ref(), after, limit as usize);
                let list = ids.iter().filter_map(|id| self.queues.get(id)).map(|q| self.queue_stats(now, q));
                Answer::Queues(list.collect())
            }
            Request::Sums { after, limit } => Answer::Sums(self.sums(after, limit as usize)),
            Request::Queue { vhost, name } => {
                let id = self.vhost_names.get(&vhost).and_then(|i| self.vhosts.get(*i)?.queues.get(&name));
                let queue = id.and_then(|id| self.queues.get(id));
                Answer::Queue(queue.map(|q| Box::new(self.queue_stats(now, q))))
            }
            Request::Connections { after, limit } => {
                let mut ids: Vec<ConnectionId> = self
                    .connections
                    .keys()
                    .copied()
                    .filter(|id| *id > after && !crate::operate::is_internal(*id))
                    .collect();
                keep_lowest(&mut ids, limit as usize);
                let list = ids.iter().filter_map(|id| self.connections.get(id)).map(|c| self.connection_stats(c));
                Answer::Connections(list.collect())
            }
            Request::Exchanges { vhost } => Answer::Exchanges(self.exchange_stats(vhost.as_ref())),
            Request::Bindings { vhost } => {
                let mut list = Vec::new();
                for v in self.vhosts.iter().filter(|v| !v.gone) {
                    if vhost.as_ref().is_none_or(|n| v.definition.name == *n) {
                        list.extend(v.topology.bindings().map(|(b, _)| b.clone()));
                    }
                }
                Answer::Bindings(list)
            }
            Request::Vhosts => {
                Answer::Vhosts(self.vhosts.iter().filter(|v| !v.gone).map(|v| v.definition.clone()).collect())
            }
            Request::Users => Answer::Users(self.access.users().into_iter().cloned().collect()),
            Request::Permissions => Answer::Permissions(self.access.permissions().into_iter().cloned().collect()),
            Request::TopicPermissions => {
                Answer::TopicPermissions(self.access.topic_permissions().into_iter().cloned().collect())
            }
            Request::Parameters => Answer::Parameters(self.operations.parameters.values().cloned().collect()),
            Request::Policies => {
                let mut list = Vec::new();
                for v in self.vhosts.iter().filter(|v| !v.gone) {
                    for operator in [false, true] {
                        list.extend(self.policies.list(&v.definition.name, operator).cloned());
                    }
                }
                Answer::Policies(list)
            }
        }
    }

    /// The lowest ids above `after` of queues that a list shows.
    fn page(&mut self, vhost: Option<&ShortStr>, after: QueueId, limit: usize) -> Vec<QueueId> {
        let of_vhost = vhost.map(|name| self.vhost_names.get(name).and_then(|index| self.vhosts.get(*index)));
        match of_vhost {
            Some(None) => Vec::new(),
            // few among many: looked for among its own
            Some(Some(v)) if v.queues.len() < self.queues.len() / 4 => {
                let mut ids: Vec<QueueId> = v.queues.values().copied().filter(|id| *id > after).collect();
                keep_lowest(&mut ids, limit);
                ids
            }
            _ => {
                let shown = |q: &Queue| !q.is_hidden() && vhost.is_none_or(|v| q.definition.vhost == *v);
                let known = self.queue_order.after(after);
                known.filter(|id| self.queues.get(id).is_some_and(|q| shown(q))).take(limit).collect()
            }
        }
    }

    /// What the next queues hold, hidden ones left out.
    fn sums(&mut self, after: QueueId, limit: usize) -> QueueSums {
        let mut ids = self.queue_order.after(after);
        let mut sums = QueueSums::default();
        for id in ids.by_ref().take(limit) {
            sums.next = Some(id);
            let Some(queue) = self.queues.get(&id).filter(|q| !q.is_hidden()) else { continue };
            sums.queues += 1;
            sums.messages_ready += queue.ready;
            sums.messages_unacknowledged += queue.unacked;
        }
        if ids.next().is_none() {
            sums.next = None;
        }
        sums
    }

    /// All totals but those of [`Self::sums`].
    fn broker_stats(&self) -> BrokerStats {
        let (damaged_queues, unreadable_messages) = self.damage();
        BrokerStats {
            connections: self.connections.len() as u64,
            channels: self.connections.values().map(|c| c.channels.len() as u64).sum(),
            consumers: self.consumers.len() as u64,
            exchanges: self.vhosts.iter().filter(|v| !v.gone).map(|v| v.topology.exchange_count() as u64).sum(),
            bindings: self.vhosts.iter().filter(|v| !v.gone).map(|v| v.topology.binding_count() as u64).sum(),
            message_stats: self.totals,
            resident_bytes: self.resident,
            batch_bytes: self.paging.batches().octets(),
            pending_ops: self.log.pending_ops(),
            work_items: self.work.len() as u64,
            pending_bytes: self.log.pending_bytes(),
            log_runs: self.log.runs(),
            groups_committed: self.log.groups_committed,
            damaged_queues,
            unreadable_messages,
            memory_alarm: self.memory_alarm,
            disk_alarm: self.disk_alarm,
            ..self.stats
        }
    }

    fn queue_stats(&self, now: Now, queue: &Queue) -> QueueStats {
        let d = &queue.definition;
        let tag = |key: Option<u64>| key.and_then(|k| self.consumers.get(&k)).map(|c| c.tag.clone());
        let mut tally = Tally::default();
        queue.levels.iter().for_each(|level| tally.add(level.tally()));
        let segments: usize = queue.levels.iter().map(Ready::len).sum();
        let head_message_timestamp = queue.head().and_then(|(_, head)| {
            let batch = head.batch.as_ref()?;
            Properties::decode(batch.header(head.from)).ok()?.timestamp
        });
        let active = queue.groups.iter().any(|g| !g.active.is_empty());
        let idle = queue.ready == 0 && queue.unacked == 0 && queue.held_back.is_empty() && queue.consumers.is_empty();
        let _ = now;
        QueueStats {
            id: queue.id,
            vhost: d.vhost.clone(),
            name: d.name.clone(),
            kind: queue.args.kind.name(),
            durable: d.durable,
            exclusive: d.exclusive,
            auto_delete: d.auto_delete,
            arguments: d.arguments.clone(),
            owner: queue.owner.and_then(|o| self.connections.get(&o)).map(|c| c.open.name.clone()),
            policy: queue.effective.policy.clone(),
            operator_policy: queue.effective.operator_policy.clone(),
            effective_policy: queue.effective.definition.clone(),
            messages_ready: queue.ready,
            messages_unacknowledged: queue.unacked,
            messages_delayed: queue.held_back_count(),
            message_bytes_delayed: queue.held_back_resident(),
            message_bytes_ready: queue.ready_bytes,
            message_bytes_unacknowledged: queue.unacked_bytes,
            messages_persistent: tally.logged,
            messages_dlx: queue.dying.iter().map(|d| u64::from(d.range.count)).sum(),
            message_bytes_persistent: tally.logged_bytes,
            messages_ram: tally.resident,
            message_bytes_ram: queue.resident,
            damage: self.damage_of(queue),
            head_message_timestamp,
            consumers: queue.consumers.len() as u32,
            // no history is kept: whether it could deliver at this moment
            consumer_capacity: if queue.consumers.is_empty() {
                0.0
            } else if active || queue.ready == 0 {
                1.0
            } else {
                0.0
            },
            exclusive_consumer_tag: tag(queue.exclusive_consumer),
            single_active_consumer_tag: tag(queue.single_active),
            idle_since_ms: idle.then_some(queue.idle_since.0),
            message_stats: queue.stats,
            consumer_details: queue
                .consumers
                .iter()
                .filter_map(|k| self.consumers.get(k).map(|c| self.consumer_stats(*k, c)))
                .collect(),
            memory: queue.resident + (queue.logged.len() * 32 + segments * 72 + std::mem::size_of::<Queue>()) as u64,
        }
    }

    fn consumer_stats(&self, key: u64, c: &Consumer) -> ConsumerStats {
        let queue = self.queues.get(&c.queue);
        let single = queue.is_some_and(|q| q.args.single_active);
        let status = match (single, queue.and_then(|q| q.single_active) == Some(key)) {
            (false, _) => ActivityStatus::Up,
            (true, true) => ActivityStatus::SingleActive,
            (true, false) => ActivityStatus::Waiting,
        };
        ConsumerStats {
            vhost: queue.map(|q| q.definition.vhost.clone()).unwrap_or_default(),
            queue: queue.map(|q| q.definition.name.clone()).unwrap_or_default(),
            consumer_tag: c.tag.clone(),
            connection: c.connection,
            channel: c.channel,
            ack_required: !c.no_ack,
            exclusive: c.exclusive,
            prefetch_count: c.prefetch,
            priority: c.priority,
            status,
            arguments: c.arguments.clone(),
        }
    }

    fn connection_stats(&self, c: &Connection) -> ConnectionStats {
        let mut numbers: Vec<u16> = c.channels.keys().copied().collect();
        numbers.sort_unstable();
        let channels = numbers
            .iter()
            .filter_map(|n| c.channels.get(n).map(|ch| (*n, ch)))
            .map(|(number, ch)| ChannelStats {
                number,
                prefetch_count: ch.prefetch,
                global_prefetch_count: ch.global_prefetch,
                consumers: ch
                    .consumers
                    .iter()
                    .filter_map(|(_, k)| self.consumers.get(k).map(|c| self.consumer_stats(*k, c)))
                    .collect(),
                messages_unacknowledged: ch.unacked.len().saturating_sub(uncommitted(ch)),
                messages_unconfirmed: ch.confirms.as_ref().map_or(0, |c| c.unconfirmed()),
                messages_uncommitted: ch
                    .tx
                    .as_ref()
                    .map_or(0, |t| t.publishes.iter().map(|p| u64::from(p.count)).sum()),
                acks_uncommitted: uncommitted(ch),
                confirm: ch.confirms.is_some(),
                transactional: ch.tx.is_some(),
                message_stats: ch.stats,
            })
            .collect();
        ConnectionStats {
            id: c.id,
            open: c.open.clone(),
            connected_at_ms: c.connected_at.0,
            state: match self.alarm() {
                Some(_) if c.blocked => "blocked",
                Some(_) => "blocking",
                None => "running",
            },
            channels,
            recv_oct: 0,
            send_oct: 0,
        }
    }

    fn exchange_stats(&self, vhost: Option<&ShortStr>) -> Vec<ExchangeStats> {
        let mut list = Vec::new();
        for (index, v) in self.vhosts.iter().enumerate().filter(|(_, v)| !v.gone) {
            if vhost.is_some_and(|n| v.definition.name != *n) {
                continue;
            }
            for (_, x) in v.topology.exchanges() {
                let name = &x.definition.name;
                let held = self.hidden.get(&(index, name.clone())).and_then(|id| self.queues.get(id));
                let delayed = x.definition.kind == "x-delayed-message";
                list.push(ExchangeStats {
                    definition: x.definition.clone(),
                    policy: self.policies.effective(&v.definition.name, name, Target::Exchange).policy,
                    publish_in: x.publish_in,
                    publish_out: x.publish_out,
                    messages_delayed: delayed
                        .then(|| held.and_then(|q| q.delayed.as_ref()).map_or(0, |d| d.len() as u64)),
                });
            }
        }
        list
    }
}

/// Deliveries whose settlement waits for a transaction to be committed.
fn uncommitted(channel: &crate::connection::Channel) -> u64 {
    channel.tx.as_ref().map_or(0, |t| t.settles.iter().map(|(_, taken)| taken.messages()).sum())
}

#[cfg(test)]
mod tests {
    use super::keep_lowest;

    #[test]
    fn a_page_holds_the_lowest_in_order() {
        for (count, expected) in [(0, vec![]), (2, vec![1, 3]), (4, vec![1, 3, 5, 9]), (9, vec![1, 3, 5, 9])] {
            let mut ids = vec![9, 3, 5, 1];
            keep_lowest(&mut ids, count);
            assert_eq!(ids, expected);
        }
    }
}
