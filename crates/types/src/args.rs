//! `x-…` arguments parsed once into structs, with RabbitMQ's checks, order and texts.
//!
//! Two modules stand beside: [`equivalence`] (may it be declared again like this?) and [`term`] (how values are printed).

pub mod equivalence;
pub mod term;
#[cfg(test)]
mod tests;

pub use equivalence::{
    check_argument_equivalent, check_exchange_equivalent, check_queue_equivalent, format_inequivalent,
    values_equivalent,
};

use crate::error::AmqpError;
use crate::names::ShortStr;
use crate::table::{FieldTable, Value};
use term::string_term;

/// Longest time RabbitMQ accepts for TTLs and expiries, milliseconds: ten years.
pub const EXPIRY_MAX_MS: i64 = 315_360_000_000;
/// Largest `x-max-priority`.
pub const PRIORITY_MAX: i64 = 255;

/// What a queue is. Streams are known by name only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum QueueKind {
    /// `classic`, and what no type is named for.
    #[default]
    Classic,
    /// `quorum`
    Quorum,
    /// `stream`: names, arguments and policies are known; declaring one is refused.
    Stream,
}

const CLASSIC_ARGUMENTS: &[&str] = &[
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-type",
    "x-queue-master-locator",
    "x-queue-leader-locator",
];
const QUORUM_ARGUMENTS: &[&str] = &[
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-overflow",
    "x-single-active-consumer",
    "x-queue-type",
    "x-quorum-initial-group-size",
    "x-delivery-limit",
    "x-message-ttl",
    "x-queue-leader-locator",
    "x-consumer-timeout",
    "x-consumer-disconnected-timeout",
    "x-delayed-retry-type",
    "x-delayed-retry-min",
    "x-delayed-retry-max",
];
const STREAM_ARGUMENTS: &[&str] = &[
    "x-max-length-bytes",
    "x-queue-type",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-initial-cluster-size",
    "x-queue-leader-locator",
    "x-stream-filter-size-bytes",
];

impl QueueKind {
    const ALL: [Self; 3] = [Self::Classic, Self::Quorum, Self::Stream];

    /// The kind named in a definition's arguments; classic when none (or an unknown one) is named.
    pub fn of(arguments: &FieldTable) -> Self {
        arguments.get("x-queue-type").and_then(Value::as_str).and_then(Self::from_name).unwrap_or_default()
    }
    /// The kind with this name in `x-queue-type`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
    /// The name in `x-queue-type` and in the HTTP API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
            Self::Stream => "stream",
        }
    }
    /// RabbitMQ's module name, which its error texts and metrics show.
    pub fn module(self) -> &'static str {
        match self {
            Self::Classic => "rabbit_classic_queue",
            Self::Quorum => "rabbit_quorum_queue",
            Self::Stream => "rabbit_stream_queue",
        }
    }
    /// The queue arguments the kind knows, in the order they are compared on redeclaration.
    pub fn queue_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Classic => CLASSIC_ARGUMENTS,
            Self::Quorum => QUORUM_ARGUMENTS,
            Self::Stream => STREAM_ARGUMENTS,
        }
    }
    /// The consumer arguments the kind knows.
    pub fn consumer_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Classic => &["x-priority"],
            Self::Quorum => &["x-priority", "x-consumer-timeout"],
            Self::Stream => &["x-stream-offset", "x-stream-filter", "x-stream-match-unfiltered"],
        }
    }
    /// Policy keys that make a policy pass over queues of this kind entirely.
    pub fn unsupported_policy_keys(self) -> &'static [&'static str] {
        match self {
            Self::Classic => &[
                "max-age",
                "stream-max-segment-size-bytes",
                "initial-cluster-size",
                "delivery-limit",
                "dead-letter-strategy",
                "max-in-memory-length",
                "max-in-memory-bytes",
                "target-group-size",
            ],
            Self::Quorum => &[
                "queue-mode",
                "queue-master-locator",
                "max-age",
                "stream-max-segment-size-bytes",
                "initial-cluster-size",
            ],
            Self::Stream => &[
                "expires",
                "message-ttl",
                "dead-letter-exchange",
                "dead-letter-routing-key",
                "max-length",
                "max-in-memory-length",
                "max-in-memory-bytes",
                "overflow",
                "queue-mode",
                "delivery-limit",
                "queue-master-locator",
                "dead-letter-strategy",
                "target-group-size",
            ],
        }
    }
}

/// What a full queue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Overflow {
    /// Take the message, drop from the head.
    #[default]
    DropHead,
    /// Refuse the message: nack, or silence.
    RejectPublish,
    /// Refuse, and dead-letter the refused message.
    RejectPublishDlx,
}

