//! Taking over from a predecessor: what a process that was started by one finds on its standard input.
//!
//! Runs before any thread exists, and so blocks, with a deadline. What came is checked here; whether it is wanted is
//! the application's configuration.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use async_io::{Async, Timer, block_on};
use futures_lite::future;

use crate::environment::is_successor;
use crate::error::Error;
use crate::handover::{
    Channel, Hello, Line, ListenersPart, Message, Peer, ProcessId, Received, ReloadMark, StateBlob, adopt_stdin,
    is_handover_socket, own_pidfd, receive_state, watched_pidfd,
};
use crate::listeners::Socket;

/// The predecessor has to say Hello by then.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// And to have given everything by then.
const GIVEN_DEADLINE: Duration = Duration::from_secs(60);

/// The application's state, as the generation before it saved it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct State {
    /// The format number that the saving version gave it.
    pub format: u32,
    /// The state.
    pub bytes: Vec<u8>,
}

impl State {
    /// A state in a format, for tests of what reads it.
    pub fn new(format: u32, bytes: Vec<u8>) -> State {
        State { format, bytes }
    }
}

/// A predecessor, and what it gave.
#[derive(Debug)]
pub(crate) struct Predecessor {
    pub(crate) line: Line,
    /// Readable when its process has ended.
    pub(crate) pidfd: Arc<Async<OwnedFd>>,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) state: Option<State>,
    pub(crate) mark: ReloadMark,
    /// The lines to the generations that drain, oldest first; they are its own until the commit.
    pub(crate) older: Vec<(ProcessId, Arc<Channel>)>,
}

/// Tells the predecessor that started this process, if there is one, why it cannot serve, and says whether there was
/// one to tell. The predecessor serves on, and passes the reason on to whoever asked for the reload.
///
/// For what goes wrong before [`Builder::start`](crate::Builder::start), such as a configuration that is refused; end
/// the process afterwards. Never blocks.
pub fn decline(reason: &str) -> bool {
    if !is_successor() {
        return false;
    }
    let Ok(Some(socket)) = take_channel() else { return false };
    Channel::adopt(socket).is_ok_and(|channel| channel.try_send(&Message::failed(reason), &[]).is_ok())
}

/// Takes the handover socket off standard input, if there is one.
pub(crate) fn take_channel() -> Result<Option<OwnedFd>, Error> {
    if !is_handover_socket(rustix::stdio::stdin()) {
        return Ok(None);
    }
    adopt_stdin()
        .map(Some)
        .map_err(|error| Error::handover_io("cannot move the handover socket away from standard input", error))
}

/// Greets the predecessor and takes what it gives. `greeting` makes this generation's Hello from its number.
pub(crate) fn receive(socket: OwnedFd, greeting: impl FnOnce(u64) -> Hello) -> Result<Predecessor, Error> {
    let bootstrap =
        Channel::adopt(socket).map_err(|error| Error::handover_io("cannot use the handover socket", error))?;
    block_on(async {
        let met = future::or(meet(&bootstrap, greeting), async {
            Timer::after(HELLO_DEADLINE).await;
            Err(Error::handover(format!("the predecessor said no Hello within {HELLO_DEADLINE:?}")))
        });
        let (line, pidfd) = met.await.inspect_err(|error| tell(&bootstrap, error))?;
        let channel = Arc::clone(&line.channel);
        let taken = future::or(take(line, pidfd), async {
            Timer::after(GIVEN_DEADLINE).await;
            Err(Error::handover(format!("the predecessor did not give everything within {GIVEN_DEADLINE:?}")))
        });
        taken.await.inspect_err(|error| tell(&channel, error))
    })
}

/// If it still listens, it learns why; its own deadline covers the rest.
fn tell(channel: &Channel, error: &Error) {
    let _ = channel.try_send(&Message::failed(&error.to_string()), &[]);
}

/// Says Hello, and gives the predecessor its end of the line.
async fn meet(bootstrap: &Channel, greeting: impl FnOnce(u64) -> Hello) -> Result<(Line, Async<OwnedFd>), Error> {
    let (hello, pidfd) = hello(bootstrap).await?;
    let failed = |error| Error::handover_io("cannot make a line to the predecessor", error);
    let (channel, theirs) = Channel::pair().map_err(failed)?;
    let own = own_pidfd().map_err(failed)?;
    let greeting = Message::Hello(greeting(hello.generation + 1));
    bootstrap.send(&greeting, &[own.as_fd(), theirs.as_fd()]).await?;
    Ok((Line { channel: Arc::new(channel), peer: Peer::new(hello)? }, watched_pidfd(pidfd)?))
}

async fn take(line: Line, pidfd: Async<OwnedFd>) -> Result<Predecessor, Error> {
    let (mut sockets, mut state) = (Vec::new(), None);
    loop {
        let Some(Received { message, fds, .. }) = line.channel.receive_readable().await? else {
            return Err(Error::handover("the predecessor vanished before it had given everything"));
        };
        match message {
            Message::Listeners(part) => take_sockets(&mut sockets, &part, fds)?,
            Message::State(blob) => state = Some(take_state(&blob, &fds)?),
            Message::Given(given) if given.listeners == sockets.len() => {
                let failed = |error| Error::handover_io("cannot use the line to a generation that drains", error);
                let channels = fds.into_iter().map(|fd| Channel::adopt(fd).map(Arc::new).map_err(failed));
                let older = given.older.into_iter().zip(channels).map(|(id, channel)| Ok((id, channel?)));
                let older = older.collect::<Result<Vec<_>, Error>>()?;
                let pidfd = Arc::new(pidfd);
                return Ok(Predecessor { line, pidfd, sockets, state, mark: given.reload, older });
            }
            Message::Given(given) => {
                let (announced, got) = (given.listeners, sockets.len());
                return Err(Error::handover(format!("{announced} listeners were announced and {got} given")));
            }
            Message::Unknown => {}
            other => return Err(Error::handover(format!("{} came where listeners were due", other.kind()))),
        }
    }
}

async fn hello(channel: &Channel) -> Result<(Hello, OwnedFd), Error> {
    match channel.receive_readable().await?.map(|received| (received.message, received.fds)) {
        Some((Message::Hello(hello), mut fds)) => Ok((hello, fds.remove(0))),
        Some((other, _)) => {
            Err(Error::handover(format!("the predecessor began with {} instead of Hello", other.kind())))
        }
        None => Err(Error::handover("the predecessor vanished before its Hello")),
    }
}

fn take_sockets(sockets: &mut Vec<Socket>, part: &ListenersPart, fds: Vec<OwnedFd>) -> Result<(), Error> {
    for (entry, fd) in part.entries.iter().zip(fds) {
        if sockets.len() >= crate::handover::LISTENERS_MAX {
            return Err(Error::handover("more listeners are handed over than one service may have"));
        }
        sockets.push(Socket::from_entry(entry, fd)?);
    }
    Ok(())
}

fn take_state(blob: &StateBlob, fds: &[OwnedFd]) -> Result<State, Error> {
    let Some(memfd) = fds.first() else {
        return Err(Error::handover("no descriptor came with the application's state"));
    };
    Ok(State { format: blob.format, bytes: receive_state(memfd, blob.bytes)? })
}
