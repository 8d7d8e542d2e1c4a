//! The threads that serve. They are a team: one leads, which is to wait for events and then to work; the others help
//! where there is more work than the leader can do at once, and rest otherwise. Tasks belong to no thread: whoever is
//! free takes the next one.
//!
//! So a thread is woken only when there is work for one more. If each waited for its own connections, each would be
//! woken for nearly every request, beside one that is awake anyway, and would interrupt whoever had the processor.
//!
//! A leader that does not come back, because a handler blocks or computes, is replaced: the helper that watches takes
//! over, and the old leader is a helper when it returns.
//!
//! The main thread serves nobody but who asks for metrics. It waits in async-io for everything that is no connection,
//! so that a reload is not held up by requests.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use async_task::Runnable;
use smol::Executor;

use crate::poller::Poller;

/// How much work is worth the waking of a helper.
const SHARE: Duration = Duration::from_micros(200);

/// How often a helper looks whether the leader comes back, while there are events at all.
const WATCH: Duration = Duration::from_millis(5);

/// By how much the cost of a task is taken to be more, at least, when one took longer.
const STEP: Duration = Duration::from_micros(1);

/// How many tasks a leader runs before it looks for events again. Those that only yield would keep it from it for ever.
const RUNS_MAX: u32 = 256;

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
    /// Odd while the leader works, even while it waits. It is a leader's as long as it is what it was set to last.
    turn: AtomicU64,
    /// Which helper watches the leader, or `NOBODY`. Somebody does while the leader works and a helper rests.
    watcher: AtomicUsize,
    /// What most tasks take, in nanoseconds, as far as it is known.
    cost: AtomicU64,
}

/// One thread of a team.
#[derive(Debug, Default)]
struct Member {
    /// None before it has begun.
    thread: OnceLock<Thread>,
    /// Whether it waits for a call.
    rests: AtomicBool,
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
        self.team.poller.adopt_thread();
        smol::block_on(self.main.run(future))
    }

    /// Adds work that is no connection.
    pub(crate) fn spawn_on_main(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.main.spawn(task).detach();
    }

    /// Adds a connection.
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let team = Arc::clone(&self.team);
        let (runnable, task) = async_task::spawn(connection, move |runnable| team.add(runnable));
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
            cost: AtomicU64::new(0),
        })
    }

    /// What a thread of the team does. The first one leads.
    fn serve(&self, number: usize) -> ! {
        self.poller.adopt_thread();
        self.members[number].thread.get_or_init(thread::current);
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
        self.call_helpers();
        let begun = Instant::now();
        let tasks = self.work(RUNS_MAX);
        if let Some(each) = begun.elapsed().checked_div(tasks) {
            self.learn(each);
        }
        Some(works)
    }

    /// Helps when it is called, until it has to lead: the turn that the leader does not come back from, or not soon
    /// where tasks take longer than a share.
    fn help(&self, number: usize) -> u64 {
        let member = &self.members[number];
        loop {
            // The task that it takes may block, as may the leader's.
            if !self.is_idle() && !self.is_watched() {
                self.call(1);
            }
            self.work(u32::MAX);
            let turn = self.turn.load(Ordering::SeqCst);
            if is_at_work(turn) && self.cost() >= SHARE {
                return turn;
            }
            let nothing_happened = || self.turn.load(Ordering::SeqCst) == turn;
            // It rests before it looks whether it has to watch: who ceases to watch then sees it.
            member.rests.store(true, Ordering::SeqCst);
            let watches = self.watcher.compare_exchange(NOBODY, number, Ordering::SeqCst, Ordering::SeqCst).is_ok();
            let needed = member.rest(|| self.is_idle(), watches.then_some(WATCH));
            if !watches {
                continue;
            }
            self.watcher.store(NOBODY, Ordering::SeqCst);
            if needed || !nothing_happened() {
                continue;
            }
            if is_at_work(turn) {
                return turn;
            }
            // The leader sees that nobody watches when something happens, and calls somebody.
            member.rests.store(true, Ordering::SeqCst);
            member.rest(nothing_happened, None);
        }
    }

    /// Calls as many helpers as there is work for, and one at least where nobody watches.
    fn call_helpers(&self) {
        let tasks = u32::try_from(self.ready().len()).unwrap_or(u32::MAX);
        let shares = self.cost().saturating_mul(tasks).as_nanos() / SHARE.as_nanos();
        self.call(shares.max(u128::from(!self.is_watched())));
    }

    /// Ends the rest of some helpers, the watching one's last.
    fn call(&self, wanted: u128) {
        let watcher = self.watcher.load(Ordering::SeqCst);
        let others = self.members.iter().enumerate().filter(|(number, _)| *number != watcher).map(|(_, member)| member);
        let resting = others.chain(self.members.get(watcher)).filter(|member| member.rests.load(Ordering::SeqCst));
        resting.zip(0..wanted).for_each(|(member, _)| member.call());
    }

    /// Runs tasks that can go on, so many at most. How many it were.
    fn work(&self, most: u32) -> u32 {
        for done in 0..most {
            let Some(next) = self.next() else { return done };
            next.run();
        }
        most
    }

    fn is_idle(&self) -> bool {
        self.ready().is_empty()
    }

    fn is_watched(&self) -> bool {
        self.watcher.load(Ordering::SeqCst) != NOBODY
    }

    /// Takes note of what each of some tasks took. One that the system interrupted counts no more than any that took
    /// longer than most.
    fn learn(&self, each: Duration) {
        let cost = self.cost();
        let cost = match cost.checked_sub(each) {
            Some(less) => cost.saturating_sub(less / 8),
            None => cost + cost / 8 + STEP,
        };
        self.cost.store(cost.as_nanos().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn cost(&self) -> Duration {
        Duration::from_nanos(self.cost.load(Ordering::Relaxed))
    }

    /// Takes note of a task that can go on.
    fn add(&self, task: Runnable) {
        self.ready().push_back(task);
        self.poller.ring();
    }

    fn next(&self) -> Option<Runnable> {
        self.ready().pop_front()
    }

    fn ready(&self) -> MutexGuard<'_, VecDeque<Runnable>> {
        // Nothing panics while it is held.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Rests until it is called, or for a time, if it still `may`. Whether it is needed.
    fn rest(&self, may: impl FnOnce() -> bool, time: Option<Duration>) -> bool {
        let rested = may();
        match time {
            _ if !rested => {}
            Some(time) => thread::park_timeout(time),
            None => thread::park(),
        }
        !self.rests.swap(false, Ordering::SeqCst) || !rested
    }

    /// Ends its rest.
    fn call(&self) {
        if self.rests.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
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
    use std::sync::mpsc::{Receiver, Sender, channel};

    use smol::future::yield_now;

    use super::*;
    use crate::poller::Source;

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
                    let mut read = 0;
                    while read == 0 {
                        poll_fn(|context| source.poll_readable(context)).await;
                        let before = source.before();
                        // What was reported may have been read already, by a thread that overtook the report.
                        read = socket.read(&mut [0]).unwrap_or(0);
                        source.emptied(before);
                    }
                    // Some outlast a look.
                    match (round * 7 + number) % 40 {
                        0 => thread::sleep(WATCH * 2),
                        1..5 => thread::sleep(SHARE),
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
        let workers = Workers::start(1).expect("threads");
        workers.spawn(async {
            loop {
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
    }
}
