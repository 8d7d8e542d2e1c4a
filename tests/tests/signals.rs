//! Signals: each that asks for a reload brings one, storms of them end in one generation, and a terminal's reach every
//! generation at once without cutting a request.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tests::{DEADLINE, Ended, Mode, Process, Reborn, Signal, Version, terminal::terminal};

#[test]
fn a_thousand_hangups_leave_one_generation_the_newest_and_lose_no_request() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let load = server.load().paced(4, 100).new_connections_paced(2, 50).start();
    load.wait_for_pid(server.first_pid(), DEADLINE).unwrap();
    for _ in 0..1000 {
        // Whoever the pid file names may already have ended: then the signal has nobody to reach.
        if let Some(process) = server.pid_in_file().and_then(Process::open) {
            process.signal(Signal::HUP);
        }
        // The rate of the storm, not a wait: 1,000 in 10 s.
        std::thread::sleep(Duration::from_millis(10));
    }
    // Those signals that were remembered have had their reloads when one process is left and stays the main one.
    let mut last = None;
    server.wait_until("one generation is left, and no reload is under way", |server| {
        let (before, alive) = (last, server.generations());
        last = (alive.len() == 1).then(|| alive[0]);
        last.is_some() && last == before && server.status()["state"] == "serving" && server.pid() == alive[0]
    });
    let generation = server.generation();
    assert!(generation > 10, "only {generation} generations\n{}", server.state());
    assert_eq!((server.pid_in_file(), server.ask().pid()), (last, last));
    let log = server.log();
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    let report = load.stop();
    report.assert_no_failure();
    let ends: Vec<_> = report.pids.keys().filter(|pid| Some(**pid) != last).map(|pid| server.ended(*pid)).collect();
    assert!(ends.iter().all(|end| end.is_none_or(|end| end == Ended::Code(0))), "{ends:?}");
}

#[test]
fn a_signal_during_a_reload_is_remembered_once_and_brings_one_more() {
    let server = Reborn::new().demo().probation_ms(0).start();
    server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
    server.signal(Signal::HUP);
    server.wait_broken(0);
    for signal in [Signal::HUP, Signal::USR2, Signal::HUP] {
        server.signal(signal);
    }
    // The answer comes from behind the signals.
    assert_eq!(server.status()["state"], "reloading");
    server.open_gate();
    server.wait_until("both reloads are over", |server| server.generation() == 3);
    assert_eq!(server.wait_single(), server.pid());
    assert_eq!((server.generation(), server.log().matches("reloaded: ").count()), (3, 2), "{}", server.log());
}

#[test]
fn under_nohup_a_hangup_does_nothing_and_the_other_signal_reloads() {
    let server = Reborn::new().demo().probation_ms(0).prelude("trap '' HUP").start();
    let new = {
        server.signal(Signal::HUP);
        server.reload_by(Signal::USR2)
    };
    server.signal(Signal::HUP);
    assert_eq!((server.generation(), server.pid()), (2, new));
    // The third is the second command's: no hangup brought one in between, in any generation.
    server.reload_ok();
    assert_eq!(server.generation(), 3);
    server.wait_single();
    assert_eq!(server.log().matches("reloaded: ").count(), 2, "{}", server.log());
}

