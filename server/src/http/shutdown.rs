//! What a handler can learn of the end of its process.

use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use async_io::Timer;
use futures_lite::FutureExt;
use restart_core::{Drain, Phase};

use super::ending::Share;

/// Whether this process is to end, for handlers and bodies that take long. Each request has one in its `ext`
/// (`request.ext().get::<Shutdown>()`); clones are the same.
///
/// A process drains when a newer one has taken over: what is under way may be finished, within the drain timeout. It stops
/// when the service stops: what is under way should be brought to an end, within the stop timeout. So it should shortly
/// before the drain's deadline, where the rest is cut; each is told of that at a time of its own in the last third of the
/// drain, 3 s at the most, so that not all clients come back at once.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// The team's own: a clone of what all teams share would be counted where all of them look.
    drain: Arc<Drain>,
    share: Share,
}

impl Shutdown {
    pub(super) fn new(drain: &Arc<Drain>) -> Shutdown {
        Shutdown { drain: Arc::clone(drain), share: Share::random() }
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
            self.drain.next_change(changes).or(due).await;
        }
    }
}

/// Whether a connection is to move now: the process drains, and it may be offered, but not in the drain in which nobody
/// took it, as [`Drain::changes`] counts them.
pub(super) fn is_to_move(drain: &Drain, may_move: bool, declined: Option<usize>) -> bool {
    may_move && drain.phase() == Phase::Draining && declined != Some(drain.changes())
}
