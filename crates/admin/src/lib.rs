//! hornpipe-admin
