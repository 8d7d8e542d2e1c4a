//! The life of one generation as a pure state machine: from a state and an event to a state and actions.
//!
//! It owns every decision of a reload: who accepts, who is the main process, when a failure rolls back and when it no
//! longer can. It never touches a socket, a process or a clock; the driver does, and reports bare facts as events. It
//! stands alone so that a test can walk the whole space of several generations, with crashes and garbage as events.
//!
//! **Nobody is taken for dead without proof.** That another process is gone is known by two facts together: every other
//! end of the line to it is closed, and its pidfd is readable. The one without the other says only that something is
//! broken; it never makes a second main process.
//!
//! | state | accepts | control socket | main process |
//! |---|---|---|---|
//! | `Starting` | no | no | only without a predecessor |
//! | `Standby` (said Ready, waits for the commit) | yes | no | no |
//! | `Serving` | yes | yes | yes |
//! | `Reloading`, until the successor is ready | yes | yes | yes |
//! | `Reloading`, from probation to the announcement | paused, the successor accepts | yes | yes |
//! | `RollingBack` (the successor withdraws, or is being killed, and reaped) | yes | yes | yes |
//! | `Withdrawing` (a successor that was told to, after its Ready) | no, the predecessor accepts | no | no |
//! | `Draining`, from the commit on | no, the successor accepts | no | no |
//! | `Abandoning` (the newest is dead, and the service manager will start anew) | no, clients wait | no | no |
//! | `Stopping` | no | answers that it stops | yes |

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

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
    /// The reload failed; the successor is on its way out. `withdraws`: it hands back what it has accepted.
    RollingBack { failure: Failure, withdraws: bool },
    /// The commit has happened. `settled`: systemd has read all that was sent; `committed`: Commit has been sent;
    /// `reload`: with it the wish for another reload; `answered`: whoever asked has been told; `drained`: nothing is in
    /// flight.
    Draining { settled: bool, committed: bool, reload: bool, answered: bool, drained: bool },
    /// A successor whose predecessor has given it up after its Ready: it hands back what it can, and finishes the rest.
    Withdrawing,
    /// The newest generation is dead, and the service manager starts the service anew when this one ends, which it does
    /// when what runs is finished, or a moment later: somebody else holds the listeners, so that nobody is refused.
    Abandoning,
    /// The whole service ends, and a successor that had not been committed with it.
    Stopping { drained: bool, successor: bool },
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

/// Who follows this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Manager {
    /// Nobody.
    None,
    /// A service manager, which starts the service anew where its main process fails.
    Restarts,
    /// A supervisor, which follows whoever says that it is the main process, and starts nobody.
    Follows,
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
    /// It closed its line without a word.
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
    /// The successor has to answer the ping, or it is asked again.
    Pong,
    /// A successor that has given up has to exit by itself.
    Leave,
    /// A successor that was told to withdraw is told again, in case that could not be read.
    Withdraw,
    /// A successor that withdraws has to have finished what it has accepted.
    Withdrawal,
    /// A killed successor has to be reaped.
    Reap,
    /// The service manager has to have read all that was sent.
    Barrier,
    /// The successor has to say Committed, or is told again.
    Committed,
    /// What runs when the newest generation dies is finished by then, or cut.
    Grace,
    /// A predecessor that has closed its line without a commit has to be seen dead, or it lives and has given this
    /// generation up.
    Orphaned,
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
    /// The successor said Ready. `withdraws`: it can be told to withdraw.
    SuccessorReady { withdraws: bool },
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
    /// The process that was started as the successor has ended.
    SuccessorExited,
    /// All other ends of the line to the newer generations are closed.
    NewerClosed,
    /// The process of the newest generation, as far as it is known, has ended.
    NewestDied,
    /// A generation has introduced itself as the newest. `ahead`: it is the one that is known as the newest, or comes
    /// after that one. One that comes before it can serve again only if that one is dead; if not, it is late.
    NewestIntroduced { ahead: bool },
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

    /// The predecessor hands the service over.
    Commit { settled: bool, reload: bool },
    /// The predecessor gives this generation up, and takes back what it has accepted. `stop`: the service stops.
    Withdraw { stop: bool },
    /// The predecessor's barrier has returned.
    Settled,
    /// The predecessor asks for a sign of life.
    Ping,
    /// All other ends of the line to an older generation are closed. `predecessor`: it is the one that started this one.
    OlderClosed { predecessor: bool },
    /// The predecessor's process has ended.
    PredecessorDied,
    /// A generation that drains has told how it is doing, and again what it once told: whether it is the predecessor,
    /// whether that one's barrier has returned, and whether it was told to stop the service.
    OlderReported { predecessor: bool, settled: bool, stop: bool },
}

