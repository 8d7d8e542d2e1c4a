//! One connection in HTTP/2, by hyper: it does not move, but is told to go by GOAWAY, and every stream that has begun is
//! finished.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_io::Timer;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::exchange::{Exchange, HttpService};
use super::progress::Progress;
use super::watch::{Order, Watch};
use crate::tokio::Stream;

/// What a client begins HTTP/2 with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client that has asked nothing for so long is told to go.
const QUIET: Duration = Duration::from_millis(5);
/// So long a better moment is waited for.
const LATE: Duration = Duration::from_secs(1);

/// Serves a connection to its end.
pub(super) async fn serve<S: HttpService>(
    stream: Stream,
    builder: &Builder<TokioExecutor>,
    exchange: Exchange<S>,
    watch: &mut Watch,
) {
    let progress = Arc::clone(&exchange.progress);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), exchange));
    let mut goodbye = Goodbye::new(progress);
    let ended = poll_fn(|context| {
        let order = watch.poll(context);
        if order == Order::End {
            return Poll::Ready(Ok(()));
        }
        let before = goodbye.progress.requests();
        if connection.as_mut().poll(context)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if order != Order::Serve && goodbye.poll(before, context).is_ready() {
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
/// Whatever a client has sent is answered, at any moment. But hyper's client, which is tonic's, gives up the requests that it
/// has taken and not sent yet when a GOAWAY comes, and those that it takes before all answers are there. So one that asks
/// one thing after another is told while it waits for an answer, and others when they have asked nothing for a while; who
/// always asks several things at a time is told after all.
struct Goodbye {
    progress: Arc<Progress>,
    is_said: bool,
    late: Option<Timer>,
    quiet: Option<(u64, Timer)>,
}

impl Goodbye {
    fn new(progress: Arc<Progress>) -> Goodbye {
        Goodbye { progress, is_said: false, late: None, quiet: None }
    }

    /// It is ready once. `before`: how many requests there had been before this turn.
    fn poll(&mut self, before: u64, context: &mut Context<'_>) -> Poll<()> {
        if self.is_said {
            return Poll::Pending;
        }
        let requests = self.progress.requests();
        let waits_for_one = requests > before && self.progress.in_flight() == 1;
        let late = self.late.get_or_insert_with(|| Timer::after(LATE));
        let is_late = Pin::new(late).poll(context).is_ready();
        self.is_said = waits_for_one || is_late || self.is_quiet(requests, context);
        if self.is_said { Poll::Ready(()) } else { Poll::Pending }
    }

    fn is_quiet(&mut self, requests: u64, context: &mut Context<'_>) -> bool {
        let (_, timer) = match self.quiet.take() {
            Some((since, timer)) if since == requests => self.quiet.insert((since, timer)),
            _ => self.quiet.insert((requests, Timer::after(QUIET))),
        };
        Pin::new(timer).poll(context).is_ready()
    }
}
