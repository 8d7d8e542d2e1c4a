//! An HTTP/1.1 load generator on raw sockets, which notices what a client library would hide: a connection that the
//! server closes while it is idle, a reset, an answer that nobody asked for, a request that stays without one.
//!
//! [`Load`] describes the clients, [`Running`] is the load while it runs, [`Report`] is what it saw. [`Connection`] is
//! one client connection by itself, for tests that play a scenario byte by byte.

mod answer;
mod chat;
mod client;
mod connection;
mod crowd;
mod download;
mod event_stream;
mod failure;
mod fault;
mod incoming;
mod lasting;
pub mod pattern;
mod plan;
mod report;
mod secured;
mod socket;
mod tally;
mod target;

pub use answer::Answer;
pub use chat::Chat;
pub use client::{Kind, Upload};
pub use connection::{Connection, Limits, Lost, Request};
pub use crowd::{CROWD_BYTES, Crowd, CrowdReport, Numbers};
pub use download::{Download, Downloading};
pub use event_stream::{Event, EventStream};
pub use failure::{Close, Failure};
pub use fault::{Fault, FaultKind};
pub use lasting::Class;
pub use plan::{Load, Running, raise_fd_limit};
pub use report::{ClassReport, ClientReport, FaultReport, Latency, LostRequest, PidReport, Report};
pub use secured::handshakes;
pub use socket::Look;
pub use target::Target;
