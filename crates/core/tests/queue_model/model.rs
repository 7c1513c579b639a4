//! Two queues, naively: plain lists, one message at a time.

use std::collections::{BTreeMap, VecDeque};

/// How a queue is declared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) durable: bool,
    pub(crate) ttl: Option<u64>,
    pub(crate) max_length: Option<usize>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) refuses: bool,
    /// What is refused goes where the dead go.
    pub(crate) refused_die: bool,
    pub(crate) quorum: bool,
    /// Failed deliveries of a quorum queue's message; `None` = any number.
    pub(crate) delivery_limit: Option<u32>,
    pub(crate) max_priority: Option<u8>,
    pub(crate) single_active: bool,
    /// The dead go to the other queue.
    pub(crate) dead_letters: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: u64,
    pub(crate) bytes: u64,
    pub(crate) priority: u8,
    pub(crate) persistent: bool,
    pub(crate) expiration: Option<u64>,
    /// Queue, reason, count; newest first.
    pub(crate) deaths: Vec<(usize, &'static str, i64)>,
    pub(crate) redelivered: bool,
    /// Failed deliveries and hand-outs that came to nothing, in a quorum queue.
    pub(crate) counts: (u32, u32),
    position: u64,
    level: u8,
    /// Place among the returned of a quorum queue.
    returned: Option<u64>,
    deadline: Option<u64>,
}

impl Message {
    pub(crate) fn new(id: u64, bytes: u64, priority: u8, persistent: bool, expiration: Option<u64>) -> Self {
        Self {
            id,
            bytes,
            priority,
            persistent,
            expiration,
            deaths: Vec::new(),
            redelivered: false,
            counts: (0, 0),
            position: 0,
            level: 0,
            returned: None,
            deadline: None,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Consumer {
    pub(crate) name: String,
    pub(crate) channel: usize,
    queue: usize,
    prefetch: usize,
    no_ack: bool,
    priority: i64,
    unacked: usize,
    /// In the turn order; else it ran out of credit.
    listed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) plan: Plan,
    ready: Vec<Message>,
    next_position: u64,
    next_return: u64,
    consumers: Vec<Consumer>,
    /// Names in turn order, all priorities mixed.
    turns: VecDeque<String>,
    active: Option<String>,
}

/// A message as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: u64,
    pub(crate) deaths: Vec<(usize, &'static str, i64)>,
    pub(crate) counts: (u32, u32),
}

impl From<&Message> for Seen {
    fn from(m: &Message) -> Self {
        Self { id: m.id, deaths: m.deaths.clone(), counts: m.counts }
    }
}

/// What a channel hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Delivery { consumer: String, tag: u64, redelivered: bool, message: Seen },
    Got { tag: u64, redelivered: bool, left: u64, message: Seen },
    Empty,
}

#[derive(Debug, Clone)]
pub(crate) struct Outstanding {
    queue: usize,
    consumer: Option<String>,
    message: Message,
}

/// Deliveries taken off a channel, with their tags.
type Taken = Vec<(u64, Outstanding)>;

#[derive(Debug, Default)]
pub(crate) struct Channel {
    last_tag: u64,
    /// Limit for all its consumers together; 0 = none.
    global: usize,
    /// Consumers in order of registration.
    consumers: Vec<String>,
    /// Settlements of the transaction under way; `None` = not transactional.
    tx: Option<Vec<(End, Taken)>>,
    pub(crate) outstanding: BTreeMap<u64, Outstanding>,
    pub(crate) heard: Vec<Heard>,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) queues: [Queue; 2],
    pub(crate) channels: Vec<Channel>,
    pub(crate) now: u64,
    pub(crate) deaths: VecDeque<(usize, Message, &'static str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Ack,
    /// Returned without a failure.
    Back,
    /// Returned, and counted as a failed delivery.
    Failed,
    Drop,
}

/// Whether a consumer may be given one more.
fn has_credit(c: &Consumer, channels: &[Channel], of_channel: usize) -> bool {
    let global = channels[c.channel].global;
    c.no_ack || ((c.prefetch == 0 || c.unacked < c.prefetch) && (global == 0 || of_channel < global))
}

impl Plan {
    fn logs(&self, m: &Message) -> bool {
        self.durable && (m.persistent || self.quorum)
    }
}

impl Model {
    /// All that is out, in transactions too.
    fn out(&self) -> impl Iterator<Item = &Outstanding> {
        self.channels.iter().flat_map(|c| {
            let in_tx = c.tx.iter().flatten().flat_map(|(_, taken)| taken.iter().map(|(_, o)| o));
            c.outstanding.values().chain(in_tx)
        })
    }
    /// Deliveries to consumers that a channel has not settled.
    fn of_channel(&self, c: usize) -> usize {
        let channel = &self.channels[c];
        let in_tx = channel.tx.iter().flatten().flat_map(|(_, taken)| taken.iter().map(|(_, o)| o));
        channel.outstanding.values().chain(in_tx).filter(|o| o.consumer.is_some()).count()
    }

