//! Starting the next generation and giving it what it needs: the only place that starts a process.
//!
//! `std::process::Command` without `pre_exec` goes through `posix_spawn(3)`, so the cost does not grow with this
//! process's memory, and no code of ours runs between fork and exec; it waits for the exec, on a thread of its own. What
//! the successor does afterwards comes back as messages and as its exit; what that means is `lifecycle`'s matter.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use async_io::Async;
use rustix::process::{PidfdFlags, Signal};

use crate::environment::{Environment, HANDOVER_VARIABLE, NOT_PASSED_ON, handed_value};
use crate::error::Error;
use crate::handover::{
    Channel, FDS_PER_MESSAGE_MAX, Given, Hello, Line, ListenersPart, Message, Peer, ProcessId, Received, ReloadMark,
    StateBlob, is_handover_socket, own_pidfd, state_memfd, watched_pidfd,
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
    /// How long it took to start the process.
    pub(crate) spawn_time: Duration,
}

/// What came of starting a successor's process: with it, our end of the handover socket.
pub(crate) type Spawned = Result<(Successor, Channel), Error>;

impl Successor {
    /// Starts the program anew on a thread of its own: the call returns when the exec is done, and whatever looks at a
    /// program before it runs, or fetches it over a network, holds that up for as long as it likes.
    pub(crate) fn spawn_aside(environment: Environment, word: Option<String>, signals: Vec<i32>) -> Receiver<Spawned> {
        let (spawned, receiver) = async_channel::bounded(1);
        let failed = spawned.clone();
        let run = move || {
            let _ = spawned.try_send(Successor::spawn(&environment, word.as_deref(), &signals));
        };
        if let Err(error) = thread::Builder::new().name("spawn".to_owned()).spawn(run) {
            let _ = failed.try_send(Err(Error::system("cannot start a thread that starts the successor", error)));
        }
        receiver
    }

    /// Starts the program anew, and returns our end of the handover socket with it. On failure nothing is left behind.
    fn spawn(environment: &Environment, word: Option<&str>, signals: &[i32]) -> Spawned {
        let program = environment.program.display();
        let failed = |error: io::Error| Error::system(format!("cannot start {program}"), error);
        let (channel, stdin) = Channel::pair().map_err(failed)?;
        let mut command = Command::new(&environment.program);
        command.env(HANDOVER_VARIABLE, handed_value(stdin.as_fd(), word).map_err(failed)?);
        command.arg0(environment.arg0()).args(environment.successor_args(word)).stdin(Stdio::from(stdin));
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
        Successor::watch(child, spawn_time).map(|successor| (successor, channel)).map_err(failed)
    }

    fn watch(mut child: Child, spawn_time: Duration) -> io::Result<Successor> {
        let open = || -> io::Result<Arc<Async<OwnedFd>>> {
            let pid = rustix::process::Pid::from_child(&child);
            Ok(Arc::new(Async::new(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)?))
        };
        match open() {
            Ok(pidfd) => Ok(Successor { child, pidfd, spawn_time }),
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

    /// Reaps the process when it has ended: one that hangs in the kernel must keep nobody waiting.
    pub(crate) async fn reap_later(self) {
        let Successor { mut child, pidfd, .. } = self;
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
pub(crate) struct Handover {
    pub(crate) hello: Hello,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) state: Option<(u32, Vec<u8>)>,
    pub(crate) mark: ReloadMark,
    /// The lines to the generations that drain.
    pub(crate) older: Vec<(ProcessId, Arc<Channel>)>,
}

/// Why a successor could not be given everything.
#[derive(Debug)]
pub(crate) enum HandoverFailure {
    /// It closed the handover socket.
    Closed,
    /// It said Failed.
    Reported(String),
    /// It said something else, or something that cannot be read.
    Broke(Error),
}

/// Greets the successor over the handover socket. Returns the line that it made, and its pidfd.
pub(crate) async fn meet(bootstrap: &Channel, hello: Hello) -> Result<(Line, Async<OwnedFd>), HandoverFailure> {
    let own = own_pidfd().map_err(|error| Error::system("cannot open a pidfd of this process", error))?;
    if let Err(error) = bootstrap.send(&Message::Hello(hello), &[own.as_fd()]).await {
        return Err(words_or(bootstrap, error).await);
    }
    let (hello, fds) = match bootstrap.receive_readable().await? {
        Some(Received { message: Message::Hello(hello), fds, .. }) => (hello, fds),
        Some(Received { message: Message::Failed { reason }, .. }) => return Err(HandoverFailure::Reported(reason)),
        Some(Received { message, .. }) => {
            Err(Error::handover(format!("it began with {} instead of Hello", message.kind())))?
        }
        None => return Err(HandoverFailure::Closed),
    };
    let peer = Peer::new(hello)?;
    let mut fds = fds.into_iter();
    let (Some(pidfd), Some(line)) = (fds.next(), fds.next().filter(|line| is_handover_socket(line))) else {
        Err(Error::handover("its Hello brings no line, on which everything else is said"))?
    };
    let failed = |error| Error::handover_io("its line cannot be used", error);
    let channel = Arc::new(Channel::adopt(line).map_err(failed)?);
    Ok((Line { channel, peer }, watched_pidfd(pidfd)?))
}

/// Gives the successor everything.
pub(crate) async fn give(channel: &Channel, handover: Handover) -> Result<(), HandoverFailure> {
    match try_give(channel, handover).await {
        Err(error) => Err(words_or(channel, error).await),
        Ok(()) => Ok(()),
    }
}

async fn try_give(channel: &Channel, handover: Handover) -> Result<(), Error> {
    for part in handover.sockets.chunks(ENTRIES_PER_MESSAGE_MAX) {
        let entries = part.iter().map(Socket::entry).collect();
        let fds: Vec<BorrowedFd<'_>> = part.iter().map(|socket| socket.fd.as_fd()).collect();
        channel.send(&Message::Listeners(ListenersPart { entries }), &fds).await?;
    }
    if let Some((format, bytes)) = handover.state {
        let memfd = state_memfd(&bytes)?;
        let blob = StateBlob { format, bytes: bytes.len() as u64 };
        channel.send(&Message::State(blob), &[memfd.as_fd()]).await?;
    }
    let (older, channels): (Vec<ProcessId>, Vec<Arc<Channel>>) = handover.older.into_iter().unzip();
    let channels: Vec<BorrowedFd<'_>> = channels.iter().map(|channel| channel.as_fd()).collect();
    let given = Given { listeners: handover.sockets.len(), older, reload: handover.mark };
    channel.send(&Message::Given(given), &channels).await
}

/// Where it closed its end while there was still something to send, what it said before that is the reason.
async fn words_or(channel: &Channel, error: Error) -> HandoverFailure {
    if error.is_broken_pipe() { last_words(channel).await } else { HandoverFailure::Broke(error) }
}

async fn last_words(channel: &Channel) -> HandoverFailure {
    loop {
        match channel.receive_readable().await {
            Ok(Some(received)) => {
                if let Message::Failed { reason } = received.message {
                    return HandoverFailure::Reported(reason);
                }
            }
            Ok(None) => return HandoverFailure::Closed,
            Err(error) => return HandoverFailure::Broke(error),
        }
    }
}

impl From<Error> for HandoverFailure {
    fn from(error: Error) -> HandoverFailure {
        HandoverFailure::Broke(error)
    }
}
