//! What it costs to move connections: servers that hold many of them, idle or within a slow download, are reloaded while
//! other clients ask on, and beside each reload the same number of descriptors goes through a bare loop of `SCM_RIGHTS`
//! between two processes. It prints a table for people and writes JSON for programs; it fails if a connection was closed,
//! a request was lost or a byte of a download was wrong.
//!
//! The connections are held by processes of their own (this program again), half of them over TCP from several
//! addresses of loopback, half over a Unix socket. Downloads from memory all come over the Unix socket: the kernel takes
//! little there, and a body that it has taken whole is nothing to move. Those of TLS all come over TCP.

use std::{
    fmt, fs,
    io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socket, socketpair,
};
use serde::{Serialize, Serializer};
use serde_json::Value;
use tests::{
    DEADLINE, Process, Reborn, Server, binary,
    load::{Class, Download, Latency, Limits, Load, Report, pattern, raise_fd_limit},
    secured::{self, Secured},
};

/// A process that holds connections has at most so many.
const HELD_EACH: u32 = 5000;

/// Of the server's descriptors, so many are for other things than the idle connections.
const DESCRIPTORS_KEPT: u32 = 200;

/// As the handover has it: descriptors of a message, and messages that wait for their acknowledgement.
const BATCH: usize = 253;
const UNACKNOWLEDGED: usize = 4;

/// How long the other clients ask before a reload and after it: more than the 500 ms that count as its surroundings.
const CALM: Duration = Duration::from_millis(700);

/// The pace of a slow download, in bytes a second.
const SLOW_BYTES: u64 = 16 * 1024;

/// The length of a file that is downloaded, and of a body from memory. The demonstration has room for so many such bodies at a
/// time: when there are to be more, the ones before them move into another process, which makes files in memory of them.
const FILE_BYTES: u64 = 16_000_000;
const MEMORY_BYTES: u64 = 1_000_000;
const MEMORY_EACH: u32 = 250;

/// A connection that has done nothing for a second gives back what it needs only for its next request.
const RESTED: Duration = Duration::from_millis(1200);

/// A server in which nothing is going on takes less of the processor within this time than this, in hundredths of a second.
const QUIET: Duration = Duration::from_millis(300);
const QUIET_TICKS: u64 = 4;

/// How often the memory of both processes is looked at during a reload.
const LOOK: Duration = Duration::from_millis(2);

/// What the connections are in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Nothing.
    Idle,
    /// Nothing, and TLS is spoken on them.
    Tls,
    /// A download of a file at 16 KB/s.
    File,
    /// A download from the server's memory at 16 KB/s.
    Memory,
}

impl Kind {
    /// How much each client downloads.
    fn bytes(self) -> u64 {
        match self {
            Self::Idle | Self::Tls => 0,
            Self::File => FILE_BYTES,
            Self::Memory => MEMORY_BYTES,
        }
    }
}

