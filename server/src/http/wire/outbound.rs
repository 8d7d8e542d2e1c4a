//! Sends a response: head and small body in one write, large bodies in large pieces.
//!
//! What a body has in memory is sent from there. Whatever else it gives without waiting is gathered; when it has to be waited for, what was gathered leaves first, so
//! that a stream reaches the client as it is made. A client that takes too little is given up. A body that is not what
//! its head said is an error, after which the connection cannot be kept.

use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread;

use futures_lite::future::{poll_once, yield_now};
use futures_lite::{AsyncBufRead, AsyncRead};
use http_types::Body;

use super::buffer::BUFFER_BYTES;
use super::deadline::Deadline;
use super::encode::{Outbox, Source};
use super::inbound::Wire;
use super::pace::{Over, Pace};

/// A body that has so many bytes at hand, or all that are left of it, is not copied before it is sent.
const AT_HAND_BYTES_MIN: usize = 64 * 1024;

/// After so many bytes others get their turn.
const AT_HAND_BYTES_MAX: usize = 1024 * 1024;

/// With less room than this the gathered bytes leave before more are asked for.
const ROOM_BYTES_MIN: usize = 1024;

/// Why a response did not reach its proper end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The body failed, panicked or ended too early before a byte was sent: something else can be answered.
    Unsent(io::Error),
    /// The body failed, panicked or ended too early within the response.
    Broken(io::Error),
    /// The body went on after the length that was declared. It was cut there.
    Long,
    /// The client took too little for too long, or little while others waited for room.
    Over(Over),
    /// The connection failed.
    Failed(io::Error),
}

/// The sending of one response.
pub(crate) struct Sending<'a> {
    pub(crate) wire: &'a Wire,
    pub(crate) deadline: &'a mut Deadline,
    pub(crate) pace: Pace,
    pub(crate) out: Outbox,
    pub(crate) source: Source,
    pub(crate) begun: bool,
    /// Counts the bytes of the response that were sent.
    pub(crate) sent: &'a mut u64,
    /// Whether the body had more than was declared.
    pub(crate) long: bool,
}

