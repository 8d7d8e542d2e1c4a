//! A stop ends the service at whatever moment it comes, finishes requests in flight, and leaves nothing behind:
//! no process, no pid file, no socket's path.

#![allow(clippy::unwrap_used)]

use std::{fs::File, net::TcpStream, process::Command, thread, time::Duration};

use restart_core::control::Client;
use rustix::fs::OFlags;
use tests::{
    CommandOutput, DEADLINE, Ended, Mode, Process, Reborn, Server, Signal, Version, binary,
    load::{Connection, Limits, Look, Request, Target},
};

fn start() -> Server {
    Reborn::new().demo().probation_ms(0).start()
}

/// A server that waits with its reload before the successor's first word.
fn held_at_gate() -> (Server, u32) {
    let server = start();
    server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
    server.signal(Signal::HUP);
    let successor = server.wait_broken(0);
    (server, successor)
}

/// A server in the probation of a successor, which accepts.
fn in_probation() -> (Server, u32) {
    let server = Reborn::new().demo().args(["--probation", "1m"]).start();
    let old = server.first_pid();
    server.signal(Signal::HUP);
    // For a moment before, both accept.
    server.wait_until("only the successor accepts", |server| server.status()["reloading"]["stage"] == "probation");
    let successor = server.generations().into_iter().find(|pid| *pid != old).unwrap();
    (server, successor)
}

#[test]
fn a_signal_stops_a_server_that_does_nothing() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = start();
        server.signal(signal);
        assert_eq!(server.wait_end(server.first_pid()), Ended::Code(0));
        server.wait_nothing_left();
        assert!(server.log().contains("the service has stopped"), "{}", server.log());
    }
}

#[test]
fn a_stop_before_the_successors_first_word_ends_both() {
    let (server, successor) = held_at_gate();
    server.signal(Signal::TERM);
    server.wait_nothing_left();
    let ends = (server.ended(server.first_pid()), server.ended(successor));
    assert_eq!(ends.0, Some(Ended::Code(0)), "{}", server.state());
}

#[test]
fn a_stop_while_the_successor_gets_ready_ends_both() {
    let server = start();
    server.replace_binary(&Version::Broken(Mode::of_the_present_and_stuck()));
    server.signal(Signal::HUP);
    server.wait_broken(0);
    server.signal(Signal::TERM);
    server.wait_nothing_left();
    assert_eq!(server.ended(server.first_pid()), Some(Ended::Code(0)), "{}", server.state());
}

#[test]
fn a_stop_in_the_probation_ends_both() {
    let (server, _successor) = in_probation();
    server.signal_to(server.first_pid(), Signal::TERM);
    server.wait_nothing_left();
    assert_eq!(server.ended(server.first_pid()), Some(Ended::Code(0)), "{}", server.state());
}

#[test]
fn a_stop_that_the_successor_gets_in_its_probation_ends_both() {
    let (server, successor) = in_probation();
    server.signal_to(successor, Signal::TERM);
    server.wait_nothing_left();
    assert_eq!(server.ended(server.first_pid()), Some(Ended::Code(0)), "{}", server.state());
}

#[test]
fn a_stop_in_the_probation_finishes_what_the_successor_has_accepted() {
    let ways: [fn(&Server, u32); 4] = [
        |server, _| drop(server.stop_in_background()),
        |server, _| server.signal(Signal::TERM),
        |server, successor| server.signal_to(successor, Signal::TERM),
        |server, successor| [server.first_pid(), successor].iter().for_each(|pid| server.signal_to(*pid, Signal::INT)),
    ];
    for stop in ways {
        let (server, successor) = in_probation();
        let held = server.hold();
        stop(&server, successor);
        server.wait_until("the stop is under way", |server| server.log().contains("is given up: the service stops"));
        held.finish_by(successor);
        server.wait_nothing_left();
        server.assert_no_error();
    }
}

#[test]
fn a_successor_that_hangs_holds_up_no_stop_for_longer_than_its_deadline() {
    let server = Reborn::new().demo().args(["--probation", "1m", "--stop-timeout", "1s"]).start();
    let old = server.first_pid();
    server.signal(Signal::HUP);
    server.wait_until("the successor accepts", |server| server.ask().pid() != Some(old));
    let successor = server.generations().into_iter().find(|pid| *pid != old).unwrap();
    server.signal_to(successor, Signal::STOP);
    server.stop().assert_success();
    server.wait_nothing_left();
}

