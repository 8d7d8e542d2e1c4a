//! For tests with real processes, in debug builds alone: each record that is sealed is noted in the file that a variable
//! names, by all generations in the same one, so that a sequence number that two processes used with one key is found.
//!
//! What is noted is a hash of the key's origin, from which nothing follows for the key, and the number. It stands beside
//! code that does no I/O because here alone is every number spent; a release has neither this module nor the variable.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

use ring::digest::{Context, SHA256};

/// The file: a line for each record with the hash, the number and the process.
const VARIABLE: &str = "REBORN_TEST_SEALED_RECORDS";

/// Notes a record, by what its key and its IV come from, before anybody can have seen it.
pub(super) fn sealed(root: &[u8], iv: &[u8], sequence: u64) {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    let open = || {
        let path = env::var_os(VARIABLE)?;
        Some(OpenOptions::new().append(true).create(true).open(path).expect("the test's file can be written"))
    };
    let Some(mut file) = FILE.get_or_init(open).as_ref() else { return };
    let mut hash = Context::new(&SHA256);
    hash.update(root);
    hash.update(iv);
    let hash = hash.finish();
    let hash = u128::from_be_bytes(*hash.as_ref().first_chunk().expect("it has 32 bytes"));
    // In one call, so that lines of several processes do not mix.
    let line = format!("{hash:032x} {sequence} {}\n", std::process::id());
    file.write_all(line.as_bytes()).expect("the test's file can be written");
}
