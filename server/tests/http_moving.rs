//! What moves in its middle: responses whose rest is known, registered streams, registered protocols; and what stays.

mod http_support;

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use http_support::{Client, DEADLINE, Server, answer};
use http_types::{Body, Request, Response, StatusCode};
use restart_core::{Drain, Phase};
use server::http::{Content, Context, End, Leave, Moves, Piece, Start, Step, UnderWay, Upgraded, stream, switch};

/// More than the kernel buffers between two processes of one machine.
const LARGE: usize = 24 << 20;

fn byte(at: usize) -> u8 {
    u8::try_from(at % 251).expect("small")
}

fn bytes(range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(byte).collect()
}

/// A stream of numbers, each in a line, which pads what `padding` says, up to 10.
async fn count(state: Vec<u8>) -> std::io::Result<Option<Step>> {
    let text = String::from_utf8(state).expect("it was made here");
    let (next, padding) = text.split_once(' ').expect("it was made here");
    let (next, padding): (u32, usize) = (next.parse().expect("a number"), padding.parse().expect("a number"));
    if next == 10 {
        return Ok(None);
    }
    if padding == 0 && next > 0 {
        smol::Timer::after(Duration::from_millis(20)).await;
    }
    let bytes = format!("{next}{}\n", "-".repeat(padding)).into_bytes();
    Ok(Some(Step::new(bytes, format!("{} {padding}", next + 1).into_bytes())))
}

/// A stream without an end: a dot every 20 ms, or, of a state of its own, as fast as it can.
async fn dots(state: Vec<u8>) -> std::io::Result<Option<Step>> {
    if state.is_empty() {
        smol::Timer::after(Duration::from_millis(20)).await;
    }
    Ok(Some(Step::new(b".".to_vec(), state)))
}

/// Says goodbye when it is told that its process ends, or moves when it is to.
async fn say_goodbye(mut stream: Upgraded, _: Vec<u8>) -> Leave {
    let (moves, shutdown) = (stream.moves(), stream.shutdown());
    let moving = async {
        moves.await;
        true
    };
    let stopping = async {
        shutdown.stopping().await;
        false
    };
    if moving.or(stopping).await {
        return Leave::Move { state: Vec::new(), unread: Vec::new() };
    }
    // Whoever has gone needs none.
    let _ = stream.write_all(b"goodbye\n").await;
    Leave::Close
}

/// Numbers the lines that come, and moves at any point of one.
async fn number(mut stream: Upgraded, state: Vec<u8>) -> Leave {
    let mut lines: u32 = String::from_utf8(state).expect("text").parse().expect("a number");
    let mut unread = Vec::new();
    loop {
        let mut room = [0; 100];
        let moves = stream.moves();
        let received = async { Some(stream.read(&mut room).await.unwrap_or(0)) };
        let moving = async {
            moves.await;
            None
        };
        match moving.or(received).await {
            None => return Leave::Move { state: lines.to_string().into_bytes(), unread },
            Some(0) => return Leave::Close,
            Some(count) => unread.extend_from_slice(&room[..count]),
        }
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            lines += 1;
            let line = [lines.to_string().as_bytes(), b": ", &unread[..=end]].concat();
            unread.drain(..=end);
            if stream.write_all(&line).await.is_err() {
                return Leave::Close;
            }
        }
    }
}

async fn moving(request: Request) -> http_types::Result<Response> {
    let mut response = Response::new(StatusCode::Ok);
    match request.url().path() {
        "/memory" => response.set_body(bytes(0..LARGE)),
        "/file" => {
            let mut file = tempfile::tempfile()?;
            file.write_all(&bytes(0..LARGE))?;
            let pieces = [Piece::Memory(b"first".to_vec()), Piece::File(7..100), Piece::Memory(b"second".to_vec())];
            let pieces = pieces.into_iter().chain([Piece::File(11..LARGE as u64), Piece::Memory(b"end".to_vec())]);
            Content::new(Some(file), pieces.collect::<Vec<_>>()).attach(&mut response)?;
        }
        "/unknown" => response.set_body(Body::from_reader(futures_lite::io::Cursor::new(bytes(0..LARGE)), None)),
        "/count" => stream(&mut response, "count", b"0 0".to_vec()),
        "/long-count" => stream(&mut response, "count", b"0 1000000".to_vec()),
        "/nothing" => stream(&mut response, "nothing", Vec::new()),
        "/dots" => stream(&mut response, "dots", Vec::new()),
        "/many-dots" => stream(&mut response, "dots", b"many".to_vec()),
        "/goodbye" => return Ok(switch("goodbye", "goodbye", Vec::new())),
        "/nowhere" => stream(&mut response, "nowhere", Vec::new()),
        "/number" => return Ok(switch("number", "number", b"0".to_vec())),
        _ => return answer(request).await,
    }
    Ok(response)
}

