//! The end of a connection: how long a client is listened to that may still read what was sent last.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_lite::future::yield_now;

use super::state::Connection;
use crate::http::handler::Handler;
use crate::http::lifetime::Reason;
use crate::http::transport::buffer;

/// How long a closed connection still listens to a client that sends nothing, so that its last response is not cut by a
/// reset: a client that was told of the end, and one that is still sending what nobody wants, or may be.
const LINGER_SILENCE: Duration = Duration::from_secs(1);
const LINGER_SILENCE_SENDING: Duration = Duration::from_secs(5);

/// How long it listens in all, and for how many bytes. A body, which its client may have to send to the end before it
/// reads, may take as many as one that is allowed.
const LINGER_TIMEOUT: Duration = Duration::from_secs(30);
const LINGER_BYTES_MAX: u64 = 64 * 1024 * 1024;

impl<H: Handler> Connection<'_, H> {
    /// Closes so that the client can read what was sent last: bytes of its own that arrive meanwhile would else make
    /// the kernel reset the connection and throw away what the client has not read.
    pub(super) async fn linger(&mut self, reason: Reason) {
        self.wire.transport.shut_down_sending();
        let mut sends = matches!(reason, Reason::Refused(_) | Reason::Unread | Reason::Broken);
        let is_body = matches!(reason, Reason::Refused(413) | Reason::Unread);
        let most = if is_body { self.context.limits.body_bytes.max(LINGER_BYTES_MAX) } else { LINGER_BYTES_MAX };
        let (end, mut dropped) = (Instant::now() + LINGER_TIMEOUT, 0);
        loop {
            let mut scratch = buffer::lend(false);
            let received = self.wire.transport.receive_into(&mut scratch);
            buffer::give_back(scratch);
            match received {
                Ok(count) if count > 0 => {
                    sends = true;
                    dropped += count as u64;
                    if Instant::now() > end || dropped > most {
                        return;
                    }
                    yield_now().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let silence = if sends { LINGER_SILENCE_SENDING } else { LINGER_SILENCE };
                    self.deadline.set(silence.min(end.saturating_duration_since(Instant::now())));
                    let (wire, deadline) = (&self.wire, &mut self.deadline);
                    let readable = poll_fn(|context| match wire.transport.poll_readable(context) {
                        Poll::Ready(()) => Poll::Ready(true),
                        Poll::Pending => deadline.poll(context).map(|()| false),
                    });
                    if !readable.await {
                        return;
                    }
                }
                Ok(_) | Err(_) => return,
            }
        }
    }
}
