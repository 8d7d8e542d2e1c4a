//! The chain of generations, as one of them sees it: its line to the newer ones, and those to the older ones.
//!
//! Here is what is said on the lines, in both directions, and what becomes of a line when this generation becomes the
//! main process, or is that no more. What a message means to the service is `lifecycle`'s matter.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use async_channel::Sender;
use async_executor::Task;
use async_io::Async;

use super::Driver;
use super::sources::{self, FromNewer, FromOlder, Input};
use crate::connections::Target;
use crate::control::{DrainingReport, GenerationId};
use crate::drain::Phase;
use crate::error::Error;
use crate::handover::{
    Channel, Commit, Counters, History, Line, Message, Peer, ProcessId, Received, WITHDRAW, is_handover_socket,
    watched_pidfd,
};
use crate::lifecycle::{Event, Origin};

/// All lines of this generation.
#[derive(Default)]
pub(super) struct Chain {
    /// Oldest first. The predecessor is among them from the start.
    older: Vec<Older>,
    /// The number of the predecessor's line, until it closes.
    predecessor: Option<u64>,
    newer: Option<Newer>,
    /// Who has introduced itself as the newest generation, until it is welcomed.
    introduction: Option<Introduction>,
    /// Our successor's end of the socket on which its connections move back, until it is gone.
    withdrawal: Option<OwnedFd>,
    /// The socket on which connections move back to a predecessor that has given this generation up, until they do.
    way_back: Option<Channel>,
    /// Where connections that are offered go then.
    back: Option<Sender<Option<Target>>>,
    /// How often this generation has taken the lines over.
    turns: u64,
}

/// An older generation.
pub(super) struct Older {
    pub(super) id: ProcessId,
    number: u64,
    channel: Arc<Channel>,
    /// Only the newest generation listens; the others keep the line, in case they serve again.
    listening: Option<Listening>,
    /// Takes its connections between the announcement of the next generation and its commit, when nobody listens.
    between: Option<Greeter>,
    /// What it said of itself last.
    pub(super) report: Option<DrainingReport>,
}

struct Listening {
    _reader: Task<()>,
    /// Greets it, and takes its connections; there is nothing to take before the commit.
    greeter: Option<Greeter>,
}

struct Greeter {
    task: Task<()>,
    answered: Sender<()>,
    /// It has answered.
    peer: Option<Peer>,
}

/// The line to the newer generations, of which the newest one listens.
struct Newer {
    channel: Arc<Channel>,
    /// The newest one, as it introduced itself: the successor first.
    peer: Peer,
    /// It has introduced itself as the newest.
    greeted: bool,
    /// Waits for the end of its process.
    watch: (u64, Task<()>),
    /// Where connections that are offered go.
    aim: Option<Sender<Option<Target>>>,
}

struct Introduction {
    peer: Peer,
    pidfd: Async<OwnedFd>,
    /// The socket on which connections move to it.
    moving: Option<Channel>,
}

impl Chain {
    /// Whether what is reported under this number is the end of the newest generation.
    pub(super) fn is_newest(&self, number: u64) -> bool {
        self.newer.as_ref().is_some_and(|newer| newer.watch.0 == number)
    }

    /// Who serves on when this generation ends.
    pub(super) fn newest(&self) -> Option<GenerationId> {
        self.newer.as_ref().map(|newer| newer.peer.to_id())
    }

    /// The line to the newest generation, once there is one.
    pub(super) fn to_newest(&self) -> Option<&Channel> {
        self.newer.as_ref().map(|newer| &*newer.channel)
    }

    /// The older generations that still finish what they have, oldest first.
    pub(super) fn draining(&self) -> impl Iterator<Item = &Older> {
        self.older.iter().filter(|older| older.listening.is_some())
    }

    pub(super) fn keep_report(&mut self, generation: u64, report: DrainingReport) {
        if let Some(older) = self.older.iter_mut().find(|older| older.id.generation == generation) {
            older.report = Some(report);
        }
    }

