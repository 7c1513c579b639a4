//! See `hornpipe_hostile::connection`.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| hornpipe_hostile::connection::run(octets));
