//! What the server takes on at a time: requests up to a bound, and idle connections as long as nobody else needs room.
//!
//! A request beyond the bound is answered with 503 at once, without its handler. Where the table of connections is full,
//! connections that have been idle for a while are called to make room for clients that wait, a few at a time, those that
//! are idle longest first. How many connections there may be is known to whoever accepts them, not here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use event_listener::{Event, EventListener};

/// A connection that has been idle for less than this keeps its place.
pub(super) const IDLE_MIN: Duration = Duration::from_secs(1);

/// How long the log keeps silent about refused requests after it has told of one.
const SILENCE: Duration = Duration::from_secs(10);

/// The bound on requests, and the call for room. All connections of a server share it.
#[derive(Debug)]
pub struct Capacity {
    requests_max: usize,
    requests: AtomicUsize,
    told: Mutex<Option<Instant>>,
    room: Event,
}

/// A request that is being handled, as long as this lives.
#[derive(Debug)]
pub(super) struct Entry<'a>(&'a Capacity);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Capacity {
    /// Room for any number of requests.
    fn default() -> Capacity {
        Capacity::new(usize::MAX)
    }
}

impl Capacity {
    /// Room for so many requests at a time.
    pub fn new(requests_max: usize) -> Capacity {
        let (requests, told, room) = (AtomicUsize::new(0), Mutex::new(None), Event::new());
        Capacity { requests_max, requests, told, room }
    }

    /// How many requests are being handled.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Calls so many connections, those that are idle longest, to close; none that is idle for less than a second. It
    /// returns at once; call it again as long as there is no room.
    pub fn make_room(&self, connections: usize) {
        self.room.notify_additional(connections);
    }

    /// Learns of calls for room, after those who did so earlier.
    pub(super) fn call(&self) -> EventListener {
        self.room.listen()
    }

    /// Begins a request, unless too many are being handled.
    pub(super) fn enter(&self) -> Option<Entry<'_>> {
        let entry = Entry(self);
        if self.requests.fetch_add(1, Ordering::Relaxed) < self.requests_max {
            return Some(entry);
        }
        drop(entry);
        self.tell();
        None
    }

    fn tell(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= SILENCE) {
            *told = Some(Instant::now());
            log::warn!("{} requests are being handled, and further ones answered with 503", self.requests_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use event_listener::Listener;

    use super::*;

    #[test]
    fn there_is_room_for_so_many_requests_and_again_when_they_are_over() {
        let capacity = Capacity::new(2);
        let (one, two) = (capacity.enter(), capacity.enter());
        assert!(one.is_some() && two.is_some() && capacity.enter().is_none());
        assert_eq!(capacity.requests(), 2);
        drop(one);
        assert!(capacity.enter().is_some());
        drop(two);
        assert_eq!(capacity.requests(), 0);
    }

    #[test]
    fn those_that_listen_longest_are_called_first_and_each_call_is_one_more() {
        let capacity = Capacity::new(1);
        let [one, two, three] = std::array::from_fn(|_| capacity.call());
        capacity.make_room(1);
        capacity.make_room(1);
        assert!(one.wait_timeout(Duration::ZERO).is_some() && two.wait_timeout(Duration::ZERO).is_some());
        assert!(three.wait_timeout(Duration::ZERO).is_none());
    }
}
