//! The publishes of one read, taken together.
//!
//! Where channels and keys alternate, each message is a run of its own, and all that is done once a run would be done for
//! each. But a queue doesn't care what came between its messages: as long as every message goes to one queue and nothing
//! has to be looked at in it, the messages of a read are sorted by queue, and each queue gets its own as one run. In each
//! queue they stand in the order they came in. From the first publish on that isn't as plain as that, runs are published one by one.

use crate::connection::Channel;
use crate::publish::{Entry, SPECIAL, names_copies};
use crate::queue::Queue;
use crate::shard::Shard;
use crate::topology::ExchangeId;
use hornpipe_types::Map;
use hornpipe_types::args::Overflow;
use hornpipe_types::command::{Publishes, RunHead};
use hornpipe_types::ids::{ConnectionId, QueueId};
use hornpipe_types::message::{Batch, HAS_HEADERS, PERSISTENT, Span};
use hornpipe_types::time::Now;
use std::sync::Arc;

/// Messages whose sorting is about a unit of work.
const RUNS_PER_UNIT: u32 = 8;

/// Room for sorting the messages of a read.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    /// What is known of the batch's routes, by index.
    routes: Vec<Option<Way>>,
    groups: Vec<Group>,
    by_queue: Map<QueueId, u16>,
    /// Group of each message.
    of: Vec<u16>,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy)]
struct Way {
    exchange: ExchangeId,
    group: u16,
    messages: u64,
}

/// A queue that gets messages.
#[derive(Debug, Clone, Copy)]
struct Group {
    queue: QueueId,
    /// Whether it logs transient and persistent messages.
    logs: [bool; 2],
    messages: u32,
}

impl Shard {
    /// Handles publishes until so much work is done in this turn; gives back what is left.
    pub(crate) fn on_publishes(
        &mut self,
        now: Now,
        from: ConnectionId,
        mut publishes: Publishes,
        most: u32,
    ) -> Option<Publishes> {
        let mut done = self.publish_gathered(now, from, &mut publishes, most);
        while let Some(head) = publishes.runs.get(done) {
            if self.done() > most || self.is_settling(from) {
                publishes.runs.drain(..done);
                return Some(publishes);
            }
            let (number, publish) = publishes.run(*head);
            self.log.begin_command();
            self.allow();
            self.on_channel_command(now, from, number, publish);
            done += 1;
        }
        None
    }

    /// Publishes the plain runs at the front, all of them as one command; how many that are.
    fn publish_gathered(&mut self, now: Now, from: ConnectionId, publishes: &mut Publishes, most: u32) -> usize {
        // a batch that others hold too must not change
        let Some(batch) = Arc::get_mut(&mut publishes.batch) else { return 0 };
        let Some(first) = publishes.runs.first().map(|run| run.from) else { return 0 };
        let mut gathering = std::mem::take(&mut self.gathering);
        self.find_ways(from, batch, &publishes.runs, &mut gathering, most);
        let plain = self.count_plain(from, batch, &publishes.runs, &mut gathering);
        if plain > 0 {
            if gathering.groups.len() > 1 {
                let sizes: Vec<u32> = gathering.groups.iter().map(|group| group.messages).collect();
                batch.gather(first, &gathering.of, &sizes);
            }
            self.enter_groups(now, from, first, &publishes.batch, &gathering);
        }
        gathering.routes.clear();
        gathering.groups.clear();
        gathering.by_queue.clear();
        gathering.of.clear();
        self.gathering = gathering;
        plain
    }

    /// Resolves the routes of runs, up to the first that leads elsewhere than to one queue, or until that was so much work.
    fn find_ways(&mut self, from: ConnectionId, batch: &Batch, runs: &[RunHead], gathering: &mut Gathering, most: u32) {
        gathering.routes.resize(batch.routes(), None);
        for run in runs {
            let route = usize::from(batch.meta(run.from).route);
            if gathering.routes.get(route).is_none_or(Option::is_some) {
                continue;
            }
            if self.done() > most {
                return;
            }
            // what is wrong with it is told when its turn comes
            let Ok(resolved) = self.resolve(from, run.channel, batch, run.from) else { return };
            let Some([id]) = resolved.queues.as_deref() else { return };
            let group = match gathering.by_queue.get(id) {
                Some(known) => *known,
                None => {
                    let Some(queue) = self.queues.get(id).filter(|queue| takes_runs(queue)) else { return };
                    // no batch has more routes than that
                    let Ok(group) = u16::try_from(gathering.groups.len()) else { return };
                    let logs = [queue.logs(false), queue.logs(true)];
                    gathering.groups.push(Group { queue: *id, logs, messages: 0 });
                    gathering.by_queue.insert(*id, group);
                    group
                }
            };
            let way = Way { exchange: resolved.exchange, group, messages: 0 };
            if let Some(slot) = gathering.routes.get_mut(route) {
                *slot = Some(way);
            }
        }
    }

