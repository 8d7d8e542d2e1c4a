//! Nothing is cut: a reload a second, and a download, a download in parts, one from memory, an event stream, a chat, an
//! idle connection and an upload go through all of them as if nothing happened. Each old process is gone at once, but for
//! the one whose upload cannot be handed over.
//!
//! `REBORN_TEST_CUT=full` is the size of the promise: 500 MB over 30 s.

#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use smol::{Timer, block_on};
use tests::{
    DEADLINE, Ended, Process, Reborn, Server,
    load::{Chat, Connection, Download, EventStream, Fault, Limits, Look, Request, Target, pattern},
};

/// How long after its commit an old process may live that has nothing but what can be handed over.
const GONE_MAX: Duration = Duration::from_secs(3);

/// The time from one reload's beginning to the next one's.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// How much there is to send, and how long it takes.
struct Size {
    file: u64,
    memory: u64,
    over: Duration,
    reloads_min: usize,
}

impl Size {
    fn of_this_run() -> Self {
        if std::env::var_os("REBORN_TEST_CUT").is_some_and(|size| size == "full") {
            Self { file: 500_000_000, memory: 100_000_000, over: Duration::from_secs(30), reloads_min: 25 }
        } else {
            Self { file: 60_000_000, memory: 30_000_000, over: Duration::from_secs(12), reloads_min: 8 }
        }
    }
}

