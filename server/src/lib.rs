//! An HTTP/1.1 server on async-h1 and smol that is replaced while it serves.
//!
//! [`run`] is all that a handler of one's own needs: it gives it the command line of `reborn`, its listeners, reload, drain,
//! limits and log. [`Program`] adds a name, a version, flags and a state of the program's own, and streams and protocols that
//! go on in the next process: [`guide`] shows how. The modules are public for those who want a part of it: [`http`] serves
//! one connection, and [`app`] is what `reborn` answers by itself.

pub mod app;
pub mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod guide;
pub mod http;
mod lock;
pub mod logging;
mod moving;
mod per_team;
mod program;
mod service;
mod threads;
pub mod tls;
mod version;
mod waits;

pub use program::{NoFlags, Program, Startup, cli, exit, run, run_default};
pub use restart_core::{Allocator, State, share_c_heap};
pub use version::VERSION;
