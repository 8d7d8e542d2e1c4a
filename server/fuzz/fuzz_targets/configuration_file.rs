//! See `server::fuzzing::configuration_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| server::fuzzing::configuration_file(bytes));
