//! The control socket: status, reload and stop, for the same user and root.
//!
//! `protocol` is what is said, one JSON object a line; `place` is where the socket lies; `server` is the running
//! generation's side, `client` the other one; `command` is a request on its way to the driver. The protocol stays
//! compatible across versions: the client is often the newly installed file, the server the one that runs. Without the
//! feature `control` there is neither socket nor client: `absent` stands in their place, and what a generation is asked
//! from within has the same types.

#[cfg(not(feature = "control"))]
mod absent;
#[cfg(feature = "control")]
mod client;
mod command;
#[cfg(feature = "control")]
mod place;
mod protocol;
#[cfg(feature = "control")]
mod server;

#[cfg(not(feature = "control"))]
pub(crate) use absent::{Place, resolve, running_pid, serve};
#[cfg(feature = "control")]
pub use client::Client;
#[cfg(feature = "control")]
pub(crate) use client::running_pid;
pub(crate) use command::{Clients, Command, new_id};
#[cfg(feature = "control")]
pub(crate) use place::resolve;
#[cfg(feature = "control")]
pub use place::{Found, Place, find, find_all, find_instance};
pub use protocol::{
    Answer, DrainingGeneration, DrainingReport, GenerationId, ListenerStatus, Outcome, Reloading, Stages, Status,
};
pub(crate) use protocol::{Reply, Request, VERSION as CONTROL_VERSION};
#[cfg(feature = "control")]
pub(crate) use server::serve;
