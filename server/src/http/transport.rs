//! The transport of a connection: what carries its bytes, and all that knows how.
//!
//! Everything above sees bytes. The transport alone knows the descriptor, its readiness, and what was received and not
//! used yet, and whether TLS is spoken on it. Nothing above it may infer anything of the socket from how many bytes a receive
//! brought, only from its saying that it would have to wait; and what a send has taken may have to be [flushed](Transport::flush).
//! It knows nothing of what the bytes mean. Without TLS it costs a branch.

pub(crate) mod buffer;
pub(crate) mod secured;
mod socket;
pub(crate) mod tls;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use rustix::net::Shutdown;

use crate::lock::unpoisoned;
use buffer::Buffer;
use secured::{Sealed, Secured};
use socket::Socket;
use tls::records::Records;

/// A connection's socket, and the bytes that were received on it and not used yet.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: Socket,
    received: Mutex<Buffer>,
    /// What stands between the two where TLS is spoken. Locked after `received`.
    secured: Option<Box<Mutex<Secured>>>,
}

impl Transport {
    /// A connected stream socket whose first bytes were received elsewhere, and what of TLS was there. `local` says that it
    /// may be a Unix socket.
    pub(crate) fn new(
        socket: OwnedFd,
        local: bool,
        read_ahead: Vec<u8>,
        sealed: Option<Sealed>,
    ) -> io::Result<Transport> {
        let secured = sealed.map(|sealed| Box::new(Mutex::new(Secured::thaw(sealed))));
        Ok(Transport { socket: Socket::new(socket, local)?, received: Mutex::new(Buffer::with(read_ahead)), secured })
    }

    /// From now on TLS is spoken, with these records. What was received and not used yet belongs to them.
    pub(crate) fn secure(&mut self, records: Records) {
        let received = self.received().take();
        self.secured = Some(Box::new(Mutex::new(Secured::new(records, received))));
    }

    /// Takes it apart: the socket, which no poller knows any more, the bytes received and not used yet, and what of TLS goes
    /// with them.
    pub(crate) fn into_parts(self) -> io::Result<(OwnedFd, Vec<u8>, Option<Sealed>)> {
        let mut waiting = self.received().take();
        let sealed = self.secured.map(|secured| {
            let (opened, sealed) = unpoisoned(secured.into_inner()).freeze();
            waiting.extend(opened);
            sealed
        });
        Ok((self.socket.into_fd()?, waiting, sealed))
    }

    /// How many bytes wait here, received or sealed, beside those received and not used yet.
    pub(crate) fn sealed_bytes(&self) -> usize {
        self.secured().map_or(0, |secured| secured.waiting_bytes())
    }

    /// How many bytes have left since this was asked last, where a send has just taken `count`: the client took them.
    pub(crate) fn left(&self, count: usize) -> usize {
        self.secured().map_or(count, |mut secured| secured.left())
    }

    /// The bytes received and not used yet. The lock is never held across a wait.
    pub(crate) fn received(&self) -> MutexGuard<'_, Buffer> {
        // A panic while it was held leaves at worst bytes that fail the next check.
        unpoisoned(self.received.lock())
    }

    /// Gives back the memory that only what comes next needs: nothing has for long.
    pub(crate) fn rest(&self) {
        if let Some(mut secured) = self.secured() {
            secured.rest();
        }
    }

    /// Waits until a receive is worth a try.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        match self.secured() {
            None => self.socket.poll_readable(context),
            Some(mut secured) => secured.poll_readable(&self.socket, context),
        }
    }

    /// Waits until a send is worth a try.
    pub(crate) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_writable(context)
    }

    /// Waits until nobody is at the other end.
    pub(crate) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_gone(context)
    }

    /// Whether nothing is here, and nothing is known to wait in the socket, that was not used yet. For whoever waits for
    /// nothing.
    pub(crate) fn is_quiet(&self) -> bool {
        self.received().is_empty()
            && match self.secured() {
                None => !self.socket.is_readable(),
                Some(mut secured) => {
                    secured.poll_readable(&self.socket, &mut Context::from_waker(Waker::noop())).is_pending()
                }
            }
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
        match self.secured() {
            None => self.socket.receive(room),
            Some(mut secured) => secured.receive(&self.socket, room),
        }
    }

    /// Sends once, without waiting: of the first bytes and then of the second.
    pub(crate) fn send(&self, parts: [&[u8]; 2]) -> io::Result<usize> {
        match self.secured() {
            None => self.socket.send(parts),
            Some(mut secured) => secured.send(&self.socket, parts),
        }
    }

    /// Sends, without waiting, what a send has taken and the socket has not.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.secured().map_or(Ok(()), |mut secured| secured.flush(&self.socket))
    }

    /// Says to the client that nothing more will be sent.
    pub(crate) fn shut_down_sending(&self) {
        match self.secured() {
            None => self.socket.shut_down(Shutdown::Write),
            Some(mut secured) => secured.shut_down_sending(&self.socket),
        }
    }

    /// Says to a client that speaks TLS that this is the end, and not a cut, if it can be said at once. Returns whether the
    /// socket can be closed now without taking that from it.
    pub(crate) fn close(&self) -> bool {
        self.secured().is_none_or(|mut secured| secured.close(&self.socket))
    }

    /// Ends both directions.
    pub(crate) fn shut_down(&self) {
        self.socket.shut_down(Shutdown::Both);
    }

    /// Ends both directions by a reset, so that the client sees that it was cut.
    pub(crate) fn reset(&self) {
        self.socket.reset();
    }

    /// What stands before the socket where TLS is spoken. The lock is never held across a wait.
    fn secured(&self) -> Option<MutexGuard<'_, Secured>> {
        // A panic while it was held leaves at worst a record that nobody can open.
        self.secured.as_ref().map(|secured| unpoisoned(secured.lock()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::tls::frozen::{ENCODING, Frozen};
    use super::tls::secret::Secret;
    use super::*;
    use crate::threads::poller::Poller;

    /// A connection of TLS 1.3 on which nothing was sent yet, with keys of zeros.
    fn sealed() -> Sealed {
        let mut frozen = vec![ENCODING, 13, 1, 0, 0, 0, 0, 0, 0];
        frozen.extend([0; 2 * (8 + 32)]);
        let frozen = Frozen::from_bytes(&Secret::from_vec(frozen)).map_err(|error| error.to_string()).expect("valid");
        Sealed { frozen, received: Vec::new(), unsent: Vec::new() }
    }

    #[test]
    fn a_close_that_finds_no_room_says_so_and_is_told_later() {
        let poller = Poller::new().expect("a poller");
        poller.adopt_thread();
        let (stream, mut client) = UnixStream::pair().expect("a pair");
        let transport = Transport::new(stream.into(), true, Vec::new(), Some(sealed())).expect("an entry");
        let mut records = 0;
        while transport.send([&[b'x'; 10_000], b""]).is_ok() {
            records += 1;
        }
        assert!(!transport.close(), "there is no room for it");
        let reader = thread::spawn(move || client.read_to_end(&mut Vec::new()).expect("it ends"));
        while transport.flush().is_err() {
            if transport.poll_writable(&mut Context::from_waker(Waker::noop())).is_pending() {
                poller.wait(|| true);
            }
        }
        assert!(transport.close(), "it has left");
        drop(transport);
        let (record, alert) = (5 + 10_000 + 17, 5 + 2 + 17);
        assert_eq!(reader.join().expect("it ends"), records * record + alert);
    }
}