impl Overflow {
    /// From its name in arguments and policies.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "drop-head" => Self::DropHead,
            "reject-publish" => Self::RejectPublish,
            "reject-publish-dlx" => Self::RejectPublishDlx,
            _ => return None,
        })
    }
}

/// How sure a quorum queue's dead-lettering is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeadLetterStrategy {
    /// The source forgets as it publishes.
    #[default]
    AtMostOnce,
    /// The source keeps the message until the targets confirmed.
    AtLeastOnce,
}

impl DeadLetterStrategy {
    /// From its name in arguments and policies.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "at-most-once" => Self::AtMostOnce,
            "at-least-once" => Self::AtLeastOnce,
            _ => return None,
        })
    }
}

/// Which returned messages of a quorum queue wait before they are ready again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RetryKind {
    /// None.
    #[default]
    Disabled,
    /// All.
    All,
    /// Those whose delivery count was raised.
    Failed,
    /// Those whose delivery count was not.
    Returned,
}

impl RetryKind {
    /// From its name in arguments and policies.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "disabled" => Self::Disabled,
            "all" => Self::All,
            "failed" => Self::Failed,
            "returned" => Self::Returned,
            _ => return None,
        })
    }
}

/// `x-delayed-retry-…`; absent parts may still come from a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DelayedRetry {
    /// `x-delayed-retry-type`
    pub kind: Option<RetryKind>,
    /// `x-delayed-retry-min`, milliseconds.
    pub min_ms: Option<u64>,
    /// `x-delayed-retry-max`, milliseconds.
    pub max_ms: Option<u64>,
}

/// What a queue is declared as, for checks and texts.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct QueueContext<'a> {
    pub queue: &'a str,
    pub vhost: &'a str,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
}

/// The arguments of a queue, checked. `None` = not given; policies and defaults are applied elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueArgs {
    /// `x-queue-type`
    pub kind: QueueKind,
    /// `x-message-ttl`, milliseconds, at most [`EXPIRY_MAX_MS`].
    pub message_ttl_ms: Option<u64>,
    /// `x-expires`, milliseconds, 1 to [`EXPIRY_MAX_MS`].
    pub expires_ms: Option<u64>,
    /// `x-max-length`, ready messages.
    pub max_length: Option<u64>,
    /// `x-max-length-bytes`, octets of ready bodies.
    pub max_length_bytes: Option<u64>,
    /// `x-overflow`
    pub overflow: Option<Overflow>,
    /// `x-dead-letter-exchange`; may be the default exchange (empty).
    pub dead_letter_exchange: Option<ShortStr>,
    /// `x-dead-letter-routing-key`
    pub dead_letter_routing_key: Option<ShortStr>,
    /// `x-dead-letter-strategy`
    pub dead_letter_strategy: Option<DeadLetterStrategy>,
    /// `x-max-priority`; `None` and 0 differ only in what is shown.
    pub max_priority: Option<u8>,
    /// `x-single-active-consumer`
    pub single_active: bool,
    /// `x-delivery-limit`; negative = none.
    pub delivery_limit: Option<i64>,
    /// `x-consumer-timeout`, milliseconds.
    pub consumer_timeout_ms: Option<u64>,
    /// `x-consumer-disconnected-timeout`, milliseconds; kept, without meaning on a single node.
    pub consumer_disconnected_timeout_ms: Option<u64>,
    /// `x-delayed-retry-type`, `-min`, `-max`
    pub delayed_retry: DelayedRetry,
}

/// Why a value is refused: the text after `invalid arg 'A' for queue 'Q' in vhost 'V': `.
type Check<T> = Result<T, String>;

impl QueueArgs {
    /// Checks and parses the arguments of a queue about to be created.
    ///
    /// Order as in RabbitMQ (`rabbit_channel`, `rabbit_amqqueue:check_declare_arguments`, then the queue type): the type
    /// of `x-dead-letter-exchange`, the queue type, the values of what the type knows, arguments only other types know,
    /// properties a quorum queue cannot have. Not for redeclaring: an existing queue is only compared.
    ///
    /// # Errors
    /// 406 with RabbitMQ's text; 540 for a stream, which this broker does not have.
    pub fn parse(arguments: &FieldTable, ctx: &QueueContext<'_>) -> Result<Self, AmqpError> {
        dead_letter_exchange_argument(arguments, ctx.queue, ctx.vhost)?;
        let resource = queue_resource(ctx.queue, ctx.vhost);
        let kind = checked(arguments, "x-queue-type", &resource, queue_kind)?.unwrap_or_default();
        if kind == QueueKind::Stream {
            return Err(AmqpError::not_implemented(format!("queue type stream is not supported: {resource}")));
        }
        let args = Self::values(arguments, kind, &resource)?;
        refuse_foreign(arguments, kind, &resource, QueueKind::queue_arguments)?;
        if kind == QueueKind::Quorum {
            let bad =
                [(ctx.auto_delete, "auto-delete"), (ctx.exclusive, "exclusive-owner"), (!ctx.durable, "non-durable")];
            if let Some((_, property)) = bad.iter().find(|(is, _)| *is) {
                return Err(AmqpError::precondition(format!("invalid property '{property}' for {resource}")));
            }
        }
        Ok(args)
    }

