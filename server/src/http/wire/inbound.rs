//! What arrives on a connection: its socket, the bytes received, and the body that is being read.
//!
//! The connection and the body reader inside its request share a [`Wire`]. Between two messages only the connection
//! holds it, so that it can be taken apart and handed over. All bytes of a connection are received here, and here only.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::net::Shutdown;

use super::buffer::Buffer;
use super::chunked::{Chunked, Next};
use super::deadline::Deadline;
use super::framing::Framing;
use super::pace::{Over, Pace};
use super::refusal::Refusal;
use super::socket::Socket;
use crate::http::{Capacity, Limits};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection's socket and what has come in on it.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Socket,
    inbound: Mutex<Inbound>,
    /// Who calls for room.
    pub(super) capacity: Arc<Capacity>,
}

/// The bytes received, and the body that they belong to if a request with one is being served.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// The bytes received and not yet used.
    pub(crate) buffer: Buffer,
    /// The body of the current request, complete or not.
    pub(crate) body: Option<Body>,
    /// Counts the messages, so that a body reader that outlives its request reads nothing of the next one.
    message: u64,
}

/// Why a request's body cannot be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The client broke a rule or a limit.
    Refused(Refusal),
    /// The bytes came too slowly, or none for too long.
    Late,
    /// They came slowly, and others waited for room.
    Crowded,
    /// The client closed the connection within the body.
    Cut,
    /// The connection failed.
    Failed(io::ErrorKind),
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> io::Error {
        match fault {
            Fault::Refused(refusal) => io::Error::new(io::ErrorKind::InvalidData, refusal.cause),
            Fault::Late | Fault::Crowded => io::Error::new(io::ErrorKind::TimedOut, "the body came too slowly"),
            Fault::Cut => io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed within the body"),
            Fault::Failed(kind) => kind.into(),
        }
    }
}

/// How the 100 that a client may wait for stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Continue {
    /// The client does not wait, or got its 100.
    Settled,
    /// The client waits; this much of the 100 is still to be sent.
    Wanted { left: &'static [u8] },
    /// The response began before the 100 was sent: it can't be sent any more, and the client may never send the body.
    TooLate,
}

/// A request's body while it is read.
#[derive(Debug)]
pub(crate) struct Body {
    decoder: Decoder,
    fault: Option<Fault>,
    interim: Continue,
    /// How much longer whoever reads it waits for bytes.
    pace: Pace,
    deadline: Deadline,
    /// How many bytes were read since the task last gave way to others.
    unyielded: usize,
    /// Whether the reader of the body was dropped: nobody will read what is left.
    pub(crate) abandoned: bool,
}

#[derive(Debug)]
enum Decoder {
    Length(u64),
    Chunked(Box<Chunked>),
    Complete,
}

impl Body {
    /// A body that is about to be read; none if the framing says that there is none.
    pub(crate) fn new(framing: Framing, expects_continue: bool, limits: &Limits) -> Option<Body> {
        let decoder = match framing {
            Framing::None => return None,
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::Chunked(Box::new(Chunked::new(limits.body_bytes))),
        };
        let interim = if expects_continue { Continue::Wanted { left: CONTINUE } } else { Continue::Settled };
        let (pace, deadline) = (Pace::new(limits.body_timeout), Deadline::default());
        Some(Body { decoder, fault: None, interim, pace, deadline, unyielded: 0, abandoned: false })
    }

    /// Whether all of it was read.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.decoder, Decoder::Complete)
    }

    /// What made it unreadable, if anything did.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether the client sends what is left without being asked.
    pub(crate) fn is_coming(&self) -> bool {
        self.fault.is_none() && self.interim == Continue::Settled
    }

    /// How many bytes are left, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self.decoder {
            Decoder::Length(left) => Some(left),
            Decoder::Chunked(_) => None,
            Decoder::Complete => Some(0),
        }
    }

    /// Rules out a 100 from now on, because the response begins. Returns the rest of one that was partly sent.
    pub(crate) fn response_begins(&mut self) -> &'static [u8] {
        match self.interim {
            Continue::Settled | Continue::TooLate => b"",
            Continue::Wanted { left } if left.len() < CONTINUE.len() => {
                self.interim = Continue::Settled;
                left
            }
            Continue::Wanted { .. } => {
                self.interim = Continue::TooLate;
                b""
            }
        }
    }

    /// Waits for the deadline of whoever waits for bytes.
    fn poll_late(&mut self, room: &Capacity, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let over = self.pace.poll(&mut self.deadline, room, context);
        over.map(|over| Err(if over == Over::Late { Fault::Late } else { Fault::Crowded }))
    }

    /// Advances through framing at the start of `buffer`. Returns how many bytes of data come next, 0 at the end of the
    /// body, or nothing if more input is needed to know.
    fn next_data(&mut self, buffer: &mut Buffer) -> Result<Option<u64>, Fault> {
        match &mut self.decoder {
            Decoder::Complete => Ok(Some(0)),
            Decoder::Length(left) => Ok(Some(*left)),
            Decoder::Chunked(chunked) => {
                let (used, next) = chunked.advance(buffer.filled()).map_err(Fault::Refused)?;
                buffer.consume(used);
                Ok(match next {
                    Next::Data(left) => Some(left),
                    Next::More => None,
                    Next::End => Some(0),
                })
            }
        }
    }

    /// Says that `count` bytes of data were taken. The end of a body of known length is reached by taking them.
    fn took(&mut self, count: usize) {
        self.unyielded += count;
        match &mut self.decoder {
            Decoder::Length(left) => {
                *left -= count as u64;
                if *left == 0 {
                    self.decoder = Decoder::Complete;
                }
            }
            Decoder::Chunked(chunked) => chunked.took(count as u64),
            Decoder::Complete => {}
        }
    }
}

