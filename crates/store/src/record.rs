//! Log records: the parts a group is written as, and the ops in them.
//!
//! ```text
//! u8 version, u8 zero, u16 parts of the group, u32 crc32c (key, then the value without this field),
//! u64 watermark known when it was built, u64 records in the log after this group, u64 sum of their mixed lsns,
//! ops until the end
//! ```
//! Fixed numbers are big-endian, numbers inside ops are varints. The count and the sum tell at recovery whether a record
//! is missing from the middle of the log, which nothing else would show: records are removed in any order.

use crate::wire::{Input, put_varint};
use hornpipe_types::ids::QueueId;
use hornpipe_types::op::{BodyPlace, Place, RunMeta, Target};
use hornpipe_types::range::SeqRange;
use hornpipe_types::time::UnixMillis;

/// The newest format read. A part says the oldest one that has all its ops.
pub(crate) const VERSION: u8 = 2;
const FIRST_VERSION: u8 = 1;
/// Longest value of a log key, octets: small enough that the map never moves one to an unsynced file of its own.
pub(crate) const PART_MAX: usize = 64 << 10;
/// Octets before the ops.
pub(crate) const HEADER: usize = 32;
/// Most ops in a part; leaves the high bit of a place's index free.
const OPS_MAX: u16 = 1 << 14;
/// Set in a place's index when the run is part of a longer one in a body file: the record then says which part.
pub(crate) const SLICED: u16 = Place::PART;
/// Most targets in one run op; more are told by further ops about the same bytes.
pub(crate) const TARGETS_MAX: usize = 1000;
/// Most ranges in one op; more are told by further ops.
const RANGES_MAX: usize = 1500;

const RUN_INLINE: u8 = 1;
const RUN_BODY: u8 = 2;
const RUN_SLICE: u8 = 3;
const SETTLED: u8 = 4;
const STATE: u8 = 5;
const PURGE: u8 = 6;
const DROP_QUEUE: u8 = 7;
/// Since version 2.
const REDELIVERED: u8 = 8;
/// Since version 2.
const DEFINITIONS: u8 = 9;

/// What must be there: how many records or parts of definitions, and a sum that depends on which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Live {
    pub(crate) count: u64,
    pub(crate) sum: u64,
}

impl Live {
    /// Spreads a number over 64 bits (the finalizer of splitmix64), so that sums of different sets differ.
    fn mix(number: u64) -> u64 {
        let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Counts a record by its lsn, a part of a definition by its hash.
    pub(crate) fn add(&mut self, number: u64) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(Self::mix(number));
    }
    pub(crate) fn remove(&mut self, number: u64) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(Self::mix(number));
    }
}

/// What every part says of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) parts: u16,
    pub(crate) watermark: u64,
    pub(crate) live: Live,
}

/// Where a run's messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At<'a> {
    /// Here.
    Inline(&'a [u8]),
    /// In a body file, all of them.
    Body(BodyPlace),
    /// In a body file, from this index on.
    Slice(BodyPlace, u32),
}

/// A run op.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run<'a> {
    pub(crate) targets: Vec<Target>,
    pub(crate) meta: RunMeta,
    pub(crate) count: u32,
    pub(crate) body_bytes: u64,
    pub(crate) at: At<'a>,
}

/// A decoded op.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogOp<'a> {
    Run(Run<'a>),
    Settled {
        queue: QueueId,
        ranges: Vec<SeqRange>,
    },
    State {
        queue: QueueId,
        seq: u64,
        delivery_count: u32,
        acquired_count: u32,
        hold_until: UnixMillis,
    },
    /// `more`: the next op goes on with the exceptions.
    Purge {
        queue: QueueId,
        upto: u64,
        except: Vec<SeqRange>,
        more: bool,
    },
    DropQueue(QueueId),
    Redelivered {
        queue: QueueId,
        ranges: Vec<SeqRange>,
    },
    /// All definitions there are after this group.
    Definitions(Live),
}

