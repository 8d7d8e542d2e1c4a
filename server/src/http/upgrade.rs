//! Protocol upgrades (RFC 9110 section 7.8): from an HTTP/1.1 connection to a stream of bytes in the handler's hands.
//!
//! Owns what an offered and an accepted upgrade are, and the stream that the handler, or the registered protocol that it
//! switches to, gets. When one may be accepted is decided where a head is checked; when the connection ends or moves, in
//! `connection`.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use http_types::headers::{HeaderValue, UPGRADE};
use http_types::{Request, Response, StatusCode};
use restart_core::{Drain, Shutdown};
use smol::channel::Sender;

use super::shutdown::is_to_move;
use super::wire::Wire;

/// The protocols that a client offers to go on with, as it wrote them.
pub(super) type Offer = String;

/// What a connection goes on with after a switch of protocols: the registered protocol of this name, at this state.
#[derive(Clone, Debug)]
pub struct Switching {
    pub(crate) name: String,
    pub(crate) state: Vec<u8>,
}

/// The response that switches to the registered protocol of this name, at this state. `token` is what the `Upgrade` header
/// calls it: one that the client has offered. Where no such protocol is registered
/// ([`Moves::protocol`](super::Moves::protocol)), 500 is answered.
pub fn switch(token: &str, name: &str, state: Vec<u8>) -> Response {
    let mut response = Response::new(StatusCode::SwitchingProtocols);
    response.insert_header(UPGRADE, token);
    response.ext_mut().insert(Switching { name: name.to_owned(), state });
    response
}

/// Takes the offer of a request. One that cannot be followed is hidden, since it is to be ignored.
pub(super) fn offer(request: &mut Request, possible: bool) -> Option<Offer> {
    if possible {
        let lines: Vec<&str> = request.header(UPGRADE)?.iter().map(HeaderValue::as_str).collect();
        return Some(lines.join(","));
    }
    request.remove_header(UPGRADE);
    None
}

/// What is wrong with an interim response as the answer, if anything is. Only an offered upgrade may be one.
pub(super) fn check(response: &Response, offer: Option<&Offer>) -> Result<(), &'static str> {
    if !response.status().is_informational() {
        return Ok(());
    }
    if response.status() != StatusCode::SwitchingProtocols {
        return Err("an interim status as the answer");
    }
    let offer = offer.ok_or("status 101, which the client did not ask for or may not have")?;
    let lines = response.header(UPGRADE).into_iter().flat_map(|lines| lines.iter());
    let chosen: Vec<&str> = lines.flat_map(|line| protocols(line.as_str())).collect();
    if chosen.is_empty() {
        return Err("status 101 without a protocol in an Upgrade header");
    }
    if !chosen.iter().all(|one| protocols(offer).any(|other| one.eq_ignore_ascii_case(other))) {
        return Err("an upgrade to a protocol that the client did not offer");
    }
    if response.has_upgrade() || response.ext().get::<Switching>().is_some() {
        Ok(())
    } else {
        Err("status 101 without recv_upgrade, and without a registered protocol")
    }
}

fn protocols(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(str::trim).filter(|protocol| !protocol.is_empty())
}

/// The connection as a stream, from the first byte after the request's head, or after a move. Its reader gets the end of
/// the stream at the drain's deadline, or the stop's.
#[derive(Debug)]
pub struct Upgraded {
    wire: Arc<Wire>,
    drain: Arc<Drain>,
    peer: Option<String>,
    /// Whether it may move, but for the drain in which nobody took it.
    may_move: bool,
    declined: Option<usize>,
    /// Dropped with the stream: then the connection's task goes on, where it waits for that.
    _held: Option<Sender<()>>,
}

impl Upgraded {
    /// The connection as a stream. It may move, if at all, in any drain but the one in which nobody took it.
    pub(super) fn new(
        wire: &Arc<Wire>,
        drain: &Arc<Drain>,
        peer: Option<String>,
        (may_move, declined): (bool, Option<usize>),
        held: Option<Sender<()>>,
    ) -> Upgraded {
        Upgraded { wire: Arc::clone(wire), drain: Arc::clone(drain), peer, may_move, declined, _held: held }
    }

    /// The other end's address, as in the request's `peer_addr`.
    pub fn peer_addr(&self) -> Option<&str> {
        self.peer.as_deref()
    }

    /// What can be learned of the end of this process.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown::new(&self.drain)
    }

    /// Waits until the connection should go on in a newer process, by [`Leave::Move`](super::Leave::Move). It is
    /// never ready for a stream that was got by `recv_upgrade`.
    pub fn moves(&self) -> impl Future<Output = ()> + Send + use<> {
        let (drain, may_move, declined) = (Arc::clone(&self.drain), self.may_move, self.declined);
        async move {
            loop {
                let changes = drain.changes();
                if is_to_move(&drain, may_move, declined) {
                    return;
                }
                drain.next_change(changes).await;
            }
        }
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let wire = &self.wire;
        {
            let buffer = &mut wire.transport.received();
            if !buffer.is_empty() {
                let count = into.len().min(buffer.filled().len());
                into[..count].copy_from_slice(&buffer.filled()[..count]);
                buffer.consume(count);
                buffer.settle();
                return Poll::Ready(Ok(count));
            }
        }
        loop {
            match wire.transport.receive_into(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(wire.transport.poll_readable(context));
                }
                received => return Poll::Ready(received),
            }
        }
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.wire.transport.send([bytes, b""]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.wire.transport.poll_writable(context));
                }
                sent => return Poll::Ready(sent),
            }
        }
    }

    /// Over TLS a write takes bytes that have not left yet: they do so here, or while the stream is read.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.wire.transport.flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.wire.transport.poll_writable(context));
                }
                flushed => return Poll::Ready(flushed),
            }
        }
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.transport.shut_down_sending();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch(protocol: &str) -> Response {
        let mut response = Response::new(StatusCode::SwitchingProtocols);
        response.insert_header(UPGRADE, protocol);
        drop(futures_lite::future::block_on(response.recv_upgrade()));
        response
    }

    #[test]
    fn only_what_the_client_offered_is_switched_to() {
        let offer = "h2c, WebSocket, irc/6.9".to_owned();
        for protocol in ["websocket", "IRC/6.9", "h2c,websocket"] {
            assert_eq!(check(&switch(protocol), Some(&offer)), Ok(()), "{protocol}");
        }
        for protocol in ["echo", "irc", "websocket, echo"] {
            assert!(check(&switch(protocol), Some(&offer)).is_err(), "{protocol}");
        }
        assert!(check(&switch("websocket"), None).is_err());
    }

    #[test]
    fn a_switch_without_its_header_or_its_stream_is_refused() {
        let offer = "echo".to_owned();
        let mut bare = switch("echo");
        bare.remove_header(UPGRADE);
        assert!(check(&bare, Some(&offer)).is_err());
        let mut streamless = Response::new(StatusCode::SwitchingProtocols);
        streamless.insert_header(UPGRADE, "echo");
        assert!(check(&streamless, Some(&offer)).is_err());
        for status in [100, 103] {
            assert!(check(&Response::new(status), Some(&offer)).is_err(), "{status}");
        }
        assert_eq!(check(&Response::new(200), None), Ok(()));
    }
}
