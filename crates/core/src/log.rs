//! What waits for the disk, what is on it, and what may leave it.
//!
//! The shard owns the pending group: an acknowledgement meets its own enqueue here and both vanish. Every logged run of
//! messages has a [`LoggedRun`] that counts its unsettled copies; records and body files without live runs are handed to
//! the store for removal.
//!
//! **Invariant:** the ops of one command never split over two groups, because a group takes all that is pending and is
//! taken between commands.

mod check;
mod copy;
mod files;
mod group;
mod join;
mod recovery;
mod run;
mod runs;
mod shared;

pub(crate) use join::Member;
pub(crate) use run::LogRun;

use crate::queue::Queue;
use files::BodyFile;
use hornpipe_types::ids::{CommitSeq, ConnectionId, EnqueueId, QueueId};
use hornpipe_types::message::Span;
use hornpipe_types::op::{Place, RunMeta, StoreOp, Target};
use hornpipe_types::range::{SeqRange, push_range};
use hornpipe_types::time::{Instant, Now};
use runs::{Ids, Runs};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Deref;

/// Runs of a group that is worth waiting for its acknowledgements.
const FEW_RUNS: usize = 8;

/// Who published a run in confirm mode: the channel and the tag of the run's first message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publisher {
    pub(crate) connection: ConnectionId,
    pub(crate) channel: u16,
    /// A channel's number and its tags may be used again while what it published waits: this tells the two apart.
    pub(crate) incarnation: u32,
    pub(crate) first_tag: u64,
}

impl Publisher {
    /// A stretch of its tags that need not wait any more.
    fn early(self, tags: SeqRange) -> EarlyConfirm {
        EarlyConfirm { connection: self.connection, channel: self.channel, incarnation: self.incarnation, tags }
    }
    /// Whether `next` begins where `count` messages of this one end.
    fn goes_on_with(self, count: u64, next: Self) -> bool {
        (self.connection, self.channel, self.incarnation, self.first_tag + count)
            == (next.connection, next.channel, next.incarnation, next.first_tag)
    }
}

/// Where a run is. There may be millions: what only some need lies in a box.
#[derive(Debug)]
enum At {
    /// In the pending group; the messages are still here.
    Pending(Box<Pending>),
    /// In a group the store works on. Who published it is known until the watermark covers it.
    Writing(Option<Publisher>),
    /// On disk.
    Stored(Place),
}

#[derive(Debug)]
struct Pending {
    span: Span,
    /// What was settled of it while it waited here.
    settled: Vec<(QueueId, SeqRange)>,
    publisher: Option<Publisher>,
    /// A copy of what the log has already: settling it must reach the disk even while it waits here.
    copy: bool,
}

/// The queues of a run, mostly one.
#[derive(Debug, Clone)]
enum Targets {
    One(Target),
    More(Box<[Target]>),
}

impl From<Vec<Target>> for Targets {
    fn from(targets: Vec<Target>) -> Self {
        match targets[..] {
            [one] => Self::One(one),
            _ => Self::More(targets.into()),
        }
    }
}

impl Deref for Targets {
    type Target = [Target];
    fn deref(&self) -> &[Target] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(targets) => targets,
        }
    }
}

/// What there is to know of the messages of a run, mostly nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Meta(Option<Box<RunMeta>>);

impl From<RunMeta> for Meta {
    fn from(meta: RunMeta) -> Self {
        Self((meta != RunMeta::default()).then(|| Box::new(meta)))
    }
}

impl Meta {
    fn get(&self) -> RunMeta {
        self.0.as_deref().copied().unwrap_or_default()
    }
}

/// A run of messages that is, or will be, in the log.
#[derive(Debug)]
struct LoggedRun {
    /// Copies that are not settled: messages × queues.
    live: u32,
    count: u32,
    /// Encoded octets.
    bytes: u64,
    at: At,
    meta: Meta,
    targets: Targets,
}

