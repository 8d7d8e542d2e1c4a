//! A generation that has been replaced: what it still owes the newest one, and what it does where that one dies.

use super::{
    ASKED_MAX, Action, Ending, Event, Failure, Lifecycle, Liveness, Manager, Refusal, State, Step, Timer, Trigger, stop,
};

impl Lifecycle {
    pub(super) fn draining(&mut self, event: Event) -> Step {
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
            Event::BarrierReturned | Event::Deadline(Timer::Barrier) if !committed => {
                settled |= matches!(event, Event::BarrierReturned);
                reload = std::mem::take(&mut self.queued);
                actions.push(Action::SendCommit { settled, reload });
            }
            Event::BarrierReturned => {
                settled = true;
                actions.push(Action::SendSettled);
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
            Event::Stop(Trigger::Signal) if settled && committed => {}
            Event::Stop(trigger) => {
                actions.extend(self.stop_newest(committed));
                // It waits for the end of the service, and this generation may be gone long before that.
                actions.extend((trigger == Trigger::Command).then_some(Action::CutOff));
            }
            Event::SuccessorStop => actions.extend(self.stop_newest(committed)),
            Event::NewestStops => {
                self.stop_wanted = true;
                actions.push(Action::BoundDrain);
            }
            Event::Commit { .. } => actions.push(Action::SayCommitted),
            Event::Reload(Trigger::Signal) if committed => actions.push(Action::ForwardReload),
            Event::Reload(Trigger::Signal) => self.queued = true,
            Event::Reload(Trigger::Command) => actions.push(Action::Refuse(Refusal::InProgress)),
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
        self.newest = Liveness::default();
        let mut actions = vec![Action::CancelTimer, Action::EndDrain, Action::CloseLine, Action::TakeOver];
        actions.extend((!self.stop_wanted).then_some(Action::Accept));
        actions.extend((!answered).then_some(Action::AnswerFailed(Failure::DiedAfterCommit)));
        // A supervisor follows whoever says so.
        actions.extend((self.manager == Manager::Follows && !self.stop_wanted).then_some(Action::NotifyReady));
        let (state, more) = if self.stop_wanted { stop(Trigger::Signal) } else { self.serve_or_reload(true) };
        actions.extend(more);
        (state, actions)
    }

    /// Nobody serves, and the service manager waits for the end of this process.
    pub(super) fn abandoning(event: Event) -> Step {
        match event {
            Event::Drained | Event::DrainDeadline | Event::Deadline(Timer::Grace) => {
                (State::Exited, vec![Action::Exit(Ending::Abandoned)])
            }
            Event::Stop(Trigger::Command) => (State::Abandoning, vec![Action::CutOff]),
            Event::Reload(Trigger::Command) => (State::Abandoning, vec![Action::Refuse(Refusal::NotMain)]),
            _ => (State::Abandoning, vec![]),
        }
    }
}