/// The parts of a group in the making.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    parts: Vec<Vec<u8>>,
    ops: u16,
}

impl Parts {
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
    /// Appends an encoded op of at most `PART_MAX - HEADER` octets; returns its part and index.
    pub(crate) fn push(&mut self, op: &[u8]) -> (u16, u16) {
        debug_assert!(op.len() <= PART_MAX - HEADER, "an op of {} octets fits no part", op.len());
        let fits = self.parts.last().is_some_and(|p| p.len() + op.len() <= PART_MAX) && self.ops < OPS_MAX;
        if !fits {
            let mut part = Vec::with_capacity((HEADER + op.len()).max(256));
            part.resize(HEADER, 0);
            part[0] = FIRST_VERSION;
            self.parts.push(part);
            self.ops = 0;
        }
        let index = self.ops;
        self.ops += 1;
        if let Some(p) = self.parts.last_mut() {
            if matches!(op.first(), Some(&(REDELIVERED | DEFINITIONS))) {
                p[0] = VERSION;
            }
            p.extend_from_slice(op);
        }
        ((self.parts.len() - 1) as u16, index)
    }
    /// Keys and values; a group without ops gives one part without ops. `None` when there are more than 65 535.
    pub(crate) fn finish(mut self, lsn: u64, watermark: u64, live: Live) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
        if self.parts.is_empty() {
            let mut part = vec![0; HEADER];
            part[0] = FIRST_VERSION;
            self.parts.push(part);
        }
        let header = Header { parts: u16::try_from(self.parts.len()).ok()?, watermark, live };
        let sealed = self.parts.into_iter().enumerate().map(|(i, mut value)| {
            let key = crate::key::log(lsn, i as u16).to_vec();
            seal(&key, &mut value, header);
            (key, value)
        });
        Some(sealed.collect())
    }
}

fn seal(key: &[u8], value: &mut [u8], h: Header) {
    value[2..4].copy_from_slice(&h.parts.to_be_bytes());
    value[8..16].copy_from_slice(&h.watermark.to_be_bytes());
    value[16..24].copy_from_slice(&h.live.count.to_be_bytes());
    value[24..32].copy_from_slice(&h.live.sum.to_be_bytes());
    let crc = checksum(key, value);
    value[4..8].copy_from_slice(&crc.to_be_bytes());
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(key), &value[..4]), &value[8..])
}

/// Why a part can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadPart {
    Version(u8),
    Wrong(&'static str),
}

/// Checks a part and splits it into header and ops.
pub(crate) fn open<'a>(key: &[u8], value: &'a [u8]) -> Result<(Header, &'a [u8]), BadPart> {
    let mut r = Input(value);
    let short = BadPart::Wrong("the record is shorter than its header");
    let version = r.u8().ok_or(short)?;
    if value.len() < HEADER {
        return Err(short);
    }
    let crc = Input(&value[4..]).u32().ok_or(short)?;
    if checksum(key, value) != crc {
        return Err(BadPart::Wrong("the record's checksum does not match"));
    }
    // Only a sound record can be called newer: a flipped bit in its version is damage.
    if !(FIRST_VERSION..=VERSION).contains(&version) {
        return Err(BadPart::Version(version));
    }
    r.u8().ok_or(short)?;
    let parts = r.u16().ok_or(short)?;
    r.u32().ok_or(short)?;
    let watermark = r.u64().ok_or(short)?;
    let live = Live { count: r.u64().ok_or(short)?, sum: r.u64().ok_or(short)? };
    Ok((Header { parts, watermark, live }, &value[HEADER..]))
}

