//! Other people's TLS on the other side, over loopback: OpenSSL's command and Python's module. What is missing is said.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::sockopt;

use super::super::handshake::{Handshake, Progress};
use super::super::keys::{Cipher, Suite, Version, ledger};
use super::support::{Server, noise, server_config, suites, suites_1_3};

const DEADLINE: Duration = Duration::from_secs(30);

/// Skips the rest of a test, loudly, past the runner's capture; where `CI=true` that is a failure.
fn skip(reason: &str) {
    let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!is_ci, "a test was skipped where CI=true allows no skip: {reason}");
    let _is_best_effort = writeln!(std::io::stderr().lock(), "SKIP: {reason}");
}

/// Accepts one client, and shakes hands with it.
fn accept(listener: &TcpListener, suite: Suite) -> (TcpStream, Server) {
    sockopt::set_socket_timeout(listener, sockopt::Timeout::Recv, Some(DEADLINE)).expect("a socket");
    let (mut stream, _) = listener.accept().expect("a client comes in time");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    let mut handshake = Handshake::new(&server_config(Some(suite))).expect("a configuration");
    let mut room = [0; 777];
    loop {
        let count = stream.read(&mut room).expect("the client shakes hands");
        let mut out = Vec::new();
        let (used, progress) = handshake.feed(&room[..count], &mut out);
        stream.write_all(&out).expect("the client is there");
        handshake = match progress {
            Progress::Waits(next) => next,
            Progress::Done(established) => {
                assert_eq!(established.records.suite(), suite);
                let mut server = Server::new(established.records);
                server.receive(&room[used..count]).expect("records");
                return (stream, server);
            }
            other => panic!("{other:?}"),
        };
    }
}

/// Receives until that much data has come, or the client has ended. Each receive finds the connection in a new place.
fn receive(stream: &mut TcpStream, server: &mut Server, length: usize) {
    let mut room = vec![0; 20_011];
    while server.data.len() < length && !server.records().is_ended() {
        match stream.read(&mut room) {
            Ok(0) => return,
            Ok(count) => server.receive(&room[..count]).expect("records"),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}: after {} bytes", server.data.len()),
        }
        server.moves();
    }
}

fn send(stream: &mut TcpStream, server: &mut Server, data: &[u8]) {
    for piece in data.chunks(100_000) {
        server.send(piece, 64 * 1024).expect("a connection that is open");
        stream.write_all(&server.sent()).expect("the client is there");
        server.moves();
    }
}

fn close(stream: &mut TcpStream, server: &mut Server) {
    server.records().close();
    server.send(&[], 1000).expect("the end");
    stream.write_all(&server.sent()).expect("the client is there");
}

