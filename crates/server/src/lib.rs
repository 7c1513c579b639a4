//! hornpipe-server
