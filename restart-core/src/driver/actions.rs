//! The lifecycle's actions, carried out.

use std::time::{Duration, Instant};

use async_io::Timer as IoTimer;
use futures_lite::future;

use super::bounds::STOP_GRACE;
use super::record::{Record, signal_id, to_wire};
use super::reload::{ASK_AGAIN, PONG_TIMEOUT};
use super::{Chain, Driver, MainRole, Parts, REPORT_EVERY, sources};
use crate::control::Reply;
use crate::counters::Snapshot;
use crate::drain::Phase;
use crate::error::Error;
use crate::handover::{Commit, Counters, History, Message, ReloadMark};
use crate::lifecycle::{Action, Event, State, Timer};
use crate::listeners::{Listener, unlink_if_ours};
use crate::lock::lock;
use crate::successor::{ENTRIES_PER_MESSAGE_MAX, Handover, Spawned};

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

impl Driver {
    pub(super) async fn perform(&mut self, action: Action) {
        match action {
            Action::Accept => self.listeners.iter().for_each(Listener::open),
            Action::Pause => self.pause(),
            Action::TakeOver => self.take_over(),
            Action::LetGo => self.let_go(),
            Action::Welcome => self.chain.welcome(),
            Action::NotifyReloading => {
                let settings = &self.parts.settings;
                let within = settings.ready_timeout + settings.probation + PONG_TIMEOUT + ROOM;
                self.main.say_reloading(&format!("generation {} reloads", self.parts.number), within);
            }
            Action::NotifyReady => self.notify_ready(),
            Action::NotifyStopping => {
                let settings = &self.parts.settings;
                let within = settings.stop_delay + settings.stop_timeout + STOP_GRACE + ROOM;
                self.main.say_stopping(&format!("generation {} stops", self.parts.number), within);
            }
            Action::NotifyTakeover => {
                self.main.say_took_over(self.status_line());
                self.main.store(&lock(&self.parts.sockets));
            }
            Action::Spawn => self.spawn(),
            Action::Withdraw { stop } => {
                let within_ms = stop.then(|| self.left_to_stop());
                self.chain.withdraw(stop, within_ms);
            }
            Action::BeginWithdrawal => self.begin_withdrawal(),
            Action::BoundDrain => self.bound_drain(),
            Action::Kill => self.reload.kill(),
            Action::Reap => self.reload.reap(),
            Action::CloseLine => {
                self.chain.close_newer();
                self.reload.see_off();
            }
            Action::Start(timer) => self.start_timer(timer),
            Action::CancelTimer => self.deadline = None,
            Action::SendPing => self.chain.tell_newest(&Message::Ping),
            Action::Announce => self.announce().await,
            Action::AwaitBarrier => self.main.await_barrier(),
            Action::SendCommit { settled, reload } => self.send_commit(settled, reload).await,
            Action::SendSettled => self.chain.tell_newest(&Message::Settled),
            Action::ForwardReload => self.chain.tell_newest(&Message::Reload),
            Action::ForwardStop => self.chain.tell_newest(&Message::Stop),
            Action::TellOlder => {
                let within_ms = Some(self.left_to_stop());
                self.chain.tell_older(&Message::Stopping { within_ms });
            }
            Action::SayReady => self.say_ready(),
            Action::SayFailed => self.say_failed(),
            Action::SayCommitted => self.chain.tell_predecessor(&Message::Committed),
            Action::SayPong => self.chain.answer_ping(self.parts.settings.is_well()),
            Action::SayStop => self.chain.tell_predecessor(&Message::Stop),
            Action::AnswerDone => self.answer_done(),
            Action::AnswerFailed(failure) => self.answer_failed(failure),
            Action::Refuse(refusal) => self.refuse(refusal),
            Action::AnswerStopping => {
                if let Some(requester) = self.requester.take() {
                    let _ = requester.try_send(Reply::Stopping);
                    self.main.keep_stop_requester(requester);
                }
            }
            Action::CutOff => self.requester = None,
            Action::BeginDrain => self.begin_drain(Phase::Draining),
            Action::BeginStop => self.begin_stop(),
            Action::WatchDrain => self.watch_stop(vec![]),
            Action::EndDrain => self.end_drain(),
            Action::Exit(ending) => self.ending = Some(ending),
        }
    }

    fn say_failed(&self) {
        let reason = self.failure.as_deref().unwrap_or("the application gave up");
        self.chain.tell_predecessor(&Message::failed(reason));
    }

    /// Becomes the main process.
    fn take_over(&mut self) {
        self.chain.take_over();
        self.main.write_pid_file();
        self.note_own_commit();
        self.chain.forget_predecessor();
        self.main.accept();
    }

    /// Leaves the control socket and the older generations to the successor.
    fn let_go(&mut self) {
        self.main.pause();
        self.chain.let_go();
        let successor = self.reload.successor_pid();
        log::debug!("the service is now generation {}'s (pid {successor:?})", self.parts.number + 1);
    }

    fn notify_ready(&mut self) {
        self.main.say_ready(self.status_line());
        self.main.store(&lock(&self.parts.sockets));
        log::info!("{}", self.serves());
    }

    /// Tells the service manager how things are, if that has changed.
    pub(super) fn refresh_status(&mut self) {
        if matches!(self.lifecycle.state(), State::Serving { .. }) {
            self.main.say_status(self.status_line());
        }
    }

