//! A connection that moves, and its way from whoever offers it to whoever sends it, with the way back for the outcome.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use async_channel::Sender;
use zeroize::Zeroize;

use crate::drain::Guard;
use crate::formats::Formats;

/// A connection's blob may be this long; with it, one connection always fits into a message.
pub const BLOB_BYTES_MAX: usize = 52 * 1024;
/// So many descriptors may travel with a connection beside its own.
pub const COMPANIONS_MAX: usize = 3;

/// An accepted connection that moves between generations, with what the application needs to go on with it.
#[non_exhaustive]
pub struct Connection {
    /// The connection. Registered with no event loop: an old registration would go on watching it.
    pub fd: OwnedFd,
    /// What belongs to it beside its socket, such as the file that is being sent: at most [`COMPANIONS_MAX`]
    /// descriptors, which arrive in the same order.
    pub companions: Vec<OwnedFd>,
    /// What one has to know in order to go on with it. It moves only to a generation that takes all of these.
    pub formats: Formats,
    /// The application's own description, at most [`BLOB_BYTES_MAX`] bytes. It is in no debugging output; the copies that
    /// are made on its way are overwritten, and so is this one where the connection has moved.
    pub blob: Vec<u8>,
    /// Counts the connection as live.
    pub guard: Guard,
}

impl Connection {
    /// A connection without companions.
    pub fn new(formats: impl Into<Formats>, fd: OwnedFd, blob: Vec<u8>, guard: Guard) -> Connection {
        Connection { fd, companions: vec![], formats: formats.into(), blob, guard }
    }

    /// The connection with one more companion.
    #[must_use]
    pub fn with_companion(mut self, companion: OwnedFd) -> Connection {
        self.companions.push(companion);
        self
    }
}

impl fmt::Debug for Connection {
    /// Without the blob, which may hold secrets.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection").field("fd", &self.fd).field("formats", &self.formats).finish_non_exhaustive()
    }
}

/// Where offers go while this generation drains.
pub(super) type Slot = Arc<Mutex<Option<Sender<Offer>>>>;

/// A connection on its way, and the way back for its outcome.
pub(super) struct Offer {
    pub(super) connection: Connection,
    pub(super) outcome: Sender<Result<Guard, Connection>>,
    /// How often it has been declined.
    pub(super) declined: u32,
}

impl Offer {
    /// The newest generation owns the connection. This process's descriptors of it are closed, and what its blob held is
    /// overwritten.
    pub(super) fn moved(mut self) {
        self.connection.blob.zeroize();
        let _ = self.outcome.try_send(Ok(self.connection.guard));
    }

    /// The connection is its caller's again.
    pub(super) fn comes_back(self) {
        let _ = self.outcome.try_send(Err(self.connection));
    }
}
