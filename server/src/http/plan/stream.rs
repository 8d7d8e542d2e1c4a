//! A response whose body is a registered stream: made step by step, each from a state in bytes, so that another process can
//! go on between two of them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::{AsyncBufRead, AsyncRead};
use http_types::{Body, Response};

use crate::http::attached::Attached;

/// What a response's body is: the stream of this name, at this state.
#[derive(Debug)]
pub(crate) struct Streaming {
    pub(crate) name: String,
    pub(crate) state: Vec<u8>,
}

/// Makes the registered stream of this name, at this state, the body of a response. Its length is not known; its content
/// type is the handler's to say. Where no such stream is registered ([`Moves::stream`](crate::http::Moves::stream)), 500
/// is answered.
pub fn stream(response: &mut Response, name: &str, state: Vec<u8>) {
    let attached = Attached::attach(response, Streaming { name: name.to_owned(), state });
    let is_typed = response.header("content-type").is_some();
    response.set_body(Body::from_reader(MadeByTheServer(attached), None));
    if !is_typed {
        response.remove_header("content-type");
    }
}

/// Looks which stream is the body of a response, if one is.
pub(crate) fn streaming(response: &Response) -> Option<&Attached<Streaming>> {
    Attached::of(response)
}

/// The body of a response whose stream the server makes: nobody else can read it.
struct MadeByTheServer(Attached<Streaming>);

impl MadeByTheServer {
    fn error(&self) -> io::Error {
        let name = self.0.value().as_ref().map(|streaming| streaming.name.clone()).unwrap_or_default();
        io::Error::new(io::ErrorKind::Unsupported, format!("the stream {name:?} is made by the server that sends it"))
    }
}

impl AsyncRead for MadeByTheServer {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(self.error()))
    }
}

impl AsyncBufRead for MadeByTheServer {
    fn poll_fill_buf(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Poll::Ready(Err(self.error()))
    }

    fn consume(self: Pin<&mut Self>, _: usize) {}
}
