//! What threads share memory with, in one place: the standard library's. A test that walks the interleavings of the team
//! and of the poller compiles these same sources with another `sync` and another `epoll` (`tests/team_model.rs`).

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use std::thread_local;
pub(crate) use std::time::Instant;
