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
    for unit in ["reborn.socket", "reborn-https.socket", "reborn.service", "reborn-fdstore.service"] {
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
    for unit in ["reborn.service", "reborn-fdstore.service"] {
        let unit = format!("/etc/systemd/system/{unit}");
        let threshold = format!("--threshold={EXPOSURE_MAX_TENTHS}");
        let said = lab.exec(["systemd-analyze", "security", "--offline=true", "--no-pager", &threshold, &unit]);
        assert!(said.status.success(), "{unit}: {}", said.stdout);
    }
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