    /// All lines to older generations, for a successor to hold.
    pub(super) fn lines(&self) -> Vec<(ProcessId, Arc<Channel>)> {
        self.older.iter().map(|older| (older.id.clone(), Arc::clone(&older.channel))).collect()
    }

    pub(super) fn stop_moving(&mut self) {
        self.back = None;
        if let Some(newer) = &mut self.newer {
            newer.aim = None;
        }
    }

    /// The successor is gone, or this generation serves again.
    pub(super) fn close_newer(&mut self) {
        (self.newer, self.introduction, self.withdrawal) = (None, None, None);
    }

    /// Leaves the older generations to the successor.
    pub(super) fn let_go(&mut self) {
        for older in &mut self.older {
            older.between = older.listening.take().and_then(|listening| listening.greeter);
        }
    }

    /// The next generation takes their connections from now on.
    pub(super) fn stop_taking(&mut self) {
        self.older.iter_mut().for_each(|older| older.between = None);
    }

    /// Keeps the line to the newest generation open until this process ends: with its end alone it would look given up.
    pub(super) fn hold_until_the_end(&self) {
        self.newer.iter().for_each(|newer| std::mem::forget(Arc::clone(&newer.channel)));
    }
}

/// The older generations' side.
impl Driver {
    /// Listens to the predecessor, and holds the lines that came from it.
    pub(super) fn meet_predecessor(&mut self) {
        let Some(predecessor) = &mut self.parts.predecessor else { return };
        let given = std::mem::take(&mut predecessor.older);
        let (id, channel) = (predecessor.line.peer.id.clone(), Arc::clone(&predecessor.line.channel));
        let pidfd = Arc::clone(&predecessor.pidfd);
        self.background.push(self.executor.spawn(sources::death(pidfd, Input::PredecessorDied, self.inputs.clone())));
        for (id, channel) in given {
            let number = self.next_number();
            self.chain.older.push(Older { id, number, channel, listening: None, between: None, report: None });
        }
        let number = self.next_number();
        let reader = self.executor.spawn(sources::older(number, Arc::clone(&channel), self.inputs.clone()));
        let listening = Some(Listening { _reader: reader, greeter: None });
        self.chain.older.push(Older { id, number, channel, listening, between: None, report: None });
        self.chain.predecessor = Some(number);
    }

    /// As the newest generation, listens to all older ones, and introduces itself to them.
    pub(super) fn take_lines_over(&mut self) {
        let mut older = std::mem::take(&mut self.chain.older);
        let turn = self.chain.turns;
        self.chain.turns += 1;
        for older in &mut older {
            older.between = None;
            let greeter = Some(self.greet(older, turn));
            if let Some(listening) = &mut older.listening {
                listening.greeter = greeter;
                continue;
            }
            let reader = sources::older(older.number, Arc::clone(&older.channel), self.inputs.clone());
            older.listening = Some(Listening { _reader: self.executor.spawn(reader), greeter });
        }
        self.chain.older = older;
    }

    /// Nothing is left to be said to one that has gone after its commit, so that its line and its pidfd need no descriptors
    /// any more.
    pub(super) fn forget_predecessor(&mut self) {
        if self.chain.predecessor.is_none() && self.lifecycle.is_main() {
            self.parts.predecessor = None;
        }
    }

    fn greet(&self, older: &Older, turn: u64) -> Greeter {
        let mut hello = self.parts.settings.hello(self.parts.number);
        hello.turn = turn;
        let taker = (self.parts.connections.clone(), self.parts.drain.clone());
        let (answered, answer) = async_channel::bounded(1);
        let task = self.executor.spawn(sources::greet(Arc::clone(&older.channel), hello, taker, answer));
        Greeter { task, answered, peer: None }
    }

    pub(super) fn tell_older(&self) {
        for older in self.chain.draining() {
            if let Err(error) = older.channel.try_send(&Message::Stopping, &[]) {
                log::debug!("{error} to generation {}", older.id.generation);
            }
        }
    }

