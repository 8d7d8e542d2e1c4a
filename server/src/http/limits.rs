//! The bounds of a connection: how much a client may send, and how long it may take.
//!
//! Every wait on a client and every byte kept for it is bounded by one of these values. They are plain data: the command
//! line fills them, the connection obeys.

use std::time::Duration;

/// The pace below which a client uses up [`Limits::body_timeout`] or [`Limits::write_timeout`], although it sends or
/// takes something now and then. A modem is ten times as fast.
pub const LEAST_BYTES_PER_SECOND: u64 = 500;

/// The bounds that each connection is held to. The defaults suit a server that faces the internet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a request's head. Beyond it: 431, or 414 while the request line is not complete. 16 KiB.
    pub head_bytes: usize,
    /// The most header lines of a request, 256 at the most. Beyond it: 431. 100.
    pub headers: usize,
    /// The most bytes of a request's body. Beyond it: 413. 1 GiB.
    pub body_bytes: u64,
    /// How long a connection may be idle between requests, or before its first. Then it is closed. 75 s:
    /// longer than the load balancers in front of it (60 s), whose next request might else meet the close.
    pub idle_timeout: Duration,
    /// How long a head may take from its first byte to its last. Then: 408. 10 s.
    pub head_timeout: Duration,
    /// How long a body may be waited for; [`LEAST_BYTES_PER_SECOND`] earn the time back. Then: 408. 20 s.
    pub body_timeout: Duration,
    /// How long a client may be waited for to take its response; [`LEAST_BYTES_PER_SECOND`] earn the time back. Then the
    /// connection is closed. 20 s.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_bytes: 16 * 1024,
            headers: 100,
            body_bytes: 1 << 30,
            idle_timeout: Duration::from_secs(75),
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(20),
        }
    }
}
