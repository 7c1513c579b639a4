//! What must be the same after a restart as before it, one rule at a time, over the real store.

#![allow(clippy::unwrap_used)]

mod dead_letters;
mod graves;
mod hurt;
mod order;
mod quorum;
mod redelivered;
mod rig;
mod topology;
