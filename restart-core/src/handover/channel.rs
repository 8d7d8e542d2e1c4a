//! One end of a socket between two generations: messages and the descriptors that come with them.
//!
//! Sending borrows descriptors, receiving owns them, close-on-exec from birth. What arrives and cannot be read is told
//! from an end that is closed and from a socket that fails. It knows the packet's bounds and nothing of the order in
//! which messages make sense.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use async_io::{Async, Timer};
use rustix::event::epoll;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use zeroize::{Zeroize, Zeroizing};

use super::codec::{FDS_PER_MESSAGE_MAX, MESSAGE_BYTES_MAX};
use super::wire::Message;
use crate::error::Error;
use crate::lock::lock;
use crate::sys;

/// The application's state may be this long.
pub(crate) const STATE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// How long to wait where the kernel has no room for more descriptors in flight; nothing tells when it has.
pub(crate) const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(1);

/// One end of a socket between two generations.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: Async<OwnedFd>,
    /// Where packets arrive, with room for the longest. It is made when one is first waited for.
    room: Mutex<Vec<u8>>,
}

/// A message and the descriptors that came with it: as many as belong to it, or more.
pub(crate) struct Received {
    pub(crate) message: Message,
    /// The bytes behind the message, which may hold an application's secrets.
    pub(crate) tail: Zeroizing<Vec<u8>>,
    pub(crate) fds: Vec<OwnedFd>,
    /// More descriptors were sent than this process had room for. Only connections may come so.
    pub(crate) truncated: bool,
}

impl fmt::Debug for Received {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Received").field("message", &self.message).field("fds", &self.fds).finish_non_exhaustive()
    }
}

/// What comes out of a socket. That one fails is an error; these are not.
#[derive(Debug)]
pub(crate) enum Heard {
    Message(Received),
    /// Something that cannot be read, or without the descriptors that belong to it. Those that came are closed. What
    /// comes next has nothing to do with it.
    Unreadable(Error),
    /// Every other end is closed, and all that was sent has been read.
    Closed,
}

