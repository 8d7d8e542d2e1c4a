//! Either process of a reload is killed with -9 at each message of the handover, exactly before it and exactly after
//! it: each client connection then has one owner, or went with the killed process and is counted, and the service goes
//! on wherever somebody is left who was given it. Among the connections are downloads, event streams and chats, which are
//! cut or go on without a byte or a number that is missing, wrong or there twice.

#![allow(clippy::unwrap_used)]

use smol::block_on;
use tests::load::{Connection, Crowd, CrowdReport, Failure, Limits, Look, Numbers, Request, Target};
use tests::skip::may_trace;
use tests::tracer::{Edge, Tracer};
use tests::{CommandOutput, DEADLINE, Mode, Reborn, Server, Version};

/// Half of them idle, half with so much of a head received that a batch holds a dozen.
const CONNECTIONS: usize = 90;

/// Of each kind of connection that lasts there are so many beside them.
const LASTING_EACH: usize = 2;

/// The batches that are stopped at; there is one more.
const BATCHES: usize = 3;

/// A server, its clients, and a reload whose successor has been started and has not said anything.
struct Scene {
    server: Server,
    clients: Vec<Connection>,
    crowd: Option<Crowd>,
    old: u32,
    new: u32,
    reload: std::thread::JoinHandle<CommandOutput>,
    tracers: [Tracer; 2],
}

/// Which process is stopped, and where.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Nowhere,
    Predecessor(usize, Edge),
    Successor(usize, Edge),
}

fn half_a_head(id: usize) -> String {
    format!("GET /fast HTTP/1.1\r\nhost: localhost\r\nx-id: {id}\r\nx-pad: {}", "a".repeat(4000))
}

fn start() -> Server {
    Reborn::new().for_crowd().probation_ms(0).args(["--log", "debug", "--threads", "1"]).start()
}

fn scene(stop: Stop) -> Scene {
    let server = start();
    let limits = Limits { answer: DEADLINE, ..Limits::default() };
    let target = Target::Tcp(server.address());
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| block_on(Connection::open(&target, limits)).unwrap()).collect();
    for (id, client) in clients.iter().enumerate().filter(|(id, _)| id % 2 == 1) {
        block_on(client.send(half_a_head(id).as_bytes())).unwrap();
    }
    let crowd = Crowd::start(&target, Numbers::each(LASTING_EACH));
    server.wait_until("all are accepted", |server| server.status()["connections"] == all());
    let old = server.pid();
    let of_old = match stop {
        Stop::Predecessor(message, edge) => Tracer::stop_at(old, message, edge),
        _ => Tracer::watch(old),
    };
    server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
    let reload = server.reload_in_background();
    let new = server.wait_broken(0);
    let of_new = match stop {
        Stop::Successor(message, edge) => Tracer::stop_at(new, message, edge),
        _ => Tracer::watch(new),
    };
    server.open_gate();
    Scene { server, clients, crowd: Some(crowd), old, new, reload, tracers: [of_old, of_new] }
}

/// What the clients saw.
#[derive(Debug, Default)]
struct Fates {
    answered: usize,
    gone: usize,
}

/// Asks on each connection. Those that live are answered by this generation, once, and stay; what lasts comes to its end.
#[track_caller]
fn ask_all(scene: &mut Scene, generation: u64) -> Fates {
    let mut fates = Fates::default();
    for (id, client) in scene.clients.iter_mut().enumerate() {
        let rest = if id % 2 == 1 { "\r\n\r\n".to_owned() } else { Request::fast(id.to_string()).head() };
        // Where the connection has gone with its process, the answer says so.
        let _ = block_on(client.send(rest.as_bytes()));
        match block_on(client.answer()) {
            Ok(answer) => {
                assert_eq!((answer.status, answer.header("x-id")), (200, Some(id.to_string().as_str())), "{answer:?}");
                assert_eq!((answer.generation(), answer.announces_close()), (Some(generation), false), "{answer:?}");
                assert_eq!(client.look(), Look::Open, "an answer comes once");
                fates.answered += 1;
            }
            Err(lost) => {
                let gone = matches!(lost.failure, Failure::ResetBeforeAnswer | Failure::ClosedBeforeAnswer);
                assert!(gone, "{lost:?}\n{}", scene.server.state());
                fates.gone += 1;
            }
        }
    }
    scene.clients.retain(|client| client.look() == Look::Open);
    assert_eq!((scene.clients.len(), fates.answered + fates.gone), (fates.answered, CONNECTIONS));
    let CrowdReport { went_on, cut, generations } = finish_crowd(scene);
    assert!(generations.iter().all(|last| *last == generation), "{generations:?}, not {generation}");
    Fates { answered: fates.answered + went_on, gone: fates.gone + cut }
}

/// What became of the connections that last.
#[track_caller]
fn finish_crowd(scene: &mut Scene) -> CrowdReport {
    scene.crowd.take().expect("it is asked for once").finish()
}

fn all() -> usize {
    CONNECTIONS + Numbers::each(LASTING_EACH).sum()
}

