//! Slow and hostile clients, and clients that speak or leave in the very instant of a reload: each gets the right answer
//! once or a clean end, and nothing hangs past its deadline.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use smol::{Timer, block_on, future};
use tests::load::{Connection, Limits, Look, Request, Target};
use tests::network::Network;
use tests::{DEADLINE, Ended, Process, Reborn, Server};

fn connect(server: &Server) -> Connection {
    let limits = Limits { answer: DEADLINE, ..Limits::default() };
    block_on(Connection::open(&Target::Tcp(server.address()), limits)).unwrap()
}

fn start(arguments: &[&str]) -> Server {
    Reborn::new().demo().probation_ms(0).args(["--log", "debug"]).args(arguments).start()
}

#[track_caller]
fn send(connection: &Connection, text: &str) {
    block_on(connection.send(text.as_bytes())).unwrap();
}

/// How many times as long as in CI the campaigns are: `just endurance` makes them long.
fn scale() -> usize {
    std::env::var("REBORN_TEST_SCALE").map_or(1, |text| text.parse().unwrap())
}

#[track_caller]
fn assert_balanced(server: &Server) {
    assert!(!server.log().contains("does not balance"), "{}", server.log());
}

#[test]
fn a_slow_head_and_an_idle_connection_reach_their_deadlines_however_often_they_move() {
    let server = start(&["--head-timeout", "4s", "--idle-timeout", "6s"]);
    let (mut slow, idle) = (connect(&server), connect(&server));
    block_on(async {
        slow.exchange(&Request::fast("first")).await.unwrap();
        slow.send(b"GET / HTTP/1.1\r\nx-slow: ").await.unwrap();
    });
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    let (refused, closed) = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Three times as long as the clients may take, and more often than either deadline.
            while !over.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(24) {
                server.reload().assert_success();
                block_on(Timer::after(Duration::from_millis(300)));
            }
        });
        let both = block_on(async {
            let refused = async {
                while slow.look() == Look::Open {
                    // An error means that the server has closed, and then there is something to see.
                    let _ = slow.send(b"a").await;
                    Timer::after(Duration::from_millis(50)).await;
                }
                (begun.elapsed(), slow.answer().await.unwrap().status)
            };
            let closed = async {
                let look = idle.changed().await;
                (begun.elapsed(), look)
            };
            future::zip(refused, closed).await
        });
        over.store(true, Ordering::Relaxed);
        both
    });
    assert_eq!((refused.1, closed.1), (408, Look::Fin));
    assert!(refused.0 < Duration::from_secs(12) && closed.0 < Duration::from_secs(14), "{refused:?}, {closed:?}");
    assert!(server.generation() > 3, "they moved");
    assert_balanced(&server);
}

#[test]
fn a_client_that_never_reads_is_cut_at_the_write_timeout_and_keeps_no_old_process() {
    let server = start(&["--write-timeout", "1s"]);
    let old = server.pid();
    let deaf = connect(&server);
    let body = vec![b'a'; 64 * 1024];
    let head = "POST /echo HTTP/1.1\r\nhost: localhost\r\nx-id: deaf\r\ncontent-length: 1000000000\r\n\r\n";
    send(&deaf, head);
    let cut = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            block_on(async {
                let begun = Instant::now();
                while deaf.send(&body).await.is_ok() {}
                begun.elapsed()
            })
        });
        server.wait_until("the answer has begun", |_| deaf.look() != Look::Open);
        server.reload_ok();
        sender.join().unwrap()
    });
    assert!(cut < Duration::from_secs(15), "{cut:?}");
    server.wait_end(old);
    let booked = format!("[{old}] connections: ");
    let log = server.log();
    let ledger = log.lines().find(|line| line.contains(&booked)).unwrap();
    assert!(ledger.contains("closed here (write timeout)"), "{ledger}");
    assert_balanced(&server);
}

/// What a client does in the instant of a drain.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Asks,
    AsksAndEnds,
    Ends,
    EndsItsHead,
    EndsWithinAHead,
}

const DEEDS: [Deed; 5] = [Deed::Asks, Deed::AsksAndEnds, Deed::Ends, Deed::EndsItsHead, Deed::EndsWithinAHead];

impl Deed {
    /// What it has sent before.
    fn before(self, request: &str) -> &str {
        if matches!(self, Self::EndsItsHead | Self::EndsWithinAHead) { &request[..request.len() / 2] } else { "" }
    }

    fn is_done(self, connection: &Connection, request: &str) {
        match self {
            Self::Ends | Self::EndsWithinAHead => {}
            Self::Asks | Self::AsksAndEnds => send(connection, request),
            Self::EndsItsHead => send(connection, &request[request.len() / 2..]),
        }
        if matches!(self, Self::AsksAndEnds | Self::Ends | Self::EndsWithinAHead) {
            connection.finish().unwrap();
        }
    }