/// All that the driver can be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Start accepting, or start again.
    Accept,
    /// Stop accepting and keep the listeners.
    Pause,
    /// Become the main process: control socket, pid file, the lines of draining generations, which are greeted.
    TakeOver,
    /// Leave the control socket and the older generations to the successor.
    LetGo,
    /// Take the one that has introduced itself for the newest: answer it, and let connections move to it.
    Welcome,
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
    /// Have the successor hand back what it has accepted, and end.
    Withdraw { stop: bool },
    /// Start the drain of a successor that withdraws.
    BeginWithdrawal,
    /// The service stops: the drain that is under way lasts no longer than the stop. Done again, it changes nothing.
    BoundDrain,
    /// Kill the successor.
    Kill,
    /// Take the exit status of the successor's process.
    Reap,
    /// Close the line to the successor, which is gone.
    CloseLine,
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
    /// Wait for the end of that drain once more, up to the same deadline.
    WatchDrain,
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
    /// Its predecessor lives, and has given it up.
    GivenUp,
    /// Its successor vanished, and the service manager is to start anew.
    Abandoned,
}

/// So often a question is asked, or the commit told, until it is taken for unanswered.
pub(crate) const ASKED_MAX: u8 = if cfg!(test) { 2 } else { 4 };

/// What is known of another process. Neither fact alone says that it is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Sight {
    /// All other ends of the line to it are closed.
    closed: bool,
    /// Its process has ended.
    dead: bool,
}

impl Sight {
    fn is_gone(self) -> bool {
        self.closed && self.dead
    }
}

/// One generation's state machine.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lifecycle {
    state: State,
    manager: Manager,
    /// Somebody else holds the listeners: clients wait while nobody accepts.
    held: bool,
    /// How many older generations still drain.
    older: u8,
    max_draining: u8,
    /// The one that started this one.
    predecessor: Sight,
    /// The newest generation, over the line to this one's successor.
    newest: Sight,
    /// The successor can be told to withdraw, and may have accepted something.
    withdraws: bool,
    /// How often the present question has been asked.
    asked: u8,
    /// A reload signal that came when no reload could be started.
    queued: bool,
    /// The service was told to stop while it was another process's: obeyed if it becomes this one's after all.
    stop_wanted: bool,
}

type Step = (State, Vec<Action>);

impl Lifecycle {
    /// A process that has just been started. `older`: how many generations drain, if there is a predecessor that has
    /// told so.
    pub(crate) fn new(older: Option<u8>, manager: Manager, max_draining: u8) -> Lifecycle {
        let predecessor = if older.is_some() { Predecessor::Alive } else { Predecessor::None };
        Lifecycle {
            state: State::Starting { predecessor },
            manager,
            held: false,
            older: older.unwrap_or(0),
            max_draining,
            predecessor: Sight::default(),
            newest: Sight::default(),
            withdraws: false,
            asked: 0,
            queued: false,
            stop_wanted: false,
        }
    }

    /// The same, where somebody else holds the listeners as well.
    pub(crate) fn with_listeners_held(self, held: bool) -> Lifecycle {
        Lifecycle { held, ..self }
    }

