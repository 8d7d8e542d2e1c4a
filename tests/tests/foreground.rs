//! `--foreground`: one pid stays, whatever becomes of the generations, and ends as the last of them did. Each promise is
//! kept for those who follow a pid (a terminal, runit, s6, supervisord), and as PID 1 of a container.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use tests::{DEADLINE, Ended, Mode, Reborn, Server, Signal, Version, skip::skip};

/// Becomes PID 1 of a pid namespace. What `unshare` was started as waits outside for it, and ends as it does.
const AS_PID_1: &str = "exec unshare --pid --fork --kill-child --mount-proc \"$0\" \"$@\"";

/// A service and its supervisor. The service's own pids are those of the inside.
struct Kept {
    server: Server,
    /// As the host sees it.
    supervisor: u32,
}

impl Kept {
    fn start(reborn: Reborn) -> Kept {
        let server = reborn.demo().arg("--foreground").start();
        let first = server.first_pid();
        let children = children_of(first);
        let is_outside = tests::procfs::command_line(first)[0] == "unshare";
        let supervisor = if is_outside { children[0] } else { first };
        Kept { server, supervisor }
    }

    /// The newest generation, as the host sees it.
    fn newest(&self) -> u32 {
        let inside = self.server.pid();
        let all = self.server.generations();
        let found = all.into_iter().find(|pid| *pid != self.supervisor && pid_inside(*pid) == Some(inside));
        found.unwrap_or_else(|| panic!("nobody is pid {inside}\n{}", self.server.state()))
    }

    /// Reloads well, and gives the new generation.
    fn reload(&self) -> u32 {
        self.server.reload_ok();
        self.newest()
    }

    /// Waits until one generation is left, adopted by the supervisor, and nobody is left unburied.
    fn wait_adopted(&self, newest: u32) {
        self.server.wait_until("the newest generation is the supervisor's only child", |server| {
            children_of(self.supervisor) == [newest] && server.family().zombies().is_empty()
        });
    }

    /// Waits for the end of it all.
    #[track_caller]
    fn assert_ends(&self, code: i32) {
        assert_eq!(self.server.wait_end(self.server.first_pid()), Ended::Code(code), "{}", self.server.state());
        self.server.wait_gone();
    }
}

/// Calls the test once for a supervisor as any process, and once for one that is PID 1.
fn as_any_process_and_as_pid_1(test: impl Fn(Reborn)) {
    test(Reborn::new());
    if rustix::process::geteuid().is_root() {
        test(Reborn::new().prelude(AS_PID_1));
    } else {
        skip("only root may make a pid namespace");
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// A process's number in the innermost of its pid namespaces.
fn pid_inside(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
}

#[test]
fn one_pid_stays_over_reloads_and_every_generation_is_adopted_and_buried() {
    as_any_process_and_as_pid_1(|reborn| {
        let kept = Kept::start(reborn.probation_ms(0));
        let load = kept.server.load().paced(4, 200).new_connections_paced(4, 100).start();
        kept.wait_adopted(kept.newest());
        for _ in 0..3 {
            let new = kept.reload();
            kept.wait_adopted(new);
        }
        for signal in [Signal::HUP, Signal::USR2] {
            let old = kept.server.pid();
            kept.server.signal_to(kept.supervisor, signal);
            kept.server.wait_until("the signal is passed on", |server| server.pid() != old);
            kept.wait_adopted(kept.newest());
        }
        assert_eq!(kept.server.generation(), 6);
        load.stop().assert_no_failure();
        kept.server.stop().assert_success();
        kept.assert_ends(0);
    });
}

#[test]
fn pid_1_without_foreground_supervises_by_itself_and_says_so() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root may make a pid namespace");
    }
    // A notify socket from outside the namespace, as podman gives one, cannot save it.
    for reborn in [Reborn::new(), Reborn::new().notify()] {
        let server = reborn.demo().probation_ms(0).prelude(AS_PID_1).start();
        let supervisor = children_of(server.first_pid())[0];
        let kept = Kept { server, supervisor };
        for _ in 0..2 {
            let new = kept.reload();
            kept.wait_adopted(new);
        }
        assert!(kept.server.log().contains("as with --foreground: it is PID 1"), "{}", kept.server.log());
        kept.server.signal_to(kept.supervisor, Signal::TERM);
        kept.assert_ends(0);
    }
}

