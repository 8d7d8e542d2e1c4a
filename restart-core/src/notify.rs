//! What the service manager is told, and when (`sd_notify(3)`).
//!
//! The fields are the sd-notify crate's; this module owns their grouping and sends them itself, since that crate waits for
//! room: a service manager that reads nothing (a stopped PID 1) must never block the event loop. What is only news is left
//! out then; what a reload depends on is tried again until a deadline. It decides nothing about a reload.

use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::Timer;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use sd_notify::NotifyState;

use crate::environment::Environment;
use crate::error::Error;

/// How long the service manager may take until there is room for the announcement.
const ROOM_DEADLINE: Duration = Duration::from_secs(5);
/// And for the barrier, which nobody waits for but a process that has been replaced: it must not end before the service
/// manager knows.
const BARRIER_ROOM_DEADLINE: Duration = Duration::from_secs(30);
/// How long to wait before a message is tried again for which there was no room.
const ROOM_PAUSE: Duration = Duration::from_millis(20);

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Notifier {
    manager: Option<Arc<NotifySocket>>,
    watchdog: Option<Duration>,
}

impl Notifier {
    pub(crate) fn new(environment: &Environment) -> Result<Notifier, Error> {
        let Some(path) = &environment.notify_socket else {
            return Ok(Notifier { manager: None, watchdog: None });
        };
        let manager = NotifySocket::new(path.as_bytes()).map_err(|error| {
            Error::system(format!("cannot reach the service manager at NOTIFY_SOCKET={}", path.display()), error)
        })?;
        // Half of the interval, as sd_watchdog_enabled(3) recommends.
        let watchdog = environment.watchdog_usec.filter(|&usec| usec > 0).map(|usec| Duration::from_micros(usec / 2));
        Ok(Notifier { manager: Some(Arc::new(manager)), watchdog })
    }

    /// Whether a service manager follows this process.
    pub(crate) fn managed(&self) -> bool {
        self.manager.is_some()
    }

    /// How often the watchdog has to be fed.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    pub(crate) fn ready(&self, status: &str) {
        self.send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    /// The first words of a new main process: a watchdog that is fed at once, and how things are.
    pub(crate) fn took_over(&self, status: &str) {
        let status = one_line(status);
        let mut states = vec![NotifyState::Status(&status)];
        if self.watchdog.is_some() {
            states.push(NotifyState::Watchdog);
        }
        self.send(&states);
    }

    /// Brings the status line up to date.
    pub(crate) fn status(&self, status: &str) {
        self.send(&[NotifyState::Status(&one_line(status))]);
    }

    /// `within`: how long the reload may take by our own deadlines.
    pub(crate) fn reloading(&self, status: &str, within: Duration) {
        let (extend, status) = (extension(within), one_line(status));
        match NotifyState::monotonic_usec_now() {
            Ok(now) => {
                self.send(&[NotifyState::Reloading, now, NotifyState::Status(&status), NotifyState::Custom(&extend)]);
            }
            Err(error) => log::warn!("cannot tell the service manager of the reload: {error}"),
        }
    }

    /// `within`: how long the stop may take by our own deadlines.
    pub(crate) fn stopping(&self, status: &str, within: Duration) {
        let (extend, status) = (extension(within), one_line(status));
        self.send(&[NotifyState::Stopping, NotifyState::Status(&status), NotifyState::Custom(&extend)]);
    }

    /// Leaves a copy of a socket in the service manager's store, under the name by which it comes back in
    /// LISTEN_FDNAMES. A store without room refuses it silently.
    pub(crate) fn store(&self, name: &str, socket: BorrowedFd<'_>) {
        let Some(manager) = &self.manager else { return };
        if let Err(error) = manager.send(&[NotifyState::FdStore, NotifyState::FdName(name)], Some(socket)) {
            log::warn!("the service manager was not given a copy of the listener {name:?}: {error}");
        }
    }

