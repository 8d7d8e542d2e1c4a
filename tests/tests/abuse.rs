//! Clients that want all of a server's memory: each takes a bounded part of it, and others are served meanwhile.
//!
//! `just abuse` runs them at full size on a release build, and shows what each took; `just test` a part of that.

#![allow(clippy::unwrap_used)]

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketType, sockopt};
use tests::{DEADLINE, Reborn, Server, load::raise_fd_limit, skip::may_trace};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What a connection may take that has sent a part of a head, and one whose response nobody reads.
const HEAD_BYTES_MAX: u64 = 12 * KIB;
const RESPONSE_BYTES_MAX: u64 = 96 * KIB;
/// The same where a thread has to read the file: 192 KiB at a time, and what the allocator has not given back.
const FILE_BYTES_MAX: u64 = MIB;
/// What one hostile client may take, whatever it sends.
const CLIENT_BYTES_MAX: u64 = 8 * MIB;

/// One number for `just abuse`, another one for `just test`.
fn size<T>(full: T, part: T) -> T {
    if env::var_os("REBORN_TEST_ABUSE").is_some_and(|value| value == "full") { full } else { part }
}

/// The most memory that the server has had so far.
fn peak_bytes(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.first_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * KIB
}

/// Says what an attack took, and holds it against the bound.
#[track_caller]
fn assert_took(server: &Server, before: u64, what: &str, clients: usize, each: u64) {
    let (taken, allowed) = (peak_bytes(server).saturating_sub(before), clients as u64 * each);
    let per_client = taken / KIB / clients as u64;
    eprintln!(
        "{what}: {clients} clients took {} MiB, {per_client} KiB each; {} KiB are allowed",
        taken / MIB,
        each / KIB
    );
    assert!(taken <= allowed, "{what} took {taken} bytes, not at most {allowed}\n{}", server.state());
}

