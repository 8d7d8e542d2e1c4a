//! Accepting connections, as long as this generation may.
//!
//! A listener waits on its own descriptor only while its gate is open, so that a paused or draining process is not
//! woken by connections that are its successor's. A listener that no successor wants stays open until it is released.

use std::fmt;
use std::future::{self, Future};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures_lite::future::or;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::gate::{Gate, GateState};
use super::socket::{Origin, Socket, address_of};
use crate::address::Address;
use crate::drain::{Drain, Guard};
use crate::lock::lock;

/// How long to wait after an error before the next attempt.
const ERROR_PAUSE: Duration = Duration::from_millis(100);
/// Errors that follow one another more closely are one burst, of which the log tells once.
const BURST_GAP: Duration = Duration::from_secs(5);

/// Whoever shuts a listening socket down tells the others that have it within this time.
const SHUT_DOWN_PAUSE: Duration = Duration::from_secs(1);

/// How often, and how long apart, a stop looks whether the last connections have been accepted.
const LAST_CALL_LOOKS: u32 = 1000;
const LAST_CALL_PAUSE: Duration = Duration::from_millis(1);

/// What [`Listener::accept_on`] waits with: an event loop other than async-io, and the room that there is for clients.
///
/// A value serves one accept loop on one listener. What it watches is its own matter: edge-triggered, level-triggered or
/// armed for each wait are all right.
pub trait Reactor: Send {
    /// Waits until accepting is worth a try again, after one that has found nobody. A client that has come since then is
    /// not missed, also if it comes before this is called or waited for. It may return although nobody has come, which costs
    /// a system call. An error is logged, and waited after. A place that [`room`](Reactor::room) has taken should be given
    /// back: another listener may need it meanwhile.
    ///
    /// The future may be dropped before it is ready, where the listener is to accept no more.
    fn readable(&mut self, listener: &Listener) -> impl Future<Output = io::Result<()>> + Send;

    /// Waits for a time, after an error, without a place, as [`readable`](Reactor::readable) does.
    fn sleep(&mut self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Ceases to watch the socket, and gives a place back: this generation must not accept, and should not be woken by
    /// clients that are another one's. It goes on with [`room`](Reactor::room).
    fn rest(&mut self);

    /// Waits until there is a place for another client, and takes it, unless one was taken before and not used. It is called
    /// before each attempt; who comes meanwhile waits in the kernel's queue. Whoever is given a client takes the place out:
    /// the next one needs its own. By itself there is room at all times.
    ///
    /// The future may be dropped before it is ready, as that of [`readable`](Reactor::readable).
    fn room(&mut self, _listener: &Listener) -> impl Future<Output = ()> + Send {
        future::ready(())
    }
}

/// The event loop that the driver has as well. It watches a socket only while somebody waits for it.
struct AsyncIo;

impl Reactor for AsyncIo {
    async fn readable(&mut self, listener: &Listener) -> io::Result<()> {
        listener.socket.readable().await
    }

    async fn sleep(&mut self, time: Duration) {
        Timer::after(time).await;
    }

    fn rest(&mut self) {}
}

/// A listening socket of this generation. Clones share it.
#[derive(Clone, Debug)]
pub struct Listener {
    name: Arc<str>,
    address: Address,
    origin: Origin,
    /// Whether somebody else holds the socket open after this service has ended.
    lasting: bool,
    socket: Arc<Async<Arc<OwnedFd>>>,
    gate: Arc<Gate>,
    drain: Drain,
    /// What is given up for a client where the process has no descriptor left.
    spare: Option<Arc<Mutex<Option<OwnedFd>>>>,
    /// When accepting failed last.
    failed: Arc<Mutex<Option<Instant>>>,
}

/// An accepted connection: non-blocking and close-on-exec.
#[derive(Debug)]
#[non_exhaustive]
pub struct Accepted {
    /// The connection.
    pub fd: OwnedFd,
    /// The other end's address.
    pub peer: Address,
    /// Counts the connection as live; a drain waits until it is dropped.
    pub guard: Guard,
}

impl Listener {
    /// A listener that accepts nothing yet. `managed`: a service manager may hold a copy of the socket.
    pub(crate) fn new(socket: &Socket, drain: &Drain, managed: bool) -> io::Result<Listener> {
        Ok(Listener {
            name: socket.name.as_str().into(),
            address: socket.address.clone(),
            origin: socket.origin,
            lasting: managed || socket.origin == Origin::Activated,
            socket: Arc::new(Async::new(Arc::clone(&socket.fd))?),
            gate: Arc::new(Gate::new()),
            drain: drain.clone(),
            spare: None,
            failed: Arc::default(),
        })
    }

