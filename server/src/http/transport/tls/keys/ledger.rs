//! The account of all records that a test's thread has sealed: a sequence number that is used twice with one key fails it,
//! whichever `Records` used it and however the keys came there.

use std::cell::RefCell;
use std::collections::HashSet;

use super::{IV_BYTES, Material};

type Sealed = (Vec<u8>, [u8; IV_BYTES], u64);

thread_local! {
    static SEALED: RefCell<HashSet<Sealed>> = RefCell::default();
}

/// Notes a record.
pub(super) fn sealed(material: &Material, sequence: u64) {
    let entry = (material.root.expose().to_vec(), material.iv, sequence);
    let is_new = SEALED.with_borrow_mut(|sealed| sealed.insert(entry));
    assert!(is_new, "two records were sealed with the sequence number {sequence} of one key");
}

/// Begins anew, for a test that uses the same keys once more, and says how many records there were.
pub(in super::super) fn begin() -> usize {
    SEALED.take().len()
}
