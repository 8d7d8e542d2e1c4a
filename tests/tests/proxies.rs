//! Behind proxies: whose each request is stands in the log and counts for the bounds, through reloads; and nobody but a
//! trusted proxy is believed.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use smol::block_on;
use tests::load::{Answer, Connection, Limits, Look, Request, Target};
use tests::skip::skip;
use tests::{DEADLINE, Ended, Reborn, Server, Talking};

/// Where clients on this machine come from, unless they choose.
const PROXY: &str = "127.0.0.1";

/// A server with an access log in JSON that trusts proxies at [`PROXY`].
fn behind_a_proxy() -> (Reborn, PathBuf) {
    let reborn = Reborn::new().demo().probation_ms(0);
    let log = reborn.folder().join("access.log");
    let reborn = reborn.arg("--access-log").arg(&log).args(["--access-log-format", "json", "--trusted-proxy", PROXY]);
    (reborn, log)
}

fn request(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: inner\r\n{lines}\r\n")
}

fn ask(connection: &mut Connection, target: &str, lines: &str) -> Answer {
    block_on(connection.send(request(target, lines).as_bytes())).unwrap();
    block_on(connection.answer()).unwrap()
}

/// The line of the log about this target, once it is there.
fn logged(server: &Server, log: &Path, target: &str) -> Value {
    let mut found = None;
    server.wait_until(&format!("{target} is logged"), |_| {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines = text.lines().filter(|line| line.ends_with('}'));
        let mut lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        found = lines.find(|line| line["target"] == target);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn the_client_that_a_trusted_proxy_names_is_logged_and_nobody_else_is_believed() {
    let (reborn, log) = behind_a_proxy();
    let server = reborn.start();
    let mut proxy = server.connect();
    let lines = "X-Forwarded-For: 203.0.113.9, 203.0.113.7\r\nX-Forwarded-Host: example.org\r\n";
    ask(&mut proxy, "/fast?usual", lines);
    let line = logged(&server, &log, "/fast?usual");
    assert_eq!([&line["peer"], &line["host"]], ["203.0.113.7", "example.org"]);
    assert!(line["proxy"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    ask(&mut proxy, "/fast?standard", "Forwarded: for=\"[2001:db8::7]:47\";host=example.net;proto=https\r\n");
    let line = logged(&server, &log, "/fast?standard");
    assert_eq!([&line["peer"], &line["host"]], ["[2001:db8::7]:47", "example.net"]);
    ask(&mut proxy, "/fast?own", "");
    let line = logged(&server, &log, "/fast?own");
    assert_eq!([&line["host"], &line["proxy"]], [&Value::from("inner"), &Value::Null], "what was told before is over");
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    let source = Some(IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9)));
    let target = Target::Tcp(server.address());
    let mut client = block_on(Connection::open_from(&target, source, Limits::default())).unwrap();
    ask(&mut client, "/fast?liar", lines);
    let line = logged(&server, &log, "/fast?liar");
    assert!(line["peer"].as_str().unwrap().starts_with("127.9.9.9:"), "{line}");
    assert_eq!([&line["host"], &line["proxy"]], [&Value::from("inner"), &Value::Null]);
    assert_eq!(ask(&mut client, "/fast", "Forwarded: for=\"open\r\n").status, 200, "it is a header like any other");
    assert_eq!(ask(&mut proxy, "/fast", "Forwarded: for=\"open, for=203.0.113.7\r\n").status, 400);
}

#[test]
fn who_is_trusted_is_the_newest_configurations_matter_on_connections_that_moved_as_well() {
    let reborn = Reborn::new().demo().probation_ms(0);
    let (log, file) = (reborn.folder().join("access.log"), reborn.folder().join("reborn.toml"));
    fs::write(&file, "trusted-proxy = [\"unix\", \"127.0.0.0/8\"]\n").unwrap();
    let reborn = reborn.arg("--config").arg(&file).arg("--access-log").arg(&log).args(["--access-log-format", "json"]);
    let socket = reborn.folder().join("web.sock");
    let server = reborn.listen(&format!("local=unix:{}", socket.display())).start();
    let unix = block_on(Connection::open(&Target::Unix(socket), Limits::default())).unwrap();
    let mut connections = [server.connect(), unix];
    for (round, expected) in [("one", "203.0.113.7"), ("two", "")] {
        for (number, connection) in connections.iter_mut().enumerate() {
            let target = format!("/fast?{round}-{number}");
            ask(connection, &target, "X-Forwarded-For: 203.0.113.7\r\n");
            let peer = logged(&server, &log, &target)["peer"].as_str().unwrap_or_default().to_owned();
            let is_own = peer.starts_with("127.0.0.1:") || peer.is_empty();
            assert!(peer == expected || expected.is_empty() && is_own, "{target}: {peer}");
        }
        fs::write(&file, "trusted-proxy = \"192.0.2.1\"\n").unwrap();
        server.reload_ok();
    }
}

#[test]
fn a_response_that_moves_is_logged_with_the_client_that_its_proxy_has_named() {
    let (reborn, log) = behind_a_proxy();
    let server = reborn.start();
    let mut proxy = server.connect();
    let lines = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Host: example.org\r\n";
    block_on(proxy.send(request("/bytes?n=50000000", lines).as_bytes())).unwrap();
    assert!(matches!(block_on(proxy.changed()), Look::Bytes(_)));
    let old = server.pid();
    server.reload_ok();
    assert_eq!(server.wait_end(old), Ended::Code(0));
    assert_eq!(block_on(proxy.answer()).unwrap().status, 200);
    let line = logged(&server, &log, "/bytes?n=50000000");
    assert_eq!([&line["peer"], &line["host"]], ["203.0.113.7", "example.org"]);
    assert_eq!((line["generation"].as_u64(), &line["complete"]), (Some(2), &Value::from(true)));
    assert!(line["proxy"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
}

#[test]
fn requests_of_a_proxy_count_for_their_clients_and_its_connections_for_nobody() {
    let (reborn, _) = behind_a_proxy();
    let server = reborn.args(["--connections-per-client", "2"]).start();
    let mut proxies: Vec<_> = (0..5).map(|_| server.connect()).collect();
    let (busy, free) = proxies.split_at_mut(2);
    for connection in busy.iter_mut() {
        let slow = request("/slow?ms=700", "X-Forwarded-For: 203.0.113.7\r\n");
        block_on(connection.send(slow.as_bytes())).unwrap();
    }
    server.wait_until("both requests have begun", |server| server.status()["application"]["in_flight"] == 2);
    let third = ask(&mut free[0], "/fast", "X-Forwarded-For: 203.0.113.7\r\n");
    assert_eq!((third.status, third.header("retry-after")), (429, Some("1")));
    assert_eq!(ask(&mut free[0], "/fast", "X-Forwarded-For: 203.0.113.8\r\n").status, 200, "the connection goes on");
    for connection in busy.iter_mut() {
        assert_eq!(block_on(connection.answer()).unwrap().status, 200);
    }
    assert_eq!(ask(&mut free[0], "/fast", "X-Forwarded-For: 203.0.113.7\r\n").status, 200, "they are over");
}

#[test]
fn what_a_proxy_has_taken_by_https_is_not_sent_there_again() {
    let (reborn, _) = behind_a_proxy();
    let server = reborn.listen("https=127.0.0.1:0").args(["--tls-self-signed", "--redirect-https"]).start();
    let mut proxy = server.connect();
    assert_eq!(ask(&mut proxy, "/fast", "X-Forwarded-Proto: https\r\n").status, 200);
    assert_eq!(ask(&mut proxy, "/fast", "Forwarded: for=203.0.113.7;proto=https\r\n").status, 200);
    assert_eq!(ask(&mut proxy, "/fast", "X-Forwarded-Proto: http\r\n").status, 308);
}

#[test]
fn hsts_is_said_where_a_trusted_proxy_speaks_https_and_on_nobody_elses_word() {
    let (reborn, _) = behind_a_proxy();
    // Without a certificate: nobody but the proxy speaks HTTPS.
    let server = reborn.args(["--hsts", "1h"]).start();
    let said = |answer: Answer| answer.header("strict-transport-security").map(str::to_owned);
    let expected = Some("max-age=3600".to_owned());
    let mut proxy = server.connect();
    assert_eq!(said(ask(&mut proxy, "/fast", "X-Forwarded-Proto: https\r\n")), expected);
    assert_eq!(said(ask(&mut proxy, "/missing", "Forwarded: for=203.0.113.7;proto=https\r\n")), expected);
    assert_eq!(said(ask(&mut proxy, "/fast", "X-Forwarded-Proto: http\r\n")), None);
    assert_eq!(said(ask(&mut proxy, "/fast", "")), None, "what was told before is over");
    let source = Some(IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9)));
    let target = Target::Tcp(server.address());
    let mut client = block_on(Connection::open_from(&target, source, Limits::default())).unwrap();
    assert_eq!(said(ask(&mut client, "/fast", "X-Forwarded-Proto: https\r\n")), None, "it is a header like any other");
}

/// The address of a listener.
fn address(server: &Server, name: &str) -> String {
    let status = server.status();
    let listeners = status["listeners"].as_array().unwrap();
    let listener = listeners.iter().find(|listener| listener["name"] == name).unwrap();
    listener["address"].as_str().unwrap().trim_start_matches("unix:").to_owned()
}

const VERSION_1: &str = r"b'PROXY TCP4 203.0.113.7 192.0.2.2 4711 443\r\n'";
/// The same in version 2, with a checksum's place and an id of the connection behind the addresses.
const VERSION_2: &str =
    r"b'\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x11\xcb\x00\x71\x07\xc0\x00\x02\x02\x12\x67\x01\xbb\x05\x00\x02id'";

#[test]
fn a_proxy_header_names_the_client_of_a_connection_plain_or_with_tls_behind_it_through_reloads() {
    if Command::new("python3").args(["-c", "import ssl"]).status().is_ok_and(|status| !status.success()) {
        return skip("there is no python3");
    }
    let (reborn, log) = behind_a_proxy();
    let socket = reborn.folder().join("web.sock");
    let reborn =
        reborn.listen("web=127.0.0.1:0").listen("https=[::1]:0").listen(&format!("local={}", socket.display()));
    let listeners = ["web", "https", "local"];
    let flags = listeners.iter().flat_map(|name| ["--proxy-protocol", name]);
    let server =
        reborn.args(flags).args(["--trusted-proxy", "unix", "--trusted-proxy", "::1", "--tls-self-signed"]).start();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/proxy_client.py");
    let mut clients: Vec<_> = listeners
        .iter()
        .flat_map(|name| [VERSION_1, VERSION_2].map(|header| (name, header)))
        .map(|(name, header)| {
            let kind = if *name == "https" { "tls" } else { "plain" };
            Talking::start(Command::new("python3").arg(&source).args([&address(&server, name), header, kind]))
        })
        .collect();
    for generation in 1..=3 {
        for (number, client) in clients.iter_mut().enumerate() {
            let name = format!("{generation}-{number}");
            client.answers(&name, &format!("http/1.1 200 ok x-generation: {generation}"));
            let line = logged(&server, &log, &format!("/fast?{name}"));
            assert_eq!(line["peer"], "203.0.113.7:4711", "{line}");
            assert_eq!(line["tls"].is_null(), number / 2 != 1, "{line}");
        }
        server.reload_ok();
    }
    assert!(!server.log().contains("PROXY header"), "{}", server.log());
    server.assert_no_error();
}

/// What comes of a connection from there that begins with these bytes: whether it is closed, and what is logged.
fn begun(server: &Server, source: Ipv4Addr, bytes: &[u8]) -> Option<Look> {
    let target = Target::Tcp(address(server, "web").parse().unwrap());
    let limits = Limits { answer: DEADLINE, ..Limits::default() };
    let mut connection = block_on(Connection::open_from(&target, Some(source.into()), limits)).unwrap();
    // It may be closed before.
    let _ = block_on(connection.send(bytes));
    block_on(connection.end())
}

#[test]
fn who_brings_no_proxy_header_where_one_has_to_come_is_closed_and_the_log_says_why() {
    let trusted = Ipv4Addr::LOCALHOST;
    let long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 100]].concat();
    let cases: [(Ipv4Addr, &[u8], &str); 5] = [
        (Ipv4Addr::new(127, 9, 9, 9), b"PROXY TCP4 203.0.113.7 192.0.2.2 1 2\r\n", "it is none of --trusted-proxy"),
        (trusted, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "what came in its place is none"),
        (trusted, b"PROXY TCP4 203.0.113.7 x 1 2\r\n", "it is malformed"),
        (trusted, &long, "it is longer than 4096 bytes"),
        (trusted, b"PROXY TCP4 203.0", "it has not come in time"),
    ];
    for (source, bytes, cause) in cases {
        let (reborn, _) = behind_a_proxy();
        let reborn = reborn.listen("web=127.0.0.1:0").args(["--proxy-protocol", "web", "--head-timeout", "300ms"]);
        let server = reborn.start();
        assert!(begun(&server, source, bytes).is_some(), "it is closed");
        let expected = format!("no PROXY header is taken from {source}:");
        server.wait_until("it is logged", |server| {
            server.log().lines().any(|line| line.contains(&expected) && line.contains(cause))
        });
        server.wait_until("it is booked", |server| server.status()["application"]["closed_by_us"]["PROXY header"] == 1);
        begun(&server, source, bytes);
        assert_eq!(server.log().matches("no PROXY header").count(), 1, "a second one at once is not worth a line");
        assert_eq!(ask(&mut server.connect(), "/fast", "").status, 200, "other listeners know nothing of it");
    }
}

#[test]
fn clients_behind_proxy_headers_are_bounded_each_and_the_proxy_is_not() {
    let (reborn, _) = behind_a_proxy();
    let flags = ["--proxy-protocol", "web", "--connections-per-client", "2"];
    let server = reborn.listen("web=127.0.0.1:0").args(flags).start();
    let target = Target::Tcp(address(&server, "web").parse::<SocketAddr>().unwrap());
    let open = |client: &str| {
        let connection = block_on(Connection::open(&target, Limits::default())).unwrap();
        let head = format!("PROXY TCP4 {client} 192.0.2.2 1 2\r\n{}", Request::fast(client).head());
        block_on(connection.send(head.as_bytes())).unwrap();
        connection
    };
    let mut all: Vec<_> = ["203.0.113.7", "203.0.113.7", "203.0.113.8", "203.0.113.9"].map(open).into();
    for connection in &mut all {
        assert_eq!(block_on(connection.answer()).unwrap().status, 200);
    }
    server.reload_ok();
    server.wait_single();
    assert!(block_on(open("203.0.113.7").answer()).is_err(), "it has two, which have moved");
    drop(all);
    let mut again = None;
    server.wait_until("there is room again", |_| {
        let mut connection = open("203.0.113.7");
        again = block_on(connection.answer()).ok();
        again.is_some()
    });
    assert_eq!(again.unwrap().status, 200);
}

#[test]
fn a_half_header_holds_up_no_reload_and_a_stop_no_longer_than_a_second() {
    let (reborn, log) = behind_a_proxy();
    let server = reborn.listen("web=127.0.0.1:0").args(["--proxy-protocol", "web"]).start();
    let target = Target::Tcp(address(&server, "web").parse::<SocketAddr>().unwrap());
    let open = || {
        let connection = block_on(Connection::open(&target, Limits::default())).unwrap();
        block_on(connection.send(b"PROXY TCP4 203.0.")).unwrap();
        connection
    };
    let mut whole = open();
    server.wait_until("it is there", |server| server.status()["connections"] == 1);
    server.reload_ok();
    block_on(whole.send(format!("113.7 192.0.2.2 1 2\r\n{}", request("/fast?whole", "")).as_bytes())).unwrap();
    assert_eq!(block_on(whole.answer()).unwrap().status, 200, "the old process has waited for the rest");
    assert_eq!(logged(&server, &log, "/fast?whole")["peer"], "203.0.113.7:1");
    let _half = open();
    server.wait_until("it is there, too", |server| server.status()["connections"] == 2);
    let begun = std::time::Instant::now();
    server.stop().assert_success();
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}
