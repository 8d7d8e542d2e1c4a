//! A connection's socket: receiving and sending without waiting, and waiting for either.
//!
//! A receive that brings less than there was room for has emptied the socket, so that the next one waits for a report
//! instead of failing first (epoll(7), "Questions and answers"). It knows nothing of what the bytes mean.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown};

use crate::poller::Source;

#[derive(Debug)]
pub(crate) struct Socket {
    // Dropped first: the entry ends before the descriptor is closed.
    source: Source,
    fd: OwnedFd,
}

impl Socket {
    /// Enters a connected stream socket in the poller that this thread uses.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Socket> {
        Ok(Socket { source: Source::enter(&fd)?, fd })
    }

    /// The descriptor, which no poller knows any more.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        self.source.leave(&self.fd)?;
        Ok(self.fd)
    }

    /// Waits until the socket can be read.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.source.poll_readable(context)
    }

    /// Waits until the socket can be written to.
    pub(crate) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.source.poll_writable(context)
    }

    /// Receives once into `room`. Returns the number of bytes, 0 at the end of the stream.
    pub(crate) fn receive(&self, room: &mut [u8]) -> io::Result<usize> {
        let before = self.source.before();
        let received = retry_on_intr(|| recv(&self.fd, &mut *room, RecvFlags::DONTWAIT)).map(|(count, _)| count);
        if received == Err(Errno::AGAIN) || received.is_ok_and(|count| count < room.len()) {
            self.source.emptied(before);
        }
        Ok(received?)
    }

    /// Sends once, of the first bytes and then of the second.
    pub(crate) fn send(&self, [first, second]: [&[u8]; 2]) -> io::Result<usize> {
        const FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
        let before = self.source.before();
        let both = [IoSlice::new(first), IoSlice::new(second)];
        let sent = retry_on_intr(|| match (first, second) {
            (one, []) | ([], one) => send(&self.fd, one, FLAGS),
            _ => sendmsg(&self.fd, &both, &mut SendAncillaryBuffer::default(), FLAGS),
        });
        if sent == Err(Errno::AGAIN) {
            self.source.filled(before);
        }
        Ok(sent?)
    }

    /// Says to the client that nothing more comes, or ends both directions. It fails only where the connection is gone.
    pub(crate) fn shut_down(&self, how: Shutdown) {
        let _ = shutdown(&self.fd, how);
    }
}