    pub(super) fn tell_predecessor(&self, message: &Message) {
        if let Some(predecessor) = &self.parts.predecessor
            && let Err(error) = predecessor.line.channel.try_send(message, &[])
        {
            log::debug!("{error} to the predecessor");
        }
    }

    pub(super) fn take_older(&mut self, number: u64, what: FromOlder) -> Option<Event> {
        let predecessor = self.chain.predecessor == Some(number);
        match what {
            // What was read before this generation let go of the line counts all the same.
            FromOlder::Message(received) => self.take_older_message(number, *received, predecessor),
            FromOlder::Closed => {
                let at = self.chain.older.iter().position(|older| older.number == number)?;
                let gone = self.chain.older.remove(at);
                if let Some(greeter) = gone.listening.and_then(|listening| listening.greeter) {
                    // What it has sent of its connections is still to be taken up; the task ends with their socket.
                    greeter.task.detach();
                }
                log::debug!("the line to generation {} (pid {}) has closed", gone.id.generation, gone.id.pid);
                if predecessor {
                    self.chain.predecessor = None;
                    self.forget_predecessor();
                }
                self.refresh_status();
                Some(Event::OlderClosed { predecessor })
            }
        }
    }

    fn take_older_message(&mut self, number: u64, received: Received, predecessor: bool) -> Option<Event> {
        let Received { message, fds, .. } = received;
        match message {
            Message::Ping if predecessor => Some(Event::Ping),
            Message::Settled if predecessor => Some(Event::Settled),
            Message::Commit(Commit { settled, reload }) if predecessor => Some(Event::Commit { settled, reload }),
            Message::Counters(Counters { total, added }) if predecessor => {
                // All of it, once: what is told again is the same.
                self.parts.inherited.inherit(&total, added);
                None
            }
            Message::History(History { reloads }) if predecessor => {
                self.take_history(reloads);
                None
            }
            Message::Withdraw { stop, .. } if predecessor => {
                let socket = fds.into_iter().next().filter(|socket| is_handover_socket(socket));
                self.chain.way_back = socket.and_then(|socket| Channel::adopt(socket).ok());
                Some(Event::Withdraw { stop })
            }
            Message::Greeted(hello) => {
                self.take_answer(number, Peer::new(hello));
                None
            }
            Message::Report(report) => {
                let (settled, stop) = (report.settled, report.stop);
                self.take_report(report);
                Some(Event::OlderReported { predecessor, settled, stop })
            }
            Message::Reload => Some(Event::Reload(Origin::Signal)),
            Message::Stop => Some(Event::Stop(Origin::Signal)),
            Message::Unknown => None,
            other => {
                log::warn!("an older generation said {}, which is not its to say; it was passed over", other.kind());
                None
            }
        }
    }

    fn take_answer(&mut self, number: u64, peer: Result<Peer, Error>) {
        let older = self.chain.older.iter_mut().find(|older| older.number == number);
        let greeter = older.and_then(|older| older.listening.as_mut()?.greeter.as_mut());
        match (greeter, peer) {
            (Some(greeter), Ok(peer)) => {
                let (id, common) = (&peer.id, peer.common);
                log::debug!("generation {} (pid {}) speaks version {common} with this one", id.generation, id.pid);
                let _ = greeter.answered.try_send(());
                greeter.peer = Some(peer);
            }
            (Some(_), Err(error)) => log::warn!("an older generation's answer to the greeting: {error}"),
            (None, _) => {}
        }
    }
}

/// The newer generations' side.
impl Driver {
    pub(super) fn tell_newest(&self, message: &Message) {
        if let Some(channel) = self.chain.to_newest()
            && let Err(error) = channel.try_send(message, &[])
        {
            log::warn!("{error} to the successor");
        }
    }

