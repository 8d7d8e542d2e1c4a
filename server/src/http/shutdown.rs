//! What the end of the process means to a connection.

use restart_core::{Drain, Phase};

/// Whether a connection is to move now: the process drains, and it may be offered, but not in the drain in which nobody
/// took it, as [`Drain::changes`] counts them.
pub(super) fn is_to_move(drain: &Drain, may_move: bool, declined: Option<usize>) -> bool {
    may_move && drain.phase() == Phase::Draining && declined != Some(drain.changes())
}
