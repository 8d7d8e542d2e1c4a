//! Teams of real threads.

use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use smol::future::yield_now;

use crate::per_team;
use crate::threads::poller::{Arrivals, Registration};
use crate::threads::team::{Place, SHARE, WATCH};
use crate::threads::workers::{PROBE_TIMEOUT, Workers, sizes};

/// Longer than any of this takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a task to its end.
fn spawn<T: Send + 'static>(workers: &Workers, task: impl Future<Output = T> + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = channel();
    workers.spawn(|_| async move {
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
        workers.spawn(|_| async move {
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

/// So many threads, all of them.
fn started(threads: usize) -> Workers {
    let workers = Workers::start(threads).expect("threads");
    workers.start_helpers();
    workers
}

#[test]
fn handlers_that_block_hold_up_nobody_while_a_thread_is_left() {
    let workers = started(3);
    for round in 0..100 {
        let (socket, mut peer) = UnixStream::pair().expect("a pair");
        let (enter, entered) = channel();
        let readable = spawn(&workers, async move {
            let source = Registration::enter(&socket).expect("an entry");
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
    let workers = started(3);
    let (sender, receiver) = channel();
    let end = Instant::now() + DEADLINE;
    let mut seen = HashSet::new();
    while seen.len() < 3 {
        assert!(Instant::now() < end, "only by {seen:?}");
        for _ in 0..30 {
            let sender = sender.clone();
            workers.spawn(|_| async move {
                thread::sleep(Duration::from_millis(1));
                sender.send(thread::current().id()).expect("somebody listens");
            });
        }
        seen.extend((0..30).map(|_| receiver.recv_timeout(DEADLINE).expect("each is run")));
    }
}

#[test]
fn work_for_one_thread_is_done_by_one() {
    let workers = started(3);
    let ran = |_| spawn(&workers, async { thread::current().id() }).recv_timeout(DEADLINE).expect("it is run");
    // A leader that the system does not run is replaced: a busy machine may need more than one look.
    let changes = |_| {
        let seen: Vec<_> = (0..1_000).map(ran).collect();
        seen.windows(2).filter(|pair| pair[0] != pair[1]).count()
    };
    let changes: Vec<_> = (0..20).map(changes).collect();
    assert!(changes.iter().any(|changes| *changes < 100), "the thread changed {changes:?} times in 1000 tasks each");
}

#[test]
fn no_event_is_forgotten_however_the_lead_changes() {
    const ROUNDS: u32 = 200;
    let workers = started(4);
    let echo = |number: u32| {
        let (mut socket, mut peer) = UnixStream::pair().expect("a pair");
        socket.set_nonblocking(true).expect("a socket");
        peer.set_read_timeout(Some(DEADLINE)).expect("a socket");
        workers.spawn(|_| async move {
            let source = Registration::enter(&socket).expect("an entry");
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
        let workers = started(blocked + 1);
        let _blocked = block_threads(&workers, blocked);
        let (end, ended) = channel::<()>();
        let yields = spawn(&workers, async move {
            while ended.try_recv() == Err(TryRecvError::Empty) {
                yield_now().await;
            }
        });
        let (socket, mut peer) = UnixStream::pair().expect("a pair");
        let readable = spawn(&workers, async move {
            let source = Registration::enter(&socket).expect("an entry");
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
    let workers = started(2);
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
    let workers = started(1);
    let blocked = block_threads(&workers, 1);
    for _ in 0..100 {
        workers.spawn(|_| async { thread::sleep(PROBE_TIMEOUT) });
    }
    let probed = thread::scope(|scope| {
        let probe = scope.spawn(|| smol::block_on(workers.probe()));
        while !workers.teams[0].is_probed() {
            thread::yield_now();
        }
        drop(blocked);
        probe.join().expect("it ends")
    });
    assert!(probed);
}

#[test]
fn a_task_that_panics_takes_no_thread_along() {
    let workers = started(1);
    let panics = spawn(&workers, async { panic!("on purpose") });
    assert_eq!(panics.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected));
    spawn(&workers, async {}).recv_timeout(DEADLINE).expect("others are run");
}

#[test]
fn teams_are_as_equal_as_can_be_and_no_larger_than_four() {
    let sizes = |threads| sizes(threads).collect::<Vec<_>>();
    assert_eq!([1, 2, 4].map(sizes), [vec![1], vec![2], vec![4]], "few cores are one team");
    assert_eq!([5, 6, 9].map(sizes), [vec![3, 2], vec![3, 3], vec![3, 3, 3]]);
    for threads in 1..200 {
        assert_eq!(sizes(threads).iter().sum::<usize>(), threads);
    }
}

/// Deals out a connection that lives until the other end of `held` is dropped, and tells when it begins.
fn deal(workers: &Workers, held: &smol::channel::Receiver<()>) -> Receiver<()> {
    let (sender, receiver) = channel();
    let held = held.clone();
    workers.spawn(|mut place| async move {
        place.begin();
        // Nobody may wait for it any more.
        let _ = sender.send(());
        let _ = held.recv().await;
        drop(place);
    });
    receiver
}

#[test]
fn connections_are_dealt_to_who_has_the_fewest() {
    let workers = started(10);
    let mut many: Vec<_> = (0..3).map(|_| workers.teams[0].place()).collect();
    many.iter_mut().for_each(Place::begin);
    let (hold, held) = smol::channel::bounded(1);
    for _ in 0..60 {
        // One at a time: who is late to begin one would get fewer.
        deal(&workers, &held).recv_timeout(DEADLINE).expect("each begins");
    }
    let counts: Vec<_> = workers.teams.iter().map(|team| team.load().1).collect();
    assert_eq!(counts, [21, 21, 21]);
    drop(hold);
    drop(many);
}

#[test]
fn a_team_whose_threads_all_hang_gets_hardly_any_more_connections() {
    let workers = started(8);
    let hung: Vec<_> = (0..4).map(|_| block_team(&workers, 0)).collect();
    let (hold, held) = smol::channel::bounded(1);
    for _ in 0..100 {
        // One at a time, as they come to a server that has time for them.
        let _ = deal(&workers, &held).recv_timeout(Duration::from_millis(20));
    }
    let (waiting, live) = workers.teams[0].load();
    assert!(waiting <= 2 && live <= 2, "{waiting} of {live} wait");
    assert!(workers.teams[1].load().1 >= 98);
    drop((hold, hung));
}

/// Has a thread of this team block until what is returned is dropped.
fn block_team(workers: &Workers, team: usize) -> Sender<()> {
    let (end, ended) = channel();
    let (begin, begun) = channel();
    workers.teams[team].spawn(async move {
        begin.send(()).expect("somebody waits for it");
        let _ = ended.recv();
    });
    begun.recv_timeout(DEADLINE).expect("it is run");
    end
}

#[test]
fn a_probe_asks_each_team() {
    let workers = started(8);
    assert!(smol::block_on(workers.probe()));
    let hung: Vec<_> = (0..4).map(|_| block_team(&workers, 1)).collect();
    assert!(!smol::block_on(workers.probe()), "a team is left out");
    drop(hung);
}

#[test]
fn a_connection_that_a_team_accepts_stays_there_unless_another_has_much_less_to_do() {
    const KEPT: usize = 5;
    let workers = Arc::new(started(5));
    assert_eq!(workers.teams(), 2);
    let (sender, receiver) = channel();
    workers.spawn_in_each(|team| {
        let (own, sender) = (Arc::clone(&workers), sender.clone());
        async move {
            // What is spawned here begins after this, so that all of it waits at a time.
            for _ in 0..if team == 1 { KEPT + 1 } else { 0 } {
                let sender = sender.clone();
                own.spawn(|place| async move {
                    sender.send((per_team::current(), place)).expect("somebody listens");
                });
            }
        }
    });
    let begun: Vec<_> = (0..=KEPT).map(|_| receiver.recv_timeout(DEADLINE).expect("each is run")).collect();
    let kept = begun.iter().filter(|(team, _)| *team == Some(1)).count();
    assert_eq!((kept, begun.len()), (KEPT, KEPT + 1));
}

#[test]
fn a_client_is_accepted_by_a_team_that_has_a_thread_left_whichever_it_is() {
    let workers = started(8);
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").expect("a port"));
    listener.set_nonblocking(true).expect("a socket");
    let (sender, accepted) = channel();
    workers.spawn_in_each(|team| {
        let (listener, sender) = (Arc::clone(&listener), sender.clone());
        async move {
            let own = listener.try_clone().expect("a descriptor");
            let arrivals = Arrivals::new(own, team > 0).expect("an entry");
            loop {
                while listener.accept().is_ok() {
                    sender.send(team).expect("somebody listens");
                }
                poll_fn(|context| arrivals.poll(context)).await;
            }
        }
    });
    for blocked in [0, 1] {
        let hung: Vec<_> = (0..4).map(|_| block_team(&workers, blocked)).collect();
        for _ in 0..20 {
            let _client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
            assert_eq!(accepted.recv_timeout(DEADLINE), Ok(1 - blocked));
        }
        drop(hung);
    }
}