    /// Keeps a descriptor back, so that a client gets in although others have all that the process may open.
    pub(crate) fn with_spare(self) -> Listener {
        let spare = Some(Arc::default());
        let listener = Listener { spare, ..self };
        listener.renew_spare();
        listener
    }

    /// Keeps a descriptor back again, if one was given up and there is one.
    pub(crate) fn renew_spare(&self) {
        if let Some(mut spare) = self.spare()
            && spare.is_none()
        {
            *spare = eventfd(0, EventfdFlags::CLOEXEC).ok();
        }
    }

    fn give_up_spare(&self) -> bool {
        self.spare().is_some_and(|mut spare| spare.take().is_some())
    }

    fn spare(&self) -> Option<MutexGuard<'_, Option<OwnedFd>>> {
        self.spare.as_ref().map(|spare| lock(spare))
    }

    /// Accepts from now on.
    pub(crate) fn open(&self) {
        self.gate.set(GateState::Open);
    }

    /// Accepts no more, and leaves what waits to whoever else has the socket.
    pub(crate) fn close(&self) {
        self.gate.set(GateState::Closed);
    }

    /// Accepts what waits, and then nothing more: the service stops.
    pub(crate) fn last_call(&self) {
        self.gate.set(GateState::LastCall);
    }

    /// Accepts what waits, and then gives the address up: nobody wants it any more. This cannot be taken back.
    pub(crate) fn release(&self) {
        self.gate.set(GateState::Released);
    }

    /// Whether somebody has waited for its clients, or it is left unserved.
    pub(crate) fn is_served(&self) -> bool {
        self.gate.is_served()
    }

    /// Waits until somebody waits for its clients.
    pub(crate) async fn served(&self) {
        self.gate.served().await;
    }

    /// Says that this program does not serve this listener, such as one that a service manager gives and that it does not
    /// know: [`Generation::ready`](crate::Generation::ready) then waits for no accept on it. The socket stays open, and is
    /// handed on; its clients wait for a generation that serves it.
    pub fn leave_unserved(&self) {
        self.gate.note_served();
    }

    /// The listener's name, the same in all generations.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address that it is bound to.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Where it comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Waits for the next connection. `None` where the listener is given up, and none will come any more: the service
    /// stops, or no later generation wants the listener, and those that waited have been accepted.
    ///
    /// While this generation must not accept (before it is ready, during its successor's probation, while it drains)
    /// the call just waits, and goes on where a failed reload makes this generation serve again. Connections that end
    /// before they are accepted are passed over. After any other error (`accept(2)`: a firewall's refusal, no descriptor
    /// left, a socket that somebody has shut down) it tries again in 100 ms; the log tells once of errors that come in a
    /// burst.
    pub async fn accept(&self) -> Option<Accepted> {
        self.accept_on(&mut AsyncIo).await
    }

    /// Waits for the next connection with what `reactor` has, and is [`accept`](Listener::accept) in all else. The future
    /// may be dropped, and no client is lost; the same reactor goes on where it was.
    ///
    /// ```
    /// use std::io;
    /// use std::os::fd::{AsFd, OwnedFd};
    /// use std::sync::Arc;
    /// use std::time::Duration;
    ///
    /// use restart_core::{Listener, Reactor};
    /// use smol::lock::{Semaphore, SemaphoreGuardArc};
    /// use smol::{Async, Timer};
    ///
    /// /// Clients are accepted while there are places; who waits for none keeps no place from other listeners.
    /// struct Door {
    ///     places: Arc<Semaphore>,
    ///     place: Option<SemaphoreGuardArc>,
    ///     watched: Option<Async<OwnedFd>>,
    /// }
    ///
    /// impl Reactor for Door {
    ///     async fn readable(&mut self, listener: &Listener) -> io::Result<()> {
    ///         self.place = None;
    ///         let watched = match self.watched.take() {
    ///             Some(watched) => watched,
    ///             None => Async::new(listener.as_fd().try_clone_to_owned()?)?,
    ///         };
    ///         self.watched.insert(watched).readable().await
    ///     }
    ///
    ///     async fn sleep(&mut self, time: Duration) {
    ///         Timer::after(time).await;
    ///     }
    ///
    ///     fn rest(&mut self) {
    ///         (self.place, self.watched) = (None, None);
    ///     }
    ///
    ///     async fn room(&mut self, _: &Listener) {
    ///         if self.place.is_none() {
    ///             self.place = Some(self.places.acquire_arc().await);
    ///         }
    ///     }
    /// }
    ///
    /// async fn serve(listener: Listener, places: Arc<Semaphore>) {
    ///     let mut door = Door { places, place: None, watched: None };
    ///     while let Some(accepted) = listener.accept_on(&mut door).await {
    ///         let place = door.place.take();
    ///         // Both are held until the connection ends.
    ///         drop((accepted, place));
    ///     }
    /// }
    /// ```
    pub async fn accept_on(&self, reactor: &mut impl Reactor) -> Option<Accepted> {
        self.accept_by(reactor, |state| self.try_accept(state)).await
    }

