//! What two teams of threads share for a request, without a clock: the cache lines that one of them writes and the other
//! one touches, counted from a trace of every access to memory (valgrind's lackey).
//!
//! The server runs with two teams, with metrics and a bound on requests. One connection is dealt to each team, and both ask
//! in turn. A line that is touched by both teams in at least every other request, and written by one, is shared: there should
//! be none. Under the tracer a request takes so long that what happens once a second or once in a while does so in each
//! request: timers, which are known by the names of their modules and only shown, and what is not asked for here, the
//! writes of an access log and the threads that wait for disks. What the kernel shares is not seen.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use smol::block_on;
use tests::{Reborn, Server, load::Connection};

/// How often each connection asks while accesses are counted, and before.
const REQUESTS: u64 = 60;
const WARMING: u64 = 10;

/// What was asked for is over when hardly anything was added to the trace for so long: a request is some fifty thousand lines,
/// and timers are a few.
const SILENCE: Duration = Duration::from_secs(1);
const SILENT_LINES_MAX: u64 = 20_000;

/// A cache line is so many bytes, as a power of two.
const LINE_BITS: u32 = 6;

/// What is shown of the places that write a line.
const PLACES_SHOWN: usize = 3;

/// Whose writes come by the second and not by the request.
const BY_TIME: [&str; 3] = ["http::timer", "async_io::", "concurrent_queue::"];

const HEAD: &str = "GET /fast HTTP/1.1\r\nhost: localhost\r\nx-id: a\r\n\r\n";

/// What is known while the trace is read.
#[derive(Default)]
struct Watched {
    /// Whether accesses are counted.
    counts: AtomicBool,
    lines: AtomicU64,
}

/// What was found in the trace. Threads have valgrind's numbers.
#[derive(Default)]
struct Trace {
    /// The epoll that each thread has waited in last: those of a team have one.
    epolls: BTreeMap<u32, String>,
    /// How often each line was touched, by thread.
    touched: HashMap<u64, BTreeMap<u32, u64>>,
    /// Which instructions have written each line, and how often.
    written: HashMap<u64, BTreeMap<u64, u64>>,
}

/// A line that is shared.
struct Shared {
    line: u64,
    /// How often the team that touched it less did.
    touched: u64,
    written: u64,
}

fn main() -> ExitCode {
    let (trace, base, server) = traced();
    let shared = trace.shared();
    println!("{} requests, of two teams in turn: cache lines that one writes and the other touches", 2 * REQUESTS);
    let mut found = 0;
    for Shared { line, touched, written } in &shared {
        let places = trace.places(*line, base, server.program());
        let is_by_time = places.iter().all(|place| BY_TIME.iter().any(|name| place.contains(name)));
        let is_shared = *touched >= REQUESTS / 2 && *written >= REQUESTS && !is_by_time;
        found += u32::from(is_shared);
        let kind = if is_shared { "SHARED" } else { "seldom" };
        let at = line << LINE_BITS;
        println!("{kind} {at:#x}: touched {touched} times by the team that did less, written {written} times, by");
        for place in places {
            println!("    {place}");
        }
    }
    println!("{found} lines are shared for each request");
    if found > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs the server under the tracer. What was traced, where the program was loaded, and the server, which has ended.
fn traced() -> (Trace, u64, Server) {
    let reborn = Reborn::new().demo();
    let (folder, address) = (reborn.folder().to_owned(), reborn.address());
    let pipe = folder.join("trace");
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()), "mkfifo (coreutils)");
    let watched = Arc::<Watched>::default();
    let seen = Arc::clone(&watched);
    let reading: JoinHandle<Trace> =
        thread::spawn(move || Trace::read(BufReader::with_capacity(1 << 20, File::open(pipe).expect("a pipe")), &seen));
    let metrics = SocketAddr::new(address.ip(), address.port() + 5000).to_string();
    let tool = "valgrind --tool=lackey --trace-mem=yes --basic-counts=no --trace-sched=yes --trace-syscalls=yes";
    let server = reborn
        .args(["--threads", "8", "--requests", "1000", "--metrics", &metrics])
        .prelude(&format!("set -- \"$0\" \"$@\"; exec {tool} --log-file=trace \"$@\""))
        .start();
    let mut connections = [server.connect(), server.connect()];
    ask(&mut connections, WARMING);
    settle(&watched);
    watched.counts.store(true, Ordering::SeqCst);
    ask(&mut connections, REQUESTS);
    settle(&watched);
    watched.counts.store(false, Ordering::SeqCst);
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.pid())).unwrap_or_default();
    let program = server.program().to_string_lossy().into_owned();
    let first = maps.lines().find(|line| line.ends_with(&program)).and_then(|line| line.split('-').next());
    let base = first.and_then(|first| u64::from_str_radix(first, 16).ok()).unwrap_or(0);
    server.stop().assert_success();
    (reading.join().expect("the trace is read"), base, server)
}

/// Has each connection ask so often, in turn.
fn ask(connections: &mut [Connection], times: u64) {
    for _ in 0..times {
        for connection in &mut *connections {
            block_on(connection.send(HEAD.as_bytes())).expect("the kernel takes it");
            assert_eq!(block_on(connection.answer()).map(|answer| answer.status), Ok(200));
        }
    }
}

