//! Accepting connections, in each team of threads: a connection is served by whoever has accepted it, as long as no other
//! team has much less to do, so that nobody has to be woken for it.
//!
//! When this generation accepts, and what becomes of errors, is the listener's matter. Here is what its clients are waited
//! for with: the team's own poller, and the room that there is for connections. What becomes of one that has its place is
//! said by whoever accepts.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use restart_core::{Accepted, Listener, Reactor};
use smol::Timer;
use smol::future::{FutureExt, yield_now};
use smol::lock::{Semaphore, SemaphoreGuardArc};

use crate::http::Capacity;
use crate::threads::poller::Arrivals;

/// So many connections are accepted before others have their turn.
const ACCEPTED_IN_TURN: u64 = 16;
/// How many idle connections are asked to make room where there is none, and how often.
const ASKED_FOR_ROOM: usize = 64;
const ASKING_PAUSE: Duration = Duration::from_millis(50);

/// Accepts while there is room for another connection; further ones wait in the kernel's queue. Ends when no more will come.
pub(super) async fn accept(
    listener: &Listener,
    mut door: Door<'_>,
    mut admit: impl FnMut(Accepted, Option<SemaphoreGuardArc>),
) {
    for accepted in 1_u64.. {
        let Some(connection) = listener.accept_on(&mut door).await else { return };
        admit(connection, door.permit.take());
        // Clients may come without end, and whoever else is on this thread wants something meanwhile.
        if accepted.is_multiple_of(ACCEPTED_IN_TURN) {
            yield_now().await;
        }
    }
}

/// What a listener's clients are waited for with, and the place that the next one will have.
pub(super) struct Door<'a> {
    room: &'a Arc<Semaphore>,
    capacity: &'a Capacity,
    /// Of so many teams this one, from 0. The first is woken for each client, the others in turn.
    team: usize,
    teams: usize,
    arrivals: Option<Arrivals<Listener>>,
    permit: Option<SemaphoreGuardArc>,
}

impl Reactor for Door<'_> {
    async fn readable(&mut self, listener: &Listener) -> io::Result<()> {
        // No place is kept for one that may never come: another listener's may need it.
        self.permit = None;
        self.arrival(listener).await
    }

    async fn sleep(&mut self, time: Duration) {
        self.permit = None;
        Timer::after(time).await;
    }

    fn rest(&mut self) {
        (self.arrivals, self.permit) = (None, None);
    }

    /// Waits for room for another connection. While a client waits for it, too, idle connections are asked to make room.
    async fn room(&mut self, listener: &Listener) {
        let room = self.room;
        while self.permit.is_none() {
            let another_look = async {
                if listener.client_waits() {
                    // Where many clients wait, each team's loop asks.
                    self.capacity.make_room(ASKED_FOR_ROOM.div_ceil(self.teams));
                } else if self.arrival(listener).await.is_ok() {
                    return None;
                }
                Timer::after(ASKING_PAUSE).await;
                None
            };
            self.permit = async { Some(room.acquire_arc().await) }.or(another_look).await;
        }
    }
}

impl<'a> Door<'a> {
    pub(super) fn new(room: &'a Arc<Semaphore>, capacity: &'a Capacity, (team, teams): (usize, usize)) -> Door<'a> {
        Door { room, capacity, team, teams, arrivals: None, permit: None }
    }

    /// Waits until a client may have come since this was waited for last.
    async fn arrival(&mut self, listener: &Listener) -> io::Result<()> {
        let arrivals = match self.arrivals.take() {
            Some(arrivals) => arrivals,
            None => Arrivals::new(listener.clone(), self.team > 0)?,
        };
        let arrivals = self.arrivals.insert(arrivals);
        poll_fn(|context| arrivals.poll(context)).await;
        Ok(())
    }
}
