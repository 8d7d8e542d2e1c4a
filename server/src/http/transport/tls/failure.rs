//! Why an established connection cannot go on, and what its client is told.

use std::fmt;

use rustls::AlertDescription;

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What the client is told; nothing where it ended the connection itself, or knows already.
    pub(crate) alert: Option<AlertDescription>,
    /// What was wrong: what came, or what the connection is past.
    pub(crate) reason: &'static str,
}

impl Failure {
    /// A failure that the client is told of.
    pub(super) fn told(alert: AlertDescription, reason: &'static str) -> Failure {
        Failure { alert: Some(alert), reason }
    }

    /// A failure of which nobody is told.
    pub(super) fn silent(reason: &'static str) -> Failure {
        Failure { alert: None, reason }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.alert {
            Some(alert) => write!(f, "TLS: {}; the connection ends, and the client is told {alert:?}", self.reason),
            None => write!(f, "TLS: {}", self.reason),
        }
    }
}

impl std::error::Error for Failure {}
