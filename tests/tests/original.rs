//! The program that reborn replaces: what it did has its counterpart, and each of its faults is absent.
//!
//! It answered `cout` after a while and logged the start and the end of each request, replaced itself on SIGINT with
//! `-g`, passing its listener as descriptor 3, and let requests run on for 20 s.

#![allow(clippy::unwrap_used)]

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use tests::{
    DEADLINE, Ended, Mode, Reborn, Server, Signal, Version,
    load::{Answer, Connection, Request},
};

/// The original's own way of being used: Ctrl-C replaces it.
fn start() -> Server {
    Reborn::new().demo().own_group().probation_ms(0).args(["--reload-signal", "INT"]).start()
}

/// Begins the original's request, and returns when the log says that it has begun.
#[track_caller]
fn begin(server: &Server, delay: &str, id: &str) -> Connection {
    let connection = server.connect();
    let head = format!("GET /?delay={delay}&{id} HTTP/1.1\r\nhost: a\r\nx-id: {id}\r\n\r\n");
    smol::block_on(connection.send(head.as_bytes())).unwrap();
    let line = format!("request start: GET /?delay={delay}&{id}");
    server.wait_until("the request has begun", |server| server.log().contains(&line));
    connection
}

fn answer(mut connection: Connection) -> Answer {
    smol::block_on(connection.answer()).unwrap_or_else(|lost| panic!("{lost:?}"))
}

#[test]
fn its_handler_answers_after_a_while_and_logs_start_and_end_with_the_pid() {
    let server = start();
    let got = answer(begin(&server, "50ms", "one"));
    assert_eq!((got.status, got.text().trim_end()), (200, "cout"));
    let pid = server.first_pid();
    server.wait_until("the end is logged", |server| server.log().contains("request done: GET /?delay=50ms&one"));
    let log = server.log();
    assert!(
        log.lines().filter(|line| line.contains("&one") && line.contains(&format!("pid {pid}"))).count() == 2,
        "{log}"
    );
}

#[test]
fn the_parent_exits_after_its_restart_when_its_requests_are_done() {
    let server = start();
    let (old, slow) = (server.first_pid(), begin(&server, "1s", "slow"));
    let new = server.reload_by(Signal::INT);
    let got = answer(slow);
    assert_eq!((got.text().trim_end(), got.pid()), ("cout", Some(old)));
    assert_eq!((server.wait_end(old), server.wait_single()), (Ended::Code(0), new));
}

#[test]
fn twenty_restarts_leave_one_process_not_twenty_one() {
    let server = start();
    for _ in 0..20 {
        server.reload_ok();
    }
    assert_eq!((server.wait_single(), server.generation()), (server.pid(), 21));
}

#[test]
fn with_its_own_twenty_seconds_the_parent_lets_requests_run_on_for_so_long_and_no_longer() {
    let reborn = Reborn::new().demo().own_group().probation_ms(0).args(["--reload-signal", "INT"]);
    let server = reborn.args(["--drain-timeout", "20s"]).start();
    let (old, endless, slow) = (server.first_pid(), begin(&server, "60s", "endless"), begin(&server, "8s", "slow"));
    let reloaded = Instant::now();
    server.reload_by(Signal::INT);
    let got = answer(slow);
    assert_eq!((got.text().trim_end(), got.pid()), ("cout", Some(old)));
    assert_eq!(server.wait_end(old), Ended::Code(0));
    assert!(reloaded.elapsed() >= Duration::from_secs(20), "{}", server.log());
    let mut endless = endless;
    assert!(smol::block_on(endless.answer()).is_err());
    assert!(server.log().contains("generation 1 ends, cutting 1 connections at the deadline"), "{}", server.log());
}

#[test]
fn a_second_signal_while_it_drains_kills_no_request() {
    let server = start();
    let (old, held) = (server.first_pid(), server.hold());
    server.reload_by(Signal::INT);
    server.signal_to(old, Signal::INT);
    server.wait_until("it was passed on", |server| server.generation() == 3);
    held.finish_by(old);
    assert_eq!(server.wait_end(old), Ended::Code(0));
}

#[test]
fn a_new_binary_that_fails_at_once_leaves_no_connection_hanging() {
    let server = start();
    server.replace_binary(&Version::Broken(Mode::Exits { code: 1, words: "broken".into() }));
    server.signal(Signal::INT);
    server.wait_until("the reload has failed", |server| server.log().contains("reload failed"));
    for _ in 0..20 {
        assert_eq!(server.ask().pid(), Some(server.first_pid()));
    }
}

#[test]
fn a_missing_binary_neither_ends_the_parent_nor_cuts_its_requests() {
    let server = start();
    let held = server.hold();
    server.replace_binary(&Version::Missing);
    server.signal(Signal::INT);
    server.wait_until("the reload has failed", |server| server.log().contains("reload failed"));
    held.finish_by(server.first_pid());
    assert_eq!(server.ask().pid(), Some(server.first_pid()));
}

#[test]
fn connections_are_accepted_while_the_new_one_initialises() {
    let server = start();
    server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
    server.signal(Signal::INT);
    let new = server.wait_broken(0);
    assert_eq!(server.ask().pid(), Some(server.first_pid()));
    server.open_gate();
    server.wait_until("the new one answers", |server| server.ask().pid() == Some(new));
}

#[test]
fn when_the_newest_dies_no_old_one_holds_the_address_without_accepting() {
    let server = start();
    let held = server.hold();
    let new = server.reload_ok();
    server.signal_to(new, Signal::KILL);
    server.wait_until("the old one answers", |server| server.ask().pid() == Some(server.first_pid()));
    held.finish_by(server.first_pid());
    // With nobody left that drains, the address is free, not held: clients are refused at once.
    let server = start();
    let newest = server.reload_ok();
    server.wait_single();
    server.signal_to(newest, Signal::KILL);
    server.wait_gone();
    assert!(TcpStream::connect(server.address()).is_err());
}

#[test]
fn a_sigterm_cuts_no_request() {
    let server = start();
    let slow = begin(&server, "500ms", "slow");
    server.signal(Signal::TERM);
    assert_eq!(answer(slow).text().trim_end(), "cout");
    assert_eq!(server.wait_end(server.first_pid()), Ended::Code(0));
}

#[test]
fn a_busy_port_is_no_success() {
    let server = start();
    let second = Reborn::new().without_own_address().listen(&server.address().to_string()).spawn();
    assert_eq!(second.wait_end(second.first_pid()), Ended::Code(1));
}

#[test]
fn an_upload_may_take_longer_than_the_originals_six_seconds() {
    let server = start();
    let mut connection = server.connect();
    let upload = Request::echo("long", vec![b'x'; 3000], 15, Duration::from_secs(7));
    let got = smol::block_on(connection.exchange(&upload)).unwrap_or_else(|lost| panic!("{lost:?}"));
    assert_eq!((got.status, got.body.len()), (200, 3000));
}

#[test]
fn what_a_person_leaves_behind_in_the_terminal_says_where_the_service_lives_on() {
    let server = start();
    let old = server.first_pid();
    let new = server.reload_by(Signal::INT);
    assert_eq!(server.wait_end(old), Ended::Code(0));
    let log = server.log();
    let last = log.lines().rfind(|line| line.contains(&format!("[{old}]"))).unwrap();
    assert!(last.contains(&format!("generation 2 (pid {new}) serves on")), "{log}");
    let load = server.load().paced(1, 50).requests(3).start();
    assert!(load.wait_for_pid(new, DEADLINE).is_some());
}
