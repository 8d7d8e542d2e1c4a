//! A connection's socket: receiving and sending without waiting, and waiting for either.
//!
//! A receive that brings less than there was room for has emptied the socket, so that the next one waits for a report
//! instead of failing first. Not so where it stopped early: at urgent data, of which the poller learns, and behind bytes
//! that descriptors came with, which only a Unix socket can carry. It knows nothing of what the bytes mean.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, Shutdown, connect_unspec, recv,
    recvmsg, send, sendmsg, shutdown,
};

use crate::threads::poller::Registration;

#[derive(Debug)]
pub(crate) struct Socket {
    // Dropped first: the entry ends before the descriptor is closed.
    source: Registration,
    fd: OwnedFd,
    /// Whether it may be a Unix socket.
    may_carry_descriptors: bool,
}

impl Socket {
    /// A connected stream socket, for which the poller that this thread uses has a place.
    pub(crate) fn new(fd: OwnedFd, may_carry_descriptors: bool) -> io::Result<Socket> {
        Ok(Socket { source: Registration::new()?, fd, may_carry_descriptors })
    }

    /// The descriptor, which no poller knows any more.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        self.source.leave(&self.fd)?;
        Ok(self.fd)
    }

    /// Whether something was reported that is to be read. A socket for which nobody has waited yet is reported by nobody.
    pub(crate) fn is_readable(&self) -> bool {
        self.source.is_readable()
    }

    /// Waits until the socket can be read.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.watched(self.source.poll_readable(context))
    }

    /// Waits until the socket can be written to.
    pub(crate) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.watched(self.source.poll_writable(context))
    }

    /// Waits until nobody is at the other end.
    pub(crate) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        self.watched(self.source.poll_gone(context))
    }

    /// Has the poller watch the socket, where somebody waits. One that cannot be watched is closed.
    fn watched(&self, polled: Poll<()>) -> Poll<()> {
        if polled.is_pending()
            && let Err(error) = self.source.watch(&self.fd)
        {
            log::warn!("cannot watch an accepted connection: {error}; it is closed");
            self.shut_down(Shutdown::Both);
        }
        polled
    }

    /// Receives once into `room`. Returns the number of bytes, 0 at the end of the stream.
    pub(crate) fn receive(&self, room: &mut [u8]) -> io::Result<usize> {
        let before = self.source.before();
        let received = if self.may_carry_descriptors { self.receive_message(room) } else { self.receive_bytes(room) };
        match received {
            Err(Errno::AGAIN) => self.source.emptied(before),
            Ok((count, false)) if count < room.len() => self.source.fell_short(before),
            Ok(_) | Err(_) => {}
        }
        Ok(received?.0)
    }

    /// Receives bytes, and never with anything beside them.
    fn receive_bytes(&self, room: &mut [u8]) -> Result<(usize, bool), Errno> {
        retry_on_intr(|| recv(&self.fd, &mut *room, RecvFlags::DONTWAIT)).map(|(count, _)| (count, false))
    }

    /// Receives bytes, and says whether descriptors came with them. There is no room for any: the kernel closes them.
    fn receive_message(&self, room: &mut [u8]) -> Result<(usize, bool), Errno> {
        let message = retry_on_intr(|| {
            let mut buffers = [IoSliceMut::new(&mut *room)];
            recvmsg(&self.fd, &mut buffers, &mut RecvAncillaryBuffer::default(), RecvFlags::DONTWAIT)
        })?;
        Ok((message.bytes, message.flags.contains(ReturnFlags::CTRUNC)))
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

    /// Ends the connection so that the client sees that it was cut. A Unix socket has no such end, and is shut down.
    pub(crate) fn reset(&self) {
        if connect_unspec(&self.fd).is_err() {
            self.shut_down(Shutdown::Both);
        }
    }

    /// Says to the client that nothing more comes, or ends both directions. It fails only where the connection is gone.
    pub(crate) fn shut_down(&self, how: Shutdown) {
        let _ = shutdown(&self.fd, how);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use futures_lite::future::{block_on, poll_once};
    use rustix::net::SendAncillaryMessage;

    use super::*;
    use crate::threads::poller::Poller;

    /// Receives until nothing more is to be expected, as a connection does that was woken once for all that is there.
    fn received_after_one_report(fd: OwnedFd, local: bool) -> Vec<u8> {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let poller = Poller::new().expect("a poller");
            poller.adopt_thread();
            let socket = Socket::new(fd, local).expect("a place");
            assert!(block_on(poll_once(poll_fn(|context| socket.poll_readable(context)))).is_none());
            poller.wait(|| true);
            let (mut all, mut room) = (Vec::new(), [0; 100]);
            while block_on(poll_once(poll_fn(|context| socket.poll_readable(context)))).is_some() {
                match socket.receive(&mut room) {
                    Ok(count) => all.extend_from_slice(&room[..count]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            sender.send(all)
        });
        receiver.recv_timeout(Duration::from_secs(20)).expect("it ends")
    }

    #[test]
    fn whoever_waits_for_what_cannot_be_watched_is_told_that_it_is_gone() {
        // Like a full table of what may be watched: epoll takes no plain file.
        let file = tempfile::tempfile().expect("a file");
        let poller = Poller::new().expect("a poller");
        poller.adopt_thread();
        let socket = Socket::new(file.into(), false).expect("a place");
        let is_gone = || block_on(poll_once(poll_fn(|context| socket.poll_gone(context)))).is_some();
        assert!(!is_gone(), "it is tried by whoever waits first");
        assert!(is_gone());
        assert!(block_on(poll_once(poll_fn(|context| socket.poll_readable(context)))).is_some());
        assert!(socket.receive(&mut [0; 9]).is_err());
        assert!(socket.into_fd().is_ok(), "and it has no entry to be taken out");
    }

    #[test]
    fn what_comes_behind_urgent_data_is_received() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (stream, _) = listener.accept().expect("the connection");
        client.write_all(b"before").expect("room");
        send(&client, b"!", SendFlags::OOB).expect("room");
        client.write_all(b"behind").expect("room");
        let mut seen = [0; 100];
        let mut urgent = rustix::event::PollFd::new(&stream, rustix::event::PollFlags::PRI);
        rustix::event::poll(std::slice::from_mut(&mut urgent), None).expect("it comes");
        while stream.peek(&mut seen).expect("a socket") < b"before".len() {}
        assert_eq!(received_after_one_report(stream.into(), false), b"beforebehind", "the urgent byte stands apart");
    }

    #[test]
    fn what_comes_behind_bytes_with_descriptors_is_received() {
        let (mut client, stream) = UnixStream::pair().expect("a pair");
        let (given, mut kept) = UnixStream::pair().expect("a pair");
        let descriptors = [given.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(&client, &[IoSlice::new(b"with")], &mut control, SendFlags::empty()).expect("room");
        client.write_all(b"behind").expect("room");
        assert_eq!(received_after_one_report(stream.into(), true), b"withbehind");
        drop(given);
        assert_eq!(kept.read(&mut [0]).expect("a socket"), 0, "nobody keeps what was given");
    }
}