impl LoggedRun {
    /// Copies it began with.
    fn copies(&self) -> u32 {
        self.count.saturating_mul(self.targets.len() as u32)
    }
    /// Who is to be told when its messages are taken, before the watermark tells it.
    fn publisher(&mut self) -> Option<&mut Option<Publisher>> {
        match &mut self.at {
            At::Pending(pending) => Some(&mut pending.publisher),
            At::Writing(publisher) => Some(publisher),
            At::Stored(_) => None,
        }
    }
    /// Octets of its unsettled messages. Of a run with several targets it is told how many copies live, not of how many
    /// messages: then this is the most it can be.
    fn live_bytes(&self) -> u64 {
        self.bytes * u64::from(self.live.min(self.count)) / u64::from(self.count.max(1))
    }
}

/// What is known of a log record.
#[derive(Debug, Default)]
struct RecordState {
    live: u32,
    runs: Ids,
}

/// How a message left its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// A consumer took it: its publisher may be told at once, it needs no disk any more.
    Taken,
    /// It expired, was dropped or moved: the publisher waits for the watermark.
    Otherwise,
    /// As before, by a purge or deletion that is in the log itself: runs up to this one need no further word there.
    Known(EnqueueId),
}

#[derive(Debug)]
enum PendingOp {
    Run(EnqueueId),
    /// Boxed: nearly all are runs, and an operation is large.
    Op(Box<StoreOp>),
}

/// A stretch of publish tags whose messages were taken before they reached the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EarlyConfirm {
    pub(crate) connection: ConnectionId,
    pub(crate) channel: u16,
    pub(crate) incarnation: u32,
    pub(crate) tags: SeqRange,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Log {
    commit: CommitSeq,
    /// The commit of the last definition that was put or deleted.
    defined: CommitSeq,
    /// The command under way has a commit already.
    in_command: bool,
    durable: CommitSeq,
    last_enqueue: EnqueueId,
    runs: Runs<LoggedRun>,
    pending: Vec<PendingOp>,
    /// Pending operations that were not cancelled.
    pending_live: u64,
    pending_bytes: u64,
    /// Runs logged since the last group, times their queues.
    pending_copies: u64,
    pending_settles: u64,
    settle_deadline: Option<Instant>,
    /// Queues with settled ranges that are not in a group yet.
    settled_queues: Vec<QueueId>,
    groups_out: u32,
    records: BTreeMap<u64, RecordState>,
    live_records: usize,
    /// Runs in records that live, dead ones among them: a start reads them all.
    entries: u64,
    files: BTreeMap<u64, BodyFile>,
    /// Octets of live runs inside records.
    inline_live: u64,
    /// Places that were copied from by groups under way, a list for each; and by the group that is pending.
    copied: VecDeque<Vec<(Place, u64)>>,
    copied_next: Vec<(Place, u64)>,
    /// Runs on disk that can't be read back: they are left where they are.
    unreadable: BTreeSet<EnqueueId>,
    /// Body files that had no live run when last looked at.
    dead_files: Vec<u64>,
    /// Highest number of a body file seen; the store still writes to this one or to newer ones.
    newest_file: u64,
    /// The last step of copying was one from the head for the sake of `entries`: next is another's turn.
    head_was_last: bool,
    /// Queues with many short runs on disk.
    crowded: VecDeque<QueueId>,
    /// Runs that were left, or will be, when all queues were gone through that had some to join; fewer once there are fewer.
    unjoinable: u64,
    /// The last step of joining makes so little of all runs go that nobody need wait for it.
    joins_little: bool,
    /// Channels whose confirms wait, in commit order.
    confirm_waiters: VecDeque<(CommitSeq, ConnectionId, u16)>,
    /// Channels with replies that wait, in commit order.
    reply_waiters: VecDeque<(CommitSeq, ConnectionId, u16)>,
    pub(crate) groups_committed: u64,
}

impl Log {
    /// A new command begins: its first durable change gets a commit of its own.
    pub(crate) fn begin_command(&mut self) {
        self.in_command = false;
    }

    /// The commit of the command under way.
    fn touch(&mut self) -> CommitSeq {
        if !self.in_command {
            self.in_command = true;
            self.commit = self.commit.next();
        }
        self.commit
    }

    /// Whether everything up to `commit` is on disk.
    pub(crate) fn is_durable(&self, commit: CommitSeq) -> bool {
        commit <= self.durable
    }

