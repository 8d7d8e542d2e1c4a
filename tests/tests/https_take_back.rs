//! A process that is stopped in the middle of a move of TLS connections, by SIGSTOP, exactly at one of its messages: what
//! was not acknowledged comes back, each connection goes on in exactly one process, and in none is a record sealed with a
//! sequence number that the other one used with the same key.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use smol::block_on;
use tests::load::{Connection, Crowd, CrowdReport, Limits, Look, Numbers, Request, Target};
use tests::skip::{may_trace, skip};
use tests::tracer::{Edge, Tracer};
use tests::{CommandOutput, DEADLINE, Mode, Process, Reborn, Server, Signal, Version};

/// Half of them idle, half with so much of a head received that a batch holds a dozen.
const CONNECTIONS: usize = 60;

/// Of each kind of connection that lasts there are so many beside them.
const LASTING_EACH: usize = 1;

/// The batches that are stopped at.
const BATCHES: usize = 2;

/// For so long a predecessor is stopped: longer than it waits for what a successor acknowledges.
const STOPPED: Duration = Duration::from_secs(5);

/// A server, its clients, and a reload whose successor has been started and has not said anything.
struct Scene {
    server: Server,
    clients: Vec<Connection>,
    crowd: Crowd,
    old: u32,
    new: u32,
    reload: std::thread::JoinHandle<CommandOutput>,
    tracers: [Tracer; 2],
}

/// Which process is stopped, and where.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Nowhere,
    /// After its message of this number.
    Predecessor(usize),
    Successor(usize),
}

fn all() -> usize {
    CONNECTIONS + Numbers::each(LASTING_EACH).sum()
}

fn scene(stop: Stop) -> Scene {
    let reborn = Reborn::new().for_crowd().https().notes_sealed_records().probation_ms(0);
    let server = reborn.args(["--log", "debug", "--threads", "1", "--ready-timeout", "3s"]).start();
    let (target, limits) = (server.https_target(), Limits { answer: DEADLINE, ..Limits::default() });
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| open(&target, limits)).collect();
    for (id, client) in clients.iter().enumerate().filter(|(id, _)| id % 2 == 1) {
        let padding = "a".repeat(4000);
        let half = format!("GET /fast HTTP/1.1\r\nhost: localhost\r\nx-id: {id}\r\nx-pad: {padding}");
        block_on(client.send(half.as_bytes())).unwrap();
    }
    let crowd = Crowd::start(&target, Numbers::each(LASTING_EACH));
    server.wait_until("all are accepted", |server| server.status()["connections"] == all());
    let old = server.pid();
    let of_old = match stop {
        Stop::Predecessor(message) => Tracer::stop_at(old, message, Edge::After),
        Stop::Nowhere | Stop::Successor(_) => Tracer::watch(old),
    };
    server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
    let reload = server.reload_in_background();
    let new = server.wait_broken(0);
    let of_new = match stop {
        Stop::Successor(message) => Tracer::stop_at(new, message, Edge::After),
        Stop::Nowhere | Stop::Predecessor(_) => Tracer::watch(new),
    };
    server.open_gate();
    Scene { server, clients, crowd, old, new, reload, tracers: [of_old, of_new] }
}

fn open(target: &Target, limits: Limits) -> Connection {
    let mut client = block_on(Connection::open(target, limits)).unwrap();
    block_on(client.exchange(&Request::fast("first"))).unwrap();
    client
}

/// Stops a process that stands at a message, all its threads, and lets its tracer go.
fn stop(tracer: &Tracer, pid: u32) -> Process {
    tracer.wait_stopped();
    let process = Process::open(pid).unwrap();
    assert!(process.signal(Signal::STOP));
    tracer.release();
    process
}

/// The number of a message among those of a process in a reload in which nobody is stopped.
fn messages(of: usize) -> Vec<String> {
    let scene = scene(Stop::Nowhere);
    scene.server.wait_until("all have moved", |server| server.generations() == [scene.new]);
    let kinds = scene.tracers[of].kinds();
    ask_all(&scene);
    let owners = finish(scene);
    assert_eq!(owners, [0, all()]);
    kinds
}

