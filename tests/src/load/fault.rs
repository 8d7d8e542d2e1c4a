//! The closed list of what can go wrong with a connection that lasts: a download, an event stream, a chat.

use std::fmt;

use serde::Serialize;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The server closed or reset it before its end, or announced that it will.
    Closed,
    /// Bytes that are not what they have to be.
    Wrong,
    /// A number that is not the one after the last.
    Gap,
    /// The server said nothing for too long, or took nothing.
    Late,
    /// It did not come about: no connection, or another status.
    Refused,
}

impl FaultKind {
    /// Its name in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Wrong => "wrong",
            Self::Gap => "gap",
            Self::Late => "late",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its name in the counts.
    pub kind: FaultKind,
    /// What was seen.
    pub detail: String,
}

impl Fault {
    pub(super) fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}
