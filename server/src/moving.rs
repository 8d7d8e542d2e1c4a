//! A connection on its way between two generations: what travels with it, as bytes and as a descriptor.
//!
//! A JSON object with what is known of the connection, and behind a NUL, which no JSON text holds, bytes: those that belong
//! to what is under way, whose lengths the object says, and then those that were read ahead. Readers skip fields that they
//! do not know; what they must not misunderstand has a format of its own, without which the connection stays. `response` is
//! what is left of a response, and
//! `tls` how TLS goes on, which opens the connection to whoever reads it: no blob is shown or outlives its use here. Pure.

mod fields;
#[cfg(test)]
mod golden;
mod response;
mod tls;

use std::os::fd::OwnedFd;
use std::time::Duration;

use restart_core::Formats;
use restart_core::moves::{protocol_format, stream_format};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::http::plan::body_file::{BodyFile, Claim};
use crate::http::plan::rest::Tail;
use crate::http::transport::tls::secret::Secret;
use crate::http::{Moves, Security, Start, Switching, UnderWay};
use fields::{Sections, millis};
use response::ResponseDescription;
use tls::TlsDescription;

/// The format of a connection between two requests.
const IDLE: &str = "http/1";
/// That of one in the middle of a response.
const RESPONSE: &str = "response/1";
/// That of one that was upgraded.
const UPGRADED: &str = "upgraded/1";
/// That of one over TLS, beside what else it is in.
const TLS: &str = "tls/1";

/// The formats in which connections move to a program with these streams and protocols.
pub(crate) fn formats(moves: &Moves) -> Formats {
    let known = [IDLE, RESPONSE, UPGRADED, TLS].map(str::to_owned);
    known.into_iter().chain(moves.own_formats()).collect()
}

/// What kind of connection moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Between two requests, or within a head.
    Idle,
    /// In the middle of a response of known bytes.
    Response,
    /// In the middle of a registered stream.
    Stream,
    /// In a registered protocol.
    Upgraded,
}

impl Kind {
    /// How many there are.
    pub(crate) const COUNT: usize = Kind::Upgraded as usize + 1;
}

/// What travels beside the connection itself.
pub(crate) struct Packed {
    pub(crate) formats: Formats,
    /// It may open the connection to whoever reads it, and is overwritten where it does not go on.
    pub(crate) blob: Zeroizing<Vec<u8>>,
    /// The file that its response is sent from.
    pub(crate) companion: Option<OwnedFd>,
    /// The memory that this file takes up, to be kept until the connection is gone or has come back.
    pub(crate) claim: Option<Claim>,
}

/// What is known of a connection.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    /// The listener that accepted it.
    listener: String,
    /// The other end's address.
    peer: Option<String>,
    /// Whether it has an address and may be a Unix socket all the same: a PROXY header has told it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    local: bool,
    /// Whose request is under way, where a proxy has told. Who does not know of it tells the proxy's address in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    /// How many requests have been answered on it.
    requests: u64,
    /// How long ago it was accepted, in milliseconds.
    age_ms: u64,
    /// How long it has been idle, or its head under way, in milliseconds.
    #[serde(default)]
    waited_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    response: Option<ResponseDescription>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<ProtocolDescription>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<TlsDescription>,
}

/// The registered protocol that a connection goes on with.
#[derive(Debug, Serialize, Deserialize)]
struct ProtocolDescription {
    name: String,
    state_bytes: usize,
}

/// What kind of connection this is.
pub(crate) fn kind(start: &Start) -> Kind {
    match &start.under_way {
        UnderWay::Nothing => Kind::Idle,
        UnderWay::Response(unfinished) if matches!(unfinished.rest.tail, Tail::Stream { .. }) => Kind::Stream,
        UnderWay::Response(_) => Kind::Response,
        UnderWay::Protocol { .. } => Kind::Upgraded,
    }
}

/// Describes a parked connection, which was accepted so long ago. Returns the connection beside it.
pub(crate) fn pack(start: Start, age: Duration) -> (OwnedFd, Packed) {
    let Start { stream, peer, local, client, listener, read_ahead, requests, waited, under_way, security, .. } = start;
    let mut description = Description {
        listener: listener.as_deref().unwrap_or_default().to_owned(),
        local: local && peer.is_some(),
        peer,
        client,
        requests,
        age_ms: millis(age),
        waited_ms: millis(waited),
        response: None,
        protocol: None,
        tls: None,
    };
    let (mut bytes, mut companion, mut claim) = (Vec::new(), None, None);
    let mut formats: Formats = match under_way {
        UnderWay::Nothing => Formats::from([IDLE]),
        UnderWay::Response(unfinished) => {
            let stream = if let Tail::Stream { name, .. } = &unfinished.rest.tail { Some(name.clone()) } else { None };
            let (response, file) = ResponseDescription::of(*unfinished, &mut bytes);
            description.response = Some(response);
            if let Some(BodyFile { file, claim: claimed }) = file {
                (companion, claim) = (Some(file.into()), claimed);
            }
            [RESPONSE.to_owned()].into_iter().chain(stream.map(|name| stream_format(&name))).collect()
        }
        UnderWay::Protocol(switching) => {
            let Switching { name, state } = *switching;
            let formats = [UPGRADED.to_owned(), protocol_format(&name)].into_iter().collect();
            description.protocol = Some(ProtocolDescription { name, state_bytes: state.len() });
            bytes.extend(state);
            formats
        }
    };
    let mut secrets = None;
    if let Security::Established(established) = security {
        let (tls, bytes) = TlsDescription::of(*established);
        (description.tls, secrets) = (Some(tls), Some(bytes));
        formats = formats.names().chain([TLS]).collect();
    }
    let secrets = secrets.as_ref().map_or(&[][..], Secret::expose);
    let description = serde_json::to_vec(&description).expect("a description is plain data");
    // With all its room from the start: a vector that grows leaves copies behind.
    let length = description.len() + 1 + bytes.len() + secrets.len() + read_ahead.len();
    let mut blob = Zeroizing::new(Vec::with_capacity(length));
    blob.extend(description);
    blob.push(0);
    blob.extend(bytes);
    blob.extend_from_slice(secrets);
    blob.extend(read_ahead);
    (stream, Packed { formats, blob, companion, claim })
}

