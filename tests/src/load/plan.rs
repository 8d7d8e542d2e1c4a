//! A load from its description to its report: [`Load`] says who asks and how, [`Running`] is the thread that drives
//! the clients. Every load ends by itself, by its time or by the number of its requests.

use std::{
    net::{IpAddr, Ipv4Addr},
    process,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smol::{Executor, Timer, channel, future, lock::Semaphore};

use super::{
    Answer, Download, Kind, Limits, PidReport, Report, Target, Upload,
    client::{Client, Rhythm},
    lasting::{Errand, Lasting},
    tally::Tally,
};

/// How long a load lasts that nobody stops.
const TIME_DEFAULT: Duration = Duration::from_secs(300);

/// How many connections are being opened at once: a larger burst would overflow the server's backlog, and show that.
const OPENING_MAX: usize = 64;

/// How long a test waits for something that its load is to see.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How often it looks. The clients count under the same lock, which a busy loop would keep from them.
const WAIT_STEP: Duration = Duration::from_millis(5);

/// The number of the next load of this process, so that no two requests of a test run share an id.
static NEXT_LOAD: AtomicU64 = AtomicU64::new(1);

/// Raises this process's own limit of open files as far as it may, for loads of thousands of connections.
///
/// Processes started after it inherit it: start the server first.
pub fn raise_fd_limit() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// A group of like clients.
#[derive(Clone, Copy, Debug)]
struct Group {
    kind: Kind,
    clients: u32,
    /// Requests a second of the whole group; None: as each kind does by itself.
    rate: Option<u32>,
    slow: Duration,
    upload: Upload,
}

/// The description of a load: which clients, on which addresses, for how long.
#[derive(Clone, Debug)]
#[must_use = "a load asks nothing before it is started"]
pub struct Load {
    targets: Vec<Target>,
    groups: Vec<Group>,
    /// What the clients whose connections last do, and how many do it.
    errands: Vec<(u32, Errand)>,
    limits: Limits,
    time: Duration,
    requests: u64,
    sources: u8,
}

impl Load {
    /// A load on one address, without clients yet.
    pub fn new(target: impl Into<Target>) -> Self {
        Self {
            targets: vec![target.into()],
            groups: Vec::new(),
            errands: Vec::new(),
            limits: Limits::default(),
            time: TIME_DEFAULT,
            requests: u64::MAX,
            sources: 1,
        }
    }

    /// One more address: the clients of each group take turns among them.
    pub fn also(mut self, target: impl Into<Target>) -> Self {
        self.targets.push(target.into());
        self
    }

    /// Keep-alive clients that look before they send, at so many requests a second in all.
    pub fn paced(self, clients: u32, rate: u32) -> Self {
        self.group(Kind::Paced, clients, Some(rate))
    }

    /// Keep-alive clients that ask as fast as they are answered.
    pub fn full_speed(self, clients: u32) -> Self {
        self.group(Kind::FullSpeed, clients, None)
    }

    /// Clients with a new connection for each request, as fast as they are answered.
    pub fn new_connections(self, clients: u32) -> Self {
        self.group(Kind::New, clients, None)
    }

    /// Clients with a new connection for each request, at so many requests a second in all.
    pub fn new_connections_paced(self, clients: u32, rate: u32) -> Self {
        self.group(Kind::New, clients, Some(rate))
    }

    /// Keep-alive clients that ask every 0.05 to 3 s and look before they send.
    pub fn sparse(self, clients: u32) -> Self {
        self.group(Kind::Sparse, clients, None)
    }

    /// Keep-alive clients that ask every 0.05 to 3 s and do not notice a close in the 20 ms before they send.
    pub fn blind(self, clients: u32) -> Self {
        self.group(Kind::Blind, clients, None)
    }

    /// Clients that hold a connection and ask at the beginning and at the end.
    pub fn idle(self, clients: u32) -> Self {
        self.group(Kind::Idle, clients, None)
    }

    /// Clients whose answers take so long.
    pub fn slow(mut self, clients: u32, pause: Duration) -> Self {
        let group = Group { slow: pause, ..Group::new(Kind::Slow, clients, None) };
        self.groups.push(group);
        self
    }

    /// Clients that send bodies in pieces and want them back.
    pub fn upload(mut self, clients: u32, upload: Upload) -> Self {
        let group = Group { upload, ..Group::new(Kind::Upload, clients, None) };
        self.groups.push(group);
        self
    }

    /// Clients that download this, again and again.
    pub fn downloads(self, clients: u32, download: Download) -> Self {
        self.errand(clients, Errand::Download(download))
    }

    /// Clients with an event stream each, with so much time between two events.
    pub fn events(self, clients: u32, interval: Duration) -> Self {
        self.errand(clients, Errand::Events(interval))
    }

    /// Clients with a chat each, in which they say something 10 to 20 times a second.
    pub fn chats(self, clients: u32) -> Self {
        self.errand(clients, Errand::Chat)
    }

    /// How long the clients wait for a connection and for an answer.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The load ends after this time at the latest.
    pub fn at_most(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// The load ends after this many requests of all clients together.
    pub fn requests(mut self, requests: u64) -> Self {
        self.requests = requests;
        self
    }

    /// The clients come from so many addresses, 127.0.0.1 and those after it, for more connections than one address
    /// has ports. Only for targets on IPv4 loopback.
    pub fn sources(mut self, sources: u8) -> Self {
        self.sources = sources.clamp(1, 250);
        self
    }

    /// Starts the clients, in a thread of their own.
    pub fn start(self) -> Running {
        let (stop, stopped) = channel::bounded(1);
        let started = Instant::now();
        let shared = Arc::new(Shared {
            name: format!("{:x}.{}", process::id(), NEXT_LOAD.fetch_add(1, Ordering::Relaxed)),
            limits: self.limits,
            opening: Semaphore::new(OPENING_MAX),
            turns: AtomicU64::new(self.requests),
            stopping: AtomicBool::new(false),
            stopped,
            tally: Mutex::new(Tally::new(started)),
            new_pid: Condvar::new(),
        });
        let (clients, lasting) = (self.clients(&shared), self.lasting(&shared));
        let time = self.time;
        let ender = Ender { shared: shared.clone(), stop };
        let of_thread = ender.clone();
        let thread = thread::Builder::new()
            .name("load".into())
            .spawn(move || {
                let executor = Executor::new();
                let mut tasks: Vec<_> = clients.into_iter().map(|client| executor.spawn(client.run())).collect();
                tasks.extend(lasting.into_iter().map(|client| executor.spawn(client.run())));
                let all = async {
                    for task in tasks {
                        task.await;
                    }
                };
                let end_in_time = async {
                    Timer::after(time).await;
                    of_thread.end();
                    future::pending::<()>().await;
                };
                smol::block_on(executor.run(future::or(all, end_in_time)));
            })
            .expect("a thread can be started");
        Running { ender, started, thread: Some(thread) }
    }

    /// Runs the load to its end, by its requests or by its time.
    pub fn run(self) -> Report {
        self.start().join()
    }

    fn group(mut self, kind: Kind, clients: u32, rate: Option<u32>) -> Self {
        self.groups.push(Group::new(kind, clients, rate));
        self
    }

    fn errand(mut self, clients: u32, errand: Errand) -> Self {
        self.errands.push((clients, errand));
        self
    }

    fn lasting(&self, shared: &Arc<Shared>) -> Vec<Lasting> {
        let each = self.errands.iter().flat_map(|(clients, errand)| (0..*clients).map(move |_| errand));
        let client = |(number, errand): (usize, &Errand)| {
            let target = self.targets[number % self.targets.len()].clone();
            Lasting { errand: errand.clone(), number, target, shared: shared.clone() }
        };
        each.enumerate().map(client).collect()
    }

    fn clients(&self, shared: &Arc<Shared>) -> Vec<Client> {
        let mut clients = Vec::new();
        for group in &self.groups {
            for n in 0..group.clients {
                let number = clients.len();
                let target = self.targets[number % self.targets.len()].clone();
                let mut client = Client::new(group.kind, number, group.rhythm(n), target, shared.clone());
                client.slow = group.slow;
                client.upload = group.upload;
                client.source = self.source(number);
                clients.push(client);
            }
        }
        clients
    }

    fn source(&self, number: usize) -> Option<IpAddr> {
        let last = u8::try_from(number % usize::from(self.sources)).ok()?;
        (self.sources > 1).then(|| IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1 + last)))
    }
}

