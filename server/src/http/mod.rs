//! The HTTP/1.1 layer: serves one connection, request by request, from accept to close or hand-over.
//!
//! [`serve`] is the entry: it takes a connection as a [`Start`] and returns how it came to its [`End`]. A handler gets
//! `http_types` requests, each with its peer address and, in `ext`, the raw [`Target`]; it never sees a malformed one.
//! The layer decides on framing, limits, timeouts and when a connection is closed. It accepts nothing and spawns
//! nothing: whoever calls it does.
//!
//! The Host header that a handler gets is the host that the request is for, as it was sent: of the target if that has one.
//! The host in the request's URL is what the library of URLs makes of it: in lower case, a number as an address. A name
//! that it does not take, although RFC 3986 does (`web.1`, `xn--a`), stands there as `host.invalid`.
//!
//! A client that may be answered by a switch of protocols is recognised by its `Upgrade` header: one that has to be
//! ignored (RFC 9110 section 7.8), or that comes with a body, never reaches the handler. The handler answers with status
//! 101, the `Upgrade` header, and `Response::recv_upgrade`, which gives it the connection as a stream. The connection
//! lasts until it drops the stream, or until the drain's deadline, where the stream ends; the request's `ext` has the
//! [`Drain`] by which it learns of both. It is never handed over, and none of the [`Limits`] holds for it any more.

mod capacity;
mod connection;
mod limits;
mod observe;
mod upgrade;
pub(crate) mod wire;

use std::fmt;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use http_types::headers::{HeaderName, HeaderValue};
use http_types::{Request, Response};

pub use capacity::Capacity;
pub use connection::serve;
pub use limits::{LEAST_BYTES_PER_SECOND, Limits};
pub use observe::{Observe, Served};
pub use restart_core::{Drain, Phase};
pub use wire::target::Target;

/// Headers for a response, made from its request: what a [`Decorate`] returns.
pub type Decoration = Vec<(HeaderName, HeaderValue)>;

/// A function that makes headers for a response from its request, or from nothing if there is none.
pub type Decorate = Box<dyn Fn(Option<&Request>) -> Decoration + Send + Sync>;

/// What all connections of a server share.
pub struct Context<H> {
    /// Answers requests. It may fail or panic: then 500 (or the error's own 4xx or 5xx) is answered.
    pub handler: H,
    /// The bounds that connections are held to.
    pub limits: Limits,
    /// How many requests are handled at a time.
    pub capacity: Arc<Capacity>,
    /// Where the process stands: serving, draining or stopping.
    pub drain: Drain,
    /// Whether idle connections end as [`End::Parked`] once the process drains, to be handed over. Otherwise they stay,
    /// and their next response says `Connection: close`.
    pub parks: bool,
    /// Gives headers for every response, also for those that the handler does not make. It is called before the
    /// handler, with the request, and with nothing for what never became one.
    pub decorate: Option<Decorate>,
    /// Each of these is told of every request that is over.
    pub observers: Vec<Observe>,
}

impl<H> Context<H> {
    /// A context with default limits and room for any number of requests, which parks and decorates nothing, and
    /// tells nobody.
    pub fn new(handler: H, drain: Drain) -> Context<H> {
        Context {
            handler,
            limits: Limits::default(),
            capacity: Arc::default(),
            drain,
            parks: false,
            decorate: None,
            observers: Vec::new(),
        }
    }
}

impl<H> fmt::Debug for Context<H> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Context")
            .field("limits", &self.limits)
            .field("drain", &self.drain)
            .field("parks", &self.parks)
            .finish_non_exhaustive()
    }
}

/// A connection that is to be served: newly accepted, or parked before.
#[derive(Debug)]
pub struct Start {
    /// A connected stream socket, TCP or Unix. A TCP one wants `TCP_NODELAY`, or the ends of long responses are late.
    pub stream: OwnedFd,
    /// Who is at the other end, for the request's `peer_addr`.
    pub peer: Option<String>,
    /// The name of the listener that accepted it, for the observers.
    pub listener: Option<Arc<str>>,
    /// What was received already and belongs to no finished request; it may be half a head.
    pub read_ahead: Vec<u8>,
    /// How many requests were answered on it before.
    pub requests: u64,
    /// How long it has been idle, or the head in `read_ahead` under way: that much of the timeout is used up.
    pub waited: Duration,
    /// The drain, as its [`Drain::changes`], in which it was parked and nobody took it: in this one it does not park again.
    pub declined: Option<usize>,
}

impl Start {
    /// A connection that was just accepted.
    pub fn new(stream: impl Into<OwnedFd>, peer: Option<String>) -> Start {
        Start {
            stream: stream.into(),
            peer,
            listener: None,
            read_ahead: Vec::new(),
            requests: 0,
            waited: Duration::ZERO,
            declined: None,
        }
    }
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
    /// It is idle while the process drains, and can be served elsewhere.
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
    /// The operating system refused something.
    Failed,
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
            Reason::Failed => "failed",
        })
    }
}

/// What a handler is: any function from request to response that can be shared between threads.
///
/// Under [`run`](crate::run) a handler that blocks, or computes for long, takes up one of the threads (`--threads`). When
/// all are taken up, everybody waits: what takes long without waiting belongs into `smol::unblock`.
///
/// Where the client is gone (reset, or closed in both directions) before the handler has answered, or while the body that
/// it gave has nothing to give, its future and the body are dropped: what has to be finished all the same belongs into a
/// task of its own. A client that only sends no more is answered.
///
/// It is implemented for every `Fn(Request) -> impl Future<Output = http_types::Result<Response>> + Send`.
pub trait Handler: Send + Sync {
    /// Answers a request.
    fn answer(&self, request: Request) -> impl Future<Output = http_types::Result<Response>> + Send;
}

impl<H, F> Handler for H
where
    H: Fn(Request) -> F + Send + Sync,
    F: Future<Output = http_types::Result<Response>> + Send,
{
    fn answer(&self, request: Request) -> impl Future<Output = http_types::Result<Response>> + Send {
        self(request)
    }
}
