//! No connection is closed by a reload: whatever a client has said or not said yet, on whatever kind of listener, its
//! connection goes on in the next generation, through as many of them as there are.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv6Addr, TcpListener};
use std::time::{Duration, Instant};

use smol::block_on;
use tests::load::{Answer, Connection, Crowd, CrowdReport, Limits, Look, Numbers, Request, Target};
use tests::{DEADLINE, Ended, Process, Reborn, Server, Signal, skip::skip};

/// Connects, and waits until the server has accepted.
fn connect(server: &Server, target: &Target, already: u64) -> Connection {
    let limits = Limits { answer: DEADLINE, ..Limits::default() };
    let connection = block_on(Connection::open(target, limits)).unwrap();
    server.wait_until("the connection is accepted", |server| server.status()["connections"] == already + 1);
    connection
}

fn own(server: &Server) -> Target {
    Target::Tcp(server.address())
}

/// One checked request and its answer, which must not end the connection.
#[track_caller]
fn ask(connection: &mut Connection, id: &str) -> Answer {
    let answer = block_on(connection.exchange(&Request::fast(id))).unwrap();
    assert!(!answer.announces_close(), "{answer:?}");
    answer
}

#[track_caller]
fn send(connection: &Connection, text: &str) {
    block_on(connection.send(text.as_bytes())).unwrap();
}

/// The next answer, which must be the one to this id and must not end the connection; the generation that gave it.
#[track_caller]
fn answer_to(connection: &mut Connection, id: &str) -> u64 {
    let answer = block_on(connection.answer()).unwrap();
    assert_eq!((answer.status, answer.header("x-id"), answer.announces_close()), (200, Some(id), false), "{answer:?}");
    answer.generation().unwrap()
}

/// A request that takes a while and that the log shows when it begins.
fn slow(id: &str, ms: u64) -> String {
    format!("GET /?delay={ms} HTTP/1.1\r\nhost: localhost\r\nx-id: {id}\r\n\r\n")
}

fn fast(id: &str) -> String {
    Request::fast(id).head()
}

/// Waits until so many slow requests have begun, in all generations.
#[track_caller]
fn wait_begun(server: &Server, count: usize) {
    server.wait_until("slow requests have begun", |server| server.log().matches("request start").count() >= count);
}

/// Begins a request that is in flight until its last byte, a `k`, is sent.
#[track_caller]
fn hold(connection: &Connection, id: &str) {
    let head = format!("POST /echo HTTP/1.1\r\nhost: localhost\r\nx-id: {id}\r\ncontent-length: 9\r\n\r\n");
    send(connection, &format!("{head}held bac"));
    block_on(connection.changed());
}

/// Starts a server on all four kinds of listeners, and says where they are.
fn on_every_kind_of_listener() -> (Server, Vec<Target>) {
    let reborn = Reborn::new().demo().probation_ms(0).args(["--log", "debug"]);
    let path = reborn.folder().join("run/http.sock");
    let name = format!("reborn-moving-{}-{}", std::process::id(), reborn.address().port());
    let mut targets = vec![Target::Tcp(reborn.address()), Target::Unix(path), Target::Abstract(name)];
    let mut reborn = reborn.listen(&format!("path={}", targets[1])).listen(&format!("name={}", targets[2]));
    let has_v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if has_v6 {
        reborn = reborn.listen("v6=[::1]:0");
    } else {
        skip("this machine has no IPv6 loopback");
    }
    let server = reborn.start();
    if has_v6 {
        let status = server.status();
        let listeners = status["listeners"].as_array().unwrap();
        let v6 = listeners.iter().find(|listener| listener["name"] == "v6").unwrap();
        targets.push(v6["address"].as_str().unwrap().parse().unwrap());
    }
    (server, targets)
}

