//! What is told of requests: each that got an answer, or part of one, is told once, with what the client saw of it.

mod http_support;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use http_support::{DEADLINE, Server};
use server::http::{End, Start};

/// A request as an observer was told of it.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    line: String,
    status: u16,
    body_bytes: u64,
    referer: Option<String>,
    user_agent: Option<String>,
    listener: Option<String>,
    duration: Duration,
}

fn observed(change: impl FnOnce(&mut server::http::Limits)) -> (Server, Receiver<Told>) {
    let (teller, told) = channel();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let server = Server::with(|context| {
        change(&mut context.limits);
        context.observers.push(Box::new(move |served| {
            let told = Told {
                line: text(served.line),
                status: served.status,
                body_bytes: served.body_bytes,
                referer: served.referer.map(text),
                user_agent: served.user_agent.map(text),
                listener: served.listener.map(str::to_owned),
                duration: served.duration,
            };
            teller.send(told).expect("the test goes on");
        }));
    });
    (server, told)
}

#[track_caller]
fn next(told: &Receiver<Told>) -> Told {
    told.recv_timeout(DEADLINE).expect("a request is told of")
}

#[test]
fn a_request_is_told_of_as_the_client_saw_it() {
    let (server, told) = observed(|_| {});
    let mut client = server.connect();
    client.send(b"GET /target?a=%00 HTTP/1.1\r\nHost: test\r\nREFERER: http://a/\r\nuser-agent: b\xe9\r\n\r\n");
    let length = client.reply().body.len() as u64;
    let first = next(&told);
    assert_eq!((first.line.as_str(), first.status, first.body_bytes), ("GET /target?a=%00 HTTP/1.1", 200, length));
    assert_eq!((first.referer.as_deref(), first.user_agent.as_deref()), (Some("http://a/"), Some("b\u{fffd}")));
    client.send("HEAD /big HTTP/1.1\r\nHost: test\r\n\r\n");
    client.reply_to("HEAD");
    let second = next(&told);
    assert_eq!((second.line.as_str(), second.status, second.body_bytes), ("HEAD /big HTTP/1.1", 200, 0));
    assert_eq!(second.referer, None, "nothing stays of the request before");
    assert_eq!(client.get("/big").body.len() as u64, next(&told).body_bytes);
    client.get("/slow");
    assert!(next(&told).duration >= Duration::from_millis(200));
}

#[test]
fn a_refused_request_is_told_of_with_what_had_come() {
    let (server, told) = observed(|limits| limits.head_timeout = Duration::from_millis(100));
    for (request, line, status) in [
        ("GET /x HTTP/1.1\r\n\r\n", "GET /x HTTP/1.1", 400),
        ("GET /x", "GET /x", 408),
        ("\u{16}\u{3}\u{1}", "\u{16}\u{3}\u{1}", 400),
        ("\r\n\r\n\r\n\r\n\r\n", "", 400),
        ("BREW /tea HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\n\r\n", "BREW /tea HTTP/1.1", 501),
        ("POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx", "POST /read HTTP/1.1", 400),
    ] {
        let answer = server.ask(request);
        let told = next(&told);
        assert_eq!((told.line.as_str(), told.status), (line, status), "{request:?}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let body = answer.split_once("\r\n\r\n").expect("a head").1;
        assert_eq!(told.body_bytes, body.len() as u64);
    }
}

#[test]
fn a_response_that_was_cut_is_told_of_once_with_the_bytes_that_left() {
    let (server, told) = observed(|limits| limits.write_timeout = Duration::from_millis(200));
    let body_of = |path: &str| {
        let answer = server.ask(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"));
        answer.split_once("\r\n\r\n").expect("a head").1.len() as u64
    };
    for (path, status) in [("/cut", 200), ("/long", 200), ("/unsent", 500), ("/panicking", 500), ("/panic", 500)] {
        let length = body_of(path);
        let told = next(&told);
        assert_eq!((told.status, told.body_bytes), (status, length), "{path}");
    }
    let mut silent = server.connect();
    silent.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n".repeat(40));
    let unread = std::iter::repeat_with(|| next(&told)).take(40).find(|told| told.body_bytes < 1_000_000);
    assert_eq!(unread.expect("one does not fit into the socket's buffers").status, 200);
    assert!(told.try_recv().is_err(), "nothing is told twice");
}

#[test]
fn the_listener_goes_along_with_the_connection() {
    let (server, told) = observed(|_| {});
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let listener: Option<Arc<str>> = Some("web".into());
    server.resume(Start { listener, read_ahead: b"GET / HT".to_vec(), ..Start::new(theirs, None) });
    std::io::Write::write_all(&mut &ours, b"TP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("a server");
    let told = next(&told);
    assert_eq!((told.listener.as_deref(), told.line.as_str()), (Some("web"), "GET / HTTP/1.1"));
    assert!(matches!(server.end(), End::Server { .. }));
}
