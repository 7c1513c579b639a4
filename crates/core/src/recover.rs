//! From what the store found to a running shard.
//!
//! Definitions come first, then the log in its order. Runs and settled ranges are gathered per queue and become segments
//! at the end, without bodies: those are read when they are wanted.

use crate::delayed::HIDDEN;
use crate::grave::Causes;
use crate::log::LogRun;
use crate::queue::Counters;
use crate::queue::ready::Segment;
use crate::shard::{Shard, Vhost};
use crate::steps::StepMap;
use crate::topology::{Destination, QueueTraits, Topology};
use hornpipe_types::Map;
use hornpipe_types::args::QueueArgs;
use hornpipe_types::definition::{
    BindingDefinition, Definition, PermissionDefinition, QueueDefinition, UserDefinition, VhostDefinition,
};
use hornpipe_types::ids::{EnqueueId, QueueId, Seq, VhostId};
use hornpipe_types::names::ShortStr;
use hornpipe_types::op::{BodyPlace, Recovered, RunMeta, StoreOp};
use hornpipe_types::range::SeqRange;
use hornpipe_types::replay::{self, Replay};
use hornpipe_types::time::Now;
use std::collections::BTreeMap;

/// What a broker with an empty data folder begins with.
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    /// The first vhost.
    pub vhost: ShortStr,
    /// The first user; gets full permissions on it.
    pub user: UserDefinition,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    count: u32,
    index: u32,
    enqueue: EnqueueId,
    bytes: u64,
    of: u32,
    meta: RunMeta,
}

impl replay::Run for Run {
    fn count(&self) -> u32 {
        self.count
    }
    fn part(&self, from: u32, count: u32) -> Self {
        Self { count, index: self.index + from, ..*self }
    }
}

/// What recovery knows of a queue's messages so far.
#[derive(Debug, Default)]
struct Messages {
    replay: Replay<Run>,
    /// With how many were told before: versions that gave returned messages no places told them in order.
    states: Map<Seq, (Counters, u64)>,
    noted: u64,
    /// Highest place of a returned message.
    places: u64,
    highest: Seq,
}

impl Messages {
    fn settle(&mut self, range: SeqRange) {
        self.highest = self.highest.max(range.last());
        self.replay.leave(range);
    }
    fn add(&mut self, first: Seq, run: Run) {
        self.highest = self.highest.max(first + Seq::from(run.count) - 1);
        self.replay.enter(first, run);
    }
    fn note(&mut self, seq: Seq, counters: Counters) {
        self.states.insert(seq, (counters, self.noted));
        self.noted += 1;
        if counters.held_until().is_none() {
            self.places = self.places.max(counters.hold_until);
        }
    }
    /// Counters of the message at `seq`, if it has its own, with when they were noted, whether it counts as redelivered, and the end of those up to
    /// `end` of which the same is true.
    fn alike(&self, seq: Seq, end: Seq) -> (Option<(Counters, u64)>, bool, Seq) {
        let own = |seq| self.states.get(&seq).copied();
        let (state, (redelivered, until)) = (own(seq), self.replay.is_redelivered(seq));
        let end = end.min(until);
        let mut stop = if self.states.is_empty() { end } else { seq + 1 };
        while stop < end && state.is_none() && own(stop).is_none() {
            stop += 1;
        }
        (state, redelivered, stop)
    }
}

/// A recovery under way.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    definitions: u64,
    queues: Vec<QueueDefinition>,
    bindings: Vec<BindingDefinition>,
    messages: BTreeMap<QueueId, Messages>,
    clean: bool,
    /// Messages of queues that are no more.
    dropped: u64,
    bad_patterns: Vec<String>,
    hurt: Hurt,
}

/// Bodies that can't be read.
#[derive(Debug, Default)]
struct Hurt {
    bodies: Vec<BodyPlace>,
    /// For each, the file and what is wrong with it.
    reasons: Vec<String>,
    /// Their messages are to leave their queues.
    dropped: bool,
    /// Runs that lie in them, with the index of the body.
    runs: BTreeMap<EnqueueId, usize>,
}

