//! A Linux server that replaces itself while it serves.

mod address;
mod connections;
pub mod control;
mod drain;
mod driver;
mod environment;
mod error;
mod generation;
mod handover;
mod lifecycle;
mod listeners;
mod notify;
mod pid_file;
mod predecessor;
mod signals;
mod successor;
mod supervisor;
mod sys;

pub use address::{Address, Endpoint};
pub use connections::{BLOB_BYTES_MAX, Connection, Connections};
pub use drain::{Drain, Guard, Phase};
pub use driver::Exit;
pub use error::Error;
pub use generation::{
    Builder, DRAIN_TIMEOUT_DEFAULT, Generation, MAX_DRAINING_DEFAULT, PROBATION_DEFAULT, READY_TIMEOUT_DEFAULT, State,
};
pub use listeners::{Accepted, Listener, Origin};
pub use supervisor::supervise;
