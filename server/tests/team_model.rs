//! The team's protocol and the poller's readiness, walked through many interleavings by shuttle.
//!
//! What is compiled here are the sources that serve, `threads/team.rs` and `threads/poller.rs`, on other ground: `sync` has
//! shuttle's locks and atomics, each access to which is a point where another thread may go on, and `epoll` a kernel of
//! our own. Timeouts pass at any time, so leaders, helpers and watchers are as late as they can be. A wake-up that gets lost
//! is a deadlock, which shuttle finds and shows with the schedule that leads to it. In a test run it takes seconds;
//! `just model` walks for minutes.

// Not all that serves is used here, and what stands in for std and the system has to look like them.
#![allow(dead_code, clippy::needless_pass_by_value, clippy::unnecessary_wraps)]
#![allow(clippy::unused_self, clippy::trivially_copy_pass_by_ref)]

#[path = "../src/lock.rs"]
mod lock;

#[path = "team_model/threads.rs"]
mod threads;

use std::future::{Future, poll_fn};
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::task::Poll;

use futures_lite::future::{or, yield_now};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::{Condvar, Mutex};
use shuttle::{Config, Runner, future, thread};
use threads::epoll::Socket;
use threads::poller::{Arrivals, Poller, Registration};
use threads::team::Team;

/// How many schedules a scene is walked through, of each kind.
const SCHEDULES: usize = 400;
const SCHEDULES_LONG: usize = 100_000;

/// How often the scheduler that looks for rare orders changes its mind.
const DEPTH: usize = 4;

/// What a thread of the model has for its stack.
const STACK_BYTES: usize = 512 * 1024;

/// Walks a scene.
fn walk(scene: impl Fn() + Send + Sync + Copy + 'static) {
    let long = std::env::var("REBORN_TEST_MODEL").is_ok_and(|form| form == "long");
    let schedules = if long { SCHEDULES_LONG } else { SCHEDULES };
    let config = || {
        let mut config = Config::new();
        config.stack_size = STACK_BYTES;
        config
    };
    Runner::new(RandomScheduler::new(schedules), config()).run(scene);
    Runner::new(PctScheduler::new(DEPTH, schedules), config()).run(scene);
}

/// A team of so many threads, at work until the scene is over.
fn team(threads: usize) -> Arc<Team> {
    let team = Arc::new(Team::new(threads).expect("nothing fails here"));
    for number in 0..threads {
        let own = Arc::clone(&team);
        // What shuttle calls a future is to it a thread like the others, but for one thing: where nobody waits for it, it
        // does not keep the scene from ending.
        drop(future::spawn(async move {
            own.serve(number);
        }));
    }
    team
}

/// A poller in which a thread of its own waits all the time, and which is the present one's.
fn polled() {
    let poller = Poller::new().expect("nothing fails here");
    poller.adopt_thread();
    drop(future::spawn(async move {
        loop {
            poller.wait(|| true);
        }
    }));
}

/// A count that is waited for.
#[derive(Clone, Default)]
struct Count(Arc<(Mutex<usize>, Condvar)>);

impl Count {
    fn add(&self) {
        *self.0.0.lock().expect("no panic") += 1;
        self.0.1.notify_all();
    }

    /// Blocks the thread until it is so much.
    fn wait(&self, most: usize) {
        let mut count = self.0.0.lock().expect("no panic");
        while *count < most {
            count = self.0.1.wait(count).expect("no panic");
        }
    }
}

/// Has the poller watch a socket for which somebody waits, as a connection does: it is entered where a poll is pending.
fn watched(polled: Poll<()>, socket: &Arc<Socket>, source: &Registration) -> Poll<()> {
    if polled.is_pending() {
        source.watch(socket).expect("nothing fails here");
    }
    polled
}

