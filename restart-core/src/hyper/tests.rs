//! Connections between two processes' worth of servers, in one process: each client is a socket on loopback.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use ::tokio::net::{TcpListener, TcpStream};
use ::tokio::sync::Notify;
use ::tokio::time::timeout;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{CONNECTION, UPGRADE};
use hyper::service::Service;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;
use crate::connections::{Connection, Connections, Destination};
use crate::drain::{Drain, Phase};
use crate::handover::Channel;
use crate::tokio::Stream;

const DEADLINE: Duration = Duration::from_secs(20);

/// One generation's answers.
#[derive(Clone)]
struct Answers {
    generation: u64,
    /// What `/slow` waits for.
    finish: Arc<Notify>,
    /// Notified when `/slow` has been asked.
    asked: Arc<Notify>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send>>;

impl Service<Request<RequestBody>> for Answers {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<RequestBody>) -> Answer {
        Box::pin(self.clone().answer(request))
    }
}

impl Answers {
    async fn answer(self, mut request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
        let generation = self.generation;
        let text = |text: String| Response::new(Full::from(text));
        Ok(match request.uri().path() {
            "/slow" => {
                self.asked.notify_one();
                self.finish.notified().await;
                text(format!("slow {generation}"))
            }
            "/read" => {
                let body = request.body_mut().collect().await.unwrap().to_bytes();
                text(format!("read {} {generation}", body.len()))
            }
            "/upgrade" => {
                let upgraded = hyper::upgrade::on(&mut request);
                ::tokio::spawn(async move {
                    let mut stream = TokioIo::new(upgraded.await.unwrap());
                    let (mut byte, mut all) = ([0], vec![]);
                    while stream.read(&mut byte).await.unwrap() > 0 {
                        all.extend(byte);
                        stream.write_all(&all).await.unwrap();
                    }
                });
                let mut response = text(String::new());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert(UPGRADE, "echo".parse().unwrap());
                response.headers_mut().insert(CONNECTION, "upgrade".parse().unwrap());
                response
            }
            "/count" => stream("count/1", b"0".to_vec()),
            "/sum" => switch("sum", "sum/1", b"0".to_vec()),
            "/unknown" => stream("unknown/1", vec![]),
            path => text(format!("{path} {generation}")),
        })
    }
}

/// Counts to 6, each step when it is told so.
fn moves(tick: &Arc<Notify>, generation: u64) -> Moves {
    let tick = Arc::clone(tick);
    let count = move |state: Vec<u8>| {
        let tick = Arc::clone(&tick);
        async move {
            let number: u64 = String::from_utf8(state).unwrap().parse().unwrap();
            if number == 6 {
                return Ok(None);
            }
            tick.notified().await;
            let state = (number + 1).to_string().into_bytes();
            Ok(Some(Step::new(format!("{generation}:{}\n", number + 1).into_bytes(), state)))
        }
    };
    Moves::new().stream("count/1", count).protocol("sum/1", sum)
}

/// Adds up numbers, each in a line, and tells the sum.
async fn sum(mut stream: Upgraded, state: Vec<u8>) -> Leave {
    let mut sum: u64 = String::from_utf8(state).unwrap().parse().unwrap();
    let (mut unread, mut piece) = (vec![], [0; 64]);
    let mut moves = Box::pin(stream.moves());
    loop {
        ::tokio::select! {
            () = &mut moves => return Leave::Move { state: sum.to_string().into_bytes(), unread },
            read = stream.read(&mut piece) => match read {
                Ok(count @ 1..) => unread.extend_from_slice(&piece[..count]),
                _ => return Leave::Close,
            },
        }
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            sum += std::str::from_utf8(&line).unwrap().trim().parse::<u64>().unwrap();
            if stream.write_all(format!("{sum}\n").as_bytes()).await.is_err() {
                return Leave::Close;
            }
        }
    }
}

struct Process {
    drain: Drain,
    way: Connections,
    server: Server<Answers>,
    answers: Answers,
    address: SocketAddr,
    tick: Arc<Notify>,
}

