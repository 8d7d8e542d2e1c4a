//! A generation without the commit: a process that starts, a successor that waits for its predecessor's word, and one that
//! hands back what it has accepted.

use super::{Action, Ending, Event, Lifecycle, PredecessorStatus, Refusal, State, Step, Timer, Trigger, stop};

impl Lifecycle {
    pub(super) fn starting(&mut self, predecessor: PredecessorStatus, event: Event) -> Step {
        let same = State::Starting { predecessor };
        match (event, predecessor) {
            (Event::AppReady, PredecessorStatus::Alive) => (State::Standby, vec![Action::Accept, Action::SayReady]),
            (Event::AppReady, _) => {
                let (state, more) = self.serve_or_reload(true);
                (state, [vec![Action::TakeOver, Action::Accept, Action::NotifyReady], more].concat())
            }
            (Event::AppFailed, PredecessorStatus::Alive) => {
                // It may not have read that the service is to stop.
                let mut actions: Vec<Action> = self.stop_wanted.then_some(Action::SayStop).into_iter().collect();
                actions.extend([Action::SayFailed, Action::Exit(Ending::GaveUp)]);
                (State::Exited, actions)
            }
            (Event::AppFailed, _) => (State::Exited, vec![Action::Exit(Ending::GaveUp)]),
            (Event::OlderClosed { predecessor: true } | Event::PredecessorDied, PredecessorStatus::Alive)
                if self.predecessor.is_gone() =>
            {
                if self.stop_wanted {
                    return take_over_and_stop(Trigger::Signal);
                }
                (State::Starting { predecessor: PredecessorStatus::Gone }, vec![Action::CancelTimer])
            }
            (Event::OlderClosed { predecessor: true }, PredecessorStatus::Alive) => {
                (same, vec![Action::Start(Timer::Orphaned)])
            }
            (Event::Deadline(Timer::Orphaned), PredecessorStatus::Alive) => given_up(),
            (Event::Stop(trigger), PredecessorStatus::Alive) => {
                self.stop_wanted = true;
                (same, passed_on(trigger, true))
            }
            (Event::Stop(trigger), PredecessorStatus::Gone) => take_over_and_stop(trigger),
            (Event::Stop(trigger), PredecessorStatus::None) => {
                let answer = (trigger == Trigger::Command).then_some(Action::AnswerStopping);
                (State::Exited, answer.into_iter().chain([Action::Exit(Ending::NeverServed)]).collect())
            }
            (Event::Ping, _) => (same, vec![Action::SayPong]),
            (Event::Reload(Trigger::Command), PredecessorStatus::Alive) => {
                (same, vec![Action::Refuse(Refusal::NotMain)])
            }
            (Event::Reload(Trigger::Command), _) => (same, vec![Action::Refuse(Refusal::NotReady)]),
            // Nobody else hears it, so it counts as soon as this one serves.
            (Event::Reload(Trigger::Signal), PredecessorStatus::None | PredecessorStatus::Gone) => {
                self.queued = true;
                (same, vec![])
            }
            _ => (same, vec![]),
        }
    }

    pub(super) fn standby(&mut self, event: Event) -> Step {
        match event {
            Event::Commit { settled, reload } => {
                // The predecessor drains as well.
                self.older += 1;
                self.queued |= reload;
                let mut actions =
                    vec![Action::CancelTimer, Action::TakeOver, Action::NotifyTakeover, Action::SayCommitted];
                let (state, more) =
                    if self.stop_wanted { stop(Trigger::Signal) } else { self.serve_or_reload(settled) };
                actions.extend(more);
                (state, actions)
            }
            // It accepts already, and nobody else does: it commits itself.
            Event::OlderClosed { predecessor: true } | Event::PredecessorDied if self.predecessor.is_gone() => {
                if self.stop_wanted {
                    return take_over_and_stop(Trigger::Signal);
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
            Event::Stop(trigger) => {
                let first = !std::mem::replace(&mut self.stop_wanted, true);
                (State::Standby, passed_on(trigger, first))
            }
            Event::Reload(Trigger::Command) => (State::Standby, vec![Action::Refuse(Refusal::NotMain)]),
            _ => (State::Standby, vec![]),
        }
    }

    pub(super) fn withdrawing(&mut self, event: Event) -> Step {
        match event {
            Event::Drained | Event::DrainDeadline => {
                let (state, mut actions) = given_up();
                actions.splice(0..0, self.stop_wanted.then_some(Action::SayStop));
                (state, actions)
            }
            // Nobody is left to take anything back.
            Event::OlderClosed { predecessor: true } | Event::PredecessorDied if self.predecessor.is_gone() => {
                if self.stop_wanted {
                    let (state, actions) = take_over_and_stop(Trigger::Signal);
                    return (state, [vec![Action::EndDrain], actions].concat());
                }
                let actions = vec![Action::EndDrain, Action::TakeOver, Action::Accept, Action::NotifyReady];
                (State::Serving { settled: true }, actions)
            }
            Event::Stop(trigger) => {
                let first = !std::mem::replace(&mut self.stop_wanted, true);
                (State::Withdrawing, passed_on(trigger, first))
            }
            // Said again, or by now for another reason.
            Event::Withdraw { stop } => {
                self.stop_wanted |= stop;
                (State::Withdrawing, stop.then_some(Action::BoundDrain).into_iter().collect())
            }
            Event::Reload(Trigger::Command) => (State::Withdrawing, vec![Action::Refuse(Refusal::NotMain)]),
            _ => (State::Withdrawing, vec![]),
        }
    }
}

/// A stop that is the predecessor's to carry out, which is told where it is `news`. Whoever asked here does not learn of
/// its end.
fn passed_on(trigger: Trigger, news: bool) -> Vec<Action> {
    let cut_off = (trigger == Trigger::Command).then_some(Action::CutOff);
    news.then_some(Action::SayStop).into_iter().chain(cut_off).collect()
}

/// The predecessor lives, and has closed its line without a commit.
fn given_up() -> Step {
    (State::Exited, vec![Action::Exit(Ending::GivenUp)])
}

/// The service has become this process's, and is to stop: only the main process can tell the older generations.
fn take_over_and_stop(trigger: Trigger) -> Step {
    let (state, actions) = stop(trigger);
    (state, [vec![Action::TakeOver], actions].concat())
}
