//! The end of one stream that would go on for ever, at its turn.

use std::task::{Context, Poll};
use std::time::Instant;

use restart_core::{Drain, Phase, Turn};

use super::deadline::Deadline;

/// The end of one stream that would go on for ever.
#[derive(Debug)]
pub(crate) struct Ending<'a> {
    drain: &'a Drain,
    /// Chosen when it is first wanted: most responses never do.
    turn: Option<Turn>,
    /// When it comes in the stop that has begun.
    stops_at: Option<Instant>,
    timer: Deadline,
}

impl<'a> Ending<'a> {
    pub(super) fn new(drain: &'a Drain) -> Ending<'a> {
        Ending { drain, turn: None, stops_at: None, timer: Deadline::default() }
    }

    /// Whether the stream is to end now; if not, the task is woken when it is. The task has to look again whenever the
    /// phase has been set.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let phase = self.drain.phase();
        if phase == Phase::Serving {
            return Poll::Pending;
        }
        let turn = *self.turn.get_or_insert_with(Turn::random);
        let due = match phase {
            Phase::Draining => turn.in_drain(self.drain),
            _ => Some(*self.stops_at.get_or_insert_with(|| turn.in_stop(self.drain))),
        };
        let Some(due) = due else { return Poll::Pending };
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Poll::Ready(());
        }
        self.timer.set(left);
        self.timer.poll(context)
    }
}
