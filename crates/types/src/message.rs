//! Messages as they travel: many in one buffer, encoded as they were received.
//!
//! A [`Batch`] holds the content frames (header frame, body frames) of consecutive messages back to back, as they came off
//! the wire, so that a delivery is a copy of bytes plus patched channel numbers. One reference count serves all of them.

use crate::copy::put_octets;
use crate::gauge::{BatchGauge, Counted};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// `delivery-mode` is 2.
pub const PERSISTENT: u8 = 1;
/// The property `headers` is present.
pub const HAS_HEADERS: u8 = 1 << 1;
/// The property `expiration` is present.
pub const HAS_EXPIRATION: u8 = 1 << 2;
/// The property `priority` is present.
pub const HAS_PRIORITY: u8 = 1 << 3;
/// The property `user-id` is present.
pub const HAS_USER_ID: u8 = 1 << 4;
/// The property `reply-to` is present.
pub const HAS_REPLY_TO: u8 = 1 << 5;
/// More than one body frame.
pub const MULTI_FRAME: u8 = 1 << 6;
/// The header `x-death` was written by this broker: it counts as history, a publisher's own does not.
pub const DEAD_LETTERED: u8 = 1 << 7;

/// First octet of what stands beside a route: the header `CC` no longer counts among the message's routing keys, because it
/// was dead-lettered with a key that replaced them.
const CC_SPENT: u8 = 1;

/// Octets of a frame around its payload: type, channel, size, end octet.
pub const FRAME_OVERHEAD: usize = 8;
/// Octets of a content header payload before the property flags: class, weight, body size.
pub const CONTENT_HEADER_FIXED: usize = 12;

/// Where one message lies in its batch and what routing, persistence and expiry must know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageMeta {
    /// Offset of the header frame in the batch's bytes.
    pub offset: u32,
    /// Octets of header frame and body frames together.
    pub len: u32,
    /// Octets of the body alone.
    pub body: u32,
    /// Index of the message's route in the batch.
    pub route: u16,
    /// `PERSISTENT`, `HAS_…`, `MULTI_FRAME`.
    pub flags: u8,
    /// The property `priority`; 0 when absent.
    pub priority: u8,
}

/// Exchange and routing key as one slice of the batch: two short strings with their length octets, the form in which
/// `basic.publish` brings them and `basic.deliver` ends with them. Behind them may stand what no consumer sees: an octet of
/// marks and further routing keys as short strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct RouteMeta {
    offset: u32,
    len: u16,
    beside: u32,
}

/// Octets of exchange and routing key at the head of a full route; `None` when it is not well formed.
fn shown_part(route: &[u8]) -> Option<usize> {
    let exchange = usize::from(*route.first()?);
    let key = usize::from(*route.get(1 + exchange)?);
    let len = 2 + exchange + key;
    (len <= route.len()).then_some(len)
}

fn short_strings(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, tail) = rest.split_first()?;
        let key = tail.get(..usize::from(*len))?;
        rest = &tail[key.len()..];
        Some(key)
    })
}

/// Whether these octets are a route as [`Batch::full_route`] gives it: exchange and routing key, and perhaps marks and
/// further keys, all in UTF-8 and to the last octet.
pub fn is_full_route(route: &[u8]) -> bool {
    let Some(len) = shown_part(route) else { return false };
    let (shown, beside) = route.split_at(len);
    let keys = beside.get(1..).unwrap_or(&[]);
    let told: usize = short_strings(keys).map(|k| 1 + k.len()).sum();
    told == keys.len() && short_strings(shown).chain(short_strings(keys)).all(|s| std::str::from_utf8(s).is_ok())
}

/// Consecutive messages in one buffer. Immutable once it is shared, by reference count.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Bytes,
    /// Octets that stay in memory for `bytes`.
    held: usize,
    routes: Vec<RouteMeta>,
    messages: Vec<MessageMeta>,
    counted: OnceLock<Counted>,
    wanted: Wanted,
}

/// How much of a batch its holders want, as far as a round of looking at them has come.
#[derive(Debug, Default)]
struct Wanted {
    round: AtomicU32,
    octets: AtomicU32,
}

