//! `deploy/install`: what it puts in place works, with the paths that it was given, and removing it leaves nothing.

use std::{path::Path, process::Command};

use tests::{
    CommandOutput, DEADLINE,
    lab::{Lab, UNIT, install},
    load::{Load, Target},
};

/// All that is below a folder, folders not.
fn files(folder: &Path) -> Vec<String> {
    let output = CommandOutput::of(Command::new("find").arg(folder).args(["!", "-type", "d", "-printf", "%P %m\\n"]));
    let mut files: Vec<String> = output.stdout.lines().map(str::to_owned).collect();
    files.sort();
    files
}

#[test]
fn a_prefix_gets_the_binary_and_units_that_name_it_and_loses_them_again() {
    let destination = tempfile::tempdir().expect("a temporary folder");
    install(destination.path(), &["/opt/reborn/"]).assert_success();
    let wanted = [
        "bin/reborn 755",
        "lib/reborn/certbot-deploy-hook 755",
        "lib/systemd/system/reborn-fdstore.service 644",
        "lib/systemd/system/reborn-https.socket 644",
        "lib/systemd/system/reborn-https@.socket 644",
        "lib/systemd/system/reborn.service 644",
        "lib/systemd/system/reborn.socket 644",
        "lib/systemd/system/reborn@.service 644",
        "lib/systemd/system/reborn@.socket 644",
        "lib/systemd/user/reborn.service 644",
        "lib/systemd/user/reborn.socket 644",
        "lib/sysusers.d/reborn.conf 644",
    ];
    let wanted = wanted.map(|file| format!("opt/reborn/{file}"));
    assert_eq!(files(destination.path()), wanted);
    for file in wanted.iter().filter_map(|line| line.strip_suffix(".service 644")) {
        let text = std::fs::read_to_string(destination.path().join(format!("{file}.service"))).expect("a unit is text");
        let run: Vec<&str> = text.lines().filter(|line| line.starts_with("Exec")).collect();
        assert!(run.len() == 3 && run.iter().all(|line| line.contains("/opt/reborn/bin/reborn ")), "{file}: {run:?}");
    }
    install(destination.path(), &["--remove", "/opt/reborn"]).assert_success();
    assert_eq!(files(destination.path()), [""; 0]);
    for folder in ["systemd", "sysusers.d", "reborn"] {
        assert!(!destination.path().join("opt/reborn/lib").join(folder).exists(), "not even folders of its own");
    }
}

#[test]
fn a_prefix_that_is_no_absolute_path_is_refused() {
    let destination = tempfile::tempdir().expect("a temporary folder");
    for words in [&["opt"][..], &[], &["--remove"]] {
        install(destination.path(), words).assert_code(2).assert_stderr("usage: ");
    }
    assert_eq!(files(destination.path()), [""; 0]);
}

#[test]
fn what_was_installed_serves_is_upgraded_and_is_removed_without_a_trace() {
    let Some(lab) = Lab::boot() else { return };
    install(&lab.path("/"), &["/usr/local"]).assert_success();
    // It was staged from outside: inside `just install` does that.
    lab.sh("systemd-sysusers /usr/local/lib/sysusers.d/reborn.conf");
    lab.edit(UNIT, "settings", "[Service]\nEnvironment=REBORN_DEMO=true REBORN_PROBATION=0s\n");
    lab.systemctl(["enable", "--now", "reborn.socket"]);
    let target: Target = "127.0.0.1:80".parse().expect("an address");
    let load = lab.inside(|| Load::new(target).new_connections_paced(4, 100).start());
    load.wait_until("the first connection starts it", |report| report.answered > 0);
    let main = || lab.show(UNIT, "MainPID").parse::<u32>().expect("systemd shows a number");
    let user = std::os::unix::fs::MetadataExt::uid(
        &std::fs::metadata(lab.path(format!("/proc/{}", main()))).expect("the service runs"),
    );
    assert!((61184..=65519).contains(&user), "it runs as a dynamic user, not as uid {user}");
    // The binary is replaced while it runs.
    install(&lab.path("/"), &["/usr/local"]).assert_success();
    let old = main();
    lab.systemctl(["reload", UNIT]);
    assert_ne!(main(), old);
    assert!(load.wait_for_pid(main(), DEADLINE).is_some());
    // Root asks and commands it without a word of where it is.
    let status = lab.exec(["reborn", "status"]).stdout;
    assert!(status.contains(&format!("(pid {})", main())), "{status}");
    let old = main();
    let said = lab.exec(["reborn", "reload"]);
    assert!(said.status.success() && main() != old, "{said:#?}");
    load.stop().assert_no_failure();
    lab.systemctl(["disable", "--now", "reborn.socket", UNIT]);
    install(&lab.path("/"), &["--remove", "/usr/local"]).assert_success();
    lab.systemctl(["daemon-reload"]);
    assert_eq!(lab.show(UNIT, "LoadState"), "not-found");
    let left = lab.exec(["find", "/usr/local", "/etc/systemd/system", "-name", "reborn*", "!", "-name", "*.d"]).stdout;
    assert_eq!(left, "");
}

#[test]
fn units_below_a_prefix_of_ones_own_are_linked() {
    let Some(lab) = Lab::boot() else { return };
    install(&lab.path("/"), &["/opt/reborn"]).assert_success();
    lab.sh("systemd-sysusers /opt/reborn/lib/sysusers.d/reborn.conf");
    let link = "systemctl link PREFIX/lib/systemd/system/reborn.*".replace("PREFIX", "/opt/reborn");
    lab.sh(&link);
    lab.systemctl(["start", "reborn.socket"]);
    let target: Target = "127.0.0.1:80".parse().expect("an address");
    assert!(lab.get(&target, "/").expect("it serves").contains("reborn"));
}