fn put_targets(out: &mut Vec<u8>, targets: &[Target], meta: &RunMeta, count: u32, body_bytes: u64) {
    put_varint(out, targets.len() as u64);
    for t in targets {
        put_varint(out, t.queue.0);
        put_varint(out, t.first_seq);
    }
    put_varint(out, meta.deadline.0);
    out.push(meta.priority);
    out.push(u8::from(meta.redelivered) | u8::from(meta.transient) << 1);
    put_varint(out, meta.delivery_count.into());
    put_varint(out, meta.acquired_count.into());
    put_varint(out, count.into());
    put_varint(out, body_bytes);
}

/// Encodes the head of an inline run of `len` octets; the run itself follows.
pub(crate) fn put_inline(
    out: &mut Vec<u8>,
    targets: &[Target],
    meta: &RunMeta,
    (count, body_bytes): (u32, u64),
    len: usize,
) {
    out.push(RUN_INLINE);
    put_targets(out, targets, meta, count, body_bytes);
    put_varint(out, len as u64);
}

/// Encodes a run that lies in a body file, whole or (`from`) in part.
pub(crate) fn put_body(
    out: &mut Vec<u8>,
    targets: &[Target],
    meta: &RunMeta,
    (count, body_bytes): (u32, u64),
    body: &BodyPlace,
    from: Option<u32>,
) {
    out.push(if from.is_some() { RUN_SLICE } else { RUN_BODY });
    put_targets(out, targets, meta, count, body_bytes);
    put_varint(out, body.file);
    put_varint(out, body.offset);
    put_varint(out, body.len.into());
    out.extend_from_slice(&body.crc.to_be_bytes());
    if let Some(from) = from {
        put_varint(out, from.into());
    }
}

fn put_ranges(out: &mut Vec<u8>, ranges: &[SeqRange]) {
    put_varint(out, ranges.len() as u64);
    for r in ranges {
        put_varint(out, r.first);
        put_varint(out, r.count.into());
        put_varint(out, r.step.into());
    }
}

/// Encodes settled ranges as one or more ops, each handed to `push`.
pub(crate) fn put_settled(
    scratch: &mut Vec<u8>,
    queue: QueueId,
    ranges: &[SeqRange],
    push: impl FnMut(&[u8]) -> (u16, u16),
) {
    put_list(scratch, SETTLED, queue, ranges, push);
}

/// Encodes what counts as redelivered.
pub(crate) fn put_redelivered(
    scratch: &mut Vec<u8>,
    queue: QueueId,
    ranges: &[SeqRange],
    push: impl FnMut(&[u8]) -> (u16, u16),
) {
    put_list(scratch, REDELIVERED, queue, ranges, push);
}

fn put_list(
    scratch: &mut Vec<u8>,
    kind: u8,
    queue: QueueId,
    ranges: &[SeqRange],
    mut push: impl FnMut(&[u8]) -> (u16, u16),
) {
    for chunk in ranges.chunks(RANGES_MAX) {
        scratch.clear();
        scratch.push(kind);
        put_varint(scratch, queue.0);
        put_ranges(scratch, chunk);
        push(scratch);
    }
}

/// Encodes a purge as one or more ops.
pub(crate) fn put_purge(
    scratch: &mut Vec<u8>,
    queue: QueueId,
    upto: u64,
    except: &[SeqRange],
    mut push: impl FnMut(&[u8]) -> (u16, u16),
) {
    let mut rest = except;
    loop {
        let (chunk, tail) = rest.split_at(rest.len().min(RANGES_MAX));
        rest = tail;
        scratch.clear();
        scratch.push(PURGE);
        scratch.push(u8::from(!rest.is_empty()));
        put_varint(scratch, queue.0);
        put_varint(scratch, upto);
        put_ranges(scratch, chunk);
        push(scratch);
        if rest.is_empty() {
            return;
        }
    }
}

/// Encodes a change of counters.
pub(crate) fn put_state(
    out: &mut Vec<u8>,
    queue: QueueId,
    seq: u64,
    (delivery_count, acquired_count): (u32, u32),
    hold_until: UnixMillis,
) {
    out.push(STATE);
    put_varint(out, queue.0);
    put_varint(out, seq);
    put_varint(out, delivery_count.into());
    put_varint(out, acquired_count.into());
    put_varint(out, hold_until.0);
}

