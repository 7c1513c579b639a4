//! What `exchange.declare` compares and refuses, in RabbitMQ's words.

use super::{Exchange, Kind, consistent_hash, delayed, erlang_binary, recent_history};
use hornpipe_types::command::ExchangeDeclare;
use hornpipe_types::error::AmqpError;
use hornpipe_types::table::{FieldTable, Value};

/// The argument that names the alternate exchange.
pub(crate) const ALTERNATE: &str = "alternate-exchange";

/// Refuses a redeclaration that differs from the exchange that is there: type, durable, auto_delete, internal and the
/// alternate exchange, in this order; no other argument is compared.
pub(crate) fn check_equivalence(is: &Exchange, d: &ExchangeDeclare) -> Result<(), AmqpError> {
    let cur = &is.definition;
    let differ = |field: &str, received: String, current: String| {
        Err(AmqpError::precondition(format!(
            "inequivalent arg '{field}' for exchange '{}' in vhost '{}': received {received} but current is {current}",
            cur.name, cur.vhost
        )))
    };
    let quoted = |t: &dyn std::fmt::Display| format!("'{t}'");
    if cur.kind != d.kind {
        return differ("type", quoted(&d.kind), quoted(&cur.kind));
    }
    for (field, received, current) in [
        ("durable", d.durable, cur.durable),
        ("auto_delete", d.auto_delete, cur.auto_delete),
        ("internal", d.internal, cur.internal),
    ] {
        if received != current {
            return differ(field, quoted(&received), quoted(&current));
        }
    }
    match (d.arguments.get(ALTERNATE), cur.arguments.get(ALTERNATE)) {
        (None, None) => Ok(()),
        (Some(r), Some(c)) if same_value(r, c) => Ok(()),
        (Some(r), Some(c)) => differ(ALTERNATE, quoted(&value_text(r)), quoted(&value_text(c))),
        (Some(r), None) => differ(ALTERNATE, typed(r), "none".into()),
        (None, Some(c)) => differ(ALTERNATE, "none".into(), typed(c)),
    }
}

/// Refuses what a new exchange may not have: a reserved name, a bad alternate exchange, bad arguments of its type.
pub(crate) fn check_new(vhost: &str, kind: Kind, d: &ExchangeDeclare) -> Result<(), AmqpError> {
    if d.exchange.starts_with("amq.") {
        return Err(AmqpError::access_refused(format!(
            "exchange name '{}' contains reserved prefix 'amq.*'",
            d.exchange
        )));
    }
    if let Some(v) = d.arguments.get(ALTERNATE)
        && !matches!(v, Value::LongStr(_))
    {
        return Err(AmqpError::precondition(format!(
            "invalid type '{}' for arg '{ALTERNATE}' in exchange '{}' in vhost '{vhost}'",
            v.type_name(),
            d.exchange
        )));
    }
    check_kind_arguments(kind, &d.arguments)
}

/// Type-specific validation of an exchange's arguments.
pub(crate) fn check_kind_arguments(kind: Kind, arguments: &FieldTable) -> Result<(), AmqpError> {
    match kind {
        Kind::ConsistentHash => consistent_hash::check_exchange(arguments),
        Kind::RecentHistory => recent_history::check_exchange(arguments),
        Kind::Delayed => delayed::check_exchange(arguments),
        _ => Ok(()),
    }
}

/// Two argument values are the same when type class and value agree: integers of any width compare by value.
fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::F32(x), Value::F64(y)) | (Value::F64(y), Value::F32(x)) => f64::from(*x) == *y,
        _ => match (a.as_int(), b.as_int()) {
            (Some(x), Some(y)) => x == y,
            _ => a == b,
        },
    }
}

fn typed(v: &Value) -> String {
    format!("the value '{}' of type '{}'", value_text(v), v.type_name())
}

/// A value as text, strings bare.
pub(crate) fn value_text(v: &Value) -> String {
    match v {
        Value::LongStr(b) | Value::Binary(b) => String::from_utf8_lossy(b).into_owned(),
        other => value_term(other),
    }
}

/// A value as an Erlang term, the way `~p` prints it.
pub(crate) fn value_term(v: &Value) -> String {
    match v {
        Value::Bool(b) => b.to_string(),
        Value::F32(f) => format!("{f:?}"),
        Value::F64(f) => format!("{f:?}"),
        Value::Decimal(scale, n) => format!("{{{scale},{n}}}"),
        Value::LongStr(b) | Value::Binary(b) => erlang_binary(b),
        Value::Timestamp(t) => t.to_string(),
        Value::Void => "undefined".into(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|v| format!("{{{},{}}}", v.type_name(), value_term(v))).collect();
            format!("[{}]", items.join(","))
        }
        Value::Table(table) => {
            let pairs: Vec<String> = table
                .iter()
                .map(|(k, v)| format!("{{{},{},{}}}", erlang_binary(k.as_bytes()), v.type_name(), value_term(v)))
                .collect();
            format!("[{}]", pairs.join(","))
        }
        other => other.as_int().map_or_else(String::new, |n| n.to_string()),
    }
}