/// What other programs call a suite.
fn openssl_name(suite: Suite) -> [&'static str; 3] {
    match (suite.version, suite.cipher) {
        (Version::Tls13, Cipher::Aes128Gcm) => ["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
        (Version::Tls13, Cipher::Aes256Gcm) => ["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"],
        (Version::Tls13, Cipher::Chacha20Poly1305) => ["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
        (Version::Tls12, Cipher::Aes128Gcm) => ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        (Version::Tls12, Cipher::Aes256Gcm) => ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
        (Version::Tls12, Cipher::Chacha20Poly1305) => ["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
    }
}

/// A client of which nobody but its test may be in the way: it dies with it.
struct Client(Child);

impl Client {
    /// Starts a program. None, and a line that says so, where it is not installed.
    fn start(command: &mut Command) -> Option<Client> {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        match piped.spawn() {
            Ok(child) => Some(Client(child)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                skip(&format!("{} is not installed", command.get_program().display()));
                None
            }
            Err(error) => panic!("{}: {error}", command.get_program().display()),
        }
    }

    fn openssl(listener: &TcpListener, arguments: &[&str]) -> Option<Client> {
        let address = listener.local_addr().expect("an address").to_string();
        let command = &mut Command::new("openssl");
        Client::start(command.args(["s_client", "-connect", &address, "-alpn", "http/1.1"]).args(arguments))
    }

    fn says(&mut self, text: &[u8]) {
        self.0.stdin.as_mut().expect("a pipe").write_all(text).expect("it listens");
    }

    /// Everything that it printed until it ended.
    fn printed(mut self) -> Vec<u8> {
        drop(self.0.stdin.take());
        let mut printed = Vec::new();
        self.0.stdout.take().expect("a pipe").read_to_end(&mut printed).expect("it prints");
        printed
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[test]
fn openssl_talks_to_a_connection_that_moves() {
    for suite in suites() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let name = openssl_name(suite);
        let arguments = [&name[..], &["-quiet", "-ign_eof"]].concat();
        let Some(mut openssl) = Client::openssl(&listener, &arguments) else { return };
        let (mut stream, mut server) = accept(&listener, suite);
        for text in [&b"first line\n"[..], b"second line\n"] {
            let before = server.data.len();
            openssl.says(text);
            receive(&mut stream, &mut server, before + text.len());
            assert_eq!(&server.data[before..], text);
        }
        let body = noise(1 << 20, 8);
        send(&mut stream, &mut server, &body);
        close(&mut stream, &mut server);
        assert!(openssl.printed().ends_with(&body), "{suite:?}");
    }
}

#[test]
fn openssl_replaces_keys_and_asks_for_ours() {
    for suite in suites_1_3() {
        ledger::begin();
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let Some(mut openssl) = Client::openssl(&listener, &openssl_name(suite)) else { return };
        let (mut stream, mut server) = accept(&listener, suite);
        // A line of its own is a command: K replaces its key and asks for ours, k only replaces its own.
        for (count, command) in [&b"K\n"[..], b"k\n", b"K\n", b"k\n"].into_iter().enumerate() {
            let line = format!("line {count}\n");
            openssl.says(command);
            // What comes with the command in one read would be taken for a part of it.
            receive_a_record(&mut stream, &mut server);
            openssl.says(line.as_bytes());
            let length = server.data.len() + line.len();
            receive(&mut stream, &mut server, length);
            assert!(server.data.ends_with(line.as_bytes()), "{suite:?}");
            send(&mut stream, &mut server, format!("answer {count}\n").as_bytes());
        }
        close(&mut stream, &mut server);
        let printed = openssl.printed();
        for count in 0..4 {
            assert!(
                contains(&printed, format!("answer {count}\n").as_bytes()),
                "{}",
                String::from_utf8_lossy(&printed)
            );
        }
        assert_eq!(ledger::begin(), 4 + 2 + 1, "four answers, two KeyUpdates, and the end");
    }
}

/// Receives once.
fn receive_a_record(stream: &mut TcpStream, server: &mut Server) {
    let mut room = [0; 4096];
    let count = stream.read(&mut room).expect("the client sends");
    assert!(count > 0, "the client is there");
    server.receive(&room[..count]).expect("records");
    server.moves();
}

#[test]
fn openssl_does_not_get_a_renegotiation() {
    let suite = Suite { version: Version::Tls12, cipher: Cipher::Aes128Gcm };
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let Some(mut openssl) = Client::openssl(&listener, &openssl_name(suite)) else { return };
    let (mut stream, mut server) = accept(&listener, suite);
    openssl.says(b"R\n");
    receive_a_record(&mut stream, &mut server);
    assert!(server.records().is_due());
    server.send(&[], 1000).expect("a warning");
    stream.write_all(&server.sent()).expect("the client is there");
    assert!(server.records().is_open(), "the connection would go on");
    // OpenSSL takes the refusal for a reason to end it.
    let mut room = [0; 4096];
    let count = stream.read(&mut room).expect("the client says so");
    let failure = server.receive(&room[..count]).expect_err("a fatal alert");
    assert_eq!(failure.alert, None, "{failure}");
}

const PYTHON: &str = r"
import socket, ssl, sys
port, version = int(sys.argv[1]), sys.argv[2]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
context.set_alpn_protocols(['http/1.1'])
with context.wrap_socket(socket.create_connection(('127.0.0.1', port), 30), server_hostname='localhost') as client:
    assert client.selected_alpn_protocol() == 'http/1.1' and client.version() == version.replace('_', '.')
    client.sendall(bytes(range(256)) * 8192)
    got = b''
    while piece := client.recv(65536):
        got += piece
    assert client.unwrap() is not None
sys.stdout.buffer.write(got)
";

#[test]
fn python_sends_and_receives_and_ends_in_order() {
    for suite in suites() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = listener.local_addr().expect("an address").port().to_string();
        let version = if suite.version == Version::Tls12 { "TLSv1_2" } else { "TLSv1_3" };
        let command = &mut Command::new("python3");
        let Some(python) = Client::start(command.args(["-c", PYTHON, &port, version])) else { return };
        let (mut stream, mut server) = accept(&listener, suite);
        receive(&mut stream, &mut server, 256 * 8192);
        let expected: Vec<u8> = (0..=255).cycle().take(256 * 8192).collect();
        assert!(server.data == expected, "{suite:?}");
        let body = noise(1 << 20, 9);
        send(&mut stream, &mut server, &body);
        close(&mut stream, &mut server);
        receive(&mut stream, &mut server, usize::MAX);
        assert!(server.records().is_ended(), "the client has said its end, too: {suite:?}");
        assert!(python.printed() == body, "{suite:?}");
    }
}
