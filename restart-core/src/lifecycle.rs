//! The life of one generation as a pure state machine: from a state and an event to a state and actions.
//!
//! It owns every decision of a reload: who accepts, who is the main process, when a failure rolls back and when it no
//! longer can. It never touches a socket, a process or a clock; the driver does, and reports back with events. It
//! stands alone so that a test can walk the whole space of two generations, with crashes as events.
//!
//! | state | accepts | control socket | main process |
//! |---|---|---|---|
//! | `Starting` | no | no | only without a predecessor |
//! | `Standby` (said Ready, waits for the commit) | yes | no | no |
//! | `Serving` | yes | yes | yes |
//! | `Reloading`, until the successor is ready | yes | yes | yes |
//! | `Reloading`, from probation to the announcement | paused, the successor accepts | yes | yes |
//! | `RollingBack` (the successor is being killed and reaped) | yes | yes | yes |
//! | `Draining`, from the commit on | no, the successor accepts | no | no |
//! | `Stopping` | no | answers that it stops | yes |

#[cfg(test)]
mod model;

/// What a generation is doing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// Not ready yet.
    Starting { predecessor: Predecessor },
    /// A successor that said Ready, accepts, and waits for its commit.
    Standby,
    /// The main process. Until the predecessor's barrier has returned (`settled`) it starts no reload.
    Serving { settled: bool },
    /// A successor exists or is being started; every failure still rolls back.
    Reloading(Stage),
    /// The reload failed; the successor is on its way out.
    RollingBack { failure: Failure, then_stop: bool },
    /// The commit has happened. `settled`: systemd has read all that was sent; `answered`: whoever asked has been told;
    /// `drained`: nothing is in flight.
    Draining { settled: bool, committed: bool, answered: bool, drained: bool },
    /// The whole service ends.
    Stopping { drained: bool },
    /// Nothing is left to do.
    Exited,
}

/// What has become of the process that started this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Predecessor {
    None,
    Alive,
    Gone,
}

/// How far a reload has come before its point of no return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// The successor has been started and has not said Ready yet.
    AwaitReady,
    /// It is ready and accepts; it has to live through the probation.
    Probation,
    /// It has to answer a ping through its event loop.
    AwaitPong,
    /// The service manager is being told.
    Announcing,
}

/// Why a reload failed; the driver knows the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Failure {
    /// It could not be started.
    Spawn,
    /// It ended.
    Exited,
    /// It said Failed.
    Reported,
    /// It closed the handover socket without a word.
    ChannelClosed,
    /// It does not speak our protocol, or broke it.
    Protocol,
    /// It was not ready in time.
    ReadyDeadline,
    /// It did not answer the ping in time.
    PongDeadline,
    /// The service manager could not be told.
    Announce,
    /// The service was told to stop meanwhile.
    Stopped,
    /// It vanished after the commit, and this generation serves again.
    DiedAfterCommit,
}

/// The one deadline that a state may have; starting one replaces the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Timer {
    /// The successor has to say Ready.
    Ready,
    /// The probation's end.
    Probation,
    /// The successor has to answer the ping.
    Pong,
    /// A successor that has given up has to exit by itself.
    Leave,
    /// A killed successor has to be reaped.
    Reap,
    /// The service manager has to have read all that was sent.
    Barrier,
    /// The successor has to say Committed.
    Committed,
}

/// Who asked for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    /// A client on the control socket, who waits for an answer.
    Command,
    /// A signal, or a draining generation that passes one on.
    Signal,
}

