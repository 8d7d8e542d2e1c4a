//! What is under way on a connection, and how each part of its life ends: plain values, which those who serve it pass on.

use crate::tokio::Stream;

/// A registered stream or protocol, at a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) name: String,
    pub(super) state: Vec<u8>,
}

/// A stream that is being sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sending {
    /// What the next step is made from.
    pub(super) at: At,
    /// Framed, and not sent.
    pub(super) unsent: Vec<u8>,
    /// In chunks; else the end of the connection is the end of the stream.
    pub(super) chunked: bool,
    /// Whether other requests may follow.
    pub(super) keep: bool,
}

/// What is under way on a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum UnderWay {
    /// Nothing, or half a request's head. `fresh`: nothing has been served yet, so it may turn out to be HTTP/2.
    Nothing { fresh: bool },
    /// A registered stream.
    Stream(Sending),
    /// A registered protocol.
    Protocol(At),
}

/// How a part of a connection's life ends.
#[derive(Debug)]
pub(super) enum Left {
    Over,
    /// Something else comes now.
    GoesOn(Stream, UnderWay),
    /// It is to go on in the newest process, from here.
    Leaves(Stream, UnderWay),
    /// Half a request has been read: its rest is waited for, although the process is about to end.
    Stays(Stream),
}
