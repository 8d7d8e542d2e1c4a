//! This process, as one generation of its service: what the application holds of it, and asks it for.
//!
//! It only gives out what the builder has made, and passes on to the driver what the application says and asks. It
//! decides nothing, and works from any task: clones share everything.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use async_io::Timer;
use futures_lite::future;

use crate::connections::Connections;
use crate::control::{Answer, Command, Reply, Request, Status, new_id};
use crate::counters::Inherited;
use crate::drain::Drain;
use crate::error::Error;
use crate::handover::{Channel, Message};
use crate::listeners::{Listener, Socket};
use crate::lock::lock;
use crate::predecessor::State;
use crate::progress::{DRIVEN, ENDED, MAIN, Progress, READY};

/// So long a listener may wait for its first `accept`, and what is asked for the driver's first poll.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);
/// What the application says and asks, and the driver has not taken yet.
const ASKS_MAX: usize = 64;

/// What the application says to the driver.
#[derive(Debug)]
pub(crate) enum Ask {
    /// It is ready.
    Ready,
    /// It gives up, for this reason.
    Fail(String),
    /// What a client on the control socket could ask as well.
    Command(Command),
}

/// This process, as one generation of its service; clones are handles on the same.
///
/// It comes with its [`Driver`](crate::Driver), which has to be polled from the start. It has its sockets, and accepts
/// nothing before the application says that it is [`ready`](Generation::ready). Where the last handle is dropped
/// without that word, the application has given up, as by [`fail`](Generation::fail).
#[derive(Clone)]
pub struct Generation {
    shared: Arc<Shared>,
}

/// What all handles share.
pub(crate) struct Shared {
    pub(crate) number: u64,
    pub(crate) drain: Drain,
    pub(crate) connections: Connections,
    pub(crate) inherited: Inherited,
    /// Those of the driver, which gives up what nobody wants any more.
    pub(crate) sockets: Arc<Mutex<Vec<Socket>>>,
    pub(crate) listeners: Vec<Listener>,
    /// Those on which only the main process accepts.
    pub(crate) main_listeners: Vec<Listener>,
    pub(crate) state: Mutex<Option<State>>,
    /// The line to the predecessor, for a word before the driver is polled. The driver keeps it, for as long as it means
    /// something: a handle that lives on holds no descriptor.
    pub(crate) predecessor: Weak<Channel>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) asks: Sender<Ask>,
}

/// The way of what the application says to its driver, which sees it close when the last handle is dropped.
pub(crate) fn asking() -> (Sender<Ask>, Receiver<Ask>) {
    async_channel::bounded(ASKS_MAX)
}

impl fmt::Debug for Generation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { number, listeners, .. } = &*self.shared;
        out.debug_struct("Generation").field("number", number).field("listeners", listeners).finish_non_exhaustive()
    }
}

/// What it has.
impl Generation {
    pub(crate) fn new(shared: Shared) -> Generation {
        Generation { shared: Arc::new(shared) }
    }

    /// Another handle, as long as there is one.
    pub(crate) fn upgrade(shared: &Weak<Shared>) -> Option<Generation> {
        shared.upgrade().map(|shared| Generation { shared })
    }

    pub(crate) fn downgrade(&self) -> Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    /// The generation's number, from 1.
    pub fn number(&self) -> u64 {
        self.shared.number
    }

    /// All listeners for connections, but those of [`Builder::listen_as_main`](crate::Builder::listen_as_main), in the
    /// order in which they were given or asked for.
    pub fn listeners(&self) -> &[Listener] {
        &self.shared.listeners
    }

    /// The listener of this name; fails where there is none.
    pub fn listener(&self, name: &str) -> Result<Listener, Error> {
        let found = self.all_listeners().find(|listener| listener.name() == name);
        found.cloned().ok_or_else(|| Error::address(format!("there is no listener called {name:?}")))
    }

    fn all_listeners(&self) -> impl Iterator<Item = &Listener> {
        self.shared.listeners.iter().chain(&self.shared.main_listeners)
    }

