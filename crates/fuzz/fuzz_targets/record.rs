//! See `hornpipe_hostile::record`.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| hornpipe_hostile::record::run(octets));
