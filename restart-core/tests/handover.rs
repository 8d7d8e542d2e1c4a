//! What one generation hands to the next: sockets of every kind, state, and nothing else.

mod support;

use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use restart_core::control::Answer;
use support::{DEADLINE, Service, ask, ask_tcp, connect_tcp, example, fixture, skip};

#[test]
fn sockets_of_every_kind_are_handed_over_and_keep_their_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    let unix = format!("path=unix:{}", path.display());
    let hidden = format!("reborn-test-{}", std::process::id());
    let hidden_endpoint = format!("hidden=@{hidden}");
    let service =
        fixture(&["four=127.0.0.1:0", "six=[::1]:0", &unix, &hidden_endpoint, "datagrams=udp:127.0.0.1:0"], &[]);
    let before: Vec<String> = service.status().listeners.into_iter().map(|listener| listener.address).collect();
    let inode = std::fs::metadata(&path).unwrap().ino();
    for generation in 2..=3_u64 {
        let outcome = service.reload_well();
        let new = outcome.to.unwrap();
        assert_eq!(new.generation, generation);
        let after: Vec<String> = service.status().listeners.into_iter().map(|listener| listener.address).collect();
        assert_eq!(before, after, "port 0 is kept as well");
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
        let expected = format!("{generation} {} none hello\n", new.pid);
        assert_eq!(ask_tcp(&service.address("four")), expected);
        assert_eq!(ask_tcp(&service.address("six")), expected);
        assert_eq!(ask(UnixStream::connect(&path).unwrap()).unwrap(), expected);
        let name = std::os::unix::net::SocketAddr::from_abstract_name(&hidden).unwrap();
        assert_eq!(ask(UnixStream::connect_addr(&name).unwrap()).unwrap(), expected);
        let datagram = UdpSocket::bind("127.0.0.1:0").unwrap();
        datagram.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let address = service.address("datagrams");
        // The generation that ends may take one along.
        let is_answered = |_| {
            datagram.send_to(b"x", address.strip_prefix("udp:").unwrap()).unwrap();
            datagram.recv(&mut [0; 64]).is_ok()
        };
        assert!((0..DEADLINE.as_secs()).any(is_answered));
    }
    service.client().stop().unwrap();
    assert!(!path.exists(), "the path goes with the service");
}

#[test]
fn a_path_that_was_removed_is_there_again_after_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    let service = fixture(&[&format!("echo=unix:{}", path.display())], &[]);
    let held = UnixStream::connect(&path).unwrap();
    let mut client = service.client();
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(service.control()).unwrap();
    let Answer::Outcome(outcome) = client.reload().unwrap() else { panic!("no outcome") };
    assert_eq!(outcome.failure, None);
    assert_eq!(service.status().id.generation, 2);
    assert!(ask(UnixStream::connect(&path).unwrap()).unwrap().starts_with("2 "));
    drop(held);
    // And they stay where they are.
    let inodes = || [&path, &service.control()].map(|path| std::fs::metadata(path).unwrap().ino());
    let before = inodes();
    service.reload_well();
    assert_eq!(inodes(), before);
    service.client().stop().unwrap();
    assert!(!path.exists() && !service.control().exists());
}

#[test]
fn a_path_that_another_server_has_taken_fails_the_reload_and_is_left_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    let service = fixture(&[&format!("echo=unix:{}", path.display())], &[]);
    std::fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let failure = service.reload().failure.unwrap();
    assert!(failure.contains("a live server listens on it"), "{failure}");
    assert_eq!(service.status().id.generation, 1);
    drop(other);
    service.reload_well();
    assert!(ask(UnixStream::connect(&path).unwrap()).unwrap().starts_with("2 "));
}

#[test]
fn a_pid_file_that_cannot_be_written_at_a_reload_is_written_as_soon_as_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let (place, away) = (folder.path().join("place"), folder.path().join("away"));
    std::fs::create_dir(&place).unwrap();
    let file = place.join("pid");
    let service = fixture(&["echo=127.0.0.1:0"], &[("FIXTURE_PID_FILE", file.to_str().unwrap())]);
    let named = || std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u32>().ok());
    assert_eq!(named(), Some(service.child.id()));
    std::fs::rename(&place, &away).unwrap();
    let new = service.reload_well().to.unwrap();
    std::fs::rename(&away, &place).unwrap();
    let end = Instant::now() + DEADLINE;
    while named() != Some(new.pid) {
        assert!(Instant::now() < end, "the file names {:?} instead of {new:?}", named());
        std::thread::yield_now();
    }
    service.client().stop().unwrap();
    assert!(!file.exists());
}