    /// A descriptor of the socket of this name, of any kind; datagram sockets are to be had only here. Fails where
    /// there is none, or none any more. Every generation of the service shares the socket: reads in one take datagrams
    /// from the others.
    pub fn socket(&self, name: &str) -> Result<OwnedFd, Error> {
        let sockets = lock(&self.shared.sockets);
        let found = sockets.iter().find(|socket| socket.name == name);
        let socket = found.ok_or_else(|| Error::address(format!("there is no socket called {name:?}")))?;
        let cloned = socket.fd.as_fd().try_clone_to_owned();
        cloned.map_err(|error: io::Error| Error::socket(format!("cannot use {name:?}"), error))
    }

    /// The state that the generation before saved; `None` the second time, by whichever handle, and where none was
    /// saved.
    pub fn take_state(&self) -> Option<State> {
        lock(&self.shared.state).take()
    }

    /// The handle by which connections see that this generation drains, and by which they are counted.
    pub fn drain(&self) -> Drain {
        self.shared.drain.clone()
    }

    /// The way of connections to the next generation, and from the ones before.
    pub fn connections(&self) -> Connections {
        self.shared.connections.clone()
    }

    /// What all other generations of this service have counted.
    pub fn inherited(&self) -> Inherited {
        self.shared.inherited.clone()
    }
}

/// What it comes to.
impl Generation {
    /// Says that the application is ready: from now on clients are accepted. Said again, it changes nothing.
    ///
    /// Each listener has to be served by then: it waits, for 5 s at the most, until [`Listener::accept`] or
    /// [`Listener::accept_on`] was polled on each, or [`Listener::leave_unserved`] called; before this word an accept just
    /// waits. Where nobody does, it fails and names the listeners: a reload would have led their clients to somebody who does
    /// not answer. Nothing was said to the predecessor then, and it can be called again.
    ///
    /// It fails as well where the [`Driver`](crate::Driver) is not polled within the same time, or has ended, as after a
    /// stop.
    pub async fn ready(&self) -> Result<(), Error> {
        let progress = &self.shared.progress;
        if progress.is(READY) {
            return Ok(());
        }
        self.listeners_served().await?;
        self.driven("the application cannot be ready").await?;
        let _ = self.shared.asks.send(Ask::Ready).await;
        progress.until(READY | ENDED).await;
        if progress.is(READY) { Ok(()) } else { Err(self.ended("the application cannot be ready any more")) }
    }

    /// Waits until this process is the main one: the one that has the control socket, and speaks to the service manager.
    /// At once where it is.
    ///
    /// A first generation is when it is ready; a successor when its predecessor has committed, and starts to drain. One
    /// that is given up before, and one that has been replaced, wait for ever, the latter until it serves again since its
    /// successor has died. So what only one process may do begins behind this, and ends when [`Drain::phase`] is no
    /// longer [`Phase::Serving`](crate::Phase::Serving). The two processes learn of the commit at the same moment: what
    /// must never overlap, not even for that long, needs a lock of its own.
    pub async fn committed(&self) {
        self.shared.progress.until(MAIN).await;
    }

    /// Gives up before it is [`ready`](Generation::ready): a predecessor is told why and goes on serving, and
    /// [`Driver::run`](crate::Driver::run) ends without success. Never blocks. Where nobody polls the driver, the caller
    /// ends the process. After the word that it is ready this changes nothing: [`stop`](Generation::stop) ends the
    /// service.
    pub fn fail(&self, reason: &str) {
        if !self.shared.progress.is(DRIVEN)
            && let Some(channel) = self.shared.predecessor.upgrade()
            && let Err(error) = channel.try_send(&Message::failed(reason), &[])
        {
            log::warn!("the predecessor could not be told that this generation failed: {error}");
        }
        if let Err(error) = self.shared.asks.try_send(Ask::Fail(reason.to_owned())) {
            log::debug!("nobody drives this generation any more, which fails: {error}");
        }
    }

