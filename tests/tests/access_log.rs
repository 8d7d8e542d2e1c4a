//! The access log: each request stands in it once, whatever happens to the process that answered it, and nothing about
//! it costs a request.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use serde_json::Value;
use smol::block_on;
use tests::{
    Ended, Reborn, Server, Signal,
    load::{Connection, Limits, Look, Request, Target},
    skip::skip,
};

/// A server with an access log, and the path of that.
fn logging(format: &str) -> (Reborn, PathBuf) {
    let reborn = Reborn::new().demo().probation_ms(0);
    let path = reborn.folder().join("access.log");
    (reborn.arg("--access-log").arg(&path).arg(format!("--access-log-format={format}")), path)
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn wait_lines(server: &Server, path: &PathBuf, count: usize) -> String {
    let mut text = String::new();
    server.wait_until(&format!("{} has {count} lines", path.display()), |_| {
        text = fs::read_to_string(path).unwrap_or_default();
        text.lines().count() >= count
    });
    text
}

#[test]
fn every_request_stands_in_the_log_once_through_reloads_under_load() {
    let (reborn, path) = logging("json");
    let server = reborn.start();
    let load = server.load().full_speed(4).paced(8, 200).new_connections_paced(2, 50).start();
    for _ in 0..5 {
        server.reload_ok();
    }
    let report = load.stop();
    report.assert_no_failure();
    server.stop();
    let mut lines: BTreeMap<u64, u64> = BTreeMap::new();
    for object in objects(&fs::read_to_string(&path).unwrap()) {
        assert_eq!((&object["status"], &object["target"]), (&Value::from(200), &Value::from("/fast")), "{object}");
        *lines.entry(object["pid"].as_u64().unwrap()).or_default() += 1;
    }
    let answers: BTreeMap<_, _> = report.pids.iter().map(|(pid, report)| (u64::from(*pid), report.answers)).collect();
    assert_eq!(lines, answers, "lines and answers of each process");
    assert!(!server.log().contains("access log"), "{}", server.log());
}

#[test]
fn the_last_lines_before_an_end_are_written() {
    let (reborn, path) = logging("common");
    let server = reborn.start();
    let mut connection = server.connect();
    for round in 1..=3 {
        block_on(connection.exchange(&Request::fast(format!("{round}")))).unwrap();
        let (old, _) = (server.pid(), server.reload_ok());
        assert_eq!(server.wait_end(old), Ended::Code(0));
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), round, "a line waits at most until its process ends: {text}");
    }
    block_on(connection.exchange(&Request::fast("last"))).unwrap();
    server.stop();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 4);
}

#[test]
fn a_request_that_outlasts_the_drain_is_logged_as_cut_and_costs_no_line_of_those_before() {
    let (reborn, path) = logging("common");
    let server = reborn.args(["--drain-timeout", "3s"]).start();
    let mut cut = server.connect();
    block_on(cut.send(Request::slow("cut", Duration::from_secs(60)).head().as_bytes())).unwrap();
    let mut busy = server.connect();
    block_on(busy.send(Request::slow("busy", Duration::from_millis(200)).head().as_bytes())).unwrap();
    server.wait_until("both requests have begun", |server| server.status()["connections"] == 2);
    let (old, _) = (server.pid(), server.reload_ok());
    let answer = block_on(busy.answer()).unwrap();
    server.wait_end(old);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!((answer.status, text.matches("/slow?ms=200 ").count()), (200, 1), "{text}");
    assert!(block_on(cut.answer()).is_err(), "it was cut");
    assert_eq!(text.matches("GET /slow?ms=60000 HTTP/1.1\" 499 -\n").count(), 1, "which is logged as well: {text}");
}

#[test]
fn a_response_that_the_deadline_cuts_is_told_from_one_whose_client_left() {
    let (reborn, path) = logging("json");
    let server = reborn.args(["--drain-timeout", "2s"]).start();
    let (cut, left) = (server.connect(), server.connect());
    for (connection, number) in [(&cut, 1), (&left, 2)] {
        // The body of an upload that is never whole holds the response in its process.
        let head = format!("POST /echo?{number} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nbegun");
        block_on(connection.send(head.as_bytes())).unwrap();
        assert!(matches!(block_on(connection.changed()), Look::Bytes(_)), "the response has begun");
    }
    let old = server.pid();
    server.reload_ok();
    drop(left);
    assert_eq!(server.wait_end(old), Ended::Code(0));
    let lines = objects(&fs::read_to_string(&path).unwrap());
    let line = |of: &str| lines.iter().find(|line| text(&line["target"]).ends_with(of)).expect("it is logged");
    for (of, is_cut) in [("1", true), ("2", false)] {
        let line = line(of);
        let told = [&line["status"], &line["body_bytes"], &line["complete"], &line["cut"]];
        assert_eq!(told, [&Value::from(200), &5.into(), &false.into(), &is_cut.into()], "{line}");
    }
}