/// Waits until all that was done has been read of the trace.
fn settle(watched: &Watched) {
    let mut before = 0;
    loop {
        thread::sleep(SILENCE);
        let now = watched.lines.load(Ordering::SeqCst);
        if now - before < SILENT_LINES_MAX {
            return;
        }
        before = now;
    }
}

impl Trace {
    /// Reads the whole trace: ` L ADDR,SIZE` and ` S` and ` M` for what an instruction (`I`) loads, stores and modifies, and
    /// lines that say which thread goes on, and which system calls it makes.
    fn read(mut trace: impl BufRead, watched: &Watched) -> Trace {
        let (mut found, mut line, mut thread, mut instruction) = (Trace::default(), Vec::new(), 0, 0);
        while trace.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            watched.lines.fetch_add(1, Ordering::Relaxed);
            match line.get(..2).unwrap_or_default() {
                b"I " => instruction = address(&line),
                b" L" | b" S" | b" M" if watched.counts.load(Ordering::Relaxed) => {
                    let at = address(&line) >> LINE_BITS;
                    *found.touched.entry(at).or_default().entry(thread).or_default() += 1;
                    if line[1] != b'L' {
                        *found.written.entry(at).or_default().entry(instruction).or_default() += 1;
                    }
                }
                b"--" | b"SY" => {
                    let text = String::from_utf8_lossy(&line);
                    thread = thread_of(&text).unwrap_or(thread);
                    if let Some(epoll) = waits_in(&text) {
                        found.epolls.insert(thread, epoll);
                    }
                }
                _ => {}
            }
            line.clear();
        }
        found
    }

    /// The threads of each of the two teams: those who wait in one epoll, and have touched most.
    fn teams(&self) -> [BTreeSet<u32>; 2] {
        let mut epolls: BTreeMap<&str, (u64, BTreeSet<u32>)> = BTreeMap::new();
        for (thread, epoll) in &self.epolls {
            let touched = self.touched.values().filter_map(|threads| threads.get(thread)).sum::<u64>();
            let (all, threads) = epolls.entry(epoll).or_default();
            *all += touched;
            threads.insert(*thread);
        }
        let mut epolls: Vec<_> = epolls.into_values().collect();
        epolls.sort_by_key(|(touched, _)| std::cmp::Reverse(*touched));
        assert!(epolls.len() >= 2, "no two teams in the trace: valgrind writes it in another way");
        let mut teams = epolls.into_iter().map(|(_, threads)| threads);
        [teams.next().unwrap_or_default(), teams.next().unwrap_or_default()]
    }

    /// The lines that both teams have touched, and one of them has written, not just now and then.
    fn shared(&self) -> Vec<Shared> {
        let teams = self.teams();
        let mut found = Vec::new();
        for (line, threads) in &self.touched {
            let of = |team: &BTreeSet<u32>| {
                threads.iter().filter(|(thread, _)| team.contains(thread)).map(|(_, count)| count).sum::<u64>()
            };
            let touched = of(&teams[0]).min(of(&teams[1]));
            let written = self.written.get(line).map_or(0, |places| places.values().sum());
            if touched.min(written) >= REQUESTS / 10 {
                found.push(Shared { line: *line, touched, written });
            }
        }
        found.sort_by_key(|shared| std::cmp::Reverse(shared.touched));
        found
    }

    /// Where a line is written most.
    fn places(&self, line: u64, base: u64, program: &Path) -> Vec<String> {
        let mut places: Vec<_> = self.written.get(&line).into_iter().flatten().collect();
        places.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        places.truncate(PLACES_SHOWN);
        let mut command = Command::new("addr2line");
        command.arg("-Cfspe").arg(program);
        command.args(places.iter().map(|(address, _)| format!("{:#x}", address.saturating_sub(base))));
        let told = command.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let told = told.unwrap_or_default();
        let names = told.lines().chain(std::iter::repeat("addr2line (binutils) is missing"));
        places.iter().zip(names).map(|((_, count), name)| format!("{count} times: {name}")).collect()
    }
}

/// The thread of which a line tells: `SCHED[THREAD]` or `SYSCALL[PID,THREAD]`. Both may stand in one line.
fn thread_of(text: &str) -> Option<u32> {
    let scheduled = text.split_once("SCHED[").map(|(_, rest)| rest);
    let called = || text.split_once("SYSCALL[")?.1.split_once(',').map(|(_, rest)| rest);
    scheduled.or_else(called)?.split_once(']')?.0.parse().ok()
}

/// The epoll in which a thread begins to wait: the first argument of the call.
fn waits_in(text: &str) -> Option<String> {
    let (_, call) = text.split_once(" sys_epoll_")?;
    let (name, arguments) = call.split_once('(')?;
    let epoll = arguments.trim_start().split(|character: char| !character.is_ascii_digit()).next()?;
    (name.contains("wait")).then(|| epoll.to_owned())
}

/// The address in a line of the trace.
fn address(line: &[u8]) -> u64 {
    let digits = line.get(3..).unwrap_or_default().split(|byte| *byte == b',').next().unwrap_or_default();
    std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}
