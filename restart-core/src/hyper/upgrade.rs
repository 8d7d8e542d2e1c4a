//! The stream that a registered protocol gets, from the first byte after the switch, or after a move.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use async_channel::Sender;

use crate::address::Address;
use crate::drain::{Drain, Phase};
use crate::shutdown::Shutdown;
use crate::tokio::Stream;

/// The connection as a stream. It is cut at the drain's deadline, or the stop's.
pub struct Upgraded {
    /// Only while it is dropped there is none.
    stream: Option<Stream>,
    drain: Arc<Drain>,
    /// The drain in which nobody took it.
    declined: Option<usize>,
    back: Sender<Stream>,
}

impl Upgraded {
    /// The connection, which goes back by `back` when its holder is done.
    pub(super) fn new(stream: Stream, drain: &Arc<Drain>, declined: Option<usize>, back: Sender<Stream>) -> Upgraded {
        Upgraded { stream: Some(stream), drain: Arc::clone(drain), declined, back }
    }

    /// The other end's address.
    pub fn peer(&self) -> &Address {
        self.stream().peer()
    }

    /// What can be learned of the end of this process.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown::new(&self.drain)
    }

    /// Waits until the connection should go on in a newer process, by [`Leave::Move`](super::Leave::Move).
    pub fn moves(&self) -> impl Future<Output = ()> + Send + use<> {
        let (drain, declined) = (Arc::clone(&self.drain), self.declined);
        async move {
            loop {
                let changes = drain.changes();
                if drain.phase() == Phase::Draining && declined != Some(changes) {
                    return;
                }
                drain.next_change(changes).await;
            }
        }
    }

    fn stream(&self) -> &Stream {
        self.stream.as_ref().expect("it goes back only when this is dropped")
    }

    fn stream_mut(&mut self) -> Pin<&mut Stream> {
        Pin::new(self.stream.as_mut().expect("it goes back only when this is dropped"))
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            // Where nobody wants it back, it ends here.
            let _ = self.back.try_send(stream);
        }
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream_mut().poll_read(context, into)
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream_mut().poll_shutdown(context)
    }
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Upgraded").field("stream", &self.stream).finish_non_exhaustive()
    }
}
