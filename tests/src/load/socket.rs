//! One non-blocking client socket, TCP or Unix: connect, send, receive, and a look at what has arrived without taking
//! it. It owns the fd and knows nothing of HTTP; every error of the kernel reaches the caller as it is.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::{
    buffer::spare_capacity,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, bind, connect,
        recv, send, socket_with, sockopt,
    },
};
use smol::{Async, Timer};

use super::Target;

/// How much is taken from the kernel at once.
const RECEIVE_BYTES: usize = 16 * 1024;

/// How long to wait before a full Unix backlog is tried again: such a socket can't be polled for its turn.
const UNIX_BACKLOG_PAUSE: Duration = Duration::from_millis(1);

/// What a look at an idle connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Open, and nothing has arrived.
    Open,
    /// The server sent FIN.
    Fin,
    /// The server reset the connection.
    Reset,
    /// This many bytes have arrived.
    Bytes(usize),
}

/// A connected stream socket.
pub(super) struct Socket {
    io: Async<OwnedFd>,
}

impl Socket {
    /// Connects, from the given source address if there is one. The caller holds the deadline.
    pub(super) async fn connect(target: &Target, source: Option<IpAddr>) -> io::Result<Self> {
        Self::connect_buffered(target, source, None).await
    }

    /// The same, with a receive buffer of about so many bytes: what a client does not read stays with the server.
    pub(super) async fn connect_buffered(
        target: &Target,
        source: Option<IpAddr>,
        receive_bytes: Option<usize>,
    ) -> io::Result<Self> {
        let family = match target {
            Target::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
            Target::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
            Target::Unix(_) | Target::Abstract(_) => AddressFamily::UNIX,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(family, SocketType::STREAM, flags, None)?;
        if let Some(bytes) = receive_bytes {
            sockopt::set_socket_recv_buffer_size(&fd, bytes)?;
        }
        let address: SocketAddrAny = match target {
            Target::Tcp(address) => {
                sockopt::set_tcp_nodelay(&fd, true)?;
                if let Some(source) = source {
                    bind(&fd, &SocketAddr::new(source, 0))?;
                }
                (*address).into()
            }
            Target::Unix(path) => SocketAddrUnix::new(path)?.into(),
            Target::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?.into(),
        };
        let io = Async::new_nonblocking(fd)?;
        loop {
            match connect(&io, &address) {
                Ok(()) => break,
                Err(Errno::INPROGRESS) => {
                    io.writable().await?;
                    sockopt::socket_error(&io)??;
                    break;
                }
                Err(Errno::AGAIN) if family == AddressFamily::UNIX => {
                    Timer::after(UNIX_BACKLOG_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { io })
    }

    /// Sends all of it.
    pub(super) async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = self.io.write_with(|fd| Ok(send(fd, bytes, SendFlags::NOSIGNAL)?)).await?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Appends what has arrived, waiting for it; 0 is the end of the stream.
    pub(super) async fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        buffer.reserve(RECEIVE_BYTES);
        self.io.read_with(|fd| Ok(recv(fd, spare_capacity(buffer), RecvFlags::empty())?.1)).await
    }

    /// Says no more; what the server still sends can be received.
    pub(super) fn finish(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&self.io, rustix::net::Shutdown::Write)?)
    }

    /// Makes the close of this socket a reset.
    pub(super) fn reset_at_close(&self) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(&self.io, Some(Duration::ZERO))?)
    }

    /// Waits until something has happened to the socket: bytes, FIN or a reset.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.io.readable().await
    }

    /// What has arrived, without taking it and without waiting.
    pub(super) fn look(&self) -> Look {
        let mut bytes = [0; 4096];
        match recv(&self.io, &mut bytes[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Look::Fin,
            Ok((_, n)) => Look::Bytes(n),
            Err(Errno::AGAIN | Errno::INTR) => Look::Open,
            Err(_) => Look::Reset,
        }
    }

    /// The client's own TCP port, which tells one connection from another in a trace.
    pub(super) fn port(&self) -> Option<u16> {
        let address = rustix::net::getsockname(&self.io).ok()?;
        SocketAddr::try_from(address).ok().map(|address| address.port())
    }
}

/// Whether an error of `connect` says that nobody listens.
pub(super) fn is_refused(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNREFUSED | Errno::CONNRESET | Errno::NOENT | Errno::PIPE | Errno::HOSTUNREACH | Errno::NETUNREACH
        )
    )
}

/// Whether an error of a connected socket says that the peer reset it.
pub(super) fn is_reset(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED | Errno::NOTCONN))
}