    /// `attempt` is what accepts, as tests have it fail.
    async fn accept_by(
        &self,
        reactor: &mut impl Reactor,
        attempt: impl Fn(GateState) -> rustix::io::Result<Accepted>,
    ) -> Option<Accepted> {
        self.gate.note_served();
        loop {
            let state = self.gate.get();
            if state == GateState::Closed {
                reactor.rest();
                self.gate.changed(state).await;
                continue;
            }
            if !self.room_or_changed(reactor, state).await {
                continue;
            }
            match attempt(state) {
                Ok(accepted) => {
                    self.renew_spare();
                    return Some(accepted);
                }
                Err(Errno::MFILE) if self.give_up_spare() => {}
                // Another clone may have shut the socket down.
                Err(Errno::AGAIN | Errno::INVAL) if state.ends() => {
                    self.refuse_from_now_on(state);
                    return None;
                }
                Err(Errno::AGAIN) => self.readable_or_changed(reactor, state).await,
                Err(Errno::CONNABORTED | Errno::INTR | Errno::PROTO) => {}
                // The predecessor of this generation may have, as the service stops: the gate closes in a moment then.
                Err(Errno::INVAL) if self.gate_changes_soon(reactor, state).await => {}
                Err(error) => self.pause_after(reactor, &error).await,
            }
        }
    }

    /// Waits after an error, which the log tells of unless another one has just been.
    pub(crate) async fn pause_after(&self, reactor: &mut impl Reactor, error: &(dyn fmt::Display + Sync)) {
        if self.begins_burst() {
            log::warn!("cannot accept on {}: {error}; trying again", self.address);
        }
        reactor.sleep(ERROR_PAUSE).await;
    }

    /// Notes an error, and says whether the last one is so long ago that this one is news.
    fn begins_burst(&self) -> bool {
        let mut failed = lock(&self.failed);
        failed.replace(Instant::now()).is_none_or(|last| last.elapsed() > BURST_GAP)
    }

    async fn gate_changes_soon(&self, reactor: &mut impl Reactor, seen: GateState) -> bool {
        let changed = async {
            self.gate.changed(seen).await;
            true
        };
        let late = async {
            reactor.sleep(SHUT_DOWN_PAUSE).await;
            false
        };
        or(changed, late).await
    }

    /// Waits until nobody waits to be accepted, for a second at the most: an application that accepts no more must not
    /// hold up a stop. Says whether the queue is empty. If it is, further clients are refused, also where all accept loops
    /// wait for room, or do not run.
    pub(crate) async fn queue_emptied(&self) -> bool {
        for _ in 0..LAST_CALL_LOOKS {
            if !self.client_waits() {
                let state = self.gate.get();
                if state.ends() {
                    self.refuse_from_now_on(state);
                }
                return true;
            }
            Timer::after(LAST_CALL_PAUSE).await;
        }
        false
    }

    /// Whether a client waits to be accepted, at this moment; never blocks (`poll(2)`). Where that can't be told, none
    /// does.
    pub fn client_waits(&self) -> bool {
        self.events().is_ok_and(|events| events == PollFlags::IN)
    }

