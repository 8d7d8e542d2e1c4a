//! The examples keep what they show: connections live through reloads under load, none is closed, no answer is wrong.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;
use support::{DEADLINE, Service, ask_tcp, example, kill, skip, wait_for_end};

const CLIENTS: usize = 16;
const RELOADS: u64 = 5;

fn connect(address: &str) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    BufReader::new(stream)
}

/// Has clients ask on one connection each, without a pause, while the service is replaced again and again; each asks a
/// last time when it is over. Returns how many times they asked, when the last process that was replaced has ended: by
/// then all connections have moved.
fn ask_through_reloads(service: &Service, address: &str, ask: impl Fn(&mut BufReader<TcpStream>, u64) + Sync) -> u64 {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = || {
            let mut connection = connect(address);
            let mut count = 0;
            while !over.load(Ordering::Acquire) {
                count += 1;
                ask(&mut connection, count);
            }
            ask(&mut connection, count + 1);
            count
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let replaced = (0..RELOADS).fold(0, |_, _| service.reload_well().from.pid);
        over.store(true, Ordering::Release);
        let asked = clients.into_iter().map(|client| client.join().unwrap()).sum();
        wait_for_end(replaced, DEADLINE);
        asked
    })
}

/// The number of the generation that answered, which the answer begins with.
fn generation(line: &str) -> u64 {
    line.split(' ').find_map(|word| word.parse().ok()).unwrap_or_else(|| panic!("{line:?}"))
}

#[test]
fn the_echo_examples_connections_live_through_reloads_with_their_count() {
    let service = Service::example("echo", "echo");
    let address = service.address("echo");
    let (mut half, mut idle) = (connect(&address), connect(&address));
    half.get_mut().write_all(b"one\ntw").unwrap();
    let mut line = String::new();
    half.read_line(&mut line).unwrap();
    assert_eq!(line, "1 1 one\n");
    let asked = ask_through_reloads(&service, &address, |connection, count| {
        connection.get_mut().write_all(format!("line {count}\n").as_bytes()).unwrap();
        let mut line = String::new();
        connection.read_line(&mut line).unwrap();
        assert!(line.ends_with(&format!(" {count} line {count}\n")), "{count}: {line:?}");
    });
    assert!(asked > 100, "{asked}");
    for (connection, rest, answer) in [(&mut half, "o\n", "2 two"), (&mut idle, "hello\n", "1 hello")] {
        connection.get_mut().write_all(rest.as_bytes()).unwrap();
        let mut line = String::new();
        connection.read_line(&mut line).unwrap();
        assert_eq!(line, format!("{} {answer}\n", RELOADS + 1));
    }
}

#[test]
fn the_echo_examples_connections_live_on_where_nobody_takes_them_and_the_drain_is_called_off() {
    let mut service = Service::example("echo", "echo");
    let address = service.address("echo");
    let mut idle = connect(&address);
    let mut ask = |answer: &str| {
        idle.get_mut().write_all(b"hello\n").unwrap();
        let mut line = String::new();
        idle.read_line(&mut line).unwrap();
        assert_eq!(line, answer);
    };
    ask("1 1 hello\n");
    service.replace_program("hyper");
    let old = service.reload_well().from.pid;
    ask("1 2 hello\n");
    service.answers_at("hyper-example");
    kill(service.status().id.pid, Signal::KILL);
    // It shows that the old process serves again.
    assert_eq!(ask_tcp(&address), "1 1 hello\n");
    ask("1 3 hello\n");
    service.replace_program("echo");
    kill(old, Signal::HUP);
    service.answers_at("echo");
    wait_for_end(old, DEADLINE);
    ask("2 4 hello\n");
}

/// One request and its answer on a connection that must be kept.
fn get(connection: &mut BufReader<TcpStream>, path: &str) -> String {
    connection.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).unwrap();
    answer(connection)
}

fn answer(connection: &mut BufReader<TcpStream>) -> String {
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let start = head.len();
        assert!(connection.read_line(&mut head).unwrap() > 0, "closed after {head:?}");
        if let Some(value) = head[start..].strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
    }
    assert!(head.starts_with("HTTP/1.1 200") && !head.contains("connection: close"), "{head}");
    let mut body = vec![0; length];
    connection.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

