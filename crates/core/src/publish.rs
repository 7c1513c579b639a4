//! basic.publish: checks, routing, queueing, confirms [spec §1.8.3.7; RabbitMQ "Publishers", "Consumer Acknowledgements and
//! Publisher Confirms"].

use crate::access::{Permission, Resource};
use crate::log::{LogRun, Publisher};
use crate::queue::ready::Segment;
use crate::rng::Rng;
use crate::routes::{CachedRoute, RouteGeneration};
use crate::shard::Shard;
use crate::spread::{Spreading, Wide};
use crate::topology::{ExchangeId, RouteInput, Routed, Topology};
use hornpipe_types::args::{Overflow, parse_expiration};
use hornpipe_types::command::PublishRun;
use hornpipe_types::effect::ChannelEffect;
use hornpipe_types::error::{AmqpError, ReplyCode};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::{CommitSeq, ConnectionId, QueueId};
use hornpipe_types::message::{
    Batch, BatchBuilder, DEAD_LETTERED, HAS_EXPIRATION, HAS_HEADERS, HAS_PRIORITY, HAS_REPLY_TO, HAS_USER_ID,
    MessageMeta, PERSISTENT, Span,
};
use hornpipe_types::names::ShortStr;
use hornpipe_types::op::{RunMeta, Target};
use hornpipe_types::stats::SIZE_BUCKETS;
use hornpipe_types::table::{FieldTable, Value};
use hornpipe_types::time::{Now, UnixMillis};
use std::sync::Arc;

/// Properties that make a message worth a look of its own.
pub(crate) const SPECIAL: u8 = HAS_EXPIRATION | HAS_USER_ID | HAS_HEADERS | HAS_REPLY_TO;

/// Steps of a walk through exchanges ([`Routed::steps`]) that are about a unit of work.
const STEPS_PER_UNIT: u32 = 16;
/// Octets of a content header whose decoding is.
const HEADER_OCTETS_PER_UNIT: u32 = 256;

/// How a run is to be put into queues.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Entry {
    pub(crate) persistent: bool,
    /// `expiration` in ms.
    pub(crate) expiration: Option<u64>,
    /// The channel and first tag to be confirmed.
    pub(crate) publisher: Option<Publisher>,
}

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Entered {
    /// The commit that covers it, when anything of it is durable.
    pub(crate) commit: Option<CommitSeq>,
    /// A queue refused it (`reject-publish`).
    pub(crate) rejected: bool,
}

impl Entered {
    /// What became of a run that went two ways.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { commit: self.commit.max(other.commit), rejected: self.rejected || other.rejected }
    }
}

impl Shard {
    pub(crate) fn on_publish(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        run: PublishRun,
    ) -> Result<(), AmqpError> {
        let Some(channel) = self.channel_mut(from, number) else { return Ok(()) };
        let in_tx = channel.tx.is_some();
        if !std::mem::replace(&mut channel.published, true) {
            self.stats.publishers += 1;
        }
        if in_tx {
            let copies = self.check_publish(from, number, &run)?;
            return self.hold_publish(from, number, run, copies);
        }
        if let Some(left) = self.publish_run(now, from, number, &run)? {
            self.spread(now, left);
        }
        Ok(())
    }

    /// The checks of a publish, without doing it (in a transaction they are made at publish time, and again before it commits). Says how
    /// many copies it would bring to queues, where the key alone tells.
    pub(crate) fn check_publish(
        &mut self,
        from: ConnectionId,
        number: u16,
        run: &PublishRun,
    ) -> Result<u64, AmqpError> {
        let resolved = self.resolve(from, number, &run.batch, run.from)?;
        for i in run.from..run.from + run.count {
            if run.batch.meta(i).flags & SPECIAL != 0 {
                self.inspect(from, number, run, i)?;
            }
        }
        Ok(u64::from(run.count) * resolved.queues.map_or(0, |queues| queues.len() as u64))
    }

    /// Publishes a run whose transaction, if any, is being committed; what is left of it.
    pub(crate) fn publish_run(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        run: &PublishRun,
    ) -> Result<Option<Box<Spreading>>, AmqpError> {
        self.count_published(from, number, run);
        self.publish_on(now, from, number, run)
    }

