//! The threads that serve. They are a team: one leads, which is to wait for events and then to work; others help while
//! there is more work than one can do at once, and rest otherwise. Tasks belong to no thread: whoever is free takes the
//! next one.
//!
//! A leader that does not come back, because a handler blocks or computes, is replaced: one of the helpers that rest
//! watches, and takes over. The old leader is a helper when it returns.
//!
//! The main thread serves nobody but who asks for metrics. It waits in async-io for everything that is no connection,
//! so that no reload is held up by requests. Whether the team still works it finds out by a probe: a task like any other,
//! but the next one.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::mem::replace;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use async_task::{Builder, Runnable};
use event_listener::Event;
use smol::future::FutureExt;
use smol::{Executor, Timer};

use crate::lock::unpoisoned;
use crate::threads::poller::Poller;

/// How much work is worth the waking of a helper, in nanoseconds.
const SHARE: u64 = 200_000;

/// How often the watching helper looks whether the leader comes back, while there are events at all.
const WATCH: Duration = Duration::from_millis(5);

/// A team that works takes the next task within this time.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The least by which the cost of a task grows when one took longer, in nanoseconds.
const STEP: u64 = 1_000;

/// The leader begins at work.
const FIRST_TURN: u64 = 1;

const NOBODY: usize = usize::MAX;

#[derive(Debug)]
pub(crate) struct Workers {
    main: Executor<'static>,
    team: Arc<Team>,
}

#[derive(Debug)]
struct Team {
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

/// One thread of a team.
#[derive(Debug, Default)]
struct Member {
    rests: Mutex<bool>,
    called: Condvar,
}

impl Workers {
    /// Starts threads, which outlive the value, until the process ends. Fewer if there can be no more, but never none.
    pub(crate) fn start(threads: usize) -> io::Result<Workers> {
        let team = Arc::new(Team::new(threads)?);
        for number in 0..threads {
            let own = Arc::clone(&team);
            match thread::Builder::new().name(format!("reborn-{number}")).spawn(move || own.serve(number)) {
                Ok(_) => {}
                Err(error) if number == 0 => return Err(error),
                Err(error) => {
                    log::warn!("only {number} threads serve: {error}");
                    break;
                }
            }
        }
        Ok(Workers { main: Executor::new(), team })
    }

    /// Runs a future, and what is no connection, on the main thread, until the future ends.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        smol::block_on(self.main.run(future))
    }

    /// Adds work that is no connection.
    pub(crate) fn spawn_on_main(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.main.spawn(task).detach();
    }

    /// Whether a thread takes a task within a second. None does where handlers block or compute on all of them. However
    /// many tasks wait: a team that has much to do works.
    pub(crate) async fn probe(&self) -> bool {
        let over = self.team.probe_over.listen();
        if !self.team.probed.swap(true, Ordering::SeqCst) {
            let (first, team) = (Arc::clone(&self.team), Arc::clone(&self.team));
            let probe = async move {
                team.probed.store(false, Ordering::SeqCst);
                team.probe_over.notify(usize::MAX);
            };
            let (runnable, task) = async_task::spawn(probe, move |runnable| first.add_first(runnable));
            task.detach();
            runnable.schedule();
        }
        let ran = async {
            over.await;
            true
        };
        let late = async {
            Timer::after(PROBE_TIMEOUT).await;
            false
        };
        ran.or(late).await
    }

    /// Adds a connection. If it panics while it runs, only it ends.
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let team = Arc::clone(&self.team);
        let schedule = move |runnable| team.add(runnable);
        let (runnable, task) = Builder::new().propagate_panic(true).spawn(|()| connection, schedule);
        task.detach();
        runnable.schedule();
    }
}

impl Team {
    fn new(threads: usize) -> io::Result<Team> {
        Ok(Team {
            poller: Poller::new()?,
            ready: Mutex::default(),
            members: (0..threads).map(|_| Member::default()).collect(),
            turn: AtomicU64::new(FIRST_TURN),
            watcher: AtomicUsize::new(NOBODY),
            resting: AtomicUsize::new(0),
            cost: AtomicU64::new(0),
            probed: AtomicBool::new(false),
            probe_over: Event::new(),
        })
    }