impl Group {
    fn new(kind: Kind, clients: u32, rate: Option<u32>) -> Self {
        Self { kind, clients, rate, slow: Duration::from_millis(2500), upload: Upload::default() }
    }

    /// The rhythm of the group's client number `n`: the clients of a rate are spread evenly over its interval.
    fn rhythm(&self, n: u32) -> Rhythm {
        match (self.rate, self.kind) {
            (Some(rate), _) => {
                let interval = Duration::from_secs(1) * self.clients / rate.max(1);
                Rhythm::Every { interval, first: interval * n / self.clients }
            }
            (None, Kind::Sparse | Kind::Blind) => Rhythm::Sparse,
            (None, Kind::Paced | Kind::FullSpeed | Kind::New | Kind::Idle | Kind::Slow | Kind::Upload) => {
                Rhythm::FullSpeed
            }
        }
    }
}

/// What the clients of one load share.
pub(super) struct Shared {
    /// The beginning of every request's id.
    pub(super) name: String,
    pub(super) limits: Limits,
    pub(super) opening: Semaphore,
    turns: AtomicU64,
    stopping: AtomicBool,
    stopped: channel::Receiver<()>,
    tally: Mutex<Tally>,
    new_pid: Condvar,
}

impl Shared {
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn answered(&self, kind: Kind, started: Instant, answer: &Answer) {
        if self.tally().answered(kind, started, Instant::now(), answer) {
            self.new_pid.notify_all();
        }
    }

