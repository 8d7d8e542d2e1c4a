//! What a unit is told wrongly, and what its sandbox lets it do, on a real systemd: no restart for ever, and an access log
//! where the page says that there can be one.

use std::fs;

use tests::{
    lab::{DEADLINE, Lab, Service, UNIT},
    load::Target,
};

fn target() -> Target {
    "127.0.0.1:80".parse().expect("an address")
}

/// How often the service was started, by whomever.
fn starts(lab: &Lab) -> usize {
    lab.journal(UNIT).matches("Starting ").count()
}

#[test]
fn a_configuration_that_is_refused_is_not_tried_for_ever_and_says_why() {
    let refused = [
        ("ROOT=/srv/missing", "REBORN_ROOT \"/srv/missing\": No such file"),
        ("ACCESS_LOG=/var/log/other.log", "LogsDirectory= gives the unit a folder"),
    ];
    for (setting, reason) in refused {
        let Some(service) = Service::install(&[setting]) else { return };
        let lab = &service.lab;
        assert!(!lab.exec(["systemctl", "start", UNIT]).status.success());
        assert_eq!((starts(lab), lab.show(UNIT, "NRestarts").as_str()), (1, "0"), "{}", lab.journal(UNIT));
        assert!(lab.journal(UNIT).contains(reason), "{}", lab.journal(UNIT));
        // A client that waits tries it again, and is refused in the end instead of waiting for nothing.
        let client = lab.spawn(["curl", "--silent", "http://127.0.0.1/"]);
        lab.wait_until("the socket gives up", DEADLINE, || lab.show("reborn.socket", "ActiveState") == "failed");
        assert!(!client.wait_with_output().expect("curl ends").status.success());
        assert!(starts(lab) <= 22, "{}", starts(lab));
        // Mended, it is started as ever.
        lab.edit(UNIT, "mended", "[Service]\nUnsetEnvironment=REBORN_ROOT REBORN_ACCESS_LOG\n");
        lab.sh("systemctl restart reborn.socket");
        assert!(lab.get(&target(), "/fast").is_some(), "{}", lab.state());
    }
}

#[test]
fn a_crash_is_restarted_as_ever() {
    let Some(service) = Service::start(&[]) else { return };
    for crash in 1..=12 {
        let main = service.main_pid();
        service.signal("KILL", main);
        service.lab.wait_until("it is restarted", DEADLINE, || ![0, main].contains(&service.main_pid()));
        assert_eq!(service.lab.show(UNIT, "NRestarts"), crash.to_string());
    }
    assert!(service.lab.get(&target(), "/fast").is_some(), "{}", service.lab.state());
}

#[test]
fn the_access_log_of_the_page_works_in_the_shipped_units_and_is_rotated_as_it_says() {
    let page = fs::read_to_string("../deploy/README.md").expect("the page");
    let (_, rotate) = page.split_once("# Nothing to do where none of them runs.\n").expect("the recipe");
    let (rotate, _) = rotate.split_once("endscript").expect("its end");
    let Some(service) = Service::start(&["ACCESS_LOG=/var/log/reborn/access.log"]) else { return };
    let lab = &service.lab;
    let main = service.main_pid();
    let lines = |name: &str| {
        let text = lab.exec(["cat", &format!("/var/log/reborn/{name}")]).stdout;
        text.lines().filter(|line| line.contains("GET /fast")).count()
    };
    assert!(lab.get(&target(), "/fast").is_some(), "{}", lab.state());
    lab.wait_until("the line is there", DEADLINE, || lines("access.log") == 1);
    lab.sh("mv /var/log/reborn/access.log /var/log/reborn/access.log.1");
    lab.sh(rotate);
    lab.wait_until("the new file is there", DEADLINE, || {
        lab.exec(["test", "-e", "/var/log/reborn/access.log"]).status.success()
    });
    assert!(lab.get(&target(), "/fast").is_some(), "{}", lab.state());
    lab.wait_until("the line is there", DEADLINE, || lines("access.log") == 1);
    assert_eq!((lines("access.log.1"), service.main_pid()), (1, main), "no reload, no restart");
    lab.systemctl(["stop", "reborn.socket", UNIT]);
    lab.sh(rotate);
    assert_eq!(lab.show(UNIT, "ActiveState"), "inactive");
}
