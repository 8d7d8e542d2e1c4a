//! The bodies of an exchange: each tells when it has come to its end, without which a connection cannot leave.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use pin_project_lite::pin_project;

use super::ending::Ending;
use super::progress::{Progress, Served};
use crate::drain::Drain;
use crate::moves::Steps;

type Failure = Box<dyn Error + Send + Sync>;

/// A request's body, as hyper receives it ([`Incoming`]), with an eye on where it ends: a connection does not move before
/// the body of its last request has been read or dropped.
pub struct RequestBody {
    inner: Incoming,
    /// Until it has come to its end.
    progress: Option<Arc<Progress>>,
}

impl RequestBody {
    pub(super) fn new(inner: Incoming, progress: &Arc<Progress>) -> RequestBody {
        let progress = (!inner.is_end_stream()).then(|| Arc::clone(progress));
        RequestBody { inner, progress }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        let is_over = frame.is_none() || (matches!(frame, Some(Ok(_))) && self.inner.is_end_stream());
        if let Some(progress) = self.progress.take_if(|_| is_over) {
            progress.body_ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for RequestBody {
    /// What is left of it hyper reads by itself, or it closes the connection.
    fn drop(&mut self) {
        if let Some(progress) = &self.progress {
            progress.body_dropped();
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(out)
    }
}

pin_project! {
    /// The body of a response, as the service gives it or as the response says it.
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
        progress: Arc<Progress>,
        served: Served,
    }
}

pin_project! {
    #[project = Projected]
    enum Kind<B> {
        Empty,
        Plain { #[pin] body: B },
        // A stream that is sent by those who take the connection over from hyper.
        Held { held: Held },
        // One that hyper sends.
        Made { steps: Steps, ending: Ending, drain: Drain },
    }
}

/// Where hyper drops it by itself, there is nothing to send: the request was for the head only.
struct Held(Arc<Progress>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.forget_stream();
    }
}

impl<B> ResponseBody<B> {
    fn new(kind: Kind<B>, progress: &Arc<Progress>, served: Served) -> ResponseBody<B> {
        ResponseBody { kind, progress: Arc::clone(progress), served }
    }

    pub(super) fn plain(body: B, progress: &Arc<Progress>, served: Served) -> ResponseBody<B> {
        ResponseBody::new(Kind::Plain { body }, progress, served)
    }

    pub(super) fn empty(progress: &Arc<Progress>, served: Served) -> ResponseBody<B> {
        ResponseBody::new(Kind::Empty, progress, served)
    }

    pub(super) fn held(progress: &Arc<Progress>, served: Served) -> ResponseBody<B> {
        ResponseBody::new(Kind::Held { held: Held(Arc::clone(progress)) }, progress, served)
    }

    pub(super) fn made(steps: Steps, drain: &Drain, progress: &Arc<Progress>, served: Served) -> ResponseBody<B> {
        let (ending, drain) = (Ending::new(), drain.clone());
        ResponseBody::new(Kind::Made { steps, ending, drain }, progress, served)
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Failure>,
{
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = self.project();
        let frame = match this.kind.project() {
            Projected::Empty => None,
            Projected::Held { .. } => return Poll::Pending,
            Projected::Plain { body } => ready!(body.poll_frame(context)).map(|frame| frame.map_err(Into::into)),
            Projected::Made { steps, ending, drain } => {
                let step = loop {
                    match steps.poll_step(context) {
                        Poll::Ready(Ok(Some(bytes))) if bytes.is_empty() => {}
                        Poll::Pending if steps.is_endless() && ending.poll(drain, context).is_ready() => {
                            break Ok(None);
                        }
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(step) => break step,
                    }
                };
                step.map_err(Into::into).map(|step| step.map(|bytes| Frame::data(bytes.into()))).transpose()
            }
        };
        // What hyper has now it has not sent yet.
        this.progress.has_unsent();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Plain { body } => body.is_end_stream(),
            Kind::Held { .. } | Kind::Made { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Plain { body } => body.size_hint(),
            Kind::Held { .. } | Kind::Made { .. } => SizeHint::default(),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
