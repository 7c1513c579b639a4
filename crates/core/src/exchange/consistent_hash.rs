//! x-consistent-hash: each message goes to one binding, the share of each set by its weight (the binding key), the choice
//! by jump hash over all buckets (RabbitMQ "Consistent Hashing Exchange Type"). Adding a binding moves as few hashes as
//! possible; removing one shifts the later buckets.

use super::{BindingRef, Node, Place, erlang_binary, stable_hash};
use crate::topology::RouteInput;
use bytes::BufMut;
use hornpipe_types::Map;
use hornpipe_types::error::AmqpError;
use hornpipe_types::names::ShortStr;
use hornpipe_types::table::{FieldTable, Value};
use std::collections::{BTreeMap, BTreeSet};

const HASH_HEADER: &str = "hash-header";
const HASH_PROPERTY: &str = "hash-property";
/// Largest weight of one binding. Our own bound: it keeps the sum of all weights far from overflow.
const WEIGHT_MAX: u64 = 1_000_000;

/// What is hashed.
#[derive(Debug)]
enum On {
    Keys,
    Header(ShortStr),
    MessageId,
    CorrelationId,
    Timestamp,
}

/// Bindings in the order they were made, each with as many buckets as its weight.
#[derive(Debug)]
pub(crate) struct ConsistentHash {
    on: On,
    bindings: BTreeMap<u64, (Node, u64)>,
    /// Which binding holds a destination's buckets: further bindings of it add none.
    holders: Map<Node, BTreeSet<u64>>,
    /// End of each bucket range, made at the first message after a change.
    ends: Vec<(u64, Node)>,
    stale: bool,
    scratch: Vec<u8>,
}

/// Checks the exchange's arguments (406).
pub(crate) fn check_exchange(arguments: &FieldTable) -> Result<(), AmqpError> {
    let (header, property) = (arguments.get(HASH_HEADER), arguments.get(HASH_PROPERTY));
    match (header, property) {
        (Some(_), Some(_)) => Err(AmqpError::precondition("hash-header and hash-property are mutually exclusive")),
        (None, Some(p)) if property_of(p).is_none() => {
            Err(AmqpError::precondition(format!("Unsupported property: {}", super::declare::value_text(p))))
        }
        (Some(h), None) if h.as_str().is_none() => Err(AmqpError::precondition(format!(
            "Invalid argument {}, 'hash-header' must be a string",
            super::declare::value_text(h)
        ))),
        _ => Ok(()),
    }
}

fn property_of(value: &Value) -> Option<On> {
    match value.as_str()? {
        "message_id" => Some(On::MessageId),
        "correlation_id" => Some(On::CorrelationId),
        "timestamp" => Some(On::Timestamp),
        _ => None,
    }
}

/// Checks a binding key (406).
pub(crate) fn check_key(key: &str) -> Result<(), AmqpError> {
    let refuse = |text: String| Err(AmqpError::precondition(text));
    let digits = key.strip_prefix(['+', '-']).unwrap_or(key);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return refuse(format!("The binding key must be an integer: {}", erlang_binary(key.as_bytes())));
    }
    if key.starts_with('-') || digits.bytes().all(|b| b == b'0') {
        return refuse("The binding key must be greater than 0".into());
    }
    match digits.parse::<u64>() {
        Ok(n) if n <= WEIGHT_MAX => Ok(()),
        _ => refuse(format!("The binding key must not exceed {WEIGHT_MAX}")),
    }
}

impl ConsistentHash {
    pub(crate) fn new(arguments: &FieldTable) -> Self {
        let on = if let Some(name) = arguments.get(HASH_HEADER).and_then(Value::as_str) {
            On::Header(ShortStr::new(name))
        } else {
            arguments.get(HASH_PROPERTY).and_then(property_of).unwrap_or(On::Keys)
        };
        Self {
            on,
            bindings: BTreeMap::new(),
            holders: Map::default(),
            ends: Vec::new(),
            stale: false,
            scratch: Vec::new(),
        }
    }

    pub(crate) fn insert(&mut self, b: BindingRef<'_>) -> Place {
        let weight = b.key.trim_start_matches('+').parse::<u64>().unwrap_or(1).clamp(1, WEIGHT_MAX);
        self.bindings.insert(b.seq, (b.target.node, weight));
        self.holders.entry(b.target.node).or_default().insert(b.seq);
        self.stale = true;
        Place::default()
    }

    pub(crate) fn remove(&mut self, b: BindingRef<'_>) -> Option<u32> {
        self.bindings.remove(&b.seq);
        if let Some(seqs) = self.holders.get_mut(&b.target.node) {
            seqs.remove(&b.seq);
            if seqs.is_empty() {
                self.holders.remove(&b.target.node);
            }
        }
        self.stale = true;
        None
    }