fn context() -> Context<impl Fn(Request) -> http_support::Answering + Send + Sync> {
    let handler = |request| Box::pin(moving(request)) as http_support::Answering;
    let moves = Moves::new().stream("count", count).endless_stream("dots", dots);
    let moves = moves.stream("nothing", |_| async { Ok(Some(Step::default())) });
    let moves = moves.protocol("number", number).protocol("goodbye", say_goodbye);
    let mut context = Context::new(handler, Drain::new());
    (context.parks, context.moves) = (true, moves);
    context
}

fn server() -> Server {
    Server::start(context())
}

/// Has `old` drain, and gives its next connection to `new`. Returns what was under way on it.
#[track_caller]
fn moves(old: &Server, new: &Server) -> String {
    old.drain.set_phase(Phase::Draining);
    let End::Parked(start) = old.end() else { panic!("it does not park") };
    let under_way = match &start.under_way {
        UnderWay::Nothing => "nothing",
        UnderWay::Response(_) => "a response",
        UnderWay::Protocol { .. } => "a protocol",
        _ => "something else",
    };
    new.resume(start);
    under_way.to_owned()
}

/// Sends a request, and takes the first bytes of what comes.
fn begun(server: &Server, request: &str) -> (Client, Vec<u8>) {
    let mut client = server.connect();
    client.send(request);
    let first = take(&mut client, 1_000);
    (client, first)
}

fn take(client: &mut Client, count: usize) -> Vec<u8> {
    let mut taken = vec![0; count];
    client.stream.read_exact(&mut taken).expect("it goes on");
    taken
}

/// The body of a response whose first bytes have come, after its head.
fn rest_of(client: &mut Client, mut all: Vec<u8>, length: usize) -> Vec<u8> {
    let head = all.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    let rest = take(client, head + length - all.len());
    all.extend(rest);
    all.split_off(head)
}

fn file_body() -> Vec<u8> {
    [&b"first"[..], &bytes(7..100), b"second", &bytes(11..LARGE), b"end"].concat()
}

#[test]
fn a_response_from_memory_moves_in_its_middle_again_and_again() {
    let servers: Vec<Server> = (0..5).map(|_| server()).collect();
    let (mut client, mut all) = begun(&servers[0], "GET /memory HTTP/1.1\r\nHost: test\r\n\r\n");
    for pair in servers.windows(2) {
        assert_eq!(moves(&pair[0], &pair[1]), "a response");
        all.extend(take(&mut client, 4 << 20));
    }
    assert!(rest_of(&mut client, all, LARGE) == bytes(0..LARGE));
    assert_eq!(client.get("/ignore").body, "ignored", "the connection is kept");
    drop(client);
    assert!(matches!(servers[4].end(), End::Client { requests: 2 }));
}

#[test]
fn a_response_from_a_file_moves_with_its_pieces_and_with_what_was_asked_behind_it() {
    let servers: Vec<Server> = (0..4).map(|_| server()).collect();
    let behind = "GET /peer HTTP/1.1\r\nHost: test\r\n\r\nGET /target HT";
    let (mut client, mut all) = begun(&servers[0], &format!("GET /file HTTP/1.1\r\nHost: test\r\n\r\n{behind}"));
    for pair in servers.windows(2) {
        assert_eq!(moves(&pair[0], &pair[1]), "a response");
        all.extend(take(&mut client, 5 << 20));
    }
    let expected = file_body();
    assert!(rest_of(&mut client, all, expected.len()) == expected);
    client.send("TP/1.1\r\nHost: test\r\n\r\n");
    assert!(client.reply().body.starts_with("127.0.0.1:"), "who it is travels along");
    assert_eq!(client.reply().body, "/target");
}

#[test]
fn a_response_that_has_said_that_it_closes_does_so_in_the_next_process() {
    for request in ["GET /file HTTP/1.0\r\n\r\n", "GET /file HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"] {
        let (old, new) = (server(), server());
        let (mut client, all) = begun(&old, request);
        assert_eq!(moves(&old, &new), "a response");
        assert!(rest_of(&mut client, all, file_body().len()) == file_body());
        assert!(client.is_closed(), "{request}");
        assert!(matches!(new.end(), End::Server { requests: 1, .. }));
    }
}

#[test]
fn a_client_that_sends_no_more_gets_all_of_its_response() {
    let (old, new) = (server(), server());
    let (mut client, all) = begun(&old, "GET /memory HTTP/1.1\r\nHost: test\r\n\r\n");
    client.finish_sending();
    moves(&old, &new);
    assert!(rest_of(&mut client, all, LARGE) == bytes(0..LARGE));
    assert!(client.is_closed());
}

