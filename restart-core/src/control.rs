//! The control socket: status, reload and stop, for the same user and root.
//!
//! `protocol` is what is said, one JSON object a line; `place` is where the socket lies; `server` is the running
//! generation's side, `client` the other one. The protocol stays compatible across versions: the client is often the
//! newly installed file, the server the one that runs.

mod client;
mod place;
mod protocol;
mod server;

pub(crate) use client::new_id;
pub use client::{Answer, Client};
pub(crate) use place::resolve;
pub use place::{Place, find};
pub use protocol::{
    DrainingGeneration, DrainingReport, GenerationId, ListenerStatus, Outcome, Reloading, Stages, Status,
};
pub(crate) use protocol::{Reply, Request, VERSION as CONTROL_VERSION};
pub(crate) use server::{Clients, Command, serve};
