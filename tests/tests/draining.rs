//! Generations that drain say what they wait for, in the status and where a reload is refused because so many do; and
//! `reborn reload --cut-oldest` is the way out.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tests::load::{Connection, Request};
use tests::{CommandOutput, Ended, Reborn, Server, Signal, binary};

/// As many as drain where nothing else is asked for.
const MAX: usize = 16;

fn draining(server: &Server) -> Vec<Value> {
    server.status()["draining"].as_array().unwrap().clone()
}

/// Waits until each generation that drains has said what it waits for.
#[track_caller]
fn wait_said(server: &Server, count: usize) {
    server.wait_until("each has said what it waits for", |server| {
        let draining = draining(server);
        draining.len() == count && draining.iter().all(|one| !one["waits"].is_null())
    });
}

/// Begins a request that outlasts every deadline here, and returns when its handler runs.
#[track_caller]
fn begin(server: &Server) -> Connection {
    let connection = server.connect();
    let request = Request::slow("slow", Duration::from_secs(60));
    smol::block_on(connection.send(request.head().as_bytes())).unwrap();
    let runs = |one: &Value| one["kind"] == "request" && one["what"] == "/slow";
    server.wait_until("its handler runs", |server| server.status()["waits"].as_array().unwrap().iter().any(runs));
    connection
}

#[test]
fn sixteen_generations_drain_by_default_and_a_further_reload_is_told_what_each_waits_for() {
    let server = Reborn::new().demo().probation_ms(0).args(["--body-timeout", "10m", "--stop-timeout", "1s"]).start();
    let mut pids = vec![];
    let (mut held, mut slow) = (vec![], vec![]);
    for _ in 0..MAX {
        pids.push(server.pid());
        held.push(server.hold());
        slow.push(begin(&server));
        server.reload_ok();
    }
    wait_said(&server, MAX);
    let output = server.reload();
    output.assert_code(1).assert_stderr("16 generations still finish what they have, and 16 may");
    output.assert_stderr("or cut the oldest with `reborn reload --cut-oldest`\n");
    for (number, pid) in (1..).zip(&pids) {
        let line = output.stderr.lines().find(|line| line.starts_with(&format!("  generation {number} (pid {pid}), ")));
        let line = line.unwrap_or_else(|| panic!("{number} in {output}"));
        assert!(line.contains(" old, ends within 9m ") && line.contains("waits for: request 1 (for "), "{line}");
        assert!(line.contains(": /slow)"), "{line}");
    }
    let memory: u64 = draining(&server).iter().filter_map(|one| one["memory_bytes"].as_u64()).sum();
    println!("{MAX} generations that drain occupy {} MiB", memory >> 20);
    assert!(memory > 0 && memory < (MAX as u64) * (64 << 20), "{memory}");
    let status = server.command(["status"]).assert_success().stdout.clone();
    let row = |line: &str| line.starts_with("16 ") && line.contains("request") && line.contains("/slow");
    assert!(status.contains("WAITS FOR") && status.lines().any(row), "{status}");
    for (held, pid) in held.into_iter().zip(pids) {
        held.finish_by(pid);
    }
    server.stop().assert_success();
    server.wait_nothing_left();
    assert_eq!(server.log().matches("cutting 1 connections at the deadline").count(), MAX, "{}", server.log());
    drop(slow);
    server.assert_no_error();
}

#[test]
fn a_reload_that_cuts_the_oldest_ends_that_one_alone_and_says_so_for_ever() {
    let server = Reborn::new().demo().probation_ms(0).args(["--max-draining", "2"]).start();
    let (first, oldest) = (server.pid(), server.hold());
    let second = server.reload_ok();
    let younger = server.hold();
    let third = server.reload_ok();
    wait_said(&server, 2);
    let output = server.command(["reload", "--cut-oldest"]);
    let line = &output.assert_success().stdout;
    let begins = line.starts_with(&format!("reloaded: generation 3 (pid {third}) -> generation 4 "));
    let was_cut = format!("generation 1 (pid {first}) was cut for it");
    assert!(begins && line.ends_with(&format!("; {was_cut}\n")), "{output}");
    assert_eq!(server.wait_end(first), Ended::Code(0));
    assert!(oldest.finish().is_err());
    younger.finish_by(second);
    let log = server.log();
    for words in ["--cut-oldest): generation 1 ", "generation 1 is cut: ", "cutting 1 connections", was_cut.as_str()] {
        assert!(log.contains(words), "{words:?} in {log}");
    }
    assert_eq!(server.status()["last_reload"]["cut"]["pid"], first);
    server.reload_ok();
    let status = server.status();
    assert_eq!((&status["reloads"][2]["cut"]["generation"], &status["reloads"][3]["cut"]), (&json!(1), &Value::Null));
    let text = server.command(["status"]).assert_success().stdout.clone();
    assert!(text.contains(&was_cut), "{text}");
    server.assert_no_error();
}

#[test]
fn where_fewer_drain_than_may_nobody_is_cut() {
    let server = Reborn::new().demo().probation_ms(0).args(["--max-draining", "2"]).start();
    let (old, held) = (server.pid(), server.hold());
    server.reload_ok();
    let output = server.command(["reload", "--cut-oldest"]);
    assert!(!output.assert_success().stdout.contains("was cut"), "{output}");
    assert_eq!(server.status()["last_reload"].get("cut"), None);
    held.finish_by(old);
}

#[test]
fn one_that_hangs_cannot_be_cut_and_the_reload_is_refused() {
    let server = Reborn::new().demo().probation_ms(0).args(["--max-draining", "1"]).start();
    let (old, held) = (server.pid(), server.hold());
    let second = server.reload_ok();
    wait_said(&server, 1);
    server.signal_to(old, Signal::STOP);
    server
        .command(["reload", "--cut-oldest"])
        .assert_code(1)
        .assert_stderr("1 generations still finish what they have");
    assert_eq!(server.pid(), second);
    server.signal_to(old, Signal::CONT);
    assert_eq!(server.wait_end(old), Ended::Code(0));
    assert!(held.finish().is_err());
    server.reload_ok();
}

#[test]
fn a_server_that_would_pass_over_the_wish_to_cut_is_not_asked_to_reload() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let asked = thread::spawn(move || {
        let (stream, line) = loop {
            let (stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            // Somebody looks first whether a server is there.
            if !line.is_empty() {
                break (stream, line);
            }
        };
        let status = json!({
            "reply": "status", "generation": 5, "pid": 50, "version": "0.1.0", "state": "serving", "uptime_ms": 1,
            "connections": 0, "managed": false, "listeners": [], "draining": [{"generation": 1, "pid": 10}],
            "last_reload": null, "control_version": 1,
        });
        writeln!(&stream, "{status}").unwrap();
        line
    });
    let output =
        CommandOutput::of(Command::new(binary::reborn()).args(["reload", "--cut-oldest", "--control"]).arg(&path));
    output.assert_code(1).assert_stderr("generation 5 (pid 50), version 0.1.0, cannot be asked to cut the oldest");
    output.assert_stderr("`kill -9 10` ends the oldest generation, 1");
    assert!(asked.join().unwrap().contains("status"));
}
