//! The sending side of connections that move, as long as a generation drains.
//!
//! Offers are made into batches, and kept until those are acknowledged. A receiver that does not answer is made unable
//! to: this side shuts its own reading down, reads what acknowledgements are queued, and takes the rest back (`unix(7)`,
//! `shutdown(2)`). What it answered and cannot be read is asked for again. When another generation becomes the newest,
//! what the last one has not acknowledged goes there.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use async_io::Timer;
use futures_lite::future;
use zeroize::Zeroizing;

use super::offer::{Offer, Slot};
use crate::drain::Drain;
use crate::error::Error;
use crate::formats::Formats;
use crate::handover::{Batch, Channel, FDS_PER_MESSAGE_MAX, Heard, IN_FLIGHT_PAUSE, Message, Received};
use crate::lock::lock;

/// All blobs of one message together; the rest of a packet is the message that describes them.
const BLOBS_BYTES_MAX: usize = 56 * 1024;
/// Descriptors in flight count against the user's limit, so only so many batches wait for their acknowledgement.
const UNACKNOWLEDGED_MAX: usize = 4;
/// A receiver that has not acknowledged a batch by then is asked again, and then not waited for any longer.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(4);
const RECOUNT_TIMEOUT: Duration = Duration::from_secs(1);
/// The newest generation has to have made itself known by then, or nothing moves.
const TARGET_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is declined is offered so often in all, after a pause.
const OFFERS_MAX: u32 = 3;
const DECLINED_PAUSE: Duration = Duration::from_millis(50);
/// So often the count of a batch is asked for again.
const RECOUNTS_MAX: u32 = 3;
/// So many connections at a time are told that it is their turn to move.
const TURN_MAX: usize = 128;

/// The newest generation, as far as connections that move to it are concerned.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) channel: Channel,
    pub(crate) formats: Formats,
}

/// A batch that has been sent, or is about to be.
struct Sent {
    number: u64,
    offers: Vec<Offer>,
    /// When it has to be acknowledged.
    due: Instant,
    /// There was no room for it.
    waits: bool,
    /// Something that cannot be read came after it, which may have been its acknowledgement.
    doubtful: bool,
    recounts: u32,
}

/// See the module.
pub(crate) struct Mover {
    slot: Slot,
    drain: Drain,
    offers: Receiver<Offer>,
    targets: Receiver<Option<Destination>>,
    target: Option<Destination>,
    /// Until when there may be no target, before offers come back.
    awaits_target: Option<Instant>,
    /// What goes before new offers.
    carried: VecDeque<Offer>,
    /// Nothing is sent before that, as something was declined.
    pause: Option<Instant>,
    /// What there was no room for.
    unsent: Option<Sent>,
    unacknowledged: VecDeque<Sent>,
    last: u64,
}

enum Step {
    Destination(Option<Destination>),
    Heard(Result<Heard, Error>),
    SendAgain,
    Offer(Offer),
    /// The oldest batch is overdue.
    Late,
    /// There is no target, and none is waited for any longer.
    NoTarget,
    Over,
}

impl Mover {
    pub(super) fn new(
        slot: Slot,
        drain: Drain,
        offers: Receiver<Offer>,
        targets: Receiver<Option<Destination>>,
    ) -> Mover {
        Mover {
            slot,
            drain,
            offers,
            targets,
            target: None,
            awaits_target: Some(Instant::now() + TARGET_TIMEOUT),
            carried: VecDeque::new(),
            pause: None,
            unsent: None,
            unacknowledged: VecDeque::new(),
            last: 0,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            match self.step().await {
                Step::Destination(target) => {
                    self.let_go().await;
                    (self.target, self.awaits_target) = (target, None);
                    if self.target.is_none() {
                        self.give_back();
                    }
                }
                Step::Heard(heard) => self.hear(heard).await,
                Step::SendAgain => self.send_unsent().await,
                Step::Offer(offer) => self.take_on(offer).await,
                Step::Late => self.late().await,
                Step::NoTarget => {
                    self.awaits_target = None;
                    self.give_back();
                }
                Step::Over => break,
            }
        }
        // Closed first: an offer that comes too late is refused, and comes back to its caller at once. The slot may be a
        // later mover's already.
        self.offers.close();
        self.drain.wake_in_turn(usize::MAX);
        lock(&self.slot).take_if(|offers| offers.is_closed());
        self.let_go().await;
        self.give_back();
    }

