//! A queue: its messages, its consumers, its counters. What it does to others (deliveries, dead letters, disk) is done by
//! the shard, which owns all of them.

pub(crate) mod order;
pub(crate) mod ready;

use crate::dead_letter::Reason;
use crate::log::LogRun;
use crate::policy::{Effective, QueueSettings};
use hornpipe_types::Map;
use hornpipe_types::args::{QueueArgs, QueueKind};
use hornpipe_types::definition::QueueDefinition;
use hornpipe_types::ids::{ConnectionId, EnqueueId, LoadId, QueueId, Seq};
use hornpipe_types::message::{Batch, HAS_PRIORITY, MessageMeta};
use hornpipe_types::names::ShortStr;
use hornpipe_types::op::{PLACES, StoreOp};
use hornpipe_types::range::SeqRange;
use hornpipe_types::stats::MessageStats;
use hornpipe_types::time::{Instant, UnixMillis};
use ready::{Ready, Segment};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Level of a quorum queue's returned messages, above those of its 32 priorities.
const RETURNED: u8 = 32;
/// Level of messages without a priority in a quorum queue.
const QUORUM_DEFAULT: u8 = 4;

/// Consumers of one priority.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) priority: i64,
    /// Those believed to have credit, next in turn first.
    pub(crate) active: VecDeque<u64>,
}

/// Messages that died while their bodies, or those of messages that died before them, were in the log only: they are gone
/// once they can be dead-lettered.
#[derive(Debug, Clone)]
pub(crate) struct Dying {
    pub(crate) range: SeqRange,
    /// The bodies and the index of the first message, as far as they are in memory.
    pub(crate) batch: Option<(Arc<Batch>, u32)>,
    pub(crate) logged: bool,
    pub(crate) reason: Reason,
}

/// A basic.get that waits for the head's body to come back from disk.
#[derive(Debug)]
pub(crate) struct WaitingGet {
    pub(crate) connection: ConnectionId,
    pub(crate) channel: u16,
    pub(crate) no_ack: bool,
    /// Its place among the replies of its channel, see `Shard::hold_place`; 0 as long as it has not had to wait.
    pub(crate) place: u64,
}

/// What a quorum queue remembers of a message that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) delivery_count: u32,
    pub(crate) acquired: u32,
    /// Not ready before this time; below [`PLACES`] its place among the returned, which are in this order. Versions before
    /// gave them none: 0.
    pub(crate) hold_until: u64,
}

impl Counters {
    /// The time before which the message is not ready.
    pub(crate) fn held_until(self) -> Option<u64> {
        Some(self.hold_until).filter(|until| *until >= PLACES)
    }
    /// What the log is told of them.
    pub(crate) fn op(self, queue: QueueId, seq: Seq) -> StoreOp {
        StoreOp::State {
            queue,
            seq,
            delivery_count: self.delivery_count,
            acquired_count: self.acquired,
            hold_until: UnixMillis(self.hold_until),
        }
    }
}

/// All queues. Boxed: a table of them has room for twice as many and is moved as a whole when it grows.
pub(crate) type Queues = Map<QueueId, Box<Queue>>;

/// A queue from whose books those who settle deliveries count messages off: a grave's own work does that (`crate::grave`).
pub(crate) fn kept_books(queues: &mut Queues, id: QueueId) -> Option<&mut Queue> {
    queues.get_mut(&id).map(Box::as_mut).filter(|queue| !queue.is_grave())
}

/// Puts entries before the one at `k`: the shorter side of a list is moved, and once for all of them.
fn insert_all<T>(list: &mut VecDeque<T>, k: usize, entries: impl DoubleEndedIterator<Item = T>) {
    if k < list.len() / 2 {
        let head: Vec<T> = list.drain(..k).collect();
        head.into_iter().chain(entries).rev().for_each(|entry| list.push_front(entry));
    } else {
        let tail = list.split_off(k.min(list.len()));
        list.extend(entries.chain(tail));
    }
}

/// What most queues have in common: one made like the one before it shares what that one has.
#[derive(Debug, Default)]
pub(crate) struct Alike<T>(Arc<T>);

