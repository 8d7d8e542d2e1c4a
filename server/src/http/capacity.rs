//! What the server takes on at a time: requests up to a bound, and idle connections as long as nobody else needs room.
//!
//! A request beyond the bound is answered with 503 at once, without its handler. Where the table of connections is full,
//! connections that have been idle, or within a head, for a while are called to make room for clients that wait, a few at
//! a time, those that wait longest first; and where there are none, those whose client is slow. How many connections there may be is known to whoever accepts them, not here.
//!
//! Each team of threads counts by itself, within what it was granted of the bound; one that needs more takes over what
//! others do not use. So a request is counted where no other team writes, and the bound holds for all of them together.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::lock::unpoisoned;
use crate::per_team::PerTeam;
use event_listener::{Event, EventListener};

use super::timer::Timer;

/// A connection that has been idle for less than this keeps its place.
pub(super) const IDLE_MIN: Duration = Duration::from_secs(1);

/// So does one of which a head is under way for less than this.
pub(super) const HEAD_MIN: Duration = Duration::from_secs(3);

/// How long the log keeps silent about refused requests after it has told of one.
const SILENCE: Duration = Duration::from_secs(10);

/// How often a request looks for a grant that others have not used, while these take what it has found. Each time one more
/// request is being handled.
const LOOKS_MAX: u32 = 8;

/// The bound on requests, and the call for room. All connections of a server share it.
#[derive(Debug)]
pub struct Capacity {
    /// Nothing where there is no bound.
    requests_max: Option<u32>,
    parts: PerTeam<Part>,
    told: Mutex<Option<Instant>>,
}

/// What one team knows of it.
#[derive(Debug)]
struct Part {
    /// How many requests are being handled, and above `GRANTED` how many may be: in one, so that what is granted and not used
    /// can be taken away at one stroke.
    requests: AtomicU64,
    room: Event,
    /// The call for those whose client is slow.
    slow: Event,
}

/// One request that may be handled, as `Part::requests` has it.
const GRANTED: u64 = 1 << 32;

/// What `Part::requests` says.
#[derive(Clone, Copy)]
struct Count {
    used: u32,
    granted: u32,
}

impl Count {
    #[expect(clippy::cast_possible_truncation, reason = "each half is 32 bits")]
    fn of(requests: u64) -> Count {
        Count { used: requests as u32, granted: (requests / GRANTED) as u32 }
    }

    fn spare(self) -> u32 {
        self.granted.saturating_sub(self.used)
    }
}

/// A request that is being handled, as long as this lives.
#[derive(Debug)]
pub(super) struct Entry<'a>(&'a Part);

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
        Capacity::of_teams(0, requests_max)
    }

    /// Room for so many requests at a time, in so many teams.
    pub(crate) fn of_teams(teams: usize, requests_max: usize) -> Capacity {
        let requests_max = u32::try_from(requests_max).ok();
        let mut left = teams;
        let mut rest = requests_max;
        let parts = PerTeam::new(teams, || {
            // Threads of no team come last, and begin with nothing where there are teams.
            let granted = rest.as_mut().map_or(u32::MAX, |rest| {
                let granted = rest.div_ceil(u32::try_from(left.max(1)).unwrap_or(u32::MAX));
                *rest -= granted;
                granted
            });
            left = left.saturating_sub(1);
            Part { requests: AtomicU64::new(u64::from(granted) * GRANTED), room: Event::new(), slow: Event::new() }
        });
        Capacity { requests_max, parts, told: Mutex::new(None) }
    }

    /// How many requests are being handled.
    pub fn requests(&self) -> usize {
        self.parts.iter().map(|part| Count::of(part.requests.load(Ordering::Relaxed)).used as usize).sum()
    }

    /// Calls so many connections, those that are idle longest, to close; none that is idle for less than a second. Where
    /// too few are idle, it calls those whose client sends its body or takes its response slowest for longest. It returns
    /// at once; call it again as long as there is no room. Each team is asked for its part, and for more where others have
    /// too few.
    pub fn make_room(&self, connections: usize) {
        let left = self.call_each(connections, |part| &part.room);
        self.call_each(left, |part| &part.slow);
    }

    /// Calls so many, and returns how many were not there.
    fn call_each(&self, connections: usize, event: impl Fn(&Part) -> &Event) -> usize {
        let each = connections.div_ceil(self.parts.iter().count());
        [each, connections].into_iter().fold(connections, |left, most| {
            self.parts.iter().fold(left, |left, part| left - event(part).notify_additional(most.min(left)))
        })
    }

    /// Learns of calls for those whose client is slow, after those that are so for longer.
    pub(super) fn call_slow(&self) -> EventListener {
        self.parts.own().slow.listen()
    }

    /// Learns of calls for room, after those who did so earlier.
    pub(super) fn call(&self) -> EventListener {
        self.parts.own().room.listen()
    }

    /// Waits until room is wanted of a connection whose first request has been waited for long.
    pub(super) async fn called_late(&self) {
        Timer::after(HEAD_MIN).await;
        self.call().await;
    }

    /// Begins a request, unless too many are being handled.
    pub(super) fn enter(&self) -> Option<Entry<'_>> {
        let own = self.parts.own();
        for _ in 0..LOOKS_MAX {
            let entry = Entry(own);
            if Count::of(own.requests.fetch_add(1, Ordering::Relaxed)).spare() > 0 {
                return Some(entry);
            }
            drop(entry);
            if !self.parts.iter().any(|other| !std::ptr::eq(own, other) && own.take_over(other)) {
                break;
            }
        }
        self.tell();
        None
    }

    fn tell(&self) {
        let mut told = unpoisoned(self.told.lock());
        if told.is_none_or(|at| at.elapsed() >= SILENCE) {
            *told = Some(Instant::now());
            let most = self.requests_max.unwrap_or(u32::MAX);
            log::warn!("{most} requests are being handled, and further ones answered with 503");
        }
    }
}

