//! How a connection's task learns of changes of phase, and gives way to others.
//!
//! Whatever the connection does is done under a [`Watch`], so that no step of it has to listen for the drain's deadline
//! itself, and each looks again whenever the phase has been set.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::future::yield_now;
use restart_core::{Drain, Phase};

/// After so long without a wait others get their turn, before the next request. A turn costs a microsecond or two.
pub(super) const TURN: Duration = Duration::from_micros(100);

/// Learns of changes of phase, at no cost per request: the listener stays registered from one wait to the next. It sees
/// each wait, and so knows for how long there was none.
pub(super) struct Watch {
    /// Since when the task goes on without a wait, if somebody has asked.
    turn: Option<Instant>,
    /// How often the phase had been set at the last look.
    seen: usize,
    changed: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    waker: Option<Waker>,
}

impl Watch {
    pub(super) fn new(drain: &Drain) -> Watch {
        Watch { turn: None, seen: drain.changes(), changed: None, waker: None }
    }

    /// Gives way to others if the task has gone on for long without a wait: a client that sends faster than it is
    /// answered must not keep them all waiting. Returns the time at which it goes on.
    pub(super) async fn take_turns(&mut self) -> Instant {
        let now = Instant::now();
        if now.duration_since(*self.turn.get_or_insert(now)) < TURN {
            return now;
        }
        yield_now().await;
        *self.turn.insert(Instant::now())
    }

    /// Does `step`, unless the drain's deadline passes first, and has it look again whenever the phase has been set.
    pub(super) async fn until_over<T>(
        &mut self,
        drain: &Drain,
        mut step: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        poll_fn(|task| {
            loop {
                if drain.phase() == Phase::Over {
                    return Poll::Ready(None);
                }
                if let Poll::Ready(done) = step.as_mut().poll(task) {
                    return Poll::Ready(Some(done));
                }
                if self.poll(task, drain).is_pending() {
                    self.turn = None;
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Ready when the phase has been set since the last look.
    fn poll(&mut self, task: &mut std::task::Context<'_>, drain: &Drain) -> Poll<()> {
        if self.seen != drain.changes() {
            *self = Watch::new(drain);
            return Poll::Ready(());
        }
        if self.waker.as_ref().is_some_and(|waker| waker.will_wake(task.waker())) {
            return Poll::Pending;
        }
        let changed = self.changed.get_or_insert_with(|| Box::pin(drain.next_change(self.seen)));
        match changed.as_mut().poll(task) {
            Poll::Pending => {
                self.waker = Some(task.waker().clone());
                Poll::Pending
            }
            Poll::Ready(()) => {
                *self = Watch::new(drain);
                Poll::Ready(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_phase_that_came_and_went_unseen_hides_no_later_one() {
        let drain = Drain::manual();
        let mut watch = Watch::new(&drain);
        let woken = Arc::new(AtomicUsize::new(0));
        let waker = {
            struct Count(Arc<AtomicUsize>);
            impl std::task::Wake for Count {
                fn wake(self: Arc<Self>) {
                    self.0.fetch_add(1, Ordering::Relaxed);
                }
            }
            Waker::from(Arc::new(Count(Arc::clone(&woken))))
        };
        let mut task = std::task::Context::from_waker(&waker);
        assert!(watch.poll(&mut task, &drain).is_pending());
        drain.set_phase(Phase::Draining);
        drain.set_phase(Phase::Serving);
        assert!(watch.poll(&mut task, &drain).is_ready(), "somebody may have been declined in between");
        assert!(watch.poll(&mut task, &drain).is_pending());
        let before = woken.load(Ordering::Relaxed);
        drain.set_phase(Phase::Draining);
        assert!(woken.load(Ordering::Relaxed) > before);
        assert!(watch.poll(&mut task, &drain).is_ready());
    }
}
