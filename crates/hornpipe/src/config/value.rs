//! Reading one value: from the file it has a type, from flags and the environment it is text. Both are accepted alike.

use std::net::{SocketAddr, ToSocketAddrs};
use toml::Value;

/// An integer; text may have underscores.
pub(crate) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(*number),
        Value::String(text) => text.trim().replace('_', "").parse().ok(),
        _ => None,
    }
}

/// Octets: an integer, or text with a unit (`16MiB`, `1 GB`; k, M, G are powers of 1000 with B, of 1024 alone or with iB,
/// as in RabbitMQ).
pub(crate) fn size(value: &Value) -> Option<i64> {
    if let Some(number) = integer(value) {
        return Some(number);
    }
    let text = value.as_str()?.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_')?;
    let number: i64 = text.get(..digits)?.replace('_', "").parse().ok()?;
    let factor = match text.get(digits..)?.trim().to_ascii_lowercase().as_str() {
        "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A number with a fraction.
pub(crate) fn fraction(value: &Value) -> Option<f64> {
    match value {
        Value::Float(number) => Some(*number),
        Value::Integer(number) => Some(*number as f64),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Yes or no.
pub(crate) fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Boolean(yes) => Some(*yes),
        Value::String(text) => match text.trim() {
            "true" | "on" | "yes" | "1" => Some(true),
            "false" | "off" | "no" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Text.
pub(crate) fn text(value: &Value) -> Option<String> {
    value.as_str().map(ToOwned::to_owned)
}

/// A list of texts; one text is split at commas, an empty one is the empty list.
pub(crate) fn list(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(items) => items.iter().map(text).collect(),
        Value::String(text) => {
            Some(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(ToOwned::to_owned).collect())
        }
        _ => None,
    }
}

/// `HOST:PORT`, `:PORT` or `PORT` (both: all addresses, IPv6 and IPv4). Of a name's addresses the first IPv4 one is
/// taken, else the first.
pub(crate) fn address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        return Some(SocketAddr::from(([0u16; 8], port)));
    }
    let found: Vec<_> = text.to_socket_addrs().ok()?.collect();
    found.iter().find(|address| address.is_ipv4()).or(found.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: PartialEq + std::fmt::Debug>(
        read: impl Fn(&Value) -> Option<T>,
        value: impl Into<Value>,
        expected: Option<T>,
    ) {
        let value = value.into();
        assert_eq!(read(&value), expected, "{value:?}");
    }

    #[test]
    fn sizes() {
        for (text, octets) in [
            ("0", Some(0)),
            ("131_072", Some(131_072)),
            ("16MiB", Some(16 << 20)),
            ("16M", Some(16 << 20)),
            ("50MB", Some(50_000_000)),
            ("1 GB", Some(1_000_000_000)),
            ("2gib", Some(2 << 30)),
            ("1kB", Some(1000)),
            ("12B", Some(12)),
            ("MB", None),
            ("1.5GB", None),
            ("1 parsec", None),
            ("9999999999TB", None),
            ("", None),
        ] {
            check(size, text, octets);
        }
        check(size, 5i64, Some(5));
        check(size, true, None);
    }

    #[test]
    fn booleans_numbers_and_lists() {
        check(boolean, true, Some(true));
        check(boolean, "off", Some(false));
        check(boolean, "maybe", None);
        check(boolean, 1i64, None);
        check(integer, "-1", Some(-1));
        check(integer, "1k", None);
        check(fraction, "0.5", Some(0.5));
        check(fraction, 1i64, Some(1.0));
        check(list, "a, b,,c", Some(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]));
        check(list, "", Some(vec![]));
        check(list, Value::Array(vec!["a,b".into()]), Some(vec!["a,b".to_owned()]));
        check(list, Value::Array(vec![Value::Integer(1)]), None);
    }

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("127.0.0.1:5672", Some("127.0.0.1:5672")),
            ("[::1]:0", Some("[::1]:0")),
            (":5672", Some("[::]:5672")),
            ("5672", Some("[::]:5672")),
            ("127.0.0.1", None),
            ("127.0.0.1:65536", None),
            ("", None),
        ] {
            assert_eq!(address(text), expected.map(|text| text.parse().unwrap()), "{text}");
        }
        assert!(address("localhost:1").is_some_and(|address| address.ip().is_loopback()));
    }
}