/// All that can happen to a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The application is ready to serve.
    AppReady,
    /// Somebody wants a new generation.
    Reload(Origin),
    /// Somebody wants the service to end.
    Stop(Origin),
    /// Nothing is in flight any more.
    Drained,
    /// The drain's deadline has passed.
    DrainDeadline,
    /// The deadline of the present state has passed.
    Deadline(Timer),

    /// The successor could not be started.
    SpawnFailed,
    /// The successor said Ready.
    SuccessorReady,
    /// The successor said Failed.
    SuccessorFailed,
    /// The successor answered the ping.
    SuccessorPong,
    /// The successor serves as the main process.
    SuccessorCommitted,
    /// The successor was told to stop before its commit.
    SuccessorStop,
    /// The successor said what it must not say now, or nothing that can be read.
    SuccessorBroke,
    /// The successor's process has ended.
    SuccessorExited,
    /// The channel to the newest generation is closed on all other ends: nobody newer lives.
    NewestGone,
    /// The newest generation stops, and the service with it.
    NewestStops,
    /// The service manager has been told of the new main process.
    Announced,
    /// It could not be told.
    AnnounceFailed,
    /// Commit is on its way to the successor.
    CommitSent,
    /// Commit could not be sent.
    CommitFailed,
    /// The service manager has read all that was sent.
    BarrierReturned,

    /// The predecessor hands the service over. `older`: how many generations drain now.
    Commit { settled: bool, reload: bool, older: u8 },
    /// The predecessor's barrier has returned.
    Settled,
    /// The predecessor asks for a sign of life.
    Ping,
    /// The predecessor vanished before its commit. `older`: how many generations drain that it knew of.
    PredecessorGone { older: u8 },
    /// One of the draining generations has ended.
    OlderGone,
}

/// All that the driver can be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Start accepting, or start again.
    Accept,
    /// Stop accepting and keep the listeners.
    Pause,
    /// Become the main process: control socket, pid file, the channels of draining generations.
    TakeOver,
    /// Leave the control socket and the older generations to the successor.
    LetGo,
    /// Tell the service manager that a reload begins.
    NotifyReloading,
    /// Tell the service manager that this process is ready.
    NotifyReady,
    /// Tell the service manager that the service stops.
    NotifyStopping,
    /// Feed the watchdog at once, as the new main process, and tell how things are.
    NotifyTakeover,
    /// Start the next generation, and give it all that it needs.
    Spawn,
    /// Kill the successor.
    Kill,
    /// Close the channel to the successor, which has been reaped.
    CloseChannel,
    /// Start the deadline of the state entered.
    Start(Timer),
    /// Cancel it.
    CancelTimer,
    /// Ask the successor for a sign of life.
    SendPing,
    /// Tell the service manager who is the main process now. Its success is the point of no return.
    Announce,
    /// Wait until the service manager has read that.
    AwaitBarrier,
    /// Send Commit. Without a service manager its success is the point of no return.
    SendCommit { settled: bool, reload: bool },
    /// Tell the successor that the barrier has returned.
    SendSettled,
    /// Pass a reload signal on to the newest generation.
    ForwardReload,
    /// Pass a stop on to the newest generation.
    ForwardStop,
    /// Tell the older generations that the service stops, so that none of them serves again when this one is gone.
    TellOlder,
    /// Say Ready to the predecessor.
    SayReady,
    /// Say Committed to the predecessor.
    SayCommitted,
    /// Answer the predecessor's ping.
    SayPong,
    /// Tell the predecessor that this process was told to stop.
    SayStop,
    /// Tell whoever asked for the present reload that it worked.
    AnswerDone,
    /// Tell whoever asked for the present reload, and the service manager, that it failed.
    AnswerFailed(Failure),
    /// Tell whoever asked for another reload why there is none now.
    Refuse(Refusal),
    /// Tell whoever asked for a stop that it is under way.
    AnswerStopping,
    /// Close the connection to whoever asked, who then asks the newest generation.
    CutOff,
    /// Start the drain: the deadline runs, connections are told.
    BeginDrain,
    /// Accept what waits and nothing more, and start the drain that ends the service.
    BeginStop,
    /// The drain is off: this generation serves again.
    EndDrain,
    /// End the process.
    Exit(Ending),
}

/// Why a reload is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// One is under way.
    InProgress,
    /// As many generations drain as may.
    TooManyDraining,
    /// The service manager has not read the last reload's messages yet.
    Unsettled,
    /// The service stops.
    Stopping,
    /// This generation is not the main one.
    NotMain,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ending {
    /// It finished its drain; a successor serves.
    Drained,
    /// The service has been stopped.
    Stopped,
    /// It was told to stop before it served.
    NeverServed,
    /// Its successor vanished, and the service manager is to start anew.
    Abandoned,
}