    /// The run that was logged last.
    pub(crate) fn last_enqueue(&self) -> EnqueueId {
        self.last_enqueue
    }
    /// Octets of messages waiting for the store.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }
    /// Runs logged since the last group, times their queues.
    pub(crate) fn pending_copies(&self) -> u64 {
        self.pending_copies
    }
    /// Runs in the log, and on their way to it.
    pub(crate) fn runs(&self) -> u64 {
        self.runs.len() as u64
    }
    /// Operations waiting for the store.
    pub(crate) fn pending_ops(&self) -> u64 {
        self.pending_live + self.pending_settles
    }

    /// The oldest run of the group that gathers.
    pub(crate) fn oldest_pending(&self) -> Option<EnqueueId> {
        self.pending.iter().find_map(|op| match op {
            PendingOp::Run(id) if self.runs.contains(*id) => Some(*id),
            _ => None,
        })
    }
    /// The queues of the group that gathers, when it is a few runs of messages and nothing else: acknowledgements could
    /// cancel all of it.
    pub(crate) fn pending_queues(&self) -> Option<impl Iterator<Item = QueueId>> {
        let run = |op: &PendingOp| match op {
            PendingOp::Run(id) => self.runs.get(*id).is_none_or(|run| !matches!(&run.at, At::Pending(p) if p.copy)),
            PendingOp::Op(_) => false,
        };
        if self.pending_live == 0 || self.pending.len() > FEW_RUNS || !self.pending.iter().all(run) {
            return None;
        }
        let runs = self.pending.iter().filter_map(|op| match op {
            PendingOp::Run(id) => self.runs.get(*id),
            PendingOp::Op(_) => None,
        });
        Some(runs.flat_map(|run| run.targets.iter().map(|target| target.queue)))
    }

    /// Adds an operation that is no enqueue.
    pub(crate) fn op(&mut self, op: StoreOp) -> CommitSeq {
        let defines = matches!(op, StoreOp::Put(_) | StoreOp::Delete(_));
        self.pending.push(PendingOp::Op(Box::new(op)));
        self.pending_live += 1;
        let commit = self.touch();
        if defines {
            self.defined = commit;
        }
        commit
    }

    /// Logs a run for its targets. The caller adds the [`LogRun`] to each target queue.
    pub(crate) fn enqueue(
        &mut self,
        span: Span,
        targets: Vec<Target>,
        meta: RunMeta,
        publisher: Option<Publisher>,
    ) -> (EnqueueId, CommitSeq) {
        self.last_enqueue = self.last_enqueue.next();
        let id = self.last_enqueue;
        let bytes = span_bytes(&span);
        self.pending_bytes += bytes;
        self.pending_copies += targets.len() as u64;
        let run = LoggedRun {
            live: span.count.saturating_mul(targets.len() as u32),
            count: span.count,
            bytes,
            at: At::Pending(Box::new(Pending { span, settled: Vec::new(), publisher, copy: false })),
            meta: meta.into(),
            targets: targets.into(),
        };
        self.runs.push(id, run);
        self.pending.push(PendingOp::Run(id));
        self.pending_live += 1;
        (id, self.touch())
    }

    /// A run lies at a place: its record and body file count it, and so many octets as live. Whether it lies behind all that
    /// was in its file.
    fn settle_down(&mut self, id: EnqueueId, place: Place, live: u64) -> bool {
        let record = self.records.entry(place.lsn).or_default();
        if record.live == 0 {
            self.live_records += 1;
        }
        record.live += 1;
        record.runs.push(id);
        self.entries += 1;
        match place.body {
            Some(body) => {
                self.newest_file = self.newest_file.max(body.file);
                self.files.entry(body.file).or_default().add(id, &body, live)
            }
            None => {
                self.inline_live += live;
                false
            }
        }
    }

    /// Whether a run is known to be damaged.
    pub(crate) fn is_unreadable(&self, id: EnqueueId) -> bool {
        self.unreadable.contains(&id)
    }
    /// A run on disk turned out to be damaged.
    pub(crate) fn note_unreadable(&mut self, id: EnqueueId) {
        if self.runs.contains(id) {
            self.unreadable.insert(id);
        }
    }