    /// The same, with a run that has been counted.
    pub(crate) fn publish_on(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        run: &PublishRun,
    ) -> Result<Option<Box<Spreading>>, AmqpError> {
        let most = self.spent.saturating_add(self.units.max(1));
        let resolved = self.resolve(from, number, &run.batch, run.from)?;
        let end = run.from + run.count;
        let mut i = run.from;
        while i < end {
            let meta = run.batch.meta(i);
            let looks = meta.flags & (HAS_EXPIRATION | HAS_USER_ID | HAS_REPLY_TO) != 0
                || (meta.flags & SPECIAL != 0 && names_copies(run.batch.header(i)));
            let wide = match &resolved.queues {
                Some(queues) if !looks => {
                    // the longest stretch that needs no look and has the same persistence
                    let persistent = meta.flags & PERSISTENT;
                    let mut n = 1;
                    while i + n < end {
                        let next = run.batch.meta(i + n).flags;
                        if next & PERSISTENT != persistent
                            || next & (HAS_EXPIRATION | HAS_USER_ID | HAS_REPLY_TO) != 0
                            || (next & HAS_HEADERS != 0 && names_copies(run.batch.header(i + n)))
                        {
                            break;
                        }
                        n += 1;
                    }
                    let span = Span { batch: Arc::clone(&run.batch), from: i, count: n, step: 1 };
                    i += n;
                    let exchange = resolved.exchange;
                    self.place(now, from, number, run.mandatory, span, queues, exchange, persistent != 0, None)
                }
                _ => {
                    i += 1;
                    self.publish_one(now, from, number, run, i - 1, &resolved)?
                }
            };
            if wide.is_some() || (i < end && self.spent >= most) {
                let rest = (i < end).then(|| PublishRun { from: i, count: end - i, ..run.clone() });
                return Ok(Some(Box::new(Spreading { from, number, wide, rest })));
            }
        }
        Ok(None)
    }

    fn count_published(&mut self, from: ConnectionId, number: u16, run: &PublishRun) {
        let n = u64::from(run.count);
        self.totals.publish += n;
        if let Some(channel) = self.channel_mut(from, number) {
            channel.stats.publish += n;
            if channel.confirms.is_some() {
                self.totals.publish_confirm_mode += n;
            }
        }
        self.count_sizes(&run.batch, run.from, run.count);
    }

    pub(crate) fn count_sizes(&mut self, batch: &Batch, from: u32, count: u32) {
        let metas = batch.metas().iter().skip(from as usize).take(count as usize);
        let (mut size, mut bucket, mut in_bucket) = (u32::MAX, 0, 0u64);
        for meta in metas {
            self.stats.size_sum += u64::from(meta.body);
            if meta.body != size {
                self.stats.size_buckets[bucket] += std::mem::take(&mut in_bucket);
                size = meta.body;
                bucket = SIZE_BUCKETS.iter().position(|b| u64::from(size) <= *b).unwrap_or(SIZE_BUCKETS.len());
            }
            in_bucket += 1;
        }
        self.stats.size_buckets[bucket] += in_bucket;
    }

