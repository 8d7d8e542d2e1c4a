//! `reborn status` tells of every generation and of the last reloads; `--watch` and a waiting `reborn reload` show a
//! reload as it happens, on a terminal.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tests::{DEADLINE, Mode, Reborn, Server, Version, binary};

#[test]
fn each_generation_that_drains_is_shown_with_what_it_still_has_to_do() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let held = server.hold();
    let second = server.reload_ok();
    let mut status = server.status();
    server.wait_until("the draining generation has said how it is doing", |server| {
        status = server.status();
        status["draining"][0]["connections"] == 1
    });
    let draining = &status["draining"][0];
    assert_eq!((draining["generation"].as_u64(), draining["pid"].as_u64()), (Some(1), Some(server.first_pid().into())));
    assert_eq!((&draining["version"], &draining["application"]["live"]), (&status["version"], &1.into()), "{status}");
    assert!(draining["memory_bytes"].as_u64() > Some(1 << 20) && draining["uptime_ms"].as_u64() > Some(0), "{status}");
    assert!(status["memory_bytes"].as_u64() > Some(1 << 20), "{status}");
    let text = server.command(["status"]).assert_success().stdout.clone();
    for (number, pid, state) in [(2, second, "serving"), (1, server.first_pid(), "draining")] {
        let is_shown = text.lines().any(|line| {
            let cells: Vec<_> = line.split_whitespace().collect();
            cells.starts_with(&[&number.to_string(), &pid.to_string()]) && cells.contains(&state)
        });
        assert!(is_shown, "{number} {pid} {state} in\n{text}");
    }
    held.finish_by(server.first_pid());
    server.wait_until("it has gone", |server| server.status()["draining"].as_array().unwrap().is_empty());
}

#[test]
fn the_last_reloads_are_remembered_by_the_next_generations() {
    let server = Reborn::new().demo().probation_ms(0).start();
    server.replace_binary(&Version::Broken(Mode::Exits { code: 7, words: String::new() }));
    server.reload().assert_code(1);
    server.replace_binary(&Version::Current);
    server.reload_ok();
    server.reload_ok();
    let status = server.status();
    let failures: Vec<_> = status["reloads"].as_array().unwrap().iter().map(|one| one["failure"].as_str()).collect();
    assert!(matches!(failures[..], [Some(reason), None, None] if reason.contains("exited with status 7")), "{status}");
    let text = server.command(["status"]).assert_success().stdout.clone();
    assert!(text.contains("failed") && text.contains("exited with status 7") && text.contains("2 -> 3"), "{text}");
}

/// A client on a terminal of its own, and what it writes there.
struct Terminal {
    child: Child,
    written: mpsc::Receiver<u8>,
    text: String,
}

impl Terminal {
    fn run(server: &Server, arguments: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = File::options().read(true).write(true).open(name).unwrap();
        let mut command = Command::new(binary::reborn());
        command.args(arguments).arg("--control").arg(server.control().unwrap());
        command.stdin(Stdio::null()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let child = command.spawn().unwrap();
        drop(command);
        let (bytes, written) = mpsc::channel();
        thread::spawn(move || {
            // The end of the last process on the terminal is an error on this side.
            for byte in BufReader::new(File::from(master)).bytes().map_while(Result::ok) {
                let _ = bytes.send(byte);
            }
        });
        Self { child, written, text: String::new() }
    }

    /// Waits until this text has been written.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.text.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            match self.written.recv_timeout(left) {
                Ok(byte) => self.text.push(byte.into()),
                Err(error) => panic!("{text:?} was not written ({error}): {:?}", self.text),
            }
        }
    }

    fn ended(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_reload_that_waits_shows_its_stage_on_a_terminal_and_nothing_without_one() {
    let server = Reborn::new().demo().probation_ms(5000).start();
    let mut terminal = Terminal::run(&server, &["reload"]);
    terminal.wait_for("its probation runs (pid ");
    terminal.wait_for("reloaded: generation 1");
    assert_eq!(terminal.ended(), Some(0));
    let output = server.reload();
    output.assert_success();
    assert_eq!(output.stderr, "");
}

#[test]
fn watching_shows_a_reload_happen_and_ends_with_the_server() {
    let server = Reborn::new().demo().probation_ms(5000).start();
    server.command(["status", "--watch"]).assert_code(2).assert_stderr("--watch is for a terminal");
    let mut terminal = Terminal::run(&server, &["status", "--watch"]);
    terminal.wait_for("generation 1 (pid ");
    let reload = server.reload_in_background();
    terminal.wait_for("a reload is under way: ");
    reload.join().unwrap().assert_success();
    terminal.wait_for("1 -> 2");
    server.stop().assert_success();
    terminal.wait_for("the server has ended");
    assert_eq!(terminal.ended(), Some(0));
}
