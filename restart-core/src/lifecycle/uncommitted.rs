//! A generation without the commit: a process that starts, a successor that waits for its predecessor's word, and one that
//! hands back what it has accepted.

use super::{Action, Ending, Event, Lifecycle, PredecessorStatus, Refusal, State, Step, Timer, Trigger, stop};

impl Lifecycle {
    pub(super) fn starting(&mut self, predecessor: PredecessorStatus, event: Event) -> Step {
        let same = State::Starting { predecessor };
        match (event, predecessor) {
            (Event::AppReady, PredecessorStatus::Alive) => (State::Standby, vec![Action::Accept, Action::SayReady]),
            (Event::AppReady, _) => {
                (State::Serving { settled: true }, vec![Action::TakeOver, Action::Accept, Action::NotifyReady])
            }
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
            (Event::Stop(_), PredecessorStatus::Alive) => {
                self.stop_wanted = true;
                (same, vec![Action::SayStop])
            }
            (Event::Stop(trigger), PredecessorStatus::Gone) => take_over_and_stop(trigger),
            (Event::Stop(_), PredecessorStatus::None) => (State::Exited, vec![Action::Exit(Ending::NeverServed)]),
            (Event::Ping, _) => (same, vec![Action::SayPong]),
            (Event::Reload(Trigger::Command), _) => (same, vec![Action::Refuse(Refusal::NotMain)]),
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
            Event::Stop(_) if self.stop_wanted => (State::Standby, vec![]),
            Event::Stop(_) => {
                self.stop_wanted = true;
                (State::Standby, vec![Action::SayStop])
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
            Event::Stop(_) if !self.stop_wanted => {
                self.stop_wanted = true;
                (State::Withdrawing, vec![Action::SayStop])
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

/// The predecessor lives, and has closed its line without a commit.
fn given_up() -> Step {
    (State::Exited, vec![Action::Exit(Ending::GivenUp)])
}

/// The service has become this process's, and is to stop: only the main process can tell the older generations.
fn take_over_and_stop(trigger: Trigger) -> Step {
    let (state, actions) = stop(trigger);
    (state, [vec![Action::TakeOver], actions].concat())
}
