//! What generations say to each other beyond a plain reload, made unreadable: each of these messages comes in a scene of
//! its own, and its first one is changed in each way by which a message can be wrong. All promises hold all the same.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use restart_core::control::Client;
use smol::block_on;
use tests::load::{Connection, Limits, Request, Target};
use tests::relay::{Change, Direction, Seen, Which};
use tests::{DEADLINE, Ended, Reborn, Relay, Server, Signal, Version};

const FILE: &str = "reborn.toml";

/// Long enough for a test to do something meanwhile, and not too long to be waited for.
const PROBATION: &str = "6s";

/// One message of a scene, as it is changed.
#[derive(Clone, Debug)]
struct Wrong {
    direction: Direction,
    kind: &'static str,
    change: Change,
}

impl Wrong {
    /// The receiver understands it all the same.
    fn is_read(&self) -> bool {
        matches!(self.change, Change::UnknownField | Change::Duplicate | Change::SurplusDescriptor)
    }

    fn relay(&self) -> Version {
        Version::Relayed(Relay::new().first(self.direction, self.kind, self.change.clone()))
    }

    fn is_this(&self, seen: &Seen) -> bool {
        (seen.direction, seen.kind.as_str()) == (self.direction, self.kind)
    }

    /// Where the relay met the message and changed it, among all packets that it has seen.
    fn place(&self, seen: &[Seen]) -> Option<usize> {
        seen.iter().position(|seen| self.is_this(seen) && seen.changes == [self.change.clone()])
    }

    #[track_caller]
    fn wait_met(&self, server: &Server) {
        let what = format!("the relay has changed the first {:?}", self.kind);
        server.wait_until(&what, |server| self.place(&server.relayed()).is_some());
    }

    /// Waits until the receiver has been told in a way that it can read: at once, or by this kind of message.
    #[track_caller]
    fn wait_told(&self, server: &Server, again: &str) {
        self.wait_met(server);
        server.wait_until("it is said again", |server| {
            let seen = server.relayed();
            let after = self.place(&seen).map_or(0, |place| place + 1);
            let is_again = |seen: &Seen| (seen.direction, seen.kind.as_str()) == (self.direction, again);
            self.is_read() || seen[after..].iter().any(is_again)
        });
    }
}

/// Plays a scene with each change of the first message of this kind, all at once, and says which of them broke it.
fn with_each_change(direction: Direction, kind: &'static str, fields: &[&str], scene: impl Fn(&Wrong) + Sync) {
    let another = if direction == Direction::ToNewer { "pong" } else { "ping" };
    let mut changes = vec![Change::UnknownField, Change::Duplicate, Change::SurplusDescriptor];
    changes.extend([Change::Garbage, Change::Drop, Change::OtherKind("song".into())]);
    changes.push(Change::OtherKind(another.into()));
    for field in fields.iter().chain(&["kind"]) {
        let field = Some((*field).to_owned());
        changes.extend([Change::MissingField(field.clone()), Change::OtherType(field)]);
    }
    if kind == "withdraw" {
        changes.push(Change::DropDescriptor(Which::First));
    }
    let broken: Vec<String> = thread::scope(|scope| {
        let play = |change| {
            let wrong = Wrong { direction, kind, change };
            let scene = &scene;
            scope.spawn(move || {
                let outcome = catch_unwind(AssertUnwindSafe(|| scene(&wrong)));
                outcome.is_err().then(|| format!("{:?}", wrong.change))
            })
        };
        let playing: Vec<_> = changes.into_iter().map(play).collect();
        playing.into_iter().filter_map(|scene| scene.join().unwrap()).collect()
    });
    assert!(broken.is_empty(), "{kind:?} broke promises with these changes, see above: {broken:?}");
}

fn start() -> Server {
    Reborn::new().demo().probation_ms(0).start()
}

/// A server in which each step of the lifecycle can be waited for, with a service manager of the test's own, which keeps
/// no listener open.
fn managed() -> Server {
    let reborn = Reborn::new().demo().probation_ms(0).notify().env("FDSTORE", "0");
    reborn.args(["--log", "restart_core=trace"]).start()
}

fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