    /// Whether accepting is worth a try: a client waits, or an error does.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_readable(&self) -> bool {
        self.events().map_or(true, |events| !events.is_empty())
    }

    fn events(&self) -> rustix::io::Result<PollFlags> {
        let mut polled = [PollFd::new(self, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut polled, Some(&now))?;
        Ok(polled[0].revents())
    }

    /// The socket, for another event loop to watch.
    #[cfg(feature = "tokio")]
    pub(crate) fn descriptor(&self) -> &Arc<OwnedFd> {
        self.socket.get_ref()
    }

    /// Waits until there is room for a client, or the gate is in another state than `seen`. Says whether there is room.
    async fn room_or_changed(&self, reactor: &mut impl Reactor, seen: GateState) -> bool {
        let room = async {
            reactor.room(self).await;
            true
        };
        let changed = async {
            self.gate.changed(seen).await;
            false
        };
        or(room, changed).await
    }

    /// Waits until the socket is readable, or the gate in another state than `seen`.
    async fn readable_or_changed(&self, reactor: &mut impl Reactor, seen: GateState) {
        let changed = async {
            self.gate.changed(seen).await;
            Ok(())
        };
        if let Err(error) = or(reactor.readable(self), changed).await {
            self.pause_after(reactor, &error).await;
        }
    }

    fn try_accept(&self, state: GateState) -> rustix::io::Result<Accepted> {
        // Counted before it exists, so that no drain can end between the two.
        let guard = self.drain.guard();
        // The gate is read after that, as the driver counts after it has set the gate.
        fence(Ordering::SeqCst);
        if self.gate.get() != state {
            return Err(Errno::INTR);
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // The kernel looks for a free descriptor before it looks for a client.
        let nobody_waits = |error| if error == Errno::MFILE && !self.client_waits() { Errno::AGAIN } else { error };
        let (fd, peer) = rustix::net::acceptfrom_with(self.socket.get_ref(), flags).map_err(nobody_waits)?;
        let peer = peer.as_ref().and_then(address_of).unwrap_or(Address::UnixUnnamed);
        Ok(Accepted { fd, peer, guard })
    }

    /// At a stop, a socket that only this service holds refuses further clients at once, instead of letting them wait
    /// for a process that is about to end. One that a service manager holds keeps their queue for the next start,
    /// unless it is released.
    fn refuse_from_now_on(&self, state: GateState) {
        if state == GateState::Released || !self.lasting {
            // The socket may have been shut down through another clone; then there is nothing left to do.
            let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
        }
    }
}

impl AsFd for Listener {
    /// The listening socket itself.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

impl Accepted {
    /// The connection as a TCP stream, with its guard; fails where it is a Unix one.
    pub fn into_tcp(self) -> io::Result<(TcpStream, Guard)> {
        match self.peer {
            Address::Tcp(_) => Ok((self.fd.into(), self.guard)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a TCP connection")),
        }
    }

    /// The connection as a Unix stream, with its guard; fails where it is a TCP one.
    pub fn into_unix(self) -> io::Result<(UnixStream, Guard)> {
        match self.peer {
            Address::Tcp(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a Unix connection")),
            _ => Ok((self.fd.into(), self.guard)),
        }
    }
}

/// A listener for the tests of other event loops, and its gate as the driver has it.
#[cfg(all(test, feature = "tokio"))]
pub(crate) fn listener_of(socket: OwnedFd, drain: &Drain) -> Listener {
    let socket = Socket::check("test", "test", socket).expect("a listening socket");
    Listener::new(&socket, drain, false).expect("an event loop")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::TcpListener;

    use async_io::block_on;
    use futures_lite::future::poll_once;

    use super::*;

    fn listener() -> Listener {
        let socket = Socket::check("test", "test", TcpListener::bind("127.0.0.1:0").unwrap().into()).unwrap();
        Listener::new(&socket, &Drain::new(), true).unwrap()
    }

    fn connect(listener: &Listener) -> TcpStream {
        let Address::Tcp(address) = listener.address() else { panic!("{:?}", listener.address()) };
        TcpStream::connect(address).unwrap()
    }

    #[test]
    fn a_closed_gate_leaves_connections_in_the_queue_until_it_opens_again() {
        let listener = listener();
        let client = connect(&listener);
        let mut accept = Box::pin(listener.accept());
        block_on(async {
            assert!(poll_once(&mut accept).await.is_none(), "the gate is closed");
            listener.open();
            let accepted = accept.await.unwrap();
            assert_eq!(accepted.peer, Address::Tcp(client.local_addr().unwrap()));
            listener.close();
            let _second = connect(&listener);
            assert!(poll_once(Box::pin(listener.accept())).await.is_none());
        });
    }

    #[test]
    fn an_open_gate_that_closes_stops_a_waiting_accept() {
        let listener = listener();
        listener.open();
        let mut accept = Box::pin(listener.accept());
        block_on(async {
            assert!(poll_once(&mut accept).await.is_none());
            listener.close();
            assert!(poll_once(&mut accept).await.is_none());
            let _client = connect(&listener);
            assert!(poll_once(&mut accept).await.is_none());
        });
    }

    /// async-io, with room for so many clients.
    struct Rooms(usize);

    impl Reactor for Rooms {
        async fn readable(&mut self, listener: &Listener) -> io::Result<()> {
            AsyncIo.readable(listener).await
        }

        async fn sleep(&mut self, time: Duration) {
            AsyncIo.sleep(time).await;
        }

        fn rest(&mut self) {}

        async fn room(&mut self, _: &Listener) {
            match self.0.checked_sub(1) {
                Some(left) => self.0 = left,
                None => future::pending().await,
            }
        }
    }

    #[test]
    fn who_finds_no_room_waits_in_the_queue_for_this_generation_or_another() {
        let listener = listener();
        listener.open();
        let _clients = [connect(&listener), connect(&listener)];
        let mut rooms = Rooms(1);
        block_on(async {
            assert!(listener.accept_on(&mut rooms).await.is_some());
            let mut accept = Box::pin(listener.accept_on(&mut rooms));
            assert!(poll_once(&mut accept).await.is_none() && listener.client_waits());
            listener.close();
            assert!(poll_once(&mut accept).await.is_none(), "it waits at the gate, no longer for room");
            drop(accept);
            listener.open();
            assert!(listener.accept_on(&mut Rooms(1)).await.is_some());
        });
    }

    #[test]
    fn a_released_listener_refuses_clients_also_where_nobody_has_room_for_them() {
        let listener = listener();
        listener.open();
        block_on(async {
            let mut full = Rooms(0);
            let mut accept = Box::pin(listener.accept_on(&mut full));
            assert!(poll_once(&mut accept).await.is_none());
            listener.release();
            assert!(poll_once(&mut accept).await.is_none() && listener.queue_emptied().await);
        });
        let Address::Tcp(address) = listener.address() else { panic!("{:?}", listener.address()) };
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_released_listener_serves_its_queue_and_then_refuses() {
        let listener = listener();
        let _clients = [connect(&listener), connect(&listener)];
        listener.release();
        block_on(async {
            listener.accept().await.unwrap();
            listener.accept().await.unwrap();
            assert!(listener.accept().await.is_none());
        });
        let Address::Tcp(address) = listener.address() else { panic!("{:?}", listener.address()) };
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn no_error_ends_an_accept_loop() {
        let listener = listener();
        listener.open();
        let passing = [
            Errno::PERM,
            Errno::NETDOWN,
            Errno::PROTO,
            Errno::NOPROTOOPT,
            Errno::HOSTDOWN,
            Errno::NONET,
            Errno::HOSTUNREACH,
            Errno::OPNOTSUPP,
            Errno::NETUNREACH,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::BADF,
            Errno::NOTSOCK,
            Errno::FAULT,
            Errno::INVAL,
        ];
        for error in passing {
            let _client = connect(&listener);
            let fails = Cell::new(true);
            let attempt = |state| if fails.replace(false) { Err(error) } else { listener.try_accept(state) };
            block_on(listener.accept_by(&mut AsyncIo, attempt)).unwrap();
            assert!(!fails.get());
        }
    }

    #[test]
    fn a_burst_of_errors_is_told_once() {
        let (listener, other) = (listener(), listener());
        let clone = listener.clone();
        assert!(listener.begins_burst());
        assert!(!listener.begins_burst() && !clone.begins_burst());
        assert!(other.begins_burst(), "each listener by itself");
        *listener.failed.lock().unwrap() = Instant::now().checked_sub(2 * BURST_GAP);
        assert!(listener.begins_burst());
    }

    #[test]
    fn at_a_stop_every_clone_comes_to_an_end() {
        let socket = Socket::check("test", "test", TcpListener::bind("127.0.0.1:0").unwrap().into()).unwrap();
        let listener = Listener { lasting: false, ..Listener::new(&socket, &Drain::new(), false).unwrap() };
        let clone = listener.clone();
        listener.last_call();
        block_on(async {
            assert!(listener.accept().await.is_none());
            assert!(clone.accept().await.is_none());
        });
    }

    #[test]
    fn what_is_accepted_is_non_blocking_and_close_on_exec() {
        let listener = listener();
        listener.open();
        let _client = connect(&listener);
        let accepted = block_on(listener.accept()).unwrap();
        assert_eq!(rustix::io::fcntl_getfd(&accepted.fd).unwrap(), rustix::io::FdFlags::CLOEXEC);
        assert!(rustix::fs::fcntl_getfl(&accepted.fd).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    }
}
