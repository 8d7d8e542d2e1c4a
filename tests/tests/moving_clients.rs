//! Slow and hostile clients, and clients that speak or leave in the very instant of a reload: each gets the right answer
//! once or a clean end, and nothing hangs past its deadline.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use smol::{Timer, block_on, future};
use tests::load::{Connection, Limits, Look, Request, Target};
use tests::{DEADLINE, Process, Reborn, Server};

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

#[track_caller]
fn assert_balanced(server: &Server) {
    assert!(!server.log().contains("does not balance"), "{}", server.log());
}

#[test]
fn a_slow_head_and_an_idle_connection_reach_their_deadlines_however_often_they_move() {
    let server = start(&["--head-timeout", "2s", "--idle-timeout", "3s"]);
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
            while !over.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(12) {
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
    assert!(refused.0 < Duration::from_secs(6) && closed.0 < Duration::from_secs(8), "{refused:?}, {closed:?}");
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

#[test]
fn a_client_that_ends_its_side_in_the_instant_of_a_reload_gets_its_answer_and_a_clean_end() {
    let server = start(&["--max-draining", "20"]);
    let over = AtomicBool::new(false);
    let clients = std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..60 {
                server.reload().assert_success();
            }
            over.store(true, Ordering::Relaxed);
        });
        let mut clients = 0;
        while !over.load(Ordering::Relaxed) {
            let mut connection = connect(&server);
            let first = block_on(connection.exchange(&Request::fast("first"))).unwrap();
            assert!(!first.announces_close());
            match clients % 3 {
                // Nothing more to say.
                0 => connection.finish().unwrap(),
                // A request and the end at once.
                1 => {
                    send(&connection, &Request::fast("last").head());
                    connection.finish().unwrap();
                    let answer = block_on(connection.answer()).unwrap();
                    assert_eq!((answer.status, answer.header("x-id")), (200, Some("last")));
                }
                // The end within a head.
                _ => {
                    send(&connection, "GET /fast HTTP/1.1\r\nho");
                    connection.finish().unwrap();
                    assert_eq!(block_on(connection.answer()).unwrap().status, 400);
                }
            }
            assert_eq!(block_on(connection.end()), Some(Look::Fin), "client {clients}");
            clients += 1;
        }
        clients
    });
    println!("{clients} clients");
    assert!(clients > 100 && !server.log().contains(" ERROR "), "{clients} clients\n{}", server.log());
}

#[test]
fn no_request_in_the_instant_of_a_drain_is_lost_of_thousands() {
    let server = start(&["--max-draining", "20"]);
    let load = server.load().full_speed(12).blind(30).new_connections(2).start();
    load.wait_until("the load is under way", |report| report.answered > 100);
    for _ in 0..60 {
        load.mark_reload();
        server.reload_ok();
    }
    let report = load.stop();
    println!("{} requests, {} near reloads", report.answered, report.latency_near_reloads.count);
    report.assert_no_failure();
    assert!(report.answered > 3000, "{report}");
    assert_eq!((report.closed_connections(), report.went_back), (0, 0), "{report}");
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
fn two_hundred_reloads_back_to_back_leave_nothing_behind() {
    const RELOADS: u64 = 200;
    let server = start(&["--max-draining", "20"]);
    let load = server.load().paced(8, 300).idle(50).start();
    load.wait_until("the load is under way", |report| report.answered > 50);
    let look = |pid: u32| {
        let process = Process::open(pid).unwrap();
        server.wait_until("all connections have arrived", |server| server.status()["connections"] == 58);
        server.wait_until("it is alone", |server| server.generations() == [pid]);
        (process.fds().len(), process.threads(), process.resident_bytes())
    };
    let first = look(server.reload_ok());
    for _ in 1..RELOADS {
        server.reload_ok();
    }
    let last = look(server.pid());
    let report = load.stop();
    report.assert_no_failure();
    assert_eq!((report.closed_connections(), server.generation()), (0, RELOADS + 1), "{report}");
    println!("first {first:?}, last {last:?}: descriptors, threads, resident bytes");
    assert!(last.0 <= first.0 + 2 && last.1 <= first.1, "first {first:?}, last {last:?}");
    assert!(last.2 < first.2 + first.2 / 4, "first {first:?}, last {last:?}");
    assert_eq!(server.family().zombies(), Vec::<u32>::new());
    let log = server.log();
    assert!(!log.contains(" ERROR ") && !log.contains("does not balance"), "{log}");
}