fn booked(server: &Server, what: &str) -> usize {
    server.status()["application"][what].as_u64().unwrap().try_into().unwrap()
}

/// The messages of both processes, in a reload in which nobody dies.
fn messages() -> [Vec<String>; 2] {
    let mut scene = scene(Stop::Nowhere);
    scene.server.wait_until("all have moved", |server| server.generations() == [scene.new]);
    let count = |kinds: &[String], kind| kinds.iter().filter(|other| *other == kind).count();
    let of_old = scene.tracers[0].kinds();
    scene.tracers[1].wait_sent("taken", count(&of_old, "connections"));
    let of_new = scene.tracers[1].kinds();
    // Committed may come after the first batch was taken.
    assert_eq!(count(&of_old, "connections"), count(&of_new, "taken"));
    let fates = ask_all(&mut scene, 2);
    assert_eq!(fates.answered, all());
    [of_old, of_new]
}

#[track_caller]
fn position(kinds: &[String], kind: &str) -> usize {
    kinds.iter().position(|other| other == kind).unwrap_or_else(|| panic!("no {kind} among {kinds:?}"))
}

/// The messages at which to stop: all that come before the batches, and some batches.
fn stops(kinds: &[String], batch: &str) -> impl Iterator<Item = (usize, Edge)> + use<> {
    let first = position(kinds, batch);
    let repeated = kinds.iter().filter(|kind| *kind == batch).count();
    assert!(repeated > BATCHES, "{kinds:?}");
    (0..first + BATCHES).flat_map(|message| [(message, Edge::Before), (message, Edge::After)])
}

/// The next reload works, and takes all connections that are left along. What the first one said.
#[track_caller]
fn assert_service_goes_on(scene: Scene) -> CommandOutput {
    let Scene { server, clients, reload, .. } = scene;
    let first = reload.join().unwrap();
    let generation = server.generation() + 1;
    let new = server.reload_ok();
    assert_eq!(server.wait_single(), new);
    for mut client in clients {
        let answer = block_on(client.exchange(&Request::fast("next"))).unwrap();
        assert_eq!((answer.generation(), answer.announces_close()), (Some(generation), false), "{answer:?}");
    }
    server.stop().assert_success();
    assert!(!server.log().contains("does not balance"), "{}", server.log());
    first
}

#[test]
fn a_predecessor_killed_at_any_message_takes_only_what_it_had_not_handed_over() {
    if !may_trace() {
        return;
    }
    let [kinds, _] = messages();
    let (given, first) = (position(&kinds, "given"), position(&kinds, "connections"));
    for (message, edge) in stops(&kinds, "connections") {
        let mut scene = scene(Stop::Predecessor(message, edge));
        scene.tracers[0].wait_stopped();
        assert_eq!(scene.tracers[0].kinds()[message], kinds[message]);
        let sent = (message + usize::from(edge == Edge::After)).saturating_sub(first);
        scene.tracers[1].wait_sent("taken", sent);
        scene.tracers[0].kill();
        if message < given || (message == given && edge == Edge::Before) {
            // The successor was not given the service, and nobody else is there.
            scene.server.wait_gone();
            assert_eq!(finish_crowd(&mut scene).went_on, 0);
            continue;
        }
        scene.server.wait_until("the successor serves", |server| {
            server.generations() == [scene.new] && server.command(["status", "--json"]).is_success()
        });
        let fates = ask_all(&mut scene, 2);
        println!("the predecessor dies {edge:?} {} ({message}): {fates:?}", kinds[message]);
        assert_eq!(fates.answered, booked(&scene.server, "received"), "{}", scene.server.state());
        assert_eq!((fates.answered > 0, fates.gone > 0), (sent > 0, true), "{fates:?}");
        assert_service_goes_on(scene);
    }
}

#[test]
fn a_successor_killed_at_any_message_takes_only_what_it_had_acknowledged() {
    if !may_trace() {
        return;
    }
    let [_, kinds] = messages();
    let pong = position(&kinds, "pong");
    for (message, edge) in stops(&kinds, "taken") {
        let mut scene = scene(Stop::Successor(message, edge));
        scene.tracers[1].wait_stopped();
        scene.tracers[1].kill();
        // Committed and the first acknowledgement come from different tasks, in either order.
        let said = scene.tracers[1].kinds();
        let acknowledged =
            said[..message + usize::from(edge == Edge::After)].iter().filter(|kind| *kind == "taken").count();
        scene.server.wait_until("the predecessor serves again", |server| {
            server.generations() == [scene.old]
                && server.command(["status", "--json"]).is_success()
                && server.status()["state"] == "serving"
        });
        let fates = ask_all(&mut scene, 1);
        println!("the successor dies {edge:?} {} ({message}): {fates:?}", said[message]);
        assert_eq!(fates.gone, booked(&scene.server, "handed_over"), "{}", scene.server.state());
        assert_eq!((fates.gone > 0, fates.answered > 0), (acknowledged > 0, true), "{fates:?}");
        let reload = assert_service_goes_on(scene);
        if message <= pong {
            reload.assert_code(1).assert_stderr("generation 1 (pid ").assert_stderr("still serves");
        }
    }
}

