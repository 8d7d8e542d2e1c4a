//! A client's connection on tokio: it begins with what somebody has read of it before, is counted until it is dropped, and
//! can give itself up.
//!
//! It knows the two kinds of sockets that listeners give, and nothing of what they carry.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ::tokio::net::{TcpStream, UnixStream};

use crate::address::Address;
use crate::connections::Connection;
use crate::drain::Guard;
use crate::formats::Formats;
use crate::listeners::{Accepted, peer_of};

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A client's connection, over TCP or a Unix socket. It counts as live until it is dropped, wherever that is: within an
/// upgraded connection of hyper's, say. What [`put_back`](Stream::put_back) gives it is read before anything else.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    peer: Address,
    /// What was read and is to be read again, from `read` on.
    unread: Vec<u8>,
    read: usize,
    guard: Guard,
}

impl Stream {
    /// The connection that a listener has accepted. Fails where tokio cannot watch it: outside of a runtime with I/O this
    /// panics, as everything of `tokio::net` does.
    pub fn new(accepted: Accepted) -> io::Result<Stream> {
        Stream::over(accepted.fd, accepted.peer, accepted.guard)
    }

    /// Takes up a connection that has come from another process, or back from an offer. Returns with it the blob that
    /// describes it, whose unread bytes are the caller's to [`put_back`](Stream::put_back). Companions are closed.
    pub fn take_up(connection: Connection) -> io::Result<(Stream, Vec<u8>)> {
        let Connection { fd, blob, guard, .. } = connection;
        let peer = peer_of(&fd);
        Ok((Stream::over(fd, peer, guard)?, blob))
    }

    fn over(fd: OwnedFd, peer: Address, guard: Guard) -> io::Result<Stream> {
        let socket = match peer {
            Address::Tcp(_) => {
                let stream = TcpStream::from_std(fd.into())?;
                // What is written is whole messages, which are not to wait for the acknowledgement of earlier ones; a
                // connection that has just ended does not mind.
                let _ = stream.set_nodelay(true);
                Socket::Tcp(stream)
            }
            _ => Socket::Unix(UnixStream::from_std(fd.into())?),
        };
        Ok(Stream { socket, peer, unread: Vec::new(), read: 0, guard })
    }

    /// The other end's address.
    pub fn peer(&self) -> &Address {
        &self.peer
    }

    /// What is read next without a look at the socket.
    pub fn unread(&self) -> &[u8] {
        &self.unread[self.read..]
    }

    /// Has these bytes read next, before what was put back earlier.
    pub fn put_back(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.unread.splice(..self.read, bytes.iter().copied());
            self.read = 0;
        }
    }

    /// Gives the connection up, so that it can be offered to the newest process. What is [`unread`](Stream::unread) is not
    /// taken along: it belongs into the blob. Fails where the socket cannot be taken out of the runtime.
    pub fn into_connection(self, formats: impl Into<Formats>, blob: Vec<u8>) -> io::Result<Connection> {
        let fd = match self.socket {
            Socket::Tcp(stream) => stream.into_std()?.into(),
            Socket::Unix(stream) => stream.into_std()?.into(),
        };
        Ok(Connection::new(formats, fd, blob, self.guard))
    }

    /// Gives out what was put back, if there is room for it.
    fn read_unread(&mut self, into: &mut ReadBuf<'_>) -> bool {
        if self.unread().is_empty() || into.remaining() == 0 {
            return false;
        }
        let count = self.unread().len().min(into.remaining());
        into.put_slice(&self.unread[self.read..self.read + count]);
        self.read += count;
        if self.unread().is_empty() {
            (self.unread, self.read) = (Vec::new(), 0);
        }
        true
    }
}

impl AsFd for Stream {
    /// The socket itself.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read_unread(into) {
            return Poll::Ready(Ok(()));
        }
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(context, into),
            Socket::Unix(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing is kept here: what was written is the kernel's.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use ::tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::drain::Drain;

    fn pair(drain: &Drain) -> (Stream, std::os::unix::net::UnixStream) {
        let (server, client) = std::os::unix::net::UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let connection = Connection::new(["x/1"], server.into(), vec![], drain.guard());
        (Stream::take_up(connection).unwrap().0, client)
    }

    #[::tokio::test]
    async fn what_is_put_back_is_read_first_and_in_order() {
        let drain = Drain::new();
        let (mut stream, mut client) = pair(&drain);
        std::io::Write::write_all(&mut client, b"ef").unwrap();
        stream.put_back(b"cd");
        let mut one = [0];
        stream.read_exact(&mut one).await.unwrap();
        stream.put_back(&one);
        stream.put_back(b"ab");
        assert_eq!(stream.unread(), b"abcd");
        let mut all = [0; 6];
        stream.read_exact(&mut all).await.unwrap();
        assert_eq!((&all, stream.unread()), (b"abcdef", &b""[..]));
    }

    #[::tokio::test]
    async fn a_stream_counts_as_live_until_it_is_dropped_also_where_it_was_given_up() {
        let drain = Drain::new();
        let (mut stream, client) = pair(&drain);
        assert_eq!(drain.live(), 1);
        stream.write_all(b"x").await.unwrap();
        let connection = stream.into_connection(["x/1"], b"blob".to_vec()).unwrap();
        let (stream, blob) = Stream::take_up(connection).unwrap();
        assert_eq!((drain.live(), &*blob, stream.peer()), (1, &b"blob"[..], &Address::UnixUnnamed));
        drop((stream, client));
        assert_eq!(drain.live(), 0);
    }
}
