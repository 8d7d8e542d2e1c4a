//! The chain of generations, as one of them sees it: its line to the newer ones, and those to the older ones.
//!
//! It keeps the lines, says on them what it is told to say, and moves connections along them. What becomes of a line when
//! this generation becomes the main process, or is that no more, stands here; what a message means to the service is
//! `lifecycle`'s matter, and who keeps what it brings stands in `messages`.

use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use async_channel::Sender;
use async_executor::Task;
use async_io::Async;

use super::record::id_of;
use super::sources::{self, Input};
use super::tasks::{Tasks, is_over};
use crate::connections::{Connections, Target};
use crate::control::{DrainingReport, GenerationId};
use crate::drain::{Drain, Phase};
use crate::error::Error;
use crate::handover::{Channel, Hello, Line, Message, Peer, ProcessId, WITHDRAW, is_handover_socket, watched_pidfd};
use crate::predecessor::Predecessor;

/// All lines of this generation.
pub(super) struct Chain {
    tasks: Tasks,
    /// What this generation says of itself on each line.
    hello: Hello,
    /// What moves along the lines, and by what it is counted here.
    connections: Connections,
    drain: Drain,
    /// Who started this generation, until it is the main process and that one is gone.
    predecessor: Option<Predecessor>,
    /// Waits for the end of its process.
    predecessor_watch: Option<Task<()>>,
    /// Asks the application whether it is well, for the predecessor's ping.
    pong: Option<Task<()>>,
    /// Oldest first. The predecessor is among them from the start.
    older: Vec<Older>,
    /// The number of the predecessor's line, until it closes.
    predecessor_line: Option<u64>,
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

impl Older {
    /// The number of the line to it.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether it has said that it has this feature, as an answer to the greeting.
    pub(super) fn knows(&self, feature: &str) -> bool {
        let greeter = self.listening.as_ref().and_then(|listening| listening.greeter.as_ref());
        greeter.and_then(|greeter| greeter.peer.as_ref()).is_some_and(|peer| peer.features.contains(feature))
    }

    pub(super) fn say(&self, message: &Message) -> Result<(), Error> {
        self.channel.try_send(message, &[])
    }
}

impl Chain {
    /// `hello`: what this generation says of itself. Nothing is said or heard before the chain is told to.
    pub(super) fn new(
        tasks: Tasks,
        hello: Hello,
        connections: Connections,
        drain: Drain,
        predecessor: Option<Predecessor>,
    ) -> Chain {
        Chain {
            tasks,
            hello,
            connections,
            drain,
            predecessor,
            predecessor_watch: None,
            pong: None,
            older: vec![],
            predecessor_line: None,
            newer: None,
            introduction: None,
            withdrawal: None,
            way_back: None,
            back: None,
            turns: 0,
        }
    }

    /// Whether what is reported under this number is the end of the newest generation.
    pub(super) fn is_newest(&self, number: u64) -> bool {
        self.newer.as_ref().is_some_and(|newer| newer.watch.0 == number)
    }