#[test]
fn the_state_arrives_whole_whatever_its_size() {
    for bytes in ["0", "1", "8388608"] {
        let service = fixture(&["echo=127.0.0.1:0"], &[("FIXTURE_STATE", bytes)]);
        let new = service.reload_well().to.unwrap();
        assert_eq!(ask_tcp(&service.address("echo")), format!("2 {} {bytes} hello\n", new.pid));
    }
}

/// What a pid namespace of its own runs in which memfds are not executable (Linux 6.3): its first process stays, so that it
/// does not end with the first generation.
fn without_executable_memfds(then: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("echo 2 >/proc/sys/vm/memfd_noexec || exit 1; {then}");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", &script]);
    command
}

#[test]
fn the_state_arrives_where_the_system_makes_no_executable_memfd() {
    let possible = without_executable_memfds("exit 0").stderr(std::process::Stdio::null()).status();
    if !possible.is_ok_and(|status| status.success()) {
        skip("no pid namespace with vm.memfd_noexec=2 (root, Linux 6.3)");
        return;
    }
    let mut command = without_executable_memfds("\"$0\" echo=127.0.0.1:0 & while :; do sleep 1000; done");
    command.arg(example("fixture")).env("FIXTURE_STATE", "1000");
    let service = Service::start(command);
    let new = service.reload_well().to.unwrap();
    assert_eq!(ask_tcp(&service.address("echo")), format!("2 {} 1000 hello\n", new.pid));
}

#[test]
fn a_successor_that_fails_leaves_its_predecessor_serving_and_says_why() {
    let service = fixture(&["echo=127.0.0.1:0"], &[("FIXTURE_STATE", "8388608")]);
    std::fs::write(service.folder.path().join("fail"), "").unwrap();
    let failure = service.reload().failure.unwrap();
    assert!(failure.contains("it was told to fail"), "{failure}");
    assert!(ask_tcp(&service.address("echo")).starts_with("1 "));
    std::fs::remove_file(service.folder.path().join("fail")).unwrap();
    assert_eq!(service.reload_well().to.unwrap().generation, 2);
}

#[test]
fn a_service_that_waits_for_ever_is_reloaded_and_stopped() {
    let service = fixture(&["echo=127.0.0.1:0"], &[("FIXTURE_PATIENCE", "endless")]);
    service.reload_well();
    service.reload_well();
    service.client().stop().unwrap();
}

#[test]
fn a_successor_that_fails_before_it_has_greeted_says_why() {
    let service = fixture(&["echo=127.0.0.1:0"], &[]);
    std::fs::write(service.folder.path().join("fail"), "at its signals").unwrap();
    let failure = service.reload().failure.unwrap();
    assert!(failure.contains("signal") && !failure.contains("exited with status"), "{failure}");
    assert!(ask_tcp(&service.address("echo")).starts_with("1 "));
}

#[test]
fn a_successor_whose_probe_does_not_answer_never_takes_over() {
    let service = fixture(&["echo=127.0.0.1:0"], &[]);
    std::fs::write(service.folder.path().join("unwell"), "").unwrap();
    let failure = service.reload().failure.unwrap();
    assert!(failure.contains("neither its event loop nor its probe answered"), "{failure}");
    assert!(ask_tcp(&service.address("echo")).starts_with("1 "));
    std::fs::remove_file(service.folder.path().join("unwell")).unwrap();
    assert_eq!(service.reload_well().to.unwrap().generation, 2);
}

#[test]
fn a_successor_that_dies_before_it_has_read_the_state_leaves_its_predecessor_serving() {
    let service = fixture(&["echo=127.0.0.1:0"], &[("FIXTURE_STATE", "8388608")]);
    std::fs::write(service.folder.path().join("fail"), "after its hello").unwrap();
    for _ in 0..3 {
        let failure = service.reload().failure.unwrap();
        assert!(failure.contains("exited with status 3 before it was ready"), "{failure}");
        assert!(ask_tcp(&service.address("echo")).starts_with("1 "));
    }
    std::fs::remove_file(service.folder.path().join("fail")).unwrap();
    let new = service.reload_well().to.unwrap();
    assert_eq!(ask_tcp(&service.address("echo")), format!("2 {} 8388608 hello\n", new.pid));
}

