//! The body of a request as the application reads it.
//!
//! A [`BodyReader`] is what stands in a request's `Body`. It reads from the connection that the request came on, and
//! from nothing but its own message: when the request is over, so is the reader. Dropping it tells the connection that
//! nobody will read the rest.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};

use futures_lite::{AsyncBufRead, AsyncRead};
use http_types::trailers::Sender;
use http_types::{Request, Trailers};

use super::limits::Limits;
use super::message::decode::ascii;
use super::message::framing::Framing;
use super::message::refusal::Refusal;
use super::transport::buffer;
use super::wire::Wire;

/// The most trailer lines that reach the application.
const TRAILERS_MAX: usize = 64;

/// Begins a message on `wire`: puts the body's reader into `request`, if it has a body.
pub(super) fn attach(
    wire: &Arc<Wire>,
    request: &mut Request,
    framing: Framing,
    expects_continue: bool,
    limits: &Limits,
) {
    let (length, trailers) = match framing {
        // Whoever has answered the request before has ended its message: no reader has the number that is now.
        Framing::None => return,
        Framing::Length(length) => (usize::try_from(length).ok(), None),
        Framing::Chunked => (None, Some(request.send_trailers())),
    };
    let message = wire.begin_request(framing, expects_continue, limits);
    // Setting a body makes up a Content-Type where the client sent none.
    let typed = request.header("content-type").is_some();
    let reader = BodyReader { wire: Arc::downgrade(wire), message, trailers, ahead: Vec::new(), at: 0, end: 0 };
    request.set_body(http_types::Body::from_reader(reader, length));
    if !typed {
        request.remove_header("content-type");
    }
}

/// Reads one request's body.
#[derive(Debug)]
struct BodyReader {
    wire: Weak<Wire>,
    message: u64,
    trailers: Option<Sender>,
    /// What `fill_buf` shows: `ahead[at..end]`. No memory unless it is used.
    ahead: Vec<u8>,
    at: usize,
    end: usize,
}

impl BodyReader {
    fn poll_wire(&mut self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let Some(wire) = self.wire.upgrade() else {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::NotConnected, "the connection is gone")));
        };
        let (count, trailers) = ready!(wire.poll_body(context, self.message, into))?;
        if let Some(raw) = trailers
            && let Some(sender) = self.trailers.take()
        {
            let trailers = parse(&raw).map_err(|refusal| wire.refuse_body(refusal))?;
            // The channel has room for the one message that it is for, so this is over at once.
            let _ = pin!(sender.send(trailers)).poll(&mut Context::from_waker(Waker::noop()));
        }
        Poll::Ready(Ok(count))
    }
}

/// Reads trailer lines. The framing of the section was checked; this checks each line.
fn parse(raw: &[u8]) -> Result<Trailers, Refusal> {
    let mut lines = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    let Ok(httparse::Status::Complete((_, lines))) = httparse::parse_headers(raw, &mut lines) else {
        return Err(Refusal::bad("malformed trailers"));
    };
    let mut trailers = Trailers::new();
    for line in lines {
        trailers.append(line.name, ascii(line.value).as_ref());
    }
    Ok(trailers)
}

impl AsyncRead for BodyReader {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.at == self.end {
            return self.poll_wire(context, into);
        }
        let count = into.len().min(self.end - self.at);
        into[..count].copy_from_slice(&self.ahead[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncBufRead for BodyReader {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.at == this.end {
            let mut ahead = std::mem::take(&mut this.ahead);
            if ahead.is_empty() {
                ahead = buffer::lend(false);
            }
            let read = this.poll_wire(context, &mut ahead);
            this.ahead = ahead;
            (this.at, this.end) = (0, 0);
            this.end = ready!(read)?;
        }
        Poll::Ready(Ok(&this.ahead[this.at..this.end]))
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        self.at = (self.at + count).min(self.end);
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        buffer::give_back(std::mem::take(&mut self.ahead));
        if let Some(wire) = self.wire.upgrade() {
            wire.abandon(self.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_are_read_and_malformed_ones_are_an_error() {
        let trailers = parse(b"A: b\r\nC: \xe9\r\n\r\n").expect("valid");
        assert_eq!((trailers["a"].as_str(), trailers["c"].as_str()), ("b", "%E9"));
        assert!(parse(b"\r\n").is_ok());
        assert!(parse(b"A b\r\n\r\n").is_err());
        assert!(parse(b" folded: x\r\n\r\n").is_err());
    }
}
