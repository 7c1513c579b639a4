//! Policies and operator policies: which one applies to a queue or exchange, and what a queue's settings then are.
//!
//! For each object at most one policy and one operator policy apply: the one of highest priority that matches by name and
//! kind and sets no key the queue's type does not support. Changes act at once: the caller asks for [`Policies::effective`]
//! again for everything in the vhost whenever [`Policies::generation`] moved.

use crate::access::compile;
use hornpipe_types::Map;
use hornpipe_types::args::{
    DeadLetterStrategy, DelayedRetry, Overflow, QueueArgs, QueueKind, RetryKind, parse_max_age,
    term::{string_term, term},
};
use hornpipe_types::definition::PolicyDefinition;
use hornpipe_types::limits::Limits;
use hornpipe_types::names::ShortStr;
use hornpipe_types::table::{FieldTable, Value};
use regex::Regex;

#[cfg(test)]
mod tests;

/// What a policy may apply to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// An exchange.
    Exchange,
    /// A queue of this kind.
    Queue(QueueKind),
}

/// What policies make of one object.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Effective {
    /// Name of the policy that applies.
    pub policy: Option<ShortStr>,
    /// Name of the operator policy that applies.
    pub operator_policy: Option<ShortStr>,
    /// Both merged, sorted by key; empty when none applies. The HTTP API's `effective_policy_definition`.
    pub definition: FieldTable,
}

#[derive(Debug)]
struct Row {
    definition: PolicyDefinition,
    /// `None`: matches nothing.
    pattern: Option<Regex>,
}

impl Row {
    fn applies(&self, name: &str, target: Target) -> bool {
        let by_kind = match (self.definition.apply_to.as_str(), target) {
            ("" | "all", _) => true,
            ("exchanges", target) => target == Target::Exchange,
            ("queues", Target::Queue(_)) => true,
            ("classic_queues", target) => target == Target::Queue(QueueKind::Classic),
            ("quorum_queues", target) => target == Target::Queue(QueueKind::Quorum),
            ("streams", target) => target == Target::Queue(QueueKind::Stream),
            _ => false,
        };
        by_kind
            && match target {
                Target::Exchange => true,
                Target::Queue(kind) => {
                    let unsupported = kind.unsupported_policy_keys();
                    !self.definition.definition.iter().any(|(key, _)| unsupported.contains(&key))
                }
            }
            && self.pattern.as_ref().is_some_and(|p| p.is_match(name))
    }
}

/// Policies of one vhost, best first.
#[derive(Debug, Default)]
struct InVhost {
    policies: Vec<Row>,
    operator: Vec<Row>,
}

impl InVhost {
    fn rows(&self, operator: bool) -> &Vec<Row> {
        if operator { &self.operator } else { &self.policies }
    }
    fn rows_mut(&mut self, operator: bool) -> &mut Vec<Row> {
        if operator { &mut self.operator } else { &mut self.policies }
    }
}

/// All policies of a shard.
#[derive(Debug, Default)]
pub struct Policies {
    vhosts: Map<ShortStr, InVhost>,
    generation: u64,
}

impl Policies {
    /// No policies.
    pub fn new() -> Self {
        Self::default()
    }

    /// Grows with every change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds or replaces a policy.
    ///
    /// # Errors
    /// What [`validate`] says; nothing is changed then.
    pub fn put(&mut self, definition: PolicyDefinition) -> Result<(), String> {
        validate(&definition)?;
        self.recover(definition);
        Ok(())
    }

    /// Like [`Self::put`] for a definition out of the log, which is not validated again. A pattern that does not compile
    /// matches nothing and is reported.
    pub fn recover(&mut self, definition: PolicyDefinition) -> Option<String> {
        let (pattern, bad) = match compile_pattern(&definition.pattern) {
            Ok(pattern) => (Some(pattern), None),
            Err(reason) => (None, Some(reason)),
        };
        self.generation += 1;
        let rows = self.vhosts.entry(definition.vhost.clone()).or_default().rows_mut(definition.operator);
        rows.retain(|r| r.definition.name != definition.name);
        rows.push(Row { definition, pattern });
        // RabbitMQ leaves equal priorities open; by name, so that every run decides alike.
        rows.sort_by(|a, b| {
            let (a, b) = (&a.definition, &b.definition);
            b.priority.cmp(&a.priority).then_with(|| a.name.cmp(&b.name))
        });
        bad
    }

