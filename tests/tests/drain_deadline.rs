//! What ends at the drain's deadline: streams and upgraded connections in order, shortly before it, requests in flight by a
//! cut, and each of them in the ledger, to the last one.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use smol::{Timer, block_on};
use tests::load::{Chat, EventStream, Limits, Target};
use tests::{DEADLINE, Ended, Reborn, Server, Signal, Version, binary};

fn start(drain_timeout: &str) -> Server {
    let reborn = Reborn::new().demo().probation_ms(0);
    let server = reborn.args(["--log", "debug", "--drain-timeout", drain_timeout]).start();
    server.wait_until("the harness's own connections are gone", |server| server.status()["connections"] == 0);
    server
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A client that speaks the demonstration's protocol `echo`.
struct Upgraded(BufReader<TcpStream>);

impl Upgraded {
    fn open(server: &Server) -> Upgraded {
        let mut stream = connect(server);
        stream.write_all(b"GET /upgrade HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").unwrap();
        let mut client = Upgraded(BufReader::new(stream));
        let mut line = client.line();
        assert_eq!(line, "HTTP/1.1 101 Switching Protocols\r\n");
        while line != "\r\n" {
            line = client.line();
        }
        client
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    fn echo(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
        assert_eq!(self.line(), text);
    }
}

#[test]
fn an_upgraded_connection_stays_with_its_process_and_is_told_shortly_before_the_deadline() {
    let server = start("5s");
    let old = server.pid();
    let mut client = Upgraded::open(&server);
    client.echo("before\n");
    let committed = Instant::now();
    let new = server.reload_ok();
    client.echo("after the reload\n");
    assert_eq!(server.generations(), [old, new], "the old process stays for it");
    assert_eq!(client.line(), "", "the end of the stream, and no reset");
    assert!(committed.elapsed() >= Duration::from_secs(5) * 2 / 3, "not before the drain's last third");
    assert_eq!(server.wait_end(old), Ended::Code(0));
    assert_eq!((server.booked(old, "closed here (handler)"), server.booked(old, "handed over")), (1, 0));
    Upgraded::open(&server).echo("and again\n");
    server.assert_no_error();
}

#[test]
fn streams_and_chats_that_the_successor_does_not_take_end_in_order_before_the_deadline() {
    // The demonstration is asked for by a variable that the successor, another program, does not know.
    let reborn = Reborn::new().env("REBORN_DEMO", "true").env("SHOP_FIRST", "1").probation_ms(0);
    let server = reborn.args(["--log", "debug", "--drain-timeout", "6s"]).start();
    let (target, limits) = (Target::Tcp(server.address()), Limits { answer: DEADLINE, ..Limits::default() });
    let mut events = block_on(EventStream::open(&target, Duration::from_millis(50), limits)).unwrap();
    let mut chat = block_on(Chat::open(&target, limits)).unwrap();
    block_on(async { events.next().await.and(chat.say("before").await) }).unwrap();
    let old = server.pid();
    server.replace_binary(&Version::File(binary::example("shop")));
    let committed = Instant::now();
    server.reload_ok();
    let ended = block_on(async {
        loop {
            match events.next().await {
                Ok(event) => assert_eq!(event.pid, old),
                Err(fault) => break fault.detail,
            }
        }
    });
    assert!(ended.contains("the stream ends after"), "by its last chunk, and not by a cut: {ended}");
    assert!(committed.elapsed() >= Duration::from_secs(4), "not before the drain's last third");
    let goodbye = block_on(async {
        loop {
            match chat.say("still here").await {
                Ok(()) => Timer::after(Duration::from_millis(50)).await,
                Err(fault) => break fault.detail,
            };
        }
    });
    assert!(goodbye.contains("goodbye") && goodbye.contains("Away"), "by a close frame, and not by a cut: {goodbye}");
    drop((events, chat));
    assert_eq!(server.wait_end(old), Ended::Code(0));
    let cut = ["closed here (drain deadline)", "closed here (upgraded)"].map(|what| server.booked(old, what));
    assert_eq!(cut, [0; 2], "{}", server.log());
}

#[test]
fn a_stop_reaches_the_handler_of_an_upgraded_connection_which_ends_it() {
    let server = start("60s");
    let mut client = Upgraded::open(&server);
    client.echo("before\n");
    let pid = server.pid();
    let stopped = Instant::now();
    server.stop().assert_success();
    assert_eq!(client.line(), "");
    assert!(stopped.elapsed() < Duration::from_secs(20), "not at the deadline");
    assert_eq!(server.booked(pid, "closed here (handler)"), 1);
    server.assert_no_error();
}

#[test]
fn a_stop_reaches_the_handler_of_an_upgraded_connection_in_a_generation_that_drains() {
    let server = start("1h");
    let (old, mut client) = (server.pid(), Upgraded::open(&server));
    server.reload_ok();
    client.echo("after the reload\n");
    let stopped = Instant::now();
    server.stop().assert_success();
    assert_eq!(client.line(), "");
    assert!(stopped.elapsed() < Duration::from_secs(20), "not at the deadline");
    assert_eq!(server.booked(old, "closed here (handler)"), 1);
    server.assert_no_error();
}

#[test]
fn a_client_that_ends_its_upgraded_connection_lets_the_drained_process_go() {
    let server = start("60s");
    let (old, mut client) = (server.pid(), Upgraded::open(&server));
    server.reload_ok();
    client.echo("last\n");
    drop(client);
    assert_eq!(server.wait_end(old), Ended::Code(0));
    assert_eq!(server.booked(old, "closed by the client"), server.booked(old, "accepted"));
    server.assert_no_error();
}

#[test]
fn connections_that_end_by_themselves_at_the_very_deadline_are_booked_once_each() {
    const CONNECTIONS: u64 = 400;
    const DEADLINE_MS: u64 = 1000;
    let server = start(&format!("{DEADLINE_MS}ms"));
    let (mut cut, mut answered) = (0, 0);
    for _ in 0..4 {
        let (old, before) = (server.pid(), server.log().matches("request start").count());
        server.wait_until("nothing is left of before", |server| server.status()["connections"] == 0);
        let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| connect(&server)).collect();
        // Their answers are due over half a second with the deadline in it, in an order of their own. A tenth is due so
        // late that it is cut even where the reload is slow.
        for (number, client) in (0..).zip(&mut clients) {
            let late = if number % 10 == 0 { 1500 } else { 0 };
            let delay = DEADLINE_MS - 200 + number * 7919 % CONNECTIONS + late;
            let request = format!("GET /?delay={delay} HTTP/1.1\r\nhost: localhost\r\n\r\n");
            client.write_all(request.as_bytes()).unwrap();
        }
        server.wait_until("all requests have begun", |server| {
            server.log().matches("request start").count() == before + clients.len()
        });
        server.reload_ok();
        // A quarter of the clients leaves meanwhile.
        clients.truncate(clients.len() * 3 / 4);
        assert_eq!(server.wait_end(old), Ended::Code(0));
        let ends = ["closed by the client", "closed here (drain deadline)", "handed over"];
        let [left, over, moved] = ends.map(|what| server.booked(old, what));
        let came = server.booked(old, "accepted") + server.booked(old, "received");
        assert_eq!((left + over + moved, server.booked(old, "live")), (came, 0), "{left} + {over} + {moved}");
        server.assert_no_error();
        let complete = clients.into_iter().map(complete_answer).filter(|complete| *complete).count() as u64;
        assert!(complete <= moved + over, "{complete} answers, {moved} moved, {over} cut");
        (cut, answered) = (cut + over, answered + moved);
    }
    println!("{cut} cut, {answered} answered and moved");
    assert!(cut > 0 && answered > 0, "the deadline was among them: {cut} cut, {answered} answered and moved");
}

#[test]
fn connections_on_their_way_to_a_successor_that_does_not_answer_end_at_the_deadline_with_one_owner() {
    const CONNECTIONS: u64 = 20;
    let server = start("6s");
    let old = server.pid();
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| connect(&server)).collect();
    for client in &mut clients {
        client.write_all(b"GET /?delay=3000 HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    }
    server
        .wait_until("all requests have begun", |server| server.log().matches("request start").count() == clients.len());
    let stopped = server.reload_ok();
    server.signal_to(stopped, Signal::STOP);
    for mut client in clients {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("cout\n"), "its answer, and an end without a reset: {text}");
    }
    assert_eq!(server.wait_end(old), Ended::Code(0));
    assert_eq!(server.booked(old, "closed here (drain deadline)"), CONNECTIONS, "{}", server.log());
    assert_eq!(server.booked(old, "handed over"), 0);
    server.signal_to(stopped, Signal::CONT);
    server.wait_until("the continued one drops what it cannot own", |server| {
        server.log().contains("stay with the process that sent them")
    });
    server.stop().assert_success();
    assert_eq!(server.booked(stopped, "received"), 0);
    server.assert_no_error();
}

/// Whether a whole answer has come; what was cut has none, or a part.
fn complete_answer(mut client: TcpStream) -> bool {
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    while !bytes.ends_with(b"cout\n") {
        match client.read(&mut part) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&part[..count]),
            Ok(_) | Err(_) => return false,
        }
    }
    true
}
