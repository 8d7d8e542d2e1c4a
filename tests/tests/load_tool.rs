//! The load tool notices what it exists for: one lost request among good ones, one reset, one answer too many. Each
//! test plays a server that misbehaves exactly once and reads what the tool reports.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;
use tests::load::{Close, Failure, Limits, Load, Report, Upload};

/// What the fake server does with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Answer,
    AnswerChunked,
    AnswerAndAnnounceClose,
    AnswerAndCloseLater,
    AnswerAndResetLater,
    AnswerTwice,
    AnswerTheLastOneAgain,
    Unavailable,
    AnotherId,
    AnotherBody,
    NoHttp,
    HalfABody,
    HalfAHead,
    Close,
    Reset,
    Stick,
}

/// A server that answers as told: `act(n)` says what becomes of the n-th request, counted from 1 over all connections.
struct Fake {
    address: SocketAddr,
}

/// One request as the fake reads it.
struct Asked {
    id: String,
    body: Vec<u8>,
    is_last: bool,
}

impl Fake {
    fn start(act: impl Fn(u64) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (act, requests) = (Arc::new(act), Arc::new(AtomicU64::new(0)));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (act, requests) = (act.clone(), requests.clone());
                let next = move || act(requests.fetch_add(1, Ordering::Relaxed) + 1);
                thread::spawn(move || serve(&stream.unwrap(), next));
            }
        });
        Self { address }
    }

    /// Misbehaves at the fifth request, and only there.
    fn fifth(act: Act) -> Self {
        Self::start(move |n| if n == 5 { act } else { Act::Answer })
    }

    fn load(&self) -> Load {
        Load::new(self.address).at_most(Duration::from_secs(30))
    }

    /// One client, twenty requests.
    fn twenty(&self) -> Report {
        self.load().paced(1, 200).requests(20).run()
    }
}

fn read(reader: &mut impl BufRead) -> Option<Asked> {
    let mut asked = Asked { id: String::new(), body: Vec::new(), is_last: false };
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let (name, value) = line.trim_end().split_once(": ").unwrap_or_default();
        match name {
            "x-id" => value.clone_into(&mut asked.id),
            "content-length" => length = value.parse().unwrap(),
            "connection" => asked.is_last = value == "close",
            _ => {}
        }
        if line == "\r\n" {
            break;
        }
    }
    asked.body.resize(length, 0);
    reader.read_exact(&mut asked.body).ok()?;
    Some(asked)
}

fn answer(asked: &Asked) -> String {
    let id = &asked.id;
    let text = if asked.body.is_empty() { format!("id={id} \n").into_bytes() } else { asked.body.clone() };
    // The bodies of these tests are ASCII, so that answers can be put together as text.
    let (length, text) = (text.len(), String::from_utf8(text).unwrap());
    let close = if asked.is_last { "connection: close\r\n" } else { "" };
    format!(
        "HTTP/1.1 200 OK\r\nx-id: {id}\r\nx-pid: 77\r\nx-generation: 1\r\n{close}content-length: {length}\r\n\r\n{text}"
    )
}

