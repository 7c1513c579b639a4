//! What must hold, one property a file. Each check sees the oracle's books, never the inside of the shard.

pub(crate) mod confirms;
pub(crate) mod counts;
pub(crate) mod delayed;
pub(crate) mod durability;
pub(crate) mod liveness;
pub(crate) mod once;
pub(crate) mod order;
pub(crate) mod prefetch;
pub(crate) mod provenance;
pub(crate) mod redelivered;
pub(crate) mod settled;
pub(crate) mod ttl;

use std::fmt;

/// A property that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one: a file name below `invariants/`, or `store`, `protocol`, `log`.
    pub invariant: &'static str,
    /// What happened.
    pub text: String,
}

impl Violation {
    pub(crate) fn new(invariant: &'static str, text: impl Into<String>) -> Self {
        Self { invariant, text: text.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.text)
    }
}

/// Fails unless a condition holds.
pub(crate) fn ensure(holds: bool, invariant: &'static str, text: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::new(invariant, text())) }
}
