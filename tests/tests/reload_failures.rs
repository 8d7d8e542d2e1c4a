//! Each way in which a new version can fail leaves the old one serving under load, says why, loses no request, and
//! does not stand in the way of the next reload.
//!
//! Requests on connections that a killed successor had itself accepted end with it; they are told apart by `x-pid`.

#![allow(clippy::unwrap_used)]

use tests::{
    DEADLINE, Mode, Process, Reborn, Server, Signal, Version,
    load::{Failure, Report, Running},
    skip::may_change_user,
};

/// The old generation under load: keep-alive clients and new connections.
fn under_load(server: &Server) -> Running {
    let load = server.load().paced(4, 200).new_connections_paced(2, 50).start();
    load.wait_for_pid(server.first_pid(), DEADLINE).unwrap();
    load
}

/// Reloads into this version, which must fail for these reasons, and then into one that works.
#[track_caller]
fn fails(version: &Version, reasons: &[&str]) {
    fails_with(&["--probation", "100ms"], version, reasons);
}

/// The same, with these flags.
#[track_caller]
fn fails_with(flags: &[&str], version: &Version, reasons: &[&str]) {
    let reborn = Reborn::new().demo().args(flags);
    let (server, report) = fails_on(reborn.start(), version, reasons);
    report.assert_no_failure();
    server.stop().assert_success();
    server.wait_nothing_left();
}

#[track_caller]
fn fails_on(server: Server, version: &Version, reasons: &[&str]) -> (Server, Report) {
    let (old, load) = (server.pid(), under_load(&server));
    server.replace_binary(version);
    let output = server.reload();
    output.assert_code(1).assert_stderr(&format!("generation 1 (pid {old}) still serves"));
    for reason in reasons {
        output.assert_stderr(reason);
    }
    assert_eq!(output.stdout, "", "{output}");
    let told = |log: &str| log.contains("ERROR") && reasons.iter().all(|reason| log.contains(reason));
    // The log has a thread of its own, which may come after the answer.
    server.wait_until("the log says so too", |server| told(&server.log()));
    let status = server.status();
    assert_eq!((status["pid"].as_u64(), status["state"].as_str()), (Some(old.into()), Some("serving")), "{status}");
    let failure = status["last_reload"]["failure"].as_str().unwrap();
    assert!(reasons.iter().all(|reason| failure.contains(reason)), "{status}");
    assert_eq!(server.pid_in_file(), Some(old));
    assert!(server.family().zombies().is_empty(), "{}", server.state());

    server.replace_binary(&Version::Differing);
    let new = server.reload_ok();
    load.wait_for_pid(new, DEADLINE).unwrap();
    server.wait_until("the old one has ended", |server| server.ended(old).is_some());
    let report = load.stop();
    (server, report)
}

fn broken(mode: Mode) -> Version {
    Version::Broken(mode)
}

#[test]
fn a_missing_version_leaves_the_old_one_serving() {
    fails(&Version::Missing, &["cannot start", "/reborn", "No such file or directory"]);
}

#[test]
fn a_version_that_may_not_be_executed_leaves_the_old_one_serving() {
    fails(&Version::NotExecutable, &["cannot start", "Permission denied"]);
}

#[test]
fn a_file_that_is_no_program_leaves_the_old_one_serving() {
    fails(&Version::NotAProgram, &["cannot start", "Exec format error"]);
}

#[test]
fn a_version_that_exits_with_success_leaves_the_old_one_serving() {
    let mode = Mode::Exits { code: 0, words: String::new() };
    fails(&broken(mode), &["exited with status 0 before it was ready", "what it printed is in"]);
}

#[test]
fn a_version_that_exits_with_a_failure_leaves_the_old_one_serving() {
    let mode = Mode::Exits { code: 78, words: "the words of the new version".into() };
    let server = Reborn::new().demo().probation_ms(100).start();
    let (server, report) = fails_on(server, &broken(mode), &["exited with status 78 before it was ready", "/log"]);
    report.assert_no_failure();
    assert!(server.log().contains("the words of the new version"));
}

