//! The lifecycle's actions, carried out.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_executor::Task;
use async_io::Timer as IoTimer;
use futures_lite::future;

use super::record::{Record, signal_id, to_wire};
use super::{Active, Driver, PID_FILE_EVERY, REPORT_EVERY, sources};
use crate::control::Reply;
use crate::counters::Bequest;
use crate::drain::Phase;
use crate::error::Error;
use crate::handover::{Channel, Commit, Counters, History, Message, ReloadMark};
use crate::lifecycle::{ASKED_MAX, Action, Event, State, Timer};
use crate::listeners::{Listener, Origin, unlink_if_ours};
use crate::successor::{ENTRIES_PER_MESSAGE_MAX, Gift, Spawned, Successor};

/// What is not answered is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// A successor has to answer the ping at the end of its probation within this time, and to have taken over after the
/// commit, or the reload is answered without its word.
pub(super) const PONG_TIMEOUT: Duration = ASK_AGAIN.saturating_mul(ASKED_MAX as u32);
/// A successor that has given up gets this long to leave, so that its own exit status can be reported.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// A killed process is gone at once, unless it hangs in the kernel.
const REAP_TIMEOUT: Duration = Duration::from_secs(5);
/// The service manager has to have read everything by then, or the commit goes out without its word.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(5);
/// Commit has to be on its way by then; there may be no room for it for a moment.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(1);
/// What runs when the newest generation dies gets this long, where clients can wait for the service to be started anew.
const GRACE: Duration = Duration::from_secs(2);
/// A predecessor that has closed its line is seen dead within a moment, or it lives.
const ORPHANED_TIMEOUT: Duration = Duration::from_secs(1);
/// What the service manager is asked to wait beyond our own deadlines.
const ROOM: Duration = Duration::from_secs(5);
/// Older generations began to drain before the service was stopped, so they end a little before this one has to.
const STOP_GRACE: Duration = Duration::from_millis(500);

fn is_over(task: Option<&Task<()>>) -> bool {
    task.is_none_or(Task::is_finished)
}

impl Driver {
    pub(super) async fn perform(&mut self, action: Action) {
        let notifier = &self.parts.notifier;
        match action {
            Action::Accept => self.listeners.iter().for_each(Listener::open),
            Action::Pause => self.pause(),
            Action::TakeOver => self.take_over(),
            Action::LetGo => self.let_go(),
            Action::Welcome => self.welcome(),
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
            Action::Withdraw { stop } => self.withdraw(stop),
            Action::BeginWithdrawal => self.begin_withdrawal(),
            Action::Kill => {
                if let Some(active) = &mut self.successor {
                    active.doomed = true;
                    active.process.iter().for_each(Successor::kill);
                }
                if let Some(record) = &mut self.record {
                    record.killed = true;
                }
            }
            Action::Reap => self.reap(),
            Action::CloseLine => self.close_line(),
            Action::Start(timer) => self.start_timer(timer),
            Action::CancelTimer => self.deadline = None,
            Action::SendPing => self.tell_newest(&Message::Ping),
            Action::Announce => self.announce().await,
            Action::AwaitBarrier => self.await_barrier(),
            Action::SendCommit { settled, reload } => self.send_commit(settled, reload).await,
            Action::SendSettled => self.tell_newest(&Message::Settled),
            Action::ForwardReload => self.tell_newest(&Message::Reload),
            Action::ForwardStop => self.tell_newest(&Message::Stop),
            Action::TellOlder => self.tell_older(),
            Action::SayReady => self.say_ready(),
            Action::SayCommitted => self.tell_predecessor(&Message::Committed),
            Action::SayPong => self.answer_ping(),
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
            Action::WatchDrain => self.watch_drain_again(),
            Action::EndDrain => self.end_drain(),
            Action::Exit(ending) => self.ending = Some(ending),
        }
    }

    /// Becomes the main process.
    fn take_over(&mut self) {
        self.take_lines_over();
        if let Some(pid_file) = &self.parts.pid_file
            && let Err(error) = pid_file.write()
        {
            log::error!("{error}; it is tried again every {PID_FILE_EVERY:?}");
            self.pid_file_due = Some(self.executor.spawn(sources::pid_file(PID_FILE_EVERY, self.inputs.clone())));
        }
        self.note_own_commit();
        self.forget_predecessor();
        self.main_listeners.iter().for_each(Listener::open);
    }

    /// A full disk gets room again, and whoever follows the pid file finds nobody until then.
    pub(super) fn retry_pid_file(&mut self) {
        let Some(pid_file) = &self.parts.pid_file else { return };
        if !self.lifecycle.is_main() {
            self.pid_file_due = None;
        } else if pid_file.write().is_ok() {
            log::info!("the pid file is written now");
            self.pid_file_due = None;
        }
    }