#[test]
fn a_version_that_fails_changes_nothing_and_the_next_one_takes_over() {
    as_any_process_and_as_pid_1(|reborn| {
        let kept = Kept::start(reborn.args(["--ready-timeout", "3s", "--probation", "1s"]));
        let load = kept.server.load().paced(4, 200).start();
        let first = kept.newest();
        let exits = Mode::Exits { code: 3, words: String::new() };
        for mode in [exits, Mode::KilledBy(9), Mode::Hangs, Mode::DiesReady { code: 4, ms: 20 }] {
            kept.server.replace_binary(&Version::Broken(mode));
            kept.server.reload().assert_code(1);
            kept.wait_adopted(first);
        }
        kept.server.replace_binary(&Version::Current);
        let new = kept.reload();
        kept.wait_adopted(new);
        load.stop().assert_no_failure();
    });
}

#[test]
fn orphans_of_any_kind_are_buried() {
    as_any_process_and_as_pid_1(|reborn| {
        let kept = Kept::start(reborn.probation_ms(0));
        let first = kept.newest();
        kept.server.replace_binary(&Version::Broken(Mode::LeavesAChild));
        kept.server.reload().assert_code(1);
        kept.server.wait_until("the failed version's child is adopted", |_| children_of(kept.supervisor).len() == 2);
        let orphan = children_of(kept.supervisor).into_iter().find(|pid| *pid != first).unwrap();
        kept.server.signal_to(orphan, Signal::KILL);
        kept.wait_adopted(first);
    });
}

#[test]
fn a_stop_signal_is_passed_on_and_requests_in_flight_finish() {
    as_any_process_and_as_pid_1(|reborn| {
        let kept = Kept::start(reborn.probation_ms(0));
        let (old, of_old) = (kept.server.pid(), kept.server.hold());
        let new = kept.server.reload_ok();
        let of_new = kept.server.hold();
        kept.server.signal_to(kept.supervisor, Signal::TERM);
        kept.server.wait_until("the newest stops", |server| server.status()["state"] == "stopping");
        of_old.finish_by(old);
        of_new.finish_by(new);
        kept.assert_ends(0);
    });
}

#[test]
fn the_end_is_the_last_main_processs_own() {
    as_any_process_and_as_pid_1(|reborn| {
        let kept = Kept::start(reborn.probation_ms(0));
        let new = kept.reload();
        kept.wait_adopted(new);
        kept.server.signal_to(new, Signal::KILL);
        kept.assert_ends(128 + 9);
    });
    as_any_process_and_as_pid_1(|reborn| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = reborn.arg("--foreground").listen(&format!("taken={}", taken.local_addr().unwrap())).spawn();
        assert_eq!(server.wait_end(server.first_pid()), Ended::Code(1), "{}", server.log());
        assert!(server.log().contains("Address already in use"), "{}", server.log());
    });
}

#[test]
fn the_newest_killed_while_an_older_one_drains_leaves_the_older_one_serving_again() {
    as_any_process_and_as_pid_1(|reborn| {
        let kept = Kept::start(reborn.probation_ms(0));
        let (held, old) = (kept.server.hold(), kept.server.pid());
        let new = kept.reload();
        kept.server.signal_to(new, Signal::KILL);
        kept.server.wait_until("the older one serves again", |server| {
            server.command(["status", "--json"]).is_success() && server.pid() == old
        });
        held.finish_by(old);
        assert_eq!(kept.server.ask().pid(), Some(old));
        // It is followed as before, and can be reloaded.
        assert_ne!(kept.reload(), new);
        kept.server.signal_to(kept.supervisor, Signal::TERM);
        kept.assert_ends(0);
    });
}

#[test]
fn a_successor_that_takes_over_from_a_killed_predecessor_is_followed() {
    as_any_process_and_as_pid_1(|reborn| {
        let kept = Kept::start(reborn.args(["--probation", "1m"]));
        let (old, inside) = (kept.newest(), kept.server.pid());
        kept.server.signal_to(kept.supervisor, Signal::HUP);
        kept.server.wait_until("the successor accepts", |server| server.ask().pid() != Some(inside));
        kept.server.signal_to(old, Signal::KILL);
        kept.server.wait_until("the successor has taken over", |server| server.pid() != inside);
        kept.wait_adopted(kept.newest());
        kept.server.signal_to(kept.supervisor, Signal::TERM);
        kept.assert_ends(0);
    });
}

