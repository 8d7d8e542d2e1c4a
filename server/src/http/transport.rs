//! The transport of a connection: what carries its bytes, and all that knows how.
//!
//! Everything above sees bytes. The transport alone knows the descriptor, its readiness, and what was received and not
//! used yet. It is a plain socket; nothing above it may infer anything of the socket from how many bytes a receive brought,
//! only from its saying that it would have to wait. It knows nothing of what the bytes mean.

pub(crate) mod buffer;
mod socket;
pub(crate) mod tls;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use rustix::net::Shutdown;

use buffer::Buffer;
use socket::Socket;

/// A connection's socket, and the bytes that were received on it and not used yet.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: Socket,
    received: Mutex<Buffer>,
}

impl Transport {
    /// A connected stream socket whose first bytes were received elsewhere. `local` says that it may be a Unix socket.
    pub(crate) fn new(socket: OwnedFd, local: bool, read_ahead: Vec<u8>) -> io::Result<Transport> {
        Ok(Transport { socket: Socket::new(socket, local)?, received: Mutex::new(Buffer::with(read_ahead)) })
    }

    /// Takes it apart: the socket, which no poller knows any more, and the bytes received and not used yet.
    pub(crate) fn into_parts(self) -> io::Result<(OwnedFd, Vec<u8>)> {
        let waiting = self.received().take();
        Ok((self.socket.into_fd()?, waiting))
    }

    /// The bytes received and not used yet. The lock is never held across a wait.
    pub(crate) fn received(&self) -> MutexGuard<'_, Buffer> {
        // A panic while it was held leaves at worst bytes that fail the next check.
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a receive is worth a try.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_readable(context)
    }

    /// Waits until a send is worth a try.
    pub(crate) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_writable(context)
    }

    /// Waits until nobody is at the other end.
    pub(crate) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_gone(context)
    }

    /// Receives once, without waiting, behind the bytes not used yet. Returns the number of bytes, 0 at the end of the
    /// stream.
    pub(crate) fn receive(&self) -> io::Result<usize> {
        let received = &mut *self.received();
        let outcome = self.receive_behind(received);
        if outcome.is_err() {
            received.settle();
        }
        outcome
    }

    /// Receives like [`receive`](Transport::receive), for whoever holds the lock on what was received.
    pub(crate) fn receive_behind(&self, received: &mut Buffer) -> io::Result<usize> {
        let count = self.receive_into(received.room())?;
        received.added(count);
        Ok(count)
    }

    /// Receives once, without waiting, into `room`, past the bytes not used yet: there must be none.
    pub(crate) fn receive_into(&self, room: &mut [u8]) -> io::Result<usize> {
        self.socket.receive(room)
    }

    /// Sends once, without waiting: of the first bytes and then of the second.
    pub(crate) fn send(&self, parts: [&[u8]; 2]) -> io::Result<usize> {
        self.socket.send(parts)
    }

    /// Says to the client that nothing more will be sent.
    pub(crate) fn shut_down_sending(&self) {
        self.socket.shut_down(Shutdown::Write);
    }

    /// Ends both directions.
    pub(crate) fn shut_down(&self) {
        self.socket.shut_down(Shutdown::Both);
    }

    /// Ends both directions by a reset, so that the client sees that it was cut.
    pub(crate) fn reset(&self) {
        self.socket.reset();
    }
}
