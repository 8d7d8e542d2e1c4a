//! What those who take long can learn of the end of their process, and when what would be cut at a deadline ends by itself:
//! each at a time of its own within the last part of a drain, or after a stop, since clients that were all told at once
//! would all come back at once.
//!
//! It owns the choice of that time. Whether something can end in order, and how, is for those to say who serve it.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::Timer;
use futures_lite::future;

use crate::drain::{Drain, Phase};

/// What goes on for ever ends within so long after a stop.
const ENDS_WITHIN: Duration = Duration::from_secs(3);

/// Whose turn it is when, among all those that are to end by themselves shortly before they would be cut.
#[derive(Clone, Copy, Debug)]
pub struct Turn(f64);

impl Turn {
    /// One that is drawn: as likely at the begin of the time as at its end.
    pub fn random() -> Turn {
        Turn(fastrand::f64())
    }

    /// When it comes in the present drain ([`Drain::ending`]); nothing where there is none, or its deadline is not known.
    pub fn in_drain(self, drain: &Drain) -> Option<Instant> {
        let turns = drain.ending().filter(|_| drain.phase() == Phase::Draining)?;
        Some(turns.start + turns.end.saturating_duration_since(turns.start).mul_f64(self.0))
    }

    /// When it comes in a stop, of which everybody learns now: within 3 s, or within what is left where that is less.
    pub fn in_stop(self, drain: &Drain) -> Instant {
        let now = Instant::now();
        let left = drain.ending().map(|turns| turns.end.saturating_duration_since(now));
        now + left.unwrap_or(ENDS_WITHIN).min(ENDS_WITHIN).mul_f64(self.0)
    }
}

/// Whether this process is to end, for handlers, bodies and connections that take long; clones are the same. Whoever serves
/// HTTP gives each request one.
///
/// A process drains when a newer one has taken over: what is under way may be finished, within the drain timeout. It stops
/// when the service stops: what is under way should be brought to an end, within the stop timeout. So it should shortly
/// before the drain's deadline, where the rest is cut; each is told of that at a time of its own in the last third of the
/// drain, 3 s at the most, so that not all clients come back at once.
#[derive(Clone, Debug)]
pub struct Shutdown {
    drain: Arc<Drain>,
    turn: Turn,
}

impl Shutdown {
    /// One of these, with a turn of its own. Cloning the `Arc` is all that it does with the drain.
    pub fn new(drain: &Arc<Drain>) -> Shutdown {
        Shutdown { drain: Arc::clone(drain), turn: Turn::random() }
    }

    /// Whether a newer process has taken over. It may die: then this one serves again.
    pub fn is_draining(&self) -> bool {
        self.drain.phase() == Phase::Draining
    }

    /// Whether the service stops, or the drain's deadline is near or has passed.
    pub fn is_stopping(&self) -> bool {
        self.drain.phase() > Phase::Draining || self.turn.in_drain(&self.drain).is_some_and(|due| due <= Instant::now())
    }

    /// Waits until the process drains or stops. Returns at once where it does.
    pub async fn draining(&self) {
        let mut phase = self.drain.phase();
        while phase < Phase::Draining {
            phase = self.drain.changed(phase).await;
        }
    }

    /// Waits until the service stops, or the drain's deadline is near. Returns at once where it does, or is.
    pub async fn stopping(&self) {
        loop {
            let changes = self.drain.changes();
            if self.is_stopping() {
                return;
            }
            let due = async {
                match self.turn.in_drain(&self.drain) {
                    Some(due) => drop(Timer::at(due).await),
                    None => pending().await,
                }
            };
            future::or(self.drain.next_change(changes), due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_within_the_last_part_of_the_drain_and_not_all_the_same() {
        let drain = Drain::manual();
        assert_eq!(Turn(0.5).in_drain(&drain), None);
        let begun = Instant::now();
        drain.set_deadline(Duration::from_secs(60));
        assert_eq!(Turn(0.5).in_drain(&drain), None, "it serves still");
        drain.set_phase(Phase::Draining);
        let due = |turn| Turn(turn).in_drain(&drain).expect("it drains").duration_since(begun);
        assert!(due(0.0) >= Duration::from_secs(57) && due(0.0) < due(0.5) && due(0.5) < due(1.0));
        assert!(due(1.0) < Duration::from_secs(60), "there is time to say goodbye");
        assert!((0..100).map(|_| Turn::random().0).any(|turn| (0.0..=1.0).contains(&turn) && turn > 0.5));
        drain.set_phase(Phase::Serving);
        drain.set_phase(Phase::Draining);
        assert_eq!(Turn(0.5).in_drain(&drain), None, "nobody has said when this one ends");
    }

    #[test]
    fn a_stop_of_less_time_spreads_endings_over_less() {
        let drain = Drain::manual();
        drain.set_deadline(Duration::from_millis(900));
        drain.set_phase(Phase::Stopping);
        let within = Turn(1.0).in_stop(&drain).saturating_duration_since(Instant::now());
        assert!(within < Duration::from_millis(900), "{within:?}");
    }
}
