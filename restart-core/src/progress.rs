//! How far this process has come as a generation, for its application to wait for.
//!
//! The driver notes it; the handles of the application look. It decides nothing: what the facts mean is the lifecycle's
//! matter.

use std::sync::atomic::{AtomicU8, Ordering};

use event_listener::Event;

/// The driver is polled.
pub(crate) const DRIVEN: u8 = 1;
/// The application's word that it is ready has been taken.
pub(crate) const READY: u8 = 1 << 1;
/// This is the main process.
pub(crate) const MAIN: u8 = 1 << 2;
/// The driver has ended, or was dropped.
pub(crate) const ENDED: u8 = 1 << 3;

/// Facts, each of them one bit.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    facts: AtomicU8,
    changed: Event,
}

impl Progress {
    /// Notes that some facts hold from now on, or do not any more, and wakes those who wait.
    pub(crate) fn note(&self, facts: u8, hold: bool) {
        let before = if hold {
            self.facts.fetch_or(facts, Ordering::AcqRel)
        } else {
            self.facts.fetch_and(!facts, Ordering::AcqRel)
        };
        let after = self.facts.load(Ordering::Acquire);
        if before != after {
            self.changed.notify(usize::MAX);
        }
    }

    /// Whether any of these facts holds.
    pub(crate) fn is(&self, facts: u8) -> bool {
        self.facts.load(Ordering::Acquire) & facts != 0
    }

    /// Waits until any of these facts holds.
    pub(crate) async fn until(&self, facts: u8) {
        loop {
            let listener = self.changed.listen();
            if self.is(facts) {
                return;
            }
            listener.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn who_waits_for_a_fact_learns_of_it_once_it_holds_and_others_go_on_waiting() {
        let progress = Progress::default();
        let mut main = Box::pin(progress.until(MAIN | ENDED));
        assert!(block_on(poll_once(&mut main)).is_none());
        progress.note(DRIVEN | READY, true);
        assert!(block_on(poll_once(&mut main)).is_none());
        progress.note(MAIN, true);
        block_on(main);
        progress.note(MAIN, false);
        assert!(!progress.is(MAIN) && progress.is(DRIVEN) && progress.is(READY));
        assert!(block_on(poll_once(Box::pin(progress.until(MAIN)))).is_none());
    }
}
