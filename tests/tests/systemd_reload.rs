//! `systemctl reload` on a real systemd: the new version takes over, systemd follows, and no client notices.

use std::{collections::BTreeSet, fs};

use tests::lab::{DEADLINE, Service, UNIT};
use tests::load::{Crowd, CrowdReport, Numbers};

/// The file that a process runs, told from its replacements.
fn running_file(service: &Service, pid: u32) -> String {
    service.lab.exec(["sha256sum", &format!("/proc/{pid}/exe")]).stdout
}

#[test]
fn the_first_connection_starts_the_service() {
    let Some(service) = Service::install(&["PROBATION=0s"]) else { return };
    assert_eq!(service.main_pid(), 0, "nobody has connected yet");
    let report = service.load(|load| load.new_connections(1).requests(5)).join();
    report.assert_no_failure();
    service.assert_serves(service.main_pid());
    assert_eq!(report.pids.into_keys().collect::<Vec<_>>(), [service.main_pid()]);
}

#[test]
fn a_reload_replaces_the_program_under_load_without_a_failed_request() {
    let Some(service) = Service::start(&["PROBATION=200ms"]) else { return };
    let load = service.mixed_load();
    let old = service.main_pid();
    let old_file = running_file(&service, old);
    assert!(load.wait_for_pid(old, DEADLINE).is_some());
    service.install_next_version();
    let new = service.reload_well();
    assert!(load.wait_for_pid(new, DEADLINE).is_some(), "the new process answers");
    assert_ne!(running_file(&service, new).split_whitespace().next(), old_file.split_whitespace().next());
    assert_eq!(service.wait_until_alone(), new);
    load.stop().assert_no_failure();
    service.assert_serves(new);
    service.assert_no_message_refused();
    let status = service.status();
    assert!(status.contains("generation 2"), "the status names the generation: {status}");
}

#[test]
fn downloads_an_event_stream_and_a_chat_go_through_a_reload_of_a_dynamic_user() {
    let Some(service) = Service::install(&["PROBATION=0s", "ROOT=/srv/www"]) else { return };
    assert_eq!(service.lab.show(UNIT, "DynamicUser"), "yes");
    service.lab.write_pattern("/srv/www/pattern");
    service.lab.systemctl(["start", UNIT]);
    let target = "127.0.0.1:80".parse().expect("an address");
    let crowd = service.lab.inside(|| Crowd::start(&target, Numbers::each(1)));
    let new = service.reload_well();
    assert_eq!(service.wait_until_alone(), new, "nothing keeps the old process");
    assert_eq!(crowd.finish(), CrowdReport { went_on: 5, cut: 0, generations: vec![2] }, "{}", service.lab.state());
    service.assert_serves(new);
    service.assert_no_message_refused();
}

#[test]
fn three_reloads_in_a_row_leave_the_newest_as_main_process() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    let load = service.mixed_load();
    let pids: BTreeSet<u32> = (0..3).map(|_| service.reload_well()).collect();
    assert_eq!(pids.len(), 3);
    let newest = service.wait_until_alone();
    assert!(load.wait_for_pid(newest, DEADLINE).is_some());
    load.stop().assert_no_failure();
    service.assert_serves(newest);
    service.assert_no_message_refused();
}

#[test]
fn twenty_reloads_under_load_lose_no_request_and_no_main_process() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    let load = service.load(|load| load.paced(8, 200).new_connections_paced(4, 50));
    for _ in 0..20 {
        service.install_next_version();
        load.mark_reload();
        let new = service.reload_well();
        assert!(load.wait_for_pid(new, DEADLINE).is_some(), "each new process answers");
    }
    let newest = service.wait_until_alone();
    load.stop().assert_no_failure();
    service.assert_serves(newest);
    service.assert_no_message_refused();
}

#[test]
fn a_plain_hangup_signal_reloads_as_well() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    let load = service.mixed_load();
    let old = service.main_pid();
    service.signal("HUP", old);
    service.lab.wait_until("systemd follows to a new main process", DEADLINE, || service.main_pid() != old);
    let new = service.main_pid();
    assert!(load.wait_for_pid(new, DEADLINE).is_some());
    assert_eq!(service.wait_until_alone(), new);
    load.stop().assert_no_failure();
    service.assert_serves(new);
    assert!(service.lab.journal(UNIT).contains("generation 1"), "the outcome is in the journal");
}

#[test]
fn a_unit_of_type_notify_reload_reloads_by_signal_and_is_never_left_reloading() {
    let Some(service) = Service::install(&["PROBATION=100ms", "READY_TIMEOUT=5s"]) else { return };
    if service.lab.systemd_version() < 253 {
        return; // It came with 253; `just test-systemd trixie` boots one that has it.
    }
    service.lab.edit(UNIT, "type", "[Service]\nType=notify-reload\nExecReload=\n");
    service.lab.systemctl(["start", UNIT]);
    let load = service.mixed_load();
    for _ in 0..3 {
        service.install_next_version();
        let new = service.reload_well();
        assert!(load.wait_for_pid(new, DEADLINE).is_some());
    }
    let main = service.main_pid();
    for script in ["exit 3", "exec sleep 1000"] {
        service.install_failing_version(script);
        // This type has no way to say that a reload failed; the status has.
        assert!(service.reload().status.success(), "{}", service.lab.state());
        service.wait_for_status("the last reload failed");
        service.assert_serves(main);
    }
    service.install_next_version();
    let newest = service.reload_well();
    assert_eq!(service.wait_until_alone(), newest);
    load.stop().assert_no_failure();
    service.assert_serves(newest);
    service.assert_no_message_refused();
}

