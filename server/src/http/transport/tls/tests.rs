//! What the records and the handshake promise, each against rustls on the other side or against records made by hand.

mod differential;
mod handshake;
mod interop;
mod moves;
mod records;
mod support;
mod vectors;