    /// Write permission, exchange, and (where it depends on the key alone) the queues of a run.
    pub(crate) fn resolve(
        &mut self,
        from: ConnectionId,
        number: u16,
        batch: &Batch,
        i: u32,
    ) -> Result<Resolved, AmqpError> {
        let Some(connection) = self.connections.get_mut(&from) else { return Ok(Resolved::default()) };
        let vhost_index = connection.vhost;
        let Some(vhost) = self.vhosts.get_mut(vhost_index) else { return Ok(Resolved::default()) };
        let generation = RouteGeneration {
            topology: vhost.topology.generation(),
            queues: vhost.queues_generation,
            access: self.access.generation(),
        };
        let Some(channel) = connection.channels.get_mut(&number) else { return Ok(Resolved::default()) };
        channel.routes.refresh(generation);
        if let Some(route) = channel.routes.get(batch.route_bytes(i)) {
            return Ok(Resolved { exchange: route.exchange, queues: Some(Arc::clone(&route.queues)) });
        }
        let (exchange, key) = (batch.exchange(i), batch.routing_key(i));
        let id = match channel.routes.open(exchange) {
            Some(id) => id,
            None => {
                let (user, vhost_name) = (&connection.open.user, &connection.open.vhost);
                self.access.check(user, vhost_name, Permission::Write, Resource::Exchange, exchange)?;
                let id = vhost.topology.find(exchange).ok_or_else(|| AmqpError::no_exchange(exchange, vhost_name))?;
                let definition = &vhost.topology.exchange(id).definition;
                if definition.internal {
                    return Err(AmqpError::access_refused(format!(
                        "cannot publish to internal exchange '{exchange}' in vhost '{vhost_name}'"
                    )));
                }
                let by_topic = definition.kind == "topic" && self.access.topic_restricted(user, vhost_name, exchange);
                if by_topic {
                    self.access.check_topic(user, vhost_name, Permission::Write, exchange, key)?;
                }
                if !vhost.topology.route_depends_on_key_only(id) {
                    return Ok(Resolved { exchange: id, queues: None });
                }
                if !by_topic {
                    channel.routes.set_open(exchange, id);
                }
                id
            }
        };
        let mut routed = Routed::default();
        let input = RouteInput { keys: &[key], ..RouteInput::default() };
        vhost.topology.route(id, &input, &mut self.rng, &mut routed);
        self.spent = self.spent.saturating_add(routed.steps / STEPS_PER_UNIT);
        if routed.to_default
            && let Some(queue) = vhost.queues.get(key)
            && !routed.queues.contains(queue)
        {
            routed.queues.push(*queue);
        }
        // a direct reply-to address is no queue and is never cached
        if routed.queues.is_empty() && exchange.is_empty() && key.starts_with(REPLY_TO) {
            return Ok(Resolved { exchange: id, queues: None });
        }
        let queues: Arc<[QueueId]> = routed.queues.into();
        let route = CachedRoute { exchange: id, queues: Arc::clone(&queues) };
        channel.routes.insert(batch.route_bytes(i), route);
        Ok(Resolved { exchange: id, queues: Some(queues) })
    }

    /// The checks that need the properties of one message.
    fn inspect(&mut self, from: ConnectionId, number: u16, run: &PublishRun, i: u32) -> Result<Inspected, AmqpError> {
        let octets = u32::try_from(run.batch.header(i).len()).unwrap_or(u32::MAX);
        self.spent = self.spent.saturating_add(octets / HEADER_OCTETS_PER_UNIT);
        let properties = Properties::decode(run.batch.header(i))
            .map_err(|e| AmqpError::new(ReplyCode::SyntaxError, format!("malformed content header: {e}")))?;
        let Some((user, vhost, index)) = self.who(from) else { return Ok(Inspected::default()) };
        if properties.reply_to.as_ref().is_some_and(|r| r == REPLY_TO) {
            let known = self.channel_mut(from, number).is_some_and(|c| c.reply_consumer.is_some());
            if !known {
                return Err(AmqpError::precondition("fast reply consumer does not exist"));
            }
        }
        let expiration = match &properties.expiration {
            Some(text) => Some(
                parse_expiration(text)
                    .map_err(|why| AmqpError::precondition(format!("invalid expiration '{text}': {why}")))?,
            ),
            None => None,
        };
        let (mut keys, mut hidden) = (Vec::new(), Vec::new());
        let mut has_bcc = false;
        if let Some(headers) = &properties.headers {
            for name in ["CC", "BCC"] {
                match headers.get(name) {
                    Some(Value::Array(items)) => {
                        let named = items.iter().filter_map(Value::as_str).map(ShortStr::new);
                        if name == "BCC" {
                            has_bcc = true;
                            hidden.extend(named.clone());
                        }
                        keys.extend(named);
                    }
                    Some(other) => {
                        return Err(AmqpError::precondition(format!(
                            "invalid message: {{unacceptable_type_in_header,\"{name}\",{}}}",
                            other.type_name()
                        )));
                    }
                    None => {}
                }
            }
        }
        if !keys.is_empty() {
            let exchange = run.batch.exchange(i);
            let topic = self.vhosts.get(index).is_some_and(|v| {
                v.topology.find(exchange).is_some_and(|id| v.topology.exchange(id).definition.kind == "topic")
            });
            if topic {
                for key in &keys {
                    self.access.check_topic(&user, &vhost, Permission::Write, exchange, key)?;
                }
            }
        }
        if let Some(id) = &properties.user_id
            && *id != user
            && !self.access.has_tag(&user, "impersonator")
        {
            return Err(AmqpError::precondition(format!(
                "user_id property set to '{id}' but authenticated user was '{user}'"
            )));
        }
        Ok(Inspected { properties, expiration, keys, hidden, has_bcc })
    }