impl Inbound {
    /// The number of the message that is being read.
    pub(crate) fn message(&self) -> u64 {
        self.message
    }

    /// Begins a message; returns its number, which its body reader has to show.
    pub(crate) fn begin(&mut self, body: Option<Body>) -> u64 {
        self.message += 1;
        self.body = body;
        self.message
    }

    /// Says that the reader of message `message` was dropped.
    pub(crate) fn abandon(&mut self, message: u64) {
        if self.message == message
            && let Some(body) = &mut self.body
        {
            body.abandoned = true;
            body.unyielded = 0;
        }
    }
}

/// The trailers of a chunked body, raw, once: what [`Wire::poll_body`] gives with the end of the body.
pub(crate) type Trailers = Vec<u8>;

impl Wire {
    /// A connection whose first bytes were received elsewhere. `local` says that it may be one of a Unix socket, and
    /// `capacity` calls for room.
    pub(crate) fn new(socket: OwnedFd, local: bool, read_ahead: Vec<u8>, capacity: &Arc<Capacity>) -> io::Result<Wire> {
        let inbound = Inbound { buffer: Buffer::with(read_ahead), ..Inbound::default() };
        let (socket, capacity) = (Socket::new(socket, local)?, Arc::clone(capacity));
        Ok(Wire { socket, inbound: Mutex::new(inbound), capacity })
    }

    /// The bytes received. The lock is never held across a wait.
    pub(crate) fn inbound(&self) -> MutexGuard<'_, Inbound> {
        // A panic while it was held leaves at worst bytes that fail the next check.
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the wire apart: the socket, which no poller knows any more, and the bytes received and not yet used. Gives it
    /// back if somebody else (a body reader, this very moment) holds it too.
    pub(crate) fn into_parts(self: Arc<Self>) -> Result<io::Result<(OwnedFd, Vec<u8>)>, Arc<Self>> {
        let mut wire = Arc::try_unwrap(self)?;
        let waiting = wire.inbound.get_mut().unwrap_or_else(PoisonError::into_inner).buffer.take();
        Ok(wire.socket.into_fd().map(|socket| (socket, waiting)))
    }

