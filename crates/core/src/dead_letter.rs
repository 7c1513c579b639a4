//! Dead-lettering: messages that died are routed on through their queue's dead-letter exchange [RabbitMQ "Dead Letter
//! Exchanges"]. A work list, never recursion.

use crate::keys::Keys;
use crate::publish::{Entry, headers_of, priority_of, rewrite};
use crate::queue::Queue;
use crate::shard::Shard;
use hornpipe_types::header::Properties;
use hornpipe_types::ids::QueueId;
use hornpipe_types::message::{Batch, BatchBuilder, DEAD_LETTERED, MessageMeta, PERSISTENT, Span};
use hornpipe_types::names::ShortStr;
use hornpipe_types::stats::MessageStats;
use hornpipe_types::table::{FieldTable, Value};
use hornpipe_types::time::Now;
use std::sync::Arc;

/// Why a message died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// basic.reject or nack without requeue.
    Rejected,
    /// Its time to live ended.
    Expired,
    /// The queue was over its limit.
    MaxLen,
    /// Delivered too often.
    DeliveryLimit,
}

impl Reason {
    pub(crate) const ALL: [Self; 4] = [Self::Rejected, Self::Expired, Self::MaxLen, Self::DeliveryLimit];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLen => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
    /// Counts `n` messages that died of it.
    pub(crate) fn count(self, totals: &mut MessageStats, n: u32) {
        let counter = match self {
            Self::Rejected => &mut totals.dead_lettered_rejected,
            Self::Expired => &mut totals.dead_lettered_expired,
            Self::MaxLen => &mut totals.dead_lettered_maxlen,
            Self::DeliveryLimit => &mut totals.dead_lettered_delivery_limit,
        };
        *counter += u64::from(n);
    }
}

/// Where messages go that die in a queue, and what they tell about it.
#[derive(Debug, Clone)]
pub(crate) struct Grave {
    vhost: usize,
    queue: ShortStr,
    /// `None`: the queue has no dead-letter exchange, the messages are only counted.
    exchange: Option<ShortStr>,
    routing_key: Option<ShortStr>,
}

impl Grave {
    /// What `queue` says now.
    pub(crate) fn of(queue: &Queue) -> Self {
        Self {
            vhost: queue.vhost,
            queue: queue.shown_name().clone(),
            exchange: queue.settings.dead_letter_exchange.clone(),
            routing_key: queue.settings.dead_letter_routing_key.clone(),
        }
    }
}

/// Messages of one queue that died of one cause.
#[derive(Debug)]
pub(crate) struct Death {
    grave: Grave,
    span: Span,
    reason: Reason,
}

impl Death {
    /// Messages that left the queue of `grave`.
    pub(crate) fn new(grave: Grave, span: Span, reason: Reason) -> Self {
        Self { grave, span, reason }
    }
    /// Messages that `queue` refused (`reject-publish-dlx`).
    pub(crate) fn of_refused(queue: &Queue, span: Span) -> Self {
        Self::new(Grave::of(queue), span, Reason::MaxLen)
    }
}

/// Field order of an `x-death` entry is RabbitMQ's.
fn death_entry(
    queue: &str,
    reason: Reason,
    time: u64,
    exchange: &str,
    keys: &[&str],
    expiration: Option<&str>,
) -> FieldTable {
    let mut entry = FieldTable::default();
    if let Some(expiration) = expiration {
        entry.set("original-expiration", Value::long_str(expiration));
    }
    entry.set("count", Value::I64(1));
    entry.set("reason", Value::long_str(reason.name()));
    entry.set("queue", Value::long_str(queue));
    entry.set("time", Value::Timestamp(time));
    entry.set("exchange", Value::long_str(exchange));
    entry.set("routing-keys", Value::Array(keys.iter().map(|k| Value::long_str(k)).collect()));
    entry
}

fn history(headers: &FieldTable) -> Vec<FieldTable> {
    match headers.get("x-death") {
        Some(Value::Array(items)) => {
            items.iter().filter_map(|v| if let Value::Table(t) = v { Some(t.clone()) } else { None }).collect()
        }
        _ => Vec::new(),
    }
}