#[test]
fn a_supervisor_that_a_service_manager_follows_tells_it_what_its_generations_say() {
    let kept = Kept::start(Reborn::new().notify().probation_ms(0));
    kept.reload();
    let ready = kept.server.notify().wait_for("READY=1 of generation 2", DEADLINE, |message| {
        message.has("READY=1") && message.get("STATUS").is_some_and(|status| status.contains("generation 2"))
    });
    assert_eq!(ready.pid, kept.supervisor);
    let named = kept.server.notify().messages().into_iter().any(|message| message.get("MAINPID").is_some());
    assert!(!named, "the main process is the supervisor for good");
    kept.server.stop().assert_success();
    kept.assert_ends(0);
}

#[test]
fn generations_whose_supervisor_was_killed_stop_in_order_and_leave_nothing() {
    let kept = Kept::start(Reborn::new().probation_ms(0));
    let of_old = kept.server.hold();
    let (old, new) = (kept.newest(), kept.reload());
    let of_new = kept.server.hold();
    kept.server.signal_to(kept.supervisor, Signal::KILL);
    kept.server.wait_until("the service stops", |server| server.status()["state"] == "stopping");
    of_old.finish_by(old);
    of_new.finish_by(new);
    kept.server.wait_nothing_left();
    // Whoever follows the pid starts it anew.
    TcpListener::bind(kept.server.address()).unwrap();
}

#[test]
fn a_stop_that_comes_while_there_is_no_main_process_is_not_lost() {
    as_any_process_and_as_pid_1(|reborn| {
        let kept = Kept::start(reborn.args(["--probation", "1m"]));
        let (old, inside) = (kept.newest(), kept.server.pid());
        kept.server.signal_to(kept.supervisor, Signal::HUP);
        kept.server.wait_until("the successor accepts", |server| server.ask().pid() != Some(inside));
        let others = [old, kept.supervisor, kept.server.first_pid()];
        let successor = kept.server.generations().into_iter().find(|pid| !others.contains(pid)).unwrap();
        kept.server.signal_to(successor, Signal::STOP);
        kept.server.signal_to(old, Signal::KILL);
        let orphaned = Instant::now();
        kept.wait_adopted(successor);
        kept.server.signal_to(kept.supervisor, Signal::TERM);
        // One that could take over is waited for while it stands still: longer than any other one.
        kept.server.wait_until("the supervisor is still there", |server| {
            assert!(server.generations().contains(&kept.supervisor), "{}", server.log());
            orphaned.elapsed() > Duration::from_secs(3)
        });
        kept.server.signal_to(successor, Signal::CONT);
        kept.assert_ends(0);
    });
}

#[test]
fn a_version_that_does_not_take_over_from_a_dead_one_is_not_left_behind() {
    as_any_process_and_as_pid_1(|reborn| {
        let kept = Kept::start(reborn.args(["--ready-timeout", "1m"]));
        let main = kept.newest();
        kept.server.replace_binary(&Version::Broken(Mode::Hangs));
        kept.server.signal_to(kept.supervisor, Signal::HUP);
        kept.server.wait_broken(0);
        kept.server.signal_to(main, Signal::KILL);
        kept.assert_ends(128 + 9);
        assert!(kept.server.log().contains("nobody took its place: killing pid"), "{}", kept.server.log());
    });
}

#[test]
fn supervisors_of_one_number_share_a_folder_and_leave_nothing_there() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root may make a pid namespace");
    }
    let shared = tempfile::tempdir().unwrap();
    let left = || fs::read_dir(shared.path()).unwrap().count();
    let start = || Kept::start(Reborn::new().probation_ms(0).prelude(AS_PID_1).env("RUNTIME_DIRECTORY", shared.path()));
    let (one, other) = (start(), start());
    for kept in [&one, &other, &one] {
        let new = kept.reload();
        kept.wait_adopted(new);
    }
    one.server.signal_to(one.supervisor, Signal::KILL);
    one.server.wait_gone();
    assert_eq!(left(), 2);
    let third = start();
    assert_eq!(left(), 2, "that of the killed one is gone, and those of the living are not");
    for kept in [other, third] {
        kept.reload();
        kept.server.signal_to(kept.supervisor, Signal::TERM);
        kept.assert_ends(0);
    }
    assert_eq!(left(), 0);
}

#[test]
fn after_a_stop_nobody_is_left_waiting_for_a_supervisor_that_holds_no_listener() {
    let kept = Kept::start(Reborn::new());
    let held = kept.server.hold();
    kept.server.signal_to(kept.supervisor, Signal::TERM);
    kept.server.wait_until("new connections are refused", |server| TcpStream::connect(server.address()).is_err());
    assert!(held.finish().is_ok());
    kept.assert_ends(0);
}
