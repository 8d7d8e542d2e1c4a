//! Connection handover: accepted client connections that move to the newest generation.
//!
//! What an application offers and takes. `sender` moves the offers in batches, `receiver` takes batches up; between them
//! is a socket of their own for each line, so that nothing else waits for connections, nor they for anything else. One
//! owner, always: the sender keeps its descriptors until a batch is acknowledged, and the receiver acknowledges before
//! it reads a byte. What the blobs mean is the application's matter; in which formats they are is said with them, and
//! a generation is offered only what it takes.

mod offer;
mod receiver;
mod sender;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_channel::{Receiver, Sender};
use event_listener::Event;
use futures_lite::future;

use crate::drain::{Drain, Guard};
use crate::formats::Formats;
use crate::lock::lock;

pub use offer::{BLOB_BYTES_MAX, COMPANIONS_MAX, Connection};
use offer::{Offer, Slot};
pub(crate) use sender::{Mover, Target};

/// Moves connections to the next generation, and takes those of the generations before. Clones share both ways.
#[derive(Clone)]
pub struct Connections {
    /// What this generation takes.
    formats: Formats,
    slot: Slot,
    taken: (Sender<Connection>, Receiver<Connection>),
    /// Notified when the application has taken all that came.
    all_taken: Arc<Event>,
}

impl Connections {
    pub(crate) fn new(formats: Formats) -> Connections {
        Connections { formats, slot: Arc::default(), taken: async_channel::unbounded(), all_taken: Arc::default() }
    }

    /// Offers a connection to the newest generation, while this one drains.
    ///
    /// Returns when the newest generation owns it; this process's descriptors are closed then, and the guard comes back,
    /// so that the caller can book the connection before this process counts it as gone. Where there is no
    /// successor, or it does not take the connection's formats, or its table of descriptors is full, or it does not
    /// answer within 5 s, or vanishes, or the blob or the companions are too many, the connection comes back: nothing
    /// was read from it, and it is the caller's alone. Where the newest generation answers what cannot be read, several
    /// times, the connection is taken for moved: two owners would be worse than none.
    pub async fn offer(&self, connection: Connection) -> Result<Guard, Connection> {
        if connection.blob.len() > BLOB_BYTES_MAX || connection.companions.len() > COMPANIONS_MAX {
            return Err(connection);
        }
        let (outcome, answer) = async_channel::bounded(1);
        match &*lock(&self.slot) {
            Some(offers) => {
                if let Err(refused) = offers.try_send(Offer { connection, outcome, declined: 0 }) {
                    return Err(refused.into_inner().connection);
                }
            }
            None => return Err(connection),
        }
        match answer.recv().await {
            Ok(outcome) => outcome,
            // Only the end of the process leaves an offer without an answer.
            Err(_) => future::pending().await,
        }
    }

    /// Waits for a connection that an older generation hands over. It is this process's from then on.
    ///
    /// Thousands may come at once. Whoever starts a task for each does well to let others run in between
    /// (`yield_now`): what is not taken is not sent either.
    pub async fn take(&self) -> Connection {
        let connection = match self.taken.1.recv().await {
            Ok(connection) => connection,
            // This value holds a sender itself, so the channel never closes.
            Err(_) => future::pending().await,
        };
        if self.taken.1.is_empty() {
            self.all_taken.notify(usize::MAX);
        }
        connection
    }

    /// Opens the way to the newest generation: offers are kept from now on, and moved once there is a target; where it is
    /// said that there is none, they come back. The future moves them until the targets' sender is dropped; then it gives
    /// back what is not acknowledged.
    pub(crate) fn open(&self, drain: Drain) -> (impl Future<Output = ()> + Send + use<>, Sender<Option<Target>>) {
        let (sender, offers) = async_channel::unbounded();
        let (aim, targets) = async_channel::unbounded();
        *lock(&self.slot) = Some(sender);
        (Mover::new(Arc::clone(&self.slot), drain, offers, targets).run(), aim)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connections").field("open", &lock(&self.slot).is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