impl Batch {
    /// Number of messages.
    pub fn len(&self) -> u32 {
        self.messages.len() as u32
    }
    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
    /// Puts the messages from `from` on in the order of their groups, each group in the order it had: `groups` says which
    /// one each message belongs to, `sizes` how many messages each has. Indexes change, octets stay where they are.
    pub fn gather(&mut self, from: u32, groups: &[u16], sizes: &[u32]) {
        let mut end = 0;
        let begin = |size: &u32| {
            end += size;
            end - size
        };
        let mut places: Vec<u32> = sizes.iter().map(begin).collect();
        let Some(messages) = self.messages.get_mut(from as usize..from as usize + groups.len()) else { return };
        let before = messages.to_vec();
        for (meta, group) in before.into_iter().zip(groups) {
            let Some(place) = places.get_mut(usize::from(*group)) else { return };
            if let Some(slot) = messages.get_mut(*place as usize) {
                *slot = meta;
            }
            *place += 1;
        }
    }
    /// Octets this batch keeps in memory, roughly.
    pub fn resident_bytes(&self) -> usize {
        self.held + self.messages.len() * size_of::<MessageMeta>() + self.routes.len() * size_of::<RouteMeta>() + 96
    }
    /// Counts what it keeps in memory in a gauge, if none has it yet.
    pub fn count_in(&self, gauge: &BatchGauge) {
        self.counted.get_or_init(|| gauge.count(self.resident_bytes() as u64));
    }
    /// Somebody who is looked at in a round wants these messages of it.
    pub fn want(&self, round: u32, from: u32, count: u32, step: u32) {
        let octets: u64 = (0..count).map(|k| u64::from(self.meta(from + k * step).len)).sum();
        let octets = octets + u64::from(count) * (size_of::<MessageMeta>() + size_of::<RouteMeta>()) as u64;
        // what those before had is forgotten: only one at a time looks
        let before = if self.wanted.round.swap(round, Relaxed) == round { self.wanted.octets.load(Relaxed) } else { 0 };
        self.wanted.octets.store(u32::try_from(u64::from(before) + octets).unwrap_or(u32::MAX), Relaxed);
    }
    /// Whether copies of all that was wanted in a round, one for each who did, would take less than half of its memory. Not where
    /// nothing was: those who hold it came later.
    pub fn is_waste(&self, round: u32) -> bool {
        self.wanted.round.load(Relaxed) == round
            && (self.wanted.octets.load(Relaxed) as usize) < self.resident_bytes() / 2
    }
    /// What is known of message `i`. Panics when `i` is out of range, as all accessors here do: indexes come from spans
    /// that were checked when they were made.
    pub fn meta(&self, i: u32) -> MessageMeta {
        self.messages[i as usize]
    }
    /// All metas in order.
    pub fn metas(&self) -> &[MessageMeta] {
        &self.messages
    }
    /// Header frame and body frames of message `i` (channel numbers are whatever the publisher used).
    pub fn frames(&self, i: u32) -> &[u8] {
        let m = self.meta(i);
        &self.bytes[m.offset as usize..(m.offset + m.len) as usize]
    }
    /// The same as a shared slice.
    pub fn frames_bytes(&self, i: u32) -> Bytes {
        let m = self.meta(i);
        self.bytes.slice(m.offset as usize..(m.offset + m.len) as usize)
    }
    /// A part of what the accessors give, shared. Panics when it is not of this batch.
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.bytes.slice_ref(part)
    }
    /// Payload of the content header frame of message `i`: class, weight, body size, flags, properties.
    pub fn header(&self, i: u32) -> &[u8] {
        let f = self.frames(i);
        let size = u32::from_be_bytes([f[3], f[4], f[5], f[6]]) as usize;
        &f[7..7 + size]
    }
    /// The body frames of message `i`, with their envelopes.
    pub fn body_frames(&self, i: u32) -> &[u8] {
        let header = self.header(i).len() + FRAME_OVERHEAD;
        &self.frames(i)[header..]
    }
    /// The pieces of the body of message `i`, in order.
    pub fn body(&self, i: u32) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.body_frames(i);
        std::iter::from_fn(move || {
            if rest.len() < FRAME_OVERHEAD {
                return None;
            }
            let size = u32::from_be_bytes([rest[3], rest[4], rest[5], rest[6]]) as usize;
            let piece = &rest[7..7 + size];
            rest = &rest[FRAME_OVERHEAD + size..];
            Some(piece)
        })
    }
    /// Number of routes; [`MessageMeta::route`] is below it.
    pub fn routes(&self) -> usize {
        self.routes.len()
    }
    /// Exchange and routing key of message `i` as two length-prefixed short strings.
    pub fn route_bytes(&self, i: u32) -> &[u8] {
        let r = self.routes[self.meta(i).route as usize];
        &self.bytes[r.offset as usize..r.offset as usize + r.len as usize]
    }
    /// The same and what is kept beside it: marks and hidden routing keys.
    pub fn full_route(&self, i: u32) -> &[u8] {
        let r = self.routes[self.meta(i).route as usize];
        &self.bytes[r.offset as usize..r.offset as usize + r.len as usize + r.beside as usize]
    }
    fn beside(&self, i: u32) -> &[u8] {
        &self.full_route(i)[self.route_bytes(i).len()..]
    }
    /// Routing keys of message `i` that consumers don't see: those of the header `BCC`, which was taken off.
    pub fn hidden_keys(&self, i: u32) -> impl Iterator<Item = &str> {
        short_strings(self.beside(i).get(1..).unwrap_or(&[])).filter_map(|k| std::str::from_utf8(k).ok())
    }
    /// Whether the header `CC` of message `i` no longer counts among its routing keys.
    pub fn cc_spent(&self, i: u32) -> bool {
        self.beside(i).first().is_some_and(|marks| marks & CC_SPENT != 0)
    }
    /// Exchange of message `i`.
    pub fn exchange(&self, i: u32) -> &str {
        let r = self.route_bytes(i);
        std::str::from_utf8(&r[1..1 + r[0] as usize]).unwrap_or("")
    }
    /// Routing key of message `i`.
    pub fn routing_key(&self, i: u32) -> &str {
        let r = self.route_bytes(i);
        let e = r[0] as usize;
        std::str::from_utf8(&r[2 + e..]).unwrap_or("")
    }
    /// Whether the messages and routes of another batch are the same, octet by octet.
    pub fn is_alike(&self, other: &Self) -> bool {
        let same = |i: u32| {
            self.meta(i).body == other.meta(i).body
                && self.frames(i) == other.frames(i)
                && self.full_route(i) == other.full_route(i)
        };
        self.len() == other.len() && (0..self.len()).all(same)
    }
    /// Sum of body octets of `count` messages from `from` on, `step` apart.
    pub fn body_bytes(&self, from: u32, count: u32, step: u32) -> u64 {
        if step == 1 {
            self.messages[from as usize..(from + count) as usize].iter().map(|m| u64::from(m.body)).sum()
        } else {
            (0..count).map(|k| u64::from(self.meta(from + k * step).body)).sum()
        }
    }
}