/// A process that serves. Its formats are all, unless others are given.
async fn process(generation: u64) -> Process {
    let (drain, tick) = (Drain::new(), Arc::new(Notify::new()));
    let answers = Answers { generation, finish: Arc::default(), asked: Arc::default() };
    let moves = moves(&tick, generation);
    let way = Connections::new(moves.formats());
    let server = Server::over(drain.clone(), way.clone(), moves, answers.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepting, counted) = (server.clone(), drain.clone());
    ::tokio::spawn(async move {
        loop {
            let socket = listener.accept().await.unwrap().0.into_std().unwrap();
            let connection = Connection::new([""], socket.into(), vec![], counted.guard());
            ::tokio::spawn(accepting.clone().serve(Stream::take_up(connection).unwrap().0));
        }
    });
    ::tokio::spawn(server.clone().take());
    Process { drain, way, server, answers, address, tick }
}

impl Process {
    /// Drains, with `next` as the newest process, if there is one.
    fn replaced_by(&self, next: Option<&Process>) {
        let (mover, aim) = self.way.open(self.drain.clone());
        ::tokio::spawn(mover);
        let target = next.map(|next| {
            let (ours, theirs) = Channel::pair().unwrap();
            let (way, drain) = (next.way.clone(), next.drain.clone());
            ::tokio::spawn(async move { way.receive(&ours, &drain).await });
            Destination { channel: Channel::adopt(theirs).unwrap(), formats: next.server.moves.formats() }
        });
        aim.try_send(target).unwrap();
        self.drain.set_deadline(DEADLINE);
        self.drain.set_phase(Phase::Draining);
        // It is the newest one until the test ends.
        std::mem::forget(aim);
    }

    async fn connect(&self) -> Client {
        Client(BufReader::new(TcpStream::connect(self.address).await.unwrap()))
    }

    /// Waits until it has no connection left.
    async fn is_empty(&self) {
        timeout(DEADLINE, self.drain.empty()).await.expect("a connection stays");
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    async fn get(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(DEADLINE, self.0.read_line(&mut line)).await.expect("a line in time").unwrap();
        line
    }

    /// A response's head.
    async fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let line = self.line().await;
            assert!(!line.is_empty(), "the connection has ended: {head}");
            head += &line;
        }
        head.to_ascii_lowercase()
    }

    /// The body of a response with a length.
    async fn body(&mut self) -> String {
        let head = self.head().await;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let mut body = vec![0; length.parse().unwrap()];
        timeout(DEADLINE, self.0.read_exact(&mut body)).await.expect("a body in time").unwrap();
        String::from_utf8(body).unwrap()
    }

    async fn ask(&mut self, path: &str) -> String {
        self.get(path).await;
        self.body().await
    }

    async fn chunk(&mut self) -> String {
        let length = usize::from_str_radix(self.line().await.trim(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        timeout(DEADLINE, self.0.read_exact(&mut chunk)).await.expect("a chunk in time").unwrap();
        String::from_utf8(chunk).unwrap().trim_end().to_owned()
    }

    async fn has_ended(&mut self) -> bool {
        self.line().await.is_empty()
    }
}

#[::tokio::test]
async fn an_idle_connection_moves_with_half_a_head_and_serves_on() {
    let (old, new) = (process(1).await, process(2).await);
    let (mut idle, mut half, mut unused) = (old.connect().await, old.connect().await, old.connect().await);
    assert_eq!(idle.ask("/a").await, "/a 1");
    assert_eq!(half.ask("/a").await, "/a 1");
    half.send("GET /b HTTP/1.1\r\nho").await;
    while old.drain.live() < 3 {
        ::tokio::task::yield_now().await;
    }
    old.replaced_by(Some(&new));
    old.is_empty().await;
    half.send("st: x\r\n\r\n").await;
    assert_eq!(half.body().await, "/b 2");
    assert_eq!((idle.ask("/c").await, unused.ask("/d").await), ("/c 2".to_owned(), "/d 2".to_owned()));
}

#[::tokio::test]
async fn a_request_in_flight_is_answered_where_it_began_and_those_behind_it_where_they_are_read() {
    let (old, new) = (process(1).await, process(2).await);
    let mut client = old.connect().await;
    client.get("/slow").await;
    old.answers.asked.notified().await;
    client.get("/a").await;
    client.get("/b").await;
    old.replaced_by(Some(&new));
    old.answers.finish.notify_one();
    assert_eq!(client.body().await, "slow 1");
    let (a, b) = (client.body().await, client.body().await);
    assert!(a.starts_with("/a") && b.starts_with("/b"), "{a} {b}");
    assert_eq!(client.ask("/c").await, "/c 2");
    old.is_empty().await;
}

#[::tokio::test]
async fn a_body_that_was_read_or_never_looked_at_keeps_nothing_and_what_is_unread_of_it_is_no_request() {
    let (old, new) = (process(1).await, process(2).await);
    let (mut read, mut unread, mut late) = (old.connect().await, old.connect().await, old.connect().await);
    read.send("POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody").await;
    assert_eq!(read.body().await, "read 4 1");
    unread.send("POST /unread HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody").await;
    assert_eq!(unread.body().await, "/unread 1");
    late.send("POST /unread HTTP/1.1\r\nhost: x\r\ncontent-length: 22\r\n\r\n").await;
    assert_eq!(late.body().await, "/unread 1");
    old.replaced_by(Some(&new));
    late.0.write_all(b"GET /evil HTTP/1.1\r\n\r\n").await.unwrap_or_default();
    let mut rest = String::new();
    let _ = late.0.read_to_string(&mut rest).await;
    assert_eq!(rest, "", "hyper closes what it does not want to read");
    old.is_empty().await;
    assert_eq!((read.ask("/a").await, unread.ask("/b").await), ("/a 2".to_owned(), "/b 2".to_owned()));
}

#[::tokio::test]
async fn an_upgrade_by_hyper_works_is_counted_and_one_that_is_refused_moves() {
    let (old, new) = (process(1).await, process(2).await);
    let (mut taken, mut refused) = (old.connect().await, old.connect().await);
    let upgrade =
        |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    taken.send(&(upgrade("/upgrade") + "a")).await;
    assert!(taken.head().await.starts_with("http/1.1 101"));
    refused.send(&upgrade("/a")).await;
    assert_eq!(refused.body().await, "/a 1");
    old.replaced_by(Some(&new));
    assert_eq!(refused.ask("/b").await, "/b 2");
    taken.send("b").await;
    let mut echoed = [0; 3];
    taken.0.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"aab");
    assert!(old.drain.live() > 0, "it is counted where it is");
    drop(taken);
    old.is_empty().await;
}

