//! What must hold whatever octets a peer or a disk gives.
//!
//! Each module is a function of octets that panics where a promise is broken. `crates/fuzz` feeds them what cargo-fuzz comes
//! upon (nightly Rust); `tests/any_octets.rs` feeds them random octets and all that is kept in `crates/fuzz/corpus` (any Rust).
//! For tests alone.

pub mod connection;
pub mod frame;
pub mod record;

/// Commands of several clients, sensible and not: nothing panics, counts and octets add up.
pub fn commands(octets: &[u8]) {
    hornpipe_testkit::script::run(octets);
}
