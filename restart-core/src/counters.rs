//! What a service has counted, over all its generations: totals that never fall at a reload.
//!
//! A commit brings what the predecessor had counted until then, its own inheritance included; what draining generations
//! add afterwards comes as reports, each with all that its sender has added so far, so that a lost one is made good by
//! the next. What the names mean is the application's matter. Pure arithmetic behind a lock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::lock::lock;

/// Counters by name. They only grow.
pub type Counts = BTreeMap<String, u64>;

/// What came before this generation, and what the draining ones still add. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    totals: Arc<Mutex<Totals>>,
    draining: Arc<AtomicUsize>,
}

/// What a generation leaves to the next one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) total: Counts,
    pub(crate) added: Vec<(u64, Counts)>,
    /// What the generation itself had counted by then.
    pub(crate) own: Counts,
}

#[derive(Debug, Default)]
struct Totals {
    base: Counts,
    /// What each draining generation has added since its commit.
    added: BTreeMap<u64, Counts>,
    /// All that was counted until this generation's commit.
    at_commit: Option<Counts>,
    /// What the predecessor has told is in.
    has_inherited: bool,
}

impl Totals {
    fn inherited(&self) -> Counts {
        self.added.values().fold(self.base.clone(), sum)
    }
}

impl Inherited {
    /// All that the service has counted: what `own` says that this generation has, what all others have, and the reloads
    /// themselves: `reloads/success` and
    /// `reloads/failure`, and in `stages/spawn`, `stages/ready`, `stages/probation` and `stages/commit` how many
    /// microseconds the successful ones took in all. From this generation's commit on it stays what it was: the newest
    /// generation's total goes on from there, and two answers at the same time must not contradict each other.
    pub fn total(&self, own: impl FnOnce() -> Counts) -> Counts {
        // The lock decides whether it counts before the commit or after it.
        let totals = self.totals();
        totals.at_commit.clone().unwrap_or_else(|| sum(totals.inherited(), &own()))
    }

    /// How many older generations still finish what they have, as this one knows. It never blocks.
    pub fn draining(&self) -> usize {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn note_draining(&self, generations: usize) {
        self.draining.store(generations, Ordering::Relaxed);
    }

    /// Counts something of the reloads themselves.
    pub(crate) fn add(&self, name: &str, count: u64) {
        *self.totals().base.entry(name.to_owned()).or_default() += count;
    }

    /// What the next generation inherits: the total without what the generations that still drain have added, and those
    /// additions by themselves. Those that have ended are in the total from then on. `own`: what this one has counted.
    pub(crate) fn snapshot(&self, own: impl FnOnce() -> Counts, draining: &[u64]) -> Snapshot {
        let mut totals = self.totals();
        let own = own();
        let (kept, ended) = std::mem::take(&mut totals.added).into_iter().partition(|(of, _)| draining.contains(of));
        totals.added = kept;
        let ended: BTreeMap<u64, Counts> = ended;
        totals.base = ended.values().fold(std::mem::take(&mut totals.base), sum);
        let added = totals.added.iter().map(|(of, counts)| (*of, counts.clone())).collect();
        totals.at_commit = Some(sum(totals.inherited(), &own));
        Snapshot { total: sum(totals.base.clone(), &own), added, own }
    }

    /// The commit came to nothing: this generation counts on.
    pub(crate) fn resume(&self) {
        self.totals().at_commit = None;
    }

    /// Takes the inheritance, the first time that it comes.
    pub(crate) fn inherit(&self, total: &Counts, added: Vec<(u64, Counts)>) {
        let mut totals = self.totals();
        if std::mem::replace(&mut totals.has_inherited, true) {
            return;
        }
        totals.base = sum(std::mem::take(&mut totals.base), total);
        totals.added.extend(added);
    }

    /// Takes down all that a draining generation has added so far. Reports may come by two ways: an older one changes
    /// nothing.
    pub(crate) fn note(&self, generation: u64, added: &Counts) {
        let mut totals = self.totals();
        let known = totals.added.entry(generation).or_default();
        for (name, &count) in added {
            let known = known.entry(name.clone()).or_default();
            *known = count.max(*known);
        }
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        lock(&self.totals)
    }
}

fn sum(mut total: Counts, more: &Counts) -> Counts {
    for (name, count) in more {
        *total.entry(name.clone()).or_default() += count;
    }
    total
}

/// What has been counted since `before`.
pub(crate) fn since(before: &Counts, mut now: Counts) -> Counts {
    for (name, count) in &mut now {
        *count = count.saturating_sub(before.get(name).copied().unwrap_or_default());
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(number: u64) -> Counts {
        Counts::from([("requests".to_owned(), number)])
    }

    fn total(inherited: &Inherited) -> Counts {
        inherited.total(Counts::new)
    }

    fn hand_over(from: &Inherited, own: u64, draining: &[u64], to: &Inherited) {
        let Snapshot { total, added, .. } = from.snapshot(|| counts(own), draining);
        to.inherit(&total, added);
    }

    #[test]
    fn totals_go_on_over_three_generations_of_which_two_drain() {
        let (first, second, third) = (Inherited::default(), Inherited::default(), Inherited::default());
        hand_over(&first, 10, &[], &second);
        second.note(1, &counts(2));
        assert_eq!(total(&second), counts(12));
        hand_over(&second, 5, &[1], &third);
        assert_eq!(total(&third), counts(17));
        third.note(1, &counts(3));
        third.note(2, &counts(1));
        assert_eq!(total(&third), counts(19));
        third.note(1, &counts(2));
        assert_eq!(total(&third), counts(19), "a late report takes nothing away");
        assert_eq!(third.total(|| counts(100)), counts(119));
        let snapshot = third.snapshot(|| counts(100), &[2]);
        let expected = Snapshot { total: counts(118), added: vec![(2, counts(1))], own: counts(100) };
        assert_eq!(snapshot, expected, "what has ended is in the total");
    }

    #[test]
    fn a_generation_that_has_been_replaced_says_what_it_said_then() {
        let inherited = Inherited::default();
        let _ = inherited.snapshot(|| counts(5), &[]);
        assert_eq!(inherited.total(|| counts(7)), counts(5));
        inherited.resume();
        assert_eq!(inherited.total(|| counts(7)), counts(7));
    }

    #[test]
    fn what_was_counted_since_then_is_the_difference() {
        assert_eq!(since(&counts(3), counts(5)), counts(2));
        assert_eq!(since(&Counts::new(), counts(5)), counts(5));
    }
}
