//! How it is learned that connections can be read or written: an epoll, edge-triggered, in which a socket is entered
//! once and never armed again. A request then takes a receive, a send, and its part of a wait.
//!
//! A [`Registration`] is the readiness of one socket as it was last reported. It belongs to the poller in which it has its
//! place, and may be used from any thread. It owns no socket. The socket itself is entered when somebody waits
//! for it first: one that is asked once, answered and closed never is.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex as StaticMutex};
use std::task::{Context, Poll, Waker};
use std::thread;

use rustix::event::epoll::EventFlags;
use slab::Slab;

use crate::lock::unpoisoned;
use crate::threads::epoll::{Epoll, Room, Source};
use crate::threads::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, thread_local};

thread_local! {
    static CURRENT: RefCell<Option<Arc<Poller>>> = const { RefCell::new(None) };
}

/// The poller of threads that have none of their own.
static SHARED: StaticMutex<Option<Arc<Poller>>> = StaticMutex::new(None);

/// An epoll, and what was entered in it, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Poller {
    epoll: Epoll,
    /// Whether somebody sleeps, or is about to: waking them takes the bell.
    sleeps: AtomicBool,
    slots: Mutex<Slots>,
    /// Memory for those who are woken after a wait. Only whoever waits locks it.
    woken: Mutex<Vec<Waker>>,
}

#[derive(Debug, Default)]
struct Slots {
    sources: Slab<Arc<Readiness>>,
    /// Counts those that have had a place, so that an event for one that is gone is not taken for its heir's.
    given: u32,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Arc<Poller>> {
        let (epoll, sleeps, slots) = (Epoll::new()?, AtomicBool::new(false), Mutex::new(Slots::default()));
        Ok(Arc::new(Poller { epoll, sleeps, slots, woken: Mutex::new(Vec::new()) }))
    }

    /// Makes it the present thread's: [`Registration::new`] uses it from now on.
    pub(crate) fn adopt_thread(self: &Arc<Self>) {
        CURRENT.with(|current| current.replace(Some(Arc::clone(self))));
    }

    /// The present thread's, else one with a thread of its own, which all such threads share.
    fn current() -> io::Result<Arc<Poller>> {
        if let Some(own) = CURRENT.with(|current| current.borrow().clone()) {
            return Ok(own);
        }
        let mut shared = unpoisoned(SHARED.lock());
        if let Some(shared) = &*shared {
            return Ok(Arc::clone(shared));
        }
        let poller = Poller::new()?;
        let own = Arc::clone(&poller);
        let run = move || loop {
            own.wait(|| true);
        };
        thread::Builder::new().name("poller".to_owned()).spawn(run)?;
        Ok(Arc::clone(shared.insert(poller)))
    }

    /// Takes what has happened, and wakes who waits for it. Sleeps until something happens or somebody rings, if `idle`
    /// says that there is nothing else to do. For one thread at a time.
    pub(crate) fn wait(&self, idle: impl FnOnce() -> bool) {
        self.sleeps.store(true, Ordering::SeqCst);
        let sleeps = idle();
        if !sleeps {
            self.sleeps.store(false, Ordering::SeqCst);
        }
        let mut room = Room::new();
        let events = self.epoll.wait(&mut room, sleeps);
        // What is woken below needs no bell.
        self.sleeps.store(false, Ordering::SeqCst);
        let woken = &mut *unpoisoned(self.woken.lock());
        {
            // Once for all events, and not while somebody is woken.
            let slots = self.slots();
            for (key, flags) in events {
                if let Some(source) = slots.find(key) {
                    source.report(flags, woken);
                }
            }
        }
        woken.drain(..).for_each(Waker::wake);
    }

    /// Wakes whoever sleeps in [`wait`](Poller::wait). `idle` has to see by then what it is rung for, under a lock that was
    /// held where that was put: so a sleeper that has not seen it is seen here, and where nobody sleeps a look is enough.
    pub(crate) fn ring(&self) {
        if self.sleeps.load(Ordering::SeqCst) && self.sleeps.swap(false, Ordering::SeqCst) {
            self.epoll.ring();
        }
    }

    /// How many sockets have a place.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> usize {
        self.slots().sources.len()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Nothing panics while it is held.
        unpoisoned(self.slots.lock())
    }
}

impl Slots {
    /// Finds what an event is about, if it is still there.
    fn find(&self, key: u64) -> Option<&Readiness> {
        let slot = usize::try_from(key & u64::from(u32::MAX)).ok()?;
        self.sources.get(slot).map(Arc::as_ref).filter(|source| u64::from(source.number) == key >> 32)
    }
}

/// One socket's place in a poller. The socket has to be closed after it, or be taken out with [`Registration::leave`].
#[derive(Debug)]
pub(crate) struct Registration {
    poller: Arc<Poller>,
    slot: usize,
    readiness: Arc<Readiness>,
    /// Whether the socket was entered.
    entered: AtomicBool,
}