impl<T: PartialEq> Alike<T> {
    pub(crate) fn share(&mut self, value: T) -> Arc<T> {
        if *self.0 != value {
            self.0 = Arc::new(value);
        }
        Arc::clone(&self.0)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    /// Index of the vhost in the shard.
    pub(crate) vhost: usize,
    pub(crate) definition: QueueDefinition,
    pub(crate) args: Arc<QueueArgs>,
    pub(crate) effective: Arc<Effective>,
    pub(crate) settings: Arc<QueueSettings>,
    /// The connection an exclusive queue belongs to.
    pub(crate) owner: Option<ConnectionId>,

    pub(crate) next_seq: Seq,
    /// One list, or one per priority level.
    pub(crate) levels: Vec<Ready>,
    pub(crate) ready: u64,
    pub(crate) ready_bytes: u64,
    /// How often in a row its consumers' sockets took nothing while a publisher waited for them (`pace.rs`).
    pub(crate) held_in_vain: u8,
    pub(crate) unacked: u64,
    pub(crate) unacked_bytes: u64,
    /// Octets of ready bodies in memory.
    pub(crate) resident: u64,

    /// Logged stretches in seq order.
    pub(crate) logged: VecDeque<LogRun>,
    /// Short runs below were joined, or left as they are on purpose.
    pub(crate) joined_upto: Seq,
    /// Runs below can't be read as they were to be joined: they are left as they are.
    pub(crate) join_from: Seq,
    /// Listed for joining its short runs.
    pub(crate) crowded: bool,
    dead_runs: u32,
    /// Settled since the last group.
    pub(crate) settled: Vec<SeqRange>,
    pub(crate) settle_listed: bool,
    /// All logged seqs below are on disk.
    pub(crate) stored_upto: Seq,
    /// Reads under way: the load and the seq of its first message.
    pub(crate) loading: Map<LoadId, Seq>,
    /// The run that begins here could not be read back: the queue goes on up to it, then waits for an operator (purge, delete,
    /// restore).
    pub(crate) unreadable_from: Seq,
    pub(crate) waiting_gets: VecDeque<WaitingGet>,
    /// See [`Dying`].
    pub(crate) dying: VecDeque<Dying>,
    /// Listed among those that have bodies which could leave memory.
    pub(crate) resident_listed: bool,
    /// Counters of logged messages of a quorum queue that came back, by seq.
    pub(crate) counters: BTreeMap<Seq, Counters>,
    pub(crate) next_place: u64,
    /// Returned messages of a quorum queue that wait before they are ready again: by time and seq, with their level.
    pub(crate) held_back: BTreeMap<(u64, Seq), (u8, Segment)>,
    pub(crate) held_timer: Option<Instant>,
    /// Set in the hidden queue of a delayed-message exchange.
    pub(crate) delayed: Option<Box<crate::delayed::Delayed>>,

    /// In order of registration.
    pub(crate) consumers: Vec<u64>,
    /// Highest priority first.
    pub(crate) groups: Vec<Group>,
    pub(crate) had_consumer: bool,
    pub(crate) exclusive_consumer: Option<u64>,
    pub(crate) single_active: Option<u64>,

    /// Messages must leave its head before it hands out any: they do so in slices.
    pub(crate) behind: bool,
    /// It is because of its length that they must.
    pub(crate) dropping: bool,
    /// Works that return messages to it.
    pub(crate) returning: u32,
    /// Stamp of the last purge.
    pub(crate) purged: u64,
    /// Listed for serving at the end of the turn.
    pub(crate) dirty: bool,
    /// The armed timer for the head's deadline.
    pub(crate) ttl_timer: Option<Instant>,
    /// Last consumer gone, declare or get: the lease of `x-expires` counts from here.
    pub(crate) last_used: Instant,
    pub(crate) expiry_timer: Option<Instant>,
    pub(crate) idle_since: UnixMillis,
    pub(crate) stats: MessageStats,
}

impl Queue {
    pub(crate) fn new(
        definition: QueueDefinition,
        vhost: usize,
        args: Arc<QueueArgs>,
        effective: Arc<Effective>,
        settings: Arc<QueueSettings>,
    ) -> Self {
        let levels = match args.kind {
            QueueKind::Quorum => usize::from(RETURNED) + 1,
            _ => args.max_priority.map_or(1, |n| usize::from(n) + 1),
        };
        let quorum = args.kind == QueueKind::Quorum;
        Self {
            id: definition.id,
            vhost,
            definition,
            args,
            effective,
            settings,
            owner: None,
            next_seq: 1,
            levels: (0..levels).map(|l| Ready::new(quorum && l == usize::from(RETURNED))).collect(),
            ready: 0,
            ready_bytes: 0,
            held_in_vain: 0,
            unacked: 0,
            unacked_bytes: 0,
            resident: 0,
            logged: VecDeque::new(),
            joined_upto: 0,
            join_from: 0,
            crowded: false,
            dead_runs: 0,
            settled: Vec::new(),
            settle_listed: false,
            stored_upto: 0,
            loading: Map::default(),
            unreadable_from: Seq::MAX,
            waiting_gets: VecDeque::new(),
            dying: VecDeque::new(),
            resident_listed: false,
            counters: BTreeMap::new(),
            next_place: 1,
            held_back: BTreeMap::new(),
            held_timer: None,
            delayed: None,
            consumers: Vec::new(),
            groups: Vec::new(),
            had_consumer: false,
            exclusive_consumer: None,
            single_active: None,
            behind: false,
            dropping: false,
            returning: 0,
            purged: 0,
            dirty: false,
            ttl_timer: None,
            last_used: Instant::default(),
            expiry_timer: None,
            idle_since: UnixMillis::default(),
            stats: MessageStats::default(),
        }
    }

