//! The storm: the real server under the load of many kinds of clients, reloaded again and again, and what each reload
//! cost them. It prints a table for people and writes JSON for programs; it fails if a request or a reload failed.

use std::{
    fmt,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use serde::Serialize;
use serde_json::Value;
use tests::{
    CommandOutput, DEADLINE, Process, Reborn, Server, Signal,
    load::{Download, FaultKind, Load, Report, Running, Target, Upload, handshakes, pattern, raise_fd_limit},
};

/// How long the load runs before the first reload and after the last.
const CALM: Duration = Duration::from_secs(1);

/// How long an old process may take to end; its slow requests and the drain's deadline are shorter.
const GONE_MAX: Duration = Duration::from_secs(60);

/// The length of a download, and how long one takes.
const DOWNLOAD_BYTES: u64 = 4_000_000;
const DOWNLOAD_OVER: Duration = Duration::from_secs(5);

/// The time between two events of a stream.
const EVENTS_INTERVAL: Duration = Duration::from_millis(100);

/// Reload the server under a storm of requests, and measure what the clients notice
#[derive(Parser, Debug, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag by itself")]
struct Settings {
    /// Reloads
    #[arg(long, default_value_t = 100)]
    reloads: usize,
    /// Time from one reload's beginning to the next one's; 0s: back to back
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// The server's `--probation`
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    probation: Duration,
    /// Reload by SIGHUP, not by command
    #[arg(long)]
    by_signal: bool,
    /// Keep-alive clients that share the rate and look before they send
    #[arg(long, default_value_t = 32)]
    paced: u32,
    /// Requests a second of the paced clients together
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Keep-alive clients at full speed
    #[arg(long, default_value_t = 0)]
    full_speed: u32,
    /// Clients with a new connection for each request
    #[arg(long, default_value_t = 8)]
    new: u32,
    /// Requests a second of the clients with new connections together; 0: full speed
    #[arg(long, default_value_t = 200)]
    new_rate: u32,
    /// Keep-alive clients that ask every 0.05 to 3 s and look before they send
    #[arg(long, default_value_t = 200)]
    sparse: u32,
    /// The same, but they do not notice a close in the 20 ms before they send
    #[arg(long, default_value_t = 200)]
    blind: u32,
    /// Clients that only hold a connection
    #[arg(long, default_value_t = 0)]
    idle: u32,
    /// Clients whose answers take 2.5 s
    #[arg(long, default_value_t = 8)]
    slow: u32,
    /// Clients that send a body in 15 pieces over the time of --upload-over
    #[arg(long, default_value_t = 8)]
    upload: u32,
    /// How long an upload takes
    #[arg(long, default_value = "1500ms", value_parser = humantime::parse_duration)]
    upload_over: Duration,
    /// Clients that download 4 MB over 5 s, from memory, from a file, and in three ranges, and check each byte
    #[arg(long, default_value_t = 0)]
    downloads: u32,
    /// Clients with an event stream, whose ids have no gap
    #[arg(long, default_value_t = 0)]
    events: u32,
    /// Clients with a WebSocket, which count their messages
    #[arg(long, default_value_t = 0)]
    chats: u32,
    /// Addresses that the clients come from
    #[arg(long, default_value_t = 1)]
    sources: u8,
    /// Half of the clients come by a Unix socket
    #[arg(long)]
    unix: bool,
    /// Half of the clients come by TLS, with a certificate that changes before each reload
    #[arg(long)]
    tls: bool,
    /// Fail also if a connection is closed or announced to be, a download, an event stream or a chat among them, if a
    /// client has to open another one, or if an old process stays for 100 ms or more after its last answer
    #[arg(long)]
    strict: bool,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// More arguments for the server
    #[arg(last = true)]
    server: Vec<String>,
}

/// One reload.
#[derive(Debug, Serialize)]
struct Reload {
    old: u32,
    new: u32,
    /// The command's time; of a signal, until the status names the new process.
    returned_us: u64,
    /// From the trigger to the new process's first answer.
    first_answer_us: Option<u64>,
    /// From the command's return, which follows the commit, to the end of the old process.
    gone_after_commit_us: Option<u64>,
    /// From the old process's last answer, or from the commit if that was later.
    gone_after_last_answer_us: Option<u64>,
    /// The server's own account.
    stages: Value,
    /// What it said, if it failed.
    failure: Option<String>,
}

/// What a process takes of the machine.
#[derive(Debug, Serialize)]
struct Resources {
    pid: u32,
    resident_bytes: u64,
    threads: u64,
    fds: usize,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Storm {
    settings: Settings,
    reloads: Vec<Reload>,
    first: Resources,
    last: Resources,
    processes_left: usize,
    zombies: usize,
    /// With `--tls`: the handshakes that the server has held, and those that clients have completed.
    handshakes: Option<[u64; 2]>,
    load: Report,
    /// What the server wrote to its standard error, all generations together.
    log: String,
}

/// A reload whose old process has not been seen to end yet.
struct Watched {
    reload: Reload,
    committed: Instant,
    gone: thread::JoinHandle<Option<Instant>>,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    let storm = run(settings);
    print!("{storm}");
    if let Some(path) = &storm.settings.json {
        let text = serde_json::to_string_pretty(&storm).expect("figures are plain data");
        if let Err(error) = std::fs::write(path, text) {
            eprintln!("storm: cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    let faults = storm.faults();
    if !faults.is_empty() {
        println!("the server's log:\n{}", storm.log);
    }
    for fault in &faults {
        println!("FAULT: {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(settings: Settings) -> Storm {
    let probation = u64::try_from(settings.probation.as_millis()).unwrap_or(u64::MAX);
    let mut server = Reborn::new().demo().probation_ms(probation).args(&settings.server);
    if settings.downloads > 0 {
        pattern::write_file(&server.folder().join("pattern"), DOWNLOAD_BYTES)
            .expect("a file in the storm's own folder");
        server = server.args(["--root", "."]);
    }
    let socket = server.folder().join("run/http");
    if settings.unix {
        server = server.listen(&format!("local=unix:{}", socket.display()));
    }
    if settings.tls {
        server = server.https().tells_handshakes();
    }
    let server = server.start();
    raise_fd_limit().expect("the limit of open files can be raised to its maximum");
    let load = describe(&settings, &server, socket.into()).start();
    thread::sleep(CALM);
    let first = resources(server.pid());
    let mut watched = Vec::new();
    for _ in 0..settings.reloads {
        let next = Instant::now() + settings.interval;
        if settings.tls {
            server.renew_certificate();
        }
        watched.push(reload(&settings, &server, &load));
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    thread::sleep(CALM);
    let last = resources(server.pid());
    let (load_started, report) = (load.started(), load.stop());
    let reloads = watched.into_iter().map(|watched| watched.finish(&report, load_started)).collect();
    Storm {
        handshakes: settings.tls.then(|| [server.handshakes() as u64, handshakes()]),
        settings,
        reloads,
        first,
        last,
        processes_left: server.generations().len(),
        zombies: server.family().zombies().len(),
        load: report,
        log: server.log(),
    }
}

fn describe(settings: &Settings, server: &Server, socket: Target) -> Load {
    let mut load = server.load().at_most(Duration::from_secs(3600)).sources(settings.sources);
    if settings.unix {
        load = load.also(socket);
    }
    if settings.tls {
        load = load.also(server.https_target());
    }
    load = load.paced(settings.paced, settings.rate).full_speed(settings.full_speed);
    load = match settings.new_rate {
        0 => load.new_connections(settings.new),
        rate => load.new_connections_paced(settings.new, rate),
    };
    load = load.sparse(settings.sparse).blind(settings.blind).idle(settings.idle);
    load = load.slow(settings.slow, Duration::from_millis(2500));
    load = load.upload(settings.upload, Upload { over: settings.upload_over, ..Upload::default() });
    let file = Download::file("/pattern", DOWNLOAD_BYTES, DOWNLOAD_OVER);
    let third = DOWNLOAD_BYTES / 3;
    let ranges = file.clone().ranges([0..third - 1000, third..2 * third - 7, 2 * third + 9..DOWNLOAD_BYTES]);
    let of = |kind: u32| settings.downloads / 3 + u32::from(settings.downloads % 3 > kind);
    load = load.downloads(of(0), Download::bytes(DOWNLOAD_BYTES, DOWNLOAD_OVER));
    load = load.downloads(of(1), file).downloads(of(2), ranges);
    load.events(settings.events, EVENTS_INTERVAL).chats(settings.chats)
}

/// One reload, with a thread that waits for the old process's end.
fn reload(settings: &Settings, server: &Server, load: &Running) -> Watched {
    let old = server.pid();
    let process = Process::open(old).expect("the newest process is alive");
    let gone = thread::spawn(move || process.wait(GONE_MAX).then(Instant::now));
    load.mark_reload();
    let started = Instant::now();
    let failure = if settings.by_signal {
        server.reload_by(Signal::HUP);
        None
    } else {
        let output: CommandOutput = server.reload();
        (!output.is_success()).then(|| output.stderr.trim().to_owned())
    };
    let committed = Instant::now();
    if settings.probation > CALM / 4 {
        // The hand-over is far from the beginning: its requests are of interest too.
        load.mark_reload();
    }
    let status = server.status();
    let new = status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(old);
    let first_answer = load.wait_for_pid(new, DEADLINE).map(|of_pid| load.started() + of_pid.first);
    let reload = Reload {
        old,
        new,
        returned_us: micros(committed - started),
        first_answer_us: first_answer.map(|at| micros(at.saturating_duration_since(started))),
        gone_after_commit_us: None,
        gone_after_last_answer_us: None,
        stages: status["last_reload"]["stages"].clone(),
        failure,
    };
    Watched { reload, committed, gone }
}

impl Watched {
    /// Puts the old process's end beside its last answer, which is known now.
    fn finish(self, report: &Report, load_started: Instant) -> Reload {
        let Self { mut reload, committed, gone } = self;
        if reload.failure.is_some() {
            // The old process lives on, and its watcher with it: it ends with this process.
            return reload;
        }
        let last_answer = report.pids.get(&reload.old).map_or(committed, |of_pid| load_started + of_pid.last);
        if let Some(gone) = gone.join().ok().flatten() {
            let after = |instant: Instant| Some(micros(gone.saturating_duration_since(instant)));
            reload.gone_after_commit_us = after(committed);
            reload.gone_after_last_answer_us = after(committed.max(last_answer));
        }
        reload
    }
}

fn resources(pid: u32) -> Resources {
    let process = Process::open(pid).expect("the newest process is alive");
    let (resident_bytes, threads, fds) = (process.resident_bytes(), process.threads(), process.fds().len());
    Resources { pid, resident_bytes, threads, fds }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Storm {
    /// What must not be, in words.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |is_fault: bool, text: String| {
            if is_fault {
                faults.push(text);
            }
        };
        let Report { failed, went_back, reopened, .. } = self.load;
        let closed = self.load.closed_connections();
        let failed_reloads = self.reloads.iter().filter(|reload| reload.failure.is_some()).count();
        let staying = self.reloads.iter().filter(|reload| reload.gone_after_commit_us.is_none()).count();
        let late = |reload: &&Reload| reload.gone_after_last_answer_us.is_none_or(|us| us >= 100_000);
        let late = self.reloads.iter().filter(late).count();
        check(self.load.answered == 0, "no request was answered".into());
        check(failed > 0, format!("{failed} requests failed"));
        check(went_back > 0, format!("{went_back} connections went back to an older generation"));
        check(failed_reloads > 0, format!("{failed_reloads} reloads failed"));
        check(staying > failed_reloads, format!("{} old processes did not end", staying - failed_reloads));
        check(self.processes_left != 1, format!("{} processes are left, not one", self.processes_left));
        let errors = self.log.lines().filter(|line| line.contains(" ERROR ")).count();
        check(errors > 0, format!("{errors} errors in the server's log"));
        check(self.zombies > 0, format!("{} zombies", self.zombies));
        for kind in [FaultKind::Wrong, FaultKind::Gap] {
            let count = self.load.faults_of(kind);
            check(count > 0, format!("{count} connections that last ended in: {kind}"));
        }
        for kind in [FaultKind::Closed, FaultKind::Late, FaultKind::Refused] {
            let count = self.load.faults_of(kind);
            check(self.settings.strict && count > 0, format!("{count} connections that last ended in: {kind}"));
        }
        check(self.settings.strict && closed > 0, format!("{closed} connections were closed"));
        check(self.settings.strict && reopened > 0, format!("{reopened} connections were opened again"));
        if let Some([held, completed]) = self.handshakes {
            let unexpected = held.saturating_sub(completed);
            // One that the load's end cut off may be over on the server's side alone.
            check(unexpected > 1, format!("{unexpected} handshakes that no client completed"));
        }
        check(self.settings.strict && late > 0, format!("{late} old processes stayed for 100 ms or more"));
        faults
    }
}

/// Writes the median, the 90th percentile and the longest of some times.
fn write_times(f: &mut fmt::Formatter<'_>, name: &str, times: impl Iterator<Item = Option<u64>>) -> fmt::Result {
    let mut times: Vec<u64> = times.flatten().collect();
    times.sort_unstable();
    let Some(max) = times.last() else { return Ok(()) };
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    let millis = |us: u64| format!("{}.{:02}", us / 1000, us % 1000 / 10);
    writeln!(f, "  {name:<44}{:>10}{:>10}{:>10}", millis(at(50)), millis(at(90)), millis(*max))
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reloads, first, last, .. } = self;
        write!(f, "{}", self.load)?;
        let all = reloads.len();
        writeln!(f, "{:<46}{:>10}{:>10}{:>10}", format!("{all} reloads, times in ms"), "median", "p90", "max")?;
        let stage = |name: &'static str| reloads.iter().map(move |reload| reload.stages[name].as_u64());
        write_times(f, "command returned", reloads.iter().map(|reload| Some(reload.returned_us)))?;
        write_times(f, "first answer of the new process", reloads.iter().map(|reload| reload.first_answer_us))?;
        write_times(f, "old process gone, after the commit", reloads.iter().map(|r| r.gone_after_commit_us))?;
        write_times(f, "  after its last answer", reloads.iter().map(|r| r.gone_after_last_answer_us))?;
        write_times(f, "the server's own account: spawn", stage("spawn_us"))?;
        write_times(f, "  ready", stage("ready_us"))?;
        write_times(f, "  commit", stage("commit_us"))?;
        write_times(f, "  in all", stage("total_us"))?;
        for (name, Resources { pid, resident_bytes, threads, fds }) in [("first", first), ("last", last)] {
            let kib = resident_bytes / 1024;
            writeln!(f, "{name} process: pid {pid}, {kib} KiB resident, {threads} threads, {fds} fds")?;
        }
        for reload in reloads {
            if let Some(failure) = &reload.failure {
                writeln!(f, "a reload failed: {failure}")?;
            }
        }
        if let Some([held, completed]) = self.handshakes {
            let of_lasting: u64 = self.load.classes.values().map(|class| class.begun).sum();
            writeln!(
                f,
                "TLS handshakes: {held} held by the server, {completed} completed by clients (which opened {} connections and \
                 {of_lasting} that last, plain ones among them, {} again)",
                self.load.opened, self.load.reopened
            )?;
        }
        writeln!(f, "processes left: {}, zombies: {}", self.processes_left, self.zombies)
    }
}