#[test]
fn a_signal_of_habit_or_of_a_limit_ends_nobody_and_costs_no_request() {
    // In any generation, and while it starts; with the supervisor before them as well.
    for foreground in [false, true] {
        let reborn = Reborn::new().demo().probation_ms(0);
        let server = if foreground { reborn.arg("--foreground").start() } else { reborn.start() };
        let harmless = [
            Signal::USR1,
            Signal::PIPE,
            Signal::ALARM,
            Signal::VTALARM,
            Signal::PROF,
            Signal::IO,
            Signal::STKFLT,
            Signal::XFSZ,
            Signal::WINCH,
            Signal::URG,
        ];
        let signal_all = || {
            for (signal, pid) in
                harmless.iter().flat_map(|signal| server.generations().into_iter().map(move |pid| (signal, pid)))
            {
                server.signal_to(pid, *signal);
            }
        };
        let held = server.hold();
        signal_all();
        server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
        let reload = server.reload_in_background();
        let successor = server.wait_broken(0);
        // What waits there is a shell, which does not survive those that are not blocked: only a server handles them.
        for signal in &harmless {
            server.signal_to(successor, *signal);
        }
        server.open_gate();
        reload.join().unwrap().assert_success();
        signal_all();
        assert!(held.finish().is_ok(), "{}", server.state());
        assert_eq!(server.generation(), 2, "{}", server.log());
        server.stop().assert_success();
    }
}

#[test]
fn quit_and_power_failure_stop_in_order() {
    for signal in [Signal::QUIT, Signal::POWER] {
        for foreground in [false, true] {
            let reborn = Reborn::new().demo().probation_ms(0);
            let server = if foreground { reborn.arg("--foreground").start() } else { reborn.start() };
            let held = server.hold();
            server.signal_to(server.first_pid(), signal);
            server.wait_until("it stops", |server| server.status()["state"] == "stopping");
            assert!(held.finish().is_ok(), "{}", server.state());
            assert_eq!(server.wait_end(server.first_pid()), Ended::Code(0), "{}", server.log());
            server.wait_nothing_left();
        }
    }
}

#[test]
fn a_signal_that_a_predecessor_blocked_is_blocked_for_no_successor() {
    let server = Reborn::new().demo().probation_ms(0).args(["--config", "flags.toml"]);
    let flags = server.folder().join("flags.toml");
    std::fs::write(&flags, "reload-signal = \"WINCH\"\n").unwrap();
    let server = server.start();
    server.reload_by(Signal::WINCH);
    std::fs::write(&flags, "").unwrap();
    let pid = server.reload_ok();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim();
    assert_eq!(blocked, "0000000000000000", "{status}");
}

/// The server becomes the leader of a session on its terminal.
const LEADS_A_SESSION: &str = "exec setsid --ctty \"$0\" \"$@\"";
/// A shell with a job in the background, to which it passes a hang-up on.
const JOB_OF_A_SHELL: &str = "exec setsid --ctty sh -mc 'trap \"kill -HUP -\\$job; exit 0\" HUP; \"$0\" \"$@\" & job=$!; read line' \"$0\" \"$@\"";
/// The same, and the shell ends without a word.
const JOB_OF_A_SHELL_THAT_LEAVES: &str =
    "exec setsid --ctty sh -mc 'trap \"exit 0\" HUP; \"$0\" \"$@\" & read line' \"$0\" \"$@\"";

#[test]
fn a_terminal_that_closes_stops_the_server_and_a_hangup_signal_reloads_it() {
    for (session, foreground) in
        [LEADS_A_SESSION, JOB_OF_A_SHELL].into_iter().flat_map(|session| [(session, false), (session, true)])
    {
        let (terminal, slave) = terminal();
        let reborn = Reborn::new().demo().probation_ms(0).stdin(slave).prelude(session);
        let server = if foreground { reborn.arg("--foreground").start() } else { reborn.start() };
        server.reload_by(Signal::HUP);
        let held = server.hold();
        drop(terminal);
        server.wait_until("it stops", |server| server.status()["state"] == "stopping");
        assert!(held.finish().is_ok(), "{}", server.state());
        server.wait_nothing_left();
        assert_eq!(server.log().matches("reloaded: ").count(), 1, "{}", server.log());
    }
}

#[test]
fn a_server_that_outlives_its_terminal_is_reloaded_by_a_hangup_signal_as_ever() {
    let (terminal, slave) = terminal();
    let server = Reborn::new().demo().probation_ms(0).stdin(slave).prelude(JOB_OF_A_SHELL_THAT_LEAVES).start();
    let shell = server.first_pid();
    drop(terminal);
    server.wait_end(shell);
    server.reload_by(Signal::HUP);
    server.stop().assert_success();
}