    /// Who serves on when this generation ends.
    pub(super) fn newest(&self) -> Option<GenerationId> {
        self.newer.as_ref().map(|newer| id_of(&newer.peer))
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
impl Chain {
    /// Who started this generation.
    pub(super) fn predecessor(&self) -> Option<&Predecessor> {
        self.predecessor.as_ref()
    }

    /// Whether what is reported under this number is the predecessor's.
    pub(super) fn is_predecessor(&self, number: u64) -> bool {
        self.predecessor_line == Some(number)
    }

    /// Listens to the predecessor, and holds the lines that came from it.
    pub(super) fn meet_predecessor(&mut self) {
        let Some(predecessor) = &mut self.predecessor else { return };
        let given = std::mem::take(&mut predecessor.older);
        let (id, channel) = (predecessor.line.peer.id.clone(), Arc::clone(&predecessor.line.channel));
        let death = sources::death(Arc::clone(&predecessor.pidfd), Input::PredecessorDied, self.tasks.inputs());
        self.predecessor_watch = Some(self.tasks.spawn(death));
        for (id, channel) in given {
            let number = self.tasks.next_number();
            self.older.push(Older { id, number, channel, listening: None, between: None, report: None });
        }
        let number = self.tasks.next_number();
        let reader = self.tasks.spawn(sources::older(number, Arc::clone(&channel), self.tasks.inputs()));
        let listening = Some(Listening { _reader: reader, greeter: None });
        self.older.push(Older { id, number, channel, listening, between: None, report: None });
        self.predecessor_line = Some(number);
    }

    /// As the newest generation, listens to all older ones, and introduces itself to them.
    pub(super) fn take_over(&mut self) {
        let mut older = std::mem::take(&mut self.older);
        let turn = self.turns;
        self.turns += 1;
        for older in &mut older {
            older.between = None;
            let greeter = Some(self.greet(older, turn));
            if let Some(listening) = &mut older.listening {
                listening.greeter = greeter;
                continue;
            }
            let reader = sources::older(older.number, Arc::clone(&older.channel), self.tasks.inputs());
            older.listening = Some(Listening { _reader: self.tasks.spawn(reader), greeter });
        }
        self.older = older;
    }

    fn greet(&self, older: &Older, turn: u64) -> Greeter {
        let mut hello = self.hello.clone();
        hello.turn = turn;
        let taker = (self.connections.clone(), self.drain.clone());
        let (answered, answer) = async_channel::bounded(1);
        let task = self.tasks.spawn(sources::greet(Arc::clone(&older.channel), hello, taker, answer));
        Greeter { task, answered, peer: None }
    }

    /// Nothing is left to be said to a predecessor that has gone after its commit, so that its line and its pidfd need no
    /// descriptors any more.
    pub(super) fn forget_predecessor(&mut self) {
        if self.predecessor_line.is_none() {
            self.predecessor = None;
        }
    }

    /// All other ends of this line are closed. Returns whether it was the predecessor's, where there was such a line.
    pub(super) fn close_older(&mut self, number: u64) -> Option<bool> {
        let at = self.older.iter().position(|older| older.number == number)?;
        let gone = self.older.remove(at);
        if let Some(greeter) = gone.listening.and_then(|listening| listening.greeter) {
            // What it has sent of its connections is still to be taken up; the task ends with their socket.
            greeter.task.detach();
        }
        log::debug!("the line to generation {} (pid {}) has closed", gone.id.generation, gone.id.pid);
        let predecessor = self.is_predecessor(number);
        self.predecessor_line.take_if(|_| predecessor);
        Some(predecessor)
    }

    pub(super) fn tell_older(&self, message: &Message) {
        for older in self.draining() {
            if let Err(error) = older.channel.try_send(message, &[]) {
                log::debug!("{error} to generation {}", older.id.generation);
            }
        }
    }

    pub(super) fn tell_predecessor(&self, message: &Message) {
        if let Some(predecessor) = &self.predecessor
            && let Err(error) = predecessor.line.channel.try_send(message, &[])
        {
            log::debug!("{error} to the predecessor");
        }
    }

    /// Answers the predecessor's ping, if the application is well. Asked again meanwhile, it has still one answer to give.
    pub(super) fn answer_ping(&mut self, is_well: impl Future<Output = bool> + Send + 'static) {
        let Some(predecessor) = self.predecessor.as_ref().filter(|_| is_over(self.pong.as_ref())) else { return };
        let channel = Arc::clone(&predecessor.line.channel);
        self.pong = Some(self.tasks.spawn(async move {
            if !is_well.await {
                log::error!("the application does not answer its probe: the predecessor's ping goes without an answer");
            } else if let Err(error) = channel.try_send(&Message::Pong, &[]) {
                log::debug!("{error} to the predecessor");
            }
        }));
    }

    /// Keeps the socket on which connections move back to the predecessor, if it came.
    pub(super) fn keep_way_back(&mut self, fds: Vec<OwnedFd>) {
        let socket = fds.into_iter().next().filter(|socket| is_handover_socket(socket));
        self.way_back = socket.and_then(|socket| Channel::adopt(socket).ok());
    }

    /// An older generation has answered the greeting.
    pub(super) fn take_answer(&mut self, number: u64, hello: Hello) {
        let older = self.older.iter_mut().find(|older| older.number == number);
        let Some(greeter) = older.and_then(|older| older.listening.as_mut()?.greeter.as_mut()) else { return };
        match Peer::new(hello) {
            Ok(peer) => {
                let (id, common) = (&peer.id, peer.common);
                log::debug!("generation {} (pid {}) speaks version {common} with this one", id.generation, id.pid);
                let _ = greeter.answered.try_send(());
                greeter.peer = Some(peer);
            }
            Err(error) => log::warn!("an older generation's answer to the greeting: {error}"),
        }
    }
}

/// The newer generations' side.
impl Chain {
    pub(super) fn tell_newest(&self, message: &Message) {
        if let Some(channel) = self.to_newest()
            && let Err(error) = channel.try_send(message, &[])
        {
            log::warn!("{error} to the successor");
        }
    }

    /// The successor has introduced itself.
    pub(super) fn meet_successor(&mut self, line: Line, pidfd: Async<OwnedFd>) {
        let watch = self.watch_newest(pidfd);
        let Line { channel, peer } = line;
        self.newer = Some(Newer { channel, peer, greeted: false, watch, aim: None });
    }

    /// Whether the successor can be told to withdraw, if there is one.
    pub(super) fn withdraws(&self) -> Option<bool> {
        self.newer.as_ref().map(|newer| newer.peer.features.contains(WITHDRAW))
    }

    fn watch_newest(&self, pidfd: Async<OwnedFd>) -> (u64, Task<()>) {
        let number = self.tasks.next_number();
        let died = sources::death(Arc::new(pidfd), Input::NewestDied(number), self.tasks.inputs());
        (number, self.tasks.spawn(died))
    }

    /// Keeps a greeting of whoever says that it is the newest, until it is welcomed. Returns whether it is the one that is
    /// known as the newest or comes after that one, where there is one and the greeting is none that has to be passed over.
    pub(super) fn take_greeting(&mut self, hello: Hello, fds: Vec<OwnedFd>) -> Option<bool> {
        match introduction(Peer::new(hello), fds) {
            Ok(introduction) => {
                let (known, new) = (&self.newer.as_ref()?.peer.id, &introduction.peer.id);
                let ahead = known == new || known.generation < new.generation;
                self.introduction = Some(introduction);
                Some(ahead)
            }
            Err(error) => {
                log::warn!("a newer generation's greeting was passed over: {error}");
                None
            }
        }
    }

    /// Takes the one that has introduced itself for the newest generation.
    pub(super) fn welcome(&mut self) {
        let Some(Introduction { peer, pidfd, moving }) = self.introduction.take() else { return };
        // Anew each time: its end may have been reported before this greeting was read.
        let watch = self.watch_newest(pidfd);
        let Some(newer) = &mut self.newer else { return };
        newer.watch = watch;
        let answer = Message::Greeted(self.hello.clone());
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
            self.open_way_to_newest();
        }
        if let Some(aim) = self.newer.as_ref().and_then(|newer| newer.aim.as_ref()) {
            let _ = aim.try_send(target);
        }
        // What the newest before could not take, or did not, this one may.
        if follows_another && self.drain.phase() == Phase::Draining {
            self.drain.set_phase_in_turn(Phase::Draining);
        }
    }

    /// Has the successor hand back what it has accepted.
    pub(super) fn withdraw(&mut self, stop: bool, within_ms: Option<u64>) {
        if self.withdrawal.is_none() && !self.hello.formats.is_empty() {
            match Channel::pair() {
                Ok((ours, theirs)) => {
                    self.withdrawal = Some(theirs);
                    let (connections, drain) = (self.connections.clone(), self.drain.clone());
                    self.tasks.spawn(async move { connections.receive(&ours, &drain).await }).detach();
                }
                Err(error) => log::warn!("the successor can hand no connections back: {error}"),
            }
        }
        let fds: Vec<_> = self.withdrawal.iter().map(AsFd::as_fd).collect();
        let withdraw = Message::Withdraw { stop, moves: !fds.is_empty(), within_ms };
        if let Some(channel) = self.to_newest()
            && let Err(error) = channel.try_send(&withdraw, &fds)
        {
            // It has gone, or is told again.
            log::debug!("{error} to the successor");
        }
    }
}

/// The drain, in which connections move.
impl Chain {
    /// Lets connections move to the successor, each in its turn, if it takes them, and all others finish. The way has to be
    /// open before anyone looks for it; where it leads to, the successor says in its greeting.
    pub(super) fn begin_drain(&mut self) {
        let takes = self.newer.as_ref().is_some_and(|newer| !newer.peer.formats.is_empty());
        if takes {
            self.open_way_to_newest();
        }
        self.set_draining(takes);
    }

