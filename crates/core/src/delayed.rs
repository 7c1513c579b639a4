//! Delayed messages: a delayed-message exchange holds them in a hidden queue of its own until they are due [RabbitMQ
//! delayed-message-exchange plugin].
//!
//! They are ordinary entries of that queue for the log, with the due time as deadline. Unlike RabbitMQ's plugin, which
//! confirms at once, a held persistent message is confirmed when it is on disk.

use crate::keys::Keys;
use crate::log::Left;
use crate::publish::{Entered, Entry, RouteOutcome, rewrite};
use crate::queue::ready::Segment;
use crate::shard::Shard;
use crate::thinning::Look;
use crate::timer::TimerKey;
use crate::topology::ExchangeId;
use hornpipe_types::args::{QueueArgs, parse_expiration};
use hornpipe_types::definition::{Definition, QueueDefinition};
use hornpipe_types::effect::ChannelEffect;
use hornpipe_types::error::ReplyCode;
use hornpipe_types::header::Properties;
use hornpipe_types::ids::{ConnectionId, QueueId, Seq};
use hornpipe_types::message::{PERSISTENT, Span};
use hornpipe_types::names::ShortStr;
use hornpipe_types::range::SeqRange;
use hornpipe_types::table::{FieldTable, Value};
use hornpipe_types::time::{Instant, Now};
use std::collections::{BTreeMap, BTreeSet};

/// Names of queues that the broker makes for itself begin with this: nobody else may declare such a name.
pub(crate) const OWN: char = '\u{1}';
/// Names of hidden queues begin with this.
pub(crate) const HIDDEN: &str = "\u{1}delayed.";

/// What a hidden queue holds, by due time.
#[derive(Debug, Default)]
pub(crate) struct Delayed {
    pub(crate) exchange: ShortStr,
    held: BTreeMap<(u64, Seq), Segment>,
    /// Due times of those whose body is on disk only.
    unread: BTreeMap<Seq, u64>,
    /// Logged ones whose body is in memory all the same.
    loaded: BTreeSet<(u64, Seq)>,
    timer: Option<Instant>,
    /// What is due is on the work list.
    releasing: bool,
}

/// Bodies of so many messages, or octets, that are due first stay in memory: what was read back to be released is not read again.
const HEAD: usize = 64;
const HEAD_BYTES: u64 = 256 << 10;

impl Delayed {
    pub(crate) fn new(exchange: ShortStr) -> Self {
        Self { exchange, ..Self::default() }
    }
    /// Keeps messages until their deadline; one entry each, so that each leaves alone.
    pub(crate) fn hold(&mut self, mut segment: Segment) {
        let seqs = segment.first..segment.end();
        if segment.batch.is_none() {
            self.unread.extend(seqs.map(|seq| (seq, segment.deadline)));
        } else if segment.logged {
            self.loaded.extend(seqs.map(|seq| (segment.deadline, seq)));
        }
        while segment.count > 1 {
            let one = segment.split_front(1);
            self.held.insert((one.deadline, one.first), one);
        }
        self.held.insert((segment.deadline, segment.first), segment);
    }
    /// Looks for batches that are mostly waste, from a message on; where to go on, `None` at the end.
    pub(crate) fn look_at(&mut self, from: Option<(u64, Seq)>, look: &mut Look<'_>) -> Option<(u64, Seq)> {
        look.at_map(&mut self.held, from, |segment| segment)
    }
    /// Messages held.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }
    /// Forgets the first one; whether there was one.
    pub(crate) fn forget_first(&mut self) -> bool {
        self.held.pop_first().is_some()
    }
    /// What lies in these positions can't be read: it stays on disk, and the others don't wait for it.
    fn set_aside(&mut self, first: Seq, end: Seq) {
        let mut rest = self.unread.split_off(&first);
        self.unread.append(&mut rest.split_off(&end));
        for (seq, due) in rest {
            self.held.remove(&(due, seq));
        }
    }
    /// The first due time.
    fn next_due(&self) -> Option<u64> {
        self.held.first_key_value().map(|((due, _), _)| *due)
    }
    /// Gives bodies read back to held messages; how many octets.
    pub(crate) fn attach(&mut self, first: Seq, batch: &std::sync::Arc<hornpipe_types::message::Batch>) -> u64 {
        let mut attached = 0;
        let end = first + u64::from(batch.len());
        let mut rest = self.unread.split_off(&first);
        self.unread.append(&mut rest.split_off(&end));
        for (seq, due) in rest {
            let Some(segment) = self.held.get_mut(&(due, seq)) else { continue };
            segment.from = (seq - first) as u32;
            segment.batch = Some(std::sync::Arc::clone(batch));
            segment.bytes = batch.body_bytes(segment.from, 1, 1);
            attached += segment.bytes;
            self.loaded.insert((due, seq));
        }
        attached
    }
    /// Drops bodies that are on disk (seqs below `stored`), those that are due last first, of `most` messages at most. Returns
    /// the octets freed.
    pub(crate) fn page_out(&mut self, stored: Seq, most: usize) -> u64 {
        let octets = |key| self.held.get(key).map_or(0, |s: &Segment| s.bytes);
        let mut kept = 0;
        let head = self.loaded.iter().take(HEAD).take_while(|key| {
            let fits = kept < HEAD_BYTES;
            kept += octets(*key);
            fits
        });
        let most = most.min(self.loaded.len() - head.count());
        let last: Vec<_> = self.loaded.iter().rev().take(most).filter(|(_, seq)| *seq < stored).copied().collect();
        let mut freed = 0;
        for (due, seq) in last {
            self.loaded.remove(&(due, seq));
            let Some(segment) = self.held.get_mut(&(due, seq)) else { continue };
            freed += segment.bytes;
            (segment.batch, segment.from) = (None, 0);
            self.unread.insert(seq, due);
        }
        freed
    }
}

