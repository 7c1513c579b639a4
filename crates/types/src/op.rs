//! What reaches the disk. The core makes groups of these, the store writes each group as one atomic batch and reports
//! where it put what.

use crate::definition::{Definition, DefinitionKey};
use crate::ids::{CommitSeq, EnqueueId, QueueId, Seq};
use crate::message::Span;
use crate::range::SeqRange;
use crate::time::UnixMillis;

/// A queue a logged run went to, and the seq its first message has there; the following ones count up by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The queue.
    pub queue: QueueId,
    /// Seq of the first message of the run.
    pub first_seq: Seq,
}

/// What recovery must know of all messages of a logged run without reading them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunMeta {
    /// Wall-clock deadline of all of them; 0 = none.
    pub deadline: UnixMillis,
    /// Priority level (already clamped) in a priority queue; 0 elsewhere.
    pub priority: u8,
    /// Redelivered flag to start with.
    pub redelivered: bool,
    /// `x-delivery-count` to start with.
    pub delivery_count: u32,
    /// `x-acquired-count` to start with.
    pub acquired_count: u32,
    /// They lie in the log to be out of memory only: a recovery forgets them.
    pub transient: bool,
}

/// One logged run: messages that entered the same queues at consecutive seqs. Logged once for any fan-out.
#[derive(Debug, Clone)]
pub struct Enqueue {
    /// Names the run in [`Committed`].
    pub id: EnqueueId,
    /// The queues, at least one.
    pub targets: Vec<Target>,
    /// See [`RunMeta`].
    pub meta: RunMeta,
    /// The messages, `step` 1.
    pub span: Span,
    /// Those that follow them, where they lie in other batches; each `step` 1.
    pub more: Vec<Span>,
}

impl Enqueue {
    /// All messages, in order.
    pub fn spans(&self) -> impl Iterator<Item = &Span> + Clone {
        std::iter::once(&self.span).chain(&self.more)
    }
    /// Number of messages.
    pub fn count(&self) -> u32 {
        self.spans().map(|s| s.count).sum()
    }
}

/// What [`StoreOp::State`] has in `hold_until` is no time below this (it would lie before 2004), but a message's place among
/// those of its queue that came back: they are handed out in the order of these places.
pub const PLACES: u64 = 1 << 40;

/// A change to durable state.
#[derive(Debug, Clone)]
pub enum StoreOp {
    /// Messages enter queues. A second enqueue of the same (queue, seq) replaces the first, so replays are harmless.
    Enqueue(Enqueue),
    /// Messages that the store already has enter queues again under the same or other (queue, seq), without rewriting them
    /// (dead-letter without header change, copying forward of references): `count` messages from index `from` of the run at `place`.
    Refer {
        /// Names the new run in [`Committed`].
        id: EnqueueId,
        /// The queues.
        targets: Vec<Target>,
        /// See [`RunMeta`].
        meta: RunMeta,
        /// Where the messages lie.
        place: Place,
        /// First index in the run at `place`.
        from: u32,
        /// How many.
        count: u32,
    },
    /// Messages left the queue.
    Settled {
        /// The queue.
        queue: QueueId,
        /// Their seqs.
        ranges: Vec<SeqRange>,
    },
    /// Counters of one message changed.
    State {
        /// The queue.
        queue: QueueId,
        /// The message.
        seq: Seq,
        /// `x-delivery-count`.
        delivery_count: u32,
        /// `x-acquired-count`.
        acquired_count: u32,
        /// Not before this time (delayed retry); below [`PLACES`] at once, at this place.
        hold_until: UnixMillis,
    },
    /// Messages count as redelivered, nothing else about them has changed.
    Redelivered {
        /// The queue.
        queue: QueueId,
        /// Their seqs.
        ranges: Vec<SeqRange>,
    },
    /// All messages up to a seq left the queue, except these.
    Purge {
        /// The queue.
        queue: QueueId,
        /// Last seq that is gone.
        upto: Seq,
        /// Seqs that stay (unacked ones).
        except: Vec<SeqRange>,
    },
    /// The queue and all its messages are gone.
    DropQueue(QueueId),
    /// A definition is new or changed.
    Put(Definition),
    /// A definition is gone.
    Delete(DefinitionKey),
}