#[test]
fn a_version_that_is_killed_leaves_the_old_one_serving() {
    fails(&broken(Mode::KilledBy(6)), &["was killed by SIGABRT (signal 6) before it was ready"]);
}

#[test]
fn a_version_that_hangs_leaves_the_old_one_serving() {
    fails_with(&["--ready-timeout", "2s"], &broken(Mode::Hangs), &["was not ready within 2s", "was killed"]);
}

#[test]
fn a_version_that_takes_everything_and_hangs_leaves_the_old_one_serving() {
    let mode = Mode::of_the_present_and_stuck();
    fails_with(&["--ready-timeout", "2s"], &broken(mode), &["was not ready within 2s", "was killed"]);
}

#[test]
fn a_version_that_exits_and_leaves_its_output_to_a_grandchild_leaves_the_old_one_serving() {
    let server = Reborn::new().demo().probation_ms(100).start();
    let reasons = ["exited with status 1 before it was ready"];
    let (_server, report) = fails_on(server, &broken(Mode::LeavesAChild), &reasons);
    report.assert_no_failure();
}

#[test]
fn a_version_that_says_why_it_cannot_serve_is_quoted_and_leaves_the_old_one_serving() {
    fails(&broken(Mode::Fails("the licence has expired".into())), &["cannot serve: the licence has expired"]);
}

#[test]
fn a_version_of_another_protocol_leaves_the_old_one_serving() {
    fails(&broken(Mode::of_the_future()), &["no common protocol version", "the other 900 to 901"]);
}

#[test]
fn a_version_that_talks_nonsense_leaves_the_old_one_serving() {
    fails(&broken(Mode::Speaks("nonsense".into())), &["does not speak the handover's language"]);
}

#[test]
fn a_version_that_is_ready_and_dies_within_the_probation_leaves_the_old_one_serving() {
    let mode = Mode::DiesReady { code: 9, ms: 500 };
    fails_with(&["--probation", "5s"], &broken(mode), &["exited with status 9 during its probation"]);
}

#[test]
fn a_configuration_that_the_new_version_refuses_leaves_the_old_one_serving() {
    let reborn = Reborn::new().demo().probation_ms(100);
    let root = reborn.folder().join("www");
    std::fs::create_dir(&root).unwrap();
    let server = reborn.arg("--root").arg(&root).start();
    std::fs::remove_dir(&root).unwrap();
    let load = under_load(&server);
    let old = server.first_pid();
    server.reload().assert_code(1).assert_stderr("cannot serve: --root");
    let words = format!("--root \"{}\"", root.display());
    server.wait_until("the log says so too", |server| server.log().contains(&words));
    std::fs::create_dir(&root).unwrap();
    let new = server.reload_ok();
    load.wait_for_pid(new, DEADLINE).unwrap();
    assert_ne!(new, old);
    load.stop().assert_no_failure();
}

#[test]
fn a_successor_killed_in_its_probation_takes_only_its_own_connections_with_it() {
    let server = Reborn::new().demo().args(["--probation", "1m"]).start();
    let (old, load) = (server.first_pid(), under_load(&server));
    let reload = server.reload_in_background();
    server.wait_until("the successor answers new connections", |server| {
        load.report().pids.keys().any(|pid| *pid != old) && server.generations().len() == 2
    });
    let successor = server.generations().into_iter().find(|pid| *pid != old).unwrap();
    server.signal_to(successor, Signal::KILL);
    let output = reload.join().unwrap();
    output.assert_code(1).assert_stderr("was killed by SIGKILL (signal 9) during its probation");
    // A new connection is the old generation's again.
    assert_eq!(server.ask().pid(), Some(old));
    let report = load.stop();
    assert_eq!(report.failed, report.failed_of(successor) + report.failed_of_nobody(), "{report}");
    assert_eq!((report.failed_by(Failure::ConnectRefused), report.failed_of(old)), (0, 0), "{report}");
    assert_eq!(server.pid(), old);
}