    /// Publishes one message that needs a look at its properties.
    fn publish_one(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        run: &PublishRun,
        i: u32,
        resolved: &Resolved,
    ) -> Result<Option<Wide>, AmqpError> {
        let meta = run.batch.meta(i);
        let index = self.connections.get(&from).map_or(0, |c| c.vhost);
        let inspected = self.inspect(from, number, run, i)?;
        let mut span = Span { batch: Arc::clone(&run.batch), from: i, count: 1, step: 1 };
        let reply_to = inspected.properties.reply_to.as_ref().is_some_and(|r| r == REPLY_TO);
        if inspected.has_bcc || reply_to {
            let mut properties = inspected.properties.clone();
            if let Some(headers) = &mut properties.headers
                && inspected.has_bcc
            {
                headers.remove("BCC");
            }
            if reply_to
                && let Some((_, address)) = self.channel_mut(from, number).and_then(|c| c.reply_consumer.clone())
            {
                properties.reply_to = Some(ShortStr::new(&format!("{REPLY_TO}.{address}")));
            }
            let hidden: Vec<&str> = inspected.hidden.iter().map(ShortStr::as_str).collect();
            span = rewrite(&span, &properties, &hidden);
        }
        let key = run.batch.routing_key(i);
        let exchange = run.batch.exchange(i);
        if exchange.is_empty() && key.starts_with(REPLY_TO) && self.reply_direct(from, number, run.mandatory, &span) {
            return Ok(None);
        }
        let queues = match &resolved.queues {
            Some(queues) if inspected.keys.is_empty() => Arc::clone(queues),
            _ => {
                let mut keys: Vec<&str> = vec![key];
                keys.extend(inspected.keys.iter().map(ShortStr::as_str));
                let outcome = self.route_in(index, resolved.exchange, &keys, &inspected.properties);
                for exchange in &outcome.recent {
                    if let Some(v) = self.vhosts.get_mut(index) {
                        v.topology.remember(*exchange, &span);
                    }
                }
                if !outcome.delayed.is_empty() {
                    let (exchange, life) = (resolved.exchange, inspected.expiration);
                    self.hold_delayed(now, from, number, run.mandatory, &span, index, outcome, exchange, life);
                    return Ok(None);
                }
                outcome.queues
            }
        };
        let (persistent, life) = (meta.flags & PERSISTENT != 0, inspected.expiration);
        Ok(self.place(now, from, number, run.mandatory, span, &queues, resolved.exchange, persistent, life))
    }

    /// Routes one message by its keys and headers.
    pub(crate) fn route_in(
        &mut self,
        vhost: usize,
        exchange: ExchangeId,
        keys: &[&str],
        properties: &Properties,
    ) -> RouteOutcome {
        self.route_with(vhost, keys, properties, |topology, input, rng, routed| {
            topology.route(exchange, input, rng, routed);
        })
    }