impl Channel {
    /// Makes a socket pair: our end, and the end for somebody else.
    pub(crate) fn pair() -> io::Result<(Channel, OwnedFd)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Channel::adopt(ours)?, theirs))
    }

    /// Takes over an end that came from elsewhere.
    pub(crate) fn adopt(socket: OwnedFd) -> io::Result<Channel> {
        Ok(Channel { socket: Async::new(socket)?, room: Mutex::default() })
    }

    /// Sends a message, waiting for room in the socket, and for room for its descriptors among those that the kernel allows
    /// a user to have in flight (`unix(7)`, ETOOMANYREFS).
    pub(crate) async fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let packet = message.encode(&[])?;
        let failed = |error| Error::handover_io(format!("cannot send {}", message.kind()), error);
        loop {
            match send_packet(self.socket.get_ref(), &packet, fds) {
                Err(Errno::AGAIN) => self.socket.writable().await.map_err(failed)?,
                Err(Errno::TOOMANYREFS) => drop(Timer::after(IN_FLIGHT_PAUSE).await),
                result => return result.map_err(|error| failed(error.into())),
            }
        }
    }

    /// Sends a message if there is room for it now.
    pub(crate) fn try_send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.try_send_with_tail(message, &[], fds)
    }

    /// Sends a message with bytes behind it, if there is room for it now.
    pub(crate) fn try_send_with_tail(
        &self,
        message: &Message,
        tail: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        send_packet(self.socket.get_ref(), &Zeroizing::new(message.encode(tail)?), fds)
            .map_err(|error| Error::handover_io(format!("cannot send {}", message.kind()), error))
    }

    /// Lets the other side say nothing more: what it sends from now on fails there with EPIPE. What is queued can still
    /// be received, and then this end looks closed.
    pub(crate) fn deafen(&self) {
        // A socket pair's end can always be shut down.
        let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Read);
    }

    /// Waits until every other end is closed: what an end that has been made deaf can't learn by receiving.
    pub(crate) async fn hung_up(&self) -> io::Result<()> {
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // A hang-up is reported although nothing is asked for; all else that a deaf socket says would come at once.
        epoll::add(&watch, self.socket.get_ref(), epoll::EventData::new_u64(0), epoll::EventFlags::empty())?;
        Async::new(watch)?.readable().await
    }

    /// Waits until there is something to receive, or never will be.
    pub(crate) async fn arrival(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Waits for what comes next. Nothing is lost where the future is dropped. Fails where the socket itself does.
    pub(crate) async fn receive(&self) -> Result<Heard, Error> {
        let failed = |error| Error::handover_io("cannot receive", error);
        loop {
            let received = {
                let mut room = lock(&self.room);
                room.resize(MESSAGE_BYTES_MAX, 0);
                receive_packet(self.socket.get_ref(), &mut room)
            };
            match received {
                Err(Errno::AGAIN) => self.socket.readable().await.map_err(failed)?,
                // The peer closed with something of ours unread. What it sent before is still to be read.
                Err(Errno::CONNRESET | Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
                Ok(None) => return Ok(Heard::Closed),
                Ok(Some(packet)) => return Ok(packet.into_message().map_or_else(Heard::Unreadable, Heard::Message)),
            }
        }
    }

    /// The same where nothing can be passed over: what cannot be read is an error. `None` at the end.
    pub(crate) async fn receive_readable(&self) -> Result<Option<Received>, Error> {
        match self.receive().await? {
            Heard::Message(received) => Ok(Some(received)),
            Heard::Unreadable(error) => Err(error),
            Heard::Closed => Ok(None),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

fn send_packet(socket: &OwnedFd, packet: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    assert!(fds.len() <= FDS_PER_MESSAGE_MAX, "callers split what they send");
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(fds));
        assert!(fits, "the space was made for so many");
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut ancillary, flags).map(drop)
}

struct Packet {
    bytes: Zeroizing<Vec<u8>>,
    fds: Vec<OwnedFd>,
    flags: ReturnFlags,
}

impl Packet {
    fn into_message(self) -> Result<Received, Error> {
        if self.flags.contains(ReturnFlags::TRUNC) {
            return Err(Error::handover(format!("a message is longer than the {MESSAGE_BYTES_MAX} bytes allowed")));
        }
        let (message, tail) = Message::decode(&self.bytes)?;
        let truncated = self.flags.contains(ReturnFlags::CTRUNC);
        let (got, due) = (self.fds.len(), message.descriptors());
        if got < due {
            let kind = message.kind();
            let why = if truncated {
                ": this process has no room for more; raise its limit of open files (RLIMIT_NOFILE, LimitNOFILE=)"
            } else {
                ""
            };
            return Err(Error::handover(format!("{kind} came with {got} of its {due} descriptors{why}")));
        }
        Ok(Received { message, tail: Zeroizing::new(tail.to_vec()), fds: self.fds, truncated })
    }
}

fn receive_packet(socket: &OwnedFd, room: &mut [u8]) -> rustix::io::Result<Option<Packet>> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(room)], &mut ancillary, flags)?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    // Nobody sends an empty packet, so nothing at all means that the other ends are closed.
    if received.bytes == 0 && fds.is_empty() {
        return Ok(None);
    }
    let bytes = Zeroizing::new(room[..received.bytes].to_vec());
    // It may hold an application's secrets, and the room lasts.
    room[..received.bytes].zeroize();
    Ok(Some(Packet { bytes, fds, flags: received.flags }))
}

/// Whether a descriptor is a handover socket of our own user: a Unix `SOCK_SEQPACKET` socket made by our uid.
pub(crate) fn is_handover_socket(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    let of_kind = || -> io::Result<bool> {
        Ok(rustix::net::sockopt::socket_domain(fd)? == AddressFamily::UNIX
            && rustix::net::sockopt::socket_type(fd)? == SocketType::SEQPACKET
            && sys::peer_uid(fd)? == rustix::process::geteuid().as_raw())
    };
    of_kind().unwrap_or(false)
}

/// Moves standard input to a close-on-exec descriptor and puts `/dev/null` in its place.
pub(crate) fn adopt_stdin() -> io::Result<OwnedFd> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(socket)
}

