//! What is behind a lock as this crate takes it: a panic of another thread makes it no less usable.
//!
//! What is behind a lock here is consistent at each instant, so a poisoned one tells nothing, and nobody may hang or
//! panic because of it.

use std::sync::{LockResult, PoisonError};

/// What a lock, or a wait on one, gives.
pub(crate) fn unpoisoned<T>(taken: LockResult<T>) -> T {
    taken.unwrap_or_else(PoisonError::into_inner)
}
