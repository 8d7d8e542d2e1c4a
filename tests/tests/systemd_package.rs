//! The Debian package on a real systemd: installed, configured, upgraded under load, broken, repaired and removed, as an
//! operator does it with apt-get and dpkg.

use std::fs;

use tests::{
    lab::{DEADLINE, Lab, PROGRAM, Said, Service, UNIT},
    package::Package,
};

/// The file that an operator edits.
const CONFIGURATION: &str = "/etc/reborn/reborn.toml";

#[track_caller]
fn assert_success(said: &Said, lab: &Lab) {
    assert!(said.status.success(), "{said:#?}\n{}", lab.state());
}

/// All files of the package that are there, as paths inside.
fn left_over(lab: &Lab) -> String {
    lab.exec(["find", "/etc", "/usr", "/lib/systemd", "/var/lib/systemd", "-xdev", "-name", "*reborn*"]).stdout
}

#[test]
fn an_upgrade_of_the_package_reloads_under_load_and_a_removal_leaves_nothing() {
    let Some(package) = Package::build() else { return };
    let Some(lab) = Lab::boot() else { return };
    let before = left_over(&lab);

    let first = fs::read(package.version(1, |program| program)).expect("the package was built");
    lab.write("/root/target/debian/reborn_0.0.1-1_any.deb", first);
    let command = "apt-get install ./target/debian/reborn_*.deb";
    let said = lab.sh(&format!("cd /root && DEBIAN_FRONTEND=noninteractive {command}"));
    assert!(said.contains("systemctl enable --now reborn.socket"), "it says what to do next: {said}");
    let idle = lab.exec(["systemctl", "is-active", "reborn.socket", UNIT]).stdout;
    assert_eq!(idle, "inactive\ninactive", "nothing is started that nobody asked for");
    lab.sh("getent group reborn-tls && test -x /usr/lib/reborn/certbot-deploy-hook");
    assert_eq!(lab.show("reborn-https.socket", "LoadState"), "loaded");
    let shown = lab.exec([PROGRAM, "check", "--config", CONFIGURATION]);
    assert!(shown.status.success(), "the installed configuration is right: {shown:?}");

    lab.write(CONFIGURATION, "demo = true\nprobation = \"100ms\"\n");
    lab.systemctl(["enable", "--now", "reborn.socket"]);
    lab.systemctl(["start", UNIT]);
    lab.write("/etc/reborn/blog.toml", "demo = true\nprobation = \"100ms\"\n");
    lab.systemctl(["enable", "--now", "reborn@blog.socket"]);
    lab.systemctl(["start", "reborn@blog.service"]);
    let service = Service { lab };
    let instance = || service.lab.show("reborn@blog.service", "MainPID");
    let first_instance = instance();
    let load = service.mixed_load();
    let first = service.main_pid();
    assert!(load.wait_for_pid(first, DEADLINE).is_some(), "the configuration file is read: it asks for the demo");

    let upgrade = Package::install(&service.lab, &package.version(2, |program| [&*program, b"another build"].concat()));
    assert_success(&upgrade, &service.lab);
    let second = service.main_pid();
    assert_ne!(second, first, "the upgrade has replaced the process");
    let second_instance = instance();
    assert!(!["0", &first_instance].contains(&&*second_instance), "and that of each instance");
    service.lab.sh("curl --fail --silent --unix-socket /run/reborn@blog.sock http://localhost/fast");
    assert!(load.wait_for_pid(second, DEADLINE).is_some());
    service.assert_serves(second);

    // A version that cannot serve, but can ask for the reload.
    service.lab.exec(["cp", PROGRAM, "/opt/reborn"]);
    let broken = b"#!/bin/sh\n[ \"$1\" != reload ] || exec /opt/reborn \"$@\"\necho broken >&2; exit 9\n";
    let failed = Package::install(&service.lab, &package.version(3, |_| broken.to_vec()));
    assert!(!failed.status.success(), "an upgrade that did not take over is no success: {failed:?}");
    assert!(failed.stderr.contains("the old version serves on"), "{failed:?}");
    assert!(service.status().contains("exited with status 9"), "the reason is in the status: {}", service.status());
    service.assert_serves(second);
    assert!(failed.stderr.contains("reborn.service reborn@blog.service"), "all that have not followed: {failed:?}");
    assert_eq!(instance(), second_instance);

    service.lab.sh("cp --remove-destination /opt/reborn /usr/bin/reborn");
    service.lab.sh("dpkg --configure reborn");
    let mended = service.main_pid();
    assert_ne!(mended, second, "the cause is mended, and the reload made up for");

    let repaired =
        Package::install(&service.lab, &package.version(4, |program| [&*program, b"a third build"].concat()));
    assert_success(&repaired, &service.lab);
    assert_ne!(service.main_pid(), mended, "the next upgrade works");
    load.stop().assert_no_failure().assert_no_close();

    assert_removed_without_a_trace(&service.lab, &before);
}

/// Removes the package. `before`: what there was of its files before it was installed.
#[track_caller]
fn assert_removed_without_a_trace(lab: &Lab, before: &str) {
    // A file of the operator's own, which a removal leaves to him.
    lab.sh("rm /etc/reborn/blog.toml");
    assert_success(&lab.exec(["dpkg", "--purge", "reborn"]), lab);
    assert_eq!(left_over(lab), before, "nothing is left");
    let listed = lab.exec(["systemctl", "list-units", "--all", "--no-legend", "--plain", "reborn*"]).stdout;
    assert_eq!(listed, "", "systemd knows nothing of it any more");
    assert!(lab.exec(["pgrep", "reborn"]).stdout.is_empty(), "no process is left");
}
