//! hornpipe
fn main() {}
