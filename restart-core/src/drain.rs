//! What is in flight: the phase that this generation is in, as connections see it, and the count of live connections.
//!
//! This module owns the one shared counter and the one broadcast of phase changes. It never decides a phase: the driver
//! sets it, connections only look. It stands alone because it is the only part of the library on an application's hot
//! path.

use std::future::Future;
use std::ops::{Deref, Range};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use event_listener::{Event, EventListener, IntoNotification};
use futures_lite::future;

use crate::lock::lock;

/// What connections have to know of their process's place in the chain of generations. Whoever serves them has to know
/// all of it: another phase would break what is built on these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Phase {
    /// The process serves, as the main one or as a successor that waits for its commit.
    Serving = 0,
    /// A newer generation has taken over. Requests in flight are finished, then connections end.
    Draining = 1,
    /// The whole service stops. Requests in flight are finished; idle connections end now.
    Stopping = 2,
    /// The drain's deadline has passed. Whatever is live ends now, or is cut with the process, a second later.
    Over = 3,
}

impl Phase {
    fn from_bits(state: usize) -> Phase {
        match state & PHASE_BITS {
            1 => Phase::Draining,
            2 => Phase::Stopping,
            3 => Phase::Over,
            _ => Phase::Serving,
        }
    }
}

/// Where the phase lies in `Shared::state`; above it, how often it has been set.
const PHASE_BITS: usize = 0b11;

/// The last part of a drain, in which what would be cut at its deadline ends by itself: this share of the timeout, and
/// this long at the most. Behind the last one to be told this share of that part is left for it to say goodbye.
const ENDING_SHARE: u32 = 3;
const ENDING_MAX: Duration = Duration::from_secs(3);
const GOODBYE_SHARE: u32 = 4;

/// A value on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

#[derive(Debug, Default)]
struct Shared {
    /// Connections look at it all the time, and nothing beside it may be written while it stays as it is.
    state: Apart<AtomicUsize>,
    /// Notified at the next change, and then replaced: a listener that is dropped after it was notified passes its
    /// notification on, which must not reach one that waits for a later change.
    next: Mutex<Arc<Event>>,
    stop_announced: AtomicBool,
    /// When those who would be cut are to end, where it is known when they are cut.
    ending: Mutex<Option<Range<Instant>>>,
    /// Notified in turn, of a change that has happened.
    in_turn: Mutex<Arc<Event>>,
    live: AtomicUsize,
    all_gone: Event,
}

/// A handle on the phase and the count of live connections; clones share both.
///
/// A process gets its handle from `Generation::drain`. One made by [`Drain::new`] belongs to no process, and serves for
/// ever; for tests of code that serves connections there is [`Drain::manual`].
#[derive(Clone, Debug, Default)]
pub struct Drain {
    shared: Arc<Shared>,
}

impl Shared {
    fn next(&self) -> Arc<Event> {
        Arc::clone(&lock(&self.next))
    }

    fn changes(&self) -> usize {
        self.state.0.load(Ordering::Acquire) / (PHASE_BITS + 1)
    }
}

impl Drain {
    /// Makes a handle of its own: phase [`Phase::Serving`], nothing live.
    pub fn new() -> Drain {
        Drain::default()
    }

    /// Makes one whose phases the caller sets, for tests of code that serves connections.
    pub fn manual() -> ManualDrain {
        ManualDrain { drain: Drain::new() }
    }

    /// The phase at this moment.
    pub fn phase(&self) -> Phase {
        Phase::from_bits(self.shared.state.0.load(Ordering::Acquire))
    }

    /// Whether the service was told to stop. For the stop delay it still serves as ever, and then its phase is
    /// [`Phase::Stopping`].
    pub fn stop_announced(&self) -> bool {
        self.shared.stop_announced.load(Ordering::Acquire)
    }

    pub(crate) fn announce_stop(&self) {
        self.shared.stop_announced.store(true, Ordering::Release);
    }

    /// When what would be cut at the deadline of the present drain or stop should come to an end by itself, each
    /// connection at a time of its own within this range: clients that are all told at once all come back at once. It is
    /// the last third of the time, 3 s at the most, but for a rest in which the last ones can say goodbye. Nothing where
    /// the process serves, or nobody has said when the deadline is.
    pub fn ending(&self) -> Option<Range<Instant>> {
        lock(&self.shared.ending).clone()
    }