#[test]
fn idle_silent_half_spoken_and_pipelined_connections_go_on_in_the_next_generation_on_every_kind_of_listener() {
    let (server, targets) = on_every_kind_of_listener();
    server.wait_until("the harness's own connections are gone", |server| server.status()["connections"] == 0);
    let (old, mut live) = (server.pid(), 0);
    let mut connections = Vec::new();
    for target in &targets {
        let mut five = [(); 5].map(|()| {
            live += 1;
            connect(&server, target, live - 1)
        });
        let [idle, _silent, half, half_again, _pipelined] = &mut five;
        assert_eq!(ask(idle, "idle").generation(), Some(1));
        send(half, "GET /fast HTTP/1.1\r\nhost: localhost\r\nx-id: ha");
        ask(half_again, "before");
        send(half_again, "GET /fast HT");
        connections.push(five);
    }
    // Last of all: these are busy for a time, and the reload has to come within it.
    for [.., pipelined] in &connections {
        send(pipelined, &[slow("first", 8000), fast("second"), fast("third")].concat());
    }
    wait_begun(&server, targets.len());
    let new = server.reload_ok();
    for [idle, silent, half, half_again, _] in &mut connections {
        for connection in [&*idle, silent, half, half_again] {
            assert_eq!(connection.look(), Look::Open);
        }
        assert_eq!(ask(idle, "idle.again").generation(), Some(2));
        assert_eq!(ask(silent, "silent").generation(), Some(2));
        send(half, "lf\r\n\r\n");
        send(half_again, "TP/1.1\r\nhost: localhost\r\nx-id: half.again\r\n\r\n");
        assert_eq!(answer_to(half, "half"), 2);
        assert_eq!(answer_to(half_again, "half.again"), 2);
    }
    for [.., pipelined] in &mut connections {
        assert_eq!(answer_to(pipelined, "first"), 1);
        assert_eq!((answer_to(pipelined, "second"), answer_to(pipelined, "third")), (2, 2));
        assert_eq!(ask(pipelined, "last").generation(), Some(2));
    }
    assert_eq!(server.wait_end(old), Ended::Code(0));
    assert_eq!(server.status()["application"]["live"], live, "{}", server.status());
    assert_eq!(server.booked(old, "handed over"), live);
    server.wait_until("all are taken up", |server| server.status()["application"]["received"] == live);
    drop(connections);
    server.wait_until("all are closed", |server| server.status()["connections"] == 0);
    server.stop().assert_success();
    assert_eq!(server.booked(new, "received"), live);
    server.assert_no_error();
}

#[test]
fn what_is_known_of_a_connection_goes_along() {
    let (server, targets) = on_every_kind_of_listener();
    for (target, listener) in targets.iter().zip(["http", "path", "name", "v6"]) {
        server.wait_until("no connection is left", |server| server.status()["connections"] == 0);
        let accepted = Instant::now();
        let mut connection = connect(&server, target, 0);
        let port = connection.port();
        for generation in 0..3 {
            ask(&mut connection, "one");
            ask(&mut connection, "two");
            let new = server.reload_ok();
            send(&connection, &slow("logged", 1));
            answer_to(&mut connection, "logged");
            let from = match target {
                // The address that the kernel chooses for a client of loopback, whatever it connects to.
                Target::Tcp(address) | Target::Tls(address) if address.is_ipv4() => {
                    format!("from 127.0.0.1:{}", port.unwrap())
                }
                Target::Tcp(_) | Target::Tls(_) => format!("from [::1]:{}", port.unwrap()),
                Target::Unix(_) | Target::Abstract(_) => "from a local client".to_owned(),
            };
            let line = format!("request start: GET /?delay=1 {from}, pid {new}");
            server.wait_until(&line, |server| server.log().contains(&line));
            let (requests, most) = (3 * generation + 2, accepted.elapsed().as_millis());
            let moved = format!("[{new}] a connection on {listener} goes on here after {requests} requests and ");
            server.wait_until(&moved, |server| server.log().contains(&moved));
            let log = server.log();
            let age = log.split_once(&moved).unwrap().1.split(' ').next().unwrap().parse::<u128>().unwrap();
            assert!(age <= most, "{age} ms old, and accepted {most} ms ago");
        }
    }
    server.assert_no_error();
}

