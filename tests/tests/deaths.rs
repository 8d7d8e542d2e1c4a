//! Sudden deaths: whichever of several generations is killed, at whatever step of a reload, the service goes on, and
//! no client is ever refused. What a killed process had accepted itself ends with it, and only that.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use tests::{
    DEADLINE, Ended, Held, Mode, Process, Reborn, Relay, Server, Signal, Version,
    load::{Failure, Report, Running},
    relay::{Change, Direction, Occurrence, Order},
    skip::may_change_user,
    version::{beside, write_by_child},
};

fn start(reborn: Reborn) -> Server {
    reborn.demo().probation_ms(0).start()
}

/// New connections only: they show at every moment whether somebody accepts.
fn knocking(server: &Server) -> Running {
    server.load().new_connections_paced(3, 150).start()
}

/// Nobody was refused or left waiting; what was lost, a killed process had accepted.
#[track_caller]
fn assert_never_refused(report: &Report) {
    let waited = report.failed_by(Failure::Timeout) + report.failed_by(Failure::ConnectTimeout);
    assert_eq!((report.failed_by(Failure::ConnectRefused), waited), (0, 0), "{report}");
    assert!(report.failed <= 3, "more than each client's present request were lost\n{report}");
}

/// Kills a process and waits until it is dead. How it ended only its parent learns, which may be a draining one.
#[track_caller]
fn kill(server: &Server, pid: u32) {
    let process = Process::open(pid).unwrap();
    server.signal_to(pid, Signal::KILL);
    assert!(process.wait(DEADLINE), "{}", server.state());
}

/// Waits until each draining generation is left with its held request: whatever the load had there is answered.
#[track_caller]
fn wait_only_held(server: &Server) {
    server.wait_until("nothing but held requests drains", |server| {
        server.status()["draining"].as_array().unwrap().iter().all(|older| older["connections"] == 1)
    });
}

/// Three generations, the older two with a request in flight each.
struct Three {
    server: Server,
    load: Running,
    pids: [u32; 3],
    held: [Held; 2],
}

fn three(reborn: Reborn) -> Three {
    let server = start(reborn);
    let load = knocking(&server);
    let one = server.hold();
    let second = server.reload_ok();
    let two = server.hold();
    let third = server.reload_ok();
    let pids = [server.first_pid(), second, third];
    let draining: Vec<_> =
        server.status()["draining"].as_array().unwrap().iter().map(|one| one["pid"].clone()).collect();
    assert_eq!(draining, [pids[0], pids[1]], "{}", server.state());
    wait_only_held(&server);
    load.wait_for_pid(third, DEADLINE).unwrap();
    Three { server, load, pids, held: [one, two] }
}

#[test]
fn the_death_of_the_oldest_of_three_generations_means_nothing_to_the_others() {
    let Three { server, load, pids: [first, second, third], held: [one, two] } = three(Reborn::new());
    kill(&server, first);
    assert!(one.finish().is_err());
    server.wait_until("it is not counted any more", |server| server.status()["draining"][0]["pid"] == second);
    assert_eq!((server.pid(), server.pid_in_file()), (third, Some(third)));
    let fourth = server.reload_ok();
    two.finish_by(second);
    assert_eq!(server.wait_single(), fourth);
    load.stop().assert_no_failure();
}

#[test]
fn the_death_of_the_middle_of_three_generations_means_nothing_to_the_others() {
    let Three { server, load, pids: [first, second, third], held: [one, two] } = three(Reborn::new());
    kill(&server, second);
    assert!(two.finish().is_err());
    server
        .wait_until("it is not counted any more", |server| server.status()["draining"].as_array().unwrap().len() == 1);
    assert_eq!((server.pid(), server.pid_in_file()), (third, Some(third)));
    one.finish_by(first);
    assert_eq!((server.wait_end(first), server.wait_single()), (Ended::Code(0), third));
    server.reload().assert_success();
    load.stop().assert_no_failure();
}

#[test]
fn when_the_newest_of_three_generations_dies_the_one_before_it_serves_again() {
    let Three { server, load, pids: [first, second, third], held: [one, two] } = three(Reborn::new());
    kill(&server, third);
    server.wait_until("the one before it answers commands", |server| {
        server.command(["status", "--json"]).is_success() && server.pid() == second
    });
    assert_eq!(server.pid_in_file(), Some(second), "{}", server.state());
    assert_eq!(server.ask().pid(), Some(second));
    server.wait_until("the dead one is buried", |server| server.family().zombies().is_empty());
    assert!(!server.log().contains("could not be reaped"), "{}", server.log());
    two.finish_by(second);
    one.finish_by(first);
    server.wait_until("the oldest has ended", |server| server.generations() == [second]);
    let next = server.reload_ok();
    load.wait_for_pid(next, DEADLINE).unwrap();
    assert_eq!(server.wait_single(), next);
    assert_never_refused(&load.stop());
    server.stop().assert_success();
    server.wait_nothing_left();
}

