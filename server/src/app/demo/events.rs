//! One step of the event stream of `/events`: from its state to when the next event is due, its bytes, and the state after
//! it. Pure, and complete: whoever has the state goes on with the stream, in this process or in another one.
//!
//! Times are of the system's clock, since that of one process means nothing in another one. Ids count events, so that no
//! clock can make a gap in them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::app::answer::Identity;

/// The time between two events that a client can ask for, in milliseconds.
pub(super) const INTERVAL_MS: std::ops::RangeInclusive<u64> = 10..=60_000;

/// The time between two events where it asks for none.
pub(super) const INTERVAL_MS_DEFAULT: u64 = 1_000;

/// Where a stream stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// The id of the last event; 0 before the first one.
    last: u64,
    /// When the next one is due, in milliseconds since 1970.
    due_ms: u64,
    /// The time between two, in milliseconds.
    interval_ms: u64,
}

/// The next event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// How long it is until then.
    pub(super) wait: Duration,
    /// The event, as it is sent.
    pub(super) event: Vec<u8>,
    /// The stream's state once it is sent.
    pub(super) next: Vec<u8>,
}

/// The state of a stream that begins now, behind the event that a client that comes back names as its last.
pub(super) fn begin(interval_ms: u64, last_event_id: Option<&str>, now: SystemTime) -> Vec<u8> {
    let last = last_event_id.and_then(|id| id.parse().ok()).unwrap_or(0);
    pack(&State { last, due_ms: since_epoch(now), interval_ms })
}

/// What comes next in a stream with this state. An error says why it cannot be read.
///
/// A step that was waited for half and is asked for again is due at the same instant. Events that a slow client kept from
/// being sent in time are not made up for: the next one is due at once, and the one after it an interval later.
pub(super) fn step(state: &[u8], identity: &Identity, now: SystemTime) -> Result<Step, String> {
    let state: State =
        serde_json::from_slice(state).map_err(|cause| format!("the state of an event stream: {cause}"))?;
    let interval_ms = state.interval_ms.clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end());
    let now_ms = since_epoch(now);
    // A clock that was set back must not hold the stream up.
    let wait_ms = state.due_ms.saturating_sub(now_ms).min(interval_ms);
    let (id, sent_ms) = (state.last.saturating_add(1), now_ms + wait_ms);
    let is_late = state.due_ms.saturating_add(interval_ms) < sent_ms;
    let due_ms = if is_late { sent_ms } else { state.due_ms.min(sent_ms) } + interval_ms;
    let Identity { generation, pid, .. } = identity;
    Ok(Step {
        wait: Duration::from_millis(wait_ms),
        event: format!("id: {id}\ndata: generation={generation} pid={pid}\n\n").into_bytes(),
        next: pack(&State { last: id, due_ms, interval_ms }),
    })
}

fn pack(state: &State) -> Vec<u8> {
    serde_json::to_vec(state).expect("a state is plain data")
}

fn since_epoch(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::tests::identity;

    fn at(ms: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_000_000 + ms)
    }

    fn take(state: &[u8], now_ms: u64) -> (u64, String, Vec<u8>) {
        let Step { wait, event, next } = step(state, &identity(), at(now_ms)).unwrap();
        (u64::try_from(wait.as_millis()).unwrap(), String::from_utf8(event).unwrap(), next)
    }

    #[test]
    fn the_first_event_is_due_at_once_and_each_other_an_interval_after_the_one_before() {
        let mut state = begin(250, None, at(0));
        for (id, now, wait) in [(1, 0, 0), (2, 1, 249), (3, 250, 250), (4, 700, 50)] {
            let (waited, event, next) = take(&state, now);
            assert_eq!(waited, wait);
            assert_eq!(event, format!("id: {id}\ndata: generation=7 pid=4121\n\n"));
            state = next;
        }
    }

    #[test]
    fn a_step_that_was_waited_for_half_is_due_at_the_same_instant_in_the_next_process() {
        let (_, _, state) = take(&begin(1000, None, at(0)), 0);
        let (wait, _, _) = take(&state, 100);
        let next_process = Identity { pid: 9, generation: 8, ..identity() };
        let again = step(&state, &next_process, at(400)).unwrap();
        assert_eq!((wait, again.wait.as_millis()), (900, 600));
        assert_eq!(again.event, b"id: 2\ndata: generation=8 pid=9\n\n");
        assert_eq!(take(&again.next, 1000).0, 1000);
    }

    #[test]
    fn a_client_that_comes_back_goes_on_behind_the_last_event_that_it_had() {
        for (last, id) in [("41", 42), ("x", 1), ("-1", 1), ("18446744073709551615", u64::MAX)] {
            assert!(take(&begin(10, Some(last), at(0)), 0).1.starts_with(&format!("id: {id}\n")), "{last}");
        }
    }

    #[test]
    fn no_clock_and_no_slow_client_makes_a_gap_or_a_burst() {
        let (_, _, state) = take(&begin(100, None, at(0)), 0);
        let (wait, event, state) = take(&state, 60_000);
        assert!(wait == 0 && event.starts_with("id: 2\n"));
        let (wait, event, state) = take(&state, 60_000);
        assert!(wait == 100 && event.starts_with("id: 3\n"));
        let (wait, event, state) = take(&state, 5);
        assert!(wait == 100 && event.starts_with("id: 4\n"), "the clock was set back");
        assert_eq!(take(&state, 105).0, 100);
    }

    #[test]
    fn a_state_that_cannot_be_read_is_an_error_and_one_out_of_bounds_is_brought_into_them() {
        assert!(step(b"{}", &identity(), at(0)).unwrap_err().contains("event stream"));
        let state = br#"{"last":18446744073709551615,"due_ms":18446744073709551615,"interval_ms":0}"#;
        assert_eq!(step(state, &identity(), at(0)).unwrap().wait.as_millis(), 10);
    }
}
