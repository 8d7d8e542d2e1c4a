//! Connection handover: accepted client connections that move to the newest generation, in batches with
//! acknowledgement.
//!
//! One owner, always. The sender keeps its descriptors until the acknowledgement; the receiver acknowledges before it
//! reads a byte, and drops a batch whose acknowledgement cannot be sent. A receiver that does not answer is made unable
//! to: the sender shuts its own reading side down, reads what acknowledgements are queued, and takes the rest back
//! (`unix(7)`, `shutdown(2)`). What the blobs mean is the application's matter.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use async_io::Timer;
use event_listener::Event;
use futures_lite::future;

use crate::drain::{Drain, Guard, Phase};
use crate::handover::{Channel, ConnectionsPart, FDS_PER_MESSAGE_MAX, IN_FLIGHT_PAUSE, Message, Received};

/// The feature of the handover's Hello by which a generation says that it takes connections.
pub(crate) const FEATURE: &str = "connections";
/// A connection's blob may be this long; with it, one connection always fits into a message.
pub const BLOB_BYTES_MAX: usize = 52 * 1024;
/// All blobs of one message together; the rest of a packet is the message that describes them.
const BLOBS_BYTES_MAX: usize = 56 * 1024;
/// Descriptors in flight count against the user's limit, so only so many batches wait for their acknowledgement.
const UNACKNOWLEDGED_MAX: usize = 4;
/// A receiver that has not acknowledged a batch by then is not waited for any longer.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Where the table of descriptors fills, so many are left for other things.
const DESCRIPTORS_KEPT: usize = 64;
/// How long a receiver that has not taken up a batch lets the next one wait.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(100);
/// So many connections at a time are told that it is their turn to move.
const TURN_MAX: usize = 128;

/// An accepted connection that moves between generations, with what the application needs to go on with it.
#[derive(Debug)]
pub struct Connection {
    /// The connection. Registered with no event loop: an old registration would go on watching it.
    pub fd: OwnedFd,
    /// The application's own description, at most [`BLOB_BYTES_MAX`] bytes.
    pub blob: Vec<u8>,
    /// Counts the connection as live.
    pub guard: Guard,
}

/// Moves connections to the next generation, and takes those of the generations before. Clones share both ways.
#[derive(Clone)]
pub struct Connections {
    slot: Arc<Mutex<Option<Sender<Offer>>>>,
    taken: (Sender<Connection>, Receiver<Connection>),
    /// Notified when the application has taken all that came.
    all_taken: Arc<Event>,
}

/// A connection on its way, and the way back for its outcome.
struct Offer {
    connection: Connection,
    outcome: Sender<Result<Guard, Connection>>,
}

/// A batch that has been sent.
struct Batch {
    number: u64,
    offers: Vec<Offer>,
    /// When it has to be acknowledged.
    due: Instant,
}

/// How much of a batch the receiver took: its first so many connections.
#[derive(Debug)]
pub(crate) struct Acknowledgement {
    pub(crate) batch: u64,
    pub(crate) count: usize,
}

impl Connections {
    pub(crate) fn new() -> Connections {
        Connections { slot: Arc::default(), taken: async_channel::unbounded(), all_taken: Arc::default() }
    }

    /// Offers a connection to the newest generation, while this one drains.
    ///
    /// Returns when the newest generation owns it; this process's descriptor is closed then, and the guard comes back,
    /// so that the caller can book the connection before this process counts it as gone. Where there is no
    /// successor, or it does not take connections, or its table of descriptors is full, or it does not answer within
    /// 5 s, or vanishes, the connection comes back: nothing was read from it, and it is the caller's alone.
    pub async fn offer(&self, connection: Connection) -> Result<Guard, Connection> {
        if connection.blob.len() > BLOB_BYTES_MAX {
            return Err(connection);
        }
        let (outcome, answer) = async_channel::bounded(1);
        match &*lock(&self.slot) {
            Some(offers) => {
                if let Err(refused) = offers.try_send(Offer { connection, outcome }) {
                    return Err(refused.into_inner().connection);
                }
            }
            None => return Err(connection),
        }
        match answer.recv().await {
            Ok(outcome) => outcome,
            // Only the end of the process leaves an offer without an answer.
            Err(_) => future::pending().await,
        }
    }