/// One generation's state machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lifecycle {
    state: State,
    /// Whether a service manager follows us.
    managed: bool,
    /// How many older generations still drain.
    older: u8,
    max_draining: u8,
    /// A reload signal that came when no reload could be started.
    queued: bool,
    /// The service was told to stop while it was another process's: obeyed if it becomes this one's after all.
    stop_wanted: bool,
}

type Step = (State, Vec<Action>);

impl Lifecycle {
    /// A process that has just been started.
    pub(crate) fn new(predecessor: bool, managed: bool, max_draining: u8) -> Lifecycle {
        let predecessor = if predecessor { Predecessor::Alive } else { Predecessor::None };
        Lifecycle {
            state: State::Starting { predecessor },
            managed,
            older: 0,
            max_draining,
            queued: false,
            stop_wanted: false,
        }
    }

    /// The state at this moment.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// How many older generations drain.
    pub(crate) fn older(&self) -> u8 {
        self.older
    }

    /// Whether this generation means to accept connections in its present state.
    #[cfg(test)]
    pub(crate) fn accepts(&self) -> bool {
        matches!(
            self.state,
            State::Standby
                | State::Serving { .. }
                | State::Reloading(Stage::AwaitReady)
                | State::RollingBack { then_stop: false, .. }
        )
    }

    /// Takes an event in and returns what is to be done, in order.
    pub(crate) fn on(&mut self, event: Event) -> Vec<Action> {
        if event == Event::OlderGone {
            self.older = self.older.saturating_sub(1);
        }
        let (state, actions) = match self.state {
            State::Starting { predecessor } => self.starting(predecessor, event),
            State::Standby => self.standby(event),
            State::Serving { settled } => self.serving(settled, event),
            State::Reloading(stage) => self.reloading(stage, event),
            State::RollingBack { failure, then_stop } => self.rolling_back(failure, then_stop, event),
            State::Draining { .. } => self.draining(event),
            State::Stopping { drained } => self.stopping(drained, event),
            State::Exited => (State::Exited, vec![]),
        };
        self.state = state;
        actions
    }

    fn starting(&mut self, predecessor: Predecessor, event: Event) -> Step {
        let same = State::Starting { predecessor };
        match (event, predecessor) {
            (Event::AppReady, Predecessor::Alive) => (State::Standby, vec![Action::Accept, Action::SayReady]),
            (Event::AppReady, _) => {
                (State::Serving { settled: true }, vec![Action::TakeOver, Action::Accept, Action::NotifyReady])
            }
            (Event::PredecessorGone { older }, Predecessor::Alive) => {
                self.older = older;
                if self.stop_wanted {
                    return take_over_and_stop(Origin::Signal);
                }
                (State::Starting { predecessor: Predecessor::Gone }, vec![])
            }
            (Event::Stop(_), Predecessor::Alive) => {
                self.stop_wanted = true;
                (same, vec![Action::SayStop])
            }
            (Event::Stop(origin), Predecessor::Gone) => take_over_and_stop(origin),
            (Event::Stop(_), Predecessor::None) => (State::Exited, vec![Action::Exit(Ending::NeverServed)]),
            (Event::Ping, _) => (same, vec![Action::SayPong]),
            (Event::Reload(Origin::Command), _) => (same, vec![Action::Refuse(Refusal::NotMain)]),
            _ => (same, vec![]),
        }
    }

    fn standby(&mut self, event: Event) -> Step {
        match event {
            Event::Commit { settled, reload, older } => {
                self.older = older;
                self.queued |= reload;
                let mut actions = vec![Action::TakeOver, Action::NotifyTakeover, Action::SayCommitted];
                let (state, more) = if self.stop_wanted { stop(Origin::Signal) } else { self.serve_or_reload(settled) };
                actions.extend(more);
                (state, actions)
            }
            // It accepts already, and nobody else does: it commits itself.
            Event::PredecessorGone { older } => {
                self.older = older;
                if self.stop_wanted {
                    return take_over_and_stop(Origin::Signal);
                }
                (State::Serving { settled: true }, vec![Action::TakeOver, Action::NotifyReady])
            }
            Event::Ping => (State::Standby, vec![Action::SayPong]),
            Event::Stop(_) => {
                self.stop_wanted = true;
                (State::Standby, vec![Action::SayStop])
            }
            Event::Reload(Origin::Command) => (State::Standby, vec![Action::Refuse(Refusal::NotMain)]),
            _ => (State::Standby, vec![]),
        }
    }