    /// Deliveries of seqs below need not keep their bodies. Those that may be dead-lettered do: it happens in the step
    /// that rejects them, not when a disk has answered.
    pub(crate) fn droppable_upto(&self) -> Seq {
        if self.settings.dead_letter_exchange.is_some() { 0 } else { self.stored_upto }
    }
    /// Whether it has been deleted and is there only until what died in it has been dead-lettered (`grave.rs`).
    pub(crate) fn is_grave(&self) -> bool {
        self.definition.grave.is_some()
    }
    /// Whether no client sees it.
    pub(crate) fn is_hidden(&self) -> bool {
        self.delayed.is_some() || self.is_grave()
    }
    /// The name clients know, or knew, it by.
    pub(crate) fn shown_name(&self) -> &ShortStr {
        self.definition.grave.as_ref().map_or(&self.definition.name, |grave| &grave.queue)
    }
    /// Whether messages of this queue can be logged at all.
    pub(crate) fn is_logged(&self) -> bool {
        self.definition.durable && !self.definition.exclusive
    }
    /// Whether a message with this persistence is logged here. Quorum queues store every message.
    pub(crate) fn logs(&self, persistent: bool) -> bool {
        self.is_logged() && (persistent || self.args.kind == QueueKind::Quorum)
    }
    /// Whether transient messages may go to the log when memory is short. It knows durable queues only, and what an exchange
    /// holds back is wanted whole when its time comes.
    pub(crate) fn may_spill(&self) -> bool {
        self.is_logged() && self.delayed.is_none()
    }
    fn is_quorum(&self) -> bool {
        self.args.kind == QueueKind::Quorum
    }
    /// Level of a message that enters [RabbitMQ "Priority Queues", "Quorum Queues: Priorities"].
    pub(crate) fn level_of(&self, meta: MessageMeta) -> u8 {
        if !self.is_quorum() {
            return meta.priority.min((self.levels.len() - 1).min(255) as u8);
        }
        if meta.flags & HAS_PRIORITY == 0 { QUORUM_DEFAULT } else { meta.priority.min(RETURNED - 1) }
    }
    /// The level as the log has it: 0 is that of runs which were logged before quorum queues had levels.
    pub(crate) fn logged_level(&self, level: u8) -> u8 {
        if self.is_quorum() { level.min(RETURNED - 1) + 1 } else { level }
    }
    /// The level of what the log has.
    pub(crate) fn level_logged(&self, logged: u8) -> u8 {
        match logged {
            0 if self.is_quorum() => QUORUM_DEFAULT,
            n if self.is_quorum() => (n - 1).min(RETURNED - 1),
            n => n.min((self.levels.len() - 1).min(255) as u8),
        }
    }
    /// The level whose head is next.
    pub(crate) fn head_level(&self) -> Option<usize> {
        (0..self.levels.len()).rev().find(|l| self.levels.get(*l).is_some_and(|r| !r.is_empty()))
    }
    /// The next message and its level.
    pub(crate) fn head(&self) -> Option<(usize, &Segment)> {
        let level = self.head_level()?;
        self.levels.get(level)?.front().map(|s| (level, s))
    }

