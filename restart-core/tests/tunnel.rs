//! Nothing of a tunnel is cut at a reload: the example's two sockets for each client move, with all that is under way,
//! in the middle of what flows through them. Both ends of each tunnel are here, and know each byte that has to come.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, test_kill_process};
use support::{DEADLINE, Service, ask_tcp, connect_tcp, kill, wait_for_end};

const RELOADS: usize = 20;
/// So long may nobody read what somebody writes.
const HELD_MAX: Duration = Duration::from_secs(120);
/// A process that was replaced is gone by then. If its tunnels did not move, it would stay up to its drain's deadline, for
/// 20 s.
const GONE_TIMEOUT: Duration = Duration::from_secs(10);

/// The forwarder, and the target of its tunnels.
struct Tunnels {
    service: Service,
    address: String,
    target: TcpListener,
    /// Held while a tunnel is made, so that each client knows its other end.
    one_by_one: Mutex<()>,
}

/// The two ends of a tunnel, which is all that can be seen of it.
struct Ends {
    client: TcpStream,
    target: TcpStream,
}

impl Tunnels {
    fn new() -> Tunnels {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = Service::example_with("tunnel", "tunnel", &[&target.local_addr().unwrap().to_string()]);
        let address = service.address("tunnel");
        Tunnels { service, address, target, one_by_one: Mutex::new(()) }
    }

    fn connect(&self) -> Ends {
        let _one = self.one_by_one.lock().unwrap();
        let client = connect_tcp(&self.address);
        let deadline = Timespec::try_from(DEADLINE).unwrap();
        let came = poll(&mut [PollFd::new(&self.target, PollFlags::IN)], Some(&deadline)).unwrap();
        assert_eq!(came, 1, "the forwarder does not connect");
        let (target, _) = self.target.accept().unwrap();
        for stream in [&client, &target] {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.set_write_timeout(Some(HELD_MAX)).unwrap();
        }
        Ends { client, target }
    }
}

/// How one direction is used.
#[derive(Clone, Copy)]
struct Way {
    writes: Pace,
    reads: Pace,
    /// Ended by its sender after so many bytes, or when the test is over.
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Pace {
    Full,
    /// A little at a time, with a pause after it.
    Slow,
    /// Not before the test is over.
    Held,
}

impl Pace {
    fn bytes(self) -> usize {
        if self == Pace::Slow { 999 } else { 64 * 1024 }
    }