/// Reads what travelled with a connection, and how long ago it was accepted. An error says what cannot be read.
pub(crate) fn unpack(stream: OwnedFd, blob: &[u8], companion: Option<OwnedFd>) -> Result<(Start, Duration), String> {
    let end = blob.iter().position(|&byte| byte == 0).ok_or("its description has no end")?;
    let description: Description = serde_json::from_slice(&blob[..end]).map_err(|error| error.to_string())?;
    let mut sections = Sections::new(&blob[end + 1..]);
    let under_way = match (description.response, description.protocol) {
        (Some(response), _) => UnderWay::Response(Box::new(response.read(&mut sections, companion)?)),
        (None, Some(ProtocolDescription { name, state_bytes })) => {
            let state = sections.take(state_bytes)?.to_vec();
            UnderWay::Protocol(Box::new(Switching { name, state }))
        }
        (None, None) => UnderWay::Nothing,
    };
    let security = match description.tls {
        Some(tls) => Security::Established(Box::new(tls.read(&mut sections)?)),
        None => Security::Plain,
    };
    let start = Start {
        local: description.local || description.peer.is_none(),
        client: description.client,
        listener: Some(description.listener.into()),
        read_ahead: sections.rest().to_vec(),
        requests: description.requests,
        waited: Duration::from_millis(description.waited_ms),
        under_way,
        security,
        ..Start::new(stream, description.peer)
    };
    Ok((start, Duration::from_millis(description.age_ms)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;
    use crate::http::plan::rest::Rest;
    use crate::http::transport::secured::Sealed;
    use crate::http::transport::tls::frozen::Frozen;
    use crate::http::{Established, Piece, Reason, Tls, Unfinished};

    fn start(under_way: UnderWay, read_ahead: &[u8]) -> Start {
        let (stream, _) = UnixStream::pair().unwrap();
        Start { read_ahead: read_ahead.to_vec(), under_way, ..Start::new(stream, Some("192.0.2.1:5".to_owned())) }
    }

    fn there_and_back(start: Start) -> (Start, Formats) {
        let (stream, Packed { formats, blob, companion, .. }) = pack(start, Duration::from_secs(7));
        let (start, age) = unpack(stream, &blob, companion).unwrap();
        assert_eq!(age, Duration::from_secs(7));
        (start, formats)
    }

    fn unfinished(tail: Tail) -> UnderWay {
        let rest = Rest { unsent: b"unsent".to_vec(), tail };
        UnderWay::Response(Box::new(Unfinished { rest, close: Some(Reason::Refused(404)), account: None }))
    }

    proptest! {
        #[test]
        fn an_idle_connection_arrives_as_it_was_packed(
            listener in ".{0,20}", peer in proptest::option::of(".{0,20}"), requests: u64, waited: u32,
            read_ahead in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let (stream, _) = UnixStream::pair().unwrap();
            let waited = Duration::from_millis(waited.into());
            let listener = Some(listener.into());
            let sent = Start { listener, read_ahead, requests, waited, ..Start::new(stream, peer) };
            let expected = format!("{sent:?}");
            let (came, formats) = there_and_back(sent);
            prop_assert_eq!(formats, Formats::from([IDLE]));
            let without_fd = |text: &str| text.split_once("peer").map(|(_, rest)| rest.to_owned());
            prop_assert_eq!(without_fd(&format!("{came:?}")), without_fd(&expected));
        }

        #[test]
        fn what_cannot_be_read_is_an_error_and_no_panic(blob in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (stream, _) = UnixStream::pair().unwrap();
            let _ = unpack(stream.into(), &blob, None);
        }
    }

    #[test]
    fn a_response_arrives_with_its_pieces_its_file_and_what_was_read_ahead() {
        let file = tempfile::tempfile().unwrap();
        let pieces = vec![Piece::Memory(b"between".to_vec()), Piece::File(3..9), Piece::Memory(b"end".to_vec())];
        let tail =
            Tail::Content { file: Some(std::sync::Arc::new(BodyFile { file, claim: None })), pieces: pieces.clone() };
        let (came, formats) = there_and_back(start(unfinished(tail), b"GET / HTTP/1.1\r\n"));
        assert_eq!(formats, Formats::from([RESPONSE]));
        assert_eq!((kind(&came), &*came.read_ahead), (Kind::Response, &b"GET / HTTP/1.1\r\n"[..]));
        let UnderWay::Response(response) = came.under_way else { panic!("{came:?}") };
        assert_eq!((&*response.rest.unsent, response.close), (&b"unsent"[..], Some(Reason::Refused(404))));
        let Tail::Content { file: Some(_), pieces: arrived } = response.rest.tail else { panic!("{response:?}") };
        assert_eq!(arrived, pieces);
    }

    #[test]
    fn a_stream_and_a_protocol_need_whoever_has_their_name() {
        let tail = Tail::Stream { name: "events".into(), state: b"\0 7".to_vec(), chunked: true };
        let (came, formats) = there_and_back(start(unfinished(tail), b""));
        assert_eq!((formats, kind(&came)), (Formats::from([RESPONSE, "stream/events"]), Kind::Stream));
        let protocol = UnderWay::Protocol(Box::new(Switching { name: "chat".to_owned(), state: b"{}".to_vec() }));
        let (came, formats) = there_and_back(start(protocol, b"half a frame"));
        assert_eq!((formats, kind(&came)), (Formats::from([UPGRADED, "protocol/chat"]), Kind::Upgraded));
        assert_eq!(came.read_ahead, b"half a frame");
        let UnderWay::Protocol(switching) = came.under_way else { panic!("{came:?}") };
        assert_eq!((&*switching.name, &*switching.state), ("chat", &b"{}"[..]));
    }

    #[test]
    fn tls_goes_along_with_what_was_received_and_what_was_sealed_and_nothing_shows_it() {
        let frozen = || {
            let mut head = vec![crate::http::transport::tls::frozen::ENCODING, 13, 1, 0, 0, 0, 0, 0, 0];
            for sequence in [7, 9] {
                head.extend([0, 0, 0, 0, 0, 0, 0, sequence]);
                head.extend([sequence; 32]);
            }
            Secret::from_vec(head)
        };
        let sealed = Sealed {
            frozen: Frozen::from_bytes(&frozen()).unwrap(),
            received: b"half a record".to_vec(),
            unsent: b"sealed".to_vec(),
        };
        let tls = Tls::new("TLSv1.3", "TLS_AES_128_GCM_SHA256", Some("one.org".to_owned()), true);
        let security = Security::Established(Box::new(Established { tls: tls.clone(), sealed }));
        let (came, formats) = there_and_back(Start { security, ..start(UnderWay::Nothing, b"GET / HT") });
        assert_eq!((formats, &*came.read_ahead), (Formats::from([IDLE, TLS]), &b"GET / HT"[..]));
        let shown = format!("{came:?}");
        let Security::Established(established) = came.security else { panic!("{shown}") };
        let Established { tls: arrived, sealed: Sealed { frozen: went_on, received, unsent } } = *established;
        assert_eq!((arrived, &*received, &*unsent), (tls, &b"half a record"[..], &b"sealed"[..]));
        assert_eq!(went_on.into_bytes().expose(), frozen().expose());
        assert!(!shown.contains("frozen") && !shown.contains("unsent"), "{shown}");
    }

    #[test]
    fn what_proxies_have_said_goes_along_and_older_readers_know_whose_connection_it_is() {
        let sent = || {
            let (local, client) = (true, Some("192.0.2.7".to_owned()));
            Start { local, client, ..start(unfinished(Tail::Nothing), b"") }
        };
        let (came, formats) = there_and_back(sent());
        assert_eq!((formats, came.local, came.client.as_deref()), (Formats::from([RESPONSE]), true, Some("192.0.2.7")));
        let (_, Packed { blob, .. }) = pack(sent(), Duration::ZERO);
        let end = blob.iter().position(|&byte| byte == 0).unwrap();
        let described: serde_json::Value = serde_json::from_slice(&blob[..end]).unwrap();
        assert_eq!(described["peer"], "192.0.2.1:5", "what a PROXY header has told is in the oldest field");
    }

    #[test]
    fn a_companion_that_is_no_plain_file_is_refused() {
        let tail = |file| Tail::Content {
            file: Some(std::sync::Arc::new(BodyFile { file, claim: None })),
            pieces: vec![Piece::File(0..9)],
        };
        let file = std::fs::File::open("/dev/zero").unwrap();
        let (stream, Packed { blob, companion, .. }) = pack(start(unfinished(tail(file)), b""), Duration::ZERO);
        let error = unpack(stream.try_clone().unwrap(), &blob, companion).unwrap_err();
        assert!(error.contains("no plain file"), "{error}");
        let error = unpack(stream, &blob, None).unwrap_err();
        assert!(error.contains("without the file"), "{error}");
    }
}