    /// Appends messages.
    pub(crate) fn push(&mut self, level: u8, segment: Segment) {
        self.ready += u64::from(segment.count);
        self.ready_bytes += segment.bytes;
        if segment.batch.is_some() {
            self.resident += segment.bytes;
        }
        if let Some(ready) = self.levels.get_mut(usize::from(level)) {
            ready.push_back(segment);
        }
    }
    /// Takes at most `n` messages off the head, all of one segment.
    pub(crate) fn take(&mut self, level: usize, n: u32) -> Option<Segment> {
        let segment = self.levels.get_mut(level)?.take_front(n)?;
        self.on_left_ready(&segment);
        Some(segment)
    }
    /// Counts messages that left the ready list.
    pub(crate) fn on_left_ready(&mut self, segment: &Segment) {
        self.ready -= u64::from(segment.count).min(self.ready);
        self.ready_bytes -= segment.bytes.min(self.ready_bytes);
        if segment.batch.is_some() {
            self.resident -= segment.bytes.min(self.resident);
        }
    }
    /// The place of the next message that comes back to a quorum queue, as the log has it.
    pub(crate) fn give_place(&mut self) -> u64 {
        let place = self.next_place;
        self.next_place = (place + 1).min(PLACES - 1);
        place
    }
    /// Puts messages back: to their positions, in a quorum queue before all others, behind those returned earlier, in the
    /// order they are told in.
    pub(crate) fn put_back(&mut self, level: u8, mut segments: Vec<Segment>) {
        for s in &segments {
            self.ready += u64::from(s.count);
            self.ready_bytes += s.bytes;
            if s.batch.is_some() {
                self.resident += s.bytes;
            }
        }
        let quorum = self.is_quorum();
        let level = if quorum { RETURNED } else { level };
        let Some(ready) = self.levels.get_mut(usize::from(level)) else { return };
        if quorum {
            segments.into_iter().for_each(|s| ready.push_back(s));
        } else {
            segments.sort_by_key(|s| s.first);
            ready.insert_sorted(segments);
        }
    }
    /// Gives bodies read back to the messages from `first` on.
    pub(crate) fn attach(&mut self, first: Seq, batch: &Arc<Batch>) -> u64 {
        let mut all = 0;
        for ready in &mut self.levels {
            let (resident, correction) = ready.attach(first, batch);
            self.ready_bytes = self.ready_bytes.saturating_add_signed(correction);
            self.resident += resident;
            all += resident;
        }
        all
    }
    /// Drops bodies that are on disk beyond `keep` octets from the head. Returns the octets freed.
    pub(crate) fn page_out(&mut self, keep: u64, most: usize) -> u64 {
        let stored = self.stored_upto;
        let mut keep = keep;
        let freed = match &mut self.delayed {
            Some(delayed) => delayed.page_out(stored, most),
            // what is delivered first keeps first
            None => self.levels.iter_mut().rev().map(|r| r.page_out(stored, &mut keep, most)).sum(),
        };
        self.resident -= std::cmp::min(freed, self.resident);
        freed
    }