#[test]
fn a_stop_that_the_successor_gets_before_its_first_word_is_not_lost() {
    let (server, successor) = held_at_gate();
    server.signal_to(successor, Signal::TERM);
    server.open_gate();
    server.wait_nothing_left();
    assert_eq!(server.ended(server.first_pid()), Some(Ended::Code(0)), "{}", server.state());
}

#[test]
fn a_stop_after_the_commit_lets_the_draining_generation_finish_and_ends_both() {
    let server = start();
    let (old, held) = (server.first_pid(), server.hold());
    let new = server.reload_ok();
    server.signal(Signal::TERM);
    server.wait_until("nobody accepts any more", |server| std::net::TcpStream::connect(server.address()).is_err());
    assert_eq!(server.generations().len(), 2, "{}", server.state());
    held.finish_by(old);
    server.wait_nothing_left();
    assert_eq!((server.ended(old), server.ended(new)), (Some(Ended::Code(0)), Some(Ended::Code(0))));
}

#[test]
fn a_second_signal_to_a_draining_generation_does_not_cut_its_requests() {
    let server = start();
    let (old, held) = (server.first_pid(), server.hold());
    let new = server.reload_ok();
    server.signal_to(old, Signal::TERM);
    server.signal_to(old, Signal::INT);
    // What the old one says of itself later shows that it has dealt with the signals: it is still there.
    server.signal_to(old, Signal::HUP);
    server.wait_until("the forwarded reload has come", |server| server.generation() == 3);
    held.finish_by(old);
    assert_eq!((server.wait_end(old), server.wait_end(new)), (Ended::Code(0), Ended::Code(0)));
    assert_eq!(server.wait_single(), server.pid());
}

#[test]
fn a_reload_that_a_stop_overtakes_has_failed_but_fails_no_unit() {
    for main in [None, Some("1")] {
        let server = start();
        server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
        let mut command = Command::new(binary::reborn());
        command.arg("reload").arg("--control").arg(server.control().unwrap());
        if let Some(main) = main {
            command.env("MAINPID", main);
        }
        let reload = thread::spawn(move || CommandOutput::of(&mut command));
        server.wait_broken(0);
        server.stop().assert_success();
        let output = reload.join().unwrap();
        if main.is_some() {
            // As the ExecReload= of a unit, which would be marked as failed.
            assert!(output.assert_success().stdout.contains("the service is stopping"), "{output}");
        } else {
            output.assert_code(1).assert_stderr("no reload happened: the service is stopping");
        }
        server.wait_nothing_left();
    }
}

#[test]
fn a_stop_says_what_it_waits_for() {
    let server = start();
    let held = server.hold();
    server.signal(Signal::INT);
    server.wait_until("it says so", |server| server.log().contains("stopping: 1 connections have requests to finish"));
    assert!(held.finish().is_ok());
    server.wait_nothing_left();
    let server = start();
    server.stop().assert_success();
    assert!(!server.log().contains("stopping: "), "{}", server.log());
}

#[test]
fn the_stop_command_finishes_requests_in_flight_and_returns_when_the_service_has_ended() {
    let server = start();
    let held = server.hold();
    let stop = server.stop_in_background();
    server.wait_until("it stops", |server| server.log().contains("stop") || server.status()["state"] == "stopping");
    assert!(!stop.is_finished(), "{}", server.state());
    held.finish_by(server.first_pid());
    let output = stop.join().unwrap();
    output.assert_success();
    assert_eq!(output.stdout, "stopped\n");
    let left = [server.pid_file(), server.control().unwrap().to_owned()].map(|path| path.exists());
    assert_eq!(left, [false, false], "the command returned before the end");
    assert_eq!(server.wait_end(server.first_pid()), Ended::Code(0));
    server.wait_nothing_left();
}

#[test]
fn the_stop_command_returns_no_sooner_than_the_process_ends() {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    // Nobody reads its standard error, so its last lines keep it waiting after everything else is done.
    let server = Reborn::new().demo().prelude("mkfifo full && exec 2<>full").start();
    let process = Process::open(server.first_pid()).unwrap();
    let flags = OFlags::NONBLOCK.bits().try_into().unwrap();
    let mut pipe = File::options().write(true).custom_flags(flags).open(server.folder().join("full")).unwrap();
    while pipe.write(&[b'x'; 4096]).is_ok() {}
    server.command(["stop"]).assert_success();
    assert!(process.wait(Duration::from_millis(300)), "the command returned while the process lived");
    server.wait_nothing_left();
}

