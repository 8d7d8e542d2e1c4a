//! Taking over from a predecessor: what a process that was started with `-g` finds on its standard input.
//!
//! Runs before any thread exists, and so blocks, with a deadline. What came is checked here; whether it is wanted is
//! the application's configuration.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use async_io::{Timer, block_on};
use futures_lite::future;

use crate::environment::has_handover_flag;
use crate::error::Error;
use crate::generation::State;
use crate::handover::{
    Channel, Hello, Link, ListenersPart, Message, Received, ReloadMark, StateBlob, adopt_stdin, is_handover_socket,
    receive_state,
};
use crate::listeners::Socket;

/// The predecessor has to say Hello by then.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// And to have given everything by then.
const GIVEN_DEADLINE: Duration = Duration::from_secs(60);

/// A predecessor, and what it gave.
#[derive(Debug)]
pub(crate) struct Predecessor {
    pub(crate) channel: Arc<Channel>,
    pub(crate) hello: Hello,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) state: Option<State>,
    pub(crate) mark: ReloadMark,
    /// The channels to the generations that drain, of use if the predecessor vanishes before its commit.
    pub(crate) older: Vec<(Link, OwnedFd)>,
}

/// Tells the predecessor that started this process, if there is one, why it cannot serve, and says whether there was
/// one to tell. The predecessor serves on, and passes the reason on to whoever asked for the reload.
///
/// For what goes wrong before [`Builder::start`](crate::Builder::start), such as a configuration that is refused; end
/// the process afterwards. Never blocks.
pub fn decline(reason: &str) -> bool {
    let args: Vec<OsString> = std::env::args_os().collect();
    if !has_handover_flag(&args) {
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
    let channel =
        Channel::adopt(socket).map_err(|error| Error::handover_io("cannot use the handover socket", error))?;
    let result = block_on(future::or(take(&channel, greeting), async {
        Timer::after(HELLO_DEADLINE + GIVEN_DEADLINE).await;
        Err(Error::handover(format!("the predecessor did not give everything within {GIVEN_DEADLINE:?}")))
    }));
    match result {
        Ok(taken) => {
            let Taken { hello, sockets, state, mark, older } = taken;
            Ok(Predecessor { channel: Arc::new(channel), hello, sockets, state, mark, older })
        }
        Err(error) => {
            // If it still listens, it learns why; its own deadline covers the rest.
            let _ = channel.try_send(&Message::failed(&error.to_string()), &[]);
            Err(error)
        }
    }
}

struct Taken {
    hello: Hello,
    sockets: Vec<Socket>,
    state: Option<State>,
    mark: ReloadMark,
    older: Vec<(Link, OwnedFd)>,
}

async fn take(channel: &Channel, greeting: impl FnOnce(u64) -> Hello) -> Result<Taken, Error> {
    let hello = future::or(hello(channel), async {
        Timer::after(HELLO_DEADLINE).await;
        Err(Error::handover(format!("the predecessor said no Hello within {HELLO_DEADLINE:?}")))
    })
    .await?;
    channel.send(&Message::Hello(greeting(hello.generation + 1)), &[]).await?;
    hello.common_version()?;
    let (mut sockets, mut state) = (Vec::new(), None);
    loop {
        let Some(Received { message, fds, .. }) = channel.receive().await? else {
            return Err(Error::handover("the predecessor vanished before it had given everything"));
        };
        match message {
            Message::Listeners(part) => take_sockets(&mut sockets, &part, fds)?,
            Message::State(blob) => state = Some(take_state(&blob, &fds)?),
            Message::Given(given) if given.listeners == sockets.len() => {
                let older = given.older.into_iter().zip(fds).collect();
                return Ok(Taken { hello, sockets, state, mark: given.reload, older });
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

async fn hello(channel: &Channel) -> Result<Hello, Error> {
    match channel.receive().await?.map(|received| received.message) {
        Some(Message::Hello(hello)) => Ok(hello),
        Some(other) => Err(Error::handover(format!("the predecessor began with {} instead of Hello", other.kind()))),
        None => Err(Error::handover("the predecessor vanished before its Hello")),
    }
}

fn take_sockets(sockets: &mut Vec<Socket>, part: &ListenersPart, fds: Vec<OwnedFd>) -> Result<(), Error> {
    if part.entries.len() != fds.len() {
        let (announced, got) = (part.entries.len(), fds.len());
        return Err(Error::handover(format!("{announced} listeners were announced and {got} descriptors came")));
    }
    for (entry, fd) in part.entries.iter().zip(fds) {
        if sockets.len() >= crate::handover::LISTENERS_MAX {
            return Err(Error::handover("more listeners are handed over than one service may have"));
        }
        sockets.push(Socket::from_entry(entry, fd)?);
    }
    Ok(())
}

fn take_state(blob: &StateBlob, fds: &[OwnedFd]) -> Result<State, Error> {
    let [memfd] = fds else {
        return Err(Error::handover(format!("{} descriptors came with the application's state", fds.len())));
    };
    Ok(State { format: blob.format, bytes: receive_state(memfd, blob.bytes)? })
}