    /// Waits for a connection that an older generation hands over. It is this process's from then on.
    ///
    /// Thousands may come at once. Whoever starts a task for each does well to let others run in between
    /// (`yield_now`): what is not taken is not sent either.
    pub async fn take(&self) -> Connection {
        let connection = match self.taken.1.recv().await {
            Ok(connection) => connection,
            // This value holds a sender itself, so the channel never closes.
            Err(_) => future::pending().await,
        };
        if self.taken.1.is_empty() {
            self.all_taken.notify(usize::MAX);
        }
        connection
    }

    /// Waits until the application has taken all that came, so that no more is acknowledged than it can take up. Not for
    /// long: there may be more to hear than connections, and an application that takes none.
    pub(crate) async fn caught_up(&self) {
        let all_taken = async {
            loop {
                let listener = self.all_taken.listen();
                if self.taken.1.is_empty() {
                    return;
                }
                listener.await;
            }
        };
        future::or(all_taken, async {
            Timer::after(CATCH_UP_TIMEOUT).await;
        })
        .await;
    }

    /// Keeps a batch that came from an older generation, if it can be acknowledged. Nothing is awaited in between, so
    /// that no batch can be lost half-way. That its sender is dead is no reason to keep one: it may have taken the batch
    /// back, and have died within an answer.
    pub(crate) fn receive(&self, channel: &Channel, received: Received, drain: &Drain) {
        let Received { message, tail, fds, truncated } = received;
        let Message::Connections(part) = message else { return };
        let (batch, all, came) = (part.batch, part.blobs.len(), fds.len());
        let blobs = part.split(&tail);
        let count = match (&blobs, truncated) {
            // This process ends, and nobody would take them up.
            _ if drain.phase() == Phase::Over => 0,
            (Some(_), false) if came == all => all,
            // The table of descriptors is full, and must not stay so: there is more to do than to serve connections.
            (Some(_), true) => came.min(all).saturating_sub(DESCRIPTORS_KEPT),
            _ => 0,
        };
        if count < all {
            log::warn!("of a batch of {all} connections {} were declined: {came} descriptors arrived", all - count);
        }
        if let Err(error) = channel.try_send(&Message::Taken { batch, count }, &[]) {
            log::warn!("{count} connections stay with the process that sent them, or went with it: {error}");
            return;
        }
        for (blob, fd) in blobs.unwrap_or_default().into_iter().zip(fds).take(count) {
            let connection = Connection { fd, blob: blob.to_vec(), guard: drain.guard() };
            let _ = self.taken.0.try_send(connection);
        }
    }