    fn spawn(&mut self) {
        let id = self.requested_id.take().unwrap_or_else(signal_id);
        let (environment, signals) = (self.parts.environment.clone(), self.parts.signals.numbers());
        let word = self.parts.settings.handover_word.clone();
        let cut = self.cut_for(&id);
        self.reload.begin(Record::new(id, self.requester.take(), cut), (environment, word), signals);
    }

    pub(super) fn take_spawned(&mut self, number: u64, spawned: Spawned) -> Option<Event> {
        let Driver { reload, chain, main, parts, .. } = self;
        reload.take_spawned(number, spawned, |id| handover(id, parts, chain, main))
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
        let number = self.tasks.next_number();
        let task = self.tasks.spawn(sources::deadline(number, timer, after, self.tasks.inputs()));
        self.deadline = Some((number, task));
    }

    async fn announce(&mut self) {
        let Some(pid) = self.reload.successor_pid() else { return };
        let number = self.parts.number + 1;
        let status = format!("generation {number} (pid {pid}) serves; generation {} drains", self.parts.number);
        let event = match self.main.announce(pid, &status).await {
            Ok(()) => Event::Announced,
            Err(error) => {
                self.reload.failed(error.to_string());
                Event::AnnounceFailed
            }
        };
        self.immediate.push_back(event);
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
        let Some(record) = &self.reload.record else { return };
        let mut reloads = self.reload.history.passed_on();
        reloads.push(record.outcome(own, None));
        let draining: Vec<u64> = self.chain.lines().iter().map(|(id, _)| id.generation).collect();
        let settings = &self.parts.settings;
        let Snapshot { total, added, own: counted } = self.parts.inherited.snapshot(|| settings.counts(), &draining);
        self.counted_before = Some(counted);
        let counters = |added| Message::Counters(Counters { total: total.clone(), added });
        // What many generations have added may be too long; each says it again within half a second.
        let whole = counters(added);
        self.chain.tell_newest(&if whole.encode(&[]).is_ok() { whole } else { counters(vec![]) });
        self.chain.tell_newest(&Message::History(History { reloads: reloads.into_iter().map(to_wire).collect() }));
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
        let released = self.main.released();
        for names in released.chunks(ENTRIES_PER_MESSAGE_MAX) {
            self.chain.tell_predecessor(&Message::Released { names: names.to_vec() });
        }
        self.chain.tell_predecessor(&Message::Ready { released: released.len() });
    }

    /// Feeds the watchdog, if this is the main process and the application is well.
    pub(super) fn feed_watchdog(&mut self) {
        if self.lifecycle.is_main() {
            self.main.ask_for_watchdog(self.parts.settings.is_well());
        }
    }

    /// Leaves accepting to the successor, but for the listeners that it does not have.
    fn pause(&self) {
        let released = self.reload.released();
        for listener in &self.listeners {
            if !released.is_some_and(|released| released.contains(listener.name())) {
                listener.close();
            }
        }
    }

    /// Gives up the sockets that the successor does not want, and returns the listeners whose queues are still to be
    /// served. A path goes first, so that nobody finds a socket that is about to close.
    fn release(&mut self) -> Vec<Listener> {
        let Some(names) = self.reload.released() else { return vec![] };
        let is_released = |name: &str| names.contains(name);
        let mut sockets = lock(&self.parts.sockets);
        for socket in sockets.extract_if(.., |socket| is_released(&socket.name)) {
            log::info!("the listener {} on {} closes: nobody wants it any more", socket.name, socket.address);
            unlink_if_ours(&socket);
        }
        drop(sockets);
        let mut released: Vec<Listener> =
            self.listeners.extract_if(.., |listener| is_released(listener.name())).collect();
        released.extend(self.main.release(is_released));
        released.iter().for_each(Listener::release);
        released
    }

    /// The drain is off.
    fn end_drain(&mut self) {
        log::warn!("no newer generation lives any more: {} takes over again", self.id());
        self.chain.stop_moving();
        self.drain_watch = None;
        self.drain_begun = None;
        self.bounds.forget();
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
        self.background.push(self.tasks.spawn(sources::stop_delay(delay, self.tasks.inputs())));
    }

    fn begin_withdrawal(&mut self) {
        self.drain_begun = Some(Instant::now());
        self.parts.drain.set_deadline(self.parts.settings.drain_timeout);
        self.chain.begin_withdrawal();
        self.watch_drain(vec![]);
    }

    pub(super) fn begin_drain(&mut self, phase: Phase) {
        self.drain_begun = Some(Instant::now());
        if phase == Phase::Stopping {
            self.listeners.iter().for_each(Listener::last_call);
            let left = Duration::from_millis(self.left_to_stop());
            self.parts.drain.set_deadline(left);
            self.parts.drain.set_phase(phase);
            self.watch_stop(self.listeners.clone());
        } else {
            self.chain.stop_taking();
            self.parts.drain.set_deadline(self.parts.settings.drain_timeout);
            self.chain.begin_drain();
            self.reporting = Some(self.tasks.spawn(sources::reports(REPORT_EVERY, self.tasks.inputs())));
            let released = self.release();
            self.watch_drain(released);
        }
    }
}

/// All that the successor of the reload of this name is given.
fn handover(id: String, parts: &mut Parts, chain: &Chain, main: &MainRole) -> Handover {
    let settings = &mut parts.settings;
    let state = settings.save_state.as_mut().map(|(format, save)| (*format, save()));
    Handover {
        older: chain.lines(),
        hello: settings.hello(parts.number),
        sockets: lock(&parts.sockets).iter().chain(main.control()).cloned().collect(),
        state,
        mark: ReloadMark { id, generation: parts.number, pid: std::process::id() },
    }
}
