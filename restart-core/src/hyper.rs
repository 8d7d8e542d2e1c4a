//! Serving a hyper or tower service whose connections outlive their process.
//!
//! It needs the feature `hyper`. A [`Server`] serves each connection of a listener, and what comes from older processes:
//!
//! | at a reload | what happens to it |
//! |---|---|
//! | HTTP/1, idle or within a request's head | moves to the new process |
//! | a request in flight | is answered, then its connection moves |
//! | a registered stream ([`stream()`]) | moves between two pieces |
//! | a registered protocol ([`switch`]), a WebSocket ([`websocket`]) | moves where it says so |
//! | an upgrade by hyper (`hyper::upgrade::on`) | stays, is counted, and can learn of it ([`Shutdown`]) |
//! | HTTP/2 (prior knowledge) | is told by GOAWAY when it is quiet; every stream that began is finished |
//!
//! Where nobody takes a connection it goes on in its process, and ends after the request in flight. Each request has the
//! other end's [`Address`](crate::Address) and a [`Shutdown`] in its extensions.
//!
//! Streams and protocols are registered in [`Moves`], by names that stand for how their states are read. The new process is
//! the same program, or another version of it, and has registered them as well. Its words are those of the crate `server`.

mod body;
mod description;
mod ending;
mod exchange;
mod http1;
mod http2;
mod moves;
mod progress;
mod sending;
mod server;
#[cfg(test)]
mod tests;
mod under_way;
mod upgrade;
mod watch;
#[cfg(feature = "websocket")]
pub mod websocket;

pub use crate::moves::{Leave, Step};
pub use crate::shutdown::Shutdown;
pub use body::{RequestBody, ResponseBody};
pub use exchange::HttpService;
pub use moves::{Moves, stream, switch};
pub use server::Server;
pub use upgrade::Upgraded;