/// Encodes the end of a queue.
pub(crate) fn put_drop_queue(out: &mut Vec<u8>, queue: QueueId) {
    out.push(DROP_QUEUE);
    put_varint(out, queue.0);
}

/// Encodes what definitions there must be.
pub(crate) fn put_definitions(out: &mut Vec<u8>, definitions: Live) {
    out.push(DEFINITIONS);
    put_varint(out, definitions.count);
    out.extend_from_slice(&definitions.sum.to_be_bytes());
}

fn ranges(r: &mut Input<'_>) -> Option<Vec<SeqRange>> {
    let n = r.varint()? as usize;
    let mut ranges = Vec::with_capacity(n.min(r.0.len()));
    for _ in 0..n {
        ranges.push(SeqRange { first: r.varint()?, count: r.varint32()?, step: r.varint32()? });
    }
    Some(ranges)
}

/// Reads the next op; `None` when the octets make no sense.
pub(crate) fn decode<'a>(r: &mut Input<'a>) -> Option<LogOp<'a>> {
    Some(match r.u8()? {
        kind @ (RUN_INLINE | RUN_BODY | RUN_SLICE) => {
            let n = r.varint()? as usize;
            let mut targets = Vec::with_capacity(n.min(r.0.len()));
            for _ in 0..n {
                targets.push(Target { queue: QueueId(r.varint()?), first_seq: r.varint()? });
            }
            let (deadline, priority, flags) = (UnixMillis(r.varint()?), r.u8()?, r.u8()?);
            let meta = RunMeta {
                deadline,
                priority,
                redelivered: flags & 1 != 0,
                transient: flags & 2 != 0,
                delivery_count: r.varint32()?,
                acquired_count: r.varint32()?,
            };
            let (count, body_bytes) = (r.varint32()?, r.varint()?);
            let at = if kind == RUN_INLINE {
                let len = usize::try_from(r.varint()?).ok()?;
                At::Inline(r.bytes(len)?)
            } else {
                let body = BodyPlace { file: r.varint()?, offset: r.varint()?, len: r.varint32()?, crc: r.u32()? };
                if kind == RUN_SLICE { At::Slice(body, r.varint32()?) } else { At::Body(body) }
            };
            LogOp::Run(Run { targets, meta, count, body_bytes, at })
        }
        SETTLED => LogOp::Settled { queue: QueueId(r.varint()?), ranges: ranges(r)? },
        STATE => LogOp::State {
            queue: QueueId(r.varint()?),
            seq: r.varint()?,
            delivery_count: r.varint32()?,
            acquired_count: r.varint32()?,
            hold_until: UnixMillis(r.varint()?),
        },
        PURGE => {
            let more = r.u8()? != 0;
            LogOp::Purge { queue: QueueId(r.varint()?), upto: r.varint()?, except: ranges(r)?, more }
        }
        DROP_QUEUE => LogOp::DropQueue(QueueId(r.varint()?)),
        REDELIVERED => LogOp::Redelivered { queue: QueueId(r.varint()?), ranges: ranges(r)? },
        DEFINITIONS => LogOp::Definitions(Live { count: r.varint()?, sum: r.u64()? }),
        _ => return None,
    })
}

/// The op at an index of a part's ops.
pub(crate) fn nth(ops: &[u8], index: u16) -> Option<LogOp<'_>> {
    ops_at(ops, std::iter::once(index)).next()
}

