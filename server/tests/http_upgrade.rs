//! Protocol upgrades: who may have one, what the handler gets, and how it ends.

mod http_support;

use http_support::{Client, Server};
use http_types::Request;
use restart_core::Phase;
use server::http::{End, Reason};

const UPGRADE: &str = "Connection: x, Upgrade\r\nUpgrade: irc, ECHO\r\n";

fn ask(client: &mut Client, head: &str, after: &str) {
    client.send(format!("{head}\r\nHost: test\r\n{UPGRADE}\r\n{after}"));
}

/// A connection that was upgraded.
fn upgraded(server: &Server) -> Client {
    let mut client = server.connect();
    ask(&mut client, "GET /upgrade HTTP/1.1", "");
    assert_eq!(client.reply().status, 101);
    client
}

#[test]
fn the_handler_gets_the_stream_with_what_was_read_ahead() {
    let server = Server::new();
    let mut client = server.connect();
    assert_eq!(client.get("/").status, 200);
    ask(&mut client, "GET /upgrade HTTP/1.1", "GET / HTTP/1.1\r\n\r\n");
    let reply = client.reply();
    assert_eq!(
        (reply.status, reply.header("connection"), reply.header("upgrade")),
        (101, Some("upgrade"), Some("echo"))
    );
    assert_eq!((reply.header("content-length"), reply.header("transfer-encoding")), (None, None));
    assert_eq!(client.until("\r\n\r\n"), "GET / HTTP/1.1\r\n\r\n", "no request any more");
    let long = "x".repeat(300_000) + "end";
    let sending = client.stream.try_clone().expect("a clone");
    let sent = long.clone();
    let sender = std::thread::spawn(move || Client::over(sending).send(sent));
    assert!(client.until("end") == long);
    sender.join().expect("all was sent");
    client.finish_sending();
    assert!(client.is_closed());
    assert!(matches!(server.end(), End::Client { requests: 2 }));
}

#[test]
fn an_upgrade_that_has_to_be_ignored_never_reaches_the_handler() {
    let server = Server::new();
    let with = |head: &str, lines: &str| {
        let mut client = server.connect();
        client.send(format!("{head}\r\nHost: test\r\n{lines}"));
        client.reply()
    };
    for (head, lines) in [
        ("GET /upgrade HTTP/1.0", format!("{UPGRADE}\r\n")),
        ("GET /upgrade HTTP/1.0", format!("Connection: keep-alive\r\n{UPGRADE}\r\n")),
        ("GET /upgrade HTTP/1.1", "Upgrade: echo\r\n\r\n".to_owned()),
        ("GET /upgrade HTTP/1.1", "Connection: close, upgrade\r\nUpgrade: echo\r\n\r\n".to_owned()),
        ("POST /upgrade HTTP/1.1", format!("{UPGRADE}Content-Length: 1\r\n\r\nx")),
        ("POST /upgrade HTTP/1.1", format!("{UPGRADE}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
    ] {
        let reply = with(head, &lines);
        assert_eq!((reply.status, reply.body.as_str()), (200, "ignored"), "{head} {lines}");
    }
    assert_eq!(with("POST /upgrade HTTP/1.1", &format!("{UPGRADE}Content-Length: 0\r\n\r\n")).status, 101);
}

#[test]
fn a_handler_that_switches_to_what_was_not_offered_answers_500_and_the_connection_goes_on() {
    let server = Server::new();
    let mut client = server.connect();
    ask(&mut client, "GET /upgrade?other HTTP/1.1", "");
    assert_eq!(client.reply().status, 500);
    assert_eq!(client.get("/upgrade?unasked").status, 500);
    assert_eq!(client.get("/").body, "hello");
}

#[test]
fn an_upgraded_connection_outlasts_a_drain_up_to_its_deadline_and_ends_in_order() {
    let server = Server::with(|context| context.parks = true);
    let mut client = upgraded(&server);
    for phase in [Phase::Draining, Phase::Stopping] {
        server.drain.set_phase(phase);
        client.send("still here\n");
        assert_eq!(client.until("\n"), "still here\n", "{phase:?}");
    }
    assert!(server.none_ended());
    server.drain.set_phase(Phase::Over);
    assert!(client.is_closed(), "an end of the stream and no reset");
    assert!(matches!(server.end(), End::Server { reason: Reason::Upgraded, requests: 1 }));
}

#[test]
fn every_request_can_learn_of_the_end_of_the_process() {
    let server = Server::start(server::http::Context::new(
        |request: Request| async move {
            let shutdown = request.ext().get::<server::http::Shutdown>().expect("each has one");
            let text = format!("draining: {}, stopping: {}", shutdown.is_draining(), shutdown.is_stopping());
            Ok(http_types::Response::from(text))
        },
        restart_core::Drain::new(),
    ));
    let mut client = server.connect();
    assert_eq!(client.get("/").body, "draining: false, stopping: false");
    ask(&mut client, "GET / HTTP/1.1", "");
    assert_eq!(client.reply().body, "draining: false, stopping: false");
    for (phase, expected) in
        [(Phase::Draining, "draining: true, stopping: false"), (Phase::Stopping, "draining: false, stopping: true")]
    {
        server.drain.set_phase(phase);
        let mut client = server.connect_after("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.reply().body, expected);
    }
}

#[test]
fn every_request_can_learn_that_the_deadline_of_the_drain_is_near() {
    let server = Server::start(server::http::Context::new(
        |request: Request| async move {
            let shutdown = request.ext().get::<server::http::Shutdown>().expect("each has one");
            shutdown.stopping().await;
            let text = format!("draining: {}, stopping: {}", shutdown.is_draining(), shutdown.is_stopping());
            Ok(http_types::Response::from(text))
        },
        restart_core::Drain::new(),
    ));
    let mut client = server.connect_with("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    server.drain.set_deadline(std::time::Duration::from_millis(300));
    server.drain.set_phase(Phase::Draining);
    assert_eq!(client.reply().body, "draining: true, stopping: true");
}

#[test]
fn a_handler_that_drops_the_stream_ends_the_connection() {
    let server = Server::start(server::http::Context::new(
        |_: Request| async {
            let mut response = http_types::Response::new(http_types::StatusCode::SwitchingProtocols);
            response.insert_header("Upgrade", "echo");
            drop(response.recv_upgrade().await);
            Ok(response)
        },
        restart_core::Drain::new(),
    ));
    let mut client = server.connect();
    ask(&mut client, "GET / HTTP/1.1", "");
    assert_eq!(client.reply().status, 101);
    assert!(client.is_closed());
    drop(client);
    assert!(matches!(server.end(), End::Server { reason: Reason::Handler, requests: 1 }));
}
