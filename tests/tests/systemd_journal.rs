//! What the journal of a real systemd knows of the log's lines, beside their text: whose they are, and how reloads ended.

use serde_json::Value;
use tests::lab::Service;

/// The lines that match, as `journalctl` is asked for them in the page.
fn lines(service: &Service, command: &str) -> Vec<Value> {
    service.lab.exec(["journalctl", "--sync"]);
    let text = service.lab.sh(&format!("{command} --output json --no-pager"));
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn messages(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["MESSAGE"].as_str()).collect()
}

#[test]
fn the_journal_knows_each_lines_generation_and_the_outcome_of_each_reload() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    let first = service.main_pid();
    let second = service.reload_well();
    service.install_failing_version("echo broken >&2; exit 9");
    service.reload_badly();
    service.wait_until_alone();

    let of_second = lines(&service, "journalctl -u reborn GENERATION=2");
    let said = messages(&of_second);
    assert!(said.iter().any(|said| said.ends_with(&format!("generation 2 (pid {second}) still serves"))), "{said:?}");
    let of_first = lines(&service, "journalctl -u reborn GENERATION=1");
    let said = messages(&of_first);
    assert!(
        said.iter().any(|said| said.starts_with("generation 1 (pid") && said.contains("serves http on")),
        "{said:?}"
    );
    for line in &of_second {
        let fields = ["_PID", "_SYSTEMD_UNIT", "SYSLOG_IDENTIFIER", "_TRANSPORT"].map(|name| line[name].as_str());
        let pid = second.to_string();
        assert_eq!(fields, [&*pid, "reborn.service", "reborn", "journal"].map(Some), "{line}");
    }

    let succeeded = lines(&service, "journalctl -u reborn RELOAD_OUTCOME=success");
    assert!(matches!(*messages(&succeeded), [one] if one.starts_with("reloaded: generation 1 ")), "{succeeded:?}");
    assert_eq!([&succeeded[0]["GENERATION"], &succeeded[0]["_PID"]], ["1", &first.to_string()]);
    assert_eq!(succeeded[0]["PRIORITY"], "6");
    let failed = lines(&service, "journalctl -u reborn RELOAD_OUTCOME=failure");
    assert!(matches!(*messages(&failed), [one] if one.contains("exited with status 9")), "{failed:?}");
    assert_eq!([&failed[0]["GENERATION"], &failed[0]["PRIORITY"]], ["2", "3"]);
}

#[test]
fn what_a_process_says_that_never_serves_is_found_by_its_unit() {
    let Some(service) = Service::install(&["CONTROL=/proc/none/control.sock"]) else { return };
    for start in 1..=3 {
        assert!(!service.lab.exec(["systemctl", "start", "reborn.service"]).status.success());
        let found = lines(&service, "journalctl -u reborn PRIORITY=3");
        let reasons = messages(&found).iter().filter(|said| said.contains("cannot serve")).count();
        assert!(reasons >= start, "{found:?}");
        service.lab.exec(["systemctl", "reset-failed", "reborn.service"]);
    }
}
