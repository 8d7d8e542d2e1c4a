//! A configuration file is read afresh by every generation: a reload changes what is served and where, a bad file fails
//! the reload and nothing else, and `reborn check` tells beforehand.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use smol::block_on;
use tests::load::{Connection, Limits, Load, Request, Target};
use tests::skip::may_change_user;
use tests::{CommandOutput, DEADLINE, Reborn, Server, Signal};

const FILE: &str = "reborn.toml";

/// A server whose configuration, addresses included, is in a file; its name is relative.
fn configured(reborn: Reborn, text: &str) -> Reborn {
    fs::write(reborn.folder().join(FILE), text).unwrap();
    reborn.without_own_address().args(["--config", FILE])
}

fn rewrite(server: &Server, text: &str) {
    fs::write(server.folder().join(FILE), text).unwrap();
}

/// Another address of the same test's own.
fn beside(address: SocketAddr, offset: u16) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port() + offset)
}

fn text(listen: &[String]) -> String {
    format!("demo = true\nprobation = \"0s\"\nlisten = {listen:?}\n")
}

fn open(target: &Target) -> Connection {
    block_on(Connection::open(target, Limits { answer: DEADLINE, ..Limits::default() })).unwrap()
}

fn listeners(server: &Server) -> BTreeSet<String> {
    let status = server.status();
    let listeners = status["listeners"].as_array().unwrap().iter();
    let shown =
        |one: &serde_json::Value| format!("{}={}", one["name"].as_str().unwrap(), one["address"].as_str().unwrap());
    listeners.map(shown).collect()
}

#[test]
fn a_reload_adds_removes_and_renames_listeners_while_the_kept_ones_lose_no_request() {
    let reborn = Reborn::new();
    let (kept, removed, added) = (reborn.address(), beside(reborn.address(), 5000), beside(reborn.address(), 10_000));
    let (old_path, new_path) = (reborn.folder().join("old.sock"), reborn.folder().join("new.sock"));
    let (old_path, new_path) = (old_path.to_str().unwrap(), new_path.to_str().unwrap());
    let first = [format!("kept={kept}"), format!("removed={removed}"), format!("old={old_path}")];
    let server = configured(reborn, &text(&first)).start();
    let load = server.load().paced(8, 400).new_connections_paced(8, 400).start();
    load.wait_for_pid(server.first_pid(), DEADLINE).unwrap();
    let mut on_removed = open(&Target::Tcp(removed));
    block_on(on_removed.exchange(&Request::fast("before"))).unwrap();

    rewrite(&server, &text(&[format!("kept={kept}"), format!("added={added}"), format!("new={new_path}")]));
    let second = server.reload_ok();
    let expected = [format!("kept={kept}"), format!("added={added}"), format!("new=unix:{new_path}")];
    assert_eq!(listeners(&server), BTreeSet::from(expected));
    load.wait_for_pid(second, DEADLINE).unwrap();
    server.wait_single();
    Load::new(Target::Tcp(added)).paced(1, 100).requests(2).run().assert_no_failure();
    Load::new(Target::Unix(new_path.into())).paced(1, 100).requests(2).run().assert_no_failure();
    assert!(std::net::TcpStream::connect(removed).is_err(), "the removed address is free");
    assert!(!fs::exists(old_path).unwrap(), "the removed path is gone");
    let answer = block_on(on_removed.exchange(&Request::fast("after"))).unwrap();
    assert_eq!(answer.pid(), Some(second), "a connection that came by the removed listener goes on");

    // The same address under another name is the same socket, and the removed one can be had again.
    rewrite(&server, &text(&[format!("renamed={kept}"), format!("removed={removed}")]));
    let third = server.reload_ok();
    load.wait_for_pid(third, DEADLINE).unwrap();
    assert_eq!(listeners(&server), BTreeSet::from([format!("renamed={kept}"), format!("removed={removed}")]));
    server.wait_single();
    assert!(!fs::exists(new_path).unwrap());
    load.stop().assert_no_failure();
    server.stop().assert_success();
    server.wait_nothing_left();
}

