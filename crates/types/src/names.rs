//! Short strings: names of exchanges, queues, vhosts, consumer tags, routing keys.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// An AMQP short string: UTF-8, at most 255 octets [spec §4.2.5.3]. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortStr(Arc<str>);

impl ShortStr {
    /// Longest short string in octets.
    pub const MAX: usize = 255;

    /// Takes the text as it is; text over 255 octets is cut at a character boundary (callers that must refuse check before).
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(Self::MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(Arc::from(text.get(..end).unwrap_or("")))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Length in octets.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Default for ShortStr {
    fn default() -> Self {
        Self::new("")
    }
}
impl From<&str> for ShortStr {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}
impl From<String> for ShortStr {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}
impl std::ops::Deref for ShortStr {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}
impl AsRef<str> for ShortStr {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
impl Borrow<str> for ShortStr {
    fn borrow(&self) -> &str {
        &self.0
    }
}
impl PartialEq<str> for ShortStr {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}
impl PartialEq<&str> for ShortStr {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}
impl fmt::Display for ShortStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for ShortStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}
impl Serialize for ShortStr {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for ShortStr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::from)
    }
}