impl Hurt {
    /// What an operator should read of a queue's messages, counted by body.
    fn remark(&self, queue: &QueueDefinition, unreadable: &BTreeMap<usize, u64>) -> Option<String> {
        let vhost = &queue.vhost;
        let (name, after, ways) = match &queue.grave {
            // nobody can get at it by its name
            Some(grave) => (&grave.queue, " that was deleted before they were dead-lettered", ""),
            None => (&queue.name, "", "purge or delete the queue, "),
        };
        let mut reason = self.reasons.get(*unreadable.keys().next()?)?.clone();
        if unreadable.len() > 1 {
            reason += &format!(", and {} bodies more", unreadable.len() - 1);
        }
        let messages: u64 = unreadable.values().sum();
        let what = if messages == 1 { "1 message".to_owned() } else { format!("{messages} messages") };
        if self.dropped {
            return Some(format!("{what} of queue '{name}' in vhost '{vhost}' can't be read and left it: {reason}"));
        }
        Some(format!(
            "{what} of queue '{name}' in vhost '{vhost}'{after} can't be read, it will stop at the first of them: {reason}; \
             restore the file, {ways}or start with --accept-data-loss to drop them"
        ))
    }
}

impl Shard {
    /// Takes in one thing the store found; the last is [`Recovered::End`].
    pub fn handle_recovered(&mut self, item: Recovered) {
        let Some(mut recovery) = self.recovery.take() else { return };
        match item {
            Recovered::Definition(definition) => {
                recovery.definitions += 1;
                self.recover_definition(&mut recovery, definition);
            }
            Recovered::Run { targets, meta, count, body_bytes, place } => {
                let enqueue = self.log.recovered(place, targets.clone(), meta, count, body_bytes);
                for target in targets {
                    if meta.transient {
                        // forgotten; its position stays its own
                        let messages = recovery.messages.entry(target.queue).or_default();
                        messages.highest = messages.highest.max(target.first_seq + Seq::from(count) - 1);
                        continue;
                    }
                    let run = Run { count, index: 0, enqueue, bytes: body_bytes, of: count, meta };
                    recovery.messages.entry(target.queue).or_default().add(target.first_seq, run);
                }
            }
            Recovered::Settled { queue, ranges } => {
                let messages = recovery.messages.entry(queue).or_default();
                for range in ranges {
                    messages.settle(range);
                }
            }
            Recovered::State { queue, seq, delivery_count, acquired_count: acquired, hold_until } => {
                let messages = recovery.messages.entry(queue).or_default();
                // its message may have vanished before it was logged: nobody else may get its position and its counters
                messages.highest = messages.highest.max(seq);
                messages.note(seq, Counters { delivery_count, acquired, hold_until: hold_until.0 });
            }
            Recovered::Purge { queue, upto, except } => {
                let messages = recovery.messages.entry(queue).or_default();
                // the runs it speaks of may have left the log before it: their positions are never given out again
                messages.highest = messages.highest.max(upto);
                messages.replay.purge(upto, &except);
            }
            Recovered::Redelivered { queue, ranges } => {
                let messages = recovery.messages.entry(queue).or_default();
                for range in ranges {
                    // like counters: whoever got its position would count as redelivered
                    messages.highest = messages.highest.max(range.last());
                    messages.replay.mark_redelivered(range);
                }
            }
            Recovered::DropQueue(queue) => {
                recovery.messages.remove(&queue);
            }
            Recovered::Hurt { body, reason, dropped } => {
                recovery.hurt.bodies.push(body);
                recovery.hurt.reasons.push(reason);
                recovery.hurt.dropped = dropped;
            }
            Recovered::Record { lsn } => self.log.recovered_record(lsn),
            Recovered::End { clean, orphan_files } => {
                recovery.clean = clean;
                for file in orphan_files {
                    self.log.recovered_orphan(file);
                }
            }
        }
        self.recovery = Some(recovery);
    }

