//! Topology, traffic and faults of one run, all from its seed.

use hornpipe_core::rng::Rng;
use hornpipe_store::StoreConfig;
use hornpipe_types::limits::Limits;
use hornpipe_types::table::{FieldTable, Value};
use std::time::Duration;

/// Vhost and user of the simulated broker.
pub(crate) const VHOST: &str = "/";
pub(crate) const USER: &str = "guest";
/// Exchanges besides the default one.
pub(crate) const FANOUT: &str = "fan";
pub(crate) const TOPIC: &str = "top";
pub(crate) const DEAD: &str = "dlx";
/// An `x-delayed-message` exchange, in plans that delay.
pub(crate) const LATE: &str = "late";

/// Random choices by name.
pub(crate) trait Choose {
    /// Whether an event of so many in a hundred happens.
    fn chance(&mut self, percent: u64) -> bool;
    /// A number in `from..=to`.
    fn between(&mut self, from: u64, to: u64) -> u64;
    /// One of these.
    fn pick<T: Copy>(&mut self, of: &[T]) -> T;
}

impl Choose for Rng {
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A queue as it is declared, again and again, throughout a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueuePlan {
    pub(crate) name: String,
    pub(crate) durable: bool,
    pub(crate) quorum: bool,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) max_length: Option<u64>,
    /// Over the limit publishes are refused; else the oldest messages go.
    pub(crate) refuses: bool,
    /// Where the dead go: a queue, through the default exchange or the one for dead letters.
    pub(crate) dead_to: Option<(usize, bool)>,
    pub(crate) max_priority: Option<u8>,
    pub(crate) single_active: bool,
    /// May be deleted and declared again while the others work.
    pub(crate) replaceable: bool,
}

impl QueuePlan {
    /// Whether a message with this persistence is logged here.
    pub(crate) fn logs(&self, persistent: bool) -> bool {
        self.durable && (persistent || self.quorum)
    }
    /// The arguments of its declaration.
    pub(crate) fn arguments(&self, queues: &[QueuePlan]) -> FieldTable {
        let mut t = FieldTable::default();
        if self.quorum {
            t.set("x-queue-type", Value::long_str("quorum"));
            t.set("x-delivery-limit", Value::I64(1_000_000));
        }
        let mut number = |key: &str, value: Option<u64>| {
            if let Some(value) = value {
                t.set(key, Value::I64(value as i64));
            }
        };
        number("x-message-ttl", self.ttl_ms);
        number("x-max-length", self.max_length);
        number("x-max-priority", self.max_priority.map(u64::from));
        if self.max_length.is_some() && self.refuses {
            t.set("x-overflow", Value::long_str("reject-publish"));
        }
        if self.single_active {
            t.set("x-single-active-consumer", Value::Bool(true));
        }
        if let Some((to, direct)) = self.dead_to {
            t.set("x-dead-letter-exchange", Value::long_str(if direct { "" } else { DEAD }));
            t.set("x-dead-letter-routing-key", Value::long_str(&queues[to].name));
        }
        t
    }
}

/// How a publisher wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Plain,
    Confirm,
    Tx,
}

/// How a consumer behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConsumerPlan {
    pub(crate) queue: usize,
    /// 0 = no limit.
    pub(crate) prefetch: u16,
    /// The limit holds for the channel.
    pub(crate) global: bool,
    pub(crate) no_ack: bool,
    /// Fetches by basic.get.
    pub(crate) get: bool,
    pub(crate) tx: bool,
    /// Acknowledges everything and nothing else.
    pub(crate) plain: bool,
    pub(crate) priority: i64,
}

/// What a client does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Publisher(Mode),
    Consumer(ConsumerPlan),
    /// Purges, and deletes and declares again.
    Meddler,
}

/// Everything a seed decides beforehand.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) queues: Vec<QueuePlan>,
    /// Exchange, binding key, queue.
    pub(crate) bindings: Vec<(&'static str, &'static str, usize)>,
    pub(crate) clients: Vec<Role>,
    pub(crate) limits: Limits,
    pub(crate) store: StoreConfig,
    /// Groups handed to the store before the first of them is reported.
    pub(crate) depth: usize,
    /// Longest write and sync, microseconds.
    pub(crate) slow_us: u64,
    /// Turns with faults, before the drain.
    pub(crate) turns: u64,
    /// Chance of each fault a turn, in 10 000.
    pub(crate) crash: u64,
    pub(crate) stop: u64,
    pub(crate) vanish: u64,
    pub(crate) jump: u64,
    pub(crate) alarm: u64,
    /// Chance in a hundred that a message is persistent, and that it has an expiration.
    pub(crate) persistent: u64,
    pub(crate) expiration: u64,
    pub(crate) big: u64,
    /// Messages a publisher may have unconfirmed.
    pub(crate) window: u64,
    /// Chance in a hundred that messages go through the delayed exchange.
    pub(crate) delayed: u64,
    /// Chance in a hundred, each time a consumer may settle, that it rejects all it has and deletes its queue at once.
    pub(crate) quits: u64,
}

