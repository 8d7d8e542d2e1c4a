//! What every peer answers, so that they differ in nothing but the server: a short text, bodies of five sizes from
//! memory, `/fast`, by which a client finds out whose answer it is and who gave it, and the event stream `/events?ms=N`.
//!
//! The peer of pingora, which is a workspace of its own, has this file as well.

use std::time::Duration;

/// The content type of everything but event streams.
pub const TEXT: &str = "text/plain";

/// That of event streams.
pub const EVENTS: &str = "text/event-stream";

/// The answers to fixed paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fixed {
    /// These bytes.
    Bytes(&'static [u8]),
    /// The request's `x-id` and the process, in the body and in headers.
    Tagged,
    /// An event stream without an end.
    Events,
    /// Nothing is there.
    None,
}

static BODY: [u8; 8 << 20] = [b'x'; 8 << 20];

/// What is at a path.
#[must_use]
pub fn fixed(path: &str) -> Fixed {
    match path {
        "/" => Fixed::Bytes(b"cout\n"),
        "/1k" => Fixed::Bytes(&BODY[..1 << 10]),
        "/100k" => Fixed::Bytes(&BODY[..100 << 10]),
        "/1m" => Fixed::Bytes(&BODY[..1 << 20]),
        "/8m" => Fixed::Bytes(&BODY),
        "/fast" => Fixed::Tagged,
        "/events" => Fixed::Events,
        _ => Fixed::None,
    }
}

/// The body at `/fast`.
#[must_use]
pub fn tagged(id: &str) -> String {
    format!("id={id} pid={}\n", std::process::id())
}

/// The time between two events, from the query of an event stream: the project's load tool asks for a number of
/// milliseconds.
#[must_use]
pub fn interval(query: Option<&str>) -> Duration {
    let asked = query.and_then(|query| query.strip_prefix("ms=")?.parse().ok());
    Duration::from_millis(asked.unwrap_or(1000))
}

/// The event with this number, as the load tool reads it. What it calls a generation is the same for all peers.
#[must_use]
pub fn event(id: u64) -> String {
    format!("id: {id}\ndata: generation=0 pid={}\n\n", std::process::id())
}
