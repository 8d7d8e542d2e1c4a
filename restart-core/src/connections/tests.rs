//! A sender and a receiver over one socket, in one process.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use async_executor::Executor;
use async_io::block_on;
use futures_lite::future::or;

use super::*;
use crate::formats::{FORMAT_BYTES_MAX, FORMATS_MAX};
use crate::handover::{Batch, Channel, FDS_PER_MESSAGE_MAX, Message, Received};

const FORMAT: &str = "test/1";

struct Pair {
    from: Connections,
    to: Connections,
    drain: Drain,
    aim: Option<Sender<Option<Destination>>>,
    executor: Executor<'static>,
}

/// The sender has no target yet.
fn pair() -> Pair {
    let (from, to) = (Connections::new(Formats::default()), Connections::new([FORMAT].into()));
    let drain = Drain::new();
    let (mover, aim) = from.open(drain.clone());
    let executor = Executor::new();
    executor.spawn(mover).detach();
    Pair { from, to, drain, aim: Some(aim), executor }
}

impl Pair {
    /// Makes a socket of the receiver's the target, and returns the receiver's end.
    fn aim(&self) -> Channel {
        let (ours, theirs) = Channel::pair().unwrap();
        let target = Destination { channel: Channel::adopt(theirs).unwrap(), formats: [FORMAT].into() };
        self.aim.as_ref().unwrap().try_send(Some(target)).unwrap();
        ours
    }

    fn connection(&self, blob: &[u8]) -> (Connection, UnixStream) {
        let (ours, client) = UnixStream::pair().unwrap();
        (Connection::new([FORMAT], ours.into(), blob.to_vec(), self.drain.guard()), client)
    }

    /// Runs the sender, and beside it what the receiver does, until the future ends.
    fn run<T>(&self, receiver: impl Future<Output = ()>, until: impl Future<Output = T>) -> T {
        block_on(self.executor.run(or(until, async {
            receiver.await;
            future::pending().await
        })))
    }

    async fn receive(&self, channel: &Channel) {
        self.to.receive(channel, &self.drain).await;
    }

    /// How many connections the receiver owns.
    fn taken(&self) -> usize {
        self.to.taken.1.len()
    }
}

async fn next(channel: &Channel) -> Message {
    channel.receive_readable().await.unwrap().unwrap().message
}

/// What a peer that is no version of ours says.
fn say(channel: &Channel, bytes: &[u8]) {
    rustix::net::send(channel.as_fd(), bytes, rustix::net::SendFlags::empty()).unwrap();
}

#[test]
fn a_connection_moves_with_its_blob_and_its_companions_and_lives_on() {
    let pair = pair();
    let channel = pair.aim();
    let (connection, mut client) = pair.connection(b"state\0of\0it");
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let connection = connection.with_companion(writer);
    drop(pair.run(pair.receive(&channel), pair.from.offer(connection)).unwrap());
    let taken = block_on(pair.to.take());
    assert_eq!((taken.blob.as_slice(), taken.companions.len()), (&b"state\0of\0it"[..], 1));
    assert!(taken.formats.names().eq([FORMAT]));
    rustix::io::write(&taken.companions[0], b"file").unwrap();
    let mut file = [0; 4];
    assert_eq!((rustix::io::read(&reader, &mut file).unwrap(), &file), (4, b"file"));
    UnixStream::from(taken.fd).write_all(b"hello").unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello", "and the sender's descriptor is closed, or the client would wait for more");
}

#[test]
fn what_is_offered_before_the_newest_generation_is_known_moves_when_it_is() {
    let pair = pair();
    let (connection, _client) = pair.connection(b"x");
    let mut offer = Box::pin(pair.from.offer(connection));
    let none = block_on(pair.executor.run(async {
        for _ in 0..100 {
            future::yield_now().await;
        }
        future::poll_once(&mut offer).await
    }));
    assert!(none.is_none(), "it waits");
    let channel = pair.aim();
    drop(pair.run(pair.receive(&channel), offer).unwrap());
    assert_eq!(pair.taken(), 1);
}

#[test]
fn a_connection_in_a_format_that_is_not_taken_comes_back_at_once() {
    let pair = pair();
    let channel = pair.aim();
    let (connection, _client) = pair.connection(b"x");
    let connection = Connection { formats: [FORMAT, "new/1"].into(), ..connection };
    pair.run(pair.receive(&channel), pair.from.offer(connection)).unwrap_err();
    assert_eq!(pair.taken(), 0);
}

#[test]
fn what_a_silent_receiver_has_not_acknowledged_comes_back_and_never_has_two_owners() {
    let mut pair = pair();
    let channel = pair.aim();
    let (connection, _client) = pair.connection(b"x");
    let offer = Box::pin(pair.from.offer(connection));
    // The mover has sent the batch when the receiver can see it; the receiver does not answer yet.
    let (received, offer) = block_on(pair.executor.run(async {
        let mut offer = offer;
        let seen = or(async { Some(channel.receive_readable().await) }, async {
            let _ = (&mut offer).await;
            None
        });
        (seen.await.unwrap().unwrap().unwrap(), offer)
    }));
    pair.aim = None;
    let back = block_on(pair.executor.run(offer)).unwrap_err();
    assert_eq!(back.blob, b"x");
    // What it read before is of no use to it any more.
    let Received { message: Message::Connections(_), .. } = received else { panic!("{received:?}") };
    assert!(channel.try_send(&Message::Taken { batch: 1, count: 1 }, &[]).is_err());
}