    /// Leaves the control socket and the older generations to the successor.
    fn let_go(&mut self) {
        self.main_listeners.iter().for_each(Listener::close);
        self.chain.let_go();
        let successor = self.successor_pid();
        log::debug!("the service is now generation {}'s (pid {successor:?})", self.parts.number + 1);
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
        if matches!(self.lifecycle.state(), State::Serving { .. }) && status != self.told {
            self.parts.notifier.status(&status);
            self.told = status;
        }
    }

    fn spawn(&mut self) {
        let id = self.asked_id.take().unwrap_or_else(signal_id);
        self.record = Some(Record::new(id, self.asker.take()));
        let number = self.next_number();
        let spawned = Successor::spawn_aside(self.parts.environment.clone(), self.parts.signals.numbers());
        let sources = vec![self.executor.spawn(sources::spawned(number, spawned, self.inputs.clone()))];
        self.successor = Some(Active { number, process: None, doomed: false, released: BTreeSet::new(), sources });
    }

    /// The process exists, and is met, unless it is not wanted any more; or it will never exist.
    pub(super) fn take_spawned(&mut self, number: u64, spawned: Spawned) -> Option<Event> {
        let active = self.successor.take_if(|active| active.number == number);
        match (active, spawned) {
            (Some(active), Ok((process, bootstrap))) => {
                self.meet(Active { process: None, ..active }, process, bootstrap);
                None
            }
            (Some(_), Err(error)) => {
                self.record.as_mut()?.detail = Some(error.to_string());
                Some(Event::SpawnFailed)
            }
            (None, Ok((process, _))) => {
                log::info!("a successor (pid {}) that had been given up is killed: its start took long", process.pid());
                process.kill();
                self.executor.spawn(process.reap_later()).detach();
                None
            }
            (None, Err(error)) => {
                log::debug!("of a successor that had been given up: {error}");
                None
            }
        }
    }

    fn meet(&mut self, mut active: Active, process: Successor, bootstrap: Channel) {
        if let Some(record) = &mut self.record {
            record.spawned(process.pid(), process.spawn_time);
        }
        let (talks, talking) = async_channel::bounded::<()>(1);
        let exit = sources::exit(active.number, process.pidfd(), talking, self.inputs.clone());
        active.sources = vec![self.executor.spawn(exit)];
        if active.doomed {
            process.kill();
        } else {
            let gift = self.gift();
            let talk = sources::successor(active.number, bootstrap, gift, self.inputs.clone());
            active.sources.push(self.executor.spawn(async move {
                talk.await;
                drop(talks);
            }));
        }
        active.process = Some(process);
        self.successor = Some(active);
    }

    fn successor_pid(&self) -> Option<u32> {
        self.successor.as_ref()?.process.as_ref().map(Successor::pid)
    }

    fn gift(&mut self) -> Gift {
        let id = self.record.as_ref().map(|record| record.id.clone()).unwrap_or_default();
        let settings = &mut self.parts.settings;
        let state = settings.save_state.as_mut().map(|(format, save)| (*format, save()));
        Gift {
            older: self.chain.lines(),
            hello: settings.hello(self.parts.number),
            sockets: self.parts.sockets.iter().chain(&self.parts.control).cloned().collect(),
            state,
            mark: ReloadMark { id, generation: self.parts.number, pid: std::process::id() },
        }
    }

    /// Takes the exit status of the successor's process, where it is nobody else's to see.
    fn reap(&mut self) {
        let status = self.successor.as_mut().and_then(|active| active.process.as_mut()?.reap());
        if let Some(record) = &mut self.record {
            record.status = status;
        }
    }

    /// The successor is out of the way. It is reaped, also where its process ends only after its end of the line, and
    /// where it begins only now.
    fn close_line(&mut self) {
        self.chain.close_newer();
        let Some(Active { process, sources, .. }) = self.successor.take() else { return };
        let Some(mut process) = process else { return sources.into_iter().for_each(Task::detach) };
        if process.reap().is_none() {
            self.executor.spawn(process.reap_later()).detach();
        }
    }

    fn start_timer(&mut self, timer: Timer) {
        let settings = &self.parts.settings;
        let after = match timer {
            Timer::Ready => settings.ready_timeout,
            Timer::Probation => settings.probation,
            Timer::Pong | Timer::Committed | Timer::Withdraw => ASK_AGAIN,
            Timer::Leave => LEAVE_TIMEOUT,
            Timer::Withdrawal => settings.drain_timeout + STOP_GRACE,
            Timer::Reap => REAP_TIMEOUT,
            Timer::Barrier => BARRIER_TIMEOUT,
            Timer::Orphaned => ORPHANED_TIMEOUT,
            Timer::Grace => GRACE,
        };
        let number = self.next_number();
        let task = self.executor.spawn(sources::deadline(number, timer, after, self.inputs.clone()));
        self.deadline = Some((number, task));
    }

    async fn announce(&mut self) {
        let Some(pid) = self.successor_pid() else { return };
        let number = self.parts.number + 1;
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
        let barrier = sources::barrier(self.parts.notifier.barrier(), self.inputs.clone());
        self.background.push(self.executor.spawn(barrier));
    }

