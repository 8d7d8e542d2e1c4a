//! TLS connections that move: in every kind that plain ones do, and at every byte of a record.

mod http_support;
mod tls_support;

use std::io::Write;
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use http_support::{Answering, Server, answer};
use http_types::{Request, Response};
use restart_core::{Drain, Phase};
use server::http::{Content, Context, End, Leave, Moves, Piece, Start, Step, UnderWay, Upgraded, stream, switch};
use tls_support::{Client, TLS12, TLS13, server_config};

/// More than the kernel buffers between two processes of one machine.
const LARGE: usize = 24 << 20;

fn bytes(range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(|at| u8::try_from(at % 251).expect("small")).collect()
}

/// A stream of numbers up to 9, each in a line.
async fn count(state: Vec<u8>) -> std::io::Result<Option<Step>> {
    let next: u32 = String::from_utf8(state).expect("text").parse().expect("a number");
    if next == 10 {
        return Ok(None);
    }
    if next > 0 {
        smol::Timer::after(Duration::from_millis(20)).await;
    }
    Ok(Some(Step::new(format!("{next}\n").into_bytes(), (next + 1).to_string().into_bytes())))
}

/// Gives back what comes, and moves at any point.
async fn echo(mut stream: Upgraded, _: Vec<u8>) -> Leave {
    let mut room = [0; 1000];
    loop {
        let moves = stream.moves();
        let received = async { Some(stream.read(&mut room).await.unwrap_or(0)) };
        let moving = async {
            moves.await;
            None
        };
        match moving.or(received).await {
            None => return Leave::Move { state: Vec::new(), unread: Vec::new() },
            Some(0) => return Leave::Close,
            Some(count) => {
                if stream.write_all(&room[..count]).await.is_err() {
                    return Leave::Close;
                }
            }
        }
    }
}

async fn respond(request: Request) -> http_types::Result<Response> {
    let mut response = Response::new(200);
    match request.url().path() {
        "/memory" => response.set_body(bytes(0..LARGE)),
        "/file" => {
            let mut file = tempfile::tempfile()?;
            file.write_all(&bytes(0..LARGE))?;
            let pieces =
                vec![Piece::Memory(b"first".to_vec()), Piece::File(7..LARGE as u64), Piece::Memory(b"end".to_vec())];
            Content::new(Some(file), pieces).attach(&mut response)?;
        }
        "/count" => stream(&mut response, "count", b"0".to_vec()),
        "/echo-protocol" => return Ok(switch("echo", "echo", Vec::new())),
        _ => return answer(request).await,
    }
    Ok(response)
}

fn server() -> Server {
    let mut context = Context::new((|request| Box::pin(respond(request)) as Answering) as fn(_) -> _, Drain::new());
    (context.parks, context.moves) = (true, Moves::new().stream("count", count).protocol("echo", echo));
    Server::secured(context, server_config())
}

fn servers(count: usize) -> Vec<Server> {
    (0..count).map(|_| server()).collect()
}

/// Has `old` drain, and gives its next connection to `new`. Returns what was under way on it.
#[track_caller]
fn moves(old: &Server, new: &Server) -> &'static str {
    old.drain.set_phase(Phase::Draining);
    let start = match old.end() {
        End::Parked(start) => start,
        other => panic!("it does not park: {other:?}"),
    };
    let under_way = match &start.under_way {
        UnderWay::Nothing => "nothing",
        UnderWay::Response(_) => "a response",
        UnderWay::Protocol(_) => "a protocol",
        _ => "something else",
    };
    new.resume(start);
    under_way
}

#[test]
fn an_idle_connection_moves_again_and_again_in_both_versions() {
    for version in [TLS12, TLS13] {
        let servers = servers(6);
        let mut client = Client::connect(servers[0].address, version);
        assert_eq!(client.get("/ignore"), "ignored");
        for pair in servers.windows(2) {
            assert_eq!(moves(&pair[0], &pair[1]), "nothing");
            assert_eq!(client.get("/target"), "/target");
            assert_eq!(client.get("/large").len(), 100_000);
        }
        client.close();
        assert!(matches!(servers[5].end(), End::Client { requests: 11 }));
    }
}

