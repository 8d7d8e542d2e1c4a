//! A new version that cannot serve, on a real systemd: `systemctl reload` fails, says why, and changes nothing else.

use tests::lab::{DEADLINE, Service, UNIT};

/// One way to fail: its name, what the version does instead of serving, and words that its reason must hold.
struct Version {
    name: &'static str,
    script: &'static str,
    reason: &'static str,
}

const VERSIONS: [Version; 6] = [
    Version { name: "exits with 3", script: "exit 3", reason: "status 3" },
    Version { name: "exits with 0", script: "exit 0", reason: "status 0" },
    Version { name: "is killed", script: "kill -9 $$", reason: "SIGKILL" },
    Version { name: "hangs", script: "exec sleep 1000", reason: "ready" },
    Version { name: "is no server", script: "exec cat /proc/self/status", reason: "status 0" },
    Version { name: "refuses its flags", script: "exec $good \"$@\" --no-such-flag", reason: "'--no-such-flag'" },
];

/// Waits until the failure is explained where an operator looks: in the status and in the journal.
#[track_caller]
fn wait_explained(service: &Service, version: &str, reason: &str) {
    let explains = |text: &str| text.contains("fail") && text.contains(reason);
    let wait = |place: &str, told: &dyn Fn() -> bool| {
        service.lab.wait_until(&format!("{version}: the {place} names {reason:?}"), DEADLINE, told);
    };
    wait("status", &|| explains(&service.status()));
    wait("journal", &|| {
        let journal = service.lab.journal(UNIT);
        journal.lines().any(|line| line.contains("reborn[") && explains(line))
    });
}

#[test]
fn each_failing_version_leaves_the_old_one_serving_and_the_next_reload_works() {
    let Some(service) = Service::start(&["PROBATION=0s", "READY_TIMEOUT=5s"]) else { return };
    for version in VERSIONS {
        let load = service.mixed_load();
        let main = service.main_pid();
        service.install_failing_version(version.script);
        service.reload_badly();
        wait_explained(&service, version.name, version.reason);
        service.install_next_version();
        assert_ne!(service.reload_well(), main, "{}: the next reload works", version.name);
        load.stop().assert_no_failure();
    }
    assert_eq!(service.wait_until_alone(), service.main_pid(), "no failed version is left behind");
    service.assert_no_message_refused();
}

#[test]
fn a_missing_program_leaves_the_old_one_serving() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    let load = service.mixed_load();
    let main = service.main_pid();
    service.remove_program();
    service.reload_badly();
    // The reload command is missing too, so that was systemd's own failure. The server's is another.
    service.signal("HUP", main);
    service.wait_for_status("fail");
    service.assert_serves(main);
    wait_explained(&service, "missing", "/usr/bin/reborn");
    service.install_next_version();
    service.reload_well();
    load.stop().assert_no_failure();
}

#[test]
fn a_version_that_fails_after_a_hangup_signal_is_explained_as_well() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    let load = service.mixed_load();
    let main = service.main_pid();
    service.install_failing_version("exit 5");
    service.signal("HUP", main);
    service.wait_for_status("status 5");
    service.assert_serves(main);
    wait_explained(&service, "exits with 5", "status 5");
    load.stop().assert_no_failure();
}

#[test]
fn a_successor_that_dies_in_its_probation_is_taken_back_with_only_its_own_connections_lost() {
    let Some(service) = Service::start(&["PROBATION=20s"]) else { return };
    let load = service.mixed_load();
    let main = service.main_pid();
    service.install_next_version();
    let mut reload = service.lab.spawn(["systemctl", "reload", UNIT]);
    // Whoever answers beside the main process is the successor, and so it is ready.
    let of_others = |pids: Vec<u32>| pids.into_iter().find(|pid| *pid != main);
    let report =
        load.wait_until("the successor answers", |report| of_others(report.pids.keys().copied().collect()).is_some());
    let successor = of_others(report.pids.into_keys().collect()).expect("it was waited for");
    service.signal("KILL", successor);
    assert!(!reload.wait().expect("it was started here").success(), "the reload failed");
    service.assert_serves(main);
    wait_explained(&service, "died in probation", "SIGKILL");
    let answered = load.report().answered;
    load.wait_until("the old version answers again", |report| report.answered > answered + 200);
    let report = load.stop();
    assert_eq!(report.failed, report.failed_of(successor) + report.failed_of_nobody(), "{report}");
    assert!(report.failed_of_nobody() <= 8, "at most the connections that it had accepted and not answered\n{report}");
    service.lab.edit(UNIT, "probation", "[Service]\nTimeoutStartSec=60\n");
}

#[test]
fn the_unit_is_never_left_reloading() {
    let Some(service) = Service::start(&["PROBATION=0s", "READY_TIMEOUT=300ms"]) else { return };
    let load = service.mixed_load();
    let main = service.main_pid();
    service.install_failing_version("exec sleep 1000");
    for failures in [2, 4, 6] {
        service.reload_badly();
        service.signal("HUP", main);
        service.lab.wait_until("both reloads have failed", DEADLINE, || {
            let journal = service.lab.journal(UNIT);
            let of_main = journal.lines().filter(|line| line.contains(&format!("reborn[{main}]")));
            of_main.filter(|line| line.contains("was not ready within 300ms")).count() == failures
        });
        service.lab.wait_until("the unit is active again", DEADLINE, || {
            service.processes().len() == 1 && service.lab.show(UNIT, "SubState") == "running"
        });
        service.assert_serves(main);
    }
    load.stop().assert_no_failure();
}