    /// Takes the copy of a socket out of the service manager's store.
    pub(crate) fn unstore(&self, name: &str) {
        self.send(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }

    pub(crate) fn feed_watchdog(&self) {
        if self.watchdog.is_some() {
            self.send(&[NotifyState::Watchdog]);
        }
    }

    /// Names the new main process, in one datagram with all that the old one still has to say. Waits for room for 5 s
    /// at the most. Its success cannot be taken back.
    pub(crate) async fn announce(&self, pid: u32, status: &str) -> Result<(), Error> {
        let Some(manager) = &self.manager else { return Ok(()) };
        let status = one_line(status);
        let mut states = vec![NotifyState::MainPid(pid), NotifyState::Ready, NotifyState::Status(&status)];
        if self.watchdog.is_some() {
            states.push(NotifyState::Watchdog);
        }
        let sent = manager.send_within(ROOM_DEADLINE, &states, None).await;
        sent.map_err(|error| Error::system("cannot tell the service manager of the new main process", error))
    }

    /// Sends a barrier, as soon as there is room, for 30 s at the most; the pipe hangs up when the service manager has read
    /// all that was sent before it. Not bound to this value: whoever waits need not be who sends other messages.
    pub(crate) fn barrier(&self) -> impl Future<Output = Result<OwnedFd, Error>> + Send + use<> {
        let manager = self.manager.clone();
        let send = async move || -> io::Result<OwnedFd> {
            let manager = manager.ok_or(io::ErrorKind::NotConnected)?;
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            manager
                .send_within(BARRIER_ROOM_DEADLINE, &[NotifyState::Custom("BARRIER=1")], Some(writer.as_fd()))
                .await?;
            Ok(reader)
        };
        async move { send().await.map_err(|error| Error::system("cannot send a barrier to the service manager", error)) }
    }

    /// Sends what is news, not more: where there is no room it is left out, and the log says so.
    fn send(&self, states: &[NotifyState]) {
        if let Some(manager) = &self.manager
            && let Err(error) = manager.send(states, None)
        {
            log::warn!("the service manager was not told {:?}: {error}", states.first().map(ToString::to_string));
        }
    }
}

/// The service manager's address, and a socket that sends to it without ever waiting.
#[derive(Debug)]
struct NotifySocket {
    socket: OwnedFd,
    address: SocketAddrUnix,
}

impl NotifySocket {
    /// Fails where nobody is there.
    fn new(path: &[u8]) -> io::Result<NotifySocket> {
        let address = match path.strip_prefix(b"@") {
            Some(name) => SocketAddrUnix::new_abstract_name(name)?,
            None => SocketAddrUnix::new(path)?,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = || rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None);
        rustix::net::connect(socket()?, &address)?;
        // Not connected itself: a service manager that was replaced meanwhile is found at the same address.
        Ok(NotifySocket { socket: socket()?, address })
    }

    fn send(&self, states: &[NotifyState], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let lines = states.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n") + "\n";
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("no room for its descriptor"));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let line = [IoSlice::new(lines.as_bytes())];
        match rustix::net::sendmsg_addr(&self.socket, &self.address, &line, &mut control, flags) {
            Ok(_) => Ok(()),
            Err(Errno::AGAIN) => Err(io::Error::new(io::ErrorKind::WouldBlock, "it reads no messages")),
            Err(error) => Err(error.into()),
        }
    }

    /// Tries again while there is no room.
    async fn send_within(
        &self,
        deadline: Duration,
        states: &[NotifyState<'_>],
        fd: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let end = Instant::now() + deadline;
        loop {
            match self.send(states, fd) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                    Timer::after(ROOM_PAUSE).await;
                }
                result => return result,
            }
        }
    }
}

/// The service manager's own timeouts may be shorter than ours (`sd_notify(3)`, EXTEND_TIMEOUT_USEC).
fn extension(within: Duration) -> String {
    format!("EXTEND_TIMEOUT_USEC={}", within.as_micros())
}

/// A line feed in a status would begin another field.
fn one_line(text: &str) -> String {
    text.replace(|character: char| character.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::path::Path;
    use std::sync::mpsc;

    use async_io::block_on;
    use futures_lite::future::poll_once;

    use super::*;

    #[test]
    fn a_status_cannot_smuggle_another_field_in() {
        assert_eq!(one_line("failed:\nMAINPID=1\0"), "failed: MAINPID=1 ");
    }

    fn notifier(path: &Path) -> Notifier {
        let environment = Environment { notify_socket: Some(path.into()), ..Environment::read().unwrap() };
        Notifier::new(&environment).unwrap()
    }

    #[test]
    fn a_service_manager_that_reads_nothing_blocks_nobody_and_gets_its_barrier_when_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        while filler.send_to(b"x", &path).is_ok() {}
        let notifier = notifier(&path);
        let (sent, is_sent) = mpsc::channel();
        std::thread::spawn(move || {
            notifier.status("nobody reads this");
            let mut barrier = Box::pin(notifier.barrier());
            sent.send(block_on(poll_once(&mut barrier)).is_none()).unwrap();
            let reader = block_on(barrier).unwrap();
            assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 0, "it hangs up once it is read");
            sent.send(true).unwrap();
        });
        let within = Duration::from_secs(30);
        assert!(is_sent.recv_timeout(within).unwrap(), "it waits, and blocks nobody");
        let mut message = [0; 64];
        let mut read = || {
            let length = manager.recv(&mut message).unwrap();
            message[..length].to_vec()
        };
        while read() != b"BARRIER=1\n" {}
        assert!(is_sent.recv_timeout(within).unwrap());
    }

    #[test]
    fn without_a_notify_socket_nothing_is_managed() {
        let environment = Environment { notify_socket: None, ..Environment::read().unwrap() };
        let notifier = Notifier::new(&environment).unwrap();
        assert!(!notifier.managed() && notifier.watchdog().is_none());
    }
}
