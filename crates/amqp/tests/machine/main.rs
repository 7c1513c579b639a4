//! The connection machine seen from both of its sides: bytes from a client, effects from the core.

// helpers beside the tests may fail as the tests do
#![allow(clippy::unwrap_used)]

mod client;
mod closing;
mod content;
mod errors;
mod handshake;
mod large;
mod timing;