    /// Says that the drain or the stop that begins now ends `timeout` from now, at the latest. It has to be said before
    /// the phase is set, which tells those who wait; [`Phase::Serving`] forgets it.
    pub(crate) fn set_deadline(&self, timeout: Duration) {
        let last_part = (timeout / ENDING_SHARE).min(ENDING_MAX);
        let begun = Instant::now();
        let at = |before_end: Duration| begun.checked_add(timeout.saturating_sub(before_end));
        *lock(&self.shared.ending) = at(last_part).zip(at(last_part / GOODBYE_SHARE)).map(|(start, end)| start..end);
    }

    /// How often the phase has been set. A look at the phase alone misses that it was another one and is back: where a
    /// successor dies, its predecessor drains and then serves again. [`Phase::Draining`] is set once more where yet another
    /// generation is the newest: what the one before it did not take can be offered again.
    pub fn changes(&self) -> usize {
        self.shared.changes()
    }

    /// Waits until the phase is another one than `seen`, and returns it. Returns at once if it already is.
    ///
    /// The future is cheap to drop; nothing is lost if it is made anew, since it compares with `seen`.
    pub fn changed(&self, seen: Phase) -> impl Future<Output = Phase> + Send + use<> {
        self.wait_for(move |state| Some(Phase::from_bits(state)).filter(|phase| *phase != seen))
    }

    /// Waits until the phase has been set since it had been set `seen` times ([`changes`](Drain::changes)), be it to
    /// another phase and back.
    pub fn next_change(&self, seen: usize) -> impl Future<Output = ()> + Send + use<> {
        self.wait_for(move |state| (state / (PHASE_BITS + 1) != seen).then_some(()))
    }

    /// The phases as one connection learns of them: made when it begins here, and asked for as long as it lives.
    pub fn phases(&self) -> Phases {
        Phases { drain: self.clone(), told: None }
    }

    fn wait_for<T, L>(&self, look: L) -> impl Future<Output = T> + Send + use<T, L>
    where
        L: Fn(usize) -> Option<T> + Send,
    {
        let shared = Arc::clone(&self.shared);
        async move {
            loop {
                let before = shared.state.0.load(Ordering::Acquire);
                let listener: EventListener = shared.next().listen();
                let now = shared.state.0.load(Ordering::Acquire);
                if let Some(found) = look(now) {
                    return found;
                }
                // Otherwise the change may have come before the listener.
                if now == before {
                    listener.await;
                }
            }
        }
    }

    /// Counts one live connection until the guard is dropped. A drain waits for all guards.
    pub fn guard(&self) -> Guard {
        self.shared.live.fetch_add(1, Ordering::AcqRel);
        Guard { shared: Arc::clone(&self.shared) }
    }

    /// How many guards are alive.
    pub fn live(&self) -> usize {
        self.shared.live.load(Ordering::Acquire)
    }

    /// Sets the phase and wakes everyone who waits for a change.
    pub(crate) fn set_phase(&self, phase: Phase) {
        let passed = self.change(phase);
        self.wake_in_turn(usize::MAX);
        passed.notify(usize::MAX);
    }

    /// Sets the phase, and leaves it to [`wake_in_turn`](Drain::wake_in_turn) to wake those who wait for a change now.
    pub(crate) fn set_phase_in_turn(&self, phase: Phase) {
        let passed = self.change(phase);
        self.wake_in_turn(usize::MAX);
        *lock(&self.shared.in_turn) = passed;
    }

    /// Wakes up to so many of those whose turn it has not been yet. How many there were.
    pub(crate) fn wake_in_turn(&self, count: usize) -> usize {
        lock(&self.shared.in_turn).notify(count.additional())
    }

    /// Sets the phase. Returns what those wait for who have not seen it.
    fn change(&self, phase: Phase) -> Arc<Event> {
        if phase == Phase::Serving {
            *lock(&self.shared.ending) = None;
        }
        let next = |state: usize| Some((state | PHASE_BITS).wrapping_add(1) | phase as usize);
        // The function always gives a next state, so this cannot fail.
        let _ = self.shared.state.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        std::mem::take(&mut *lock(&self.shared.next))
    }