    /// Counts the plain runs at the front as published, and notes which group each of their messages belongs to.
    fn count_plain(&mut self, from: ConnectionId, batch: &Batch, runs: &[RunHead], gathering: &mut Gathering) -> usize {
        let Some(connection) = self.connections.get_mut(&from) else { return 0 };
        let mut plain = 0;
        for run in runs {
            let Some(channel) = connection.channels.get_mut(&run.channel) else { break };
            let Some(Some(way)) = gathering.routes.get_mut(usize::from(batch.meta(run.from).route)) else { break };
            let Some(group) = gathering.groups.get_mut(usize::from(way.group)) else { break };
            if !is_plain(batch, run, channel, group) {
                break;
            }
            let n = u64::from(run.count);
            if !std::mem::replace(&mut channel.published, true) {
                self.stats.publishers += 1;
            }
            channel.stats.publish += n;
            if let Some(confirms) = &mut channel.confirms {
                self.totals.publish_confirm_mode += n;
                let tag = confirms.publish(run.count);
                confirms.ack_now(tag, run.count);
                if !std::mem::replace(&mut channel.confirms_listed, true) {
                    self.dirty_confirms.push((from, run.channel));
                }
            }
            way.messages += n;
            group.messages += run.count;
            gathering.of.extend(std::iter::repeat_n(way.group, run.count as usize));
            plain += 1;
        }
        plain
    }

    /// Puts the sorted messages of a batch from `first` on into their queues.
    fn enter_groups(&mut self, now: Now, from: ConnectionId, first: u32, batch: &Arc<Batch>, gathering: &Gathering) {
        self.log.begin_command();
        self.allow();
        let count = gathering.of.len() as u32;
        self.spent = self.spent.saturating_add(count / RUNS_PER_UNIT);
        self.totals.publish += u64::from(count);
        self.totals.routed += u64::from(count);
        self.count_sizes(batch, first, count);
        let vhost = self.connections.get(&from).and_then(|connection| self.vhosts.get_mut(connection.vhost));
        if let Some(vhost) = vhost {
            for way in gathering.routes.iter().flatten() {
                vhost.topology.count(way.exchange, way.messages, way.messages);
            }
        }
        let mut at = first;
        for group in &gathering.groups {
            let end = at + group.messages;
            while at < end {
                let persistent = batch.meta(at).flags & PERSISTENT;
                let same = |i: &u32| batch.meta(*i).flags & PERSISTENT == persistent;
                let count = (at..end).take_while(same).count() as u32;
                let span = Span { batch: Arc::clone(batch), from: at, count, step: 1 };
                let entry = Entry { persistent: persistent != 0, ..Entry::default() };
                self.enter(now, &[group.queue], &span, entry);
                at += count;
            }
        }
    }
}

/// Whether a queue takes any messages in one piece, and none of them can be refused.
fn takes_runs(queue: &Queue) -> bool {
    queue.levels.len() == 1
        && queue.delayed.is_none()
        && !matches!(queue.settings.overflow, Overflow::RejectPublish | Overflow::RejectPublishDlx)
}

/// Whether the messages of a run are published by putting them into their queue.
fn is_plain(batch: &Batch, run: &RunHead, channel: &Channel, group: &Group) -> bool {
    channel.tx.is_none()
        && (run.from..run.from + run.count).all(|i| {
            let flags = batch.meta(i).flags;
            let logged = group.logs[usize::from(flags & PERSISTENT != 0)];
            // a confirm may come as soon as consumers have all it is for: then its messages stay apart
            !(logged && channel.confirms.is_some())
                && (flags & SPECIAL == 0 || (flags & SPECIAL == HAS_HEADERS && !names_copies(batch.header(i))))
        })
}