    pub(crate) fn route_with(
        &mut self,
        vhost: usize,
        keys: &[&str],
        properties: &Properties,
        walk: impl FnOnce(&mut Topology, &RouteInput<'_>, &mut Rng, &mut Routed),
    ) -> RouteOutcome {
        let Some(vhost) = self.vhosts.get_mut(vhost) else { return RouteOutcome::default() };
        let mut routed = Routed::default();
        let input = RouteInput {
            keys,
            headers: properties.headers.as_ref(),
            message_id: properties.message_id.as_deref(),
            correlation_id: properties.correlation_id.as_deref(),
            timestamp: properties.timestamp,
        };
        walk(&mut vhost.topology, &input, &mut self.rng, &mut routed);
        self.spent = self.spent.saturating_add(routed.steps / STEPS_PER_UNIT);
        if routed.to_default {
            for key in keys {
                if let Some(queue) = vhost.queues.get(*key)
                    && !routed.queues.contains(queue)
                {
                    routed.queues.push(*queue);
                }
            }
        }
        RouteOutcome { queues: routed.queues.into(), delayed: routed.delayed, recent: routed.recent }
    }

    /// Puts a run into its queues and settles its confirm, or returns it. Where that is more than a turn should do, none of it is
    /// done: what is to be done is given back.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn place(
        &mut self,
        now: Now,
        from: ConnectionId,
        number: u16,
        mandatory: bool,
        span: Span,
        queues: &Arc<[QueueId]>,
        exchange: ExchangeId,
        persistent: bool,
        expiration: Option<u64>,
    ) -> Option<Wide> {
        let n = u64::from(span.count);
        let publisher = self.begin_publish(from, number, span.count, exchange, queues.len());
        if queues.is_empty() {
            if mandatory {
                self.totals.return_unroutable += n;
                if let Some(c) = self.channel_mut(from, number) {
                    c.stats.return_unroutable += n;
                }
                let text = ShortStr::new("NO_ROUTE");
                self.tell(from, number, ChannelEffect::Return { code: ReplyCode::NoRoute, text, span });
            } else {
                self.totals.drop_unroutable += n;
            }
            if let Some(p) = publisher {
                self.confirm_now(p, span_count(n), true);
            }
            return None;
        }
        self.totals.routed += n;
        let entry = Entry { persistent, expiration, publisher };
        let most = u64::from(self.limits.slice_units);
        if queues.len() as u64 > most {
            return Some(Wide::new(span, Arc::clone(queues), entry));
        }
        let pieces = self.pieces(queues);
        if (pieces.by_one || pieces.by_priority) && queues.len() as u64 * n > most {
            return Some(Wide::new(span, Arc::clone(queues), entry));
        }
        let mut i = 0;
        while i < span.count {
            let take = pieces.next(&span, i);
            let part;
            let whole = take == span.count && span.step == 1;
            let part = if whole {
                &span
            } else {
                part = Span { batch: Arc::clone(&span.batch), from: span.from + i * span.step, count: take, step: 1 };
                &part
            };
            let publisher = publisher.map(|p| Publisher { first_tag: p.first_tag + u64::from(i), ..p });
            let entered = self.enter(now, queues, part, Entry { publisher, ..entry });
            self.tx_rejected |= entered.rejected;
            if pieces.by_one {
                self.flush_queues(now, queues);
            }
            if let Some(p) = publisher {
                self.answer_publish(p, take, entered);
            }
            i += take;
        }
        None
    }

    /// Counts messages that an exchange sends to so many queues; their tags where they are to be confirmed.
    pub(crate) fn begin_publish(
        &mut self,
        from: ConnectionId,
        number: u16,
        count: u32,
        exchange: ExchangeId,
        queues: usize,
    ) -> Option<Publisher> {
        let connection = self.connections.get_mut(&from)?;
        if let Some(vhost) = self.vhosts.get_mut(connection.vhost) {
            let n = u64::from(count);
            vhost.topology.count(exchange, n, n * queues as u64);
        }
        let confirms = connection.channels.get_mut(&number)?.confirms.as_mut()?;
        let incarnation = confirms.incarnation;
        Some(Publisher { connection: from, channel: number, incarnation, first_tag: confirms.publish(count) })
    }

    /// Confirms or refuses messages by what became of them, at once or when they are on disk.
    pub(crate) fn answer_publish(&mut self, p: Publisher, count: u32, entered: Entered) {
        match entered {
            Entered { rejected: true, .. } => self.confirm_now(p, count, false),
            Entered { commit: Some(commit), .. } => {
                if let Some(confirms) = self.channel_mut(p.connection, p.channel).and_then(|c| c.confirms.as_mut()) {
                    confirms.wait(p.first_tag, count, commit);
                }
                self.log.wait_confirm(commit, p.connection, p.channel);
            }
            Entered { commit: None, .. } => self.confirm_now(p, count, true),
        }
    }

    pub(crate) fn flush_queues(&mut self, now: Now, queues: &[QueueId]) {
        for id in queues {
            self.serve(now, *id);
        }
    }

    /// Confirms or refuses publishes that wait for nothing.
    pub(crate) fn confirm_now(&mut self, p: Publisher, count: u32, ack: bool) {
        if let Some(confirms) = self.channel_mut(p.connection, p.channel).and_then(|c| c.confirms.as_mut()) {
            if ack {
                confirms.ack_now(p.first_tag, count)
            } else {
                confirms.nack_now(p.first_tag, count)
            }
            self.list_confirms(p.connection, p.channel);
        }
    }

