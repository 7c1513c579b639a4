//! The broker: vhosts, exchanges, queues, channels, confirms, as one deterministic state machine.
//!
//! **Invariants.** The core never awaits, never blocks, never reads a clock, never touches a socket or a disk; randomness
//! comes from a seed. The same calls give the same effects. All output of a turn is drained after it. There are no locks,
//! because there is one owner. Nothing depends on the iteration order of a hash map.
//!
//! It must not know tokio, sled, frames or threads. Read first: [`shard::Shard`] (what goes in and what comes out), the
//! queue in `queue/`, the log's bookkeeping in `log.rs`.

pub mod access;
mod apply;
mod channel;
mod chunked;
mod committing;
mod connection;
mod consumer_timeout;
mod damaged;
mod dead_letter;
mod delayed;
mod depart;
pub mod exchange;
mod gather;
mod grave;
mod handle;
mod held_back;
mod inspect;
mod keys;
mod loads;
mod log;
mod operate;
mod pace;
mod paging;
pub mod policy;
mod publish;
mod queue;
pub mod recover;
pub mod rng;
mod routes;
mod serve;
mod settle;
pub mod shard;
mod spread;
mod steps;
mod thinning;
mod timer;
pub mod topology;
mod work;

pub use recover::Bootstrap;
pub use shard::{CoreConfig, Shard};