#[test]
fn the_queue_of_a_removed_listener_is_served_before_it_closes() {
    let reborn = Reborn::new();
    let (kept, removed) = (reborn.address(), beside(reborn.address(), 5000));
    let both = [format!("kept={kept}"), format!("removed={removed}")];
    let server = configured(reborn, &format!("{}connections = 2\n", text(&both))).start();
    server.wait_until("the harness's own connections are gone", |server| server.status()["connections"] == 0);
    // No more than two connections may be there, so that most of them wait in the queue until after the commit.
    let mut busy = open(&Target::Tcp(removed));
    block_on(busy.send(b"GET /?delay=1500 HTTP/1.1\r\nhost: localhost\r\nx-id: busy\r\n\r\n")).unwrap();
    server.wait_until("the request has begun", |server| server.log().contains("request start"));
    let mut queued: Vec<Connection> = (0..5).map(|_| open(&Target::Tcp(removed))).collect();
    for connection in &queued {
        block_on(connection.send(Request::fast("queued").head().as_bytes())).unwrap();
    }
    rewrite(&server, &text(&[format!("kept={kept}")]));
    server.reload_ok();
    for connection in [&mut busy].into_iter().chain(&mut queued) {
        let answer = block_on(connection.answer()).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}\n{}", server.state());
    }
    server.wait_single();
    assert!(std::net::TcpStream::connect(removed).is_err(), "the address is free");
}

#[test]
fn a_successor_that_fails_leaves_the_removed_listener_open_as_if_nothing_had_happened() {
    let reborn = Reborn::new();
    let (kept, removed) = (reborn.address(), beside(reborn.address(), 5000));
    let both = [format!("kept={kept}"), format!("removed={removed}")];
    let server = configured(reborn, &text(&both)).start();
    let load = server.load().also(removed).paced(4, 200).new_connections_paced(4, 200).start();
    load.wait_for_pid(server.first_pid(), DEADLINE).unwrap();
    let taken = std::net::TcpListener::bind(beside(kept, 10_000)).unwrap();
    rewrite(&server, &text(&[format!("kept={kept}"), format!("added={}", taken.local_addr().unwrap())]));
    server.reload().assert_code(1).assert_stderr(&format!("cannot bind {}", taken.local_addr().unwrap()));
    assert_eq!(listeners(&server), BTreeSet::from(both));
    load.wait_until("both are served", |report| report.answered > 100);
    load.stop().assert_no_failure();
}

#[test]
fn a_removed_listener_is_served_through_the_probation_of_a_successor_that_has_no_use_for_it() {
    let reborn = Reborn::new();
    let (kept, removed) = (reborn.address(), beside(reborn.address(), 5000));
    let long_probation = |listen: &[String]| text(listen).replace("\"0s\"", "\"60s\"");
    let server = configured(reborn, &long_probation(&[format!("kept={kept}"), format!("removed={removed}")])).start();
    rewrite(&server, &long_probation(&[format!("kept={kept}")]));
    let reload = server.reload_in_background();
    let mut in_a_row = 0;
    server.wait_until("only the successor accepts on the kept one", |server| {
        in_a_row = if server.ask().pid() == Some(server.first_pid()) { 0 } else { in_a_row + 1 };
        in_a_row == 20
    });
    let answer = block_on(open(&Target::Tcp(removed)).exchange(&Request::fast("meanwhile").last())).unwrap();
    assert_eq!(answer.pid(), Some(server.first_pid()));
    assert!(!reload.is_finished(), "the probation goes on");
    let successor = server.ask().pid().unwrap();
    server.signal_to(successor, Signal::KILL);
    reload.join().unwrap().assert_code(1);
    let answer = block_on(open(&Target::Tcp(removed)).exchange(&Request::fast("afterwards").last())).unwrap();
    assert_eq!(answer.pid(), Some(server.first_pid()));
}