    /// Whether records or body files without anything live wait for a group to go with.
    fn has_leftovers(&self) -> bool {
        self.records.first_key_value().is_some_and(|(_, r)| r.live == 0)
            || self.dead_files.iter().any(|f| *f < self.newest_file)
    }
    /// Sees to it that leftovers go before long, also when no client does anything any more.
    pub(crate) fn tidy_soon(&mut self, now: Now, delay_ms: u64) {
        if self.settle_deadline.is_none() && self.has_leftovers() {
            self.settle_deadline = Some(now.mono.plus_ms(delay_ms));
        }
    }
    /// Where a run lies, once it is on disk, and how many messages it has.
    pub(crate) fn place(&self, id: EnqueueId) -> Option<(Place, u32)> {
        match self.runs.get(id) {
            Some(LoggedRun { at: At::Stored(place), count, .. }) => Some((*place, *count)),
            _ => None,
        }
    }

    /// Messages left a queue: their log runs lose them, and what nobody needs any more goes.
    pub(crate) fn settle(
        &mut self,
        now: Now,
        delay_ms: u64,
        queue: &mut Queue,
        range: SeqRange,
        left: Left,
        early: &mut Vec<EarlyConfirm>,
    ) {
        queue.forget_counters(range);
        let last = range.last();
        let mut k = match queue.logged.front() {
            Some(front) if front.first + u64::from(front.count) > range.first => 0,
            _ => queue.logged.partition_point(|r| r.first + u64::from(r.count) <= range.first),
        };
        let step = u64::from(range.step);
        let mut to_disk = false;
        let mut emptied = 0u32;
        while let Some(log_run) = queue.logged.get_mut(k) {
            if log_run.first > last {
                break;
            }
            // members of the progression within this log run
            let lo = if range.first >= log_run.first {
                range.first
            } else {
                range.first + (log_run.first - range.first).div_ceil(step) * step
            };
            let end = log_run.first + u64::from(log_run.count);
            let hi = last.min(end - 1);
            if lo > hi {
                k += 1;
                continue;
            }
            let n = ((hi - lo) / step + 1) as u32;
            let index = log_run.index + (lo - log_run.first) as u32;
            let id = log_run.enqueue;
            let part = SeqRange { first: lo, count: n, step: range.step };
            log_run.forget(part);
            if log_run.live == 0 {
                emptied += 1;
            }
            let tell = self.settle_in_run(id, queue.id, part, index, left, early);
            if tell && !matches!(left, Left::Known(mark) if id <= mark) {
                push_range(&mut queue.settled, part);
                to_disk = true;
                self.pending_settles += u64::from(n);
            }
            k += 1;
        }
        if emptied > 0 {
            queue.drop_dead_runs(emptied);
        }
        if to_disk {
            self.touch();
            if !queue.settle_listed {
                queue.settle_listed = true;
                self.settled_queues.push(queue.id);
            }
            if self.settle_deadline.is_none() {
                self.settle_deadline = Some(now.mono.plus_ms(delay_ms));
            }
        }
    }

    /// A part of a run, `index` being that of its first message, is settled in one queue. Says whether the disk must learn of it.
    fn settle_in_run(
        &mut self,
        id: EnqueueId,
        queue: QueueId,
        part: SeqRange,
        index: u32,
        left: Left,
        early: &mut Vec<EarlyConfirm>,
    ) -> bool {
        let SeqRange { count: n, step, .. } = part;
        let Some(run) = self.runs.get_mut(id) else { return false };
        let before = run.live_bytes();
        run.live -= n.min(run.live);
        let gone = run.live == 0;
        // a copy that moved on is still somewhere: its publisher waits for the disk, whoever takes the other copies
        let (shared, count) = (run.targets.len() > 1, run.count);
        if let Some(publisher) = run.publisher() {
            if left != Left::Taken && shared {
                *publisher = None;
            }
            if left == Left::Taken
                && let Some(p) = publisher
            {
                if !shared {
                    let tags = SeqRange { first: p.first_tag + u64::from(index), count: n, step };
                    early.push(p.early(tags));
                } else if gone {
                    early.push(p.early(SeqRange::dense(p.first_tag, count)));
                }
            }
        }
        match &mut run.at {
            At::Pending(p) => {
                let copy = p.copy;
                if gone {
                    self.pending_bytes -= run.bytes.min(self.pending_bytes);
                    self.pending_live -= 1;
                    self.runs.remove(id);
                } else if !copy {
                    p.settled.push((queue, part));
                }
                copy
            }
            At::Writing(_) => true,
            At::Stored(place) => {
                let (place, after) = (*place, run.live_bytes());
                if gone {
                    self.runs.remove(id);
                    self.unreadable.remove(&id);
                    self.bury(place, before);
                } else {
                    self.forget_bytes(place, before, after);
                }
                true
            }
        }
    }