#[test]
fn a_connection_moves_that_has_not_asked_for_anything_yet() {
    let servers = servers(3);
    let mut client = Client::connect(servers[0].address, TLS13);
    servers.windows(2).for_each(|pair| assert_eq!(moves(&pair[0], &pair[1]), "nothing"));
    assert_eq!(client.get("/ignore"), "ignored");
}

#[test]
fn half_a_head_moves() {
    let servers = servers(3);
    let mut client = Client::connect(servers[0].address, TLS13);
    client.send("GET /ignore HTTP/1.1\r\nHost: test\r\n\r\nGET /tar");
    assert_eq!(client.reply(), "ignored");
    moves(&servers[0], &servers[1]);
    client.send("get HTTP/1.1\r\n");
    moves(&servers[1], &servers[2]);
    client.send("Host: test\r\n\r\n");
    assert_eq!(client.reply(), "/target");
}

/// Where records are cut: within the header and behind it, within what is sealed, and before the last byte.
const CUTS: [usize; 6] = [1, 4, 5, 6, 20, usize::MAX];

/// Has the server receive a record up to a cut, and returns the rest of it: a request for `/target`.
fn begin_record(client: &mut Client, cut: usize) -> Vec<u8> {
    let mut sealed = client.seal("GET /ignore HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut record = client.seal("GET /target HTTP/1.1\r\nHost: test\r\n\r\n");
    let last = record.split_off(cut.min(record.len() - 1));
    // One piece, so that its end has been received when its beginning is answered.
    sealed.extend_from_slice(&record);
    client.tls.sock.write_all(&sealed).expect("room");
    assert_eq!(client.reply(), "ignored");
    last
}

#[test]
fn a_record_moves_cut_at_any_byte() {
    for version in [TLS12, TLS13] {
        for cut in CUTS {
            let servers = servers(6);
            let mut client = Client::connect(servers[0].address, version);
            let last = begin_record(&mut client, cut);
            servers.windows(2).for_each(|pair| assert_eq!(moves(&pair[0], &pair[1]), "nothing"));
            client.tls.sock.write_all(&last).expect("room");
            assert_eq!(client.reply(), "/target", "cut at {cut}");
        }
    }
}

#[test]
fn a_response_moves_in_its_middle_and_what_was_asked_behind_it_with_it() {
    let file = [&b"first"[..], &bytes(7..LARGE), b"end"].concat();
    for (version, path, expected) in
        [(TLS13, "/memory", bytes(0..LARGE)), (TLS12, "/memory", bytes(0..LARGE)), (TLS13, "/file", file)]
    {
        let servers = servers(5);
        let mut client = Client::connect(servers[0].address, version);
        let mut sealed = client.seal(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        sealed.extend(client.seal("GET /target HTTP/1.1\r\nHost: test\r\n\r\n"));
        let behind = client.seal("GET /ignore HTTP/1.1\r\nHost: test\r\n\r\n");
        sealed.extend_from_slice(&behind[..9]);
        client.tls.sock.write_all(&sealed).expect("room");
        let head = client.until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let mut body = Vec::new();
        for pair in servers.windows(2) {
            assert_eq!(moves(&pair[0], &pair[1]), "a response");
            body.extend(client.take(4 << 20));
        }
        body.extend(client.take(expected.len() - body.len()));
        assert!(body == expected, "{path}");
        assert_eq!(client.reply(), "/target");
        client.tls.sock.write_all(&behind[9..]).expect("room");
        assert_eq!(client.reply(), "ignored");
    }
}

#[test]
fn keys_are_updated_by_the_client_before_and_between_moves() {
    let servers = servers(4);
    let mut client = Client::connect(servers[0].address, TLS13);
    assert_eq!(client.get("/ignore"), "ignored");
    for pair in servers.windows(2) {
        client.tls.conn.refresh_traffic_keys().expect("TLS 1.3");
        client.send("");
        assert_eq!(client.get("/target"), "/target");
        client.tls.conn.refresh_traffic_keys().expect("TLS 1.3");
        client.send("");
        moves(&pair[0], &pair[1]);
        assert_eq!(client.get("/ignore"), "ignored");
    }
}

#[test]
fn a_stream_moves_between_two_steps_and_misses_none() {
    let servers = servers(4);
    let mut client = Client::connect(servers[0].address, TLS13);
    client.send("GET /count HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut lines = client.until("\r\n0\n");
    for (number, pair) in servers.windows(2).enumerate() {
        assert_eq!(moves(&pair[0], &pair[1]), "a response");
        lines += &client.until(&format!("{}\n", number + 1));
    }
    lines += &client.until("\r\n0\r\n\r\n");
    let body = lines.split_once("\r\n\r\n").expect("a head").1;
    let expected: String =
        (0..10).map(|number| format!("2\r\n{number}\n\r\n")).chain(["0\r\n\r\n".to_owned()]).collect();
    assert_eq!(body, expected);
}

#[test]
fn a_protocol_moves_and_loses_no_byte() {
    let servers = servers(4);
    let mut client = Client::connect(servers[0].address, TLS13);
    client.send("GET /echo-protocol HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert!(client.until("\r\n\r\n").starts_with("HTTP/1.1 101 "));
    for pair in servers.windows(2) {
        client.send("before");
        assert_eq!(client.take(6), b"before");
        let record = client.seal("half a record");
        client.tls.sock.write_all(&record[..10]).expect("room");
        assert_eq!(moves(&pair[0], &pair[1]), "a protocol");
        client.tls.sock.write_all(&record[10..]).expect("room");
        assert_eq!(client.take(13), b"half a record");
    }
}

#[test]
fn a_record_that_was_cut_and_taken_back_goes_on_where_it_was_and_moves_again() {
    for version in [TLS12, TLS13] {
        for cut in CUTS {
            let servers = servers(2);
            let mut client = Client::connect(servers[0].address, version);
            let last = begin_record(&mut client, cut);
            let drain = &servers[0].drain;
            drain.set_phase(Phase::Draining);
            let End::Parked(start) = servers[0].end() else { panic!("it does not park") };
            servers[0].resume(Start { declined: Some(drain.changes()), ..start });
            drain.set_phase(Phase::Serving);
            assert_eq!(moves(&servers[0], &servers[1]), "nothing", "cut at {cut}");
            client.tls.sock.write_all(&last).expect("room");
            assert_eq!(client.reply(), "/target", "cut at {cut}");
        }
    }
}

#[test]
fn whole_records_that_nobody_has_opened_move() {
    for version in [TLS12, TLS13] {
        let servers = servers(6);
        let mut client = Client::connect(servers[0].address, version);
        // The first is not answered to its end before it is read: what is behind it stays sealed.
        let mut sealed = client.seal("GET /memory HTTP/1.1\r\nHost: test\r\n\r\n");
        for _ in 0..20 {
            sealed.extend(client.seal("GET /target HTTP/1.1\r\n"));
            sealed.extend(client.seal("Host: test\r\n\r\n"));
        }
        client.tls.sock.write_all(&sealed).expect("room");
        client.until("\r\n\r\n");
        servers.windows(2).for_each(|pair| assert_eq!(moves(&pair[0], &pair[1]), "a response"));
        assert!(client.take(LARGE) == bytes(0..LARGE));
        for _ in 0..20 {
            assert_eq!(client.reply(), "/target");
        }
    }
}

#[test]
fn a_connection_that_nobody_takes_goes_on_where_it_is() {
    let old = server();
    let mut client = Client::connect(old.address, TLS13);
    client.send("GET /memory HTTP/1.1\r\nHost: test\r\n\r\n");
    client.until("\r\n\r\n");
    old.drain.set_phase(Phase::Draining);
    let End::Parked(start) = old.end() else { panic!("it does not park") };
    old.resume(Start { declined: Some(old.drain.changes()), ..start });
    assert!(client.take(LARGE) == bytes(0..LARGE));
    client.send("GET /ignore HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(client.until("\r\n\r\n").contains("connection: close"), "nobody takes it");
}

#[test]
fn what_is_shown_of_a_parked_connection_holds_no_secret() {
    let old = server();
    let mut client = Client::connect(old.address, TLS13);
    assert_eq!(client.get("/ignore"), "ignored");
    old.drain.set_phase(Phase::Draining);
    let end = format!("{:?}", old.end());
    let (_, security) = end.split_once("Established {").expect("it says that TLS is spoken");
    assert!(!security.contains("frozen") && !security.contains("unsent"), "{end}");
}
