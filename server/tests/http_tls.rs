//! What holds over TLS as over plain HTTP, with rustls as the client; and what a connection that is none gets.

mod http_support;
mod tls_support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use futures_lite::AsyncReadExt;
use http_support::{Answering, DEADLINE, Server, answer};
use http_types::{Request, Response};
use restart_core::Drain;
use rustls::ProtocolVersion;
use server::http::{Context, End, Handshakes, Reason, Tls};
use tls_support::{Client, TLS12, TLS13, server_config};

const LARGE: usize = 24 << 20;
/// Less than the kernel takes at once, and more than a client has received of it before it reads.
const SOME: usize = 400_000;

async fn respond(mut request: Request) -> http_types::Result<Response> {
    match request.url().path() {
        "/some" => Ok(Response::from(vec![b's'; SOME])),
        "/memory" => Ok(Response::from(vec![b'm'; LARGE])),
        "/count" => {
            let (mut body, mut count, mut room) = (request.take_body(), 0, vec![0; 65536]);
            while let read @ 1.. = body.read(&mut room).await? {
                count += read;
            }
            Ok(Response::from(count.to_string()))
        }
        "/tls" => {
            let tls =
                request.ext().get::<Tls>().map(|tls| (tls.version().to_owned(), tls.server_name().map(str::to_owned)));
            Ok(Response::from(format!("{} {tls:?}", request.url())))
        }
        _ => answer(request).await,
    }
}

fn server_with(change: impl FnOnce(&mut Context<fn(Request) -> Answering>)) -> Server {
    let mut context = Context::new((|request| Box::pin(respond(request)) as Answering) as fn(_) -> _, Drain::new());
    change(&mut context);
    Server::secured(context, server_config())
}

fn server() -> Server {
    server_with(|_| {})
}

#[test]
fn requests_are_answered_one_after_another_and_pipelined_in_both_versions() {
    let server = server();
    for (version, expected) in [(TLS12, ProtocolVersion::TLSv1_2), (TLS13, ProtocolVersion::TLSv1_3)] {
        let mut client = Client::connect(server.address, version);
        assert_eq!(client.get("/ignore"), "ignored");
        assert_eq!(client.tls.conn.protocol_version(), Some(expected));
        client.send("GET /target HTTP/1.1\r\nHost: test\r\n\r\n".repeat(20));
        for _ in 0..20 {
            assert_eq!(client.reply(), "/target");
        }
        assert_eq!(client.get("/chunked").len(), 300_000);
        client.close();
        assert!(matches!(server.end(), End::Client { requests: 22 }));
    }
}

#[test]
fn a_request_knows_that_it_came_over_tls() {
    let server = server();
    let mut client = Client::connect(server.address, TLS13);
    let expected = r#"https://test/tls Some(("TLSv1.3", Some("test.example")))"#;
    assert_eq!(client.get("/tls"), expected);
    client.send("GET /tls HTTP/1.1\r\nHost: test:80\r\n\r\n");
    assert!(client.reply().starts_with("https://test:80/tls "));
}

#[test]
fn who_is_told_of_requests_is_told_how_they_came() {
    let (teller, told) = channel();
    let server = server_with(|context| {
        context.observers.push(Box::new(move |served| {
            let of = |tls: &Tls| (tls.suite().to_owned(), tls.server_name().map(str::to_owned), tls.resumed());
            teller.send((served.status, served.tls.map(of))).expect("the test goes on");
        }));
    });
    for (version, begins) in [(TLS13, "TLS_"), (TLS12, "TLS_ECDHE_ECDSA_WITH_")] {
        let mut client = Client::connect(server.address, version);
        assert_eq!(client.get("/ignore"), "ignored");
        let (status, tls) = told.recv_timeout(DEADLINE).expect("it is told of");
        let (suite, name, resumed) = tls.expect("it came over TLS");
        assert!(suite.starts_with(begins), "the registry's name: {suite}");
        assert_eq!((status, name.as_deref(), resumed), (Some(200), Some("test.example"), false));
    }
    server.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(told.recv_timeout(DEADLINE), Ok((Some(400), None)), "plain HTTP");
}

#[test]
fn headers_for_answers_over_tls_are_in_refusals_and_in_nothing_that_is_plain() {
    let server = server_with(|context| context.secured.push(("x-secured".into(), "yes".parse().expect("a value"))));
    for request in ["GET /ignore HTTP/1.1\r\nHost: test\r\n\r\n", "GET /ignore HTTP/1.1\r\nNo host\r\n\r\n"] {
        let mut client = Client::connect(server.address, TLS13);
        client.send(request);
        let head = client.until("\r\n\r\n");
        assert!(head.contains("\r\nx-secured: yes\r\n"), "{head}");
    }
    let plain = server.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(plain.starts_with("HTTP/1.1 400 ") && !plain.contains("x-secured"), "{plain}");
}