/// Puts the application's state into a sealed memfd.
pub(crate) fn state_memfd(bytes: &[u8]) -> Result<OwnedFd, Error> {
    let length = bytes.len() as u64;
    if length > STATE_BYTES_MAX {
        return Err(Error::handover(format!(
            "the application's state has {length} bytes, and {STATE_BYTES_MAX} are allowed"
        )));
    }
    let make = || -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // With vm.memfd_noexec=2 the kernel makes no other; before Linux 6.3 it does not know the flag.
        let memfd = match rustix::fs::memfd_create("reborn-state", flags | MemfdFlags::NOEXEC_SEAL) {
            Err(Errno::INVAL) => rustix::fs::memfd_create("reborn-state", flags)?,
            made => made?,
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = rustix::io::write(&memfd, rest)?;
            rest = &rest[written..];
        }
        rustix::fs::fcntl_add_seals(&memfd, SEALS)?;
        Ok(memfd)
    };
    make().map_err(|error| Error::handover_io("cannot put the application's state into a memfd", error))
}

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// Reads a state back. The memfd must be sealed, and as long as was said.
pub(crate) fn receive_state(memfd: &OwnedFd, length: u64) -> Result<Vec<u8>, Error> {
    let failed = |error: Errno| Error::handover_io("cannot read the application's state", error);
    let seals = rustix::fs::fcntl_get_seals(memfd).map_err(failed)?;
    let size = rustix::fs::fstat(memfd).map_err(failed)?.st_size.cast_unsigned();
    if !seals.contains(SEALS) || size != length || length > STATE_BYTES_MAX {
        return Err(Error::handover(format!(
            "the application's state is not what was announced: {length} bytes announced, {size} given, seals {seals:?}"
        )));
    }
    let length = usize::try_from(length).map_err(|_| Error::handover("the application's state does not fit"))?;
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match rustix::io::pread(memfd, &mut bytes[filled..], filled as u64).map_err(failed)? {
            0 => return Err(Error::handover("the application's state ends early")),
            read => filled += read,
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use async_io::block_on;

    use super::super::wire::Hello;
    use super::*;

    fn pair() -> (Channel, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        (ours, Channel::adopt(theirs).unwrap())
    }

    #[test]
    fn messages_and_descriptors_arrive_in_order() {
        let (ours, theirs) = pair();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        block_on(async {
            ours.send(&Message::Ping, &[reader.as_fd(), writer.as_fd()]).await.unwrap();
            ours.send(&Message::Pong, &[]).await.unwrap();
            let first = theirs.receive_readable().await.unwrap().unwrap();
            assert_eq!((first.message, first.fds.len()), (Message::Ping, 2));
            for fd in &first.fds {
                assert_eq!(rustix::io::fcntl_getfd(fd).unwrap(), rustix::io::FdFlags::CLOEXEC);
            }
            assert_eq!(theirs.receive_readable().await.unwrap().unwrap().message, Message::Pong);
        });
    }

    #[test]
    fn what_cannot_be_read_is_passed_over_and_its_descriptors_are_closed() {
        let (ours, theirs) = pair();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let hello = Message::Hello(Hello::new(1, "", BTreeSet::new()));
        block_on(async {
            send_packet(ours.socket.get_ref(), b"noise", &[writer.as_fd()]).unwrap();
            ours.send(&hello, &[]).await.unwrap();
            ours.send(&Message::Pong, &[]).await.unwrap();
            drop(writer);
            assert!(matches!(theirs.receive().await.unwrap(), Heard::Unreadable(_)));
            assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 0, "nobody holds the other end");
            let Heard::Unreadable(error) = theirs.receive().await.unwrap() else { panic!("it needs a descriptor") };
            assert!(error.to_string().contains("Hello came with 0 of its 1 descriptors"), "{error}");
            assert_eq!(theirs.receive_readable().await.unwrap().unwrap().message, Message::Pong);
        });
    }

    #[test]
    fn what_was_sent_before_the_peer_died_still_counts() {
        let (ours, theirs) = pair();
        block_on(async {
            // Unread data at the peer's close makes our next read fail with ECONNRESET first.
            ours.send(&Message::Ping, &[]).await.unwrap();
            theirs.send(&Message::Pong, &[]).await.unwrap();
            drop(theirs);
            assert_eq!(ours.receive_readable().await.unwrap().unwrap().message, Message::Pong);
            assert!(matches!(ours.receive().await.unwrap(), Heard::Closed));
        });
    }

    #[test]
    fn only_a_sequenced_packet_socket_of_our_own_is_a_handover_socket() {
        let (ours, _theirs) = Channel::pair().unwrap();
        assert!(is_handover_socket(&ours));
        let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!is_handover_socket(&stream));
        assert!(!is_handover_socket(std::fs::File::open("/dev/null").unwrap()));
    }

    #[test]
    fn a_state_arrives_whole_or_not_at_all() {
        for length in [0, 1, 8 * 1024 * 1024] {
            let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
            let memfd = state_memfd(&bytes).unwrap();
            assert!(receive_state(&memfd, length as u64).unwrap() == bytes);
            assert!(receive_state(&memfd, length as u64 + 1).unwrap_err().is_handover());
        }
        let unsealed = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        assert!(receive_state(&unsealed, 0).unwrap_err().is_handover());
    }
}
