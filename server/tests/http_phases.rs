//! When connections end: timeouts, a drain, a stop, and parking for a hand-over.

mod http_support;

use std::time::{Duration, Instant};

use http_support::{Client, DEADLINE, Server};
use restart_core::Phase;
use server::http::{End, Reason, Start};

const SHORT: Duration = Duration::from_millis(100);
const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn an_idle_connection_is_closed_in_silence_after_its_time() {
    let timeout = Duration::from_secs(3);
    let server = Server::with(|context| context.limits.idle_timeout = timeout);
    let mut client = server.connect();
    let mut idle = Instant::now();
    for _ in 0..4 {
        std::thread::sleep(timeout / 3);
        idle = Instant::now();
        assert_eq!(client.get("/").status, 200, "each request begins the time anew");
    }
    assert!(client.is_closed());
    assert!(idle.elapsed() >= timeout);
    assert!(matches!(server.end(), End::Server { reason: Reason::IdleTimeout, requests: 4 }));
    let server = Server::with(|context| context.limits.idle_timeout = SHORT);
    assert!(server.connect().is_closed(), "also one that never sent anything");
    assert!(matches!(server.end(), End::Server { reason: Reason::IdleTimeout, requests: 0 }));
}

#[test]
fn a_head_that_takes_too_long_in_all_is_answered_with_408() {
    let server = Server::with(|context| context.limits.head_timeout = 3 * SHORT);
    let mut client = server.connect();
    let started = Instant::now();
    for byte in GET.bytes().take(5) {
        client.send([byte]);
        std::thread::sleep(SHORT / 2);
    }
    let reply = client.reply();
    assert_eq!((reply.status, reply.closes()), (408, true), "single bytes do not prolong it");
    assert!(started.elapsed() >= 3 * SHORT);
    drop(client);
    assert!(matches!(server.end(), End::Server { reason: Reason::Refused(408), requests: 0 }));
}

#[test]
fn a_body_that_stops_coming_is_answered_with_408() {
    let server = Server::with(|context| context.limits.body_timeout = SHORT);
    for framing in ["Content-Length: 6\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nab"] {
        let mut client = server.connect();
        client.send(format!("POST /read HTTP/1.1\r\nHost: test\r\n{framing}"));
        let reply = client.reply();
        assert_eq!((reply.status, reply.closes()), (408, true));
    }
}

/// Sends a body in pieces of `size` bytes, one every 50 ms, in `pieces` pieces or until the server answers.
fn drip(client: &mut Client, size: usize, pieces: usize) {
    client.send(format!("POST /read HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", size * pieces));
    for _ in 0..pieces {
        if !client.is_silent() {
            return;
        }
        client.send(vec![b'x'; size]);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_body_may_be_slow_but_not_slower_than_the_least_pace() {
    let timeout = Duration::from_secs(3);
    let server = Server::with(|context| context.limits.body_timeout = timeout);
    let mut client = server.connect();
    let started = Instant::now();
    drip(&mut client, 200, 80);
    assert!(started.elapsed() > timeout, "all of it took longer than the timeout");
    assert_eq!(client.reply().body.len(), 16_000);
    let started = Instant::now();
    drip(&mut client, 1, 10_000);
    let reply = client.reply();
    assert_eq!((reply.status, reply.closes()), (408, true), "single bytes do not prolong it");
    assert!(started.elapsed() < DEADLINE);
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    let server = Server::with(|context| context.limits.write_timeout = SHORT);
    let mut client = server.connect();
    // More than the buffers of a loopback connection hold.
    client.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n".repeat(40));
    assert!(matches!(server.end(), End::Server { reason: Reason::WriteTimeout, .. }));
}

#[test]
fn a_client_may_take_its_response_slowly_but_not_slower_than_the_least_pace() {
    let timeout = Duration::from_secs(3);
    let server = Server::with(|context| context.limits.write_timeout = timeout);
    let connect = || {
        let mut client = server.connect();
        rustix::net::sockopt::set_socket_recv_buffer_size(&client.stream, 16 * 1024).expect("a socket");
        client.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n".repeat(8));
        client
    };
    let mut slow = connect();
    let mut taken = 0;
    let started = Instant::now();
    while started.elapsed() < 3 * timeout {
        taken += slow.receive_up_to(8 * 1024);
        std::thread::sleep(timeout / 40);
    }
    while taken < 8_000_000 {
        let more = slow.receive_up_to(1 << 20);
        assert!(more > 0, "cut after {taken} bytes: a third of the buffer was not free in time, but bytes were taken");
        taken += more;
    }
    assert!(server.none_ended());
    let mut slower = connect();
    let started = Instant::now();
    while server.none_ended() {
        slower.receive_up_to(1);
        std::thread::sleep(timeout / 20);
        assert!(started.elapsed() < DEADLINE, "single bytes prolong it");
    }
}

#[test]
fn a_client_that_pauses_while_it_sends_what_was_refused_can_read_the_refusal() {
    let server = Server::with(|context| context.limits.body_bytes = 1000);
    let mut client = server.connect();
    client.send("POST /read HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n");
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(1_300));
        client.send(vec![b'x'; 100_000]);
    }
    assert!(server.none_ended(), "it still listens");
    let reply = client.reply();
    assert_eq!((reply.status, reply.closes()), (413, true));
    client.finish_sending();
    assert!(client.is_closed(), "and it was no reset");
    assert!(matches!(server.end(), End::Server { reason: Reason::Refused(413), .. }));
}

