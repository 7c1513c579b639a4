//! Field tables and values, byte-exact: order, duplicate keys and every type tag survive a round trip [spec §4.2.5.5].

use crate::names::ShortStr;
use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Octets that a pair mostly takes at most.
const PAIR_USUAL: usize = 48;

/// Deepest nesting of tables and arrays that is decoded; deeper input is refused (hostile tables must not eat the stack).
pub const DEPTH_MAX: usize = 64;

/// Why bytes are no table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TableError {
    /// The bytes end inside a value.
    #[error("unexpected end of table data")]
    Truncated,
    /// A type tag RabbitMQ does not know.
    #[error("unknown field type tag {0}")]
    UnknownTag(u8),
    /// A key or short string that is not UTF-8.
    #[error("Malformed UTF-8 in shortstr")]
    NotUtf8,
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("field table nested too deeply")]
    TooDeep,
}

/// A field value; the variant is the type tag.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// `t`
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`, and `L`, which RabbitMQ reads the same and never writes
    I64(i64),
    /// `f`
    F32(#[serde(with = "single")] f32),
    /// `d`
    F64(#[serde(with = "double")] f64),
    /// `D`: scale, unscaled value
    Decimal(u8, u32),
    /// `S`: any octets, not necessarily UTF-8
    LongStr(#[serde(with = "octets")] Bytes),
    /// `x`
    Binary(#[serde(with = "octets")] Bytes),
    /// `T`: seconds since 1970
    Timestamp(u64),
    /// `F`
    Table(FieldTable),
    /// `A`
    Array(Vec<Value>),
    /// `V`
    Void,
}

/// Octets as text where they are UTF-8, else as a list of numbers.
mod octets {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Octets(Vec<u8>),
    }
    pub(super) fn serialize<S: Serializer>(b: &Bytes, s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(b) {
            Ok(text) => text.serialize(s),
            Err(_) => b.as_ref().serialize(s),
        }
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Bytes, D::Error> {
        Ok(match Form::deserialize(d)? {
            Form::Text(t) => Bytes::from(t),
            Form::Octets(o) => Bytes::from(o),
        })
    }
}

/// JSON has no word for NaN and the infinities: they are kept as the text of their bits.
macro_rules! float_form {
    ($module:ident, $float:ty, $bits:ty) => {
        mod $module {
            use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

            #[derive(Deserialize)]
            #[serde(untagged)]
            enum Form {
                Number($float),
                Bits(String),
            }
            pub(super) fn serialize<S: Serializer>(v: &$float, s: S) -> Result<S::Ok, S::Error> {
                if v.is_finite() { v.serialize(s) } else { format!("{:x}", v.to_bits()).serialize(s) }
            }
            pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<$float, D::Error> {
                match Form::deserialize(d)? {
                    Form::Number(v) => Ok(v),
                    Form::Bits(t) => <$bits>::from_str_radix(&t, 16).map(<$float>::from_bits).map_err(D::Error::custom),
                }
            }
        }
    };
}
float_form!(single, f32, u32);
float_form!(double, f64, u64);

impl Value {
    /// A long string.
    pub fn long_str(text: &str) -> Self {
        Self::LongStr(Bytes::copy_from_slice(text.as_bytes()))
    }
    /// The name RabbitMQ prints for the value's type in error texts.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I8(_) => "byte",
            Self::U8(_) => "unsignedbyte",
            Self::I16(_) => "short",
            Self::U16(_) => "unsignedshort",
            Self::I32(_) => "signedint",
            Self::U32(_) => "unsignedint",
            Self::I64(_) => "long",
            Self::F32(_) => "float",
            Self::F64(_) => "double",
            Self::Decimal(..) => "decimal",
            Self::LongStr(_) => "longstr",
            Self::Binary(_) => "binary",
            Self::Timestamp(_) => "timestamp",
            Self::Table(_) => "table",
            Self::Array(_) => "array",
            Self::Void => "void",
        }
    }
    /// Any integer tag as i64.
    pub fn as_int(&self) -> Option<i64> {
        Some(match *self {
            Self::I8(v) => v.into(),
            Self::U8(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I64(v) => v,
            _ => return None,
        })
    }
    /// A bool.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }
    /// A long string that is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::LongStr(b) => std::str::from_utf8(b).ok(),
            _ => None,
        }
    }
    /// The octets of a long string or binary.
    pub fn as_octets(&self) -> Option<&[u8]> {
        match self {
            Self::LongStr(b) | Self::Binary(b) => Some(b),
            _ => None,
        }
    }

    fn encode(&self, out: &mut impl BufMut) {
        match self {
            Self::Bool(v) => {
                out.put_u8(b't');
                out.put_u8(u8::from(*v));
            }
            Self::I8(v) => {
                out.put_u8(b'b');
                out.put_i8(*v);
            }
            Self::U8(v) => {
                out.put_u8(b'B');
                out.put_u8(*v);
            }
            Self::I16(v) => {
                out.put_u8(b's');
                out.put_i16(*v);
            }
            Self::U16(v) => {
                out.put_u8(b'u');
                out.put_u16(*v);
            }
            Self::I32(v) => {
                out.put_u8(b'I');
                out.put_i32(*v);
            }
            Self::U32(v) => {
                out.put_u8(b'i');
                out.put_u32(*v);
            }
            Self::I64(v) => {
                out.put_u8(b'l');
                out.put_i64(*v);
            }
            Self::F32(v) => {
                out.put_u8(b'f');
                out.put_f32(*v);
            }
            Self::F64(v) => {
                out.put_u8(b'd');
                out.put_f64(*v);
            }
            Self::Decimal(scale, v) => {
                out.put_u8(b'D');
                out.put_u8(*scale);
                out.put_u32(*v);
            }
            Self::LongStr(b) => {
                out.put_u8(b'S');
                out.put_u32(b.len() as u32);
                out.put_slice(b);
            }
            Self::Binary(b) => {
                out.put_u8(b'x');
                out.put_u32(b.len() as u32);
                out.put_slice(b);
            }
            Self::Timestamp(v) => {
                out.put_u8(b'T');
                out.put_u64(*v);
            }
            Self::Table(t) => {
                out.put_u8(b'F');
                t.encode(out);
            }
            Self::Array(items) => {
                out.put_u8(b'A');
                let mut inner = Vec::new();
                for v in items {
                    v.encode(&mut inner);
                }
                out.put_u32(inner.len() as u32);
                out.put_slice(&inner);
            }
            Self::Void => out.put_u8(b'V'),
        }
    }

    fn decode(r: &mut Reader<'_>, depth: usize) -> Result<Self, TableError> {
        Ok(match r.u8()? {
            b't' => Self::Bool(r.u8()? != 0),
            b'b' => Self::I8(r.u8()? as i8),
            b'B' => Self::U8(r.u8()?),
            b's' => Self::I16(r.u16()? as i16),
            b'u' => Self::U16(r.u16()?),
            b'I' => Self::I32(r.u32()? as i32),
            b'i' => Self::U32(r.u32()?),
            b'l' | b'L' => Self::I64(r.u64()? as i64),
            b'f' => Self::F32(f32::from_bits(r.u32()?)),
            b'd' => Self::F64(f64::from_bits(r.u64()?)),
            b'D' => Self::Decimal(r.u8()?, r.u32()?),
            b'S' => Self::LongStr(r.long()?),
            b'x' => Self::Binary(r.long()?),
            b'T' => Self::Timestamp(r.u64()?),
            b'F' => Self::Table(FieldTable::decode_nested(r, depth + 1)?),
            b'A' => {
                if depth >= DEPTH_MAX {
                    return Err(TableError::TooDeep);
                }
                let len = r.u32()? as usize;
                let mut inner = Reader(r.take(len)?);
                let mut items = Vec::new();
                while !inner.0.is_empty() {
                    items.push(Self::decode(&mut inner, depth + 1)?);
                }
                Self::Array(items)
            }
            b'V' => Self::Void,
            tag => return Err(TableError::UnknownTag(tag)),
        })
    }
}

/// A field table: pairs in the order received, duplicates kept; the first one wins on look-up.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FieldTable(pub Vec<(ShortStr, Value)>);

impl FieldTable {
    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }
    /// Replaces the first value of `key` or appends it.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.0.iter_mut().find(|(k, _)| k == key) {
            Some((_, v)) => *v = value,
            None => self.0.push((ShortStr::new(key), value)),
        }
    }
    /// Removes all values of `key`; says whether there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(k, _)| k != key);
        self.0.len() != before
    }
    /// Whether the table has no pair.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v))
    }
    /// The pairs sorted by key, first of each key only: the form in which binding arguments are compared.
    #[must_use]
    pub fn sorted(&self) -> Self {
        let mut pairs = self.0.clone();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.dedup_by(|b, a| a.0 == b.0);
        Self(pairs)
    }
    /// Appends the table with its length prefix.
    pub fn encode(&self, out: &mut impl BufMut) {
        let mut inner = Vec::with_capacity(self.len() * PAIR_USUAL);
        self.encode_pairs(&mut inner);
        out.put_u32(inner.len() as u32);
        out.put_slice(&inner);
    }
    /// Appends the pairs alone, the form AMQPLAIN uses.
    pub fn encode_pairs(&self, out: &mut Vec<u8>) {
        for (k, v) in &self.0 {
            out.put_u8(k.len() as u8);
            out.put_slice(k.as_bytes());
            v.encode(out);
        }
    }
    /// Decodes a table with its length prefix; the rest of `bytes` after it is returned too.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), TableError> {
        let mut r = Reader(bytes);
        let table = Self::decode_nested(&mut r, 0)?;
        Ok((table, r.0))
    }
    /// Decodes pairs without length prefix, to the end of `bytes`.
    pub fn decode_pairs(bytes: &[u8]) -> Result<Self, TableError> {
        Self::pairs(&mut Reader(bytes), 0)
    }
    fn decode_nested(r: &mut Reader<'_>, depth: usize) -> Result<Self, TableError> {
        if depth >= DEPTH_MAX {
            return Err(TableError::TooDeep);
        }
        let len = r.u32()? as usize;
        Self::pairs(&mut Reader(r.take(len)?), depth)
    }
    fn pairs(r: &mut Reader<'_>, depth: usize) -> Result<Self, TableError> {
        let mut pairs = Vec::new();
        while !r.0.is_empty() {
            let key = r.short()?;
            let value = Value::decode(r, depth)?;
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }
}

/// Takes big-endian integers and strings off a slice.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], TableError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(TableError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], TableError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(TableError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }
    pub(crate) fn u8(&mut self) -> Result<u8, TableError> {
        Ok(self.array::<1>()?[0])
    }
    pub(crate) fn u16(&mut self) -> Result<u16, TableError> {
        Ok(u16::from_be_bytes(self.array()?))
    }
    pub(crate) fn u32(&mut self) -> Result<u32, TableError> {
        Ok(u32::from_be_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64, TableError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
    pub(crate) fn short_octets(&mut self) -> Result<&'a [u8], TableError> {
        let len = self.u8()?;
        self.take(len.into())
    }
    pub(crate) fn short(&mut self) -> Result<ShortStr, TableError> {
        let octets = self.short_octets()?;
        std::str::from_utf8(octets).map(ShortStr::new).map_err(|_| TableError::NotUtf8)
    }
    fn long(&mut self) -> Result<Bytes, TableError> {
        let len = self.u32()? as usize;
        Ok(Bytes::copy_from_slice(self.take(len)?))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i8>().prop_map(Value::I8),
            any::<u8>().prop_map(Value::U8),
            any::<i16>().prop_map(Value::I16),
            any::<u16>().prop_map(Value::U16),
            any::<i32>().prop_map(Value::I32),
            any::<u32>().prop_map(Value::U32),
            any::<i64>().prop_map(Value::I64),
            (-1e9f32..1e9).prop_map(Value::F32),
            (-1e9f64..1e9).prop_map(Value::F64),
            (any::<u8>(), any::<u32>()).prop_map(|(s, v)| Value::Decimal(s, v)),
            bytes().prop_map(Value::LongStr),
            bytes().prop_map(Value::Binary),
            any::<u64>().prop_map(Value::Timestamp),
            Just(Value::Void),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(("[a-z]{0,8}", inner.clone()), 0..4)
                    .prop_map(|v| Value::Table(FieldTable(v.into_iter().map(|(k, v)| (k.into(), v)).collect()))),
                prop::collection::vec(inner, 0..4).prop_map(Value::Array),
            ]
        })
    }

    pub(crate) fn any_table() -> impl Strategy<Value = FieldTable> {
        prop::collection::vec(("[a-z-]{0,8}", any_value()), 0..6)
            .prop_map(|v| FieldTable(v.into_iter().map(|(k, v)| (k.into(), v)).collect()))
    }

    proptest! {
        #[test]
        fn round_trip(table in any_table(), tail in prop::collection::vec(any::<u8>(), 0..5)) {
            let mut out = Vec::new();
            table.encode(&mut out);
            out.extend(&tail);
            let (back, rest) = FieldTable::decode(&out).unwrap();
            prop_assert_eq!(back, table);
            prop_assert_eq!(rest, &tail[..]);
        }

        #[test]
        fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = FieldTable::decode(&bytes);
            let _ = FieldTable::decode_pairs(&bytes);
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let mut bytes = vec![0u8; 4];
        for _ in 0..5000 {
            let mut outer = vec![1, b'k', b'F'];
            outer.extend(&bytes);
            bytes = (outer.len() as u32).to_be_bytes().to_vec();
            bytes.extend(&outer);
        }
        assert_eq!(FieldTable::decode(&bytes), Err(TableError::TooDeep));
    }
}
