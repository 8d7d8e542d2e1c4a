//! What a connection and the reader of its request's body share: the transport, and the body that is being read.
//!
//! Between two messages only the connection holds a [`Wire`], so that it can be taken apart and handed over. A body is
//! read here, from the bytes received and from the transport, with the framing taken off by [`body`]; what the
//! application holds is the reader in `request_body`. Nothing here knows of phases, handlers or responses.

mod body;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use body::RequestBody;
pub(super) use body::Trailers;
pub(super) use body::{BodyState, Fault};

use super::capacity::Capacity;
use super::limits::Limits;
use super::message::framing::Framing;
use super::message::head;
use super::message::refusal::Refusal;
use super::transport::Transport;
use super::transport::buffer::Buffer;
use super::transport::secured::Sealed;
use crate::lock::unpoisoned;

/// The least that is received straight into the reader's memory; less than this is worth a copy for fewer reads.
const DIRECT_BYTES_MIN: usize = 4 * 1024;

/// A connection's transport, and the request body that comes in on it.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(super) transport: Transport,
    incoming: Mutex<Incoming>,
    /// Whether the current request has a body: most have none, and need no lock to know it.
    has_body: AtomicBool,
    /// Who calls for room.
    pub(super) capacity: Arc<Capacity>,
}

/// A connection taken apart: its socket, what was received and not used yet, and what of TLS goes with it.
pub(super) type Parts = (OwnedFd, Vec<u8>, Option<Sealed>);

/// The body that is being read.
#[derive(Debug, Default)]
struct Incoming {
    /// The body of the current request, complete or not.
    body: Option<RequestBody>,
    /// Counts the messages, so that a reader that outlives its request reads nothing of the next one.
    message: u64,
}

impl Wire {
    /// A connection whose first bytes were received elsewhere, and what of TLS was there. `local` says that it may be one of
    /// a Unix socket, and `capacity` calls for room.
    pub(super) fn new(
        socket: OwnedFd,
        local: bool,
        (read_ahead, sealed): (Vec<u8>, Option<Sealed>),
        capacity: &Arc<Capacity>,
    ) -> io::Result<Wire> {
        let transport = Transport::new(socket, local, read_ahead, sealed)?;
        let (incoming, has_body) = (Mutex::default(), AtomicBool::new(false));
        Ok(Wire { transport, incoming, has_body, capacity: Arc::clone(capacity) })
    }

    /// Takes the wire apart: the socket, which no poller knows any more, the bytes received and not yet used, and what of
    /// TLS goes with them. Gives it back if somebody else (a body's reader, this very moment) holds it too.
    pub(super) fn into_parts(self: Arc<Self>) -> Result<io::Result<Parts>, Arc<Self>> {
        Ok(Arc::try_unwrap(self)?.transport.into_parts())
    }

    /// How many bytes were received and not yet used.
    pub(super) fn received_bytes(&self) -> usize {
        self.transport.received().filled().len()
    }

