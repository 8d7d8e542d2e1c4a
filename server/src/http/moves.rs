//! What of a program's own can go on in another process: streams and protocols, each registered under a name.
//!
//! A name stands for how its state is to be read, in all versions of the program: a state that older versions would
//! misunderstand wants a new name. A connection moves only to a process that has the name.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;

use http_types::Response;

use super::plan::stream::{MakeStep, Registered, Step, streaming};
use super::upgrade::{Leave, Serve, Switching, Upgraded};

/// The streams and the protocols of a program, by name. Clones share them.
#[derive(Clone, Default)]
pub struct Moves {
    streams: BTreeMap<Arc<str>, Registered>,
    protocols: BTreeMap<Arc<str>, Serve>,
}

impl Moves {
    /// Nothing is registered: only what the server knows by itself can move.
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
    /// A stream that no other process takes is ended between two steps, as if it had come to its end: shortly before the
    /// drain's deadline, and within 3 s of a stop.
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

    /// What is wrong with a response that wants what is not registered, if anything is.
    pub(super) fn check(&self, response: &Response) -> Result<(), &'static str> {
        let stream = streaming(response).and_then(|stream| Some(stream.value().as_ref()?.name.clone()));
        if stream.is_some_and(|name| !self.streams.contains_key(&*name)) {
            return Err("a stream that is not registered");
        }
        let switching = response.ext().get::<Switching>();
        if switching.is_some_and(|switching| !self.protocols.contains_key(&*switching.name)) {
            return Err("a switch to a protocol that is not registered");
        }
        Ok(())
    }

    pub(super) fn stream_named(&self, name: &str) -> Option<Registered> {
        self.streams.get(name).cloned()
    }

    pub(super) fn protocol_named(&self, name: &str) -> Option<Serve> {
        self.protocols.get(name).cloned()
    }

    /// What has to be known in order to go on with each of them.
    pub(crate) fn formats(&self) -> Vec<String> {
        let streams = self.streams.keys().map(|name| stream_format(name));
        streams.chain(self.protocols.keys().map(|name| protocol_format(name))).collect()
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
pub(crate) fn stream_format(name: &str) -> String {
    format!("stream/{name}")
}

/// The format of a protocol of this name.
pub(crate) fn protocol_format(name: &str) -> String {
    format!("protocol/{name}")
}