/// Where a logged run lies. Opaque to the core but for `lsn` (liveness of records), `file` and `offset` (liveness of body files,
/// runs that share a frame).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Log record group.
    pub lsn: u64,
    /// Part of the group.
    pub part: u16,
    /// Op within the part.
    pub index: u16,
    /// The out-of-line bytes, if any.
    pub body: Option<BodyPlace>,
}

impl Place {
    /// Set in `index` when the run is part of a longer one in a body file: the record then says which part.
    pub const PART: u16 = 1 << 15;

    /// Whether the run is part of a longer one in a body file.
    pub fn is_part(&self) -> bool {
        self.index & Self::PART != 0
    }
}

/// A frame in a body file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BodyPlace {
    /// Number of the file; never reused.
    pub file: u64,
    /// Octets from its start.
    pub offset: u64,
    /// Octets of the encoded run.
    pub len: u32,
    /// crc32c of them.
    pub crc: u32,
}

/// Everything handed to the store at once; written atomically.
#[derive(Debug, Default)]
pub struct Group {
    /// Highest commit in the group: the watermark after it is on disk.
    pub upto: CommitSeq,
    /// In the order they happened.
    pub ops: Vec<StoreOp>,
    /// Log record groups (lsn) that may go: nothing in them is live. At most 64 a group with other
    /// contents, 512 in one without.
    pub remove_records: Vec<u64>,
    /// Body files that may go once this group is on disk.
    pub remove_files: Vec<u64>,
}

impl Group {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.remove_records.is_empty() && self.remove_files.is_empty()
    }
}

/// A group that is on disk, fdatasync'ed.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    /// The watermark.
    pub upto: CommitSeq,
    /// Where the group's runs lie.
    pub places: Vec<(EnqueueId, Place)>,
    /// The group's lsn, 0 when it wrote no record.
    pub lsn: u64,
}

/// What recovery found, in this order: definitions, then log operations in log order.
#[derive(Debug, Clone)]
pub enum Recovered {
    /// A definition.
    Definition(Definition),
    /// A logged run, without its messages.
    Run {
        /// The queues.
        targets: Vec<Target>,
        /// See [`RunMeta`].
        meta: RunMeta,
        /// Number of messages.
        count: u32,
        /// Sum of their bodies, octets.
        body_bytes: u64,
        /// Where they lie.
        place: Place,
    },
    /// As the ops of the same names.
    Settled {
        /// The queue.
        queue: QueueId,
        /// Their seqs.
        ranges: Vec<SeqRange>,
    },
    /// As the op of the same name.
    Redelivered {
        /// The queue.
        queue: QueueId,
        /// Their seqs.
        ranges: Vec<SeqRange>,
    },
    /// As the op of the same name.
    State {
        /// The queue.
        queue: QueueId,
        /// The message.
        seq: Seq,
        /// `x-delivery-count`.
        delivery_count: u32,
        /// `x-acquired-count`.
        acquired_count: u32,
        /// Not before this time, or the place.
        hold_until: UnixMillis,
    },
    /// As the op of the same name.
    Purge {
        /// The queue.
        queue: QueueId,
        /// Last seq that is gone.
        upto: Seq,
        /// Seqs that stay.
        except: Vec<SeqRange>,
    },
    /// As the op of the same name.
    DropQueue(QueueId),
    /// A log record without anything live in it, reported so that it can be removed.
    Record {
        /// Its lsn.
        lsn: u64,
    },
    /// A body that was told to be there can't be read; told after all runs. Its queues stop at its messages.
    Hurt {
        /// Which.
        body: BodyPlace,
        /// The file, and what is wrong with it.
        reason: String,
        /// Loss is accepted: its messages are to leave their queues.
        dropped: bool,
    },
    /// The end of the log.
    End {
        /// Whether the last stop was clean: after an unclean one every recovered message counts as redelivered.
        clean: bool,
        /// Body files that no record names.
        orphan_files: Vec<u64>,
    },
}
