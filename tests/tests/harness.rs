//! The harness keeps what it promises: it starts the real binary, sees every process of it, replaces its program, and
//! leaves nothing behind.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tests::{DEADLINE, Ended, Mode, Process, Reborn, Signal, Version, procfs::Family, skip::may_change_user};

#[test]
fn a_server_is_started_reloaded_under_load_and_stopped() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let load = server.load().paced(4, 200).start();
    let old = server.pid();
    assert_eq!((old, server.generation(), server.ask().pid()), (server.first_pid(), 1, Some(old)));
    load.wait_for_pid(old, DEADLINE).unwrap();
    load.mark_reload();
    let new = server.reload_ok();
    load.wait_for_pid(new, DEADLINE).unwrap();
    assert_eq!((server.generation(), server.wait_end(old)), (2, Ended::Code(0)));
    assert_eq!(server.wait_single(), new);
    load.stop().assert_no_failure();
    server.stop().assert_success();
    assert_eq!(server.ended(new), Some(Ended::Code(0)));
}

#[test]
fn a_signal_reloads_too() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let new = server.reload_by(Signal::HUP);
    assert_ne!(new, server.first_pid());
    server.wait_until("the new one answers", |server| server.ask().pid() == Some(new));
}

#[test]
fn nothing_is_left_of_a_server_that_is_dropped() {
    let server = Reborn::new().demo().arg("--probation").arg("30s").start();
    server.signal(Signal::HUP);
    server.wait_until("two generations", |server| server.generations().len() == 2);
    let folder = server.folder().to_owned();
    let processes: Vec<_> = server.generations().into_iter().map(|pid| Process::open(pid).unwrap()).collect();
    drop(server);
    assert!(processes.iter().all(|process| !process.is_alive()) && !folder.exists());
}

#[test]
fn each_broken_version_is_started_and_leaves_the_old_one_serving() {
    let exits = |code| Version::Broken(Mode::Exits { code, words: "these are its words".into() });
    let server = Reborn::new().demo().probation_ms(1000).arg("--ready-timeout").arg("5s").start();
    let old = server.pid();
    let versions = [
        (Version::Missing, 0),
        (Version::NotExecutable, 0),
        (Version::NotAProgram, 0),
        (exits(0), 1),
        (exits(1), 1),
        (Version::Broken(Mode::KilledBy(9)), 1),
        (Version::Broken(Mode::Hangs), 1),
        (Version::Broken(Mode::LeavesAChild), 1),
        (Version::Broken(Mode::Fails("no luck today".into())), 1),
        (Version::Broken(Mode::DiesReady { code: 7, ms: 50 }), 1),
        (Version::Broken(Mode::of_the_future()), 1),
        (Version::Broken(Mode::Speaks("nonsense".into())), 1),
    ];
    for (version, starts) in versions {
        let before = server.broken_pids().len();
        server.replace_binary(&version);
        server.reload().assert_code(1);
        assert_eq!(server.broken_pids().len(), before + starts, "{version:?}: {}", server.state());
        assert_eq!((server.pid(), server.ask().pid()), (old, Some(old)), "{version:?}");
    }
    let log = server.log();
    assert!(log.contains("these are its words") && log.contains("no luck today"), "{log}");
    server.replace_binary(&Version::Differing);
    assert_ne!(server.reload_ok(), old);
}

#[test]
fn a_reload_can_be_held_at_the_gate_before_the_successors_first_word() {
    let server = Reborn::new().demo().probation_ms(0).start();
    server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
    server.signal(Signal::HUP);
    let held = server.wait_broken(0);
    assert_eq!(server.status()["state"], "reloading");
    server.open_gate();
    server.wait_until("the held one has taken over", |server| server.pid() == held);
}

#[test]
fn a_switched_release_link_is_followed() {
    let server = Reborn::new().demo().probation_ms(0).through_release_link().start();
    server.switch_release("2", &Version::Differing);
    let pid = server.reload_ok();
    let executable = tests::procfs::executable(pid).unwrap();
    assert_eq!(executable, server.folder().join("releases/2/reborn"));
}

#[test]
fn a_server_can_run_as_nobody() {
    if !may_change_user() {
        return;
    }
    let server = Reborn::new().demo().probation_ms(0).as_nobody().start();
    let pid = server.reload_ok();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
    server.stop().assert_success();
}

#[test]
fn a_server_can_be_started_with_sockets_and_after_a_prelude() {
    let server = Reborn::new().demo().without_own_address();
    let address = server.address().to_string();
    let launch = ["--socket", &address, "--names", "http"];
    let server = server.launch(launch).prelude("ulimit -S -n 256; exec 7</dev/null").start();
    assert_eq!(server.ask().pid(), Some(server.first_pid()));
    assert_eq!(server.status()["listeners"][0]["address"], address.as_str());
}

#[test]
fn the_notify_socket_sees_the_server_become_ready() {
    let server = Reborn::new().demo().notify().start();
    let ready = server.notify().wait_for("READY=1", DEADLINE, |message| message.has("READY=1"));
    assert_eq!(ready.pid, server.first_pid());
}

#[test]
fn a_server_that_cannot_start_is_seen_to_end() {
    let server = Reborn::new().arg("--no-such-flag").spawn();
    assert_eq!(server.wait_end(server.first_pid()), Ended::Code(2));
    assert!(server.log().contains("--no-such-flag"));
    let family = Family::new("no such marker");
    family.kill(Duration::ZERO);
    assert!(family.alive().is_empty() && server.family().zombies().is_empty());
}
