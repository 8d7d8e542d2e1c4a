//! What a request costs without a clock: instructions (callgrind) and system calls (strace) for a fixed script, held
//! against the figures in `tests/cost.json`.
//!
//! The server runs with one thread. It is stopped while requests are sent on all connections, and goes on when all have
//! arrived: so it finds the same each time, whatever else the machine does. So it is with the first words of handshakes,
//! and then with the last ones, which come with the first request. Two runs of different length are subtracted:
//! what start and stop take is in neither. System calls are those on sockets: accept, receive, send, close. How often the
//! runtime waits and wakes threads depends on time; `just bench syscalls` counts that. Compilers count differently, so
//! figures of another rustc are shown, not judged.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use serde::{Deserialize, Serialize};
use tests::load::Connection;
use tests::secured::{self, Secured};
use tests::{DEADLINE, Process, Reborn, Server, Signal};

/// By how many percent a figure may grow.
const TOLERANCE_PERCENT: f64 = 3.0;

/// The connections on which requests arrive at once. The instructions that the runtime takes for all of them together are
/// then a small part of each one's. There are few enough for a round to be over in much less than a second, also on a busy
/// machine: after that an idle connection gives back what the next request needs again.
const CONNECTIONS: u32 = 100;

/// How often they do in the two runs whose difference counts.
const ROUNDS: [u32; 2] = [2, 12];

/// The head of a request as command-line clients send it.
const SMALL: &str = "GET /fast HTTP/1.1\r\nhost: localhost\r\nx-id: a\r\n\r\n";

/// The head of a request as browsers send it.
const BROWSER: &str = "GET /fast?page=2&sort=date HTTP/1.1\r\n\
    Host: www.example.org\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: max-age=0\r\n\
    sec-ch-ua: \"Chromium\";v=\"130\", \"Not?A_Brand\";v=\"99\"\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: none\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    x-id: a\r\n\r\n";

/// Count what a request costs, and hold it against the stored figures
#[derive(Parser, Debug)]
struct Settings {
    /// The stored figures
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/cost.json"))]
    file: PathBuf,
    /// Store what was counted
    #[arg(long)]
    renew: bool,
}

/// What was counted, and by which compiler the server was built: another one makes other instructions.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Cost {
    rustc: String,
    /// By the script's name.
    scripts: BTreeMap<String, Figures>,
}

/// What one request takes, on average.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Figures {
    instructions: f64,
    syscalls: f64,
    /// The ones among them that returned an error, such as a read for which nothing was there.
    failed_syscalls: f64,
}

impl Figures {
    fn named(&self) -> [(&'static str, f64); 3] {
        [
            ("instructions", self.instructions),
            ("system calls", self.syscalls),
            ("failed system calls", self.failed_syscalls),
        ]
    }
}

/// A way to send requests.
#[derive(Clone, Copy)]
struct Script {
    name: &'static str,
    head: &'static str,
    /// Each request opens a connection of its own.
    reconnects: bool,
    /// It is sent over TLS.
    secured: bool,
}

const SCRIPTS: [Script; 5] = [
    Script { name: "keep-alive, small head", head: SMALL, reconnects: false, secured: false },
    Script { name: "keep-alive, browser's head", head: BROWSER, reconnects: false, secured: false },
    Script { name: "new connection", head: SMALL, reconnects: true, secured: false },
    Script { name: "TLS: keep-alive, small head", head: SMALL, reconnects: false, secured: true },
    Script { name: "TLS: new connection", head: SMALL, reconnects: true, secured: true },
];

fn main() -> ExitCode {
    let settings = Settings::parse();
    let counted = Cost { rustc: rustc(), scripts: SCRIPTS.map(|script| (script.name.into(), count(script))).into() };
    if settings.renew { store(&settings, &counted) } else { judge(&settings, &counted) }
}

fn store(settings: &Settings, counted: &Cost) -> ExitCode {
    let text = serde_json::to_string_pretty(counted).expect("figures are plain data") + "\n";
    if let Err(error) = fs::write(&settings.file, text) {
        eprintln!("cost: cannot write {}: {error}", settings.file.display());
        return ExitCode::FAILURE;
    }
    println!("{counted:#?}\nstored in {}", settings.file.display());
    ExitCode::SUCCESS
}

fn judge(settings: &Settings, counted: &Cost) -> ExitCode {
    let read = || -> io::Result<Cost> { Ok(serde_json::from_slice(&fs::read(&settings.file)?)?) };
    let stored = match read() {
        Ok(stored) => stored,
        Err(error) => {
            eprintln!("cost: cannot read {}: {error}; `just cost --renew` writes it", settings.file.display());
            return ExitCode::FAILURE;
        }
    };
    let slower = compare(&stored, counted);
    if stored.rustc != counted.rustc {
        println!(
            "NOT JUDGED: the stored figures are of {}, these of {}; `just cost --renew` stores these",
            stored.rustc, counted.rustc
        );
        return ExitCode::SUCCESS;
    }
    if slower == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "cost: {slower} figures grew by more than {TOLERANCE_PERCENT} %; where that is meant to be, `just cost --renew` \
         stores the new ones, and the commit says why"
    );
    ExitCode::FAILURE
}

/// Prints the counted figures beside the stored ones, and says how many grew beyond the tolerance.
fn compare(stored: &Cost, counted: &Cost) -> usize {
    println!("{:<28}{:<22}{:>10}{:>10}{:>10}", "a request", "", "stored", "counted", "change");
    let mut slower = 0;
    for (script, figures) in &counted.scripts {
        let before = stored.scripts.get(script).map(Figures::named);
        for (index, (name, now)) in figures.named().into_iter().enumerate() {
            let Some(before) = before.map(|named| named[index].1) else {
                println!("{script:<28}{name:<22}{:>10}{now:>10.2}{:>10}", "-", "new");
                continue;
            };
            let verdict = match change_percent(before, now) {
                change if change > TOLERANCE_PERCENT => {
                    slower += 1;
                    "  GREW"
                }
                change if change < -TOLERANCE_PERCENT => "  less; `just cost --renew` keeps it",
                _ => "",
            };
            let change = change_percent(before, now);
            println!("{script:<28}{name:<22}{before:>10.2}{now:>10.2}{change:>9.2}%{verdict}");
        }
    }
    slower
}