    fn pause(self) {
        if self == Pace::Slow {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

const FULL: Way = Way { writes: Pace::Full, reads: Pace::Full, bytes: u64::MAX };
/// Hardly anything is ever under way.
const TRICKLE: Way = Way { writes: Pace::Slow, ..FULL };
/// The buffers on the way are full.
const CLOGGED: Way = Way { reads: Pace::Slow, ..FULL };
/// They stay full, so that the forwarder always has bytes that it cannot get rid of.
const HELD: Way = Way { reads: Pace::Held, ..FULL };
const SHORT: Way = Way { bytes: 100_001, ..FULL };

/// What flows in a direction: each byte depends on its place, so that none can be lost, doubled or moved.
fn fill(seed: u64, place: u64, part: &mut [u8]) {
    for (place, byte) in (place..).zip(part) {
        let mixed = (seed ^ (place / 8)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        *byte = mixed.to_be_bytes()[usize::try_from(place % 8).unwrap()];
    }
}

/// One direction of a tunnel that is at work.
struct Work<'scope> {
    sends: ScopedJoinHandle<'scope, u64>,
    receives: ScopedJoinHandle<'scope, u64>,
    /// Something comes all the time.
    flows: bool,
}

/// Everything that flows at a time. Ended when it is dropped as well, so that a test that fails does not hang.
struct Transfers<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    shared: &'env Shared,
    work: Vec<Work<'scope>>,
}

/// What the threads at the ends and the test have in common.
struct Shared {
    over: AtomicBool,
    /// How much of each direction has come.
    received: [AtomicU64; 32],
}

impl Shared {
    fn new() -> Shared {
        Shared { over: AtomicBool::new(false), received: [const { AtomicU64::new(0) }; 32] }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn send(&self, mut stream: &TcpStream, seed: u64, way: Way) -> u64 {
        let (mut sent, mut part) = (0, vec![0; way.writes.bytes()]);
        while sent < way.bytes && !self.is_over() {
            let count = usize::try_from(way.bytes - sent).unwrap_or(usize::MAX).min(part.len());
            fill(seed, sent, &mut part[..count]);
            stream.write_all(&part[..count]).unwrap();
            sent += count as u64;
            way.writes.pause();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        sent
    }

    fn receive(&self, mut stream: &TcpStream, seed: u64, way: Way, progress: Option<&AtomicU64>) -> u64 {
        let (mut received, mut part, mut expected) = (0, vec![0; way.reads.bytes()], vec![0; way.reads.bytes()]);
        while way.reads == Pace::Held && !self.is_over() {
            thread::sleep(Duration::from_millis(1));
        }
        loop {
            let count = match stream.read(&mut part) {
                Ok(0) => return received,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("cut after {received} bytes: {error}"),
            };
            fill(seed, received, &mut expected[..count]);
            assert!(part[..count] == expected[..count], "wrong between {received} and {}", received + count as u64);
            received += count as u64;
            if let Some(progress) = progress {
                progress.store(received, Ordering::Release);
            }
            if !self.is_over() {
                way.reads.pause();
            }
        }
    }
}

impl<'scope, 'env> Transfers<'scope, 'env> {
    fn new(scope: &'scope Scope<'scope, 'env>, shared: &'env Shared) -> Self {
        Transfers { scope, shared, work: vec![] }
    }

    /// Uses a tunnel in both directions at once.
    fn begin(&mut self, ends: &'env Ends, up: Way, down: Way) {
        for (from, to, way) in [(&ends.client, &ends.target, up), (&ends.target, &ends.client, down)] {
            let (shared, place) = (self.shared, self.work.len());
            let sends = self.scope.spawn(move || shared.send(from, place as u64, way));
            let progress = Some(&shared.received[place]);
            let receives = self.scope.spawn(move || shared.receive(to, place as u64, way, progress));
            self.work.push(Work { sends, receives, flows: way.bytes == u64::MAX && way.reads != Pace::Held });
        }
    }

    /// Waits until everything that flows has gone on.
    #[track_caller]
    fn wait_for_progress(&self) {
        let counts = || self.shared.received.iter().map(|count| count.load(Ordering::Acquire)).collect::<Vec<_>>();
        let (before, end) = (counts(), Instant::now() + DEADLINE);
        let flowing = || self.work.iter().enumerate().filter(|(_, work)| work.flows);
        while !flowing().all(|(place, _)| counts()[place] > before[place]) {
            assert!(Instant::now() < end, "something stands still: {before:?}, {:?}", counts());
            assert!(flowing().all(|(_, work)| !work.receives.is_finished()), "something was closed");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends everything. Each byte that was sent has come, and then the end.
    fn finish(mut self) {
        self.shared.over.store(true, Ordering::Release);
        for (place, Work { sends, receives, .. }) in self.work.drain(..).enumerate() {
            assert_eq!(receives.join().unwrap(), sends.join().unwrap(), "direction {place}");
        }
    }
}

impl Drop for Transfers<'_, '_> {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
    }
}

/// Opens one tunnel after the other, until the test is over: they are replaced while they are made, and while they end.
fn come_and_go(tunnels: &Tunnels, shared: &Shared, mut seed: u64) -> u64 {
    let mut count = 0;
    while !shared.is_over() {
        let ends = tunnels.connect();
        let mut sized = || {
            let mut bytes = [0; 2];
            fill(seed, 0, &mut bytes);
            seed += 1;
            Way { bytes: u64::from(u16::from_le_bytes(bytes)) * 4, ..FULL }
        };
        thread::scope(|scope| {
            for (from, to, way) in [(&ends.client, &ends.target, sized()), (&ends.target, &ends.client, sized())] {
                let sends = scope.spawn(move || shared.send(from, count, way));
                let receives = scope.spawn(move || shared.receive(to, count, way, None));
                scope.spawn(move || assert_eq!(receives.join().unwrap(), sends.join().unwrap()));
            }
        });
        count += 1;
    }
    count
}

/// A word each way, and the end of both.
fn say_goodbye(Ends { client, target }: Ends) {
    for (mut from, mut to) in [(&client, &target), (&target, &client)] {
        from.write_all(b"goodbye").unwrap();
        let mut word = [0; 7];
        to.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"goodbye");
        from.shutdown(Shutdown::Write).unwrap();
        assert_eq!(to.read(&mut word).unwrap(), 0);
    }
}

#[test]
fn nothing_of_a_tunnel_is_cut_by_twenty_reloads_and_no_process_stays_for_it() {
    let (tunnels, shared) = (Tunnels::new(), Shared::new());
    let uses = [
        (FULL, FULL),
        (FULL, TRICKLE),
        (TRICKLE, TRICKLE),
        (CLOGGED, CLOGGED),
        (HELD, HELD),
        (HELD, FULL),
        (SHORT, FULL),
        (TRICKLE, SHORT),
        (Way { bytes: 0, ..FULL }, CLOGGED),
    ];
    let (ends, idle) = (uses.map(|_| tunnels.connect()), [(); 4].map(|()| tunnels.connect()));
    thread::scope(|scope| {
        let mut transfers = Transfers::new(scope, &shared);
        ends.iter().zip(uses).for_each(|(ends, (up, down))| transfers.begin(ends, up, down));
        let (tunnels, shared) = (&tunnels, &shared);
        let passing = [0, 1 << 32].map(|seed| scope.spawn(move || come_and_go(tunnels, shared, seed)));
        for _ in 0..RELOADS {
            let outcome = tunnels.service.reload_well();
            wait_for_end(outcome.from.pid, GONE_TIMEOUT);
            transfers.wait_for_progress();
        }
        transfers.finish();
        let passed: u64 = passing.into_iter().map(|passing| passing.join().unwrap()).sum();
        assert!(passed > 20, "{passed}");
    });
    idle.into_iter().for_each(say_goodbye);
    assert_eq!(tunnels.service.status().id.generation, RELOADS as u64 + 1);
}

#[test]
fn a_successor_that_is_killed_before_its_commit_takes_no_tunnel_with_it() {
    let (tunnels, shared) = (Tunnels::new(), Shared::new());
    let (ends, idle) = ([(); 3].map(|()| tunnels.connect()), tunnels.connect());
    thread::scope(|scope| {
        let mut transfers = Transfers::new(scope, &shared);
        ends.iter().zip([FULL, TRICKLE, HELD]).for_each(|(ends, way)| transfers.begin(ends, way, way));
        let reload = scope.spawn(|| tunnels.service.reload());
        kill(wait_for_probation(&tunnels.service), Signal::KILL);
        let failure = reload.join().unwrap().failure;
        assert!(failure.is_some());
        transfers.wait_for_progress();
        wait_for_end(tunnels.service.reload_well().from.pid, GONE_TIMEOUT);
        transfers.wait_for_progress();
        transfers.finish();
    });
    say_goodbye(idle);
}

#[test]
fn a_tunnel_whose_format_the_successor_does_not_know_is_finished_by_the_old_process() {
    let (mut tunnels, shared) = (Tunnels::new(), Shared::new());
    let (ends, idle) = ([(); 3].map(|()| tunnels.connect()), tunnels.connect());
    thread::scope(|scope| {
        let mut transfers = Transfers::new(scope, &shared);
        ends.iter().zip([FULL, TRICKLE, HELD]).for_each(|(ends, way)| transfers.begin(ends, way, way));
        let old = reload_to_echo(&mut tunnels.service);
        assert_eq!(ask_tcp(&tunnels.address), "2 1 hello\n");
        transfers.wait_for_progress();
        transfers.wait_for_progress();
        test_kill_process(Pid::from_raw(old.cast_signed()).unwrap()).unwrap();
        transfers.finish();
        say_goodbye(idle);
        wait_for_end(old, GONE_TIMEOUT);
    });
}

#[test]
fn a_tunnel_that_came_back_moves_in_the_next_drain() {
    let (mut tunnels, shared) = (Tunnels::new(), Shared::new());
    let (ends, idle) = ([(); 3].map(|()| tunnels.connect()), tunnels.connect());
    thread::scope(|scope| {
        let mut transfers = Transfers::new(scope, &shared);
        ends.iter().zip([FULL, TRICKLE, HELD]).for_each(|(ends, way)| transfers.begin(ends, way, way));
        let old = reload_to_echo(&mut tunnels.service);
        transfers.wait_for_progress();
        kill(tunnels.service.status().id.pid, Signal::KILL);
        // The old process serves again, which a new tunnel shows.
        say_goodbye(tunnels.connect());
        transfers.wait_for_progress();
        tunnels.service.replace_program("tunnel");
        kill(old, Signal::HUP);
        wait_for_end(old, GONE_TIMEOUT);
        tunnels.service.answers_at("tunnel");
        transfers.wait_for_progress();
        transfers.finish();
    });
    say_goodbye(idle);
}

/// Waits until a successor is ready and watched. Its pid.
fn wait_for_probation(service: &Service) -> u32 {
    let end = Instant::now() + DEADLINE;
    loop {
        let reloading = service.status().reloading;
        if let Some(successor) = reloading.filter(|now| now.stage == "probation").and_then(|now| now.successor) {
            return successor;
        }
        assert!(Instant::now() < end, "no successor was ever ready");
        thread::yield_now();
    }
}

/// Replaces the forwarder by a program that takes connections of another format. The pid of the old process.
fn reload_to_echo(service: &mut Service) -> u32 {
    service.replace_program("echo");
    let old = service.reload_well().from.pid;
    service.answers_at("echo");
    old
}
