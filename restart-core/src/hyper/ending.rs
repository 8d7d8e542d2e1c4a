//! The end of one stream that would go on for ever, at its turn.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use ::tokio::time::{Sleep, sleep_until};

use crate::drain::{Drain, Phase};
use crate::shutdown::Turn;

/// The end of one stream that would go on for ever.
#[derive(Debug)]
pub(super) struct Ending {
    /// Chosen when it is first wanted: most never end like this.
    turn: Option<Turn>,
    /// When it comes in the stop that has begun.
    stops_at: Option<Instant>,
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Ending {
    pub(super) fn new() -> Ending {
        Ending { turn: None, stops_at: None, timer: None }
    }

    /// Whether the stream is to end now; if not, the task is woken when it is. The task has to look again whenever the
    /// phase has been set.
    pub(super) fn poll(&mut self, drain: &Drain, context: &mut Context<'_>) -> Poll<()> {
        let phase = drain.phase();
        if phase == Phase::Serving {
            return Poll::Pending;
        }
        let turn = *self.turn.get_or_insert_with(Turn::random);
        let due = match phase {
            Phase::Draining => turn.in_drain(drain),
            _ => Some(*self.stops_at.get_or_insert_with(|| turn.in_stop(drain))),
        };
        let Some(due) = due else { return Poll::Pending };
        let (_, timer) = match self.timer.take() {
            Some((at, timer)) if at == due => self.timer.insert((at, timer)),
            _ => self.timer.insert((due, Box::pin(sleep_until(due.into())))),
        };
        timer.as_mut().poll(context)
    }
}