/// Binding keys and routing keys for the topic exchange.
const PATTERNS: [&str; 6] = ["a.*", "#.x", "a.b", "#", "*.*.x", "b.#"];
pub(crate) const KEYS: [&str; 6] = ["a.b", "a.x", "b", "b.c.x", "c.d", ""];

impl Plan {
    /// The plan of a seed.
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let queues = queues(rng);
        let mut bindings = Vec::new();
        for q in 0..queues.len() {
            if rng.chance(60) {
                bindings.push((FANOUT, "", q));
            }
            for _ in 0..rng.below(3) {
                let binding = (TOPIC, rng.pick(&PATTERNS), q);
                if !bindings.contains(&binding) {
                    bindings.push(binding);
                }
            }
        }
        let mut clients = Vec::new();
        for _ in 0..rng.between(1, 4) {
            clients.push(Role::Publisher(rng.pick(&[Mode::Plain, Mode::Confirm, Mode::Confirm, Mode::Tx])));
        }
        for queue in 0..queues.len() {
            for _ in 0..rng.below(4) {
                clients.push(Role::Consumer(consumer(rng, queue, &queues)));
            }
        }
        if rng.chance(40) {
            clients.push(Role::Meddler);
        }
        // drawn aside, so that the seeds kept go on meaning what they meant
        let mut aside = rng.clone();
        let faults = rng.pick(&[0, 10, 40, 120]);
        Self {
            bindings,
            clients,
            limits: Limits {
                unsent_bytes: rng.pick(&[256, 2048, 128 << 10]),
                group_messages: rng.pick(&[8, 64, 4096]),
                settle_delay_ms: 50,
                resident_bytes: rng.pick(&[0, 0, 2000, 64 << 20]),
                resident_bytes_per_queue: rng.pick(&[0, 300, 2000]),
                log_records_slack: aside.pick(&[512, 0, 3]),
                slice_units: aside.pick(&[2048, 1, 2, 5, 20]),
                short_runs: aside.pick(&[1024, 2, 5]),
                pending_copies: aside.pick(&[16_384, 5]),
                ..Limits::default()
            },
            store: StoreConfig {
                inline_bytes_max: rng.pick(&[0, 300, 32 << 10]),
                body_file_bytes: rng.pick(&[2 << 10, 16 << 10, 256 << 10]),
                // the store's own clock must not decide: the mark is renewed after each sync, or never
                mark_every: rng.pick(&[Duration::ZERO, Duration::from_secs(1 << 30)]),
                ..StoreConfig::default()
            },
            depth: rng.pick(&[1, 1, 1, 2, 3]),
            slow_us: rng.pick(&[300, 5_000, 200_000]),
            turns: rng.between(150, 900),
            crash: faults,
            stop: rng.pick(&[0, 0, 10, 40]),
            vanish: rng.pick(&[0, 50, 300]),
            jump: rng.pick(&[0, 0, 50]),
            alarm: rng.pick(&[0, 0, 30]),
            persistent: rng.pick(&[100, 100, 80, 50]),
            expiration: rng.pick(&[0, 0, 10, 40]),
            big: rng.pick(&[0, 3, 15]),
            window: rng.pick(&[4, 40, 400]),
            delayed: 0,
            quits: 0,
            queues,
        }
    }

    /// More of what is rare otherwise, all at once: messages that expire and move on, between queues that are lost in a crash
    /// and such that are not, settled and published in transactions, with many crashes.
    pub(crate) fn make_restless(&mut self, rng: &mut Rng) {
        let n = self.queues.len();
        for i in 0..n {
            if self.queues[i].ttl_ms.is_none() && rng.chance(40) {
                self.queues[i].ttl_ms = Some(rng.pick(&[0, 5, 60, 500]));
            }
            let to = rng.below(n as u64) as usize;
            let target = &self.queues[to];
            if self.queues[i].dead_to.is_none() && to != i && !target.refuses && !target.replaceable && !target.quorum {
                self.queues[i].dead_to = Some((to, rng.chance(50)));
            }
        }
        for client in &mut self.clients {
            match client {
                Role::Publisher(mode) if rng.chance(40) => *mode = Mode::Tx,
                Role::Consumer(c) if !c.no_ack && rng.chance(60) => c.tx = true,
                _ => {}
            }
        }
        (self.expiration, self.crash) = (30, 120);
    }

    /// Messages go through a delayed exchange too.
    pub(crate) fn make_late(&mut self, rng: &mut Rng) {
        self.delayed = rng.pick(&[10, 40, 80]);
    }

    /// Queues are deleted right after what was delivered from them was rejected, and dead-lettering takes many turns.
    pub(crate) fn make_quitting(&mut self, rng: &mut Rng) {
        let n = self.queues.len();
        for i in 0..n {
            let to = rng.below(n as u64) as usize;
            let target = &self.queues[to];
            if self.queues[i].replaceable && to != i && !target.refuses && !target.replaceable && !target.quorum {
                self.queues[i].dead_to = Some((to, rng.chance(50)));
            }
        }
        if !self.clients.iter().any(|client| matches!(client, Role::Meddler)) {
            self.clients.push(Role::Meddler);
        }
        self.quits = rng.pick(&[2, 10, 30]);
        self.limits.slice_units = rng.pick(&[1, 16, 40]);
    }

    /// Whether messages may leave a queue without anybody asking: by time or by length.
    fn is_restless(&self, queue: usize, expires: bool) -> bool {
        let q = &self.queues[queue];
        q.ttl_ms.is_some() || expires || (q.max_length.is_some() && !q.refuses)
    }

    /// Where a message that entered `from` may be by now without a consumer's doing, `from` first; and whether it may be
    /// nowhere.
    pub(crate) fn reach(&self, from: usize, expires: bool) -> (Vec<usize>, bool) {
        let mut reach = vec![from];
        let (mut at, mut expires) = (from, expires);
        while self.is_restless(at, expires) {
            // the copy has no expiration any more
            expires = false;
            match self.queues[at].dead_to {
                Some((to, _)) if !reach.contains(&to) => {
                    reach.push(to);
                    at = to;
                }
                // the second visit ends a loop nobody rejects in
                _ => return (reach, true),
            }
        }
        (reach, false)
    }

    /// The queues a message goes to.
    pub(crate) fn route(&self, exchange: &str, key: &str) -> Vec<usize> {
        let mut to: Vec<usize> = match exchange {
            "" | LATE => self.queues.iter().position(|q| q.name == key).into_iter().collect(),
            _ => self
                .bindings
                .iter()
                .filter(|(x, pattern, _)| *x == exchange && (exchange == FANOUT || topic_matches(pattern, key)))
                .map(|b| b.2)
                .collect(),
        };
        to.sort_unstable();
        to.dedup();
        to
    }
}

