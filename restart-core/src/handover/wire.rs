//! What two generations say to each other, as plain data: every message, every field.
//!
//! The two sides may be of different releases, in either order. So nothing here is of any other module: a field that
//! `reborn status` gains changes no packet. A field that comes after a message's first release is optional
//! (`#[serde(default)]`), fields are never taken away, and none changes its meaning; readers skip fields and kinds that
//! they do not know. `Commit` is frozen as it is: what people like to know of a reload travels beside it, in `History`
//! and `Counters`, which a successor can do without. The packets of each release are kept in `golden`.
//!
//! A generation has one **line** to the next one, and for each line the newest generation makes a socket of its own on
//! which connections move, so that neither waits for the other.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The oldest and the newest protocol version that this code speaks.
pub(crate) const VERSIONS: (u32, u32) = (1, 1);
/// The feature of a generation that can be told to withdraw.
pub(crate) const WITHDRAW: &str = "withdraw";
/// The feature of a generation whose drain can be ended at once.
pub(crate) const CUT: &str = "cut";
/// Tells a handover socket from any other that happens to be at hand.
const MAGIC: &str = "reborn-handover";

/// Everything that is said. Behind each kind stands which descriptors come with it, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Message {
    /// The first message of both sides, on the handover socket. With the speaker's pidfd, and, from the successor, its
    /// line: the end of a socket pair on which everything else is said. No wrapper around the successor and no child of
    /// one can hold that, so that its end of file means something.
    Hello(Hello),
    /// Some of the predecessor's sockets. With their descriptors.
    Listeners(ListenersPart),
    /// The application's state. With its memfd.
    State(StateBlob),
    /// The predecessor has given all that there is. With the lines to the generations that drain.
    Given(Given),
    /// Some of the predecessor's sockets that the successor does not want: the predecessor goes on accepting on them
    /// until the commit, and gives them up then. It comes before Ready, several times where the names are many.
    Released {
        /// Their names.
        names: Vec<String>,
    },
    /// The successor accepts connections.
    Ready {
        /// How many names it has released.
        released: usize,
    },
    /// The successor cannot serve.
    Failed {
        /// Why, for people.
        reason: String,
    },
    /// A sign of life is wanted; asked several times where none comes.
    Ping,
    /// The sign of life.
    Pong,
    /// What the service has counted, right before the commit.
    Counters(Counters),
    /// What the service has been through, right before the commit.
    History(History),
    /// The service is the successor's. Said again until it is answered; each but the first changes nothing.
    Commit(Commit),
    /// The successor serves as the main process.
    Committed,
    /// The service manager has read all that the predecessor had to tell. `Report` says it again.
    Settled,
    /// The predecessor gives the successor up, which has said Ready, and takes back what it has accepted. `moves`: with
    /// an end of a socket pair on which connections can move back. Only to one with the feature `withdraw`.
    Withdraw {
        /// The service stops.
        stop: bool,
        /// Connections can move back.
        moves: bool,
        /// Where the service stops, how long what the successor has may still take. Without it, or from a version that
        /// did not say, it is for the reader to know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        within_ms: Option<u64>,
    },
    /// Who the newest generation is, to each older one whose line it takes over, until it is answered. With its pidfd,
    /// and, where it takes connections, an end of a socket pair on which they can move to it.
    Greeting(Hello),
    /// The answer to a greeting.
    Greeted(Hello),
    /// A reload signal, passed on to the newest generation.
    Reload,
    /// A stop: passed on to the newest generation, or back from one that has not been committed yet.
    Stop,
    /// The newest generation stops, and the service with it. Each report is answered with it from then on.
    Stopping {
        /// How long what the older generation has may still take. Without it, as from a version that did not say, it is
        /// for the reader to know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        within_ms: Option<u64>,
    },
    /// How a draining generation is doing, for the newest one.
    Report(Report),
    /// The deadline of an older generation's drain passes now. Only to one with the feature `cut`.
    Cut,

    /// Connections of a draining generation, for the newest one. With each one's socket and companions; their blobs
    /// stand behind the message.
    Connections(Batch),
    /// The first `count` connections of a batch are the newest generation's now.
    Taken {
        /// The batch.
        batch: u64,
        /// How many, from its first on.
        count: usize,
    },
    /// How many of a batch were taken is asked again, since no answer came that can be read.
    Recount {
        /// The batch.
        batch: u64,
    },
    /// Something came on this socket that cannot be read.
    Unreadable,

    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// Who speaks, and what it speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    magic: String,
    min_version: u32,
    max_version: u32,
    /// What the speaker can do beyond the protocol's version; names that the other side lacks are left unused.
    pub(crate) features: BTreeSet<String>,
    /// The formats of connections that the speaker takes; none where it takes no connections at all.
    pub(crate) formats: BTreeSet<String>,
    pub(crate) generation: u64,
    pub(crate) pid: u32,
    /// The program's version, for people.
    #[serde(default)]
    pub(crate) version: String,
    /// How often the speaker had become the main process before. One that serves again after its successor's death greets
    /// anew, and nobody takes that for its last greeting said again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) turn: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Hello {
    pub(crate) fn new(generation: u64, version: &str, formats: BTreeSet<String>) -> Hello {
        Hello {
            magic: MAGIC.to_owned(),
            min_version: VERSIONS.0,
            max_version: VERSIONS.1,
            features: BTreeSet::from([WITHDRAW.to_owned(), CUT.to_owned()]),
            formats,
            generation,
            pid: std::process::id(),
            version: version.to_owned(),
            turn: 0,
        }
    }

    /// The newest protocol version that both sides speak.
    pub(crate) fn common_version(&self) -> Result<u32, Error> {
        if self.magic != MAGIC {
            return Err(Error::handover(format!("the other side is not of this kind: its magic is {:?}", self.magic)));
        }
        let newest = self.max_version.min(VERSIONS.1);
        if newest < self.min_version.max(VERSIONS.0) {
            return Err(Error::handover(format!(
                "no common protocol version: this side speaks {} to {}, the other {} to {}",
                VERSIONS.0, VERSIONS.1, self.min_version, self.max_version
            )));
        }
        Ok(newest)
    }
}

