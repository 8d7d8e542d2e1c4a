//! The lab keeps its own promises: it boots a real systemd, whose services work, and leaves nothing behind, however it
//! ends. What is tested in it can be believed only as far as this.

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use tests::lab::{DEADLINE, Lab};

const NOTIFIER: &str = "[Service]\nType=notify\nNotifyAccess=all\n\
    ExecStart=/bin/sh -c 'systemd-notify --ready --status=well; exec sleep infinity'\n";

/// The cgroups of labs, on the host, whose holder is the given process.
fn cgroups_of(holder: u32) -> String {
    let list = format!("mount -t cgroup2 cgroup2 /mnt && find /mnt -maxdepth 1 -name reborn-lab-{holder}");
    let found = Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", &list]).output();
    String::from_utf8(found.expect("unshare can be started").stdout).expect("paths are text")
}

fn parent_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let after_name = stat.rsplit_once(") ").expect("a name in parentheses").1;
    after_name.split(' ').nth(1).and_then(|parent| parent.parse().ok()).expect("the second field is the parent")
}

#[test]
fn a_notify_service_becomes_active_in_a_real_systemd() {
    let start = Instant::now();
    let Some(lab) = Lab::boot() else { return };
    println!("booted in {:?}", start.elapsed());
    lab.unit("notifier.service", NOTIFIER);
    lab.systemctl(["start", "notifier.service"]);
    assert_eq!(lab.show("notifier.service", "ActiveState"), "active");
    assert_eq!(lab.show("notifier.service", "StatusText"), "well");
    let main: u32 = lab.show("notifier.service", "MainPID").parse().expect("a pid");
    assert!(lab.exec(["kill", "-9", &main.to_string()]).status.success());
    lab.wait_until("the service has failed", DEADLINE, || lab.show("notifier.service", "ActiveState") == "failed");
    assert_eq!(lab.show("notifier.service", "Result"), "signal");
    assert!(lab.journal("notifier.service").contains("code=killed, status=9/KILL"));
}

#[test]
fn a_lab_has_a_network_of_its_own() {
    let Some(lab) = Lab::boot() else { return };
    let listener = lab.inside(|| TcpListener::bind("127.0.0.1:80").expect("nobody else is in this network"));
    lab.inside(|| TcpStream::connect("127.0.0.1:80").expect("the same network"));
    let outside = listener.local_addr().expect("it is bound");
    // The host may have a server on port 80; this listener's queue shows that the connection was not made to it.
    drop(TcpStream::connect_timeout(&outside, Duration::from_secs(1)));
    listener.set_nonblocking(true).expect("a listener");
    assert!(listener.accept().is_ok(), "the one from inside");
    assert!(listener.accept().is_err(), "none from outside");
}

#[test]
fn a_dropped_lab_leaves_nothing_on_the_host() {
    let Some(lab) = Lab::boot() else { return };
    lab.unit("notifier.service", NOTIFIER);
    lab.systemctl(["start", "notifier.service"]);
    let init = lab.init();
    let holder = parent_of(parent_of(init));
    assert_ne!(cgroups_of(holder), "", "while it runs it has a cgroup");
    drop(lab);
    assert!(!Path::new(&format!("/proc/{init}")).exists());
    assert!(!Path::new(&format!("/proc/{holder}")).exists());
    assert_eq!(cgroups_of(holder), "");
}

#[test]
fn a_lab_whose_holder_is_killed_takes_every_process_with_it() {
    let Some(lab) = Lab::boot() else { return };
    let init = lab.init();
    let holder = parent_of(parent_of(init));
    assert!(Command::new("kill").args(["-9", &holder.to_string()]).status().expect("kill can be started").success());
    let start = Instant::now();
    while Path::new(&format!("/proc/{init}")).exists() {
        assert!(start.elapsed() < DEADLINE, "PID 1 of the lab outlives its holder");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::mem::forget(lab); // (dropped, it would complain that its holder was killed)
    // The next lab removes the cgroup that this one could not.
    drop(Lab::boot());
    assert_eq!(cgroups_of(holder), "");
}
