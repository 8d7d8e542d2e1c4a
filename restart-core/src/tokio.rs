//! Connections on tokio: a stream that is counted for as long as it lives, and that can leave for the next process.
//!
//! It needs the feature `tokio`. [`Builder::start`](crate::Builder::start) comes before any thread, so before the runtime:
//! a program makes it by itself, inside of `main`. What is served over such a stream, and when it leaves, is for those to
//! say who read it; the module `hyper` is one of them.
//!
//! ```no_run
//! use restart_core::Accepted;
//! use restart_core::tokio::Stream;
//! use tokio::io::AsyncWriteExt;
//!
//! async fn greet(accepted: Accepted, number: u64) -> std::io::Result<()> {
//!     let mut stream = Stream::new(accepted)?; // counted until it is dropped
//!     stream.write_all(format!("generation {number}\n").as_bytes()).await
//! }
//! ```

mod stream;

pub use stream::Stream;
