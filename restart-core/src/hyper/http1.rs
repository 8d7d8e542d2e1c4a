//! One connection in HTTP/1, by hyper, until it is over, idle when it is to leave, or goes on as something else.
//!
//! hyper is taken apart only between two messages, or behind a response's head: so nothing that it holds is lost but what
//! it has read, which it gives back.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use hyper::server::conn::http1::{Builder, Connection, Parts, UpgradeableConnection};
use hyper_util::rt::TokioIo;

use super::exchange::{Exchange, HttpService};
use super::progress::Progress;
use super::under_way::{Left, UnderWay};
use super::watch::{Order, Watch};
use crate::tokio::Stream;

/// hyper's side of a connection.
enum State<S: HttpService> {
    Plain(Connection<TokioIo<Io>, Exchange<S>>),
    /// The service takes it over: nobody else will get it back.
    Upgrading(UpgradeableConnection<TokioIo<Io>, Exchange<S>>),
    Gone,
}

/// Serves a connection. `is_patient`: it does not leave before a request has begun, since what was read of it is too much
/// to be moved, or came after nobody wanted it.
pub(super) async fn serve<S: HttpService>(
    stream: Stream,
    builder: &Builder,
    exchange: Exchange<S>,
    is_patient: bool,
    watch: &mut Watch,
) -> Left {
    let progress = Arc::clone(&exchange.progress);
    let io = TokioIo::new(Io { stream, progress: Arc::clone(&progress) });
    let mut served =
        Served { state: State::Plain(builder.serve_connection(io, exchange)), progress, is_patient, watch };
    poll_fn(|context| served.poll(context)).await
}

struct Served<'a, S: HttpService> {
    state: State<S>,
    progress: Arc<Progress>,
    is_patient: bool,
    watch: &'a mut Watch,
}

impl<S: HttpService> Served<'_, S> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Left> {
        loop {
            let order = self.watch.poll(context);
            if order == Order::End {
                return Poll::Ready(Left::Over);
            }
            let before = self.progress.idle();
            let State::Plain(connection) = &mut self.state else { return self.poll_upgrading(context) };
            if order == Order::Finish && self.progress.in_flight() > 0 {
                Pin::new(&mut *connection).graceful_shutdown();
            }
            if let Poll::Ready(ended) = connection.poll_without_shutdown(context) {
                return Poll::Ready(self.ended(ended));
            }
            if self.progress.wants_upgrade() {
                self.prepare_upgrade();
                continue;
            }
            if let Some(stream) = self.progress.take_stream() {
                return Poll::Ready(self.goes_on(stream));
            }
            if order == Order::Serve || (self.is_patient && self.progress.requests() == 0) {
                return Poll::Pending;
            }
            match self.progress.idle() {
                // It was idle before hyper had this turn, so hyper has done what a body that was dropped left to it.
                Some(requests) if before == Some(requests) => return Poll::Ready(self.is_idle(order)),
                Some(_) => {}
                None => return Poll::Pending,
            }
        }
    }

    /// Lets hyper give the connection to the service.
    fn prepare_upgrade(&mut self) {
        if let State::Plain(connection) = std::mem::replace(&mut self.state, State::Gone) {
            self.state = State::Upgrading(connection.with_upgrades());
        }
        self.progress.upgrade_is_possible();
    }

    fn poll_upgrading(&mut self, context: &mut Context<'_>) -> Poll<Left> {
        let State::Upgrading(connection) = &mut self.state else { return Poll::Ready(Left::Over) };
        Pin::new(connection).poll(context).map(|ended| {
            if let Err(error) = ended {
                log::debug!("a connection has ended in its upgrade: {error}");
            }
            Left::Over
        })
    }

    /// hyper is done: the connection is over, or switches.
    fn ended(&mut self, ended: hyper::Result<()>) -> Left {
        if let Err(error) = ended {
            log::debug!("a connection has ended: {error}");
            return Left::Over;
        }
        match self.progress.take_next() {
            Some(next) => self.goes_on(next),
            None => Left::Over,
        }
    }

    fn goes_on(&mut self, next: UnderWay) -> Left {
        self.take_apart().map_or(Left::Over, |stream| Left::GoesOn(stream, next))
    }

    /// Nothing is under way, but for what may have been read.
    fn is_idle(&mut self, order: Order) -> Left {
        let next = UnderWay::Nothing { fresh: false };
        match self.take_apart() {
            Some(stream) if order == Order::Leave => Left::Leaves(stream, next),
            Some(stream) if !stream.unread().is_empty() => Left::Stays(stream),
            _ => Left::Over,
        }
    }

    /// Takes the connection from hyper, with what hyper has read and not used.
    fn take_apart(&mut self) -> Option<Stream> {
        let State::Plain(connection) = std::mem::replace(&mut self.state, State::Gone) else { return None };
        let Parts { io, read_buf, .. } = connection.into_parts();
        let Io { mut stream, .. } = io.into_inner();
        stream.put_back(&read_buf);
        Some(stream)
    }
}

/// The connection as hyper sees it. It tells whether all that hyper has for it was sent: hyper flushes after it has written
/// everything.
struct Io {
    stream: Stream,
    progress: Arc<Progress>,
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.progress.has_unsent();
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.progress.has_unsent();
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.progress.all_sent();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