#[test]
fn a_successor_that_hangs_in_its_probation_is_killed_and_the_old_one_serves() {
    let server = Reborn::new().demo().probation_ms(5000).start();
    let old = server.first_pid();
    let reload = server.reload_in_background();
    server.wait_until("the successor accepts", |server| server.ask().pid() != Some(old));
    let successor = server.generations().into_iter().find(|pid| *pid != old).unwrap();
    server.signal_to(successor, Signal::STOP);
    let output = reload.join().unwrap();
    output.assert_code(1).assert_stderr("hangs: neither its event loop nor its probe answered within 2s");
    assert_eq!((server.pid(), server.ask().pid()), (old, Some(old)));
    assert!(!Process::open(successor).is_some_and(|process| process.is_alive()));
    assert_ne!(server.reload_ok(), old);
}

#[test]
fn requests_are_answered_while_a_new_version_initialises_however_long_it_takes() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let (old, load) = (server.first_pid(), under_load(&server));
    server.replace_binary(&broken(Mode::WaitsAtGate));
    let reload = server.reload_in_background();
    let held = server.wait_broken(0);
    let before = load.report().answered;
    let report = load.wait_until("many more requests are answered", |report| report.answered > before + 100);
    assert_eq!(report.pids.keys().collect::<Vec<_>>(), [&old], "{report}");
    server.open_gate();
    reload.join().unwrap().assert_success();
    load.wait_for_pid(held, DEADLINE).unwrap();
    load.stop().assert_no_failure();
}

#[test]
fn a_failed_reload_by_a_signal_leaves_the_old_one_serving_and_says_why_in_the_log() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let (old, load) = (server.first_pid(), under_load(&server));
    server.replace_binary(&Version::Missing);
    server.signal(Signal::HUP);
    server.wait_until("the log says why", |server| server.log().contains("reload failed: cannot start"));
    server.replace_binary(&Version::Current);
    let new = server.reload_by(Signal::USR2);
    load.wait_for_pid(new, DEADLINE).unwrap();
    assert_ne!(new, old);
    load.stop().assert_no_failure();
}

#[test]
fn many_failed_reloads_leave_neither_descriptors_nor_processes_behind() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let process = Process::open(server.first_pid()).unwrap();
    let versions = [
        Version::Missing,
        broken(Mode::Exits { code: 1, words: String::new() }),
        broken(Mode::Fails("no".into())),
        broken(Mode::Speaks("nonsense".into())),
    ];
    let fail = |version: &Version| {
        server.replace_binary(version);
        server.reload().assert_code(1);
    };
    versions.iter().for_each(fail);
    // The commands' own connections close a moment after their answers.
    let before = process.fds().len();
    for _ in 0..3 {
        versions.iter().for_each(fail);
    }
    server.wait_until("no descriptor more is open than before", |_| process.fds().len() <= before);
    assert!(server.family().zombies().is_empty() && server.generations() == [server.first_pid()], "{}", server.state());
}

#[test]
fn a_failed_reload_notifies_the_service_manager_that_the_old_one_is_ready_again() {
    let server = Reborn::new().demo().probation_ms(0).notify().start();
    server.replace_binary(&Version::Missing);
    server.reload().assert_code(1);
    let says_why = |status: &str| status.contains("reload failed") && status.contains("cannot start");
    let message = server.notify().wait_for("READY=1 with the reason", DEADLINE, |message| {
        message.has("READY=1") && message.get("STATUS").is_some_and(says_why)
    });
    assert_eq!(message.pid, server.first_pid());
    let messages = server.notify().messages();
    let of_reload = messages.iter().position(|message| message.has("RELOADING=1")).unwrap();
    let of_failure = messages.iter().position(|other| *other == message).unwrap();
    assert!(of_reload < of_failure && messages[of_reload].get("MONOTONIC_USEC").is_some(), "{messages:#?}");
    assert!(messages.iter().all(|message| message.get("MAINPID").is_none()), "{messages:#?}");
}

#[test]
fn a_failed_reload_of_nobodys_server_leaves_it_serving() {
    if !may_change_user() {
        return;
    }
    let server = Reborn::new().demo().probation_ms(5000).as_nobody().start();
    let mode = Mode::DiesReady { code: 3, ms: 100 };
    let (_server, report) = fails_on(server, &broken(mode), &["exited with status 3 during its probation"]);
    report.assert_no_failure();
}
