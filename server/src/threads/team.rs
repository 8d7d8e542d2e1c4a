//! A team: threads with one queue of tasks and one poller. One leads, which is to wait for events and then to work; others
//! help while there is more work than one can do at once, and rest otherwise. Tasks belong to no thread of the team:
//! whoever is free takes the next one.
//!
//! A leader that does not come back, because a handler blocks or computes, is replaced: one of the helpers that rest
//! watches, and takes over. The old leader is a helper when it returns. Who starts the threads, and how many teams there
//! are, is the matter of `workers`.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::mem::replace;
use std::sync::Arc;
use std::time::Duration;

use async_task::{Builder, Runnable};
use event_listener::{Event, EventListener};

use crate::lock::unpoisoned;
use crate::threads::poller::Poller;
use crate::threads::sync::{AtomicBool, AtomicU64, AtomicUsize, Condvar, Instant, Mutex, MutexGuard, Ordering};

/// How much work is worth the waking of a helper, in nanoseconds.
pub(crate) const SHARE: u64 = 200_000;

/// How often the watching helper looks whether the leader comes back, while there are events at all.
pub(crate) const WATCH: Duration = Duration::from_millis(5);

/// The least by which the cost of a task grows when one took longer, in nanoseconds.
const STEP: u64 = 1_000;

/// The leader begins at work.
const FIRST_TURN: u64 = 1;

const NOBODY: usize = usize::MAX;

/// Its memory shares no cache line with anything else, nor with the count of those who refer to it.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Team {
    load: Load,
    poller: Arc<Poller>,
    /// Tasks that can go on.
    ready: Mutex<VecDeque<Runnable>>,
    members: Vec<Member>,
    /// Odd while the leader works, even while it waits. Whoever set it last leads.
    turn: AtomicU64,
    /// Which helper watches the leader, or `NOBODY`.
    watcher: AtomicUsize,
    /// How many rest, or are about to.
    resting: AtomicUsize,
    /// What a task takes in most turns of late, in nanoseconds.
    cost: AtomicU64,
    /// Whether a probe is among the tasks, and who waits for it.
    probed: AtomicBool,
    probe_over: Event,
}

/// What a team has to do, for whoever deals out connections: nothing that serves looks at it between two of them.
#[derive(Debug)]
#[repr(align(128))]
struct Load {
    /// Connections that have not had their first turn.
    waiting: AtomicUsize,
    /// All connections.
    live: AtomicUsize,
}

/// The place of a connection in its team, as long as this lives.
#[derive(Debug)]
pub(crate) struct Place {
    team: Arc<Team>,
    waits: bool,
}

/// One thread of a team.
#[derive(Debug, Default)]
struct Member {
    rests: Mutex<bool>,
    called: Condvar,
}

impl Team {
    /// A team of so many threads, of which the first has to [`serve`](Team::serve) in it, and each other may.
    pub(crate) fn new(threads: usize) -> io::Result<Team> {
        Ok(Team {
            load: Load { waiting: AtomicUsize::new(0), live: AtomicUsize::new(0) },
            poller: Poller::new()?,
            ready: Mutex::new(VecDeque::new()),
            members: (0..threads).map(|_| Member::default()).collect(),
            turn: AtomicU64::new(FIRST_TURN),
            watcher: AtomicUsize::new(NOBODY),
            resting: AtomicUsize::new(0),
            cost: AtomicU64::new(0),
            probed: AtomicBool::new(false),
            probe_over: Event::new(),
        })
    }

    /// How many threads it is for.
    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    /// Adds a connection. If it panics while it runs, only it ends.
    pub(crate) fn spawn(self: &Arc<Self>, connection: impl Future<Output = ()> + Send + 'static) {
        let team = Arc::clone(self);
        let schedule = move |runnable| team.add(runnable);
        let (runnable, task) = Builder::new().propagate_panic(true).spawn(|()| connection, schedule);
        task.detach();
        runnable.schedule();
    }

