//! Units as people write them first, without `Type=notify`, on a real systemd: a reload does not end the service.

use tests::{
    Version,
    lab::{DEADLINE, Lab, PROGRAM},
    load::{Load, Target},
};

const UNIT: &str = "plain.service";
const SERVE: &str = "/usr/bin/reborn serve --demo --probation 100ms --listen 127.0.0.1:8085 --control /run/plain.sock";

/// A lab with a unit of these lines, started without waiting for it, and a load on it.
fn start(service: &str) -> Option<Lab> {
    let lab = Lab::boot()?;
    Version::Current.put(&lab.path(PROGRAM));
    lab.unit(UNIT, &format!("[Service]\n{service}\nRestart=on-failure\n"));
    lab.systemctl(["start", "--no-block", UNIT]);
    lab.wait_until("it serves", DEADLINE, || pid(&lab).is_some());
    Some(lab)
}

/// The pid of the process that answers.
fn pid(lab: &Lab) -> Option<u32> {
    let said = lab.exec(["/usr/bin/reborn", "status", "--json", "--control", "/run/plain.sock"]).stdout;
    said.lines().find_map(|line| line.trim().strip_prefix("\"pid\": ")?.trim_end_matches(',').parse().ok())
}

/// Reloads in each of the ways that there are, under load, and stops.
#[track_caller]
fn assert_reloads(lab: &Lab, state: &str) {
    let target: Target = "127.0.0.1:8085".parse().expect("an address");
    let load = lab.inside(|| Load::new(target).paced(4, 100).new_connections_paced(2, 50).start());
    for reload in [
        "/usr/bin/reborn reload --control /run/plain.sock",
        "systemctl kill --kill-whom=main -s HUP plain",
        "systemctl kill --kill-whom=main -s USR2 plain",
    ] {
        let old = pid(lab);
        lab.sh(reload);
        lab.wait_until("another generation serves", DEADLINE, || pid(lab).is_some_and(|new| Some(new) != old));
        lab.wait_until("the old one is gone", DEADLINE, || {
            old.is_some_and(|old| !lab.path(format!("/proc/{old}")).exists())
        });
        assert_eq!((lab.show(UNIT, "ActiveState").as_str(), lab.show(UNIT, "NRestarts").as_str()), (state, "0"));
    }
    load.stop().assert_no_failure();
    lab.systemctl(["stop", UNIT]);
    assert_eq!(pid(lab), None, "{}", lab.state());
}

#[test]
fn where_systemd_takes_the_main_process_for_the_service_it_stays_as_the_supervisor() {
    for (kind, state) in [("simple", "active"), ("exec", "active"), ("oneshot", "activating")] {
        let restart = if kind == "oneshot" { "RemainAfterExit=yes" } else { "" };
        let Some(lab) = start(&format!("Type={kind}\nExecStart={SERVE}\n{restart}")) else { return };
        assert!(lab.journal(UNIT).contains("as with --foreground: it is the main process of a systemd unit"));
        let main = lab.show(UNIT, "MainPID");
        assert_reloads(&lab, state);
        assert!(lab.journal(UNIT).contains(&format!("reborn[{main}]")), "{}", lab.state());
    }
}

#[test]
fn a_forking_unit_follows_the_pid_file() {
    let start_line =
        format!("/bin/sh -c '{SERVE} --pid-file /run/plain.pid & until [ -s /run/plain.pid ]; do :; done'");
    let Some(lab) = start(&format!("Type=forking\nPIDFile=/run/plain.pid\nExecStart={start_line}")) else { return };
    assert_reloads(&lab, "active");
}
