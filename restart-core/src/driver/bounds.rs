//! How long a drain lasts: a reload's up to its own deadline, a stop's up to the stop's, and a drain that a stop
//! overtakes up to whichever comes first.
//!
//! It starts no drain and ends none; it says until when one is watched, by `watching`.

use std::time::{Duration, Instant};

use crate::listeners::Listener;

/// Older generations began to drain before the service was stopped, so they end a little before this one has to.
pub(super) const STOP_GRACE: Duration = Duration::from_millis(500);

/// Until when this generation may finish what it has.
#[derive(Default)]
pub(super) struct Bounds {
    /// The end of the drain that is under way.
    pub(super) drain: Option<Instant>,
    /// Listeners whose queues that drain empties first.
    pub(super) last_call: Vec<Listener>,
    /// The end of the stop that this generation carries out as the main process.
    pub(super) stop: Option<Instant>,
    /// How long the newest generation, or the predecessor, gives this one as it stops, where it says so.
    pub(super) told: Option<Duration>,
}

impl Bounds {
    /// Keeps what another process says of the time that is left; it may say anything.
    pub(super) fn tell(&mut self, within_ms: Option<u64>) {
        self.told = within_ms.map(Duration::from_millis);
    }

    /// How many milliseconds the drain that is under way may still last.
    pub(super) fn left_ms(&self) -> Option<u64> {
        let left = self.drain?.saturating_duration_since(Instant::now());
        u64::try_from(left.as_millis()).ok()
    }

    /// The drain is off.
    pub(super) fn forget(&mut self) {
        *self = Bounds::default();
    }
}
