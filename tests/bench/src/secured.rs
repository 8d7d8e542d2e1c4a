//! What TLS costs: a request beside the same one over plain HTTP, a handshake, an idle connection.
//!
//! Every client speaks TLS 1.3 with one suite, with a key of P-256 on the server's side, and trusts that alone.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tests::secured::{Secured, trusting};

use crate::{
    peer::{Peer, Running, Tls, threads},
    results::Results,
    steady::{CONNECTIONS, settled},
    wrk::{Asked, Asking, wrk, wrk_secured},
};

/// The requests that are measured over both: name, path.
const REQUESTS: [(&str, &str); 2] = [("small request", "/"), ("1 MB", "/1m")];

/// The clients that shake hands, each in a thread of its own.
const SHAKING: usize = 4;

/// The idle connections of which each one's memory is a part, and after which time they count as idle.
const IDLE: u32 = 2000;
const RESTED: Duration = Duration::from_millis(1200);

const KEEPS: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
const CLOSES: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// All of it, of the peers that speak TLS.
pub fn secured(results: &mut Results, peers: &[Peer], seconds: u32) {
    for peer in peers.iter().filter(|peer| peer.speaks_tls()) {
        let running = peer.start_secured();
        let tls = running.tls.as_ref().expect("it was asked to");
        let add = |figure: &str, value| results.add("tls", &format!("TLS: {figure}"), peer.name(), value);
        memory(&running, tls, requests(&running, tls, seconds, add));
    }
    for with_tickets in [false, true] {
        for peer in peers.iter().filter(|peer| peer.speaks_tls()) {
            let running = peer.start_secured();
            let add = |figure: &str, value| results.add("tls", &format!("TLS: {figure}"), peer.name(), value);
            handshakes(&running, with_tickets, seconds, add);
        }
    }
}

/// Throughput and CPU of requests over TLS, and how the CPU relates to that over plain HTTP, measured right before.
fn requests<A: FnMut(&str, f64)>(running: &Running, tls: &Tls, seconds: u32, mut add: A) -> A {
    for (name, path) in REQUESTS {
        let asking = Asking { path, connections: CONNECTIONS * threads(), seconds, headers: &[] };
        let (_, plain) = metered(running, || wrk(running.address, asking));
        let (asked, over_tls) = metered(running, || wrk_secured(tls.address, running.folder(), asking));
        add(&format!("{name}: requests/s"), asked.rate);
        add(&format!("{name}: CPU, us/request"), over_tls);
        add(&format!("{name}: CPU, of plain HTTP's"), over_tls / plain);
    }
    add
}

/// What came of a load, and the server's CPU for each request in microseconds.
fn metered(running: &Running, load: impl FnOnce() -> Asked) -> (Asked, f64) {
    let before = running.group().cpu_ns();
    let asked = load();
    (asked, (running.group().cpu_ns() - before) as f64 / 1000.0 / asked.requests)
}

/// What each idle connection adds after one request.
fn memory(running: &Running, tls: &Tls, mut add: impl FnMut(&str, f64)) {
    let before = settled(running);
    let config = trusting(&tls.certificate, false);
    let connect = |_| {
        let mut client = Secured::connect(tls.address, &config).expect("a connection");
        assert_eq!(client.ask(KEEPS).expect("an answer"), 200);
        client
    };
    let clients: Vec<Secured> = (0..IDLE).map(connect).collect();
    thread::sleep(RESTED);
    add("memory per idle connection, KB", settled(running).saturating_sub(before) as f64 / 1e3 / f64::from(IDLE));
    drop(clients);
}

/// New connections, each with a handshake and a request, and the CPU of one.
fn handshakes(running: &Running, with_tickets: bool, seconds: u32, mut add: impl FnMut(&str, f64)) {
    let tls = running.tls.as_ref().expect("it was asked to");
    let before = running.group().cpu_ns();
    let end = Instant::now() + Duration::from_secs(seconds.into());
    let client = || {
        let (config, address) = (trusting(&tls.certificate, with_tickets), tls.address);
        thread::spawn(move || {
            let (mut all, mut resumed) = (0_u32, 0_u32);
            while Instant::now() < end {
                resumed += u32::from(shake_hands(address, &config));
                all += 1;
            }
            (all, resumed)
        })
    };
    let clients: Vec<_> = std::iter::repeat_with(client).take(SHAKING).collect();
    let counts = clients.into_iter().map(|client| client.join().expect("a client"));
    let (all, resumed) = counts.fold((0, 0), |(all, resumed), (one, of_it)| (all + one, resumed + of_it));
    let cpu = (running.group().cpu_ns() - before) as f64 / 1000.0 / f64::from(all);
    let is_as_asked = if with_tickets { resumed > all / 100 * 99 } else { resumed == 0 };
    assert!(is_as_asked, "{}: {resumed} of {all} handshakes were resumed", running.peer.name());
    let name = if with_tickets { "new connection, resumed" } else { "new connection" };
    add(&format!("{name}: connections/s"), f64::from(all) / f64::from(seconds));
    add(&format!("{name}: CPU, us"), cpu);
}

/// One connection from its beginning to its end. Returns whether an earlier session was resumed.
fn shake_hands(address: SocketAddr, config: &Arc<tests::secured::ClientConfig>) -> bool {
    let mut client = Secured::connect(address, config).expect("a connection");
    assert_eq!(client.ask(CLOSES).expect("an answer"), 200);
    let is_resumed = client.is_resumed();
    client.wait_end().expect("the server ends it");
    is_resumed
}
