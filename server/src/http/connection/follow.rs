//! What follows a response: another request, or the end of the connection, and why.
//!
//! One pure function, [`follows`], asked before the head of a response is written, which says so to the client, and again
//! when its last byte has left. What follows one that did not reach its end is [`follows_failure`]'s to say.

use http_types::StatusCode;
use restart_core::Phase;

use super::super::lifetime::Reason;
use super::super::message::refusal::Refusal;
use super::super::pace::Over;
use super::super::plan::sending::Failure;
use super::super::wire::{BodyState, Fault};
use super::state::Closed;

/// How much of a request's body that nobody wants is read for the sake of keeping the connection.
pub(super) const UNREAD_BYTES_MAX: u64 = 256 * 1024;

/// What is known where it is decided what follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Why the connection has to be closed whatever else holds: the client or the handler asked for it, the request could
    /// not be read.
    pub(super) close: Option<Reason>,
    /// Whether the response has been sent.
    pub(super) is_sent: bool,
    pub(super) phase: Phase,
    /// Whether the connection can go on in the newest generation, while this one drains.
    pub(super) may_park: bool,
    /// How the body of the request stands.
    pub(super) body: BodyState,
    /// Whether the client has sent another request already, if somebody has looked.
    pub(super) more: Option<bool>,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    /// The next request.
    Request,
    /// The end of the connection.
    Close(Reason),
    /// That depends on whether the client has sent another request already: a client counts on its answer, and may not
    /// dare to send it again. Look, and ask again.
    Look,
}

/// Decides what follows a response.
pub(super) fn follows(facts: Facts) -> Follows {
    if let Some(reason) = facts.close {
        return Follows::Close(reason);
    }
    if facts.is_sent {
        return match facts.body {
            BodyState::None | BodyState::Complete => Follows::Request,
            unfinished => Follows::Close(unfinished.fault().map_or(Reason::Unread, reason_of)),
        };
    }
    let leaves = match facts.phase {
        Phase::Stopping => Some(Reason::Stopping),
        Phase::Over => return Follows::Close(Reason::DrainDeadline),
        Phase::Draining if !facts.may_park => Some(Reason::Draining),
        Phase::Draining | Phase::Serving => None,
    };
    match (leaves, facts.more) {
        (Some(_), None) => return Follows::Look,
        (Some(reason), Some(false)) => return Follows::Close(reason),
        (Some(_), Some(true)) | (None, _) => {}
    }
    match facts.body {
        BodyState::Coming { abandoned: true, left: Some(left) } if left <= UNREAD_BYTES_MAX => Follows::Request,
        BodyState::Coming { abandoned: true, .. } | BodyState::Withheld { abandoned: true } => {
            Follows::Close(Reason::Unread)
        }
        BodyState::Faulted(fault) => Follows::Close(reason_of(fault)),
        // Where there is one, somebody reads it still, while the response is sent.
        BodyState::None | BodyState::Complete | BodyState::Coming { .. } | BodyState::Withheld { .. } => {
            Follows::Request
        }
    }
}

/// Decides what follows a response that did not reach its proper end, which may be due to the request's body.
pub(super) fn follows_failure(failure: &Failure, fault: Option<Fault>) -> Closed {
    match (failure, fault) {
        (Failure::Unsent(_) | Failure::Broken(_), Some(Fault::Cut | Fault::Failed(_))) | (Failure::Failed(_), _) => {
            Closed::ByClient
        }
        (Failure::Unsent(_) | Failure::Broken(_), Some(fault)) => Closed::Lingering(reason_of(fault)),
        (Failure::Unsent(_) | Failure::Broken(_), None) | (Failure::Long, _) => Closed::Lingering(Reason::Broken),
        (Failure::Over(Over::Late), _) => Closed::AtOnce(Reason::WriteTimeout),
        (Failure::Over(Over::Crowded), _) => Closed::AtOnce(Reason::Crowded),
    }
}

/// What is answered when a request's body could not be read.
pub(super) fn refusal_of(fault: Fault) -> Refusal {
    match fault {
        Fault::Refused(refusal) => refusal,
        Fault::Late | Fault::Crowded => Refusal::new(StatusCode::RequestTimeout, "the body came too slowly"),
        Fault::Cut | Fault::Failed(_) => Refusal::bad("the connection was closed within the body"),
    }
}

