//! What tests and fuzz targets share.
//!
//! [`Broker`] is the real core with everything around it pretended: a disk in a map ([`Disk`]), a clock that moves when it is
//! told to, clients that are lists of effects. [`script`] turns any octets into commands of several clients and checks what
//! must hold whatever they say. For tests alone: it panics where something is wrong.

mod broker;
mod disk;
pub mod message;
pub mod script;

pub use broker::{Broker, USER, VHOST};
pub use disk::Disk;
