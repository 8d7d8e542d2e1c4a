//! The control socket: status, reload and stop, for the same user and root.
//!
//! `protocol` is what is said, one JSON object a line; `place` is where the socket lies; `server` is the running
//! generation's side, `client` the other one. The protocol stays compatible across versions: the client is often the
//! newly installed file, the server the one that runs. Without the feature `control` there is neither socket nor client:
//! `absent` stands in their place, and what a generation is asked from within has the same types.

#[cfg(not(feature = "control"))]
mod absent;
#[cfg(feature = "control")]
mod client;
#[cfg(feature = "control")]
mod place;
mod protocol;
#[cfg(feature = "control")]
mod server;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use async_channel::Sender;

#[cfg(not(feature = "control"))]
pub(crate) use absent::{Place, resolve, running_pid, serve};
#[cfg(feature = "control")]
pub use client::Client;
#[cfg(feature = "control")]
pub(crate) use client::running_pid;
#[cfg(feature = "control")]
pub(crate) use place::resolve;
#[cfg(feature = "control")]
pub use place::{Place, find};
pub use protocol::{
    Answer, DrainingGeneration, DrainingReport, GenerationId, ListenerStatus, Outcome, Reloading, Stages, Status,
};
pub(crate) use protocol::{Reply, Request, VERSION as CONTROL_VERSION};
#[cfg(feature = "control")]
pub(crate) use server::serve;

/// A request with the way back to its client.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) request: Request,
    pub(crate) reply: Sender<Reply>,
}

/// Counts the clients that are owed an answer, so that a process can wait for them before it exits.
pub(crate) type Clients = Arc<AtomicUsize>;

/// A name for a reload that no other client chooses.
pub(crate) fn new_id() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", std::process::id(), now.as_nanos())
}