/// The ops at some indexes of a part's ops, which are told in order; up to where the octets make no sense.
pub(crate) fn ops_at<'a>(
    ops: &'a [u8],
    indexes: impl Iterator<Item = u16> + 'a,
) -> impl Iterator<Item = LogOp<'a>> + 'a {
    let (mut r, mut at) = (Input(ops), 0);
    indexes.map_while(move |index| {
        while at < index {
            decode(&mut r)?;
            at += 1;
        }
        at += 1;
        decode(&mut r)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Parts {
        let mut parts = Parts::default();
        let targets = [Target { queue: QueueId(300), first_seq: 1 }, Target { queue: QueueId(2), first_seq: 7 }];
        let meta = RunMeta {
            deadline: UnixMillis(128),
            priority: 5,
            redelivered: true,
            transient: false,
            delivery_count: 1,
            acquired_count: 2,
        };
        let body = BodyPlace { file: 3, offset: 4096, len: 70, crc: 0xdead_beef };
        let mut op = vec![];
        put_inline(&mut op, &targets, &meta, (2, 9), 3);
        op.extend_from_slice(b"run");
        assert_eq!(parts.push(&op), (0, 0));
        op.clear();
        put_body(&mut op, &targets[..1], &RunMeta::default(), (9, 900), &body, None);
        parts.push(&op);
        op.clear();
        put_body(&mut op, &targets[..1], &RunMeta::default(), (4, 400), &body, Some(5));
        assert_eq!(parts.push(&op), (0, 2));
        put_settled(&mut op, QueueId(2), &[SeqRange { first: 1, count: 2, step: 3 }], |o| parts.push(o));
        op.clear();
        put_state(&mut op, QueueId(2), 8, (1, 3), UnixMillis(0));
        parts.push(&op);
        put_purge(&mut op, QueueId(2), 99, &[SeqRange::dense(5, 1)], |o| parts.push(o));
        op.clear();
        put_drop_queue(&mut op, QueueId(2));
        assert_eq!(parts.push(&op), (0, 6));
        parts
    }

    /// The format on disk. If this fails, old data can no longer be read: raise VERSION and keep reading the old one.
    #[test]
    fn golden_bytes() {
        let sealed = sample().finish(0x0102, 0x0101, Live { count: 4, sum: 0x99 }).unwrap();
        assert_eq!(sealed.len(), 1);
        assert_eq!(sealed[0].0, [1, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0]);
        let hex: String = sealed[0].1.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    const GOLDEN: &str = concat!(
        "0100000182a90d35000000000000010100000000000000040000000000000099",
        "0102ac0201020780010501010202090372756e",
        "0201ac0201000000000009840703802046deadbeef",
        "0301ac0201000000000004900303802046deadbeef05",
        "04020101020305020801030006000263010501010702",
    );

    /// What an earlier version can't read says so, and nothing else does.
    #[test]
    fn a_part_says_the_oldest_version_that_reads_it() {
        let mut parts = sample();
        put_redelivered(&mut vec![], QueueId(2), &[SeqRange { first: 1, count: 2, step: 3 }], |o| parts.push(o));
        let sealed = parts.finish(0x0102, 0x0101, Live { count: 4, sum: 0x99 }).unwrap();
        let (key, value) = &sealed[0];
        assert_eq!((value[0], &value[value.len() - 6..]), (2, &[8, 2, 1, 1, 2, 3][..]));
        let (_, ops) = open(key, value).unwrap();
        let ranges = vec![SeqRange { first: 1, count: 2, step: 3 }];
        assert_eq!(nth(ops, 7), Some(LogOp::Redelivered { queue: QueueId(2), ranges }));

        let (mut parts, mut op) = (sample(), vec![]);
        let definitions = Live { count: 300, sum: 0x0102_0304_0506_0708 };
        put_definitions(&mut op, definitions);
        assert_eq!(parts.push(&op), (0, 7));
        let sealed = parts.finish(0x0102, 0x0101, Live { count: 4, sum: 0x99 }).unwrap();
        let (key, value) = &sealed[0];
        assert_eq!((value[0], &value[value.len() - 11..]), (2, &[9, 0xac, 2, 1, 2, 3, 4, 5, 6, 7, 8][..]));
        assert_eq!(nth(open(key, value).unwrap().1, 7), Some(LogOp::Definitions(definitions)));
    }

    #[test]
    fn ops_read_back() {
        let sealed = sample().finish(5, 4, Live::default()).unwrap();
        let (key, value) = &sealed[0];
        let (header, ops) = open(key, value).unwrap();
        assert_eq!(header, Header { parts: 1, watermark: 4, live: Live::default() });
        let body = BodyPlace { file: 3, offset: 4096, len: 70, crc: 0xdead_beef };
        match nth(ops, 0) {
            Some(LogOp::Run(run)) => {
                assert_eq!(run.at, At::Inline(b"run"));
                assert_eq!((run.targets.len(), run.count, run.body_bytes), (2, 2, 9));
                assert_eq!((run.meta.priority, run.meta.redelivered, run.meta.acquired_count), (5, true, 2));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(nth(ops, 1), Some(LogOp::Run(Run { at: At::Body(b), count: 9, .. })) if b == body));
        assert!(matches!(nth(ops, 2), Some(LogOp::Run(Run { at: At::Slice(b, 5), count: 4, .. })) if b == body));
        assert_eq!(
            nth(ops, 3),
            Some(LogOp::Settled { queue: QueueId(2), ranges: vec![SeqRange { first: 1, count: 2, step: 3 }] })
        );
        assert!(matches!(nth(ops, 4), Some(LogOp::State { seq: 8, delivery_count: 1, acquired_count: 3, .. })));
        assert!(matches!(nth(ops, 5), Some(LogOp::Purge { upto: 99, more: false, .. })));
        assert_eq!(nth(ops, 6), Some(LogOp::DropQueue(QueueId(2))));
        assert_eq!(nth(ops, 7), None);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let sealed = sample().finish(5, 4, Live { count: 1, sum: 2 }).unwrap();
        let (key, value) = &sealed[0];
        for bit in 0..value.len() * 8 {
            let mut bad = value.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(key, &bad).is_err(), "bit {bit}");
        }
        for cut in 0..value.len() {
            assert!(open(key, &value[..cut]).is_err(), "cut {cut}");
        }
        assert!(open(&crate::key::log(6, 0), value).is_err(), "a record under another key");
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let sealed = sample().finish(5, 4, Live::default()).unwrap();
        let (key, mut value) = sealed[0].clone();
        value[0] = 9;
        let crc = checksum(&key, &value).to_be_bytes();
        value[4..8].copy_from_slice(&crc);
        assert_eq!(open(&key, &value), Err(BadPart::Version(9)));
    }

    #[test]
    fn long_lists_are_split_and_parts_stay_small() {
        let ranges: Vec<SeqRange> =
            (0..20_000).map(|i| SeqRange { first: u64::MAX / 2 + i * 9, count: 1, step: 1 }).collect();
        let (mut parts, mut scratch) = (Parts::default(), vec![]);
        put_settled(&mut scratch, QueueId(u64::MAX), &ranges, |o| parts.push(o));
        put_purge(&mut scratch, QueueId(1), 5, &ranges, |o| parts.push(o));
        put_purge(&mut scratch, QueueId(1), 6, &[], |o| parts.push(o));
        let sealed = parts.finish(1, 0, Live::default()).unwrap();
        assert!(sealed.len() > 3);
        let (mut settled, mut except, mut ends) = (vec![], vec![], vec![]);
        for (key, value) in &sealed {
            assert!(value.len() <= PART_MAX);
            let mut r = Input(open(key, value).unwrap().1);
            while !r.is_empty() {
                match decode(&mut r).unwrap() {
                    LogOp::Settled { ranges, .. } => settled.extend(ranges),
                    LogOp::Purge { except: e, more, upto, .. } => {
                        except.extend(e);
                        if !more {
                            ends.push(upto);
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(settled, ranges);
        assert_eq!(except, ranges);
        assert_eq!(ends, [5, 6]);
    }
}
