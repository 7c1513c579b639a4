//! Bytes: frames, methods, content. Nothing here knows the state of a connection.

pub(crate) mod awaited;
pub(crate) mod content;
pub(crate) mod fields;
pub(crate) mod frame;
pub(crate) mod hot;
pub(crate) mod method;
