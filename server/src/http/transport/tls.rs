//! TLS whose connections move: the handshake is rustls's, and from its end on the records are our own.
//!
//! rustls cannot rebuild a connection in another process, and this can. [`Handshake`](handshake::Handshake) drives
//! rustls one record at a time, so that nothing behind the client's Finished gets into it, and gives out
//! [`Records`](records::Records), which seal and open what follows. All of it is pure: bytes in, bytes out; whoever
//! holds it owns the socket, the buffers and the deadlines.
//!
//! **The rule of ownership.** No sequence number is ever used twice with one key, in whatever process. Only a live
//! `Records` can seal, and there is one of each: it is no `Clone`; `freeze` consumes it and gives a
//! [`Frozen`](frozen::Frozen), which cannot seal, and `thaw` consumes that. So the sender of a connection freezes
//! before it offers it, and writes nothing from then on, not even an alert; the receiver thaws only after its
//! acknowledgement was sent; the sender thaws again only what came back. Whoever made bytes of a `Frozen` must see to
//! it that one process alone reads them. What was sealed and not sent travels beside, and is sent as it is: sealing it
//! once more would be a second use.
//!
//! A `Frozen` opens all that is sent with its keys from then on to whoever reads it. It never touches a disk, and goes
//! over the generations' own socket pair alone.
//!
//! What the tests keep, since each was a trap once:
//! - A sequence number is spent before anything can fail, and padding counts in the bound of a record.
//! - A KeyUpdate can be split over records and cut by a move. Its answer goes before the next data, from wherever.
//! - A key of AES-GCM is replaced after 2^24 records (counted across moves); TLS 1.2 has no way to, and closes.
//! - Records in a row that bring nothing are bounded, as long as nothing is sent to the client either.
//! - A client that has ended its direction is still answered. A renegotiation is refused by a warning.
//! - A header is believed only after the first byte said that this is TLS: `GET /`, read as one, waits for 8 KB.
//! - "Readable" also means that a whole record waits here: `Records::open` is asked before the socket is waited for.
//!
//! ring forgets the keys that it has expanded without overwriting them; what they come from is overwritten here.
#![forbid(unsafe_code)]

pub(crate) mod failure;
pub(crate) mod frozen;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
pub(crate) mod handshake;
mod key_log;
pub(crate) mod keys;
pub(crate) mod records;
pub(crate) mod secret;
#[cfg(test)]
mod tests;
