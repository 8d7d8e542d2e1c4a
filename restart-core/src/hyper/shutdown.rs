//! What a handler can learn of the end of its process.

use std::future::pending;
use std::time::Instant;

use async_io::Timer;
use futures_lite::future;

use super::ending::Share;
use crate::drain::{Drain, Phase};

/// Whether this process is to end, for handlers and bodies that take long, and for upgraded connections. Each request has
/// one in its extensions (`request.extensions().get::<Shutdown>()`, or axum's `Extension<Shutdown>`); clones are the same.
///
/// A process drains when a newer one has taken over: what is under way may be finished, within the drain timeout. It stops
/// when the service stops: what is under way should be brought to an end, within the stop timeout. So it should shortly
/// before the drain's deadline, where the rest is cut; each is told of that at a time of its own in the last third of the
/// drain, 3 s at the most, so that not all clients come back at once.
#[derive(Clone, Debug)]
pub struct Shutdown {
    drain: Drain,
    share: Share,
}

impl Shutdown {
    pub(super) fn new(drain: &Drain) -> Shutdown {
        Shutdown { drain: drain.clone(), share: Share::random() }
    }

    /// Whether a newer process has taken over. It may die: then this one serves again.
    pub fn is_draining(&self) -> bool {
        self.drain.phase() == Phase::Draining
    }

    /// Whether the service stops, or the drain's deadline is near or has passed.
    pub fn is_stopping(&self) -> bool {
        self.drain.phase() > Phase::Draining || self.share.due(&self.drain).is_some_and(|due| due <= Instant::now())
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
                match self.share.due(&self.drain) {
                    Some(due) => drop(Timer::at(due).await),
                    None => pending().await,
                }
            };
            future::or(self.drain.next_change(changes), due).await;
        }
    }
}
