//! x-delayed-message: which messages are held, how long, and by what type the exchange routes afterwards (RabbitMQ's
//! delayed message exchange plugin). The queue of held messages belongs to the caller.

use super::Kind;
use super::declare::check_kind_arguments;
use hornpipe_types::error::AmqpError;
use hornpipe_types::table::{FieldTable, Value};

const TYPE: &str = "x-delayed-type";
const DELAY: &str = "x-delay";
/// Longest delay, milliseconds; longer ones are not held at all, as in the plugin.
const DELAY_MAX: i64 = 4_294_967_295;

/// The type named by `x-delayed-type`, if it may be used.
pub(crate) fn inner_kind(arguments: &FieldTable) -> Option<Kind> {
    arguments.get(TYPE).and_then(Value::as_str).and_then(Kind::parse).filter(|k| *k != Kind::Delayed)
}

/// Checks the exchange's arguments (406), those of the inner type included.
pub(crate) fn check_exchange(arguments: &FieldTable) -> Result<(), AmqpError> {
    if arguments.get(TYPE).and_then(Value::as_str) == Some(Kind::Delayed.name()) {
        return Err(AmqpError::precondition(
            "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'",
        ));
    }
    match inner_kind(arguments) {
        Some(inner) => check_kind_arguments(inner, arguments),
        None => Err(AmqpError::precondition("Invalid argument, 'x-delayed-type' must be an existing exchange type")),
    }
}

/// For how many milliseconds a message with these headers is held; `None`: it is routed at once.
pub(crate) fn delay(headers: Option<&FieldTable>) -> Option<u64> {
    let ms = match headers?.get(DELAY)? {
        Value::LongStr(octets) => std::str::from_utf8(octets).ok()?.parse::<i64>().ok()?,
        Value::F32(f) => *f as i64,
        Value::F64(f) => *f as i64,
        other => other.as_int()?,
    };
    (1..=DELAY_MAX).contains(&ms).then_some(ms as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays() {
        let s = Value::long_str;
        for (value, expected) in [
            (Value::I32(1), Some(1)),
            (Value::I64(4_294_967_295), Some(4_294_967_295)),
            (Value::I64(4_294_967_296), None),
            (Value::U8(200), Some(200)),
            (Value::I16(0), None),
            (Value::I32(-500), None),
            (Value::F64(1500.9), Some(1500)),
            (Value::F64(f64::NAN), None),
            (Value::F32(-1.0), None),
            (s("250"), Some(250)),
            (s("250ms"), None),
            (s("-1"), None),
            (Value::Bool(true), None),
        ] {
            let headers = FieldTable(vec![(DELAY.into(), value.clone())]);
            assert_eq!(delay(Some(&headers)), expected, "{value:?}");
        }
        assert_eq!(delay(None), None);
        assert_eq!(delay(Some(&FieldTable::default())), None);
    }

    #[test]
    fn the_inner_type() {
        let check = |v: Option<Value>| {
            check_exchange(&FieldTable(v.into_iter().map(|v| (TYPE.into(), v)).collect())).map_err(|e| e.text)
        };
        let missing = || Err("Invalid argument, 'x-delayed-type' must be an existing exchange type".to_string());
        assert_eq!(check(Some(Value::long_str("topic"))), Ok(()));
        assert_eq!(check(None), missing());
        assert_eq!(check(Some(Value::long_str("nothing"))), missing());
        assert_eq!(check(Some(Value::I32(1))), missing());
        assert_eq!(
            check(Some(Value::long_str("x-delayed-message"))),
            Err("Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'".into())
        );
    }
}