#[test]
fn an_acknowledgement_that_was_queued_counts_when_the_rest_is_taken_back() {
    let mut pair = pair();
    let channel = pair.aim();
    let (connection, _client) = pair.connection(b"x");
    let offer = pair.from.offer(connection);
    let aim = pair.aim.take();
    let receiver = async {
        let Message::Connections(batch) = next(&channel).await else { panic!("a batch was due") };
        channel.try_send(&Message::Taken { batch: batch.number, count: 1 }, &[]).unwrap();
        drop(aim);
    };
    drop(pair.run(receiver, offer).unwrap());
}

#[test]
fn a_batch_that_the_last_newest_generation_did_not_take_goes_to_the_next_one() {
    let pair = pair();
    let silent = pair.aim();
    let (connection, _client) = pair.connection(b"x");
    let offer = pair.from.offer(connection);
    let receiver = async {
        assert!(matches!(next(&silent).await, Message::Connections(_)));
        let channel = pair.aim();
        pair.receive(&channel).await;
    };
    drop(pair.run(receiver, offer).unwrap());
    assert_eq!(pair.taken(), 1);
}

#[test]
fn a_batch_that_the_last_newest_generation_cannot_receive_any_more_goes_to_the_next_one() {
    let pair = pair();
    let last = pair.aim();
    // As when it has closed its end between two looks of the sender's.
    last.deafen();
    let (connection, _client) = pair.connection(b"x");
    let offer = pair.from.offer(connection);
    let receiver = async {
        // By then it has been tried.
        for _ in 0..100 {
            future::yield_now().await;
        }
        let channel = pair.aim();
        pair.receive(&channel).await;
    };
    drop(pair.run(receiver, offer).unwrap());
    assert_eq!(pair.taken(), 1);
}

#[test]
fn what_waits_for_a_generation_that_takes_no_connections_comes_back_at_once() {
    let pair = pair();
    let (connection, _client) = pair.connection(b"x");
    let offer = pair.from.offer(connection);
    pair.aim.as_ref().unwrap().try_send(None).unwrap();
    pair.run(future::ready(()), offer).unwrap_err();
}

#[test]
fn a_batch_that_cannot_be_read_is_sent_again() {
    let pair = pair();
    let channel = pair.aim();
    let (connection, _client) = pair.connection(b"x");
    let offer = pair.from.offer(connection);
    let receiver = async {
        assert!(matches!(next(&channel).await, Message::Connections(_)));
        // It arrives as something that nobody can read.
        channel.try_send(&Message::Unreadable, &[]).unwrap();
        pair.receive(&channel).await;
    };
    drop(pair.run(receiver, offer).unwrap());
    assert_eq!(pair.taken(), 1);
}