/// Move connections from process to process, and measure what it costs
#[derive(Parser, Debug, Serialize)]
struct Settings {
    /// Idle connections: a number, or max for as many as the hard limit of open files allows; repeat it for more
    #[arg(long, value_name = "N", default_values = ["1000", "10000", "max"])]
    count: Vec<String>,
    /// What the connections are in the middle of; repeat it for more
    #[arg(long, value_enum, value_name = "KIND", default_values = ["idle"])]
    kind: Vec<Kind>,
    /// Reloads with each of these numbers; of downloads from memory, each with a server of its own
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Requests a second of 16 other clients together
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Hold connections to this address and to the Unix socket, until the standard input ends (the program itself uses
    /// it)
    #[arg(long, hide = true, num_args = 4, value_names = ["ADDR", "PATH", "KIND", "N"])]
    #[serde(skip)]
    hold: Option<Vec<String>>,
    /// Receive descriptors from the standard input (the program itself uses it)
    #[arg(long, hide = true)]
    #[serde(skip)]
    receive: bool,
}

/// One number of connections of one kind.
#[derive(Debug, Serialize)]
struct Row {
    kind: Kind,
    connections: u32,
    /// What the server had resident for each connection when all were held, and when all had moved once: more than before.
    held_bytes_each: [u64; 2],
    reloads: Vec<Reload>,
    /// The other clients' requests.
    other: Latency,
    other_around_reloads: Latency,
    /// What was wrong, in words.
    faults: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Reload {
    /// The old process's own account: from the commit to its last connection.
    #[serde(rename = "moved_us", serialize_with = "micros")]
    moved: Duration,
    /// From the beginning of the reload to the end of the old process.
    #[serde(rename = "gone_us", serialize_with = "micros")]
    gone: Duration,
    /// The same number of descriptors through the bare loop.
    #[serde(rename = "bare_us", serialize_with = "micros")]
    bare: Duration,
    /// The most that each process had resident within the reload.
    old_resident_bytes: u64,
    new_resident_bytes: u64,
    /// What the new process had when the old one was gone: connections with a file of their response, and of these files
    /// those in memory, together.
    responses: usize,
    memfd_bytes: u64,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Figures {
    settings: Settings,
    hard_limit: u32,
    rows: Vec<Row>,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    raise_fd_limit().expect("the limit of open files can be raised to its maximum");
    if settings.receive {
        receive().expect("the sender is this program");
        return ExitCode::SUCCESS;
    }
    if let Some(words) = &settings.hold {
        hold(words);
        return ExitCode::SUCCESS;
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let hard_limit = limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(1 << 20);
    let count = |text: &String| match text.parse() {
        Ok(count) => count,
        Err(_) if text == "max" => hard_limit - DESCRIPTORS_KEPT,
        Err(error) => panic!("--count {text}: {error}"),
    };
    let rows = settings.kind.iter().flat_map(|kind| settings.count.iter().map(move |text| (*kind, count(text))));
    let rows = rows.map(|(kind, count)| measure(kind, count, &settings)).collect();
    let figures = Figures { settings, hard_limit, rows };
    print!("{figures}");
    if let Some(path) = &figures.settings.json {
        let text = serde_json::to_string_pretty(&figures).expect("figures are plain data");
        if let Err(error) = std::fs::write(path, text) {
            eprintln!("idle: cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    let is_well = figures.rows.iter().all(|row| row.faults.is_empty());
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Measures one row. The first move of a body from memory makes a file of it, and any other one is like a file's: each
/// reload has a server of its own, in which as many bodies as there is room for have not moved before.
fn measure(kind: Kind, count: u32, settings: &Settings) -> Row {
    if kind != Kind::Memory {
        return run(kind, count, settings.rounds, settings);
    }
    let rows = (0..settings.rounds).map(|_| run(kind, count, 1, settings));
    let merge = |mut all: Row, row: Row| {
        all.reloads.extend(row.reloads);
        all.faults.extend(row.faults);
        all.other = worse(all.other, row.other);
        all.other_around_reloads = worse(all.other_around_reloads, row.other_around_reloads);
        all
    };
    rows.reduce(merge).unwrap_or_else(|| run(kind, count, 0, settings))
}

/// The one whose 99th percentile is higher.
fn worse(one: Latency, other: Latency) -> Latency {
    if one.p99_us < other.p99_us { other } else { one }
}

fn run(kind: Kind, count: u32, rounds: usize, settings: &Settings) -> Row {
    let reborn = Reborn::new().demo().probation_ms(0).args(["--root", "."]);
    if kind == Kind::File {
        pattern::write_file(&reborn.folder().join("pattern"), FILE_BYTES).expect("a file in the server's own folder");
    }
    let reborn = reborn.args(["--connections", "1000000", "--idle-timeout", "1h"]);
    let (server, path) = if kind == Kind::Tls {
        let (reborn, certificate) = secured::speaking(reborn);
        (reborn.start(), certificate)
    } else {
        let path = reborn.folder().join("run/http");
        (reborn.listen(&format!("local=unix:{}", path.display())).start(), path)
    };
    let resident = || Process::open(server.pid()).expect("the newest process is alive").resident_bytes();
    let at_rest = resident();
    let each = || resident().saturating_sub(at_rest) / u64::from(count.max(1));
    let holders = hold_all(&server, &path, kind, count);
    thread::sleep(RESTED);
    let mut held_bytes_each = [each(), 0];
    let load = server.load().paced(16, settings.rate).start();
    thread::sleep(CALM);
    let (mut faults, mut reloads) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let bare = bare_loop(count as usize).expect("descriptors can be sent");
        load.mark_reload();
        reloads.push(Reload { bare, ..reload(&server) });
        if reloads.len() == 1 {
            thread::sleep(RESTED);
            held_bytes_each[1] = each();
        }
        thread::sleep(CALM);
        let received = server.status()["application"]["received"].as_u64().unwrap_or(0);
        if received < u64::from(count) {
            faults.push(format!("{received} connections arrived"));
        }
    }
    let report = load.stop();
    faults.extend(described("another client", report.failed, report.closed_connections()));
    for holder in holders {
        let held = holder.finish();
        let sum = |of: &Value| of.as_object().map_or(0, |kinds| kinds.values().filter_map(Value::as_u64).sum());
        let cut: u64 = held["classes"]["download"].get("faults").map_or(0, sum);
        let failed = held["failed"].as_u64().unwrap_or(u64::MAX);
        faults.extend(described("a holder", failed, sum(&held["closed"]) + cut));
    }
    let Report { latency: other, latency_near_reloads: other_around_reloads, .. } = report;
    Row { kind, connections: count, held_bytes_each, reloads, other, other_around_reloads, faults }
}

/// Has so many connections held, and waits until nothing is going on but that.
fn hold_all(server: &Server, path: &Path, kind: Kind, count: u32) -> Vec<Holder> {
    let most = if kind == Kind::Memory { MEMORY_EACH } else { HELD_EACH };
    let address = if kind == Kind::Tls { secured::address(server) } else { server.address() };
    let mut holders: Vec<Holder> = Vec::new();
    let mut held = 0;
    while held < count {
        if kind == Kind::Memory && held > 0 {
            server.reload().assert_success();
        }
        let part = most.min(count - held);
        held += part;
        let holder = Holder::start(address, path, kind, part);
        holder.wait();
        holders.push(holder);
        server.wait_until("all are accepted", |server| {
            let status = server.status();
            let [live, unanswered] = ["live", "in_flight"].map(|name| status["application"][name].as_u64());
            live >= Some(u64::from(held)) && unanswered == Some(0)
        });
        let process = Process::open(server.pid()).expect("the newest process is alive");
        server.wait_until("what the kernel takes of all answers is sent", |_| {
            let before = process.cpu_ticks();
            thread::sleep(QUIET);
            process.cpu_ticks() < before + QUIET_TICKS
        });
    }
    holders
}

fn described(who: &str, failed: u64, closed: u64) -> Option<String> {
    (failed + closed > 0).then(|| format!("{who} lost {failed} requests and {closed} connections"))
}

/// One reload: the old process's own account of its drain, how long it took until it had ended, and what both took.
fn reload(server: &Server) -> Reload {
    let old = Process::open(server.pid()).expect("the newest process is alive");
    let is_over = AtomicBool::new(false);
    let ((gone, new), old_resident_bytes, new_resident_bytes) = thread::scope(|scope| {
        let looking = scope.spawn(|| look_at_memory(server, &old, &is_over));
        let started = Instant::now();
        server.reload().assert_success();
        assert!(old.wait(DEADLINE), "the old process stays\n{}", server.state());
        let gone = started.elapsed();
        let new = Process::open(server.pid()).expect("the newest process is alive");
        is_over.store(true, Ordering::Relaxed);
        let (old_bytes, new_bytes) = looking.join().expect("it only looks");
        ((gone, new), old_bytes, new_bytes)
    });
    let line = format!("[{}] generation", old.pid());
    let drained = |log: &str| {
        let end = log.lines().find(|words| words.contains(&line) && words.contains("(drained for "))?;
        let (_, time) = end.split_once("(drained for ")?;
        time.split_once(" ms)")?.0.parse::<f64>().ok()
    };
    let moved = drained(&server.log()).unwrap_or_else(|| panic!("no account of the drain\n{}", server.state()));
    let moved = Duration::from_secs_f64(moved / 1000.0);
    let (responses, memfd_bytes) = files_of_responses(&new);
    let bare = Duration::ZERO;
    Reload { moved, gone, bare, old_resident_bytes, new_resident_bytes, responses, memfd_bytes }
}

/// The most that the old process and its successor have resident until the reload is over.
fn look_at_memory(server: &Server, old: &Process, is_over: &AtomicBool) -> (u64, u64) {
    let (mut old_bytes, mut new_bytes, mut new) = (0, 0, None);
    while !is_over.load(Ordering::Relaxed) {
        new = new.or_else(|| server.generations().into_iter().find(|pid| *pid != old.pid()).and_then(Process::open));
        old_bytes = old_bytes.max(old.resident_bytes());
        new_bytes = new_bytes.max(new.as_ref().map_or(0, Process::resident_bytes));
        thread::sleep(LOOK);
    }
    (old_bytes, new_bytes.max(new.as_ref().map_or(0, Process::resident_bytes)))
}

/// The files that a process sends responses from, and how much memory those in memory take.
fn files_of_responses(process: &Process) -> (usize, u64) {
    let fds = process.fds();
    let in_memory = |target: &str| target.starts_with("/memfd:response");
    let files = fds.iter().filter(|(_, target)| in_memory(target) || target.ends_with("/pattern"));
    let bytes = |fd: &u32| fs::metadata(format!("/proc/{}/fd/{fd}", process.pid())).map_or(0, |file| file.len());
    let memory = fds.iter().filter(|(_, target)| in_memory(target)).map(|(fd, _)| bytes(fd)).sum();
    (files.count(), memory)
}

/// A process that holds connections.
struct Holder {
    child: Child,
    words: std::cell::RefCell<BufReader<std::process::ChildStdout>>,
}

impl Holder {
    fn start(address: SocketAddr, path: &Path, kind: Kind, count: u32) -> Self {
        let mut command = Command::new(binary::own("idle"));
        let kind = kind.to_possible_value().expect("no kind is hidden");
        command.arg("--hold").arg(address.to_string()).arg(path).arg(kind.get_name());
        command.arg(count.to_string());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this program can be started");
        let words = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        Self { child, words: words.into() }
    }

    fn line(&self) -> String {
        let mut line = String::new();
        self.words.borrow_mut().read_line(&mut line).expect("its output is text");
        line
    }

    /// Waits until it holds all its connections.
    fn wait(&self) {
        assert_eq!(self.line(), "held\n");
    }

    /// Has it ask once more on each, and tell how that went.
    fn finish(mut self) -> Value {
        drop(self.child.stdin.take());
        let report = serde_json::from_str(&self.line()).expect("a report is JSON");
        assert!(self.child.wait().expect("it was started here").success());
        report
    }
}

/// Holds connections until the standard input ends, and reports.
fn hold(words: &[String]) {
    let [address, path, kind, count] = words else { panic!("clap gives four") };
    let address: SocketAddr = address.parse().expect("an address");
    let count: u32 = count.parse().expect("a number");
    let kind = Kind::from_str(kind, false).expect("a kind");
    let bytes = kind.bytes();
    let limits = Limits { connect: DEADLINE, answer: DEADLINE };
    let over = Duration::from_secs(bytes / SLOW_BYTES);
    let path = PathBuf::from(path);
    let load = match kind {
        Kind::Tls => return hold_secured(address, &path, count),
        Kind::Idle => Load::new(address).also(path).sources(8).idle(count),
        Kind::File => Load::new(address).also(path).downloads(count, Download::file("/pattern", bytes, over)),
        Kind::Memory => Load::new(path).downloads(count, Download::bytes(bytes, over)),
    };
    let load = load.limits(limits).at_most(Duration::from_secs(3600)).start();
    let holds = |report: &Report| {
        assert!(report.failed == 0 && report.faults.is_empty(), "{report}");
        let downloads = report.classes.get(&Class::Download).map_or(0, |class| class.begun);
        report.answered + downloads >= u64::from(count)
    };
    while !holds(&load.report()) {
        thread::sleep(Duration::from_millis(20));
    }
    println!("held");
    // Its end is what is waited for.
    let _end = io::stdin().read_line(&mut String::new());
    println!("{}", serde_json::to_string(&load.stop()).expect("a report is plain data"));
}

/// Holds connections on which TLS is spoken, after a request on each, asks once more on each, and reports.
fn hold_secured(address: SocketAddr, certificate: &Path, count: u32) {
    const REQUEST: &[u8] = b"GET /fast HTTP/1.1\r\nhost: localhost\r\nx-id: a\r\n\r\n";
    let config = secured::trusting(certificate, false);
    let connect = |_| Secured::connect(address, &config).expect("it is accepted");
    let mut clients: Vec<Secured> = (0..count).map(connect).collect();
    let mut ask = || clients.iter_mut().filter_map(|client| client.ask(REQUEST).ok()).filter(|s| *s == 200).count();
    assert_eq!(ask(), count as usize);
    println!("held");
    // Its end is what is waited for.
    let _end = io::stdin().read_line(&mut String::new());
    println!("{}", serde_json::json!({ "failed": count as usize - ask() }));
}

/// Sends so many descriptors to another process in batches, of which so many wait for their acknowledgement.
fn bare_loop(count: usize) -> io::Result<Duration> {
    let sockets = (0..count).map(|_| socket(AddressFamily::INET, SocketType::STREAM, None));
    let mut sockets: Vec<OwnedFd> = sockets.collect::<Result<_, _>>()?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let mut receiver = Command::new(binary::own("idle")).arg("--receive").stdin(theirs).spawn()?;
    // It says first that it is there.
    acknowledged(&ours)?;
    let started = Instant::now();
    let mut unacknowledged = 0;
    while !sockets.is_empty() {
        if unacknowledged == UNACKNOWLEDGED {
            acknowledged(&ours)?;
            unacknowledged -= 1;
        }
        let batch = sockets.split_off(sockets.len().saturating_sub(BATCH));
        let fds: Vec<_> = batch.iter().map(|fd| fd.as_fd()).collect();
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)), "the space was made for so many");
        sendmsg(&ours, &[IoSlice::new(b"batch")], &mut ancillary, SendFlags::NOSIGNAL)?;
        unacknowledged += 1;
    }
    for _ in 0..unacknowledged {
        acknowledged(&ours)?;
    }
    let took = started.elapsed();
    drop(ours);
    receiver.wait()?;
    Ok(took)
}

fn acknowledged(socket: &OwnedFd) -> io::Result<()> {
    let (count, _) = rustix::net::recv(socket, &mut [0; 8][..], RecvFlags::empty())?;
    if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// The other side: takes descriptors, and acknowledges each batch.
fn receive() -> io::Result<()> {
    let socket = io::stdin();
    let mut taken = Vec::new();
    loop {
        rustix::net::send(&socket, b"taken", SendFlags::NOSIGNAL)?;
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 8];
        let received = recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        if received.bytes == 0 {
            return Ok(());
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                taken.extend(fds);
            }
        }
    }
}

fn micros<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The least, the median, and the most.
fn spread(mut times: Vec<Duration>) -> [Duration; 3] {
    times.sort_unstable();
    [times[0], times[times.len() / 2], times[times.len() - 1]]
}

impl Row {
    fn spread(&self, of: impl Fn(&Reload) -> Duration) -> [Duration; 3] {
        spread(self.reloads.iter().map(of).collect())
    }

    /// The median of a time, for each connection, in microseconds.
    fn each_us(&self, of: impl Fn(&Reload) -> Duration) -> f64 {
        self.spread(of)[1].as_secs_f64() * 1e6 / f64::from(self.connections)
    }
}

impl Row {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us| format!("{:.1}", millis(Duration::from_micros(us)));
        let [least, median, most] = self.spread(|reload| reload.moved).map(millis);
        let moved = format!("{median:.1} ({least:.1} to {most:.1})");
        let (each, bare) = (self.each_us(|reload| reload.moved), self.each_us(|reload| reload.bare));
        let kind = self.kind.to_possible_value().map_or(String::new(), |kind| kind.get_name().to_owned());
        write!(f, "{kind:<7}{:>11} {moved:>26} {each:>9.2} {bare:>9.2} {:>6.2}", self.connections, each / bare)?;
        let (other, around) = (&self.other, &self.other_around_reloads);
        write!(f, " {:>7} {:>7}", ms(other.p50_us), ms(other.p99_us))?;
        write!(f, " {:>11} {:>11}", ms(around.p99_us), ms(around.max_us))?;
        let mebibytes = |of: fn(&Reload) -> u64| self.reloads.iter().map(of).max().unwrap_or(0).div_ceil(1024 * 1024);
        let old = mebibytes(|reload| reload.old_resident_bytes);
        let new = mebibytes(|reload| reload.new_resident_bytes);
        let memfd = mebibytes(|reload| reload.memfd_bytes);
        let files = self.reloads.iter().map(|reload| reload.responses).min().unwrap_or(0);
        let held = self.held_bytes_each.map(|bytes| format!("{}.{:02}", bytes / 1024, bytes % 1024 * 100 / 1024));
        writeln!(f, " {old:>8} {new:>8} {memfd:>8} {files:>7} {:>9} {:>9}", held[0], held[1])
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "hard limit of open files: {}; medians of {} reloads", self.hard_limit, self.settings.rounds)?;
        write!(f, "{:>18} {:>26} {:>9} {:>9} {:>6}", "", "", "each, us", "bare, us", "ratio")?;
        writeln!(f, "   {:<38}   {:<33} each, KiB", "other clients, ms", "most memory, MiB")?;
        let titles = ["p50", "p99", "p99 around", "max around", "old", "new", "memfds", "files", "held", "moved"];
        write!(f, "{:>18} {:>26} {:>9} {:>9} {:>6}", "connections", "moved in, ms", "", "", "")?;
        write!(f, " {:>7} {:>7} {:>11} {:>11}", titles[0], titles[1], titles[2], titles[3])?;
        write!(f, " {:>8} {:>8} {:>8} {:>7}", titles[4], titles[5], titles[6], titles[7])?;
        writeln!(f, " {:>9} {:>9}", titles[8], titles[9])?;
        self.rows.iter().try_for_each(|row| row.write(f))?;
        for rows in self.rows.chunk_by(|one, other| one.kind == other.kind) {
            if let [first, .., last] = rows {
                let growth = last.each_us(|reload| reload.moved) / first.each_us(|reload| reload.moved);
                let (kind, many, few) = (last.kind, last.connections, first.connections);
                writeln!(f, "{kind:?}: each of {many} takes {growth:.2} times as long as each of {few}")?;
            }
        }
        for (row, fault) in self.rows.iter().flat_map(|row| row.faults.iter().map(move |fault| (row, fault))) {
            writeln!(f, "FAULT: {:?}, {} connections: {fault}", row.kind, row.connections)?;
        }
        Ok(())
    }
}
