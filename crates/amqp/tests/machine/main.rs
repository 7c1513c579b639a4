//! The connection machine seen from both of its sides: bytes from a client, effects from the core.

mod client;
mod closing;
mod content;
mod errors;
mod handshake;
mod timing;