#[test]
fn each_generation_is_shown_with_the_version_of_its_own_build() {
    let service = fixture(&["echo=127.0.0.1:0"], &[]);
    std::fs::write(service.folder.path().join("version"), "2.0.0-beta").unwrap();
    assert_eq!(service.status().id.version, "fixture");
    let outcome = service.reload_well();
    assert_eq!((outcome.from.version.as_str(), outcome.to.unwrap().version.as_str()), ("fixture", "2.0.0-beta"));
    let status = service.status();
    assert_eq!(status.id.version, "2.0.0-beta");
    let last = status.last_reload.unwrap();
    assert_eq!((last.from.version.as_str(), last.to.unwrap().version.as_str()), ("fixture", "2.0.0-beta"));
}

#[test]
fn reloads_under_load_lose_no_request() {
    let service = fixture(&["echo=127.0.0.1:0"], &[]);
    let address = service.address("echo");
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (address, over) = (address.clone(), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut answers = 0;
                while !over.load(Ordering::Acquire) {
                    // The fixture closes what it has accepted when its generation ends, read or not.
                    match ask(connect_tcp(&address)) {
                        Ok(line) => answers += u64::from(line.ends_with(" hello\n")),
                        Err(error) => assert!(matches!(error.kind(), ConnectionReset | BrokenPipe), "{error}"),
                    }
                }
                answers
            })
        })
        .collect();
    for _ in 0..5 {
        service.reload_well();
    }
    over.store(true, Ordering::Release);
    for client in clients {
        assert!(client.join().unwrap() > 0);
    }
    assert_eq!(service.status().id.generation, 6);
}

#[test]
fn a_handover_flag_with_nothing_to_take_is_an_error_that_says_so() {
    let mut command = Command::new(example("fixture"));
    let output = command.args(["-g", "echo=127.0.0.1:0"]).stdin(std::process::Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("nothing to take"), "{text}");
}

/// Whether strace is there; a test that needs it is skipped without.
fn has_strace() -> bool {
    let found = Command::new("strace").arg("-V").output().is_ok();
    if !found {
        skip("strace is missing (Debian package strace)");
    }
    found
}

#[test]
fn a_firewalls_refusal_ends_neither_a_listener_nor_the_control_socket() {
    if !has_strace() {
        return;
    }
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=accept4", "-e", "inject=accept4:error=EPERM:when=1+2"]);
    command.arg(example("fixture")).arg("echo=127.0.0.1:0");
    let service = support::Service::start(command);
    for _ in 0..3 {
        assert!(ask_tcp(&service.address("echo")).starts_with("1 "));
    }
    service.client().stop().unwrap();
}

#[test]
fn a_successor_is_started_without_fork() {
    if !has_strace() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=clone,clone3,vfork,fork", "-o"]).arg(&trace);
    command.arg(example("fixture")).arg("echo=127.0.0.1:0");
    let service = support::Service::start(command);
    service.reload_well();
    service.client().stop().unwrap();
    let text = std::fs::read_to_string(&trace).unwrap();
    let starts: Vec<&str> =
        text.lines().filter(|line| !line.contains("CLONE_THREAD") && line.contains("lone")).collect();
    assert!(starts.iter().any(|line| line.contains("CLONE_VFORK") && line.contains("CLONE_VM")), "{text}");
    assert!(starts.iter().all(|line| line.contains("CLONE_VM") || line.contains("resumed")), "{text}");
}

/// The first argument of a process.
fn first_argument(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("it lives");
    String::from_utf8_lossy(line.split(|byte| *byte == 0).nth(1).unwrap_or_default()).into_owned()
}

#[test]
fn generations_follow_one_another_with_any_word_and_with_none() {
    let service = fixture(&["echo=127.0.0.1:0"], &[]);
    let address = service.address("echo");
    // Each generation has chosen another word than the one before it, whose word stands in front of its arguments.
    let mut chosen = "-g";
    for word in ["--next", "", "-x", "-g", "", "--next"] {
        std::fs::write(service.folder.path().join("word"), word).unwrap();
        let successor = service.reload_well().to.unwrap().pid;
        let expected = if chosen.is_empty() { "echo=127.0.0.1:0" } else { chosen };
        assert_eq!(first_argument(successor), expected, "after {chosen:?} and before {word:?}");
        assert_eq!((service.address("echo"), service.status().id.pid), (address.clone(), successor));
        chosen = word;
    }
}

#[test]
fn nothing_but_a_predecessors_socket_is_taken_off_standard_input() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let mut command = std::process::Command::new(support::example("fixture"));
    // It names another socket, as where it is inherited from somebody else's start.
    command.arg("echo=127.0.0.1:0").env("RESTART_CORE_HANDOVER", "8:1 -g").stdin(theirs);
    let service = support::Service::start_with_stdin(command);
    assert_eq!(service.status().id.generation, 1);
    drop(ours);
    service.reload_well();
}