#[derive(Debug)]
struct Readiness {
    /// Which place of its poller's this was.
    number: u32,
    /// What was reported of a socket, and not yet found to be over: the bits below, and above them the count of reports. In
    /// one word, so that a request looks at it and changes it without a lock.
    now: AtomicU64,
    /// Who waits. They look at `now` once more while they hold it, and whoever changes that takes it afterwards: so nobody
    /// waits for what was reported already.
    waiting: Mutex<Waiting>,
}

const READABLE: u64 = 1;
const WRITABLE: u64 = 1 << 1;
/// The other end sends no more: reading never blocks again.
const SILENT: u64 = 1 << 2;
/// The connection is closed in both directions, or has failed: nobody is there to be answered.
const GONE: u64 = 1 << 3;
/// Urgent data has come, at which a receive stops although there is more behind it.
const URGENT: u64 = 1 << 4;
/// One report, as it is counted above the bits.
const REPORT: u64 = 1 << 5;

#[derive(Debug, Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Who neither reads nor writes, but wants to know when nobody is there any more.
    watcher: Option<Waker>,
}

/// How many reports there were before something was tried. What fails or falls short afterwards is news only if there
/// was no report meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before(u64);

impl Registration {
    /// A place in the present thread's poller for a socket that is to be entered, with nothing known of it yet.
    pub(crate) fn new() -> io::Result<Registration> {
        let poller = Poller::current()?;
        let (slot, readiness) = {
            let slots = &mut *poller.slots();
            slots.given = slots.given.wrapping_add(1);
            // A socket can be written to until it says otherwise.
            let (now, waiting) = (AtomicU64::new(WRITABLE), Mutex::new(Waiting::default()));
            let readiness = Arc::new(Readiness { number: slots.given, now, waiting });
            (slots.sources.insert(Arc::clone(&readiness)), readiness)
        };
        Ok(Registration { poller, slot, readiness, entered: AtomicBool::new(false) })
    }

    /// A place with the socket entered.
    #[cfg(test)]
    pub(crate) fn enter(socket: impl Source) -> io::Result<Registration> {
        let source = Registration::new()?;
        source.watch(socket)?;
        Ok(source)
    }

    /// Enters the socket, if it is not yet. To be called when somebody waits: what is there already is reported. If it
    /// fails, nobody waits any more, and all that is tried on the socket has to fail as well.
    pub(crate) fn watch(&self, socket: impl Source) -> io::Result<()> {
        if self.entered.load(Ordering::Relaxed) || self.entered.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.poller.epoll.add(socket, self.key()).inspect_err(|_| {
            self.entered.store(false, Ordering::Relaxed);
            let mut woken = Vec::new();
            self.readiness.report(EventFlags::ERR, &mut woken);
            woken.into_iter().for_each(Waker::wake);
        })
    }

    /// What its events are told by.
    fn key(&self) -> u64 {
        u64::from(self.readiness.number) << 32 | self.slot as u64
    }

    /// Takes the socket out, so that another process can go on with it.
    pub(crate) fn leave(self, socket: impl Source) -> io::Result<()> {
        if self.entered.load(Ordering::Relaxed) { self.poller.epoll.delete(socket) } else { Ok(()) }
    }

    /// Whether reading is worth a try, as far as was reported.
    pub(crate) fn is_readable(&self) -> bool {
        self.readiness.is_any(READABLE)
    }

    /// Waits until reading is worth a try.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.readiness.poll(READABLE, |waiting| &mut waiting.reader, context)
    }

    /// Waits until writing is worth a try.
    pub(crate) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.readiness.poll(WRITABLE, |waiting| &mut waiting.writer, context)
    }

    /// Waits until nobody is at the other end: the connection was reset, has failed, or is closed in both directions. An
    /// end that only sends no more does not count: it may still wait for its answer.
    pub(crate) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        self.readiness.poll(GONE, |waiting| &mut waiting.watcher, context)
    }

    /// Waits until reading is worth a try by what was reported since this was ready last. For whoever tries until it fails.
    fn poll_news(&self, context: &mut Context<'_>) -> Poll<()> {
        self.readiness.poll(READABLE, |waiting| &mut waiting.reader, context).map(|()| self.readiness.forget(READABLE))
    }

    /// To be called before something is tried.
    pub(crate) fn before(&self) -> Before {
        Before(self.readiness.now.load(Ordering::Acquire) / REPORT)
    }

    /// Says that all there was has been read.
    pub(crate) fn emptied(&self, before: Before) {
        self.readiness.is_over(READABLE, SILENT | GONE, before);
    }

    /// Says that a receive brought less than there was room for. Then that was all there was (epoll(7), "Questions and
    /// answers"), unless it stopped at urgent data.
    pub(crate) fn fell_short(&self, before: Before) {
        self.readiness.is_over(READABLE, SILENT | GONE | URGENT, before);
    }

    /// Says that nothing more can be written.
    pub(crate) fn filled(&self, before: Before) {
        self.readiness.is_over(WRITABLE, 0, before);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.poller.slots().sources.remove(self.slot);
    }
}

