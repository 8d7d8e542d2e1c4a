//! Requests and responses over real connections: framing, keep-alive, pipelining, bodies both ways.

mod http_support;

use std::io::{Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as Task, Poll};
use std::time::Duration;

use http_support::{Client, Server};
use http_types::{Body, Request, Response};
use restart_core::Drain;
use server::http::{Context, End, Reason, Start};
use smol::io::AsyncReadExt;

const HOST: &str = "Host: test\r\n";

#[test]
fn requests_on_one_connection_are_answered_in_turn() {
    let server = Server::new();
    let mut client = server.connect();
    for _ in 0..3 {
        let reply = client.get("/");
        assert_eq!((reply.status, reply.body.as_str()), (200, "hello"));
        assert!(!reply.closes() && reply.header("date").is_some());
    }
    let own = client.stream.local_addr().expect("an address").to_string();
    assert_eq!(client.get("/peer").body, own);
    drop(client);
    assert!(matches!(server.end(), End::Client { requests: 4 }));
}

#[test]
fn pipelined_requests_are_all_answered_in_order_however_they_are_cut() {
    let server = Server::new();
    let input = format!(
        "GET /target?1 HTTP/1.1\r\n{HOST}\r\nPOST /read HTTP/1.1\r\n{HOST}Content-Length: 3\r\n\r\nabc\r\n\
         POST /read HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n\
         GET /target?4 HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n"
    );
    for size in [1, 2, 7, 50, input.len()] {
        let mut client = server.connect();
        for piece in input.as_bytes().chunks(size) {
            client.send(piece);
        }
        let bodies: Vec<String> = (0..4).map(|_| client.reply().body).collect();
        assert_eq!(bodies, ["/target?1", "abc", "de", "/target?4"], "in pieces of {size}");
        assert!(client.is_closed());
        drop(client);
        assert!(matches!(server.end(), End::Server { reason: Reason::Asked, requests: 4 }));
    }
}

/// A connection on which each write of the server is one message, so that writes can be counted.
fn counted(server: &Server) -> (rustix::fd::OwnedFd, impl Fn(&str) -> Vec<String>) {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a socket pair");
    server.resume(Start::new(theirs, None));
    let talk = {
        let ours = ours.try_clone().expect("a clone");
        move |request: &str| {
            rustix::net::send(&ours, request.as_bytes(), SendFlags::NOSIGNAL).expect("sent");
            let mut writes = Vec::new();
            let mut bytes = vec![0; 1 << 20];
            // Each request ends its connection, so that the end of the stream ends the list.
            loop {
                let (_, count) = rustix::net::recv(&ours, &mut bytes[..], RecvFlags::empty()).expect("received");
                if count == 0 {
                    return writes;
                }
                writes.push(String::from_utf8(bytes[..count].to_vec()).expect("text"));
            }
        }
    };
    (ours, talk)
}

#[test]
fn a_small_response_leaves_in_one_write_and_a_large_one_in_large_pieces() {
    let server = Server::new();
    let close = "Connection: close\r\n\r\n";
    let writes = counted(&server).1(&format!("GET / HTTP/1.1\r\n{HOST}{close}"));
    assert_eq!(writes.len(), 1, "{writes:?}");
    assert!(writes[0].ends_with("\r\n\r\nhello"));
    let writes = counted(&server).1(&format!("POST /read HTTP/1.1\r\n{HOST}Content-Length: 3\r\n{close}abc"));
    assert_eq!(writes.len(), 1, "{writes:?}");
    let writes = counted(&server).1(&format!(
        "POST /echo HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n{close}1\r\na\r\n0\r\n\r\n"
    ));
    assert_eq!(writes.len(), 1, "head, chunk and last chunk: {writes:?}");
    let writes = counted(&server).1("GET\r\n\r\n");
    assert_eq!(writes.len(), 1, "{writes:?}");
    let writes = counted(&server).1(&format!("GET /large HTTP/1.1\r\n{HOST}{close}"));
    assert_eq!(writes.len(), 1, "what is in memory leaves in one write with its head");
    assert!(writes[0].len() > 100_000);
    let writes = counted(&server).1(&format!("GET /buffered HTTP/1.1\r\n{HOST}{close}"));
    assert!(writes.len() <= 17, "a million bytes in pieces of 64 KiB took {} writes", writes.len());
    assert_eq!(writes.iter().map(String::len).max(), Some(64 * 1024));
    let writes = counted(&server).1(&format!("GET /chunked HTTP/1.1\r\n{HOST}{close}"));
    assert!(writes.len() <= 6, "300,000 bytes in chunks took {} writes", writes.len());
}

