//! headers: bindings match by header values, the routing key plays no part [spec §3.1.3.4].

use super::{BindingRef, Node, Place, Target, erlang_binary};
use crate::topology::RouteInput;
use bytes::Bytes;
use hornpipe_types::Map;
use hornpipe_types::error::AmqpError;
use hornpipe_types::names::ShortStr;
use hornpipe_types::table::{FieldTable, Value};

const X_MATCH: &str = "x-match";
/// Headers of a message that are looked through one by one.
const FEW_HEADERS: usize = 16;

/// Bindings with their conditions, compiled once.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    bindings: Vec<(Target, Matcher)>,
}

/// Checks `x-match` (406).
pub(crate) fn check_arguments(arguments: &FieldTable) -> Result<(), AmqpError> {
    match arguments.get(X_MATCH) {
        None => Ok(()),
        Some(Value::LongStr(v)) if matches!(&v[..], b"all" | b"any" | b"all-with-x" | b"any-with-x") => Ok(()),
        Some(Value::LongStr(v)) => Err(AmqpError::precondition(format!(
            "Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x",
            erlang_binary(v)
        ))),
        Some(v) => Err(AmqpError::precondition(format!(
            "Invalid x-match field type {} (value {}); expected longstr",
            v.type_name(),
            super::declare::value_term(v)
        ))),
    }
}

impl Headers {
    pub(crate) fn insert(&mut self, b: BindingRef<'_>) -> Place {
        self.bindings.push((b.target, Matcher::new(b.arguments)));
        Place { leaf: 0, pos: self.bindings.len() as u32 - 1 }
    }

    pub(crate) fn remove(&mut self, place: Place) -> Option<u32> {
        let pos = place.pos as usize;
        if pos < self.bindings.len() {
            self.bindings.swap_remove(pos);
        }
        self.bindings.get(pos).map(|(t, _)| t.binding)
    }

    /// Says how many bindings it looked at.
    pub(crate) fn select(&self, input: &RouteInput<'_>, sink: &mut impl FnMut(Node)) -> u32 {
        let headers = Sought::new(input.headers);
        for (target, matcher) in &self.bindings {
            if matcher.matches(&headers) {
                sink(target.node);
            }
        }
        u32::try_from(self.bindings.len()).unwrap_or(u32::MAX)
    }
}

/// A message's headers, to be found by name.
#[derive(Debug)]
enum Sought<'a> {
    /// So few that a look at each is no detour.
    Few(&'a [(ShortStr, Value)]),
    /// The first of each name.
    Many(Map<&'a str, &'a Value>),
}

impl<'a> Sought<'a> {
    fn new(headers: Option<&'a FieldTable>) -> Self {
        let headers = headers.map_or(&[][..], |table| &table.0);
        if headers.len() <= FEW_HEADERS {
            return Self::Few(headers);
        }
        Self::Many(headers.iter().rev().map(|(name, value)| (name.as_str(), value)).collect())
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        match self {
            Self::Few(headers) => headers.iter().find(|(k, _)| k == name).map(|(_, value)| value),
            Self::Many(headers) => headers.get(name).copied(),
        }
    }
}

/// The conditions of one binding.
#[derive(Debug)]
struct Matcher {
    any: bool,
    conditions: Vec<(ShortStr, Want)>,
}

#[derive(Debug)]
enum Want {
    /// A void argument: the header is there, whatever its value.
    Present,
    Is(Term),
}

/// A value without the width of its tag: what is compared.
#[derive(Debug, PartialEq)]
enum Term {
    Int(i128),
    Float(f64),
    Bool(bool),
    Octets(Bytes),
    Void,
    /// Tables, arrays and decimals compare as they are.
    Other(Value),
}

