//! A reload before its point of no return: every failure rolls back.

use super::{
    ASKED_MAX, Action, Event, Failure, Lifecycle, Liveness, Manager, Refusal, Stage, State, Step, Timer, Trigger, stop,
};

impl Lifecycle {
    pub(super) fn reloading(&mut self, stage: Stage, event: Event) -> Step {
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
            (Event::Stop(trigger), _) => self.stop_with_successor(Failure::Stopped, self.withdraws, trigger),
            (Event::SuccessorStop, _) => self.stop_with_successor(Failure::Stopped, self.withdraws, Trigger::Signal),
            (Event::Commit { .. }, _) => (same, vec![Action::SayCommitted]),
            (Event::Reload(Trigger::Command), _) => (same, vec![Action::Refuse(Refusal::InProgress)]),
            (Event::Reload(Trigger::Signal), _) => {
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
    fn stop_with_successor(&mut self, failure: Failure, withdraws: bool, trigger: Trigger) -> Step {
        self.asked = u8::from(withdraws);
        // First, so that both stop accepting as one.
        let end = if withdraws { Action::Withdraw { stop: true } } else { Action::Kill };
        let (_, more) = stop(trigger);
        let mut actions = [vec![Action::AnswerFailed(failure), end], more].concat();
        actions.push(Action::Start(if withdraws { Timer::Withdraw } else { Timer::Reap }));
        (State::Stopping { drained: false, successor: true }, actions)
    }

    pub(super) fn rolling_back(&mut self, failure: Failure, withdraws: bool, event: Event) -> Step {
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
            Event::Stop(trigger) => self.stop_with_successor(failure, withdraws, trigger),
            Event::SuccessorStop => self.stop_with_successor(failure, withdraws, Trigger::Signal),
            Event::Reload(Trigger::Command) => (same, vec![Action::Refuse(Refusal::InProgress)]),
            Event::Reload(Trigger::Signal) => {
                self.queued = true;
                (same, vec![])
            }
            _ => (same, vec![]),
        }
    }

    /// The successor is gone: serves on as if nothing had happened.
    fn rolled_back(&mut self, failure: Failure) -> Step {
        (self.newest, self.withdraws) = (Liveness::default(), false);
        let mut actions = vec![Action::CloseLine];
        actions.extend(restored(failure));
        let (state, more) = self.serve_or_reload(true);
        actions.extend(more);
        (state, actions)
    }
}

/// What ends a failed reload that leaves this generation serving.
fn restored(failure: Failure) -> [Action; 2] {
    [Action::CancelTimer, Action::AnswerFailed(failure)]
}
