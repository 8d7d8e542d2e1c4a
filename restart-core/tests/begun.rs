//! A service that has not come up yet, because its application waits for something, is stopped as any other, and leaves
//! nothing behind; what else it was told meanwhile is obeyed once it serves.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use restart_core::control::{Answer, Client, Status};
use rustix::process::{Pid, Signal, kill_process};

mod support;

use support::{DEADLINE, Service, ask, ask_for, example, fixture};

/// How the application waits: between its start and the driver's first poll, or beside the driver.
const WAYS: [&str; 2] = ["FIXTURE_WAITS", "FIXTURE_GETS_READY"];

/// A first generation that waits before it is ready, and has bound its sockets.
struct Waiting {
    folder: tempfile::TempDir,
    child: Child,
}

impl Waiting {
    fn new(way: &str) -> Waiting {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("waits"), "").unwrap();
        let mut command = Command::new(example("fixture"));
        command.arg(format!("echo=unix:{}", path("stream").display())).stdin(Stdio::null());
        command.env("FIXTURE_CONTROL", path("control")).env(way, path("waits"));
        command.env("FIXTURE_PID_FILE", path("pid")).env_remove("NOTIFY_SOCKET");
        let child = command.spawn().unwrap();
        let waiting = Waiting { folder, child };
        wait_until("the start has come to its end", || waiting.left().contains(&"pid"));
        waiting
    }

    fn left(&self) -> Vec<&'static str> {
        ["stream", "control", "pid"].into_iter().filter(|name| self.folder.path().join(name).exists()).collect()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "waited {DEADLINE:?} until {what}");
        std::thread::yield_now();
    }
}

#[track_caller]
fn wait_end(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_until("the process has ended", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

#[test]
fn a_first_start_that_waits_is_stopped_and_leaves_nothing_behind() {
    let signals = [Signal::TERM, Signal::INT, Signal::QUIT];
    for (signal, way) in signals.into_iter().flat_map(|signal| WAYS.map(|way| (signal, way))) {
        let mut waiting = Waiting::new(way);
        assert_eq!(waiting.left(), ["stream", "control", "pid"]);
        send(waiting.child.id(), signal);
        let status = wait_end(&mut waiting.child);
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{signal:?}");
        assert!(waiting.left().is_empty(), "{:?}", waiting.left());
    }
}

#[test]
fn a_reload_that_is_asked_for_meanwhile_is_not_lost() {
    for way in WAYS {
        let mut waiting = Waiting::new(way);
        send(waiting.child.id(), Signal::HUP);
        std::fs::remove_file(waiting.folder.path().join("waits")).unwrap();
        let control = waiting.folder.path().join("control");
        wait_until("the second generation serves", || status(&control).is_ok_and(|status| status.id.generation == 2));
        assert_eq!(wait_end(&mut waiting.child).code(), Some(0));
        Client::connect(&control).unwrap().stop().unwrap();
        assert!(waiting.left().is_empty(), "{:?}", waiting.left());
    }
}

fn status(control: &Path) -> Result<Status, restart_core::Error> {
    Client::connect(control).and_then(|mut client| client.status())
}

#[test]
fn a_first_start_that_waits_beside_its_driver_takes_commands() {
    let mut waiting = Waiting::new(WAYS[1]);
    let control = waiting.folder.path().join("control");
    assert_eq!(status(&control).unwrap().state, "starting");
    let Answer::Refused(reason) = Client::connect(&control).unwrap().reload().unwrap() else { panic!("not refused") };
    assert!(reason.contains("not ready yet"), "{reason}");
    Client::connect(&control).unwrap().stop().unwrap();
    assert_eq!(wait_end(&mut waiting.child).code(), Some(0));
    assert!(waiting.left().is_empty(), "{:?}", waiting.left());
}

#[test]
fn an_application_asks_from_within_what_a_client_can_ask() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    let mut service = fixture(&[&format!("echo=unix:{}", path.display())], &[]);
    let ask = |what| ask_for(std::os::unix::net::UnixStream::connect(&path).unwrap(), what).unwrap();
    assert_eq!(ask("status"), "serving\n");
    // Its own connection closes in the drain, which begins before the outcome is known.
    ask("reload");
    assert_eq!(service.status().id.generation, 2);
    assert_eq!(ask("committed"), "Some(())\n");
    assert_eq!(ask("stop"), "stops\n");
    assert_eq!(wait_end(&mut service.child).code(), Some(0));
    wait_until("the service has ended", || !path.exists() && !service.control().exists());
}

#[test]
fn who_asks_from_within_where_nobody_drives_gets_an_error_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(example("fixture"));
    command.arg(format!("echo=unix:{}", folder.path().join("stream").display()));
    command.env("FIXTURE_ASKS", "").stdout(Stdio::piped());
    let mut service = Service::start(command);
    service.client().stop().unwrap();
    assert_eq!(wait_end(&mut service.child).code(), Some(0));
    let mut told = String::new();
    service.child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    let (reload, status, stop) = ("nothing can be reloaded", "there is no status", "the service cannot be stopped");
    let before = "the driver was not polled within 5s; poll Driver::run() from the start";
    let after = "the driver of generation 1 has ended";
    let expected = [("before", before), ("after", after)].into_iter().flat_map(|(when, why)| {
        [("reload", reload), ("status", status), ("stop", stop)]
            .map(|(what, failed)| format!("{when} {what}: {failed}: {why}"))
    });
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(&expected), "{line:?} is not {expected:?}");
    }
    assert_eq!(lines.len(), 6, "{told}");
}

#[test]
fn a_successor_that_is_never_ready_leaves_its_predecessor_serving_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("echo=unix:{}", folder.path().join("stream").display());
    let service = fixture(&[&address], &[]);
    let ways = [
        ("by accepting nothing", "nobody accepts on the listener \"echo\""),
        ("without a word", "it dropped the last handle on its generation"),
    ];
    for (fails, why) in ways {
        std::fs::write(service.folder.path().join("fail"), fails).unwrap();
        let failure = service.reload().failure.unwrap();
        assert!(failure.contains("cannot serve") && failure.contains(why), "{fails}: {failure}");
        let stream = std::os::unix::net::UnixStream::connect(folder.path().join("stream")).unwrap();
        assert!(ask(stream).unwrap().starts_with("1 "));
    }
    std::fs::remove_file(service.folder.path().join("fail")).unwrap();
    service.reload_well();
}

#[test]
fn a_stop_that_a_successor_gets_while_it_waits_stops_the_service() {
    ["waits", "gets ready"].into_iter().for_each(stop_a_successor_that_waits);
}

fn stop_a_successor_that_waits(note: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    let mut service = fixture(&[&format!("echo=unix:{}", path.display())], &[]);
    std::fs::write(service.folder.path().join(note), "").unwrap();
    let mut client = service.client();
    let reload = std::thread::spawn(move || client.reload());
    let mut successor = None;
    wait_until("there is a successor", || {
        successor = service.status().reloading.and_then(|reloading| reloading.successor);
        successor.is_some()
    });
    send(successor.unwrap(), Signal::TERM);
    assert!(matches!(reload.join().unwrap().unwrap(), Answer::Stopping));
    assert_eq!(wait_end(&mut service.child).code(), Some(0));
    assert!(!path.exists() && !service.control().exists());
}