/// Some messages of a batch: `from, from + step, …`, `count` of them.
#[derive(Debug, Clone)]
pub struct Span {
    /// The batch.
    pub batch: Arc<Batch>,
    /// Index of the first message.
    pub from: u32,
    /// How many, ≥ 1.
    pub count: u32,
    /// Distance of two indexes, ≥ 1.
    pub step: u32,
}

/// The batch of a span and which messages of it, see [`Span::key`].
pub type SpanKey = (*const Batch, u32, u32, u32);

impl Span {
    /// All messages of a batch.
    pub fn whole(batch: Arc<Batch>) -> Self {
        let count = batch.len();
        Self { batch, from: 0, count, step: 1 }
    }
    /// The indexes in the batch.
    pub fn indexes(&self) -> impl Iterator<Item = u32> + use<> {
        let (from, step) = (self.from, self.step);
        (0..self.count).map(move |k| from + k * step)
    }
    /// Whether these are the very messages of another span, not only alike.
    pub fn is_same(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
    /// What [`Self::is_same`] compares. Means nothing once the batch is gone.
    pub fn key(&self) -> SpanKey {
        (Arc::as_ptr(&self.batch), self.from, self.count, self.step)
    }
    /// Sum of body octets.
    pub fn body_bytes(&self) -> u64 {
        self.batch.body_bytes(self.from, self.count, self.step)
    }
}

/// Octets of messages that are copied together.
const TOGETHER: usize = 16 << 10;

/// Copies messages out of the batches they came in, neighbours into one as far as that stays small. Where each span lies then:
/// its batch and the index of its first message there; the others follow at once.
pub fn copy_apart(spans: &[Span]) -> Vec<(Arc<Batch>, u32)> {
    let mut places = Vec::with_capacity(spans.len());
    let mut rest = spans;
    while !rest.is_empty() {
        let mut builder = BatchBuilder::default();
        let mut begins = Vec::new();
        while let Some((span, behind)) = rest.split_first()
            // each may bring a route of its own
            && (builder.is_empty()
                || builder.size() < TOGETHER && builder.len().saturating_add(span.count) < u32::from(u16::MAX))
        {
            begins.push(builder.len());
            builder.append(span);
            rest = behind;
        }
        let batch = builder.finish();
        places.extend(begins.into_iter().map(|from| (Arc::clone(&batch), from)));
    }
    places
}

/// Marks offsets that count from the front of a buffer outside the builder.
const OUTSIDE: u32 = 1 << 31;
/// A buffer becomes a batch as it is when no more than this part of it is anything but content: queued messages keep all of it.
const WASTE: usize = 8;
/// Smallest buffer that becomes a batch as it is, octets: less is copied sooner than a new one is made.
const WHOLE_MIN: usize = 32 << 10;

/// Builds a [`Batch`], either from octets that are put into it, or from messages that lie in a buffer of the caller's
/// ([`Self::push_frames_at`]): then that buffer becomes the batch, if it holds little else.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    bytes: BytesMut,
    /// Octets of the messages and routes that lie outside.
    outside: usize,
    routes: Vec<RouteMeta>,
    messages: Vec<MessageMeta>,
}

