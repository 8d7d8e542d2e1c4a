//! What of TLS is known above the transport: how a connection starts, what a request can learn of it, and how many
//! handshakes there are at a time.
//!
//! A handshake costs memory from its first byte on, and time of a processor at its second. So they are bounded from the
//! first byte on; whoever waits for a place has those make room that have had theirs for long, and who came last comes
//! first. A client that sends nothing takes no place here: it is a connection like others, and has to make room like them.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use event_listener::{Event, EventListener};
use futures_lite::FutureExt;
use futures_lite::future::poll_once;
use rustls::ServerConfig;

use super::places::{Place, Places};
use super::timer::Timer;
use super::transport::secured::Sealed;

/// How often those that have a place for long are asked for it while somebody waits.
const ASKING_PAUSE: Duration = Duration::from_millis(20);

/// How the bytes of a connection travel.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Security {
    /// As they are.
    #[default]
    Plain,
    /// Over TLS, after the handshake, which is held with this.
    Handshake(Arc<ServerConfig>),
    /// Over TLS, which was spoken elsewhere.
    Established(Box<Established>),
}

/// TLS as it was spoken elsewhere. It opens the connection to whoever has it: nothing of it is shown.
pub struct Established {
    pub(crate) tls: Tls,
    pub(crate) sealed: Sealed,
}

impl fmt::Debug for Established {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Established").field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// How a request came over TLS: in its `ext`, unless it came as plain HTTP. Clones share what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls(Arc<Agreed>);

/// What a handshake has agreed on.
#[derive(Debug, PartialEq, Eq)]
struct Agreed {
    version: String,
    suite: String,
    server_name: Option<String>,
    resumed: bool,
}

impl Tls {
    pub(crate) fn new(
        version: impl Into<String>,
        suite: impl Into<String>,
        server_name: Option<String>,
        resumed: bool,
    ) -> Tls {
        Tls(Arc::new(Agreed { version: version.into(), suite: suite.into(), server_name, resumed }))
    }

    /// The version: `TLSv1.2` or `TLSv1.3`.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// The cipher suite, by its name in the registry, as `TLS_AES_128_GCM_SHA256`.
    pub fn suite(&self) -> &str {
        &self.0.suite
    }

    /// The name that the client asked for (SNI), in lower case; nothing if it asked for none.
    pub fn server_name(&self) -> Option<&str> {
        self.0.server_name.as_deref()
    }

    /// Whether an earlier session was resumed, with a ticket of this process or of one before.
    pub fn resumed(&self) -> bool {
        self.0.resumed
    }
}

/// The bounds on handshakes, and how many came to which end. All connections of a server share it.
#[derive(Debug)]
pub struct Handshakes {
    timeout: Duration,
    places: Places,
    /// The call for those that have had a place for long.
    longest: Event,
    pub(super) done: AtomicU64,
    pub(super) resumed: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) crowded: AtomicU64,
    pub(super) stopped: AtomicU64,
    pub(super) plain: AtomicU64,
}

impl Default for Handshakes {
    /// A thousand at a time, of ten seconds.
    fn default() -> Handshakes {
        Handshakes::new(1024, Duration::from_secs(10))
    }
}

impl Handshakes {
    /// So many handshakes at a time, each of which must be over after `timeout`, with the wait for its place.
    pub fn new(most: usize, timeout: Duration) -> Handshakes {
        Handshakes {
            timeout,
            places: Places::new(most),
            longest: Event::new(),
            done: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            late: AtomicU64::new(0),
            crowded: AtomicU64::new(0),
            stopped: AtomicU64::new(0),
            plain: AtomicU64::new(0),
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Waits for a place, which goes to whoever came last.
    pub(super) async fn enter(&self) -> Place<'_> {
        let mut place = pin!(self.places.enter());
        if let Some(place) = poll_once(place.as_mut()).await {
            return place;
        }
        loop {
            self.longest.notify_additional(1);
            let pause = async {
                Timer::after(ASKING_PAUSE).await;
                None
            };
            if let Some(place) = async { Some(place.as_mut().await) }.or(pause).await {
                return place;
            }
        }
    }

    /// Learns that its place is wanted, after those that have learned of it for longer.
    pub(super) fn call(&self) -> EventListener {
        self.longest.listen()
    }

    /// How many came to which end, each under one name: keys for the status and the metrics.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 7] {
        [
            ("done", &self.done),
            ("resumed", &self.resumed),
            ("failed", &self.failed),
            ("timed out", &self.late),
            ("made room", &self.crowded),
            ("stopping", &self.stopped),
            ("plain HTTP", &self.plain),
        ]
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }
}
