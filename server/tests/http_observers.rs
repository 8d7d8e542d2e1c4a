//! What is told of requests: each that got an answer, or part of one, is told once, with what the client saw of it.

mod http_support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_support::{DEADLINE, Server};
use http_types::{Request, Response, Version};
use proptest::prelude::*;
use restart_core::{Drain, Phase};
use server::http::{Context, End, Start, Target};

/// A request as an observer was told of it.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    line: String,
    status: Option<u16>,
    body_bytes: u64,
    complete: bool,
    cut: bool,
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
                complete: served.complete,
                cut: served.cut,
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
    assert_eq!(
        (first.line.as_str(), first.status, first.body_bytes),
        ("GET /target?a=%00 HTTP/1.1", Some(200), length)
    );
    assert_eq!((first.referer.as_deref(), first.user_agent.as_deref()), (Some("http://a/"), Some("b\u{fffd}")));
    client.send("HEAD /big HTTP/1.1\r\nHost: test\r\n\r\n");
    client.reply_to("HEAD");
    let second = next(&told);
    assert_eq!((second.line.as_str(), second.status, second.body_bytes), ("HEAD /big HTTP/1.1", Some(200), 0));
    assert!(first.complete && second.complete);
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
        assert_eq!((told.line.as_str(), told.status), (line, Some(status)), "{request:?}");
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
        let complete = status == 500;
        assert_eq!((told.status, told.body_bytes, told.complete), (Some(status), length, complete), "{path}");
    }
    let mut silent = server.connect();
    silent.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n".repeat(40));
    let unread = std::iter::repeat_with(|| next(&told)).take(40).find(|told| told.body_bytes < 1_000_000);
    let unread = unread.expect("one does not fit into the socket's buffers");
    assert_eq!((unread.status, unread.complete, unread.cut), (Some(200), false, false));
    assert!(told.try_recv().is_err(), "nothing is told twice");
}