    /// Removes a policy; says whether there was one.
    pub fn delete(&mut self, vhost: &str, operator: bool, name: &str) -> bool {
        let Some(in_vhost) = self.vhosts.get_mut(vhost) else { return false };
        let rows = in_vhost.rows_mut(operator);
        let before = rows.len();
        rows.retain(|r| r.definition.name != *name);
        let existed = rows.len() != before;
        if existed {
            self.generation += 1;
        }
        existed
    }

    /// Forgets all policies of a vhost.
    pub fn delete_vhost(&mut self, vhost: &str) {
        if self.vhosts.remove(vhost).is_some() {
            self.generation += 1;
        }
    }

    /// A policy.
    pub fn get(&self, vhost: &str, operator: bool, name: &str) -> Option<&PolicyDefinition> {
        let rows = self.vhosts.get(vhost)?.rows(operator);
        rows.iter().map(|r| &r.definition).find(|d| d.name == *name)
    }

    /// The policies of a vhost, or its operator policies, best first.
    pub fn list(&self, vhost: &str, operator: bool) -> impl Iterator<Item = &PolicyDefinition> {
        self.vhosts.get(vhost).into_iter().flat_map(move |v| v.rows(operator)).map(|r| &r.definition)
    }

    /// What applies to the object of this name.
    pub fn effective(&self, vhost: &str, name: &str, target: Target) -> Effective {
        let Some(in_vhost) = self.vhosts.get(vhost) else { return Effective::default() };
        let find = |operator| in_vhost.rows(operator).iter().map(|r| (r, r.applies(name, target))).find(|(_, a)| *a);
        let (policy, operator) = (find(false), find(true));
        let (policy, operator) = (policy.map(|(r, _)| &r.definition), operator.map(|(r, _)| &r.definition));
        Effective {
            policy: policy.map(|d| d.name.clone()),
            operator_policy: operator.map(|d| d.name.clone()),
            definition: merge(policy.map(|d| &d.definition), operator.map(|d| &d.definition)),
        }
    }
}

/// A policy's pattern: unanchored, and unlike in permissions the empty one matches everything.
fn compile_pattern(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|_| compile(pattern).err().map(|e| e.reason).unwrap_or_default())
}

/// Operator policies only ever make things tighter: the smaller number, and their own say in everything else.
fn merge(policy: Option<&FieldTable>, operator: Option<&FieldTable>) -> FieldTable {
    let mut merged = policy.cloned().unwrap_or_default();
    for (key, theirs) in operator.into_iter().flat_map(FieldTable::iter) {
        let value = match merged.get(key) {
            Some(ours) => merged_value(key, ours, theirs),
            None => theirs.clone(),
        };
        merged.set(key, value);
    }
    merged.sorted()
}

fn merged_value(key: &str, ours: &Value, theirs: &Value) -> Value {
    let (Some(a), Some(b)) = (ours.as_int(), theirs.as_int()) else { return theirs.clone() };
    match key {
        "message-ttl"
        | "expires"
        | "max-length"
        | "max-length-bytes"
        | "max-in-memory-length"
        | "max-in-memory-bytes" => Value::I64(a.min(b)),
        "delivery-limit" => Value::I64(tighter_delivery_limit(a, b)),
        _ => theirs.clone(),
    }
}

/// The smaller limit; a negative one means none and gives way.
fn tighter_delivery_limit(a: i64, b: i64) -> i64 {
    if a < 0 || b < 0 { a.max(b) } else { a.min(b) }
}

