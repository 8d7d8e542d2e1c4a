//! The lifecycle's actions, carried out.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::Timer as IoTimer;
use futures_lite::future;

use super::record::{Record, signal_id};
use super::{Active, Driver, Line, Older, REPORT_EVERY, sources};
use crate::connections;
use crate::control::Reply;
use crate::counters::Bequest;
use crate::drain::Phase;
use crate::error::Error;
use crate::handover::{Channel, Commit, Legacy, Link, Message, ReloadMark};
use crate::lifecycle::{Action, Event, State, Timer};
use crate::listeners::{Listener, Origin, unlink_if_ours};
use crate::successor::{ENTRIES_PER_MESSAGE_MAX, Gift, Successor};

/// A successor has to answer the ping at the end of its probation within this time.
pub(super) const PONG_TIMEOUT: Duration = Duration::from_secs(1);
/// A successor that has given up gets this long to leave, so that its own exit status can be reported.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// A killed process is gone at once, unless it hangs in the kernel.
const REAP_TIMEOUT: Duration = Duration::from_secs(5);
/// The service manager has to have read everything by then, or the commit goes out without its word.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(5);
/// Commit has to be on its way by then; descriptors of the same user in flight may be in its way for a moment.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(1);
/// The successor has to have taken over by then, or the reload is answered without its word.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(1);
/// What the service manager is asked to wait beyond our own deadlines.
const ROOM: Duration = Duration::from_secs(5);
/// Older generations began to drain before the service was stopped, so they end a little before this one has to.
const STOP_GRACE: Duration = Duration::from_millis(500);

impl Driver {
    pub(super) async fn perform(&mut self, action: Action) {
        let notifier = &self.parts.notifier;
        match action {
            Action::Accept => self.listeners.iter().for_each(Listener::open),
            Action::Pause => self.pause(),
            Action::TakeOver => self.take_over(),
            Action::LetGo => self.let_go(),
            Action::NotifyReloading => {
                let settings = &self.parts.settings;
                let within = settings.ready_timeout + settings.probation + PONG_TIMEOUT + ROOM;
                notifier.reloading(&format!("generation {} reloads", self.parts.number), within);
            }
            Action::NotifyReady => self.notify_ready(),
            Action::NotifyStopping => {
                let settings = &self.parts.settings;
                let within = settings.stop_delay + settings.drain_timeout + STOP_GRACE + ROOM;
                notifier.stopping(&format!("generation {} stops", self.parts.number), within);
            }
            Action::NotifyTakeover => {
                self.told = self.status_line();
                self.parts.notifier.took_over(&self.told);
                self.store_listeners();
            }
            Action::Spawn => self.spawn(),
            Action::Kill => {
                if let Some(active) = &self.successor {
                    active.process.kill();
                }
                if let Some(record) = &mut self.record {
                    record.killed = true;
                }
            }
            Action::CloseChannel => self.close_channel(),
            Action::Start(timer) => self.start_timer(timer),
            Action::CancelTimer => self.deadline = None,
            Action::SendPing => self.tell_successor(&Message::Ping),
            Action::Announce => self.announce().await,
            Action::AwaitBarrier => self.await_barrier(),
            Action::SendCommit { settled, reload } => self.send_commit(settled, reload).await,
            Action::SendSettled => self.tell_successor(&Message::Settled),
            Action::ForwardReload => self.tell_successor(&Message::Reload),
            Action::ForwardStop => self.tell_successor(&Message::Stop),
            Action::TellOlder => self.tell_older(),
            Action::SayReady => self.say_ready(),
            Action::SayCommitted => self.tell_predecessor(&Message::Committed),
            Action::SayPong => self.tell_predecessor(&Message::Pong),
            Action::SayStop => self.tell_predecessor(&Message::Stop),
            Action::AnswerDone => self.answer_done(),
            Action::AnswerFailed(failure) => self.answer_failed(failure),
            Action::Refuse(refusal) => self.refuse(refusal),
            Action::AnswerStopping => {
                if let Some(asker) = self.asker.take() {
                    let _ = asker.try_send(Reply::Stopping);
                    self.stop_askers.push(asker);
                }
            }
            Action::CutOff => self.asker = None,
            Action::BeginDrain => self.begin_drain(Phase::Draining),
            Action::BeginStop => self.begin_stop(),
            Action::EndDrain => self.end_drain(),
            Action::Exit(ending) => self.ending = Some(ending),
        }
    }