#[test]
fn a_busy_connection_is_finished_in_the_old_process_which_ends_with_its_last_answer() {
    let server = Reborn::new().demo().probation_ms(0).args(["--log", "debug"]).start();
    server.wait_until("no connection is left", |server| server.status()["connections"] == 0);
    let old = server.pid();
    let mut connections = [0, 1, 2].map(|already| connect(&server, &own(&server), already));
    for (connection, ms) in connections.iter().zip([700, 1100, 1500]) {
        send(connection, &slow("busy", ms));
    }
    wait_begun(&server, 3);
    server.reload_ok();
    for connection in &mut connections {
        assert_eq!(answer_to(connection, "busy"), 1);
        assert_eq!(ask(connection, "after").generation(), Some(2));
    }
    let answered = Instant::now();
    assert_eq!(server.wait_end(old), Ended::Code(0));
    assert!(answered.elapsed() < Duration::from_secs(10), "not at a deadline: {:?}", answered.elapsed());
    server.assert_no_error();
}

#[test]
fn idle_connections_do_not_wait_for_hundreds_of_busy_ones_that_came_before_them() {
    const BUSY: u64 = 200;
    const IDLE: u64 = 20;
    let server = Reborn::new().demo().probation_ms(0).args(["--log", "debug"]).start();
    server.wait_until("no connection is left", |server| server.status()["connections"] == 0);
    let target = own(&server);
    let mut all: Vec<_> = (0..BUSY + IDLE).map(|already| connect(&server, &target, already)).collect();
    let mut idle = all.split_off(usize::try_from(BUSY).unwrap());
    for connection in &all {
        send(connection, &slow("busy", 60_000));
    }
    wait_begun(&server, all.len());
    let old = server.pid();
    let new = server.reload_ok();
    server.wait_until("the idle ones have moved", |server| server.status()["application"]["received"] == IDLE);
    assert_eq!(server.generations(), [old, new], "and the busy ones are still busy");
    for connection in &mut idle {
        assert_eq!(ask(connection, "idle").generation(), Some(2));
    }
}

#[test]
fn one_connection_lives_through_fifty_generations_and_gets_every_answer_right() {
    const GENERATIONS: u64 = 50;
    let server = Reborn::new().demo().probation_ms(0).args(["--log", "debug"]).start();
    let limits = Limits { answer: DEADLINE, ..Limits::default() };
    let mut connection = block_on(Connection::open(&own(&server), limits)).unwrap();
    let body: Vec<u8> =
        (0..10_000_000_u32).map(|number| u8::try_from(number.wrapping_mul(31) >> 8 & 0xff).unwrap()).collect();
    for generation in 1..GENERATIONS {
        ask(&mut connection, &format!("{generation}.quick"));
        std::thread::scope(|scope| {
            let reload = scope.spawn(|| server.reload().assert_success().clone());
            if generation % 10 == 5 {
                let pieces = Request::echo(format!("{generation}.body"), body.clone(), 10, Duration::from_millis(200));
                assert!(!block_on(connection.exchange(&pieces)).unwrap().announces_close());
            } else {
                let ids = [0, 1, 2].map(|number| format!("{generation}.pipelined{number}"));
                send(&connection, &ids.iter().map(|id| fast(id)).collect::<String>());
                for id in &ids {
                    answer_to(&mut connection, id);
                }
            }
            reload.join().unwrap();
        });
    }
    assert_eq!(ask(&mut connection, "last").generation(), Some(GENERATIONS));
    assert!(!connection.went_back() && connection.look() == Look::Open);
    drop(connection);
    let last = server.wait_single();
    server.wait_until("the connection is closed", |server| server.status()["connections"] == 0);
    server.stop().assert_success();
    assert_eq!((server.booked(last, "received"), server.booked(last, "closed by the client")), (1, 1));
    server.assert_no_error();
}

