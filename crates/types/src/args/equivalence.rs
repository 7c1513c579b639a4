//! May a queue or exchange be declared again like this? RabbitMQ's comparison and its texts.

use super::QueueKind;
use super::term::bare;
use crate::definition::{ExchangeDefinition, QueueDefinition};
use crate::error::AmqpError;
use crate::table::{FieldTable, Value};

/// Whether RabbitMQ holds two argument values for the same.
///
/// The width of an integer or float does not count. Values of different kinds are still equal when they are the same
/// Erlang term: a binary and a long string of the same octets, a timestamp and an integer of the same number.
pub fn values_equivalent(a: &Value, b: &Value) -> bool {
    use Value::{Array, Binary, Bool, Decimal, F32, F64, LongStr, Table, Timestamp, Void};
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return a == b;
    }
    match (a, b) {
        (F32(a), F32(b)) => a == b,
        (F32(a), F64(b)) | (F64(b), F32(a)) => f64::from(*a) == *b,
        (F64(a), F64(b)) => a == b,
        (LongStr(a) | Binary(a), LongStr(b) | Binary(b)) => a == b,
        (Bool(a), Bool(b)) => a == b,
        (Decimal(s, a), Decimal(t, b)) => s == t && a == b,
        (Void, Void) => true,
        (Timestamp(a), Timestamp(b)) => a == b,
        // Inside tables and arrays the tags are part of the term.
        (Table(a), Table(b)) => a == b,
        (Array(a), Array(b)) => a == b,
        (Table(t), Array(a)) | (Array(a), Table(t)) => t.is_empty() && a.is_empty(),
        _ => false,
    }
}

fn number(v: &Value) -> Option<i128> {
    match v {
        Value::Timestamp(t) => Some(i128::from(*t)),
        other => other.as_int().map(i128::from),
    }
}

/// `inequivalent arg 'K' for RESOURCE: received … but current is …`.
///
/// `resource` is printed as it is: `queue 'Q' in vhost 'V'`. With both values present only they are shown, else the one
/// that is there is shown with its type.
pub fn format_inequivalent(key: &str, resource: &str, received: Option<&Value>, current: Option<&Value>) -> String {
    let (received, current) = match (received, current) {
        (Some(r), Some(c)) => (format!("'{}'", bare(r)), format!("'{}'", bare(c))),
        (r, c) => (one_sided(r), one_sided(c)),
    };
    format!("inequivalent arg '{key}' for {resource}: received {received} but current is {current}")
}

fn one_sided(value: Option<&Value>) -> String {
    match value {
        None => "none".to_owned(),
        Some(v) => format!("the value '{}' of type '{}'", bare(v), v.type_name()),
    }
}

/// Compares one argument of both tables; 406 with the text above when they differ.
pub fn check_argument_equivalent(
    key: &str,
    resource: &str,
    received: &FieldTable,
    current: &FieldTable,
) -> Result<(), AmqpError> {
    let (received, current) = (received.get(key), current.get(key));
    let same = match (received, current) {
        (None, None) => true,
        (Some(a), Some(b)) => values_equivalent(a, b),
        (Some(one), None) | (None, Some(one)) => key == "x-queue-type" && one.as_str() == Some("classic"),
    };
    if same { Ok(()) } else { Err(AmqpError::precondition(format_inequivalent(key, resource, received, current))) }
}

fn check_flag(key: &str, resource: &str, received: bool, current: bool) -> Result<(), AmqpError> {
    if received == current {
        return Ok(());
    }
    let (received, current) = (Value::Bool(received), Value::Bool(current));
    Err(AmqpError::precondition(format_inequivalent(key, resource, Some(&received), Some(&current))))
}

/// Whether an existing queue may be declared again like this: `durable`, `auto_delete`, then every argument its type
/// knows (RabbitMQ `rabbit_amqqueue:assert_equivalence`).
///
/// `durable` is the effective one: false for an exclusive queue. Ownership is the caller's business (405, checked before).
/// The vhost's default queue type must already have been filled into `arguments`, see [`super::with_default_queue_type`].
pub fn check_queue_equivalent(
    existing: &QueueDefinition,
    durable: bool,
    auto_delete: bool,
    arguments: &FieldTable,
) -> Result<(), AmqpError> {
    let resource = super::queue_resource(&existing.name, &existing.vhost);
    check_flag("durable", &resource, durable, existing.durable)?;
    check_flag("auto_delete", &resource, auto_delete, existing.auto_delete)?;
    let kind = QueueKind::of(&existing.arguments);
    for key in kind.queue_arguments() {
        check_argument_equivalent(key, &resource, arguments, &existing.arguments)?;
    }
    Ok(())
}

