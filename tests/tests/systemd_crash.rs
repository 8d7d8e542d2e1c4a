//! Processes that die or hang on a real systemd: it notices, starts the service anew, and the socket refuses nobody.

use std::time::{Duration, Instant};

use tests::lab::{DEADLINE, Service, UNIT};
use tests::load::{Failure, Report};

/// What a person would call at once.
const SOON: Duration = Duration::from_secs(10);

/// Waits until systemd has started the service anew so many times, and it serves.
#[track_caller]
fn wait_for_restart(service: &Service, restarts: &str) {
    service.lab.wait_until("systemd starts the service anew", DEADLINE, || {
        service.lab.show(UNIT, "NRestarts") == restarts && service.lab.show(UNIT, "SubState") == "running"
    });
}

/// Asserts that nothing was lost but what went with the processes that were killed, and that nobody was refused.
#[track_caller]
fn assert_only_of(report: &Report, killed: &[u32]) {
    let of_killed: u64 = killed.iter().map(|pid| report.failed_of(*pid)).sum();
    assert_eq!(report.failed_by(Failure::ConnectRefused), 0, "{report}");
    assert_eq!(report.failed, of_killed + report.failed_of_nobody(), "{report}");
}

#[test]
fn a_new_main_process_that_dies_while_the_old_one_drains_is_noticed_at_once() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    let load = service.load(|load| load.new_connections_paced(4, 100).slow(2, Duration::from_secs(12)));
    let old = service.main_pid();
    service.wait_for_connections(2);
    let new = service.reload_well();
    assert!(load.wait_for_pid(new, DEADLINE).is_some());
    assert!(service.runs(old), "it drains");
    service.signal("KILL", new);
    let start = Instant::now();
    wait_for_restart(&service, "1");
    assert!(start.elapsed() < SOON, "it took {:?}", start.elapsed());
    let newest = service.main_pid();
    assert!(load.wait_for_pid(newest, DEADLINE).is_some());
    assert_eq!(service.wait_until_alone(), newest);
    assert_only_of(&load.stop(), &[old, new]);
}

#[test]
fn an_old_main_process_killed_before_the_commit_leaves_no_orphan() {
    let Some(service) = Service::start(&["PROBATION=20s"]) else { return };
    let load = service.load(|load| load.new_connections_paced(4, 100));
    let old = service.main_pid();
    let mut reload = service.lab.spawn(["systemctl", "reload", UNIT]);
    let report = load.wait_until("the successor answers", |report| report.pids.len() == 2);
    service.signal("KILL", old);
    reload.wait().expect("it was started here");
    wait_for_restart(&service, "1");
    let newest = service.main_pid();
    assert!(load.wait_for_pid(newest, DEADLINE).is_some());
    assert_eq!(service.wait_until_alone(), newest, "the successor is gone");
    let pids: Vec<u32> = report.pids.into_keys().collect();
    assert_only_of(&load.stop(), &pids);
}

#[test]
fn a_main_process_that_hangs_is_killed_and_started_anew() {
    let Some(service) = Service::install(&["PROBATION=0s"]) else { return };
    service.lab.edit(UNIT, "watchdog", "[Service]\nWatchdogSec=5\nTimeoutAbortSec=1\n");
    service.lab.systemctl(["start", UNIT]);
    let load = service.load(|load| load.new_connections_paced(2, 50));
    for restarts in ["1", "2"] {
        let main = service.main_pid();
        assert!(load.wait_for_pid(main, DEADLINE).is_some());
        service.signal("STOP", main);
        wait_for_restart(&service, restarts);
        assert_ne!(service.main_pid(), main);
        assert!(!service.runs(main));
    }
    assert!(service.lab.journal(UNIT).contains("Watchdog timeout"));
    assert_eq!(load.stop().failed_by(Failure::ConnectRefused), 0);
}

#[test]
fn a_crash_loop_keeps_the_socket_and_a_repaired_program_serves_the_queue() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    let main = service.main_pid();
    service.install_failing_version("exit 1");
    service.signal("KILL", main);
    // Far beyond systemd's usual limit of five starts in ten seconds.
    let restarts = || service.lab.show(UNIT, "NRestarts").parse::<u32>().expect("a number");
    service.lab.wait_until("it has crashed seven times", DEADLINE, || restarts() >= 7);
    let load = service.load(|load| load.new_connections(4).requests(40));
    service.lab.wait_until("it has crashed twice more", DEADLINE, || restarts() >= 9);
    assert_eq!(service.lab.show("reborn.socket", "ActiveState"), "active");
    service.install_next_version();
    load.join().assert_no_failure();
    assert_eq!(service.lab.show(UNIT, "SubState"), "running");
}

#[test]
fn systemd_stopped_through_a_chain_of_reloads_finds_the_newest_process_afterwards() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    let load = service.load(|load| load.new_connections_paced(2, 50).paced(4, 100));
    let first = service.main_pid();
    service.signal_init("STOP");
    service.signal("HUP", first);
    let report = load.wait_until("the successor answers", |report| report.pids.len() == 2);
    let second = report.pids.into_keys().find(|pid| *pid != first).expect("two pids");
    // The next reload waits for systemd: only it can say that it has heard of this one.
    service.signal("HUP", first);
    service.lab.wait_until("the barrier's deadline passes, and the successor is told to go on", DEADLINE, || {
        let status = service.lab.exec(["reborn", "status", "--json"]).stdout;
        status.contains(&format!("\"pid\":{second}")) || status.contains(&format!("\"pid\": {second}"))
    });
    assert_eq!(load.report().pids.len(), 2, "no third generation before systemd goes on");
    service.signal_init("CONT");
    let report = load.wait_until("the second reload has happened", |report| report.pids.len() == 3);
    let newest = report.pids.into_keys().find(|pid| ![first, second].contains(pid)).expect("three pids");
    assert_eq!(service.wait_until_alone(), newest);
    service.lab.wait_until("systemd follows to the newest", DEADLINE, || service.main_pid() == newest);
    service.assert_serves(newest);
    load.stop().assert_no_failure();
}
