//! A Linux server that replaces itself while it serves, so that nobody on the other end of a connection can tell.
//!
//! On SIGHUP, SIGUSR2 or a command on its control socket the process starts its program anew, hands its sockets over,
//! waits until the new generation is ready, and finishes what it has. It needs no particular executor. The [`guide`]
//! goes from `main` to a test that replaces the server.
//!
//! ```no_run
//! use restart_core::{Builder, Endpoint, Error, Exit, Phase};
//! use smol::io::{AsyncReadExt, AsyncWriteExt};
//!
//! fn main() -> Result<Exit, Error> {
//!     let endpoint: Endpoint = "hello=127.0.0.1:7000".parse()?;
//!     let (generation, driver) = Builder::new().listen(endpoint).start()?; // first thing in main, before any thread
//!     let (listener, drain) = (generation.listener("hello")?, generation.drain());
//!     let number = generation.number();
//!     smol::spawn(async move {
//!         while let Some(accepted) = listener.accept().await {
//!             let drained = drain.changed(Phase::Serving);
//!             let serve = async move {
//!                 let (stream, _guard) = accepted.into_tcp()?; // the guard counts the connection until it ends
//!                 let mut stream = smol::Async::new(stream)?;
//!                 stream.write_all(format!("generation {number}\n").as_bytes()).await?;
//!                 stream.read(&mut [0; 1]).await.map(drop)
//!             };
//!             smol::spawn(smol::future::or(serve, async move {
//!                 drained.await;
//!                 Ok(())
//!             }))
//!             .detach();
//!         }
//!     })
//!     .detach();
//!     Ok(smol::block_on(driver.run_with(generation.ready()))) // returns when the process should end
//! }
//! ```
//!
//! # A reload
//!
//! | | predecessor | successor |
//! |---|---|---|
//! | 1 | starts its program anew, gives it listeners and state | takes them, binds what is missing |
//! | 2 | accepts | starts its application, accepts, says that it is ready |
//! | 3 | pauses, watches the successor for the probation | accepts |
//! | 4 | commits: the point of no return | is the main process |
//! | 5 | drains: finishes what it has, at most until the deadline, and ends | serves |
//!
//! ```text
//! Starting -> Serving <-> Reloading -> Draining -> ended      (Serving -> Stopping -> ended)
//!                 ^           |  any failure: the successor withdraws or is killed, the reason reported
//!                 +-----------+
//! Starting -> Standby -> Serving                             (a successor; Standby lasts until the commit)
//! ```
//!
//! # What the application has to do
//!
//! - Call [`Builder::start`] before any thread exists, and poll [`Driver::run`] from then on, for as long as the process
//!   serves.
//! - Say [`Generation::ready`] when it can serve, or have [`Driver::run_with`] say so: until then nobody is accepted, and a
//!   predecessor serves. Give up with [`Generation::fail`], or with [`decline`] before the start.
//! - Hold each connection's [`Guard`] until it ends, and end connections when [`Drain::phase`] is no longer
//!   [`Phase::Serving`], after the request in flight; all of them, at once, in [`Phase::Over`].
//! - Or have them live on: with [`Builder::take_connections`], [`Connections::offer`] moves a connection between two
//!   messages to the newest generation, with a description of yours, and [`Connections::take`] gets it there.
//! - Take datagram sockets from [`Generation::socket`]; all living generations read from the same one.
//!
//! # Features
//!
//! All on by default: `control` (the control socket, [`control::Client`], [`cli`]), `systemd` (LISTEN_FDS, and what a service
//! manager is told), `supervisor` ([`supervise`]; it needs `systemd`). Without them signals reload and stop, and
//! [`Generation::reload`], [`stop`](Generation::stop) and [`status`](Generation::status) are there as ever.
//!
//! Off by default: `allocator` is mimalloc for programs of many small allocations (`restart_core::Allocator`). For those on
//! tokio: `axum` is a whole program around a `Router` (`restart_core::axum::Program`); `hyper` serves any hyper or tower
//! service, with connections that go on in the next process (`restart_core::hyper::Server`); `websocket` adds WebSockets that
//! do, also within a message; `tokio` is a listener that accepts in tokio's own event loop, and streams that are counted and
//! can move.
//!
//! # Guarantees
//!
//! - Before the commit every failure leaves the old generation serving, and says why.
//! - While the service is up, some process holds each address open and accepts on it, or is about to.
//! - A successor inherits the handover socket, standard output and standard error, and nothing else.
//! - Only the same user and root can command the process.
//!
//! Not guaranteed: a process killed with SIGKILL takes its connections with it; what still runs at the drain's deadline
//! is cut; clients that connect in the instant in which a listener that is no longer wanted is closed may be reset.

// What serves one feature alone is dead without it.
#![cfg_attr(not(all(feature = "control", feature = "systemd", feature = "supervisor")), allow(dead_code))]

// What README shows compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod address;
#[cfg(feature = "axum")]
pub mod axum;
mod begun;
mod builder;
#[cfg(feature = "control")]
pub mod cli;
mod connections;
pub mod control;
mod counters;
mod drain;
mod driver;
mod environment;
mod error;
mod formats;
pub mod frames;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod generation;
pub mod guide;
mod handover;
#[cfg(feature = "hyper")]
pub mod hyper;
mod lifecycle;
mod listeners;
mod lock;
mod manifest;
mod memory;
pub mod moves;
#[cfg(feature = "systemd")]
mod notify;
#[cfg(not(feature = "systemd"))]
#[path = "notify/absent.rs"]
mod notify;
mod pid_file;
mod predecessor;
mod progress;
mod settings;
mod shutdown;
mod signals;
mod successor;
#[cfg(feature = "supervisor")]
mod supervisor;
mod sys;
mod terminal;
#[cfg(feature = "tokio")]
pub mod tokio;
mod waiting;

pub use address::{Address, Endpoint};
pub use builder::Builder;
pub use connections::{BLOB_BYTES_MAX, COMPANIONS_MAX, Connection, Connections};
pub use counters::{Counts, Inherited};
pub use drain::{Drain, Guard, ManualDrain, Phase, Phases};
pub use driver::{Driver, Exit};
pub use environment::{arguments, follow_directory, must_supervise};
pub use error::Error;
pub use formats::Formats;
pub use generation::Generation;
pub use listeners::{Accepted, BindStage, Listener, Origin, Reactor};
pub use memory::{resident_memory, share_c_heap};
pub use predecessor::{State, decline};
pub use settings::{
    DRAIN_TIMEOUT_DEFAULT, MAX_DRAINING_DEFAULT, MAX_DRAINING_MAX, PROBATION_DEFAULT, READY_TIMEOUT_DEFAULT,
    STOP_TIMEOUT_DEFAULT, TIMEOUT_MAX,
};
pub use shutdown::{Shutdown, Turn};
#[cfg(feature = "supervisor")]
pub use supervisor::supervise;
#[cfg(feature = "allocator")]
pub use sys::Allocator;
pub use waiting::Waiting;