#[test]
fn systemd_may_reload_and_reexecute_itself_around_reloads() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    let load = service.mixed_load();
    let lab = &service.lab;
    for word in ["daemon-reload", "daemon-reexec"] {
        lab.systemctl([word]);
        // A re-executed PID 1 answers as soon as it has its state back.
        lab.wait_until("systemd answers", DEADLINE, || lab.exec(["systemctl", "is-active", UNIT]).status.success());
        service.reload_well();
    }
    let newest = service.wait_until_alone();
    lab.systemctl(["daemon-reexec"]);
    lab.wait_until("systemd answers", DEADLINE, || lab.exec(["systemctl", "is-active", UNIT]).status.success());
    service.assert_serves(newest);
    load.stop().assert_no_failure();
}

#[test]
fn the_watchdog_is_fed_while_a_successor_starts_slowly_and_over_ten_reloads() {
    let Some(service) = Service::install(&["PROBATION=0s"]) else { return };
    service.lab.edit(UNIT, "watchdog", "[Service]\nWatchdogSec=5\n");
    service.lab.systemctl(["start", UNIT]);
    // Quick requests only: slow ones would keep more old generations than may drain.
    let load = service.load(|load| load.paced(8, 200).new_connections_paced(4, 50));
    service.install_failing_version("sleep 7; exec $good \"$@\"");
    service.reload_well();
    for _ in 0..10 {
        service.install_next_version();
        service.reload_well();
    }
    // Two intervals more, in which the newest process has to feed it by itself.
    let answered = load.report().answered;
    load.wait_until("ten seconds' requests are answered", |report| report.answered > answered + 2500);
    load.stop().assert_no_failure();
    service.assert_serves(service.wait_until_alone());
}

#[test]
fn the_listeners_a_service_was_given_are_all_that_its_successor_inherits() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    let inode = |pid: u32| -> BTreeSet<String> {
        let folder = service.lab.path(format!("/proc/{pid}/fd"));
        let fds = fs::read_dir(folder).expect("the process runs").map(|entry| entry.expect("readable").path());
        fds.filter_map(|fd| fs::read_link(fd).ok()).map(|target| target.to_string_lossy().into_owned()).collect()
    };
    let listening = service.lab.exec(["sh", "-c", "awk '$4 == \"0A\" {print $10}' /proc/net/tcp6"]).stdout;
    let listener = format!("socket:[{listening}]");
    assert!(inode(service.main_pid()).contains(&listener), "{listener}");
    let new = service.reload_well();
    assert!(inode(new).contains(&listener), "the very same socket is served by the successor");
}

#[test]
fn systemd_hears_each_message_in_its_place_and_from_the_right_process() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    service.lab.exec(["systemd-analyze", "log-level", "debug"]);
    let old = service.main_pid();
    let new = service.reload_well();
    let heard = || -> Vec<(u32, String)> {
        let journal = service.lab.exec(["journalctl", "--no-pager"]).stdout;
        journal.lines().filter_map(message).filter(|(pid, _)| *pid == old || *pid == new).collect()
    };
    service.lab.wait_until("the new process is heard", DEADLINE, || heard().iter().any(|(pid, _)| *pid == new));
    let mut heard = heard();
    // The watchdog is fed, and the status told, at any time.
    heard.retain(|(_, fields)| fields != "WATCHDOG=1" && fields != "STATUS");
    heard.dedup();
    let mut wanted = vec![
        (old, "RELOADING=1, MONOTONIC_USEC, STATUS, EXTEND_TIMEOUT_USEC".to_owned()),
        (old, format!("MAINPID={new}, READY=1, STATUS, WATCHDOG=1")),
        (old, "BARRIER=1".to_owned()),
        (new, "STATUS, WATCHDOG=1".to_owned()),
    ];
    if service.lab.systemd_version() < 257 {
        // It takes a barrier without a word.
        wanted.retain(|(_, fields)| fields != "BARRIER=1");
    }
    assert!(heard == wanted, "systemd was to hear {wanted:#?}\nand heard {heard:#?}\n{}", service.lab.state());
    service.assert_serves(new);
}

/// Who sent a message, and its fields (without the values that differ from run to run), from a line of the journal.
fn message(line: &str) -> Option<(u32, String)> {
    if let Some((_, pid)) = line.split_once("Received barrier notification message from PID ") {
        return Some((pid.trim_end_matches('.').parse().ok()?, "BARRIER=1".to_owned()));
    }
    let (_, said) = line.split_once("Got notification message from PID ")?;
    // systemd 252 puts the fields in parentheses, 257 behind a colon.
    let (pid, fields) = said.split_at(said.find(|letter: char| !letter.is_ascii_digit())?);
    let fields = fields.trim_start_matches([' ', '(', ':']).trim_end_matches(')').split(", ").map(|field| match field
        .split_once('=')
    {
        Some((name @ ("STATUS" | "MONOTONIC_USEC" | "EXTEND_TIMEOUT_USEC"), _)) => Some(name),
        // A comma inside a status begins no field.
        Some((name, _)) if name.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_') => Some(field),
        _ => None,
    });
    Some((pid.parse().ok()?, fields.flatten().collect::<Vec<_>>().join(", ")))
}

#[test]
fn a_reload_command_that_a_stop_overtakes_does_not_fail_the_unit() {
    let Some(service) = Service::start(&["PROBATION=5s"]) else { return };
    let mut reload = service.lab.spawn(["systemctl", "reload", UNIT]);
    service.wait_for_status("reloads");
    service.lab.systemctl(["stop", UNIT]);
    reload.wait().expect("it was started here");
    assert_eq!(service.lab.show(UNIT, "Result"), "success", "{}", service.lab.state());
    assert_eq!(service.lab.show(UNIT, "ActiveState"), "inactive");
    assert_eq!(service.processes(), [0; 0], "nothing is left");
}