#[test]
fn a_stop_finishes_every_request_of_a_load() {
    let server = start();
    let mut connections: Vec<Connection> = (0..20).map(|_| server.connect()).collect();
    let request = Request::slow("slow", Duration::from_millis(700));
    let head = request.head();
    for connection in &connections {
        smol::block_on(connection.send(head.as_bytes())).unwrap();
    }
    server.wait_until("all are accepted", |server| server.status()["connections"] == 20);
    let stop = server.stop_in_background();
    for connection in &mut connections {
        let answer = smol::block_on(connection.answer()).unwrap_or_else(|lost| panic!("{lost:?}"));
        request.check(&answer).unwrap();
    }
    stop.join().unwrap().assert_success();
    server.wait_nothing_left();
}

#[test]
fn a_stop_does_not_wait_for_idle_connections() {
    let server = Reborn::new().demo().args(["--stop-timeout", "5m"]).start();
    let mut idle = server.connect();
    smol::block_on(idle.exchange(&Request::fast("one"))).unwrap();
    let never_used = server.connect();
    server.stop().assert_success();
    assert_eq!(smol::block_on(idle.end()), Some(Look::Fin));
    assert_eq!(smol::block_on(never_used.changed()), Look::Fin);
    server.wait_nothing_left();
}

#[test]
fn a_connection_that_waited_in_the_queue_at_a_stop_gets_its_answer() {
    let server = start();
    // While it stands still, the kernel completes the handshake and takes the request.
    server.signal(Signal::STOP);
    let mut waiting = server.connect();
    smol::block_on(waiting.send(Request::fast("queued").head().as_bytes())).unwrap();
    server.signal_to(server.first_pid(), Signal::TERM);
    server.signal_to(server.first_pid(), Signal::CONT);
    let answer = smol::block_on(waiting.answer()).unwrap_or_else(|lost| panic!("{lost:?}\n{}", server.state()));
    assert_eq!((answer.status, answer.header("x-id")), (200, Some("queued")));
    server.wait_nothing_left();
}

#[test]
fn after_a_stop_nobody_is_left_waiting_for_an_answer() {
    let server = start();
    let held = server.hold();
    server.signal(Signal::TERM);
    let target = Target::Tcp(server.address());
    // Refused, not hung: the client may try elsewhere at once.
    server.wait_until("new connections are refused", |_| {
        smol::block_on(Connection::open(&target, Limits::default())).is_err()
    });
    held.finish_by(server.first_pid());
    server.wait_nothing_left();
}

#[test]
fn after_a_stop_nobody_is_left_waiting_for_a_service_manager_that_holds_no_listener() {
    for (name, value) in [("FDSTORE", "0"), ("MEMORY_PRESSURE_WATCH", "/sys/fs/cgroup/memory.pressure")] {
        let server = Reborn::new().demo().probation_ms(0).notify().env(name, value).start();
        let held = server.hold();
        server.signal(Signal::TERM);
        server.wait_until("new connections are refused", |server| TcpStream::connect(server.address()).is_err());
        held.finish_by(server.first_pid());
        server.wait_nothing_left();
    }
}

#[test]
fn a_request_that_outlives_the_drain_deadline_is_cut_and_counted() {
    let server = Reborn::new().demo().probation_ms(0).args(["--drain-timeout", "300ms"]).start();
    let (old, held) = (server.first_pid(), server.hold());
    let new = server.reload_ok();
    assert_eq!(server.wait_end(old), Ended::Code(0));
    assert!(held.finish().is_err());
    let log = server.log();
    let cut = format!("generation 1 ends, cutting 1 connections at the deadline; generation 2 (pid {new}) serves on");
    assert!(log.contains(&cut), "{log}");
    assert!(!log.contains("does not balance"), "{log}");
}

#[test]
fn a_request_that_outlives_the_deadline_of_a_stop_is_cut_and_counted() {
    let server = Reborn::new().demo().probation_ms(0).args(["--stop-timeout", "300ms"]).start();
    let held = server.hold();
    server.stop().assert_success();
    assert!(held.finish().is_err());
    assert!(server.log().contains("generation 1 ends, cutting 1 connections at the deadline"), "{}", server.log());
    server.wait_nothing_left();
}

#[test]
fn a_stop_leaves_a_generation_that_drains_no_more_than_the_stop_timeout() {
    let server =
        Reborn::new().demo().probation_ms(0).args(["--drain-timeout", "1h", "--stop-timeout", "300ms"]).start();
    let (old, held) = (server.first_pid(), server.hold());
    let new = server.reload_ok();
    server.stop().assert_success();
    assert_eq!((server.wait_end(old), server.wait_end(new)), (Ended::Code(0), Ended::Code(0)));
    assert!(held.finish().is_err());
    let log = server.log();
    let (told, cut) =
        ("the service stops: generation 1 has ", "generation 1 ends, cutting 1 connections at the deadline");
    assert!(log.contains(told) && log.contains(cut), "{log}");
    server.wait_nothing_left();
    server.assert_no_error();
}

