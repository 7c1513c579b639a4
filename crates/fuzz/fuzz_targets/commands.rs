//! Commands of several clients, sensible and not: nothing panics, counts and octets add up.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    hornpipe_testkit::script::run(octets);
});
