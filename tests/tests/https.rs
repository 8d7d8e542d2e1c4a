//! HTTPS through reloads with certificates that change: connections go on without a handshake, whoever speaks; sessions
//! are resumed with the tickets of the process before.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::load::{Connection, Limits, Target};
use tests::skip::skip;
use tests::{Reborn, Server, Talking};

const RELOADS: u64 = 20;

/// A server that speaks TLS, and more arguments.
fn serving(arguments: &[&str]) -> Server {
    Reborn::new().demo().probation_ms(0).https().tells_handshakes().args(arguments).start()
}

/// One with a certificate for development.
fn self_signed(arguments: &[&str]) -> Server {
    let reborn = Reborn::new().demo().probation_ms(0).listen("https=127.0.0.1:0").arg("--tls-self-signed");
    reborn.args(arguments).start()
}

/// Whether there is such a client: a command that succeeds. Skips if not.
fn is_there(command: &[&str]) -> bool {
    let is_there = Command::new(command[0]).args(&command[1..]).output().is_ok_and(|output| output.status.success());
    if !is_there {
        skip(&format!("`{}` does not work", command.join(" ")));
    }
    is_there
}

fn python(server: &Server) -> Talking {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/tls_client.py");
    Talking::start(Command::new("python3").arg(source).arg(server.https_address().to_string()))
}

#[test]
fn connections_of_pythons_ssl_go_on_through_reloads_with_new_certificates() {
    if !is_there(&["python3", "-c", "import ssl"]) {
        return;
    }
    let server = serving(&[]);
    let mut client = python(&server);
    client.answers("ask", "generations 1");
    for generation in 2..=RELOADS + 1 {
        client.answers("begin", "begun");
        server.renew_certificate();
        server.reload_ok();
        client.answers("ask", &format!("generations {generation}"));
    }
    assert_eq!(server.handshakes(), 20, "{}", server.log());
    server.assert_no_error();
}

#[test]
fn sessions_are_resumed_with_tickets_of_the_process_before() {
    if !is_there(&["python3", "-c", "import ssl"]) {
        return;
    }
    let server = self_signed(&[]);
    let mut client = python(&server);
    client.answers("ask", "generations 1");
    server.reload_ok();
    server.reload_ok();
    client.answers("resume", "resumed True True");
    client.answers("ask", "generations 3");
}

#[test]
fn keys_that_openssl_updates_before_and_after_moves_are_followed() {
    if !is_there(&["openssl", "version"]) {
        return;
    }
    let server = serving(&[]);
    let flags = ["s_client", "-crlf", "-tls1_3", "-servername", "localhost", "-connect"];
    let mut client = Talking::start(
        Command::new("openssl").args(flags).arg(server.https_address().to_string()).stderr(Stdio::null()),
    );
    for generation in 1..=RELOADS + 1 {
        client.say("GET / HTTP/1.1");
        client.say("Host: localhost");
        client.say("");
        assert_eq!(client.hears("x-generation: "), format!("x-generation: {generation}"));
        // Its own alone, and one that asks for ours.
        client.say(if generation % 2 == 0 { "k" } else { "K" });
        if generation <= RELOADS {
            server.renew_certificate();
            server.reload_ok();
        }
    }
    assert_eq!(server.handshakes(), 1, "{}", server.log());
}

#[test]
fn curl_is_answered_and_sent_to_https_from_plain_http() {
    if !is_there(&["curl", "--version"]) {
        return;
    }
    let server = serving(&["--redirect-https", "--hsts", "1h"]);
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl").args(["-s", "-i", "--noproxy", "*", "-m", "20"]).args(arguments).output();
        String::from_utf8(output.unwrap().stdout).unwrap().to_ascii_lowercase()
    };
    let address = server.https_address();
    let port = address.port();
    let to = format!("localhost:{port}:{address}");
    let answer = curl(&[
        "--cacert",
        server.folder().join("site.pem").to_str().unwrap(),
        "--connect-to",
        &to,
        &format!("https://localhost:{port}/"),
    ]);
    assert!(
        answer.starts_with("http/1.1 200 ok") && answer.contains("strict-transport-security: max-age=3600"),
        "{answer}"
    );
    let plain = curl(&[&format!("http://{}/a?b=c", server.address())]);
    let location = format!("location: https://{}:{port}/a?b=c", server.address().ip());
    assert!(plain.starts_with("http/1.1 308 ") && plain.contains(&location), "{plain}");
    let wrong = curl(&[&format!("http://{address}/")]);
    assert!(wrong.starts_with("http/1.1 400 ") && wrong.contains("this port speaks https"), "{wrong}");
    assert!(!wrong.contains("strict-transport-security"), "browsers do not believe it there: {wrong}");
    let refused = curl(&["-k", "-H", "Transfer-Encoding: none", &format!("https://{address}/")]);
    assert!(
        refused.starts_with("http/1.1 ") && refused.contains("strict-transport-security: max-age=3600"),
        "{refused}"
    );
    assert!(!refused.starts_with("http/1.1 200"), "{refused}");
    let elsewhere =
        curl(&["-k", "--connect-to", &to, "-H", "Host: elsewhere.example", &format!("https://localhost:{port}/")]);
    assert!(elsewhere.starts_with("http/1.1 200 "), "the one certificate is shown for both: {elsewhere}");
}