#[test]
fn the_hyper_examples_connections_live_through_reloads() {
    let service = Service::example("hyper", "hyper-example");
    let address = service.address("http");
    let (mut silent, mut idle, mut half) = (connect(&address), connect(&address), connect(&address));
    assert_eq!(generation(&get(&mut idle, "/idle")), 1);
    get(&mut half, "/half");
    half.get_mut().write_all(b"GET /second HTTP/1.1\r\nho").unwrap();
    let mut busy = connect(&address);
    busy.get_mut().write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\nGET /next HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let asked = ask_through_reloads(&service, &address, |connection, count| {
        let body = get(connection, &format!("/{count}"));
        assert!(body.ends_with(&format!(" answers /{count}\n")), "{body}");
    });
    assert!(asked > 100, "{asked}");
    half.get_mut().write_all(b"st: a\r\n\r\n").unwrap();
    let bodies = [get(&mut silent, "/silent"), get(&mut idle, "/again"), answer(&mut half)];
    for (body, path) in bodies.iter().zip(["/silent", "/again", "/second"]) {
        assert_eq!(*body, format!("generation {} answers {path}\n", RELOADS + 1));
    }
    let (slow, next) = (answer(&mut busy), answer(&mut busy));
    assert_eq!(slow, "generation 1 answers /slow\n");
    assert!(next.ends_with(" answers /next\n"), "by whoever had it received: {next}");
    assert_eq!(generation(&get(&mut busy, "/last")), RELOADS + 1);
}

#[test]
fn the_axum_examples_connections_live_through_reloads() {
    let service = Service::example("axum", "axum-example");
    let address = service.address("http");
    let mut idle = connect(&address);
    assert_eq!(get(&mut idle, "/"), "generation 1\n");
    let asked = ask_through_reloads(&service, &address, |connection, _| _ = generation(get(connection, "/").trim()));
    assert!(asked > 100, "{asked}");
    assert_eq!(generation(get(&mut idle, "/").trim()), RELOADS + 1);
}

#[test]
fn the_axum_example_outlives_its_reloads_where_it_is_pid_1() {
    let as_pid_1 = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script]).arg(example("axum"));
        command
    };
    if !as_pid_1("exit 0").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        skip("no pid namespace (root)");
        return;
    }
    let script = "exec \"$0\" 127.0.0.1:0 --control \"$FIXTURE_CONTROL\"";
    let mut service = Service::start(as_pid_1(script));
    let address = service.address("http");
    let mut idle = connect(&address);
    for _ in 0..3 {
        service.reload_well();
        assert!(get(&mut idle, "/").starts_with("generation "));
        assert!(get(&mut connect(&address), "/").starts_with("generation "));
    }
    assert_eq!(service.status().id.generation, 4);
    service.client().stop().unwrap();
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn the_axum_example_says_what_it_takes_on_its_command_line() {
    let run = |word: &str| Command::new(example("axum")).arg(word).output().unwrap();
    let wrong = run("relod");
    let text = String::from_utf8_lossy(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(2), "{text}");
    assert!(text.contains("\"relod\" is no address") && text.contains("reload, status or stop"), "{text}");
    let help = run("--help");
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("axum-example reload|stop"));
}

#[test]
fn an_example_is_reloaded_asked_and_stopped_by_its_own_command_line() {
    let mut service = Service::example("echo", "echo");
    let run = |words: &[&str]| {
        let mut command = Command::new(service.folder.path().join("program"));
        command.args(words).arg("--control").arg(service.control()).output().unwrap()
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let reloaded = run(&["reload"]);
    assert!(reloaded.status.success() && text(&reloaded.stdout).starts_with("reloaded: generation 1 ("));
    let status = text(&run(&["status"]).stdout);
    assert!(status.starts_with("generation 2 (pid ") && status.contains(": serving for "), "{status}");
    let wrong = run(&["reload", "now"]);
    assert!(wrong.status.code() == Some(2) && text(&wrong.stderr).contains("\"now\" is not understood"));
    assert!(run(&["stop"]).status.success());
    let missing = run(&["stop"]);
    assert!(missing.status.code() == Some(3) && text(&missing.stderr).starts_with("echo: "));
    assert!(service.child.wait().unwrap().success());
}