    /// Checks what came of it. The generation that answered, if one did, and the connection, if it goes on.
    fn check(self, mut connection: Connection, id: &str) -> (Option<u64>, Option<Connection>) {
        let expected = match self {
            Self::Ends => None,
            Self::Asks | Self::AsksAndEnds | Self::EndsItsHead => Some((200, Some(id))),
            Self::EndsWithinAHead => Some((400, None)),
        };
        let mut generation = None;
        if let Some(expected) = expected {
            let answer = block_on(connection.answer()).unwrap_or_else(|lost| panic!("{self:?} {id}: {lost:?}"));
            assert_eq!((answer.status, answer.header("x-id")), expected, "{self:?} {id}: {answer:?}");
            generation = answer.generation();
            let stays = matches!(self, Self::Asks | Self::EndsItsHead);
            assert!(!stays || !answer.announces_close(), "{self:?} {id}: {answer:?}");
            if stays {
                assert_eq!(connection.look(), Look::Open, "{self:?} {id}");
                return (generation, Some(connection));
            }
        }
        assert_eq!(block_on(connection.end()), Some(Look::Fin), "{self:?} {id}");
        (generation, None)
    }
}

#[test]
fn whatever_clients_do_in_the_instant_of_a_drain_ends_well_of_thousands() {
    const CLIENTS: usize = 100;
    let rounds = 12 * scale();
    let server = start(&["--max-draining", "20"]);
    let mut idle: Vec<Connection> = Vec::new();
    let mut answered = BTreeMap::<(bool, usize), u64>::new();
    // A reload as long as the last one: the deeds are spread over it.
    let mut length = Duration::from_millis(30);
    for round in 0..rounds {
        let old = server.generation();
        let clients: Vec<(Deed, String, String, Connection)> = (0..CLIENTS)
            .map(|number| {
                let (deed, id) = (DEEDS[number % DEEDS.len()], format!("{round}.{number}"));
                let mut connection = idle.pop().unwrap_or_else(|| connect(&server));
                block_on(connection.exchange(&Request::fast(format!("{id}.before")))).unwrap();
                let request = Request::fast(&id).head();
                send(&connection, deed.before(&request));
                (deed, id, request, connection)
            })
            .collect();
        let begun = Instant::now();
        let reload = server.reload_in_background();
        for (number, (deed, _, request, connection)) in (0..).zip(&clients) {
            let at = begun + length * number / u32::try_from(CLIENTS).unwrap();
            block_on(Timer::at(at));
            deed.is_done(connection, request);
        }
        length = reload.join().unwrap().assert_success().took * 5 / 4;
        for (number, (deed, id, _, connection)) in clients.into_iter().enumerate() {
            let (generation, rest) = deed.check(connection, &id);
            if let Some(generation) = generation {
                *answered.entry((generation > old, number % DEEDS.len())).or_default() += 1;
            }
            idle.extend(rest);
        }
    }
    println!("{} tries; answered by the new one, deed: {answered:?}", rounds * CLIENTS);
    // Both sides of the instant were met, by each kind of request.
    for deed in [0, 1, 3] {
        assert!(answered.contains_key(&(false, deed)) && answered.contains_key(&(true, deed)), "{answered:?}");
    }
    let log = server.log();
    assert!(!log.contains(" ERROR ") && !log.contains("does not balance"), "{log}");
}

#[test]
fn a_body_that_is_still_asked_for_or_no_longer_wanted_ends_well_in_the_old_process() {
    let server = start(&[]);
    let (mut asked, mut early) = (connect(&server), connect(&server));
    let old = server.pid();
    // Expect: the 100 has come, and the body has not, when the drain begins.
    let head =
        "POST /echo HTTP/1.1\r\nhost: localhost\r\nx-id: asked\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    send(&asked, head);
    // The 100, and perhaps the answer's head already.
    assert!(matches!(block_on(asked.changed()), Look::Bytes(count) if count >= 25));
    // The answer comes before the body, which the client sends all the same.
    send(&early, "POST /fast HTTP/1.1\r\nhost: localhost\r\nx-id: early\r\ncontent-length: 100000\r\n\r\nbegin");
    let answer = block_on(early.answer()).unwrap();
    assert_eq!((answer.status, answer.announces_close()), (405, false), "{answer:?}");
    let new = server.reload_ok();
    assert_eq!(server.generations(), [old, new]);
    send(&asked, "hello");
    let answer = block_on(asked.answer()).unwrap();
    assert_eq!((answer.text().as_str(), answer.generation(), answer.announces_close()), ("hello", Some(1), false));
    send(&early, &"a".repeat(100_000 - "begin".len()));
    for connection in [&mut asked, &mut early] {
        assert_eq!(block_on(connection.exchange(&Request::fast("next"))).unwrap().generation(), Some(2));
    }
    server.wait_end(old);
    // Half a head that asks for it moves once more; the whole one is answered in the newest process.
    send(&asked, &head[..40]);
    server.reload_ok();
    send(&asked, &head[40..]);
    assert!(matches!(block_on(asked.changed()), Look::Bytes(_)));
    send(&asked, "again");
    let answer = block_on(asked.answer()).unwrap();
    assert_eq!((answer.text().as_str(), answer.generation(), answer.announces_close()), ("again", Some(3), false));
    assert_balanced(&server);
}

