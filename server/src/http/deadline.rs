//! A deadline that is moved often and passes seldom.
//!
//! Arming a timer takes a lock that all share, and a connection moves its deadline with every request. So the timer stays
//! armed for the earliest deadline that it was set for, and only when it fires is it looked at whether the deadline has
//! moved on meanwhile. A connection in steady use arms a timer once per timeout, not once per request.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::timer::Timer;

/// A deadline over whatever is polled beside it.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    at: Option<Instant>,
    armed: Option<(Instant, Timer)>,
}

impl Deadline {
    /// Moves the deadline to `after` from now.
    pub(crate) fn set(&mut self, after: Duration) {
        self.set_from(Instant::now(), after);
    }

    /// The same, by whoever has looked at the clock.
    pub(crate) fn set_from(&mut self, now: Instant, after: Duration) {
        self.at = now.checked_add(after);
    }

    /// Whether the deadline has passed; if not, the task is woken when it does. (It may be woken earlier, too.)
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        loop {
            let (armed_for, timer) = match &mut self.armed {
                Some((armed_for, timer)) if *armed_for <= at => (armed_for, timer),
                other => {
                    let (armed_for, timer) = other.insert((at, Timer::at(at)));
                    (armed_for, timer)
                }
            };
            match Pin::new(timer).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if *armed_for == at => {
                    (self.at, self.armed) = (None, None);
                    return Poll::Ready(());
                }
                Poll::Ready(()) => self.armed = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_lite::future::block_on;

    use super::*;

    fn wait(deadline: &mut Deadline) {
        block_on(poll_fn(|context| deadline.poll(context)));
    }

    #[test]
    fn a_deadline_passes_once_and_not_early_however_it_was_moved() {
        let started = Instant::now();
        let mut deadline = Deadline::default();
        deadline.set(Duration::from_secs(3600));
        let pending = block_on(poll_fn(|context| Poll::Ready(deadline.poll(context).is_pending())));
        assert!(pending);
        deadline.set(Duration::from_millis(10));
        wait(&mut deadline);
        assert!(started.elapsed() >= Duration::from_millis(10), "moved forward");
        deadline.set(Duration::from_millis(5));
        let _ = block_on(poll_fn(|context| Poll::Ready(deadline.poll(context))));
        let moved = Instant::now();
        deadline.set(Duration::from_millis(50));
        wait(&mut deadline);
        assert!(moved.elapsed() >= Duration::from_millis(50), "moved backward while armed");
        let pending = block_on(poll_fn(|context| Poll::Ready(deadline.poll(context).is_pending())));
        assert!(pending, "a deadline that has passed is over");
    }
}
