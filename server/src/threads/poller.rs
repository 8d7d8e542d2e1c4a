//! How it is learned that connections can be read or written: an epoll, edge-triggered, in which a socket is entered
//! once and never armed again. A request then takes a receive, a send, and its part of a wait.
//!
//! A [`Source`] is the readiness of one socket as it was last reported. It belongs to the poller in which it was entered,
//! and may be used from any thread. It owns no socket.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::thread;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use slab::Slab;

use crate::lock::unpoisoned;

/// How many events one wait brings at most. Others get their turn after these.
const EVENTS_MAX: usize = 128;

/// What wakes whoever waits, and no socket: no slot has this number.
const BELL: u64 = u64::MAX;

const BOTH_WAYS: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::PRI).union(EventFlags::RDHUP).union(EventFlags::ET);

thread_local! {
    static CURRENT: RefCell<Option<Arc<Poller>>> = const { RefCell::new(None) };
}

/// The poller of threads that have none of their own.
static SHARED: Mutex<Option<Arc<Poller>>> = Mutex::new(None);

/// An epoll, and what was entered in it.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    bell: OwnedFd,
    /// Whether somebody sleeps, or is about to: waking them takes the bell.
    sleeps: AtomicBool,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    sources: Slab<Arc<Readiness>>,
    /// Counts those that were entered, so that an event for one that is gone is not taken for its heir's.
    entered: u32,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Arc<Poller>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered: each ring is an event, and nobody has to read the bell.
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        Ok(Arc::new(Poller { epoll, bell, sleeps: AtomicBool::new(false), slots: Mutex::default() }))
    }

    /// Makes it the present thread's: [`Source::enter`] uses it from now on.
    pub(crate) fn adopt_thread(self: &Arc<Self>) {
        CURRENT.set(Some(Arc::clone(self)));
    }

    /// The present thread's, else one with a thread of its own, which all such threads share.
    fn current() -> io::Result<Arc<Poller>> {
        if let Some(own) = CURRENT.with_borrow(Clone::clone) {
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
        let mut room = [MaybeUninit::<Event>::uninit(); EVENTS_MAX];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let waited = epoll::wait(&self.epoll, &mut room, if sleeps { None } else { Some(&at_once) });
        // What is woken below needs no bell.
        self.sleeps.store(false, Ordering::SeqCst);
        // It fails only with EINTR: then there is nothing to report yet.
        let Ok((events, _)) = waited else { return };
        for event in &*events {
            let key = event.data.u64();
            let source = if key == BELL { None } else { self.slots().find(key) };
            if let Some(source) = source {
                source.report(event.flags);
            }
        }
    }

    /// Wakes whoever sleeps in [`wait`](Poller::wait). `idle` has to see by then what it is rung for.
    pub(crate) fn ring(&self) {
        if self.sleeps.swap(false, Ordering::SeqCst) {
            // It fails only if the bell was rung 2^64 times.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Nothing panics while it is held.
        unpoisoned(self.slots.lock())
    }
}

impl Slots {
    /// Finds what an event is about, if it is still there.
    fn find(&self, key: u64) -> Option<Arc<Readiness>> {
        let slot = usize::try_from(key & u64::from(u32::MAX)).ok()?;
        self.sources.get(slot).filter(|source| u64::from(source.number) == key >> 32).cloned()
    }
}

/// One socket's entry in a poller. The socket has to be closed after it, or be taken out with [`Source::leave`].
#[derive(Debug)]
pub(crate) struct Source {
    poller: Arc<Poller>,
    slot: usize,
    readiness: Arc<Readiness>,
}

#[derive(Debug)]
struct Readiness {
    /// Which entry of its poller this was.
    number: u32,
    now: Mutex<Now>,
}

/// What was reported of a socket, and not yet found to be over.
#[derive(Debug, Default)]
struct Now {
    /// Counts the reports.
    reports: u64,
    readable: bool,
    writable: bool,
    other_end: OtherEnd,
    /// Urgent data has come, at which a receive stops although there is more behind it.
    urgent: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Who neither reads nor writes, but wants to know when nobody is there any more.
    watcher: Option<Waker>,
}

/// How much is left of the other end; less with each report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum OtherEnd {
    #[default]
    Open,
    /// It sends no more: reading never blocks again.
    Silent,
    /// The connection is closed in both directions, or has failed: nobody is there to be answered.
    Gone,
}

/// How many reports there were before something was tried. What fails or falls short afterwards is news only if there
/// was no report meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before(u64);

