//! Connections move within the kernel's limits: as another user than root, whose descriptors in flight are counted,
//! with small tables of descriptors, and into a successor whose table is full.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use tests::load::{Crowd, CrowdReport, Numbers, Target};
use tests::skip::{NOBODY, may_change_user};
use tests::version::write_by_child;
use tests::{Ended, Reborn, Server, Version, binary};

/// A client that speaks only when it is told to.
struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    fn connect(server: &Server) -> Client {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(tests::DEADLINE)).unwrap();
        Client { stream, received: Vec::new() }
    }

    /// The answer to one request, or nothing where the connection has ended without one.
    fn ask(&mut self, id: usize) -> Option<String> {
        self.stream.write_all(head(id).as_bytes()).ok()?;
        self.answer(id)
    }

    fn answer(&mut self, id: usize) -> Option<String> {
        let mut part = [0; 1024];
        while !self.received.ends_with(b"\n") || !self.received.windows(3).any(|bytes| bytes == b"id=") {
            let count = self.stream.read(&mut part).ok().filter(|count| *count > 0)?;
            self.received.extend_from_slice(&part[..count]);
        }
        let text = String::from_utf8(std::mem::take(&mut self.received)).unwrap();
        let count = text.matches("HTTP/1.1 200").count();
        assert!(count == 1 && text.contains(&format!("id={id} ")), "asked with {id}: {text}");
        Some(text)
    }
}

fn head(id: usize) -> String {
    format!("GET /fast HTTP/1.1\r\nhost: localhost\r\nx-id: {id}\r\n\r\n")
}

fn generation(answer: &str) -> u64 {
    let line = answer.lines().find_map(|line| line.strip_prefix("x-generation: ")).unwrap();
    line.parse().unwrap()
}

fn is_last(answer: &str) -> bool {
    answer.to_ascii_lowercase().contains("connection: close")
}

/// Opens connections and waits until all are accepted.
fn open(server: &Server, count: usize) -> Vec<Client> {
    let clients: Vec<_> = (0..count).map(|_| Client::connect(server)).collect();
    server.wait_until("all are accepted", |server| server.status()["connections"] == count);
    clients
}

fn number(server: &Server, field: &str) -> u64 {
    server.status()["application"][field].as_u64().unwrap()
}

/// Waits until the newest process has taken all of them up, which may be after their old process has ended.
#[track_caller]
fn wait_received(server: &Server, connections: usize) {
    server.wait_until("all are taken up", |server| number(server, "received") >= connections as u64);
    assert_eq!(number(server, "received"), connections as u64);
}

#[test]
fn another_user_than_root_moves_thousands_of_connections_within_its_limits() {
    const CONNECTIONS: usize = 3000;
    if !may_change_user() {
        return;
    }
    let server =
        Reborn::new().demo().probation_ms(0).as_nobody().prelude("ulimit -S -n 1024; ulimit -H -n 4096").start();
    tests::load::raise_fd_limit().unwrap();
    let mut clients = open(&server, CONNECTIONS);
    for round in 2..=3 {
        let old = server.pid();
        server.reload_ok();
        assert_eq!(server.wait_end(old), Ended::Code(0));
        wait_received(&server, CONNECTIONS);
        for (id, client) in clients.iter_mut().enumerate() {
            let answer = client.ask(id).unwrap();
            assert_eq!((generation(&answer), is_last(&answer)), (round, false), "{answer}");
        }
    }
    assert!(!server.log().contains("WARN") && !server.log().contains("ERROR"), "{}", server.log());
}