impl Term {
    /// `scale` multiplies timestamps: RabbitMQ counts those of a message in milliseconds and those of a binding in
    /// seconds, so that timestamps never match each other but by presence.
    fn new(v: &Value, scale: i128) -> Self {
        match v {
            Value::Bool(b) => Self::Bool(*b),
            Value::F32(f) => Self::Float(f64::from(*f)),
            Value::F64(f) => Self::Float(*f),
            Value::LongStr(b) | Value::Binary(b) => Self::Octets(b.clone()),
            Value::Timestamp(t) => Self::Int(i128::from(*t) * scale),
            Value::Void => Self::Void,
            other => match other.as_int() {
                Some(n) => Self::Int(n.into()),
                None => Self::Other(other.clone()),
            },
        }
    }

    fn is(&self, header: &Value) -> bool {
        match (self, header) {
            // the common case without building a term
            (Self::Octets(b), Value::LongStr(h) | Value::Binary(h)) => b == h,
            (Self::Octets(_), _) => false,
            _ => *self == Self::new(header, 1000),
        }
    }
}

impl Matcher {
    fn new(arguments: &FieldTable) -> Self {
        let mode = arguments.get(X_MATCH).and_then(Value::as_str).unwrap_or("all");
        let with_x = mode.ends_with("-with-x");
        let mut conditions: Vec<(ShortStr, Want)> = Vec::new();
        for (i, (key, value)) in arguments.0.iter().enumerate() {
            let duplicate = arguments.0.iter().take(i).any(|(k, _)| k == key);
            if key == X_MATCH || (!with_x && key.starts_with("x-")) || duplicate {
                continue;
            }
            let want = if *value == Value::Void { Want::Present } else { Want::Is(Term::new(value, 1)) };
            conditions.push((key.clone(), want));
        }
        Self { any: mode.starts_with("any"), conditions }
    }

