//! A mutex as this crate takes it: a panic of another thread makes it no less usable.
//!
//! What is behind a lock here is consistent at each instant, so a poisoned one tells nothing, and nobody may hang or
//! panic because of it.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