#[test]
fn another_user_than_root_moves_downloads_streams_and_chats_among_them_within_its_limits() {
    const IDLE: usize = 1500;
    if !may_change_user() {
        return;
    }
    let reborn = Reborn::new().for_crowd().probation_ms(0).as_nobody();
    let server = reborn.prelude("ulimit -S -n 1024; ulimit -H -n 4096").start();
    tests::load::raise_fd_limit().unwrap();
    let numbers = Numbers { files: 40, parts: 20, memory: 20, events: 60, chats: 60 };
    let mut idle = open(&server, IDLE);
    let crowd = Crowd::start(&Target::Tcp(server.address()), numbers);
    let all = IDLE + crowd.len();
    server.wait_until("all are accepted", |server| server.status()["connections"] == all);
    for _ in 0..2 {
        let old = server.pid();
        server.reload_ok();
        assert_eq!(server.wait_end(old), Ended::Code(0));
        wait_received(&server, all);
    }
    let CrowdReport { went_on, cut, generations } = crowd.finish();
    assert_eq!((went_on, cut), (numbers.sum(), 0), "{}", server.log());
    assert_eq!(generations, vec![3; numbers.events]);
    for (id, client) in idle.iter_mut().enumerate() {
        assert_eq!(generation(&client.ask(id).unwrap()), 3);
    }
    assert!(!server.log().contains("WARN") && !server.log().contains("ERROR"), "{}", server.log());
}

#[test]
fn a_hard_limit_of_1024_carries_hundreds_of_connections_through_every_reload() {
    const CONNECTIONS: usize = 900;
    if !may_change_user() {
        return;
    }
    let server = Reborn::new().demo().probation_ms(0).as_nobody().prelude("ulimit -n 1024").start();
    let mut clients = open(&server, CONNECTIONS);
    for round in 2..=6 {
        let old = server.pid();
        server.reload_ok();
        assert_eq!(server.wait_end(old), Ended::Code(0));
        wait_received(&server, CONNECTIONS);
        for (id, client) in clients.iter_mut().enumerate().skip(usize::try_from(round).unwrap()).step_by(7) {
            assert_eq!(generation(&client.ask(id).unwrap()), round);
        }
    }
}

/// Keeps so many descriptors of the server's user in flight.
fn hold_in_flight(count: u32) -> Child {
    let mut command = Command::new(binary::own("inflight"));
    command.arg(count.to_string()).uid(NOBODY).gid(NOBODY).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, format!("{count} in flight\n"));
    holder
}

fn release(mut holder: Child) {
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
}

#[test]
fn a_reload_waits_until_the_kernel_has_room_for_its_listeners_in_flight() {
    if !may_change_user() {
        return;
    }
    let server = Reborn::new().demo().probation_ms(0).as_nobody().prelude("ulimit -n 1024").start();
    let holder = hold_in_flight(1100);
    let reload = server.reload_in_background();
    server.wait_until("there is a successor", |server| server.generations().len() == 2);
    release(holder);
    reload.join().unwrap().assert_success();
    assert_eq!(server.generation(), 2);
}

