//! Graves: what stays of a deleted queue until the messages that died in it have been dead-lettered.
//!
//! A message dies in the step that rejects it, drops it or finds it expired; it is dead-lettered when its turn comes, or its body
//! has come back from disk. When its queue is deleted between the two, the queue loses its name, its bindings and all other
//! messages at once, and is kept under a name nobody sees until the last of them is where it goes. The log knows it as such from
//! the deletion on, so that a start goes on where the process ended.
//!
//! **Invariant:** in a grave's books live only those messages, once [`Work::Emptied`] has gone over them. What ends of others,
//! whose deliveries were outstanding, is counted off by that work and by nobody else.

use crate::dead_letter::Reason;
use crate::log::Left;
use crate::policy::{Effective, QueueSettings};
use crate::queue::{Dying, Queue};
use crate::shard::Shard;
use crate::work::{Ending, Work};
use hornpipe_types::args::QueueArgs;
use hornpipe_types::definition::{Definition, DefinitionKey, GraveDefinition, QueueDefinition};
use hornpipe_types::ids::{CommitSeq, EnqueueId, QueueId, Seq};
use hornpipe_types::names::ShortStr;
use hornpipe_types::op::StoreOp;
use hornpipe_types::range::{SeqRange, SeqSet, in_order};
use hornpipe_types::table::FieldTable;
use hornpipe_types::time::Now;
use std::sync::Arc;

/// Names of graves begin with this, see [`crate::delayed::HIDDEN`]; the queue's id follows.
const GRAVE: &str = "\u{1}grave.";

impl Shard {
    /// Whether messages died in a queue that is being deleted, and have not been dead-lettered.
    pub(crate) fn has_rest(&self, queue: &Queue) -> bool {
        let mut settlings = self.work.iter().flat_map(Work::settlings);
        let mut rejects = || settlings.any(|s| s.ending == Ending::Discarded && s.taken.has_queue(queue.id));
        queue.settings.dead_letter_exchange.is_some() && (!queue.dying.is_empty() || rejects())
    }

    /// Makes a queue that nobody sees any more the grave of those that died in it.
    pub(crate) fn dig_grave(&mut self, now: Now, mut queue: Box<Queue>) -> Option<CommitSeq> {
        let id = queue.id;
        self.forget_holder(&queue);
        let mark = self.log.last_enqueue();
        let mut stay: Vec<SeqRange> = queue.dying.iter().map(|dying| dying.range).collect();
        for settling in self.work.iter_mut().flat_map(Work::settlings_mut) {
            if settling.ending == Ending::Discarded && settling.taken.has_queue(id) {
                settling.taken.ranges_of(id, &mut stay);
                settling.holds.push(id);
                queue.returning += 1;
            }
        }
        let stay = in_order(stay);
        let definition = QueueDefinition {
            name: ShortStr::new(&format!("{GRAVE}{}", id.0)),
            auto_delete: false,
            arguments: FieldTable::default(),
            grave: Some(Box::new(grave_of(&queue))),
            ..queue.definition.clone()
        };
        let former = std::mem::replace(&mut queue.definition, definition.clone());
        let commit = queue.is_logged().then(|| {
            self.log.op(StoreOp::Purge { queue: id, upto: queue.next_seq - 1, except: stay.clone() });
            self.log.op(StoreOp::Delete(DefinitionKey::Queue { vhost: former.vhost, name: former.name }));
            self.put_definition(Definition::Queue(definition))
        });
        let segments = queue.levels.iter_mut().map(|level| level.take_all()).collect();
        (queue.ready, queue.ready_bytes, queue.resident) = (0, 0, 0);
        queue.owner = None;
        queue.waiting_gets.clear();
        // deliveries that end later than this are none of those that stay
        self.stamp += 1;
        queue.purged = self.stamp;
        self.queues.insert(id, queue);
        let mut set = SeqSet::default();
        stay.into_iter().for_each(|range| set.insert_range(range));
        self.begin_work(now, Work::Purged { queue: id, mark, segments });
        self.begin_work(now, Work::Emptied { queue: id, mark, stay: set, next: 0 });
        self.mark_dirty(id);
        commit
    }

    /// Counts off what does not stay in a grave, as much as the allowance permits; whether that was all.
    pub(crate) fn empty_grave(
        &mut self,
        now: Now,
        id: QueueId,
        mark: EnqueueId,
        stay: &SeqSet,
        next: &mut Seq,
    ) -> bool {
        let delay = self.limits.settle_delay_ms;
        loop {
            let Some(queue) = self.queues.get_mut(&id) else { return true };
            let Some(run) = queue.log_runs_from(*next).next() else { return true };
            if self.units == 0 {
                return false;
            }
            // only what is live: a copy counted off twice would take those of other queues from the disk
            let stretches = if run.live > 0 { run.stretches() } else { Vec::new() };
            *next = run.end();
            let mut spent = 1;
            for (first, count, _) in stretches {
                let (mut at, end) = (first, first + Seq::from(count));
                while at < end {
                    let (stays, until) = stay.at(at);
                    let until = until.min(end);
                    if !stays {
                        let range = SeqRange::dense(at, (until - at) as u32);
                        self.log.settle(now, delay, queue, range, Left::Known(mark), &mut self.early);
                    }
                    at = until;
                    spent += 1;
                }
            }
            self.spend(spent);
        }
    }

