//! Watches the drain that is under way, up to its bound, and shortens that as the service stops.

use std::time::Instant;

use super::bounds::STOP_GRACE;
use super::{Driver, sources};
use crate::drain::Phase;
use crate::lifecycle::State;
use crate::listeners::Listener;

impl Driver {
    /// When the service that stops has to have finished: its time begins when this is first asked for.
    fn stop_deadline(&mut self) -> Instant {
        let settings = &self.parts.settings;
        let whole = settings.stop_delay + settings.stop_timeout;
        *self.bounds.stop.get_or_insert_with(|| Instant::now() + whole)
    }

    /// How long all other generations may still take, as this one stops.
    pub(super) fn left_to_stop(&mut self) -> u64 {
        let left = self.stop_deadline().saturating_duration_since(Instant::now());
        u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
    }

    /// Watches the drain of a generation that was replaced, or is given up.
    pub(super) fn watch_drain(&mut self, last_call: Vec<Listener>) {
        self.watch_until(Instant::now() + self.parts.settings.drain_timeout, last_call);
    }

    /// Watches the drain that ends the service.
    pub(super) fn watch_stop(&mut self, last_call: Vec<Listener>) {
        let deadline = self.stop_deadline() + STOP_GRACE;
        self.watch_until(deadline, last_call);
    }

    /// The service stops: the drain of a generation that was replaced before, or is given up, is over by then.
    pub(super) fn bound_drain(&mut self) {
        let within = self.bounds.told.unwrap_or(self.parts.settings.stop_timeout);
        let Some(deadline) = self.bounds.drain.filter(|_| self.drain_watch.is_some()) else { return };
        // What no clock can hold bounds nothing.
        let bound = Instant::now().checked_add(within).unwrap_or(deadline);
        if !self.parts.drain.stop_announced() {
            self.parts.drain.announce_stop();
            log::info!("the service stops: generation {} has {within:?} left for what it has", self.parts.number);
            // Nothing waits for its way to the newest any more, which ends as well. What withdraws still moves back.
            self.parts.drain.set_deadline(bound.min(deadline).saturating_duration_since(Instant::now()));
            if matches!(self.lifecycle.state(), State::Draining { .. }) {
                self.parts.drain.set_phase(Phase::Stopping);
            }
        }
        if bound < deadline {
            let last_call = std::mem::take(&mut self.bounds.last_call);
            self.watch_until(bound, last_call);
        }
    }

    fn watch_until(&mut self, deadline: Instant, last_call: Vec<Listener>) {
        self.bounds.last_call.clone_from(&last_call);
        self.bounds.drain = Some(deadline);
        let (number, drain) = (self.tasks.next_number(), self.parts.drain.clone());
        let timeout = deadline.saturating_duration_since(Instant::now());
        let watch = sources::drain(number, drain, last_call, timeout, self.tasks.inputs());
        self.drain_watch = Some((number, self.tasks.spawn(watch)));
    }
}