    /// Indexes of the log runs of one logged run, whose messages have seqs `first .. end` here; last first, so that each may
    /// be replaced by several.
    pub(crate) fn log_runs_of(&self, id: EnqueueId, first: Seq, end: Seq) -> Vec<usize> {
        let k = self.logged.partition_point(|r| r.end() <= first);
        let among = self.logged.iter().enumerate().skip(k).take_while(|(_, r)| r.first < end);
        let mut found: Vec<usize> = among.filter(|(_, r)| r.enqueue == id && r.live > 0).map(|(i, _)| i).collect();
        found.reverse();
        found
    }
    /// Puts others, in seq order, in the place of the log runs of one logged run: each lies within one of those.
    pub(crate) fn replace_log_runs_of(&mut self, id: EnqueueId, mut fresh: Vec<LogRun>) {
        let (Some(first), Some(end)) = (fresh.first().map(|r| r.first), fresh.last().map(LogRun::end)) else { return };
        for k in self.log_runs_of(id, first, end) {
            let Some(old) = self.logged.get_mut(k) else { continue };
            let mut within = fresh.split_off(fresh.partition_point(|r| r.first < old.first)).into_iter();
            match within.next() {
                Some(first) => *old = first,
                None => old.live = 0,
            }
            if within.len() > 0 {
                insert_all(&mut self.logged, k + 1, within);
            }
        }
    }
    /// Whether the log runs from `first` on are these, one beside the other, with nothing settled in them.
    pub(crate) fn holds_whole_runs(&self, first: Seq, runs: &[(EnqueueId, u32)]) -> bool {
        let k = self.logged.partition_point(|r| r.end() <= first);
        let mut at = first;
        let mut held = self.logged.iter().skip(k);
        runs.iter().all(|(id, count)| {
            let whole = held.next().is_some_and(|r| {
                (r.enqueue, r.first, r.count, r.live, r.index) == (*id, at, *count, *count, 0) && r.holes.is_none()
            });
            at += u64::from(*count);
            whole
        })
    }
    /// Puts one log run in the place of the `n` from its first seq on.
    pub(crate) fn join_log_runs(&mut self, first: Seq, n: usize, run: LogRun) {
        let k = self.logged.partition_point(|r| r.end() <= first);
        if let Some(slot) = self.logged.get_mut(k) {
            *slot = run;
            self.logged.drain(k + 1..(k + n).min(self.logged.len()));
            if self.logged.len() < self.logged.capacity() / 4 {
                self.logged.shrink_to(2 * self.logged.len());
            }
        }
    }
    /// Log runs from the one that holds `seq` on.
    pub(crate) fn log_runs_from(&self, seq: Seq) -> impl Iterator<Item = &LogRun> {
        let k = self.logged.partition_point(|r| r.first + u64::from(r.count) <= seq);
        self.logged.iter().skip(k)
    }
    /// Whether a run lies before what could not be read back.
    pub(crate) fn is_readable(&self, run: &LogRun) -> bool {
        run.first.saturating_sub(u64::from(run.index)) < self.unreadable_from
    }
    /// How many of the messages `first .. first + most` lie in the next `units` log runs, and how many runs that are.
    pub(crate) fn within(&self, first: Seq, most: u32, units: u32) -> (u32, u32) {
        let end = first + u64::from(most);
        let mut spent = 0;
        for run in self.log_runs_from(first).take_while(|r| r.first < end) {
            if spent >= units.max(1) {
                return ((run.first - first) as u32, spent);
            }
            spent += 1;
        }
        (most, spent.max(1))
    }
    /// So many log runs have just lost their last live message.
    pub(crate) fn drop_dead_runs(&mut self, n: u32) {
        self.dead_runs += n;
        while self.logged.front().is_some_and(|r| r.live == 0) {
            self.logged.pop_front();
            self.dead_runs = self.dead_runs.saturating_sub(1);
        }
        if self.logged.is_empty() && self.logged.capacity() > 64 {
            // it has been long
            self.logged = VecDeque::new();
        }
        if self.dead_runs > 64 && self.dead_runs as usize > self.logged.len() / 2 {
            self.logged.retain(|r| r.live > 0);
            self.dead_runs = 0;
        }
    }

    /// Messages left: nobody asks for their counters any more.
    pub(crate) fn forget_counters(&mut self, range: SeqRange) {
        if self.counters.is_empty() {
            return;
        }
        let step = u64::from(range.step);
        let among = self.counters.range(range.first..=range.last()).map(|(seq, _)| *seq);
        let gone: Vec<Seq> = among.filter(|seq| (seq - range.first).is_multiple_of(step)).collect();
        for seq in gone {
            self.counters.remove(&seq);
        }
    }

    /// Whether it hands out nothing for now: messages must leave its head, or return to it, first.
    pub(crate) fn is_held_up(&self) -> bool {
        self.behind || self.returning > 0
    }
    /// Whether nobody else takes messages as long as this consumer has credit.
    pub(crate) fn listens_alone(&self, consumer: u64) -> bool {
        let first = self.groups.iter().find(|g| !g.active.is_empty());
        !self.args.single_active && first.is_some_and(|g| g.active.len() == 1 && g.active.contains(&consumer))
    }

    /// Lists a consumer among those with credit.
    pub(crate) fn activate(&mut self, priority: i64, consumer: u64) {
        let k = self.groups.partition_point(|g| g.priority > priority);
        match self.groups.get_mut(k) {
            Some(group) if group.priority == priority => group.active.push_back(consumer),
            _ => self.groups.insert(k, Group { priority, active: VecDeque::from([consumer]) }),
        }
    }
    /// Unlists a consumer.
    pub(crate) fn deactivate(&mut self, consumer: u64) {
        for group in &mut self.groups {
            group.active.retain(|c| *c != consumer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Queue, insert_all};
    use std::collections::VecDeque;

    #[test]
    fn entries_get_where_they_belong_from_either_side() {
        for len in 0..7 {
            for k in 0..=len {
                for more in 0..4 {
                    let mut list: VecDeque<u32> = (0..len).collect();
                    insert_all(&mut list, k as usize, 100..100 + more);
                    let expected: Vec<u32> = (0..k).chain(100..100 + more).chain(k..len).collect();
                    assert_eq!(list, expected, "{more} before {k} of {len}");
                }
            }
        }
    }

    /// There may be a million of them, each a block of the allocator, which has blocks of 640, 768 and 896 octets.
    #[test]
    fn a_queue_fits_a_block_of_768_octets() {
        assert!(size_of::<Queue>() <= 768, "{}", size_of::<Queue>());
    }
}
