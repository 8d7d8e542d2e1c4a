//! What is under way on a connection that hyper serves.
//!
//! hyper tells nobody whether a connection is between two messages. It is where no response is under way, the request's
//! body has been read to its end, and hyper has flushed what it had: each of these is noted here where it happens.

use std::sync::{Arc, Mutex};
use std::task::Poll;

use super::under_way::UnderWay;
use crate::lock::lock;

/// How far an upgrade has come that the service itself takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Upgrade {
    #[default]
    No,
    /// The response waits until hyper was told that the connection will be given away.
    Wanted,
    Possible,
}

#[derive(Debug, Default)]
struct State {
    /// How many requests have begun.
    requests: u64,
    /// How many of them have a response that is not over.
    in_flight: usize,
    /// Something may be unread of a request's body.
    body_is_open: bool,
    /// A body was dropped, and what was unread of it is hyper's to read.
    body_was_dropped: bool,
    unsent: bool,
    upgrade: Upgrade,
    /// What the connection goes on with, once the response's head has been sent.
    next: Option<UnderWay>,
}

/// What is under way on a connection.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<State>);

impl Progress {
    /// How many requests have begun, if nothing is under way of them.
    pub(super) fn idle(&self) -> Option<u64> {
        let state = lock(&self.0);
        let is_idle = state.in_flight == 0 && !state.body_is_open && !state.unsent;
        is_idle.then_some(state.requests)
    }

    pub(super) fn requests(&self) -> u64 {
        lock(&self.0).requests
    }

    /// How many requests have a response that is not over.
    pub(super) fn in_flight(&self) -> usize {
        lock(&self.0).in_flight
    }

    pub(super) fn has_unsent(&self) {
        lock(&self.0).unsent = true;
    }

    pub(super) fn all_sent(&self) {
        lock(&self.0).unsent = false;
    }

    pub(super) fn body_ended(&self) {
        lock(&self.0).body_is_open = false;
    }

    pub(super) fn body_dropped(&self) {
        let mut state = lock(&self.0);
        (state.body_is_open, state.body_was_dropped) = (false, true);
    }

    /// Whether the service waits for an upgrade to be possible.
    pub(super) fn wants_upgrade(&self) -> bool {
        lock(&self.0).upgrade == Upgrade::Wanted
    }

    pub(super) fn upgrade_is_possible(&self) {
        lock(&self.0).upgrade = Upgrade::Possible;
    }

    /// What the connection goes on with, if the head of the response has been sent that says so.
    pub(super) fn take_next(&self) -> Option<UnderWay> {
        let mut state = lock(&self.0);
        if state.unsent { None } else { state.next.take() }
    }

    /// The same, but only for a stream: a protocol has to wait until hyper is done.
    pub(super) fn take_stream(&self) -> Option<UnderWay> {
        let mut state = lock(&self.0);
        let is_ready = !state.unsent && matches!(state.next, Some(UnderWay::Stream(_)));
        if is_ready { state.next.take() } else { None }
    }

    pub(super) fn forget_stream(&self) {
        lock(&self.0).next.take_if(|next| matches!(next, UnderWay::Stream(_)));
    }

    /// Says that an upgrade is wanted, and is ready when it is possible. Whoever makes it so polls again.
    pub(super) fn poll_upgrade(&self) -> Poll<()> {
        let mut state = lock(&self.0);
        if state.upgrade == Upgrade::Possible {
            return Poll::Ready(());
        }
        state.upgrade = Upgrade::Wanted;
        Poll::Pending
    }

    /// Says what the connection goes on with behind a response's head. For a stream it is given back where the request has a
    /// body that is not over: hyper has to read that.
    pub(super) fn go_on_with(&self, next: UnderWay) -> Result<(), UnderWay> {
        let mut state = lock(&self.0);
        if matches!(next, UnderWay::Stream(_)) && (state.body_is_open || state.body_was_dropped) {
            return Err(next);
        }
        state.next = Some(next);
        Ok(())
    }

    pub(super) fn begin(self: &Arc<Progress>, has_body: bool) -> Served {
        let mut state = lock(&self.0);
        state.requests += 1;
        state.in_flight += 1;
        (state.body_is_open, state.body_was_dropped) = (has_body, false);
        Served(Arc::clone(self))
    }
}

/// A request, until its response's body is dropped.
#[derive(Debug)]
pub(super) struct Served(Arc<Progress>);

impl Drop for Served {
    fn drop(&mut self) {
        lock(&self.0.0).in_flight -= 1;
    }
}