#[test]
fn an_acknowledgement_that_cannot_be_read_is_asked_for_again() {
    let garbled: [&[u8]; 4] =
        [b"noise", br#"{"kind":"taken","batch":1}"#, br#"{"kind":"song"}"#, br#"{"kind":"taken","batch":1,"count":9}"#];
    for garbled in garbled {
        let pair = pair();
        let channel = pair.aim();
        let (connection, _client) = pair.connection(b"x");
        let offer = pair.from.offer(connection);
        let receiver = async {
            let Message::Connections(batch) = next(&channel).await else { panic!("a batch was due") };
            say(&channel, garbled);
            assert_eq!(next(&channel).await, Message::Recount { batch: batch.number });
            channel.try_send(&Message::Taken { batch: batch.number, count: 1 }, &[]).unwrap();
        };
        drop(pair.run(receiver, offer).unwrap());
    }
}

#[test]
fn a_connection_whose_acknowledgement_was_never_readable_has_no_second_owner() {
    let mut pair = pair();
    let channel = pair.aim();
    let (connection, _client) = pair.connection(b"x");
    let offer = pair.from.offer(connection);
    let aim = pair.aim.take();
    let receiver = async {
        assert!(matches!(next(&channel).await, Message::Connections(_)));
        for _ in 0..4 {
            say(&channel, b"noise");
        }
        while next(&channel).await != (Message::Recount { batch: 1 }) {}
        drop(aim);
    };
    drop(pair.run(receiver, offer).expect("it is the receiver's, as far as anybody can tell"));
}

#[test]
fn a_batch_that_comes_twice_is_taken_once() {
    let pair = pair();
    let (sender, theirs) = Channel::pair().unwrap();
    let receiver = Channel::adopt(theirs).unwrap();
    let (connection, _client) = pair.connection(b"x");
    let batch = |number, fds: &[std::os::fd::BorrowedFd<'_>]| {
        let message = Batch { number, formats: vec![FORMAT.to_owned()], blobs: vec![1], companions: vec![] };
        sender.try_send_with_tail(&Message::Connections(message), b"x", fds).unwrap();
    };
    for _ in 0..2 {
        batch(1, &[connection.fd.as_fd()]);
    }
    // Neither with a descriptor too few nor with one too many can it be told whose is which.
    batch(2, &[]);
    batch(3, &[connection.fd.as_fd(), connection.fd.as_fd()]);
    sender.try_send(&Message::Recount { batch: 1 }, &[]).unwrap();
    sender.try_send(&Message::Recount { batch: 9 }, &[]).unwrap();
    let answers = async {
        for expected in [(1, 1), (2, 0), (3, 0), (1, 1), (9, 0)] {
            let (batch, count) = expected;
            assert_eq!(next(&sender).await, Message::Taken { batch, count });
        }
    };
    pair.run(pair.receive(&receiver), answers);
    assert_eq!(pair.taken(), 1);
}

#[test]
fn what_is_in_a_format_that_this_generation_does_not_take_is_declined() {
    let pair = pair();
    let (sender, theirs) = Channel::pair().unwrap();
    let receiver = Channel::adopt(theirs).unwrap();
    let (connection, _client) = pair.connection(b"");
    for formats in [vec!["other/1".to_owned()], vec![FORMAT.to_owned(), "other/1".to_owned()]] {
        let message = Batch { number: formats.len() as u64, formats, blobs: vec![0], companions: vec![] };
        sender.try_send(&Message::Connections(message), &[connection.fd.as_fd()]).unwrap();
    }
    let answers = async {
        for batch in 1..=2 {
            assert_eq!(next(&sender).await, Message::Taken { batch, count: 0 });
        }
    };
    pair.run(pair.receive(&receiver), answers);
}

#[test]
fn no_further_batch_is_received_before_the_application_has_taken_the_last() {
    let pair = pair();
    let channel = pair.aim();
    let (connection, _client) = pair.connection(b"x");
    drop(pair.run(pair.receive(&channel), pair.from.offer(connection)).unwrap());
    block_on(async {
        let mut caught_up = Box::pin(pair.to.caught_up());
        assert!(future::poll_once(&mut caught_up).await.is_none());
        drop(pair.to.take().await);
        assert!(future::poll_once(&mut caught_up).await.is_some());
    });
}

#[test]
fn without_a_successor_a_connection_comes_back_at_once() {
    let pair = pair();
    let (connection, _client) = pair.connection(b"");
    assert!(block_on(Connections::new(Formats::default()).offer(connection)).is_err());
}

#[test]
fn the_largest_blob_moves_and_a_larger_one_comes_back_at_once() {
    let pair = pair();
    let channel = pair.aim();
    let (largest, _client) = pair.connection(&vec![7; BLOB_BYTES_MAX]);
    let (larger, _client) = pair.connection(&vec![7; BLOB_BYTES_MAX + 1]);
    drop(pair.run(pair.receive(&channel), pair.from.offer(largest)).unwrap());
    assert_eq!(block_on(pair.to.take()).blob.len(), BLOB_BYTES_MAX);
    assert_eq!(block_on(pair.from.offer(larger)).unwrap_err().blob.len(), BLOB_BYTES_MAX + 1);
}

#[test]
fn many_connections_move_in_batches_within_the_kernels_limits() {
    const MANY: usize = 1000;
    let pair = pair();
    let channel = pair.aim();
    let mut clients = Vec::new();
    let offers: Vec<_> = (0..MANY)
        .map(|number| {
            let (mut connection, client) = pair.connection(&vec![7; number % 1500]);
            for _ in 0..number % 3 {
                connection = connection.with_companion(client.try_clone().unwrap().into());
            }
            clients.push(client);
            let from = pair.from.clone();
            pair.executor.spawn(async move { from.offer(connection).await.is_ok() })
        })
        .collect();
    let all = async {
        for offer in offers {
            assert!(offer.await);
        }
    };
    pair.run(pair.receive(&channel), all);
    let taken: Vec<_> = std::iter::from_fn(|| pair.to.taken.1.try_recv().ok()).collect();
    assert_eq!(taken.len(), MANY);
    assert_eq!(
        taken.iter().map(|taken| taken.blob.len()).sum::<usize>(),
        (0..MANY).map(|number| number % 1500).sum::<usize>()
    );
    assert!(taken.iter().all(|taken| taken.companions.len() == taken.blob.len() % 3));
}

#[test]
fn a_message_full_of_descriptors_and_of_bytes_is_one_that_the_kernel_takes() {
    let pair = pair();
    let (ours, _theirs) = Channel::pair().unwrap();
    let (connection, _client) = pair.connection(b"");
    let fds = vec![connection.fd.as_fd(); FDS_PER_MESSAGE_MAX];
    let length = 56 * 1024 / FDS_PER_MESSAGE_MAX;
    let formats = (0..FORMATS_MAX).map(|number| format!("{number:0FORMAT_BYTES_MAX$}")).collect();
    let message = Batch { number: u64::MAX, formats, blobs: vec![length; fds.len()], companions: vec![3; fds.len()] };
    ours.try_send_with_tail(&Message::Connections(message), &vec![7; length * fds.len()], &fds).unwrap();
}
