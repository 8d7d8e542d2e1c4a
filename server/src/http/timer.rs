//! Timers of connections, of which many are set and few ever fire.
//!
//! async-io wakes its reactor for each timer that is set: a system call, and another thread that looks and sleeps again.
//! Here whoever sets one wakes nobody, unless it is the next to fire. One thread sleeps until that, and wakes who waits;
//! it begins with the first timer, or before, and lasts as long as the process.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::lock::unpoisoned;

/// The timers of this process.
static TIMERS: Timers = Timers {
    set: Mutex::new(Set { entries: BTreeMap::new(), count: 0, runs: false, sleeps_until: None }),
    earlier: Condvar::new(),
};

struct Timers {
    set: Mutex<Set>,
    /// Ends the sleep of the thread: something fires earlier than that.
    earlier: Condvar,
}

struct Set {
    entries: BTreeMap<Key, Arc<Alarm>>,
    /// How many there have been.
    count: u64,
    /// Whether the thread was started.
    runs: bool,
    /// Until when it sleeps; for ever, where there is nothing.
    sleeps_until: Option<Instant>,
}

/// Starts the thread of timers, where it has not begun: while threads can be had.
pub(crate) fn begin() {
    TIMERS.start(&mut TIMERS.set());
}

/// When a timer fires, and which of those that do so at once it is.
type Key = (Instant, u64);

/// Who waits for a timer, and whether it has fired: whoever is polled for another reason sees that, and needs no clock.
#[derive(Debug)]
struct Alarm {
    waker: Waker,
    fired: AtomicBool,
}

/// Becomes ready at a time, and is ready from then on.
#[derive(Debug)]
pub(crate) struct Timer {
    at: Instant,
    /// Its place among those that are set, once somebody waits for it.
    entry: Option<(Key, Arc<Alarm>)>,
}

impl Timer {
    /// One that fires at this time.
    pub(crate) fn at(at: Instant) -> Timer {
        Timer { at, entry: None }
    }

    /// One that fires after this time, from now on.
    pub(crate) fn after(time: Duration) -> Timer {
        Timer::at(Instant::now() + time)
    }

    fn forget(&mut self) {
        if let Some((key, _)) = self.entry.take() {
            // What is woken is dropped when the lock is free: it may be the last that holds a task with timers.
            let _alarm = TIMERS.set().entries.remove(&key);
        }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let is_over = match &self.entry {
            Some((_, alarm)) if !alarm.waker.will_wake(context.waker()) => Instant::now() >= self.at,
            Some((_, alarm)) if alarm.fired.load(Ordering::Acquire) => true,
            Some(_) => return Poll::Pending,
            None => Instant::now() >= self.at,
        };
        self.forget();
        if is_over {
            return Poll::Ready(());
        }
        let alarm = Arc::new(Alarm { waker: context.waker().clone(), fired: AtomicBool::new(false) });
        self.entry = Some((TIMERS.insert(self.at, Arc::clone(&alarm)), alarm));
        Poll::Pending
    }
}

impl Alarm {
    fn fire(&self) {
        self.fired.store(true, Ordering::Release);
        self.waker.wake_by_ref();
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Timers {
    /// Enters a timer. Who sets it has looked at the clock: it is not over yet, or fires at once.
    fn insert(&'static self, at: Instant, alarm: Arc<Alarm>) -> Key {
        let set = &mut *self.set();
        set.count += 1;
        let key = (at, set.count);
        set.entries.insert(key, alarm);
        self.start(set);
        if set.sleeps_until.is_none_or(|until| at < until) {
            self.earlier.notify_one();
        }
        key
    }

    fn start(&'static self, set: &mut Set) {
        if set.runs {
            return;
        }
        match thread::Builder::new().name("timers".to_owned()).spawn(|| self.run()) {
            Ok(_) => set.runs = true,
            Err(error) => log::error!("no thread for timers can be started: {error}; the next one tries again"),
        }
    }

    fn run(&self) {
        let mut set = self.set();
        loop {
            let later = set.entries.split_off(&(Instant::now(), u64::MAX));
            let due = std::mem::replace(&mut set.entries, later);
            if !due.is_empty() {
                drop(set);
                for alarm in due.into_values() {
                    alarm.fire();
                }
                set = self.set();
                continue;
            }
            set.sleeps_until = set.entries.first_key_value().map(|((at, _), _)| *at);
            set = match set.sleeps_until {
                None => unpoisoned(self.earlier.wait(set)),
                Some(at) => {
                    let time = at.saturating_duration_since(Instant::now());
                    unpoisoned(self.earlier.wait_timeout(set, time)).0
                }
            };
        }
    }

    fn set(&self) -> MutexGuard<'_, Set> {
        // Nothing panics while it is held.
        unpoisoned(self.set.lock())
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::FutureExt;
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn timers_fire_in_their_order_and_not_before_their_time() {
        let begun = Instant::now();
        let after = |ms| Timer::after(Duration::from_millis(ms));
        let order = block_on(async {
            let late = async {
                after(3_600_000).await;
                "late"
            };
            let second = async {
                after(40).await;
                "second"
            };
            let first = async {
                after(20).await;
                "first"
            };
            late.or(second).or(first).await
        });
        assert_eq!(order, "first");
        assert!(begun.elapsed() >= Duration::from_millis(20));
        block_on(after(10));
        assert!(begun.elapsed() >= Duration::from_millis(30));
    }

    #[test]
    fn a_timer_that_is_dropped_leaves_nothing() {
        let mut timer = Box::pin(Timer::after(Duration::from_secs(3600)));
        assert!(block_on(futures_lite::future::poll_once(&mut timer)).is_none());
        let (key, _) = timer.entry.clone().expect("an entry");
        assert!(TIMERS.set().entries.contains_key(&key));
        drop(timer);
        assert!(!TIMERS.set().entries.contains_key(&key));
    }

    #[test]
    fn one_that_is_set_while_the_thread_sleeps_longer_fires_in_its_time() {
        let mut long = Box::pin(Timer::after(Duration::from_secs(3600)));
        assert!(block_on(futures_lite::future::poll_once(&mut long)).is_none());
        // The thread may sleep by now, and may not; both must do.
        for _ in 0..20 {
            block_on(Timer::after(Duration::from_millis(1)));
        }
    }
}
