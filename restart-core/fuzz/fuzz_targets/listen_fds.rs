//! See `restart_core::fuzzing::listen_fds`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| restart_core::fuzzing::listen_fds(bytes));