    /// What a thread of the team does. The first one leads.
    fn serve(&self, number: usize) -> ! {
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};

    use smol::future::yield_now;

    use super::*;
    use crate::threads::poller::Source;

    /// Longer than any of this takes.
    const DEADLINE: Duration = Duration::from_secs(20);

    /// Runs a task to its end.
    fn spawn<T: Send + 'static>(workers: &Workers, task: impl Future<Output = T> + Send + 'static) -> Receiver<T> {
        let (sender, receiver) = channel();
        workers.spawn(async move {
            // Nobody may wait for it any more.
            let _ = sender.send(task.await);
        });
        receiver
    }

    /// Has so many threads block until what is returned is dropped.
    fn block_threads(workers: &Workers, count: usize) -> Sender<()> {
        let (end, ended) = channel();
        let ended = Arc::new(Mutex::new(ended));
        let (begin, begun) = channel();
        for _ in 0..count {
            let (begin, ended) = (begin.clone(), Arc::clone(&ended));
            workers.spawn(async move {
                begin.send(()).expect("somebody waits for it");
                // Whoever has the lock waits for the end, the others for the lock.
                let _ = ended.lock().expect("nobody panics").recv();
            });
        }
        for _ in 0..count {
            begun.recv_timeout(DEADLINE).expect("it is run");
        }
        end
    }

    #[test]
    fn handlers_that_block_hold_up_nobody_while_a_thread_is_left() {
        let workers = Workers::start(3).expect("threads");
        for round in 0..100 {
            let (socket, mut peer) = UnixStream::pair().expect("a pair");
            let (enter, entered) = channel();
            let readable = spawn(&workers, async move {
                let source = Source::enter(&socket).expect("an entry");
                enter.send(()).expect("somebody waits for it");
                poll_fn(|context| source.poll_readable(context)).await;
            });
            entered.recv_timeout(DEADLINE).expect("it has begun");
            let _blocked = if round % 3 == 0 {
                vec![block_threads(&workers, 2)]
            } else {
                vec![block_threads(&workers, 1), block_threads(&workers, 1)]
            };
            spawn(&workers, async {}).recv_timeout(DEADLINE).expect("a thread runs what is new");
            peer.write_all(b"a").expect("room");
            readable.recv_timeout(DEADLINE).expect("a thread waits for events");
            // So that no thread watches when the next ones block.
            thread::sleep(WATCH * 3 * (round % 2));
        }
    }

    #[test]
    fn much_work_is_done_by_all_threads() {
        let workers = Workers::start(3).expect("threads");
        let (sender, receiver) = channel();
        let end = Instant::now() + DEADLINE;
        let mut seen = HashSet::new();
        while seen.len() < 3 {
            assert!(Instant::now() < end, "only by {seen:?}");
            for _ in 0..30 {
                let sender = sender.clone();
                workers.spawn(async move {
                    thread::sleep(Duration::from_millis(1));
                    sender.send(thread::current().id()).expect("somebody listens");
                });
            }
            seen.extend((0..30).map(|_| receiver.recv_timeout(DEADLINE).expect("each is run")));
        }
    }

    #[test]
    fn work_for_one_thread_is_done_by_one() {
        let workers = Workers::start(3).expect("threads");
        let ran = |_| spawn(&workers, async { thread::current().id() }).recv_timeout(DEADLINE).expect("it is run");
        // A leader that the system does not run is replaced: a busy machine may need more than one look.
        let changes = |_| {
            let seen: Vec<_> = (0..1_000).map(ran).collect();
            seen.windows(2).filter(|pair| pair[0] != pair[1]).count()
        };
        let changes: Vec<_> = (0..20).map(changes).collect();
        assert!(
            changes.iter().any(|changes| *changes < 100),
            "the thread changed {changes:?} times in 1000 tasks each"
        );
    }

    #[test]
    fn no_event_is_forgotten_however_the_lead_changes() {
        const ROUNDS: u32 = 200;
        let workers = Workers::start(4).expect("threads");
        let echo = |number: u32| {
            let (mut socket, mut peer) = UnixStream::pair().expect("a pair");
            socket.set_nonblocking(true).expect("a socket");
            peer.set_read_timeout(Some(DEADLINE)).expect("a socket");
            workers.spawn(async move {
                let source = Source::enter(&socket).expect("an entry");
                for round in 0..ROUNDS {
                    loop {
                        poll_fn(|context| source.poll_readable(context)).await;
                        let before = source.before();
                        let read = socket.read(&mut [0]);
                        source.emptied(before);
                        match read {
                            // It was reported by one thread after another had read it.
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                            read => break assert_eq!(read.expect("a socket"), 1),
                        }
                    }
                    // Some outlast a look.
                    match (round * 7 + number) % 40 {
                        0 => thread::sleep(WATCH * 2),
                        1..5 => thread::sleep(Duration::from_nanos(SHARE)),
                        _ => {}
                    }
                    socket.write_all(b"b").expect("room");
                }
            });
            thread::spawn(move || {
                for round in 0..ROUNDS {
                    peer.write_all(b"a").expect("room");
                    peer.read_exact(&mut [0]).unwrap_or_else(|error| panic!("{number}, {round}: {error}"));
                }
            })
        };
        let clients: Vec<_> = (0..16).map(echo).collect();
        assert!(clients.into_iter().all(|client| client.join().is_ok()));
    }

    #[test]
    fn tasks_that_only_yield_keep_no_event_out() {
        for blocked in [0, 1] {
            let workers = Workers::start(blocked + 1).expect("threads");
            let _blocked = block_threads(&workers, blocked);
            let (end, ended) = channel::<()>();
            let yields = spawn(&workers, async move {
                while ended.try_recv() == Err(TryRecvError::Empty) {
                    yield_now().await;
                }
            });
            let (socket, mut peer) = UnixStream::pair().expect("a pair");
            let readable = spawn(&workers, async move {
                let source = Source::enter(&socket).expect("an entry");
                poll_fn(|context| source.poll_readable(context)).await;
            });
            peer.write_all(b"a").expect("room");
            readable.recv_timeout(DEADLINE).expect("events get their turn");
            drop(end);
            yields.recv_timeout(DEADLINE).expect("it ends");
        }
    }

    #[test]
    fn a_probe_finds_out_whether_a_thread_is_left() {
        let workers = Workers::start(2).expect("threads");
        assert!(smol::block_on(workers.probe()));
        let one = block_threads(&workers, 1);
        assert!(smol::block_on(workers.probe()), "a thread is left");
        let other = block_threads(&workers, 1);
        assert!(!smol::block_on(workers.probe()));
        drop(other);
        let end = Instant::now() + DEADLINE;
        while !smol::block_on(workers.probe()) {
            assert!(Instant::now() < end, "it works again");
        }
        drop(one);
    }

    #[test]
    fn a_probe_passes_all_tasks_that_wait() {
        let workers = Workers::start(1).expect("threads");
        let blocked = block_threads(&workers, 1);
        for _ in 0..100 {
            workers.spawn(async { thread::sleep(PROBE_TIMEOUT) });
        }
        let probed = thread::scope(|scope| {
            let probe = scope.spawn(|| smol::block_on(workers.probe()));
            while !workers.team.probed.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            drop(blocked);
            probe.join().expect("it ends")
        });
        assert!(probed);
    }

    #[test]
    fn a_task_that_panics_takes_no_thread_along() {
        let workers = Workers::start(1).expect("threads");
        let panics = spawn(&workers, async { panic!("on purpose") });
        assert_eq!(panics.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected));
        spawn(&workers, async {}).recv_timeout(DEADLINE).expect("others are run");
    }
}