    /// Waits until the socket can be read.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_readable(context)
    }

    /// Waits until the socket can be written to.
    pub(crate) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_writable(context)
    }

    /// Waits until nobody is at the other end.
    pub(crate) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_gone(context)
    }

    /// Receives once, without waiting, into the buffer. Returns the number of bytes, 0 at the end of the stream.
    pub(crate) fn receive(&self) -> io::Result<usize> {
        let inbound = &mut *self.inbound();
        let received = self.receive_into(inbound.buffer.room());
        match received {
            Ok(count) => inbound.buffer.added(count),
            Err(_) => inbound.buffer.settle(),
        }
        received
    }

    /// Receives once, without waiting, into `room`.
    pub(crate) fn receive_into(&self, room: &mut [u8]) -> io::Result<usize> {
        self.socket.receive(room)
    }

    /// Sends once, without waiting: of the first bytes and then of the second.
    pub(crate) fn send(&self, parts: [&[u8]; 2]) -> io::Result<usize> {
        self.socket.send(parts)
    }

    /// Says to the client that nothing more will be sent.
    pub(crate) fn shut_down_sending(&self) {
        self.socket.shut_down(Shutdown::Write);
    }

    /// Ends both directions, also for whoever else holds the wire.
    pub(crate) fn shut_down(&self) {
        self.socket.shut_down(Shutdown::Both);
    }

    /// Ends both directions by a reset, also for whoever else holds the wire.
    pub(crate) fn reset(&self) {
        self.socket.reset();
    }

    /// Reads bytes of the body of message `message`. Returns 0 at its end, once with the raw trailers of a chunked body.
    pub(crate) fn poll_body(
        &self,
        context: &mut Context<'_>,
        message: u64,
        into: &mut [u8],
    ) -> Poll<io::Result<(usize, Option<Trailers>)>> {
        let inbound = &mut *self.inbound();
        let Inbound { buffer, body: Some(body), .. } = inbound else {
            return Poll::Ready(Err(over()));
        };
        if inbound.message != message {
            return Poll::Ready(Err(over()));
        }
        if let Some(fault) = body.fault {
            return Poll::Ready(Err(fault.into()));
        }
        let outcome = ready!(self.poll_data(context, buffer, body, into));
        Poll::Ready(outcome.map_err(|fault| {
            body.fault = Some(fault);
            fault.into()
        }))
    }

    /// Records that the current body breaks a rule that only its reader can see.
    pub(crate) fn refuse_body(&self, refusal: Refusal) -> io::Error {
        let fault = Fault::Refused(refusal);
        if let Some(body) = &mut self.inbound().body {
            body.fault = Some(fault);
        }
        fault.into()
    }

    fn poll_data(
        &self,
        context: &mut Context<'_>,
        buffer: &mut Buffer,
        body: &mut Body,
        into: &mut [u8],
    ) -> Poll<Result<(usize, Option<Trailers>), Fault>> {
        if body.unyielded > YIELD_BYTES {
            // A client that sends faster than its body is read must not keep all others waiting.
            body.unyielded = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let next = body.next_data(buffer)?;
            if next == Some(0) {
                return Poll::Ready(Ok((0, finish(body))));
            }
            let wanted = next.map_or(0, |left| usize::try_from(left).unwrap_or(usize::MAX));
            if wanted > 0 && (!buffer.is_empty() || into.is_empty()) {
                let count = wanted.min(into.len()).min(buffer.filled().len());
                into[..count].copy_from_slice(&buffer.filled()[..count]);
                buffer.consume(count);
                body.took(count);
                return Poll::Ready(Ok((count, None)));
            }
            ready!(self.poll_continue(context, body))?;
            // Data goes straight to where it is wanted if that is worth a read; framing always goes to the buffer.
            let direct = if wanted.min(into.len()) >= DIRECT_BYTES_MIN { wanted.min(into.len()) } else { 0 };
            let received = match direct {
                0 => self.receive_into(buffer.room()),
                _ => self.receive_into(&mut into[..direct]),
            };
            match received {
                Ok(0) => return Poll::Ready(Err(Fault::Cut)),
                Ok(count) => {
                    body.pace.moved(count);
                    if direct > 0 {
                        body.took(count);
                        return Poll::Ready(Ok((count, None)));
                    }
                    buffer.added(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    buffer.settle();
                    ready!(self.poll_more(context, body))?;
                }
                Err(error) => return Poll::Ready(Err(Fault::Failed(error.kind()))),
            }
        }
    }

    /// Waits for the socket to become readable, up to the body's deadline.
    fn poll_more(&self, context: &mut Context<'_>, body: &mut Body) -> Poll<Result<(), Fault>> {
        if self.socket.poll_readable(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        body.poll_late(&self.capacity, context)
    }

    /// Sends the 100 that the client waits for, if it does.
    fn poll_continue(&self, context: &mut Context<'_>, body: &mut Body) -> Poll<Result<(), Fault>> {
        while let Continue::Wanted { left } = body.interim {
            match self.send([left, b""]) {
                Ok(count) if count == left.len() => body.interim = Continue::Settled,
                Ok(count) => body.interim = Continue::Wanted { left: &left[count..] },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.socket.poll_writable(context).is_pending() {
                        return body.poll_late(&self.capacity, context);
                    }
                }
                Err(error) => return Poll::Ready(Err(Fault::Failed(error.kind()))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The least that is received straight into the reader's memory; less than this is worth a copy for fewer reads.
const DIRECT_BYTES_MIN: usize = 4 * 1024;

/// After so many bytes of a body without a wait its reader gives way to other tasks.
const YIELD_BYTES: usize = 256 * 1024;

fn over() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the request that this body belongs to is over")
}

fn finish(body: &mut Body) -> Option<Trailers> {
    match std::mem::replace(&mut body.decoder, Decoder::Complete) {
        Decoder::Chunked(chunked) => Some(chunked.into_trailers()),
        Decoder::Length(_) | Decoder::Complete => None,
    }
}