#[test]
fn a_drain_closes_no_idle_connection_but_announces_the_end_on_its_next_response() {
    let server = Server::new();
    let mut idle = server.connect();
    assert!(!idle.get("/").closes());
    let mut half = server.connect();
    half.send(&GET[..10]);
    let mut busy = server.connect();
    busy.begin();
    let mut silent = server.connect();
    assert!(idle.is_silent());
    server.drain.set_phase(Phase::Draining);
    busy.send("slow");
    let reply = busy.reply();
    assert_eq!((reply.body.as_str(), reply.closes()), ("slow", true), "the request in flight is finished");
    assert!(busy.is_closed());
    drop(busy);
    assert!(idle.is_silent());
    half.send(&GET[10..]);
    assert!(half.reply().closes());
    for client in [&mut idle, &mut silent] {
        assert!(client.get("/").closes());
        assert!(client.is_closed());
    }
    drop((idle, half, silent));
    for _ in 0..4 {
        assert!(matches!(server.end(), End::Server { reason: Reason::Draining, .. }));
    }
}

#[test]
fn a_stop_closes_idle_connections_at_once_and_finishes_what_has_begun() {
    let server = Server::new();
    let mut idle = server.connect();
    idle.get("/");
    let mut half = server.connect();
    half.send(&GET[..10]);
    let mut busy = server.connect();
    busy.begin();
    server.drain.set_phase(Phase::Stopping);
    let stopped = Instant::now();
    assert!(idle.is_closed());
    assert!(stopped.elapsed() < DEADLINE);
    assert!(matches!(server.end(), End::Server { reason: Reason::Stopping, requests: 1 }));
    half.send(&GET[10..]);
    busy.send("slow");
    for client in [&mut half, &mut busy] {
        let reply = client.reply();
        assert_eq!((reply.status, reply.closes()), (200, true));
        assert!(client.is_closed());
    }
}

#[test]
fn a_request_that_arrived_before_the_stop_is_answered() {
    // The phase is set before the server sees the bytes: its last look at the socket finds them.
    let server = Server::new();
    let mut client = server.connect();
    client.get("/");
    server.drain.set_phase(Phase::Draining);
    assert!(client.is_silent());
    client.send(GET);
    server.drain.set_phase(Phase::Stopping);
    assert!(client.reply().closes());
}

#[test]
fn what_was_pipelined_before_an_end_is_answered_before_the_connection_closes() {
    for (phase, reason) in [(Phase::Stopping, Reason::Stopping), (Phase::Draining, Reason::Draining)] {
        let server = Server::new();
        server.drain.set_phase(phase);
        // More than one buffer takes, so that some of it is still in the socket.
        let post = "POST /ignore HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc";
        let long = format!("GET /?{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(1_000));
        let mut client = server.connect_after([GET, post, &long].concat().repeat(20));
        let replies: Vec<_> = (0..60).map(|_| client.reply()).collect();
        assert!(replies.iter().all(|reply| reply.status == 200));
        let closing = replies.iter().position(http_support::Reply::closes);
        assert_eq!(closing, Some(59), "the last one says that it is: {phase:?}");
        assert!(client.is_closed());
        drop(client);
        assert!(matches!(server.end(), End::Server { reason: told, requests: 60 } if told == reason));
    }
}

#[test]
fn a_client_that_never_stops_sending_does_not_hold_up_a_stop() {
    let server = Server::new();
    server.drain.set_phase(Phase::Stopping);
    let answers = server.connect_after(GET.repeat(1_500)).rest();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 1_001, "a thousand more than the first one");
    assert_eq!(answers.matches("connection: close").count(), 1);
    assert!(matches!(server.end(), End::Server { reason: Reason::Stopping, requests: 1_001 }));
}