    /// Messages on disk died, their run lives on with less than before.
    fn forget_bytes(&mut self, place: Place, before: u64, after: u64) {
        match place.body {
            None => self.inline_live = (self.inline_live + after).saturating_sub(before),
            Some(body) => {
                if let Some(file) = self.files.get_mut(&body.file) {
                    file.change(&body, before, after);
                }
            }
        }
    }

    /// A run on disk died that had so many octets left.
    fn bury(&mut self, place: Place, live: u64) {
        if let Some(record) = self.records.get_mut(&place.lsn)
            && record.live > 0
        {
            record.live -= 1;
            if record.live == 0 {
                self.live_records -= 1;
                self.entries -= record.runs.count().min(self.entries);
                record.runs = Ids::default();
            }
        }
        let Some(body) = place.body else { return self.forget_bytes(place, live, 0) };
        if let Some(file) = self.files.get_mut(&body.file) {
            file.remove(&body, live);
            if file.live == 0 {
                self.dead_files.push(body.file);
            }
        }
    }

    /// Whether there is something that must not wait for company.
    fn is_urgent(&self) -> bool {
        self.pending_live > 0
    }

    /// When all that was pending has cancelled itself and nothing is under way, every commit so far is covered.
    pub(crate) fn cover_cancelled(&mut self) {
        if self.pending_live == 0 && self.pending_settles == 0 && self.groups_out == 0 {
            self.pending.clear();
            self.pending_copies = 0;
            self.durable = self.commit;
        }
    }

    /// When a group of settlements alone has waited long enough.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.is_urgent() { None } else { self.settle_deadline }
    }

    /// A channel's confirms wait for `commit`.
    pub(crate) fn wait_confirm(&mut self, commit: CommitSeq, connection: ConnectionId, channel: u16) {
        if self.confirm_waiters.back() != Some(&(commit, connection, channel)) {
            self.confirm_waiters.push_back((commit, connection, channel));
        }
    }
    /// A channel's replies wait for `commit`.
    pub(crate) fn wait_reply(&mut self, commit: CommitSeq, connection: ConnectionId, channel: u16) {
        // one that waits for an earlier definition comes behind those that wait for all there is
        let at = self.reply_waiters.partition_point(|(other, ..)| *other <= commit);
        self.reply_waiters.insert(at, (commit, connection, channel));
    }
    /// Channels whose confirms the watermark reached.
    pub(crate) fn ready_confirms(&mut self, mut each: impl FnMut(CommitSeq, ConnectionId, u16)) {
        let durable = self.durable;
        let mut last = None;
        while let Some(&(commit, connection, channel)) = self.confirm_waiters.front() {
            if commit > durable {
                break;
            }
            self.confirm_waiters.pop_front();
            if last != Some((connection, channel)) {
                each(durable, connection, channel);
            }
            last = Some((connection, channel));
        }
    }
    /// Channels whose replies the watermark reached.
    pub(crate) fn ready_replies(&mut self) -> Option<(ConnectionId, u16)> {
        let &(commit, connection, channel) = self.reply_waiters.front()?;
        if commit > self.durable {
            return None;
        }
        self.reply_waiters.pop_front();
        Some((connection, channel))
    }
    /// What covers every definition so far. Who is told that something is there, or is not, waits for it, whoever put it there
    /// or deleted it; nothing else on its way to the disk holds that up.
    pub(crate) fn defined(&self) -> CommitSeq {
        self.defined
    }
    /// Highest commit given out.
    pub(crate) fn current(&self) -> CommitSeq {
        self.commit
    }
}

/// Octets of a run that has a frame of a body file for itself, or with others that hold all of it too.
fn whole_frame(place: &Place) -> Option<u64> {
    place.body.filter(|_| !place.is_part()).map(|body| u64::from(body.len))
}

/// Octets of the frames of a span.
fn span_bytes(span: &Span) -> u64 {
    span.indexes().map(|i| u64::from(span.batch.meta(i).len)).sum()
}