#[test]
fn a_renamed_file_is_followed_by_a_new_one_at_the_reload() {
    let (reborn, path) = logging("common");
    let server = reborn.start();
    let mut slow = server.connect();
    block_on(slow.send(Request::slow("old", Duration::from_millis(500)).head().as_bytes())).unwrap();
    server.ask();
    wait_lines(&server, &path, 1);
    let rotated = path.with_extension("1");
    fs::rename(&path, &rotated).unwrap();
    server.ask();
    wait_lines(&server, &rotated, 2);
    let old = server.pid();
    server.reload_ok();
    server.ask();
    assert!(wait_lines(&server, &path, 1).contains("GET /fast HTTP/1.1"));
    assert_eq!(block_on(slow.answer()).unwrap().status, 200);
    server.wait_end(old);
    assert!(fs::read_to_string(&rotated).unwrap().contains("/slow?ms=500"), "the old process keeps to the old file");
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
}

#[test]
fn a_renamed_file_is_followed_by_a_new_one_without_a_reload() {
    let (reborn, path) = logging("common");
    let server = reborn.start();
    let old = path.with_extension("old");
    server.ask();
    wait_lines(&server, &path, 1);
    fs::rename(&path, &old).unwrap();
    server.signal(Signal::USR1);
    server.wait_until("the new file is there, without a request", |_| path.exists());
    server.ask();
    wait_lines(&server, &path, 1);
    // Nobody says a word, as with `truncate` or an administrator's `rm`.
    fs::remove_file(&path).unwrap();
    server.wait_until("it is noticed", |server| {
        server.ask();
        path.exists()
    });
    assert_eq!((server.generation(), fs::read_to_string(&old).unwrap().lines().count()), (1, 1));
    assert!(server.log().contains("is opened anew"), "{}", server.log());
}

#[test]
fn logrotate_with_the_packages_file_loses_no_line() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/debian/logrotate");
    let config = fs::read_to_string(config).unwrap();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/README.md")).unwrap();
    assert!(page.contains(&format!("```text\n{config}```\n")), "the page shows another file");
    if Command::new("logrotate").arg("--version").output().is_err() {
        return skip("there is no logrotate (Debian package logrotate)");
    }
    let (reborn, path) = logging("combined");
    let server = reborn.start();
    let folder = server.folder().to_owned();
    let config = config.replace("/var/log/reborn/access.log", path.to_str().unwrap());
    let signals = config.lines().filter(|line| line.contains("systemctl kill")).count();
    assert_eq!(signals, 3);
    let told = format!("kill -USR1 $(cat {}); true", server.pid_file().display());
    let config: Vec<_> =
        config.lines().map(|line| if line.contains("systemctl kill") { &*told } else { line }).collect();
    fs::write(folder.join("logrotate"), config.join("\n") + "\n").unwrap();
    for rotation in 1..=3 {
        server.ask();
        wait_lines(&server, &path, 1);
        let logrotate = ["--force", "--state", "state", "logrotate"];
        let output = Command::new("logrotate").args(logrotate).current_dir(&folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        server.wait_until("the new file is there", |_| path.exists());
        assert_eq!(fs::read_to_string(path.with_extension("log.1")).unwrap().lines().count(), 1, "{rotation}");
    }
    assert_eq!(server.generation(), 1);
}

#[test]
fn a_log_that_reaches_its_limit_costs_lines_and_few_warnings() {
    let (reborn, path) = logging("common");
    // In blocks of 512 bytes.
    let server = reborn.prelude("ulimit -f 1").start();
    server.wait_until("the file is full and lines are lost", |server| {
        server.ask();
        server.log().contains("cannot be written to: File too large")
    });
    for _ in 0..200 {
        server.ask();
    }
    assert_eq!(server.pid(), server.first_pid());
    assert!(path.metadata().unwrap().len() <= 512);
    server.stop().assert_success();
    let said: Vec<u64> = server
        .log()
        .lines()
        .filter_map(|line| line.split_once("] ")?.1.split_once(" lines of the access log are lost")?.0.parse().ok())
        .collect();
    assert!(said.len() <= 5 && said.iter().sum::<u64>() >= 200, "{}", server.log());
}

