//! What it costs to move idle connections: servers that hold many of them are reloaded while other clients ask on, and
//! beside each reload the same number of descriptors goes through a bare loop of `SCM_RIGHTS` between two processes. It
//! prints a table for people and writes JSON for programs; it fails if a connection was closed or a request was lost.
//!
//! The connections are held by processes of their own (this program again), half of them over TCP from several
//! addresses of loopback, half over a Unix socket.

use std::{
    fmt,
    io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socket, socketpair,
};
use serde::{Serialize, Serializer};
use serde_json::Value;
use tests::{
    DEADLINE, Process, Reborn, Server, binary,
    load::{Latency, Limits, Load, Report, raise_fd_limit},
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

/// Move idle connections from process to process, and measure what it costs
#[derive(Parser, Debug, Serialize)]
struct Settings {
    /// Idle connections: a number, or max for as many as the hard limit of open files allows; repeat it for more
    #[arg(long, value_name = "N", default_values = ["1000", "10000", "max"])]
    count: Vec<String>,
    /// Reloads with each of these numbers
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
    #[arg(long, hide = true, num_args = 3, value_names = ["ADDR", "PATH", "N"])]
    #[serde(skip)]
    hold: Option<Vec<String>>,
    /// Receive descriptors from the standard input (the program itself uses it)
    #[arg(long, hide = true)]
    #[serde(skip)]
    receive: bool,
}

/// One number of idle connections.
#[derive(Debug, Serialize)]
struct Row {
    connections: u32,
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
    let rows = settings.count.iter().map(count).map(|count| measure(count, &settings)).collect();
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

fn measure(count: u32, settings: &Settings) -> Row {
    let reborn = Reborn::new().demo().probation_ms(0);
    let path = reborn.folder().join("run/http");
    let local = format!("local=unix:{}", path.display());
    let server = reborn.listen(&local).args(["--connections", "1000000", "--idle-timeout", "1h"]).start();
    let mut left = count;
    let holders: Vec<Holder> = std::iter::from_fn(|| {
        let part = left.min(HELD_EACH);
        left -= part;
        (part > 0).then(|| Holder::start(server.address(), &path, part))
    })
    .collect();
    holders.iter().for_each(Holder::wait);
    let load = server.load().paced(16, settings.rate).start();
    thread::sleep(CALM);
    let mut faults = Vec::new();
    let mut reloads = Vec::new();
    for _ in 0..settings.rounds {
        let bare = bare_loop(count as usize).expect("descriptors can be sent");
        load.mark_reload();
        let (moved, gone) = reload(&server);
        reloads.push(Reload { moved, gone, bare });
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
        let closed = held["closed"].as_object().map_or(0, |kinds| kinds.values().filter_map(Value::as_u64).sum());
        faults.extend(described("a holder", held["failed"].as_u64().unwrap_or(u64::MAX), closed));
    }
    let Report { latency: other, latency_near_reloads: other_around_reloads, .. } = report;
    Row { connections: count, reloads, other, other_around_reloads, faults }
}

fn described(who: &str, failed: u64, closed: u64) -> Option<String> {
    (failed + closed > 0).then(|| format!("{who} lost {failed} requests and {closed} connections"))
}

/// One reload: the old process's own account of its drain, and how long it took until it had ended.
fn reload(server: &Server) -> (Duration, Duration) {
    let old = Process::open(server.pid()).expect("the newest process is alive");
    let started = Instant::now();
    server.reload().assert_success();
    assert!(old.wait(DEADLINE), "the old process stays\n{}", server.state());
    let gone = started.elapsed();
    let line = format!("[{}] generation", old.pid());
    let drained = |log: &str| {
        let end = log.lines().find(|words| words.contains(&line) && words.contains("(drained for "))?;
        let (_, time) = end.split_once("(drained for ")?;
        time.split_once(" ms)")?.0.parse::<f64>().ok()
    };
    let moved = drained(&server.log()).unwrap_or_else(|| panic!("no account of the drain\n{}", server.state()));
    (Duration::from_secs_f64(moved / 1000.0), gone)
}

/// A process that holds idle connections.
struct Holder {
    child: Child,
    words: std::cell::RefCell<BufReader<std::process::ChildStdout>>,
}

impl Holder {
    fn start(address: SocketAddr, path: &std::path::Path, count: u32) -> Self {
        let mut command = Command::new(binary::own("idle"));
        command.arg("--hold").arg(address.to_string()).arg(path).arg(count.to_string());
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
    let [address, path, count] = words else { panic!("clap gives three") };
    let address: SocketAddr = address.parse().expect("an address");
    let count = count.parse().expect("a number");
    let limits = Limits { connect: DEADLINE, answer: DEADLINE };
    let load = Load::new(address).also(PathBuf::from(path)).sources(8).limits(limits).idle(count);
    let load = load.at_most(Duration::from_secs(3600)).start();
    while load.report().answered < u64::from(count) {
        assert_eq!(load.report().failed, 0, "{}", load.report());
        thread::sleep(Duration::from_millis(20));
    }
    println!("held");
    // Its end is what is waited for.
    let _end = io::stdin().read_line(&mut String::new());
    println!("{}", serde_json::to_string(&load.stop()).expect("a report is plain data"));
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

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us| format!("{:.1}", millis(Duration::from_micros(us)));
        writeln!(f, "hard limit of open files: {}; medians of {} reloads", self.hard_limit, self.settings.rounds)?;
        writeln!(f, "{:>11} {:>26} {:>9} {:>9} {:>6}   other clients, ms", "", "", "each, us", "bare, us", "ratio")?;
        let titles = ["p50", "p99", "p99 around", "max around"];
        write!(f, "{:>11} {:>26} {:>9} {:>9} {:>6}", "connections", "moved in, ms", "", "", "")?;
        writeln!(f, " {:>7} {:>7} {:>11} {:>11}", titles[0], titles[1], titles[2], titles[3])?;
        for row in &self.rows {
            let [least, median, most] = row.spread(|reload| reload.moved).map(millis);
            let moved = format!("{median:.1} ({least:.1} to {most:.1})");
            let (each, bare) = (row.each_us(|reload| reload.moved), row.each_us(|reload| reload.bare));
            write!(f, "{:>11} {moved:>26} {each:>9.2} {bare:>9.2} {:>6.2}", row.connections, each / bare)?;
            let (other, around) = (&row.other, &row.other_around_reloads);
            write!(f, " {:>7} {:>7}", ms(other.p50_us), ms(other.p99_us))?;
            writeln!(f, " {:>11} {:>11}", ms(around.p99_us), ms(around.max_us))?;
        }
        if let [first, .., last] = &self.rows[..] {
            let growth = last.each_us(|reload| reload.moved) / first.each_us(|reload| reload.moved);
            let (many, few) = (last.connections, first.connections);
            writeln!(f, "each of {many} takes {growth:.2} times as long as each of {few}")?;
        }
        for (row, fault) in self.rows.iter().flat_map(|row| row.faults.iter().map(move |fault| (row, fault))) {
            writeln!(f, "FAULT: {} connections: {fault}", row.connections)?;
        }
        Ok(())
    }
}