#[test]
fn when_the_middle_and_the_newest_have_died_the_oldest_serves_again() {
    let Three { server, load, pids: [first, second, third], held: [one, two] } = three(Reborn::new());
    kill(&server, second);
    kill(&server, third);
    server.wait_until("the oldest answers commands", |server| {
        server.command(["status", "--json"]).is_success() && server.pid() == first
    });
    assert_eq!((server.pid_in_file(), server.ask().pid()), (Some(first), Some(first)));
    assert!(two.finish().is_err());
    one.finish_by(first);
    assert_never_refused(&load.stop());
    let next = server.reload_ok();
    assert_eq!(server.wait_single(), next);
}

#[test]
fn when_two_generations_die_in_one_instant_the_third_serves_again() {
    let Three { server, load, pids: [first, second, third], held: [one, _two] } = three(Reborn::new());
    // Stopped first, so that neither can do anything about the other's end.
    for pid in [second, third] {
        server.signal_to(pid, Signal::STOP);
    }
    for pid in [second, third] {
        server.signal_to(pid, Signal::KILL);
    }
    server.wait_until("the oldest answers", |server| {
        server.generations() == [first] && server.ask().pid() == Some(first)
    });
    one.finish_by(first);
    // Whoever came while both stood still waited, and was not refused.
    assert_eq!(load.stop().failed_by(Failure::ConnectRefused), 0);
}

#[test]
fn a_greeting_that_comes_after_the_news_of_its_senders_death_keeps_nobody_from_serving_again() {
    let server = start(Reborn::new());
    let first = server.first_pid();
    let held = server.hold();
    let (kind, occurrence, change) = ("greeting".to_owned(), Occurrence::Nth(1), Change::Delay(1000));
    let second_greeting = Order { direction: Direction::ToOlder, kind, socket: None, occurrence, change };
    // Its answer is lost, so that the greeting is said again.
    let relay = Relay::new().every(Direction::ToNewer, "greeted", Change::Drop).order(second_greeting);
    server.replace_binary(&Version::Relayed(relay));
    let second = server.reload_ok();
    server.wait_until("the greeting has been said again", |server| {
        server.relayed().iter().filter(|seen| seen.kind == "greeting").count() >= 2
    });
    kill(&server, second);
    server.wait_until("the old one serves again", |server| server.command(["status", "--json"]).is_success());
    assert_eq!((server.pid(), server.ask().pid()), (first, Some(first)));
    held.finish_by(first);
}

#[test]
fn nobodys_generations_survive_the_death_of_the_newest_too() {
    if !may_change_user() {
        return;
    }
    let Three { server, load, pids: [first, second, third], held: [one, two] } = three(Reborn::new().as_nobody());
    kill(&server, third);
    server.wait_until("the one before it serves", |server| {
        server.command(["status", "--json"]).is_success() && server.pid() == second
    });
    one.finish_by(first);
    two.finish_by(second);
    assert_never_refused(&load.stop());
}

#[test]
fn the_pid_file_names_a_living_process_soon_after_the_newest_was_killed() {
    let server = start(Reborn::new());
    let (old, _held) = (server.first_pid(), server.hold());
    let new = server.reload_ok();
    assert_eq!(server.pid_in_file(), Some(new));
    kill(&server, new);
    let dead = Instant::now();
    server.wait_until("the pid file names the old one", |server| server.pid_in_file() == Some(old));
    // 100 ms is what is promised; the rest is for a machine with other work.
    assert!(dead.elapsed() < Duration::from_secs(10), "{:?}", dead.elapsed());
    assert_eq!((server.pid(), server.generation()), (old, 1));
}

#[test]
fn however_often_the_newest_dies_the_old_one_serves_again_and_keeps_no_zombie() {
    let server = start(Reborn::new());
    let (old, held) = (server.first_pid(), server.hold());
    for _ in 0..10 {
        let new = server.reload_ok();
        assert_eq!(server.generation(), 2);
        kill(&server, new);
        server.wait_until("the old one serves", |server| server.pid_in_file() == Some(old));
        assert_eq!((server.ask().pid(), server.pid()), (Some(old), old));
    }
    server.wait_until("the dead are buried", |server| server.family().zombies().is_empty());
    assert!(!server.log().contains("could not be reaped"), "{}", server.log());
    let new = server.reload_ok();
    held.finish_by(old);
    assert_eq!(server.wait_single(), new);
}

