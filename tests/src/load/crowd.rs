//! A crowd: clients in the middle of something that lasts, each on one connection, until they are told to come to their
//! end. A connection is cut or goes on rightly: every byte at its offset, ids without a gap, messages counted one by one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use smol::Executor;

use super::{Chat, Class, Download, EventStream, Fault, FaultKind, Limits, Target, pattern};
use crate::{DEADLINE, Reborn};

/// The length of what is downloaded: more than the kernel takes by itself.
pub const CROWD_BYTES: u64 = 6_000_000;

/// How long a download takes that nobody tells to come to its end: longer than any test.
const OVER: Duration = Duration::from_secs(600);

/// The time between two events, and within a message that is sent in halves.
const INTERVAL: Duration = Duration::from_millis(50);

/// How many of each kind there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers {
    /// Downloads of the file `/pattern`, of [`CROWD_BYTES`].
    pub files: usize,
    /// The same in three parts.
    pub parts: usize,
    /// Downloads from the server's memory, of which it has room for 40.
    pub memory: usize,
    /// Event streams.
    pub events: usize,
    /// Chats.
    pub chats: usize,
}

impl Numbers {
    /// So many of each.
    pub fn each(number: usize) -> Self {
        Self { files: number, parts: number, memory: number, events: number, chats: number }
    }

    /// All of them together.
    pub fn sum(self) -> usize {
        self.files + self.parts + self.memory + self.events + self.chats
    }
}

impl Reborn {
    /// Gives the server what a crowd asks for: the demonstration, and `/pattern` among its files.
    pub fn for_crowd(self) -> Self {
        pattern::write_file(&self.folder().join("pattern"), CROWD_BYTES).expect("a file in the test's own folder");
        self.demo().args(["--root", "."])
    }
}

/// What became of one client.
type Outcome = (Class, Result<Option<u64>, Fault>);

/// The clients, in a thread of their own.
#[must_use = "clients are told to come to their end by finish()"]
#[derive(Debug)]
pub struct Crowd {
    hurry: Arc<AtomicBool>,
    numbers: Numbers,
    thread: thread::JoinHandle<Vec<Outcome>>,
}

/// What became of a crowd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrowdReport {
    /// Connections that came to their end, without a byte or a number missing or wrong.
    pub went_on: usize,
    /// Connections that were closed or reset before it.
    pub cut: usize,
    /// The generation that sent the last event of each stream that went on.
    pub generations: Vec<u64>,
}

impl Crowd {
    /// Starts the clients, and returns when each is in the middle of what it does. The server was started with
    /// [`Reborn::for_crowd`].
    #[track_caller]
    pub fn start(target: &Target, numbers: Numbers) -> Self {
        let hurry = Arc::new(AtomicBool::new(false));
        let (begun, begins) = mpsc::channel();
        let client = Client { target: target.clone(), hurry: Arc::clone(&hurry), begun };
        let thread = thread::spawn(move || client.all(numbers));
        for number in 0..numbers.sum() {
            let begun = begins.recv_timeout(DEADLINE);
            assert!(begun.is_ok(), "only {number} of {numbers:?} have begun, or one was cut at once");
        }
        Self { hurry, numbers, thread }
    }

    /// How many connections it has.
    pub fn len(&self) -> usize {
        self.numbers.sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Has each client come to its end: downloads are read to their last byte, streams and chats go on a little. Panics
    /// where one went on wrongly.
    #[track_caller]
    pub fn finish(self) -> CrowdReport {
        self.hurry.store(true, Ordering::Relaxed);
        let outcomes = self.thread.join().expect("the clients only report");
        let mut report = CrowdReport::default();
        for (class, outcome) in outcomes {
            match outcome {
                Ok(generation) => {
                    report.went_on += 1;
                    report.generations.extend(generation);
                }
                Err(Fault { kind: FaultKind::Closed, .. }) => report.cut += 1,
                Err(fault) => panic!("{class}: {fault:?}"),
            }
        }
        report
    }
}

/// What all clients need.
struct Client {
    target: Target,
    hurry: Arc<AtomicBool>,
    /// Is told of each that is in the middle of it.
    begun: mpsc::Sender<()>,
}

impl Client {
    fn all(&self, numbers: Numbers) -> Vec<Outcome> {
        let file = Download::file("/pattern", CROWD_BYTES, OVER);
        let third = CROWD_BYTES / 3;
        let parts = file.clone().ranges([1..third, third + 7..2 * third, 2 * third + 4097..CROWD_BYTES]);
        let memory = Download::bytes(CROWD_BYTES, OVER);
        let of = [(file, numbers.files), (parts, numbers.parts), (memory, numbers.memory)];
        let executor = Executor::new();
        let downloads = of.iter().flat_map(|(download, number)| vec![download; *number]);
        let mut tasks: Vec<_> = downloads.map(|download| executor.spawn(self.download(download))).collect();
        tasks.extend((0..numbers.events).map(|_| executor.spawn(self.events())));
        tasks.extend((0..numbers.chats).map(|_| executor.spawn(self.chat())));
        let all = async {
            let mut outcomes = Vec::new();
            for task in tasks {
                outcomes.push(task.await);
            }
            outcomes
        };
        smol::block_on(executor.run(all))
    }

    fn limits() -> Limits {
        Limits { answer: DEADLINE, ..Limits::default() }
    }

    fn has_begun(&self) {
        // Whoever started the clients may not wait for all of them.
        let _ = self.begun.send(());
    }

    fn is_over(&self) -> bool {
        self.hurry.load(Ordering::Relaxed)
    }

    async fn download(&self, download: &Download) -> Outcome {
        let outcome = async {
            let begun = download.begin(&self.target, Self::limits()).await?;
            self.has_begun();
            begun.hurried_by(&self.hurry).finish().await
        };
        (Class::Download, outcome.await.map(|()| None))
    }

    async fn events(&self) -> Outcome {
        let outcome = async {
            let mut stream = EventStream::open(&self.target, INTERVAL, Self::limits()).await?;
            stream.next().await?;
            self.has_begun();
            while !self.is_over() {
                stream.next().await?;
            }
            // The first one may have been under way when the end was asked for.
            stream.next().await?;
            Ok(Some(stream.next().await?.generation))
        };
        (Class::Events, outcome.await)
    }

    async fn chat(&self) -> Outcome {
        let outcome = async {
            let mut chat = Chat::open(&self.target, Self::limits()).await?;
            chat.say("first").await?;
            self.has_begun();
            while !self.is_over() {
                chat.say_in_halves(&"half ".repeat(1000), INTERVAL).await?;
            }
            chat.say("last").await
        };
        (Class::Chat, outcome.await.map(|()| None))
    }
}