#[test]
fn a_unix_connection_is_served_like_any_other() {
    let server = Server::new();
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    server.resume(Start::new(theirs, Some("unix".to_owned())));
    ours.write_all(format!("GET /peer HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n").as_bytes()).expect("sent");
    let mut reply = String::new();
    ours.read_to_string(&mut reply).expect("a reply");
    assert!(reply.ends_with("\r\n\r\nunix"), "{reply}");
}

#[test]
fn the_target_reaches_the_handler_as_it_was_sent() {
    let server = Server::new();
    let mut client = server.connect();
    assert_eq!(client.get("/x/../target").status, 200);
    assert_eq!(client.get("/target?a=%2e%2E/../b").body, "/target?a=%2e%2E/../b");
    client.send(format!("GET http://real/target?q HTTP/1.1\r\n{HOST}\r\n"));
    assert_eq!(client.reply().body, "/target?q");
    client.send(format!("OPTIONS * HTTP/1.1\r\n{HOST}\r\n"));
    assert_eq!(client.reply().status, 200);
}

#[test]
fn head_and_bodiless_statuses_have_no_body_and_keep_the_connection() {
    let server = Server::new();
    let mut client = server.connect();
    client.send(format!("HEAD /big HTTP/1.1\r\n{HOST}\r\n"));
    assert_eq!(client.reply_to("HEAD").header("content-length"), Some("1000000"));
    client.send(format!("HEAD /chunked HTTP/1.1\r\n{HOST}\r\n"));
    assert_eq!(client.reply_to("HEAD").status, 200);
    for path in ["/204", "/304"] {
        let reply = client.get(path);
        assert_eq!((reply.header("content-length"), reply.header("transfer-encoding")), (None, None), "{path}");
    }
    assert_eq!(client.get("/framed").body, "framed", "the handler's own framing counts for nothing");
    assert_eq!(client.get("/").body, "hello");
}

#[test]
fn bodies_are_echoed_in_both_framings_and_any_size() {
    let server = Server::new();
    let mut client = server.connect();
    for size in [0, 1, 4_096, 16_384, 100_000, 3_000_000] {
        let body = "e".repeat(size);
        let mut writer = client.stream.try_clone().expect("a clone");
        let sent = body.clone();
        let sending = std::thread::spawn(move || {
            let head = format!("POST /echo HTTP/1.1\r\n{HOST}Content-Length: {}\r\n\r\n{sent}", sent.len());
            writer.write_all(head.as_bytes()).expect("sent");
            let head = format!("POST /echo HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n");
            let mut chunks = head.into_bytes();
            for chunk in sent.as_bytes().chunks(7_777) {
                write!(chunks, "{:x};ext=1\r\n", chunk.len()).expect("memory");
                chunks.extend_from_slice(chunk);
                chunks.extend_from_slice(b"\r\n");
            }
            writer.write_all(&chunks).expect("sent");
            writer.write_all(b"0\r\n\r\n").expect("sent");
        });
        assert!(client.reply().body == body, "{size} bytes by length");
        assert!(client.reply().body == body, "{size} bytes in chunks");
        sending.join().expect("sent");
    }
    assert_eq!(client.get("/chunked").body.len(), 300_000);
    assert_eq!(client.get("/").body, "hello", "all on one connection");
}

#[test]
fn trailers_arrive_however_they_are_cut() {
    let server = Server::new();
    let body = "3\r\nabc\r\n0\r\nX-Sum: 42\r\nOther: x\r\n\r\n";
    let mut client = server.connect();
    for cut in 0..body.len() {
        client.send(format!("POST /trailers HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n{}", &body[..cut]));
        assert!(client.is_silent() || cut == body.len());
        client.send(&body[cut..]);
        assert_eq!(client.reply().body, "abc|[\"42\"]", "cut at {cut}");
    }
}