fn is(entry: &FieldTable, key: &str, text: &str) -> bool {
    entry.get(key).and_then(Value::as_str) == Some(text)
}

/// Writes this death into the headers and returns the history, newest first.
fn record_death(
    properties: &mut Properties,
    known: bool,
    queue: &str,
    reason: Reason,
    now: Now,
    exchange: &str,
    keys: &[&str],
) -> Vec<FieldTable> {
    let expiration = properties.expiration.take();
    let headers = headers_of(properties);
    let mut deaths = if known { history(headers) } else { Vec::new() };
    match deaths.iter().position(|d| is(d, "queue", queue) && is(d, "reason", reason.name())) {
        Some(k) => {
            let mut entry = deaths.remove(k);
            let count = entry.get("count").and_then(Value::as_int).unwrap_or(0);
            entry.set("count", Value::I64(count + 1));
            deaths.insert(0, entry);
        }
        None => {
            let time = now.wall.0 / 1000;
            deaths.insert(0, death_entry(queue, reason, time, exchange, keys, expiration.as_deref()));
        }
    }
    headers.set("x-death", Value::Array(deaths.iter().cloned().map(Value::Table).collect()));
    for (name, value) in [("reason", reason.name()), ("queue", queue), ("exchange", exchange)] {
        let first = format!("x-first-death-{name}");
        if !known || headers.get(&first).is_none() {
            headers.set(&first, Value::long_str(value));
        }
        headers.set(&format!("x-last-death-{name}"), Value::long_str(value));
    }
    *headers = headers.sorted();
    deaths
}

/// Whether a message with this history (newest first) would go round for ever if it entered `queue` again.
fn is_cycle(deaths: &[FieldTable], queue: &str, reason: Reason) -> bool {
    if reason == Reason::Rejected {
        return false;
    }
    // this very death, the first entry, is part of the history
    match deaths.iter().position(|d| is(d, "queue", queue)) {
        Some(k) => !deaths.iter().take(k + 1).any(|d| is(d, "reason", "rejected")),
        None => false,
    }
}

/// Adds the counters quorum queues tell consumers.
pub(crate) fn with_counts(span: &Span, delivery_count: u32, acquired: u32) -> Span {
    let mut b = BatchBuilder::default();
    for i in span.indexes() {
        let Ok(mut properties) = Properties::decode(span.batch.header(i)) else { continue };
        let headers = headers_of(&mut properties);
        if delivery_count > 0 {
            headers.set("x-delivery-count", Value::I64(delivery_count.into()));
        }
        if acquired > 0 {
            headers.set("x-acquired-count", Value::I64(acquired.into()));
        }
        *headers = headers.sorted();
        let one = Span { batch: Arc::clone(&span.batch), from: i, count: 1, step: 1 };
        let one = rewrite(&one, &properties, &[]);
        let route = b.push_route_bytes(span.batch.route_bytes(i));
        b.push_copy(&one.batch, 0, route);
    }
    Span::whole(b.finish())
}

impl Shard {
    /// Routes on everything that died in this turn. A command's deaths and its own changes share one commit.
    pub(crate) fn work_off_deaths(&mut self, now: Now) {
        while let Some(death) = self.deaths.pop_front() {
            death.reason.count(&mut self.totals, death.span.count);
            self.route_dead(now, &death);
        }
    }

