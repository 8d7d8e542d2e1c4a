//! A bounded number of places, for which whoever came last waits first.
//!
//! Where more wait than places become free, those that came first have mostly been given up by their clients, or are a
//! flood that waits for nothing. Served in the order of coming, they would have everybody else wait behind them; so a flood
//! that stands harms only itself, and only as many as come in the time of one place are before anybody.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use crate::lock::unpoisoned;

/// The places.
#[derive(Debug)]
pub(super) struct Places(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    /// Who waits, by its number, the newest last.
    waiting: Vec<(u64, Waker)>,
    /// Who was given a place and has not noticed.
    given: BTreeSet<u64>,
    next: u64,
}

/// A place. Dropped, it is the next one's.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Places);

/// The wait for a place. Dropped, it leaves the others theirs.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    places: &'a Places,
    /// None before it waits, and when it has its place.
    number: Option<u64>,
}

impl Places {
    pub(super) fn new(most: usize) -> Places {
        Places(Mutex::new(State { free: most, waiting: Vec::new(), given: BTreeSet::new(), next: 0 }))
    }

    /// Waits for a place.
    pub(super) fn enter(&self) -> Waiting<'_> {
        Waiting { places: self, number: None }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.0.lock())
    }

    /// Gives a place that is left to the newest that waits.
    fn leave(&self) {
        let mut state = self.state();
        let newest = state.waiting.pop();
        match &newest {
            Some((number, _)) => _ = state.given.insert(*number),
            None => state.free += 1,
        }
        drop(state);
        if let Some((_, waker)) = newest {
            waker.wake();
        }
    }
}

impl<'a> Future for Waiting<'a> {
    type Output = Place<'a>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Place<'a>> {
        let places = self.places;
        let mut state = places.state();
        match self.number {
            Some(number) if state.given.remove(&number) => {
                self.number = None;
                return Poll::Ready(Place(places));
            }
            Some(number) => {
                if let Ok(at) = state.waiting.binary_search_by_key(&number, |(number, _)| *number) {
                    state.waiting[at].1.clone_from(context.waker());
                }
            }
            None if state.free > 0 => {
                state.free -= 1;
                return Poll::Ready(Place(places));
            }
            None => {
                let number = state.next;
                state.next += 1;
                state.waiting.push((number, context.waker().clone()));
                self.number = Some(number);
            }
        }
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut state = self.places.state();
        if state.given.remove(&number) {
            drop(state);
            self.places.leave();
        } else if let Ok(at) = state.waiting.binary_search_by_key(&number, |(number, _)| *number) {
            state.waiting.remove(at);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn who_came_last_is_first_and_who_has_gone_holds_up_nobody() {
        let places = Places::new(1);
        let place = block_on(places.enter());
        let (mut first, mut second) = (pin!(places.enter()), pin!(places.enter()));
        let mut gone = Box::pin(places.enter());
        let mut given_and_gone = Box::pin(places.enter());
        for wait in [first.as_mut(), second.as_mut(), gone.as_mut(), given_and_gone.as_mut()] {
            assert!(block_on(poll_once(wait)).is_none());
        }
        drop(gone);
        drop(place);
        assert!(block_on(poll_once(first.as_mut())).is_none(), "it is another's");
        drop(given_and_gone);
        let place = block_on(poll_once(second.as_mut())).expect("the newest that is there");
        assert!(block_on(poll_once(first.as_mut())).is_none());
        drop(place);
        let place = block_on(poll_once(first)).expect("it is the only one");
        drop(place);
        assert!(block_on(poll_once(places.enter())).is_some(), "it is free again");
    }
}
