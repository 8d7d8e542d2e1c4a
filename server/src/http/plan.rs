//! What is sent: the bytes of a response that the transport has not taken yet, and where those after them come from.
//!
//! A [`Plan`] has its framing decided. At any point of its way it can say what is left of it, if that can be said at all
//! (`rest`): bytes that are gathered (`outbox`), pieces of memory and of a file (`content`, `body_file`), a stream that knows how it goes
//! on (`stream`). `sending` sends it.

pub(crate) mod body_file;
pub(crate) mod content;
pub(crate) mod outbox;
pub(crate) mod rest;
pub(crate) mod sending;
mod source;
pub(crate) mod stream;

pub(crate) use source::Plan;
