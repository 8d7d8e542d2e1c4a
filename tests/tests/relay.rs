//! The relay keeps what it promises: one that changes nothing is not noticed by generations and clients, each change is
//! made to the message that was named, and no relay is left.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use smol::block_on;
use tests::load::{Connection, Limits, Request, Target};
use tests::relay::{Change, Direction, Seen};
use tests::{DEADLINE, Ended, Held, Process, Reborn, Relay, Server, Version, procfs, skip::may_change_user};

/// The generations of the chain; between each two there is a relay.
const GENERATIONS: u64 = 5;

fn start() -> Server {
    Reborn::new().demo().probation_ms(0).args(["--log", "debug"]).start()
}

fn connect(server: &Server) -> Connection {
    let limits = Limits { answer: DEADLINE, ..Limits::default() };
    block_on(Connection::open(&Target::Tcp(server.address()), limits)).unwrap()
}

/// Asks for an answer that takes a while and, without waiting for it, for three further ones.
fn send_pipelined(connection: &Connection, name: &str) {
    let slow = format!("GET /slow?ms=1500 HTTP/1.1\r\nhost: localhost\r\nx-id: {name}.0\r\n\r\n");
    let fast = (1..4).map(|number| Request::fast(format!("{name}.{number}")).head());
    block_on(connection.send(format!("{slow}{}", fast.collect::<String>()).as_bytes())).unwrap();
}

/// The generations that gave the four answers.
fn pipelined_answers(connection: &mut Connection, name: &str) -> Vec<u64> {
    let mut answer_to = |number: usize| {
        let answer = block_on(connection.answer()).unwrap();
        let id = format!("{name}.{number}");
        assert_eq!((answer.status, answer.header("x-id")), (200, Some(id.as_str())), "{answer:?}");
        answer.generation().unwrap()
    };
    (0..4).map(&mut answer_to).collect()
}

/// Who sees what in a relay that the successor was started with.
fn kinds_on(seen: &[Seen], successor: u32, direction: Direction, socket: &str) -> Vec<String> {
    let is_meant =
        |seen: &&Seen| (seen.successor, seen.direction, seen.socket.as_str()) == (successor, direction, socket);
    seen.iter().filter(is_meant).map(|seen| seen.kind.clone()).collect()
}

/// Waits until no relay is left of a server that has ended.
#[track_caller]
fn assert_no_relay_is_left(server: &Server) {
    server.wait_until("all relays have ended", |server| server.relays().is_empty());
}

#[test]
fn a_relay_that_changes_nothing_is_not_noticed_in_a_chain_of_generations() {
    let server = start();
    let load = server.load().paced(4, 200).new_connections_paced(2, 60).idle(5).start();
    let mut pipelined = connect(&server);
    let mut idle = connect(&server);
    let mut held: Vec<(u32, Held)> = Vec::new();
    for generation in 1..GENERATIONS {
        assert_eq!(block_on(idle.exchange(&Request::fast("idle"))).unwrap().generation(), Some(generation));
        held.push((server.pid(), server.hold()));
        send_pipelined(&pipelined, &generation.to_string());
        server.replace_binary(&Version::Relayed(Relay::new()));
        let new = server.reload_ok();
        assert_eq!((server.pid_in_file(), server.generation()), (Some(new), generation + 1));
        assert_eq!(procfs::executable(new).unwrap(), server.program(), "the relay has made way");
        let by = pipelined_answers(&mut pipelined, &generation.to_string());
        assert_eq!((by[0], by[3]), (generation, generation + 1), "what was pipelined moved on: {by:?}");
    }
    let last = server.pid();
    let mut generations: Vec<u32> = held.iter().map(|(pid, _)| *pid).collect();
    generations.push(last);
    assert_eq!((server.generations(), server.relays().len()), (generations.clone(), generations.len() - 1));
    // The oldest ones' last connections pass through all relays behind them.
    for (pid, held) in held {
        held.finish_by(pid);
        assert_eq!(server.wait_end(pid), Ended::Code(0));
    }
    assert_eq!(block_on(idle.exchange(&Request::fast("idle"))).unwrap().generation(), Some(GENERATIONS));
    load.stop().assert_no_failure().assert_no_close();
    assert!(!idle.went_back() && !pipelined.went_back() && server.family().zombies().is_empty());
    server.assert_no_error();
    let seen = server.relayed();
    assert!(seen.iter().all(|seen| !seen.is_changed()), "{seen:#?}");
    for successor in &generations[1..] {
        for direction in [Direction::ToNewer, Direction::ToOlder] {
            let kinds = kinds_on(&seen, *successor, direction, "handover");
            assert_eq!(kinds.first().map(String::as_str), Some("hello"), "{direction:?}: {kinds:?}");
        }
    }
    let sockets: BTreeSet<&str> = seen.iter().map(|seen| seen.socket.as_str()).collect();
    assert!(sockets.len() > 1, "nothing came over a socket that was passed over another one: {sockets:?}");
    server.stop().assert_success();
    server.wait_nothing_left();
    assert_no_relay_is_left(&server);
}

#[test]
fn a_relay_that_makes_the_first_word_unreadable_fails_the_reload_and_the_next_one_works() {
    for direction in [Direction::ToNewer, Direction::ToOlder] {
        let server = start();
        let (old, load) = (server.pid(), server.load().paced(4, 200).idle(3).start());
        load.wait_for_pid(old, DEADLINE).unwrap();
        server.replace_binary(&Version::Relayed(Relay::new().first(direction, "hello", Change::Garbage)));
        server.reload().assert_code(1).assert_stderr(&format!("generation 1 (pid {old}) still serves"));
        assert_eq!((server.pid(), server.pid_in_file()), (old, Some(old)));
        let changed: Vec<_> = server.relayed().into_iter().filter(Seen::is_changed).collect();
        assert_eq!(changed.len(), 1, "{changed:?}");
        assert_eq!((changed[0].direction, changed[0].kind.as_str()), (direction, "hello"));
        let new = server.reload_ok();
        assert_eq!(server.wait_single(), new, "the relay has left the real program at its path");
        load.stop().assert_no_failure().assert_no_close();
        assert_no_relay_is_left(&server);
    }
}

#[test]
fn a_first_generation_that_is_started_as_a_relay_is_the_real_program() {
    let server = Reborn::new().demo().version(Version::Relayed(Relay::new())).start();
    assert_eq!(procfs::executable(server.pid()).unwrap(), server.program());
    assert!(server.relays().is_empty() && server.relayed().is_empty());
    assert_ne!(server.reload_ok(), server.first_pid());
}

#[test]
fn a_server_of_nobody_can_be_relayed_and_nothing_is_left_of_a_relay_when_its_server_is_dropped() {
    if !may_change_user() {
        return;
    }
    let server = Reborn::new().demo().probation_ms(0).as_nobody().start();
    let _held = server.hold();
    server.replace_binary(&Version::Relayed(Relay::new()));
    server.reload_ok();
    let relays: Vec<_> = server.relays().into_iter().map(|pid| Process::open(pid).unwrap()).collect();
    let others = |process: &Process| process.fds().into_values().filter(|target| target.starts_with("socket:")).count();
    assert_eq!(
        relays.iter().map(others).collect::<Vec<_>>(),
        [4],
        "a relay holds its two ends of the line, two of the socket for connections, and no other"
    );
    drop(server);
    assert!(relays.iter().all(|process| !process.is_alive()));
}
