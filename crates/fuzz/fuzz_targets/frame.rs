//! See `hornpipe_hostile::frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| hornpipe_hostile::frame::run(octets));