    fn matches(&self, headers: &Sought<'_>) -> bool {
        let mut each = self.conditions.iter().map(|(key, want)| {
            let header = headers.get(key);
            match want {
                Want::Present => header.is_some(),
                Want::Is(term) => header.is_some_and(|h| term.is(h)),
            }
        });
        if self.any { each.any(|m| m) } else { each.all(|m| m) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(pairs: &[(&str, Value)]) -> FieldTable {
        FieldTable(pairs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect())
    }
    fn s(t: &str) -> Value {
        Value::long_str(t)
    }
    fn matches(binding: &[(&str, Value)], headers: &[(&str, Value)]) -> bool {
        Matcher::new(&table(binding)).matches(&Sought::new(Some(&table(headers))))
    }

    #[test]
    fn x_match_is_checked() {
        let check = |v: Value| check_arguments(&table(&[(X_MATCH, v)])).map_err(|e| e.text);
        for ok in ["all", "any", "all-with-x", "any-with-x"] {
            assert_eq!(check(s(ok)), Ok(()));
        }
        assert_eq!(check_arguments(&FieldTable::default()), Ok(()));
        assert_eq!(
            check(s("some")),
            Err("Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or any-with-x".into())
        );
        assert_eq!(
            check(Value::I32(5)),
            Err("Invalid x-match field type signedint (value 5); expected longstr".into())
        );
        assert_eq!(
            check(Value::Bool(true)),
            Err("Invalid x-match field type bool (value true); expected longstr".into())
        );
    }

    #[test]
    fn modes() {
        let (a1, b2) = (("a", Value::I32(1)), ("b", s("2")));
        let mode = |m: &str| (X_MATCH, s(m));
        assert!(matches(&[a1.clone(), b2.clone()], &[b2.clone(), a1.clone(), ("c", s("3"))]));
        assert!(!matches(&[a1.clone(), b2.clone()], std::slice::from_ref(&a1)));
        assert!(matches(&[mode("any"), a1.clone(), b2.clone()], std::slice::from_ref(&a1)));
        assert!(!matches(&[mode("any"), a1.clone()], std::slice::from_ref(&b2)));
        // nothing left to compare
        assert!(matches(&[mode("all")], &[]));
        assert!(matches(&[], &[]));
        assert!(!matches(&[mode("any")], std::slice::from_ref(&a1)));
        // x- headers count only with -with-x, x-match never
        let x = ("x-h", s("v"));
        assert!(matches(&[mode("all"), x.clone()], &[]));
        assert!(!matches(&[mode("all-with-x"), x.clone()], &[]));
        assert!(matches(&[mode("all-with-x"), x.clone()], std::slice::from_ref(&x)));
        assert!(!matches(&[mode("any"), x.clone()], std::slice::from_ref(&x)));
        assert!(matches(&[mode("any-with-x"), x.clone()], &[x]));
        // a message without headers
        assert!(Matcher::new(&FieldTable::default()).matches(&Sought::new(None)));
        assert!(!Matcher::new(&table(&[a1])).matches(&Sought::new(None)));
    }

    #[test]
    fn values() {
        for (binding, header, expected) in [
            (Value::I32(1), Value::I64(1), true),
            (Value::U8(200), Value::I16(200), true),
            (s("1"), Value::I32(1), false),
            (Value::I32(1), s("1"), false),
            (Value::F64(1.0), Value::I32(1), false),
            (Value::F64(0.5), Value::F32(0.5), true),
            (s("v"), Value::Binary(Bytes::from_static(b"v")), true),
            (s("v"), s("V"), false),
            (Value::Bool(true), Value::Bool(true), true),
            (Value::Bool(true), s("true"), false),
            (Value::Timestamp(7), Value::Timestamp(7), false),
            (Value::Void, Value::Timestamp(7), true),
            (Value::Void, Value::Void, true),
            (Value::I32(0), Value::Void, false),
            (Value::Decimal(1, 5), Value::Decimal(1, 5), true),
        ] {
            let (b, h) = (("k", binding.clone()), ("k", header.clone()));
            assert_eq!(matches(&[b], &[h]), expected, "{binding:?} {header:?}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            (0i32..3).prop_map(Value::I32),
            (0i64..3).prop_map(Value::I64),
            "[ab]".prop_map(|t| Value::long_str(&t)),
            any::<bool>().prop_map(Value::Bool),
            Just(Value::Void),
        ]
    }
    fn headers() -> impl Strategy<Value = FieldTable> {
        prop::collection::vec(("(x-)?[abc]", value()), 0..5)
            .prop_map(|v| FieldTable(v.into_iter().map(|(k, v)| (k.into(), v)).collect()))
    }

    /// The rule said once more, straight from the documentation and with counting instead of short cuts.
    fn naive(binding: &FieldTable, headers: &FieldTable, mode: &str) -> bool {
        let (mut hits, mut wanted) = (0, 0);
        let sorted = binding.sorted();
        for (key, value) in sorted.iter() {
            if key == "x-match" || (key.starts_with("x-") && !mode.contains("with-x")) {
                continue;
            }
            wanted += 1;
            let text = |v: &Value| match v.as_int() {
                Some(n) => format!("{n}"),
                None => format!("{v:?}"),
            };
            if headers.get(key).is_some_and(|h| *value == Value::Void || text(value) == text(h)) {
                hits += 1;
            }
        }
        if mode.starts_with("any") { hits > 0 } else { hits == wanted }
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_matcher(
            binding in headers(),
            headers in headers(),
            mode in prop::sample::select(vec!["all", "any", "all-with-x", "any-with-x"]),
        ) {
            let mut with_mode = binding.clone();
            with_mode.set(X_MATCH, Value::long_str(mode));
            let mut many = headers.clone();
            many.0.extend((0..=FEW_HEADERS).map(|n| (ShortStr::new(&format!("more{n}")), Value::Void)));
            for headers in [headers, many] {
                prop_assert_eq!(
                    Matcher::new(&with_mode).matches(&Sought::new(Some(&headers))),
                    naive(&with_mode, &headers, mode),
                    "{:?} {:?}", with_mode, headers
                );
            }
        }
    }
}
