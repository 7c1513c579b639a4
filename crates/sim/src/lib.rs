//! hornpipe-sim