#[test]
fn a_response_that_nobody_takes_is_finished_where_it_is() {
    let old = server();
    let (mut client, all) = begun(&old, "GET /file HTTP/1.1\r\nHost: test\r\n\r\n");
    old.drain.set_phase(Phase::Draining);
    let End::Parked(start) = old.end() else { panic!("it does not park") };
    old.resume(Start { declined: Some(old.drain.changes()), ..start });
    assert!(rest_of(&mut client, all, file_body().len()) == file_body());
    assert!(client.get("/ignore").closes(), "nobody takes it");
}

#[test]
fn what_cannot_be_described_stays() {
    let old = server();
    let (mut client, first) = begun(&old, "GET /unknown HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut upload = old.connect();
    upload.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\nfour");
    assert!(upload.until("four").ends_with("four"));
    old.drain.set_phase(Phase::Draining);
    let (mut taken, mut room) = (first.len(), vec![0; 1 << 16]);
    // What the kernel has buffered by the end makes the connection idle.
    while taken < LARGE / 2 {
        taken += client.stream.read(&mut room).expect("it goes on");
        assert!(old.none_ended());
    }
    upload.send("more");
    assert_eq!(upload.until("more"), "more");
}

#[test]
fn a_stream_moves_between_two_steps_and_misses_none() {
    for (version, chunked) in [("1.1", true), ("1.0", false)] {
        let servers: Vec<Server> = (0..4).map(|_| server()).collect();
        let mut client = servers[0].connect();
        client.send(format!("GET /count HTTP/{version}\r\nHost: test\r\n\r\n"));
        let head = client.until("\r\n\r\n");
        assert_eq!(head.contains("transfer-encoding: chunked"), chunked);
        let mut lines = client.until("0\n");
        for (number, pair) in servers.windows(2).enumerate() {
            assert_eq!(moves(&pair[0], &pair[1]), "a response");
            lines += &client.until(&format!("{}\n", number + 1));
        }
        lines += &if chunked { client.until("0\r\n\r\n") } else { client.rest() };
        let expected: String = if chunked {
            (0..10).map(|number| format!("2\r\n{number}\n\r\n")).chain(["0\r\n\r\n".to_owned()]).collect()
        } else {
            "0123456789".chars().flat_map(|number| [number, '\n']).collect()
        };
        assert_eq!(lines, expected);
    }
}

#[test]
fn a_stream_whose_client_is_slow_moves_when_it_can_be_described() {
    let (old, new) = (server(), server());
    let (mut client, mut all) = begun(&old, "GET /long-count HTTP/1.1\r\nHost: test\r\n\r\n");
    let reading = thread::spawn(move || {
        let mut room = vec![0; 1 << 16];
        while !all.ends_with(b"\r\n0\r\n\r\n") {
            let count = client.stream.read(&mut room).expect("it goes on");
            all.extend_from_slice(&room[..count]);
        }
        all
    });
    assert_eq!(moves(&old, &new), "a response");
    let all = String::from_utf8(reading.join().expect("all of it")).expect("text");
    let (_, body) = all.split_once("\r\n\r\n").expect("a head");
    for number in 0..10 {
        assert!(body.contains(&format!("\r\n{number}-")), "{number}");
    }
    assert_eq!(body.matches('-').count(), 10_000_000);
}

#[test]
fn a_stop_ends_endless_streams_in_order_and_lets_others_finish() {
    let server = server();
    let (mut endless, mut counted) = (server.connect(), server.connect());
    endless.send("GET /dots HTTP/1.1\r\nHost: test\r\n\r\n");
    endless.until("1\r\n.");
    counted.send("GET /count HTTP/1.1\r\nHost: test\r\n\r\n");
    counted.until("\r\n0\n");
    server.drain.set_phase(Phase::Stopping);
    endless.until("\r\n0\r\n\r\n");
    assert!(endless.is_closed());
    assert!(counted.until("0\r\n\r\n").contains("\r\n9\n"), "what has an end comes to it");
    assert!(counted.is_closed());
}

#[test]
fn a_stop_ends_a_stream_that_never_waits() {
    let server = server();
    let mut client = server.connect();
    client.send("GET /many-dots HTTP/1.1\r\nHost: test\r\n\r\n");
    client.until("1\r\n.");
    server.drain.set_phase(Phase::Stopping);
    client.until("\r\n0\r\n\r\n");
}

/// Has many clients ask for `request`, of which nobody takes any in a drain of 3 s. When each of them has got `last`,
/// counted from the drain's begin.
fn told_before_the_deadline(request: &str, first: &str, last: &str) -> Vec<Duration> {
    let server = server();
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(request);
        client.until(first);
    }
    let begun = Instant::now();
    server.drain.set_deadline(Duration::from_secs(3));
    server.drain.set_phase(Phase::Draining);
    for _ in &clients {
        let End::Parked(start) = server.end() else { panic!("it does not park") };
        server.resume(Start { declined: Some(server.drain.changes()), ..start });
    }
    thread::scope(|scope| {
        let wait = |mut client: Client| {
            client.until(last);
            begun.elapsed()
        };
        let waiting: Vec<_> = clients.into_iter().map(|client| scope.spawn(move || wait(client))).collect();
        waiting.into_iter().map(|waiting| waiting.join().expect("it is told")).collect()
    })
}