    fn serving(&mut self, settled: bool, event: Event) -> Step {
        match event {
            Event::Reload(Origin::Command) => match self.refusal(settled) {
                Some(refusal) => (State::Serving { settled }, vec![Action::Refuse(refusal)]),
                None => begin_reload(),
            },
            Event::Reload(Origin::Signal) => {
                self.queued = true;
                self.serve_or_reload(settled)
            }
            Event::Settled => self.serve_or_reload(true),
            Event::OlderGone => self.serve_or_reload(settled),
            Event::Ping => (State::Serving { settled }, vec![Action::SayPong]),
            Event::Stop(origin) => stop(origin),
            _ => (State::Serving { settled }, vec![]),
        }
    }

    /// Why a reload cannot start now, if it cannot.
    fn refusal(&self, settled: bool) -> Option<Refusal> {
        if self.older >= self.max_draining {
            Some(Refusal::TooManyDraining)
        } else if settled {
            None
        } else {
            Some(Refusal::Unsettled)
        }
    }

    /// Serves on, or starts the reload that a signal asked for, if it can be started now.
    fn serve_or_reload(&mut self, settled: bool) -> Step {
        if self.queued && self.refusal(settled).is_none() {
            self.queued = false;
            begin_reload()
        } else {
            (State::Serving { settled }, vec![])
        }
    }

    fn reloading(&mut self, stage: Stage, event: Event) -> Step {
        let same = State::Reloading(stage);
        match (event, stage) {
            (Event::SuccessorReady, Stage::AwaitReady) => {
                (State::Reloading(Stage::Probation), vec![Action::Pause, Action::Start(Timer::Probation)])
            }
            (Event::Deadline(Timer::Probation), Stage::Probation) => {
                (State::Reloading(Stage::AwaitPong), vec![Action::SendPing, Action::Start(Timer::Pong)])
            }
            (Event::SuccessorPong, Stage::AwaitPong) if self.managed => {
                (State::Reloading(Stage::Announcing), vec![Action::CancelTimer, Action::Announce])
            }
            (Event::SuccessorPong, Stage::AwaitPong) => {
                let reload = std::mem::take(&mut self.queued);
                let commit = Action::SendCommit { settled: true, reload };
                (State::Reloading(Stage::Announcing), vec![Action::CancelTimer, commit])
            }
            // Without a service manager, Commit is the point of no return.
            (Event::CommitSent, Stage::Announcing) => {
                let state = State::Draining { settled: true, committed: true, answered: false, drained: false };
                (state, vec![Action::LetGo, Action::Start(Timer::Committed), Action::BeginDrain])
            }
            (Event::Announced, Stage::Announcing) => {
                let state = State::Draining { settled: false, committed: false, answered: false, drained: false };
                (state, vec![Action::LetGo, Action::AwaitBarrier, Action::Start(Timer::Barrier)])
            }
            (Event::AnnounceFailed, Stage::Announcing) => roll_back(Failure::Announce, false),

            (Event::SpawnFailed, _) => {
                let (state, mut actions) = self.serve_or_reload(true);
                actions.splice(0..0, restored(Failure::Spawn));
                (state, actions)
            }
            (Event::SuccessorFailed, _) => roll_back(Failure::Reported, false),
            (Event::NewestGone | Event::CommitFailed, _) => roll_back(Failure::ChannelClosed, false),
            (Event::SuccessorBroke, _) => roll_back(Failure::Protocol, false),
            (Event::Deadline(Timer::Ready), Stage::AwaitReady) => roll_back(Failure::ReadyDeadline, false),
            (Event::Deadline(Timer::Pong), Stage::AwaitPong) => roll_back(Failure::PongDeadline, false),
            (Event::SuccessorExited, _) => {
                let (state, mut actions) = self.rolled_back(Failure::Exited, false);
                actions.insert(0, Action::Accept);
                (state, actions)
            }
            (Event::Stop(origin), _) => {
                let (state, mut actions) = roll_back(Failure::Stopped, true);
                if origin == Origin::Command {
                    actions.push(Action::AnswerStopping);
                }
                (state, actions)
            }
            (Event::SuccessorStop, _) => roll_back(Failure::Stopped, true),
            (Event::Reload(Origin::Command), _) => (same, vec![Action::Refuse(Refusal::InProgress)]),
            (Event::Reload(Origin::Signal), _) => {
                self.queued = true;
                (same, vec![])
            }
            _ => (same, vec![]),
        }
    }

