//! See `server::fuzzing::moved`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| server::fuzzing::moved(bytes));