#[test]
fn what_nobody_takes_ends_in_order_before_the_drains_deadline_and_not_all_at_once() {
    let upgrade = "GET /goodbye HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: goodbye\r\n\r\n";
    for (request, first, last) in
        [("GET /dots HTTP/1.1\r\nHost: test\r\n\r\n", "1\r\n.", "\r\n0\r\n\r\n"), (upgrade, "\r\n\r\n", "goodbye\n")]
    {
        let told = told_before_the_deadline(request, first, last);
        let (earliest, latest) = (told.iter().min().expect("many"), told.iter().max().expect("many"));
        assert!(*earliest >= Duration::from_secs(2), "no earlier than it has to be: {told:?}");
        assert!(latest.saturating_sub(*earliest) > Duration::from_millis(100), "not all at once: {told:?}");
    }
}

#[test]
fn what_is_not_registered_is_500() {
    let server = server();
    let mut client = server.connect();
    assert_eq!(client.get("/nowhere").status, 500);
    assert_eq!(client.get("/number").status, 500, "nobody asked for a switch");
}

#[test]
fn a_protocol_moves_with_its_state_and_what_it_has_not_used() {
    let servers: Vec<Server> = (0..4).map(|_| server()).collect();
    let mut client = servers[0].connect();
    client.send("GET /number HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: number\r\n\r\none\n");
    client.until("\r\n\r\n");
    assert_eq!(client.until("\n"), "1: one\n");
    for (number, pair) in servers.windows(2).enumerate() {
        client.send("ha");
        assert_eq!(moves(&pair[0], &pair[1]), "a protocol");
        client.send("lf\n");
        assert_eq!(client.until("\n"), format!("{}: half\n", number + 2));
    }
    drop(client);
    assert!(matches!(servers[3].end(), End::Client { requests: 1 }));
}

/// What is told of a request: the status, how many bytes its body had, whether they were all, and its first line.
type Told = (Option<u16>, u64, bool, Vec<u8>);

/// A server that tells of each request that is over.
fn observed() -> (Server, Receiver<Told>) {
    let (sender, told) = channel();
    let mut context = context();
    context.observers.push(Box::new(move |served| {
        let _ = sender.send((served.status, served.body_bytes, served.complete, served.line.to_vec()));
    }));
    (Server::start(context), told)
}

#[test]
fn a_request_that_moved_is_told_of_once_by_who_finished_it() {
    let ((old, told_old), (new, told_new)) = (observed(), observed());
    let (mut client, all) = begun(&old, "GET /file HTTP/1.1\r\nHost: test\r\n\r\n");
    moves(&old, &new);
    let body = rest_of(&mut client, all, file_body().len());
    let told = told_new.recv_timeout(DEADLINE).expect("it is told of");
    assert_eq!(told, (Some(200), body.len() as u64, true, b"GET /file HTTP/1.1".to_vec()));
    assert!(told_old.try_recv().is_err() && told_new.try_recv().is_err());
}

#[test]
fn a_stream_of_steps_that_give_nothing_holds_up_nobody_and_ends_with_its_client() {
    let server = server();
    let mut client = server.connect();
    client.send("GET /nothing HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(server.connect().get("/ignore").body, "ignored");
    // A close with unread bytes is a reset: nobody is there any more.
    client.send("unread");
    drop(client);
    assert!((0..2).all(|_| matches!(server.end(), End::Client { .. })));
}

#[test]
fn a_response_that_goes_on_only_after_the_deadline_is_cut_and_told_of() {
    for (request, is_reset) in
        [("GET /file HTTP/1.1\r\nHost: test\r\n\r\n", false), ("GET /long-count HTTP/1.0\r\n\r\n", true)]
    {
        let ((old, _), (new, told)) = (observed(), observed());
        let (mut client, _) = begun(&old, request);
        let reading = thread::spawn(move || client.rest_to_a_reset());
        old.drain.set_phase(Phase::Draining);
        let End::Parked(start) = old.end() else { panic!("it does not park") };
        new.drain.set_phase(Phase::Over);
        new.resume(start);
        let (_, _, complete, line) = told.recv_timeout(DEADLINE).expect("it is told of");
        assert!(!complete && request.as_bytes().starts_with(&line), "{request}");
        assert_eq!(reading.join().expect("it ends").1, is_reset, "{request}");
    }
}