    /// The same from a definition that was checked before (the log, an import): what is bad or foreign is left out.
    pub fn trusted(arguments: &FieldTable) -> Self {
        let kind = QueueKind::of(arguments);
        let mut known = FieldTable::default();
        for key in kind.queue_arguments() {
            if let Some(value) = arguments.get(key) {
                let mut one = FieldTable::default();
                one.set(key, value.clone());
                if *key == "x-dead-letter-routing-key" {
                    one.set("x-dead-letter-exchange", Value::long_str(""));
                }
                if Self::values(&one, kind, "").is_ok() {
                    known.set(key, value.clone());
                }
            }
        }
        Self::values(&known, kind, "").unwrap_or(Self { kind, ..Self::default() })
    }

    fn values(arguments: &FieldTable, kind: QueueKind, resource: &str) -> Result<Self, AmqpError> {
        let known = kind.queue_arguments();
        let get = Getter { arguments, known, resource };
        let mut args = Self { kind, ..Self::default() };
        args.expires_ms = get.value("x-expires", expires)?;
        args.message_ttl_ms = get.value("x-message-ttl", expiry)?;
        args.dead_letter_exchange = get.value("x-dead-letter-exchange", short_text)?;
        args.dead_letter_routing_key = get.value("x-dead-letter-routing-key", |v| {
            let key = short_text(v)?;
            match arguments.get("x-dead-letter-exchange") {
                Some(_) => Ok(key),
                None => Err("routing_key_but_no_dlx_defined".to_owned()),
            }
        })?;
        args.dead_letter_strategy =
            get.value("x-dead-letter-strategy", |v| named(v, DeadLetterStrategy::from_name, "invalid_dlx_strategy"))?;
        args.max_length = get.value("x-max-length", non_negative)?;
        args.max_length_bytes = get.value("x-max-length-bytes", non_negative)?;
        get.value("x-max-in-memory-length", non_negative)?;
        get.value("x-max-in-memory-bytes", non_negative)?;
        args.max_priority = get.value("x-max-priority", max_priority)?;
        args.overflow = get.value("x-overflow", |v| named(v, Overflow::from_name, "invalid_overflow"))?;
        get.value("x-queue-version", queue_version)?;
        args.single_active = get.value("x-single-active-consumer", boolean)?.unwrap_or(false);
        get.value("x-quorum-initial-group-size", positive)?;
        args.delivery_limit = get.value("x-delivery-limit", integer)?;
        args.consumer_timeout_ms = get.value("x-consumer-timeout", non_negative)?;
        args.consumer_disconnected_timeout_ms = get.value("x-consumer-disconnected-timeout", non_negative)?;
        args.delayed_retry.kind =
            get.value("x-delayed-retry-type", |v| named(v, RetryKind::from_name, "invalid_delayed_retry_type"))?;
        args.delayed_retry.min_ms = get.value("x-delayed-retry-min", non_negative)?;
        args.delayed_retry.max_ms = get.value("x-delayed-retry-max", non_negative)?;
        get.value("x-queue-leader-locator", |v| named(v, leader_locator, "invalid_queue_locator_arg"))?;
        Ok(args)
    }

    /// Whether `x-dead-letter-strategy` is `at-least-once`.
    pub fn dead_letter_at_least_once(&self) -> bool {
        self.dead_letter_strategy == Some(DeadLetterStrategy::AtLeastOnce)
    }
}

/// `x-dead-letter-exchange` alone: RabbitMQ looks at it first of all, for its permission check.
///
/// # Errors
/// 406 when it is no long string.
pub fn dead_letter_exchange_argument<'a>(
    arguments: &'a FieldTable,
    queue: &str,
    vhost: &str,
) -> Result<Option<&'a str>, AmqpError> {
    exchange_argument(arguments, "x-dead-letter-exchange", &queue_resource(queue, vhost))
}

