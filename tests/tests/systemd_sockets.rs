//! What systemd hands over and what reborn makes of it: several sockets, and those that it has to refuse by name.

use tests::{
    Version,
    lab::{DEADLINE, Lab, PROGRAM, Service, UNIT},
    load::{Load, Target},
};

/// A lab with the program, for units of the test's own.
fn lab() -> Option<Lab> {
    let lab = Lab::boot()?;
    Version::Current.put(&lab.path(PROGRAM));
    Some(lab)
}

/// A socket unit and the service that it starts. The service runs once: a refusal is final.
fn install(lab: &Lab, name: &str, socket: &str, start: &str) {
    lab.unit(&format!("{name}.socket"), &format!("[Socket]\n{socket}"));
    lab.unit(
        &format!("{name}.service"),
        &format!("[Service]\nType=notify\nRuntimeDirectory={name}\nExecStart={start}\n"),
    );
    lab.systemctl(["start", &format!("{name}.socket")]);
}

/// Asserts that the service does not start, and that the journal names the cause.
#[track_caller]
fn assert_refused(lab: &Lab, service: &str, words: &[&str]) {
    assert!(!lab.exec(["systemctl", "start", service]).status.success(), "{}", lab.state());
    let journal = lab.journal(service);
    let line = journal.lines().find(|line| line.contains("cannot serve"));
    let line = line.unwrap_or_else(|| panic!("no reason is given\n{journal}"));
    assert!(words.iter().all(|word| line.contains(word)), "{line:?} does not hold {words:?}");
}

#[test]
fn sockets_that_are_for_another_process_are_refused_by_the_variable_that_says_so() {
    let Some(lab) = lab() else { return };
    install(&lab, "wrong", "ListenStream=81", "/bin/sh -c 'LISTEN_PID=1 exec /usr/bin/reborn serve'");
    assert_refused(&lab, "wrong.service", &["LISTEN_PID=1"]);
    install(&lab, "stale", "ListenStream=82", "/bin/sh -c 'LISTEN_PIDFDID=7 exec /usr/bin/reborn serve'");
    assert_refused(&lab, "stale.service", &["LISTEN_PIDFDID=7"]);
    // What a forking wrapper does to it.
    install(&lab, "forked", "ListenStream=83", "/bin/sh -c '/usr/bin/reborn serve; exit $?'");
    assert_refused(&lab, "forked.service", &["LISTEN_PID="]);
}

#[test]
fn two_sockets_of_one_name_are_refused_by_that_name() {
    let Some(lab) = lab() else { return };
    let socket = "ListenStream=81\nListenStream=82\nFileDescriptorName=web";
    install(&lab, "double", socket, "/usr/bin/reborn serve");
    assert_refused(&lab, "double.service", &["\"web\"", "3 and 4", "FileDescriptorName="]);
}

#[test]
fn what_is_no_listening_socket_is_refused_by_its_descriptor() {
    let Some(lab) = lab() else { return };
    install(&lab, "fifo", "ListenFIFO=/run/pipe\nFileDescriptorName=pipe", "/usr/bin/reborn serve");
    assert_refused(&lab, "fifo.service", &["descriptor 3", "\"pipe\"", "no socket"]);
    lab.unit("each.socket", "[Socket]\nListenStream=127.0.0.1:81\nAccept=yes");
    lab.unit("each@.service", "[Service]\nExecStart=/usr/bin/reborn serve\n");
    lab.systemctl(["start", "each.socket"]);
    let _connection = lab.inside(|| std::net::TcpStream::connect("127.0.0.1:81").expect("systemd accepts"));
    let journal = || lab.exec(["journalctl", "--no-pager", "--output", "cat"]).stdout;
    lab.wait_until("the connection is refused", DEADLINE, || {
        journal().lines().any(|line| line.contains("descriptor 3") && line.contains("it may be a connection"))
    });
}

#[test]
fn a_second_socket_unit_is_served_under_its_own_name() {
    let Some(service) = Service::install(&["PROBATION=0s"]) else { return };
    let lab = &service.lab;
    let second = "[Socket]\nListenStream=127.0.0.1:81\nFileDescriptorName=local\nService=reborn.service\n";
    lab.unit("reborn-local.socket", second);
    lab.systemctl(["start", "reborn-local.socket"]);
    let target: Target = "127.0.0.1:81".parse().expect("an address");
    let load = lab.inside(|| Load::new(target).new_connections_paced(4, 100).start());
    load.wait_until("it is served", |report| report.answered > 0);
    let new = service.reload_well();
    assert!(load.wait_for_pid(new, DEADLINE).is_some());
    let status = lab.exec(["reborn", "status"]).stdout;
    let is_listed = |name, address| status.lines().any(|line| line.starts_with(name) && line.contains(address));
    assert!(is_listed("http ", "[::]:80") && is_listed("local ", "127.0.0.1:81"), "{status}");
    load.stop().assert_no_failure();
    assert_eq!(lab.show(UNIT, "MainPID"), new.to_string());
}
