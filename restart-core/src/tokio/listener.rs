//! A listener that waits in the event loop of tokio, for its clients and for whatever else an accept waits for.
//!
//! When it accepts and when it ends is what the listener of the crate decides; here is only what wakes it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::tokio::io::{Interest, unix::AsyncFd};
use futures_lite::stream;

use super::stream::Stream;
use crate::listeners::{self, Reactor};

/// A listening socket of this generation that is waited for on tokio, as [`Listener`](crate::Listener) is on async-io.
///
/// It is made of one of those, anywhere, and waits in the runtime in which it is asked to accept, which has to have I/O
/// and time. Several of one socket share its clients, in one runtime or in several.
#[derive(Debug)]
pub struct Listener {
    listener: listeners::Listener,
    watched: Watched,
}

impl Listener {
    /// The same socket, waited for on tokio. Nothing is watched before the first accept.
    pub fn new(listener: listeners::Listener) -> Listener {
        Listener { listener, watched: Watched(None) }
    }

    /// The listener that this is made of.
    pub fn get_ref(&self) -> &listeners::Listener {
        &self.listener
    }

    /// Waits for the next connection, counted until its stream is dropped. `None` where the listener is given up, and none
    /// will come any more.
    ///
    /// In everything it does as [`Listener::accept`](crate::Listener::accept): it just waits while this generation must not
    /// accept, and no client wakes it then; it tries again after an error, which the log tells of. It may be dropped while
    /// it waits, and nothing is lost.
    pub async fn accept(&mut self) -> Option<Stream> {
        let Listener { listener, watched } = self;
        loop {
            let accepted = listener.accept_on(watched).await?;
            match Stream::new(accepted) {
                Ok(stream) => return Some(stream),
                Err(error) => {
                    let closed = format!("a client's connection cannot be watched, and is closed: {error}");
                    listener.pause_after(watched, &closed).await;
                }
            }
        }
    }

    /// What comes, as a stream that ends when the listener is given up.
    pub fn incoming(self) -> Incoming {
        let next = async |mut listener: Listener| listener.accept().await.map(|accepted| (accepted, listener));
        Incoming(Box::pin(stream::unfold(self, next)))
    }
}

impl From<listeners::Listener> for Listener {
    fn from(listener: listeners::Listener) -> Listener {
        Listener::new(listener)
    }
}

/// The connections of a [`Listener`], as a `futures_core::Stream`.
///
/// No item is an error. A server that wants a `Result` of each, as tonic's `serve_with_incoming`, gets it by `map(Ok)`.
#[must_use = "nothing is accepted before it is polled"]
pub struct Incoming(Pin<Box<dyn stream::Stream<Item = Stream> + Send>>);

impl stream::Stream for Incoming {
    type Item = Stream;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Stream>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Incoming").finish_non_exhaustive()
    }
}

/// A socket in the event loop of the runtime, while its clients are waited for.
#[derive(Debug)]
struct Watched(Option<AsyncFd<Arc<OwnedFd>>>);

impl Reactor for Watched {
    async fn readable(&mut self, listener: &listeners::Listener) -> io::Result<()> {
        let watched = match self.0.take() {
            Some(watched) => watched,
            None => watch(listener.descriptor())?,
        };
        let watched = self.0.insert(watched);
        loop {
            let readable = watched.readable().await.map(|mut ready| {
                // What was noted may be a client that is accepted by now. The look comes after the note, so that clearing
                // it loses none who came since.
                let is_readable = listener.is_readable();
                if !is_readable {
                    ready.clear_ready();
                }
                is_readable
            });
            match readable {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    // The runtime has ended; the next one has to watch anew.
                    self.0 = None;
                    return Err(error);
                }
            }
        }
    }

    async fn sleep(&mut self, time: Duration) {
        ::tokio::time::sleep(time).await;
    }

    fn rest(&mut self) {
        self.0 = None;
    }
}

/// Has the runtime watch a socket. An event loop watches a descriptor once: where another listener has it there, this one
/// gets a descriptor of its own.
fn watch(socket: &Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    match watch_descriptor(Arc::clone(socket)) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => watch_descriptor(Arc::new(socket.try_clone()?)),
        watched => watched,
    }
}