/// Three further generations come while the first still answers; what its connection says next goes to the newest.
fn the_oldest_connection_reaches_the_newest(kill: bool) {
    let server = Reborn::new().demo().probation_ms(0).args(["--log", "debug"]).start();
    server.wait_until("no connection is left", |server| server.status()["connections"] == 0);
    let first = server.pid();
    let mut oldest = connect(&server, &own(&server), 0);
    send(&oldest, &slow("oldest", 10_000));
    wait_begun(&server, 1);
    let mut middle = Vec::new();
    for begun in 2..4 {
        let pid = server.reload_ok();
        if kill {
            // Something in flight keeps those in the middle alive.
            let connection = connect(&server, &own(&server), 0);
            send(&connection, &slow("middle", 20_000));
            wait_begun(&server, begun);
            middle.push((pid, connection));
        } else {
            server.wait_until("only two are left", |server| server.generations() == [first, pid]);
        }
    }
    server.reload_ok();
    for (pid, mut connection) in middle {
        server.signal_to(pid, Signal::KILL);
        assert_eq!(server.wait_end(pid), Ended::Signal(9));
        assert!(matches!(block_on(connection.end()), Some(Look::Fin | Look::Reset)), "it goes with its process");
    }
    send(&oldest, &fast("next"));
    assert_eq!((answer_to(&mut oldest, "oldest"), answer_to(&mut oldest, "next")), (1, 4));
    assert_eq!(server.wait_end(first), Ended::Code(0));
    assert_eq!(server.booked(first, "handed over"), 1);
    assert_eq!(ask(&mut oldest, "last").generation(), Some(4));
    server.assert_no_error();
}

#[test]
fn the_connection_of_the_oldest_generation_goes_straight_to_the_newest() {
    the_oldest_connection_reaches_the_newest(false);
}

#[test]
fn the_connection_of_the_oldest_generation_reaches_the_newest_although_those_in_between_were_killed() {
    the_oldest_connection_reaches_the_newest(true);
}

/// Down a chain of four generations, each of which has something to finish; the newest may be killed then.
fn what_lasts_goes_down_a_chain(kill: bool) {
    let server = Reborn::new().for_crowd().probation_ms(0).args(["--log", "debug"]).start();
    server.wait_until("no connection is left", |server| server.status()["connections"] == 0);
    let crowd = Crowd::start(&own(&server), Numbers::each(3));
    let all = crowd.len();
    let mut chain = Vec::new();
    for _ in 2..=4 {
        let (pid, held) = (server.pid(), server.hold());
        server.reload_ok();
        server.wait_until("all have moved", |server| server.status()["application"]["received"] == all);
        chain.push((pid, held));
    }
    assert_eq!(server.generations().len(), 4);
    if kill {
        let newest = Process::open(server.pid()).unwrap();
        assert!(newest.signal(Signal::KILL) && newest.wait(DEADLINE));
    }
    let CrowdReport { went_on, cut, generations } = crowd.finish();
    if kill {
        assert_eq!((went_on, cut), (0, all), "nobody goes on with what the killed one had\n{}", server.state());
        server.wait_until("the third serves again", |server| server.command(["status"]).is_success());
        assert_eq!(server.ask().generation(), Some(3));
    } else {
        assert_eq!((went_on, cut, generations), (all, 0, vec![4; 3]), "{}", server.state());
    }
    for (pid, held) in chain {
        held.finish_by(pid);
    }
    let last = server.wait_single();
    assert_eq!(server.pid(), last);
    server.assert_no_error();
}

#[test]
fn downloads_streams_and_chats_go_down_a_chain_of_four_generations() {
    what_lasts_goes_down_a_chain(false);
}

#[test]
fn downloads_streams_and_chats_that_went_down_a_chain_end_with_the_newest_that_is_killed_and_nowhere_else() {
    what_lasts_goes_down_a_chain(true);
}

