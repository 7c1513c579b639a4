//! hornpipe-bench
fn main() {}