    fn head(&self, q: usize) -> Option<usize> {
        let ready = &self.queues[q].ready;
        let place = |m: &Message| (m.returned.unwrap_or(u64::MAX), 255 - m.level, m.position);
        (0..ready.len()).min_by_key(|k| place(&ready[*k]))
    }
    pub(crate) fn ready(&self, q: usize) -> (u64, u64, u64) {
        let queue = &self.queues[q];
        let logged = queue.ready.iter().filter(|m| queue.plan.logs(m)).count();
        (queue.ready.len() as u64, queue.ready.iter().map(|m| m.bytes).sum(), logged as u64)
    }
    pub(crate) fn unacked(&self, q: usize) -> u64 {
        self.out().filter(|o| o.queue == q).count() as u64
    }
    pub(crate) fn consumers(&self, q: usize) -> (u32, Option<String>) {
        (self.queues[q].consumers.len() as u32, self.queues[q].active.clone())
    }
    fn logged(&self, q: usize) -> Vec<&Message> {
        let queue = &self.queues[q];
        let out = self.out().filter(|o| o.queue == q);
        let mut all: Vec<&Message> = queue.ready.iter().chain(out.map(|o| &o.message)).collect();
        all.retain(|m| queue.plan.logs(m));
        all.sort_by_key(|m| m.position);
        all
    }
    /// Ids a restart must bring back, in order of position.
    pub(crate) fn durable(&self, q: usize) -> Vec<u64> {
        self.logged(q).iter().map(|m| m.id).collect()
    }
    /// Whether a message is where its publisher may want it to survive: a copy that died in a transient queue is not.
    pub(crate) fn is_durable(&self, id: u64) -> bool {
        let lasting = |m: &&Message| m.id == id && m.deaths.iter().all(|d| self.queues[d.0].plan.durable);
        (0..2).any(|q| self.logged(q).iter().any(lasting))
    }

    fn expire(&mut self, q: usize, before: u64) {
        while let Some(k) = self.head(q)
            && self.queues[q].ready[k].deadline.is_some_and(|d| d < before)
        {
            let message = self.queues[q].ready.remove(k);
            self.deaths.push_back((q, message, "expired"));
        }
    }

