//! Draws a reload: a real server, real clients, and what each of them saw, as an SVG for README.
//!
//! Each client keeps one connection from the first instant to the last; a bar on its line is a request, coloured by the
//! generation that answered it. It measures and draws what happened, and fails if a connection was closed.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use serde_json::Value;
use tests::{DEADLINE, Process, Reborn, Server, load::Request};

/// How long the picture is.
const LENGTH: Duration = Duration::from_millis(220);
/// When the reload begins.
const TRIGGER: Duration = Duration::from_millis(30);
/// The server's `--probation`: short, so that the whole of a reload is in the picture.
const PROBATION_MS: u64 = 60;

/// Colours of the first and second generation, of a connection, and of text.
const GENERATIONS: [&str; 2] = ["#5b8def", "#f2994a"];
const CONNECTION: &str = "#c9d1d9";
const TEXT: &str = "#30363d";

/// Widths and heights in the picture, in pixels.
const LEFT: f64 = 150.0;
const WIDTH: f64 = 900.0;
const LANE: f64 = 24.0;
const TOP: f64 = 70.0;

/// Draw a timeline of a reload from a real run
#[derive(Parser)]
struct Settings {
    /// Write the picture here
    file: PathBuf,
}

/// What a client does on its connection.
#[derive(Clone, Copy)]
struct Client {
    name: &'static str,
    /// From the end of one request to the beginning of the next.
    pause: Duration,
    /// How long the server takes for each.
    work: Duration,
}

const fn client(name: &'static str, pause_ms: u64, work_ms: u64) -> Client {
    Client { name, pause: Duration::from_millis(pause_ms), work: Duration::from_millis(work_ms) }
}

const CLIENTS: [Client; 8] = [
    client("busy client", 4, 0),
    client("busy client", 6, 0),
    client("busy client", 9, 0),
    client("slow requests", 12, 25),
    client("slow requests", 7, 60),
    client("now and then", 45, 0),
    client("now and then", 70, 0),
    client("idle until the end", 205, 0),
];

/// One answered request.
struct Asked {
    from: Duration,
    to: Duration,
    generation: u64,
}

/// The reload, as times since the beginning.
struct Reload {
    triggered: Duration,
    started: Duration,
    ready: Duration,
    committed: Duration,
    gone: Duration,
}

fn main() {
    let settings = Settings::parse();
    let server = Reborn::new().demo().probation_ms(PROBATION_MS).start();
    let start = Instant::now();
    let (reload, lanes) = thread::scope(|scope| {
        let server = &server;
        let clients = CLIENTS.map(|client| scope.spawn(move || (client, ask(server, client, start))));
        let reload = reload(server, start);
        (reload, clients.map(|client| client.join().expect("a client's checks hold")))
    });
    fs::write(&settings.file, draw(&reload, &lanes)).expect("the picture can be written");
    println!("{}: {} requests, no connection closed", settings.file.display(), lanes.iter().flat_map(|l| &l.1).count());
}

/// Asks on one connection until the picture's end.
fn ask(server: &Server, client: Client, start: Instant) -> Vec<Asked> {
    let mut connection = server.connect();
    let mut asked = Vec::new();
    // The first request comes at once, so that every connection has been served by the first generation.
    while start.elapsed() + client.work < LENGTH {
        let id = format!("{}", asked.len());
        let request = if client.work.is_zero() { Request::fast(id) } else { Request::slow(id, client.work) };
        let from = start.elapsed();
        let answer = smol::block_on(connection.exchange(&request)).expect("no request is lost");
        assert!(!answer.announces_close(), "no close is announced");
        let generation = answer.generation().expect("the demonstration names it");
        asked.push(Asked { from, to: start.elapsed(), generation });
        // The pace of a client, not a wait for anything.
        thread::sleep(client.pause);
    }
    asked
}

/// Reloads the server, and tells when what happened.
fn reload(server: &Server, start: Instant) -> Reload {
    thread::sleep(TRIGGER.saturating_sub(start.elapsed()));
    let old = Process::open(server.first_pid()).expect("it serves");
    let command = server.reload();
    let committed = start.elapsed();
    command.assert_success();
    assert!(old.wait(DEADLINE), "the old process ends");
    let gone = start.elapsed();
    let stages = server.status()["last_reload"]["stages"].take();
    let us = |name: &str| stages.get(name).and_then(Value::as_u64).map(Duration::from_micros).expect("a stage's time");
    let triggered = committed.saturating_sub(us("total_us"));
    let started = triggered + us("spawn_us");
    Reload { triggered, started, ready: started + us("ready_us"), committed, gone }
}

fn draw(reload: &Reload, lanes: &[(Client, Vec<Asked>)]) -> String {
    let height = lane(lanes.len() + 3) + 40.0;
    let right = LEFT + WIDTH;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"{TEXT}\">\n<title>One reload: which process answered which request, on connections that \
         stay open</title>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#ffffff\"/>\n",
        right + 20.0
    );
    // Each may lie close to the one before, so their words stand in two rows in turn.
    let moments = [
        (reload.triggered, "reload", 36.0),
        (reload.ready, "ready", 20.0),
        (reload.committed, "committed", 36.0),
        (reload.gone, "old process gone", 20.0),
    ];
    for (at, name, y) in moments {
        let x = x(at);
        line(&mut svg, (x, y), (x, height - 40.0), "#8b949e", 1.0);
        text(
            &mut svg,
            (x + 4.0, y),
            "start",
            &format!("{name}, {:.0} ms", millis(at.saturating_sub(reload.triggered))),
        );
    }
    let processes = [(Duration::ZERO, reload.gone), (reload.started, LENGTH)];
    for (index, (from, to)) in processes.into_iter().enumerate() {
        let y = lane(index);
        text(&mut svg, (LEFT - 10.0, y + 4.0), "end", &format!("generation {}", index + 1));
        bar(&mut svg, (x(from), x(to)), y, 16.0, GENERATIONS[index]);
    }
    for (index, (client, asked)) in lanes.iter().enumerate() {
        let y = lane(index + 3);
        text(&mut svg, (LEFT - 10.0, y + 4.0), "end", client.name);
        line(&mut svg, (LEFT, y), (right, y), CONNECTION, 3.0);
        for Asked { from, to, generation } in asked {
            let colour = GENERATIONS[usize::from(*generation > 1)];
            bar(&mut svg, (x(*from), x(*to)), y, 12.0, colour);
        }
    }
    text(
        &mut svg,
        (LEFT, height - 16.0),
        "start",
        "Each grey line is one client connection, never closed; each bar a request, in the colour of the process that answered it.",
    );
    svg.push_str("</svg>\n");
    svg
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A moment's place from left to right.
fn x(at: Duration) -> f64 {
    LEFT + WIDTH * (at.as_secs_f64() / LENGTH.as_secs_f64()).min(1.0)
}

/// The middle of a lane.
#[expect(clippy::cast_precision_loss, reason = "a picture has a dozen of them")]
fn lane(index: usize) -> f64 {
    TOP + LANE * index as f64
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>")
        .expect("a String takes it");
}

fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str, width: f64) {
    writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
    )
    .expect("a String takes it");
}

/// A bar around the middle of a lane, wide enough to be seen.
fn bar(svg: &mut String, (from, to): (f64, f64), middle: f64, height: f64, colour: &str) {
    let (y, width) = (middle - height / 2.0, (to - from).max(2.0));
    writeln!(
        svg,
        "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" rx=\"2\" fill=\"{colour}\"/>"
    )
    .expect("a String takes it");
}
