//! What the model leaves out: it knows nothing of who else holds the listeners.

use super::*;

/// A generation that drains, under a service manager.
fn draining(held: bool) -> Lifecycle {
    let mut lifecycle = Lifecycle::new(None, Manager::Restarts, 1).with_listeners_held(held);
    let events = [
        Event::AppReady,
        Event::Reload(Trigger::Signal),
        Event::SuccessorReady { withdraws: true },
        Event::Deadline(Timer::Probation),
        Event::SuccessorPong,
        Event::Announced,
        Event::BarrierReturned,
        Event::CommitSent,
        Event::SuccessorCommitted,
    ];
    for event in events {
        lifecycle.on(event);
    }
    assert!(matches!(lifecycle.state(), State::Draining { committed: true, answered: true, .. }));
    lifecycle
}

#[test]
fn where_clients_can_wait_what_runs_is_finished_before_the_service_is_started_anew() {
    let end = [Action::Exit(Ending::Abandoned)];
    for last in [Event::Drained, Event::Deadline(Timer::Grace)] {
        let mut lifecycle = draining(true);
        assert_eq!(lifecycle.on(Event::NewerClosed), []);
        assert_eq!(lifecycle.on(Event::NewestDied), [Action::Start(Timer::Grace)]);
        assert_eq!(lifecycle.on(last), end);
    }
    let mut lifecycle = draining(false);
    lifecycle.on(Event::NewestDied);
    assert_eq!(lifecycle.on(Event::NewerClosed), end);
}

#[test]
fn a_stop_bounds_the_drain_of_a_generation_that_was_replaced_and_of_one_that_withdraws() {
    assert_eq!(draining(false).on(Event::NewestStops), [Action::BoundDrain]);
    let standby = || {
        let mut lifecycle = Lifecycle::new(Some(0), Manager::None, 1);
        lifecycle.on(Event::AppReady);
        lifecycle
    };
    assert!(standby().on(Event::Withdraw { stop: true }).ends_with(&[Action::BeginWithdrawal, Action::BoundDrain]));
    let mut withdrawing = standby();
    assert!(withdrawing.on(Event::Withdraw { stop: false }).ends_with(&[Action::BeginWithdrawal]));
    assert_eq!(withdrawing.on(Event::Withdraw { stop: true }), [Action::BoundDrain]);
}