    /// The next in turn with credit, of the highest priority.
    fn taker(&mut self, q: usize) -> Option<String> {
        let used: Vec<usize> = (0..self.channels.len()).map(|c| self.of_channel(c)).collect();
        self.succeed(q);
        let (queue, channels) = (&mut self.queues[q], &self.channels[..]);
        if queue.plan.single_active {
            let active = queue.active.clone()?;
            let highest = queue.consumers.iter().map(|c| c.priority).max();
            let c = queue.consumers.iter().find(|c| c.name == active)?;
            let outranked = queue.plan.quorum && highest > Some(c.priority);
            return (!outranked && has_credit(c, channels, used[c.channel])).then_some(active);
        }
        let mut priorities: Vec<i64> = queue.consumers.iter().map(|c| c.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        for priority in priorities.into_iter().rev() {
            for name in queue.turns.clone() {
                let Some(c) = queue.consumers.iter_mut().find(|c| c.name == name && c.priority == priority) else {
                    continue;
                };
                queue.turns.retain(|n| *n != name);
                if has_credit(c, channels, used[c.channel]) {
                    queue.turns.push_back(name.clone());
                    return Some(name);
                }
                c.listed = false;
            }
        }
        None
    }

    /// In a quorum queue a higher priority takes over from a single active consumer that has nothing outstanding.
    fn succeed(&mut self, q: usize) {
        let queue = &mut self.queues[q];
        let highest = queue.consumers.iter().map(|c| c.priority).max();
        let active = queue.consumers.iter().find(|c| Some(&c.name) == queue.active.as_ref());
        if queue.plan.quorum && active.is_some_and(|c| c.unacked == 0 && highest > Some(c.priority)) {
            queue.active = None;
            self.choose(q);
        }
    }

    pub(crate) fn serve(&mut self, q: usize) {
        self.expire(q, self.now);
        while let Some(k) = self.head(q) {
            if self.queues[q].ready[k].deadline.is_some_and(|d| d < self.now) {
                self.expire(q, self.now);
                continue;
            }
            let Some(name) = self.taker(q) else { break };
            let message = self.queues[q].ready.remove(k);
            let Some(c) = self.queues[q].consumers.iter_mut().find(|c| c.name == name) else { break };
            let channel = &mut self.channels[c.channel];
            channel.last_tag += 1;
            let tag = channel.last_tag;
            channel.heard.push(Heard::Delivery {
                consumer: name.clone(),
                tag,
                redelivered: message.redelivered,
                message: Seen::from(&message),
            });
            if !c.no_ack {
                c.unacked += 1;
                channel.outstanding.insert(tag, Outstanding { queue: q, consumer: Some(name), message });
            }
        }
        self.expire(q, self.now + 1);
        let plan = self.queues[q].plan.clone();
        while !plan.refuses
            && (plan.max_length.is_some_and(|max| self.queues[q].ready.len() > max)
                || plan.max_bytes.is_some_and(|max| self.ready(q).1 > max))
            && let Some(k) = self.head(q)
        {
            let message = self.queues[q].ready.remove(k);
            self.deaths.push_back((q, message, "maxlen"));
        }
        self.expire(q, self.now + 1);
    }

    /// The end of a command: the dead find their queues, everything is served.
    pub(crate) fn settle_down(&mut self) {
        loop {
            self.bury();
            self.serve(0);
            self.serve(1);
            if self.deaths.is_empty() {
                return;
            }
        }
    }

    fn bury(&mut self) {
        while let Some((q, mut message, reason)) = self.deaths.pop_front() {
            if !self.queues[q].plan.dead_letters {
                continue;
            }
            let to = 1 - q;
            let count = match message.deaths.iter().position(|d| (d.0, d.1) == (q, reason)) {
                Some(k) => message.deaths.remove(k).2 + 1,
                None => 1,
            };
            message.deaths.insert(0, (q, reason, count));
            message.expiration = None;
            message.redelivered = false;
            let loops = message
                .deaths
                .iter()
                .position(|d| d.0 == to)
                .is_some_and(|k| !message.deaths[..=k].iter().any(|d| d.1 == "rejected"));
            if reason == "rejected" || !loops {
                self.enter(to, message);
            }
        }
    }

    /// Whether the queue took it.
    pub(crate) fn enter(&mut self, q: usize, mut message: Message) -> bool {
        let (ready, bytes, _) = self.ready(q);
        let queue = &mut self.queues[q];
        let over = queue.plan.max_length.is_some_and(|max| ready as usize + 1 > max)
            || queue.plan.max_bytes.is_some_and(|max| bytes + message.bytes > max);
        if queue.plan.refuses && over {
            if queue.plan.refused_die {
                self.deaths.push_back((q, message, "maxlen"));
            }
            return false;
        }
        (message.counts, message.returned) = ((0, 0), None);
        let ttl = queue.plan.ttl.into_iter().chain(message.expiration).min();
        message.deadline = ttl.map(|ttl| self.now + ttl);
        message.level = match queue.plan.max_priority {
            // the tests send no priority for 0
            _ if queue.plan.quorum => {
                if message.priority == 0 {
                    4
                } else {
                    message.priority.min(31)
                }
            }
            max => max.map_or(0, |max| message.priority.min(max)),
        };
        message.position = queue.next_position;
        queue.next_position += 1;
        queue.ready.push(message);
        true
    }

    pub(crate) fn get(&mut self, q: usize, c: usize, no_ack: bool) {
        self.serve(q);
        let Some(k) = self.head(q) else { return self.channels[c].heard.push(Heard::Empty) };
        let message = self.queues[q].ready.remove(k);
        self.expire(q, self.now + 1);
        let left = self.queues[q].ready.len() as u64;
        let channel = &mut self.channels[c];
        channel.last_tag += 1;
        let (tag, redelivered) = (channel.last_tag, message.redelivered);
        channel.heard.push(Heard::Got { tag, redelivered, left, message: Seen::from(&message) });
        if !no_ack {
            channel.outstanding.insert(tag, Outstanding { queue: q, consumer: None, message });
        }
    }

    pub(crate) fn consume(&mut self, q: usize, name: &str, c: usize, prefetch: usize, no_ack: bool, priority: i64) {
        let name = name.to_owned();
        let consumer =
            Consumer { name: name.clone(), channel: c, queue: q, prefetch, no_ack, priority, unacked: 0, listed: true };
        self.queues[q].consumers.push(consumer);
        self.queues[q].turns.push_back(name.clone());
        self.channels[c].consumers.push(name);
        self.choose(q);
    }
    /// A consumer may have credit again.
    fn relist(&mut self, name: &str) {
        for queue in &mut self.queues {
            if let Some(c) = queue.consumers.iter_mut().find(|c| c.name == name)
                && !std::mem::replace(&mut c.listed, true)
            {
                queue.turns.push_back(name.to_owned());
            }
        }
    }
    pub(crate) fn limit_channel(&mut self, c: usize, global: usize) {
        self.channels[c].global = global;
        for name in self.channels[c].consumers.clone() {
            self.relist(&name);
        }
    }
    /// A prefetch for each consumer lifts the one of the channel.
    pub(crate) fn lift_limit(&mut self, c: usize) {
        if self.channels[c].global > 0 {
            self.limit_channel(c, 0);
            self.settle_down();
        }
    }
    fn choose(&mut self, q: usize) {
        let queue = &mut self.queues[q];
        if queue.plan.single_active && queue.active.is_none() {
            // the first of the highest priority
            let next = queue.consumers.iter().rev().max_by_key(|c| c.priority);
            queue.active = next.map(|c| c.name.clone());
        }
    }
    fn forget(&mut self, name: &str) -> Option<usize> {
        let q = self.queues.iter().position(|q| q.consumers.iter().any(|c| c.name == name))?;
        let queue = &mut self.queues[q];
        queue.consumers.retain(|c| c.name != name);
        queue.turns.retain(|n| n != name);
        self.channels.iter_mut().for_each(|c| c.consumers.retain(|n| n != name));
        if queue.active.as_deref() == Some(name) {
            queue.active = None;
        }
        Some(q)
    }
    pub(crate) fn cancel(&mut self, name: &str) {
        if let Some(q) = self.forget(name) {
            self.choose(q);
        }
    }

    /// Ends deliveries, in tag order; in a transaction when it commits.
    pub(crate) fn end(&mut self, c: usize, tags: &[u64], end: End) {
        let channel = &mut self.channels[c];
        let taken: Taken = tags.iter().filter_map(|t| channel.outstanding.remove(t).map(|o| (*t, o))).collect();
        match &mut channel.tx {
            Some(tx) => tx.push((end, taken)),
            None => self.finish(c, taken, end),
        }
    }
    pub(crate) fn is_tx(&self, c: usize) -> bool {
        self.channels[c].tx.is_some()
    }
    pub(crate) fn tx_select(&mut self, c: usize) {
        self.channels[c].tx.get_or_insert_default();
    }
    pub(crate) fn tx_end(&mut self, c: usize, commit: bool) {
        for (end, taken) in self.channels[c].tx.replace(Vec::new()).unwrap_or_default() {
            if commit {
                self.finish(c, taken, end);
            } else {
                self.channels[c].outstanding.extend(taken);
            }
        }
    }
    /// Not a matter of the transaction.
    pub(crate) fn recover(&mut self, c: usize) {
        let taken = std::mem::take(&mut self.channels[c].outstanding).into_iter().collect();
        self.finish(c, taken, End::Back);
    }
    fn finish(&mut self, c: usize, taken: Taken, end: End) {
        let mut back: Vec<(usize, Message)> = Vec::new();
        for (_, o) in taken {
            if let Some(name) = &o.consumer {
                for queue in &mut self.queues {
                    queue.consumers.iter_mut().filter(|x| x.name == *name).for_each(|x| x.unacked -= 1);
                }
                self.relist(name);
                if self.channels[c].global > 0 {
                    for name in self.channels[c].consumers.clone() {
                        self.relist(&name);
                    }
                }
            }
            match end {
                End::Ack => {}
                End::Drop => self.deaths.push_back((o.queue, o.message, "rejected")),
                End::Back | End::Failed => {
                    let mut message = Message { redelivered: true, ..o.message };
                    let plan = &self.queues[o.queue].plan;
                    if plan.quorum {
                        message.counts.0 += u32::from(end == End::Failed);
                        message.counts.1 += 1;
                        if plan.delivery_limit.is_some_and(|limit| message.counts.0 > limit) {
                            self.deaths.push_back((o.queue, message, "delivery_limit"));
                            continue;
                        }
                    }
                    back.push((o.queue, message));
                }
            }
        }
        for (q, mut message) in back {
            let queue = &mut self.queues[q];
            if queue.plan.quorum {
                message.returned = Some(queue.next_return);
                queue.next_return += 1;
            }
            queue.ready.push(message);
        }
    }
    pub(crate) fn close(&mut self, c: usize) {
        let names: Vec<(String, usize)> = self
            .queues
            .iter()
            .flat_map(|q| &q.consumers)
            .filter(|x| x.channel == c)
            .map(|x| (x.name.clone(), x.queue))
            .collect();
        names.iter().for_each(|(name, _)| {
            self.forget(name);
        });
        // the end of a channel is a rollback
        self.tx_end(c, false);
        (self.channels[c].tx, self.channels[c].global) = (None, 0);
        let tags: Vec<u64> = self.channels[c].outstanding.keys().copied().collect();
        self.end(c, &tags, End::Failed);
        names.iter().for_each(|(_, q)| self.choose(*q));
        self.channels[c].last_tag = 0;
    }
    pub(crate) fn purge(&mut self, q: usize) -> u64 {
        std::mem::take(&mut self.queues[q].ready).len() as u64
    }
    /// Time passes; what expired at a head goes, once its deadline has passed.
    pub(crate) fn advance(&mut self, ms: u64) {
        self.now += ms;
        self.expire(0, self.now);
        self.expire(1, self.now);
    }
}