impl Shard {
    /// The hidden queue of a delayed exchange, made when it is needed first.
    fn hidden_queue(&mut self, now: Now, vhost: usize, exchange: ExchangeId) -> Option<QueueId> {
        let v = self.vhosts.get(vhost)?;
        let of = v.topology.get(exchange)?.definition.clone();
        let name = ShortStr::new(&format!("{HIDDEN}{}", of.name));
        if let Some(id) = self.hidden.get(&(vhost, of.name.clone())).filter(|id| self.queues.contains_key(id)) {
            return Some(*id);
        }
        let definition = QueueDefinition {
            vhost: of.vhost.clone(),
            name,
            id: self.new_queue_id(),
            durable: of.durable,
            exclusive: false,
            auto_delete: false,
            arguments: FieldTable::default(),
            grave: None,
        };
        if of.durable {
            self.put_definition(Definition::Queue(definition.clone()));
        }
        Some(self.insert_hidden(now, vhost, definition))
    }

    /// Puts a hidden queue, new or recovered, into the shard.
    pub(crate) fn insert_hidden(&mut self, now: Now, vhost: usize, definition: QueueDefinition) -> QueueId {
        let id = definition.id;
        let exchange = ShortStr::new(definition.name.strip_prefix(HIDDEN).unwrap_or_default());
        let name = definition.name.clone();
        self.insert_queue(now, vhost, definition, QueueArgs::default(), None);
        if let Some(v) = self.vhosts.get_mut(vhost) {
            v.queues.remove(&name);
        }
        self.hidden.insert((vhost, exchange.clone()), id);
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.delayed = Some(Box::new(Delayed::new(exchange)));
        }
        id
    }

    /// The exchange is gone, and what it held with it.
    pub(crate) fn drop_delayed(&mut self, vhost: usize, exchange: &str) {
        let Some(id) = self.hidden.remove(&(vhost, ShortStr::new(exchange))) else { return };
        self.forget_damage(id);
        let Some(queue) = self.queues.remove(&id) else { return };
        if let Some(at) = queue.delayed.as_ref().and_then(|d| d.timer) {
            self.timers.disarm(at, TimerKey::Delayed(id));
        }
        self.resident -= queue.resident.min(self.resident);
        self.drop_queue(Now::default(), queue);
    }

    /// A publish that a delayed exchange holds: unroutable for `mandatory`, confirmed once it is kept safely.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn hold_delayed(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        mandatory: bool,
        span: &Span,
        vhost: usize,
        outcome: RouteOutcome,
        exchange: ExchangeId,
        expiration: Option<u64>,
    ) {
        if mandatory && outcome.queues.is_empty() {
            let text = ShortStr::new("NO_ROUTE");
            self.tell(from, number, ChannelEffect::Return { code: ReplyCode::NoRoute, text, span: span.clone() });
        }
        let persistent = span.batch.meta(span.from).flags & PERSISTENT != 0;
        let publisher = self.begin_publish(from, number, span.count, exchange, outcome.queues.len());
        self.totals.routed += u64::from(span.count);
        // one confirm for all of them: when the last is safe, or a refusal
        let held = self.hold_everywhere(now, vhost, span, &outcome.delayed);
        let queued = self.enter(now, &outcome.queues, span, Entry { persistent, expiration, publisher: None });
        if outcome.queues.iter().filter_map(|id| self.queues.get(id)).any(|q| q.settings.refuses()) {
            self.flush_queues(now, &outcome.queues);
        }
        let all = held.and(queued);
        self.tx_rejected |= all.rejected;
        if let Some(p) = publisher {
            self.answer_publish(p, span.count, all);
        }
    }

    /// Holds a message in the hidden queues of delayed exchanges.
    pub(crate) fn hold_everywhere(
        &mut self,
        now: Now,
        vhost: usize,
        span: &Span,
        holders: &[(ExchangeId, u64)],
    ) -> Entered {
        let persistent = span.batch.meta(span.from).flags & PERSISTENT != 0;
        let mut all = Entered::default();
        for (holder, ms) in holders {
            if let Some(id) = self.hidden_queue(now, vhost, *holder) {
                let entry = Entry { persistent, expiration: Some(*ms), publisher: None };
                all = all.and(self.enter(now, &[id], span, entry));
            }
        }
        all
    }

    /// Arms the timer for the first due message of a hidden queue.
    pub(crate) fn arm_delayed(&mut self, now: Now, id: QueueId) {
        let Some(delayed) = self.queues.get_mut(&id).and_then(|q| q.delayed.as_mut()) else { return };
        let Some(due) = delayed.next_due() else { return };
        let at = now.mono.plus_ms(due.saturating_sub(now.wall.0));
        if delayed.timer.is_some_and(|t| t <= at) {
            return;
        }
        if let Some(old) = delayed.timer.replace(at) {
            self.timers.disarm(old, TimerKey::Delayed(id));
        }
        self.timers.arm(at, TimerKey::Delayed(id));
    }

    /// Something may be due, or a body that was wanted is there.
    pub(crate) fn on_delayed_due(&mut self, now: Now, id: QueueId) {
        let Some(delayed) = self.queues.get_mut(&id).and_then(|q| q.delayed.as_mut()) else { return };
        if let Some(timer) = delayed.timer.take() {
            self.timers.disarm(timer, TimerKey::Delayed(id));
        }
        if !std::mem::replace(&mut delayed.releasing, true) {
            self.begin_release(now, id);
        }
    }

    /// All that was due has gone, or waits for its body.
    pub(crate) fn released(&mut self, id: QueueId) {
        if let Some(delayed) = self.queues.get_mut(&id).and_then(|q| q.delayed.as_mut()) {
            delayed.releasing = false;
        }
    }

    /// Releases what is due, as much as the allowance permits; whether that was all. Each message is routed by the bindings of
    /// this moment.
    pub(crate) fn release_due(&mut self, now: Now, id: QueueId) -> bool {
        let delay = self.limits.settle_delay_ms;
        loop {
            if self.units == 0 {
                return false;
            }
            let Some(queue) = self.queues.get_mut(&id) else { return true };
            let vhost = queue.vhost;
            let Some(delayed) = queue.delayed.as_mut() else { return true };
            let Some(entry) = delayed.held.first_entry() else { return true };
            if entry.key().0 > now.wall.0 {
                break;
            }
            if entry.get().batch.is_none() {
                // when it can't be asked for, because it is being written elsewhere, the commit of that brings us back
                let first = entry.get().first;
                let damaged = queue.log_runs_from(first).next().filter(|r| self.log.is_unreadable(r.enqueue));
                if let Some((from, end)) = damaged.map(|r| (r.first, r.end())) {
                    queue.delayed.as_mut().into_iter().for_each(|d| d.set_aside(from, end));
                    self.spend(1);
                    continue;
                }
                self.load_from(id, first);
                return true;
            }
            let segment = entry.remove();
            delayed.loaded.remove(&(segment.deadline, segment.first));
            self.log.begin_command();
            let exchange = delayed.exchange.clone();
            queue.resident -= segment.bytes.min(queue.resident);
            if segment.logged {
                let range = SeqRange::dense(segment.first, segment.count);
                self.log.settle(now, delay, queue, range, Left::Otherwise, &mut self.early);
            }
            self.resident -= segment.bytes.min(self.resident);
            self.spend(crate::work::DEATH_UNITS);
            if let Some(span) = segment.span() {
                self.release_held(now, vhost, &exchange, &span);
            }
        }
        self.arm_delayed(now, id);
        true
    }

    fn release_held(&mut self, now: Now, vhost: usize, exchange: &str, span: &Span) {
        let Some(id) = self.vhosts.get(vhost).and_then(|v| v.topology.find(exchange)) else { return };
        let i = span.from;
        let Ok(mut properties) = Properties::decode(span.batch.header(i)) else { return };
        if let Some(headers) = &mut properties.headers
            && let Some(delay) = headers.get("x-delay").and_then(negated)
        {
            // negative: a delayed exchange further on does not hold it again
            headers.set("x-delay", delay);
        }
        let keys = Keys::of(&span.batch, i, &properties);
        let span = rewrite(span, &properties, &keys.hidden());
        let outcome = self.route_with(vhost, &keys.all(), &properties, |topology, input, rng, routed| {
            topology.route_released(id, input, rng, routed);
        });
        let persistent = span.batch.meta(0).flags & PERSISTENT != 0;
        let expiration = properties.expiration.as_ref().and_then(|e| parse_expiration(e).ok());
        self.enter(now, &outcome.queues, &span, Entry { persistent, expiration, publisher: None });
    }
}

/// The same number with the other sign, of the same type where that has one.
fn negated(value: &Value) -> Option<Value> {
    Some(match *value {
        Value::I8(v) => Value::I8(v.checked_neg()?),
        Value::I16(v) => Value::I16(v.checked_neg()?),
        Value::I32(v) => Value::I32(v.checked_neg()?),
        Value::F32(v) => Value::F32(-v),
        Value::F64(v) => Value::F64(-v),
        // digits, which it is held for as well
        Value::LongStr(ref text) => {
            let delay: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
            Value::long_str(&delay.checked_neg()?.to_string())
        }
        ref other => Value::I64(-other.as_int()?),
    })
}