    fn recover_definition(&mut self, recovery: &mut Recovery, definition: Definition) {
        match definition {
            Definition::Vhost(d) => {
                self.insert_vhost(d);
            }
            Definition::User(d) => self.access.put_user(d),
            Definition::Permission(d) => {
                recovery.bad_patterns.extend(self.access.recover_permission(d).map(|b| b.to_string()));
            }
            Definition::TopicPermission(d) => {
                recovery.bad_patterns.extend(self.access.recover_topic_permission(d).map(|b| b.to_string()));
            }
            Definition::Exchange(d) => {
                if let Some(v) = self.vhost_names.get(&d.vhost).and_then(|i| self.vhosts.get_mut(*i)) {
                    let _ = v.topology.declare(d);
                }
            }
            Definition::Queue(d) => recovery.queues.push(d),
            Definition::Binding(d) => recovery.bindings.push(d),
            Definition::Policy(d) => recovery.bad_patterns.extend(self.policies.recover(d)),
            Definition::Parameter(d) => {
                let key = (d.vhost.clone(), d.component.clone(), d.name.clone());
                self.operations.parameters.insert(key, d);
            }
            Definition::NextIds { queue, vhost } => {
                self.next_queue = self.next_queue.max(queue);
                self.reserved_queue = self.next_queue;
                self.next_vhost = self.next_vhost.max(vhost);
            }
        }
    }

    /// Puts a vhost, new or recovered, into the shard; its index.
    pub(crate) fn insert_vhost(&mut self, definition: VhostDefinition) -> usize {
        if let Some(index) = self.vhost_names.get(&definition.name) {
            return *index;
        }
        self.access.put_vhost(&definition);
        self.next_vhost = self.next_vhost.max(VhostId(definition.id.0 + 1));
        let index = self.vhosts.len();
        self.vhost_names.insert(definition.name.clone(), index);
        self.vhosts.push(Vhost {
            topology: Topology::new(definition.name.clone()),
            definition,
            queues: StepMap::default(),
            queues_generation: 0,
            connections: 0,
            gone: false,
        });
        index
    }

    /// Ends recovery: queues get their messages, an empty broker gets its first vhost and user (in shard 0).
    ///
    /// Returns sentences an operator should read (what was found but could not be used).
    pub fn finish_recovery(&mut self, now: Now, first: &Bootstrap) -> Vec<String> {
        let Some(recovery) = self.recovery.take() else { return Vec::new() };
        let Recovery {
            definitions,
            mut queues,
            mut bindings,
            mut messages,
            clean,
            mut dropped,
            bad_patterns,
            mut hurt,
        } = *recovery;
        hurt.runs = self.log.runs_of(&hurt.bodies);
        let mut remarks = bad_patterns;
        self.log.begin_command();
        if definitions == 0 && self.number == 0 {
            self.bootstrap(first);
        }
        queues.sort_by_key(|d| d.id);
        for definition in queues {
            let Some(index) = self.vhost_names.get(&definition.vhost).copied() else { continue };
            let id = definition.id;
            self.next_queue = self.next_queue.max(id.next());
            if definition.name.starts_with(HIDDEN) {
                self.insert_hidden(now, index, definition);
            } else if definition.grave.is_some() {
                self.insert_grave(index, definition);
            } else {
                let args = QueueArgs::trusted(&definition.arguments);
                self.insert_queue(now, index, definition, args, None);
            }
            if let Some(found) = messages.remove(&id) {
                remarks.extend(self.fill_queue(now, id, found, clean, &hurt));
            }
        }
        // those from before the order was noted come first, in the order of their keys
        bindings.sort_by_key(|b| b.order);
        for binding in bindings {
            let Some(index) = self.vhost_names.get(&binding.vhost).copied() else { continue };
            let Some(v) = self.vhosts.get_mut(index) else { continue };
            let (destination, traits) = if binding.destination_is_queue {
                let Some(id) = v.queues.get(&binding.destination).copied() else { continue };
                let Some(queue) = self.queues.get(&id) else { continue };
                let traits = QueueTraits { durable: queue.is_logged(), kind: queue.args.kind.name() };
                (Destination::Queue(id), traits)
            } else {
                let Some(id) = v.topology.find(&binding.destination) else { continue };
                (Destination::Exchange(id), QueueTraits::classic(true))
            };
            if let Err(error) = v.topology.bind(&binding, destination, traits) {
                remarks.push(format!("a binding of exchange '{}' was not restored: {error}", binding.source));
            }
        }
        dropped +=
            messages.values().map(|m| m.replay.runs().map(|(_, r)| u64::from(r.count)).sum::<u64>()).sum::<u64>();
        self.log.recovery_done();
        self.log.tidy_soon(now, self.limits.settle_delay_ms);
        let vhosts: Vec<usize> = (0..self.vhosts.len()).collect();
        for index in vhosts {
            self.apply_policies_whole(now, index);
        }
        self.reserved_queue = self.reserved_queue.max(self.next_queue);
        self.logins_changed = true;
        if dropped > 0 {
            remarks.push(format!("{dropped} logged messages belonged to queues that no longer exist and were dropped"));
        }
        remarks
    }