#[test]
fn a_client_that_waits_for_100_gets_it_when_the_body_is_wanted() {
    let server = Server::new();
    let mut client = server.connect();
    for expect in ["100-continue", "100-Continue", "100-CONTINUE"] {
        client.send(format!("POST /read HTTP/1.1\r\n{HOST}Expect: {expect}\r\nContent-Length: 3\r\n\r\n"));
        assert_eq!(client.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
        client.send("abc");
        let reply = client.reply();
        assert_eq!((reply.body.as_str(), reply.closes()), ("abc", false));
    }
    client.send(format!("POST /echo HTTP/1.1\r\n{HOST}Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"));
    assert_eq!(client.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n", "before the response that streams the body");
    client.send("1\r\na\r\n0\r\n\r\n");
    assert_eq!(client.reply().body, "a");
    client.send(format!("POST /read HTTP/1.1\r\n{HOST}Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"));
    assert_eq!(client.reply().status, 200, "a client that did not wait gets no 100");
    client.send(format!("GET / HTTP/1.1\r\n{HOST}Expect: 100-continue\r\n\r\n"));
    assert_eq!(client.reply().status, 200, "nor does one without a body");
    client.send(format!("POST /ignore HTTP/1.1\r\n{HOST}Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"));
    let reply = client.reply();
    assert_eq!((reply.status, reply.closes()), (200, true), "whether the body will come can't be known");
    assert!(client.is_closed());
}

#[test]
fn a_body_that_nobody_reads_is_dropped_if_short_and_ends_the_connection_if_long() {
    let server = Server::new();
    let mut client = server.connect();
    client.send(format!("POST /ignore HTTP/1.1\r\n{HOST}Content-Length: 100000\r\n\r\n"));
    let reply = client.reply();
    assert!(!reply.closes());
    client.send("x".repeat(100_000));
    client.send(format!("POST /ignore HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"));
    assert!(!client.reply().closes(), "all of it had arrived");
    assert_eq!(client.get("/").body, "hello");
    client.send(format!("POST /ignore HTTP/1.1\r\n{HOST}Content-Length: 300000\r\n\r\n"));
    assert!(client.reply().closes());
    assert!(client.is_closed());
    drop(client);
    assert!(matches!(server.end(), End::Server { reason: Reason::Unread, requests: 4 }));
}

#[test]
fn an_old_client_is_answered_as_it_understands() {
    let server = Server::new();
    let reply = server.ask("GET / HTTP/1.0\r\n\r\n");
    assert!(reply.contains("\r\nconnection: close\r\n") && reply.ends_with("\r\n\r\nhello"), "{reply}");
    let reply = server.ask("GET /chunked HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(reply.contains("\r\nconnection: close\r\n") && !reply.contains("transfer-encoding"));
    assert_eq!(reply.split_once("\r\n\r\n").map(|(_, body)| body.len()), Some(300_000));
    let mut client = server.connect();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        let reply = client.reply();
        assert_eq!((reply.header("connection"), reply.body.as_str()), (Some("keep-alive"), "hello"));
    }
    client.send("POST /read HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
    client.send("a");
    assert_eq!(client.reply().body, "a", "no 100 for HTTP/1.0");
}

#[test]
fn a_connection_is_closed_as_announced_when_either_side_asks_for_it() {
    let server = Server::new();
    let mut client = server.connect();
    client.send(format!("GET / HTTP/1.1\r\n{HOST}Connection: x\r\nConnection: y, Close\r\n\r\n"));
    assert!(client.reply().closes());
    assert!(client.is_closed());
    drop(client);
    assert!(matches!(server.end(), End::Server { reason: Reason::Asked, requests: 1 }));
    let mut client = server.connect();
    assert!(client.get("/close").closes());
    assert!(client.is_closed());
    drop(client);
    assert!(matches!(server.end(), End::Server { reason: Reason::Handler, requests: 1 }));
}

#[test]
fn a_client_that_has_stopped_sending_still_gets_its_answer() {
    let server = Server::new();
    let mut client = server.connect();
    client.send(format!("GET /slow HTTP/1.1\r\n{HOST}\r\n"));
    client.finish_sending();
    assert_eq!(client.reply().body, "slow");
    assert!(client.is_closed());
    assert!(matches!(server.end(), End::Client { requests: 1 }));
}

/// A body that has nothing to give.
struct Silent;

impl smol::io::AsyncRead for Silent {
    fn poll_read(self: Pin<&mut Self>, _: &mut Task<'_>, _: &mut [u8]) -> Poll<std::io::Result<usize>> {
        Poll::Pending
    }
}

/// Closes a connection as the kernel does for a client that has crashed.
fn reset(client: &Client) {
    rustix::net::sockopt::set_socket_linger(&client.stream, Some(Duration::ZERO)).expect("a socket");
}

#[test]
fn a_client_that_is_gone_ends_its_request_while_the_handler_still_works() {
    let server = Server::new();
    let mut client = server.connect();
    client.get("/");
    client.send(format!("GET /never HTTP/1.1\r\n{HOST}\r\n"));
    reset(&client);
    drop(client);
    assert!(matches!(server.end(), End::Client { requests: 1 }));
}

#[test]
fn a_client_that_is_gone_ends_a_response_that_has_nothing_to_send() {
    let events = |_| async {
        let events = smol::io::Cursor::new("data: first\n\n").chain(Silent);
        let mut response = Response::new(200);
        response.set_body(Body::from_reader(smol::io::BufReader::new(events), None));
        Ok(response)
    };
    let server = Server::start(Context::new(events, Drain::new()));
    let mut client = server.connect();
    client.send(format!("GET / HTTP/1.1\r\n{HOST}\r\n"));
    client.until("data: first");
    reset(&client);
    drop(client);
    assert!(matches!(server.end(), End::Client { .. }));
}

#[test]
fn every_answer_is_decorated_whoever_made_it() {
    let server = Server::with(|context| {
        context.decorate = Some(Box::new(|request| {
            let id = request.and_then(|request| request.header("x-id")).map_or("none", |values| values.last().as_str());
            vec![("x-id".into(), id.parse().expect("a value"))]
        }));
    });
    let mut client = server.connect();
    for path in ["/", "/panic", "/fail", "/split"] {
        client.send(format!("GET {path} HTTP/1.1\r\n{HOST}X-Id: 7\r\n\r\n"));
        assert_eq!(client.reply().header("x-id"), Some("7"), "{path}");
    }
    client.send("GET\r\n\r\n");
    assert_eq!(client.reply().header("x-id"), Some("none"));
}

/// Nothing, after one wait.
struct Pause {
    over: bool,
}

impl smol::io::AsyncRead for Pause {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Task<'_>, _: &mut [u8]) -> Poll<std::io::Result<usize>> {
        if std::mem::replace(&mut self.over, true) {
            return Poll::Ready(Ok(0));
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

#[test]
fn a_response_under_way_is_not_interrupted_by_a_100() {
    let handler = |mut request: Request| async move {
        let late = smol::io::AsyncReadExt::chain(Pause { over: false }, request.take_body());
        let body = smol::io::BufReader::new(smol::io::AsyncReadExt::chain(&b"first,"[..], late));
        let mut response = Response::new(200);
        response.set_body(Body::from_reader(body, None));
        Ok(response)
    };
    let server = Server::start(Context::new(handler, Drain::new()));
    let mut client = server.connect();
    client.send(format!("POST / HTTP/1.1\r\n{HOST}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"));
    let head = client.until("first,\r\n");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(client.is_silent(), "the body is being waited for by now");
    client.send("then");
    assert_eq!(client.until("0\r\n\r\n"), "4\r\nthen\r\n0\r\n\r\n");
    assert!(server.none_ended());
}

#[test]
fn a_body_that_outlives_its_request_reads_nothing_of_the_next() {
    let kept = Arc::new(Mutex::new(None::<Body>));
    let handler = {
        let kept = Arc::clone(&kept);
        move |mut request: Request| {
            let kept = Arc::clone(&kept);
            async move {
                let mut response = Response::new(200);
                if request.method() == http_types::Method::Put {
                    *kept.lock().expect("no panic") = Some(request.take_body());
                } else {
                    response.set_body(request.body_string().await?);
                }
                Ok(response)
            }
        }
    };
    let server = Server::start(Context::new(handler, Drain::new()));
    let mut client = server.connect();
    client.send(format!("PUT / HTTP/1.1\r\n{HOST}Content-Length: 3\r\n\r\nabc"));
    assert_eq!(client.reply().status, 200);
    client.send(format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 4\r\n\r\nde"));
    assert!(client.is_silent(), "the second body is being read");
    let body = kept.lock().expect("no panic").take().expect("kept");
    assert!(smol::block_on(body.into_bytes()).is_err());
    client.send("fg");
    assert_eq!(client.reply().body, "defg");
}
