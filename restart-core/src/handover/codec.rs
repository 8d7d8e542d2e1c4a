//! Messages of the handover as bytes: one JSON object a packet, told apart by its `kind`.
//!
//! A reader skips fields and kinds that it does not know, so that versions can differ on the two sides; a packet that
//! is too long or no such object is an error. Pure: no socket, no clock.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::control::{DrainingReport, Outcome};
use crate::counters::Counts;
use crate::error::Error;
use crate::listeners::Origin;

/// The oldest and the newest protocol version that this code speaks.
pub(crate) const VERSIONS: (u32, u32) = (1, 1);
/// Tells a handover socket from any other that happens to be at hand.
const MAGIC: &str = "reborn-handover";
/// A longer packet does not pass the kernel's default send buffer in every configuration.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// The kernel's `SCM_MAX_FD`.
pub(crate) const FDS_PER_MESSAGE_MAX: usize = 253;
/// No reason is longer than this on the wire; the rest is cut.
pub(crate) const REASON_BYTES_MAX: usize = 4096;
/// How many listeners one generation may hand over.
pub(crate) const LISTENERS_MAX: usize = 4096;

/// Everything that is said on a handover socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Message {
    /// The first message of both sides.
    Hello(Hello),
    /// Some of the predecessor's sockets; their descriptors come with it, in order.
    Listeners(ListenersPart),
    /// The application's state; its memfd comes with it.
    State(StateBlob),
    /// The predecessor has given all that there is.
    Given(Given),
    /// Some of the predecessor's sockets that the successor does not want: the predecessor goes on accepting on them
    /// until the commit, and gives them up then. It comes before Ready, several times where the names are many.
    Released { names: Vec<String> },
    /// The successor accepts connections.
    Ready,
    /// The successor cannot serve.
    Failed { reason: String },
    /// A sign of life is wanted.
    Ping,
    /// The sign of life.
    Pong,
    /// What the service has counted and been through, right before the commit.
    Legacy(Legacy),
    /// The service is the successor's. The channels to draining generations come with it, in order.
    Commit(Commit),
    /// The successor serves as the main process.
    Committed,
    /// The service manager has read all that the predecessor had to tell.
    Settled,
    /// A reload signal, passed on to the newest generation.
    Reload,
    /// A stop: passed on to the newest generation, or back from one that has not been committed yet.
    Stop,
    /// Client connections of a draining generation, for the newest one; their descriptors come with it in order, and
    /// their blobs behind the message.
    Connections(ConnectionsPart),
    /// The first `count` connections of a batch are the newest generation's now.
    Taken { batch: u64, count: usize },
    /// How a draining generation is doing, for the newest one.
    Report(Report),
    /// The newest generation stops, and the service with it.
    Stopping,
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    magic: String,
    min_version: u32,
    max_version: u32,
    /// What the speaker can do beyond the protocol's version; names that the other side lacks are left unused.
    #[serde(default)]
    pub(crate) features: BTreeSet<String>,
    pub(crate) generation: u64,
    pub(crate) pid: u32,
    /// The program's version, for people.
    pub(crate) version: String,
}

impl Hello {
    pub(crate) fn new(generation: u64, version: &str, features: BTreeSet<String>) -> Hello {
        Hello {
            magic: MAGIC.to_owned(),
            min_version: VERSIONS.0,
            max_version: VERSIONS.1,
            features,
            generation,
            pid: std::process::id(),
            version: version.to_owned(),
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
    pub(crate) origin: Origin,
    /// Device and inode of a Unix socket's path when we bound it.
    pub(crate) inode: Option<(u64, u64)>,
}

/// A batch of connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionsPart {
    pub(crate) batch: u64,
    /// How long each connection's blob is.
    pub(crate) blobs: Vec<usize>,
}

impl ConnectionsPart {
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
    /// The generations that drain, oldest first; a channel to each comes along. The successor only holds them, so that
    /// none of those takes its predecessor's death for the end of everybody newer.
    #[serde(default)]
    pub(crate) older: Vec<Link>,
    /// The reload that this is, so that the successor can answer for it if the predecessor no longer can.
    pub(crate) reload: ReloadMark,
}

/// What names one reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReloadMark {
    pub(crate) id: String,
    pub(crate) generation: u64,
    pub(crate) pid: u32,
}

/// The commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Commit {
    /// False while the service manager has not read the predecessor's messages: no reload may start.
    pub(crate) settled: bool,
    /// A reload signal came during this reload.
    pub(crate) reload: bool,
    /// The generations that drain, oldest first; a channel to each comes along.
    pub(crate) older: Vec<Link>,
    /// The outcome of the reload, as the control socket shows it.
    pub(crate) outcome: Outcome,
}

/// What a generation leaves to its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Legacy {
    /// All that was counted, but for what draining generations have added.
    pub(crate) total: Counts,
    /// What each draining generation has added.
    pub(crate) added: Vec<(u64, Counts)>,
    /// The last reloads before this one, oldest first.
    pub(crate) reloads: Vec<Outcome>,
}

/// How a draining generation is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) generation: u64,
    pub(crate) standing: DrainingReport,
    /// All that it has counted since its commit.
    pub(crate) added: Counts,
}

