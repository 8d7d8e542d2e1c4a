//! Starting the next generation and giving it what it needs: the only place that starts a process.
//!
//! `std::process::Command` without `pre_exec` goes through `posix_spawn(3)`, so the cost does not grow with this
//! process's memory, and no code of ours runs between fork and exec. What the successor does afterwards comes back as
//! messages and as its exit; what that means is `lifecycle`'s matter.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::Async;
use rustix::process::{PidfdFlags, Signal};

use crate::environment::{Environment, NOT_PASSED_ON};
use crate::error::Error;
use crate::handover::{
    Channel, FDS_PER_MESSAGE_MAX, Given, Hello, Link, ListenersPart, Message, ReloadMark, StateBlob, state_memfd,
};
use crate::listeners::Socket;
use crate::sys::BlockedSignals;

/// Names and addresses make a manifest's line long; so many fit into a message at their longest.
pub(crate) const ENTRIES_PER_MESSAGE_MAX: usize = 64;
const _: () = assert!(ENTRIES_PER_MESSAGE_MAX <= FDS_PER_MESSAGE_MAX);

/// A successor's process.
#[derive(Debug)]
pub(crate) struct Successor {
    child: Child,
    pidfd: Arc<Async<OwnedFd>>,
    pub(crate) channel: Arc<Channel>,
    /// How long it took to start the process.
    pub(crate) spawn_time: Duration,
}

impl Successor {
    /// Starts the program anew. On failure nothing is left behind.
    pub(crate) fn spawn(environment: &Environment, signals: &[i32]) -> Result<Successor, Error> {
        let program = environment.program.display();
        let failed = |error: io::Error| Error::system(format!("cannot start {program}"), error);
        let (channel, stdin) = Channel::pair().map_err(failed)?;
        let mut command = Command::new(&environment.program);
        command.arg0(environment.arg0()).args(environment.successor_args()).stdin(Stdio::from(stdin));
        for name in NOT_PASSED_ON {
            command.env_remove(name);
        }
        let blocked = BlockedSignals::new(signals).map_err(failed)?;
        let begin = Instant::now();
        let spawned = command.spawn();
        let spawn_time = begin.elapsed();
        drop(blocked);
        let child = spawned.map_err(failed)?;
        // The command holds our copy of the successor's end; with it open we would never see the successor's close.
        drop(command);
        Successor::watch(child, channel, spawn_time).map_err(failed)
    }

    fn watch(mut child: Child, channel: Channel, spawn_time: Duration) -> io::Result<Successor> {
        let open = || -> io::Result<Arc<Async<OwnedFd>>> {
            let pid = rustix::process::Pid::from_child(&child);
            Ok(Arc::new(Async::new(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)?))
        };
        match open() {
            Ok(pidfd) => Ok(Successor { child, pidfd, channel: Arc::new(channel), spawn_time }),
            Err(error) => {
                // A process that cannot be watched cannot be rolled back either.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What becomes readable when the process ends (`pidfd_open(2)`).
    pub(crate) fn pidfd(&self) -> Arc<Async<OwnedFd>> {
        Arc::clone(&self.pidfd)
    }

    /// Kills it (SIGKILL), by pidfd, so that no other process can be hit.
    pub(crate) fn kill(&self) {
        if let Err(error) = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            log::debug!("the successor (pid {}) could not be killed: {error}", self.pid());
        }
    }

    /// Closes the channel, and reaps the process when it has ended: one that hangs in the kernel must keep nobody waiting.
    pub(crate) async fn bury(self) {
        let Successor { mut child, pidfd, channel, .. } = self;
        drop(channel);
        let ended = match pidfd.readable().await {
            Ok(()) => child.try_wait(),
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            log::warn!("the successor (pid {}) could not be reaped: {error}", child.id());
        }
    }

    /// Reaps it if it has ended. Never call this after the commit under a service manager, which wants the exit status.
    pub(crate) fn reap(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

/// How a process ended, for people.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("an unnamed signal");
            format!("was killed by {name} (signal {signal})")
        }
        (None, None) => "ended".to_owned(),
    }
}

/// All that a successor is given before it is asked to be ready.
pub(crate) struct Gift {
    pub(crate) hello: Hello,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) state: Option<(u32, Vec<u8>)>,
    pub(crate) mark: ReloadMark,
    /// Copies of the channels to the generations that drain.
    pub(crate) older: Vec<(Link, OwnedFd)>,
}

/// Why a successor could not be given everything.
#[derive(Debug)]
pub(crate) enum Ungiven {
    /// It closed the handover socket.
    Closed,
    /// It said Failed.
    Reported(String),
    /// It said something else, or something that cannot be read.
    Broke(Error),
}

/// Greets the successor and gives it everything. Returns its Hello.
pub(crate) async fn give(channel: &Channel, gift: Gift) -> Result<Hello, Ungiven> {
    match try_give(channel, gift).await {
        // It closed its end while there was still something to send. What it said before that is the reason.
        Err(Ungiven::Broke(error)) if error.is_broken_pipe() => Err(last_words(channel).await),
        result => result,
    }
}

async fn try_give(channel: &Channel, gift: Gift) -> Result<Hello, Ungiven> {
    channel.send(&Message::Hello(gift.hello), &[]).await?;
    let hello = match channel.receive().await?.map(|received| received.message) {
        Some(Message::Hello(hello)) => hello,
        Some(Message::Failed { reason }) => return Err(Ungiven::Reported(reason)),
        Some(other) => Err(Error::handover(format!("it began with {} instead of Hello", other.kind())))?,
        None => return Err(Ungiven::Closed),
    };
    hello.common_version()?;
    for part in gift.sockets.chunks(ENTRIES_PER_MESSAGE_MAX) {
        let entries = part.iter().map(Socket::entry).collect();
        let fds: Vec<BorrowedFd<'_>> = part.iter().map(|socket| socket.fd.as_fd()).collect();
        channel.send(&Message::Listeners(ListenersPart { entries }), &fds).await?;
    }
    if let Some((format, bytes)) = gift.state {
        let memfd = state_memfd(&bytes)?;
        let blob = StateBlob { format, bytes: bytes.len() as u64 };
        channel.send(&Message::State(blob), &[memfd.as_fd()]).await?;
    }
    let (older, channels): (Vec<Link>, Vec<OwnedFd>) = gift.older.into_iter().unzip();
    let channels: Vec<BorrowedFd<'_>> = channels.iter().map(AsFd::as_fd).collect();
    let given = Given { listeners: gift.sockets.len(), older, reload: gift.mark };
    channel.send(&Message::Given(given), &channels).await?;
    Ok(hello)
}

async fn last_words(channel: &Channel) -> Ungiven {
    loop {
        match channel.receive().await {
            Ok(Some(received)) => {
                if let Message::Failed { reason } = received.message {
                    return Ungiven::Reported(reason);
                }
            }
            Ok(None) => return Ungiven::Closed,
            Err(error) => return Ungiven::Broke(error),
        }
    }
}

impl From<Error> for Ungiven {
    fn from(error: Error) -> Ungiven {
        Ungiven::Broke(error)
    }
}
