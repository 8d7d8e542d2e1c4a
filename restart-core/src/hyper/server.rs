//! Each connection from its accept, or its arrival from an older process, to its end, or its leave to a newer one.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use ::tokio::io::{AsyncRead, ReadBuf};
use futures_lite::future;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::description::{pack, unpack};
use super::exchange::{Exchange, HttpService};
use super::http2::PREFACE;
use super::moves::Moves;
use super::under_way::{At, Left, UnderWay};
use super::upgrade::Upgraded;
use super::watch::{Order, Watch};
use super::{http1 as first, http2 as second, sending};
use crate::connections::{BLOB_BYTES_MAX, Connection, Connections};
use crate::drain::Drain;
use crate::generation::Generation;
use crate::listeners::Listener;
use crate::moves::Leave;
use crate::tokio::{self, Stream};

/// Serves connections with a hyper service, and moves them to the next process.
///
/// The service gets its requests with a [`RequestBody`](super::RequestBody); a tower service, such as axum's `Router`, becomes one by
/// [`hyper_util::service::TowerToHyperService`]. It has to be cloned for each connection.
#[derive(Clone)]
pub struct Server<S> {
    service: S,
    drain: Arc<Drain>,
    way: Connections,
    pub(super) moves: Arc<Moves>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl<S> Server<S> {
    /// A server of a generation. What its builder takes ([`Builder::take_connections`](crate::Builder::take_connections))
    /// are the moves' [`formats`](Moves::formats).
    pub fn new(generation: &Generation, moves: Moves, service: S) -> Server<S> {
        Server::over(generation.drain(), generation.connections(), moves, service)
    }

    pub(super) fn over(drain: Drain, way: Connections, moves: Moves, service: S) -> Server<S> {
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2.timer(TokioTimer::new()).enable_connect_protocol();
        Server { service, drain: Arc::new(drain), way, moves: Arc::new(moves), http1: http1::Builder::new(), http2 }
    }

    /// Sets hyper's options of HTTP/1. Without a timer, as by default, it has no timeout of its own.
    #[must_use]
    pub fn http1(mut self, set: impl FnOnce(&mut http1::Builder)) -> Server<S> {
        set(&mut self.http1);
        self
    }

    /// Sets hyper's options of HTTP/2.
    #[must_use]
    pub fn http2(mut self, set: impl FnOnce(&mut http2::Builder<TokioExecutor>)) -> Server<S> {
        set(&mut self.http2);
        self
    }
}

impl<S: HttpService> Server<S> {
    /// Serves whatever all listeners of a generation accept and older processes send, in tasks of the runtime that this is
    /// called in.
    pub fn spawn(self, generation: &Generation) {
        for listener in generation.listeners() {
            ::tokio::spawn(self.clone().accept(listener.clone()));
        }
        ::tokio::spawn(self.take());
    }

    /// Serves what a listener accepts, each connection on a task of its own. It returns when the listener is given up.
    pub async fn accept(self, listener: Listener) {
        let mut listener = tokio::Listener::new(listener);
        while let Some(stream) = listener.accept().await {
            ::tokio::spawn(self.clone().serve(stream));
        }
    }

    /// Goes on with what comes from older processes, each connection on a task of its own. It never returns.
    pub async fn take(self) {
        loop {
            let connection = self.way.take().await;
            ::tokio::spawn(self.clone().go_on(connection));
            // Thousands may come at once, and others want a turn.
            ::tokio::task::yield_now().await;
        }
    }

    /// Serves a new connection until it is over or has moved on.
    pub async fn serve(self, stream: Stream) {
        let watch = Watch::new(&self.drain);
        self.run(stream, UnderWay::Nothing { fresh: true }, watch).await;
    }

    /// Goes on with a connection that has come from an older process. One that cannot be read is closed.
    pub async fn go_on(self, connection: Connection) {
        let watch = Watch::new(&self.drain);
        if let Some((stream, under_way)) = take_up(connection) {
            self.run(stream, under_way, watch).await;
        }
    }

    async fn run(self, mut stream: Stream, mut under_way: UnderWay, mut watch: Watch) {
        let mut is_patient = false;
        loop {
            let left = match under_way {
                UnderWay::Nothing { fresh } => self.http(stream, fresh, is_patient, &mut watch).await,
                UnderWay::Stream(sending) => sending::send(stream, sending, &self.moves, &mut watch).await,
                UnderWay::Protocol(at) => self.protocol(stream, at, &mut watch).await,
            };
            is_patient = false;
            match left {
                Left::Over => return,
                Left::GoesOn(same, next) => (stream, under_way) = (same, next),
                Left::Stays(same) => {
                    (stream, under_way, is_patient) = (same, UnderWay::Nothing { fresh: false }, true);
                }
                Left::Leaves(same, next) => {
                    let Some(left) = self.leave(same, next, &mut watch).await else { return };
                    (stream, under_way, is_patient) = left;
                }
            }
        }
    }