    fn rolling_back(&mut self, failure: Failure, then_stop: bool, event: Event) -> Step {
        let same = State::RollingBack { failure, then_stop };
        match event {
            Event::Deadline(Timer::Leave) => (same, vec![Action::Kill, Action::Start(Timer::Reap)]),
            // A process that SIGKILL does not end hangs in the kernel. Nothing better is to be had than going on.
            Event::SuccessorExited | Event::Deadline(Timer::Reap) => self.rolled_back(failure, then_stop),
            Event::Stop(origin) => {
                let mut actions = vec![Action::Kill, Action::Start(Timer::Reap)];
                if origin == Origin::Command {
                    actions.push(Action::AnswerStopping);
                }
                (State::RollingBack { failure, then_stop: true }, actions)
            }
            Event::SuccessorStop => {
                (State::RollingBack { failure, then_stop: true }, vec![Action::Kill, Action::Start(Timer::Reap)])
            }
            Event::Reload(Origin::Command) => (same, vec![Action::Refuse(Refusal::InProgress)]),
            Event::Reload(Origin::Signal) => {
                self.queued = true;
                (same, vec![])
            }
            _ => (same, vec![]),
        }
    }

    /// The successor is gone: serves on as if nothing had happened, or stops.
    fn rolled_back(&mut self, failure: Failure, then_stop: bool) -> Step {
        let mut actions = vec![Action::CloseChannel];
        let (state, more) = if then_stop {
            actions.push(Action::AnswerFailed(failure));
            stop(Origin::Signal)
        } else {
            actions.extend(restored(failure));
            self.serve_or_reload(true)
        };
        actions.extend(more);
        (state, actions)
    }

    fn draining(&mut self, event: Event) -> Step {
        let State::Draining { mut settled, mut committed, mut answered, mut drained } = self.state else {
            unreachable!("called in the state Draining only");
        };
        let mut actions = vec![];
        match event {
            Event::NewestGone | Event::CommitFailed if self.managed => {
                // The exit hands the unreaped successor to systemd, which acts on its status (SIGKILL, a failure).
                let answer = (!answered).then_some(Action::AnswerFailed(Failure::DiedAfterCommit));
                actions.extend(answer);
                // It lives where only Commit could not be sent: it serves then, and has to know.
                actions.extend(self.stop_wanted.then_some(Action::ForwardStop));
                actions.push(Action::Exit(Ending::Abandoned));
                return (State::Exited, actions);
            }
            Event::NewestGone | Event::CommitFailed => return self.resume(answered),
            Event::BarrierReturned if committed => {
                settled = true;
                actions.push(Action::SendSettled);
            }
            Event::BarrierReturned => {
                settled = true;
                actions.push(Action::SendCommit { settled, reload: std::mem::take(&mut self.queued) });
            }
            Event::Deadline(Timer::Barrier) if !committed => {
                actions.push(Action::SendCommit { settled, reload: std::mem::take(&mut self.queued) });
            }
            Event::CommitSent => {
                committed = true;
                actions.extend([Action::Start(Timer::Committed), Action::BeginDrain]);
                actions.extend(self.stop_wanted.then_some(Action::ForwardStop));
            }
            Event::SuccessorCommitted | Event::Deadline(Timer::Committed) if !answered => {
                answered = true;
                actions.extend([Action::CancelTimer, Action::AnswerDone]);
            }
            Event::Drained | Event::DrainDeadline => drained = true,
            // Once systemd knows the new main process, a stop at this one is meant for this one, which ends anyway.
            Event::Stop(Origin::Signal) if settled && committed => {}
            Event::Stop(origin) => {
                actions.extend(self.stop_newest(committed));
                // It waits for the end of the service, and this generation may be gone long before that.
                actions.extend((origin == Origin::Command).then_some(Action::CutOff));
            }
            Event::SuccessorStop => actions.extend(self.stop_newest(committed)),
            Event::NewestStops => self.stop_wanted = true,
            Event::Reload(Origin::Signal) if committed => actions.push(Action::ForwardReload),
            Event::Reload(Origin::Signal) => self.queued = true,
            Event::Reload(Origin::Command) => actions.push(Action::Refuse(Refusal::InProgress)),
            _ => {}
        }
        if settled && committed && answered && drained {
            actions.push(Action::Exit(Ending::Drained));
            return (State::Exited, actions);
        }
        (State::Draining { settled, committed, answered, drained }, actions)
    }

