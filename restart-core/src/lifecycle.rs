//! The life of one generation as a pure state machine: from a state and an event to a state and actions.
//!
//! It owns every decision of a reload: who accepts, who is the main process, when a failure rolls back and when it no
//! longer can. It never touches a socket, a process or a clock; the driver does, and reports bare facts as events. It
//! stands alone so that a test can walk the whole space of several generations, with crashes and garbage as events.
//! `event` and `action` are its two vocabularies; the transitions stand here (serving, and the end of the service), in
//! `uncommitted`, `reload` and `replaced`.
//!
//! **Nobody is taken for dead without proof.** That another process is gone is known by two facts together: every other
//! end of the line to it is closed, and its pidfd is readable. The one without the other says only that something is
//! broken; it never makes a second main process.
//!
//! | state | accepts | control socket | main process |
//! |---|---|---|---|
//! | `Starting` | no | without a predecessor, where it lasts | only without a predecessor |
//! | `Standby` (said Ready, waits for the commit) | yes | no | no |
//! | `Serving` | yes | yes | yes |
//! | `Reloading`, until the successor is ready | yes | yes | yes |
//! | `Reloading`, from probation to the announcement | paused, the successor accepts | yes | yes |
//! | `RollingBack` (the successor withdraws, or is being killed, and reaped) | yes | yes | yes |
//! | `Withdrawing` (a successor that was told to, after its Ready) | no, the predecessor accepts | no | no |
//! | `Draining`, from the commit on | no, the successor accepts | no | no |
//! | `Abandoning` (the newest is dead, and the service manager will start anew) | no, clients wait | no | no |
//! | `Stopping` | no | answers that it stops | yes |

mod action;
mod event;
#[cfg(test)]
mod model;
mod reload;
mod replaced;
#[cfg(test)]
mod tests;
mod uncommitted;

pub(crate) use action::{Action, Ending, Failure, Refusal};
pub(crate) use event::{Event, Timer, Trigger};

/// What a generation is doing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// Not ready yet.
    Starting { predecessor: PredecessorStatus },
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
pub(crate) enum PredecessorStatus {
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

/// So often a question is asked, or the commit told, until it is taken for unanswered.
pub(crate) const ASKED_MAX: u8 = if cfg!(test) { 2 } else { 4 };

/// What is known of another process. Neither fact alone says that it is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Liveness {
    /// All other ends of the line to it are closed.
    closed: bool,
    /// Its process has ended.
    dead: bool,
}

impl Liveness {
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
    predecessor: Liveness,
    /// The newest generation, over the line to this one's successor.
    newest: Liveness,
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
        let predecessor = if older.is_some() { PredecessorStatus::Alive } else { PredecessorStatus::None };
        Lifecycle {
            state: State::Starting { predecessor },
            manager,
            held: false,
            older: older.unwrap_or(0),
            max_draining,
            predecessor: Liveness::default(),
            newest: Liveness::default(),
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

    /// Whether the application has not said yet that it is ready.
    pub(crate) fn is_starting(&self) -> bool {
        matches!(self.state, State::Starting { .. })
    }

    /// The same, where no predecessor is left that would take commands.
    pub(crate) fn starts_alone(&self) -> bool {
        matches!(self.state, State::Starting { predecessor: PredecessorStatus::None | PredecessorStatus::Gone })
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
            Event::OlderReported { stop: true, .. } if !self.is_stopping() => Event::Stop(Trigger::Signal),
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
            State::Abandoning => Lifecycle::abandoning(event),
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
            self.predecessor = Liveness::default();
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
            _ => (self.asked, self.newest) = (0, Liveness::default()),
        }
    }

    /// What is known of others, whatever this generation is doing.
    fn note(&mut self, event: Event) {
        let uncommitted = matches!(
            self.state,
            State::Standby | State::Withdrawing | State::Starting { predecessor: PredecessorStatus::Alive }
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

    fn serving(&mut self, settled: bool, event: Event) -> Step {
        match event {
            Event::Reload(Trigger::Command) => match self.refusal(settled) {
                Some(refusal) => (State::Serving { settled }, vec![Action::Refuse(refusal)]),
                None => begin_reload(),
            },
            Event::Reload(Trigger::Signal) => {
                self.queued = true;
                self.serve_or_reload(settled)
            }
            // Whatever the predecessor had to tell the service manager has been told or never will be.
            Event::Settled | Event::OlderClosed { predecessor: true } => self.serve_or_reload(true),
            Event::OlderClosed { predecessor: false } => self.serve_or_reload(settled),
            Event::Commit { .. } => (State::Serving { settled }, vec![Action::SayCommitted]),
            Event::Ping => (State::Serving { settled }, vec![Action::SayPong]),
            Event::Stop(trigger) => stop(trigger),
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
            Event::Reload(Trigger::Command) => actions.push(Action::Refuse(Refusal::Stopping)),
            Event::Stop(Trigger::Command) => actions.push(Action::AnswerStopping),
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

fn stop(trigger: Trigger) -> Step {
    let mut actions = vec![Action::CancelTimer, Action::NotifyStopping, Action::TellOlder];
    // The application may have asked for a client of its own, whose connection drains then.
    actions.extend((trigger == Trigger::Command).then_some(Action::AnswerStopping));
    actions.push(Action::BeginStop);
    (State::Stopping { drained: false, successor: false }, actions)
}