fn serve(stream: &TcpStream, next: impl Fn() -> Act) {
    let mut reader = BufReader::new(stream);
    let mut last = String::new();
    while let Some(asked) = read(&mut reader) {
        let good = answer(&asked);
        let act = next();
        let bytes = match act {
            Act::Answer | Act::AnswerAndCloseLater | Act::AnswerAndResetLater => good.clone(),
            Act::AnswerChunked => {
                let (head, body) = good.split_once("\r\n\r\n").unwrap();
                let head = head.rsplit_once("\r\n").unwrap().0;
                format!("{head}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
            }
            Act::AnswerAndAnnounceClose => good.replace("x-pid", "connection: close\r\nx-pid"),
            Act::AnswerTwice => good.repeat(2),
            Act::AnswerTheLastOneAgain => last.clone(),
            Act::Unavailable => good.replace("200 OK", "503 Service Unavailable"),
            Act::AnotherId => answer(&Asked { id: "another".into(), body: vec![], is_last: false }),
            Act::AnotherBody => good.replace("id=", "ID="),
            Act::NoHttp => "cout\n".into(),
            Act::HalfABody => good[..good.len() - 3].to_owned(),
            Act::HalfAHead => good[..20].to_owned(),
            Act::Close | Act::Reset | Act::Stick => String::new(),
        };
        (&*stream).write_all(bytes.as_bytes()).unwrap();
        last = good;
        match act {
            // An answer that has arrived can be read although a reset came after it.
            Act::AnswerAndResetLater | Act::Reset => {
                set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
                return;
            }
            Act::Stick => {
                // Until the client gives up.
                let _end = reader.read(&mut [0]);
                return;
            }
            Act::HalfABody
            | Act::HalfAHead
            | Act::Close
            | Act::AnswerAndAnnounceClose
            | Act::AnswerAndCloseLater
            | Act::NoHttp => return,
            _ if asked.is_last => return,
            _ => {}
        }
    }
}

/// The report names exactly this failure, once, and the other requests were answered.
#[track_caller]
fn assert_one(report: &Report, failure: Failure) {
    assert_eq!(report.failures.clone().into_iter().collect::<Vec<_>>(), [(failure, 1)], "{report}");
    assert!(report.answered >= 19, "{report}");
    assert_eq!((report.lost.len(), report.closed_connections()), (1, 0), "{report}");
}

#[test]
fn a_server_without_fault_gets_a_report_without_failure() {
    let fake = Fake::start(|n| if n % 2 == 0 { Act::Answer } else { Act::AnswerChunked });
    let report = fake.load().paced(4, 400).new_connections(2).full_speed(2).requests(2000).run();
    report.assert_no_failure().assert_no_close();
    assert_eq!((report.answered, report.latency.count), (2000, 2000), "{report}");
    assert_eq!(report.pids[&77].answers, 2000, "{report}");
    assert!(report.clients.values().all(|client| client.answered > 0), "{report}");
}

#[test]
fn one_lost_request_is_noticed() {
    let report = Fake::fifth(Act::Close).twenty();
    assert_one(&report, Failure::ClosedBeforeAnswer);
    assert_eq!((report.failed_of(77), report.failed_of_nobody()), (1, 0), "{report}");
    assert_eq!((report.lost[0].answered_before, report.opened), (4, 2), "{report}");
}

#[test]
fn a_request_lost_on_a_fresh_connection_is_nobodys() {
    let report = Fake::start(|n| if n == 1 { Act::Close } else { Act::Answer }).twenty();
    assert_one(&report, Failure::ClosedBeforeAnswer);
    assert_eq!((report.failed_of(77), report.failed_of_nobody()), (0, 1), "{report}");
}

#[test]
fn one_reset_is_noticed() {
    assert_one(&Fake::fifth(Act::Reset).twenty(), Failure::ResetBeforeAnswer);
}

#[test]
fn one_duplicate_answer_is_noticed() {
    assert_one(&Fake::fifth(Act::AnswerTwice).twenty(), Failure::DuplicateAnswer);
    assert_one(&Fake::fifth(Act::AnswerTheLastOneAgain).twenty(), Failure::DuplicateAnswer);
}

#[test]
fn one_duplicate_answer_at_the_very_end_of_a_connection_is_noticed() {
    let fake = Fake::start(|n| if n == 20 { Act::AnswerTwice } else { Act::Answer });
    assert_one(&fake.twenty(), Failure::DuplicateAnswer);
    assert_one(&Fake::fifth(Act::AnswerTwice).load().new_connections(1).requests(20).run(), Failure::DuplicateAnswer);
}

#[test]
fn one_wrong_answer_is_noticed() {
    assert_one(&Fake::fifth(Act::AnotherId).twenty(), Failure::WrongAnswer);
    assert_one(&Fake::fifth(Act::AnotherBody).twenty(), Failure::WrongAnswer);
    assert_one(&Fake::fifth(Act::NoHttp).twenty(), Failure::WrongAnswer);
    assert_one(&Fake::fifth(Act::Unavailable).twenty(), Failure::BadStatus);
}

#[test]
fn one_truncated_answer_is_noticed() {
    assert_one(&Fake::fifth(Act::HalfABody).twenty(), Failure::Truncated);
    assert_one(&Fake::fifth(Act::HalfAHead).twenty(), Failure::Truncated);
}

#[test]
fn one_stuck_request_is_noticed() {
    let limits = Limits { answer: Duration::from_secs(3), ..Limits::default() };
    let report = Fake::fifth(Act::Stick).load().limits(limits).paced(1, 200).requests(20).run();
    assert_one(&report, Failure::Timeout);
}

#[test]
fn nobody_listening_is_noticed() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let report = Load::new(address).paced(1, 100).requests(3).run();
    assert_eq!((report.failed_by(Failure::ConnectRefused), report.answered), (3, 0), "{report}");
}

#[test]
fn a_full_backlog_is_noticed_as_a_connect_timeout() {
    // Nobody accepts, and a backlog of one is taken up by two connections of the test's own.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _taken = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let limits = Limits { connect: Duration::from_millis(100), ..Limits::default() };
    let report = Load::new(path).paced(1, 100).limits(limits).requests(2).run();
    assert_eq!((report.failed_by(Failure::ConnectTimeout), report.answered), (2, 0), "{report}");
}

