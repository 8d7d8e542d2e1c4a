//! A relay that sits between two real generations, and changes what they say to each other.
//!
//! [`Relay`] is a test's orders: which messages are changed, and how. `Version::Relayed` puts the program `relay` at the
//! path of the server's program; the next generation that is started there gets it on its handover socket, see
//! [`Post`], and is itself the real binary, under the pid that its predecessor knows. Nothing of the
//! protocol is known here but packets, their JSON, its `kind`, and descriptors: a socket for further packets that is
//! passed over a relayed one is relayed as well. Every packet seen is written down, for [`Server::relayed`].
//!
//! A relay serves one reload: the real binary is back at the path before it runs. Put it again for the next one.

mod line;
mod lines;
mod packet;
mod post;

use std::fs;

use serde::{Deserialize, Serialize};

pub use post::Post;

use super::{Server, Version, version::beside};

/// What a relay does, and to which version it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a relay stands nowhere before it is put at a program's path"]
pub struct Relay {
    pub(crate) version: Box<Version>,
    pub(crate) orders: Vec<Order>,
}

/// One change to one message, or to each of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Who is to receive it.
    pub direction: Direction,
    /// Its `kind`, as on the wire.
    pub kind: String,
    /// The socket that it comes over, as [`Seen::socket`] names it; any if there is none.
    pub socket: Option<String>,
    /// Which of several.
    pub occurrence: Occurrence,
    /// What becomes of it.
    pub change: Change,
}

/// The way that a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From an older generation to a newer one.
    ToNewer,
    /// From a newer generation to an older one.
    ToOlder,
}

/// Which of the messages that an order fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Occurrence {
    /// The first one.
    First,
    /// The one of this number, counted from 0.
    Nth(usize),
    /// All.
    Every,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It has a field more, which nobody knows.
    UnknownField,
    /// It lacks this field, or the first one beside its kind.
    MissingField(Option<String>),
    /// This field, or the first one beside its kind, has a value of another JSON type.
    OtherType(Option<String>),
    /// It is of this kind.
    OtherKind(String),
    /// Its JSON is none; its descriptors come along.
    Garbage,
    /// It comes twice, with its descriptors.
    Duplicate,
    /// One of its descriptors is missing.
    DropDescriptor(Which),
    /// It comes with one more descriptor, of `/dev/null`.
    SurplusDescriptor,
    /// It does not come.
    Drop,
    /// It comes so many milliseconds later, and whatever is sent behind it comes behind it.
    Delay(u64),
}

/// One of several descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// The first one.
    First,
    /// The last one.
    Last,
}

/// A packet that a relay has seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The pid of the generation that this relay was started with.
    pub successor: u32,
    /// The way that it went.
    pub direction: Direction,
    /// The socket that it came over: `handover`, or `SOCKET/KIND.INDEX` for one that came over another one, as the
    /// descriptor of that index of a message of that kind.
    pub socket: String,
    /// Its `kind`; empty for one without.
    pub kind: String,
    /// Its other fields, in the order of the alphabet.
    pub fields: Vec<String>,
    /// How many descriptors came with it.
    pub descriptors: usize,
    /// Its length, with what goes behind the JSON.
    pub bytes: usize,
    /// What was done to it; several orders may fit.
    pub changes: Vec<Change>,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
}

impl Default for Relay {
    fn default() -> Self {
        Self::new()
    }
}

impl Relay {
    /// A relay that changes nothing, in front of the binary under test.
    pub fn new() -> Self {
        Self { version: Box::new(Version::Current), orders: Vec::new() }
    }

    /// The real program behind it, where that is not the binary under test: one that works.
    pub fn before(mut self, version: Version) -> Self {
        self.version = Box::new(version);
        self
    }

    /// Changes the first message of this kind, whatever socket it comes over.
    pub fn first(self, direction: Direction, kind: &str, change: Change) -> Self {
        self.on(direction, kind, Occurrence::First, change)
    }

    /// Changes every message of this kind.
    pub fn every(self, direction: Direction, kind: &str, change: Change) -> Self {
        self.on(direction, kind, Occurrence::Every, change)
    }

    /// One more order, in full.
    pub fn order(mut self, order: Order) -> Self {
        self.orders.push(order);
        self
    }

    fn on(self, direction: Direction, kind: &str, occurrence: Occurrence, change: Change) -> Self {
        self.order(Order { direction, kind: kind.to_owned(), socket: None, occurrence, change })
    }
}

impl Seen {
    /// Whether anything was done to it.
    pub fn is_changed(&self) -> bool {
        !self.changes.is_empty()
    }
}

impl Server {
    /// All packets that its relays have seen so far, in order.
    #[track_caller]
    pub fn relayed(&self) -> Vec<Seen> {
        let text = fs::read_to_string(beside(self.program(), "seen")).unwrap_or_default();
        let seen = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("no packet ({error}): {line}"));
        text.lines().map(seen).collect()
    }

    /// The pids of its relays that have not ended yet. They end by themselves, when nobody is left on one of the two sides
    /// of each socket.
    pub fn relays(&self) -> Vec<u32> {
        self.family().helpers()
    }
}
