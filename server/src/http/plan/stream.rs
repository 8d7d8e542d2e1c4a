//! A body that is made step by step, each from a state in bytes, so that another process can go on between two of them.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncBufRead, AsyncRead};
use http_types::{Body, Response};

use crate::http::attached::Attached;

/// What one step of a stream gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The bytes that the client gets. None at all are allowed: then only the state is another one.
    pub bytes: Vec<u8>,
    /// From what the next step is made, here or in another process.
    pub state: Vec<u8>,
}

/// What the future of a step gives: nothing at the end of the stream.
pub(crate) type Stepped = Pin<Box<dyn Future<Output = io::Result<Option<Step>>> + Send>>;
/// Makes the next step from a state.
pub(crate) type MakeStep = Arc<dyn Fn(Vec<u8>) -> Stepped + Send + Sync>;

/// A registered stream: how its steps are made, and whether it goes on for ever.
#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) make: MakeStep,
    /// It has no end of its own: where it would be cut, it can as well be ended in order, and its client comes back.
    pub(crate) is_endless: bool,
}

/// A stream that a program registered under a name, at the state that its next step is made from.
pub(crate) struct Stream {
    name: Arc<str>,
    state: Vec<u8>,
    registered: Registered,
    running: Option<Stepped>,
}

impl Stream {
    pub(crate) fn new(name: Arc<str>, state: Vec<u8>, registered: Registered) -> Stream {
        Stream { name, state, registered, running: None }
    }

    /// The name, and the state that the next step is made from. One that is being waited for is made anew elsewhere.
    pub(super) fn into_parts(self) -> (Arc<str>, Vec<u8>) {
        (self.name, self.state)
    }

    pub(super) fn is_endless(&self) -> bool {
        self.registered.is_endless
    }

    pub(super) fn state(&self) -> &[u8] {
        &self.state
    }

    /// Waits for the bytes of the next step. There is none at the end.
    pub(super) fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        let running = self.running.get_or_insert_with(|| (self.registered.make)(self.state.clone()));
        let stepped = ready!(running.as_mut().poll(context));
        self.running = None;
        Poll::Ready(stepped.map(|step| {
            let Step { bytes, state } = step?;
            self.state = state;
            Some(bytes)
        }))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Stream").field("name", &self.name).finish_non_exhaustive()
    }
}

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