    /// Passes a stop on, or keeps it until Commit has been sent.
    fn stop_newest(&mut self, committed: bool) -> Option<Action> {
        self.stop_wanted = true;
        committed.then_some(Action::ForwardStop)
    }

    /// Nobody newer lives, and no service manager will start anybody: serves again, unless the service is to stop.
    fn resume(&mut self, answered: bool) -> Step {
        let mut actions = vec![Action::CancelTimer, Action::EndDrain, Action::CloseChannel, Action::TakeOver];
        actions.extend((!self.stop_wanted).then_some(Action::Accept));
        actions.extend((!answered).then_some(Action::AnswerFailed(Failure::DiedAfterCommit)));
        let (state, more) = if self.stop_wanted { stop(Origin::Signal) } else { self.serve_or_reload(true) };
        actions.extend(more);
        (state, actions)
    }

    fn stopping(&mut self, mut drained: bool, event: Event) -> Step {
        let mut actions = vec![];
        match event {
            Event::Drained => drained = true,
            Event::DrainDeadline => return (State::Exited, vec![Action::Exit(Ending::Stopped)]),
            Event::Reload(Origin::Command) => actions.push(Action::Refuse(Refusal::Stopping)),
            Event::Stop(Origin::Command) => actions.push(Action::AnswerStopping),
            _ => {}
        }
        // Under KillMode=mixed everything else is killed the moment the main process exits, so it waits for the others.
        if drained && self.older == 0 {
            actions.push(Action::Exit(Ending::Stopped));
            return (State::Exited, actions);
        }
        (State::Stopping { drained }, actions)
    }
}

fn begin_reload() -> Step {
    let actions = vec![Action::NotifyReloading, Action::Start(Timer::Ready), Action::Spawn];
    (State::Reloading(Stage::AwaitReady), actions)
}

/// Gives the successor up: one that has given up by itself gets a moment to leave, any other is killed.
fn roll_back(failure: Failure, then_stop: bool) -> Step {
    let mut actions = if then_stop { vec![] } else { vec![Action::Accept] };
    match failure {
        Failure::Reported | Failure::ChannelClosed => actions.push(Action::Start(Timer::Leave)),
        _ => actions.extend([Action::Kill, Action::Start(Timer::Reap)]),
    }
    (State::RollingBack { failure, then_stop }, actions)
}

/// What ends a failed reload that leaves this generation serving.
fn restored(failure: Failure) -> [Action; 2] {
    [Action::CancelTimer, Action::AnswerFailed(failure)]
}

/// The service has become this process's, and is to stop: only the main process can tell the older generations.
fn take_over_and_stop(origin: Origin) -> Step {
    let (state, actions) = stop(origin);
    (state, [vec![Action::TakeOver], actions].concat())
}

fn stop(origin: Origin) -> Step {
    let mut actions = vec![Action::CancelTimer, Action::NotifyStopping, Action::TellOlder, Action::BeginStop];
    if origin == Origin::Command {
        actions.push(Action::AnswerStopping);
    }
    (State::Stopping { drained: false }, actions)
}
