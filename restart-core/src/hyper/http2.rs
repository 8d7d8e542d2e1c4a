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

/// Where a client has asked nothing for so long, it waits for answers, or wants none; and so long the GOAWAY takes to it.
const QUIET: Duration = Duration::from_millis(10);
/// So long a client may go on asking without having its answers.
const LATE: Duration = Duration::from_millis(100);

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
    let ended = poll_fn(|context| -> Poll<hyper::Result<()>> {
        let order = watch.poll(context);
        if order == Order::End {
            return Poll::Ready(Ok(()));
        }
        if connection.as_mut().poll(context)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        while goodbye.poll(order != Order::Serve, context).is_ready() {
            connection.as_mut().graceful_shutdown();
            if connection.as_mut().poll(context)?.is_ready() {
                return Poll::Ready(Ok(()));
            }
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
/// has taken and not sent yet when a GOAWAY comes. So answers that have not begun are held back for a moment: a client that
/// asks when it has an answer soon waits for one on each of its tasks, and has nothing unsent. Then the GOAWAY is said, and
/// the answers follow when it has arrived. A client that asks whatever is answered has no such moment, and is told after all.
struct Goodbye {
    progress: Arc<Progress>,
    step: Step,
}

enum Step {
    NotYet,
    /// Answers are held until nothing more is asked. `since`: how many requests there had been.
    Holding {
        late: Timer,
        since: u64,
        quiet: Timer,
    },
    /// The GOAWAY is on its way.
    Said(Timer),
    Done,
}

impl Goodbye {
    fn new(progress: Arc<Progress>) -> Goodbye {
        Goodbye { progress, step: Step::NotYet }
    }

    /// It is ready once, when the GOAWAY is to be said. `wanted`: whether the connection is to end at all, by now.
    fn poll(&mut self, wanted: bool, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let requests = self.progress.requests();
            self.step = match &mut self.step {
                Step::NotYet if wanted => {
                    self.progress.hold_answers();
                    Step::Holding { late: Timer::after(LATE), since: requests, quiet: Timer::after(QUIET) }
                }
                // The drain was called off.
                Step::Holding { .. } if !wanted => {
                    self.progress.release_answers();
                    Step::NotYet
                }
                Step::Holding { late, since, quiet } => {
                    if *since != requests {
                        (*since, *quiet) = (requests, Timer::after(QUIET));
                    }
                    if Pin::new(quiet).poll(context).is_pending() && Pin::new(late).poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    self.step = Step::Said(Timer::after(QUIET));
                    return Poll::Ready(());
                }
                Step::Said(arrives) => {
                    if Pin::new(arrives).poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    self.progress.release_answers();
                    Step::Done
                }
                Step::NotYet | Step::Done => return Poll::Pending,
            };
        }
    }
}
