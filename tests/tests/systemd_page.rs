//! `deploy/README.md` as an operator follows it: its files as they stand there, and its commands, on a real systemd.

use std::{fs, path::Path};

use tests::{
    lab::{DEADLINE, Lab, UNIT, install},
    load::Target,
};

/// The files of the page: the place that the first line of each names, and its text.
fn files() -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/README.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let blocks = page.split("\n```").skip(1).step_by(2);
    let files = blocks.filter_map(|block| {
        let (_language, text) = block.split_once('\n')?;
        let place = text.strip_prefix("# ")?.lines().next()?;
        Some((place.split(": ").next()?.to_owned(), format!("{text}\n")))
    });
    files.collect()
}

/// Puts them there; what is edited, with an editor that leaves just the text.
fn put_files(lab: &Lab) {
    let files = files();
    assert!(files.len() >= 6, "{files:?}");
    // Newer ones name a line before the file.
    lab.place("#!/bin/sh\nfor file; do :; done\ncat /opt/text >\"$file\"\n", "/opt/editor");
    for (place, text) in files {
        if let Some(unit) = place.strip_prefix("systemctl edit ") {
            lab.write("/opt/text", &text);
            // systemctl wants a terminal.
            let edit = format!("systemctl edit {unit}");
            lab.sh(&format!("SYSTEMD_EDITOR=/opt/editor script --quiet --return --command '{edit}' /dev/null"));
        } else {
            lab.write(&place, &text);
        }
    }
}

#[test]
fn an_operator_who_follows_the_page_has_what_it_says() {
    let Some(lab) = Lab::boot() else { return };
    install(&lab.path("/"), &["/usr/local"]).assert_success();
    lab.sh("systemd-sysusers /usr/local/lib/sysusers.d/reborn.conf");
    lab.write("/srv/www/index.html", "the page's own site");
    put_files(&lab);
    lab.systemctl(["daemon-reload"]);
    lab.sh("systemctl enable --now reborn.socket");
    lab.sh("systemctl enable --now reborn-local.socket");
    lab.sh("systemctl enable reborn.service");
    let site: Target = "127.0.0.1:8080".parse().expect("an address");
    let local = Target::Unix(lab.path("/run/reborn.sock"));
    for target in [&site, &local] {
        assert_eq!(lab.get(target, "/").as_deref(), Some("the page's own site"), "{target:?}\n{}", lab.state());
    }
    lab.sh("echo secret >/srv/secret && ln -s ../secret /srv/www/link && ln -s .. /srv/www/up");
    for path in ["/link", "/up/secret", "/../secret", "/%2e%2e/secret"] {
        assert_eq!(lab.get(&site, path).as_deref(), Some("not found"), "{path}");
    }

    let checked = lab.sh("reborn check --config /etc/reborn.toml");
    assert!(checked.contains("drain-timeout = \"1h\"") && checked.contains("/etc/reborn.toml:"), "{checked}");
    let first = lab.show(UNIT, "MainPID");
    lab.sh("systemctl reload reborn.service");
    let second = lab.show(UNIT, "MainPID");
    assert_ne!(second, first);
    assert!(lab.sh("reborn status").contains(&format!("(pid {second})")));
    let status = lab.sh("systemctl status reborn");
    assert!(status.contains("Status: \"generation 2"), "{status}");
    lab.wait_until("the journal says so", DEADLINE, || {
        lab.sh("journalctl -u reborn").contains("reloaded: generation 1")
    });
    let score = lab.sh("systemd-analyze security reborn.service");
    assert!(score.contains("1.1 OK"), "{score}");

    lab.sh("systemctl restart reborn.service");
    assert_ne!(lab.show(UNIT, "MainPID"), second);
    lab.sh("systemctl stop reborn.service");
    assert_eq!(lab.show(UNIT, "ActiveState"), "inactive");
    assert_eq!(lab.get(&site, "/").as_deref(), Some("the page's own site"), "the next connection starts it again");
    lab.sh("systemctl stop reborn.socket reborn.service");
    assert_eq!(lab.get(&site, "/"), None);
}
