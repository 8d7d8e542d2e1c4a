//! A body of unknown length whose pieces an async function makes, one from the state that the one before left.
//!
//! Between two pieces there is nothing but the state, so that a stream can stop there and go on elsewhere.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncBufRead, AsyncRead};
use http_types::Body;

/// A piece and the state after it, or the end.
pub(super) type Step = Option<(Vec<u8>, Vec<u8>)>;

/// What makes them. It is asked again with the same state if it was not waited for.
type Making = Pin<Box<dyn Future<Output = Step> + Send + Sync>>;

/// A body that begins with this state.
pub(super) fn body<F>(state: Vec<u8>, step: impl Fn(Vec<u8>) -> F + Send + Sync + Unpin + 'static) -> Body
where
    F: Future<Output = Step> + Send + Sync + 'static,
{
    let making = Some(Box::pin(step(state)) as Making);
    let step = move |state| Box::pin(step(state)) as Making;
    Body::from_reader(Live { step, making, piece: Vec::new(), used: 0 }, None)
}

struct Live<F> {
    step: F,
    /// None at the end.
    making: Option<Making>,
    piece: Vec<u8>,
    /// How much of the piece was taken.
    used: usize,
}

impl<F: Fn(Vec<u8>) -> Making + Unpin> AsyncBufRead for Live<F> {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.used == this.piece.len()
            && let Some(making) = &mut this.making
        {
            let made = ready!(making.as_mut().poll(context));
            this.making = made.map(|(piece, next)| {
                (this.piece, this.used) = (piece, 0);
                (this.step)(next)
            });
        }
        Poll::Ready(Ok(&this.piece[this.used..]))
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        self.used = (self.used + count).min(self.piece.len());
    }
}

impl<F: Fn(Vec<u8>) -> Making + Unpin> AsyncRead for Live<F> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let bytes = ready!(self.as_mut().poll_fill_buf(context))?;
        let count = bytes.len().min(into.len());
        into[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::AsyncReadExt;

    use super::*;

    #[test]
    fn each_piece_comes_from_the_state_that_the_one_before_left() {
        let step = |state: Vec<u8>| async move {
            let count = state[0];
            (count < 4).then(|| (vec![b'0' + count; usize::from(count)], vec![count + 1]))
        };
        let mut body = body(vec![0], step);
        assert_eq!(body.len(), None);
        let mut text = String::new();
        smol::block_on(body.read_to_string(&mut text)).unwrap();
        assert_eq!(text, "122333");
        assert_eq!(smol::block_on(body.read(&mut [0; 8])).unwrap(), 0, "the end stays");
    }
}
