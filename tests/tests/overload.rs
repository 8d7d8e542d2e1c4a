//! More clients than there is room for: those beyond the limit of connections wait and are served, idle ones make room,
//! and requests beyond their limit are told to come again.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use smol::block_on;
use tests::{
    Reborn, Server,
    load::{Connection, Limits, Request, Target},
};

fn open(server: &Server, count: usize) -> Vec<Connection> {
    let connections: Vec<_> = (0..count).map(|_| server.connect()).collect();
    server.wait_until("all are accepted", |server| server.status()["connections"] == count);
    connections
}

fn begin(connection: &Connection, id: &str, pause: Duration) {
    block_on(connection.send(Request::slow(id, pause).head().as_bytes())).unwrap();
}

#[test]
fn clients_beyond_the_limit_of_connections_wait_and_are_served_in_turn() {
    let server = Reborn::new().demo().args(["--connections", "4"]).start();
    let mut busy = open(&server, 4);
    for (id, connection) in busy.iter().enumerate() {
        begin(connection, &format!("busy{id}"), Duration::from_secs(2));
    }
    let mut late = server.connect();
    block_on(late.send(Request::fast("late").last().head().as_bytes())).unwrap();
    let mut answers = block_on(async {
        let mut answers = vec![];
        for connection in &mut busy {
            answers.push(connection.answer().await.unwrap().status);
        }
        answers
    });
    drop(busy);
    answers.push(block_on(late.answer()).unwrap().status);
    assert_eq!(answers, [200; 5], "no request under way made room, and nobody was refused");
    assert_eq!(server.status()["application"]["closed_by_us"]["made room"], serde_json::Value::Null);
}

#[test]
fn a_listener_that_nobody_comes_to_takes_no_place_from_another() {
    let reborn = Reborn::new().demo().args(["--connections", "1"]);
    let path = reborn.folder().join("other.sock");
    let server = reborn.listen(&format!("other=unix:{}", path.display())).start();
    let targets = [Target::Unix(path), Target::Tcp(server.address())];
    for target in targets.iter().chain(targets.iter().rev()) {
        block_on(async {
            let mut client = Connection::open(target, Limits::default()).await.unwrap();
            client.exchange(&Request::fast("turn").last()).await.unwrap();
        });
    }
}

#[test]
fn a_client_that_has_its_share_of_the_connections_gets_no_more_of_them_until_it_has_fewer() {
    let server = Reborn::new().demo().args(["--connections-per-client", "2"]).start();
    let mut share = open(&server, 2);
    let mut one_more = server.connect();
    assert!(block_on(one_more.exchange(&Request::fast("more"))).is_err());
    assert_eq!(server.status()["application"]["closed_by_us"]["client's share"], 1);
    assert!(server.log().contains("127.0.0.1 has 2 connections"), "{}", server.log());
    block_on(share[0].exchange(&Request::fast("kept"))).unwrap();
    // What moves at a reload still counts.
    server.reload_ok();
    server.wait_single();
    block_on(share[1].exchange(&Request::fast("moved"))).unwrap();
    assert!(block_on(server.connect().exchange(&Request::fast("more"))).is_err());
    share.pop();
    server.wait_until("there is room for another", |server| server.status()["connections"] == 1);
    assert_eq!(server.ask().status, 200);
}

/// A client that asks without end and reads as fast as it can, and how many bytes of answers it got.
fn flood(server: &Server) -> Arc<AtomicU64> {
    let mut writer = TcpStream::connect(server.address()).unwrap();
    let mut reader = writer.try_clone().unwrap();
    let asked = b"GET /fast HTTP/1.1\r\nhost: a\r\n\r\n".repeat(10_000);
    // Both end with the server.
    thread::spawn(move || while writer.write_all(&asked).is_ok() {});
    let received = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&received);
    thread::spawn(move || {
        let mut room = vec![0; 1 << 20];
        while let Ok(count @ 1..) = reader.read(&mut room) {
            counted.fetch_add(count as u64, Ordering::Relaxed);
        }
    });
    received
}

#[test]
fn a_client_that_pipelines_without_end_gets_a_turn_and_not_the_server() {
    /// What one answer takes at the least, and how many of them others wait for at the most.
    const ANSWER_BYTES: u64 = 100;
    const ANSWERS_MAX: u64 = 500;
    let server = Reborn::new().demo().args(["--threads", "1"]).start();
    let received = flood(&server);
    server.wait_until("it pipelines", |_| received.load(Ordering::Relaxed) > 1 << 20);
    let mut other = server.connect();
    let mut beside: Vec<u64> = (0..31)
        .map(|number| {
            let before = received.load(Ordering::Relaxed);
            block_on(other.exchange(&Request::fast(number.to_string()))).unwrap();
            (received.load(Ordering::Relaxed) - before) / ANSWER_BYTES
        })
        .collect();
    beside.sort_unstable();
    assert!(beside[15] < ANSWERS_MAX, "so many answers went to the one while the other waited for one: {beside:?}");
}

#[test]
fn idle_connections_do_not_lock_others_out() {
    let server =
        Reborn::new().demo().args(["--connections", "32", "--idle-timeout", "1h", "--head-timeout", "1h"]).start();
    let mut idle = open(&server, 32);
    begin(&idle[0], "busy", Duration::from_secs(3));
    let answers: Vec<_> = (0..40).map(|_| server.ask().status).collect();
    assert_eq!(answers, [200; 40]);
    assert_eq!(block_on(idle[0].answer()).unwrap().status, 200, "a request under way is not idle");
    let made_room = server.status()["application"]["closed_by_us"]["made room"].as_u64().unwrap();
    assert!((1..32).contains(&made_room), "{made_room}");
}

#[test]
fn nobody_makes_room_while_nobody_waits_for_it() {
    let server = Reborn::new().demo().args(["--connections", "3"]).start();
    let mut idle = open(&server, 2);
    begin(&idle[0], "first", Duration::from_millis(2_500));
    let third = server.connect();
    block_on(idle[0].answer()).unwrap();
    for connection in &mut idle {
        block_on(connection.exchange(&Request::fast("again"))).unwrap();
    }
    drop(third);
}

#[test]
fn requests_beyond_their_limit_are_told_to_come_again_and_keep_their_connection() {
    let server = Reborn::new().demo().args(["--requests", "2"]).start();
    let mut busy = open(&server, 2);
    for (id, connection) in busy.iter().enumerate() {
        begin(connection, &format!("busy{id}"), Duration::from_secs(3));
    }
    let mut client = server.connect();
    let mut refused = 0;
    server.wait_until("a request is refused", |_| {
        block_on(client.send(Request::echo("body", vec![b'x'; 1000], 1, Duration::ZERO).head().as_bytes())).unwrap();
        block_on(client.send(&[b'x'; 1000])).unwrap();
        let answer = block_on(client.answer()).unwrap();
        if answer.status == 503 {
            assert_eq!((answer.header("retry-after"), answer.header("connection")), (Some("1"), None));
            refused += 1;
        }
        refused == 2
    });
    for connection in &mut busy {
        assert_eq!(block_on(connection.answer()).unwrap().status, 200);
    }
    block_on(client.exchange(&Request::fast("again"))).unwrap();
    assert_eq!(server.log().matches("further ones answered with 503").count(), 1, "it is said once in a while");
}
