//! The least pace at which a client must send a body or take a response.
//!
//! A timeout that every byte begins anew is no bound: one byte within each holds a connection for ever. So waiting for a
//! client is paid from an allowance. It is the timeout at first, waiting uses it up, and bytes earn it back at
//! [`LEAST_BYTES_PER_SECOND`], up to the timeout again. The time in which nobody waits for the client costs it nothing.
//!
//! A client that keeps that pace and no better one may stay for hours, but not while others wait for its place.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use event_listener::EventListener;

use super::capacity::Capacity;
use super::deadline::Deadline;
use super::limits::LEAST_BYTES_PER_SECOND;

/// A client below this pace makes room for others, once it has used up an allowance of so long in the same way.
const SLOW_BYTES_PER_SECOND: u64 = 4 * 1024;
const SLOW_AFTER: Duration = Duration::from_secs(5);

/// How much longer a client may be waited for.
#[derive(Debug)]
pub(crate) struct Pace {
    timeout: Duration,
    left: Duration,
    waits_since: Option<Instant>,
    /// How much longer until it is slow.
    quick: Duration,
    /// The call to make room, while it is slow.
    call: Option<EventListener>,
}

/// Why a client is waited for no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// The allowance is used up.
    Late,
    /// It is slow, and others wait for room.
    Crowded,
}

impl Pace {
    /// The whole allowance, which is `timeout`.
    pub(crate) fn new(timeout: Duration) -> Pace {
        Pace { timeout, left: timeout, waits_since: None, quick: SLOW_AFTER, call: None }
    }

    /// Begins a wait, or goes on with one, until the allowance is used up or a slow client has to make room.
    pub(crate) fn poll(&mut self, deadline: &mut Deadline, room: &Capacity, context: &mut Context<'_>) -> Poll<Over> {
        let since = *self.waits_since.get_or_insert_with(|| {
            deadline.set(if self.call.is_some() { self.left } else { self.left.min(self.quick) });
            Instant::now()
        });
        while deadline.poll(context).is_ready() {
            if self.call.is_some() || self.left <= self.quick {
                return Poll::Ready(Over::Late);
            }
            self.call = Some(room.call_slow());
            deadline.set(self.left.saturating_sub(since.elapsed()));
        }
        match &mut self.call {
            Some(call) => Pin::new(call).poll(context).map(|()| Over::Crowded),
            None => Poll::Pending,
        }
    }

    /// Ends a wait: so many bytes were received or taken.
    pub(crate) fn moved(&mut self, bytes: usize) {
        let waited = self.waits_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        let after = |left: Duration, most: Duration, rate: u64| {
            let left = left.saturating_sub(waited);
            if left == most { most } else { most.min(left + Duration::from_micros(bytes as u64 * 1_000_000 / rate)) }
        };
        self.left = after(self.left, self.timeout, LEAST_BYTES_PER_SECOND);
        self.quick = after(self.quick, SLOW_AFTER, SLOW_BYTES_PER_SECOND);
        // One that is hardly quick again keeps its place among the slow.
        if self.quick >= SLOW_AFTER / 2 {
            self.call = None;
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
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(pace.poll(&mut deadline, &Capacity::default(), &mut context).is_pending());
        pace.moved(0);
        assert!(pace.left <= 5 * SECOND);
    }

    /// What becomes of the next wait of a client that was waited for so long and gave so many bytes, where others wait.
    fn crowded(waited: Duration, bytes: usize) -> Poll<Over> {
        let (mut deadline, room) = (Deadline::default(), Capacity::default());
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut pace = Pace::new(20 * SECOND);
        pace.waits_since = Instant::now().checked_sub(waited);
        pace.moved(bytes);
        let first = pace.poll(&mut deadline, &room, &mut context);
        room.make_room(1);
        if first.is_pending() { pace.poll(&mut deadline, &room, &mut context) } else { first }
    }

    #[test]
    fn a_slow_client_makes_room_and_no_other() {
        let pace = usize::try_from(SLOW_BYTES_PER_SECOND).expect("small");
        assert_eq!(crowded(6 * SECOND, 0), Poll::Ready(Over::Crowded));
        assert_eq!(crowded(6 * SECOND, 2 * pace), Poll::Pending);
        assert_eq!(crowded(4 * SECOND, 0), Poll::Pending, "it may become faster");
    }

    #[test]
    fn what_the_kernel_takes_at_once_excuses_no_stall() {
        let mut pace = Pace::new(20 * SECOND);
        pace.moved(1 << 30);
        assert_eq!((pace.left, pace.quick), (20 * SECOND, SLOW_AFTER));
    }

    #[test]
    fn a_client_at_the_least_pace_is_slow_however_long_it_stays() {
        let mut pace = Pace::new(20 * SECOND);
        for _ in 0..100 {
            pace.waits_since = Instant::now().checked_sub(SECOND);
            pace.moved(usize::try_from(LEAST_BYTES_PER_SECOND).expect("small"));
        }
        assert!(pace.left > 19 * SECOND && pace.quick < SECOND / 2, "{pace:?}");
    }
}
