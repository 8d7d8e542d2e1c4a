//! Services of somebody's own, by the crate's adapters: what is under way on their connections goes on through real
//! reloads.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustix::process::Signal;
use support::{DEADLINE, Service, connect_tcp, kill, wait_for_end};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::{Error, Message, WebSocket};

const RELOADS: u64 = 20;
const CALLERS: u64 = 4;
const CALLS_BETWEEN_RESTS: u64 = 100;

fn chat(address: &str) -> WebSocket<TcpStream> {
    tungstenite::client(format!("ws://{address}/chat"), connect_tcp(address)).unwrap().0
}

fn say(chat: &mut WebSocket<TcpStream>, text: &str) -> String {
    chat.send(Message::text(text)).unwrap();
    heard(chat)
}

fn heard(chat: &mut WebSocket<TcpStream>) -> String {
    chat.read().unwrap().into_text().unwrap().to_string()
}

/// A stream of events, each of which is held against the one before.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(address: &str) -> Events {
        let mut stream = BufReader::new(connect_tcp(address));
        stream.get_mut().write_all(b"GET /events HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
        Events(stream)
    }

    /// The next event, whole, and in a chunk of its own.
    fn next(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let length = usize::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("no chunk: {line:?}"));
        let mut chunk = vec![0; length + 2];
        self.0.read_exact(&mut chunk).unwrap();
        String::from_utf8(chunk).unwrap()
    }

    /// How many events come in order until it is over.
    fn count_until(&mut self, over: &AtomicBool) -> u64 {
        let mut id = 0;
        while !over.load(Ordering::Acquire) {
            id += 1;
            let event = self.next();
            assert!(event.starts_with(&format!("id: {id}\n")), "{event:?} is not the {id}th event");
        }
        id
    }
}

#[test]
fn websockets_and_event_streams_live_through_twenty_reloads_and_keep_no_process() {
    let service = Service::example("axum_chat", "axum-chat");
    let address = service.address("http");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let chats: Vec<_> = (0..4)
            .map(|number| {
                let (over, address) = (&over, &address);
                scope.spawn(move || {
                    let mut chat = chat(address);
                    assert_eq!(
                        say(&mut chat, &format!("/nick Anna{number}")),
                        format!("1 Anna{number}: /nick Anna{number}")
                    );
                    let mut said = 1_u64;
                    while !over.load(Ordering::Acquire) {
                        said += 1;
                        assert_eq!(say(&mut chat, "hello"), format!("{said} Anna{number}: hello"));
                    }
                    said
                })
            })
            .collect();
        let events = scope.spawn(|| Events::open(&address).count_until(&over));
        let (mut idle, mut halved) = (chat(&address), chat(&address));
        let part =
            |data, text: &'static str, is_last| Message::Frame(Frame::message(text, OpCode::Data(data), is_last));
        halved.send(part(Data::Text, "in ", false)).unwrap();
        halved.send(Message::Ping("there?".into())).unwrap();
        assert_eq!(halved.read().unwrap(), Message::Pong("there?".into()));
        let mut replaced = 0;
        for round in 0..RELOADS {
            replaced = service.reload_well().from.pid;
            if round % 5 == 0 {
                halved.send(part(Data::Continue, "parts ", false)).unwrap();
            }
        }
        // Nothing keeps it: all of these have moved.
        wait_for_end(replaced, DEADLINE);
        halved.send(part(Data::Continue, "it ends", true)).unwrap();
        assert_eq!(heard(&mut halved), "1: in parts parts parts parts it ends");
        assert_eq!(say(&mut idle, "still here"), "1: still here");
        over.store(true, Ordering::Release);
        for chat in chats {
            let said = chat.join().unwrap();
            assert!(said > 100, "{said}");
        }
        assert!(events.join().unwrap() > 10);
    });
}