#[test]
fn the_newest_generation_says_how_long_a_stop_may_take_for_all() {
    let reborn = Reborn::new().demo().probation_ms(0).args(["--config", "reborn.toml"]);
    let file = reborn.folder().join("reborn.toml");
    std::fs::write(&file, "stop-timeout = \"1h\"\n").unwrap();
    let server = reborn.start();
    let (old, held) = (server.first_pid(), server.hold());
    std::fs::write(&file, "stop-timeout = \"300ms\"\n").unwrap();
    server.reload_ok();
    server.stop().assert_success();
    assert_eq!(server.wait_end(old), Ended::Code(0));
    assert!(held.finish().is_err());
    server.wait_nothing_left();
    server.assert_no_error();
}

#[test]
fn what_a_successor_has_accepted_is_bounded_by_the_stop_that_gives_it_up() {
    let reborn = Reborn::new().demo().args(["--probation", "1m", "--drain-timeout", "1h", "--stop-timeout", "300ms"]);
    let server = reborn.start();
    server.signal(Signal::HUP);
    server.wait_until("only the successor accepts", |server| server.status()["reloading"]["stage"] == "probation");
    let held = server.hold();
    server.stop().assert_success();
    assert!(held.finish().is_err());
    server.wait_nothing_left();
}

#[test]
fn a_stop_tells_the_service_manager_once_and_only_of_the_whole_service() {
    let server = Reborn::new().demo().probation_ms(0).notify().start();
    let old = server.first_pid();
    let new = server.reload_ok();
    assert_eq!(server.wait_end(old), Ended::Code(0));
    let stopping = |server: &Server| -> Vec<u32> {
        let messages = server.notify().messages();
        messages.iter().filter(|message| message.has("STOPPING=1")).map(|message| message.pid).collect()
    };
    assert_eq!(stopping(&server), [0_u32; 0]);
    server.stop().assert_success();
    server.notify().wait_for("STOPPING=1", DEADLINE, |message| message.has("STOPPING=1"));
    assert_eq!(stopping(&server), [new]);
}

#[test]
fn a_stop_between_the_announcement_and_the_commit_reaches_the_successor() {
    let server = Reborn::new().demo().probation_ms(0).notify().args(["--log", "restart_core=trace"]).start();
    let old = server.first_pid();
    server.notify().hold_barriers();
    server.signal(Signal::HUP);
    server.wait_until("the announcement is made", |server| server.notify().held_barriers() == 1);
    server.signal_to(old, Signal::TERM);
    server.wait_until("it has noticed", |server| server.log().contains("Stop(Signal) -> Draining"));
    server.notify().release_barriers();
    server.wait_nothing_left();
    assert_eq!(server.ended(old), Some(Ended::Code(0)), "{}", server.log());
    server.notify().wait_for("STOPPING=1", DEADLINE, |message| message.has("STOPPING=1"));
    let messages = server.notify().messages();
    let main = messages.iter().find_map(|message| message.get("MAINPID")?.parse::<u32>().ok());
    let stopping: Vec<_> = messages.iter().filter(|one| one.has("STOPPING=1")).map(|one| one.pid).collect();
    assert_eq!(stopping, [main.unwrap()], "{messages:#?}");
}

#[test]
fn a_stop_asked_of_a_generation_that_has_just_been_replaced_lasts_until_the_newest_has_ended() {
    let server = Reborn::new().demo().probation_ms(0).notify().args(["--log", "restart_core=trace"]).start();
    let old = server.first_pid();
    let mut early = Client::connect(server.control().unwrap()).unwrap();
    server.notify().hold_barriers();
    server.signal(Signal::HUP);
    server.wait_until("the announcement is made", |server| server.notify().held_barriers() == 1);
    let held = server.hold();
    let stop = thread::spawn(move || early.stop());
    server.wait_until("it is asked", |server| server.log().contains("Stop(Command) -> Draining"));
    server.notify().release_barriers();
    assert_eq!(server.wait_end(old), Ended::Code(0));
    server.wait_until("the newest stops", |server| server.status()["state"] == "stopping");
    let new = server.pid();
    assert!(!stop.is_finished(), "a request is still being answered\n{}", server.state());
    held.finish_by(new);
    stop.join().unwrap().unwrap();
    server.wait_nothing_left();
}
