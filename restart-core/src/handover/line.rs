//! A line: what a generation has towards another one, and all that it knows of the other side.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_io::Async;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::channel::Channel;
use super::wire::{Hello, ProcessId};
use crate::error::Error;
use crate::formats::Formats;

/// The other side of a line, as it introduced itself.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) id: ProcessId,
    /// The program's version, for people.
    pub(crate) version: String,
    /// The newest version of the protocol that both sides speak.
    pub(crate) common: u32,
    /// What it can do beyond that.
    pub(crate) features: BTreeSet<String>,
    /// The formats of connections that it takes.
    pub(crate) formats: Formats,
    /// How often it had become the main process before.
    pub(crate) turn: u64,
}

/// A line to a generation that has introduced itself.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) channel: Arc<Channel>,
    pub(crate) peer: Peer,
}

impl Peer {
    /// Fails where it speaks no version that is spoken here.
    pub(crate) fn new(hello: Hello) -> Result<Peer, Error> {
        let common = hello.common_version()?;
        let Hello { generation, pid, version, features, formats, turn, .. } = hello;
        let id = ProcessId { generation, pid };
        Ok(Peer { id, version, common, features, formats: formats.into_iter().collect(), turn })
    }
}

/// A descriptor that stands for this process, for others to see its end by (`pidfd_open(2)`).
pub(crate) fn own_pidfd() -> io::Result<OwnedFd> {
    Ok(pidfd_open(getpid(), PidfdFlags::empty())?)
}

/// Another process's, as it came from there. What cannot be watched is refused.
pub(crate) fn watched_pidfd(pidfd: OwnedFd) -> Result<Async<OwnedFd>, Error> {
    Async::new(pidfd)
        .map_err(|error| Error::handover_io("what should stand for the other process cannot be watched", error))
}
