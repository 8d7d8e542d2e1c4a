//! What of a program's own can go on in another process, as hyper's responses say it.

use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Response, StatusCode};

use super::under_way::At;
use super::upgrade::Upgraded;
use crate::formats::Formats;

/// The format of a connection between two requests.
pub(super) const IDLE: &str = "http/1";

/// The streams and the protocols of a program, by name ([`moves`](crate::moves)).
pub type Moves = crate::moves::Moves<Upgraded>;

impl Moves {
    /// What has to be known in order to go on with connections of this program: for
    /// [`Builder::take_connections`](crate::Builder::take_connections).
    pub fn formats(&self) -> Formats {
        [IDLE.to_owned()].into_iter().chain(self.own_formats()).collect()
    }
}

/// That a response's body is the stream.
#[derive(Clone, Debug)]
pub(super) struct Streaming(pub(super) At);

/// That a response switches to the protocol.
#[derive(Clone, Debug)]
pub(super) struct Switching(pub(super) At);

/// The response whose body is the registered stream of this name, at this state; its length is not known, and its content
/// type is the caller's to say. Where no such stream is registered ([`Moves::stream`]), 500 is answered. Over HTTP/2 it is
/// sent as well, and does not move.
pub fn stream<B: Default>(name: &str, state: Vec<u8>) -> Response<B> {
    let mut response = Response::new(B::default());
    response.extensions_mut().insert(Streaming(At { name: name.to_owned(), state }));
    response
}

/// The response that switches to the registered protocol of this name, at this state. `token` is what the `Upgrade` header
/// calls it: one that the client has offered. Where no such protocol is registered ([`Moves::protocol`]), 500 is answered, and
/// where the client has not asked for an upgrade, 426.
pub fn switch<B: Default>(token: &'static str, name: &str, state: Vec<u8>) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(token));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.extensions_mut().insert(Switching(At { name: name.to_owned(), state }));
    response
}
