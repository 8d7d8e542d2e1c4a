//! Connections on tokio: a listener that waits there, and streams that are counted for as long as they live, and that can
//! leave for the next process.
//!
//! It needs the feature `tokio`. [`Builder::start`](crate::Builder::start) comes before any thread, so before the runtime:
//! a program makes it by itself, inside of `main`. What is served over such a stream, and when it leaves, is for those to
//! say who read it; the module `hyper` is one of them.
//!
//! ```no_run
//! use restart_core::Generation;
//! use restart_core::tokio::Listener;
//! use tokio::io::AsyncWriteExt;
//!
//! async fn greet(generation: Generation) -> Result<(), Box<dyn std::error::Error>> {
//!     let mut listener = Listener::new(generation.listener("greeter")?);
//!     while let Some(mut stream) = listener.accept().await {
//!         let number = generation.number();
//!         tokio::spawn(async move {
//!             stream.write_all(format!("generation {number}\n").as_bytes()).await // counted until it is dropped
//!         });
//!     }
//!     Ok(()) // the listener is given up
//! }
//! ```
//!
//! # What stays with the other event loop
//!
//! Accepting, and all that is sent and received, waits in the runtime's own event loop. The
//! [`Driver`](crate::Driver) does not, whichever runtime polls it: its signals, the control socket, the lines to other
//! generations and every timeout are async-io's, in a thread that sleeps while nothing of that happens. Without a service
//! manager nothing wakes it in a process that just serves; with one, the status line does every 5 s, and the watchdog as
//! often as it wants to be fed. A reload, a drain and a stop wake it, and so does each connection that moves.

mod listener;
mod stream;

pub use listener::{Incoming, Listener};
pub use stream::Stream;
