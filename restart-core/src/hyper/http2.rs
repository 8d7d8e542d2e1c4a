//! One connection in HTTP/2, by hyper: it does not move, but is told to go by GOAWAY, and every stream that has begun is
//! finished.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tokio::time::{Sleep, sleep};
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::ending::Ending;
use super::exchange::{Exchange, HttpService};
use super::progress::Progress;
use super::watch::{Order, Watch};
use crate::drain::Drain;
use crate::tokio::Stream;

/// What a client begins HTTP/2 with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client that has asked nothing for so long, and waits for nothing, is told to go.
const QUIET: Duration = Duration::from_millis(100);

/// Serves a connection to its end.
pub(super) async fn serve<S: HttpService>(
    stream: Stream,
    builder: &Builder<TokioExecutor>,
    exchange: Exchange<S>,
    watch: &mut Watch,
) {
    let progress = Arc::clone(&exchange.progress);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), exchange));
    let mut goodbye = Goodbye { progress, is_said: false, ending: Ending::new(), quiet: None };
    let ended = poll_fn(|context| -> Poll<hyper::Result<()>> {
        let order = watch.poll(context);
        if order == Order::End {
            return Poll::Ready(Ok(()));
        }
        if connection.as_mut().poll(context)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if order != Order::Serve && goodbye.poll(watch.drain(), context).is_ready() {
            connection.as_mut().graceful_shutdown();
            return connection.as_mut().poll(context);
        }
        Poll::Pending
    });
    if let Err(error) = ended.await {
        log::debug!("a connection has ended: {error}");
    }
}

/// Chooses the moment of the GOAWAY.
///
/// Whatever a client has sent is answered, at any moment. But hyper's client, which is tonic's, gives up the call that it
/// takes next when a GOAWAY has come and other calls are open: it looks only then, and has the call in its hands by that
/// time. So a connection stays until it is quiet, without any call that is open; one that never is goes on here, and is told
/// shortly before the drain's deadline.
struct Goodbye {
    progress: Arc<Progress>,
    is_said: bool,
    ending: Ending,
    /// How many requests there had been, and when it is looked again.
    quiet: Option<(u64, Pin<Box<Sleep>>)>,
}

impl Goodbye {
    /// It is ready once.
    fn poll(&mut self, drain: &Drain, context: &mut Context<'_>) -> Poll<()> {
        if self.is_said {
            return Poll::Pending;
        }
        if self.ending.poll(drain, context).is_pending() {
            ready!(self.poll_quiet(context));
        }
        self.is_said = true;
        Poll::Ready(())
    }

    fn poll_quiet(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let requests = self.progress.requests();
            let (since, timer) = self.quiet.get_or_insert_with(|| (requests, Box::pin(sleep(QUIET))));
            ready!(timer.as_mut().poll(context));
            if *since == requests && self.progress.in_flight() == 0 {
                return Poll::Ready(());
            }
            self.quiet = None;
        }
    }
}
