//! The clients: each kind asks in its own rhythm, on a connection that it keeps, looks after and reopens.
//!
//! What matters is when a client looks at its connection. One that looks right before it sends takes a close for what
//! it is; a blind one has decided 20 ms earlier, as a client a network round trip away has, and loses its request.

use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use smol::{Timer, future};

use super::{Close, Connection, Failure, Look, Lost, Request, Target, plan::Shared, tally::Origin};

/// How long a client that has just failed waits before it tries again.
const FAILED_PAUSE: Duration = Duration::from_millis(10);

/// How long a blind client does not notice that its connection was closed.
const BLIND: Duration = Duration::from_millis(20);

/// The time between two requests of a sparse or blind client.
const SPARSE_MS: std::ops::Range<u64> = 50..3000;

/// The kinds of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Keep-alive at a given rate; looks before it sends.
    Paced,
    /// Keep-alive, one request after the other; looks before it sends.
    FullSpeed,
    /// A new connection for each request.
    New,
    /// Keep-alive, a request every 0.05 to 3 s; looks before it sends.
    Sparse,
    /// The same, but does not notice a close in the 20 ms before it sends.
    Blind,
    /// Holds a connection, and asks once at the beginning and once at the end.
    Idle,
    /// Asks for answers that take their time.
    Slow,
    /// Sends a body in pieces and wants it back.
    Upload,
}