/// A part of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListenersPart {
    pub(crate) entries: Vec<SocketEntry>,
}

/// One socket of the manifest, against which its descriptor is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SocketEntry {
    pub(crate) name: String,
    /// The address that the socket is bound to, as `Address` prints it.
    pub(crate) address: String,
    /// The address that was asked for (its port may have been 0).
    pub(crate) asked: String,
    pub(crate) origin: SocketOrigin,
    /// Device and inode of a Unix socket's path when we bound it.
    #[serde(default)]
    pub(crate) inode: Option<(u64, u64)>,
}

/// Where a socket comes from in the first place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SocketOrigin {
    Bound,
    Activated,
}

/// What the application wants its next generation to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateBlob {
    pub(crate) format: u32,
    pub(crate) bytes: u64,
}

/// The end of what is given, and what was given in all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Given {
    pub(crate) listeners: usize,
    /// The generations that drain, oldest first; the line to each comes along. The successor only holds them until it
    /// has been committed, so that none of those takes its predecessor's death for the end of everybody newer.
    pub(crate) older: Vec<ProcessId>,
    /// The reload that this is, so that the successor can answer for it if the predecessor no longer can.
    pub(crate) reload: ReloadMark,
}

/// A generation and its process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) generation: u64,
    pub(crate) pid: u32,
}

/// What names one reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReloadMark {
    pub(crate) id: String,
    pub(crate) generation: u64,
    pub(crate) pid: u32,
}

/// The commit. Frozen: nothing may be added that a successor needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Commit {
    /// False while the service manager has not read the predecessor's messages: no reload may start.
    pub(crate) settled: bool,
    /// A reload signal came during this reload.
    pub(crate) reload: bool,
}

/// What a generation has counted for its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// All that was counted, but for what draining generations have added.
    pub(crate) total: BTreeMap<String, u64>,
    /// What each draining generation has added.
    #[serde(default)]
    pub(crate) added: Vec<(u64, BTreeMap<String, u64>)>,
}

/// The last reloads, oldest first; the last one is the one that is about to be committed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History {
    #[serde(default)]
    pub(crate) reloads: Vec<PastReload>,
}

/// One reload, as people are told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PastReload {
    pub(crate) id: String,
    /// Why it failed; nothing where it succeeded.
    #[serde(default)]
    pub(crate) failure: Option<String>,
    /// Who was replaced.
    pub(crate) from: Speaker,
    /// Who replaced it.
    #[serde(default)]
    pub(crate) to: Option<Speaker>,
    /// How many microseconds each stage took: spawn, ready, probation, commit, and all of it.
    #[serde(default)]
    pub(crate) stages_us: [u64; 5],
    /// When it ended, in milliseconds since 1970.
    #[serde(default)]
    pub(crate) ended_unix_ms: u64,
    /// The draining generation that was cut for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cut: Option<Speaker>,
}

/// A generation by all its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Speaker {
    pub(crate) generation: u64,
    pub(crate) pid: u32,
    #[serde(default)]
    pub(crate) version: String,
}

/// How a draining generation is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) generation: u64,
    /// It has nothing to tell the service manager any more, as far as it is the predecessor of whoever reads this.
    #[serde(default)]
    pub(crate) settled: bool,
    /// It has been told to stop the service.
    #[serde(default)]
    pub(crate) stop: bool,
    /// What people are told of it.
    #[serde(default)]
    pub(crate) standing: Standing,
    /// All that it has counted since its commit.
    #[serde(default)]
    pub(crate) added: BTreeMap<String, u64>,
}

/// What people are told of a draining generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) uptime_ms: u64,
    #[serde(default)]
    pub(crate) connections: usize,
    #[serde(default)]
    pub(crate) memory_bytes: u64,
    #[serde(default)]
    pub(crate) application: serde_json::Value,
    /// What it still has to finish.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) waits: Vec<Wait>,
    /// How long it may still take, in milliseconds, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) left_ms: Option<u64>,
}

