//! See `server::fuzzing::chunked`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| server::fuzzing::chunked(bytes));
