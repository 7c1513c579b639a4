//! hornpipe-core

pub mod access;
pub mod policy;