#[test]
fn closes_are_told_from_failures_and_from_one_another() {
    for (act, close) in [
        (Act::AnswerAndCloseLater, Close::FinWhileIdle),
        (Act::AnswerAndResetLater, Close::ResetWhileIdle),
        (Act::AnswerAndAnnounceClose, Close::Announced),
    ] {
        let load = Fake::start(move |n| if n == 1 { act } else { Act::Answer }).load().idle(1).start();
        load.wait_until("the connection is reopened", |report| (report.opened, report.answered) == (2, 2));
        let report = load.stop();
        report.assert_no_failure();
        assert_eq!(report.closed.clone().into_iter().collect::<Vec<_>>(), [(close, 1)], "{report}");
        assert_eq!((report.opened, report.pids[&77].closed), (2, 1), "{report}");
    }
}

#[test]
fn a_holder_of_an_idle_connection_sees_its_close_at_once() {
    let fake = Fake::start(|n| if n == 1 { Act::AnswerAndCloseLater } else { Act::Answer });
    let load = fake.load().idle(1).start();
    load.wait_until("the connection is reopened", |report| (report.opened, report.answered) == (2, 2));
    let report = load.stop();
    report.assert_no_failure();
    assert_eq!((report.closed.get(&Close::FinWhileIdle), report.answered), (Some(&1), 3), "{report}");
}

#[test]
fn a_blind_client_loses_its_request_on_a_connection_closed_in_its_last_20_ms() {
    // The server closes at a random time after each answer, so that some closes fall into the blind time.
    let closing = Arc::new(Mutex::new(fastrand::Rng::with_seed(1)));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let closing = closing.clone();
            thread::spawn(move || {
                let stream = stream.unwrap();
                let asked = read(&mut BufReader::new(&stream)).unwrap();
                (&stream).write_all(answer(&asked).as_bytes()).unwrap();
                let after = Duration::from_millis(closing.lock().unwrap().u64(0..300));
                thread::sleep(after);
            });
        }
    });
    // One request in some 170 is hit: with 300 clients that is one a second.
    let load = Load::new(address).blind(300).at_most(Duration::from_secs(30)).start();
    let lost =
        |report: &Report| report.failed_by(Failure::ClosedBeforeAnswer) + report.failed_by(Failure::ResetBeforeAnswer);
    load.wait_until("a request is lost", |report| lost(report) > 0);
    let report = load.stop();
    assert_eq!(report.failed, lost(&report), "{report}");
    assert!(report.closed[&Close::FinWhileIdle] > 0, "{report}");
}

#[test]
fn uploads_come_back_byte_for_byte_or_are_noticed() {
    let upload = Upload { bytes: 6000, pieces: 15, over: Duration::from_millis(150) };
    // The fake's answers are text, so it sees to it that what it was sent isn't: a body that differs in one byte.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(&stream);
        for n in 1.. {
            let Some(mut asked) = read(&mut reader) else { return };
            if n == 3 {
                asked.body[5999] ^= 1;
            }
            let head = answer(&Asked { body: vec![b'a'; 6000], id: asked.id, is_last: false });
            let head = head.split_once("\r\n\r\n").unwrap().0;
            (&stream).write_all(&[head.as_bytes(), b"\r\n\r\n", &asked.body].concat()).unwrap();
            if n == 3 {
                return;
            }
        }
    });
    let report = Load::new(address).upload(1, upload).requests(3).run();
    assert_eq!((report.answered, report.failed_by(Failure::WrongAnswer)), (2, 1), "{report}");
    assert!(report.lost[0].detail.contains("differs at byte 5999 of 6000"), "{report}");
    assert!(report.clients.values().all(|client| client.latency.p50_us >= 150_000), "{report}");
}

#[test]
fn requests_around_a_marked_reload_are_measured_apart() {
    let load = Fake::start(|_| Act::Answer).load().paced(2, 200).start();
    assert!(load.wait_for_pid(77, Duration::from_secs(30)).is_some());
    assert!(load.wait_for_pid(78, Duration::ZERO).is_none());
    load.mark_reload();
    let before = load.report().answered;
    load.wait_until("the mark is long past", |report| report.answered > before + 200);
    let report = load.stop();
    let near = report.latency_near_reloads.count;
    assert!(report.marks == 1 && near > 0 && near < report.answered, "{report}");
    assert!(serde_json::to_value(&report).unwrap()["latency_near_reloads"]["count"].as_u64() == Some(near));
}
