//! What lasts in the demonstration, and the clients that look after it: they find nothing where nothing is wrong, and every
//! wrong byte, every gap and every close where a server does it once.

#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use smol::block_on;
use tests::{
    Reborn,
    load::{Chat, Class, Download, EventStream, FaultKind, Limits, Load, Target, pattern},
};

/// The length of what is downloaded.
const LENGTH: u64 = 1_000_003;

fn limits() -> Limits {
    Limits { answer: Duration::from_secs(5), ..Limits::default() }
}

#[test]
fn downloads_event_streams_and_chats_go_on_where_nothing_happens() {
    let reborn = Reborn::new().demo().args(["--root", "."]);
    pattern::write_file(&reborn.folder().join("pattern"), LENGTH).unwrap();
    let server = reborn.start();
    let over = Duration::from_millis(300);
    let file = Download::file("/pattern", LENGTH, over);
    let load = server.load().downloads(2, Download::bytes(LENGTH, over)).downloads(2, file.clone());
    let load = load.downloads(2, file.clone().ranges(std::iter::once(5..LENGTH)));
    let load = load.downloads(2, file.ranges([7..300_000, 400_001..400_002, 500_000..LENGTH]));
    let load = load.events(3, Duration::from_millis(10)).chats(3).start();
    let finished = |count| {
        load.wait_until("downloads have come to their end", |report| {
            report.assert_no_fault();
            report.classes.get(&Class::Download).is_some_and(|class| class.finished >= count)
        })
    };
    finished(8);
    load.mark_reload();
    let report = finished(16);
    assert!(report.time >= over, "a download keeps its pace\n{report}");
    let report = load.stop();
    report.assert_no_fault();
    assert_eq!([Class::Events, Class::Chat].map(|class| report.classes[&class].went_on), [3, 3], "{report}");
    server.assert_no_error();
}

#[test]
fn an_event_stream_and_a_chat_are_one_connection_each() {
    let server = Reborn::new().demo().start();
    let target = Target::Tcp(server.address());
    block_on(async {
        let mut stream = EventStream::open(&target, Duration::from_millis(20), limits()).await.unwrap();
        let mut chat = Chat::open(&target, limits()).await.unwrap();
        for id in 1..20 {
            let event = stream.next().await.unwrap();
            assert_eq!((event.id, event.generation, event.pid), (id, 1, server.pid()));
            chat.say(&format!("message {id}")).await.unwrap();
            chat.say_in_halves(&"ü".repeat(10_000), Duration::from_millis(1)).await.unwrap();
        }
        assert_eq!((chat.said(), stream.last().unwrap().id), (38, 19));
    });
}

#[test]
fn a_stop_says_goodbye_to_a_chat() {
    let server = Reborn::new().demo().start();
    let target = Target::Tcp(server.address());
    block_on(async {
        let mut chat = Chat::open(&target, limits()).await.unwrap();
        chat.say("hello").await.unwrap();
        let stop = server.stop_in_background();
        let fault = loop {
            // A message may still be answered before the stop has begun.
            if let Err(fault) = chat.say("still there?").await {
                break fault;
            }
        };
        assert_eq!(fault.kind, FaultKind::Closed);
        assert!(fault.detail.contains("the server stops"), "{fault:?}");
        drop(chat);
        stop.join().unwrap().assert_success();
    });
}

/// A server that plays one scene with each connection, after the head of its request.
fn fake(scene: impl Fn(TcpStream) + Send + Sync + 'static) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            scene(stream.unwrap());
        }
    });
    Target::Tcp(address)
}

/// A server that answers with these bytes, and closes.
fn answering(answer: Vec<u8>) -> Target {
    fake(move |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
            head.push(byte[0]);
        }
        stream.write_all(&answer).unwrap();
    })
}

fn content(length: u64) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    pattern::write_file(&folder.path().join("pattern"), length).unwrap();
    std::fs::read(folder.path().join("pattern")).unwrap()
}

#[test]
fn a_download_notices_one_wrong_byte_and_an_early_end() {
    let download = |body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
        let target = answering([head.as_bytes(), body].concat());
        block_on(Download::bytes(LENGTH, Duration::ZERO).run(&target, limits()))
    };
    let mut body = content(LENGTH);
    assert_eq!(download(&body), Ok(()));
    assert_eq!(download(&body[..body.len() - 1]).unwrap_err().kind, FaultKind::Closed);
    body[777_777] ^= 1;
    let fault = download(&body).unwrap_err();
    assert!(fault.kind == FaultKind::Wrong && fault.detail.contains("byte 777777 "), "{fault:?}");
    let swapped = [&content(LENGTH)[8..], &[0; 8]].concat();
    assert_eq!(download(&swapped).unwrap_err().kind, FaultKind::Wrong);
}