    /// Becomes the main process.
    fn take_over(&mut self) {
        self.main = true;
        let predecessor = self.older.pop();
        for (id, fd) in std::mem::take(&mut self.links) {
            self.adopt_line(id, fd);
        }
        // The predecessor is the youngest of the older ones.
        self.older.extend(predecessor);
        for older in std::mem::take(&mut self.older) {
            match older.line {
                Line::Open { .. } => self.older.push(older),
                Line::Silent(fd) => self.adopt_line(older.id, fd),
            }
        }
        if let Some(pid_file) = &self.parts.pid_file
            && let Err(error) = pid_file.write()
        {
            log::error!("{error}");
        }
        self.note_own_commit();
        self.main_listeners.iter().for_each(Listener::open);
    }

    fn adopt_line(&mut self, id: Link, fd: OwnedFd) {
        match Channel::adopt(fd) {
            Ok(channel) => {
                let line = self.open_line(Arc::new(channel));
                self.older.push(Older { id, line, report: None });
            }
            Err(error) => {
                log::error!("generation {} (pid {}) cannot be listened to: {error}", id.generation, id.pid);
                self.immediate.push_back(Event::OlderGone);
            }
        }
    }

    /// Leaves the control socket and the older generations to the successor, keeping silent copies of their channels.
    fn let_go(&mut self) {
        self.main = false;
        self.main_listeners.iter().for_each(Listener::close);
        let successor = self.successor.as_ref().map(|active| active.process.pid());
        self.newest = self.record.as_ref().and_then(|record| record.outcome(self.id(), None).to);
        log::debug!("the service is now generation {}'s (pid {successor:?})", self.parts.number + 1);
        for older in std::mem::take(&mut self.older) {
            let line = match older.line {
                Line::Open { channel, .. } => match channel.duplicate() {
                    Ok(fd) => Line::Silent(fd),
                    Err(error) => {
                        log::error!("no copy of the channel to generation {}: {error}", older.id.generation);
                        continue;
                    }
                },
                silent @ Line::Silent(_) => silent,
            };
            self.older.push(Older { line, ..older });
        }
    }

    fn notify_ready(&mut self) {
        self.told = self.status_line();
        self.parts.notifier.ready(&self.told);
        self.store_listeners();
        log::info!("{}", self.serves());
    }

    /// Leaves copies of the listeners that this service bound with the service manager, so that they outlive a process
    /// that is killed. One whose store has no room for them refuses; it takes the same socket only once. Copies of the
    /// predecessor's that are not wanted any more go first: their names may have become others'.
    fn store_listeners(&mut self) {
        for name in std::mem::take(&mut self.parts.released) {
            self.parts.notifier.unstore(&name);
        }
        let is_main = |name: &str| self.main_listeners.iter().any(|listener| listener.name() == name);
        let sockets = self.parts.sockets.iter().filter(|socket| socket.origin == Origin::Bound);
        for socket in sockets.filter(|socket| !is_main(&socket.name)) {
            self.parts.notifier.store(&socket.name, socket.fd.as_fd());
        }
    }

    /// Tells the service manager how things are, if that has changed.
    pub(super) fn refresh_status(&mut self) {
        let status = self.status_line();
        if self.main && matches!(self.lifecycle.state(), State::Serving { .. }) && status != self.told {
            self.parts.notifier.status(&status);
            self.told = status;
        }
    }

    fn spawn(&mut self) {
        let id = self.asked_id.take().unwrap_or_else(signal_id);
        let mut record = Record::new(id.clone(), self.asker.take());
        match Successor::spawn(&self.parts.environment, &self.parts.signals.numbers()) {
            Ok(process) => {
                record.spawned(process.pid(), process.spawn_time);
                let number = self.next_number();
                let gift = self.gift(id);
                let talk = sources::successor(number, Arc::clone(&process.channel), gift, self.inputs.clone());
                let (talks, talking) = async_channel::bounded(1);
                let talk = async move {
                    talk.await;
                    drop(talks);
                };
                let exit = sources::exit(number, process.pidfd(), talking, self.inputs.clone());
                let sources = [self.executor.spawn(talk), self.executor.spawn(exit)];
                self.successor = Some(Active { number, process, released: BTreeSet::new(), _sources: sources });
            }
            Err(error) => {
                record.detail = Some(error.to_string());
                self.immediate.push_back(Event::SpawnFailed);
            }
        }
        self.record = Some(record);
    }