    /// Waits until no guard is alive.
    pub(crate) async fn empty(&self) {
        loop {
            let listener = self.shared.all_gone.listen();
            if self.live() == 0 {
                return;
            }
            listener.await;
        }
    }
}

/// A [`Drain`] of no process, whose phases a test sets: what serves connections gets a clone of the drain.
#[derive(Debug, Default)]
pub struct ManualDrain {
    drain: Drain,
}

impl ManualDrain {
    /// Sets the phase and wakes everyone who waits for a change, as the driver of a process does.
    pub fn set_phase(&self, phase: Phase) {
        self.drain.set_phase(phase);
    }

    /// Says that the drain or the stop that begins now ends `timeout` from now, at the latest ([`Drain::ending`]). It has
    /// to be said before the phase is set; [`Phase::Serving`] forgets it.
    pub fn set_deadline(&self, timeout: Duration) {
        self.drain.set_deadline(timeout);
    }
}

impl Deref for ManualDrain {
    type Target = Drain;

    fn deref(&self) -> &Drain {
        &self.drain
    }
}

/// The phases as one connection learns of them ([`Drain::phases`]): each change is told once.
///
/// So a connection that is offered when it is told of [`Phase::Draining`], and comes back, is offered once in a drain: it
/// goes on until it is told of something else, be it that the drain is called off or that another one has begun.
#[derive(Debug)]
pub struct Phases {
    drain: Drain,
    /// How often the phase had been set when it was told last.
    told: Option<usize>,
}

impl Phases {
    /// Does `work` until it is done, or the phase is set, which is returned as the error; `work` is dropped then.
    ///
    /// Of several changes since the last call only the last one counts. A connection that begins in [`Phase::Serving`]
    /// is not told so; one that begins in another phase is told at once. What `work` has done by the time it is dropped,
    /// at any of its awaits, must stand in what it borrows. Work that is always ready has to yield now and then: it is
    /// polled first, and the phase is looked at where it waits.
    pub async fn until_change<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Phase> {
        let told = self.told;
        let change = self.drain.wait_for(move |state| {
            let (phase, changes) = (Phase::from_bits(state), state / (PHASE_BITS + 1));
            let is_news = told.map_or(phase != Phase::Serving, |told| told != changes);
            is_news.then_some((phase, changes))
        });
        let done = async { Ok(work.await) };
        let (phase, changes) = match future::or(done, async { Err(change.await) }).await {
            Ok(done) => return Ok(done),
            Err(change) => change,
        };
        self.told = Some(changes);
        Err(phase)
    }
}

/// One live connection. Dropping it says that the connection has ended.
#[derive(Debug)]
#[must_use = "a guard that is dropped at once counts nothing"]
pub struct Guard {
    shared: Arc<Shared>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.shared.live.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.all_gone.notify(usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Wake, Waker};

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn those_who_wait_learn_of_a_change_in_turn_and_of_the_next_one_at_once() {
        let drain = Drain::new();
        let mut waiting: Vec<_> = (0..5).map(|_| Box::pin(drain.next_change(0))).collect();
        let still_wait = |waiting: &mut Vec<_>| {
            waiting.retain_mut(|one| block_on(poll_once(one)).is_none());
            waiting.len()
        };
        assert_eq!(still_wait(&mut waiting), 5);
        drain.set_phase_in_turn(Phase::Draining);
        assert_eq!((drain.phase(), still_wait(&mut waiting)), (Phase::Draining, 5));
        assert_eq!((drain.wake_in_turn(2), still_wait(&mut waiting)), (2, 3));
        assert!(block_on(poll_once(drain.next_change(0))).is_some(), "who comes now sees it");
        drain.set_phase(Phase::Stopping);
        assert_eq!((still_wait(&mut waiting), drain.wake_in_turn(1)), (0, 0));
    }