#[test]
fn a_kernel_without_room_for_descriptors_in_flight_slows_the_move_and_closes_nothing() {
    const CONNECTIONS: usize = 900;
    if !may_change_user() {
        return;
    }
    let server =
        Reborn::new().demo().probation_ms(0).as_nobody().prelude("ulimit -n 1024").args(["--log", "debug"]).start();
    let mut clients = open(&server, CONNECTIONS);
    // So many that one batch fits beside them, and a second only when the first has been received.
    let holder = hold_in_flight(1000);
    let old = server.pid();
    server.reload_ok();
    assert_eq!(server.wait_end(old), Ended::Code(0));
    release(holder);
    let log = server.log();
    assert!(log.contains("of connections waits: ") && log.contains("Too many references"), "{log}");
    wait_received(&server, CONNECTIONS);
    for (id, client) in clients.iter_mut().enumerate() {
        let answer = client.ask(id).unwrap();
        assert_eq!((generation(&answer), is_last(&answer)), (2, false), "{answer}");
    }
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

/// Puts a version at the path of the server's program that has room for so many descriptors only.
fn narrow_the_next_version(server: &Server, descriptors: u32) {
    let [real, script] = ["real", "script"].map(|name| server.folder().join(name));
    Version::Current.put(&real);
    let text = format!("#!/bin/sh\nulimit -n {descriptors}\nexec '{}' \"$@\"\n", real.display());
    write_by_child(None, text.as_bytes(), &script, "755");
    fs::rename(&script, server.program()).unwrap();
}

#[test]
fn a_server_full_of_connections_keeps_room_for_its_operator_and_for_a_reload() {
    const ROOM: usize = 512 - 64;
    let server = Reborn::new().demo().probation_ms(0).args(["--head-timeout", "1m"]).prelude("ulimit -n 512").start();
    let mut clients = open(&server, ROOM);
    // Those that are idle would soon have to make room for the one that waits.
    for (id, client) in clients.iter_mut().enumerate() {
        client.stream.write_all(&head(id).as_bytes()[..10]).unwrap();
    }
    let waiting = Client::connect(&server);
    let old = server.pid();
    server.reload_ok();
    assert_eq!(server.wait_end(old), Ended::Code(0));
    for (id, client) in clients.iter_mut().enumerate() {
        client.stream.write_all(&head(id).as_bytes()[10..]).unwrap();
        let answer = client.answer(id).unwrap();
        assert_eq!((generation(&answer), is_last(&answer)), (2, false), "{answer}");
    }
    drop((waiting, clients));
    assert!(!server.log().contains("declined") && !server.log().contains("os error 24"), "{}", server.log());
}

#[test]
fn a_successor_whose_table_fills_declines_and_the_old_process_answers_the_rest_and_closes_them() {
    const CONNECTIONS: usize = 600;
    let server = Reborn::new().demo().probation_ms(0).args(["--log", "debug"]).start();
    let mut clients = open(&server, CONNECTIONS);
    let old = server.pid();
    narrow_the_next_version(&server, 320);
    server.reload_ok();
    server.wait_until("the successor declines", |server| server.log().contains("declined"));
    assert!(server.generations().contains(&old), "the old process serves what was declined");
    let (mut moved, mut kept) = (0, 0);
    for (id, client) in clients.iter_mut().enumerate() {
        let answer = client.ask(id).unwrap();
        match (generation(&answer), is_last(&answer)) {
            (2, false) => moved += 1,
            (1, true) => kept += 1,
            other => panic!("{other:?}: {answer}"),
        }
    }
    assert!(moved > 200 && kept > 0, "{moved} moved, {kept} kept");
    drop(clients);
    assert_eq!(server.wait_end(old), Ended::Code(0));
    assert!(!server.log().contains("does not balance"), "{}", server.log());
    server.stop().assert_success();
}

#[test]
fn downloads_streams_and_chats_that_a_full_successor_declines_are_finished_in_the_old_process() {
    const IDLE: usize = 200;
    let server = Reborn::new().for_crowd().probation_ms(0).args(["--log", "debug"]).start();
    let mut idle = open(&server, IDLE);
    let crowd = Crowd::start(&Target::Tcp(server.address()), Numbers::each(15));
    let (old, all) = (server.pid(), IDLE + crowd.len());
    server.wait_until("all are accepted", |server| server.status()["connections"] == all);
    // With the files of their responses they are more than 300.
    narrow_the_next_version(&server, 240);
    server.reload_ok();
    server.wait_until("the successor declines", |server| server.log().contains("declined"));
    let lasting = crowd.len();
    let CrowdReport { went_on, cut, generations } = crowd.finish();
    assert_eq!((went_on, cut), (lasting, 0), "{}", server.log());
    assert!(generations.iter().all(|generation| [1, 2].contains(generation)), "{generations:?}");
    for (id, client) in idle.iter_mut().enumerate() {
        let answer = client.ask(id).unwrap();
        assert!(matches!((generation(&answer), is_last(&answer)), (2, false) | (1, true)), "{answer}");
    }
    drop(idle);
    assert_eq!(server.wait_end(old), Ended::Code(0));
    server.assert_no_error();
    server.stop().assert_success();
}
