//! What a reload of reborn costs as its work grows: memory, idle connections, listeners, requests answered before,
//! generations. Each point is the median of some reloads by command, without probation.

use std::{
    collections::BTreeMap,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    os::unix::net::UnixStream,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recvmsg, sendmsg, socketpair,
};
use tests::{
    DEADLINE, Process, Reborn, Server, Version,
    load::{Load, raise_fd_limit},
    secured,
};

use crate::{
    results::{Results, Sample, Series},
    wrk::{Asking, wrk},
};

/// Reloads at each point.
const REPEATS: usize = 3;

/// The same, of a process that has filled its memory: one spawn of each, which takes a fraction of a millisecond.
const MEMORY_ROUNDS: usize = 9;

/// The descriptors in one message, as the handover sends them.
const BATCH: usize = 253;

/// What is asked on a connection that moves.
const REQUEST: &[u8] = b"GET /fast HTTP/1.1\r\nhost: localhost\r\n\r\n";

type Measure = fn() -> Vec<Series>;

/// Everything, each to the limit that is asked for or that the machine has.
pub fn growth(results: &mut Results, only: Option<&str>) {
    let all: [(&str, Measure); 6] = [
        ("memory", memory),
        ("connections", connections),
        ("tls", secured_connections),
        ("listeners", listeners),
        ("requests", requests),
        ("generations", generations),
    ];
    for (name, measure) in all {
        if only.is_none_or(|only| only == name) {
            for series in measure() {
                results.put(series);
            }
        }
    }
}

/// One reload: how long the spawn took, the command, and until the old process was gone.
struct Reloaded {
    spawn: Duration,
    returned: Duration,
    gone: Duration,
}

fn reload(server: &Server) -> Reloaded {
    let old = Process::open(server.pid()).expect("the newest process is alive");
    let started = Instant::now();
    server.reload().assert_success();
    let returned = started.elapsed();
    assert!(old.wait(DEADLINE), "the old process stays\n{}", server.state());
    let gone = started.elapsed();
    let spawn = server.status()["last_reload"]["stages"]["spawn_us"].as_u64();
    Reloaded { spawn: Duration::from_micros(spawn.expect("the status has the stages")), returned, gone }
}

/// The middle of what some measurements gave, in milliseconds.
fn median(times: impl IntoIterator<Item = Duration>) -> f64 {
    let values = times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect();
    let [scenario, figure, peer] = [(); 3].map(|()| String::new());
    Sample { scenario, figure, peer, values }.median()
}

fn series(title: &str, file: &str, x: &str, y: &str, points: Vec<(f64, f64)>) -> Series {
    let [title, file, x, y] = [title, file, x, y].map(str::to_owned);
    Series { title, file, x, y, points }
}

/// The spawn out of a process that has filled so much memory.
fn memory() -> Vec<Series> {
    let exe = std::env::current_exe().expect("a process knows its program").with_file_name("peer-reborn");
    let room = available_mebibytes() * 7 / 10;
    let sizes: Vec<u32> =
        [10, 512, 1024, 2048, 4096, 8192].into_iter().filter(|mebibytes| *mebibytes <= room).collect();
    // In turn, so that what the machine does meanwhile falls on all sizes alike.
    let mut measured = BTreeMap::<u32, Vec<Reloaded>>::new();
    for _ in 0..MEMORY_ROUNDS {
        for mebibytes in &sizes {
            measured.entry(*mebibytes).or_default().push(of_ballast(&exe, *mebibytes));
        }
    }
    let points = |part: fn(&Reloaded) -> Duration| {
        measured.iter().map(|(mebibytes, all)| ((*mebibytes).into(), median(all.iter().map(part)))).collect()
    };
    let (spawns, reloads) = (points(|one| one.spawn), points(|one| one.returned));
    let x = "resident memory, MiB";
    vec![
        series("The spawn, as memory grows", "growth-memory-spawn", x, "spawn, ms", spawns),
        series("The reload, as memory grows", "growth-memory", x, "reload, ms", reloads),
    ]
}

fn of_ballast(exe: &std::path::Path, mebibytes: u32) -> Reloaded {
    let version = Version::File(exe.to_owned());
    let server = Reborn::new().version(version).probation_ms(0).env("BENCH_BALLAST_MIB", mebibytes.to_string()).start();
    reload(&server)
}