#[test]
fn an_old_client_sees_by_a_reset_that_its_response_was_cut() {
    let server = Server::new();
    let ask = |path: &str| {
        let mut client = server.connect();
        client.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
        client
    };
    let (bytes, reset) = ask("/breaking").rest_to_a_reset();
    assert!(reset && bytes > 1_000, "{bytes} bytes of a body that failed");
    assert!(matches!(server.end(), End::Server { reason: Reason::Broken, .. }));
    let (bytes, reset) = ask("/chunked").rest_to_a_reset();
    assert!(!reset && bytes > 300_000, "one that is whole ends in order");
    assert!(matches!(server.end(), End::Server { reason: Reason::Asked, .. }));
    let mut stuck = ask("/stuck");
    assert!(stuck.until("sss").starts_with("HTTP/1.1 200 OK"));
    server.drain.set_phase(Phase::Over);
    assert!(stuck.rest_to_a_reset().1, "the drain's deadline cut it");
}

fn parked(server: &Server) -> Start {
    match server.end() {
        End::Parked(start) => start,
        other => panic!("{other:?} instead of parked"),
    }
}

#[test]
fn a_drain_parks_idle_and_half_received_connections_and_another_server_goes_on() {
    let old = Server::with(|context| context.parks = true);
    let new = Server::new();
    let mut idle = old.connect();
    assert!(!idle.get("/").closes());
    let mut half = old.connect_with(&GET[..10]);
    let mut silent = old.connect();
    assert!(silent.is_silent());
    old.drain.set_phase(Phase::Draining);
    let starts: Vec<Start> = (0..3).map(|_| parked(&old)).collect();
    let mut read_ahead: Vec<usize> = starts.iter().map(|start| start.read_ahead.len()).collect();
    read_ahead.sort_unstable();
    assert_eq!(read_ahead, [0, 0, 10]);
    assert_eq!(starts.iter().map(|start| start.requests).sum::<u64>(), 1);
    for start in &starts {
        assert!(rustix::net::sockopt::tcp_nodelay(&start.stream).expect("a TCP socket"));
        let flags = rustix::fs::fcntl_getfl(&start.stream).expect("flags");
        assert!(flags.contains(rustix::fs::OFlags::NONBLOCK), "which all processes share, so it stays");
    }
    for start in starts {
        new.resume(start);
    }
    half.send(&GET[10..]);
    assert_eq!(half.reply().body, "hello");
    for client in [&mut idle, &mut silent, &mut half] {
        let own = client.stream.local_addr().expect("an address").to_string();
        assert_eq!(client.get("/peer").body, own, "the peer's address travels along");
    }
    drop((idle, silent, half));
    let served: u64 = (0..3).map(|_| if let End::Client { requests } = new.end() { requests } else { 0 }).sum();
    assert_eq!(served, 5, "with the one that the first server answered");
}

#[test]
fn a_busy_connection_parks_after_its_response_with_the_pipelined_rest() {
    let old = Server::with(|context| context.parks = true);
    let new = Server::new();
    let mut client = old.connect();
    client.begin();
    old.drain.set_phase(Phase::Draining);
    client.send(format!("slowPOST /read HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc{GET}"));
    let reply = client.reply();
    assert_eq!((reply.body.as_str(), reply.closes()), ("slow", false), "it is not going to be closed");
    let start = parked(&old);
    assert!(start.read_ahead.ends_with(GET.as_bytes()));
    new.resume(start);
    assert_eq!(client.reply().body, "abc");
    assert_eq!(client.reply().body, "hello");
    assert_eq!(client.get("/").body, "hello");
    assert!(new.none_ended());
}

#[test]
fn a_stop_parks_nothing() {
    let server = Server::with(|context| context.parks = true);
    let mut client = server.connect();
    client.get("/");
    server.drain.set_phase(Phase::Stopping);
    assert!(client.is_closed());
    assert!(matches!(server.end(), End::Server { reason: Reason::Stopping, requests: 1 }));
}

#[test]
fn the_deadline_of_a_drain_ends_every_connection_whatever_it_is_doing() {
    let server = Server::new();
    let mut idle = server.connect();
    idle.get("/");
    let mut half = server.connect_with(&GET[..10]);
    let mut busy = server.connect_with("GET /never HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut reading = server.connect_with("POST /read HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nab");
    let mut not_taking = server.connect();
    not_taking.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n".repeat(40));
    assert!(idle.is_silent() && half.is_silent() && busy.is_silent() && reading.is_silent());
    server.drain.set_phase(Phase::Draining);
    assert!(server.none_ended());
    server.drain.set_phase(Phase::Over);
    for client in [&mut idle, &mut half, &mut busy, &mut reading] {
        assert!(client.is_closed());
    }
    let mut late = server.connect();
    assert!(late.is_closed(), "also one that comes when it is over");
    let ends: Vec<End> = (0..6).map(|_| server.end()).collect();
    assert!(ends.iter().all(|end| matches!(end, End::Server { reason: Reason::DrainDeadline, .. })), "{ends:?}");
}