/// The values a queue runs with: arguments and policies taken together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueSettings {
    /// What the queue is.
    pub kind: QueueKind,
    /// Message TTL, milliseconds; for messages published from now on.
    pub message_ttl_ms: Option<u64>,
    /// Queue expiry, milliseconds of disuse.
    pub expires_ms: Option<u64>,
    /// Most ready messages.
    pub max_length: Option<u64>,
    /// Most octets of ready bodies.
    pub max_length_bytes: Option<u64>,
    /// What a full queue does. A quorum queue knows no reject-publish-dlx and drops from the head instead.
    pub overflow: Overflow,
    /// Dead-letter exchange; empty = the default exchange.
    pub dead_letter_exchange: Option<ShortStr>,
    /// Routing key for dead letters; `None` = their own.
    pub dead_letter_routing_key: Option<ShortStr>,
    /// Quorum: keep dead letters until their targets confirmed. Only with reject-publish, as in RabbitMQ.
    pub dead_letter_at_least_once: bool,
    /// Classic: highest priority level; `None` = not a priority queue.
    pub max_priority: Option<u8>,
    /// Single active consumer.
    pub single_active: bool,
    /// As set; `None` = not set, negative = none. See [`Self::delivery_limit`].
    pub delivery_limit: Option<i64>,
    /// As set, milliseconds. See [`Self::consumer_timeout`].
    pub consumer_timeout_ms: Option<u64>,
    /// Quorum: which returned messages wait how long.
    pub delayed_retry: DelayedRetry,
}

impl QueueSettings {
    /// Whether publishes are refused where they would be too many.
    pub(crate) fn refuses(&self) -> bool {
        matches!(self.overflow, Overflow::RejectPublish | Overflow::RejectPublishDlx)
            && (self.max_length.is_some() || self.max_length_bytes.is_some())
    }
    /// Arguments against policies: the smaller number; of names the argument, but for a quorum queue's overflow and
    /// retry type the policy.
    pub fn resolve(args: &QueueArgs, effective: &Effective) -> Self {
        let policy = &effective.definition;
        let quorum = args.kind == QueueKind::Quorum;
        let number = |key| policy.get(key).and_then(Value::as_int).and_then(|n| u64::try_from(n).ok());
        let name = |key| policy.get(key).and_then(Value::as_str);
        let text = |key| name(key).map(ShortStr::new);

        let in_policy = name("overflow").and_then(Overflow::from_name);
        let overflow = if quorum { in_policy.or(args.overflow) } else { args.overflow.or(in_policy) };
        let overflow = match overflow.unwrap_or_default() {
            Overflow::RejectPublishDlx if quorum => Overflow::DropHead,
            other => other,
        };
        let strategy = args
            .dead_letter_strategy
            .or_else(|| name("dead-letter-strategy").and_then(DeadLetterStrategy::from_name))
            .unwrap_or_default();
        let dead_letter_exchange = args.dead_letter_exchange.clone().or_else(|| text("dead-letter-exchange"));
        let retry = &args.delayed_retry;
        Self {
            kind: args.kind,
            message_ttl_ms: smaller(args.message_ttl_ms, number("message-ttl")),
            expires_ms: smaller(args.expires_ms, number("expires")),
            max_length: smaller(args.max_length, number("max-length")),
            max_length_bytes: smaller(args.max_length_bytes, number("max-length-bytes")),
            overflow,
            dead_letter_at_least_once: quorum
                && strategy == DeadLetterStrategy::AtLeastOnce
                && overflow == Overflow::RejectPublish
                && dead_letter_exchange.is_some(),
            dead_letter_exchange,
            dead_letter_routing_key: args.dead_letter_routing_key.clone().or_else(|| text("dead-letter-routing-key")),
            max_priority: args.max_priority.filter(|_| !quorum),
            single_active: args.single_active,
            delivery_limit: match (args.delivery_limit, policy.get("delivery-limit").and_then(Value::as_int)) {
                (Some(a), Some(b)) => Some(tighter_delivery_limit(a, b)),
                (a, b) => a.or(b),
            },
            consumer_timeout_ms: smaller(args.consumer_timeout_ms, number("consumer-timeout")),
            delayed_retry: DelayedRetry {
                kind: name("delayed-retry-type").and_then(RetryKind::from_name).or(retry.kind),
                min_ms: smaller(retry.min_ms, number("delayed-retry-min")),
                max_ms: smaller(retry.max_ms, number("delayed-retry-max")),
            },
        }
    }