#[test]
fn a_bad_file_fails_the_reload_and_nothing_else_with_its_line_in_the_answer_the_log_and_the_status() {
    let reborn = Reborn::new().notify();
    let good = text(&[format!("http={}", reborn.address())]);
    let server = configured(reborn, &good).start();
    let load = server.load().paced(4, 200).new_connections_paced(2, 50).start();
    load.wait_for_pid(server.first_pid(), DEADLINE).unwrap();
    let cases = [
        ("drain_timeout = \"1s\"\n", r#"reborn.toml:4: unknown key "drain_timeout"; did you mean "drain-timeout"?"#),
        ("idle-timeout = 10\n", r#"reborn.toml:4: idle-timeout "10": not a duration"#),
        ("root = /srv\n", "reborn.toml:4: "),
        ("root = \"/nonexistent\"\n", r#"reborn.toml:4: root "/nonexistent": No such file or directory"#),
    ];
    for (line, reason) in cases {
        rewrite(&server, &format!("{good}{line}"));
        server.reload().assert_code(1).assert_stderr(reason).assert_stderr("generation 1");
        server.wait_until("the log says so too", |server| {
            server.log().lines().any(|line| line.contains("ERROR") && line.contains(reason))
        });
        let status = server.status();
        assert!(status["last_reload"]["failure"].as_str().unwrap().contains(reason), "{status}");
        server.notify().wait_for("a STATUS with the reason", DEADLINE, |message| {
            message.has("READY=1") && message.get("STATUS").is_some_and(|status| status.contains(reason))
        });
        assert_eq!(server.wait_single(), server.first_pid());
    }
    fs::remove_file(server.folder().join(FILE)).unwrap();
    server.reload().assert_code(1).assert_stderr("reborn.toml: the configuration cannot be read: No such file");
    rewrite(&server, &good);
    let new = server.reload_ok();
    load.wait_for_pid(new, DEADLINE).unwrap();
    load.stop().assert_no_failure();
}

#[test]
fn a_reload_changes_what_is_served_and_where_commands_are_taken() {
    let reborn = Reborn::new();
    let address = reborn.address();
    let site = reborn.folder().join("site");
    fs::create_dir(&site).unwrap();
    fs::write(site.join("page.txt"), "published").unwrap();
    let config = |place: &str, served: &str| {
        let places = format!("control = \"run/{place}.sock\"\npid-file = \"run/{place}.pid\"\n");
        format!("{places}listen = \"http={address}\"\nprobation = \"0s\"\n{served}\n")
    };
    let reborn = reborn.default_control().without_pid_file();
    let server = configured(reborn, &config("first", "demo = true")).spawn();
    let command = |verb: &str, place: &str| server.command([verb, "--control", &format!("run/{place}.sock")]);
    server.wait_until("it serves", |_| command("status", "first").is_success());
    let pid_in = |place: &str| {
        let text = fs::read_to_string(server.folder().join(format!("run/{place}.pid"))).ok()?;
        text.trim().parse::<u32>().ok()
    };
    assert_eq!(pid_in("first"), Some(server.first_pid()));

    rewrite(&server, &config("second", "root = \"site\""));
    command("reload", "first").assert_success();
    command("status", "second").assert_success();
    let second = server.wait_single();
    assert_ne!(second, server.first_pid());
    assert_eq!(pid_in("second"), Some(second));
    for left in ["run/first.sock", "run/first.pid"] {
        assert!(!fs::exists(server.folder().join(left)).unwrap(), "{left} is left");
    }
    let mut connection = open(&Target::Tcp(address));
    block_on(connection.send(b"GET /page.txt HTTP/1.1\r\nhost: localhost\r\n\r\n")).unwrap();
    assert_eq!(block_on(connection.answer()).unwrap().text(), "published");
    command("stop", "second").assert_success();
    server.wait_gone();
    assert_eq!(pid_in("second"), None);
}

#[test]
fn check_prints_each_value_with_its_origin_and_touches_nothing() {
    let reborn = Reborn::new();
    let server = reborn.demo().start();
    let before = files(&server);
    let path = server.folder().join("checked.toml");
    fs::write(&path, "idle-timeout = \"5s\"\nhead-timeout = \"5s\"\n").unwrap();
    // The address is taken by the server itself: whoever bound it would fail.
    let listen = format!("http={}", server.address());
    let output = server.command(["check", "--config", "checked.toml", "--head-timeout", "6s", "--listen", &listen]);
    output.assert_success();
    let shows = |value: &str, origin: &str| {
        let mut lines = output.stdout.lines().filter_map(|line| line.split_once(" # "));
        assert!(lines.any(|(left, right)| left.trim_end() == value && right == origin), "{value} {origin}: {output}");
    };
    shows("idle-timeout = \"5s\"", "checked.toml:1");
    shows("head-timeout = \"6s\"", "--head-timeout");
    shows("body-timeout = \"20s\"", "default");
    shows(&format!("listen = [\"{listen}\"]"), "--listen");

    fs::write(&path, "\nidle-timeout = \"5\"\n").unwrap();
    let output = server.command(["check", "--config", "checked.toml", "--pid-file=run/made"]);
    output.assert_code(2).assert_stderr(r#"reborn: checked.toml:2: idle-timeout "5": not a duration"#);
    assert_eq!(output.stdout, "");
    fs::remove_file(path).unwrap();
    server.command(["check", "--pid-file=run/made"]).assert_success();
    assert_eq!(files(&server), before, "nothing was made");
    assert_eq!(server.ask().pid(), Some(server.first_pid()));
}

/// All names in the server's folder.
fn files(server: &Server) -> BTreeSet<String> {
    let names = |folder: &std::path::Path| -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path().display().to_string()).collect()
    };
    let all = names(server.folder()).into_iter().chain(names(&server.folder().join("run")));
    all.collect()
}

#[test]
fn check_refuses_what_serve_would_refuse() {
    let mut refused = vec![
        (
            vec!["--access-log", "nowhere/access.log"],
            "--access-log \"nowhere/access.log\": its folder nowhere: No such file",
        ),
        (vec!["--pid-file", "nowhere/pid"], "--pid-file \"nowhere/pid\": its folder nowhere: No such file"),
        (vec!["--metrics", "127.0.0.1:8080"], "--metrics \"127.0.0.1:8080\": clients are served on"),
        (vec!["--metrics", "127.0.0.1:9", "--listen", "0.0.0.0:9"], "--metrics \"127.0.0.1:9\": clients are served on"),
        (vec!["--listen", "127.0.0.1:9", "--listen", "0.0.0.0:9"], "127.0.0.1:9 and 0.0.0.0:9 exclude each other"),
    ];
    let mut reborn = Reborn::new().demo();
    if may_change_user() {
        refused.push((vec!["--root", "closed"], "--root \"closed\": Permission denied"));
        refused.push((vec!["--access-log", "/etc/access.log"], "its folder /etc: Permission denied"));
        reborn = reborn.as_nobody();
    }
    let server = reborn.start();
    fs::create_dir(server.folder().join("closed")).unwrap();
    fs::set_permissions(server.folder().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    for (flags, reason) in refused {
        for command in ["check", "serve"] {
            server.command([&[command][..], &flags].concat()).assert_code(2).assert_stderr(reason);
        }
    }
    // What the machine does to the unit's view of it is said where it may be the cause.
    let hint = "with PrivateTmp= the unit has a folder of its own there";
    for flag in ["--root", "--config"] {
        for (id, is_said) in [("", false), ("0123456789abcdef0123456789abcdef", true)] {
            let mut command = Command::new(server.program());
            command.args(["check", flag, "/tmp/reborn-nowhere"]).env("INVOCATION_ID", id);
            let output = CommandOutput::of(&mut command);
            assert_eq!(output.assert_code(2).stderr.contains(hint), is_said, "{output}");
        }
    }
}

#[test]
fn an_address_that_is_taken_is_told_with_who_asked_for_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let flag = Reborn::new().listen(&format!("taken={taken}")).spawn();
    flag.wait_end(flag.first_pid());
    let expected = format!("cannot bind {taken}: Address already in use (os error 98) (asked for by --listen)");
    assert!(flag.log().contains(&expected), "{}", flag.log());
    let variable = Reborn::new().env("REBORN_METRICS", taken.to_string()).spawn();
    variable.wait_end(variable.first_pid());
    assert!(variable.log().contains("(asked for by REBORN_METRICS)"), "{}", variable.log());
    let reborn = Reborn::new().demo();
    let address = reborn.address();
    let server = configured(reborn, &format!("listen = [\"http={address}\"]")).start();
    rewrite(&server, &format!("\nlisten = [\"http={address}\", \"taken={taken}\"]"));
    server.reload().assert_code(1).assert_stderr("(asked for by reborn.toml:2: listen)");
}

#[test]
fn a_listen_that_inherited_sockets_override_is_warned_of() {
    let reborn = Reborn::new().demo();
    let address = reborn.address();
    let reborn = reborn.without_own_address().launch([
        "--socket",
        &address.to_string(),
        "--listen-pid",
        "none",
        "--names",
        "http",
    ]);
    let server = reborn.listen("http=127.0.0.1:9").start();
    let warning = format!(
        "listen: http=127.0.0.1:9 has no effect: systemd (or systemfd) gave the listener \"http\" on {address}"
    );
    assert!(server.log().contains(&warning), "{}", server.log());
}