/// What comes to a listening socket, in the present thread's poller, as long as this lives. Then the socket is taken out:
/// others may have it, and nobody here should be woken by clients of theirs.
#[derive(Debug)]
pub(crate) struct Arrivals<S>
where
    for<'a> &'a S: Source,
{
    source: Option<Registration>,
    socket: S,
}

impl<S> Arrivals<S>
where
    for<'a> &'a S: Source,
{
    /// Enters the socket. What waits there already is reported. `one_of_several`: it may be another of those who have entered
    /// it like this that learns of a client. Some poller of each process has to have it without that: another process that
    /// has the socket as well may be about to rest when it is told.
    pub(crate) fn new(socket: S, one_of_several: bool) -> io::Result<Arrivals<S>> {
        let source = Registration::new()?;
        source.poller.epoll.add_listening(&socket, source.key(), one_of_several)?;
        source.entered.store(true, Ordering::Relaxed);
        Ok(Arrivals { source: Some(source), socket })
    }

    /// Waits until somebody may have come since this was ready last. Whoever is told has to accept until nobody is there.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        self.source.as_ref().map_or(Poll::Pending, |source| source.poll_news(context))
    }
}

impl<S> Drop for Arrivals<S>
where
    for<'a> &'a S: Source,
{
    fn drop(&mut self) {
        // It was entered, and is still open.
        let _ = self.source.take().map(|source| source.leave(&self.socket));
    }
}

impl Readiness {
    /// Takes note of an event, and adds who waits for it to those who are to be woken.
    fn report(&self, flags: EventFlags, woken: &mut Vec<Waker>) {
        let bits = bits_of(flags);
        let add = |now: u64| Some(now.wrapping_add(REPORT) | bits);
        let before = self.now.fetch_update(Ordering::AcqRel, Ordering::Relaxed, add).unwrap_or_else(|now| now);
        let now = before | bits;
        let waiting = &mut *self.waiting();
        let reader = waiting.reader.take_if(|_| now & READABLE > 0);
        let writer = waiting.writer.take_if(|_| now & WRITABLE > 0);
        let watcher = waiting.watcher.take_if(|_| now & GONE > 0);
        woken.extend(reader.into_iter().chain(writer).chain(watcher));
    }

    /// Waits until one of these bits was reported.
    fn poll(
        &self,
        bits: u64,
        waiter: impl FnOnce(&mut Waiting) -> &mut Option<Waker>,
        context: &Context<'_>,
    ) -> Poll<()> {
        if self.is_any(bits) {
            return Poll::Ready(());
        }
        let waiting = &mut *self.waiting();
        if self.is_any(bits) {
            return Poll::Ready(());
        }
        wait(waiter(waiting), context)
    }

    /// Takes back what was reported, unless there was a report since then, or something else that it stays for.
    fn is_over(&self, bit: u64, stays_for: u64, Before(reports): Before) {
        let without = |now: u64| {
            let stays = now / REPORT != reports || now & stays_for > 0 || now & bit == 0;
            (!stays).then_some(now & !bit)
        };
        let _ = self.now.fetch_update(Ordering::AcqRel, Ordering::Acquire, without);
    }

    /// Takes back what was reported until now.
    fn forget(&self, bit: u64) {
        self.now.fetch_and(!bit, Ordering::AcqRel);
    }

    fn is_any(&self, bits: u64) -> bool {
        self.now.load(Ordering::Acquire) & bits > 0
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        unpoisoned(self.waiting.lock())
    }
}

/// What an event says.
fn bits_of(flags: EventFlags) -> u64 {
    let mut bits = 0;
    if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
        bits |= GONE | SILENT | READABLE | WRITABLE;
    }
    if flags.contains(EventFlags::RDHUP) {
        bits |= SILENT | READABLE;
    }
    if flags.contains(EventFlags::PRI) {
        bits |= URGENT | READABLE;
    }
    if flags.contains(EventFlags::IN) {
        bits |= READABLE;
    }
    if flags.contains(EventFlags::OUT) {
        bits |= WRITABLE;
    }
    bits
}

fn wait(waiter: &mut Option<Waker>, context: &Context<'_>) -> Poll<()> {
    match waiter {
        Some(waker) => waker.clone_from(context.waker()),
        None => *waiter = Some(context.waker().clone()),
    }
    Poll::Pending
}
