//! More threads than one team has: what the other tests promise of a server holds where two teams serve, each with
//! connections of its own, and whatever moves to the next process is dealt out there.
//!
//! `just test-teams` has the other tests of moving, draining and stopping run by two teams as well.

#![allow(clippy::unwrap_used)]

use std::{sync::Arc, thread, time::Duration};

use smol::block_on;
use tests::{
    DEADLINE, Ended, Process, Reborn, Server,
    load::{Class, Connection, Download, Look, Request, Target, Upload, pattern},
};

/// Two teams of four threads.
const TEAMS: [&str; 2] = ["--threads", "8"];

/// What is downloaded.
const LENGTH: u64 = 2_000_003;

fn start(reborn: Reborn) -> Server {
    reborn.demo().probation_ms(0).args(TEAMS).start()
}

/// Connections that have had an answer.
fn connections(server: &Server, count: usize) -> Vec<Connection> {
    let connect = |number| {
        let mut connection = server.connect();
        block_on(connection.exchange(&Request::fast(format!("connection.{number}")))).unwrap();
        connection
    };
    (0..count).map(connect).collect()
}

/// How many descriptors the two epolls have that have most: those of the teams.
fn of_the_teams(server: &Server) -> [usize; 2] {
    let mut epolls = Process::open(server.pid()).unwrap().epolls();
    epolls.sort_unstable_by(|one, other| other.cmp(one));
    [epolls[0], epolls[1]]
}

#[test]
fn connections_are_dealt_to_both_teams_where_they_are_accepted_and_where_they_move() {
    const COUNT: usize = 60;
    let server = start(Reborn::new());
    let mut connections = connections(&server, COUNT);
    for generation in 1..=3 {
        if generation > 1 {
            let before = server.pid();
            server.reload_ok();
            assert_eq!(server.wait_end(before), Ended::Code(0), "nothing is left behind");
        }
        let counts = of_the_teams(&server);
        // Those that move come all at once, and a team that is late to begin its first ones gets fewer.
        let least = if generation == 1 { COUNT / 3 } else { 1 };
        assert!(counts.iter().all(|count| *count >= least), "{counts:?} in generation {generation}");
        for (number, connection) in connections.iter_mut().enumerate() {
            let answer = block_on(connection.exchange(&Request::fast(format!("again.{generation}.{number}")))).unwrap();
            assert_eq!(answer.generation(), Some(generation));
        }
    }
    server.assert_no_error();
}

#[test]
fn reloads_under_load_fail_no_request_and_close_no_connection() {
    let server = start(Reborn::new().args(["--max-draining", "8"]));
    let load = server.load().paced(16, 300).new_connections_paced(4, 100).idle(20);
    let load = load.slow(4, Duration::from_millis(1500)).upload(3, Upload::default()).start();
    load.wait_for_pid(server.first_pid(), DEADLINE).unwrap();
    let mut pids = vec![server.first_pid()];
    for _ in 0..4 {
        load.mark_reload();
        let new = server.reload_ok();
        load.wait_for_pid(new, DEADLINE).unwrap();
        let before = load.report().answered;
        load.wait_until("it has served for a while", |report| report.answered > before + 100);
        pids.push(new);
    }
    load.stop().assert_no_failure().assert_no_close();
    assert_eq!(server.wait_single(), pids.pop().unwrap());
    for pid in pids {
        assert_eq!(server.ended(pid), Some(Ended::Code(0)), "{}", server.state());
    }
    server.assert_no_error();
    server.stop().assert_success();
    server.wait_nothing_left();
}

#[test]
fn downloads_event_streams_and_websockets_move_in_their_middle() {
    let reborn = Reborn::new().args(["--root", "."]);
    pattern::write_file(&reborn.folder().join("pattern"), LENGTH).unwrap();
    let server = start(reborn);
    let over = Duration::from_secs(2);
    let load = server
        .load()
        .downloads(4, Download::bytes(LENGTH, over))
        .downloads(4, Download::file("/pattern", LENGTH, over));
    let load = load.events(6, Duration::from_millis(20)).chats(6).start();
    let finished =
        |report: &tests::load::Report| report.classes.get(&Class::Download).map_or(0, |class| class.finished);
    for reloads in 0..4 {
        load.wait_until("downloads go on", |report| finished(report) >= reloads * 4);
        load.mark_reload();
        let before = server.pid();
        server.reload_ok();
        assert_eq!(server.wait_end(before), Ended::Code(0), "all of it moves");
    }
    let report = load.stop();
    report.assert_no_fault();
    assert_eq!([Class::Events, Class::Chat].map(|class| report.classes[&class].went_on), [6, 6], "{report}");
    server.assert_no_error();
}

#[test]
fn a_stop_finishes_what_both_teams_have_and_waits_for_nobody_who_does_nothing() {
    let server = start(Reborn::new());
    let idle = connections(&server, 20);
    let slow: Vec<_> = (0..8)
        .map(|number| {
            let target = Arc::new(Target::Tcp(server.address()));
            thread::spawn(move || {
                let mut connection = block_on(Connection::open(&target, tests::load::Limits::default())).unwrap();
                block_on(connection.exchange(&Request::slow(format!("slow.{number}"), Duration::from_secs(1))))
            })
        })
        .collect();
    server.wait_until("all are asked", |server| server.status()["application"]["in_flight"] == 8);
    server.stop().assert_success();
    for answer in slow {
        assert!(answer.join().unwrap().is_ok());
    }
    assert!(idle.iter().all(|connection| connection.look() != Look::Open));
    server.wait_nothing_left();
    assert_eq!(server.ended(server.first_pid()), Some(Ended::Code(0)));
    server.assert_no_error();
}