/// The connections that move, beside descriptors sent in the barest way.
fn connections() -> Vec<Series> {
    raise_fd_limit().expect("the limit of open files can be raised to its maximum");
    let (mut moved, mut bare) = (Vec::new(), Vec::new());
    for count in [0_u32, 1000, 2500, 5000, 10_000, 19_000] {
        let server = Reborn::new().demo().probation_ms(0).arg("--connections").arg("20000").start();
        let load = server.load().idle(count).sources(4).at_most(Duration::from_mins(5)).start();
        load.wait_until("every client has had an answer", |report| report.answered >= count.into());
        let measured: Vec<Reloaded> = (0..REPEATS).map(|_| reload(&server)).collect();
        load.stop();
        moved.push((count.into(), median(measured.iter().map(|reloaded| reloaded.gone))));
        bare.push((count.into(), median((0..REPEATS).map(|_| bare_loop(count as usize)))));
    }
    let x = "idle connections";
    vec![
        series("From the command to the end of the old process", "growth-connections", x, "ms", moved),
        series("The bare SCM_RIGHTS loop", "growth-connections-bare", x, "ms", bare),
    ]
}

/// Connections that move with TLS on them.
fn secured_connections() -> Vec<Series> {
    raise_fd_limit().expect("the limit of open files can be raised to its maximum");
    let mut points = Vec::new();
    for count in [0_u32, 1000, 2500, 5000, 10_000] {
        let reborn = Reborn::new().demo().probation_ms(0).args(["--connections", "20000"]);
        let (reborn, certificate) = secured::speaking(reborn);
        let server = reborn.start();
        let (address, config) = (secured::address(&server), secured::trusting(&certificate, false));
        let connect = |_| secured::Secured::connect(address, &config).expect("a connection");
        let mut clients: Vec<_> = (0..count).map(connect).collect();
        let mut ask = || clients.iter_mut().all(|client| client.ask(REQUEST).is_ok_and(|status| status == 200));
        assert!(ask());
        points.push((count.into(), median((0..REPEATS).map(|_| reload(&server).gone))));
        assert!(ask(), "every one of them has moved");
    }
    let y = "command to the end of the old process, ms";
    vec![series(
        "The reload, as idle TLS connections grow",
        "growth-connections-tls",
        "idle TLS connections",
        y,
        points,
    )]
}

/// So many descriptors through a socket pair, sent by one thread and taken by another.
fn bare_loop(count: usize) -> Duration {
    let flags = SocketFlags::CLOEXEC;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a pair of sockets");
    let (sent, _other) = UnixStream::pair().expect("a pair of sockets");
    let started = Instant::now();
    let taker = thread::spawn(move || {
        let mut taken: Vec<OwnedFd> = Vec::with_capacity(count);
        while taken.len() < count {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            recvmsg(&far, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC).expect("a message");
            for message in control.drain() {
                if let rustix::net::RecvAncillaryMessage::ScmRights(fds) = message {
                    taken.extend(fds);
                }
            }
        }
        taken.len()
    });
    let mut left = count;
    while left > 0 {
        let fds = vec![sent.as_fd(); left.min(BATCH)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "the space is for that many");
        sendmsg(&near, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).expect("a message can be sent");
        left -= fds.len();
    }
    assert_eq!(taker.join().expect("the thread only receives"), count);
    started.elapsed()
}

/// Listening sockets that move.
fn listeners() -> Vec<Series> {
    let mut points = Vec::new();
    for count in [1_u16, 10, 100, 250, 500, 1000] {
        let further = (1..count).flat_map(|n| ["--listen".to_owned(), format!("l{n}=127.77.0.1:{}", 20_000 + n)]);
        let server = Reborn::new().demo().probation_ms(0).args(further).start();
        let measured: Vec<Reloaded> = (0..REPEATS).map(|_| reload(&server)).collect();
        points.push((count.into(), median(measured.iter().map(|reloaded| reloaded.gone))));
    }
    let y = "command to the end of the old process, ms";
    vec![series("The reload, as listeners grow", "growth-listeners", "listeners", y, points)]
}

/// Requests that the old process has answered.
fn requests() -> Vec<Series> {
    let mut points = Vec::new();
    for seconds in [0_u32, 1, 2, 4, 8] {
        let server = Reborn::new().demo().probation_ms(0).start();
        let asking = Asking { path: "/fast", connections: 64, seconds, headers: &[] };
        let answered = if seconds == 0 { 0.0 } else { wrk(server.address(), asking).requests };
        points.push((answered, median([reload(&server).gone])));
    }
    let y = "command to the end of the old process, ms";
    vec![series("The reload, after requests", "growth-requests", "requests answered before", y, points)]
}

/// Reload after reload.
fn generations() -> Vec<Series> {
    let server = Reborn::new().demo().probation_ms(0).start();
    let load: Load = server.load();
    let load = load.paced(4, 100).at_most(Duration::from_mins(5)).start();
    let points = (1..=60_u32).map(|number| (number.into(), median([reload(&server).gone]))).collect();
    load.stop().assert_no_failure();
    let y = "command to the end of the old process, ms";
    vec![series("The reload, as generations pass", "growth-generations", "generation", y, points)]
}

fn available_mebibytes() -> u32 {
    let text = std::fs::read_to_string(PathBuf::from("/proc/meminfo")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: Option<u32> = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    kib.unwrap_or(0) / 1024
}
