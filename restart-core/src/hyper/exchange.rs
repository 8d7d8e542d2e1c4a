//! One connection's requests, on their way to the service and back, and what a response goes on with.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use hyper::service::Service;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};

use super::body::{RequestBody, ResponseBody};
use super::moves::{Moves, Streaming, Switching};
use super::progress::{Progress, Served};
use super::under_way::{At, Sending, UnderWay};
use crate::address::Address;
use crate::drain::Drain;
use crate::shutdown::Shutdown;

/// A connection's service, as hyper sees it.
pub(super) struct Exchange<S> {
    pub(super) service: S,
    pub(super) moves: Arc<Moves>,
    pub(super) drain: Arc<Drain>,
    pub(super) peer: Address,
    pub(super) progress: Arc<Progress>,
}

/// It is never pinned: hyper calls it by reference.
impl<S> Unpin for Exchange<S> {}

pub(super) type Failure = Box<dyn Error + Send + Sync>;
type Answer<B> = Pin<Box<dyn Future<Output = Result<Response<ResponseBody<B>>, Failure>> + Send>>;

/// A service that a [`Server`](super::Server) can have: each of hyper's is one ([`hyper::service::Service`]) that takes
/// requests with a [`RequestBody`], can be cloned for each connection, and answers with a body of [`Bytes`]. There is
/// nothing to implement.
pub trait HttpService: Clone + Send + Sync + 'static {
    /// The body of its responses.
    type Body: Body<Data = Bytes, Error: Into<Failure>> + Send + 'static;
    /// What ends a connection where it cannot answer.
    type Error: Into<Failure>;
    /// The future of a response.
    type Answer: Future<Output = Result<Response<Self::Body>, Self::Error>> + Send + 'static;

    /// Answers a request.
    fn answer(&self, request: Request<RequestBody>) -> Self::Answer;
}

impl<S, B> HttpService for S
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Failure>,
    B: Body<Data = Bytes, Error: Into<Failure>> + Send + 'static,
{
    type Body = B;
    type Error = S::Error;
    type Answer = S::Future;

    fn answer(&self, request: Request<RequestBody>) -> S::Future {
        self.call(request)
    }
}

impl<S: HttpService> Service<Request<Incoming>> for Exchange<S> {
    type Response = Response<ResponseBody<S::Body>>;
    type Error = Failure;
    type Future = Answer<S::Body>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let asked = Asked::of(&request);
        let served = self.progress.begin(!request.body().is_end_stream());
        let mut request = request.map(|body| RequestBody::new(body, &self.progress));
        request.extensions_mut().insert(self.peer.clone());
        request.extensions_mut().insert(Shutdown::new(&self.drain));
        let answer = self.service.answer(request);
        let (moves, drain, progress) = (Arc::clone(&self.moves), Arc::clone(&self.drain), Arc::clone(&self.progress));
        Box::pin(async move {
            let response = answer.await.map_err(Into::into)?;
            if asked.is_upgraded_by(&response) {
                poll_fn(|_| progress.poll_upgrade()).await;
            }
            let response = respond(response, &asked, &moves, &drain, &progress, served);
            progress.has_unsent();
            Ok(response)
        })
    }
}

/// What of a request decides how its response goes on.
struct Asked {
    version: Version,
    is_connect: bool,
    may_upgrade: bool,
    closes: bool,
}

impl Asked {
    fn of(request: &Request<Incoming>) -> Asked {
        Asked {
            version: request.version(),
            is_connect: request.method() == Method::CONNECT,
            may_upgrade: request.extensions().get::<OnUpgrade>().is_some(),
            closes: closes(request.headers()),
        }
    }

    fn is_http2(&self) -> bool {
        self.version == Version::HTTP_2
    }

    /// Whether the service takes the connection out of hyper's hands.
    fn is_upgraded_by<B>(&self, response: &Response<B>) -> bool {
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let takes = switches || (self.is_connect && response.status().is_success());
        takes && self.may_upgrade && !self.is_http2() && response.extensions().get::<Switching>().is_none()
    }
}

fn closes(headers: &HeaderMap) -> bool {
    connection_says(headers, "close")
}

/// Whether the `Connection` header has this among its options.
pub(super) fn connection_says(headers: &HeaderMap, option: &str) -> bool {
    let lines = headers.get_all(CONNECTION).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|token| token.trim().eq_ignore_ascii_case(option))
}

/// The response as hyper is to send it.
fn respond<B>(
    mut response: Response<B>,
    asked: &Asked,
    moves: &Moves,
    drain: &Drain,
    progress: &Arc<Progress>,
    served: Served,
) -> Response<ResponseBody<B>> {
    if let Some(Switching(at)) = response.extensions_mut().remove::<Switching>() {
        if !moves.has_protocol(&at.name) {
            return failed(&format!("a switch to {:?}, which is not registered", at.name), progress, served);
        }
        if !asked.may_upgrade || asked.is_http2() {
            // The response says in `Upgrade` what would have to be asked for.
            *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
            return response.map(|_| ResponseBody::empty(progress, served));
        }
        return match progress.go_on_with(UnderWay::Protocol(at)) {
            Ok(()) => response.map(|_| ResponseBody::empty(progress, served)),
            Err(_) => failed("a switch that is none", progress, served),
        };
    }
    let Some(Streaming(at)) = response.extensions_mut().remove::<Streaming>() else {
        return response.map(|body| ResponseBody::plain(body, progress, served));
    };
    let Some(steps) = moves.steps(&at.name, at.state.clone()) else {
        return failed(&format!("the stream {:?}, which is not registered", at.name), progress, served);
    };
    // How long it is nobody knows.
    response.headers_mut().remove(CONTENT_LENGTH);
    response.headers_mut().remove(TRANSFER_ENCODING);
    let next = UnderWay::Stream(stream_of(at, asked, &response));
    if asked.is_http2() || progress.go_on_with(next).is_err() {
        return response.map(|_| ResponseBody::made(steps, drain, progress, served));
    }
    response.map(|_| ResponseBody::held(progress, served))
}

/// A stream that begins behind its head, which hyper has framed by the version.
fn stream_of<B>(at: At, asked: &Asked, response: &Response<B>) -> Sending {
    let chunked = asked.version == Version::HTTP_11;
    Sending { at, unsent: vec![], chunked, keep: chunked && !asked.closes && !closes(response.headers()) }
}

fn failed<B>(why: &str, progress: &Arc<Progress>, served: Served) -> Response<ResponseBody<B>> {
    log::error!("a handler answers with {why}: the client gets 500");
    let mut response = Response::new(ResponseBody::empty(progress, served));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}
