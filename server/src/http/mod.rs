//! The HTTP/1.1 layer: serves one connection, request by request, from accept to close or hand-over.
//!
//! [`serve`] is the entry: it takes a connection as a [`Start`] and returns how it came to its [`End`]. A handler gets
//! `http_types` requests, each with its peer address and, in `ext`, the raw [`Target`]; it never sees a malformed one.
//! The layer decides on framing, limits, timeouts and when a connection is closed. It accepts nothing and spawns
//! nothing: whoever calls it does.
//!
//! The Host header that a handler gets is the host that the request is for, as it was sent: of the target if that has one.
//! The host in the request's URL is what the library of URLs makes of it: in lower case, a number as an address. A name
//! that it does not take, although RFC 3986 does (`web.1`, `xn--a`), stands there as `host.invalid`.
//!
//! A client that may be answered by a switch of protocols is recognised by its `Upgrade` header: one that has to be
//! ignored (RFC 9110 section 7.8), or that comes with a body, never reaches the handler. The handler answers with
//! [`switch`] to a registered protocol, whose connections move to a newer process, or with status 101, the `Upgrade`
//! header, and `Response::recv_upgrade`, which gives it the connection as a stream that stays in this one. The connection
//! lasts until the stream is dropped, or until the drain's deadline, where it ends; shortly before, [`Shutdown::stopping`]
//! says so. None of the [`Limits`] holds for it any more.
//!
//! A connection whose [`Start`] has a [`Security`] begins with a TLS handshake, which has [a time and a bound](Handshakes);
//! requests over it have [`Tls`] in `ext` and `https` as the scheme of their URL. It moves like any other.
//!
//! Behind proxies that are [trusted](Trust), a request's peer address is the client's, as they say it, its Host and URL have
//! the host and the scheme that the client asked for, and [`Proxied`] in `ext` tells who the proxy is. Anybody else's word
//! on that is a header like any other.
//!
//! A connection moves to a newer process while it is idle, and in the middle of a response whose rest can be described: a
//! body in memory, a [`Content`], a registered [`stream()`]. What moves and how is for [`Moves`] to say. Whatever else is
//! under way stays, and can learn of the drain by the [`Shutdown`] in its request's `ext`. [`guide`](crate::guide) has it
//! for those who write handlers.

mod attached;
mod capacity;
mod connection;
mod deadline;
mod ending;
mod handler;
mod lifetime;
mod limits;
pub(crate) mod message;
pub(crate) mod moves;
pub(crate) mod observe;
mod pace;
mod places;
pub(crate) mod plan;
pub(crate) mod proxied;
mod request_body;
mod security;
mod shutdown;
mod timer;
pub(crate) mod transport;
pub(crate) mod trust;
mod upgrade;
mod wire;

pub use capacity::Capacity;
pub use connection::serve;
pub use handler::{Context, Decorate, Decoration, Handler, Proxied, Screen};
pub(crate) use handler::{Place, Share};
pub use lifetime::{End, Reason, Start, UnderWay, Unfinished};
pub use limits::{LEAST_BYTES_PER_SECOND, Limits};
pub use message::target::Target;
pub use moves::Moves;
pub use observe::{Observe, Served};
pub use plan::content::{Content, Piece};
pub use plan::stream::stream;
pub use proxied::{NoHeader, proxied};
pub use restart_core::Shutdown;
pub use restart_core::frames::{FrameBuffer, KEPT_BYTES_MAX};
pub use restart_core::moves::{Leave, Step};
pub use restart_core::{Drain, Phase};
pub use security::{Established, Handshakes, Security, Tls};
pub(crate) use timer::begin as begin_timers;
pub use trust::Trust;
pub(crate) use trust::address_in;
pub use upgrade::{Switching, Upgraded, switch};
