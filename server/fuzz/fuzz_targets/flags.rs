//! See `server::fuzzing::flags`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| server::fuzzing::flags(bytes));
