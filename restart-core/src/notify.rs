//! What the service manager is told, and when (`sd_notify(3)`).
//!
//! The messages go through the sd-notify crate; this module owns their grouping, and sees to it that a service manager
//! that reads nothing (a stopped PID 1) never blocks the event loop: nothing is sent while there is no room. It decides
//! nothing about a reload.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use async_io::{Async, Timer};
use futures_lite::future;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;

use crate::environment::Environment;
use crate::error::Error;

/// How long the service manager may take until there is room for the announcement.
const ROOM_DEADLINE: Duration = Duration::from_secs(5);

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Notifier {
    /// A socket that is connected to the same place as those that send, to see whether there is room.
    probe: Option<Async<UnixDatagram>>,
    watchdog: Option<Duration>,
}

impl Notifier {
    pub(crate) fn new(environment: &Environment) -> Result<Notifier, Error> {
        let Some(path) = &environment.notify_socket else {
            return Ok(Notifier { probe: None, watchdog: None });
        };
        let connect = || -> io::Result<Async<UnixDatagram>> {
            let probe = UnixDatagram::unbound()?;
            match path.as_bytes().strip_prefix(b"@") {
                Some(name) => probe.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
                None => probe.connect(path)?,
            }
            Async::new(probe)
        };
        let probe = connect().map_err(|error| {
            Error::system(format!("cannot reach the service manager at NOTIFY_SOCKET={}", path.display()), error)
        })?;
        // Half of the interval, as sd_watchdog_enabled(3) recommends.
        let watchdog = environment.watchdog_usec.filter(|&usec| usec > 0).map(|usec| Duration::from_micros(usec / 2));
        Ok(Notifier { probe: Some(probe), watchdog })
    }

    /// Whether a service manager follows this process.
    pub(crate) fn managed(&self) -> bool {
        self.probe.is_some()
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
        if !self.managed() {
            return;
        }
        let states = [NotifyState::FdStore, NotifyState::FdName(name)];
        if let Err(error) = self.room().and_then(|()| sd_notify::notify_with_fds(&states, &[socket])) {
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
        let Some(probe) = &self.probe else { return Ok(()) };
        let failed = |error| Error::system("cannot tell the service manager of the new main process", error);
        let deadline = async {
            Timer::after(ROOM_DEADLINE).await;
            Err(io::Error::new(io::ErrorKind::TimedOut, "it reads no messages"))
        };
        future::or(probe.writable(), deadline).await.map_err(failed)?;
        let status = one_line(status);
        let mut states = vec![NotifyState::MainPid(pid), NotifyState::Ready, NotifyState::Status(&status)];
        if self.watchdog.is_some() {
            states.push(NotifyState::Watchdog);
        }
        sd_notify::notify(&states).map_err(failed)
    }

    /// Sends a barrier; the returned pipe hangs up when the service manager has read all that was sent before it.
    #[expect(clippy::unused_self, reason = "there is a barrier only where there is a way to the service manager")]
    pub(crate) fn barrier(&self) -> Result<OwnedFd, Error> {
        let send = || -> io::Result<OwnedFd> {
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[writer.as_fd()])?;
            Ok(reader)
        };
        send().map_err(|error| Error::system("cannot send a barrier to the service manager", error))
    }

    /// Sends what is news, not more: where there is no room it is left out, and the log says so.
    fn send(&self, states: &[NotifyState]) {
        if self.managed()
            && let Err(error) = self.room().and_then(|()| sd_notify::notify(states))
        {
            log::warn!("the service manager was not told {:?}: {error}", states.first().map(ToString::to_string));
        }
    }

    /// Whether a message can be sent without waiting.
    fn room(&self) -> io::Result<()> {
        let Some(probe) = &self.probe else { return Ok(()) };
        let mut polled = [PollFd::new(probe.get_ref(), PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut polled, Some(&now)) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::WouldBlock, "it reads no messages")),
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
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
    use super::*;

    #[test]
    fn a_status_cannot_smuggle_another_field_in() {
        assert_eq!(one_line("failed:\nMAINPID=1\0"), "failed: MAINPID=1 ");
    }

    #[test]
    fn without_a_notify_socket_nothing_is_managed() {
        let environment = Environment { notify_socket: None, ..Environment::read().unwrap() };
        let notifier = Notifier::new(&environment).unwrap();
        assert!(!notifier.managed() && notifier.watchdog().is_none());
    }
}