#[test]
fn a_connection_that_moves_is_logged_with_its_own_address_and_listener() {
    let (reborn, path) = logging("json");
    let local = reborn.folder().join("local.sock");
    let reborn = reborn.listen(&format!("local=unix:{}", local.display()));
    let server = reborn.start();
    let mut tcp = server.connect();
    let mut unix = block_on(Connection::open(&Target::Unix(local), Limits::default())).unwrap();
    for round in ["one", "two"] {
        for connection in [&mut tcp, &mut unix] {
            block_on(connection.exchange(&Request::fast(round))).unwrap();
        }
        if round == "one" {
            server.reload_ok();
            server.wait_single();
        }
    }
    let port = tcp.port().unwrap();
    server.stop();
    let lines = objects(&fs::read_to_string(&path).unwrap());
    let mut told: Vec<_> = lines.iter().map(|line| (line["generation"].as_u64(), text(&line["listener"]))).collect();
    // Two connections' lines come in either order.
    told.sort_unstable();
    assert_eq!(told, [(Some(1), "http"), (Some(1), "local"), (Some(2), "http"), (Some(2), "local")]);
    for line in &lines {
        match text(&line["listener"]) {
            "http" => assert!(text(&line["peer"]).ends_with(&format!(":{port}")), "{line}"),
            _ => assert_eq!(line["peer"], Value::Null),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[test]
fn refused_requests_are_logged_and_cannot_forge_a_line() {
    let (reborn, path) = logging("common");
    let server = reborn.args(["--head-timeout", "200ms"]).start();
    let cases: [(&[u8], &str); 4] = [
        (b"GET /\"\x01\xff HTTP/1.1\r\nhost: a\r\n\r\n", "\"GET /\\x22\\x01\\xFF HTTP/1.1\" 400 "),
        (b"GET /late", "\"GET /late\" 408 "),
        (b"GET / HTTP/9.9\r\n\r\n", "\"GET / HTTP/9.9\" 505 "),
        (b"\x16\x03\x01", "\"\\x16\\x03\\x01\" 400 "),
    ];
    for (count, (request, expected)) in cases.into_iter().enumerate() {
        let mut connection = server.connect();
        block_on(connection.send(request)).unwrap();
        block_on(connection.answer()).unwrap();
        let text = wait_lines(&server, &path, count + 1);
        assert!(text.lines().last().unwrap().contains(expected), "{text}");
    }
}

#[test]
fn a_log_that_cannot_be_opened_fails_the_reload_and_nothing_else() {
    let reborn = Reborn::new().demo();
    let folder = reborn.folder().join("logs");
    fs::create_dir(&folder).unwrap();
    let server = reborn.arg("--access-log").arg(folder.join("access.log")).start();
    fs::rename(&folder, folder.with_extension("away")).unwrap();
    server.reload().assert_code(1).assert_stderr("--access-log");
    server.ask();
    fs::rename(folder.with_extension("away"), &folder).unwrap();
    server.reload_ok();
}

#[test]
fn a_reader_that_does_not_read_costs_lines_that_are_counted_and_no_request() {
    const REQUESTS: usize = 6_000;
    const PIPELINED: usize = 20;
    let reborn = Reborn::new().demo().probation_ms(0).args(["--access-log-format", "json"]);
    let fifo = reborn.folder().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let reader = OpenOptions::new().read(true).custom_flags(flags).open(&fifo).unwrap();
    let server = reborn.arg("--access-log").arg(&fifo).start();
    // Each is worth two kilobytes of log, all of them more than the queue and the pipe hold.
    let head = format!("GET /fast?{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(2_000));
    let mut connection = server.connect();
    for _ in 0..REQUESTS / PIPELINED {
        block_on(connection.send(head.repeat(PIPELINED).as_bytes())).unwrap();
        for _ in 0..PIPELINED {
            assert_eq!(block_on(connection.answer()).unwrap().status, 200);
        }
    }
    drop(reader);
    let told = |line: &str| -> Option<usize> {
        line.split_once("] ")?.1.split_once(" lines of the access log are lost")?.0.parse().ok()
    };
    let mut lost = 0;
    server.wait_until("the loss is said", |server| {
        lost = server.log().lines().filter_map(told).sum();
        lost > 1_000
    });
    assert!(lost <= REQUESTS, "{lost}: {}", server.log());
}

#[test]
fn the_log_may_go_to_standard_error_and_to_a_device() {
    for place in ["-", "/dev/stdout"] {
        let server = Reborn::new().demo().args(["--access-log", place]).start();
        server.ask();
        server.reload_ok();
        server.ask();
        server.stop();
        let text = if place == "-" { server.log() } else { server.stdout() };
        assert_eq!(text.matches("\"GET /fast HTTP/1.1\" 200 ").count(), 2, "{place}: {text}");
    }
}
