//! Parts of a channel that are worth a file: outstanding deliveries and publisher confirms.

pub(crate) mod confirms;
pub(crate) mod unacked;
