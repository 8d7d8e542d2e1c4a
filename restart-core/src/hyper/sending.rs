//! Registered streams on their way to the client: made step by step, framed, and sent by this crate itself, so that another
//! process can go on between two bytes.
//!
//! It takes a connection over from hyper once the response's head has been sent, and gives it back at the end.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use rustix::net::sockopt::set_socket_linger;

use super::ending::Ending;
use super::moves::{Moves, Registered, Step, Stepped};
use super::under_way::{At, Left, Sending, UnderWay};
use super::watch::{Order, Watch};
use crate::tokio::Stream;

/// So much of a stream's bytes may travel unsent, and so long may its state be. With what was read ahead it always fits.
const UNSENT_BYTES_MAX: usize = 16 * 1024;
const STATE_BYTES_MAX: usize = 16 * 1024;
/// So much is read of what comes behind the request while its response is sent.
const AHEAD_BYTES_MAX: usize = 8 * 1024;
const END: &[u8] = b"0\r\n\r\n";

/// The steps of a stream, from a state on.
pub(super) struct Steps {
    at: At,
    registered: Registered,
    running: Option<Stepped>,
}

impl Steps {
    pub(super) fn new(at: At, registered: Registered) -> Steps {
        Steps { at, registered, running: None }
    }

    pub(super) fn is_endless(&self) -> bool {
        self.registered.is_endless
    }

    /// Waits for the next bytes. There are none at the end.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        loop {
            let running = self.running.get_or_insert_with(|| (self.registered.make)(self.at.state.clone()));
            let stepped = ready!(running.as_mut().poll(context));
            self.running = None;
            let Some(Step { bytes, state }) = stepped? else { return Poll::Ready(Ok(None)) };
            self.at.state = state;
            if !bytes.is_empty() {
                return Poll::Ready(Ok(Some(bytes)));
            }
        }
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Steps").field("name", &self.at.name).finish_non_exhaustive()
    }
}

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
    let Some(registered) = moves.stream_named(&at.name) else { return Left::Over };
    let (steps, ending) = (Steps::new(at, registered), Ending::new());
    let mut sender = Sender { stream, steps, unsent, chunked, keep, has_ended: false, ahead: vec![], ending, watch };
    let stop = poll_fn(|context| sender.poll(context)).await;
    let Sender { mut stream, steps, unsent, chunked, keep, ahead, .. } = sender;
    stream.put_back(&ahead);
    match stop {
        Stop::Done if keep => return Left::GoesOn(stream, UnderWay::Nothing { fresh: false }),
        Stop::Moves => return Left::Leaves(stream, UnderWay::Stream(Sending { at: steps.at, unsent, chunked, keep })),
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
            let fits = self.unsent.len() <= UNSENT_BYTES_MAX && self.steps.at.state.len() <= STATE_BYTES_MAX;
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
        match ready!(self.steps.poll(context)) {
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