#[test]
fn a_download_in_parts_notices_one_that_is_missing_or_is_another_one() {
    let parts = [0..10, 20..30, 40..50];
    let download = |names: [&str; 3], last: &str| {
        let bytes = content(100);
        let part = |name: &str, range: std::ops::Range<usize>| {
            let head = format!("\r\n--b\r\nContent-Type: a\r\nContent-Range: bytes {name}/100\r\n\r\n");
            [head.as_bytes(), &bytes[range]].concat()
        };
        let mut body = part(names[0], 0..10);
        body.extend(part(names[1], 20..30));
        body.extend(part(names[2], 40..50));
        body.extend_from_slice(last.as_bytes());
        let kind = "content-type: multipart/byteranges; boundary=b";
        let head = format!("HTTP/1.1 206 OK\r\n{kind}\r\ncontent-length: {}\r\n\r\n", body.len());
        let target = answering([head.into_bytes(), body].concat());
        let file = Download::file("/pattern", 100, Duration::ZERO).ranges(parts.clone());
        block_on(file.run(&target, limits())).map_err(|fault| fault.kind)
    };
    let end = "\r\n--b--\r\n";
    assert_eq!(download(["0-9", "20-29", "40-49"], end), Ok(()));
    for (names, end) in [
        (["0-9", "20-29", "40-48"], end),
        (["0-9", "40-49", "20-29"], end),
        (["0-9", "20-29", "40-49"], "\r\n--b\r\n"),
        (["0-9", "20-29", "40-49"], "\r\n--b--\r\nmore"),
    ] {
        assert_eq!(download(names, end), Err(FaultKind::Wrong), "{names:?} {end:?}");
    }
}

#[test]
fn an_event_stream_notices_a_gap_a_return_and_an_end() {
    let hear = |events: &[(u64, u64)], end: &str| {
        let mut answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n".to_owned();
        answer.push_str("transfer-encoding: chunked\r\n\r\n");
        for (id, generation) in events {
            let event = format!("id: {id}\ndata: generation={generation} pid=7\n\n");
            // Two chunks, cut in the middle of the event.
            let (one, two) = event.split_at(5);
            answer.push_str(&format!("{:x}\r\n{one}\r\n{:X}\r\n{two}\r\n", one.len(), two.len()));
        }
        answer.push_str(end);
        let target = answering(answer.into_bytes());
        block_on(async {
            let mut stream = EventStream::open(&target, Duration::ZERO, limits()).await.unwrap();
            loop {
                if let Err(fault) = stream.next().await {
                    return (stream.last().map_or(0, |event| event.id), fault.kind);
                }
            }
        })
    };
    assert_eq!(hear(&[(1, 1), (2, 1), (3, 2)], "0\r\n\r\n"), (3, FaultKind::Closed));
    assert_eq!(hear(&[(1, 1), (2, 1)], ""), (2, FaultKind::Closed));
    assert_eq!(hear(&[(1, 1), (3, 1)], ""), (1, FaultKind::Gap));
    assert_eq!(hear(&[(1, 1), (1, 1)], ""), (1, FaultKind::Gap));
    assert_eq!(hear(&[(1, 2), (2, 1)], ""), (1, FaultKind::Wrong));
    assert_eq!(hear(&[(1, 1)], "zz\r\n"), (1, FaultKind::Wrong));
}

#[test]
fn a_chat_notices_a_message_that_was_lost_counted_twice_or_changed() {
    let chat = |answers: [&'static str; 2]| {
        let target = fake(move |stream| {
            let mut server = tungstenite::accept(stream).unwrap();
            for answer in answers {
                server.read().unwrap();
                server.send(tungstenite::Message::text(answer)).unwrap();
            }
        });
        block_on(async {
            let mut chat = Chat::open(&target, limits()).await.unwrap();
            chat.say("a").await.unwrap();
            let second = chat.say_in_halves("b", Duration::ZERO).await.map_err(|fault| fault.kind);
            second.and(chat.say("c").await.map_err(|fault| fault.kind))
        })
    };
    assert_eq!(chat(["1: a", "2: b"]), Err(FaultKind::Closed), "at the third message");
    assert_eq!(chat(["1: a", "1: b"]), Err(FaultKind::Gap));
    assert_eq!(chat(["1: a", "3: b"]), Err(FaultKind::Gap));
    assert_eq!(chat(["1: a", "2: c"]), Err(FaultKind::Wrong));
}

#[test]
fn a_load_counts_the_faults_of_each_class_and_opens_other_connections() {
    let target = answering(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec());
    let load = Load::new(target).downloads(1, Download::bytes(10, Duration::ZERO)).events(1, Duration::ZERO).chats(1);
    let load = load.start();
    let report = load.wait_until("each has lost two connections", |report| {
        report.classes.len() == 3 && report.classes.values().all(|class| class.faults.values().sum::<u64>() > 1)
    });
    for class in report.classes.values() {
        assert_eq!((class.finished, class.went_on), (0, 0), "{report}");
        assert_eq!(class.faults.keys().collect::<Vec<_>>(), [&FaultKind::Refused], "{report}");
    }
    assert!(report.faults[0].detail.contains("status 503"), "{report}");
}