    /// Failed deliveries a message of a quorum queue may have; `None` = any number. A classic queue has no limit.
    pub fn delivery_limit(&self, limits: &Limits) -> Option<u64> {
        match self.kind {
            QueueKind::Quorum => u64::try_from(self.delivery_limit.unwrap_or(limits.delivery_limit)).ok(),
            _ => None,
        }
    }

    /// Milliseconds a delivery may stay unsettled: what the consumer asked for, else what is set for the queue, else the
    /// broker's default; `None` = any time.
    pub fn consumer_timeout(&self, of_consumer: Option<u64>, limits: &Limits) -> Option<u64> {
        of_consumer.or(self.consumer_timeout_ms).or(Some(limits.consumer_timeout_ms)).filter(|ms| *ms > 0)
    }

    /// Milliseconds a returned message of a quorum queue waits before it is ready again; 0 = not at all.
    /// `delivery_count` is its number of failed deliveries, `failed` whether this return was one.
    pub fn retry_delay_ms(&self, delivery_count: u64, failed: bool) -> u64 {
        let wanted = match self.delayed_retry.kind.unwrap_or_default() {
            RetryKind::Disabled => false,
            RetryKind::All => true,
            RetryKind::Failed => failed,
            RetryKind::Returned => !failed,
        };
        if !wanted || self.kind != QueueKind::Quorum {
            return 0;
        }
        let wait = self.delayed_retry.min_ms.unwrap_or(0).saturating_mul(delivery_count.max(1));
        wait.min(self.delayed_retry.max_ms.unwrap_or(u64::MAX))
    }
}

fn smaller(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The alternate exchange of an exchange: the argument wins over the policy.
pub fn alternate_exchange(arguments: &FieldTable, effective: &Effective) -> Option<ShortStr> {
    let named = |table: &FieldTable| table.get("alternate-exchange").and_then(Value::as_str).map(ShortStr::new);
    match arguments.get("alternate-exchange") {
        Some(_) => named(arguments),
        None => named(&effective.definition),
    }
}

/// Checks a policy as RabbitMQ does when it is set.
///
/// # Errors
/// `Validation failed`, an empty line and a line for each fault; the HTTP API's reason for its 400.
pub fn validate(policy: &PolicyDefinition) -> Result<(), String> {
    let faults: Vec<String> =
        [definition_fault(policy), apply_to_fault(policy), pattern_fault(policy)].into_iter().flatten().collect();
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("Validation failed\n\n{}\n", faults.join("\n")))
}

fn pattern_fault(policy: &PolicyDefinition) -> Option<String> {
    let reason = compile_pattern(&policy.pattern).err()?;
    let reason = string_term(&reason);
    Some(format!("pattern should be regular expression but is invalid: {{{reason},0}}"))
}

fn apply_to_fault(policy: &PolicyDefinition) -> Option<String> {
    match policy.apply_to.as_str() {
        "" | "all" | "exchanges" | "queues" | "classic_queues" | "quorum_queues" | "streams" => None,
        // The two spaces are RabbitMQ's.
        other => Some(format!(
            "apply-to '{other}' unrecognised; should be one of: 'queues', 'classic_queues',  'quorum_queues', \
             'streams', 'exchanges', or 'all'"
        )),
    }
}

const OPERATOR_KEYS: &[&str] = &[
    "expires",
    "message-ttl",
    "max-length",
    "max-length-bytes",
    "max-in-memory-length",
    "max-in-memory-bytes",
    "delivery-limit",
    "queue-version",
    "overflow",
    "delayed-retry-type",
    "delayed-retry-min",
    "delayed-retry-max",
    "target-group-size",
    "queue-master-locator",
];