/// `alternate-exchange` of an exchange about to be created.
///
/// # Errors
/// 406 when it is no long string.
pub fn alternate_exchange_argument<'a>(
    arguments: &'a FieldTable,
    exchange: &str,
    vhost: &str,
) -> Result<Option<&'a str>, AmqpError> {
    exchange_argument(arguments, "alternate-exchange", &format!("exchange '{exchange}' in vhost '{vhost}'"))
}

fn exchange_argument<'a>(arguments: &'a FieldTable, key: &str, resource: &str) -> Result<Option<&'a str>, AmqpError> {
    match arguments.get(key) {
        None => Ok(None),
        // A name that is not UTF-8 cannot exist here; it is as good as one nobody declared.
        Some(value @ Value::LongStr(_)) => Ok(Some(value.as_str().unwrap_or("\u{fffd}"))),
        Some(other) => {
            let found = other.type_name();
            Err(AmqpError::precondition(format!("invalid type '{found}' for arg '{key}' in {resource}")))
        }
    }
}

/// 406 for a declaration with an empty name of a type that must be named by the client.
pub fn check_server_named(arguments: &FieldTable) -> Result<(), AmqpError> {
    match QueueKind::of(arguments) {
        QueueKind::Classic => Ok(()),
        kind => Err(AmqpError::precondition(format!("Cannot declare a server-named queue for type {}", kind.module()))),
    }
}

/// Fills the vhost's default queue type into `x-queue-type` when none is given and the declaration suits that type
/// (RabbitMQ `rabbit_amqqueue:augment_declare_args`). To be done before creating and before comparing.
#[must_use]
pub fn with_default_queue_type(
    mut arguments: FieldTable,
    default: Option<&str>,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
) -> FieldTable {
    if let Some(kind) = default.and_then(QueueKind::from_name)
        && arguments.get("x-queue-type").is_none()
        && (kind == QueueKind::Classic || (durable && !exclusive && !auto_delete))
    {
        arguments.set("x-queue-type", Value::long_str(kind.name()));
    }
    arguments
}

/// The arguments of basic.consume, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConsumerArgs {
    /// `x-priority`; 0 when absent.
    pub priority: i64,
    /// `x-consumer-timeout` of a quorum queue's consumer, milliseconds.
    pub consumer_timeout_ms: Option<u64>,
}

impl ConsumerArgs {
    /// Checks and parses. Entirely unknown arguments are ignored.
    ///
    /// # Errors
    /// 406 for a bad value and for an argument only other queue types know.
    pub fn parse(arguments: &FieldTable, kind: QueueKind, queue: &str, vhost: &str) -> Result<Self, AmqpError> {
        let resource = queue_resource(queue, vhost);
        let get = Getter { arguments, known: kind.consumer_arguments(), resource: &resource };
        let args = Self {
            priority: get.value("x-priority", integer)?.unwrap_or(0),
            consumer_timeout_ms: get.value("x-consumer-timeout", non_negative)?,
        };
        refuse_foreign(arguments, kind, &resource, QueueKind::consumer_arguments)?;
        Ok(args)
    }
}

/// Parses the `expiration` property, milliseconds, 0 to [`EXPIRY_MAX_MS`].
///
/// # Errors
/// What RabbitMQ prints after `invalid expiration 'E': `.
pub fn parse_expiration(text: &str) -> Result<u64, String> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned.len() - unsigned.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (digits, rest) = unsigned.split_at(digits);
    if digits.is_empty() {
        return Err("no_integer".to_owned());
    }
    if !rest.is_empty() {
        return Err(format!("{{leftover_string,{}}}", string_term(rest)));
    }
    // The number may have hundreds of digits; RabbitMQ prints it whole.
    let digits = digits.trim_start_matches('0');
    if text.starts_with('-') && !digits.is_empty() {
        return Err(format!("{{value_negative,-{digits}}}"));
    }
    let value = if digits.is_empty() { Ok(0) } else { digits.parse::<u64>() };
    match value {
        Ok(v) if v <= EXPIRY_MAX_MS.unsigned_abs() => Ok(v),
        _ => Err(format!("{{value_too_large,{digits}}}")),
    }
}

