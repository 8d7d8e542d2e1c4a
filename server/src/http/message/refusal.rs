//! Why a request is refused: the status and one sentence for the client.
//!
//! Every rule of this layer that a client can break ends in a [`Refusal`]. It names the cause, since a client's author
//! debugs with what the answer says. It holds no data of the request, so an answer never reflects what was sent.

use http_types::{Response, StatusCode};

/// A refused request: what is answered before the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The status of the answer.
    pub(crate) status: StatusCode,
    /// What was wrong, in a few words.
    pub(crate) cause: &'static str,
}

impl Refusal {
    pub(crate) const fn new(status: StatusCode, cause: &'static str) -> Refusal {
        Refusal { status, cause }
    }

    /// A malformed message: 400.
    pub(crate) const fn bad(cause: &'static str) -> Refusal {
        Refusal::new(StatusCode::BadRequest, cause)
    }

    /// The answer, without what a connection adds to it.
    pub(crate) fn response(self) -> Response {
        plain(self.status, self.cause)
    }
}

/// A small text answer that names its status and a cause.
pub(crate) fn plain(status: StatusCode, cause: &str) -> Response {
    let mut response = Response::new(status);
    response.set_body(format!("{} {}: {cause}\n", u16::from(status), status.canonical_reason()));
    response
}