    /// Takes one of the load's requests; false when none is left or the load stops.
    pub(super) fn take_turn(&self) -> bool {
        let take = |turns: u64| turns.checked_sub(1);
        !self.is_stopping() && self.turns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Waits until the load stops.
    pub(super) async fn stopped(&self) {
        // Nothing is ever sent: the channel is closed when the load stops, and that is the error received here.
        let _closed = self.stopped.recv().await;
    }
}

/// The means to end a load.
#[derive(Clone)]
struct Ender {
    shared: Arc<Shared>,
    stop: channel::Sender<()>,
}

impl Ender {
    fn end(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.stop.close();
    }
}

/// A load while it runs. Dropped, it ends.
#[must_use = "a load ends when it is dropped"]
pub struct Running {
    ender: Ender,
    started: Instant,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    /// Marks this instant as a reload's: the requests around it are measured apart.
    pub fn mark_reload(&self) {
        self.ender.shared.tally().mark(Instant::now());
    }

    /// What the load has seen so far.
    pub fn report(&self) -> Report {
        self.ender.shared.tally().report()
    }

    /// When the load began: the report's times count from here.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Waits for the first answer of a process; None at the deadline.
    pub fn wait_for_pid(&self, pid: u32, deadline: Duration) -> Option<PidReport> {
        let shared = &self.ender.shared;
        let is_missing = |tally: &mut Tally| tally.pid(pid).is_none();
        let waited = shared.new_pid.wait_timeout_while(shared.tally(), deadline, is_missing);
        waited.unwrap_or_else(PoisonError::into_inner).0.pid(pid).cloned()
    }

    /// Waits until the load has seen what the caller waits for; panics with the report when it takes too long.
    #[track_caller]
    pub fn wait_until(&self, what: &str, mut condition: impl FnMut(&Report) -> bool) -> Report {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let report = self.report();
            if condition(&report) {
                return report;
            }
            assert!(Instant::now() < deadline, "waited {WAIT_MAX:?} until {what}\n{report}");
            thread::sleep(WAIT_STEP);
        }
    }

    /// Lets the requests on their way come to their end, takes a last look at every connection, and reports.
    pub fn stop(self) -> Report {
        self.ender.end();
        self.join()
    }

    /// Waits for the load's own end, by its requests or by its time, and reports.
    pub fn join(mut self) -> Report {
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
        self.report()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ender.end();
    }
}