/// Whether an existing exchange may be declared again like this: `type`, `durable`, `auto_delete`, `internal`, then the
/// argument `alternate-exchange` alone (RabbitMQ `rabbit_exchange:assert_equivalence`).
pub fn check_exchange_equivalent(
    existing: &ExchangeDefinition,
    kind: &str,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    arguments: &FieldTable,
) -> Result<(), AmqpError> {
    let resource = format!("exchange '{}' in vhost '{}'", existing.name, existing.vhost);
    if existing.kind != *kind {
        // A type is an atom in RabbitMQ, and atoms with a dash print in quotes of their own.
        let (received, current) = (atom(kind), atom(&existing.kind));
        let (received, current) = (Value::long_str(&received), Value::long_str(&current));
        return Err(AmqpError::precondition(format_inequivalent("type", &resource, Some(&received), Some(&current))));
    }
    check_flag("durable", &resource, durable, existing.durable)?;
    check_flag("auto_delete", &resource, auto_delete, existing.auto_delete)?;
    check_flag("internal", &resource, internal, existing.internal)?;
    check_argument_equivalent("alternate-exchange", &resource, arguments, &existing.arguments)
}

fn atom(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '@'));
    if plain { name.to_owned() } else { format!("'{name}'") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::ShortStr;
    use proptest::prelude::*;

    fn table(pairs: &[(&str, Value)]) -> FieldTable {
        FieldTable(pairs.iter().map(|(k, v)| (ShortStr::new(k), v.clone())).collect())
    }

    fn queue(durable: bool, auto_delete: bool, pairs: &[(&str, Value)]) -> QueueDefinition {
        QueueDefinition {
            vhost: "V".into(),
            name: "Q".into(),
            durable,
            auto_delete,
            arguments: table(pairs),
            ..QueueDefinition::default()
        }
    }

    #[test]
    fn queue_texts() {
        let ttl = |v| ("x-message-ttl", v);
        let kind = |v| ("x-queue-type", Value::long_str(v));
        // (existing arguments, received arguments, what follows "queue 'Q' in vhost 'V': ")
        type Row<'a> = (Vec<(&'a str, Value)>, Vec<(&'a str, Value)>, Option<&'a str>, &'a str);
        let rows: Vec<Row<'_>> = vec![
            (vec![ttl(Value::I32(1000))], vec![ttl(Value::I64(1000))], None, ""),
            (vec![ttl(Value::I32(1000))], vec![ttl(Value::Timestamp(1000))], None, ""),
            (
                vec![ttl(Value::I32(1000))],
                vec![ttl(Value::I32(2000))],
                Some("x-message-ttl"),
                "received '2000' but current is '1000'",
            ),
            (
                vec![ttl(Value::I32(1000))],
                vec![ttl(Value::long_str("1000"))],
                Some("x-message-ttl"),
                "received '1000' but current is '1000'",
            ),
            (
                vec![ttl(Value::I32(1000))],
                vec![],
                Some("x-message-ttl"),
                "received none but current is the value '1000' of type 'signedint'",
            ),
            (
                vec![],
                vec![ttl(Value::I64(1000))],
                Some("x-message-ttl"),
                "received the value '1000' of type 'long' but current is none",
            ),
            (vec![], vec![kind("classic")], None, ""),
            (vec![kind("classic")], vec![], None, ""),
            (
                vec![],
                vec![kind("quorum")],
                Some("x-queue-type"),
                "received the value 'quorum' of type 'longstr' but current is none",
            ),
            (
                vec![kind("quorum")],
                vec![kind("classic")],
                Some("x-queue-type"),
                "received 'classic' but current is 'quorum'",
            ),
            (vec![("x-unknown", Value::I32(1))], vec![("x-unknown", Value::I32(2))], None, ""),
            // The argument of another type is not compared for a classic queue.
            (vec![], vec![("x-delivery-limit", Value::I32(2))], None, ""),
            (
                vec![("x-single-active-consumer", Value::Bool(true))],
                vec![("x-single-active-consumer", Value::Bool(false))],
                Some("x-single-active-consumer"),
                "received 'false' but current is 'true'",
            ),
        ];
        for (current, received, key, text) in rows {
            let outcome = check_queue_equivalent(&queue(true, false, &current), true, false, &table(&received));
            let expected = key.map(|k| format!("inequivalent arg '{k}' for queue 'Q' in vhost 'V': {text}"));
            assert_eq!(outcome.err().map(|e| e.text), expected, "{current:?} {received:?}");
        }
    }

    #[test]
    fn flags_come_before_arguments() {
        let existing = queue(true, true, &[("x-message-ttl", Value::I32(1))]);
        let text = |d, a| check_queue_equivalent(&existing, d, a, &FieldTable::default()).unwrap_err().text;
        assert_eq!(
            text(false, false),
            "inequivalent arg 'durable' for queue 'Q' in vhost 'V': received 'false' but current is 'true'"
        );
        assert_eq!(
            text(true, false),
            "inequivalent arg 'auto_delete' for queue 'Q' in vhost 'V': received 'false' but current is 'true'"
        );
        assert!(text(true, true).starts_with("inequivalent arg 'x-message-ttl'"));
    }

    #[test]
    fn exchange_texts() {
        let existing = ExchangeDefinition {
            vhost: "V".into(),
            name: "X".into(),
            kind: "direct".into(),
            arguments: table(&[("alternate-exchange", Value::long_str("ae")), ("other", Value::I32(1))]),
            ..ExchangeDefinition::default()
        };
        let same = table(&[("alternate-exchange", Value::long_str("ae"))]);
        let check = |kind, durable, auto_delete, internal, arguments: &FieldTable| {
            check_exchange_equivalent(&existing, kind, durable, auto_delete, internal, arguments)
                .err()
                .map(|e| e.text.replace("for exchange 'X' in vhost 'V': ", ""))
        };
        let none = FieldTable::default();
        for (outcome, expected) in [
            (check("direct", false, false, false, &same), None),
            (
                check("topic", true, false, false, &none),
                Some("inequivalent arg 'type' received 'topic' but current is 'direct'"),
            ),
            (
                check("x-delayed-message", false, false, false, &same),
                Some("inequivalent arg 'type' received ''x-delayed-message'' but current is 'direct'"),
            ),
            (
                check("direct", true, true, false, &none),
                Some("inequivalent arg 'durable' received 'true' but current is 'false'"),
            ),
            (
                check("direct", false, true, true, &none),
                Some("inequivalent arg 'auto_delete' received 'true' but current is 'false'"),
            ),
            (
                check("direct", false, false, true, &none),
                Some("inequivalent arg 'internal' received 'true' but current is 'false'"),
            ),
            (
                check("direct", false, false, false, &none),
                Some(
                    "inequivalent arg 'alternate-exchange' received none but current is the value 'ae' of type 'longstr'",
                ),
            ),
        ] {
            assert_eq!(outcome.as_deref(), expected);
        }
    }

    /// Every tag that can hold `n`.
    fn widths(n: i64) -> Vec<Value> {
        let mut all = vec![Value::I64(n)];
        all.extend(i8::try_from(n).ok().map(Value::I8));
        all.extend(u8::try_from(n).ok().map(Value::U8));
        all.extend(i16::try_from(n).ok().map(Value::I16));
        all.extend(u16::try_from(n).ok().map(Value::U16));
        all.extend(i32::try_from(n).ok().map(Value::I32));
        all.extend(u32::try_from(n).ok().map(Value::U32));
        all
    }

    fn any_int() -> impl Strategy<Value = i64> {
        prop_oneof![-300i64..300, -70_000i64..70_000, any::<i64>()]
    }

    proptest! {
        #[test]
        fn width_is_irrelevant(n in any_int(), m in any_int()) {
            for a in widths(n) {
                for b in widths(n) {
                    prop_assert!(values_equivalent(&a, &b));
                }
                for b in widths(m) {
                    prop_assert_eq!(values_equivalent(&a, &b), n == m);
                }
            }
        }

        #[test]
        fn equivalence_is_reflexive_and_symmetric(a in crate::table::tests::any_value(), b in crate::table::tests::any_value()) {
            prop_assert!(values_equivalent(&a, &a));
            prop_assert_eq!(values_equivalent(&a, &b), values_equivalent(&b, &a));
        }

        #[test]
        fn unknown_arguments_never_matter(table in crate::table::tests::any_table(), n in any::<i32>()) {
            let mut existing = queue(true, false, &[("x-max-length", Value::I32(n))]);
            existing.arguments.0.extend(table.0.iter().map(|(k, v)| (ShortStr::new(&format!("y{k}")), v.clone())));
            let again = FieldTable(vec![("x-max-length".into(), Value::I64(n.into()))]);
            prop_assert!(check_queue_equivalent(&existing, true, false, &again).is_ok());
        }
    }
}
