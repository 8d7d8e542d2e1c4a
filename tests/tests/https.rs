//! HTTPS through reloads with certificates that change: connections go on without a handshake, whoever speaks; sessions
//! are resumed with the tickets of the process before.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tests::certificates::Certificate;
use tests::skip::skip;
use tests::{Reborn, Server};

const RELOADS: u64 = 5;

/// A server that speaks TLS on a port of the kernel's choosing, and more arguments.
fn serving(arguments: &[&str]) -> Server {
    let reborn = Reborn::new().demo().probation_ms(0).listen("https=127.0.0.1:0");
    renew(reborn.folder());
    reborn.args(["--log", "debug"]).args(arguments).start()
}

/// Puts another certificate in the place of the one that is there.
fn renew(folder: &Path) {
    let certificate = Certificate::new(&["localhost"]);
    fs::write(folder.join("site.pem"), certificate.pem()).unwrap();
    fs::write(folder.join("site.key"), certificate.key_pem()).unwrap();
}

fn address(server: &Server) -> String {
    let status = server.status();
    let listeners = status["listeners"].as_array().unwrap();
    let https = listeners.iter().find(|listener| listener["name"] == "https").unwrap();
    https["address"].as_str().unwrap().to_owned()
}

/// How many handshakes all generations have held.
fn handshakes(server: &Server) -> usize {
    server.log().matches("a TLS handshake is done").count()
}

/// Whether there is such a client: a command that succeeds. Skips if not.
fn is_there(command: &[&str]) -> bool {
    let is_there = Command::new(command[0]).args(&command[1..]).output().is_ok_and(|output| output.status.success());
    if !is_there {
        skip(&format!("`{}` does not work", command.join(" ")));
    }
    is_there
}

/// A client that is told what to do line by line. Dropped, it is killed.
struct Talking {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Talking {
    fn start(command: &mut Command) -> Talking {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Talking { process, to, from }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.to, "{line}").unwrap();
    }

    /// The next line that has `what`. Its own deadlines end a client that waits in vain.
    #[track_caller]
    fn hears(&mut self, what: &str) -> String {
        let mut all = String::new();
        loop {
            let before = all.len();
            assert!(self.from.read_line(&mut all).unwrap() > 0, "no {what:?} in {all}");
            if all[before..].contains(what) {
                return all[before..].trim().to_owned();
            }
        }
    }

    #[track_caller]
    fn answers(&mut self, command: &str, expected: &str) {
        self.say(command);
        assert_eq!(self.hears(""), expected);
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn python(server: &Server) -> Talking {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/tls_client.py");
    Talking::start(Command::new("python3").arg(source).arg(address(server)))
}

#[test]
fn connections_of_pythons_ssl_go_on_through_reloads_with_new_certificates() {
    if !is_there(&["python3", "-c", "import ssl"]) {
        return;
    }
    let server = serving(&["--tls-certificate", "site.pem", "--tls-key", "site.key"]);
    let mut client = python(&server);
    client.answers("ask", "generations 1");
    for generation in 2..=RELOADS + 1 {
        client.answers("begin", "begun");
        renew(server.folder());
        server.reload_ok();
        client.answers("ask", &format!("generations {generation}"));
    }
    assert_eq!(handshakes(&server), 20, "{}", server.log());
    server.assert_no_error();
}

#[test]
fn sessions_are_resumed_with_tickets_of_the_process_before() {
    if !is_there(&["python3", "-c", "import ssl"]) {
        return;
    }
    let server = serving(&["--tls-self-signed"]);
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
    let server = serving(&["--tls-certificate", "site.pem", "--tls-key", "site.key"]);
    let flags = ["s_client", "-crlf", "-tls1_3", "-servername", "localhost", "-connect"];
    let mut client = Talking::start(Command::new("openssl").args(flags).arg(address(&server)).stderr(Stdio::null()));
    for generation in 1..=RELOADS + 1 {
        client.say("GET / HTTP/1.1");
        client.say("Host: localhost");
        client.say("");
        assert_eq!(client.hears("x-generation: "), format!("x-generation: {generation}"));
        // Its own alone, and one that asks for ours.
        client.say(if generation % 2 == 0 { "k" } else { "K" });
        if generation <= RELOADS {
            renew(server.folder());
            server.reload_ok();
        }
    }
    assert_eq!(handshakes(&server), 1, "{}", server.log());
}

#[test]
fn curl_is_answered_and_sent_to_https_from_plain_http() {
    if !is_there(&["curl", "--version"]) {
        return;
    }
    let server =
        serving(&["--tls-certificate", "site.pem", "--tls-key", "site.key", "--redirect-https", "--hsts", "1h"]);
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl").args(["-s", "-i", "--noproxy", "*", "-m", "20"]).args(arguments).output();
        String::from_utf8(output.unwrap().stdout).unwrap().to_ascii_lowercase()
    };
    let address = address(&server);
    let port = address.rsplit_once(':').unwrap().1;
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
    let server = serving(&["--tls-self-signed", "--redirect-https=443"]);
    let connection = server.connect();
    let answer = smol::block_on(async {
        connection.send(b"GET /a?b=c HTTP/1.1\r\nHost: one.org:8080\r\n\r\n").await.unwrap();
        let mut connection = connection;
        connection.answer().await.unwrap()
    });
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://one.org/a?b=c")));
}