    async fn step(&mut self) -> Step {
        let Mover { drain, offers, targets, target, awaits_target, carried, pause, unsent, unacknowledged, .. } = self;
        let aimed = async { targets.recv().await.map_or(Step::Over, Step::Destination) };
        let Some(target) = target else {
            let offered = async { offers.recv().await.map_or(Step::Over, Step::Offer) };
            let none = async {
                match awaits_target {
                    Some(end) => Timer::at(*end).await,
                    None => return offered.await,
                };
                Step::NoTarget
            };
            return future::or(aimed, none).await;
        };
        let heard = async { Step::Heard(target.channel.receive().await) };
        let offered = async {
            if unsent.is_some() {
                Timer::after(IN_FLIGHT_PAUSE).await;
                return Step::SendAgain;
            }
            if unacknowledged.len() >= UNACKNOWLEDGED_MAX {
                return future::pending().await;
            }
            if let Some(end) = pause.filter(|end| *end > Instant::now()) {
                Timer::at(end).await;
            }
            match carried.pop_front() {
                Some(offer) => Step::Offer(offer),
                None => next_offer(offers, drain).await.map_or(Step::Over, Step::Offer),
            }
        };
        let late = async {
            match unacknowledged.front() {
                Some(oldest) => Timer::at(oldest.due).await,
                None => return future::pending().await,
            };
            Step::Late
        };
        future::or(aimed, future::or(heard, future::or(late, offered))).await
    }

    /// Sends what is offered at this moment, if it can be.
    async fn take_on(&mut self, first: Offer) {
        let takes =
            |offer: &Offer| self.target.as_ref().is_some_and(|target| target.formats.cover(&offer.connection.formats));
        if !takes(&first) {
            return first.comes_back();
        }
        let (mut bytes, mut descriptors) = (0, 0);
        let mut offers: Vec<Offer> = Vec::new();
        let mut next = Some(first);
        while let Some(offer) = next {
            bytes += offer.connection.blob.len();
            descriptors += 1 + offer.connection.companions.len();
            let alike = offers.first().is_none_or(|first| first.connection.formats == offer.connection.formats);
            let fits = bytes <= BLOBS_BYTES_MAX && descriptors <= FDS_PER_MESSAGE_MAX;
            if !alike || !fits {
                self.carried.push_front(offer);
                break;
            }
            offers.push(offer);
            next = self.carried.pop_front().or_else(|| self.offers.try_recv().ok());
        }
        self.last += 1;
        let due = Instant::now() + ACKNOWLEDGE_TIMEOUT;
        self.unsent = Some(Sent { number: self.last, offers, due, waits: false, doubtful: false, recounts: 0 });
        self.send_unsent().await;
    }

    /// Sends a batch, if there is room for it, but no later than an acknowledgement may come. Where that is impossible,
    /// nothing is sent there any more.
    async fn send_unsent(&mut self) {
        let (Some(mut batch), Some(target)) = (self.unsent.take(), &self.target) else { return };
        match send(&target.channel, &batch) {
            Ok(()) => self.unacknowledged.push_back(batch),
            Err(error) if error.is_busy() && Instant::now() < batch.due => {
                if !std::mem::replace(&mut batch.waits, true) {
                    log::debug!("batch {} of connections waits: {error}", batch.number);
                }
                self.unsent = Some(batch);
            }
            // It is not the newest any more, or gone: what that means for its connections is the same as where it closes.
            Err(error) if error.is_broken_pipe() => {
                self.unsent = Some(batch);
                self.target_lost().await;
            }
            Err(error) => {
                log::warn!("batch {} of connections stays here: {error}", batch.number);
                self.unsent = Some(batch);
                self.let_go().await;
                self.give_back();
            }
        }
    }

    async fn hear(&mut self, heard: Result<Heard, Error>) {
        match heard {
            Ok(Heard::Message(received)) => self.understand(received),
            Ok(Heard::Unreadable(error)) => {
                log::warn!("on the socket on which connections move: {error}; what came of them is asked again");
                self.doubt();
            }
            // The newest generation is gone, or not the newest any more: there will be another one, or this one serves.
            Ok(Heard::Closed) => self.target_lost().await,
            Err(error) => {
                log::warn!("connections cannot move any more: {error}");
                self.target_lost().await;
            }
        }
    }