/// A draining generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) generation: u64,
    pub(crate) pid: u32,
}

impl Message {
    /// The packet: the message, and behind a NUL, which no JSON text holds, whatever bytes go with it. Fails where it
    /// would be longer than a packet may be.
    pub(crate) fn encode(&self, tail: &[u8]) -> Result<Vec<u8>, Error> {
        let mut bytes = serde_json::to_vec(self).map_err(|error| Error::handover(format!("cannot encode: {error}")))?;
        if !tail.is_empty() {
            bytes.push(0);
            bytes.extend_from_slice(tail);
        }
        if bytes.len() > MESSAGE_BYTES_MAX {
            let (length, max) = (bytes.len(), MESSAGE_BYTES_MAX);
            return Err(Error::handover(format!("a message of {length} bytes is longer than the {max} allowed")));
        }
        Ok(bytes)
    }

    /// The message in a packet, and the bytes that go with it.
    pub(crate) fn decode(packet: &[u8]) -> Result<(Message, &[u8]), Error> {
        let end = packet.iter().position(|&byte| byte == 0);
        let (text, tail) = end.map_or((packet, &[][..]), |end| (&packet[..end], &packet[end + 1..]));
        serde_json::from_slice(text)
            .map(|message| (message, tail))
            .map_err(|error| Error::handover(format!("a message of {} bytes cannot be read: {error}", text.len())))
    }

    /// A Failed whose reason fits.
    pub(crate) fn failed(reason: &str) -> Message {
        let mut end = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        Message::Failed { reason: reason[..end].to_owned() }
    }

    /// The message's kind, for errors.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Message::Hello(_) => "Hello",
            Message::Listeners(_) => "Listeners",
            Message::State(_) => "State",
            Message::Given(_) => "Given",
            Message::Released { .. } => "Released",
            Message::Ready => "Ready",
            Message::Failed { .. } => "Failed",
            Message::Ping => "Ping",
            Message::Pong => "Pong",
            Message::Legacy(_) => "Legacy",
            Message::Report(_) => "Report",
            Message::Commit(_) => "Commit",
            Message::Committed => "Committed",
            Message::Settled => "Settled",
            Message::Reload => "Reload",
            Message::Stop => "Stop",
            Message::Stopping => "Stopping",
            Message::Connections(_) => "Connections",
            Message::Taken { .. } => "Taken",
            Message::Unknown => "a kind that this version does not know",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hello_survives_the_wire_and_finds_the_common_version() {
        let message = Message::Hello(Hello::new(7, "1.2.3", BTreeSet::new()));
        let packet = message.encode(&[]).unwrap();
        let (decoded, _) = Message::decode(&packet).unwrap();
        assert_eq!(decoded, message);
        let Message::Hello(hello) = decoded else { panic!("{decoded:?}") };
        assert_eq!(hello.common_version().unwrap(), 1);
    }

    #[test]
    fn no_common_version_is_an_error_that_names_both_ranges() {
        let hello = Hello { min_version: 8, max_version: 9, ..Hello::new(1, "", BTreeSet::new()) };
        let text = hello.common_version().unwrap_err().to_string();
        assert!(text.contains("1 to 1") && text.contains("8 to 9"), "{text}");
    }

    #[test]
    fn what_a_newer_version_adds_is_skipped() {
        let packet = br#"{"kind":"given","listeners":2,"reload":{"id":"a","generation":1,"pid":2,"x":1},"new":[3]}"#;
        assert!(matches!(Message::decode(packet).unwrap().0, Message::Given(given) if given.listeners == 2));
        assert_eq!(Message::decode(br#"{"kind":"song","text":"la"}"#).unwrap().0, Message::Unknown);
    }

    #[test]
    fn bytes_travel_behind_their_message_unchanged() {
        let message = Message::Connections(ConnectionsPart { batch: 1, blobs: vec![3] });
        let packet = message.encode(&[0, 255, 0]).unwrap();
        assert_eq!(Message::decode(&packet).unwrap(), (message, &[0, 255, 0][..]));
    }

    #[test]
    fn lengths_of_blobs_that_do_not_fit_are_refused_even_where_their_sum_overflows() {
        let split = |blobs: &[usize], tail: &[u8]| {
            let part = ConnectionsPart { batch: 1, blobs: blobs.to_vec() };
            part.split(tail).map(|blobs| blobs.concat())
        };
        assert_eq!(split(&[1, 0, 2], b"abc").as_deref(), Some(&b"abc"[..]));
        for lengths in [&[1, 1][..], &[4], &[usize::MAX, 4], &[2, usize::MAX, 2], &[]] {
            assert_eq!(split(lengths, b"abc"), None, "{lengths:?}");
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_not_sent() {
        let message = Message::Failed { reason: "x".repeat(MESSAGE_BYTES_MAX) };
        assert!(message.encode(&[]).is_err());
        assert!(Message::failed(&"ä".repeat(MESSAGE_BYTES_MAX)).encode(&[]).is_ok());
    }

    proptest! {
        #[test]
        fn any_reason_survives_the_wire(reason in ".{0,200}") {
            let message = Message::failed(&reason);
            let packet = message.encode(&[]).unwrap();
            prop_assert_eq!(Message::decode(&packet).unwrap().0, message);
        }
    }
}
