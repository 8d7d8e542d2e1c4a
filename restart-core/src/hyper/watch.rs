//! The phases as one connection sees them, for what is polled: when it is to leave, to close after the request in flight,
//! or to end at once.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::drain::{Drain, Phase};

/// What a connection has to do, by the phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Serve as ever.
    Serve,
    /// Leave for the newest process as soon as it can.
    Leave,
    /// End after the request in flight: the service stops, or nobody has taken it in this drain.
    Finish,
    /// End now.
    End,
}

/// See the module. One that was made in a drain begins with that drain's order.
pub(super) struct Watch {
    drain: Drain,
    /// The drain in which nobody took the connection.
    declined: Option<usize>,
    changed: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// The phase that it has been told, and how often it had been set then: connections learn of a drain in turn.
    phase: Phase,
    told: usize,
}

impl Watch {
    pub(super) fn new(drain: &Drain) -> Watch {
        let told = drain.changes();
        Watch { drain: drain.clone(), declined: None, changed: None, told, phase: drain.phase() }
    }

    pub(super) fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Nobody has taken the connection: in this drain it is not offered again.
    pub(super) fn decline(&mut self) {
        self.look();
        self.declined = Some(self.told);
    }

    /// What the connection has to do now; wakes the task when that may be something else.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Order {
        loop {
            let (drain, told) = (&self.drain, self.told);
            let changed = self.changed.get_or_insert_with(|| Box::pin(drain.next_change(told)));
            if changed.as_mut().poll(context).is_pending() {
                return self.order();
            }
            self.look();
        }
    }

    /// The drain in which nobody took the connection, as [`Drain::changes`] counts them.
    pub(super) fn declined(&self) -> Option<usize> {
        self.declined
    }

    /// Waits until the connection has to end now.
    pub(super) async fn ends(&mut self) {
        poll_fn(|context| match self.poll(context) {
            Order::End => Poll::Ready(()),
            _ => Poll::Pending,
        })
        .await;
    }

    fn look(&mut self) {
        // The count first: a phase that is set between the two is told once more, and never missed.
        self.told = self.drain.changes();
        self.phase = self.drain.phase();
        self.changed = None;
    }

    fn order(&self) -> Order {
        match self.phase {
            Phase::Serving => Order::Serve,
            Phase::Draining if self.declined == Some(self.told) => Order::Finish,
            Phase::Draining => Order::Leave,
            Phase::Stopping => Order::Finish,
            Phase::Over => Order::End,
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Watch").field("order", &self.order()).finish_non_exhaustive()
    }
}
