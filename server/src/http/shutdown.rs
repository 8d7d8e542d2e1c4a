//! What the end of the process means to a connection.

use std::future::pending;
use std::time::Duration;

use restart_core::{Drain, Phase};

use super::timer::Timer;

/// How long a stop waits for the first request of a client that has connected.
pub(super) const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// Waits until the service stops, and has waited for a client that has just connected.
pub(super) async fn stopping(drain: &Drain) {
    loop {
        let changes = drain.changes();
        match drain.phase() {
            Phase::Stopping => return Timer::after(FIRST_REQUEST_GRACE).await,
            Phase::Over => return pending().await,
            _ => drain.next_change(changes).await,
        }
    }
}

/// Waits until the deadline of a drain or a stop.
pub(super) async fn over(drain: &Drain) {
    let mut phase = drain.phase();
    while phase != Phase::Over {
        phase = drain.changed(phase).await;
    }
}

/// Whether a connection is to move now: the process drains, and it may be offered, but not in the drain in which nobody
/// took it, as [`Drain::changes`] counts them.
pub(super) fn is_to_move(drain: &Drain, may_move: bool, declined: Option<usize>) -> bool {
    may_move && drain.phase() == Phase::Draining && declined != Some(drain.changes())
}
