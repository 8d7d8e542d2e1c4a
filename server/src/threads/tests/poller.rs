//! A poller over real sockets.

use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use crate::threads::poller::{Arrivals, Poller, Registration};

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
        let source = Registration::enter(&ours).expect("an entry");
        let mut read = Vec::new();
        let mut room = [0; 16];
        for byte in 0..100_u8 {
            let pending = block_on(&poller, poll_fn(|context| Poll::Ready(source.poll_readable(context).is_pending())));
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
        let source = Registration::enter(&ours).expect("an entry");
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
        let source = Registration::enter(&ours).expect("an entry");
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
        let source = Registration::enter(&ours).expect("an entry");
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
        let first = Registration::enter(&ours).expect("an entry");
        theirs.write_all(b"a").expect("room");
        drop(first);
        let (other, _end) = pair();
        let heir = Registration::enter(&other).expect("an entry");
        assert_eq!(poller.entries(), 1, "it has the slot of the first");
        poller.wait(|| false);
        let pending = block_on(&poller, poll_fn(|context| Poll::Ready(heir.poll_readable(context).is_pending())));
        assert!(pending);
        heir.leave(&other).expect("it was there");
        assert_eq!(poller.entries(), 0);
    });
}

#[test]
fn a_sleeping_thread_is_woken_from_any_other() {
    on_a_thread(|poller| {
        let (ours, mut theirs) = pair();
        let source = Registration::enter(&ours).expect("an entry");
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
    let source = Registration::enter(&ours).expect("an entry");
    theirs.write_all(b"a").expect("room");
    smol::block_on(poll_fn(|context| source.poll_readable(context)));
}

#[test]
fn each_client_of_a_listener_is_told_of_and_none_once_nobody_waits_for_them() {
    on_a_thread(|poller| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let connect = || TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let early = connect();
        for one_of_several in [false, true] {
            let arrivals =
                Arrivals::new(listener.try_clone().expect("a descriptor"), one_of_several).expect("an entry");
            for _ in 0..3 {
                let _client = connect();
                block_on(&poller, poll_fn(|context| arrivals.poll(context)));
                while listener.accept().is_ok() {}
            }
            assert!(arrivals.poll(&mut Context::from_waker(Waker::noop())).is_pending(), "nobody is there");
            drop(arrivals);
            let _others = connect();
            poller.wait(|| false);
            assert_eq!(poller.entries(), 0);
        }
        drop(early);
    });
}