    /// The state at this moment.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// How many older generations drain.
    pub(crate) fn older(&self) -> u8 {
        self.older
    }

    /// Whether no reload can start since as many generations drain as may.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.state, State::Serving { .. }) && self.older >= self.max_draining
    }

    fn is_stopping(&self) -> bool {
        matches!(self.state, State::Stopping { .. })
    }

    /// Whether this is the main process: who holds the control socket and speaks to the service manager.
    pub(crate) fn is_main(&self) -> bool {
        matches!(
            self.state,
            State::Serving { .. } | State::Reloading(_) | State::RollingBack { .. } | State::Stopping { .. }
        )
    }

    /// Whether the service has been told to stop, as far as this generation knows.
    pub(crate) fn stop_wanted(&self) -> bool {
        self.stop_wanted
    }

    /// Whether the service manager has read all that this generation had to tell it of its successor.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.state, State::Draining { settled: true, .. })
    }

    /// Whether this generation means to accept connections in its present state.
    #[cfg(test)]
    pub(crate) fn accepts(&self) -> bool {
        matches!(
            self.state,
            State::Standby | State::Serving { .. } | State::Reloading(Stage::AwaitReady) | State::RollingBack { .. }
        )
    }

    /// Takes an event in and returns what is to be done, in order.
    pub(crate) fn on(&mut self, event: Event) -> Vec<Action> {
        self.note(event);
        let event = match event {
            Event::OlderReported { stop: true, .. } if !self.is_stopping() => Event::Stop(Origin::Signal),
            Event::OlderReported { predecessor: true, settled: true, .. } if !self.is_stopping() => Event::Settled,
            event => event,
        };
        let (state, actions) = match self.state {
            State::Starting { predecessor } => self.starting(predecessor, event),
            State::Standby => self.standby(event),
            State::Serving { settled } => self.serving(settled, event),
            State::Reloading(stage) => self.reloading(stage, event),
            State::RollingBack { failure, withdraws } => self.rolling_back(failure, withdraws, event),
            State::Withdrawing => self.withdrawing(event),
            State::Abandoning => abandoning(event),
            State::Draining { .. } => self.draining(event),
            State::Stopping { drained, successor } => self.stopping(drained, successor, event),
            State::Exited => (State::Exited, vec![]),
        };
        self.state = state;
        self.forget();
        actions
    }

    /// What matters no more in the state entered is no difference between two generations.
    fn forget(&mut self) {
        if !matches!(self.state, State::Starting { .. } | State::Standby | State::Withdrawing) {
            self.predecessor = Sight::default();
        }
        if !matches!(self.state, State::Reloading(_)) {
            self.withdraws = false;
        }
        match self.state {
            State::Draining { answered: false, .. }
            | State::Reloading(Stage::AwaitPong)
            | State::RollingBack { withdraws: true, .. }
            | State::Stopping { successor: true, .. } => {}
            State::Draining { .. } | State::Reloading(_) => self.asked = 0,
            _ => (self.asked, self.newest) = (0, Sight::default()),
        }
    }

    /// What is known of others, whatever this generation is doing.
    fn note(&mut self, event: Event) {
        let uncommitted = matches!(
            self.state,
            State::Standby | State::Withdrawing | State::Starting { predecessor: Predecessor::Alive }
        );
        match event {
            Event::OlderClosed { predecessor: true } if uncommitted => self.predecessor.closed = true,
            Event::OlderClosed { .. } => self.older = self.older.saturating_sub(1),
            Event::PredecessorDied => self.predecessor.dead = true,
            Event::NewerClosed => self.newest.closed = true,
            Event::NewestDied => self.newest.dead = true,
            _ => {}
        }
    }

    fn starting(&mut self, predecessor: Predecessor, event: Event) -> Step {
        let same = State::Starting { predecessor };
        match (event, predecessor) {
            (Event::AppReady, Predecessor::Alive) => (State::Standby, vec![Action::Accept, Action::SayReady]),
            (Event::AppReady, _) => {
                (State::Serving { settled: true }, vec![Action::TakeOver, Action::Accept, Action::NotifyReady])
            }
            (Event::OlderClosed { predecessor: true } | Event::PredecessorDied, Predecessor::Alive)
                if self.predecessor.is_gone() =>
            {
                if self.stop_wanted {
                    return take_over_and_stop(Origin::Signal);
                }
                (State::Starting { predecessor: Predecessor::Gone }, vec![Action::CancelTimer])
            }
            (Event::OlderClosed { predecessor: true }, Predecessor::Alive) => {
                (same, vec![Action::Start(Timer::Orphaned)])
            }
            (Event::Deadline(Timer::Orphaned), Predecessor::Alive) => given_up(),
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
            Event::Commit { settled, reload } => {
                // The predecessor drains as well.
                self.older += 1;
                self.queued |= reload;
                let mut actions =
                    vec![Action::CancelTimer, Action::TakeOver, Action::NotifyTakeover, Action::SayCommitted];
                let (state, more) = if self.stop_wanted { stop(Origin::Signal) } else { self.serve_or_reload(settled) };
                actions.extend(more);
                (state, actions)
            }
            // It accepts already, and nobody else does: it commits itself.
            Event::OlderClosed { predecessor: true } | Event::PredecessorDied if self.predecessor.is_gone() => {
                if self.stop_wanted {
                    return take_over_and_stop(Origin::Signal);
                }
                (State::Serving { settled: true }, vec![Action::CancelTimer, Action::TakeOver, Action::NotifyReady])
            }
            Event::OlderClosed { predecessor: true } => (State::Standby, vec![Action::Start(Timer::Orphaned)]),
            Event::Deadline(Timer::Orphaned) => given_up(),
            Event::Withdraw { stop } => {
                let mut actions = vec![Action::CancelTimer, Action::Pause, Action::BeginWithdrawal];
                // The predecessor does not seem to have read it.
                actions.extend((self.stop_wanted && !stop).then_some(Action::SayStop));
                actions.extend(stop.then_some(Action::BoundDrain));
                self.stop_wanted |= stop;
                (State::Withdrawing, actions)
            }
            Event::Ping => (State::Standby, vec![Action::SayPong]),
            // The predecessor may have it from here, and would pass it on again.
            Event::Stop(_) if self.stop_wanted => (State::Standby, vec![]),
            Event::Stop(_) => {
                self.stop_wanted = true;
                (State::Standby, vec![Action::SayStop])
            }
            Event::Reload(Origin::Command) => (State::Standby, vec![Action::Refuse(Refusal::NotMain)]),
            _ => (State::Standby, vec![]),
        }
    }

    fn withdrawing(&mut self, event: Event) -> Step {
        match event {
            Event::Drained | Event::DrainDeadline => {
                let (state, mut actions) = given_up();
                actions.splice(0..0, self.stop_wanted.then_some(Action::SayStop));
                (state, actions)
            }
            // Nobody is left to take anything back.
            Event::OlderClosed { predecessor: true } | Event::PredecessorDied if self.predecessor.is_gone() => {
                if self.stop_wanted {
                    let (state, actions) = take_over_and_stop(Origin::Signal);
                    return (state, [vec![Action::EndDrain], actions].concat());
                }
                let actions = vec![Action::EndDrain, Action::TakeOver, Action::Accept, Action::NotifyReady];
                (State::Serving { settled: true }, actions)
            }
            Event::Stop(_) if !self.stop_wanted => {
                self.stop_wanted = true;
                (State::Withdrawing, vec![Action::SayStop])
            }
            // Said again, or by now for another reason.
            Event::Withdraw { stop } => {
                self.stop_wanted |= stop;
                (State::Withdrawing, stop.then_some(Action::BoundDrain).into_iter().collect())
            }
            Event::Reload(Origin::Command) => (State::Withdrawing, vec![Action::Refuse(Refusal::NotMain)]),
            _ => (State::Withdrawing, vec![]),
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
            // Whatever the predecessor had to tell the service manager has been told or never will be.
            Event::Settled | Event::OlderClosed { predecessor: true } => self.serve_or_reload(true),
            Event::OlderClosed { predecessor: false } => self.serve_or_reload(settled),
            Event::Commit { .. } => (State::Serving { settled }, vec![Action::SayCommitted]),
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
            (Event::SuccessorReady { withdraws }, Stage::AwaitReady) => {
                self.withdraws = withdraws;
                (State::Reloading(Stage::Probation), vec![Action::Pause, Action::Start(Timer::Probation)])
            }
            (Event::Deadline(Timer::Probation), Stage::Probation) => {
                self.asked = 1;
                (State::Reloading(Stage::AwaitPong), vec![Action::SendPing, Action::Start(Timer::Pong)])
            }
            (Event::SuccessorPong, Stage::AwaitPong) if self.manager != Manager::None => {
                (State::Reloading(Stage::Announcing), vec![Action::CancelTimer, Action::Announce])
            }
            (Event::SuccessorPong, Stage::AwaitPong) => {
                let commit = Action::SendCommit { settled: true, reload: self.queued };
                (State::Reloading(Stage::Announcing), vec![Action::CancelTimer, commit])
            }
            // Without a service manager, Commit is the point of no return.
            (Event::CommitSent, Stage::Announcing) => {
                self.asked = 1;
                let reload = std::mem::take(&mut self.queued);
                let state = State::Draining { settled: true, committed: true, reload, answered: false, drained: false };
                (state, vec![Action::LetGo, Action::Start(Timer::Committed), Action::BeginDrain])
            }
            (Event::Announced, Stage::Announcing) => {
                let state = State::Draining {
                    settled: false,
                    committed: false,
                    reload: false,
                    answered: false,
                    drained: false,
                };
                (state, vec![Action::LetGo, Action::AwaitBarrier, Action::Start(Timer::Barrier)])
            }
            (Event::AnnounceFailed, Stage::Announcing) => self.roll_back(Failure::Announce),

            (Event::SpawnFailed, _) => {
                let (state, mut actions) = self.serve_or_reload(true);
                actions.splice(0..0, restored(Failure::Spawn));
                (state, actions)
            }
            (Event::SuccessorFailed, _) => self.roll_back(Failure::Reported),
            (Event::NewerClosed | Event::CommitFailed, _) => self.roll_back(Failure::ChannelClosed),
            (Event::SuccessorBroke, _) => self.roll_back(Failure::Protocol),
            (Event::Deadline(Timer::Ready), Stage::AwaitReady) => self.roll_back(Failure::ReadyDeadline),
            (Event::Deadline(Timer::Pong), Stage::AwaitPong) if self.asked < ASKED_MAX => {
                self.asked += 1;
                (same, vec![Action::SendPing, Action::Start(Timer::Pong)])
            }
            (Event::Deadline(Timer::Pong), Stage::AwaitPong) => self.roll_back(Failure::PongDeadline),
            (Event::SuccessorExited, _) => {
                let (state, mut actions) = self.rolled_back(Failure::Exited);
                actions.splice(0..0, [Action::Accept, Action::Reap]);
                (state, actions)
            }
            (Event::Stop(origin), _) => self.stop_with_successor(Failure::Stopped, self.withdraws, origin),
            (Event::SuccessorStop, _) => self.stop_with_successor(Failure::Stopped, self.withdraws, Origin::Signal),
            (Event::Commit { .. }, _) => (same, vec![Action::SayCommitted]),
            (Event::Reload(Origin::Command), _) => (same, vec![Action::Refuse(Refusal::InProgress)]),
            (Event::Reload(Origin::Signal), _) => {
                self.queued = true;
                (same, vec![])
            }
            _ => (same, vec![]),
        }
    }

    /// Gives the successor up. One that hears, and may have accepted something, hands that back; one that has given up by
    /// itself gets a moment to leave; any other is killed.
    fn roll_back(&mut self, failure: Failure) -> Step {
        let (more, withdraws) = match failure {
            Failure::Reported | Failure::ChannelClosed => ([None, Some(Action::Start(Timer::Leave))], false),
            Failure::Announce | Failure::Protocol if self.withdraws => {
                self.asked = 1;
                ([Some(Action::Withdraw { stop: false }), Some(Action::Start(Timer::Withdraw))], true)
            }
            _ => ([Some(Action::Kill), Some(Action::Start(Timer::Reap))], false),
        };
        let actions = [Some(Action::Accept)].into_iter().chain(more).flatten().collect();
        (State::RollingBack { failure, withdraws }, actions)
    }

    /// The service is to stop while there is a successor without a commit: both finish what they have. `withdraws`: it
    /// hears; one that does not is killed.
    fn stop_with_successor(&mut self, failure: Failure, withdraws: bool, origin: Origin) -> Step {
        self.asked = u8::from(withdraws);
        // First, so that both stop accepting as one.
        let end = if withdraws { Action::Withdraw { stop: true } } else { Action::Kill };
        let (_, more) = stop(origin);
        let mut actions = [vec![Action::AnswerFailed(failure), end], more].concat();
        actions.push(Action::Start(if withdraws { Timer::Withdraw } else { Timer::Reap }));
        (State::Stopping { drained: false, successor: true }, actions)
    }

    fn rolling_back(&mut self, failure: Failure, withdraws: bool, event: Event) -> Step {
        let same = State::RollingBack { failure, withdraws };
        match event {
            Event::Deadline(Timer::Withdraw) if self.asked < ASKED_MAX => {
                self.asked += 1;
                (same, vec![Action::Withdraw { stop: false }, Action::Start(Timer::Withdraw)])
            }
            Event::Deadline(Timer::Withdraw) => (same, vec![Action::Start(Timer::Withdrawal)]),
            Event::Deadline(Timer::Leave | Timer::Withdrawal) => {
                let state = State::RollingBack { failure, withdraws: false };
                (state, vec![Action::Kill, Action::Start(Timer::Reap)])
            }
            Event::SuccessorExited => {
                let (state, mut actions) = self.rolled_back(failure);
                actions.insert(0, Action::Reap);
                (state, actions)
            }
            // A process that SIGKILL does not end hangs in the kernel, as does one whose exec does not end. Nothing better
            // is to be had than going on.
            Event::Deadline(Timer::Reap) | Event::SpawnFailed => self.rolled_back(failure),
            Event::Stop(origin) => self.stop_with_successor(failure, withdraws, origin),
            Event::SuccessorStop => self.stop_with_successor(failure, withdraws, Origin::Signal),
            Event::Reload(Origin::Command) => (same, vec![Action::Refuse(Refusal::InProgress)]),
            Event::Reload(Origin::Signal) => {
                self.queued = true;
                (same, vec![])
            }
            _ => (same, vec![]),
        }
    }

    /// The successor is gone: serves on as if nothing had happened.
    fn rolled_back(&mut self, failure: Failure) -> Step {
        (self.newest, self.withdraws) = (Sight::default(), false);
        let mut actions = vec![Action::CloseLine];
        actions.extend(restored(failure));
        let (state, more) = self.serve_or_reload(true);
        actions.extend(more);
        (state, actions)
    }

    fn draining(&mut self, event: Event) -> Step {
        let State::Draining { mut settled, mut committed, mut reload, mut answered, mut drained } = self.state else {
            unreachable!("called in the state Draining only");
        };
        let (mut actions, busy) = (vec![], committed && !drained);
        match event {
            Event::NewerClosed | Event::NewestDied if self.newest.is_gone() => return self.survive(answered, busy),
            // There may be room for it in a moment, or proof that nobody is there. One that lives, and cannot be told,
            // commits itself when this one is gone.
            Event::CommitFailed if !committed && self.asked < ASKED_MAX => {
                self.asked += 1;
                actions.push(Action::Start(Timer::Committed));
            }
            Event::CommitFailed if !committed => return self.abandon(answered),
            Event::Deadline(Timer::Committed) if !committed => actions.push(Action::SendCommit { settled, reload }),
            Event::NewestIntroduced { ahead } if ahead || self.newest.dead => {
                self.newest.dead = false;
                actions.push(Action::Welcome);
            }
            Event::BarrierReturned if committed => {
                settled = true;
                actions.push(Action::SendSettled);
            }
            Event::BarrierReturned => {
                settled = true;
                reload = std::mem::take(&mut self.queued);
                actions.push(Action::SendCommit { settled, reload });
            }
            Event::Deadline(Timer::Barrier) if !committed => {
                reload = std::mem::take(&mut self.queued);
                actions.push(Action::SendCommit { settled, reload });
            }
            Event::CommitSent if !committed => {
                committed = true;
                self.asked = 1;
                actions.extend([Action::Start(Timer::Committed), Action::BeginDrain]);
                actions.extend(self.stop_wanted.then_some(Action::ForwardStop));
            }
            // What cannot be read there is passed over, Commit and its answer as well.
            Event::Deadline(Timer::Committed) if !answered && self.asked < ASKED_MAX => {
                self.asked += 1;
                actions.extend([Action::SendCommit { settled, reload }, Action::Start(Timer::Committed)]);
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
            Event::NewestStops => {
                self.stop_wanted = true;
                actions.push(Action::BoundDrain);
            }
            Event::Commit { .. } => actions.push(Action::SayCommitted),
            Event::Reload(Origin::Signal) if committed => actions.push(Action::ForwardReload),
            Event::Reload(Origin::Signal) => self.queued = true,
            Event::Reload(Origin::Command) => actions.push(Action::Refuse(Refusal::InProgress)),
            _ => {}
        }
        if settled && committed && answered && drained {
            actions.push(Action::Exit(Ending::Drained));
            return (State::Exited, actions);
        }
        (State::Draining { settled, committed, reload, answered, drained }, actions)
    }

    /// Nobody newer lives. `busy`: something runs here that can be finished.
    fn survive(&mut self, answered: bool, busy: bool) -> Step {
        match self.manager {
            Manager::Restarts if self.held && busy => {
                let answer = (!answered).then_some(Action::AnswerFailed(Failure::DiedAfterCommit));
                (State::Abandoning, answer.into_iter().chain([Action::Start(Timer::Grace)]).collect())
            }
            Manager::Restarts => self.abandon(answered),
            Manager::None | Manager::Follows => self.resume(answered),
        }
    }

    /// Ends, so that somebody else serves.
    fn abandon(&mut self, answered: bool) -> Step {
        // The exit hands the unreaped successor to systemd, which acts on its status (SIGKILL, a failure).
        let mut actions: Vec<Action> =
            (!answered).then_some(Action::AnswerFailed(Failure::DiedAfterCommit)).into_iter().collect();
        // It lives where only Commit could not be sent: it serves then, and has to know.
        actions.extend(self.stop_wanted.then_some(Action::ForwardStop));
        actions.push(Action::Exit(Ending::Abandoned));
        (State::Exited, actions)
    }

    /// Passes a stop on, or keeps it until Commit has been sent.
    fn stop_newest(&mut self, committed: bool) -> Option<Action> {
        self.stop_wanted = true;
        committed.then_some(Action::ForwardStop)
    }

    /// Nobody newer lives, and nobody will start anybody: serves again, unless the service is to stop.
    fn resume(&mut self, answered: bool) -> Step {
        self.newest = Sight::default();
        let mut actions = vec![Action::CancelTimer, Action::EndDrain, Action::CloseLine, Action::TakeOver];
        actions.extend((!self.stop_wanted).then_some(Action::Accept));
        actions.extend((!answered).then_some(Action::AnswerFailed(Failure::DiedAfterCommit)));
        // A supervisor follows whoever says so.
        actions.extend((self.manager == Manager::Follows && !self.stop_wanted).then_some(Action::NotifyReady));
        let (state, more) = if self.stop_wanted { stop(Origin::Signal) } else { self.serve_or_reload(true) };
        actions.extend(more);
        (state, actions)
    }

    fn stopping(&mut self, mut drained: bool, mut successor: bool, event: Event) -> Step {
        let mut actions = vec![];
        match event {
            Event::Drained => drained = true,
            Event::DrainDeadline => {
                actions.extend(successor.then_some(Action::Kill));
                actions.extend([Action::TellOlder, Action::Exit(Ending::Stopped)]);
                return (State::Exited, actions);
            }
            // What it has handed over at its end is finished as well.
            Event::OlderClosed { .. } if drained => {
                drained = false;
                actions.push(Action::WatchDrain);
            }
            Event::SuccessorExited if successor => {
                successor = false;
                actions.extend([Action::CancelTimer, Action::Reap, Action::CloseLine]);
                actions.extend(drained.then_some(Action::WatchDrain));
                drained = false;
            }
            // As in a roll-back, one that does not end is not waited for.
            Event::SpawnFailed | Event::Deadline(Timer::Reap) if successor => {
                successor = false;
                actions.push(Action::CloseLine);
            }
            Event::Deadline(Timer::Withdraw) if successor && self.asked < ASKED_MAX => {
                self.asked += 1;
                actions.extend([Action::Withdraw { stop: true }, Action::Start(Timer::Withdraw)]);
            }
            Event::Reload(Origin::Command) => actions.push(Action::Refuse(Refusal::Stopping)),
            Event::Stop(Origin::Command) => actions.push(Action::AnswerStopping),
            Event::Commit { .. } => actions.push(Action::SayCommitted),
            // What cannot be read there is passed over, and one of them must not serve again.
            Event::OlderReported { .. } => actions.push(Action::TellOlder),
            _ => {}
        }
        // Under KillMode=mixed everything else is killed the moment the main process exits, so it waits for the others.
        if drained && self.older == 0 && !successor {
            actions.push(Action::Exit(Ending::Stopped));
            return (State::Exited, actions);
        }
        (State::Stopping { drained, successor }, actions)
    }
}

fn begin_reload() -> Step {
    let actions = vec![Action::NotifyReloading, Action::Start(Timer::Ready), Action::Spawn];
    (State::Reloading(Stage::AwaitReady), actions)
}

/// What ends a failed reload that leaves this generation serving.
fn restored(failure: Failure) -> [Action; 2] {
    [Action::CancelTimer, Action::AnswerFailed(failure)]
}

/// Nobody serves, and the service manager waits for the end of this process.
fn abandoning(event: Event) -> Step {
    match event {
        Event::Drained | Event::DrainDeadline | Event::Deadline(Timer::Grace) => {
            (State::Exited, vec![Action::Exit(Ending::Abandoned)])
        }
        Event::Stop(Origin::Command) => (State::Abandoning, vec![Action::CutOff]),
        Event::Reload(Origin::Command) => (State::Abandoning, vec![Action::Refuse(Refusal::NotMain)]),
        _ => (State::Abandoning, vec![]),
    }
}

/// The predecessor lives, and has closed its line without a commit.
fn given_up() -> Step {
    (State::Exited, vec![Action::Exit(Ending::GivenUp)])
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
    (State::Stopping { drained: false, successor: false }, actions)
}