    /// Appends a run (step 1, one priority) to queues and logs it where it must be logged.
    pub(crate) fn enter(&mut self, now: Now, queues: &[QueueId], span: &Span, entry: Entry) -> Entered {
        self.spent = self.spent.saturating_add(queues.len() as u32);
        let mut entered = Entered::default();
        let bytes = span.body_bytes();
        self.paging.note(span, bytes);
        // what must not be logged leaves memory by way of the log all the same, where a queue has more than its share of it
        let spill_above = self.is_short().then(|| self.share());
        // targets that share what recovery must know go into one logged run
        let mut logged: Vec<(RunMeta, Vec<Target>)> = Vec::new();
        for id in queues {
            let Some(queue) = self.queues.get_mut(id) else { continue };
            let reject = matches!(queue.settings.overflow, Overflow::RejectPublish | Overflow::RejectPublishDlx);
            let over = |max: Option<u64>, have: u64, add: u64| max.is_some_and(|max| have + add > max);
            if reject
                && (over(queue.settings.max_length, queue.ready, u64::from(span.count))
                    || over(queue.settings.max_length_bytes, queue.ready_bytes, bytes))
            {
                entered.rejected = true;
                if queue.settings.overflow == Overflow::RejectPublishDlx {
                    let death = crate::dead_letter::Death::of_refused(queue, span.clone());
                    self.deaths.push_back(death);
                }
                continue;
            }
            let ttl = match (queue.settings.message_ttl_ms, entry.expiration) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let deadline = ttl.map_or(0, |ttl| (now.wall.0 + ttl).max(1));
            let level = if queue.levels.len() > 1 { queue.level_of(span.batch.meta(span.from)) } else { 0 };
            let promised = queue.logs(entry.persistent);
            let spills = !promised && spill_above.is_some_and(|most| queue.may_spill() && queue.resident > most);
            let logs = promised || spills;
            let first = queue.next_seq;
            queue.next_seq += u64::from(span.count);
            let segment = Segment {
                first,
                count: span.count,
                from: span.from,
                batch: Some(Arc::clone(&span.batch)),
                bytes,
                deadline,
                delivery_count: 0,
                acquired: 0,
                redelivered: false,
                logged: logs,
            };
            let delayed = queue.delayed.is_some();
            match &mut queue.delayed {
                Some(delayed) => {
                    delayed.hold(segment);
                    queue.resident += bytes;
                }
                None => queue.push(level, segment),
            }
            queue.stats.publish += u64::from(span.count);
            let long = crate::pace::is_long(queue, self.limits.unsent_bytes);
            if !long {
                queue.held_in_vain = 0;
            }
            self.resident += bytes;
            if logs {
                let meta = RunMeta {
                    deadline: UnixMillis(deadline),
                    priority: queue.logged_level(level),
                    transient: spills,
                    ..RunMeta::default()
                };
                let target = Target { queue: *id, first_seq: first };
                match logged.iter_mut().find(|(m, _)| *m == meta) {
                    Some((_, targets)) => targets.push(target),
                    None => logged.push((meta, vec![target])),
                }
            }
            if delayed {
                self.arm_delayed(now, *id);
            } else if !queue.dirty {
                queue.dirty = true;
                self.dirty_queues.push(*id);
            }
            if long {
                self.note_pace(*id);
            }
        }
        // with several logged runs, or a refusal, one run's end says nothing about the whole
        let publisher = if logged.len() == 1 && !entered.rejected { entry.publisher } else { None };
        for (meta, targets) in logged {
            // nobody waits for what was not promised
            let publisher = publisher.filter(|_| !meta.transient);
            let (id, commit) = self.log.enqueue(span.clone(), targets.clone(), meta, publisher);
            for target in targets {
                if let Some(queue) = self.queues.get_mut(&target.queue) {
                    let run = LogRun::new(target.first_seq, span.count, id, 0);
                    queue.logged.push_back(run);
                }
            }
            if !meta.transient {
                entered.commit = Some(commit);
            }
        }
        entered
    }