    /// Lets connections move back to the predecessor, each in its turn, and all others finish.
    pub(super) fn begin_withdrawal(&mut self) {
        let formats = self.predecessor.as_ref().map(|predecessor| predecessor.line.peer.formats.clone());
        let target = self.way_back.take().zip(formats).map(|(channel, formats)| Target { channel, formats });
        let takes = target.is_some();
        if takes {
            let aim = self.open_way();
            let _ = aim.try_send(target);
            self.back = Some(aim);
        }
        self.set_draining(takes);
    }

    /// Connections that could move are told one after the other.
    fn set_draining(&self, move_away: bool) {
        if move_away {
            self.drain.set_phase_in_turn(Phase::Draining);
        } else {
            self.drain.set_phase(Phase::Draining);
        }
    }

    fn open_way_to_newest(&mut self) {
        if self.newer.as_ref().is_some_and(|newer| newer.aim.is_none()) {
            let aim = Some(self.open_way());
            if let Some(newer) = &mut self.newer {
                newer.aim = aim;
            }
        }
    }

    /// Lets connections be offered, and moves them to where the channel that is returned says.
    fn open_way(&self) -> Sender<Option<Target>> {
        let (mover, aim) = self.connections.open(self.drain.clone());
        self.tasks.spawn(mover).detach();
        aim
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
