//! hornpipe-store