    fn route_dead(&mut self, now: Now, death: &Death) {
        let Some(dlx) = &death.grave.exchange else { return };
        // looked up at this moment; missing = dropped, as if there were none
        let Some(exchange) = self.vhosts.get(death.grave.vhost).and_then(|v| v.topology.find(dlx)) else { return };
        let batch = &death.span.batch;
        let mut last: Option<Dead> = None;
        let mut group: Option<Group> = None;
        for i in death.span.indexes() {
            let same = last.take().filter(|dead| dead.is_like(batch, i));
            let Some(dead) = same.or_else(|| Dead::of(now, death, i)) else { continue };
            let dead = last.insert(dead);
            let outcome = self.route_in(death.grave.vhost, exchange, &dead.keys.all(), &dead.properties);
            if !outcome.delayed.is_empty() {
                let mut alone = BatchBuilder::with_capacity(batch.meta(i).len as usize + 512);
                dead.put(&mut alone, None, batch, i, dlx);
                self.hold_everywhere(now, death.grave.vhost, &Span::whole(alone.finish()), &outcome.delayed);
            }
            let goes_round = |q: &QueueId| {
                let queue = self.queues.get(q);
                queue.is_some_and(|q| is_cycle(&dead.deaths, &q.definition.name, death.reason))
            };
            let mut queues = outcome.queues;
            if queues.iter().any(goes_round) {
                queues = queues.iter().copied().filter(|q| !goes_round(q)).collect();
            }
            if queues.is_empty() {
                continue;
            }
            let persistent = batch.meta(i).flags & PERSISTENT != 0;
            let fits = group
                .as_ref()
                .is_some_and(|g| *g.queues == *queues && g.persistent == persistent && !g.builder.is_full());
            if !fits {
                self.enter_dead(now, group.take());
            }
            let group =
                group.get_or_insert_with(|| Group { queues, persistent, builder: BatchBuilder::default(), last: None });
            let known = group.last.filter(|(of, _)| *of == dead.of).map(|(_, route)| route);
            let route = dead.put(&mut group.builder, known, batch, i, dlx);
            group.last = Some((dead.of, route));
        }
        self.enter_dead(now, group);
    }

    fn enter_dead(&mut self, now: Now, group: Option<Group>) {
        let Some(Group { queues, persistent, builder, .. }) = group else { return };
        if builder.is_empty() {
            return;
        }
        let span = Span::whole(builder.finish());
        // a queue that refuses what is too much takes what fits: one by one, as consumers make room
        let by_one = queues.iter().filter_map(|id| self.queues.get(id)).any(|q| q.settings.refuses());
        // priorities may differ within the group: one stretch each
        let mut i = 0;
        while i < span.count {
            let priority = priority_of(span.batch.meta(i));
            let same = || (i..span.count).take_while(|k| priority_of(span.batch.meta(*k)) == priority).count() as u32;
            let n = if by_one { 1 } else { same() };
            let part = Span { batch: Arc::clone(&span.batch), from: i, count: n, step: 1 };
            self.enter(now, &queues, &part, Entry { persistent, ..Entry::default() });
            if by_one {
                self.flush_queues(now, &queues);
            }
            i += n;
        }
    }
}

/// Dead messages for the same queues.
struct Group {
    queues: Arc<[QueueId]>,
    persistent: bool,
    builder: BatchBuilder,
    /// The message from which the last one's [`Dead`] was made, and its route in the builder.
    last: Option<(u32, u16)>,
}

/// What a message becomes by dying. Most of a queue's messages are alike but for their bodies: it is made once for those
/// that follow each other.
struct Dead {
    /// Index of the message it was made from.
    of: u32,
    properties: Properties,
    /// The history, newest first.
    deaths: Vec<FieldTable>,
    keys: Keys,
    header: Vec<u8>,
    flags: u8,
    priority: u8,
}

impl Dead {
    fn of(now: Now, death: &Death, i: u32) -> Option<Self> {
        let batch = &death.span.batch;
        let mut properties = Properties::decode(batch.header(i)).ok()?;
        let mut keys = Keys::of(batch, i, &properties);
        let known = batch.meta(i).flags & DEAD_LETTERED != 0;
        let (queue, from) = (&death.grave.queue, batch.exchange(i));
        let deaths = record_death(&mut properties, known, queue, death.reason, now, from, &keys.shown());
        if let Some(key) = &death.grave.routing_key {
            keys = Keys::replaced(key);
        }
        let header = properties.encode(0);
        let scanned = hornpipe_types::header::scan(&header).unwrap_or_default();
        let (flags, priority) = (scanned.flags | DEAD_LETTERED, scanned.priority);
        Some(Self { of: i, properties, deaths, keys, header, flags, priority })
    }

