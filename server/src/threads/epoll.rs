//! The system calls of a poller: an epoll, edge-triggered, and a bell that wakes whoever waits in it.
//!
//! It knows sockets by the keys that they were entered with, and nothing of who waits for them.

use std::io;
use std::mem::MaybeUninit;
pub(crate) use std::os::fd::AsFd as Source;
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

/// How many events one wait brings at most. Others get their turn after these.
const EVENTS_MAX: usize = 128;

/// What wakes whoever waits, and no socket: none may have this key.
const BELL: u64 = u64::MAX;

const BOTH_WAYS: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::PRI).union(EventFlags::RDHUP).union(EventFlags::ET);

#[derive(Debug)]
pub(crate) struct Epoll {
    epoll: OwnedFd,
    bell: OwnedFd,
}

/// Room for the events of one wait.
pub(crate) struct Room([MaybeUninit<Event>; EVENTS_MAX]);

impl Room {
    pub(crate) fn new() -> Room {
        Room([MaybeUninit::uninit(); EVENTS_MAX])
    }
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered: each ring is an event, and nobody has to read the bell.
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        Ok(Epoll { epoll, bell })
    }

    /// Enters a socket, once for all that is to be learned of it.
    pub(crate) fn add(&self, socket: impl Source, key: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(key), BOTH_WAYS)?)
    }

    /// Enters a listening socket. Of the sleepers that have it as one of several, the kernel wakes one for each event
    /// (`EPOLLEXCLUSIVE`); whoever is awake learns of it, too, and so do all who have not.
    pub(crate) fn add_listening(&self, socket: impl Source, key: u64, one_of_several: bool) -> io::Result<()> {
        let exclusive = if one_of_several { EventFlags::EXCLUSIVE } else { EventFlags::empty() };
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(key), EventFlags::IN | EventFlags::ET | exclusive)?)
    }

    /// Takes a socket out that was entered.
    pub(crate) fn delete(&self, socket: impl Source) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, socket)?)
    }

    /// Takes what has happened to sockets, each by its key. If it `sleeps`, it waits until something has, or the bell rings.
    pub(crate) fn wait<'a>(
        &self,
        room: &'a mut Room,
        sleeps: bool,
    ) -> impl Iterator<Item = (u64, EventFlags)> + use<'a> {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let waited = epoll::wait(&self.epoll, &mut room.0, if sleeps { None } else { Some(&at_once) });
        // It fails only with EINTR: then there is nothing to report yet.
        let events = waited.map_or(&[][..], |(events, _)| &*events);
        events.iter().map(|event| (event.data.u64(), event.flags)).filter(|(key, _)| *key != BELL)
    }

    /// Wakes whoever waits, or who does so next.
    pub(crate) fn ring(&self) {
        // It fails only if the bell was rung 2^64 times.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}