    /// How many bytes go along where it moves: received and not used yet, and those of TLS.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.received_bytes() + self.transport.sealed_bytes()
    }

    /// Skips what may stand before a request. Returns whether bytes of one are there; if not, no memory is held.
    pub(super) fn skip_empty_lines(&self) -> Result<bool, Refusal> {
        Wire::skip_in(&mut self.transport.received())
    }

    /// Receives once, without waiting, and then does the same. Nothing at the end of the stream.
    pub(super) fn receive_and_skip(&self) -> io::Result<Option<Result<bool, Refusal>>> {
        let received = &mut self.transport.received();
        match self.transport.receive_behind(received) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(Wire::skip_in(received))),
            Err(error) => {
                received.settle();
                Err(error)
            }
        }
    }

    fn skip_in(received: &mut Buffer) -> Result<bool, Refusal> {
        let skipped = head::empty_lines(received.filled())?;
        received.consume(skipped);
        let begun = !received.is_empty() && !head::is_half_an_empty_line(received.filled());
        if !begun {
            received.settle();
        }
        Ok(begun)
    }

    /// Gives back the memory that the bytes received do not need.
    pub(super) fn settle(&self) {
        self.transport.received().settle();
    }

    /// How the body of the current request stands.
    pub(super) fn body_state(&self) -> BodyState {
        if !self.has_body() {
            return BodyState::None;
        }
        self.incoming().body.as_ref().map_or(BodyState::None, RequestBody::state)
    }

    /// What made the body of the current request unreadable, if anything did.
    pub(super) fn fault(&self) -> Option<Fault> {
        if !self.has_body() {
            return None;
        }
        self.incoming().body.as_ref().and_then(RequestBody::fault)
    }

    /// Begins a request with a body of this framing. It returns the message's number, which its body's reader has to show.
    pub(super) fn begin_request(&self, framing: Framing, expects_continue: bool, limits: &Limits) -> u64 {
        self.begin_message(RequestBody::new(framing, expects_continue, limits))
    }

    /// Ends the message: a reader that is left reads nothing any more.
    pub(super) fn end_message(&self) {
        self.begin_message(None);
    }

    fn begin_message(&self, body: Option<RequestBody>) -> u64 {
        self.has_body.store(body.is_some(), Ordering::Relaxed);
        let incoming = &mut *self.incoming();
        incoming.message += 1;
        incoming.body = body;
        incoming.message
    }

    /// Says that the reader of message `message` was dropped.
    pub(super) fn abandon(&self, message: u64) {
        let incoming = &mut *self.incoming();
        if incoming.message == message
            && let Some(body) = &mut incoming.body
        {
            body.abandon();
        }
    }

    /// Rules out a 100 from now on, because the response begins. Returns the rest of one that was partly sent.
    pub(super) fn response_begins(&self) -> &'static [u8] {
        if !self.has_body() {
            return b"";
        }
        self.incoming().body.as_mut().map_or(b"", RequestBody::response_begins)
    }

    /// Reads and drops what is left of a body that comes by itself, up to `most` bytes.
    pub(super) async fn discard(&self, most: u64) {
        if !matches!(self.body_state(), BodyState::Coming { .. }) {
            return;
        }
        let message = self.incoming().message;
        let mut scratch = super::transport::buffer::lend(false);
        let mut dropped = 0;
        while dropped <= most {
            match std::future::poll_fn(|context| self.poll_body(context, message, &mut scratch)).await {
                Ok((count, _)) if count > 0 => dropped += count as u64,
                Ok(_) | Err(_) => break,
            }
        }
        super::transport::buffer::give_back(scratch);
    }

    /// Reads bytes of the body of message `message`. Returns 0 at its end, once with the raw trailers of a chunked body.
    pub(super) fn poll_body(
        &self,
        context: &mut Context<'_>,
        message: u64,
        into: &mut [u8],
    ) -> Poll<io::Result<(usize, Option<Trailers>)>> {
        let incoming = &mut *self.incoming();
        let Some(body) = incoming.body.as_mut().filter(|_| incoming.message == message) else {
            return Poll::Ready(Err(over()));
        };
        if let Some(fault) = body.fault() {
            return Poll::Ready(Err(fault.into()));
        }
        let outcome = ready!(self.poll_data(context, &mut self.transport.received(), body, into));
        Poll::Ready(outcome.map_err(|fault| {
            body.fail(fault);
            fault.into()
        }))
    }

    /// Records that the current body breaks a rule that only its reader can see.
    pub(super) fn refuse_body(&self, refusal: Refusal) -> io::Error {
        let fault = Fault::Refused(refusal);
        if let Some(body) = &mut self.incoming().body {
            body.fail(fault);
        }
        fault.into()
    }

    fn poll_data(
        &self,
        context: &mut Context<'_>,
        received: &mut Buffer,
        body: &mut RequestBody,
        into: &mut [u8],
    ) -> Poll<Result<(usize, Option<Trailers>), Fault>> {
        if body.is_to_yield() {
            // A client that sends faster than its body is read must not keep all others waiting.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let next = body.next_data(received)?;
            if next == Some(0) {
                return Poll::Ready(Ok((0, body.finish())));
            }
            let wanted = next.map_or(0, |left| usize::try_from(left).unwrap_or(usize::MAX));
            if wanted > 0 && (!received.is_empty() || into.is_empty()) {
                let count = wanted.min(into.len()).min(received.filled().len());
                into[..count].copy_from_slice(&received.filled()[..count]);
                received.consume(count);
                body.took(count);
                return Poll::Ready(Ok((count, None)));
            }
            ready!(self.poll_continue(context, body))?;
            // Data goes straight to where it is wanted if that is worth a read; framing always goes to the buffer.
            let direct = if wanted.min(into.len()) >= DIRECT_BYTES_MIN { wanted.min(into.len()) } else { 0 };
            let outcome = match direct {
                0 => self.transport.receive_behind(received),
                _ => self.transport.receive_into(&mut into[..direct]),
            };
            match outcome {
                Ok(0) => return Poll::Ready(Err(Fault::Cut)),
                Ok(count) => {
                    body.came(count);
                    if direct > 0 {
                        body.took(count);
                        return Poll::Ready(Ok((count, None)));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    received.settle();
                    if self.transport.poll_readable(context).is_pending() {
                        ready!(body.poll_late(&self.capacity, context))?;
                    }
                }
                Err(error) => return Poll::Ready(Err(Fault::Failed(error.kind()))),
            }
        }
    }

    /// Sends the 100 that the client waits for, if it does.
    fn poll_continue(&self, context: &mut Context<'_>, body: &mut RequestBody) -> Poll<Result<(), Fault>> {
        while let Some(left) = body.wanted_interim() {
            match self.transport.send([left, b""]) {
                Ok(count) => body.sent_interim(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.transport.poll_writable(context).is_pending() {
                        return body.poll_late(&self.capacity, context);
                    }
                }
                Err(error) => return Poll::Ready(Err(Fault::Failed(error.kind()))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Only the connection's own task begins and ends messages, and asks.
    fn has_body(&self) -> bool {
        self.has_body.load(Ordering::Relaxed)
    }

    /// The body that is being read. Where what was received is locked too, this comes first.
    fn incoming(&self) -> MutexGuard<'_, Incoming> {
        // A panic while it was held leaves at worst a body that fails its next check.
        unpoisoned(self.incoming.lock())
    }
}

fn over() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the request that this body belongs to is over")
}
