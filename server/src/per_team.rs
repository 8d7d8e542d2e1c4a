//! What each team of threads has for itself, so that nothing is written on the path of a request that another team touches.
//!
//! A value per team, on cache lines of its own, and one more for threads that are of no team: whoever counts writes to his
//! own, and whoever reads sums over all. It knows nothing of teams but their numbers, and stands beneath everything.

use std::cell::Cell;
use std::ops::Deref;

/// The number of threads that are of no team.
const NONE: usize = usize::MAX;

thread_local! {
    static TEAM: Cell<usize> = const { Cell::new(NONE) };
}

/// Says which team the present thread is of, from 0.
pub(crate) fn join(team: usize) {
    TEAM.set(team);
}

/// The team that the present thread is of, if it is of one.
pub(crate) fn current() -> Option<usize> {
    Some(TEAM.get()).filter(|team| *team != NONE)
}

/// A value that shares no cache line with any other. Two lines, since processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A value for each team.
#[derive(Debug)]
pub(crate) struct PerTeam<T> {
    teams: Box<[Apart<T>]>,
    others: Apart<T>,
}

impl<T: Default> Default for PerTeam<T> {
    /// One value, which all share.
    fn default() -> PerTeam<T> {
        PerTeam::new(0, T::default)
    }
}

impl<T> PerTeam<T> {
    /// A value for each of so many teams in turn, and then one for all other threads. Teams beyond that share the latter.
    pub(crate) fn new(teams: usize, mut make: impl FnMut() -> T) -> PerTeam<T> {
        PerTeam { teams: (0..teams).map(|_| Apart(make())).collect(), others: Apart(make()) }
    }

    /// The present thread's team's.
    pub(crate) fn own(&self) -> &T {
        self.teams.get(TEAM.get()).unwrap_or(&self.others)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        self.teams.iter().chain([&self.others]).map(|value| &value.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn each_team_has_its_own_and_the_sum_is_over_all() {
        let counts = PerTeam::new(2, AtomicUsize::default);
        let count = |team: Option<usize>, times: usize| {
            team.into_iter().for_each(join);
            counts.own().fetch_add(times, Ordering::Relaxed);
        };
        thread::scope(|scope| {
            for (team, times) in [(Some(0), 1), (Some(0), 2), (Some(1), 4), (None, 8), (Some(7), 16)] {
                scope.spawn(move || count(team, times));
            }
        });
        let found: Vec<_> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!(found, [3, 4, 24]);
    }

    #[test]
    fn no_two_are_on_the_same_pair_of_cache_lines() {
        let counts = PerTeam::new(3, AtomicUsize::default);
        let mut places: Vec<_> = counts.iter().map(|count| std::ptr::from_ref(count) as usize / 128).collect();
        places.dedup();
        assert_eq!(places.len(), 4);
    }
}