/// The pid that answers a request on a connection of its own.
#[track_caller]
fn asked(address: SocketAddr) -> Option<u32> {
    let limits = Limits { answer: DEADLINE, ..Limits::default() };
    let connection = block_on(Connection::open(&Target::Tcp(address), limits));
    block_on(connection.unwrap().exchange(&Request::fast("ask").last())).unwrap().pid()
}

fn configuration(listen: &[String]) -> String {
    format!("demo = true\nprobation = \"0s\"\nlisten = {listen:?}\n")
}

/// Whether the last reload failed, and for a reason.
fn has_failed(server: &Server) -> bool {
    server.status()["last_reload"]["failure"].as_str().is_some_and(|failure| !failure.is_empty())
}

#[test]
fn a_listener_that_the_successor_does_not_want_is_closed_or_the_reload_has_failed_and_it_serves_on() {
    with_each_change(Direction::ToOlder, "released", &["names"], |wrong| {
        let reborn = Reborn::new();
        let kept = reborn.address();
        let dropped = SocketAddr::new(kept.ip(), kept.port() + 5000);
        let file = reborn.folder().join(FILE);
        fs::write(&file, configuration(&[format!("kept={kept}"), format!("dropped={dropped}")])).unwrap();
        let server = reborn.without_own_address().args(["--config", FILE]).start();
        let (old, held) = (server.pid(), server.hold());
        fs::write(&file, configuration(&[format!("kept={kept}")])).unwrap();
        server.replace_binary(&wrong.relay());
        let reload = server.reload();
        wrong.wait_met(&server);
        assert!(reload.is_success() || !wrong.is_read(), "{reload}");
        if reload.is_success() {
            server.wait_until("the dropped address is free", |_| is_refused(dropped));
            assert_ne!(asked(kept), Some(old));
        } else {
            reload.assert_code(1).assert_stderr(&format!("generation 1 (pid {old}) still serves"));
            assert!(has_failed(&server), "{}", server.status());
            assert_eq!([asked(kept), asked(dropped)], [Some(old); 2]);
        }
        let new = server.reload_ok();
        // The one that had it still drains.
        server.wait_until("the dropped address is free", |_| is_refused(dropped));
        held.finish_by(old);
        assert_eq!((server.wait_single(), asked(kept)), (new, Some(new)));
        server.stop().assert_success();
        server.wait_nothing_left();
    });
}

#[test]
fn after_a_barrier_that_returns_late_the_next_reload_works_while_the_predecessor_still_drains() {
    with_each_change(Direction::ToNewer, "settled", &[], |wrong| {
        let server = managed();
        let (old, held) = (server.pid(), server.hold());
        server.replace_binary(&wrong.relay());
        server.notify().hold_barriers();
        // The commit does not wait for the barrier for ever.
        let second = server.reload_ok();
        assert_eq!(server.notify().held_barriers(), 1);
        server.reload().assert_code(1).assert_stderr("the service manager has not read the last reload's messages yet");
        server.notify().release_barriers();
        wrong.wait_told(&server, "report");
        server.wait_until("the next reload works", |server| server.reload().is_success());
        let third = server.pid();
        assert_ne!(third, second);
        assert!(server.generations().contains(&old), "{}", server.state());
        held.finish_by(old);
        assert_eq!((server.wait_end(old), server.wait_single()), (Ended::Code(0), third));
        assert_eq!(server.ask().pid(), Some(third));
        server.assert_no_error();
    });
}

#[test]
fn a_reload_signal_that_cannot_be_passed_on_is_no_reload_and_nothing_else() {
    with_each_change(Direction::ToNewer, "reload", &[], |wrong| {
        let server = start();
        let (old, held) = (server.pid(), server.hold());
        server.replace_binary(&wrong.relay());
        server.reload_ok();
        server.signal_to(old, Signal::HUP);
        // A report comes behind it, so that it has been dealt with.
        wrong.wait_told(&server, "report");
        let generation = match wrong.change {
            // One during a reload is one more.
            Change::Duplicate => 4,
            _ if wrong.is_read() => 3,
            _ => 2,
        };
        server.wait_until("the reload signal has led to what it can", |server| server.generation() == generation);
        let next = server.reload_ok();
        assert_eq!(server.generation(), generation + 1);
        assert!(server.generations().contains(&old), "{}", server.state());
        held.finish_by(old);
        assert_eq!((server.wait_end(old), server.wait_single()), (Ended::Code(0), next));
        let log = server.log();
        let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
        // What comes from a release that knows more is passed over without a word.
        let is_silent = wrong.is_read() || [Change::Drop, Change::OtherKind("song".into())].contains(&wrong.change);
        assert_eq!(warnings.len(), usize::from(!is_silent), "{warnings:#?}");
        server.assert_no_error();
    });
}