    fn bootstrap(&mut self, first: &Bootstrap) {
        let vhost = VhostDefinition {
            name: first.vhost.clone(),
            id: self.next_vhost,
            description: "Default virtual host".to_owned(),
            ..VhostDefinition::default()
        };
        let permission = PermissionDefinition {
            user: first.user.name.clone(),
            vhost: first.vhost.clone(),
            configure: ".*".to_owned(),
            write: ".*".to_owned(),
            read: ".*".to_owned(),
        };
        self.put_definition(Definition::Vhost(vhost.clone()));
        self.put_definition(Definition::User(first.user.clone()));
        self.put_definition(Definition::Permission(permission.clone()));
        self.insert_vhost(vhost);
        self.access.put_user(first.user.clone());
        let _ = self.access.put_permission(permission);
    }

    /// Gives a queue its messages; returns what is to be said of those that can't be read.
    fn fill_queue(&mut self, now: Now, id: QueueId, found: Messages, clean: bool, hurt: &Hurt) -> Option<String> {
        let queue = self.queues.get_mut(&id)?;
        let mut unreadable: BTreeMap<usize, u64> = BTreeMap::new();
        let causes = queue.definition.grave.as_deref().map(Causes::of);
        queue.next_seq = found.highest + 1;
        queue.stored_upto = found.highest + 1;
        queue.next_place = found.places + 1;
        // in the order of their places, those without one before them, those that have waited for their time behind
        let mut returned: Vec<(u64, u64, Segment)> = Vec::new();
        for (first, run) in found.replay.runs() {
            let end = first + u64::from(run.count);
            let stretches = found.replay.live(first, end);
            let live: u32 = stretches.iter().map(|(a, b)| (b - a) as u32).sum();
            if live == 0 {
                continue;
            }
            if let Some(body) = hurt.runs.get(&run.enqueue) {
                *unreadable.entry(*body).or_default() += u64::from(live);
                if hurt.dropped {
                    let ranges = stretches.iter().map(|(a, b)| SeqRange::dense(*a, (b - a) as u32)).collect();
                    self.log.op(StoreOp::Settled { queue: id, ranges });
                    continue;
                }
                self.log.note_unreadable(run.enqueue);
            }
            self.log.recovered_live(run.enqueue, live);
            for (a, b) in &stretches {
                // one log run for each live stretch: what is settled between is not the queue's any more
                let index = run.index + (a - first) as u32;
                queue.logged.push_back(LogRun::new(*a, (b - a) as u32, run.enqueue, index));
            }
            if let Some(causes) = &causes {
                stretches.into_iter().for_each(|(a, b)| causes.bury(queue, a, b));
                continue;
            }
            for (a, b) in stretches {
                // messages with counters of their own are segments of their own
                let mut at = a;
                while at < b {
                    let (state, marked, stop) = found.alike(at, b);
                    let as_logged = Counters {
                        delivery_count: run.meta.delivery_count,
                        acquired: run.meta.acquired_count,
                        hold_until: 0,
                    };
                    let (counters, noted) = state.unwrap_or((as_logged, 0));
                    let Counters { delivery_count, acquired, hold_until } = counters;
                    let held_until = counters.held_until().filter(|until| *until > now.wall.0);
                    let classic = queue.args.kind == hornpipe_types::args::QueueKind::Classic;
                    let count = (stop - at) as u32;
                    let segment = Segment {
                        first: at,
                        count,
                        from: 0,
                        batch: None,
                        bytes: run.bytes * u64::from(count) / u64::from(run.of.max(1)),
                        deadline: run.meta.deadline.0,
                        delivery_count: if classic { 0 } else { delivery_count },
                        acquired: if classic { 0 } else { acquired },
                        redelivered: !clean || marked || run.meta.redelivered || acquired > 0 || state.is_some(),
                        logged: true,
                    };
                    if state.is_some() && !classic {
                        queue.counters.insert(at, counters);
                    }
                    match &mut queue.delayed {
                        Some(delayed) => delayed.hold(segment),
                        None if held_until.is_some() && !classic => {
                            let level = queue.level_logged(run.meta.priority);
                            queue.hold_back(hold_until, level, vec![segment]);
                        }
                        None if acquired > 0 && !classic => returned.push((hold_until, noted, segment)),
                        None => {
                            let level = queue.level_logged(run.meta.priority);
                            queue.push(level, segment);
                        }
                    }
                    at = stop;
                }
            }
        }
        returned.sort_by_key(|(place, noted, _)| (*place, *noted));
        queue.put_back(0, returned.into_iter().map(|(.., segment)| segment).collect());
        self.log.note_crowd(&self.limits, queue);
        let remark = hurt.remark(&queue.definition, &unreadable);
        let reason = unreadable.keys().next().and_then(|body| hurt.reasons.get(*body));
        if let Some(reason) = reason.filter(|_| !hurt.dropped) {
            self.damaged.insert(id, reason.clone());
        }
        if queue.delayed.is_some() {
            self.arm_delayed(now, id);
        } else {
            self.arm_held_back(now, id);
            self.mark_dirty(id);
        }
        remark
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn settled_stretches_leave_exactly_the_rest(ranges in prop::collection::vec((0u64..60, 1u32..8, 1u32..4), 0..12)) {
            let mut m = Messages::default();
            let mut model: BTreeSet<u64> = (0..80).collect();
            for (first, count, step) in ranges {
                let r = SeqRange { first, count, step };
                m.settle(r);
                for s in r.iter() { model.remove(&s); }
            }
            let live: Vec<u64> = m.replay.live(0, 80).into_iter().flat_map(|(a, b)| a..b).collect();
            prop_assert_eq!(live, model.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn a_later_run_replaces_what_it_overlaps(runs in prop::collection::vec((0u64..50, 1u32..20), 1..10)) {
            let mut m = Messages::default();
            let mut model: BTreeMap<u64, (u64, u32)> = BTreeMap::new();
            for (i, (first, count)) in runs.into_iter().enumerate() {
                let enqueue = EnqueueId(i as u64);
                m.add(first, Run { count, index: 0, enqueue, bytes: 0, of: count, meta: RunMeta::default() });
                for k in 0..count { model.insert(first + u64::from(k), (i as u64, k)); }
            }
            let mut got = BTreeMap::new();
            for (first, r) in m.replay.runs() {
                for k in 0..r.count { prop_assert!(got.insert(first + u64::from(k), (r.enqueue.0, r.index + k)).is_none()); }
            }
            prop_assert_eq!(got, model);
        }
    }
}