#[test]
fn a_request_that_the_end_of_a_drain_cuts_is_told_of_whatever_was_known_of_it() {
    let (server, told) = observed(|_| {});
    let mut idle = server.connect();
    idle.get("/");
    next(&told);
    let _half = server.connect_with("GET /half HT");
    let _busy = server.connect_with("GET /never HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut sending = server.connect_with("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabc");
    assert!(sending.until("abc").starts_with("HTTP/1.1 200 OK"));
    server.drain.set_phase(Phase::Over);
    (0..4).for_each(|_| drop(server.end()));
    let mut cut: Vec<_> = told.try_iter().inspect(|told| assert_eq!(told.cut, !told.complete)).collect();
    cut.retain(|told| told.cut);
    cut.sort_by(|one, other| one.line.cmp(&other.line));
    let lines: Vec<_> = cut.iter().map(|told| (told.line.as_str(), told.status)).collect();
    let expected = [("GET /half HT", None), ("GET /never HTTP/1.1", None), ("POST /echo HTTP/1.1", Some(200))];
    assert_eq!(lines, expected);
    assert_eq!(cut.iter().map(|told| told.body_bytes).collect::<Vec<_>>(), [0, 0, 3]);
}

#[test]
fn a_request_whose_client_leaves_is_not_one_that_was_cut() {
    let (server, told) = observed(|_| {});
    let busy = server.connect_with("GET /never HTTP/1.1\r\nHost: test\r\n\r\n");
    // A reset, as of a client that was killed, in the middle of what it was to get.
    rustix::net::sockopt::set_socket_linger(&busy.stream, Some(Duration::ZERO)).expect("a socket");
    drop(busy);
    assert!(matches!(server.end(), End::Client { .. }));
    let left = next(&told);
    assert_eq!((left.status, left.complete, left.cut), (None, false, false));
}

#[test]
fn the_listener_goes_along_with_the_connection() {
    let (server, told) = observed(|_| {});
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let listener: Option<Arc<str>> = Some("web".into());
    server.resume(Start { listener, read_ahead: b"GET / HT".to_vec(), ..Start::new(theirs, None) });
    (&ours).write_all(b"TP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("a server");
    let told = next(&told);
    assert_eq!((told.listener.as_deref(), told.line.as_str()), (Some("web"), "GET / HTTP/1.1"));
    assert!(matches!(server.end(), End::Server { .. }));
}

/// What was served and what was told, each as lines in their order.
type Lines = Arc<Mutex<Vec<String>>>;

/// A server that notes what its handler gets, and what its observer is told to have been answered by it.
fn noting() -> (Server, Lines, Lines) {
    let (served, told) = (Lines::default(), Lines::default());
    let (handled, observed) = (Arc::clone(&served), Arc::clone(&told));
    let handler = move |request: Request| {
        let target = request.ext().get::<Target>().expect("a target").as_str().to_owned();
        let version = if request.version() == Some(Version::Http1_0) { "HTTP/1.0" } else { "HTTP/1.1" };
        handled.lock().expect("nobody panics").push(format!("{} {target} {version}", request.method()));
        async { Ok(Response::new(200)) }
    };
    let mut context = Context::new(handler, Drain::new());
    context.observers.push(Box::new(move |served| {
        if served.status == Some(200) {
            let line = String::from_utf8_lossy(served.line).replace("http://host", "");
            observed.lock().expect("nobody panics").push(line);
        }
    }));
    (Server::start(context), served, told)
}

/// Sends the pieces of a stream, each once the server has taken those before, and waits until the connection is over.
fn send_in_pieces(server: &Server, bytes: &[u8], cuts: &[usize]) {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_read_timeout(Some(DEADLINE)).expect("a socket");
    let unread = theirs.try_clone().expect("a descriptor");
    server.resume(Start::new(theirs, None));
    let mut from = 0;
    for cut in cuts.iter().copied().filter(|cut| *cut < bytes.len()).chain([bytes.len()]) {
        if cut > from {
            // A server that has refused what came before takes no more.
            let sent = ours.write_all(&bytes[from..cut]);
            let started = Instant::now();
            while sent.is_ok() && rustix::io::ioctl_fionread(&unread).expect("a socket") > 0 {
                assert!(started.elapsed() < DEADLINE, "what was sent is read");
                std::thread::yield_now();
            }
            from = cut;
        }
    }
    drop(unread);
    // It may be closed already.
    let _ = ours.shutdown(Shutdown::Write);
    let _ = ours.read_to_end(&mut Vec::new());
    server.end();
}

#[test]
fn an_empty_line_in_two_pieces_hides_no_request() {
    let (server, served, told) = noting();
    let request = b"\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    send_in_pieces(&server, &request.repeat(2), &[1, request.len() + 1]);
    assert_eq!(*served.lock().expect("a lock"), ["GET /hidden HTTP/1.1"; 2]);
    assert_eq!(*told.lock().expect("a lock"), ["GET /hidden HTTP/1.1"; 2]);
}

#[test]
fn what_was_served_is_what_was_told() {
    let (server, served, told) = noting();
    let part = prop_oneof![
        3 => Just("\r"),
        3 => Just("\n"),
        1 => Just("\r\n"),
        1 => Just(" "),
        2 => Just("GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n"),
        1 => Just("GET http://host/c HTTP/1.1\r\nHost: a\r\n\r\n"),
        1 => Just("HEAD /d HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
        1 => Just("POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n\r\n"),
        1 => Just("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ];
    let parts = proptest::collection::vec(part, 1..8);
    let cuts = proptest::collection::btree_set(1_usize..120, 0..4);
    proptest!(ProptestConfig::with_cases(500), |(parts in parts, mut cuts in cuts)| {
        let mut end = 0;
        cuts.extend(parts.iter().map(|part| { end += part.len(); end }));
        send_in_pieces(&server, parts.concat().as_bytes(), &cuts.into_iter().collect::<Vec<_>>());
        let take = |lines: &Lines| std::mem::take(&mut *lines.lock().expect("nobody panics"));
        prop_assert_eq!(take(&served), take(&told), "{:?}", parts);
    });
}
