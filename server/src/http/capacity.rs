//! What the server takes on at a time: requests up to a bound, and idle connections as long as nobody else needs room.
//!
//! A request beyond the bound is answered with 503 at once, without its handler. Where the table of connections is full,
//! connections that have been idle, or within a head, for a while are called to make room for clients that wait, a few at
//! a time, those that wait longest first; and where there are none, those whose client is slow. How many connections there may be is known to whoever accepts them, not here.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::lock::unpoisoned;
use event_listener::{Event, EventListener};

/// A connection that has been idle for less than this keeps its place.
pub(super) const IDLE_MIN: Duration = Duration::from_secs(1);

/// So does one of which a head is under way for less than this.
pub(super) const HEAD_MIN: Duration = Duration::from_secs(3);

/// How long the log keeps silent about refused requests after it has told of one.
const SILENCE: Duration = Duration::from_secs(10);

/// The bound on requests, and the call for room. All connections of a server share it.
#[derive(Debug)]
pub struct Capacity {
    requests_max: usize,
    requests: AtomicUsize,
    told: Mutex<Option<Instant>>,
    room: Event,
    /// The call for those whose client is slow.
    slow: Event,
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
        let (requests, told) = (AtomicUsize::new(0), Mutex::new(None));
        Capacity { requests_max, requests, told, room: Event::new(), slow: Event::new() }
    }

    /// How many requests are being handled.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Calls so many connections, those that are idle longest, to close; none that is idle for less than a second. Where
    /// too few are idle, it calls those whose client sends its body or takes its response slowest for longest. It returns
    /// at once; call it again as long as there is no room.
    pub fn make_room(&self, connections: usize) {
        let called = self.room.notify_additional(connections);
        self.slow.notify_additional(connections.saturating_sub(called));
    }

    /// Learns of calls for those whose client is slow, after those that are so for longer.
    pub(super) fn call_slow(&self) -> EventListener {
        self.slow.listen()
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
        let mut told = unpoisoned(self.told.lock());
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

    #[test]
    fn the_slow_are_called_only_where_too_few_are_idle() {
        let capacity = Capacity::new(1);
        let (slow, idle) = (capacity.call_slow(), capacity.call());
        capacity.make_room(1);
        assert!(idle.wait_timeout(Duration::ZERO).is_some());
        let slow = slow.wait_timeout(Duration::ZERO).is_none().then(|| capacity.call_slow());
        capacity.make_room(2);
        assert!(slow.is_some_and(|slow| slow.wait_timeout(Duration::ZERO).is_some()));
    }
}