impl Kind {
    /// Its name in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paced => "paced",
            Self::FullSpeed => "full_speed",
            Self::New => "new",
            Self::Sparse => "sparse",
            Self::Blind => "blind",
            Self::Idle => "idle",
            Self::Slow => "slow",
            Self::Upload => "upload",
        }
    }

    /// Whether its latency is the server's own, and not asked for.
    pub fn is_quick(self) -> bool {
        matches!(self, Self::Paced | Self::FullSpeed | Self::New | Self::Sparse | Self::Blind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How an upload is sent.
#[derive(Clone, Copy, Debug)]
pub struct Upload {
    /// The size of the body.
    pub bytes: usize,
    /// The pieces in which it is sent.
    pub pieces: usize,
    /// The time over which they are spread.
    pub over: Duration,
}

impl Default for Upload {
    fn default() -> Self {
        Self { bytes: 60_000, pieces: 15, over: Duration::from_millis(1500) }
    }
}

/// When a client asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rhythm {
    /// At once after the last answer.
    FullSpeed,
    /// Every so often, the first time after the given delay, whatever the answers take.
    Every { interval: Duration, first: Duration },
    /// After a random time.
    Sparse,
}

/// One client.
pub(super) struct Client {
    pub(super) kind: Kind,
    pub(super) number: usize,
    pub(super) rhythm: Rhythm,
    pub(super) slow: Duration,
    pub(super) upload: Upload,
    pub(super) target: Target,
    pub(super) source: Option<IpAddr>,
    pub(super) shared: Arc<Shared>,
    random: fastrand::Rng,
    asked: u64,
    due: Option<Instant>,
    connection: Option<Connection>,
    /// Whether it has had a connection.
    was_connected: bool,
}

impl Client {
    pub(super) fn new(kind: Kind, number: usize, rhythm: Rhythm, target: Target, shared: Arc<Shared>) -> Self {
        Self {
            kind,
            number,
            rhythm,
            slow: Duration::from_millis(2500),
            upload: Upload::default(),
            target,
            source: None,
            shared,
            random: fastrand::Rng::with_seed(number as u64),
            asked: 0,
            due: None,
            connection: None,
            was_connected: false,
        }
    }

    /// Asks until the load stops or has made all its requests.
    pub(super) async fn run(mut self) {
        if self.kind == Kind::Idle {
            self.hold().await;
        } else {
            while let Some(due) = self.turn().await {
                self.ask(due).await;
            }
        }
        self.look();
    }

    /// Waits for the next request's time; None when there is none to come.
    async fn turn(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let due = match self.rhythm {
            Rhythm::FullSpeed => now,
            Rhythm::Every { interval, first } => self.due.map_or(now + first, |due| due + interval),
            Rhythm::Sparse => now + Duration::from_millis(self.random.u64(SPARSE_MS)),
        };
        self.due = Some(due);
        if due > now && !self.pause(due - now).await {
            return None;
        }
        // A request is late when the one before it was: then its time counts from when it was due. A timer that
        // fires late is not the server's doing.
        self.shared.take_turn().then(|| if due > now { Instant::now() } else { due })
    }

    /// Makes one request, on the connection that there is or on a new one.
    async fn ask(&mut self, due: Instant) {
        let request = self.request();
        self.look();
        let Some(mut connection) = self.connect(request.id()).await else {
            self.pause(FAILED_PAUSE).await;
            return;
        };
        let started = if self.kind == Kind::Blind {
            Timer::after(BLIND).await;
            Instant::now()
        } else {
            due
        };
        match connection.exchange(&request).await {
            Ok(answer) => {
                self.shared.answered(self.kind, started, &answer);
                if connection.went_back() {
                    self.shared.tally().went_back();
                } else if self.kind == Kind::New {
                    self.expect_end(connection, request.id()).await;
                } else if answer.announces_close() {
                    self.shared.tally().closed(self.kind, Close::Announced, connection.last_pid());
                } else {
                    self.connection = Some(connection);
                }
            }
            Err(lost) => {
                self.lost(request.id(), lost, &Origin::from(&connection));
                drop(connection);
                self.pause(FAILED_PAUSE).await;
            }
        }
    }

    /// Holds a connection for as long as the load lasts.
    async fn hold(&mut self) {
        while self.shared.take_turn() {
            self.ask(Instant::now()).await;
            if let Some(connection) = &self.connection {
                let stopped = async {
                    self.shared.stopped().await;
                    Look::Open
                };
                // A reset shows itself once only: this may be all that is ever seen of it.
                let seen = future::or(connection.changed(), stopped).await;
                self.heed(seen);
            }
            if self.shared.is_stopping() {
                self.ask(Instant::now()).await;
                return;
            }
        }
    }

    fn request(&mut self) -> Request {
        self.asked += 1;
        let id = format!("{}-{}-{}", self.shared.name, self.number, self.asked);
        match self.kind {
            Kind::Slow => Request::slow(id, self.slow),
            Kind::Upload => {
                let body = std::iter::repeat_with(|| self.random.u8(..)).take(self.upload.bytes).collect();
                Request::echo(id, body, self.upload.pieces, self.upload.over)
            }
            Kind::New => Request::fast(id).last(),
            Kind::Paced | Kind::FullSpeed | Kind::Sparse | Kind::Blind | Kind::Idle => Request::fast(id),
        }
    }

    /// Looks at the idle connection and gives it up if something has happened to it.
    fn look(&mut self) {
        if let Some(connection) = &self.connection {
            self.heed(connection.look());
        }
    }

    fn heed(&mut self, seen: Look) {
        let Some(connection) = &self.connection else { return };
        let pid = connection.last_pid();
        match seen {
            Look::Open => return,
            Look::Fin => self.shared.tally().closed(self.kind, Close::FinWhileIdle, pid),
            Look::Reset => self.shared.tally().closed(self.kind, Close::ResetWhileIdle, pid),
            Look::Bytes(n) => self.unasked(n, "", &Origin::from(connection)),
        }
        self.connection = None;
    }

    /// The connection to ask on: the one at hand, or a new one.
    async fn connect(&mut self, id: &str) -> Option<Connection> {
        if let Some(connection) = self.connection.take() {
            return Some(connection);
        }
        let permit = self.shared.opening.acquire().await;
        let connection = Connection::open_from(&self.target, self.source, self.shared.limits).await;
        drop(permit);
        match connection {
            Ok(connection) => {
                let is_again = self.was_connected && self.kind != Kind::New;
                self.shared.tally().opened(self.kind, is_again);
                self.was_connected = true;
                Some(connection)
            }
            Err(lost) => {
                self.lost(id, lost, &Origin::default());
                None
            }
        }
    }

    /// Waits for the close that was asked for: nothing else may come.
    async fn expect_end(&self, mut connection: Connection, id: &str) {
        match connection.end().await {
            Some(Look::Fin | Look::Open) => {}
            Some(Look::Reset) => {
                self.shared.tally().closed(self.kind, Close::ResetWhileIdle, connection.last_pid());
            }
            Some(Look::Bytes(n)) => self.unasked(n, id, &Origin::from(&connection)),
            None => {
                let detail = "the connection stays open after an answer that was to be the last".to_owned();
                self.lost(id, Lost { failure: Failure::Timeout, detail }, &Origin::from(&connection));
            }
        }
    }

    fn unasked(&self, bytes: usize, id: &str, origin: &Origin) {
        let detail = format!("{bytes} bytes or more that no request asked for");
        self.lost(id, Lost { failure: Failure::DuplicateAnswer, detail }, origin);
    }

    fn lost(&self, id: &str, lost: Lost, origin: &Origin) {
        self.shared.tally().lost(self.kind, id, lost, origin);
    }

    /// Lets time pass; false if the load stops meanwhile.
    async fn pause(&self, time: Duration) -> bool {
        let timer = async {
            Timer::after(time).await;
        };
        future::or(timer, self.shared.stopped()).await;
        !self.shared.is_stopping()
    }
}
