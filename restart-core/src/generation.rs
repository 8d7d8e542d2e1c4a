//! This process, as one generation of its service: what the application holds of it, once it has started.
//!
//! It only gives out what the builder has made and the driver goes on with.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::connections::Connections;
use crate::counters::Inherited;
use crate::drain::{Drain, Phase};
use crate::driver::{Driver, Exit, MainParts, Parts};
use crate::error::Error;
use crate::handover::Message;
use crate::listeners::Listener;
use crate::predecessor::{Predecessor, State};

/// This process, as one generation of its service. It has its sockets, and does not serve yet.
#[must_use = "a generation serves only while run() is polled"]
pub struct Generation {
    parts: Parts,
    predecessor: Option<Predecessor>,
    main: MainParts,
    streams: Vec<Listener>,
    state: Option<State>,
}

impl Generation {
    pub(crate) fn new(
        parts: Parts,
        predecessor: Option<Predecessor>,
        main: MainParts,
        streams: Vec<Listener>,
        state: Option<State>,
    ) -> Generation {
        Generation { parts, predecessor, main, streams, state }
    }

    /// The generation's number, from 1.
    pub fn number(&self) -> u64 {
        self.parts.number
    }

    /// All listeners for connections, but those of [`Builder::listen_as_main`](crate::Builder::listen_as_main), in the order in which they were given or asked for.
    pub fn listeners(&self) -> &[Listener] {
        &self.streams
    }

    /// The listener of this name; fails where there is none.
    pub fn listener(&self, name: &str) -> Result<Listener, Error> {
        let found = self.streams.iter().chain(&self.main.listeners).find(|listener| listener.name() == name);
        found.cloned().ok_or_else(|| Error::address(format!("there is no listener called {name:?}")))
    }

    /// A descriptor of the socket of this name, of any kind; datagram sockets are to be had only here. Fails where
    /// there is none. Every generation of the service shares the socket: reads in one take datagrams from the others.
    pub fn socket(&self, name: &str) -> Result<OwnedFd, Error> {
        let found = self.parts.sockets.iter().find(|socket| socket.name == name);
        let socket = found.ok_or_else(|| Error::address(format!("there is no socket called {name:?}")))?;
        let fd: BorrowedFd<'_> = socket.fd.as_fd();
        fd.try_clone_to_owned().map_err(|error: io::Error| Error::socket(format!("cannot use {name:?}"), error))
    }

    /// The state that the generation before saved; `None` the second time, and where none was saved.
    pub fn take_state(&mut self) -> Option<State> {
        self.state.take()
    }

    /// The handle by which connections see that this generation drains, and by which they are counted.
    pub fn drain(&self) -> Drain {
        self.parts.drain.clone()
    }

    /// The way of connections to the next generation, and from the ones before.
    pub fn connections(&self) -> Connections {
        self.parts.connections.clone()
    }

    /// What all other generations of this service have counted.
    pub fn inherited(&self) -> Inherited {
        self.parts.inherited.clone()
    }

    /// Gives up: a predecessor is told why and goes on serving. The caller ends the process.
    pub fn fail(self, reason: &str) {
        if let Some(predecessor) = &self.predecessor
            && let Err(error) = predecessor.line.channel.try_send(&Message::failed(reason), &[])
        {
            log::warn!("the predecessor could not be told that this generation failed: {error}");
        }
    }

    /// Says that the application is ready, serves signals, the control socket and the service manager, replaces this
    /// process when it is told to, and returns when the process has nothing left to do.
    ///
    /// Once it is polled, a stop makes it return; before, a stop ends the process ([`Builder::start`](crate::Builder::start)). Other signals that
    /// came before are obeyed now. It must be polled for as long as the process serves; it needs no particular executor. Listeners accept only
    /// while it runs. When it returns, connections that have not ended by the drain's deadline are still open: ending
    /// the process cuts them.
    pub fn run(self) -> impl Future<Output = Exit> + Send {
        debug_assert_eq!(self.parts.drain.phase(), Phase::Serving, "nobody else sets this phase");
        Box::new(Driver::new(self.parts, self.predecessor, self.main, self.streams)).run()
    }
}