    fn gift(&mut self, id: String) -> Gift {
        let settings = &mut self.parts.settings;
        let state = settings.save_state.as_mut().map(|(format, save)| (*format, save()));
        let copy = |older: &Older| match older.line.as_fd().try_clone_to_owned() {
            Ok(fd) => Some((older.id.clone(), fd)),
            Err(error) => {
                log::error!("no copy of the channel to generation {}: {error}", older.id.generation);
                None
            }
        };
        let older = self.older.iter().filter_map(copy).collect();
        Gift {
            older,
            hello: settings.hello(self.parts.number),
            sockets: self.parts.sockets.iter().chain(&self.parts.control).cloned().collect(),
            state,
            mark: ReloadMark { id, generation: self.parts.number, pid: std::process::id() },
        }
    }

    /// The successor is out of the way. It is reaped, also where its process ends only after its end of the channel.
    fn close_channel(&mut self) {
        let Some(Active { mut process, .. }) = self.successor.take() else { return };
        if process.reap().is_none() {
            self.executor.spawn(process.bury()).detach();
        }
    }

    fn start_timer(&mut self, timer: Timer) {
        let settings = &self.parts.settings;
        let after = match timer {
            Timer::Ready => settings.ready_timeout,
            Timer::Probation => settings.probation,
            Timer::Pong => PONG_TIMEOUT,
            Timer::Leave => LEAVE_TIMEOUT,
            Timer::Reap => REAP_TIMEOUT,
            Timer::Barrier => BARRIER_TIMEOUT,
            Timer::Committed => COMMITTED_TIMEOUT,
        };
        let number = self.next_number();
        let task = self.executor.spawn(sources::deadline(number, timer, after, self.inputs.clone()));
        self.deadline = Some((number, task));
    }

    async fn announce(&mut self) {
        let Some(active) = &self.successor else { return };
        let (pid, number) = (active.process.pid(), self.parts.number + 1);
        let status = format!("generation {number} (pid {pid}) serves; generation {} drains", self.parts.number);
        let event = match self.parts.notifier.announce(pid, &status).await {
            Ok(()) => Event::Announced,
            Err(error) => {
                if let Some(record) = &mut self.record {
                    record.detail = Some(error.to_string());
                }
                Event::AnnounceFailed
            }
        };
        self.immediate.push_back(event);
    }

    fn await_barrier(&mut self) {
        match self.parts.notifier.barrier() {
            Ok(reader) => {
                let task = self.executor.spawn(sources::barrier(reader, self.inputs.clone()));
                self.background.push(task);
            }
            Err(error) => {
                log::warn!("{error}");
                self.immediate.push_back(Event::BarrierReturned);
            }
        }
    }

    async fn send_commit(&mut self, settled: bool, reload: bool) {
        let event = match self.commit(settled, reload).await {
            Ok(()) => Event::CommitSent,
            Err(error) => {
                log::warn!("{error}");
                self.parts.inherited.resume();
                Event::CommitFailed
            }
        };
        self.immediate.push_back(event);
    }

    async fn commit(&mut self, settled: bool, reload: bool) -> Result<(), Error> {
        let own = self.id();
        let (Some(active), Some(record)) = (&self.successor, &mut self.record) else {
            return Err(Error::handover("there is no successor to commit"));
        };
        let outcome = record.outcome(own, None);
        let older: Vec<Link> = self.older.iter().map(|older| older.id.clone()).collect();
        let draining: Vec<u64> = older.iter().map(|id| id.generation).collect();
        let settings = &self.parts.settings;
        let Bequest { total, added, own: counted } = self.parts.inherited.bequeath(|| settings.counts(), &draining);
        let legacy = Message::Legacy(Legacy { total, added, reloads: self.history.passed_on() });
        if let Err(error) = active.process.channel.try_send(&legacy, &[]) {
            // Worth no failed reload: the next generation begins to count at nothing.
            log::warn!("{error} to the successor");
        }
        self.counted_before = Some(counted);
        let fds: Vec<BorrowedFd<'_>> = self.older.iter().map(|older| older.line.as_fd()).collect();
        let commit = Message::Commit(Commit { settled, reload, older, outcome });
        let late = async {
            IoTimer::after(COMMIT_TIMEOUT).await;
            Err(Error::handover(format!("there was no room for Commit and its descriptors within {COMMIT_TIMEOUT:?}")))
        };
        future::or(active.process.channel.send(&commit, &fds), late).await
    }

    fn tell_successor(&self, message: &Message) {
        if let Some(active) = &self.successor
            && let Err(error) = active.process.channel.try_send(message, &[])
        {
            log::warn!("{error} to the successor");
        }
    }

    fn tell_older(&self) {
        for older in &self.older {
            if let Line::Open { channel, .. } = &older.line
                && let Err(error) = channel.try_send(&Message::Stopping, &[])
            {
                log::debug!("{error} to generation {}", older.id.generation);
            }
        }
    }

