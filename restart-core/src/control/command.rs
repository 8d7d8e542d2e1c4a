//! A request on its way to the driver, whoever makes it: a client on the control socket, or the application from within.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use async_channel::Sender;

use super::protocol::{Reply, Request};

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
