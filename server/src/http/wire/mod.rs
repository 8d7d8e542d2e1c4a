//! Everything between the socket and `http_types`: every byte read, every limit, every rule of HTTP/1.1 framing.
//!
//! Inbound: [`head`] finds and checks a head, [`framing`] decides how long its body is, [`target`] reads what it asks
//! for, [`decode`] hands it to async-h1, [`inbound`] and [`chunked`] read the body for [`body`], which the application
//! holds. Outbound: [`encode`] checks a response and writes its head, [`outbound`] sends it. Both go through [`socket`].
//! The modules below know nothing of connections, phases or handlers; `http::connection` drives them.

pub(crate) mod body;
pub(crate) mod buffer;
pub(crate) mod chunked;
pub(crate) mod deadline;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod framing;
pub(crate) mod head;
pub(crate) mod inbound;
pub(crate) mod outbound;
pub(crate) mod pace;
pub(crate) mod refusal;
mod socket;
pub(crate) mod target;