/// Of figures below one, such as the failed system calls, a hundredth counts as a percent: 3 % of nothing is nothing.
fn change_percent(before: f64, now: f64) -> f64 {
    (now - before) / before.max(1.0) * 100.0
}

/// The compiler, as it names itself.
fn rustc() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = std::process::Command::new(rustc).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|error| panic!("rustc --version: {error}"))
}

/// Counts what a tool shows: the instructions, or the system calls and the failed ones.
type Read = fn(&str) -> Option<Vec<f64>>;

const CALLGRIND: (&str, Read) = ("valgrind -q --tool=callgrind --callgrind-out-file=counted", |text| {
    text.lines().find_map(|line| Some(vec![line.strip_prefix("totals: ")?.parse().ok()?]))
});

const STRACE: (&str, Read) = ("strace -f -c -e trace=%network,close -o counted", total_of_strace);

fn count(script: Script) -> Figures {
    let requests = f64::from((ROUNDS[1] - ROUNDS[0]) * CONNECTIONS);
    let [instructions, syscalls] = [CALLGRIND, STRACE].map(|tool| {
        let [short, long] = ROUNDS.map(|rounds| run(script, rounds, tool));
        long.iter().zip(short).map(|(long, short)| (long - short) / requests).collect::<Vec<f64>>()
    });
    Figures { instructions: instructions[0], syscalls: syscalls[0], failed_syscalls: syscalls[1] }
}

/// The calls and the errors in the last line of strace's table; the column of errors is empty where there were none.
fn total_of_strace(text: &str) -> Option<Vec<f64>> {
    let line = text.lines().rfind(|line| line.ends_with(" total"))?;
    let columns: Vec<&str> = line.split_whitespace().collect();
    let calls = columns.get(3)?.parse().ok()?;
    let errors = if columns.len() > 5 { columns[4].parse().ok()? } else { 0.0 };
    Some(vec![calls, errors])
}

/// Runs the script on a server under a tool, and reads what the tool wrote at the server's end.
fn run(script: Script, rounds: u32, (tool, read): (&str, Read)) -> Vec<f64> {
    let prelude = format!("set -- \"$0\" \"$@\"; exec {tool} \"$@\"");
    let reborn = Reborn::new().demo().args(["--threads", "1"]).prelude(&prelude);
    let (server, tls) = if script.secured {
        let (reborn, certificate) = secured::speaking(reborn);
        let server = reborn.start();
        let address = secured::address(&server);
        (server, Some((address, secured::trusting(&certificate, false))))
    } else {
        (reborn.start(), None)
    };
    let process = Process::open(server.pid()).expect("the server is alive");
    let stop = || {
        wait_threads(&server, &process, "S");
        process.signal(Signal::STOP);
        wait_threads(&server, &process, "Tt");
    };
    let connect = || match &tls {
        None => Client::Plain(server.connect().into()),
        Some((address, config)) => Client::Secured(Secured::begin(*address, config).expect("a connection").into()),
    };
    let mut connections: Vec<Client> = Vec::new();
    for round in 0..rounds {
        stop();
        if script.reconnects {
            connections.clear();
        }
        connections.resize_with(CONNECTIONS as usize, connect);
        if script.secured && (round == 0 || script.reconnects) {
            process.signal(Signal::CONT);
            connections.iter().for_each(Client::wait_bytes);
            stop();
        }
        for connection in &mut connections {
            connection.send(script.head);
        }
        process.signal(Signal::CONT);
        assert!(connections.iter_mut().all(|connection| connection.status() == 200));
    }
    wait_threads(&server, &process, "S");
    drop(connections);
    server.stop().assert_success();
    let path = server.folder().join("counted");
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}\n{}", path.display(), server.log()));
    read(&text).unwrap_or_else(|| panic!("{} is not what {tool} writes", path.display()))
}

/// A client's connection.
enum Client {
    Plain(Box<Connection>),
    Secured(Box<Secured>),
}

impl Client {
    fn send(&mut self, head: &str) {
        match self {
            Client::Plain(connection) => {
                smol::block_on(connection.send(head.as_bytes())).expect("the kernel takes it");
            }
            Client::Secured(connection) => connection.send(head.as_bytes()).expect("the kernel takes it"),
        }
    }

    fn wait_bytes(&self) {
        if let Client::Secured(connection) = self {
            connection.wait_bytes().expect("the server's part of the handshake");
        }
    }

    fn status(&mut self) -> u16 {
        match self {
            Client::Plain(connection) => smol::block_on(connection.answer()).expect("an answer").status,
            Client::Secured(connection) => connection.status().expect("an answer"),
        }
    }
}

/// Waits until every thread of the server is in one of these states: S for sleeping, T and t for stopped.
fn wait_threads(server: &Server, process: &Process, states: &str) {
    let is_there = |path: PathBuf| {
        let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with(|state| states.contains(state)))
    };
    let end = Instant::now() + DEADLINE;
    loop {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.pid())).into_iter().flatten().flatten();
        if tasks.map(|task| task.path()).all(is_there) {
            return;
        }
        assert!(Instant::now() < end, "the server's threads do not all come to {states:?}\n{}", server.state());
        thread::sleep(Duration::from_micros(100));
    }
}
