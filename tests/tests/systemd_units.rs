//! The units in `deploy/systemd` are what systemd accepts without a complaint, and stay as tight as they are said to be.

use tests::lab::{Lab, Said};

/// The highest exposure that `systemd-analyze security` may find, in tenths.
const EXPOSURE_MAX_TENTHS: &str = "11";

/// A lab with the units installed and something executable where they expect the program.
fn lab_with(folder: &str) -> Option<Lab> {
    let lab = Lab::boot()?;
    lab.place("#!/bin/sh\n", "/usr/bin/reborn");
    lab.units(folder);
    Some(lab)
}

#[track_caller]
fn assert_silent(said: &Said) {
    assert!(said.status.success() && said.stdout.is_empty() && said.stderr.is_empty(), "{said:#?}");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let Some(lab) = lab_with("deploy/systemd") else { return };
    let templates = ["reborn@.socket", "reborn-https@.socket", "reborn@.service"];
    for unit in
        ["reborn.socket", "reborn-https.socket", "reborn.service", "reborn-fdstore.service"].iter().chain(&templates)
    {
        let unit = format!("/etc/systemd/system/{unit}");
        assert_silent(&lab.exec(["systemd-analyze", "verify", "--man=no", &unit]));
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_user_units() {
    let Some(lab) = lab_with("deploy/systemd/user") else { return };
    for unit in ["reborn.socket", "reborn.service"] {
        let unit = format!("/etc/systemd/system/{unit}");
        let environment = "XDG_RUNTIME_DIR=/run";
        assert_silent(&lab.exec(["env", environment, "systemd-analyze", "verify", "--user", "--man=no", &unit]));
    }
}

#[test]
fn the_services_exposure_is_at_most_1_1() {
    let Some(lab) = lab_with("deploy/systemd") else { return };
    for unit in ["reborn.service", "reborn-fdstore.service", "reborn@.service"] {
        let unit = format!("/etc/systemd/system/{unit}");
        let threshold = format!("--threshold={EXPOSURE_MAX_TENTHS}");
        let said = lab.exec(["systemd-analyze", "security", "--offline=true", "--no-pager", &threshold, &unit]);
        assert!(said.status.success(), "{unit}: {}", said.stdout);
    }
}

#[test]
fn an_instance_is_the_plain_unit_but_for_its_name() {
    // What an instance has in place of a line of the plain unit's, and what it has beside.
    let address = [("ListenStream=80", "ListenStream=/run/reborn@%i.sock")];
    let secured = [("ListenStream=443", "ListenStream=/run/reborn-https@%i.sock")];
    let beside = ["Environment=REBORN_CONFIG=/etc/reborn/%i.toml"];
    assert_same("reborn.service", "reborn@.service", &[], &beside);
    assert_same("reborn.socket", "reborn@.socket", &address, &[]);
    assert_same("reborn-https.socket", "reborn-https@.socket", &secured, &[]);
}

#[track_caller]
fn assert_same(plain: &str, template: &str, instead: &[(&str, &str)], beside: &[&str]) {
    let lines = |unit: &str| {
        let text = std::fs::read_to_string(format!("../deploy/systemd/{unit}")).expect("a unit is text");
        let said = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.starts_with("Description=");
        text.lines().filter(said).map(str::to_owned).collect::<Vec<_>>()
    };
    let of_an_instance = |line: String| {
        if let Some((_, instance)) = instead.iter().find(|(plain, _)| *plain == line) {
            return (*instance).to_owned();
        }
        let line = line.replace("reborn.socket", "reborn@%i.socket").replace("reborn.service", "reborn@%i.service");
        let folder = ["RuntimeDirectory=reborn", "LogsDirectory=reborn"].contains(&&*line);
        if folder { line + "@%i" } else { line }
    };
    let expected: Vec<String> = lines(plain).into_iter().map(of_an_instance).collect();
    let found: Vec<String> = lines(template).into_iter().filter(|line| !beside.contains(&&**line)).collect();
    assert_eq!(found, expected, "{template}");
    let has = lines(template);
    assert!(beside.iter().all(|line| has.iter().any(|one| one == line)), "{template}: {beside:?}");
}

#[test]
fn every_directive_of_a_unit_is_explained() {
    for entry in walk("../deploy/systemd") {
        let text = std::fs::read_to_string(&entry).expect("a unit is text");
        let mut explained = false;
        for line in text.lines() {
            // One comment may explain the lines that follow it without a gap; Description= speaks for itself.
            explained = line.starts_with('#') || (explained && !line.is_empty() && !line.starts_with('['));
            let needs_it = line.contains('=') && !line.starts_with('#') && !in_plain_words(line);
            assert!(explained || !needs_it, "{}: no comment says why: {line}", entry.display());
        }
    }
}

/// Directives that say what they do, and for which nobody would ask why.
fn in_plain_words(line: &str) -> bool {
    ["Description=", "After=", "WantedBy=", "Backlog=", "KillMode=", "Restart="]
        .iter()
        .any(|plain| line.starts_with(plain))
}

fn walk(folder: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder exists").map(|entry| entry.expect("readable").path());
    entries.flat_map(|path| if path.is_dir() { walk(path.to_str().expect("text")) } else { vec![path] }).collect()
}