#[test]
fn a_successor_that_the_service_manager_knows_serves_on_when_its_predecessor_is_killed_before_the_commit() {
    let server = Reborn::new().demo().probation_ms(0).notify().start();
    let (old, load) = (server.first_pid(), knocking(&server));
    server.notify().hold_barriers();
    let reload = server.reload_in_background();
    server.wait_until("the announcement is made", |server| server.notify().held_barriers() == 1);
    kill(&server, old);
    let output = reload.join().unwrap();
    output.assert_success();
    let new = server.wait_single();
    assert_eq!((server.pid(), server.pid_in_file(), server.ask().pid()), (new, Some(new), Some(new)));
    assert_never_refused(&load.stop());
}

#[test]
fn a_successor_that_is_ready_serves_on_when_its_predecessor_is_killed() {
    let server = Reborn::new().demo().args(["--probation", "1m"]).start();
    let old = server.first_pid();
    let load = knocking(&server);
    let reload = server.reload_in_background();
    server.wait_until("the successor accepts", |server| server.ask().pid() != Some(old));
    server.signal_to(old, Signal::KILL);
    // The command asks the successor what became of the reload.
    let output = reload.join().unwrap();
    output.assert_success();
    let new = server.pid();
    assert!(new != old && output.stdout.contains(&format!("(pid {old}) -> generation 2 (pid {new})")), "{output}");
    assert_eq!((server.pid_in_file(), server.generation()), (Some(new), 2));
    assert_eq!(server.wait_single(), new);
    assert_never_refused(&load.stop());
    server.stop().assert_success();
    server.wait_nothing_left();
}

#[test]
fn a_successor_whose_predecessor_was_killed_before_its_first_word_does_not_linger() {
    let server = start(Reborn::new());
    server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
    let reload = server.reload_in_background();
    let held = server.wait_broken(0);
    server.signal_to(server.first_pid(), Signal::KILL);
    server.wait_end(server.first_pid());
    server.open_gate();
    server.wait_until("the successor has ended", |server| server.generations().is_empty());
    assert!(server.log().contains("cannot serve"), "{held}: {}", server.log());
    assert!(!reload.join().unwrap().is_success());
}

#[test]
fn a_killed_draining_generation_is_not_missed() {
    let server = start(Reborn::new());
    let load = knocking(&server);
    let held = server.hold();
    let new = server.reload_ok();
    wait_only_held(&server);
    server.signal_to(server.first_pid(), Signal::KILL);
    assert_eq!(server.wait_single(), new);
    assert!(held.finish().is_err());
    server.reload().assert_success();
    load.stop().assert_no_failure();
}

#[test]
fn a_draining_generation_under_a_service_manager_leaves_the_restart_to_it() {
    let server = Reborn::new().demo().probation_ms(0).notify().start();
    let (old, _held) = (server.first_pid(), server.hold());
    let new = server.reload_ok();
    server.signal_to(new, Signal::KILL);
    assert_eq!(server.wait_end(old), Ended::Code(1), "{}", server.state());
    server.wait_gone();
}

#[test]
fn where_the_service_manager_holds_the_listeners_a_draining_generation_finishes_before_it_leaves_the_restart_to_it() {
    let server = Reborn::new().demo().probation_ms(0).notify().env("FDSTORE", "8").start();
    let (old, held) = (server.first_pid(), server.hold());
    let new = server.reload_ok();
    server.signal_to(new, Signal::KILL);
    server.wait_until("it is dead", |server| !server.generations().contains(&new));
    held.finish_by(old);
    assert_eq!(server.wait_end(old), Ended::Code(1), "{}", server.state());
    server.wait_gone();
}

/// Starts a child that keeps its standard input, and becomes the real program: as a wrapper does that starts an agent.
const WRAPPER: &str = "#!/bin/sh\nexec 9<&0\nsleep 1000 <&9 9<&- &\nexec 9<&-\nexec \"$0.real\" \"$@\"\n";

#[test]
fn a_child_that_a_wrapper_leaves_with_its_standard_input_hides_no_death() {
    let server = start(Reborn::new());
    let (first, held) = (server.first_pid(), server.hold());
    Version::Current.put(&beside(server.program(), "real"));
    let wrapper = server.folder().join("wrapper");
    write_by_child(None, WRAPPER.as_bytes(), &wrapper, "755");
    server.replace_binary(&Version::File(wrapper));
    let newest = server.reload_ok();
    let child = server.generations().into_iter().find(|pid| ![first, newest].contains(pid)).unwrap();
    let kept = Process::open(child).unwrap().fds();
    assert!(kept[&0].starts_with("socket:"), "{kept:?}");
    kill(&server, newest);
    server.wait_until("the one before it answers commands", |server| {
        server.command(["status", "--json"]).is_success() && server.pid() == first
    });
    assert_eq!((server.pid_in_file(), server.ask().pid()), (Some(first), Some(first)));
    assert!(server.generations().contains(&child), "the child outlives it");
    held.finish_by(first);
    assert_ne!(server.reload_ok(), first);
}