fn queues(rng: &mut Rng) -> Vec<QueuePlan> {
    let n = rng.between(2, 5) as usize;
    let mut queues: Vec<QueuePlan> = (0..n)
        .map(|i| {
            let quorum = rng.chance(12);
            let mut q =
                QueuePlan { name: format!("q{i}"), durable: quorum || rng.chance(75), quorum, ..QueuePlan::default() };
            if rng.chance(25) {
                q.ttl_ms = Some(rng.pick(&[0, 5, 60, 500, 5000]));
            }
            if rng.chance(25) {
                q.max_length = Some(rng.pick(&[1, 3, 10]));
                q.refuses = rng.chance(40);
            }
            if !quorum && rng.chance(15) {
                q.max_priority = Some(3);
            }
            q.single_active = rng.chance(10);
            q.replaceable = !quorum && rng.chance(30);
            q
        })
        .collect();
    for i in 0..n {
        let to = rng.below(n as u64) as usize;
        // back to where it came from only by way of another queue, and never into one that refuses or is deleted
        if rng.chance(45) && to != i && !queues[to].refuses && !queues[to].replaceable && !queues[to].quorum {
            queues[i].dead_to = Some((to, rng.chance(50)));
        }
    }
    queues
}

fn consumer(rng: &mut Rng, queue: usize, queues: &[QueuePlan]) -> ConsumerPlan {
    let prefetch = rng.pick(&[0, 1, 2, 5, 30]);
    ConsumerPlan {
        queue,
        prefetch,
        global: prefetch > 0 && !queues[queue].quorum && rng.chance(15),
        no_ack: rng.chance(12),
        get: !(queues[queue].quorum && queues[queue].single_active) && rng.chance(15),
        tx: rng.chance(10),
        plain: rng.chance(35),
        priority: if rng.chance(20) { 5 } else { 0 },
    }
}

/// The naive reading of topic patterns, to hold the broker's to.
fn topic_matches(pattern: &str, key: &str) -> bool {
    fn words(p: &[&str], k: &[&str]) -> bool {
        match (p.split_first(), k.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => words(rest, k) || k.split_first().is_some_and(|(_, k)| words(p, k)),
            (Some((&"*", p)), Some((_, k))) => words(p, k),
            (Some((a, p)), Some((b, k))) => a == b && words(p, k),
            _ => false,
        }
    }
    let p: Vec<&str> = if pattern.is_empty() { vec![] } else { pattern.split('.').collect() };
    let k: Vec<&str> = if key.is_empty() { vec![] } else { key.split('.').collect() };
    words(&p, &k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_patterns() {
        let cases =
            [("#", "", true), ("a.*", "a.b", true), ("a.*", "a", false), ("#.x", "x", true), ("*.*.x", "b.c.x", true)];
        for (pattern, key, yes) in cases {
            assert_eq!(topic_matches(pattern, key), yes, "{pattern} {key}");
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_plan() {
        let plan = |seed| format!("{:?}", Plan::new(&mut Rng::new(seed)));
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }
}
