//! What RFC 9110 and 9112 ask of every answer and every request, whatever is served: version, date, blanks, lists,
//! order, and what an expectation and a close mean.

mod http_support;

use std::time::{Duration, SystemTime};

use http_support::Server;
use http_types::{Request, Response};
use restart_core::Drain;
use server::http::{Context, End, Reason};

const HOST: &str = "Host: test\r\n";

/// Requests of each kind that is answered: by the handler, in its place, and by a refusal; with their statuses.
const KINDS: [(&str, u16); 8] = [
    ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200),
    ("GET / HTTP/1.0\r\n\r\n", 200),
    ("GET /304 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 304),
    ("GET /refuse HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 403),
    ("GET /panic HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 500),
    ("GET / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417),
    ("BREW / HTTP/1.0\r\n\r\n", 501),
];

#[test]
fn every_answer_is_of_http_1_1_and_has_a_reason_phrase_or_its_space() {
    let server = Server::new();
    for (request, status) in KINDS {
        let line = server.ask(request).lines().next().unwrap_or_default().to_owned();
        assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{line} to {request:?}");
    }
}

#[test]
fn every_answer_tells_the_time_once_in_the_one_format() {
    let server = Server::new();
    for (request, _) in KINDS {
        let mut client = server.connect();
        client.send(request);
        let reply = client.reply();
        let date = reply.header("date").expect("a date");
        let told = httpdate::parse_http_date(date).expect("a date of HTTP");
        let off = SystemTime::now().duration_since(told).unwrap_or_default();
        assert_eq!(date, httpdate::fmt_http_date(told), "the one format that senders use");
        assert!(off < Duration::from_secs(60), "{date} to {request:?}");
    }
}

#[test]
fn a_request_is_not_served_before_its_head_is_complete() {
    let server = Server::new();
    let mut client = server.connect();
    client.send("GET /target?late HTTP/1.1\r\nHost: a\r\nX: y\r\n");
    assert!(client.is_silent());
    client.send("Expect: tea\r\n\r\n");
    assert_eq!(client.reply().status, 417, "the last line decides as much as the first");
}

#[test]
fn blanks_around_a_value_are_no_part_of_it() {
    let handler = |request: Request| async move {
        let value = request.header("x").map(|values| values.last().as_str().to_owned());
        let mut response = Response::new(200);
        response.set_body(format!("{value:?}"));
        Ok(response)
    };
    let server = Server::start(Context::new(handler, Drain::new()));
    let mut client = server.connect();
    for (line, value) in [("X:a b", "a b"), ("X: \t a\tb \t ", "a\tb"), ("X: ", ""), ("x:a", "a")] {
        client.send(format!("GET / HTTP/1.1\r\nHost:test \t\r\n{line}\r\n\r\n"));
        assert_eq!(client.reply().body, format!("Some({value:?})"), "{line:?}");
    }
}

#[test]
fn framing_is_understood_whatever_the_case_and_the_blanks_around_it() {
    let server = Server::new();
    let mut client = server.connect();
    for line in ["content-length:3", "CONTENT-LENGTH: \t3 ", "Content-Length: 003"] {
        client.send(format!("POST /read HTTP/1.1\r\n{HOST}{line}\r\n\r\nabc"));
        assert_eq!(client.reply().body, "abc", "{line}");
    }
    for line in ["transfer-encoding:CHUNKED", "Transfer-Encoding:\tchunked \t"] {
        client.send(format!("POST /read HTTP/1.1\r\n{HOST}{line}\r\n\r\n3;a = \"b\"\r\nabc\r\n000\r\n\r\n"));
        assert_eq!(client.reply().body, "abc", "{line}");
    }
}

#[test]
fn empty_elements_of_lists_are_ignored() {
    let server = Server::new();
    let mut client = server.connect();
    client.send(format!("POST /read HTTP/1.1\r\n{HOST}Expect: ,100-continue, ,\r\nContent-Length: 1\r\n\r\n"));
    assert_eq!(client.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("a");
    assert!(!client.reply().closes());
    client.send(format!("GET / HTTP/1.1\r\n{HOST}Connection: , ,close,\r\n\r\n"));
    assert!(client.reply().closes());
    assert!(client.is_closed());
}

#[test]
fn nothing_is_answered_after_a_close_was_asked_for_or_announced() {
    let server = Server::new();
    let next = format!("GET /target HTTP/1.1\r\n{HOST}\r\n");
    for (first, reason) in [
        (format!("GET / HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n"), Reason::Asked),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), Reason::Asked),
        (format!("GET /close HTTP/1.1\r\n{HOST}\r\n"), Reason::Handler),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), Reason::Refused(400)),
    ] {
        let mut client = server.connect();
        client.send(format!("{first}{next}{next}"));
        assert!(client.reply().closes(), "{first:?}");
        assert!(client.is_closed(), "{first:?}");
        drop(client);
        match server.end() {
            End::Server { reason: given, .. } => assert_eq!(given, reason, "{first:?}"),
            other => panic!("{other:?} after {first:?}"),
        }
    }
}

#[test]
fn a_status_without_a_body_has_none_whatever_the_handler_gave() {
    let handler = |request: Request| async move {
        let status: u16 = request.url().path()[1..].parse().expect("a status");
        let mut response = Response::new(status);
        response.set_body("content");
        Ok(response)
    };
    let server = Server::start(Context::new(handler, Drain::new()));
    for method in ["GET", "HEAD", "POST"] {
        let mut client = server.connect();
        for (status, length) in [(204, None), (205, Some("0")), (304, None)] {
            client.send(format!("{method} /{status} HTTP/1.1\r\n{HOST}\r\n"));
            let reply = client.reply_to(method);
            assert_eq!((reply.status, reply.header("transfer-encoding")), (status, None));
            assert_eq!(reply.header("content-length"), length, "{method} {status}");
        }
        client.send(format!("GET /200 HTTP/1.1\r\n{HOST}\r\n"));
        assert_eq!(client.reply().body, "content", "{method}: nothing was left over");
    }
}

#[test]
fn an_old_request_is_never_answered_with_a_100_or_with_chunks() {
    let server = Server::new();
    let post = "POST /read HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    let mut client = server.connect();
    client.send(post);
    assert!(client.is_silent(), "no 100, although the body is wanted");
    client.send("abc");
    let reply = client.reply();
    assert_eq!((reply.status, reply.body.as_str(), reply.closes()), (200, "abc", false));
    client.send("GET /chunked HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.header("transfer-encoding"), reply.closes()), (None, true), "its end is the end");
    assert_eq!(reply.body.len(), 300_000);
}

#[test]
fn every_name_that_a_host_may_have_is_served_and_reaches_the_handler_as_it_was_sent() {
    let server = Server::new();
    let mut client = server.connect();
    for host in ["web.1", "node-1.2:8080", "xn--a", "1.2.3.4.5", "EXAMPLE", "a%20b"] {
        client.send(format!("GET /host HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let reply = client.reply();
        assert_eq!((reply.status, reply.body.as_str(), reply.closes()), (200, host, false));
    }
}
