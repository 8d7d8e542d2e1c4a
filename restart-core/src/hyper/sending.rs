//! Registered streams on their way to the client: made step by step, framed, and sent by this crate itself, so that another
//! process can go on between two bytes.
//!
//! It takes a connection over from hyper once the response's head has been sent, and gives it back at the end.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use rustix::net::sockopt::set_socket_linger;

use super::ending::Ending;
use super::moves::Moves;
use super::under_way::{At, Left, Sending, UnderWay};
use super::watch::{Order, Watch};
use crate::moves::Steps;
use crate::tokio::Stream;

/// So much of a stream's bytes may travel unsent, and so long may its state be. With what was read ahead it always fits.
const UNSENT_BYTES_MAX: usize = 16 * 1024;
const STATE_BYTES_MAX: usize = 16 * 1024;
/// So much is read of what comes behind the request while its response is sent.
const AHEAD_BYTES_MAX: usize = 8 * 1024;
const END: &[u8] = b"0\r\n\r\n";

/// What is known of a stream while it is sent.
struct Sender<'a> {
    stream: Stream,
    steps: Steps,
    unsent: Vec<u8>,
    chunked: bool,
    keep: bool,
    /// The last bytes are among those that are unsent.
    has_ended: bool,
    /// What came behind the request.
    ahead: Vec<u8>,
    ending: Ending,
    watch: &'a mut Watch,
}

/// Why a stream is not sent on.
enum Stop {
    /// It has been sent to its end.
    Done,
    /// It is cut: its client must not take it for whole.
    Cut,
    /// Its client has gone.
    Gone,
    Moves,
}

/// Sends a stream until it is over or to leave.
pub(super) async fn send(stream: Stream, sending: Sending, moves: &Moves, watch: &mut Watch) -> Left {
    let Sending { at, unsent, chunked, keep } = sending;
    // Nobody offers a stream to a process that does not know it.
    let Some(steps) = moves.steps(&at.name, at.state) else { return Left::Over };
    let ending = Ending::new();
    let mut sender = Sender { stream, steps, unsent, chunked, keep, has_ended: false, ahead: vec![], ending, watch };
    let stop = poll_fn(|context| sender.poll(context)).await;
    let Sender { mut stream, steps, unsent, chunked, keep, ahead, .. } = sender;
    stream.put_back(&ahead);
    match stop {
        Stop::Done if keep => return Left::GoesOn(stream, UnderWay::Nothing { fresh: false }),
        Stop::Moves => {
            let (name, state) = steps.into_parts();
            let at = At { name: name.to_string(), state };
            return Left::Leaves(stream, UnderWay::Stream(Sending { at, unsent, chunked, keep }));
        }
        // What fails in these is closed in the usual way.
        Stop::Done => _ = stream.shutdown().await,
        Stop::Cut => _ = set_socket_linger(&stream, Some(Duration::ZERO)),
        Stop::Gone => {}
    }
    Left::Over
}

impl Sender<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Stop> {
        loop {
            let order = self.watch.poll(context);
            if order == Order::End {
                return Poll::Ready(Stop::Cut);
            }
            if self.poll_gone(context).is_ready() {
                return Poll::Ready(Stop::Gone);
            }
            let fits = self.unsent.len() <= UNSENT_BYTES_MAX && self.steps.state().len() <= STATE_BYTES_MAX;
            if order == Order::Leave && fits && !self.has_ended && self.stream.unread().len() <= AHEAD_BYTES_MAX {
                return Poll::Ready(Stop::Moves);
            }
            if !self.unsent.is_empty() {
                match ready!(Pin::new(&mut self.stream).poll_write(context, &self.unsent)) {
                    Ok(count @ 1..) => _ = self.unsent.drain(..count),
                    Ok(0) | Err(_) => return Poll::Ready(Stop::Gone),
                }
            } else if self.has_ended {
                return Poll::Ready(Stop::Done);
            } else if ready!(self.poll_step(context)).is_err() {
                return Poll::Ready(Stop::Cut);
            }
        }
    }

    /// Makes the next bytes, or the end.
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.steps.is_endless() && self.ending.poll(self.watch.drain(), context).is_ready() {
            // Another request on it would find a process that is about to end.
            self.keep = false;
            self.end();
            return Poll::Ready(Ok(()));
        }
        match ready!(self.steps.poll_step(context)) {
            Ok(Some(bytes)) if bytes.is_empty() => {}
            Ok(Some(bytes)) if self.chunked => {
                self.unsent = [format!("{:x}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n"].concat();
            }
            Ok(Some(bytes)) => self.unsent = bytes,
            Ok(None) => self.end(),
            Err(error) => {
                log::debug!("a stream is cut: {error}");
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self) {
        self.has_ended = true;
        if self.chunked {
            self.unsent = END.to_vec();
        }
    }

    /// Reads what comes behind the request, up to a bound. It is ready when the client has gone.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.ahead.len() < AHEAD_BYTES_MAX {
            let mut part = [MaybeUninit::uninit(); 512];
            let mut part = ReadBuf::uninit(&mut part);
            let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut part));
            if read.is_err() || part.filled().is_empty() {
                return Poll::Ready(());
            }
            self.ahead.extend_from_slice(part.filled());
        }
        Poll::Pending
    }
}