impl Part {
    /// Takes over half of what another one is granted and does not use. Whether there was any.
    fn take_over(&self, other: &Part) -> bool {
        let taken = other.requests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |requests| {
            let taken = Count::of(requests).spare().div_ceil(2);
            (taken > 0).then(|| requests - u64::from(taken) * GRANTED)
        });
        let Ok(before) = taken else { return false };
        self.requests.fetch_add(u64::from(Count::of(before).spare().div_ceil(2)) * GRANTED, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use event_listener::Listener;

    use super::*;
    use crate::per_team;

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
    fn what_one_team_does_not_use_another_may_and_the_bound_is_of_all() {
        let capacity = Capacity::of_teams(3, 10);
        let in_team = |team: usize, entries: usize| {
            thread::scope(|scope| {
                let enter = || {
                    per_team::join(team);
                    (0..entries).map_while(|_| capacity.enter()).collect::<Vec<_>>()
                };
                scope.spawn(enter).join().expect("it does not panic")
            })
        };
        let all = in_team(1, 20);
        assert_eq!(all.len(), 10, "one team may use all of it");
        assert!(in_team(0, 1).is_empty() && in_team(7, 1).is_empty());
        drop(all);
        let (one, other) = (in_team(2, 4), in_team(0, 20));
        assert_eq!((one.len(), other.len(), capacity.requests()), (4, 6, 10));
    }

    #[test]
    fn teams_that_take_from_each_other_never_exceed_the_bound_and_lose_nothing_of_it() {
        let capacity = Capacity::of_teams(4, 3);
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            for team in 0..4 {
                let (capacity, inside) = (&capacity, &inside);
                scope.spawn(move || {
                    per_team::join(team);
                    for _ in 0..10_000 {
                        if let Some(entry) = capacity.enter() {
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                            thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(entry);
                        }
                    }
                });
            }
        });
        let granted: u32 =
            capacity.parts.iter().map(|part| Count::of(part.requests.load(Ordering::Relaxed)).granted).sum();
        assert_eq!((granted, capacity.requests()), (3, 0));
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
    fn each_team_makes_its_part_of_the_room_and_more_where_others_cannot() {
        let capacity = Capacity::of_teams(2, 1);
        let calls = |team: usize, count: usize| -> Vec<_> {
            let listen = || {
                per_team::join(team);
                (0..count).map(|_| capacity.call()).collect()
            };
            thread::scope(|scope| scope.spawn(listen).join().expect("it does not panic"))
        };
        let called =
            |calls: Vec<EventListener>| calls.into_iter().filter_map(|call| call.wait_timeout(Duration::ZERO)).count();
        let (one, other) = (calls(0, 10), calls(1, 10));
        capacity.make_room(6);
        let counts = [called(one), called(other)];
        assert!(counts.iter().sum::<usize>() == 6 && counts.iter().all(|count| *count >= 2), "{counts:?}");
        let (one, other) = (calls(0, 10), calls(1, 1));
        capacity.make_room(6);
        assert_eq!([called(one), called(other)].iter().sum::<usize>(), 6);
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