    async fn listeners_served(&self) -> Result<(), Error> {
        let all_served = async {
            for listener in self.all_listeners() {
                listener.served().await;
            }
        };
        if within(BEGINS_WITHIN, all_served).await.is_some() {
            return Ok(());
        }
        let unserved = self.all_listeners().filter(|listener| !listener.is_served());
        let names: Vec<String> = unserved.map(|one| format!("{:?} on {}", one.name(), one.address())).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(Error::refused(format!(
            "nobody accepts on the listener {}: its accept() was not polled within {BEGINS_WITHIN:?}, so that clients \
             would wait for ever; nothing was said to anybody. Start its accept loop before ready(), or say \
             leave_unserved() of a listener that this program does not serve",
            names.join(" and the listener ")
        )))
    }
}

/// What a client on the control socket can ask as well, from within.
impl Generation {
    /// Replaces this generation, and waits until the outcome is known, as
    /// [`Client::reload`](crate::control::Client::reload) does. Refused, with the reason, where this is not the main
    /// process or not ready.
    ///
    /// Fails where the [`Driver`](crate::Driver) is not polled within 5 s, or ends before the outcome is known.
    pub async fn reload(&self) -> Result<Answer, Error> {
        match self.ask("nothing can be reloaded", Request::Reload { id: new_id(), cut_oldest: false }).await? {
            Some(Reply::Outcome(outcome)) => Ok(Answer::Outcome(Box::new(outcome))),
            Some(Reply::Refused { reason }) => Ok(Answer::Refused(reason)),
            Some(Reply::Stopping) => Ok(Answer::Stopping),
            _ => Err(self.ended("the outcome of the reload is not known")),
        }
    }

    /// Has the service stop, and returns as soon as that is under way: its end is the end of
    /// [`Driver::run`](crate::Driver::run). A generation that is not the main one passes it on to that.
    ///
    /// Fails where the [`Driver`](crate::Driver) is not polled within 5 s, or has ended.
    pub async fn stop(&self) -> Result<(), Error> {
        self.ask("the service cannot be stopped", Request::Stop).await.map(drop)
    }

    /// How the service is doing, as [`Client::status`](crate::control::Client::status) tells it, but of this generation,
    /// whichever is the main one.
    ///
    /// Fails where the [`Driver`](crate::Driver) is not polled within 5 s, or has ended.
    pub async fn status(&self) -> Result<Status, Error> {
        match self.ask("there is no status", Request::Status).await? {
            Some(Reply::Status(status)) => Ok(*status),
            _ => Err(self.ended("there is no status any more")),
        }
    }

    /// The driver's answer; nothing where it gives none, since it has passed the request on or ends.
    async fn ask(&self, failed: &str, request: Request) -> Result<Option<Reply>, Error> {
        self.driven(failed).await?;
        let (reply, answer) = async_channel::bounded(1);
        if self.shared.asks.send(Ask::Command(Command { request, reply })).await.is_err() {
            return Err(self.ended(failed));
        }
        let answered = async { answer.recv().await.ok() };
        let ended = async {
            self.shared.progress.until(ENDED).await;
            answer.try_recv().ok()
        };
        Ok(future::or(answered, ended).await)
    }

    /// Waits until the driver is polled, for a bounded time: whoever asks before that on the task that is to poll it
    /// would wait for ever.
    async fn driven(&self, failed: &str) -> Result<(), Error> {
        let progress = &self.shared.progress;
        if within(BEGINS_WITHIN, progress.until(DRIVEN | ENDED)).await.is_none() {
            return Err(Error::refused(format!(
                "{failed}: the driver was not polled within {BEGINS_WITHIN:?}; poll Driver::run() from the start, in a \
                 task of its own or beside what the application does to get ready (Driver::run_with)"
            )));
        }
        if progress.is(ENDED) { Err(self.ended(failed)) } else { Ok(()) }
    }

    fn ended(&self, failed: &str) -> Error {
        Error::refused(format!("{failed}: the driver of generation {} has ended", self.shared.number))
    }
}

async fn within<T>(timeout: Duration, wanted: impl Future<Output = T>) -> Option<T> {
    let late = async {
        Timer::after(timeout).await;
        None
    };
    future::or(async { Some(wanted.await) }, late).await
}