/// Reads so many bytes as a connection does: the first on trust, and a receive that brings less than there was room for has
/// emptied the socket.
async fn read(socket: &Arc<Socket>, source: &Registration, wanted: usize) {
    let (mut had, mut trusts) = (0, true);
    while had < wanted {
        if !std::mem::take(&mut trusts) {
            poll_fn(|task| watched(source.poll_readable(task), socket, source)).await;
        }
        let before = source.before();
        let room = (wanted - had).min(2);
        match socket.receive(room) {
            Ok(0) => panic!("it was not closed"),
            Ok(count) => {
                had += count;
                if count < room {
                    source.fell_short(before);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => source.emptied(before),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Adds a task to a team and counts its end.
fn spawn(team: &Arc<Team>, done: &Count, task: impl Future<Output = ()> + Send + 'static) {
    let done = done.clone();
    team.spawn(async move {
        task.await;
        done.add();
    });
}

#[test]
fn every_task_is_run_to_its_end_however_often_it_yields() {
    walk(|| {
        let (team, done) = (team(2), Count::default());
        for yields in 0..3 {
            spawn(&team, &done, async move {
                for _ in 0..yields {
                    yield_now().await;
                }
            });
        }
        done.wait(3);
    });
}

#[test]
fn a_task_that_panics_takes_no_thread_along() {
    walk(|| {
        let (team, done) = (team(2), Count::default());
        for _ in 0..2 {
            spawn(&team, &Count::default(), async { resume_unwind(Box::new("on purpose")) });
            spawn(&team, &done, yield_now());
        }
        done.wait(2);
    });
}

/// Blocks so many of the threads of a team, at any time, while others are wanted by a task and by an event.
fn some_block(threads: usize, blocked: usize) {
    let (team, done, gate, over) = (team(threads), Count::default(), Count::default(), Count::default());
    let socket = Arc::new(Socket::default());
    let reads = Arc::clone(&socket);
    spawn(&team, &done, async move {
        let source = Registration::enter(&reads).expect("an entry");
        read(&reads, &source, 2).await;
    });
    for _ in 0..blocked {
        let gate = gate.clone();
        spawn(&team, &over, async move { gate.wait(1) });
    }
    socket.arrive();
    spawn(&team, &done, yield_now());
    socket.arrive();
    // While they block.
    done.wait(2);
    gate.add();
    over.wait(blocked);
}

#[test]
fn a_leader_that_blocks_is_replaced_and_is_a_helper_when_it_returns() {
    walk(|| some_block(2, 1));
}

#[test]
fn one_thread_that_is_left_is_enough() {
    walk(|| some_block(3, 2));
}

#[test]
fn who_blocks_and_returns_again_and_again_holds_up_nobody() {
    walk(|| {
        let (team, done) = (team(3), Count::default());
        let (there, back) = (Count::default(), Count::default());
        for _ in 0..2 {
            let (there, back) = (there.clone(), back.clone());
            spawn(&team, &done, async move {
                for round in 1..=2 {
                    there.add();
                    back.wait(round);
                    yield_now().await;
                }
            });
        }
        for round in 1..=2 {
            there.wait(round * 2);
            // Both block now: the third thread has to do this.
            let other = Count::default();
            spawn(&team, &other, yield_now());
            other.wait(1);
            back.add();
        }
        done.wait(2);
    });
}

#[test]
fn no_byte_is_forgotten_whatever_happens_between_its_coming_and_its_report() {
    walk(|| {
        let (team, done) = (team(2), Count::default());
        let sockets: Vec<Arc<Socket>> = (0..2).map(|_| Arc::default()).collect();
        for socket in &sockets {
            let socket = Arc::clone(socket);
            spawn(&team, &done, async move {
                let source = Registration::new().expect("a place");
                read(&socket, &source, 3).await;
            });
        }
        let others: Vec<_> = sockets.iter().map(Arc::clone).collect();
        let other = thread::spawn(move || others.iter().for_each(|socket| socket.arrive()));
        sockets.iter().chain(&sockets).for_each(|socket| socket.arrive());
        done.wait(2);
        other.join().expect("it does not panic");
    });
}

/// Reads so many bytes while they come and are reported.
fn read_while_they_come(bytes: usize) {
    polled();
    let socket = Arc::<Socket>::default();
    let source = Registration::new().expect("a place");
    let other = Arc::clone(&socket);
    let other = thread::spawn(move || (0..bytes).for_each(|_| other.arrive()));
    future::block_on(read(&socket, &source, bytes));
    other.join().expect("it does not panic");
}

#[test]
fn what_comes_while_something_is_tried_is_not_taken_for_what_was_there() {
    walk(|| read_while_they_come(1));
    walk(|| read_while_they_come(3));
}

#[test]
fn whoever_waits_first_of_two_both_learn_of_what_they_wait_for() {
    walk(|| {
        polled();
        let socket = Arc::<Socket>::default();
        let source = Arc::new(Registration::new().expect("a place"));
        let (gone, its) = (Arc::clone(&socket), Arc::clone(&source));
        let watcher = thread::spawn(move || {
            future::block_on(poll_fn(|task| watched(its.poll_gone(task), &gone, &its)));
        });
        let other = Arc::clone(&socket);
        let other = thread::spawn(move || {
            other.arrive();
            other.close();
        });
        future::block_on(read(&socket, &source, 1));
        watcher.join().expect("it does not panic");
        other.join().expect("it does not panic");
    });
}

#[test]
fn an_event_that_was_taken_before_its_entry_was_gone_is_not_its_heirs() {
    walk(|| {
        polled();
        let (first, second) = (Arc::<Socket>::default(), Arc::<Socket>::default());
        let gone = Registration::enter(&first).expect("an entry");
        let other = Arc::clone(&first);
        let other = thread::spawn(move || other.arrive());
        gone.leave(&first).expect("it was entered");
        let heir = Registration::enter(&second).expect("an entry");
        for _ in 0..3 {
            let is_told = future::block_on(poll_fn(|task| Poll::Ready(heir.poll_readable(task).is_ready())));
            assert!(!is_told, "nothing has come");
            thread::yield_now();
        }
        other.join().expect("it does not panic");
    });
}

/// Accepts so many clients, as an accept loop does: it waits where nobody is there.
async fn accept(queue: &Arc<Socket>, clients: usize) {
    let arrivals = Arrivals::new(Arc::clone(queue), false).expect("an entry");
    let mut had = 0;
    while had < clients {
        if queue.receive(1).is_ok() {
            had += 1;
        } else {
            poll_fn(|task| arrivals.poll(task)).await;
        }
    }
}

#[test]
fn no_client_waits_for_another_one_to_be_accepted() {
    walk(|| {
        let (team, done) = (team(2), Count::default());
        let queue = Arc::<Socket>::default();
        let accepts = Arc::clone(&queue);
        spawn(&team, &done, async move { accept(&accepts, 3).await });
        let other = Arc::clone(&queue);
        let other = thread::spawn(move || other.arrive());
        (0..2).for_each(|_| queue.arrive());
        done.wait(1);
        other.join().expect("it does not panic");
    });
}

#[test]
fn a_pause_leaves_clients_to_others_and_what_came_meanwhile_is_seen_after_it() {
    walk(|| {
        let (team, done) = (team(2), Count::default());
        let queue = Arc::<Socket>::default();
        let accepts = Arc::clone(&queue);
        spawn(&team, &done, async move {
            accept(&accepts, 1).await;
            yield_now().await;
            accept(&accepts, 1).await;
        });
        (0..2).for_each(|_| queue.arrive());
        done.wait(1);
    });
}

#[test]
fn who_has_filled_a_socket_learns_of_its_room() {
    walk(|| {
        let (team, done) = (team(2), Count::default());
        let socket = Arc::<Socket>::default();
        let writes = Arc::clone(&socket);
        spawn(&team, &done, async move {
            let source = Registration::new().expect("a place");
            let mut sent = 0;
            while sent < 3 {
                let before = source.before();
                if writes.send() {
                    sent += 1;
                } else {
                    source.filled(before);
                    poll_fn(|task| watched(source.poll_writable(task), &writes, &source)).await;
                }
            }
        });
        // One that is taken makes room for one.
        (0..2).for_each(|_| socket.take());
        done.wait(1);
    });
}

#[test]
fn an_entry_that_has_left_goes_on_elsewhere_and_leaves_nothing_to_its_heir() {
    walk(|| {
        let (team, done) = (team(2), Count::default());
        let (first, heir) = (Arc::<Socket>::default(), Arc::<Socket>::default());
        let (moved, begun) = (Arc::clone(&first), Count::default());
        let (inherits, told) = (Arc::clone(&heir), begun.clone());
        spawn(&team, &done, async move {
            let source = Registration::enter(&moved).expect("an entry");
            read(&moved, &source, 1).await;
            source.leave(&moved).expect("it was entered");
            let heir = Registration::enter(&inherits).expect("an entry");
            // Its slot was the first one's, of whom an event may have been taken already.
            for _ in 0..3 {
                let is_told = poll_fn(|task| Poll::Ready(heir.poll_readable(task).is_ready())).await;
                assert!(!is_told, "nothing has come");
                yield_now().await;
            }
            told.add();
            read(&inherits, &heir, 1).await;
            // Another process would go on with what has come meanwhile; here another entry does.
            let again = Registration::enter(&moved).expect("an entry");
            read(&moved, &again, 1).await;
        });
        first.arrive();
        first.arrive();
        first.close();
        begun.wait(1);
        heir.arrive();
        done.wait(1);
    });
}

#[test]
fn who_waits_for_the_end_of_a_client_learns_of_it_beside_whatever_else_he_waits_for() {
    walk(|| {
        let (team, done) = (team(2), Count::default());
        let socket = Arc::<Socket>::default();
        let waits = Arc::clone(&socket);
        spawn(&team, &done, async move {
            let source = Registration::enter(&waits).expect("an entry");
            let gone = poll_fn(|task| source.poll_gone(task));
            // A handler that never answers, and another one that only yields.
            or(gone, async {
                loop {
                    // Without this the scheduler that prefers threads might let it run for ever.
                    thread::yield_now();
                    yield_now().await;
                }
            })
            .await;
            poll_fn(|task| source.poll_readable(task)).await;
            poll_fn(|task| source.poll_writable(task)).await;
        });
        socket.arrive();
        socket.close();
        done.wait(1);
    });
}

#[test]
fn a_probe_is_answered_beside_tasks_that_never_end_and_a_thread_that_blocks() {
    walk(|| {
        let (team, gate, over) = (team(2), Count::default(), Count::default());
        let opens = gate.clone();
        spawn(&team, &over, async move { opens.wait(1) });
        let asked = [team.probe(), team.probe()];
        for over in asked {
            future::block_on(over);
        }
        gate.add();
        over.wait(1);
        future::block_on(team.probe());
    });
}

#[test]
fn places_are_counted_from_the_dealing_to_the_end() {
    walk(|| {
        let (team, done) = (team(2), Count::default());
        for _ in 0..2 {
            let mut place = team.place();
            spawn(&team, &done, async move {
                place.begin();
                yield_now().await;
                drop(place);
            });
        }
        done.wait(2);
        assert_eq!(team.load(), (0, 0));
    });
}