impl Source {
    /// Enters a socket in the present thread's poller, with nothing known of it yet.
    pub(crate) fn enter(socket: impl AsFd) -> io::Result<Source> {
        let poller = Poller::current()?;
        let (slot, readiness) = {
            let slots = &mut *poller.slots();
            slots.entered = slots.entered.wrapping_add(1);
            // A socket can be written to until it says otherwise.
            let now = Mutex::new(Now { writable: true, ..Now::default() });
            let readiness = Arc::new(Readiness { number: slots.entered, now });
            (slots.sources.insert(Arc::clone(&readiness)), readiness)
        };
        let key = u64::from(readiness.number) << 32 | slot as u64;
        // From here on its drop frees the slot.
        let source = Source { poller, slot, readiness };
        epoll::add(&source.poller.epoll, socket, EventData::new_u64(key), BOTH_WAYS)?;
        Ok(source)
    }

    /// Takes the socket out, so that another process can go on with it.
    pub(crate) fn leave(self, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.poller.epoll, socket)?)
    }

    /// Waits until reading is worth a try.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        let now = &mut *self.readiness.now();
        if now.readable {
            return Poll::Ready(());
        }
        wait(&mut now.reader, context)
    }

    /// Waits until writing is worth a try.
    pub(crate) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()> {
        let now = &mut *self.readiness.now();
        if now.writable {
            return Poll::Ready(());
        }
        wait(&mut now.writer, context)
    }

    /// Waits until nobody is at the other end: the connection was reset, has failed, or is closed in both directions. An
    /// end that only sends no more does not count: it may still wait for its answer.
    pub(crate) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        let now = &mut *self.readiness.now();
        if now.other_end == OtherEnd::Gone {
            return Poll::Ready(());
        }
        wait(&mut now.watcher, context)
    }

    /// To be called before something is tried.
    pub(crate) fn before(&self) -> Before {
        Before(self.readiness.now().reports)
    }

    /// Says that all there was has been read.
    pub(crate) fn emptied(&self, before: Before) {
        let now = &mut *self.readiness.now();
        now.readable &= now.reports != before.0 || now.other_end > OtherEnd::Open;
    }

    /// Says that a receive brought less than there was room for. Then that was all there was (epoll(7), "Questions and
    /// answers"), unless it stopped at urgent data.
    pub(crate) fn fell_short(&self, before: Before) {
        let now = &mut *self.readiness.now();
        now.readable &= now.reports != before.0 || now.other_end > OtherEnd::Open || now.urgent;
    }

    /// Says that nothing more can be written.
    pub(crate) fn filled(&self, before: Before) {
        let now = &mut *self.readiness.now();
        now.writable &= now.reports != before.0;
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.poller.slots().sources.remove(self.slot);
    }
}

impl Readiness {
    /// Takes note of an event, and wakes who waits for it.
    fn report(&self, flags: EventFlags) {
        let other_end = if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            OtherEnd::Gone
        } else if flags.contains(EventFlags::RDHUP) {
            OtherEnd::Silent
        } else {
            OtherEnd::Open
        };
        let (reader, writer, watcher) = {
            let now = &mut *self.now();
            now.reports += 1;
            now.other_end = now.other_end.max(other_end);
            now.urgent |= flags.contains(EventFlags::PRI);
            now.readable |= other_end > OtherEnd::Open || flags.intersects(EventFlags::IN | EventFlags::PRI);
            now.writable |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
            let watcher = now.watcher.take_if(|_| now.other_end == OtherEnd::Gone);
            (now.reader.take_if(|_| now.readable), now.writer.take_if(|_| now.writable), watcher)
        };
        reader.into_iter().chain(writer).chain(watcher).for_each(Waker::wake);
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // Nothing panics while it is held.
        unpoisoned(self.now.lock())
    }
}

