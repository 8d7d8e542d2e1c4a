//! A service of somebody's own by axum: what its handlers learn of a client whose connection has moved, and what becomes
//! of clients while the process can open nothing.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Instant;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use support::{DEADLINE, Service, connect_tcp, wait_for_end};

/// A client's connection, on which one request follows another.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: &str) -> Client {
        Client(BufReader::new(connect_tcp(address)))
    }

    /// The address that handlers are to see.
    fn address(&self) -> String {
        self.0.get_ref().local_addr().unwrap().to_string()
    }

    fn ask(&mut self, path: &str, headers: &str) {
        write!(self.0.get_mut(), "GET {path} HTTP/1.1\r\nhost: a\r\n{headers}\r\n").unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let line = self.line();
            assert!(!line.is_empty(), "it ended within {head:?}");
            head += &line;
        }
        head
    }

    /// The generation that answers, and the address that its handler sees.
    fn answer(&mut self) -> (u64, String) {
        let head = self.head();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        parsed(&String::from_utf8(body).unwrap())
    }

    fn who(&mut self) -> (u64, String) {
        self.ask("/who", "");
        self.answer()
    }

    /// Asks until the connection has come to this generation. Whoever answers meanwhile has to see the same address.
    #[track_caller]
    fn moves_to(&mut self, generation: u64) {
        let end = Instant::now() + DEADLINE;
        loop {
            let (by, address) = self.who();
            assert_eq!(address, self.address(), "by generation {by}");
            if by == generation {
                return;
            }
            assert!(by < generation && Instant::now() < end, "generation {by} answers");
        }
    }

    fn says(&mut self, text: &str) {
        writeln!(self.0.get_mut(), "{text}").unwrap();
        assert_eq!(self.line(), format!("{text}\n"));
    }
}

fn parsed(text: &str) -> (u64, String) {
    let (generation, address) = text.trim_end().split_once(' ').unwrap();
    (generation.parse().unwrap(), address.to_owned())
}

#[test]
fn a_connection_that_has_moved_shows_its_clients_true_address_and_can_upgrade() {
    let service = Service::example("fixture_axum", "fixture-axum");
    let address = service.address("http");
    let mut client = Client::connect(&address);
    assert_eq!(client.who(), (1, client.address()));
    let first = service.reload_well().from.pid;
    client.moves_to(2);
    wait_for_end(first, DEADLINE);
    client.ask("/echo", "connection: upgrade\r\nupgrade: echo\r\n");
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    assert_eq!(parsed(&client.line()), (2, client.address()));
    client.says("one");
    // What axum alone has upgraded stays where it is, for as long as the client wants.
    let second = service.reload_well().from.pid;
    assert_eq!(Client::connect(&address).who().0, 3);
    client.says("two");
    drop(client);
    wait_for_end(second, DEADLINE);
}

/// Bounds what a process can open; returns what the bound was.
fn bound_descriptors(pid: u32, count: u64) -> u64 {
    let bound = Rlimit { current: Some(count), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Pid::from_raw(pid.cast_signed()), Resource::Nofile, bound).unwrap().current.unwrap()
}

#[test]
fn without_a_free_descriptor_clients_wait_and_the_log_says_so_once() {
    let service = Service::example_that_logs("fixture_axum", "fixture-axum");
    let log = || std::fs::read_to_string(service.folder.path().join("log")).unwrap();
    let (address, pid) = (service.address("http"), service.status().id.pid);
    let mut early = Client::connect(&address);
    assert_eq!(early.who(), (1, early.address()));
    let before = bound_descriptors(pid, 3);
    let mut late = Client::connect(&address);
    late.ask("/who", "");
    let end = Instant::now() + DEADLINE;
    while !log().contains("cannot accept on") {
        assert!(Instant::now() < end, "{}", log());
        std::thread::yield_now();
    }
    assert_eq!(early.who(), (1, early.address()));
    bound_descriptors(pid, before);
    assert_eq!(late.answer(), (1, late.address()));
    assert_eq!(log().matches("cannot accept on").count(), 1, "{}", log());
}

/// How often the thread of the driver's event loop has slept and was woken.
fn wakes_of_the_driver(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let is_its = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).unwrap() == "async-io\n";
    let task = tasks.into_iter().find(is_its).expect("the driver has an event loop of its own");
    let status = std::fs::read_to_string(task.join("status")).unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    count.trim().parse().unwrap()
}

#[test]
fn clients_do_not_wake_the_event_loop_of_the_driver() {
    const CLIENTS: u64 = 200;
    let service = Service::example("fixture_axum", "fixture-axum");
    let (address, pid) = (service.address("http"), service.status().id.pid);
    let before = wakes_of_the_driver(pid);
    for _ in 0..CLIENTS {
        let mut client = Client::connect(&address);
        assert_eq!(client.who(), (1, client.address()));
    }
    let woken = wakes_of_the_driver(pid) - before;
    // The end of the status that was asked for may come late, and something may have to be told once.
    assert!(woken < CLIENTS / 10, "{woken} times for {CLIENTS} clients");
}