/// A stop that comes to a generation between its announcement and its commit, which it has to pass on.
fn a_stop_to_be_passed_on(wrong: &Wrong, drains: bool) {
    let server = managed();
    let old = server.pid();
    let mut early = Client::connect(server.control().unwrap()).unwrap();
    let held = drains.then(|| server.hold());
    server.replace_binary(&wrong.relay());
    server.notify().hold_barriers();
    server.signal(Signal::HUP);
    server.wait_until("the announcement is made", |server| server.notify().held_barriers() == 1);
    let stop = if drains {
        server.signal_to(old, Signal::TERM);
        None
    } else {
        Some(thread::spawn(move || early.stop()))
    };
    server.wait_until("it has noticed", |server| {
        server.log().lines().any(|line| line.contains("Stop(") && line.contains(" -> Draining"))
    });
    server.notify().release_barriers();
    wrong.wait_met(&server);
    server.wait_until("nobody accepts any more", |server| is_refused(server.address()));
    if let Some(held) = held {
        held.finish_by(old);
    }
    if let Some(stop) = stop {
        stop.join().unwrap().unwrap();
    }
    server.wait_nothing_left();
    assert_eq!(server.ended(old), Some(Ended::Code(0)), "{}", server.log());
    let stopping = |message: &tests::notify::Message| message.has("STOPPING=1");
    assert_ne!(server.notify().wait_for("STOPPING=1", DEADLINE, stopping).pid, old);
    server.assert_no_error();
}

#[test]
fn a_stop_that_has_to_be_passed_on_ends_the_service_also_where_it_cannot_be_read() {
    // By a report while it drains, or by its last one.
    for drains in [true, false] {
        with_each_change(Direction::ToNewer, "stop", &[], |wrong| a_stop_to_be_passed_on(wrong, drains));
    }
}

/// The newest generation stops while an older one drains, and then ends, or is killed before that.
fn a_stop_while_an_older_one_drains(wrong: &Wrong, killed: bool) {
    let server = start();
    let (old, held) = (server.pid(), server.hold());
    server.replace_binary(&wrong.relay());
    let new = server.reload_ok();
    let stop = server.stop_in_background();
    wrong.wait_told(&server, "stopping");
    if killed {
        server.signal_to(new, Signal::KILL);
        server.wait_until("the older one has noticed", |server| {
            let status = server.command(["status", "--json"]);
            status.is_success() && server.status()["pid"] == old
        });
        assert_eq!(server.status()["state"], "stopping");
    }
    server.wait_until("nobody accepts", |server| is_refused(server.address()));
    held.finish_by(old);
    server.wait_nothing_left();
    let output = stop.join().unwrap();
    assert!(killed || output.is_success(), "{output}");
    assert_eq!(server.ended(old), Some(Ended::Code(0)), "{}", server.log());
    server.assert_no_error();
}

#[test]
fn nobody_serves_again_after_a_stop_of_which_an_older_generation_could_not_read() {
    for killed in [false, true] {
        with_each_change(Direction::ToOlder, "stopping", &[], |wrong| a_stop_while_an_older_one_drains(wrong, killed));
    }
}

