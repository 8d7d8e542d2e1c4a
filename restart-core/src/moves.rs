//! What of a program's own can go on in another process: streams and protocols, each registered under a name.
//!
//! A name stands for how its state is to be read, in all versions of the program: a state that older versions would
//! misunderstand wants a new name. A connection moves only to a process that has the name.
//!
//! Whoever serves connections has these as they are, for an upgraded connection of its own kind: `server::http::Moves`, and
//! `restart_core::hyper::Moves` with the feature `hyper`. How steps are framed, and how a state travels, is its matter.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// What one step of a stream gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// The bytes that the client gets. None at all are allowed: then only the state is another one.
    pub bytes: Vec<u8>,
    /// From what the next step is made, here or in another process.
    pub state: Vec<u8>,
}

impl Step {
    /// A step that gives the client these bytes, and is followed by one that is made from this state.
    pub fn new(bytes: Vec<u8>, state: Vec<u8>) -> Step {
        Step { bytes, state }
    }
}

/// How a registered protocol leaves a connection.
#[derive(Debug)]
pub enum Leave {
    /// It is over: the connection is closed.
    Close,
    /// It goes on from this state: in the newest process if there is one that has the protocol, else here, where it is
    /// called again. To be returned once the connection's `moves()` is ready, at a point of its own choosing.
    Move {
        /// What it goes on from. With what is unread, here and on the way, at most 48 KiB: more stays in this process.
        state: Vec<u8>,
        /// Bytes that were read from the stream and belong to what is still to come: they are read again.
        unread: Vec<u8>,
    },
}

/// What the future of a step gives: nothing at the end of the stream.
type Stepped = Pin<Box<dyn Future<Output = io::Result<Option<Step>>> + Send>>;
/// Makes the next step from a state.
type MakeStep = Arc<dyn Fn(Vec<u8>) -> Stepped + Send + Sync>;
/// Serves an upgraded connection from a state, and says how it leaves it.
pub type Protocol<U> = Arc<dyn Fn(U, Vec<u8>) -> Pin<Box<dyn Future<Output = Leave> + Send>> + Send + Sync>;

/// A registered stream: how its steps are made, and whether it goes on for ever.
#[derive(Clone)]
struct Registered {
    make: MakeStep,
    /// It has no end of its own: where it would be cut, it can as well be ended in order, and its client comes back.
    is_endless: bool,
}

/// The streams and the protocols of a program, by name; `U` is the connection that a protocol gets. Clones share them.
pub struct Moves<U> {
    streams: BTreeMap<Arc<str>, Registered>,
    protocols: BTreeMap<Arc<str>, Protocol<U>>,
}

/// What a program registers.
impl<U> Moves<U> {
    /// Nothing is registered: only what the server knows by itself can move.
    pub fn new() -> Moves<U> {
        Moves { streams: BTreeMap::new(), protocols: BTreeMap::new() }
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
    pub fn stream<F>(self, name: &str, step: impl Fn(Vec<u8>) -> F + Send + Sync + 'static) -> Moves<U>
    where
        F: Future<Output = io::Result<Option<Step>>> + Send + 'static,
    {
        self.register(name, step, false)
    }

    /// Registers a stream without an end of its own, such as one of events. In all it is as [`stream`](Moves::stream) has
    /// it, but where it would be cut at the deadline of a drain or a stop, it ends before, in order and at a time of its
    /// own: to its client it is over, who comes back for more. What a client would take for complete is not of this kind.
    #[must_use]
    pub fn endless_stream<F>(self, name: &str, step: impl Fn(Vec<u8>) -> F + Send + Sync + 'static) -> Moves<U>
    where
        F: Future<Output = io::Result<Option<Step>>> + Send + 'static,
    {
        self.register(name, step, true)
    }

    fn register<F>(
        mut self,
        name: &str,
        step: impl Fn(Vec<u8>) -> F + Send + Sync + 'static,
        is_endless: bool,
    ) -> Moves<U>
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
    pub fn protocol<F>(mut self, name: &str, serve: impl Fn(U, Vec<u8>) -> F + Send + Sync + 'static) -> Moves<U>
    where
        F: Future<Output = Leave> + Send + 'static,
    {
        self.protocols.insert(name.into(), Arc::new(move |stream, state| Box::pin(serve(stream, state))));
        self
    }
}

/// What whoever serves connections looks up.
impl<U> Moves<U> {
    /// The formats of all that is registered, without what the server knows by itself.
    pub fn own_formats(&self) -> Vec<String> {
        let streams = self.streams.keys().map(|name| stream_format(name));
        streams.chain(self.protocols.keys().map(|name| protocol_format(name))).collect()
    }

    /// Whether a stream is registered under this name.
    pub fn has_stream(&self, name: &str) -> bool {
        self.streams.contains_key(name)
    }

    /// Whether a protocol is registered under this name.
    pub fn has_protocol(&self, name: &str) -> bool {
        self.protocols.contains_key(name)
    }

    /// The steps of the stream of this name, from a state on; nothing where there is no such stream.
    pub fn steps(&self, name: &str, state: Vec<u8>) -> Option<Steps> {
        let (name, registered) = self.streams.get_key_value(name)?;
        Some(Steps { name: Arc::clone(name), state, registered: registered.clone(), running: None })
    }

    /// The protocol of this name; nothing where there is no such protocol.
    pub fn protocol_named(&self, name: &str) -> Option<Protocol<U>> {
        self.protocols.get(name).cloned()
    }
}

impl<U> Clone for Moves<U> {
    fn clone(&self) -> Moves<U> {
        Moves { streams: self.streams.clone(), protocols: self.protocols.clone() }
    }
}

impl<U> Default for Moves<U> {
    fn default() -> Moves<U> {
        Moves::new()
    }
}

impl<U> fmt::Debug for Moves<U> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Moves")
            .field("streams", &self.streams.keys())
            .field("protocols", &self.protocols.keys())
            .finish()
    }
}

/// The format of a stream of this name.
pub fn stream_format(name: &str) -> String {
    format!("stream/{name}")
}

/// The format of a protocol of this name.
pub fn protocol_format(name: &str) -> String {
    format!("protocol/{name}")
}

/// The steps of a registered stream, from a state on ([`Moves::steps`]).
pub struct Steps {
    name: Arc<str>,
    state: Vec<u8>,
    registered: Registered,
    running: Option<Stepped>,
}

impl Steps {
    /// The name, and the state that the next step is made from. One that is being waited for is made anew elsewhere.
    pub fn into_parts(self) -> (Arc<str>, Vec<u8>) {
        (self.name, self.state)
    }

    /// Whether the stream has no end of its own ([`Moves::endless_stream`]).
    pub fn is_endless(&self) -> bool {
        self.registered.is_endless
    }

    /// The state that the next step is made from.
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// Waits for the bytes of the next step, which may be none. There is no step at the end. An error cuts the stream.
    pub fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        let running = self.running.get_or_insert_with(|| (self.registered.make)(self.state.clone()));
        let stepped = ready!(running.as_mut().poll(context));
        self.running = None;
        Poll::Ready(stepped.map(|step| {
            let Step { bytes, state } = step?;
            self.state = state;
            Some(bytes)
        }))
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Steps").field("name", &self.name).finish_non_exhaustive()
    }
}