#[test]
fn a_stop_says_goodbye_to_websockets_and_ends_event_streams_in_order() {
    let mut service = Service::example("axum_chat", "axum-chat");
    let address = service.address("http");
    let (mut chat, mut events) = (chat(&address), Events::open(&address));
    assert_eq!(say(&mut chat, "here"), "1: here");
    events.next();
    service.client().stop().unwrap();
    match chat.read() {
        Ok(Message::Close(Some(frame))) => assert_eq!(frame.code, CloseCode::Away),
        other => panic!("no close frame: {other:?}"),
    }
    assert!(matches!(chat.read(), Err(Error::ConnectionClosed)));
    while events.next() != "\r\n" {}
    assert_eq!(events.0.read_to_end(&mut vec![]).unwrap(), 0);
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn where_a_version_that_does_not_know_them_dies_they_live_on_and_others_are_accepted_again() {
    let mut service = Service::example("axum_chat", "axum-chat");
    let address = service.address("http");
    let (mut old_chat, mut events) = (chat(&address), Events::open(&address));
    assert_eq!(say(&mut old_chat, "one"), "1: one");
    service.replace_program("axum");
    let old = service.reload_well().from.pid;
    assert_eq!(say(&mut old_chat, "two"), "2: two");
    events.next();
    service.answers_at("axum-example");
    kill(service.status().id.pid, Signal::KILL);
    // Whoever connects now is served by the old process, since there is no other.
    let mut new_chat = chat(&address);
    assert_eq!(say(&mut new_chat, "new"), "1: new");
    assert_eq!(say(&mut old_chat, "three"), "3: three");
    events.next();
    service.replace_program("axum_chat");
    kill(old, Signal::HUP);
    service.answers_at("axum-chat");
    wait_for_end(old, DEADLINE);
    assert_eq!((say(&mut old_chat, "four"), say(&mut new_chat, "news")), ("4: four".to_owned(), "2: news".to_owned()));
    events.next();
}

type Calls = HealthClient<Client<HttpConnector, tonic::body::Body>>;

/// A client whose connections are hyper's, with its pool: a request that was taken and not sent when a connection ends is
/// sent on another one. tonic's own `Channel` gives such a one up.
fn calling(address: &str) -> Calls {
    let mut connector = HttpConnector::new();
    // A call's head and its body are two writes, of which the second would wait for the acknowledgement of the first.
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build(connector);
    HealthClient::with_origin(client, format!("http://{address}").parse().unwrap())
}

/// Calls one after another until it is over, and counts. Now and then it rests about as long as it takes until its
/// connection is told to go, so that some calls meet the goodbye on its way. No call fails: there is never another one open,
/// and hyper's client then sends what it had not sent on a new connection.
async fn calls(address: &str, over: &AtomicBool, called: &AtomicU64) {
    let mut client = calling(address);
    for call in 1_u64.. {
        let answer = client.check(HealthCheckRequest { service: String::new() }).await;
        let answer = answer.unwrap_or_else(|error| panic!("call {call}: {error:?}"));
        assert_eq!(answer.into_inner().status, 1);
        called.fetch_add(1, Ordering::AcqRel);
        if over.load(Ordering::Acquire) {
            return;
        }
        if call % CALLS_BETWEEN_RESTS == 0 {
            tokio::time::sleep(Duration::from_millis(95 + call / CALLS_BETWEEN_RESTS % 10)).await;
        }
    }
}

/// Watches until it is over: the call goes on where it began.
async fn watches(address: &str, over: &AtomicBool) {
    let mut client = calling(address);
    let request = HealthCheckRequest { service: "shop".to_owned() };
    let mut watch = client.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    while !over.load(Ordering::Acquire) {
        let said = tokio::time::timeout(Duration::from_millis(20), watch.message()).await;
        assert!(said.is_err(), "the watch has not gone on: {said:?}");
    }
}

/// Reloads evenly among so many calls.
fn calls_through_reloads(calls_in_all: u64, reloads: u64) {
    let service = Service::example("tonic", "tonic-example");
    let address = service.address("http");
    let (over, called) = (AtomicBool::new(false), AtomicU64::new(0));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CALLERS).map(|_| scope.spawn(|| runtime.block_on(calls(&address, &over, &called)))).collect();
        let watching = scope.spawn(|| runtime.block_on(watches(&address, &over)));
        let are_made = |calls: u64| {
            while called.load(Ordering::Acquire) < calls {
                assert!(clients.iter().all(|client| !client.is_finished()), "a caller has failed");
                thread::yield_now();
            }
        };
        let mut replaced = vec![];
        for reload in 1..=reloads {
            are_made(calls_in_all * reload / (reloads + 1));
            replaced.push(service.reload_well().from.pid);
        }
        are_made(calls_in_all);
        over.store(true, Ordering::Release);
        for client in clients {
            client.join().unwrap();
        }
        service.reload_well();
        watching.join().unwrap();
        // Their clients are gone, or quiet, by now.
        for replaced in replaced {
            wait_for_end(replaced, DEADLINE);
        }
    });
}

#[test]
fn no_call_fails_at_a_reload_of_a_tonic_service() {
    calls_through_reloads(2000, 3);
}

#[test]
#[ignore = "takes a minute or two"]
fn of_a_hundred_thousand_calls_none_fails_at_twenty_reloads_of_a_tonic_service() {
    calls_through_reloads(100_000, 20);
}