#[test]
fn uploads_and_downloads_of_many_records_arrive_whole() {
    let server = server();
    let mut client = Client::connect(server.address, TLS13);
    assert!(client.get_bytes("/memory") == vec![b'm'; LARGE]);
    client
        .send(format!("POST /count HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: {LARGE}\r\n\r\n"));
    assert_eq!(client.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send(vec![b'u'; LARGE]);
    assert_eq!(client.reply(), LARGE.to_string());
    client.send("POST /read HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    client.send("2\r\nde\r\n0\r\n\r\n");
    assert_eq!(client.reply(), "abcde");
}

#[test]
fn a_client_that_has_ended_its_direction_is_answered() {
    let server = server();
    let mut client = Client::connect(server.address, TLS13);
    client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
    client.close();
    assert_eq!(client.reply(), "slow");
    assert!(matches!(server.end(), End::Client { requests: 1 }));
}

#[test]
fn a_response_that_ends_with_the_connection_ends_by_close_notify() {
    let server = server();
    let mut client = Client::connect(server.address, TLS13);
    client.send("GET /large HTTP/1.0\r\nHost: test\r\n\r\n");
    let mut all = Vec::new();
    client.tls.read_to_end(&mut all).expect("no truncation");
    assert!(all.len() > 100_000);
}

#[test]
fn a_client_that_says_goodbye_before_it_has_read_the_last_response_gets_it_whole() {
    let server = server();
    let mut client = Client::connect(server.address, TLS13);
    client.send("GET /some HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    client.tls.read_exact(&mut [0]).expect("it begins");
    // Whoever is answered next is answered after that response was sent.
    assert_eq!(Client::connect(server.address, TLS13).get("/ignore"), "ignored");
    client.tls.conn.send_close_notify();
    client.tls.flush().expect("room");
    let mut all = Vec::new();
    client.tls.read_to_end(&mut all).expect("it is not cut");
    assert!(all.len() > SOME);
}

#[test]
fn an_upgraded_connection_is_a_stream_over_tls() {
    let server = server();
    let mut client = Client::connect(server.address, TLS13);
    client.send("GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert!(client.until("\r\n\r\n").starts_with("HTTP/1.1 101 "));
    for length in [1, 1_000, 1_000_000] {
        let sent = "x".repeat(length);
        client.send(&sent);
        assert!(client.take(length) == sent.as_bytes());
    }
    client.close();
    assert_eq!(client.tls.read(&mut [0]).expect("an end in order"), 0);
}

#[test]
fn bytes_that_come_one_by_one_make_a_handshake_and_a_request() {
    let server = server();
    let mut client = Client::new(server.address, TLS13);
    let (mut socket, mut request) = (client.tls.sock.try_clone().expect("a clone"), Some(()));
    while client.tls.conn.is_handshaking() || request.is_some() {
        if !client.tls.conn.is_handshaking() && request.take().is_some() {
            client.tls.conn.writer().write_all(b"GET /ignore HTTP/1.1\r\nHost: test\r\n\r\n").expect("memory");
        }
        let mut out = Vec::new();
        while client.tls.conn.wants_write() {
            client.tls.conn.write_tls(&mut out).expect("memory");
        }
        out.chunks(1).for_each(|byte| socket.write_all(byte).expect("it is taken"));
        if client.tls.conn.is_handshaking() {
            client.tls.conn.read_tls(&mut socket).expect("an answer");
            client.tls.conn.process_new_packets().expect("a handshake");
        }
    }
    assert_eq!(client.reply(), "ignored");
}

#[test]
fn plain_http_is_told_so() {
    let server = server();
    let answer = server.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("this port speaks HTTPS"), "{answer}");
    assert!(matches!(server.end(), End::Server { reason: Reason::Refused(400), .. }));
}

#[test]
fn what_is_neither_tls_nor_http_gets_an_alert() {
    let server = server();
    let mut socket = TcpStream::connect(server.address).expect("a connection");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    socket.write_all(b"\0\x01\x02").expect("room");
    let mut all = Vec::new();
    socket.read_to_end(&mut all).expect("an end");
    assert_eq!(all, [21, 3, 3, 0, 2, 2, 10]);
    assert!(matches!(server.end(), End::Server { reason: Reason::Handshake, .. }));
}

#[test]
fn a_handshake_that_takes_too_long_ends() {
    let server = server_with(|context| context.handshakes = Arc::new(Handshakes::new(1, Duration::from_millis(100))));
    let started = Instant::now();
    let silent = TcpStream::connect(server.address).expect("a connection");
    assert!(matches!(server.end(), End::Server { reason: Reason::Handshake, .. }));
    let mut halfway = TcpStream::connect(server.address).expect("a connection");
    halfway.write_all(&[22, 3, 1, 1, 0, 1]).expect("room");
    assert!(matches!(server.end(), End::Server { reason: Reason::Handshake, .. }));
    assert!(started.elapsed() >= Duration::from_millis(200));
    drop((silent, halfway));
}

#[test]
fn clients_that_never_finish_a_handshake_give_way_to_those_that_do() {
    let server = server_with(|context| context.handshakes = Arc::new(Handshakes::new(2, DEADLINE)));
    let flood: Vec<_> = (0..8)
        .map(|_| {
            let mut halfway = TcpStream::connect(server.address).expect("a connection");
            halfway.write_all(&[22, 3, 1, 1, 0, 1]).expect("room");
            halfway
        })
        .collect();
    let mut client = Client::connect(server.address, TLS13);
    assert_eq!(client.get("/ignore"), "ignored");
    assert!(matches!(server.end(), End::Server { reason: Reason::Crowded, .. }));
    drop(flood);
}

#[test]
fn a_stream_that_is_cut_within_the_head_without_a_word_is_the_clients_end() {
    let server = server();
    let mut client = Client::connect(server.address, TLS13);
    client.send("GET / HT");
    client.tls.sock.shutdown(Shutdown::Write).expect("a connection");
    assert!(matches!(server.end(), End::Client { requests: 0 }));
}
