//! What a client may not do, what a handler may not do, and how both are answered: each with its status, a body that
//! names the cause, `Connection: close` where it closes, and never with the connection's next bytes taken for a request.
//! The ways of smuggling a request are in `http_smuggling`.

mod http_support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_support::{DEADLINE, Server};
use server::http::{Capacity, End, Reason};

/// Sends `request` and right after it one that must never be answered. Returns the status of the only answer.
#[track_caller]
fn only_status(server: &Server, request: &[u8]) -> u16 {
    let mut client = server.connect();
    client.send([request, b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"].concat());
    let reply = client.reply();
    assert!(reply.closes(), "{}", reply.head);
    assert!(reply.body.starts_with(&format!("{} ", reply.status)), "{:?} names its status", reply.body);
    assert!(reply.body.contains(": "), "{:?} names a cause", reply.body);
    assert!(client.is_closed(), "nothing follows the answer");
    reply.status
}

#[test]
fn every_refusal_is_answered_and_closes() {
    let server = Server::with(|context| {
        context.limits.head_bytes = 2_000;
        context.limits.headers = 20;
        context.limits.body_bytes = 1_000;
    });
    let long = format!("GET /{} ", "a".repeat(2_000));
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(2_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(20));
    let cases: &[(&str, u16)] = &[
        ("GET / HTTP/1.1\r\nHost: 1.2.3.4:99999\r\n\r\n", 400),
        ("\u{16}\u{3}\u{1}\u{2}", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n", 413),
        (&long, 414),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417),
        ("GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 421),
        (&large, 431),
        (&many, 431),
        ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501),
        ("CONNECT a: HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ];
    for (request, status) in cases {
        assert_eq!(only_status(&server, request.as_bytes()), *status, "{request:?}");
        assert!(matches!(server.end(), End::Server { reason: Reason::Refused(_), requests: 0 }));
    }
}

#[test]
fn a_refused_head_request_gets_no_body() {
    let server = Server::new();
    for (request, status) in [
        ("HEAD / HTTP/1.1\r\n\r\n", 400),
        ("HEAD /#a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("HEAD / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417),
        ("HEAD / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    ] {
        let mut client = server.connect();
        client.send(request);
        let reply = client.reply_to("HEAD");
        assert_eq!((reply.status, reply.closes()), (status, true), "{request:?}");
        assert!(client.is_closed(), "{request:?}: nothing follows the head");
    }
}

#[test]
fn a_body_that_breaks_the_rules_is_answered_and_closes() {
    let server = Server::with(|context| context.limits.body_bytes = 1_000);
    let chunked = |path: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes()
    };
    for path in ["/read", "/echo", "/trailers"] {
        assert_eq!(only_status(&server, &chunked(path, "3\r\nabcd\r\n0\r\n\r\n")), 400, "{path}");
        assert_eq!(only_status(&server, &chunked(path, "x\r\n")), 400, "{path}");
        assert_eq!(only_status(&server, &chunked(path, "0\r\na b\nc\r\n\r\n")), 400, "{path}");
        assert_eq!(only_status(&server, &chunked(path, "3e9\r\n")), 413, "{path}");
    }
    assert_eq!(only_status(&server, &chunked("/read", "0\r\nno colon\r\n\r\n")), 400);
    let mut client = server.connect();
    client.send(chunked("/ignore", "x\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
    let reply = client.reply();
    assert_eq!((reply.status, reply.closes()), (200, true), "the handler did not look at the body");
    assert!(client.is_closed());
}

#[test]
fn a_message_that_ends_early_is_an_error() {
    let server = Server::new();
    for part in [
        "GET / HT",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab",
        "POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
    ] {
        let mut client = server.connect();
        client.send(part);
        client.finish_sending();
        let reply = client.reply();
        assert_eq!((reply.status, reply.closes()), (400, true), "{part:?}");
        assert!(matches!(server.end(), End::Server { reason: Reason::Refused(400), .. }));
    }
    let mut client = server.connect();
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    assert!(client.until("abc\r\n").starts_with("HTTP/1.1 200"));
    client.finish_sending();
    assert_eq!(client.rest(), "", "a response that is under way is cut, without the last chunk");
    assert!(matches!(server.end(), End::Client { .. }), "which is the client's doing");
}

#[test]
fn a_handler_that_fails_or_panics_is_answered_with_500() {
    let server = Server::new();
    let mut client = server.connect();
    for (path, status) in
        [("/fail", 500), ("/panic", 500), ("/split", 500), ("/refuse", 403), ("/", 200), ("/204", 204)]
    {
        let reply = client.get(path);
        assert_eq!((reply.status, reply.closes()), (status, false), "{path}");
        assert!(reply.header("x-evil").is_none());
    }
    for path in ["/unsent", "/panicking"] {
        let mut client = server.connect();
        let reply = client.get(path);
        assert_eq!((reply.status, reply.closes()), (500, true), "{path}: nothing had been sent yet");
    }
}

#[test]
fn a_response_of_another_length_than_declared_ends_the_connection() {
    let server = Server::new();
    let mut client = server.connect();
    let reply = client.get("/short");
    assert_eq!((reply.status, reply.closes()), (500, true), "nothing had been sent yet");
    drop(client);
    assert!(matches!(server.end(), End::Server { reason: Reason::Broken, requests: 1 }));
    let mut client = server.connect();
    assert_eq!(client.get("/long").body, "abc");
    assert!(client.is_closed());
    drop(client);
    assert!(matches!(server.end(), End::Server { reason: Reason::Broken, requests: 1 }));
    for path in ["/broken", "/cut"] {
        let broken = server.ask(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(broken.contains("content-length: 200000\r\n") && broken.len() < 101_000, "{path}");
        assert!(matches!(server.end(), End::Server { reason: Reason::Broken, requests: 1 }));
    }
}

#[test]
fn a_late_request_does_not_truncate_a_large_last_response() {
    let server = Server::new();
    let mut client = server.connect();
    client.send("GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.until("\r\n\r\n");
    // It arrives while the response is under way and after which nothing is read: a reset would throw away the rest.
    for _ in 0..50 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    assert_eq!(client.rest().len(), 1_000_000);
}

#[test]
fn a_refused_upload_that_goes_on_still_sees_its_answer() {
    // As much as would have been allowed, and more than a flood of anything else may bring.
    let allowed = 100_000_000;
    let server = Server::with(|context| context.limits.body_bytes = allowed);
    let mut client = server.connect();
    client.send(format!("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 2 * allowed));
    client.send(vec![b'x'; 100_000_000]);
    assert_eq!(client.reply().status, 413);
}

#[test]
fn four_hundred_megabytes_without_a_line_feed_are_refused_at_the_cap() {
    let server = Server::new();
    let client = server.connect();
    let mut stream = client.stream.try_clone().expect("a clone");
    let flooding = std::thread::spawn(move || {
        let piece = vec![b'A'; 1 << 20];
        // The server closes long before the end, which ends this with an error.
        (0..400).take_while(|_| stream.write_all(&piece).is_ok()).count()
    });
    let mut reply = String::new();
    let mut bytes = [0; 4096];
    let started = Instant::now();
    while let Ok(count @ 1..) = (&client.stream).read(&mut bytes) {
        reply.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    assert!(reply.starts_with("HTTP/1.1 414 "), "{reply}");
    assert!(flooding.join().expect("no panic") < 400);
    assert!(started.elapsed() < DEADLINE);
    assert!(matches!(server.end(), End::Server { reason: Reason::Refused(414), requests: 0 }));
}

#[test]
fn clients_that_stall_wherever_they_are_make_room_while_others_wait() {
    let hour = Duration::from_secs(3600);
    let capacity = Arc::new(Capacity::default());
    let server = Server::with(|context| {
        context.capacity = Arc::clone(&capacity);
        let limits = &mut context.limits;
        for timeout in
            [&mut limits.idle_timeout, &mut limits.head_timeout, &mut limits.body_timeout, &mut limits.write_timeout]
        {
            *timeout = hour;
        }
    });
    let post = "POST /read HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\nabc";
    let stalled = ["", "GET / HT", post, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n"];
    for begun in stalled {
        let mut client = server.connect();
        // So that the response does not fit into what the kernel holds.
        rustix::net::sockopt::set_socket_recv_buffer_size(&client.stream, 4096).expect("a socket");
        let more = if begun.contains("/big") { begun.repeat(20) } else { begun.to_owned() };
        client.send(more);
        let began = Instant::now();
        let end = loop {
            if let Some(end) = server.try_end() {
                break end;
            }
            assert!(began.elapsed() < DEADLINE, "{begun:?} keeps its place");
            capacity.make_room(1);
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(matches!(end, End::Server { reason: Reason::Crowded, .. }), "{begun:?}: {end:?}");
    }
}