/// A client with a small receive buffer, so that what it does not read stays with the server.
fn connect(address: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// All that comes until the server closes, as far as it is kept.
fn rest(stream: &mut TcpStream) -> String {
    let (mut kept, mut part) = (Vec::new(), vec![0; 65_536]);
    // A reset ends it as well as a close.
    while let Ok(count @ 1..) = stream.read(&mut part) {
        kept.extend_from_slice(&part[..count.min(1000 - kept.len().min(1000))]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[test]
fn thousands_of_heads_that_never_end_take_little_each_and_end_with_408() {
    let clients = size(5_000, 1_000);
    let server = Reborn::new().demo().args(["--head-timeout", "10s"]).start();
    raise_fd_limit().unwrap();
    let load = server.load().paced(4, 40).start();
    let before = peak_bytes(&server);
    let mut slow: Vec<_> = (0..clients).map(|_| connect(server.address())).collect();
    for piece in ["GET /fast HTTP/1.1\r\nhost: a\r\n", "x", ": ", "y"] {
        for stream in &mut slow {
            stream.write_all(piece.as_bytes()).unwrap();
        }
    }
    for stream in &mut slow {
        let answer = rest(stream);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    load.stop().assert_no_failure();
    assert_took(&server, before, "slowloris", clients, HEAD_BYTES_MAX);
}

#[test]
fn thousands_of_clients_that_never_read_take_a_piece_each_and_are_given_up() {
    let clients = size(5_000, 200);
    let reborn = Reborn::new().demo().args(["--write-timeout", "4s"]);
    let file = fs::File::create(reborn.folder().join("large")).unwrap();
    file.set_len(64 * MIB).unwrap();
    let folder = reborn.folder().to_owned();
    let server = reborn.arg("--root").arg(folder).start();
    raise_fd_limit().unwrap();
    let load = server.load().paced(4, 40).start();
    let before = peak_bytes(&server);
    let mut silent: Vec<_> = (0..clients).map(|_| connect(server.address())).collect();
    let head = b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n";
    for stream in &mut silent {
        stream.write_all(head).unwrap();
    }
    let given_up = |server: &Server| server.status()["application"]["closed_by_us"]["write timeout"].as_u64();
    server.wait_until("all are given up", |server| given_up(server) == Some(clients as u64));
    load.stop().assert_no_failure();
    assert_took(&server, before, "never reading", clients, RESPONSE_BYTES_MAX);
}

#[test]
fn clients_that_slowly_take_a_file_from_the_disk_take_a_few_pieces_each() {
    if !may_trace() {
        return;
    }
    let clients = 50;
    // A file system that cannot tell what is in memory: all that is read, a thread of the pool reads.
    let traced = "exec strace -D -f -o /dev/null --seccomp-bpf --trace=preadv2 --inject=preadv2:error=EOPNOTSUPP";
    let reborn = Reborn::new().prelude(&format!("{traced} \"$0\" \"$@\""));
    let file = fs::File::create(reborn.folder().join("large")).unwrap();
    file.set_len(64 * MIB).unwrap();
    let folder = reborn.folder().to_owned();
    let server = reborn.arg("--root").arg(folder).start();
    let before = peak_bytes(&server);
    let mut slow: Vec<_> = (0..clients).map(|_| connect(server.address())).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    }
    let mut piece = vec![0; 128 * 1024];
    for _ in 0..25 {
        for stream in &mut slow {
            stream.read_exact(&mut piece).unwrap();
        }
        // As slow clients are; meanwhile the threads of the pool rest.
        thread::sleep(Duration::from_millis(100));
    }
    assert_took(&server, before, "taking slowly", clients, FILE_BYTES_MAX);
}

/// Sends what `next` gives until that ends or the server closes. Returns the beginning of the answer, and the bytes sent.
fn flood(server: &Server, head: &str, piece: &[u8], bytes: u64) -> (String, u64) {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    let mut reading = stream.try_clone().unwrap();
    let answer = thread::spawn(move || rest(&mut reading));
    let mut sent = 0;
    if stream.write_all(head.as_bytes()).is_ok() {
        while sent < bytes && stream.write_all(piece).is_ok() {
            sent += piece.len() as u64;
        }
    }
    (answer.join().unwrap(), sent)
}

#[test]
fn whatever_one_client_sends_takes_little_and_is_refused() {
    let limit = size(1024 * MIB, 64 * MIB);
    let server = Reborn::new().demo().args(["--body-bytes", &limit.to_string()]).start();
    let load = server.load().paced(4, 40).start();
    let letters = vec![b'a'; 65_536];
    let fields = b"x: y\r\n".repeat(10_000);
    let chunk = [b"10000\r\n".to_vec(), letters.clone(), b"\r\n".to_vec()].concat();
    let gigabytes = 10 * 1024 * MIB;
    let length = format!("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {gigabytes}\r\n\r\n");
    let chunked = "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let get = "GET / HTTP/1.1\r\nhost: a\r\n";
    for (what, head, piece, bytes, status) in [
        ("400 MB without a line feed", "", &letters, 400 * MIB, "414"),
        ("400 MB in a header line", "GET / HTTP/1.1\r\nx: ", &letters, 400 * MIB, "431"),
        ("100,000 headers", get, &fields, 600_000, "431"),
        ("10 GB of a known length", &length, &letters, gigabytes, "413"),
        ("10 GB in chunks", chunked, &chunk, gigabytes, "200"),
    ] {
        let (before, started) = (peak_bytes(&server), Instant::now());
        let (answer, sent) = flood(&server, head, piece, bytes);
        eprintln!("{what}: the server closed after {} MiB, {:?}", sent / MIB, started.elapsed());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
        assert!(sent <= limit + 128 * MIB, "{what}: {sent} bytes were taken");
        assert_took(&server, before, what, 1, CLIENT_BYTES_MAX);
    }
    load.stop().assert_no_failure();
}

#[test]
fn idle_connections_take_little() {
    let clients = size(15_000, 1_000);
    let server = Reborn::new().demo().start();
    raise_fd_limit().unwrap();
    let before = peak_bytes(&server);
    let mut idle: Vec<_> = (0..clients).map(|_| connect(server.address())).collect();
    for stream in &mut idle {
        stream.write_all(b"GET /fast HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    }
    for stream in &mut idle {
        let mut part = [0; 1000];
        assert!(stream.read(&mut part).unwrap() > 0);
    }
    let answered = Duration::from_secs(1);
    let load = server.load().paced(4, 40).at_most(answered).run();
    load.assert_no_failure();
    assert_took(&server, before, "idle", clients, HEAD_BYTES_MAX);
}
