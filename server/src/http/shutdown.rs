//! What a handler can learn of the end of its process.

use restart_core::{Drain, Phase};

/// Whether this process is to end, for handlers and bodies that take long. Each request has one in its `ext`
/// (`request.ext().get::<Shutdown>()`); clones are the same.
///
/// A process drains when a newer one has taken over: what is under way may be finished, within the drain timeout. It stops
/// when the service stops: what is under way should be brought to an end, within the stop timeout.
#[derive(Clone, Debug)]
pub struct Shutdown(Drain);

impl Shutdown {
    pub(super) fn new(drain: &Drain) -> Shutdown {
        Shutdown(drain.clone())
    }

    /// Whether a newer process has taken over. It may die: then this one serves again.
    pub fn is_draining(&self) -> bool {
        self.0.phase() == Phase::Draining
    }

    /// Whether the service stops.
    pub fn is_stopping(&self) -> bool {
        self.0.phase() > Phase::Draining
    }

    /// Waits until the process drains or stops. Returns at once where it does.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Waits until the service stops, or the drain's deadline has passed. Returns at once where it does, or has.
    pub async fn stopping(&self) {
        self.reached(Phase::Stopping).await;
    }

    async fn reached(&self, least: Phase) {
        let mut phase = self.0.phase();
        while phase < least {
            phase = self.0.changed(phase).await;
        }
    }
}