impl BatchBuilder {
    /// An empty builder with room for `capacity` octets.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: BytesMut::with_capacity(capacity), ..Self::default() }
    }
    /// Octets collected so far.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.outside
    }
    /// Messages collected so far.
    pub fn len(&self) -> u32 {
        self.messages.len() as u32
    }
    /// Whether no message was collected.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
    /// Adds a route given as it stands in `basic.publish`: two length-prefixed short strings, both UTF-8 (the caller
    /// has checked). The index holds for following messages. At most 65 535 routes a batch; see [`Self::is_full`].
    pub fn push_route_bytes(&mut self, route: &[u8]) -> u16 {
        let index = self.routes.len() as u16;
        self.routes.push(RouteMeta { offset: self.bytes.len() as u32, len: route.len() as u16, beside: 0 });
        self.bytes.put_slice(route);
        index
    }
    /// Adds a route as [`Self::push_route_bytes`] does, which lies at `at` in a buffer outside.
    pub fn push_route_at(&mut self, at: usize, route: &[u8]) -> u16 {
        let Some(offset) = outside(at) else { return self.push_route_bytes(route) };
        let index = self.routes.len() as u16;
        self.routes.push(RouteMeta { offset, len: route.len() as u16, beside: 0 });
        self.outside += route.len();
        index
    }
    /// Adds a route as [`Batch::full_route`] gave it.
    pub fn push_full_route(&mut self, route: &[u8]) -> u16 {
        let index = self.push_route_bytes(route);
        if let (Some(meta), Some(len)) = (self.routes.last_mut(), shown_part(route)) {
            meta.len = len as u16;
            meta.beside = (route.len() - len) as u32;
        }
        index
    }
    /// Adds a route with what is kept beside it: whether the header `CC` is spent, and routing keys that consumers don't
    /// see.
    pub fn push_route_beside(&mut self, exchange: &str, routing_key: &str, cc_spent: bool, hidden: &[&str]) -> u16 {
        let index = self.push_route(exchange, routing_key);
        if cc_spent || !hidden.is_empty() {
            let from = self.bytes.len();
            self.bytes.put_u8(if cc_spent { CC_SPENT } else { 0 });
            for key in hidden {
                let key = &key.as_bytes()[..key.len().min(255)];
                self.bytes.put_u8(key.len() as u8);
                self.bytes.put_slice(key);
            }
            let beside = (self.bytes.len() - from) as u32;
            if let Some(meta) = self.routes.last_mut() {
                meta.beside = beside;
            }
        }
        index
    }
    /// Adds a route.
    pub fn push_route(&mut self, exchange: &str, routing_key: &str) -> u16 {
        let mut route = Vec::with_capacity(2 + exchange.len() + routing_key.len());
        for s in [exchange, routing_key] {
            let s = &s.as_bytes()[..s.len().min(255)];
            route.push(s.len() as u8);
            route.extend_from_slice(s);
        }
        self.push_route_bytes(&route)
    }
    /// Whether a new batch must be begun before the next message: routes or offsets would overflow their integers.
    pub fn is_full(&self) -> bool {
        self.routes.len() >= usize::from(u16::MAX) - 1 || self.size() >= 1 << 30
    }
    /// Adds a message whose content frames are already encoded. `meta.offset` and `meta.len` are set here.
    pub fn push_frames(&mut self, frames: &[u8], mut meta: MessageMeta) {
        meta.offset = self.bytes.len() as u32;
        meta.len = frames.len() as u32;
        put_octets(&mut self.bytes, frames);
        self.messages.push(meta);
    }
    /// Adds a message as [`Self::push_frames`] does, which lies at `at` in a buffer outside.
    pub fn push_frames_at(&mut self, at: usize, frames: &[u8], meta: MessageMeta) {
        let Some(offset) = outside(at) else { return self.push_frames(frames, meta) };
        self.outside += frames.len();
        self.messages.push(MessageMeta { offset, len: frames.len() as u32, ..meta });
    }
    /// Makes room for so many more messages.
    pub fn reserve(&mut self, messages: usize) {
        self.messages.reserve(messages);
    }
    /// Begins a message whose frames are put piece by piece into [`Self::buf`]; ended by [`Self::end_message`].
    pub fn begin_message(&mut self, meta: MessageMeta) {
        self.messages.push(MessageMeta { offset: self.bytes.len() as u32, ..meta });
    }
    /// The buffer, to append frames between begin and end.
    pub fn buf(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
    /// Ends the message begun last.
    pub fn end_message(&mut self) {
        let end = self.bytes.len() as u32;
        if let Some(m) = self.messages.last_mut() {
            m.len = end - m.offset;
        }
    }
    /// Adds a message from its content header payload (class, weight, body size, flags, properties; the body size in it
    /// is overwritten) and body pieces, cutting body frames to at most `frame_max` octets with envelope (0 = one frame).
    pub fn push_message<'a>(
        &mut self,
        header: &[u8],
        body: impl IntoIterator<Item = &'a [u8]>,
        mut meta: MessageMeta,
        frame_max: usize,
    ) {
        meta.flags &= !MULTI_FRAME;
        self.begin_message(meta);
        let start = self.bytes.len();
        put_frame(&mut self.bytes, 2, header);
        let mut total = 0usize;
        let mut frames = 0;
        let room = if frame_max == 0 { usize::MAX } else { frame_max - FRAME_OVERHEAD };
        for piece in body {
            total += piece.len();
            for part in piece.chunks(room.min(piece.len().max(1))) {
                put_frame(&mut self.bytes, 3, part);
                frames += 1;
            }
        }
        self.bytes[start + 7 + 4..start + 7 + 12].copy_from_slice(&(total as u64).to_be_bytes());
        self.end_message();
        if let Some(m) = self.messages.last_mut() {
            m.body = total as u32;
            if frames > 1 {
                m.flags |= MULTI_FRAME;
            }
        }
    }
    /// Copies message `i` of another batch with a route of this one.
    pub fn push_copy(&mut self, from: &Batch, i: u32, route: u16) {
        let meta = MessageMeta { route, ..from.meta(i) };
        self.push_frames(from.frames(i), meta);
    }
    /// Copies messages of another batch with their routes; a route that the message before has too is kept once.
    pub fn append(&mut self, from: &Span) {
        for i in from.indexes() {
            let bytes = from.batch.full_route(i);
            let same = |r: &RouteMeta| {
                let end = r.offset as usize + usize::from(r.len) + r.beside as usize;
                self.bytes.get(r.offset as usize..end) == Some(bytes)
            };
            let route = match self.routes.last() {
                Some(last) if same(last) => self.routes.len() as u16 - 1,
                _ => self.push_full_route(bytes),
            };
            self.push_copy(&from.batch, i, route);
        }
    }
    /// The batch of messages that lie in the first `used` octets of `buffer`, which are taken off it: copied, or together with
    /// the whole buffer when that holds hardly anything else.
    pub fn finish_with(mut self, buffer: &mut BytesMut, used: usize) -> Arc<Batch> {
        let held = buffer.capacity();
        if held >= WHOLE_MIN && self.outside >= held - held / WASTE && self.bytes.is_empty() {
            let bytes = if used == buffer.len() {
                std::mem::take(buffer)
            } else {
                let bytes = buffer.split_to(used);
                // without the room behind it: what is read next would keep this batch's memory, and count as little
                *buffer = buffer.split();
                bytes
            };
            self.routes.iter_mut().for_each(|route| route.offset &= !OUTSIDE);
            self.messages.iter_mut().for_each(|message| message.offset &= !OUTSIDE);
            return self.batch(bytes.freeze(), held);
        }
        self.copy_outside(buffer);
        buffer.advance(used);
        self.finish()
    }
    /// Takes in what lies outside.
    pub fn copy_outside(&mut self, buffer: &[u8]) {
        if self.outside == 0 {
            return;
        }
        self.bytes.reserve(std::mem::take(&mut self.outside));
        let routes = self.routes.iter_mut().map(|r| (&mut r.offset, usize::from(r.len)));
        for (offset, len) in routes.chain(self.messages.iter_mut().map(|m| (&mut m.offset, m.len as usize))) {
            if *offset & OUTSIDE != 0 {
                let from = (*offset & !OUTSIDE) as usize;
                *offset = self.bytes.len() as u32;
                put_octets(&mut self.bytes, &buffer[from..from + len]);
            }
        }
    }
    /// The batch. It may live long: what was reserved for more is given back where that is much.
    pub fn finish(mut self) -> Arc<Batch> {
        debug_assert_eq!(self.outside, 0, "messages outside need finish_with");
        let own = std::mem::take(&mut self.bytes);
        let spare = own.capacity() - own.len();
        let copies = spare > MUCH && spare > own.len() / 4;
        let bytes = if copies { Bytes::copy_from_slice(&own) } else { own.freeze() };
        let held = bytes.len();
        self.batch(bytes, held)
    }
    fn batch(mut self, bytes: Bytes, held: usize) -> Arc<Batch> {
        if (self.messages.capacity() - self.messages.len()) * size_of::<MessageMeta>() > MUCH {
            self.messages.shrink_to_fit();
        }
        if (self.routes.capacity() - self.routes.len()) * size_of::<RouteMeta>() > MUCH {
            self.routes.shrink_to_fit();
        }
        Arc::new(Batch { bytes, held, routes: self.routes, messages: self.messages, ..Batch::default() })
    }
}