    /// Nothing is under way for a grave: it goes, unless some of its messages wait for their bodies.
    pub(crate) fn close_grave(&mut self, now: Now, id: QueueId) {
        if self.queues.get(&id).is_some_and(|q| !q.dying.is_empty()) {
            return self.load_dying(id);
        }
        self.forget_damage(id);
        if let Some(queue) = self.queues.remove(&id) {
            self.drop_queue(now, queue);
        }
    }

    /// A vhost is deleted: what was to be dead-lettered in it goes nowhere.
    pub(crate) fn drop_graves(&mut self, now: Now, vhost: usize) {
        let graves = self.queues.values().filter(|q| q.vhost == vhost && q.is_grave());
        let mut graves: Vec<QueueId> = graves.map(|q| q.id).collect();
        graves.sort_unstable();
        for id in graves {
            self.forget_damage(id);
            if let Some(queue) = self.queues.remove(&id) {
                self.drop_queue(now, queue);
            }
        }
    }

    /// Puts a grave that recovery found into the shard.
    pub(crate) fn insert_grave(&mut self, vhost: usize, definition: QueueDefinition) {
        let Some(grave) = definition.grave.as_deref() else { return };
        let (args, effective) = (QueueArgs::default(), Effective::default());
        let settings = QueueSettings {
            dead_letter_exchange: Some(grave.exchange.clone()),
            dead_letter_routing_key: grave.routing_key.clone(),
            ..QueueSettings::resolve(&args, &effective)
        };
        let id = definition.id;
        let queue = Queue::new(definition, vhost, Arc::new(args), Arc::new(effective), Arc::new(settings));
        self.queues.insert(id, Box::new(queue));
        // it goes when there is nothing in it
        self.mark_dirty(id);
    }
}

/// What the log is told of a grave.
fn grave_of(queue: &Queue) -> GraveDefinition {
    let of = |reason: Reason| {
        let dying = queue.dying.iter().filter(|d| d.logged && d.reason == reason);
        let ranges = in_order(dying.map(|d| d.range).collect());
        (!ranges.is_empty()).then(|| (ShortStr::new(reason.name()), ranges))
    };
    GraveDefinition {
        queue: queue.definition.name.clone(),
        exchange: queue.settings.dead_letter_exchange.clone().unwrap_or_default(),
        routing_key: queue.settings.dead_letter_routing_key.clone(),
        reasons: Reason::ALL.into_iter().filter(|r| *r != Reason::Rejected).filter_map(of).collect(),
    }
}

/// Of what the messages of a recovered grave died.
#[derive(Debug)]
pub(crate) struct Causes(Vec<(Reason, SeqSet)>);

impl Causes {
    pub(crate) fn of(grave: &GraveDefinition) -> Self {
        let known = |(name, ranges): &(ShortStr, Vec<SeqRange>)| {
            let reason = Reason::ALL.into_iter().find(|r| r.name() == name.as_str())?;
            let mut set = SeqSet::default();
            ranges.iter().for_each(|range| set.insert_range(*range));
            Some((reason, set))
        };
        Self(grave.reasons.iter().filter_map(known).collect())
    }

    /// Lists messages `first .. end` of a queue as dead.
    pub(crate) fn bury(&self, queue: &mut Queue, first: Seq, end: Seq) {
        let mut at = first;
        while at < end {
            let (reason, until) = self.at(at);
            let until = until.min(end);
            let range = SeqRange::dense(at, (until - at) as u32);
            let last = queue.dying.back_mut().filter(|d| d.reason == reason && d.range.last() + 1 == at);
            if !last.is_some_and(|d| d.range.step == 1 && d.range.try_append(&range)) {
                queue.dying.push_back(Dying { range, batch: None, logged: true, reason });
            }
            at = until;
        }
    }

    /// Of what a message died, and the first seq behind it that may have died of something else.
    fn at(&self, seq: Seq) -> (Reason, Seq) {
        let mut until = Seq::MAX;
        for (reason, set) in &self.0 {
            let (member, end) = set.at(seq);
            until = until.min(end);
            if member {
                return (*reason, end);
            }
        }
        (Reason::Rejected, until)
    }
}
