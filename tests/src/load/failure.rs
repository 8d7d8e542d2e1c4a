//! The closed lists of what can go wrong with a request, and of the ways in which a server closes a connection that
//! it could have kept. Everything that the load tool reports is counted under one of these names.

use std::fmt;

use serde::Serialize;

/// Why a request counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Nobody listens at the address.
    ConnectRefused,
    /// The handshake did not end in time.
    ConnectTimeout,
    /// The load tool's own side ran out of ports or fds: the figures are worth nothing.
    Local,
    /// The connection was reset before the answer began.
    ResetBeforeAnswer,
    /// The connection was closed before the answer began.
    ClosedBeforeAnswer,
    /// The answer began and did not end.
    Truncated,
    /// An answer that isn't this request's, or isn't HTTP.
    WrongAnswer,
    /// Bytes that no request asked for, or the previous answer once more.
    DuplicateAnswer,
    /// A well-formed answer with another status than 200.
    BadStatus,
    /// No whole answer within the deadline.
    Timeout,
}

impl Failure {
    /// Its name in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Local => "local",
            Self::ResetBeforeAnswer => "reset_before_answer",
            Self::ClosedBeforeAnswer => "closed_before_answer",
            Self::Truncated => "truncated",
            Self::WrongAnswer => "wrong_answer",
            Self::DuplicateAnswer => "duplicate_answer",
            Self::BadStatus => "bad_status",
            Self::Timeout => "timeout",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How the server ended a connection that the client would have used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Close {
    /// It sent FIN while no request was on its way.
    FinWhileIdle,
    /// It reset the connection while no request was on its way.
    ResetWhileIdle,
    /// It said so in its answer: `Connection: close`.
    Announced,
}

impl Close {
    /// Its name in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::FinWhileIdle => "fin_while_idle",
            Self::ResetWhileIdle => "reset_while_idle",
            Self::Announced => "announced",
        }
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