    pub(super) fn take_newer(&mut self, what: FromNewer) -> Option<Event> {
        match what {
            FromNewer::Met(line, pidfd) => {
                if let Some(record) = &mut self.record {
                    record.peer = Some(line.peer.clone());
                }
                let watch = self.watch_newest(pidfd);
                let Line { channel, peer } = line;
                self.chain.newer = Some(Newer { channel, peer, greeted: false, watch, aim: None });
                None
            }
            FromNewer::Message(received) => self.take_newer_message(*received),
            FromNewer::Unreadable(error) => {
                log::warn!("the successor's line: {error}");
                self.broke(&error.to_string())
            }
            FromNewer::Broke(error) => self.broke(&error.to_string()),
            FromNewer::Closed => Some(Event::NewerClosed),
            FromNewer::Exited => Some(Event::SuccessorExited),
        }
    }

    fn take_newer_message(&mut self, received: Received) -> Option<Event> {
        let Received { message, fds, .. } = received;
        match message {
            Message::Failed { reason } => {
                self.record.as_mut()?.detail = Some(reason);
                Some(Event::SuccessorFailed)
            }
            Message::Released { names } => {
                self.successor.as_mut()?.released.extend(names);
                None
            }
            Message::Ready { released } => {
                let named = self.successor.as_ref()?.released.len();
                if named != released {
                    return self.broke(&format!("it releases {released} listeners and has named {named}"));
                }
                self.record.as_mut()?.ready();
                let withdraws = self.chain.newer.as_ref()?.peer.features.contains(WITHDRAW);
                Some(Event::SuccessorReady { withdraws })
            }
            Message::Pong => {
                self.record.as_mut()?.probed();
                Some(Event::SuccessorPong)
            }
            Message::Committed => Some(Event::SuccessorCommitted),
            Message::Stop => Some(Event::SuccessorStop),
            Message::Stopping => Some(Event::NewestStops),
            Message::Greeting(hello) => match introduction(Peer::new(hello), fds) {
                Ok(introduction) => {
                    let (known, new) = (&self.chain.newer.as_ref()?.peer.id, &introduction.peer.id);
                    let ahead = known == new || known.generation < new.generation;
                    self.chain.introduction = Some(introduction);
                    Some(Event::NewestIntroduced { ahead })
                }
                Err(error) => {
                    log::warn!("a newer generation's greeting was passed over: {error}");
                    None
                }
            },
            Message::Unknown => None,
            other => {
                log::warn!("the successor said {}, which is not its to say", other.kind());
                self.broke(&format!("it said {}", other.kind()))
            }
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "what it returns is what its callers return")]
    fn broke(&mut self, what: &str) -> Option<Event> {
        if let Some(record) = &mut self.record {
            record.detail = Some(what.to_owned());
        }
        Some(Event::SuccessorBroke)
    }

    fn watch_newest(&mut self, pidfd: Async<OwnedFd>) -> (u64, Task<()>) {
        let number = self.next_number();
        let died = sources::death(Arc::new(pidfd), Input::NewestDied(number), self.inputs.clone());
        (number, self.executor.spawn(died))
    }

    /// Takes the one that has introduced itself for the newest generation.
    pub(super) fn welcome(&mut self) {
        let Some(Introduction { peer, pidfd, moving }) = self.chain.introduction.take() else { return };
        // Anew each time: its end may have been reported before this greeting was read.
        let watch = self.watch_newest(pidfd);
        let Some(newer) = &mut self.chain.newer else { return };
        newer.watch = watch;
        let answer = Message::Greeted(self.parts.settings.hello(self.parts.number));
        // Where it gets lost, the greeting comes again.
        if let Err(error) = newer.channel.try_send(&answer, &[]) {
            log::debug!("{error} to the newest generation");
        }
        // One that serves again after its successor's death, which may not have greeted anybody, has made a new socket.
        if newer.greeted && (&newer.peer.id, newer.peer.turn) == (&peer.id, peer.turn) {
            return;
        }
        let (id, common) = (&peer.id, peer.common);
        let (formats, features) = (peer.formats.to_set(), &peer.features);
        log::debug!(
            "generation {} (pid {}) is the newest: version {common}, features {features:?}, formats {formats:?}",
            id.generation,
            id.pid
        );
        newer.peer = peer;
        let follows_another = std::mem::replace(&mut newer.greeted, true);
        // Where it takes none, those that wait for it need not wait any longer.
        let formats = newer.peer.formats.clone();
        let target = moving.map(|channel| Target { channel, formats });
        if target.is_some() {
            self.open_way();
        }
        if let Some(aim) = self.chain.newer.as_ref().and_then(|newer| newer.aim.as_ref()) {
            let _ = aim.try_send(target);
        }
        // What the newest before could not take, or did not, this one may.
        if follows_another && self.parts.drain.phase() == Phase::Draining {
            self.parts.drain.set_phase_in_turn(Phase::Draining);
        }
    }