#[test]
fn a_hangup_signal_of_a_script_that_never_had_a_terminal_reloads() {
    let script = "exec setsid sh -c '\"$0\" \"$@\" & trap \"kill -HUP $!\" USR1; wait; wait' \"$0\" \"$@\"";
    let server = Reborn::new().demo().probation_ms(0).prelude(script).start();
    let old = server.pid();
    server.signal_to(server.first_pid(), Signal::USR1);
    server.wait_until("it is reloaded", |server| server.pid() != old);
    server.stop();
}

#[test]
fn under_nohup_a_terminal_that_closes_changes_nothing() {
    let (terminal, slave) = terminal();
    let session = format!("trap '' HUP; {LEADS_A_SESSION}");
    let server = Reborn::new().demo().probation_ms(0).stdin(slave).prelude(&session).start();
    drop(terminal);
    server.reload_by(Signal::USR2);
    server.stop().assert_success();
    assert_eq!(server.log().matches("reloaded: ").count(), 1, "{}", server.log());
}

#[test]
fn ctrl_c_during_a_reload_ends_every_generation() {
    let server = Reborn::new().demo().own_group().args(["--probation", "1m"]).start();
    let old = server.first_pid();
    server.signal(Signal::HUP);
    server.wait_until("the successor accepts", |server| server.ask().pid() != Some(old));
    server.signal_group(Signal::INT);
    server.wait_nothing_left();
    assert_eq!(server.ended(old), Some(Ended::Code(0)), "{}", server.log());
}

#[test]
fn ctrl_c_while_the_successor_starts_ends_every_generation() {
    let server = Reborn::new().demo().own_group().start();
    server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
    server.signal(Signal::HUP);
    server.wait_broken(0);
    server.signal_group(Signal::INT);
    server.wait_nothing_left();
    assert_eq!(server.ended(server.first_pid()), Some(Ended::Code(0)), "{}", server.log());
}

#[test]
fn ctrl_c_during_a_drain_lets_every_generation_finish_its_requests() {
    let server = Reborn::new().demo().own_group().probation_ms(0).start();
    let (old, first) = (server.first_pid(), server.hold());
    let new = server.reload_ok();
    let second = server.hold();
    server.signal_group(Signal::INT);
    server.wait_until("nobody accepts any more", |server| std::net::TcpStream::connect(server.address()).is_err());
    second.finish_by(new);
    first.finish_by(old);
    server.wait_nothing_left();
    assert_eq!((server.ended(old), server.ended(new)), (Some(Ended::Code(0)), Some(Ended::Code(0))));
}

#[test]
fn with_the_reload_signal_int_ctrl_c_replaces_the_server_as_the_original_did() {
    let server = Reborn::new().demo().own_group().probation_ms(0).args(["--reload-signal", "INT"]).start();
    let (old, held) = (server.first_pid(), server.hold());
    let new = server.reload_by(Signal::INT);
    // To all of the group, also to the one that drains: neither it nor its request is hurt.
    server.signal_group(Signal::INT);
    server.wait_until("another generation serves", |server| server.generation() >= 3);
    assert_ne!(server.pid(), new);
    held.finish_by(old);
    assert_eq!(server.wait_end(old), Ended::Code(0));
    server.wait_until("one generation is left", |server| {
        server.generations().len() == 1 && server.status()["state"] == "serving"
    });
    server.signal(Signal::TERM);
    server.wait_nothing_left();
}

#[test]
fn a_reload_signal_to_a_draining_generation_is_passed_on_to_the_newest() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let (old, held) = (server.first_pid(), server.hold());
    server.reload_ok();
    server.signal_to(old, Signal::USR2);
    server.wait_until("the newest has been replaced", |server| server.generation() == 3);
    held.finish_by(old);
    assert_eq!(server.wait_single(), server.pid());
}
