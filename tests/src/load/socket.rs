//! One non-blocking client socket, TCP or Unix, plain or with TLS: connect, send, receive, and a look at what has arrived
//! without taking it. It owns the fd and knows nothing of HTTP; every error of the kernel reaches the caller as it is.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
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

use super::{Target, secured::Secured};

/// How much is taken from the kernel at once.
const RECEIVE_BYTES: usize = 16 * 1024;

/// How long to wait before a full Unix backlog is tried again: such a socket can't be polled for its turn.
const UNIX_BACKLOG_PAUSE: Duration = Duration::from_millis(1);

/// What a look at an idle connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Open, and nothing has arrived.
    Open,
    /// The server sent FIN; over TLS, its word that nothing more will come.
    Fin,
    /// The server reset the connection; over TLS, ended it without a word.
    Reset,
    /// This many bytes have arrived.
    Bytes(usize),
}

/// A connected stream socket.
pub(super) struct Socket {
    io: Async<OwnedFd>,
    /// Locked for no longer than a call that does not block takes.
    tls: Option<Mutex<Secured>>,
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
            Target::Tcp(SocketAddr::V4(_)) | Target::Tls(SocketAddr::V4(_)) => AddressFamily::INET,
            Target::Tcp(SocketAddr::V6(_)) | Target::Tls(SocketAddr::V6(_)) => AddressFamily::INET6,
            Target::Unix(_) | Target::Abstract(_) => AddressFamily::UNIX,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(family, SocketType::STREAM, flags, None)?;
        if let Some(bytes) = receive_bytes {
            sockopt::set_socket_recv_buffer_size(&fd, bytes)?;
        }
        let address: SocketAddrAny = match target {
            Target::Tcp(address) | Target::Tls(address) => {
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
        let tls = matches!(target, Target::Tls(_)).then(|| Mutex::new(Secured::new()));
        let socket = Self { io, tls };
        socket.shake_hands().await?;
        Ok(socket)
    }

    async fn shake_hands(&self) -> io::Result<()> {
        let Some(tls) = &self.tls else { return Ok(()) };
        while !lock(tls).is_established() {
            self.io.write_with(|fd| lock(tls).flush(fd.as_fd())).await?;
            if !lock(tls).is_established() {
                self.io.read_with(|fd| lock(tls).pull(fd.as_fd())).await?;
            }
        }
        Secured::count_handshake();
        Ok(())
    }

    /// Sends all of it.
    pub(super) async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = match &self.tls {
                None => self.io.write_with(|fd| Ok(send(fd, bytes, SendFlags::NOSIGNAL)?)).await?,
                Some(tls) => self.io.write_with(|fd| lock(tls).send(fd.as_fd(), bytes)).await?,
            };
            bytes = &bytes[sent..];
        }
        match &self.tls {
            None => Ok(()),
            Some(tls) => self.io.write_with(|fd| lock(tls).flush(fd.as_fd())).await,
        }
    }

    /// Appends what has arrived, waiting for it; 0 is the end of the stream.
    pub(super) async fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        if let Some(tls) = &self.tls {
            return self.io.read_with(|fd| lock(tls).receive(fd.as_fd(), buffer)).await;
        }
        buffer.reserve(RECEIVE_BYTES);
        self.io.read_with(|fd| Ok(recv(fd, spare_capacity(buffer), RecvFlags::empty())?.1)).await
    }

    /// Says no more; what the server still sends can be received.
    pub(super) fn finish(&self) -> io::Result<()> {
        if let Some(tls) = &self.tls {
            lock(tls).finish(self.io.as_fd())?;
        }
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
        if let Some(tls) = &self.tls {
            return lock(tls).look(self.io.as_fd());
        }
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

fn lock(tls: &Mutex<Secured>) -> MutexGuard<'_, Secured> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Whether an error of a connected socket says that the peer reset it, or ended TLS without a word.
pub(super) fn is_reset(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
        || matches!(
            Errno::from_io_error(error),
            Some(Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED | Errno::NOTCONN)
        )
}