#[test]
fn a_successor_whose_failure_cannot_be_read_has_failed_all_the_same() {
    with_each_change(Direction::ToOlder, "failed", &["reason"], |wrong| {
        let reborn = Reborn::new();
        let file = reborn.folder().join(FILE);
        let good = configuration(&[format!("http={}", reborn.address())]);
        fs::write(&file, &good).unwrap();
        let server = reborn.without_own_address().args(["--config", FILE]).start();
        let (old, held) = (server.pid(), server.hold());
        fs::write(&file, format!("{good}root = \"/nonexistent\"\n")).unwrap();
        server.replace_binary(&wrong.relay());
        let reload = server.reload();
        reload.assert_code(1).assert_stderr(&format!("generation 1 (pid {old}) still serves"));
        wrong.wait_met(&server);
        if wrong.is_read() {
            reload.assert_stderr("No such file or directory");
        }
        assert!(has_failed(&server), "{}", server.status());
        assert_eq!((server.pid(), server.wait_single(), server.ask().pid()), (old, old, Some(old)));
        fs::write(&file, &good).unwrap();
        let new = server.reload_ok();
        held.finish_by(old);
        assert_eq!(server.wait_single(), new);
        server.stop().assert_success();
        server.wait_nothing_left();
    });
}

/// A server in the probation of a successor, which accepts, and that one's pid.
fn in_probation(wrong: &Wrong, probation: &str, version: &Version) -> (Server, u32) {
    let server = Reborn::new().demo().args(["--probation", probation]).start();
    let old = server.first_pid();
    server.replace_binary(version);
    server.signal(Signal::HUP);
    // For a moment before, both accept.
    server.wait_until("only the successor accepts", |server| server.status()["reloading"]["stage"] == "probation");
    let successor = server.generations().into_iter().find(|pid| *pid != old).unwrap();
    assert!(!server.relayed().iter().any(|seen| wrong.is_this(seen)), "{}", server.state());
    (server, successor)
}

#[test]
fn a_successor_that_is_to_withdraw_is_told_again_where_it_cannot_read_that() {
    with_each_change(Direction::ToNewer, "withdraw", &["stop", "moves"], |wrong| {
        let (server, successor) = in_probation(wrong, "1m", &wrong.relay());
        let old = server.first_pid();
        let held = server.hold();
        let stop = server.stop_in_background();
        wrong.wait_told(&server, "withdraw");
        server.wait_until("nobody accepts any more", |server| is_refused(server.address()));
        held.finish_by(successor);
        stop.join().unwrap().assert_success();
        server.wait_nothing_left();
        assert_eq!(server.ended(old), Some(Ended::Code(0)), "{}", server.log());
        server.assert_no_error();
    });
}

#[test]
fn a_successor_that_broke_the_protocol_is_told_to_withdraw_again_and_the_old_one_serves_meanwhile() {
    with_each_change(Direction::ToNewer, "withdraw", &["stop", "moves"], |wrong| {
        let relay = Relay::new().first(Direction::ToOlder, "pong", Change::Garbage);
        let relay = relay.first(wrong.direction, wrong.kind, wrong.change.clone());
        let (server, successor) = in_probation(wrong, PROBATION, &Version::Relayed(relay));
        let (old, held) = (server.first_pid(), server.hold());
        wrong.wait_told(&server, "withdraw");
        server.wait_until("the old one accepts", |server| server.ask().pid() == Some(old));
        held.finish_by(successor);
        assert_eq!(server.wait_single(), old);
        server.wait_until("the reload has failed", has_failed);
        assert_eq!((server.pid(), server.ask().pid()), (old, Some(old)));
        let new = server.reload_ok();
        assert_eq!((server.wait_single(), server.generation()), (new, 2));
        server.stop().assert_success();
        server.wait_nothing_left();
    });
}

#[test]
fn a_stop_that_a_successor_gets_in_its_probation_ends_the_service_also_where_it_cannot_be_passed_back() {
    with_each_change(Direction::ToOlder, "stop", &[], |wrong| {
        let (server, successor) = in_probation(wrong, PROBATION, &wrong.relay());
        let (old, held) = (server.first_pid(), server.hold());
        server.signal_to(successor, Signal::TERM);
        wrong.wait_met(&server);
        // At the end of the probation at the latest, where the old one has not noticed anything.
        server.wait_until("nobody accepts any more", |server| is_refused(server.address()));
        held.finish_by(successor);
        server.wait_nothing_left();
        assert_eq!(server.ended(old), Some(Ended::Code(0)), "{}", server.log());
    });
}
