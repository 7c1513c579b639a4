//! hornpipe-core