#[test]
fn a_successor_that_stops_answering_takes_nothing_and_what_comes_back_is_served_and_closed() {
    const CONNECTIONS: u64 = 20;
    let server = Reborn::new().demo().probation_ms(0).args(["--log", "debug"]).start();
    server.wait_until("no connection is left", |server| server.status()["connections"] == 0);
    let first = server.pid();
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|already| connect(&server, &own(&server), already)).collect();
    let mut longest = connect(&server, &own(&server), CONNECTIONS);
    for connection in &connections {
        hold(connection, "busy");
    }
    hold(&longest, "longest");
    let stopped = server.reload_ok();
    server.signal_to(stopped, Signal::STOP);
    for connection in &mut connections {
        send(connection, "k");
        assert_eq!(answer_to(connection, "busy"), 1);
        send(connection, &fast("next"));
    }
    for connection in &mut connections {
        let answer = block_on(connection.answer()).unwrap();
        assert_eq!((answer.generation(), answer.header("x-id")), (Some(1), Some("next")), "{answer:?}");
        assert!(answer.announces_close());
        assert_eq!(block_on(connection.end()), Some(Look::Fin), "an answer comes once");
    }
    server.signal_to(stopped, Signal::CONT);
    server.wait_until("the continued one drops what it cannot own", |server| {
        server.log().contains("stay with the process that sent them")
    });
    assert_eq!(server.status()["application"]["received"], 0);
    // The end of the one that it gave up is no end of the service, and the next one is offered connections again.
    let third = server.reload_ok();
    server.wait_until("the continued one has ended", |server| !server.generations().contains(&stopped));
    assert_eq!((server.pid(), server.ask().generation()), (third, Some(3)));
    send(&longest, "k");
    assert_eq!(answer_to(&mut longest, "longest"), 1);
    let answer = block_on(longest.exchange(&Request::fast("last"))).unwrap();
    assert_eq!((answer.generation(), answer.announces_close()), (Some(3), false));
    assert_eq!(server.wait_end(first), Ended::Code(0));
    assert_eq!((server.wait_single(), server.pid()), (third, third));
    assert_eq!(server.booked(first, "closed here (draining)"), CONNECTIONS);
    assert_eq!(server.booked(first, "handed over"), 1);
    server.assert_no_error();
}

#[test]
fn a_successor_that_is_given_up_finishes_what_it_has_accepted_and_its_idle_connections_move_back() {
    let server = Reborn::new().demo().args(["--probation", "2s"]).notify().start();
    let old = server.first_pid();
    let reload = server.reload_in_background();
    server.wait_until("the successor accepts", |server| server.ask().pid() != Some(old));
    let mut idle = server.connect();
    let successor = block_on(idle.exchange(&Request::fast("first"))).unwrap().pid().unwrap();
    assert_ne!(successor, old);
    let held = server.hold();
    // The service manager cannot be told of the new main process.
    std::fs::remove_file(server.notify().path()).unwrap();
    server.wait_until("the connection has moved back", |server| server.status()["application"]["received"] == 1);
    let answer = block_on(idle.exchange(&Request::fast("second"))).unwrap();
    assert_eq!((answer.pid(), answer.announces_close()), (Some(old), false), "{answer:?}");
    held.finish_by(successor);
    reload.join().unwrap().assert_code(1).assert_stderr("cannot tell the service manager of the new main process");
    assert_eq!(server.wait_single(), old);
    server.wait_until("it serves as before", |server| server.status()["state"] == "serving");
}

#[test]
fn what_moves_into_a_generation_that_stops_is_answered_before_it_ends() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let mut connection = server.connect();
    hold(&connection, "busy");
    let newest = server.reload_ok();
    let stop = server.stop_in_background();
    server.wait_until("the newest has nothing left but the older one", |server| server.status()["state"] == "stopping");
    let slow = "GET /slow?ms=1000 HTTP/1.1\r\nhost: localhost\r\nx-id: next\r\n\r\n";
    send(&connection, &format!("k{slow}"));
    assert_eq!(answer_to(&mut connection, "busy"), 1);
    let answer = block_on(connection.answer()).unwrap();
    assert_eq!((answer.status, answer.header("x-id")), (200, Some("next")), "{answer:?}");
    stop.join().unwrap().assert_success();
    assert_eq!(server.wait_end(newest), Ended::Code(0));
}