#[test]
fn what_nobody_had_acknowledged_when_the_predecessor_was_killed_went_with_it() {
    if !may_trace() {
        return;
    }
    let [_, kinds] = messages();
    let mut scene = scene(Stop::Successor(position(&kinds, "greeting"), Edge::After));
    scene.tracers[1].wait_stopped();
    let has_acknowledged = scene.tracers[1].kinds().iter().any(|kind| kind == "taken");
    scene.tracers[0].wait_sent("connections", BATCHES);
    scene.tracers[0].kill();
    scene.tracers[1].release();
    scene.server.wait_until("the successor serves", |server| server.command(["status", "--json"]).is_success());
    // The sender may have taken a batch back and answered on it before it died: nobody can tell, so nobody takes it.
    let (gone, received) = (ask_all(&mut scene, 2).gone, booked(&scene.server, "received"));
    assert_eq!((gone + received, received > 0), (all(), has_acknowledged));
    scene.server.wait_until("the log says so", |server| server.log().contains("or went with it"));
    assert_service_goes_on(scene);
}

#[test]
fn what_a_stopped_successor_did_not_acknowledge_comes_back_and_has_one_owner_when_it_goes_on() {
    if !may_trace() {
        return;
    }
    let [_, kinds] = messages();
    let mut takes = (0..kinds.len()).filter(|message| kinds[*message] == "taken");
    // Before it acknowledged anything, and after it acknowledged some.
    for (message, has_taken) in [(position(&kinds, "greeting"), false), (takes.nth(1).unwrap(), true)] {
        let mut scene = scene(Stop::Successor(message, Edge::After));
        scene.tracers[1].wait_stopped();
        scene.server.wait_until("the old one takes them back", |server| server.log().contains("they stay here"));
        scene.tracers[1].release();
        let CrowdReport { went_on, cut, generations } = finish_crowd(&mut scene);
        assert_eq!((went_on, cut), (all() - CONNECTIONS, 0), "{}", scene.server.state());
        let owners = ask_any(&mut scene);
        println!("owners: {owners:?}, and of streams {generations:?}");
        assert!(owners[0] > 0 && (owners[1] > 0) >= has_taken, "{owners:?}");
        let received = booked(&scene.server, "received");
        assert!((owners[1]..=all() - owners[0]).contains(&received), "{received} {owners:?}");
        assert_service_goes_on(scene);
    }
}

/// Asks on each connection, which one of two generations answers: the first and closes it, or the second and keeps it.
#[track_caller]
fn ask_any(scene: &mut Scene) -> [usize; 2] {
    let mut owners = [0, 0];
    for (id, client) in scene.clients.iter_mut().enumerate() {
        let rest = if id % 2 == 1 { "\r\n\r\n".to_owned() } else { Request::fast(id.to_string()).head() };
        block_on(client.send(rest.as_bytes())).unwrap();
        let answer = block_on(client.answer()).unwrap();
        assert_eq!((answer.status, answer.header("x-id")), (200, Some(id.to_string().as_str())), "{answer:?}");
        let owner = usize::try_from(answer.generation().unwrap()).unwrap() - 1;
        assert_eq!(answer.announces_close(), owner == 0, "{answer:?}");
        let after = if owner == 0 { block_on(client.end()) } else { Some(client.look()) };
        assert_eq!(after, Some([Look::Fin, Look::Open][owner]), "an answer comes once");
        owners[owner] += 1;
    }
    scene.clients.retain(|client| client.look() == Look::Open);
    owners
}

#[test]
fn the_oldests_connection_moves_to_the_one_that_serves_again_although_the_newest_died_before_it_greeted_anybody() {
    if !may_trace() {
        return;
    }
    let [_, kinds] = messages();
    let server = start();
    let mut oldest = server.connect();
    let upload = "POST /echo HTTP/1.1\r\nhost: localhost\r\nx-id: held\r\ncontent-length: 2\r\n\r\no";
    block_on(async {
        oldest.send(upload.as_bytes()).await.unwrap();
        oldest.changed().await;
    });
    let second = server.reload_ok();
    let held = server.hold();
    server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
    let reload = server.reload_in_background();
    let third = server.wait_broken(0);
    let tracer = Tracer::stop_at(third, position(&kinds, "committed"), Edge::After);
    server.open_gate();
    tracer.wait_stopped();
    assert!(!tracer.kinds().iter().any(|kind| kind == "greeting"), "{:?}", tracer.kinds());
    tracer.kill();
    reload.join().unwrap();
    server.wait_until("the one before it serves again", |server| {
        server.command(["status", "--json"]).is_success() && server.pid() == second
    });
    block_on(oldest.send(b"k")).unwrap();
    let answer = block_on(oldest.answer()).unwrap();
    assert_eq!((answer.text().as_str(), answer.generation(), answer.announces_close()), ("ok", Some(1), false));
    let answer = block_on(oldest.exchange(&Request::fast("next"))).unwrap();
    assert_eq!((answer.generation(), answer.announces_close()), (Some(2), false), "{}", server.log());
    held.finish_by(second);
}