/// Parses a retention time like `7D` into milliseconds; `None` when it is none (RabbitMQ `check_max_age`).
pub fn parse_max_age(text: &str) -> Option<u64> {
    const DAY: u64 = 24 * 3600 * 1000;
    let unit_at = text.len().checked_sub(1)?;
    let (number, unit) = (text.get(..unit_at)?, text.get(unit_at..)?);
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let unit_ms = match unit {
        "Y" => 365 * DAY,
        "M" => 30 * DAY,
        "D" => DAY,
        "h" => 3_600_000,
        "m" => 60_000,
        "s" => 1000,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    if number == 0 { None } else { number.checked_mul(unit_ms) }
}

/// `client-local`, `balanced` and the older names; placement means nothing on a single node.
fn leader_locator(name: &str) -> Option<()> {
    matches!(name, "client-local" | "balanced" | "random" | "least-leaders" | "min-masters").then_some(())
}

fn queue_resource(queue: &str, vhost: &str) -> String {
    format!("queue '{queue}' in vhost '{vhost}'")
}

fn checked<T>(
    arguments: &FieldTable,
    key: &str,
    resource: &str,
    check: impl FnOnce(&Value) -> Check<T>,
) -> Result<Option<T>, AmqpError> {
    let Some(value) = arguments.get(key) else { return Ok(None) };
    match check(value) {
        Ok(v) => Ok(Some(v)),
        Err(why) => Err(AmqpError::precondition(format!("invalid arg '{key}' for {resource}: {why}"))),
    }
}

/// Looks up arguments a type knows; what it does not know counts as absent here and is dealt with by [`refuse_foreign`].
struct Getter<'a> {
    arguments: &'a FieldTable,
    known: &'static [&'static str],
    resource: &'a str,
}

impl Getter<'_> {
    fn value<T>(&self, key: &str, check: impl FnOnce(&Value) -> Check<T>) -> Result<Option<T>, AmqpError> {
        if !self.known.contains(&key) {
            return Ok(None);
        }
        checked(self.arguments, key, self.resource, check)
    }
}

/// 406 for the first argument in the table that only other queue types know.
fn refuse_foreign(
    arguments: &FieldTable,
    kind: QueueKind,
    resource: &str,
    known_by: impl Fn(QueueKind) -> &'static [&'static str],
) -> Result<(), AmqpError> {
    let foreign =
        |key: &str| !known_by(kind).contains(&key) && QueueKind::ALL.iter().any(|k| known_by(*k).contains(&key));
    match arguments.iter().find(|(key, _)| foreign(key)) {
        None => Ok(()),
        Some((key, _)) => {
            Err(AmqpError::precondition(format!("invalid arg '{key}' for {resource} of queue type {}", kind.module())))
        }
    }
}

fn unacceptable(value: &Value) -> String {
    format!("{{unacceptable_type,{}}}", value.type_name())
}

fn integer(value: &Value) -> Check<i64> {
    value.as_int().ok_or_else(|| string_term(&format!("expected integer, got {}", value.type_name())))
}

fn non_negative(value: &Value) -> Check<u64> {
    let n = integer(value)?;
    u64::try_from(n).map_err(|_| format!("{{value_negative,{n}}}"))
}

fn positive(value: &Value) -> Check<u64> {
    match non_negative(value)? {
        0 => Err("{value_zero,0}".to_owned()),
        n => Ok(n),
    }
}

fn expiry(value: &Value) -> Check<u64> {
    let n = non_negative(value)?;
    if n > EXPIRY_MAX_MS.unsigned_abs() { Err(format!("{{value_too_large,{n}}}")) } else { Ok(n) }
}

fn expires(value: &Value) -> Check<u64> {
    match expiry(value)? {
        0 => Err("{value_zero,0}".to_owned()),
        n => Ok(n),
    }
}

fn max_priority(value: &Value) -> Check<u8> {
    let n = non_negative(value)?;
    u8::try_from(n).map_err(|_| format!("{{max_value_exceeded,{n}}}"))
}

fn queue_version(value: &Value) -> Check<()> {
    match non_negative(value)? {
        2 => Ok(()),
        n => Err(string_term(&format!("unsupported queue version '{n}'"))),
    }
}

fn boolean(value: &Value) -> Check<bool> {
    value.as_bool().ok_or_else(|| unacceptable(value))
}

fn short_text(value: &Value) -> Check<ShortStr> {
    match value {
        Value::LongStr(octets) => Ok(ShortStr::new(&String::from_utf8_lossy(octets))),
        other => Err(unacceptable(other)),
    }
}

fn named<T>(value: &Value, from_name: impl FnOnce(&str) -> Option<T>, error: &str) -> Check<T> {
    match value {
        Value::LongStr(_) => value.as_str().and_then(from_name).ok_or_else(|| error.to_owned()),
        other => Err(unacceptable(other)),
    }
}

fn queue_kind(value: &Value) -> Check<QueueKind> {
    match value {
        Value::LongStr(octets) => {
            let name = String::from_utf8_lossy(octets);
            QueueKind::from_name(&name).ok_or_else(|| string_term(&format!("unsupported queue type '{name}'")))
        }
        other => Err(unacceptable(other)),
    }
}