pub(super) fn reason_of(fault: Fault) -> Reason {
    if fault == Fault::Crowded { Reason::Crowded } else { Reason::Refused(refusal_of(fault).status.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMING: BodyState = BodyState::Coming { left: None, abandoned: false };
    const LITTLE: BodyState = BodyState::Coming { left: Some(UNREAD_BYTES_MAX), abandoned: true };
    const MUCH: BodyState = BodyState::Coming { left: Some(UNREAD_BYTES_MAX + 1), abandoned: true };
    const ENDLESS: BodyState = BodyState::Coming { left: None, abandoned: true };
    const WITHHELD: BodyState = BodyState::Withheld { abandoned: true };
    const CUT: BodyState = BodyState::Faulted(Fault::Cut);

    const PLAIN: Facts =
        Facts { close: None, is_sent: false, phase: Phase::Serving, may_park: true, body: BodyState::None, more: None };

    #[test]
    fn what_follows_a_response_is_this_table() {
        use Follows::{Close, Look, Request};
        let facts = |phase, may_park, body, more| Facts { phase, may_park, body, more, ..PLAIN };
        let (serving, draining, stopping) = (Phase::Serving, Phase::Draining, Phase::Stopping);
        let cases = [
            (facts(serving, true, BodyState::None, None), Request),
            (facts(serving, false, BodyState::Complete, None), Request),
            (facts(serving, true, COMING, None), Request),
            (facts(serving, true, LITTLE, None), Request),
            (facts(serving, true, MUCH, None), Close(Reason::Unread)),
            (facts(serving, true, ENDLESS, None), Close(Reason::Unread)),
            (facts(serving, true, WITHHELD, None), Close(Reason::Unread)),
            (facts(serving, true, CUT, None), Close(Reason::Refused(400))),
            (facts(draining, true, BodyState::None, None), Request),
            (facts(draining, true, MUCH, None), Close(Reason::Unread)),
            (facts(draining, false, BodyState::None, None), Look),
            (facts(draining, false, BodyState::None, Some(true)), Request),
            (facts(draining, false, BodyState::None, Some(false)), Close(Reason::Draining)),
            (facts(draining, false, MUCH, Some(true)), Close(Reason::Unread)),
            (facts(stopping, true, BodyState::None, None), Look),
            (facts(stopping, true, BodyState::None, Some(true)), Request),
            (facts(stopping, true, LITTLE, Some(false)), Close(Reason::Stopping)),
            (facts(Phase::Over, true, BodyState::None, Some(true)), Close(Reason::DrainDeadline)),
        ];
        for (facts, expected) in cases {
            assert_eq!(follows(facts), expected, "{facts:?}");
            let asked = Facts { close: Some(Reason::Asked), ..facts };
            assert_eq!(follows(asked), Close(Reason::Asked), "{asked:?}");
        }
    }

    #[test]
    fn what_is_left_of_a_body_after_the_response_ends_the_connection() {
        let after = |body| follows(Facts { is_sent: true, phase: Phase::Stopping, body, ..PLAIN });
        for body in [BodyState::None, BodyState::Complete] {
            assert_eq!(after(body), Follows::Request);
        }
        for body in [COMING, LITTLE, WITHHELD] {
            assert_eq!(after(body), Follows::Close(Reason::Unread), "{body:?}");
        }
        assert_eq!(after(CUT), Follows::Close(Reason::Refused(400)));
        assert_eq!(after(BodyState::Faulted(Fault::Crowded)), Follows::Close(Reason::Crowded));
    }

    #[test]
    fn a_response_that_failed_with_its_requests_body_is_told_from_one_that_failed_by_itself() {
        let broken = || Failure::Broken(std::io::ErrorKind::Other.into());
        assert_eq!(follows_failure(&broken(), None), Closed::Lingering(Reason::Broken));
        assert_eq!(follows_failure(&broken(), Some(Fault::Late)), Closed::Lingering(Reason::Refused(408)));
        assert_eq!(follows_failure(&broken(), Some(Fault::Cut)), Closed::ByClient);
        assert_eq!(follows_failure(&Failure::Over(Over::Late), None), Closed::AtOnce(Reason::WriteTimeout));
        assert_eq!(follows_failure(&Failure::Failed(std::io::ErrorKind::Other.into()), None), Closed::ByClient);
    }
}