    /// Direct reply-to: hands a message to the consumer its key names. Says whether it took care of the message.
    fn reply_direct(&mut self, from: ConnectionId, number: u16, mandatory: bool, span: &Span) -> bool {
        let key = span.batch.routing_key(span.from);
        let Some(address) = key.strip_prefix(REPLY_TO).and_then(|k| k.strip_prefix('.')) else { return false };
        let target = self.reply_addresses.get(address).copied();
        let publisher = self.channel_mut(from, number).and_then(|c| c.confirms.as_mut()).map(|c| {
            let first_tag = c.publish(span.count);
            Publisher { connection: from, channel: number, incarnation: c.incarnation, first_tag }
        });
        match target {
            Some((connection, channel)) => {
                self.totals.routed += 1;
                self.totals.deliver_no_ack += 1;
                if let Some(c) = self.channel_mut(connection, channel)
                    && let Some((tag, _)) = c.reply_consumer.clone()
                {
                    c.last_tag += 1;
                    let delivery = hornpipe_types::effect::Delivery {
                        consumer_tag: tag,
                        first_tag: c.last_tag,
                        redelivered: false,
                        span: span.clone(),
                    };
                    let cost = hornpipe_types::effect::span_cost(span);
                    if let Some(c) = self.connections.get_mut(&connection) {
                        c.unsent += cost;
                    }
                    self.tell(connection, channel, ChannelEffect::Deliver(delivery));
                }
            }
            None if mandatory => {
                self.totals.return_unroutable += 1;
                let text = ShortStr::new("NO_ROUTE");
                self.tell(from, number, ChannelEffect::Return { code: ReplyCode::NoRoute, text, span: span.clone() });
            }
            None => self.totals.drop_unroutable += 1,
        }
        if let Some(p) = publisher {
            self.confirm_now(p, 1, true);
        }
        true
    }

    pub(crate) fn channel_mut(&mut self, id: ConnectionId, number: u16) -> Option<&mut crate::connection::Channel> {
        self.connections.get_mut(&id)?.channels.get_mut(&number)
    }
}

/// The pseudo-queue of direct reply-to.
pub(crate) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Where a message goes.
#[derive(Debug, Default)]
pub(crate) struct RouteOutcome {
    /// Into these queues.
    pub(crate) queues: Arc<[QueueId]>,
    /// Held by these delayed-message exchanges for so many ms.
    pub(crate) delayed: Vec<(ExchangeId, u64)>,
    /// Kept by these recent-history exchanges.
    pub(crate) recent: Vec<ExchangeId>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Resolved {
    pub(crate) exchange: ExchangeId,
    /// `None` = depends on more than the key.
    pub(crate) queues: Option<Arc<[QueueId]>>,
}

#[derive(Debug, Default)]
struct Inspected {
    properties: Properties,
    expiration: Option<u64>,
    /// Keys of CC and BCC.
    keys: Vec<ShortStr>,
    /// Those of BCC alone.
    hidden: Vec<ShortStr>,
    has_bcc: bool,
}

fn span_count(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Whether a content header may name CC or BCC keys: a quick look that never misses one.
pub(crate) fn names_copies(header: &[u8]) -> bool {
    header.windows(3).any(|w| w == b"\x02CC" || w == b"BCC")
}

/// The property `priority`, absent told from 0.
pub(crate) fn priority_of(meta: MessageMeta) -> (bool, u8) {
    (meta.flags & HAS_PRIORITY != 0, meta.priority)
}

/// A message with other properties: a batch of its own. `hidden` are its routing keys that consumers don't see.
pub(crate) fn rewrite(span: &Span, properties: &Properties, hidden: &[&str]) -> Span {
    let i = span.from;
    let meta = span.batch.meta(i);
    let mut b = BatchBuilder::with_capacity(meta.len as usize + 256);
    let (exchange, key) = (span.batch.exchange(i), span.batch.routing_key(i));
    let route = b.push_route_beside(exchange, key, span.batch.cc_spent(i), hidden);
    let header = properties.encode(u64::from(meta.body));
    let scanned = hornpipe_types::header::scan(&header).unwrap_or_default();
    let flags = scanned.flags | meta.flags & DEAD_LETTERED;
    let meta = MessageMeta { route, flags, priority: scanned.priority, ..MessageMeta::default() };
    b.push_message(&header, span.batch.body(i), meta, 131_072);
    Span::whole(b.finish())
}

/// The headers of a message, or an empty table.
pub(crate) fn headers_of(properties: &mut Properties) -> &mut FieldTable {
    properties.headers.get_or_insert_with(FieldTable::default)
}