#[allow(
    deprecated,
    reason = "what stands in its place is unsafe, and asks for what an Arc<OwnedFd> promises: one descriptor, open to the end"
)]
fn watch_descriptor(socket: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use ::tokio::io::AsyncWriteExt;
    use ::tokio::time::timeout;
    use futures_lite::StreamExt;
    use futures_lite::future::poll_once;

    use super::*;
    use crate::address::Address;
    use crate::drain::Drain;
    use crate::listeners::listener_of;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn tcp(drain: &Drain) -> listeners::Listener {
        listener_of(TcpListener::bind("127.0.0.1:0").unwrap().into(), drain)
    }

    fn connect(listener: &listeners::Listener) -> TcpStream {
        let Address::Tcp(address) = listener.address() else { panic!("{:?}", listener.address()) };
        TcpStream::connect(address).unwrap()
    }

    async fn accepted(listener: &mut Listener) -> Option<Stream> {
        timeout(DEADLINE, listener.accept()).await.expect("an answer within the deadline")
    }

    #[::tokio::test]
    async fn what_is_accepted_is_counted_knows_its_client_and_can_be_written_to() {
        let drain = Drain::new();
        let core = tcp(&drain);
        core.open();
        let mut listener = Listener::new(core.clone());
        let mut accept = Box::pin(accepted(&mut listener));
        assert!(poll_once(&mut accept).await.is_none(), "nobody is there");
        assert!(core.is_served());
        let mut client = connect(&core);
        let mut stream = accept.await.unwrap();
        assert_eq!((drain.live(), stream.peer()), (1, &Address::Tcp(client.local_addr().unwrap())));
        stream.write_all(b"hello").await.unwrap();
        let mut hello = [0; 5];
        io::Read::read_exact(&mut client, &mut hello).unwrap();
        drop(stream);
        assert_eq!((&hello, drain.live()), (b"hello", 0));
    }

    #[::tokio::test]
    async fn a_unix_socket_is_waited_for_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let core = listener_of(UnixListener::bind(&path).unwrap().into(), &Drain::new());
        core.open();
        let mut listener = Listener::from(core);
        let mut accept = Box::pin(accepted(&mut listener));
        assert!(poll_once(&mut accept).await.is_none());
        let _client = UnixStream::connect(&path).unwrap();
        assert_eq!(accept.await.unwrap().peer(), &Address::UnixUnnamed);
    }

    #[::tokio::test]
    async fn a_pause_leaves_clients_to_others_without_being_woken_and_ends() {
        let core = tcp(&Drain::new());
        let mut listener = Listener::new(core.clone());
        let early = connect(&core);
        let mut accept = Box::pin(accepted(&mut listener));
        assert!(poll_once(&mut accept).await.is_none(), "the gate is closed");
        core.open();
        let first = accept.await.unwrap();
        assert_eq!(first.peer(), &Address::Tcp(early.local_addr().unwrap()));
        for _ in 0..3 {
            let mut accept = Box::pin(listener.accept());
            assert!(poll_once(&mut accept).await.is_none(), "nobody is there");
            core.close();
            assert!(poll_once(&mut accept).await.is_none());
            let client = connect(&core);
            assert!(poll_once(&mut accept).await.is_none(), "it is another generation's");
            drop(accept);
            assert!(listener.watched.0.is_none(), "a pause watches nothing");
            core.open();
            let stream = accepted(&mut listener).await.unwrap();
            assert_eq!(stream.peer(), &Address::Tcp(client.local_addr().unwrap()));
        }
    }

    #[::tokio::test]
    async fn none_of_many_is_missed_by_several_on_one_socket() {
        const CLIENTS: usize = 200;
        let drain = Drain::new();
        let core = tcp(&drain);
        core.open();
        let (sender, accepted) = async_channel::unbounded();
        for _ in 0..3 {
            let (mut incoming, sender) = (Listener::new(core.clone()).incoming(), sender.clone());
            ::tokio::spawn(async move {
                while let Some(stream) = incoming.next().await {
                    sender.send(stream.peer().clone()).await.unwrap();
                }
            });
        }
        drop(sender);
        let connecting = core.clone();
        let clients = ::tokio::task::spawn_blocking(move || {
            (0..CLIENTS).map(|_| connect(&connecting)).collect::<Vec<TcpStream>>()
        });
        for _ in 0..CLIENTS {
            timeout(DEADLINE, accepted.recv()).await.expect("all of them are accepted").unwrap();
        }
        let clients = clients.await.unwrap();
        core.release();
        let ended = timeout(DEADLINE, accepted.recv()).await.expect("all loops come to an end");
        assert!(ended.is_err() && clients.len() == CLIENTS && drain.live() == 0);
    }

    #[::tokio::test]
    async fn a_listener_that_is_given_up_serves_its_queue_and_ends() {
        let core = tcp(&Drain::new());
        core.open();
        let mut incoming = Listener::new(core.clone()).incoming();
        assert!(poll_once(incoming.next()).await.is_none());
        let _clients = [connect(&core), connect(&core)];
        core.release();
        for _ in 0..2 {
            timeout(DEADLINE, incoming.next()).await.unwrap().unwrap();
        }
        assert!(timeout(DEADLINE, incoming.next()).await.unwrap().is_none());
        let Address::Tcp(address) = core.address() else { panic!("{:?}", core.address()) };
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }

    #[::tokio::test]
    async fn a_stop_ends_it_also_where_somebody_has_shut_the_socket_down() {
        let core = tcp(&Drain::new());
        core.open();
        let mut listener = Listener::new(core.clone());
        let mut accept = Box::pin(accepted(&mut listener));
        assert!(poll_once(&mut accept).await.is_none());
        rustix::net::shutdown(&core, rustix::net::Shutdown::Both).unwrap();
        assert!(poll_once(&mut accept).await.is_none(), "that alone ends nothing");
        core.last_call();
        assert!(accept.await.is_none());
    }

    #[test]
    fn it_goes_on_in_another_runtime() {
        let core = tcp(&Drain::new());
        core.open();
        let mut listener = Listener::new(core.clone());
        for _ in 0..2 {
            let runtime = ::tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut accept = Box::pin(accepted(&mut listener));
                assert!(poll_once(&mut accept).await.is_none());
                let _client = connect(&core);
                assert!(accept.await.is_some());
            });
        }
    }
}
