//! What of a program's own can go on in another process: streams and protocols, each registered under a name.
//!
//! A name stands for how its state is to be read, in all versions of the program: a state that older versions would
//! misunderstand wants a new name. A connection moves only to a process that has the name.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Response, StatusCode};

use super::under_way::At;
use super::upgrade::Upgraded;
use crate::formats::Formats;

/// The format of a connection between two requests.
pub(super) const IDLE: &str = "http/1";

/// What one step of a stream gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The bytes that the client gets. None at all are allowed: then only the state is another one.
    pub bytes: Vec<u8>,
    /// From what the next step is made, here or in another process.
    pub state: Vec<u8>,
}

/// How a registered protocol leaves a connection.
#[derive(Debug)]
pub enum Leave {
    /// It is over: the connection is closed.
    Close,
    /// It goes on from this state: in the newest process if there is one that has the protocol, else here, where it is
    /// called again. To be returned once [`Upgraded::moves`] is ready, at a point of its own choosing.
    Move {
        /// What it goes on from. With what is unread, here and on the way, at most 48 KiB: more stays in this process.
        state: Vec<u8>,
        /// Bytes that were read from the stream and belong to what is still to come: they are read again.
        unread: Vec<u8>,
    },
}

/// What the future of a step gives: nothing at the end of the stream.
pub(super) type Stepped = Pin<Box<dyn Future<Output = io::Result<Option<Step>>> + Send>>;
/// Makes the next step from a state.
pub(super) type MakeStep = Arc<dyn Fn(Vec<u8>) -> Stepped + Send + Sync>;
/// Serves a connection from a state.
type Serve = Arc<dyn Fn(Upgraded, Vec<u8>) -> Pin<Box<dyn Future<Output = Leave> + Send>> + Send + Sync>;

/// A registered stream: how its steps are made, and whether it goes on for ever.
#[derive(Clone)]
pub(super) struct Registered {
    pub(super) make: MakeStep,
    /// It has no end of its own: where it would be cut, it can as well be ended in order, and its client comes back.
    pub(super) is_endless: bool,
}

/// The streams and the protocols of a program, by name. Clones share them.
#[derive(Clone, Default)]
pub struct Moves {
    streams: BTreeMap<Arc<str>, Registered>,
    protocols: BTreeMap<Arc<str>, Serve>,
}

impl Moves {
    /// Nothing is registered: only connections between two requests can move.
    pub fn new() -> Moves {
        Moves::default()
    }

    /// Registers a stream: `step` makes the next bytes and the next state from a state, or says that the stream ends. An
    /// error cuts it.
    ///
    /// A step that is still waited for when the connection moves is dropped, and made anew from the same state in the next
    /// process: what it waits for belongs into the state (a time at which it is due, an id from which it goes on).
    /// What the client has not taken of a step's bytes travels if it is little, and is waited for if it is more than 16 KiB.
    /// A state has at most 16 KiB, or the stream stays. A name has at most 57 bytes.
    ///
    /// Where no other process takes it, it is cut at the deadline of a drain or a stop, so that its client does not take a
    /// part for the whole. One without an end of its own is for [`endless_stream`](Moves::endless_stream).
    #[must_use]
    pub fn stream<F>(self, name: &str, step: impl Fn(Vec<u8>) -> F + Send + Sync + 'static) -> Moves
    where
        F: Future<Output = io::Result<Option<Step>>> + Send + 'static,
    {
        self.register(name, step, false)
    }

    /// Registers a stream without an end of its own, such as one of events. In all it is as [`stream`](Moves::stream) has
    /// it, but where it would be cut at the deadline of a drain or a stop, it ends before, in order and at a time of its
    /// own: to its client it is over, who comes back for more. What a client would take for complete is not of this kind.
    #[must_use]
    pub fn endless_stream<F>(self, name: &str, step: impl Fn(Vec<u8>) -> F + Send + Sync + 'static) -> Moves
    where
        F: Future<Output = io::Result<Option<Step>>> + Send + 'static,
    {
        self.register(name, step, true)
    }

    fn register<F>(mut self, name: &str, step: impl Fn(Vec<u8>) -> F + Send + Sync + 'static, is_endless: bool) -> Moves
    where
        F: Future<Output = io::Result<Option<Step>>> + Send + 'static,
    {
        let make: MakeStep = Arc::new(move |state| Box::pin(step(state)));
        self.streams.insert(name.into(), Registered { make, is_endless });
        self
    }

    /// Registers a protocol to switch to: `serve` serves a connection from a state, and says how it leaves it.
    ///
    /// It is called once after the switch, and again wherever the connection goes on after a [`Leave::Move`], which may be
    /// this process. Where no process takes it, `upgraded.shutdown().stopping()` is ready shortly before the connection is
    /// cut, for a goodbye. A name has at most 55 bytes.
    #[must_use]
    pub fn protocol<F>(mut self, name: &str, serve: impl Fn(Upgraded, Vec<u8>) -> F + Send + Sync + 'static) -> Moves
    where
        F: Future<Output = Leave> + Send + 'static,
    {
        self.protocols.insert(name.into(), Arc::new(move |stream, state| Box::pin(serve(stream, state))));
        self
    }

    /// What has to be known in order to go on with connections of this program: for
    /// [`Builder::take_connections`](crate::Builder::take_connections).
    pub fn formats(&self) -> Formats {
        let streams = self.streams.keys().map(|name| stream_format(name));
        let protocols = self.protocols.keys().map(|name| protocol_format(name));
        [IDLE.to_owned()].into_iter().chain(streams).chain(protocols).collect()
    }

    pub(super) fn stream_named(&self, name: &str) -> Option<Registered> {
        self.streams.get(name).cloned()
    }

    pub(super) fn protocol_named(&self, name: &str) -> Option<Serve> {
        self.protocols.get(name).cloned()
    }
}

impl fmt::Debug for Moves {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Moves")
            .field("streams", &self.streams.keys())
            .field("protocols", &self.protocols.keys())
            .finish()
    }
}

/// The format of a stream of this name.
pub(super) fn stream_format(name: &str) -> String {
    format!("stream/{name}")
}

/// The format of a protocol of this name.
pub(super) fn protocol_format(name: &str) -> String {
    format!("protocol/{name}")
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
/// calls it: one that the client has offered. Where no such protocol is registered ([`Moves::protocol`]), or the client has
/// not asked for an upgrade, 500 is answered.
pub fn switch<B: Default>(token: &'static str, name: &str, state: Vec<u8>) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(token));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.extensions_mut().insert(Switching(At { name: name.to_owned(), state }));
    response
}
