//! The least pace at which a client must send a body or take a response.
//!
//! A timeout that every byte begins anew is no bound: one byte within each holds a connection for ever. So waiting for a
//! client is paid from an allowance. It is the timeout at first, waiting uses it up, and bytes earn it back at
//! [`LEAST_BYTES_PER_SECOND`], up to the timeout again. The time in which nobody waits for the client costs it nothing.

use std::time::{Duration, Instant};

use super::deadline::Deadline;
use crate::http::limits::LEAST_BYTES_PER_SECOND;

/// How much longer a client may be waited for.
#[derive(Debug)]
pub(crate) struct Pace {
    timeout: Duration,
    left: Duration,
    waits_since: Option<Instant>,
}

impl Pace {
    /// The whole allowance, which is `timeout`.
    pub(crate) fn new(timeout: Duration) -> Pace {
        Pace { timeout, left: timeout, waits_since: None }
    }

    /// Begins a wait, or goes on with one: `deadline` passes when the allowance is used up.
    pub(crate) fn wait(&mut self, deadline: &mut Deadline) {
        if self.waits_since.is_none() {
            self.waits_since = Some(Instant::now());
            deadline.set(self.left);
        }
    }

    /// Ends a wait: so many bytes were received or taken.
    pub(crate) fn moved(&mut self, bytes: usize) {
        if let Some(since) = self.waits_since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        if self.left < self.timeout {
            let earned = Duration::from_micros(bytes as u64 * 1_000_000 / LEAST_BYTES_PER_SECOND);
            self.left = (self.left + earned).min(self.timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is left after waits of so many seconds, each ended by so many bytes.
    fn left_after(waits: &[(u64, usize)]) -> Duration {
        let mut pace = Pace::new(20 * SECOND);
        for (seconds, bytes) in waits {
            pace.waits_since = Instant::now().checked_sub(Duration::from_secs(*seconds));
            pace.moved(*bytes);
        }
        pace.left
    }

    #[test]
    fn single_bytes_do_not_prolong_a_wait() {
        assert!(left_after(&[(19, 1)]) <= SECOND + SECOND / 100);
        assert_eq!(left_after(&[(19, 0), (1, 0)]), Duration::ZERO);
    }

    #[test]
    fn bytes_at_the_least_pace_earn_what_their_wait_cost() {
        let rate = usize::try_from(LEAST_BYTES_PER_SECOND).expect("small");
        let left = left_after(&[(10, 10 * rate), (10, 10 * rate), (10, 10 * rate)]);
        assert!(left > 19 * SECOND, "{left:?}");
        assert_eq!(left_after(&[(5, usize::MAX >> 20)]), 20 * SECOND, "no more than the timeout is ever left");
    }

    #[test]
    fn a_wait_that_goes_on_does_not_begin_anew() {
        let mut deadline = Deadline::default();
        let mut pace = Pace::new(20 * SECOND);
        pace.waits_since = Instant::now().checked_sub(15 * SECOND);
        pace.wait(&mut deadline);
        pace.moved(0);
        assert!(pace.left <= 5 * SECOND);
    }
}
