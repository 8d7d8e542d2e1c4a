//! The service without a socket unit, on a real systemd: its listeners outlive it in systemd's descriptor store.

use tests::lab::{DEADLINE, Lab};
use tests::load::{Crowd, CrowdReport, Failure, Load, Numbers, Running, Target};
use tests::{Version, lab::PROGRAM};

const UNIT: &str = "reborn-fdstore.service";

/// The service, started.
fn start() -> Option<Lab> {
    let lab = Lab::boot()?;
    Version::Current.put(&lab.path(PROGRAM));
    lab.units("deploy/systemd");
    lab.write_pattern("/srv/www/pattern");
    let settings = "REBORN_DEMO=true REBORN_PROBATION=0s REBORN_ROOT=/srv/www";
    lab.edit(UNIT, "settings", &format!("[Service]\nEnvironment={settings}\n"));
    lab.systemctl(["start", UNIT]);
    Some(lab)
}

fn load(lab: &Lab) -> Running {
    let target: Target = "127.0.0.1:8080".parse().expect("an address");
    lab.inside(|| Load::new(target).new_connections_paced(4, 100).start())
}

/// The inode of the one listening socket: a socket that was bound anew has another.
fn inode(lab: &Lab) -> String {
    lab.exec(["awk", "$4 == \"0A\" && $2 ~ /:1F90$/ {print $10}", "/proc/net/tcp"]).stdout
}

fn main_pid(lab: &Lab) -> u32 {
    lab.show(UNIT, "MainPID").parse().expect("systemd shows a number")
}

#[test]
fn a_killed_or_restarted_service_keeps_its_listener_and_refuses_nobody() {
    let Some(lab) = start() else { return };
    let load = load(&lab);
    let (listener, first) = (inode(&lab), main_pid(&lab));
    assert!(load.wait_for_pid(first, DEADLINE).is_some());
    assert_eq!(lab.show(UNIT, "NFileDescriptorStore"), "1");
    assert!(lab.exec(["kill", "-9", &first.to_string()]).status.success());
    lab.wait_until("systemd starts it anew", DEADLINE, || {
        lab.show(UNIT, "NRestarts") == "1" && lab.show(UNIT, "SubState") == "running"
    });
    let second = main_pid(&lab);
    assert!(load.wait_for_pid(second, DEADLINE).is_some());
    assert_eq!(inode(&lab), listener, "after a kill");
    lab.systemctl(["restart", UNIT]);
    assert!(load.wait_for_pid(main_pid(&lab), DEADLINE).is_some());
    assert_eq!(inode(&lab), listener, "after a restart");
    let report = load.stop();
    assert_eq!(report.failed_by(Failure::ConnectRefused), 0, "{report}");
    assert_eq!(report.failed, report.failed_of(first) + report.failed_of_nobody(), "{report}");
}

#[test]
fn a_generation_that_came_by_a_reload_leaves_the_same_listener_behind() {
    let Some(lab) = start() else { return };
    let load = load(&lab);
    let (listener, first) = (inode(&lab), main_pid(&lab));
    lab.systemctl(["reload", UNIT]);
    let second = main_pid(&lab);
    assert_ne!(second, first);
    lab.wait_until("the first has ended", DEADLINE, || !lab.path(format!("/proc/{first}")).exists());
    assert!(lab.exec(["kill", "-9", &second.to_string()]).status.success());
    lab.wait_until("systemd starts it anew", DEADLINE, || {
        lab.show(UNIT, "NRestarts") == "1" && lab.show(UNIT, "SubState") == "running"
    });
    assert!(load.wait_for_pid(main_pid(&lab), DEADLINE).is_some());
    assert_eq!(inode(&lab), listener);
    assert_eq!(lab.show(UNIT, "NFileDescriptorStore"), "1", "it is not stored twice");
    assert_eq!(load.stop().failed_by(Failure::ConnectRefused), 0);
}

#[test]
fn downloads_an_event_stream_and_a_chat_go_through_a_reload() {
    let Some(lab) = start() else { return };
    let target = "127.0.0.1:8080".parse().expect("an address");
    let crowd = lab.inside(|| Crowd::start(&target, Numbers::each(1)));
    let first = main_pid(&lab);
    lab.systemctl(["reload", UNIT]);
    assert_ne!(main_pid(&lab), first);
    lab.wait_until("the first has ended", DEADLINE, || !lab.path(format!("/proc/{first}")).exists());
    assert_eq!(crowd.finish(), CrowdReport { went_on: 5, cut: 0, generations: vec![2] }, "{}", lab.state());
}

#[test]
fn a_stop_lets_go_of_the_listener() {
    let Some(lab) = start() else { return };
    lab.systemctl(["stop", UNIT]);
    assert_eq!(lab.show(UNIT, "Result"), "success");
    assert_eq!(inode(&lab), "", "nobody listens any more");
}
