//! See `hornpipe_testkit::script`.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| hornpipe_hostile::commands(octets));
