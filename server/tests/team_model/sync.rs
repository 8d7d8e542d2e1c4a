//! What threads share memory with, under shuttle: each access is a point at which another thread may go on.
//!
//! A wait with a timeout may end at any time, as on a machine that is busy; time itself is chosen at random.

use std::ops::{Deref, DerefMut};
use std::sync::LockResult;
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use shuttle::sync::{self as model};
use shuttle::thread::yield_now;
pub(crate) use shuttle::thread_local;

/// A wait whose time may be over ends at a look with this probability.
const OVER: f64 = 0.2;

/// A lock whose guard can be given up for a moment.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(model::Mutex<T>);

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    held: Option<model::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(model::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let held = Some(self.0.lock().expect("nothing panics while it is held"));
        Ok(MutexGuard { mutex: self, held })
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("it is held but within a wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("it is held but within a wait")
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(model::Condvar);

impl Condvar {
    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        timeout: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        while condition(&mut guard) {
            if timeout == Duration::MAX {
                let held = guard.held.take().expect("it is held but within a wait");
                guard.held = Some(self.0.wait(held).expect("nothing panics while it is held"));
            } else if timeout.is_zero() || thread_rng().gen_bool(OVER) {
                return Ok((guard, true));
            } else {
                drop(guard.held.take());
                yield_now();
                guard.held = Some(guard.mutex.0.lock().expect("nothing panics while it is held"));
            }
        }
        Ok((guard, false))
    }
}

/// A moment, since which any time may have passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instant;

impl Instant {
    pub(crate) fn now() -> Instant {
        Instant
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_micros(if thread_rng().gen_bool(0.5) { 1 } else { 10_000 })
    }
}