    /// Opens the way to the successor. The future moves connections until the acknowledgements' sender is dropped;
    /// then it gives back what is not acknowledged.
    pub(crate) fn open(
        &self,
        channel: Arc<Channel>,
        drain: Drain,
    ) -> (impl Future<Output = ()> + Send + use<>, Sender<Acknowledgement>) {
        let (sender, offers) = async_channel::unbounded();
        let (acknowledge, acknowledgements) = async_channel::unbounded();
        *lock(&self.slot) = Some(sender);
        let mover = Mover {
            slot: Arc::clone(&self.slot),
            channel,
            drain,
            offers,
            acknowledgements,
            unacknowledged: VecDeque::new(),
            last: 0,
            carried: None,
        };
        (mover.run(), acknowledge)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connections").field("open", &lock(&self.slot).is_some()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sending side, as long as this generation drains.
struct Mover {
    slot: Arc<Mutex<Option<Sender<Offer>>>>,
    channel: Arc<Channel>,
    drain: Drain,
    offers: Receiver<Offer>,
    acknowledgements: Receiver<Acknowledgement>,
    unacknowledged: VecDeque<Batch>,
    last: u64,
    /// An offer that did not fit into the last batch.
    carried: Option<Offer>,
}

enum Step {
    Offer(Offer),
    Acknowledged(Acknowledgement),
    Late,
    Over,
}

impl Mover {
    async fn run(mut self) {
        loop {
            match self.step().await {
                Step::Offer(offer) => {
                    let batch = self.collect(offer);
                    self.send(batch).await;
                }
                Step::Acknowledged(acknowledgement) => self.acknowledged(&acknowledgement),
                // Its end is reported once the acknowledgements that are queued have been read.
                Step::Late => self.channel.deafen(),
                Step::Over => break,
            }
        }
        self.give_back();
    }

    async fn step(&mut self) -> Step {
        let Mover { channel, drain, offers, acknowledgements, unacknowledged, carried, .. } = self;
        let acknowledged = async { acknowledgements.recv().await.map_or(Step::Over, Step::Acknowledged) };
        let offered = async {
            if unacknowledged.len() >= UNACKNOWLEDGED_MAX || channel.is_deaf() {
                return future::pending().await;
            }
            match carried.take() {
                Some(offer) => Step::Offer(offer),
                None => next_offer(offers, drain).await.map_or(Step::Over, Step::Offer),
            }
        };
        let late = async {
            match unacknowledged.front().filter(|_| !channel.is_deaf()) {
                Some(oldest) => Timer::at(oldest.due).await,
                None => return future::pending().await,
            };
            Step::Late
        };
        future::or(acknowledged, future::or(offered, late)).await
    }

    /// Makes a batch of what is offered at this moment.
    fn collect(&mut self, first: Offer) -> Batch {
        self.last += 1;
        let mut bytes = first.connection.blob.len();
        let mut offers = vec![first];
        while offers.len() < FDS_PER_MESSAGE_MAX {
            let Ok(offer) = self.offers.try_recv() else { break };
            bytes += offer.connection.blob.len();
            if bytes > BLOBS_BYTES_MAX {
                self.carried = Some(offer);
                break;
            }
            offers.push(offer);
        }
        Batch { number: self.last, offers, due: Instant::now() + ACKNOWLEDGE_TIMEOUT }
    }

    /// Sends a batch, waiting for room, but no longer than for an acknowledgement. Where that is impossible, nothing is
    /// sent any more.
    async fn send(&mut self, batch: Batch) {
        let due = self.unacknowledged.front().unwrap_or(&batch).due;
        let blobs = batch.offers.iter().map(|offer| offer.connection.blob.len()).collect();
        let tail: Vec<u8> = batch.offers.iter().flat_map(|offer| &offer.connection.blob).copied().collect();
        let message = Message::Connections(ConnectionsPart { batch: batch.number, blobs });
        let (number, mut waits) = (batch.number, false);
        self.unacknowledged.push_back(batch);
        loop {
            let fds: Vec<_> = self
                .unacknowledged
                .back()
                .into_iter()
                .flat_map(|batch| &batch.offers)
                .map(|o| o.connection.fd.as_fd())
                .collect();
            let sent = self.channel.try_send_with_tail(&message, &tail, &fds);
            drop(fds);
            match sent {
                Ok(()) => return,
                Err(error) if error.is_busy() && Instant::now() < due => {
                    if !std::mem::replace(&mut waits, true) {
                        log::debug!("batch {number} of connections waits: {error}");
                    }
                    let pause = async {
                        Timer::after(IN_FLIGHT_PAUSE).await;
                        None
                    };
                    let acknowledged = async { Some(self.acknowledgements.recv().await) };
                    match future::or(acknowledged, pause).await {
                        Some(Ok(acknowledgement)) => self.acknowledged(&acknowledgement),
                        // The hand-over is over: this batch comes back with the others.
                        Some(Err(_)) => return,
                        None => {}
                    }
                }
                Err(error) => {
                    log::warn!("batch {number} of connections stays here: {error}");
                    self.acknowledged(&Acknowledgement { batch: number, count: 0 });
                    self.channel.deafen();
                    return;
                }
            }
        }
    }

    /// The receiver owns the first so many connections of a batch; the rest comes back.
    fn acknowledged(&mut self, acknowledgement: &Acknowledgement) {
        let Acknowledgement { batch, count } = *acknowledgement;
        let Some(at) = self.unacknowledged.iter().position(|sent| sent.number == batch) else { return };
        let Some(sent) = self.unacknowledged.remove(at) else { return };
        for (index, Offer { connection, outcome }) in sent.offers.into_iter().enumerate() {
            let result = if index < count { Ok(connection.guard) } else { Err(connection) };
            let _ = outcome.try_send(result);
        }
    }

    /// Ends the hand-over: whatever is not acknowledged is its caller's again.
    fn give_back(mut self) {
        // Closed first: an offer that comes too late is refused, and comes back to its caller at once. The slot may be a
        // later mover's already.
        self.offers.close();
        self.drain.wake_in_turn(usize::MAX);
        lock(&self.slot).take_if(|offers| offers.is_closed());
        let sent = self.unacknowledged.drain(..).flat_map(|batch| batch.offers);
        let waiting = std::iter::from_fn(|| self.offers.try_recv().ok());
        for Offer { connection, outcome } in sent.chain(self.carried.take()).chain(waiting) {
            let _ = outcome.try_send(Err(connection));
        }
    }
}

/// Waits for an offer. While there is none, it is the next connections' turn to learn of the drain: all at once they
/// would stand in the way of those that ask something now, here and at the receiver.
async fn next_offer(offers: &Receiver<Offer>, drain: &Drain) -> Option<Offer> {
    while offers.is_empty() && drain.wake_in_turn(TURN_MAX) > 0 {
        let offered = async { Some(offers.recv().await.ok()) };
        // Those that were woken may have something else to do.
        let nothing = async {
            Timer::after(IN_FLIGHT_PAUSE).await;
            None
        };
        if let Some(offer) = future::or(offered, nothing).await {
            return offer;
        }
    }
    offers.recv().await.ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use async_executor::Executor;
    use async_io::block_on;
    use futures_lite::future::or;

    use super::*;

    /// A sender and a receiver over one channel, in one process.
    struct Pair {
        from: Connections,
        to: Connections,
        drain: Drain,
        ours: Arc<Channel>,
        theirs: Channel,
        acknowledge: Option<Sender<Acknowledgement>>,
        executor: Executor<'static>,
    }

    fn pair() -> Pair {
        let (ours, theirs) = Channel::pair().unwrap();
        let (ours, theirs) = (Arc::new(ours), Channel::adopt(theirs).unwrap());
        let (from, to) = (Connections::new(), Connections::new());
        let drain = Drain::new();
        let (mover, acknowledge) = from.open(Arc::clone(&ours), drain.clone());
        let executor = Executor::new();
        executor.spawn(mover).detach();
        Pair { from, to, drain, ours, theirs, acknowledge: Some(acknowledge), executor }
    }

    impl Pair {
        /// Receives one batch as the newest generation does, and brings its acknowledgement back if there is one.
        async fn deliver(&self) {
            let received = self.theirs.receive().await.unwrap().unwrap();
            self.to.receive(&self.theirs, received, &self.drain);
            if !self.ours.is_deaf() {
                self.bring_back().await;
            }
        }

        async fn bring_back(&self) {
            if let Some(Received { message: Message::Taken { batch, count }, .. }) = self.ours.receive().await.unwrap()
            {
                self.acknowledge.as_ref().unwrap().try_send(Acknowledgement { batch, count }).unwrap();
            }
        }
    }

    fn connection(drain: &Drain, blob: &[u8]) -> (Connection, UnixStream) {
        let (ours, client) = UnixStream::pair().unwrap();
        (Connection { fd: ours.into(), blob: blob.to_vec(), guard: drain.guard() }, client)
    }

    #[test]
    fn a_connection_moves_with_its_blob_and_lives_on() {
        let pair = pair();
        let (connection, mut client) = connection(&pair.drain, b"state\0of\0it");
        block_on(pair.executor.run(async {
            let deliver = async {
                pair.deliver().await;
                future::pending().await
            };
            drop(or(pair.from.offer(connection), deliver).await.unwrap());
            let taken = pair.to.take().await;
            assert_eq!(taken.blob, b"state\0of\0it");
            UnixStream::from(taken.fd).write_all(b"hello").unwrap();
        }));
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello", "and the sender's descriptor is closed, or the client would wait for more");
    }

    #[test]
    fn what_a_silent_receiver_has_not_acknowledged_comes_back_and_never_has_two_owners() {
        let mut pair = pair();
        let (connection, _client) = connection(&pair.drain, b"x");
        let acknowledge = pair.acknowledge.take();
        block_on(pair.executor.run(async {
            let offer = pair.from.offer(connection);
            let take_back = async {
                // The mover has sent the batch when the receiver can see it; the receiver does not answer yet.
                let received = pair.theirs.receive().await.unwrap().unwrap();
                pair.ours.deafen();
                assert!(pair.ours.receive().await.unwrap().is_none(), "no acknowledgement was queued");
                drop(acknowledge);
                pair.to.receive(&pair.theirs, received, &pair.drain);
                future::pending().await
            };
            let back = or(offer, take_back).await.unwrap_err();
            assert_eq!(back.blob, b"x");
        }));
        assert!(pair.to.taken.1.is_empty(), "the receiver dropped what it could not acknowledge");
        assert_eq!(pair.drain.live(), 0);
    }

    #[test]
    fn an_acknowledgement_that_was_queued_counts_when_the_rest_is_taken_back() {
        let mut pair = pair();
        let (connection, _client) = connection(&pair.drain, b"x");
        let acknowledge = pair.acknowledge.take().unwrap();
        block_on(pair.executor.run(async {
            let late = async {
                let received = pair.theirs.receive().await.unwrap().unwrap();
                pair.to.receive(&pair.theirs, received, &pair.drain);
                pair.ours.deafen();
                let Message::Taken { batch, count } = pair.ours.receive().await.unwrap().unwrap().message else {
                    panic!("an acknowledgement was queued");
                };
                acknowledge.try_send(Acknowledgement { batch, count }).unwrap();
                drop(acknowledge);
                future::pending().await
            };
            drop(or(pair.from.offer(connection), late).await.unwrap());
        }));
        assert_eq!(pair.to.taken.1.len(), 1);
    }

    #[test]
    fn no_further_batch_is_received_before_the_application_has_taken_the_last() {
        let pair = pair();
        let (connection, _client) = connection(&pair.drain, b"x");
        block_on(pair.executor.run(async {
            let deliver = async {
                pair.deliver().await;
                future::pending().await
            };
            drop(or(pair.from.offer(connection), deliver).await.unwrap());
            let mut caught_up = Box::pin(pair.to.caught_up());
            assert!(future::poll_once(&mut caught_up).await.is_none());
            drop(pair.to.take().await);
            assert!(future::poll_once(&mut caught_up).await.is_some());
        }));
    }

    #[test]
    fn without_a_successor_a_connection_comes_back_at_once() {
        let (connection, _client) = connection(&Drain::new(), b"");
        assert!(block_on(Connections::new().offer(connection)).is_err());
    }

    #[test]
    fn the_largest_blob_moves_and_a_larger_one_comes_back_at_once() {
        let pair = pair();
        let (largest, _client) = connection(&pair.drain, &vec![7; BLOB_BYTES_MAX]);
        let (larger, _client) = connection(&pair.drain, &vec![7; BLOB_BYTES_MAX + 1]);
        block_on(pair.executor.run(async {
            let deliver = async {
                pair.deliver().await;
                future::pending().await
            };
            drop(or(pair.from.offer(largest), deliver).await.unwrap());
            assert_eq!(pair.to.take().await.blob.len(), BLOB_BYTES_MAX);
            assert_eq!(pair.from.offer(larger).await.unwrap_err().blob.len(), BLOB_BYTES_MAX + 1);
        }));
    }

    #[test]
    fn a_message_full_of_descriptors_and_of_bytes_is_one_that_the_kernel_takes() {
        let pair = pair();
        let length = BLOBS_BYTES_MAX / FDS_PER_MESSAGE_MAX;
        let (connections, _clients): (Vec<_>, Vec<_>) =
            (0..FDS_PER_MESSAGE_MAX).map(|_| connection(&pair.drain, &vec![7; length])).unzip();
        let fds: Vec<_> = connections.iter().map(|connection| connection.fd.as_fd()).collect();
        let tail: Vec<u8> = connections.iter().flat_map(|connection| &connection.blob).copied().collect();
        let message = Message::Connections(ConnectionsPart { batch: u64::MAX, blobs: vec![length; fds.len()] });
        pair.ours.try_send_with_tail(&message, &tail, &fds).unwrap();
        let received = block_on(pair.theirs.receive()).unwrap().unwrap();
        pair.to.receive(&pair.theirs, received, &pair.drain);
        assert_eq!(pair.to.taken.1.len(), FDS_PER_MESSAGE_MAX);
    }

    #[test]
    fn many_connections_move_in_batches_within_the_kernels_limits() {
        const MANY: usize = 1000;
        let pair = pair();
        let (connections, _clients): (Vec<_>, Vec<_>) =
            (0..MANY).map(|number| connection(&pair.drain, &vec![7; number % 1500])).unzip();
        let offers: Vec<_> = connections
            .into_iter()
            .map(|connection| {
                let from = pair.from.clone();
                pair.executor.spawn(async move { from.offer(connection).await.is_ok() })
            })
            .collect();
        block_on(pair.executor.run(async {
            let deliver = async {
                loop {
                    pair.deliver().await;
                }
            };
            let all = async {
                for offer in offers {
                    assert!(offer.await);
                }
            };
            or(all, deliver).await;
        }));
        let lengths: Vec<_> =
            std::iter::from_fn(|| pair.to.taken.1.try_recv().ok()).map(|taken| taken.blob.len()).collect();
        assert_eq!(lengths.len(), MANY);
        assert_eq!(lengths.iter().sum::<usize>(), (0..MANY).map(|number| number % 1500).sum::<usize>());
    }
}
