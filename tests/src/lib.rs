//! The end-to-end tests' own tools: a load generator that sees every byte and every close, a harness that starts the
//! real binary and looks at its processes, a notify socket in place of the service
//! manager's, and a laboratory with a real one.
//!
//! A test begins with [`Reborn::new`], goes on with the [`Server`] that it starts, and needs no cleaning up: whatever
//! a test started is killed when its `Server` is dropped. The tests are in `tests/`, one file for each promise; the
//! storm benchmark is the binary `storm`.

// These are tests' tools: what they panic on is a test's failure, and their documentation says what they expect.
#![allow(clippy::missing_panics_doc)]

pub mod binary;
pub mod certificates;
pub mod command;
pub mod held;
pub mod held_exec;
pub mod https;
pub mod lab;
pub mod load;
pub mod moved_site;
pub mod network;
pub mod notify;
pub mod package;
pub mod process;
pub mod procfs;
pub mod relay;
pub mod release;
pub mod secured;
pub mod skip;
pub mod talking;
pub mod terminal;
pub mod tracer;
pub mod version;

pub use command::CommandOutput;
pub use held::Held;
pub use held_exec::HeldExec;
pub use process::{DEADLINE, Reborn, Server};
pub use procfs::{Ended, Process};
pub use relay::Relay;
pub use rustix::process::Signal;
pub use talking::Talking;
pub use version::{Mode, Version};