#[::tokio::test]
async fn a_stream_goes_on_in_the_next_process_at_its_next_step_and_the_connection_after_it() {
    let (old, new) = (process(1).await, process(2).await);
    let mut client = old.connect().await;
    client.get("/count").await;
    let head = client.head().await;
    assert!(head.contains("transfer-encoding: chunked") && !head.contains("content-length"), "{head}");
    for number in 1..=3 {
        old.tick.notify_one();
        assert_eq!(client.chunk().await, format!("1:{number}"));
    }
    client.get("/behind").await;
    old.replaced_by(Some(&new));
    old.is_empty().await;
    for number in 4..=6 {
        new.tick.notify_one();
        assert_eq!(client.chunk().await, format!("2:{number}"));
    }
    assert_eq!(client.chunk().await, "");
    assert_eq!((client.body().await, client.ask("/a").await), ("/behind 2".to_owned(), "/a 2".to_owned()));
}

#[::tokio::test]
async fn a_stream_to_a_client_of_http_1_0_ends_with_the_connection_and_one_for_a_head_is_none() {
    let (old, new) = (process(1).await, process(2).await);
    let (mut client, mut head) = (old.connect().await, old.connect().await);
    head.send("HEAD /count HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(head.head().await.starts_with("http/1.1 200"));
    client.send("GET /count HTTP/1.0\r\n\r\n").await;
    assert!(!client.head().await.contains("chunked"));
    old.replaced_by(Some(&new));
    old.is_empty().await;
    assert_eq!(head.ask("/a").await, "/a 2");
    for number in 1..=6 {
        new.tick.notify_one();
        assert_eq!(client.line().await, format!("2:{number}\n"));
    }
    assert!(client.has_ended().await);
}

#[::tokio::test]
async fn a_registered_protocol_goes_on_with_its_state_and_what_it_had_not_used() {
    let (old, new) = (process(1).await, process(2).await);
    let mut client = old.connect().await;
    client.send("GET /sum HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: sum\r\n\r\n1\n").await;
    assert!(client.head().await.starts_with("http/1.1 101"));
    assert_eq!(client.line().await, "1\n");
    client.send("2\n3").await;
    assert_eq!(client.line().await, "3\n");
    old.replaced_by(Some(&new));
    old.is_empty().await;
    client.send("0\n").await;
    assert_eq!((client.line().await, new.drain.live()), ("33\n".to_owned(), 1));
}

#[::tokio::test]
async fn what_is_not_registered_is_answered_with_500_and_a_switch_that_was_not_asked_for_with_426() {
    let process = process(1).await;
    let mut client = process.connect().await;
    client.get("/unknown").await;
    assert!(client.head().await.starts_with("http/1.1 500"));
    client.get("/sum").await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 426") && head.contains("\r\nupgrade: sum\r\n"), "{head}");
    assert_eq!(client.ask("/a").await, "/a 1");
}

#[::tokio::test]
async fn where_nobody_takes_them_idle_connections_end_and_others_after_their_response() {
    let old = process(1).await;
    let (mut idle, mut busy) = (old.connect().await, old.connect().await);
    assert_eq!(idle.ask("/a").await, "/a 1");
    busy.get("/slow").await;
    old.answers.asked.notified().await;
    old.replaced_by(None);
    assert!(idle.has_ended().await);
    old.answers.finish.notify_one();
    assert_eq!(busy.body().await, "slow 1");
    assert!(busy.has_ended().await);
    old.is_empty().await;
}

#[::tokio::test]
async fn a_drain_that_is_called_off_leaves_a_connection_as_it_was() {
    let (old, new) = (process(1).await, process(2).await);
    let mut busy = old.connect().await;
    busy.get("/slow").await;
    old.answers.asked.notified().await;
    old.replaced_by(Some(&new));
    old.drain.set_phase(Phase::Serving);
    old.answers.finish.notify_one();
    assert_eq!((busy.body().await, busy.ask("/a").await), ("slow 1".to_owned(), "/a 1".to_owned()));
}

#[::tokio::test]
async fn a_stop_ends_idle_connections_and_the_deadline_all() {
    let process = process(1).await;
    let (mut idle, mut busy) = (process.connect().await, process.connect().await);
    assert_eq!(idle.ask("/a").await, "/a 1");
    busy.get("/slow").await;
    process.answers.asked.notified().await;
    process.drain.set_phase(Phase::Stopping);
    assert!(idle.has_ended().await);
    process.drain.set_phase(Phase::Over);
    assert!(busy.has_ended().await);
    process.is_empty().await;
}

#[::tokio::test]
async fn over_http_2_what_began_is_finished_and_the_client_is_told_to_go() {
    let (old, new) = (process(1).await, process(2).await);
    let socket = TokioIo::new(TcpStream::connect(old.address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await.unwrap();
    let connection = ::tokio::spawn(connection);
    let ask = |path: &str| Request::get(format!("http://x{path}")).body(Full::<Bytes>::default()).unwrap();
    let text = |response: Response<hyper::body::Incoming>| async {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    };
    assert_eq!(text(sender.send_request(ask("/a")).await.unwrap()).await, "/a 1");
    let slow = ::tokio::spawn(sender.send_request(ask("/slow")));
    let count = ::tokio::spawn(sender.send_request(ask("/count")));
    old.answers.asked.notified().await;
    let count = count.await.unwrap().unwrap();
    old.replaced_by(Some(&new));
    old.answers.finish.notify_one();
    assert_eq!(text(slow.await.unwrap().unwrap()).await, "slow 1");
    let ticking = Arc::clone(&old.tick);
    let ticks = ::tokio::spawn(async move {
        loop {
            ticking.notify_one();
            ::tokio::task::yield_now().await;
        }
    });
    assert_eq!(text(count).await, "1:1\n1:2\n1:3\n1:4\n1:5\n1:6\n");
    ticks.abort();
    old.is_empty().await;
    connection.await.unwrap().expect("it ends in order");
}
