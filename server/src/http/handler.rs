//! What a program gives to its connections: the handler that answers requests, and all that they share beside it.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};

use http_types::headers::{HeaderName, HeaderValue};
use http_types::{Request, Response};
use restart_core::Drain;

use super::capacity::Capacity;
use super::limits::Limits;
use super::moves::Moves;
use super::observe::Observe;
use super::security::Handshakes;
use super::trust::Trust;
use crate::per_team::PerTeam;
use crate::waits::Waits;

/// Headers for a response, made from its request: what a [`Decorate`] returns.
pub type Decoration = Vec<(HeaderName, HeaderValue)>;

/// A function that makes headers for a response from its request, or from nothing if there is none.
pub type Decorate = Box<dyn Fn(Option<&Request>) -> Decoration + Send + Sync>;

/// A function that answers a request in the handler's place, or leaves it to the handler by returning nothing.
pub type Screen = Box<dyn Fn(&Request) -> Option<Response> + Send + Sync>;

/// A place that a request takes up as one of its client's, as long as this lives.
pub(crate) type Place = Box<dyn Any + Send>;

/// A function that gives a request its place among those of its client, whose address a proxy has told. It gives none where
/// there are too many, unless the request is under way already.
pub(crate) type Share = Box<dyn Fn(&str, bool) -> Option<Place> + Send + Sync>;

/// Who brought a request: in its `ext`, where that is a trusted proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxied {
    pub(crate) proxy: Option<String>,
}

impl Proxied {
    /// Whether a trusted proxy has brought this request and says that it took it by HTTPS.
    pub(crate) fn by_https(request: &Request) -> bool {
        request.ext().get::<Proxied>().is_some() && request.url().scheme() == "https"
    }

    /// The proxy's own address; nothing if it came by a Unix socket.
    pub fn proxy(&self) -> Option<&str> {
        self.proxy.as_deref()
    }
}

/// What all connections of a server share.
pub struct Context<H> {
    /// Answers requests. It may fail or panic: then 500 (or the error's own 4xx or 5xx) is answered.
    pub handler: H,
    /// The bounds that connections are held to.
    pub limits: Limits,
    /// How many requests are handled at a time.
    pub capacity: Arc<Capacity>,
    /// How many TLS handshakes are held at a time, and for how long.
    pub handshakes: Arc<Handshakes>,
    /// Where the process stands: serving, draining or stopping.
    pub drain: Drain,
    /// Whether connections end as [`End::Parked`](super::End::Parked) once the process drains, to be handed over: those that
    /// are idle, and those whose response can be finished elsewhere. Otherwise they stay, and their next response says
    /// `Connection: close`.
    pub parks: bool,
    /// The streams and protocols that can go on in another process.
    pub moves: Moves,
    /// Gives headers for every response, also for those that the handler does not make. It is called before the
    /// handler, with the request, and with nothing for what never became one.
    pub decorate: Option<Decorate>,
    /// Headers for every response over TLS, also where what came is no request: browsers have to know what holds there. They
    /// are for those as well that a trusted proxy passes on by HTTPS.
    pub secured: Decoration,
    /// Sees each request before the handler does. Its answer is decorated like any other.
    pub screen: Option<Screen>,
    /// For each team a clone of `drain`, made when it is first wanted.
    pub(crate) drains: PerTeam<OnceLock<Arc<Drain>>>,
    /// The proxies whose word counts on where a client is.
    pub trust: Option<Trust>,
    /// Where requests that proxies bring count for their clients.
    pub(crate) share: Option<Share>,
    /// What is under way, for whoever asks what this process waits for.
    pub(crate) waits: Option<Arc<Waits>>,
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
            handshakes: Arc::default(),
            drain,
            parks: false,
            moves: Moves::new(),
            screen: None,
            drains: PerTeam::default(),
            trust: None,
            share: None,
            waits: None,
            decorate: None,
            secured: Decoration::new(),
            observers: Vec::new(),
        }
    }

    /// The drain, in a clone whose clones are counted where no other team looks.
    pub(super) fn own_drain(&self) -> &Arc<Drain> {
        self.drains.own().get_or_init(|| Arc::new(self.drain.clone()))
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

/// What a handler is: any function from request to response that can be shared between threads.
///
/// Under [`run`](crate::run) a handler that blocks, or computes for long, takes up one of the threads (`--threads`). When
/// all are taken up, everybody waits: what takes long without waiting belongs into `smol::unblock`.
///
/// Where the client is gone (reset, or closed in both directions) before the handler has answered, or while the body that
/// it gave has nothing to give, its future and the body are dropped: what has to be finished all the same belongs into a
/// task of its own. A client that only sends no more is answered.
///
/// A `content-type` is best inserted before the body is set: where there is none, `http-types` writes down the body's, which
/// takes a twentieth of the instructions of a small request.
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