/// Each connection comes to its end: how many were answered by which process, each by one.
#[track_caller]
fn finish(mut scene: Scene) -> [usize; 2] {
    let mut owners = hear_all(&mut scene);
    let Scene { server, clients, crowd, reload, .. } = scene;
    let CrowdReport { went_on, cut, generations } = crowd.finish();
    assert_eq!((went_on, cut), (Numbers::each(LASTING_EACH).sum(), 0), "{}", server.state());
    // Where nothing tells its generation, it goes on where most do, and is not counted by itself.
    let last = generations.iter().max().copied().unwrap_or(1);
    owners[usize::try_from(last).unwrap() - 1] += went_on;
    reload.join().unwrap();
    let generation = server.generation() + 1;
    server.reload_ok();
    for mut client in clients {
        let answer = block_on(client.exchange(&Request::fast("next"))).unwrap();
        assert_eq!((answer.generation(), answer.announces_close()), (Some(generation), false), "{answer:?}");
    }
    server.stop().assert_success();
    assert!(!server.log().contains("does not balance"), "{}", server.log());
    let sealed = server.sealed_records();
    assert!(sealed.twice.is_empty(), "{sealed:#?}\n{}", server.log());
    assert!(sealed.count > all() && (sealed.shared > 0) >= (owners[1] > 0), "{owners:?}, but {sealed:?}");
    println!("{owners:?}; {} records, {} keys, {} of them in two processes", sealed.count, sealed.keys, sealed.shared);
    owners
}

/// Asks on each connection.
#[track_caller]
fn ask_all(scene: &Scene) {
    for (id, client) in scene.clients.iter().enumerate() {
        let rest = if id % 2 == 1 { "\r\n\r\n".to_owned() } else { Request::fast(id.to_string()).head() };
        block_on(client.send(rest.as_bytes())).unwrap();
    }
}

/// Reads the answer on each connection. One that an older process keeps is closed behind its answer.
#[track_caller]
fn hear_all(scene: &mut Scene) -> [usize; 2] {
    let mut owners = [0, 0];
    for (id, client) in scene.clients.iter_mut().enumerate() {
        let answer = block_on(client.answer()).unwrap_or_else(|lost| panic!("{lost:?}\n{}", scene.server.state()));
        assert_eq!((answer.status, answer.header("x-id")), (200, Some(id.to_string().as_str())), "{answer:?}");
        let after = if answer.announces_close() { block_on(client.end()) } else { Some(client.look()) };
        let expected = if answer.announces_close() { Look::Fin } else { Look::Open };
        assert_eq!(after, Some(expected), "an answer comes once");
        owners[usize::try_from(answer.generation().unwrap()).unwrap() - 1] += 1;
    }
    scene.clients.retain(|client| client.look() == Look::Open);
    owners
}

/// Whether this machine and this build can: skips if not.
fn may_stop_and_count() -> bool {
    if !cfg!(debug_assertions) {
        skip("only a debug build notes what it seals");
    }
    cfg!(debug_assertions) && may_trace()
}

/// The messages up to the first of a kind, and so many of that kind.
fn stops(kinds: &[String], kind: &str) -> std::ops::Range<usize> {
    let first = kinds.iter().position(|other| other == kind).unwrap_or_else(|| panic!("no {kind} among {kinds:?}"));
    0..first + BATCHES
}

#[test]
fn each_connection_has_one_owner_wherever_the_successor_is_stopped() {
    if !may_stop_and_count() {
        return;
    }
    let kinds = messages(1);
    println!("{kinds:?}");
    for message in stops(&kinds, "taken") {
        let scene = scene(Stop::Successor(message));
        let stopped = stop(&scene.tracers[1], scene.new);
        println!("stopped after {} ({message})", kinds[message]);
        if kinds[..=message].iter().any(|kind| kind == "greeting") {
            scene.server.wait_until("the old one takes them back", |server| server.log().contains("they stay here"));
        }
        ask_all(&scene);
        scene
            .server
            .wait_until("the old one answers", |_| scene.clients.iter().any(|client| client.look() != Look::Open));
        stopped.signal(Signal::CONT);
        finish(scene);
    }
}

#[test]
fn each_connection_has_one_owner_wherever_the_predecessor_is_stopped() {
    if !may_stop_and_count() {
        return;
    }
    let kinds = messages(0);
    println!("{kinds:?}");
    for message in stops(&kinds, "connections") {
        let scene = scene(Stop::Predecessor(message));
        let stopped = stop(&scene.tracers[0], scene.old);
        println!("stopped after {} ({message})", kinds[message]);
        ask_all(&scene);
        std::thread::sleep(STOPPED);
        stopped.signal(Signal::CONT);
        finish(scene);
    }
}