/// A client in a thread of its own.
type Client = (&'static str, thread::JoinHandle<Result<(), Fault>>);

fn limits() -> Limits {
    Limits { answer: Duration::from_secs(20), ..Limits::default() }
}

/// The three downloads.
fn downloads(server: &Server, size: &Size) -> Vec<Client> {
    let tenth = size.file / 10;
    let file = Download::file("/pattern", size.file, size.over);
    let ranges = file.clone().ranges([3..4 * tenth, 4 * tenth + 4097..7 * tenth, 8 * tenth + 1..size.file]);
    let memory = Download::bytes(size.memory, size.over);
    let start = |(name, download): (&'static str, Download)| {
        let target = Target::Tcp(server.address());
        (name, thread::spawn(move || block_on(download.run(&target, limits()))))
    };
    [("a file", file), ("parts of a file", ranges), ("from memory", memory)].map(start).into()
}

/// Runs as long as the flag says, and then takes one more event, which is the newest generation's.
fn event_stream(server: &Server, is_over: &Arc<AtomicBool>) -> thread::JoinHandle<Result<u64, Fault>> {
    let (target, is_over) = (Target::Tcp(server.address()), Arc::clone(is_over));
    thread::spawn(move || {
        block_on(async {
            let mut stream = EventStream::open(&target, Duration::from_millis(100), limits()).await?;
            while !is_over.load(Ordering::Relaxed) {
                stream.next().await?;
            }
            // The one behind it was not yet under way when the flag was set.
            stream.next().await?;
            Ok(stream.next().await?.generation)
        })
    })
}

fn chat(server: &Server, is_over: &Arc<AtomicBool>) -> thread::JoinHandle<Result<(), Fault>> {
    let (target, is_over) = (Target::Tcp(server.address()), Arc::clone(is_over));
    thread::spawn(move || {
        block_on(async {
            let mut chat = Chat::open(&target, limits()).await?;
            while !is_over.load(Ordering::Relaxed) {
                chat.say("whole").await?;
                // Long enough that reloads come within it.
                chat.say_in_halves(&"half ".repeat(1000), Duration::from_millis(300)).await?;
            }
            Ok(())
        })
    })
}

/// Sends a body at a pace, and wants it back; the generation that answered. It is under way when this returns.
fn upload(server: &Server, over: Duration) -> thread::JoinHandle<Option<u64>> {
    const PIECES: u32 = 100;
    // It comes back while it is sent, and has to fit into the socket's buffers: nobody reads it before the end.
    let body: Vec<u8> = (0..100_000_u32).flat_map(|number| number.to_le_bytes().into_iter().take(1)).collect();
    let limits = Limits { answer: DEADLINE, ..Limits::default() };
    let mut connection = block_on(Connection::open(&Target::Tcp(server.address()), limits)).unwrap();
    let (first, rest) = body.split_at(1000);
    let head = format!("POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    block_on(connection.send(&[head.as_bytes(), first].concat())).unwrap();
    assert!(matches!(block_on(connection.changed()), Look::Bytes(_)));
    let rest = rest.to_vec();
    thread::spawn(move || {
        block_on(async {
            for piece in rest.chunks(rest.len() / PIECES as usize) {
                Timer::after(over / PIECES).await;
                connection.send(piece).await.unwrap();
            }
            let answer = connection.answer().await.unwrap();
            assert!(answer.body == body, "the upload came back changed");
            answer.generation()
        })
    })
}

fn idle(server: &Server) -> Connection {
    let mut connection = server.connect();
    block_on(connection.exchange(&Request::fast("idle"))).unwrap();
    connection
}

/// A reload, and when the process that it replaced was gone.
struct Replaced {
    pid: u32,
    committed: Instant,
    gone: thread::JoinHandle<Option<Instant>>,
}

fn reload(server: &Server, wait: Duration) -> Replaced {
    let pid = server.pid();
    let process = Process::open(pid).unwrap();
    let gone = thread::spawn(move || process.wait(wait).then(Instant::now));
    server.reload_ok();
    Replaced { pid, committed: Instant::now(), gone }
}

#[test]
fn whatever_a_connection_is_in_the_middle_of_a_reload_a_second_does_not_cut_it() {
    let size = Size::of_this_run();
    let reborn = Reborn::new().demo().probation_ms(0).args(["--root", ".", "--drain-timeout", "5m", "--log", "debug"]);
    pattern::write_file(&reborn.folder().join("pattern"), size.file).unwrap();
    let server = reborn.start();
    let first = server.pid();
    let is_over = Arc::new(AtomicBool::new(false));
    let upload = upload(&server, size.over);
    // The others begin in another process, which nothing holds.
    let mut replaced = vec![reload(&server, size.over * 4)];
    let downloads = downloads(&server, &size);
    let (events, chat, mut idle) = (event_stream(&server, &is_over), chat(&server, &is_over), idle(&server));
    server.wait_until("the others are there", |server| server.status()["connections"] == 6);

    while !(upload.is_finished() && downloads.iter().all(|(_, client)| client.is_finished())) {
        let next = Instant::now() + RELOAD_INTERVAL;
        replaced.push(reload(&server, size.over * 4));
        assert_eq!(idle.look(), Look::Open, "the idle connection");
        assert!(replaced.len() < size.reloads_min * 8, "the clients do not come to their end\n{}", server.state());
        // The rate of the reloads, not a wait.
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    is_over.store(true, Ordering::Relaxed);

    for (name, client) in downloads {
        assert_eq!(client.join().unwrap(), Ok(()), "{name}");
    }
    let newest = server.generation();
    assert_eq!(events.join().unwrap(), Ok(newest), "the event stream");
    assert_eq!(chat.join().unwrap(), Ok(()), "the chat");
    assert_eq!(block_on(idle.exchange(&Request::fast("idle.again"))).unwrap().generation(), Some(newest));
    assert_eq!(upload.join().unwrap(), Some(1), "an upload stays where it began");
    assert!(replaced.len() >= size.reloads_min, "{} reloads", replaced.len());
    for Replaced { pid, committed, gone } in replaced {
        let lived = gone.join().unwrap().map(|gone| gone.saturating_duration_since(committed));
        if pid == first {
            assert!(lived.is_some_and(|lived| lived >= size.over / 2), "the upload's process lived for {lived:?}");
        } else {
            assert!(lived.is_some_and(|lived| lived < GONE_MAX), "pid {pid} lived for {lived:?}\n{}", server.state());
        }
        assert_eq!(server.wait_end(pid), Ended::Code(0));
    }
    server.assert_no_error();
}
