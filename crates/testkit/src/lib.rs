//! hornpipe-testkit
