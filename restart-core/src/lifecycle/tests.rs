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
