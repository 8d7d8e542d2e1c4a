//! How a connection comes to be served, and how it comes to its end.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::observe::Account;
use super::plan::rest::Rest;
use super::security::Security;
use super::upgrade::Switching;

/// A connection that is to be served: newly accepted, or parked before.
#[derive(Debug)]
pub struct Start {
    /// A connected stream socket, TCP or Unix. A TCP one wants `TCP_NODELAY`, or the ends of long responses are late.
    pub stream: OwnedFd,
    /// Who is at the other end, for the request's `peer_addr`.
    pub peer: Option<String>,
    /// Whether it may be a Unix socket, with which descriptors can come.
    pub local: bool,
    /// Whose request is under way, where a proxy in front has told: their address, in the place of `peer`.
    pub client: Option<String>,
    /// The name of the listener that accepted it, for the observers.
    pub listener: Option<Arc<str>>,
    /// Whether TLS is spoken on it.
    pub security: Security,
    /// What was received already and belongs to no finished request; it may be half a head.
    pub read_ahead: Vec<u8>,
    /// How many requests were answered on it before.
    pub requests: u64,
    /// How long it has been idle, or the head in `read_ahead` under way: that much of the timeout is used up.
    pub waited: Duration,
    /// What was under way when it was parked: nothing, where it is idle or within a head.
    pub under_way: UnderWay,
    /// The drain, as its [`Drain::changes`](restart_core::Drain::changes), in which it was parked and nobody took it: in this one it does not park again.
    pub declined: Option<usize>,
}

impl Start {
    /// A connection that was just accepted.
    pub fn new(stream: impl Into<OwnedFd>, peer: Option<String>) -> Start {
        Start {
            stream: stream.into(),
            // Only clients on a Unix socket have no address.
            local: peer.is_none(),
            peer,
            client: None,
            listener: None,
            security: Security::Plain,
            read_ahead: Vec::new(),
            requests: 0,
            waited: Duration::ZERO,
            under_way: UnderWay::Nothing,
            declined: None,
        }
    }
}

/// What was under way on a connection when it was parked.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum UnderWay {
    /// Nothing, or half a head.
    #[default]
    Nothing,
    /// A response, of which the rest is known.
    Response(Box<Unfinished>),
    /// A registered protocol.
    Protocol(Box<Switching>),
}

/// A response that is to be finished elsewhere.
#[derive(Debug)]
pub struct Unfinished {
    pub(crate) rest: Rest,
    /// Why the connection closes after it, if it does. Its head has said so.
    pub(crate) close: Option<Reason>,
    /// What will be told of the request.
    pub(crate) account: Option<Box<Account>>,
}

/// How a connection ended. Each ends in exactly one of these ways.
#[derive(Debug)]
pub enum End {
    /// The client closed or reset it, between requests or within one.
    Client {
        /// How many requests were answered on it.
        requests: u64,
    },
    /// We closed it.
    Server {
        /// Why.
        reason: Reason,
        /// How many requests were answered on it.
        requests: u64,
    },
    /// The process drains, and it can be served elsewhere.
    Parked(Start),
}

/// Why we closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The client asked for it: `Connection: close`, or HTTP/1.0.
    Asked,
    /// The handler asked for it, dropped an upgraded connection, or its response to an HTTP/1.0 request ends with it.
    Handler,
    /// A newer generation serves.
    Draining,
    /// The service stops.
    Stopping,
    /// The drain's deadline passed, and a request was under way, or the client had nowhere to go.
    DrainDeadline,
    /// The drain's deadline passed, and the connection was upgraded.
    Upgraded,
    /// Nothing was requested for too long.
    IdleTimeout,
    /// It was idle, within a head or slow, and other clients waited for room.
    Crowded,
    /// Its client had as many connections as one may have.
    Share,
    /// The client took its response too slowly, or no byte of it for too long.
    WriteTimeout,
    /// A request was refused with this status: malformed, over a limit, or too slow (408).
    Refused(u16),
    /// The handler left a body unread that was too long to be read for nothing.
    Unread,
    /// The handler's response failed, or had another length than it declared.
    Broken,
    /// No TLS handshake came to its end: it failed, or took too long.
    Handshake,
    /// No PROXY header came from somebody who had to send one, or none that could be read; or one who may not has connected.
    ProxyHeader,
    /// The operating system refused something.
    Failed,
}

impl Reason {
    /// The reason of this name, as it is shown. Nothing if it is none.
    pub(crate) fn named(name: &str) -> Option<Reason> {
        use Reason::{
            Asked, Broken, Crowded, DrainDeadline, Draining, Failed, Handler, Handshake, IdleTimeout, ProxyHeader,
            Share, Stopping, Unread, Upgraded, WriteTimeout,
        };
        if let Some(status) = name.strip_prefix("refused ") {
            return status.parse().ok().map(Reason::Refused);
        }
        let all = [
            Asked,
            Broken,
            Crowded,
            DrainDeadline,
            Draining,
            Failed,
            Handler,
            Handshake,
            IdleTimeout,
            ProxyHeader,
            Share,
            Stopping,
            Unread,
            Upgraded,
            WriteTimeout,
        ];
        all.into_iter().find(|reason| reason.to_string() == name)
    }
}

impl fmt::Display for Reason {
    /// A few words, the same for ever: they are keys in the status.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Reason::Asked => "asked",
            Reason::Handler => "handler",
            Reason::Draining => "draining",
            Reason::Stopping => "stopping",
            Reason::DrainDeadline => "drain deadline",
            Reason::Upgraded => "upgraded",
            Reason::IdleTimeout => "idle timeout",
            Reason::Crowded => "made room",
            Reason::Share => "client's share",
            Reason::WriteTimeout => "write timeout",
            Reason::Refused(status) => return write!(out, "refused {status}"),
            Reason::Unread => "unread body",
            Reason::Broken => "broken response",
            Reason::Handshake => "TLS handshake",
            Reason::ProxyHeader => "PROXY header",
            Reason::Failed => "failed",
        })
    }
}
