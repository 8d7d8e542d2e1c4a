//! What a service manager gives and is told: LISTEN_FDS, `-g` with a socket on descriptor 3, and sd_notify messages.

mod support;

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use support::{DEADLINE, Service, ask_tcp, example};

/// The fixture with a listening socket on descriptor 3, started by a shell line that may set variables.
fn with_fd_3(line: &str, arguments: &[&str]) -> (Command, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address").to_string();
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{line} exec \"$0\" \"$@\" 3<&0 0</dev/null")).arg(example("fixture"));
    command.args(arguments);
    command.stdin(OwnedFd::from(listener));
    (command, address)
}

#[test]
fn sockets_of_listen_fds_are_taken_and_handed_on() {
    for line in ["export LISTEN_FDS=1 LISTEN_PID=$$;", "export LISTEN_FDS=1; unset LISTEN_PID;"] {
        let (command, address) = with_fd_3(line, &["echo=127.0.0.1:0"]);
        let service = Service::start_with_stdin(command);
        assert_eq!(service.address("echo"), address);
        service.reload_well();
        assert!(ask_tcp(&address).starts_with("2 "));
    }
}

#[test]
fn sockets_meant_for_another_process_are_refused() {
    for variable in ["LISTEN_PID=1", "LISTEN_PIDFDID=1"] {
        // One that serves all the same is ended, and fails the test.
        let line = format!("export LISTEN_FDS=1 {variable}; exec timeout 30 \"$0\" \"$@\" 3<&0 0</dev/null;");
        let output = with_fd_3(&line, &["echo=127.0.0.1:0"]).0.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(variable), "{variable}: {output:?}");
    }
}

#[test]
fn a_handover_flag_takes_a_listening_socket_on_descriptor_3() {
    let (command, address) = with_fd_3("", &["-g", "echo=127.0.0.1:0"]);
    let service = Service::start_with_stdin(command);
    assert_eq!(service.address("echo"), address);
    service.reload_well();
    assert!(ask_tcp(&address).starts_with("2 "));
}

#[test]
fn the_service_manager_is_told_each_step_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let next = || loop {
        let mut packet = [0; 4096];
        let length = socket.recv(&mut packet).unwrap();
        let text = String::from_utf8(packet[..length].to_vec()).unwrap();
        // How things are may be told at any time.
        if !text.starts_with("STATUS=") {
            return text;
        }
    };
    let mut command = Command::new(example("fixture"));
    command.arg("echo=127.0.0.1:0").env("NOTIFY_SOCKET", &path);
    let service = Service::start(command);
    assert!(next().starts_with("READY=1\nSTATUS=generation 1"));
    assert_eq!(next(), "FDSTORE=1\nFDNAME=echo\n");
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| service.reload_well().to.unwrap());
        let reloading = next();
        assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
        let announcement = next();
        // Read without room for its descriptor, which the kernel then closes: that is the hang-up, and the commit.
        assert_eq!(next().trim_end(), "BARRIER=1");
        let new = reload.join().unwrap();
        assert!(announcement.starts_with(&format!("MAINPID={}\nREADY=1\nSTATUS=", new.pid)), "{announcement}");
    });
    assert_eq!(next(), "FDSTORE=1\nFDNAME=echo\n", "the new main process leaves its copies as well");
    std::fs::write(service.folder.path().join("fail"), "").unwrap();
    let failure = service.reload().failure.unwrap();
    assert!(failure.contains("it was told to fail"), "{failure}");
    assert!(next().starts_with("RELOADING=1\n"));
    let restored = next();
    assert!(restored.starts_with("READY=1\nSTATUS=generation 2") && restored.contains("told to fail"), "{restored}");
    service.client().stop().unwrap();
    assert!(next().starts_with("STOPPING=1\n"));
}

#[test]
fn a_barrier_that_finds_no_room_holds_up_no_reload_for_long() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let read = || socket.recv(&mut [0; 4096]).unwrap();
    let mut command = Command::new(example("fixture"));
    command.arg("echo=127.0.0.1:0").env("NOTIFY_SOCKET", &path);
    let service = Service::start(command);
    // READY and FDSTORE.
    read();
    read();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"x", &path).is_ok() {}
    // Room for RELOADING and MAINPID.
    read();
    read();
    assert_eq!(service.reload_well().to.unwrap().generation, 2);
    assert_eq!(service.status().id.generation, 2);
    let mut packet = [0; 4096];
    while socket.recv(&mut packet).is_ok_and(|length| &packet[..length] != b"BARRIER=1\n") {}
    assert!(
        packet.starts_with(b"BARRIER=1\n"),
        "it comes when there is room, for the one that has been replaced to end"
    );
}

#[test]
fn the_watchdog_is_fed_only_while_the_application_answers_its_probe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = Command::new(example("fixture"));
    command.arg("echo=127.0.0.1:0").env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let service = Service::start(command);
    let is_fed_within = |time| {
        socket.set_read_timeout(Some(time)).unwrap();
        let mut packet = [0; 4096];
        // Other messages come in between, at no such rate; where nothing comes, that is the answer.
        let fed = |_| socket.recv(&mut packet).ok().map(|length| packet[..length].starts_with(b"WATCHDOG=1"));
        (0..20).map_while(fed).any(|fed| fed)
    };
    assert!(is_fed_within(DEADLINE));
    std::fs::write(service.folder.path().join("unwell"), "").unwrap();
    // One that was on its way is taken out first; the probe that follows it takes a second to fail.
    while is_fed_within(Duration::from_millis(1500)) {}
    std::fs::remove_file(service.folder.path().join("unwell")).unwrap();
    assert!(is_fed_within(DEADLINE));
}