fn definition_fault(policy: &PolicyDefinition) -> Option<String> {
    if policy.definition.is_empty() {
        return Some("no policy provided".to_owned());
    }
    let (mut unknown, mut fault) = (Vec::new(), None);
    for (key, value) in policy.definition.sorted().iter() {
        let verdict = if policy.operator && !OPERATOR_KEYS.contains(&key) { None } else { key_fault(key, value) };
        match verdict {
            None => unknown.push(format!("{{{},{}}}", term(&Value::long_str(key)), term(value))),
            Some(Ok(())) => {}
            Some(Err(what)) => {
                fault.get_or_insert_with(|| format!("{} is not a valid {what}", term(value)));
            }
        }
    }
    fault.or_else(|| {
        (!unknown.is_empty()).then(|| format!("[{}] are not recognised policy settings", unknown.join(",")))
    })
}

/// `None`: no such key. `Err`: what the value is no valid one of.
fn key_fault(key: &str, value: &Value) -> Option<Result<(), &'static str>> {
    let at_least = |min: i64| value.as_int().is_some_and(|n| n >= min);
    let name = || value.as_str();
    let one_of = |names: &[&str]| name().is_some_and(|n| names.contains(&n));
    let is_name = || name().is_some();
    let (good, what) = match key {
        "alternate-exchange" => (is_name(), "alternate exchange name"),
        "dead-letter-exchange" => (is_name(), "dead letter exchange name"),
        "dead-letter-routing-key" => (is_name(), "dead letter routing key"),
        "dead-letter-strategy" => (one_of(&["at-most-once", "at-least-once"]), "dead letter strategy"),
        "message-ttl" => (at_least(0), "message TTL"),
        "expires" => (at_least(1), "queue expiry"),
        "max-length" => (at_least(0), "maximum length"),
        "max-length-bytes" => (at_least(0), "maximum length in bytes"),
        "max-in-memory-length" | "max-in-memory-bytes" => (at_least(0), "maximum memory in bytes"),
        "queue-mode" => (one_of(&["default", "lazy"]), "queue-mode value"),
        "queue-version" => (matches!(value.as_int(), Some(1 | 2)), "queue-version value"),
        "overflow" => (one_of(&["drop-head", "reject-publish", "reject-publish-dlx"]), "overflow value"),
        "delivery-limit" => (value.as_int().is_some(), "delivery limit"),
        "consumer-timeout" => (at_least(0), "consumer timeout"),
        "consumer-disconnected-timeout" => (at_least(0), "consumer disconnected timeout"),
        "max-age" => (name().and_then(parse_max_age).is_some(), "max age"),
        "queue-leader-locator" => {
            (one_of(&["client-local", "balanced", "random", "least-leaders"]), "queue leader locator value")
        }
        "queue-master-locator" => (is_name(), "queue master locator value"),
        "initial-cluster-size" => (at_least(0), "cluster size"),
        "target-group-size" => (at_least(0), "target count"),
        "stream-max-segment-size-bytes" => (at_least(0), "segment size"),
        "stream-filter-size-bytes" => {
            (value.as_int().is_some_and(|n| (16..=255).contains(&n)), "filter size. Valid range is [16, 255]")
        }
        "delayed-retry-type" => (one_of(&["disabled", "all", "failed", "returned"]), "delayed retry type"),
        "delayed-retry-min" => (at_least(0), "delayed retry minimum"),
        "delayed-retry-max" => (at_least(0), "delayed retry maximum"),
        // Plugins RabbitMQ ships with: taken, so that definitions import, and without effect here.
        "federation-upstream" | "federation-upstream-set" | "federation-upstream-pattern" => {
            (is_name(), "federation upstream name")
        }
        "shards-per-node" => (at_least(1), "number of shards"),
        "routing-key" => (is_name(), "routing key"),
        _ => return None,
    };
    Some(if good { Ok(()) } else { Err(what) })
}