    /// Has the successor hand back what it has accepted.
    pub(super) fn withdraw(&mut self, stop: bool) {
        if self.chain.withdrawal.is_none() && !self.parts.settings.formats.is_empty() {
            match Channel::pair() {
                Ok((ours, theirs)) => {
                    self.chain.withdrawal = Some(theirs);
                    let (connections, drain) = (self.parts.connections.clone(), self.parts.drain.clone());
                    self.executor.spawn(async move { connections.receive(&ours, &drain).await }).detach();
                }
                Err(error) => log::warn!("the successor can hand no connections back: {error}"),
            }
        }
        let fds: Vec<_> = self.chain.withdrawal.iter().map(AsFd::as_fd).collect();
        let withdraw = Message::Withdraw { stop, moves: !fds.is_empty() };
        if let Some(channel) = self.chain.to_newest()
            && let Err(error) = channel.try_send(&withdraw, &fds)
        {
            // It has gone, or is told again.
            log::debug!("{error} to the successor");
        }
    }

    /// Lets connections move back to the predecessor, each in its turn, and all others finish.
    pub(super) fn withdraw_connections(&mut self) {
        let formats = self.parts.predecessor.as_ref().map(|predecessor| predecessor.line.peer.formats.clone());
        let (Some(channel), Some(formats)) = (self.chain.way_back.take(), formats) else {
            return self.parts.drain.set_phase(Phase::Draining);
        };
        let (mover, aim) = self.parts.connections.open(self.parts.drain.clone());
        let _ = aim.try_send(Some(Target { channel, formats }));
        self.chain.back = Some(aim);
        self.parts.drain.set_phase_in_turn(Phase::Draining);
        self.executor.spawn(mover).detach();
    }

    /// Lets connections move to the newest generation.
    fn open_way(&mut self) {
        if let Some(newer) = self.chain.newer.as_mut().filter(|newer| newer.aim.is_none()) {
            let (mover, aim) = self.parts.connections.open(self.parts.drain.clone());
            self.executor.spawn(mover).detach();
            newer.aim = Some(aim);
        }
    }

    /// Lets connections move to the successor, each in its turn, if it takes them. The way has to be open before anyone
    /// looks for it; where it leads to, the successor says in its greeting.
    pub(super) fn open_way_and_drain(&mut self) {
        if self.chain.newer.as_ref().is_some_and(|newer| !newer.peer.formats.is_empty()) {
            self.open_way();
            self.parts.drain.set_phase_in_turn(Phase::Draining);
        } else {
            self.parts.drain.set_phase(Phase::Draining);
        }
    }
}

/// A greeting with its descriptors: the pidfd, and, from one that takes connections, the socket on which they move.
fn introduction(peer: Result<Peer, Error>, fds: Vec<OwnedFd>) -> Result<Introduction, Error> {
    let peer = peer?;
    let mut fds = fds.into_iter();
    let pidfd = fds.next().ok_or_else(|| Error::handover("it brings no pidfd"))?;
    let moving = match fds.next() {
        _ if peer.formats.is_empty() => None,
        Some(socket) if is_handover_socket(&socket) => {
            let failed = |error| Error::handover_io("the socket for connections cannot be used", error);
            Some(Channel::adopt(socket).map_err(failed)?)
        }
        _ => return Err(Error::handover("it brings no socket on which connections could move")),
    };
    Ok(Introduction { peer, pidfd: watched_pidfd(pidfd)?, moving })
}
