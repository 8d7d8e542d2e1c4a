//! When what would be cut at a drain's deadline ends by itself: at a time of its own within the last part of the drain,
//! or after a stop, since clients that were all told at once would all come back at once.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_io::Timer;

use crate::drain::{Drain, Phase};

/// Streams end within so long after a stop.
const ENDS_WITHIN: Duration = Duration::from_secs(3);

/// How far into the time in which endings are spread this one comes, from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share(f64);

impl Share {
    /// The keys of the standard library's hash tables are random, which is random enough.
    pub(super) fn random() -> Share {
        let [high, low, ..] = RandomState::new().hash_one(()).to_le_bytes();
        Share(f64::from(u16::from_le_bytes([high, low])) / f64::from(u16::MAX))
    }

    /// When it is this one's turn in the present drain, if there is one and its deadline is known.
    pub(super) fn due(self, drain: &Drain) -> Option<Instant> {
        let turns = drain.ending().filter(|_| drain.phase() == Phase::Draining)?;
        Some(turns.start + turns.end.saturating_duration_since(turns.start).mul_f64(self.0))
    }

    /// When it is to end after a stop that has begun now.
    pub(super) fn due_in_stop(self, drain: &Drain) -> Instant {
        let now = Instant::now();
        let left = drain.ending().map(|turns| turns.end.saturating_duration_since(now));
        now + left.unwrap_or(ENDS_WITHIN).min(ENDS_WITHIN).mul_f64(self.0)
    }
}

/// The end of one stream that would go on for ever.
#[derive(Debug)]
pub(super) struct Ending {
    /// Chosen when it is first wanted: most never end like this.
    share: Option<Share>,
    /// When its turn comes in the stop that has begun.
    stops_at: Option<Instant>,
    timer: Option<(Instant, Timer)>,
}

impl Ending {
    pub(super) fn new() -> Ending {
        Ending { share: None, stops_at: None, timer: None }
    }

    /// Whether the stream is to end now; if not, the task is woken when it is. The task has to look again whenever the
    /// phase has been set.
    pub(super) fn poll(&mut self, drain: &Drain, context: &mut Context<'_>) -> Poll<()> {
        let phase = drain.phase();
        if phase == Phase::Serving {
            return Poll::Pending;
        }
        let share = *self.share.get_or_insert_with(Share::random);
        let due = match phase {
            Phase::Draining => share.due(drain),
            _ => Some(*self.stops_at.get_or_insert_with(|| share.due_in_stop(drain))),
        };
        let Some(due) = due else { return Poll::Pending };
        let (_, timer) = match self.timer.take() {
            Some((at, timer)) if at == due => self.timer.insert((at, timer)),
            _ => self.timer.insert((due, Timer::at(due))),
        };
        Pin::new(timer).poll(context).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_within_the_last_part_of_the_drain_and_not_all_the_same() {
        let drain = Drain::new();
        assert_eq!(Share(0.5).due(&drain), None);
        let begun = Instant::now();
        drain.set_deadline(Duration::from_secs(60));
        assert_eq!(Share(0.5).due(&drain), None, "it serves still");
        drain.set_phase(Phase::Draining);
        let due = |share| Share(share).due(&drain).unwrap().duration_since(begun);
        assert!(due(0.0) >= Duration::from_secs(57) && due(0.0) < due(0.5) && due(0.5) < due(1.0));
        assert!(due(1.0) < Duration::from_secs(60), "there is time to say goodbye");
        assert!((0..100).map(|_| Share::random().0).any(|share| (0.0..=1.0).contains(&share) && share > 0.5));
    }
}