/// What a draining generation still has to finish, of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wait {
    pub(crate) of: String,
    pub(crate) count: u64,
    /// How long the oldest has been under way, in milliseconds.
    #[serde(default)]
    pub(crate) oldest_ms: u64,
    /// What the oldest is.
    #[serde(default)]
    pub(crate) what: Option<String>,
}

/// A batch of connections of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// Each is greater than the one before on its socket.
    #[serde(rename = "batch")]
    pub(crate) number: u64,
    /// The formats that one has to know for each of its connections.
    pub(crate) formats: Vec<String>,
    /// How long each connection's blob is.
    pub(crate) blobs: Vec<usize>,
    /// How many descriptors each connection has beside its socket; left out where none has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) companions: Vec<usize>,
}

impl Batch {
    /// How many descriptors belong to each connection; nothing where that is said for some only, or is too many.
    pub(crate) fn descriptors(&self, companions_max: usize) -> Option<Vec<usize>> {
        match self.companions.as_slice() {
            [] => Some(vec![1; self.blobs.len()]),
            some if some.len() == self.blobs.len() && some.iter().all(|count| *count <= companions_max) => {
                Some(some.iter().map(|count| count + 1).collect())
            }
            _ => None,
        }
    }

    /// The blobs of the connections, cut from what came behind the message; none where their lengths do not fit it.
    pub(crate) fn split<'a>(&self, tail: &'a [u8]) -> Option<Vec<&'a [u8]>> {
        let mut rest = tail;
        let mut blobs = Vec::with_capacity(self.blobs.len());
        for length in &self.blobs {
            let (blob, more) = rest.split_at_checked(*length)?;
            blobs.push(blob);
            rest = more;
        }
        rest.is_empty().then_some(blobs)
    }
}

impl Message {
    /// How many descriptors have to come with it at least; further ones are of a newer version, and are closed.
    pub(crate) fn descriptors(&self) -> usize {
        match self {
            Message::Hello(_) | Message::State(_) => 1,
            Message::Withdraw { moves, .. } => usize::from(*moves),
            Message::Greeting(hello) => 1 + usize::from(!hello.formats.is_empty()),
            Message::Listeners(part) => part.entries.len(),
            Message::Given(given) => given.older.len(),
            _ => 0,
        }
    }

    /// The message's kind, for errors.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Message::Hello(_) => "Hello",
            Message::Listeners(_) => "Listeners",
            Message::State(_) => "State",
            Message::Given(_) => "Given",
            Message::Released { .. } => "Released",
            Message::Ready { .. } => "Ready",
            Message::Failed { .. } => "Failed",
            Message::Ping => "Ping",
            Message::Pong => "Pong",
            Message::Counters(_) => "Counters",
            Message::History(_) => "History",
            Message::Commit(_) => "Commit",
            Message::Committed => "Committed",
            Message::Settled => "Settled",
            Message::Withdraw { .. } => "Withdraw",
            Message::Greeting(_) => "Greeting",
            Message::Greeted(_) => "Greeted",
            Message::Reload => "Reload",
            Message::Stop => "Stop",
            Message::Stopping { .. } => "Stopping",
            Message::Report(_) => "Report",
            Message::Cut => "Cut",
            Message::Connections(_) => "Connections",
            Message::Taken { .. } => "Taken",
            Message::Recount { .. } => "Recount",
            Message::Unreadable => "Unreadable",
            Message::Unknown => "a kind that this version does not know",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_finds_the_common_version() {
        assert_eq!(Hello::new(7, "1.2.3", BTreeSet::new()).common_version().unwrap(), 1);
    }

    #[test]
    fn no_common_version_is_an_error_that_names_both_ranges() {
        let hello = Hello { min_version: 8, max_version: 9, ..Hello::new(1, "", BTreeSet::new()) };
        let text = hello.common_version().unwrap_err().to_string();
        assert!(text.contains("1 to 1") && text.contains("8 to 9"), "{text}");
    }

    fn batch(blobs: &[usize], companions: &[usize]) -> Batch {
        Batch { number: 1, formats: vec![], blobs: blobs.to_vec(), companions: companions.to_vec() }
    }

    #[test]
    fn lengths_of_blobs_that_do_not_fit_are_refused_even_where_their_sum_overflows() {
        let split = |blobs: &[usize], tail: &[u8]| batch(blobs, &[]).split(tail).map(|blobs| blobs.concat());
        assert_eq!(split(&[1, 0, 2], b"abc").as_deref(), Some(&b"abc"[..]));
        for lengths in [&[1, 1][..], &[4], &[usize::MAX, 4], &[2, usize::MAX, 2], &[]] {
            assert_eq!(split(lengths, b"abc"), None, "{lengths:?}");
        }
    }

    #[test]
    fn companions_are_said_for_all_connections_of_a_batch_or_for_none() {
        assert_eq!(batch(&[0, 0], &[]).descriptors(3), Some(vec![1, 1]));
        assert_eq!(batch(&[0, 0], &[0, 3]).descriptors(3), Some(vec![1, 4]));
        for companions in [&[0][..], &[0, 4], &[0, usize::MAX], &[0, 0, 0]] {
            assert_eq!(batch(&[0, 0], companions).descriptors(3), None, "{companions:?}");
        }
    }
}