    /// Whether message `i` of the same batch becomes the same but for its body.
    fn is_like(&self, batch: &Batch, i: u32) -> bool {
        /// Where a content header says how long the body is.
        const SIZE: std::ops::Range<usize> = 4..12;
        let (ours, theirs) = (batch.header(self.of), batch.header(i));
        let marked = |i| batch.meta(i).flags & DEAD_LETTERED;
        ours.get(SIZE.end..) == theirs.get(SIZE.end..)
            && batch.full_route(self.of) == batch.full_route(i)
            && marked(self.of) == marked(i)
    }

    /// Adds message `i`, marked as ours, and says which route it has in the builder: a new one unless it is `known` there.
    fn put(&self, b: &mut BatchBuilder, known: Option<u16>, batch: &Batch, i: u32, exchange: &str) -> u16 {
        let route = known.unwrap_or_else(|| {
            b.push_route_beside(exchange, self.keys.first(), self.keys.cc_spent, &self.keys.hidden())
        });
        let meta = MessageMeta { route, flags: self.flags, priority: self.priority, ..MessageMeta::default() };
        b.push_message(&self.header, batch.body(i), meta, 131_072);
        route
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hornpipe_types::time::{Instant, UnixMillis};

    fn at(wall: u64) -> Now {
        Now { mono: Instant(0), wall: UnixMillis(wall) }
    }

    #[test]
    fn one_entry_for_each_queue_and_reason_newest_first() {
        let mut p = Properties { expiration: Some("10".into()), ..Properties::default() };
        record_death(&mut p, false, "a", Reason::Expired, at(5000), "", &["a"]);
        assert_eq!(p.expiration, None);
        record_death(&mut p, true, "b", Reason::Rejected, at(6000), "dlx", &["k", "cc"]);
        let deaths = record_death(&mut p, true, "a", Reason::Expired, at(7000), "dlx", &["a"]);
        assert_eq!(deaths.len(), 2);
        let newest = &deaths[0];
        assert!(is(newest, "queue", "a") && is(newest, "reason", "expired"));
        assert_eq!(newest.get("count"), Some(&Value::I64(2)));
        assert_eq!(newest.get("time"), Some(&Value::Timestamp(5)));
        assert_eq!(newest.0.first().map(|(k, _)| k.as_str()), Some("original-expiration"));
        let headers = p.headers.unwrap();
        assert_eq!(headers.get("x-first-death-queue").and_then(Value::as_str), Some("a"));
        assert_eq!(headers.get("x-last-death-exchange").and_then(Value::as_str), Some("dlx"));
        assert_eq!(headers.get("x-first-death-exchange").and_then(Value::as_str), Some(""));
    }

    #[test]
    fn a_publishers_own_history_does_not_count() {
        let mut headers = FieldTable::default();
        headers.set("x-death", Value::Array(vec![Value::Table(death_entry("a", Reason::Expired, 1, "", &[], None))]));
        let mut p = Properties { headers: Some(headers), ..Properties::default() };
        let deaths = record_death(&mut p, false, "a", Reason::Expired, at(5000), "", &["a"]);
        assert_eq!(deaths.len(), 1);
        assert_eq!(deaths[0].get("count"), Some(&Value::I64(1)));
    }

    #[test]
    fn only_loops_without_a_rejection_are_cut() {
        let e = |q, r| death_entry(q, r, 0, "", &[], None);
        let ttl = [e("wait", Reason::Expired)];
        assert!(is_cycle(&ttl, "wait", Reason::Expired));
        assert!(!is_cycle(&ttl, "work", Reason::Expired));
        let retry = [e("wait", Reason::Expired), e("work", Reason::Rejected)];
        assert!(!is_cycle(&retry, "work", Reason::Expired));
        assert!(!is_cycle(&ttl, "wait", Reason::Rejected));
    }
}
