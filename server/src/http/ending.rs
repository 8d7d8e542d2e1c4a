//! When what would be cut at a drain's deadline ends by itself: at a time of its own within the last part of the drain,
//! or after a stop, since clients that were all told at once would all come back at once.
//!
//! It owns the choice of that time. Whether something can end in order, and how, is for those to say who send it.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use restart_core::{Drain, Phase};

use super::deadline::Deadline;

/// Streams end within so long after a stop.
const ENDS_WITHIN: Duration = Duration::from_secs(3);

/// How far into the time in which endings are spread this one comes, from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share(f64);

impl Share {
    pub(super) fn random() -> Share {
        Share(fastrand::f64())
    }

    /// When it is this one's turn in the present drain, if there is one and its deadline is known.
    pub(super) fn due(self, drain: &Drain) -> Option<Instant> {
        let turns = drain.ending().filter(|_| drain.phase() == Phase::Draining)?;
        Some(turns.start + turns.end.saturating_duration_since(turns.start).mul_f64(self.0))
    }
}

/// The end of one stream that would go on for ever.
#[derive(Debug)]
pub(crate) struct Ending<'a> {
    drain: &'a Drain,
    /// Chosen when it is first wanted: most responses never do.
    share: Option<Share>,
    /// When its turn comes in the stop that has begun.
    stops_at: Option<Instant>,
    timer: Deadline,
}

impl<'a> Ending<'a> {
    pub(super) fn new(drain: &'a Drain) -> Ending<'a> {
        Ending { drain, share: None, stops_at: None, timer: Deadline::default() }
    }

    /// Whether the stream is to end now; if not, the task is woken when it is. The task has to look again whenever the
    /// phase has been set.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let due = match self.drain.phase() {
            Phase::Serving => None,
            Phase::Draining => self.share().due(self.drain),
            Phase::Stopping | Phase::Over => Some(self.due_in_stop()),
        };
        let Some(due) = due else { return Poll::Pending };
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Poll::Ready(());
        }
        self.timer.set(left);
        self.timer.poll(context)
    }

    fn share(&mut self) -> Share {
        *self.share.get_or_insert_with(Share::random)
    }

    /// A stop tells all at once, and gives each so long.
    fn due_in_stop(&mut self) -> Instant {
        let (drain, Share(share)) = (self.drain, self.share());
        *self.stops_at.get_or_insert_with(|| {
            let now = Instant::now();
            let left = drain.ending().map(|turns| turns.end.saturating_duration_since(now));
            now + left.unwrap_or(ENDS_WITHIN).min(ENDS_WITHIN).mul_f64(share)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_within_the_last_part_of_the_drain_and_not_all_the_same() {
        let drain = Drain::manual();
        assert_eq!(Share(0.5).due(&drain), None);
        let begun = Instant::now();
        drain.set_deadline(Duration::from_secs(60));
        assert_eq!(Share(0.5).due(&drain), None, "it serves still");
        drain.set_phase(Phase::Draining);
        let due = |share| Share(share).due(&drain).expect("it drains").duration_since(begun);
        assert!(due(0.0) >= Duration::from_secs(57) && due(0.0) < due(0.5) && due(0.5) < due(1.0));
        assert!(due(1.0) < Duration::from_secs(60), "there is time to say goodbye");
        drain.set_phase(Phase::Serving);
        drain.set_phase(Phase::Draining);
        assert_eq!(Share(0.5).due(&drain), None, "nobody has said when this one ends");
    }

    #[test]
    fn a_stop_of_less_time_spreads_endings_over_less() {
        let drain = Drain::manual();
        drain.set_deadline(Duration::from_millis(900));
        drain.set_phase(Phase::Stopping);
        let mut ending = Ending { share: Some(Share(1.0)), ..Ending::new(&drain) };
        let within = ending.due_in_stop().saturating_duration_since(Instant::now());
        assert!(within < Duration::from_millis(900), "{within:?}");
    }
}
