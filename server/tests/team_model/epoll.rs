//! An epoll as the kernel has it, edge-triggered, with sockets that are nothing but a count of bytes.
//!
//! An event is reported once for each change, to whoever waits; several changes before it is taken are one. What was
//! entered and is taken out, or closed, is reported no more, but what was taken before it still is.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use rustix::event::epoll::EventFlags;
use shuttle::sync::{Condvar, Mutex};

/// The kernel's side of an epoll.
#[derive(Debug, Default)]
struct Kernel {
    ready: VecDeque<(u64, EventFlags)>,
    rung: bool,
    waiting: bool,
}

/// It, and what wakes whoever waits in it.
type Shared = Arc<(Mutex<Kernel>, Condvar)>;

#[derive(Debug, Default)]
pub(crate) struct Epoll(Shared);

/// Room for the events of one wait.
pub(crate) struct Room(Vec<(u64, EventFlags)>);

impl Room {
    pub(crate) fn new() -> Room {
        Room(Vec::new())
    }
}

/// One end of a connection: what has come, and where that is reported.
#[derive(Debug, Default)]
pub(crate) struct Socket(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    bytes: usize,
    /// Sent and not yet taken by the other end, less what that is about to take.
    unsent: isize,
    closed: bool,
    entered: Option<(u64, Shared)>,
}

/// What can be entered.
pub(crate) trait Source {
    fn socket(&self) -> &Socket;
}

impl Source for &Arc<Socket> {
    fn socket(&self) -> &Socket {
        self
    }
}

impl Socket {
    /// A byte comes.
    pub(crate) fn arrive(&self) {
        let mut inner = self.0.lock().expect("no panic");
        inner.bytes += 1;
        inner.tell(EventFlags::IN);
    }

    /// The other end closes.
    pub(crate) fn close(&self) {
        let mut inner = self.0.lock().expect("no panic");
        inner.closed = true;
        inner.tell(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP);
    }

    /// Sends a byte, if there is room: for one.
    pub(crate) fn send(&self) -> bool {
        let mut inner = self.0.lock().expect("no panic");
        let fits = inner.unsent < 1;
        inner.unsent += isize::from(fits);
        fits
    }

    /// The other end takes a byte, or makes room for one more.
    pub(crate) fn take(&self) {
        let mut inner = self.0.lock().expect("no panic");
        inner.unsent -= 1;
        inner.tell(EventFlags::OUT);
    }

    /// Receives up to so many bytes: nothing is `WouldBlock`, or the end.
    pub(crate) fn receive(&self, most: usize) -> io::Result<usize> {
        let mut inner = self.0.lock().expect("no panic");
        if inner.bytes == 0 && !inner.closed {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = inner.bytes.min(most);
        inner.bytes -= count;
        Ok(count)
    }
}

impl Inner {
    fn tell(&self, flags: EventFlags) {
        if let Some((key, kernel)) = &self.entered
            && !flags.is_empty()
        {
            let (state, changed) = &**kernel;
            let mut state = state.lock().expect("no panic");
            match state.ready.iter_mut().find(|(ready, _)| ready == key) {
                Some((_, known)) => *known |= flags,
                None => state.ready.push_back((*key, flags)),
            }
            changed.notify_all();
        }
    }
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        Ok(Epoll::default())
    }

    pub(crate) fn add(&self, socket: impl Source, key: u64) -> io::Result<()> {
        let mut inner = socket.socket().0.lock().expect("no panic");
        inner.entered = Some((key, Arc::clone(&self.0)));
        let hung_up =
            if inner.closed { EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP } else { EventFlags::empty() };
        let there = if inner.bytes > 0 { EventFlags::IN } else { EventFlags::empty() };
        let room = if inner.unsent < 1 { EventFlags::OUT } else { EventFlags::empty() };
        inner.tell(room | there | hung_up);
        Ok(())
    }

    /// It is told of like any other, and of no other kernel's business.
    pub(crate) fn add_listening(&self, socket: impl Source, key: u64, _one_of_several: bool) -> io::Result<()> {
        self.add(socket, key)
    }

    pub(crate) fn delete(&self, socket: impl Source) -> io::Result<()> {
        let mut inner = socket.socket().0.lock().expect("no panic");
        let (key, _) = inner.entered.take().expect("it was entered");
        self.0.0.lock().expect("no panic").ready.retain(|(ready, _)| *ready != key);
        Ok(())
    }

    pub(crate) fn wait<'a>(
        &self,
        room: &'a mut Room,
        sleeps: bool,
    ) -> impl Iterator<Item = (u64, EventFlags)> + use<'a> {
        let (state, changed) = &*self.0;
        let mut state = state.lock().expect("no panic");
        assert!(!std::mem::replace(&mut state.waiting, true), "one thread waits at a time");
        while sleeps && state.ready.is_empty() && !state.rung {
            state = changed.wait(state).expect("no panic");
        }
        (state.waiting, state.rung) = (false, false);
        room.0 = state.ready.drain(..).collect();
        room.0.drain(..)
    }

    pub(crate) fn ring(&self) {
        let (state, changed) = &*self.0;
        state.lock().expect("no panic").rung = true;
        changed.notify_all();
    }
}
