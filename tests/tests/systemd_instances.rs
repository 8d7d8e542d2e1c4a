//! Several servers on one machine, as instances of the template unit beside the plain one, on a real systemd: each has its
//! address, its configuration and its reloads, and a command is for the one that it names.

use tests::{
    Version,
    lab::{DEADLINE, Lab, PROGRAM},
    load::Target,
};

const UNITS: [&str; 3] = ["reborn.service", "reborn@blog.service", "reborn@shop.service"];

/// A lab with the plain service on port 80 and two instances, started by their sockets.
fn lab_with_instances() -> Option<Lab> {
    let lab = Lab::boot()?;
    Version::Current.put(&lab.path(PROGRAM));
    lab.units("deploy/systemd");
    let demo = "demo = true\nprobation = \"100ms\"\n";
    lab.edit("reborn.service", "settings", "[Service]\nEnvironment=REBORN_DEMO=true\n");
    for (instance, port) in [("blog", 8081), ("shop", 8082)] {
        lab.write(format!("/etc/reborn/{instance}.toml"), demo);
        let address = format!("[Socket]\nListenStream=\nListenStream={port}\n");
        lab.edit(&format!("reborn@{instance}.socket"), "address", &address);
    }
    lab.sh("systemctl enable --now reborn@blog.socket");
    lab.systemctl(["enable", "--now", "reborn.socket", "reborn@shop.socket"]);
    for port in [80, 8081, 8082] {
        assert!(get(&lab, port).is_some(), "{}", lab.state());
    }
    Some(lab)
}

fn get(lab: &Lab, port: u16) -> Option<String> {
    let target: Target = format!("127.0.0.1:{port}").parse().expect("an address");
    lab.get(&target, "/fast")
}

/// The main processes of all three.
fn pids(lab: &Lab) -> [u32; 3] {
    UNITS.map(|unit| lab.show(unit, "MainPID").parse().expect("systemd shows a number"))
}

/// Which of them differ.
fn changed(before: [u32; 3], after: [u32; 3]) -> [bool; 3] {
    [0, 1, 2].map(|unit| before[unit] != after[unit])
}

#[test]
fn a_reload_is_for_the_instance_that_it_names_and_status_lists_all() {
    let Some(lab) = lab_with_instances() else { return };
    let first = pids(&lab);

    let listed = lab.sh("reborn status");
    let rows: Vec<Vec<&str>> = listed.lines().take(4).map(|line| line.split_whitespace().collect()).collect();
    let instances: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(instances, ["INSTANCE", "-", "blog", "shop"], "{listed}");
    let said: Vec<u32> = rows[1..].iter().map(|row| row[2].parse().expect("a pid")).collect();
    assert_eq!(said, first, "{listed}");
    assert!(rows[2].last().is_some_and(|address| address.ends_with(":8081")), "{listed}");
    assert!(listed.ends_with("all of one: reborn status --instance shop"), "{listed}");
    let json: serde_json::Value = serde_json::from_str(&lab.sh("reborn status --json")).expect("it is JSON");
    let json = json.as_array().expect("of several it is an array");
    assert_eq!(json.iter().map(|one| one["instance"].as_str()).collect::<Vec<_>>(), [None, Some("blog"), Some("shop")]);
    assert_eq!(json[1]["control"], "/run/reborn@blog/control.sock");
    assert_eq!(json.iter().map(|one| one["pid"].as_u64()).collect::<Vec<_>>(), first.map(|pid| Some(pid.into())));
    let one = lab.sh("reborn status --instance blog --json");
    assert!(one.starts_with('{') && one.contains(&format!("\"pid\": {}", first[1])), "{one}");

    for command in ["reload", "stop"] {
        let said = lab.exec([PROGRAM, command]);
        assert_eq!(said.status.code(), Some(2), "{said:?}");
        let flags = "--control /run/reborn/control.sock, --instance blog, --instance shop";
        assert!(said.stderr.ends_with(flags), "{said:?}");
    }
    assert_eq!(pids(&lab), first, "nothing was done");

    lab.sh("reborn reload --instance blog");
    let second = pids(&lab);
    assert_eq!(changed(first, second), [false, true, false]);
    lab.systemctl(["reload", "reborn@shop.service"]);
    let third = pids(&lab);
    assert_eq!(changed(second, third), [false, false, true]);
    lab.sh("systemctl reload 'reborn@*.service'");
    let fourth = pids(&lab);
    assert_eq!(changed(third, fourth), [false, true, true]);
    lab.systemctl(["reload", "reborn.service"]);
    assert_eq!(changed(fourth, pids(&lab)), [true, false, false]);
}

#[test]
fn the_end_of_one_server_is_the_end_of_no_other() {
    let Some(lab) = lab_with_instances() else { return };
    let first = pids(&lab);
    // systemd runs `ExecStop=` for a process that died as well: it must not find another server.
    lab.sh(&format!("kill -KILL {}", first[0]));
    lab.wait_until("it is restarted", DEADLINE, || ![0, first[0]].contains(&pids(&lab)[0]));
    assert_eq!(pids(&lab)[1..], first[1..], "{}", lab.state());
    lab.sh(&format!("kill -KILL {}", first[1]));
    lab.wait_until("it is restarted", DEADLINE, || ![0, first[1]].contains(&pids(&lab)[1]));
    let second = pids(&lab);
    assert_eq!(second[2], first[2], "{}", lab.state());

    lab.systemctl(["stop", "reborn.socket", "reborn.service"]);
    assert_eq!(pids(&lab), [0, second[1], second[2]], "{}", lab.state());
    lab.sh("reborn stop --instance blog");
    lab.wait_until("it has ended", DEADLINE, || lab.show(UNITS[1], "ActiveState") == "inactive");
    assert_eq!(pids(&lab)[2], first[2]);
    assert!(get(&lab, 8082).is_some());
    let left = lab.sh("reborn status");
    assert!(left.starts_with(&format!("generation 1 (pid {})", first[2])), "one is shown as one ever was: {left}");
    let all: serde_json::Value = serde_json::from_str(&lab.sh("reborn status --all --json")).expect("it is JSON");
    assert_eq!(all.as_array().map(Vec::len), Some(1));
    let missing = lab.exec([PROGRAM, "status", "--instance", "blog"]);
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");
    // The socket of an instance that was stopped starts it again.
    assert!(get(&lab, 8081).is_some(), "{}", lab.state());
}

#[test]
fn an_instance_is_refused_what_its_own_file_says_wrongly() {
    let Some(lab) = lab_with_instances() else { return };
    let first = pids(&lab);
    let refused = "idle-timeout = \"soon\"";
    lab.write("/etc/reborn/blog.toml", format!("demo = true\n{refused}\n"));
    let checked = lab.exec([PROGRAM, "check", "--config", "/etc/reborn/blog.toml"]);
    assert_eq!(checked.status.code(), Some(2), "{checked:?}");
    assert!(checked.stderr.contains("/etc/reborn/blog.toml:2"), "{checked:?}");
    let reload = lab.exec(["sh", "-c", "systemctl reload reborn@blog.service"]);
    assert!(!reload.status.success(), "{reload:?}");
    assert!(lab.show("reborn@blog.service", "StatusText").contains("reload failed"));
    lab.systemctl(["reload", "reborn@shop.service"]);
    assert_eq!(changed(first, pids(&lab)), [false, false, true]);
    assert!(get(&lab, 8081).is_some(), "the old configuration serves on");
}
