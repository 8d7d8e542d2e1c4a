//! A listener's gate: whether this generation accepts on it, and whether anybody waits there.
//!
//! The driver sets it, accept loops wait at it. It knows neither sockets nor event loops.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use event_listener::Event;

/// Whether this generation accepts on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GateState {
    Closed,
    Open,
    /// The service stops: what waits is accepted, then nothing any more.
    LastCall,
    /// No later generation wants the listener: what waits is accepted, then the address is free.
    Released,
}

impl GateState {
    const ALL: [GateState; 4] = [GateState::Closed, GateState::Open, GateState::LastCall, GateState::Released];

    /// Whether nothing is accepted any more once the queue is empty.
    pub(super) fn ends(self) -> bool {
        matches!(self, GateState::LastCall | GateState::Released)
    }
}

/// A gate's state, and what wakes those that wait for another one; set by the driver.
#[derive(Debug)]
pub(super) struct Gate {
    /// The place of the state in `GateState::ALL`: each accept reads it, and must not take a lock for that.
    state: AtomicU8,
    changed: Event,
    /// Somebody has waited at it, or never will.
    served: AtomicBool,
    is_served: Event,
}

impl Gate {
    pub(super) fn new() -> Gate {
        Gate {
            state: AtomicU8::new(GateState::Closed as u8),
            changed: Event::new(),
            served: AtomicBool::new(false),
            is_served: Event::new(),
        }
    }

    /// Notes that somebody waits here. A swap at each accept would cost more than a look.
    pub(super) fn note_served(&self) {
        if !self.served.load(Ordering::Relaxed) {
            self.served.store(true, Ordering::Release);
            self.is_served.notify(usize::MAX);
        }
    }

    pub(super) fn set(&self, state: GateState) {
        self.state.store(state as u8, Ordering::Release);
        self.changed.notify(usize::MAX);
    }

    pub(super) fn get(&self) -> GateState {
        GateState::ALL[usize::from(self.state.load(Ordering::Acquire))]
    }

    /// Whether somebody has waited here.
    pub(super) fn is_served(&self) -> bool {
        self.served.load(Ordering::Acquire)
    }

    /// Waits until somebody waits here.
    pub(super) async fn served(&self) {
        loop {
            let listener = self.is_served.listen();
            if self.is_served() {
                return;
            }
            listener.await;
        }
    }

    /// Waits until the state is another one than `seen`.
    pub(super) async fn changed(&self, seen: GateState) {
        loop {
            let listener = self.changed.listen();
            if self.get() != seen {
                return;
            }
            listener.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_in_the_state_that_it_was_set_to() {
        let gate = Gate::new();
        assert_eq!(gate.get(), GateState::Closed);
        for state in GateState::ALL {
            gate.set(state);
            assert_eq!(gate.get(), state);
        }
    }
}