impl Sending<'_> {
    /// Sends head and body.
    pub(crate) async fn run(mut self) -> Result<(), Failure> {
        let mut large = matches!(self.source, Source::Length { left, .. } if left > BUFFER_BYTES as u64 / 2);
        if large {
            self.send_at_hand().await?;
        }
        while !matches!(self.source, Source::Empty) {
            let room = self.out.room(large).len();
            if room < ROOM_BYTES_MIN && !self.out.filled().is_empty() {
                self.flush().await?;
                // A body that fills one buffer is likely to fill more; a fast client must not keep all others waiting.
                large = true;
                yield_now().await;
            }
            let gathered = poll_once(poll_fn(|context| self.poll_source(context, large))).await;
            let outcome = if let Some(outcome) = gathered {
                outcome
            } else {
                self.flush().await?;
                let waited = poll_fn(|context| match self.poll_source(context, large) {
                    Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                    Poll::Pending => self.wire.poll_gone(context).map(|()| None),
                });
                let Some(outcome) = waited.await else {
                    return Err(Failure::Failed(io::ErrorKind::ConnectionReset.into()));
                };
                outcome
            };
            match outcome {
                Ok(count) => self.took(count)?,
                Err(error) => return Err(self.failed(error)),
            }
        }
        self.flush().await?;
        if self.long { Err(Failure::Long) } else { Ok(()) }
    }

    /// Sends the body from where it is, after what was gathered, for as long as it has much at hand.
    async fn send_at_hand(&mut self) -> Result<(), Failure> {
        loop {
            let Source::Length { body, left } = &mut self.source else { return Ok(()) };
            let bytes = match peek(body).unwrap_or_else(|_| Poll::Ready(Err(panicked()))) {
                Poll::Ready(Ok(bytes)) => bytes,
                Poll::Ready(Err(error)) => return Err(self.failed(error)),
                Poll::Pending => return Ok(()),
            };
            if bytes.len() < AT_HAND_BYTES_MIN && (bytes.len() as u64) < *left {
                return Ok(());
            }
            if !self.begun {
                self.begin().await?;
                continue;
            }
            let most = usize::try_from(*left).map_or(AT_HAND_BYTES_MAX, |left| left.min(AT_HAND_BYTES_MAX));
            let bytes = &bytes[..bytes.len().min(most)];
            send(self.wire, self.deadline, &mut self.pace, [self.out.filled(), bytes], self.sent).await?;
            let count = bytes.len();
            self.out.clear();
            Pin::new(body).consume(count);
            self.account(count)?;
            if !matches!(self.source, Source::Empty) {
                yield_now().await;
            }
        }
    }

    fn failed(&self, error: io::Error) -> Failure {
        if self.begun { Failure::Broken(error) } else { Failure::Unsent(error) }
    }

    /// Takes `count` bytes of the source, 0 at its end, as gathered.
    fn took(&mut self, count: usize) -> Result<(), Failure> {
        self.out.added(count);
        self.account(count)
    }

    /// Accounts for `count` bytes of the source, 0 at its end.
    fn account(&mut self, count: usize) -> Result<(), Failure> {
        match &mut self.source {
            Source::Length { left, .. } if count == 0 && *left > 0 => {
                return Err(self.failed(io::Error::other("it is shorter than it declared")));
            }
            Source::Length { left, .. } if *left > count as u64 => *left -= count as u64,
            Source::Length { body, .. } => {
                self.long = goes_on(body);
                self.source = Source::Empty;
            }
            Source::Chunks(_) | Source::Rest(_) if count == 0 => self.source = Source::Empty,
            Source::Empty | Source::Chunks(_) | Source::Rest(_) => {}
        }
        Ok(())
    }

    /// Reads more of the body. While nothing is gathered and nothing comes, no memory is held.
    fn poll_source(&mut self, context: &mut Context<'_>, large: bool) -> Poll<io::Result<usize>> {
        let room = self.out.room(large);
        let source = &mut self.source;
        let polled = catch_unwind(AssertUnwindSafe(|| match source {
            Source::Empty | Source::Length { left: 0, .. } => Poll::Ready(Ok(0)),
            Source::Length { body, .. } | Source::Rest(body) => Pin::new(body).poll_read(context, room),
            Source::Chunks(encoder) => Pin::new(encoder).poll_read(context, room),
        }));
        let polled = polled.unwrap_or_else(|_| Poll::Ready(Err(panicked())));
        if polled.is_pending() {
            self.out.settle();
        }
        polled
    }

    /// Sends what was gathered.
    async fn flush(&mut self) -> Result<(), Failure> {
        if !self.begun && !self.out.filled().is_empty() {
            self.begin().await?;
        }
        send(self.wire, self.deadline, &mut self.pace, [self.out.filled(), b""], self.sent).await?;
        self.out.clear();
        Ok(())
    }

    /// Says that the response begins, which rules out a 100; one that was partly sent is completed.
    async fn begin(&mut self) -> Result<(), Failure> {
        self.begun = true;
        let interim = self.wire.inbound().body.as_mut().map_or(&b""[..], super::inbound::Body::response_begins);
        send(self.wire, self.deadline, &mut self.pace, [interim, b""], &mut 0).await
    }
}

/// What a body has at hand, without waiting. An error if it panics.
fn peek(body: &mut Body) -> thread::Result<Poll<io::Result<&[u8]>>> {
    let mut context = Context::from_waker(Waker::noop());
    catch_unwind(AssertUnwindSafe(move || Pin::new(body).poll_fill_buf(&mut context)))
}

/// Whether a body has more to give right now. One that panics cannot be trusted to have ended.
fn goes_on(body: &mut Body) -> bool {
    peek(body).map_or(true, |peeked| matches!(peeked, Poll::Ready(Ok(more)) if !more.is_empty()))
}

fn panicked() -> io::Error {
    io::Error::other("the body of the response panicked")
}

/// Sends all bytes, giving up on a client that is slower than its pace. What was sent is added to `sent`.
async fn send(
    wire: &Wire,
    deadline: &mut Deadline,
    pace: &mut Pace,
    [mut first, mut second]: [&[u8]; 2],
    sent: &mut u64,
) -> Result<(), Failure> {
    let mut over = None;
    while !first.is_empty() || !second.is_empty() {
        match wire.send([first, second]) {
            Ok(count) => {
                pace.moved(count);
                *sent += count as u64;
                let of_first = count.min(first.len());
                (first, second, over) = (&first[of_first..], &second[count - of_first..], None);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Some(over) = over {
                    return Err(Failure::Over(over));
                }
                // The kernel reports a socket as writable only when a third of its buffer is free, which a slow client
                // may take longer for than it has. What it did take is seen by sending once more when it is late.
                over = poll_fn(|context| match wire.poll_writable(context) {
                    Poll::Ready(()) => Poll::Ready(None),
                    Poll::Pending => pace.poll(deadline, &wire.capacity, context).map(Some),
                })
                .await;
            }
            Err(error) => return Err(Failure::Failed(error)),
        }
    }
    Ok(())
}
