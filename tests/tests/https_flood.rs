//! Clients that never finish a handshake harm nobody: not those that do, neither over TLS nor beside it, nor a reload, nor
//! the memory of the server.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tests::load::{Limits, Load, Running};
use tests::{DEADLINE, Process, Reborn, Server};

/// How many of each kind there are: far more than may have a place at a time.
const EACH: usize = 60;

/// How many handshakes there may be at a time. Served in the order of coming, the flood would take 8 s.
const PLACES: usize = 32;

/// How long one may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// For so long the first flood is watched.
const WATCHED: Duration = Duration::from_secs(5);

/// What half of those that connect meanwhile may have to wait at most, on a busy machine: a place is given up after a second.
const WAIT_HALF_MAX: Duration = Duration::from_millis(1500);

/// What nobody waits for who has a connection, or comes without TLS.
const WAIT_OTHERS_MAX: Duration = Duration::from_secs(1);

/// The first record of a handshake, with all that rustls wants of it: X25519, ECDSA with P-256, TLS 1.3.
fn client_hello() -> Vec<u8> {
    let extension = |kind: u16, body: &[u8]| {
        [&kind.to_be_bytes()[..], &u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
    };
    let extensions = [
        extension(43, &[2, 3, 4]),
        extension(10, &[0, 2, 0, 29]),
        extension(13, &[0, 2, 4, 3]),
        extension(51, &[&[0, 36, 0, 29, 0, 32][..], &[9; 32]].concat()),
    ];
    let extensions = extensions.concat();
    let length = u16::try_from(extensions.len()).unwrap().to_be_bytes();
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &length, &extensions].concat();
    let length = u16::try_from(body.len()).unwrap();
    let message = [&[1, 0][..], &length.to_be_bytes(), &body].concat();
    [&[22, 3, 1][..], &(length + 4).to_be_bytes(), &message].concat()
}

fn connect(address: SocketAddr, first: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    // It may have been closed already.
    let _ = socket.write_all(first);
    socket
}

/// Clients that say nothing, half of a hello, all of it and then nothing, one byte, or that promise a long message.
fn flood(address: SocketAddr) -> Vec<TcpStream> {
    let hello = client_hello();
    let long = [&[22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc][..], &[0; 4000]].concat();
    let kinds: [&[u8]; 5] = [b"", &hello[..hello.len() / 2], &hello, &hello[..1], &long];
    (0..EACH).flat_map(|_| kinds.map(|first| connect(address, first))).collect()
}

fn resident(server: &Server) -> u64 {
    Process::open(server.pid()).unwrap().resident_bytes()
}

#[test]
fn a_hello_without_an_end_gets_the_servers_half_of_the_handshake() {
    let server = Reborn::new().demo().https().start();
    let mut client = connect(server.https_address(), &client_hello());
    let mut first = [0; 6];
    client.read_exact(&mut first).unwrap();
    assert_eq!((first[0], first[5]), (22, 2), "a ServerHello: the flood below costs what it is to cost");
}

#[test]
fn clients_that_never_finish_a_handshake_harm_neither_others_nor_a_reload_nor_the_servers_memory() {
    let reborn = Reborn::new().demo().probation_ms(0).https().tells_handshakes();
    let (places, timeout) = (PLACES.to_string(), format!("{}s", TIMEOUT.as_secs()));
    let server = reborn.args(["--handshakes", &places, "--handshake-timeout", &timeout]).start();
    let limits = Limits { connect: DEADLINE, answer: DEADLINE };
    let load = Load::new(server.https_target()).limits(limits).new_connections_paced(16, 8).start();
    let connected = Load::new(server.https_target()).paced(4, 40).start();
    let plain = server.load().paced(4, 100).new_connections_paced(4, 20).start();
    for running in [&load, &connected, &plain] {
        running.wait_until("all clients are there", |report| report.answered > 20);
    }
    let before = resident(&server);
    let mut sockets = flood(server.https_address());
    let began = Instant::now();
    let old = Process::open(server.pid()).unwrap();
    while began.elapsed() < WATCHED {
        let asked = load.report().answered;
        load.wait_until("they are answered", |report| report.answered > asked + 5);
    }
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more for {} clients", sockets.len());
    sockets.extend(flood(server.https_address()));
    server.renew_certificate();
    let pid = server.reload_ok();
    load.wait_until("the new process answers", |report| report.pids.contains_key(&pid));
    assert!(old.wait(TIMEOUT * 2), "the old process is held by handshakes\n{}", server.state());
    sockets.extend(flood(server.https_address()));
    let asked = load.report().answered;
    load.wait_until("they are answered", |report| report.answered > asked + 30);
    let [others, connecting] = [vec![plain, connected], vec![load]].map(|loads| loads.into_iter().map(Running::stop));
    for report in others {
        report.assert_no_failure().assert_no_close();
        let longest = Duration::from_micros(report.latency.max_us);
        assert!(report.reopened == 0 && longest < WAIT_OTHERS_MAX, "{report}");
    }
    for report in connecting {
        report.assert_no_failure();
        println!("{report}");
        assert!(Duration::from_micros(report.latency.p50_us) < WAIT_HALF_MAX, "{report}");
    }
    drop(sockets);
    server.assert_no_error();
}
