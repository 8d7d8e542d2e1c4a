//! What the service manager is told, and when (`sd_notify(3)`).
//!
//! The messages go through the sd-notify crate; this module owns their grouping, and sees to it that a service manager
//! that reads nothing (a stopped PID 1) never blocks the event loop: nothing is sent while there is no room. It decides
//! nothing about a reload.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use async_io::{Async, Timer};
use futures_lite::future;
use rustix::event::{PollFd, PollFlags, poll};
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

    pub(crate) fn reloading(&self, status: &str) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now, NotifyState::Status(&one_line(status))]),
            Err(error) => log::warn!("cannot tell the service manager of the reload: {error}"),
        }
    }

    pub(crate) fn stopping(&self, status: &str) {
        self.send(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))]);
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
        let Some(probe) = &self.probe else { return };
        let mut polled = [PollFd::new(probe.get_ref(), PollFlags::OUT)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let sent = match poll(&mut polled, Some(&now)) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::WouldBlock, "it reads no messages")),
            Ok(_) => sd_notify::notify(states),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = sent {
            log::warn!("the service manager was not told {:?}: {error}", states.first().map(ToString::to_string));
        }
    }
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
