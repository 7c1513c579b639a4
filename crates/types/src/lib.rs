//! The vocabulary of hornpipe: names, ids, messages, commands, effects, store operations, errors and time.
//!
//! Plain data only. This crate must not know tokio, sled, sockets, threads or a clock. Read first: [`message::Batch`]
//! (how messages travel), [`command::Command`] and [`effect::ConnectionEffect`] (all the broker can be asked and can do),
//! [`op::StoreOp`] (all that reaches the disk).

pub mod args;
pub mod command;
pub mod copy;
pub mod definition;
pub mod effect;
pub mod error;
pub mod gauge;
pub mod header;
pub mod ids;
pub mod limits;
pub mod message;
pub mod names;
pub mod op;
pub mod operate;
pub mod range;
pub mod replay;
pub mod stats;
pub mod table;
pub mod time;

/// Hash map with a fixed, seedless hasher: the same run gives the same iteration order.
///
/// The core must still never let iteration order decide what a peer sees.
pub type Map<K, V> = std::collections::HashMap<K, V, Hasher>;
/// Hash set beside [`Map`].
pub type Set<K> = std::collections::HashSet<K, Hasher>;
/// What both hash by.
pub type Hasher = rustc_hash::FxBuildHasher;
