//! What a server takes while nothing is reloaded: throughput, CPU and system calls a request, latency, memory, start.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tests::load::Load;

use crate::{
    peer::{Peer, Running, threads},
    results::Results,
    wrk::{Asked, Asking, wrk},
};

/// The connections of a load at full speed, for each of the server's threads.
pub(crate) const CONNECTIONS: u32 = 32;

/// The pace of the clients whose latency is measured, in requests a second of all together.
const PACE: u32 = 2000;

/// The idle connections of which each one's memory is a part.
const IDLE: u32 = 5000;

/// What a browser sends beside the request line and Host.
const BROWSER: [&str; 12] = [
    "Cache-Control: max-age=0",
    "sec-ch-ua: \"Chromium\";v=\"130\", \"Not?A_Brand\";v=\"99\"",
    "sec-ch-ua-mobile: ?0",
    "sec-ch-ua-platform: \"Linux\"",
    "Upgrade-Insecure-Requests: 1",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Sec-Fetch-Site: none",
    "Sec-Fetch-Mode: navigate",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark",
];

/// The requests whose throughput is measured: name, path, further header lines.
const REQUESTS: [(&str, &str, &[&str]); 6] = [
    ("keep-alive", "/", &[]),
    ("browser's head", "/", &BROWSER),
    ("1 KB", "/1k", &[]),
    ("100 KB", "/100k", &[]),
    ("1 MB", "/1m", &[]),
    ("new connection", "/", &["Connection: close"]),
];

/// Requests a second, and the server's CPU time for each.
pub fn throughput(results: &mut Results, peers: &[Peer], seconds: u32) {
    for (name, path, headers) in REQUESTS {
        for peer in peers.iter().filter(|peer| peer.answers(path)) {
            let running = peer.start();
            let before = running.group().cpu_ns();
            let Asked { requests, rate } =
                wrk(running.address, Asking { path, connections: CONNECTIONS * threads(), seconds, headers });
            let microseconds = (running.group().cpu_ns() - before) as f64 / 1000.0 / requests;
            results.add("throughput", &format!("{name}: requests/s"), peer.name(), rate);
            results.add("throughput", &format!("{name}: CPU, us/request"), peer.name(), microseconds);
        }
    }
}

/// System calls for each request, counted by perf, which slows the server less than strace.
pub fn syscalls(results: &mut Results, peers: &[Peer], seconds: u32) {
    for peer in peers {
        let running = peer.start();
        let pids: Vec<String> = running.group().members().iter().map(u32::to_string).collect();
        let mut perf = Command::new("perf");
        perf.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &pids.join(","), "--"]);
        perf.args(["sleep", &(seconds + 1).to_string()]);
        let counting = thread::spawn(move || perf.output());
        thread::sleep(Duration::from_millis(300));
        let asked =
            wrk(running.address, Asking { path: "/", connections: CONNECTIONS * threads(), seconds, headers: &[] });
        let output = counting.join().expect("the thread only waits").expect("perf (Debian's linux-perf)");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let calls = text.lines().find_map(|line| line.split(',').next()?.parse::<f64>().ok());
        let calls = calls.unwrap_or_else(|| panic!("perf printed something else:\n{text}"));
        results.add("syscalls", "system calls/request", peer.name(), calls / asked.requests);
    }
}

/// The latency of keep-alive clients at a fixed pace.
pub fn latency(results: &mut Results, peers: &[Peer], seconds: u32) {
    for peer in peers {
        let running = peer.start();
        let load = Load::new(running.address).paced(32, PACE).at_most(Duration::from_secs(seconds.into()));
        let latency = load.run().assert_no_failure().latency;
        for (name, us) in [("median", latency.p50_us), ("p99", latency.p99_us), ("p99.9", latency.p999_us)] {
            results.add("latency", &format!("latency at {PACE} requests/s: {name}, us"), peer.name(), us as f64);
        }
    }
}

/// Memory of a server that nobody has asked yet, and what each idle connection adds after one request.
pub fn memory(results: &mut Results, peers: &[Peer]) {
    for peer in peers {
        let running = peer.start();
        let at_rest = settled(&running);
        results.add("memory", "memory at rest, MB", peer.name(), at_rest as f64 / 1e6);
        let load = Load::new(running.address).idle(IDLE).at_most(Duration::from_mins(2)).start();
        load.wait_until("every client has had an answer", |report| report.answered >= IDLE.into());
        let added = settled(&running).saturating_sub(at_rest);
        load.stop().assert_no_failure();
        results.add("memory", "memory per idle connection, KB", peer.name(), added as f64 / 1e3 / f64::from(IDLE));
    }
}

/// The memory once it stays the same for a moment: allocators and collectors give back late.
pub(crate) fn settled(running: &Running) -> u64 {
    let mut before = 0;
    for _ in 0..30 {
        let now = running.group().memory_bytes();
        if now == before {
            break;
        }
        before = now;
        thread::sleep(Duration::from_millis(100));
    }
    before
}

/// From the start of the program to the first answer, beside the start and end of a program that does nothing.
pub fn start(results: &mut Results, peers: &[Peer], times: u32) {
    for _ in 0..times {
        let started = Instant::now();
        let status = Command::new("true").status().expect("true is everywhere");
        assert!(status.success());
        results.add("start", "start to first answer, ms", "true (spawn, exec, exit)", millis(started.elapsed()));
        for peer in peers {
            results.add("start", "start to first answer, ms", peer.name(), millis(peer.start().first_answer));
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