    fn rebuild(&mut self) {
        self.ends.clear();
        let mut end = 0;
        for (seq, (node, weight)) in &self.bindings {
            // the oldest binding of a destination holds its buckets
            if self.holders.get(node).and_then(BTreeSet::first).is_some_and(|first| first == seq) {
                end += weight;
                self.ends.push((end, *node));
            }
        }
        self.stale = false;
    }

    pub(crate) fn select(&mut self, input: &RouteInput<'_>, sink: &mut impl FnMut(Node)) {
        if self.stale {
            self.rebuild();
        }
        let Some(&(total, _)) = self.ends.last() else { return };
        let bucket = jump_hash(self.hash(input), total);
        let i = self.ends.partition_point(|(end, _)| *end <= bucket);
        if let Some((_, node)) = self.ends.get(i) {
            sink(*node);
        }
    }

    fn hash(&mut self, input: &RouteInput<'_>) -> u64 {
        // something absent hashes like the empty string: all such messages stay together
        match &self.on {
            On::Keys => stable_hash(input.keys.iter().map(|k| k.as_bytes())),
            On::Header(name) => {
                self.scratch.clear();
                match input.headers.and_then(|h| h.get(name)) {
                    None => {}
                    Some(Value::LongStr(octets) | Value::Binary(octets)) => self.scratch.put_slice(octets),
                    Some(value) => match value.as_int() {
                        Some(n) => self.scratch.put_i64(n),
                        None => {
                            let one = FieldTable(vec![(ShortStr::default(), value.clone())]);
                            one.encode_pairs(&mut self.scratch);
                        }
                    },
                }
                stable_hash([self.scratch.as_slice()])
            }
            On::MessageId => stable_hash([input.message_id.unwrap_or("").as_bytes()]),
            On::CorrelationId => stable_hash([input.correlation_id.unwrap_or("").as_bytes()]),
            On::Timestamp => match input.timestamp {
                Some(t) => stable_hash([&t.to_be_bytes()[..]]),
                None => stable_hash([&b""[..]]),
            },
        }
    }
}

/// Jump consistent hash (Lamping and Veach, 2014): a bucket in `0..buckets`; growing `buckets` moves only the share that
/// goes to the new ones.
fn jump_hash(mut key: u64, buckets: u64) -> u64 {
    let (mut b, mut j) = (0u64, 0u64);
    while j < buckets {
        b = j;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let r = ((key >> 33) + 1) as f64 / (1u64 << 31) as f64;
        j = ((b + 1) as f64 / r) as u64;
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binding_keys() {
        let text = |k: &str| check_key(k).map_err(|e| e.text);
        let not_int = |k: &str| Err(format!("The binding key must be an integer: <<\"{k}\">>"));
        let zero = || Err("The binding key must be greater than 0".to_string());
        for (key, expected) in [
            ("1", Ok(())),
            ("+3", Ok(())),
            ("007", Ok(())),
            ("0", zero()),
            ("-5", zero()),
            ("", Err("The binding key must be an integer: <<>>".into())),
            ("a", not_int("a")),
            ("1.5", not_int("1.5")),
            ("1000000", Ok(())),
            ("1000001", Err("The binding key must not exceed 1000000".into())),
            ("99999999999999999999999", Err("The binding key must not exceed 1000000".into())),
        ] {
            assert_eq!(text(key), expected, "{key}");
        }
    }

    #[test]
    fn growing_moves_hashes_only_to_the_new_bucket() {
        for key in 0..2000u64 {
            let h = crate::rng::mix(key);
            for n in 1..20 {
                let (before, after) = (jump_hash(h, n), jump_hash(h, n + 1));
                assert!(before < n);
                assert!(after == before || after == n, "{before} -> {after} of {n}");
            }
        }
    }

    #[test]
    fn exchange_arguments() {
        let check = |pairs: &[(&str, Value)]| {
            let table = FieldTable(pairs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect());
            check_exchange(&table).map_err(|e| e.text)
        };
        let s = Value::long_str;
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[(HASH_HEADER, s("h"))]), Ok(()));
        for p in ["message_id", "correlation_id", "timestamp"] {
            assert_eq!(check(&[(HASH_PROPERTY, s(p))]), Ok(()));
        }
        assert_eq!(check(&[(HASH_PROPERTY, s("app_id"))]), Err("Unsupported property: app_id".into()));
        assert_eq!(
            check(&[(HASH_PROPERTY, s("app_id")), (HASH_HEADER, s("h"))]),
            Err("hash-header and hash-property are mutually exclusive".into())
        );
    }
}