    /// Offers a connection to the newest process. It comes back where nobody takes it, or it cannot be described in short.
    async fn leave(&self, stream: Stream, under_way: UnderWay, watch: &mut Watch) -> Option<(Stream, UnderWay, bool)> {
        let (formats, blob) = pack(&under_way, stream.unread());
        if blob.len() > BLOB_BYTES_MAX {
            if !matches!(under_way, UnderWay::Nothing { .. }) {
                watch.decline();
            }
            return Some((stream, under_way, true));
        }
        let connection = stream.into_connection(formats, blob).ok()?;
        let Err(back) = self.way.offer(connection).await else { return None };
        watch.decline();
        take_up(back).map(|(stream, under_way)| (stream, under_way, false))
    }

    /// Serves requests, by the version that the client begins with.
    async fn http(&self, mut stream: Stream, fresh: bool, is_patient: bool, watch: &mut Watch) -> Left {
        if fresh {
            match begins(&mut stream, watch).await {
                Begins::Http1 => {}
                Begins::Http2 => {
                    let exchange = self.exchange(&stream);
                    second::serve(stream, &self.http2, exchange, watch).await;
                    return Left::Over;
                }
                Begins::Not => return Left::Over,
                Begins::Elsewhere => return Left::Leaves(stream, UnderWay::Nothing { fresh: true }),
            }
        }
        let exchange = self.exchange(&stream);
        first::serve(stream, &self.http1, exchange, is_patient, watch).await
    }

    fn exchange(&self, stream: &Stream) -> Exchange<S> {
        Exchange {
            service: self.service.clone(),
            moves: Arc::clone(&self.moves),
            drain: Arc::clone(&self.drain),
            peer: stream.peer().clone(),
            progress: Arc::default(),
        }
    }

    /// Has a registered protocol serve a connection.
    async fn protocol(&self, stream: Stream, At { name, state }: At, watch: &mut Watch) -> Left {
        // Nobody offers a protocol to a process that does not know it.
        let Some(serve) = self.moves.protocol_named(&name) else { return Left::Over };
        let (back, came_back) = async_channel::bounded(1);
        let upgraded = Upgraded::new(stream, &self.drain, watch.declined(), back);
        let served = async {
            let Leave::Move { state, unread } = serve(upgraded, state).await else { return Left::Over };
            let Ok(mut stream) = came_back.recv().await else { return Left::Over };
            stream.put_back(&unread);
            // One that leaves although nobody has asked it to must not keep others from their turn.
            ::tokio::task::yield_now().await;
            Left::Leaves(stream, UnderWay::Protocol(At { name, state }))
        };
        let ends = async {
            watch.ends().await;
            Left::Over
        };
        future::or(served, ends).await
    }
}

/// Takes up a connection that comes from an older process, or back from an offer.
fn take_up(connection: Connection) -> Option<(Stream, UnderWay)> {
    let (mut stream, blob) = Stream::take_up(connection).ok()?;
    match unpack(&blob) {
        Ok((under_way, read_ahead)) => {
            stream.put_back(read_ahead);
            Some((stream, under_way))
        }
        Err(error) => {
            log::warn!("a connection from an older process cannot be gone on with, and is closed: {error}");
            None
        }
    }
}

/// How a client begins.
enum Begins {
    Http1,
    Http2,
    /// It has gone, or does not get to it.
    Not,
    /// It has not, and is to do so in the newest process.
    Elsewhere,
}

/// Waits until it can be told which version a client begins with. What it has said is read again.
async fn begins(stream: &mut Stream, watch: &mut Watch) -> Begins {
    let mut said = Vec::new();
    let begins = poll_fn(|context| {
        loop {
            match watch.poll(context) {
                Order::Leave => return Poll::Ready(Begins::Elsewhere),
                Order::Finish if said.is_empty() && stream.unread().is_empty() => return Poll::Ready(Begins::Not),
                Order::End => return Poll::Ready(Begins::Not),
                Order::Serve | Order::Finish => {}
            }
            let mut part = [0; 1024];
            let mut part = ReadBuf::new(&mut part);
            match ready!(Pin::new(&mut *stream).poll_read(context, &mut part)) {
                Ok(()) if part.filled().is_empty() => return Poll::Ready(Begins::Not),
                Ok(()) => said.extend_from_slice(part.filled()),
                Err(_) => return Poll::Ready(Begins::Not),
            }
            let common = said.len().min(PREFACE.len());
            if said[..common] != PREFACE[..common] {
                return Poll::Ready(Begins::Http1);
            }
            if common == PREFACE.len() {
                return Poll::Ready(Begins::Http2);
            }
        }
    })
    .await;
    stream.put_back(&said);
    begins
}

impl<S> fmt::Debug for Server<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Server").field("moves", &self.moves).finish_non_exhaustive()
    }
}