#[test]
fn peers_that_have_vanished_end_at_their_deadlines_and_keep_no_old_process() {
    let Some(network) = Network::new() else { return };
    let arguments = ["--head-timeout", "8s", "--idle-timeout", "10s", "--body-timeout", "5s", "--write-timeout", "5s"];
    let reborn = Reborn::new().demo().probation_ms(0).args(["--log", "debug"]).args(arguments);
    let (address, local) = (reborn.address(), Target::Unix(reborn.folder().join("run/http")));
    let reborn = reborn.without_own_address().listen(&format!("http={address}")).listen(&format!("local={local}"));
    let server = reborn.prelude(&network.prelude()).start();
    let vanishing = network.inside(|| {
        let limits = Limits { answer: DEADLINE, ..Limits::default() };
        let open = || block_on(Connection::open(&address.into(), limits)).unwrap();
        let [mut idle, silent, half, upload, download] = [(); 5].map(|()| open());
        block_on(idle.exchange(&Request::fast("idle"))).unwrap();
        send(&half, "GET /fast HT");
        send(&upload, "POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\nbegin");
        // More than fits into the buffers of both sides, so that the answer still goes on when its reader vanishes.
        let all = vec![b'a'; 64 << 20];
        let head = format!("POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", all.len());
        send(&download, &head);
        let sent = block_on(future::or(async { download.send(&all).await.map(|()| "all") }, async {
            Timer::after(Duration::from_secs(1)).await;
            Ok("what fits")
        }));
        assert_eq!(sent.unwrap(), "what fits");
        [idle, silent, half, upload, download]
    });
    server.wait_until("all are accepted", |server| server.status()["connections"] == 5);
    let old = server.pid();
    network.cut();
    let middle = server.reload_ok();
    let new = server.reload_ok();
    let mut other = block_on(Connection::open(&local, Limits::default())).unwrap();
    assert_eq!(block_on(other.exchange(&Request::fast("other"))).unwrap().generation(), Some(3));
    drop(other);
    for pid in [old, middle] {
        assert_eq!(server.wait_end(pid), Ended::Code(0));
    }
    server.wait_until("nobody is left", |server| server.status()["connections"] == 0);
    let log = server.log();
    assert!(!log.contains("cutting"), "their own deadlines come before the drain's\n{log}");
    let closed = server.status()["application"]["closed_by_us"].clone();
    assert_eq!((&closed["idle timeout"], &closed["refused 408"]), (&2.into(), &1.into()), "{closed}\n{log}");
    drop(vanishing);
    network.mend();
    let again = network.inside(|| {
        let mut again = block_on(Connection::open(&address.into(), Limits::default())).unwrap();
        block_on(again.exchange(&Request::fast("again"))).unwrap().pid()
    });
    assert_eq!(again, Some(new));
    assert_balanced(&server);
}

#[test]
fn reloads_back_to_back_leave_nothing_behind() {
    let reloads = 50 * scale() as u64;
    let server = start(&["--max-draining", "20", "--idle-timeout", "1h"]);
    let load = server.load().paced(8, 300).idle(50).start();
    load.wait_until("the load is under way", |report| report.answered > 50);
    let look = |pid: u32| {
        let process = Process::open(pid).unwrap();
        server.wait_until("all connections have arrived", |server| server.status()["connections"] == 58);
        server.wait_until("it is alone", |server| server.generations() == [pid]);
        (process.fds().len(), process.threads(), process.resident_bytes())
    };
    let first = look(server.reload_ok());
    for _ in 1..reloads {
        server.reload_ok();
    }
    let last = look(server.pid());
    let report = load.stop();
    report.assert_no_failure();
    assert_eq!((report.closed_connections(), server.generation()), (0, reloads + 1), "{report}");
    println!("first {first:?}, last {last:?}: descriptors, threads, resident bytes");
    assert!(last.0 <= first.0 + 2 && last.1 <= first.1, "first {first:?}, last {last:?}");
    assert!(last.2 < first.2 + first.2 / 4, "first {first:?}, last {last:?}");
    assert_eq!(server.family().zombies(), Vec::<u32>::new());
    let log = server.log();
    assert!(!log.contains(" ERROR ") && !log.contains("does not balance"), "{log}");
}