    /// What it has to do: how many connections wait for their first turn, and how many there are.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.load.waiting.load(Ordering::Relaxed), self.load.live.load(Ordering::Relaxed))
    }

    /// A place for a connection that is about to be added.
    pub(crate) fn place(self: &Arc<Self>) -> Place {
        self.load.waiting.fetch_add(1, Ordering::Relaxed);
        self.load.live.fetch_add(1, Ordering::Relaxed);
        Place { team: Arc::clone(self), waits: true }
    }

    /// Asks for a task to be taken, the next one of all, and tells when it was. That is never where handlers block or compute
    /// on all threads.
    pub(crate) fn probe(self: &Arc<Self>) -> EventListener {
        let over = self.probe_over.listen();
        if !self.probed.swap(true, Ordering::SeqCst) {
            let (first, team) = (Arc::clone(self), Arc::clone(self));
            let probe = async move {
                team.probed.store(false, Ordering::SeqCst);
                team.probe_over.notify(usize::MAX);
            };
            let (runnable, task) = async_task::spawn(probe, move |runnable| first.add_first(runnable));
            task.detach();
            runnable.schedule();
        }
        over
    }

    /// Whether a probe is among the tasks.
    #[cfg(test)]
    pub(crate) fn is_probed(&self) -> bool {
        self.probed.load(Ordering::SeqCst)
    }

    /// What a thread of the team does. The first one leads.
    pub(crate) fn serve(&self, number: usize) -> ! {
        self.poller.adopt_thread();
        let mut turn = (number == 0).then_some(FIRST_TURN);
        loop {
            turn = match turn {
                Some(turn) => self.lead(turn),
                None => Some(self.help(number)),
            }
        }
    }

    /// Waits for events and does the work that they bring, with helpers if it is much. The next turn; None if another
    /// thread leads by now.
    fn lead(&self, turn: u64) -> Option<u64> {
        let (waits, works) = (turn + 1, turn + 2);
        self.turn.compare_exchange(turn, waits, Ordering::SeqCst, Ordering::SeqCst).ok()?;
        self.poller.wait(|| self.is_idle());
        self.turn.store(works, Ordering::SeqCst);
        let ready = self.ready().len();
        let shares = self.cost.load(Ordering::Relaxed).saturating_mul(ready as u64) / SHARE;
        self.call(usize::try_from(shares).map_or(ready, |shares| shares.min(ready)));
        let begun = Instant::now();
        let tasks = self.work();
        self.learn(begun.elapsed(), tasks);
        Some(works)
    }

    /// Helps when it is called, until it has to lead: a turn that the leader may not come back from soon.
    fn help(&self, number: usize) -> u64 {
        loop {
            let turn = self.turn.load(Ordering::SeqCst);
            let nothing_happened = || self.turn.load(Ordering::SeqCst) == turn;
            self.work();
            let is_busy = !self.is_idle() || self.cost.load(Ordering::Relaxed) >= SHARE;
            if is_busy && is_at_work(turn) {
                return turn;
            }
            let mut watches = false;
            // It rests already when it finds that another watches: that one, when it ceases to, looks for who rests.
            let called = self.rest(number, || {
                watches = self.watcher.compare_exchange(NOBODY, number, Ordering::SeqCst, Ordering::SeqCst).is_ok();
                if watches { WATCH } else { Duration::MAX }
            });
            if !watches {
                continue;
            }
            self.watcher.store(NOBODY, Ordering::SeqCst);
            if called || !nothing_happened() {
                continue;
            }
            if is_at_work(turn) {
                return turn;
            }
            // Nobody watches now. Whoever has a task next sees that, and calls somebody.
            self.rest(number, || if nothing_happened() { Duration::MAX } else { Duration::ZERO });
        }
    }

    /// Has a thread rest as [`Member::rest`] says.
    fn rest(&self, number: usize, time: impl FnOnce() -> Duration) -> bool {
        self.resting.fetch_add(1, Ordering::SeqCst);
        let called = self.members[number].rest(time);
        self.resting.fetch_sub(1, Ordering::SeqCst);
        called
    }

    /// Runs as many tasks as can go on now, and returns how many it ran. Those that only yield get one run each.
    fn work(&self) -> usize {
        let most = self.ready().len();
        for done in 0..most {
            let next = self.ready().pop_front();
            let Some(task) = next else { return done };
            // It may block, whoever runs it.
            if self.watcher.load(Ordering::SeqCst) == NOBODY {
                self.call(1);
            }
            task.run();
        }
        most
    }

    /// Takes note of how long some tasks took. An interrupted turn counts no more than any that took longer than most.
    fn learn(&self, time: Duration, tasks: usize) {
        let Some(each) = time.as_nanos().checked_div(tasks as u128) else { return };
        let cost = self.cost.load(Ordering::Relaxed);
        let cost = match u64::try_from(each).ok().and_then(|each| cost.checked_sub(each)) {
            Some(less) => cost - less / 8,
            None => cost.saturating_add(cost / 8 + STEP),
        };
        self.cost.store(cost, Ordering::Relaxed);
    }

    /// Ends the rest of so many helpers, if so many rest; that of the one that watches last.
    fn call(&self, wanted: usize) {
        if self.resting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let watcher = self.watcher.load(Ordering::SeqCst);
        let others = self.members.iter().enumerate().filter(|(number, _)| *number != watcher).map(|(_, member)| member);
        let called = others.chain(self.members.get(watcher)).filter(|member| member.call());
        called.take(wanted).for_each(drop);
    }

    /// Takes note of a task that can go on.
    fn add(&self, task: Runnable) {
        self.ready().push_back(task);
        self.poller.ring();
    }

    /// Takes note of a task that is the next one to go on.
    fn add_first(&self, task: Runnable) {
        self.ready().push_front(task);
        self.poller.ring();
    }

    fn is_idle(&self) -> bool {
        self.ready().is_empty()
    }

    fn ready(&self) -> MutexGuard<'_, VecDeque<Runnable>> {
        // Nothing panics while it is held.
        unpoisoned(self.ready.lock())
    }
}

impl Place {
    /// Says that the connection has its first turn.
    pub(crate) fn begin(&mut self) {
        if replace(&mut self.waits, false) {
            self.team.load.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.begin();
        self.team.load.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Member {
    /// Rests until it is called, or for a time, which is asked for when a call already counts. Whether it was called.
    fn rest(&self, time: impl FnOnce() -> Duration) -> bool {
        *self.rests() = true;
        let time = time();
        let waited = self.called.wait_timeout_while(self.rests(), time, |rests| *rests);
        let (mut rests, _) = unpoisoned(waited);
        !replace(&mut *rests, false)
    }

    /// Ends its rest; false if it does not rest.
    fn call(&self) -> bool {
        let rested = replace(&mut *self.rests(), false);
        if rested {
            self.called.notify_one();
        }
        rested
    }

    fn rests(&self) -> MutexGuard<'_, bool> {
        // Nothing panics while it is held.
        unpoisoned(self.rests.lock())
    }
}

fn is_at_work(turn: u64) -> bool {
    turn % 2 == 1
}