#[test]
fn clients_are_sent_to_the_port_that_leads_to_https_from_outside() {
    let server = self_signed(&["--redirect-https=443"]);
    let mut connection = server.connect();
    smol::block_on(connection.send(b"GET /a?b=c HTTP/1.1\r\nHost: one.org:8080\r\n\r\n")).unwrap();
    let answer = smol::block_on(connection.answer()).unwrap();
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://one.org/a?b=c")));
}

/// The page of the metrics.
fn metrics(server: &Server, path: &Path) -> String {
    let target = Target::Unix(path.to_owned());
    let page = smol::block_on(async {
        let mut connection = Connection::open(&target, Limits::default()).await.ok()?;
        connection.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.ok()?;
        connection.answer().await.ok()
    });
    page.unwrap_or_else(|| panic!("{}", server.state())).text()
}

#[test]
fn handshakes_are_counted_by_their_outcome_through_reloads_and_shown_by_the_status() {
    if !is_there(&["python3", "-c", "import ssl"]) {
        return;
    }
    let reborn = Reborn::new().demo().probation_ms(0).listen("https=127.0.0.1:0").arg("--tls-self-signed");
    let path = reborn.folder().join("metrics.sock");
    let server = reborn.arg("--metrics").arg(format!("unix:{}", path.display())).start();
    let count = |outcome: &str, count: u64| {
        let line = format!("reborn_tls_handshakes_total{{outcome=\"{outcome}\"}} {count}\n");
        server.wait_until(&line, |server| metrics(server, &path).contains(&line));
    };
    for outcome in ["done", "resumed", "failed", "timed out", "made room", "stopping", "plain HTTP"] {
        count(outcome, 0);
    }
    let mut client = python(&server);
    client.answers("ask", "generations 1");
    count("done", 20);
    server.reload_ok();
    count("done", 20);
    client.answers("resume", "resumed True True");
    let mut plain = TcpStream::connect(server.https_address()).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut neither = TcpStream::connect(server.https_address()).unwrap();
    neither.write_all(b"\0").unwrap();
    for (outcome, expected) in [("done", 20), ("resumed", 2), ("failed", 1), ("plain HTTP", 1), ("timed out", 0)] {
        count(outcome, expected);
    }
    let status = server.status();
    let tls = &status["application"]["tls"];
    assert_eq!((&tls["handshakes"]["resumed"], &tls["handshakes"]["done"]), (&2.into(), &0.into()), "{status}");
    assert!(tls["certificate_not_after_unix"].as_u64() > Some(1 << 30), "{status}");
    let text = server.command(["status"]).assert_success().stdout.clone();
    let expected = "TLS: 2 handshakes (2 resumed), 1 failed, 1 plain HTTP; the first certificate expires in ";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn the_access_log_says_how_each_request_came_also_after_its_connection_has_moved() {
    if !is_there(&["python3", "-c", "import ssl"]) {
        return;
    }
    let server = self_signed(&["--access-log", "access.log", "--access-log-format", "json"]);
    let mut client = python(&server);
    client.answers("ask", "generations 1");
    server.reload_ok();
    client.answers("ask", "generations 2");
    client.answers("resume", "resumed True True");
    server.ask();
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(server.folder().join("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    server.wait_until("all requests are logged", |_| lines().len() == 43);
    let of = |generation: u64, version: &str, resumed: bool| {
        let is_it = |line: &&Value| {
            let tls = &line["tls"];
            line["generation"] == generation && tls["version"] == version && tls["resumed"] == resumed
        };
        let lines = lines();
        let found: Vec<_> = lines.iter().filter(is_it).collect();
        for line in &found {
            let suite = line["tls"]["suite"].as_str().unwrap();
            assert!(suite.starts_with("TLS_") && line["tls"]["server_name"] == "localhost", "{line}");
        }
        found.len()
    };
    for generation in [1, 2] {
        assert_eq!(["TLSv1.2", "TLSv1.3"].map(|version| of(generation, version, false)), [10, 10]);
    }
    assert_eq!(["TLSv1.2", "TLSv1.3"].map(|version| of(2, version, true)), [1, 1]);
    assert_eq!(lines().iter().filter(|line| line["tls"].is_null()).count(), 1, "plain HTTP");
}