    fn tell_predecessor(&self, message: &Message) {
        if let Some(predecessor) = &self.parts.predecessor
            && let Err(error) = predecessor.channel.try_send(message, &[])
        {
            log::debug!("{error} to the predecessor");
        }
    }

    /// The predecessor keeps to itself, until the commit, what this generation does not want.
    fn say_ready(&self) {
        for names in self.parts.released.chunks(ENTRIES_PER_MESSAGE_MAX) {
            self.tell_predecessor(&Message::Released { names: names.to_vec() });
        }
        self.tell_predecessor(&Message::Ready);
    }

    /// Leaves accepting to the successor, but for the listeners that it does not have.
    fn pause(&self) {
        let released = self.successor.as_ref().map(|active| &active.released);
        for listener in &self.listeners {
            if !released.is_some_and(|released| released.contains(listener.name())) {
                listener.close();
            }
        }
    }

    /// Gives up the sockets that the successor does not want, and returns the listeners whose queues are still to be
    /// served. A path goes first, so that nobody finds a socket that is about to close.
    fn release(&mut self) -> Vec<Listener> {
        let Some(active) = &self.successor else { return vec![] };
        let is_released = |name: &str| active.released.contains(name);
        let sockets = &mut self.parts.sockets;
        for socket in sockets.extract_if(.., |socket| is_released(&socket.name)) {
            log::info!("the listener {} on {} closes: nobody wants it any more", socket.name, socket.address);
            unlink_if_ours(&socket);
        }
        self.parts.control.iter().filter(|socket| is_released(&socket.name)).for_each(unlink_if_ours);
        let mut released: Vec<Listener> =
            self.listeners.extract_if(.., |listener| is_released(listener.name())).collect();
        released.extend(self.main_listeners.extract_if(.., |listener| is_released(listener.name())));
        released.iter().for_each(Listener::release);
        released
    }

    /// The drain is off.
    fn end_drain(&mut self) {
        self.acknowledge = None;
        self.drain_watch = None;
        self.drain_begun = None;
        self.newest = None;
        self.reporting = None;
        self.parts.inherited.resume();
        self.parts.drain.set_phase(Phase::Serving);
    }

    /// Goes on accepting for the stop delay, so that nobody is refused who does not know yet that the service stops.
    fn begin_stop(&mut self) {
        self.parts.drain.announce_stop();
        let delay = self.parts.settings.stop_delay;
        if delay.is_zero() {
            self.begin_drain(Phase::Stopping);
            return;
        }
        self.listeners.iter().for_each(Listener::open);
        self.background.push(self.executor.spawn(sources::stop_delay(delay, self.inputs.clone())));
    }

    pub(super) fn begin_drain(&mut self, phase: Phase) {
        self.drain_begun = Some(Instant::now());
        let (last_call, timeout) = if phase == Phase::Stopping {
            self.listeners.iter().for_each(Listener::last_call);
            self.parts.drain.set_phase(phase);
            (self.listeners.clone(), self.parts.settings.drain_timeout + STOP_GRACE)
        } else {
            self.open_way_and_drain();
            self.reporting = Some(self.executor.spawn(sources::reports(REPORT_EVERY, self.inputs.clone())));
            (self.release(), self.parts.settings.drain_timeout)
        };
        let number = self.next_number();
        let drain = self.parts.drain.clone();
        let watch = sources::drain(number, drain, last_call, timeout, self.inputs.clone());
        self.drain_watch = Some((number, self.executor.spawn(watch)));
    }
}

impl Driver {
    /// Lets connections move to the successor, each in its turn, if it takes them. The way has to be open before anyone
    /// looks for it.
    fn open_way_and_drain(&mut self) {
        let hello = self.record.as_ref().and_then(|record| record.hello.as_ref());
        let takes = hello.is_some_and(|hello| hello.features.contains(connections::FEATURE));
        if let Some(active) = self.successor.as_ref().filter(|_| takes) {
            let channel = Arc::clone(&active.process.channel);
            let (mover, acknowledge) = self.parts.connections.open(channel, self.parts.drain.clone());
            self.parts.drain.set_phase_in_turn(Phase::Draining);
            self.executor.spawn(mover).detach();
            self.acknowledge = Some(acknowledge);
        } else {
            self.parts.drain.set_phase(Phase::Draining);
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Line::Open { channel, .. } => channel.as_fd(),
            Line::Silent(fd) => fd.as_fd(),
        }
    }
}
