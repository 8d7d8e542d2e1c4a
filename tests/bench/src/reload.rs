//! What a reload costs the clients and the machine: the first answer of the new process, the longest answers around it,
//! what failed or was closed, when the old process is gone, and what both take in between.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tests::{
    Process,
    load::{Load, Report, Running as Loaded},
};

use crate::{
    group::Group,
    peer::{Peer, Running},
    results::Results,
};

/// Reloads of one server, one after the other.
const RELOADS: usize = 4;

/// The time from one to the next: HAProxy and ecdysis take half a second and more to be done with one, and pingora's new
/// process answers after one.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long an old process is waited for: pingora's stays for 20 s whatever there is to do.
const GONE_MAX: Duration = Duration::from_secs(25);

/// How often memory is looked at around a reload.
const LOOK: Duration = Duration::from_millis(3);

/// What the clients do meanwhile.
#[derive(Clone, Copy, Debug)]
pub enum Clients {
    /// 2,000 requests a second, new connections, and clients that pause.
    Paced,
    /// As much as there is.
    Full,
}

impl Clients {
    /// The scenario's name.
    pub fn scenario(self) -> &'static str {
        match self {
            Self::Paced => "reload",
            Self::Full => "reload-full",
        }
    }

    fn load(self, running: &Running) -> Load {
        let load = Load::new(running.address).at_most(Duration::from_mins(2));
        match self {
            Self::Paced => load.paced(32, 2000).new_connections_paced(8, 200).sparse(100).blind(100),
            Self::Full => load.full_speed(48).new_connections(8),
        }
    }
}

/// One reload as seen from outside.
struct Seen {
    at: Instant,
    /// When each process that had answered before ended.
    gone: Vec<thread::JoinHandle<Option<Instant>>>,
    peak_bytes: u64,
}

/// Reloads each peer that can be reloaded, under load.
pub fn reload(results: &mut Results, peers: &[Peer], clients: Clients) {
    for peer in peers {
        if peer.reloads() {
            let mut running = peer.start();
            let load = clients.load(&running).start();
            thread::sleep(INTERVAL);
            let seen: Vec<Seen> = (0..RELOADS)
                .map(|_| {
                    let next = Instant::now() + INTERVAL;
                    let report = load.report();
                    let seen = one(&mut running, &load, &report);
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                    load.wait_until("a new process answers", |now| now.pids.len() > report.pids.len());
                    seen
                })
                .collect();
            thread::sleep(rest(*peer));
            let started = load.started();
            book(results, *peer, clients, seen, &load.stop(), started);
        }
    }
}

/// How much longer than the last interval the load goes on, so that each connection that is to be closed has been: clients
/// pause for 3 s at most, and pingora's old process closes none in its first 5 s.
fn rest(peer: Peer) -> Duration {
    Duration::from_secs(if peer == Peer::Pingora { 6 } else { 1 })
}

fn one(running: &mut Running, load: &Loaded, report: &Report) -> Seen {
    let old = report.pids.keys().filter_map(|pid| Process::open(*pid));
    let gone = old.map(|old| thread::spawn(move || old.wait(GONE_MAX).then(Instant::now))).collect();
    let peak = Peak::start(running.group());
    load.mark_reload();
    let at = Instant::now();
    running.reload(newest(report));
    thread::sleep(Duration::from_millis(500));
    Seen { at, gone, peak_bytes: peak.stop() }
}

fn book(results: &mut Results, peer: Peer, clients: Clients, seen: Vec<Seen>, report: &Report, started: Instant) {
    let name = clients.scenario();
    let prefix = match clients {
        Clients::Paced => "",
        Clients::Full => "full speed: ",
    };
    let mut add = |figure: &str, value: f64| results.add(name, &format!("{prefix}{figure}"), peer.name(), value);
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let firsts: BTreeSet<Instant> = report.pids.values().map(|of_pid| started + of_pid.first).collect();
    for Seen { at, gone, peak_bytes } in seen {
        if let Some(first) = firsts.range(at..).next() {
            add("signal to first answer of the new process, ms", millis(*first - at));
        }
        let gone: Option<Vec<Instant>> = gone.into_iter().map(|thread| thread.join().ok().flatten()).collect();
        if let Some(last) = gone.and_then(|gone| gone.into_iter().max()) {
            add("signal to the end of the old process, ms", millis(last - at));
        }
        add("peak memory of both, MB", peak_bytes as f64 / 1e6);
    }
    if let Clients::Full = clients {
        add("requests/s", report.answered as f64 / report.time.as_secs_f64());
    }
    let (near, away) = (report.latency_near_reloads, report.latency_away_from_reloads);
    add("longest answer around reloads, ms", near.max_us as f64 / 1e3);
    add("p99.9 around reloads, ms", near.p999_us as f64 / 1e3);
    add("p99.9 away from reloads, ms", away.p999_us as f64 / 1e3);
    add("failed requests per reload", report.failed as f64 / RELOADS as f64);
    add("connections closed per reload", report.closed_connections() as f64 / RELOADS as f64);
}

/// The process whose first answer came last.
pub(crate) fn newest(report: &Report) -> u32 {
    let newest = report.pids.iter().max_by_key(|(_, of_pid)| of_pid.first);
    *newest.unwrap_or_else(|| panic!("nobody answers\n{report}")).0
}

/// Looks at the memory of a group until it is stopped.
struct Peak {
    stopped: Arc<AtomicBool>,
    thread: thread::JoinHandle<u64>,
}

impl Peak {
    fn start(group: Group) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&stopped);
        let thread = thread::spawn(move || {
            let mut peak = 0;
            while !watched.load(Ordering::Relaxed) {
                peak = peak.max(group.memory_bytes());
                thread::sleep(LOOK);
            }
            peak
        });
        Self { stopped, thread }
    }

    fn stop(self) -> u64 {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.join().expect("the thread only looks")
    }
}