    async fn send_commit(&mut self, settled: bool, reload: bool) {
        let first = self.counted_before.is_none();
        if first {
            self.send_inheritance();
        }
        let event = match self.commit(settled, reload).await {
            Ok(()) => Event::CommitSent,
            Err(error) => {
                log::warn!("{error}");
                if first {
                    self.counted_before = None;
                    self.parts.inherited.resume();
                }
                Event::CommitFailed
            }
        };
        self.immediate.push_back(event);
    }

    /// Tells the successor what the service has counted and been through. It can do without, so that nothing of it is
    /// worth a failed reload.
    fn send_inheritance(&mut self) {
        let own = self.id();
        let Some(record) = &self.record else { return };
        let mut reloads = self.history.passed_on();
        reloads.push(record.outcome(own, None));
        let draining: Vec<u64> = self.chain.lines().iter().map(|(id, _)| id.generation).collect();
        let settings = &self.parts.settings;
        let Bequest { total, added, own: counted } = self.parts.inherited.bequeath(|| settings.counts(), &draining);
        self.counted_before = Some(counted);
        self.tell_newest(&Message::Counters(Counters { total, added }));
        self.tell_newest(&Message::History(History { reloads: reloads.into_iter().map(to_wire).collect() }));
    }

    async fn commit(&mut self, settled: bool, reload: bool) -> Result<(), Error> {
        let Some(channel) = self.chain.to_newest() else {
            return Err(Error::handover("there is no successor to commit"));
        };
        let commit = Message::Commit(Commit { settled, reload });
        let late = async {
            IoTimer::after(COMMIT_TIMEOUT).await;
            Err(Error::handover(format!("there was no room for Commit within {COMMIT_TIMEOUT:?}")))
        };
        future::or(channel.send(&commit, &[]), late).await
    }

    /// The predecessor keeps to itself, until the commit, what this generation does not want.
    fn say_ready(&self) {
        let released = &self.parts.released;
        for names in released.chunks(ENTRIES_PER_MESSAGE_MAX) {
            self.tell_predecessor(&Message::Released { names: names.to_vec() });
        }
        self.tell_predecessor(&Message::Ready { released: released.len() });
    }

    /// Answers the predecessor's ping, if the application is well. Asked again meanwhile, it has still one answer to give.
    fn answer_ping(&mut self) {
        let Some(predecessor) = self.parts.predecessor.as_ref().filter(|_| is_over(self.pong.as_ref())) else { return };
        let (channel, well) = (Arc::clone(&predecessor.line.channel), self.parts.settings.is_well());
        self.pong = Some(self.executor.spawn(async move {
            if !well.await {
                log::error!("the application does not answer its probe: the predecessor's ping goes without an answer");
            } else if let Err(error) = channel.try_send(&Message::Pong, &[]) {
                log::debug!("{error} to the predecessor");
            }
        }));
    }

    /// Feeds the watchdog, if this is the main process and the application is well.
    pub(super) fn feed_watchdog(&mut self) {
        if self.lifecycle.is_main() && is_over(self.feeding.as_ref()) {
            let well = sources::well(self.parts.settings.is_well(), self.inputs.clone());
            self.feeding = Some(self.executor.spawn(well));
        }
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
        self.chain.stop_moving();
        self.drain_watch = None;
        self.drain_begun = None;
        self.reporting = None;
        self.counted_before = None;
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

    fn begin_withdrawal(&mut self) {
        self.drain_begun = Some(Instant::now());
        self.parts.drain.set_deadline(self.parts.settings.drain_timeout);
        self.withdraw_connections();
        self.watch_drain(vec![], self.parts.settings.drain_timeout);
    }

    pub(super) fn begin_drain(&mut self, phase: Phase) {
        self.drain_begun = Some(Instant::now());
        let grace = if phase == Phase::Stopping { STOP_GRACE } else { Duration::ZERO };
        let timeout = self.parts.settings.drain_timeout + grace;
        self.parts.drain.set_deadline(timeout);
        let last_call = if phase == Phase::Stopping {
            self.listeners.iter().for_each(Listener::last_call);
            self.parts.drain.set_phase(phase);
            self.listeners.clone()
        } else {
            self.chain.stop_taking();
            self.open_way_and_drain();
            self.reporting = Some(self.executor.spawn(sources::reports(REPORT_EVERY, self.inputs.clone())));
            self.release()
        };
        self.watch_drain(last_call, timeout);
    }

    /// Up to the deadline of the stop that has begun.
    fn watch_drain_again(&mut self) {
        let whole = self.parts.settings.drain_timeout + STOP_GRACE;
        let begun = self.drain_begun.map_or(Duration::ZERO, |begun| begun.elapsed());
        self.watch_drain(vec![], whole.saturating_sub(begun));
    }

    fn watch_drain(&mut self, last_call: Vec<Listener>, timeout: Duration) {
        let number = self.next_number();
        let drain = self.parts.drain.clone();
        let watch = sources::drain(number, drain, last_call, timeout, self.inputs.clone());
        self.drain_watch = Some((number, self.executor.spawn(watch)));
    }
}