    #[test]
    fn every_waiter_learns_of_a_phase_change() {
        let drain = Drain::new();
        let mut first = Box::pin(drain.changed(Phase::Serving));
        let mut second = Box::pin(drain.changed(Phase::Serving));
        assert!(block_on(poll_once(&mut first)).is_none());
        assert!(block_on(poll_once(&mut second)).is_none());
        drain.set_phase(Phase::Draining);
        assert_eq!(block_on(first), Phase::Draining);
        assert_eq!(block_on(second), Phase::Draining);
        assert_eq!(block_on(drain.changed(Phase::Serving)), Phase::Draining, "a late look sees it as well");
    }

    #[test]
    fn a_listener_that_is_dropped_uses_up_nobodys_notification() {
        let drain = Drain::new();
        let mut dropped = Box::pin(drain.next_change(0));
        assert!(block_on(poll_once(&mut dropped)).is_none());
        drain.set_phase(Phase::Draining);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut later = Box::pin(drain.next_change(1));
        assert!(later.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(dropped);
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "it is not this one's change");
        drain.set_phase(Phase::Serving);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_phase_that_came_and_went_is_a_change() {
        let drain = Drain::new();
        let seen = drain.changes();
        let mut change = Box::pin(drain.next_change(seen));
        assert!(block_on(poll_once(&mut change)).is_none());
        drain.set_phase(Phase::Draining);
        drain.set_phase(Phase::Serving);
        block_on(change);
        assert_eq!((drain.phase(), drain.changes()), (Phase::Serving, seen + 2));
    }

    #[test]
    fn a_connection_is_told_of_each_change_once() {
        let drain = Drain::new();
        let mut phases = drain.phases();
        let told = |phases: &mut Phases| block_on(poll_once(phases.until_change(future::pending::<()>())));
        assert_eq!(told(&mut phases), None, "it serves from the beginning");
        drain.set_phase(Phase::Draining);
        assert_eq!(told(&mut drain.phases()), Some(Err(Phase::Draining)), "one that comes now is told at once");
        assert_eq!(told(&mut phases), Some(Err(Phase::Draining)));
        assert_eq!(told(&mut phases), None, "it came back, and stays");
        drain.set_phase(Phase::Serving);
        drain.set_phase(Phase::Draining);
        assert_eq!(told(&mut phases), Some(Err(Phase::Draining)), "another drain");
        drain.set_phase(Phase::Serving);
        assert_eq!(told(&mut phases), Some(Err(Phase::Serving)));
        assert_eq!(told(&mut phases), None);
    }

    #[test]
    fn work_that_is_done_is_not_lost_to_a_change() {
        let drain = Drain::new();
        let mut phases = drain.phases();
        drain.set_phase(Phase::Draining);
        assert_eq!(block_on(phases.until_change(async { 7 })), Ok(7));
        assert_eq!(block_on(phases.until_change(future::pending::<()>())), Err(Phase::Draining));
    }

    #[test]
    fn the_last_part_of_a_drain_ends_before_its_deadline_and_goes_with_it() {
        let drain = Drain::new();
        assert_eq!(drain.ending(), None);
        for (timeout_ms, first_ms, last_ms) in [(60_000, 57_000, 59_250), (3_000, 2_000, 2_750), (0, 0, 0)] {
            let before = Instant::now();
            drain.set_deadline(Duration::from_millis(timeout_ms));
            drain.set_phase(Phase::Draining);
            let said = before.elapsed();
            let Range { start, end } = drain.ending().expect("it is known");
            for (at, expected_ms) in [(start, first_ms), (end, last_ms)] {
                let after = at - before;
                let expected = Duration::from_millis(expected_ms);
                assert!(after >= expected && after <= expected + said, "{after:?} of {timeout_ms} ms");
            }
            drain.set_phase(Phase::Serving);
            assert_eq!(drain.ending(), None);
        }
    }

    #[test]
    fn a_drain_is_empty_when_the_last_guard_is_dropped() {
        let drain = Drain::new();
        let (first, second) = (drain.guard(), drain.guard());
        let mut empty = Box::pin(drain.empty());
        drop(first);
        assert!(block_on(poll_once(&mut empty)).is_none());
        assert_eq!(drain.live(), 1);
        drop(second);
        block_on(empty);
    }
}
