//! Protocol upgrades (RFC 9110 section 7.8): from an HTTP/1.1 connection to a stream of bytes in the handler's hands.
//!
//! Owns what an offered and an accepted upgrade are, and the stream that the handler gets. When one may be accepted is
//! decided where a head is checked; when the connection ends, in `connection`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use http_types::headers::{HeaderValue, UPGRADE};
use http_types::{Request, Response, StatusCode};
use smol::channel::Sender;

use super::wire::Wire;

/// The protocols that a client offers to go on with, as it wrote them.
pub(super) type Offer = String;

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
    if response.has_upgrade() { Ok(()) } else { Err("status 101 without recv_upgrade") }
}

fn protocols(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(str::trim).filter(|protocol| !protocol.is_empty())
}

/// The connection as a stream, from the first byte after the request's head. Its reader gets the end of the stream at
/// the drain's deadline.
#[derive(Debug)]
pub(super) struct Upgraded {
    wire: Arc<Wire>,
    /// Dropped with the stream: then the connection's task goes on.
    _held: Sender<()>,
}

impl Upgraded {
    pub(super) fn new(wire: Arc<Wire>, held: Sender<()>) -> Upgraded {
        Upgraded { wire, _held: held }
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

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
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