/// What is kept on a lasting batch's end unused before it is given back, octets.
const MUCH: usize = 4096;

/// The offset of a place outside; `None` where it is too far out.
fn outside(at: usize) -> Option<u32> {
    u32::try_from(at).ok().filter(|at| at & OUTSIDE == 0).map(|at| at | OUTSIDE)
}

/// Appends one frame on channel 0.
pub fn put_frame(out: &mut BytesMut, kind: u8, payload: &[u8]) {
    out.reserve(payload.len() + FRAME_OVERHEAD);
    out.put_u8(kind);
    out.put_u16(0);
    out.put_u32(payload.len() as u32);
    put_octets(out, payload);
    out.put_u8(0xCE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_built_from_parts_reads_back() {
        let mut b = BatchBuilder::default();
        let route = b.push_route("ex", "key");
        let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 2];
        let meta = MessageMeta { route, flags: PERSISTENT, ..MessageMeta::default() };
        b.push_message(&header, [&b"hello "[..], &b"world"[..]], meta, 4096);
        b.push_message(&header, [], meta, 4096);
        let batch = b.finish();
        assert_eq!((batch.exchange(0), batch.routing_key(0)), ("ex", "key"));
        assert_eq!(batch.body(0).collect::<Vec<_>>().concat(), b"hello world");
        assert_eq!(batch.meta(0).body, 11);
        assert_eq!(batch.meta(0).flags, PERSISTENT | MULTI_FRAME);
        assert_eq!(batch.header(0)[4..12], 11u64.to_be_bytes());
        assert_eq!(batch.body(1).count(), 0);
        assert_eq!(batch.body_bytes(0, 2, 1), 11);
    }

    /// Two messages of `size` octets as a client sends them, in a buffer with room for `room`; what the builder makes of
    /// them, and whether they were left where they lie.
    fn from_buffer(size: usize, room: usize) -> (BytesMut, Arc<Batch>, bool) {
        let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut buffer = BytesMut::with_capacity(room);
        let mut b = BatchBuilder::default();
        for octet in [b'x', b'y'] {
            buffer.put_slice(b"publish\x02ex\x04key.");
            let route = b.push_route_at(buffer.len() - 8, b"\x02ex\x04key.");
            let at = buffer.len();
            put_frame(&mut buffer, 2, &header);
            put_frame(&mut buffer, 3, &vec![octet; size]);
            b.push_frames_at(at, &buffer[at..], MessageMeta { route, ..MessageMeta::default() });
        }
        let used = buffer.len();
        buffer.put_slice(b"rest");
        let address = buffer.as_ptr();
        let batch = b.finish_with(&mut buffer, used);
        let in_place = address <= batch.frames(0).as_ptr() && batch.frames(0).as_ptr() < address.wrapping_add(used);
        assert!(!in_place || batch.resident_bytes() >= room, "a batch counts what it keeps");
        (buffer, batch, in_place)
    }

    #[test]
    fn a_buffer_full_of_messages_becomes_their_batch_and_any_other_is_left() {
        let (size, room) = (20_000, 42_000);
        let cases = [(size, room, true), (size, 2 * room, false), (100, room, false), (500, 1_200, false)];
        for (size, room, taken) in cases {
            let (rest, batch, in_place) = from_buffer(size, room);
            assert_eq!(&rest[..], b"rest");
            assert_eq!(in_place, taken, "{size} {room}");
            for (i, octet) in [(0, b'x'), (1, b'y')] {
                assert_eq!((batch.exchange(i), batch.routing_key(i)), ("ex", "key."));
                assert_eq!(batch.body(i).collect::<Vec<_>>().concat(), vec![octet; size]);
            }
        }
    }

    #[test]
    fn gathered_messages_keep_their_octets_and_the_order_within_their_group() {
        let mut b = BatchBuilder::default();
        for (at, key) in ["x", "a", "b", "a", "c", "b", "a", "y"].into_iter().enumerate() {
            let route = b.push_route("", key);
            let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            b.push_message(&header, [&[at as u8][..]], MessageMeta { route, ..MessageMeta::default() }, 0);
        }
        let mut batch = Arc::into_inner(b.finish()).expect("not shared");
        batch.gather(1, &[0, 1, 0, 2, 1, 0], &[3, 2, 1]);
        let shown: Vec<(String, Vec<u8>)> =
            (0..8).map(|i| (batch.routing_key(i).to_owned(), batch.body(i).flatten().copied().collect())).collect();
        let wanted = [("x", 0), ("a", 1), ("a", 3), ("a", 6), ("b", 2), ("b", 5), ("c", 4), ("y", 7)];
        assert_eq!(shown, wanted.map(|(key, at)| (key.to_owned(), vec![at])));
    }

    #[test]
    fn keys_beside_a_route_are_kept_and_not_shown() {
        let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 2];
        let mut b = BatchBuilder::default();
        for route in [
            b.push_route("ex", "key"),
            b.push_route_beside("ex", "key", false, &["one", "", "two"]),
            b.push_route_beside("ex", "key", true, &[]),
        ] {
            b.push_message(&header, [&b"x"[..]], MessageMeta { route, ..MessageMeta::default() }, 0);
        }
        let batch = b.finish();
        let mut copy = BatchBuilder::default();
        for i in 0..3 {
            assert!(is_full_route(batch.full_route(i)));
            let route = copy.push_full_route(batch.full_route(i));
            copy.push_copy(&batch, i, route);
        }
        let mut appended = BatchBuilder::default();
        appended.append(&Span::whole(Arc::clone(&batch)));
        for batch in [batch, copy.finish(), appended.finish()] {
            for i in 0..3 {
                assert_eq!((batch.route_bytes(i), batch.routing_key(i)), (&b"\x02ex\x03key"[..], "key"));
            }
            let hidden = |i| batch.hidden_keys(i).collect::<Vec<_>>();
            assert_eq!((hidden(0), hidden(1), hidden(2)), (vec![], vec!["one", "", "two"], vec![]));
            assert_eq!((0..3).map(|i| batch.cc_spent(i)).collect::<Vec<_>>(), [false, false, true]);
        }
        for bad in
            [&b""[..], b"\x02ex", b"\x02ex\x05key", b"\x00\x00\x00\x02a", b"\x00\x01\xff", b"\x00\x00\x00\x01\xff"]
        {
            assert!(!is_full_route(bad), "{bad:?}");
        }
    }
}