fn wait(waiter: &mut Option<Waker>, context: &Context<'_>) -> Poll<()> {
    match waiter {
        Some(waker) => waker.clone_from(context.waker()),
        None => *waiter = Some(context.waker().clone()),
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::Wake;

    use super::*;

    struct Ringer(Arc<Poller>, AtomicBool);

    impl Wake for Ringer {
        fn wake(self: Arc<Self>) {
            self.1.store(true, Ordering::SeqCst);
            self.0.ring();
        }
    }

    /// Runs a future to its end on the present thread.
    fn block_on<T>(poller: &Arc<Poller>, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let ringer = Arc::new(Ringer(Arc::clone(poller), AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&ringer));
        loop {
            if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return done;
            }
            poller.wait(|| !ringer.1.swap(false, Ordering::SeqCst));
        }
    }

    /// A poller with a thread of its own, and what it is to do.
    fn on_a_thread<T: Send + 'static>(work: impl FnOnce(Arc<Poller>) -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let poller = Poller::new().expect("a poller");
            poller.adopt_thread();
            sender.send(work(poller))
        });
        receiver.recv_timeout(std::time::Duration::from_secs(20)).expect("it ends")
    }

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a socket");
        (ours, theirs)
    }

    #[test]
    fn every_byte_is_reported_once_and_reading_it_all_waits_for_the_next() {
        let read = on_a_thread(|poller| {
            let (mut ours, mut theirs) = pair();
            let source = Source::enter(&ours).expect("an entry");
            let mut read = Vec::new();
            let mut room = [0; 16];
            for byte in 0..100_u8 {
                let pending =
                    block_on(&poller, poll_fn(|context| Poll::Ready(source.poll_readable(context).is_pending())));
                assert!(pending, "{byte}");
                theirs.write_all(&[byte]).expect("room");
                block_on(&poller, poll_fn(|context| source.poll_readable(context)));
                let before = source.before();
                assert_eq!(ours.read(&mut room).expect("a byte"), 1);
                source.emptied(before);
                read.push(room[0]);
            }
            read
        });
        assert_eq!(read, (0..100).collect::<Vec<u8>>());
    }

    #[test]
    fn what_is_reported_while_something_is_tried_is_not_forgotten() {
        on_a_thread(|poller| {
            let (ours, mut theirs) = pair();
            let source = Source::enter(&ours).expect("an entry");
            let before = source.before();
            theirs.write_all(b"a").expect("room");
            poller.wait(|| true);
            source.emptied(before);
            source.filled(before);
            block_on(&poller, poll_fn(|context| source.poll_readable(context)));
            block_on(&poller, poll_fn(|context| source.poll_writable(context)));
        });
    }

    #[test]
    fn a_connection_that_has_ended_stays_readable() {
        on_a_thread(|poller| {
            let (mut ours, theirs) = pair();
            let source = Source::enter(&ours).expect("an entry");
            drop(theirs);
            block_on(&poller, poll_fn(|context| source.poll_readable(context)));
            source.emptied(source.before());
            block_on(&poller, poll_fn(|context| source.poll_readable(context)));
            assert_eq!(ours.read(&mut [0; 1]).expect("the end"), 0);
        });
    }

    #[test]
    fn who_sends_no_more_is_still_there_and_who_has_closed_is_gone() {
        on_a_thread(|poller| {
            let (ours, theirs) = pair();
            let source = Source::enter(&ours).expect("an entry");
            theirs.shutdown(std::net::Shutdown::Write).expect("a socket");
            block_on(&poller, poll_fn(|context| source.poll_readable(context)));
            let there = block_on(&poller, poll_fn(|context| Poll::Ready(source.poll_gone(context).is_pending())));
            assert!(there);
            drop(theirs);
            block_on(&poller, poll_fn(|context| source.poll_gone(context)));
        });
    }

    #[test]
    fn an_entry_that_is_gone_leaves_nothing_to_its_heir() {
        on_a_thread(|poller| {
            let (ours, mut theirs) = pair();
            let first = Source::enter(&ours).expect("an entry");
            theirs.write_all(b"a").expect("room");
            drop(first);
            let (other, _end) = pair();
            let heir = Source::enter(&other).expect("an entry");
            assert_eq!(heir.slot, 0, "it has the slot of the first");
            poller.wait(|| false);
            let pending = block_on(&poller, poll_fn(|context| Poll::Ready(heir.poll_readable(context).is_pending())));
            assert!(pending);
            heir.leave(&other).expect("it was there");
            assert!(poller.slots().sources.is_empty());
        });
    }

    #[test]
    fn a_sleeping_thread_is_woken_from_any_other() {
        on_a_thread(|poller| {
            let (ours, mut theirs) = pair();
            let source = Source::enter(&ours).expect("an entry");
            let (bell, rung) = smol::channel::bounded(1);
            let other = thread::spawn(move || {
                bell.send_blocking(()).expect("it waits");
                theirs.write_all(b"a").expect("room");
                theirs
            });
            block_on(&poller, async {
                rung.recv().await.expect("it rings");
                poll_fn(|context| source.poll_readable(context)).await;
            });
            drop(other.join());
        });
    }

    #[test]
    fn a_thread_that_has_no_poller_has_one_all_the_same() {
        let (ours, mut theirs) = pair();
        let source = Source::enter(&ours).expect("an entry");
        theirs.write_all(b"a").expect("room");
        smol::block_on(poll_fn(|context| source.poll_readable(context)));
    }
}