    fn understand(&mut self, Received { message, .. }: Received) {
        match message {
            Message::Taken { batch, count } => {
                let at = self.unacknowledged.iter().position(|sent| sent.number == batch);
                let Some(at) = at else { return };
                if count > self.unacknowledged[at].offers.len() {
                    log::warn!("{count} connections of batch {batch} were taken, which are more than it has");
                    return self.doubt();
                }
                let sent = self.unacknowledged.remove(at).map(|sent| sent.offers).unwrap_or_default();
                self.settle(sent, count);
            }
            Message::Unreadable => self.recount(),
            other => {
                log::warn!("on the socket on which connections move: {}, which is not understood", other.kind());
                self.doubt();
            }
        }
    }

    /// The receiver owns the first so many connections of a batch; the rest is offered again, or comes back.
    fn settle(&mut self, sent: Vec<Offer>, count: usize) {
        for (index, mut offer) in sent.into_iter().enumerate() {
            offer.declined += 1;
            if index < count {
                offer.moved();
            } else if offer.declined < OFFERS_MAX {
                self.pause = Some(Instant::now() + DECLINED_PAUSE);
                self.carried.push_back(offer);
            } else {
                offer.comes_back();
            }
        }
    }

    /// What came may have been an acknowledgement.
    fn doubt(&mut self) {
        self.unacknowledged.iter_mut().for_each(|sent| sent.doubtful = true);
        self.recount();
    }

    /// Asks again what was taken. The socket keeps the order: a batch that is unknown there by then was never understood.
    fn recount(&mut self) {
        let Some(target) = &self.target else { return };
        for sent in &mut self.unacknowledged {
            sent.recounts += 1;
            if sent.recounts <= RECOUNTS_MAX {
                // Where there is no room, the deadline decides.
                let _ = target.channel.try_send(&Message::Recount { batch: sent.number }, &[]);
            }
        }
    }

    /// The oldest batch is not acknowledged in time.
    async fn late(&mut self) {
        if let Some(oldest) = self.unacknowledged.front_mut().filter(|oldest| oldest.recounts == 0) {
            oldest.due = Instant::now() + RECOUNT_TIMEOUT;
            return self.recount();
        }
        log::warn!("a batch of connections is not acknowledged in time: they stay here");
        self.let_go().await;
        self.give_back();
    }

    async fn target_lost(&mut self) {
        self.let_go().await;
        self.awaits_target = Some(Instant::now() + TARGET_TIMEOUT);
    }

    /// Ends what there is with the target: what it has acknowledged is its own, all else can go elsewhere.
    async fn let_go(&mut self) {
        let Some(Destination { channel, .. }) = self.target.take() else { return };
        self.carried.extend(self.unsent.take().into_iter().flat_map(|sent| sent.offers));
        channel.deafen();
        // What is queued is read without waiting, and then the end.
        while let Ok(heard) = channel.receive().await {
            match heard {
                Heard::Message(received) => self.understand(received),
                Heard::Unreadable(_) => self.doubt(),
                Heard::Closed => break,
            }
        }
        for sent in self.unacknowledged.drain(..) {
            if sent.doubtful {
                // Whoever has acknowledged them serves them. Two owners would be worse than none.
                log::error!("{} connections are given up: whether they have moved cannot be told", sent.offers.len());
                sent.offers.into_iter().for_each(Offer::moved);
            } else {
                self.carried.extend(sent.offers);
            }
        }
    }

    /// All that waits is its caller's again.
    fn give_back(&mut self) {
        self.carried.drain(..).for_each(Offer::comes_back);
        while let Ok(offer) = self.offers.try_recv() {
            offer.comes_back();
        }
        self.drain.wake_in_turn(usize::MAX);
    }
}

fn send(channel: &Channel, batch: &Sent) -> Result<(), Error> {
    let connections = || batch.offers.iter().map(|offer| &offer.connection);
    let formats = connections().next().map(|first| first.formats.names().map(str::to_owned).collect());
    let plain = connections().all(|connection| connection.companions.is_empty());
    let companions = connections().map(|connection| connection.companions.len());
    let message = Message::Connections(Batch {
        number: batch.number,
        formats: formats.unwrap_or_default(),
        blobs: connections().map(|connection| connection.blob.len()).collect(),
        companions: if plain { vec![] } else { companions.collect() },
    });
    // With all its room from the start: a vector that grows leaves copies behind.
    let length = connections().map(|connection| connection.blob.len()).sum();
    let mut tail = Zeroizing::new(Vec::with_capacity(length));
    connections().for_each(|connection| tail.extend_from_slice(&connection.blob));
    let fds: Vec<_> = connections()
        .flat_map(|connection| std::iter::once(&connection.fd).chain(&connection.companions))
        .map(AsFd::as_fd)
        .collect();
    channel.try_send_with_tail(&message, &tail, &fds)
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
