//! The receiving side of connections that move: one task for each socket on which they come.
//!
//! A batch is acknowledged before anything is read from its connections, and kept only if that could be said; that its
//! sender is dead is no reason to keep one, as it may have taken the batch back and have died within an answer. What is
//! not understood is declined, so that its sender keeps it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use async_io::Timer;
use futures_lite::future;

use super::Connections;
use super::offer::{COMPANIONS_MAX, Connection};
use crate::drain::{Drain, Phase};
use crate::formats::Formats;
use crate::handover::{Batch, Channel, Heard, Message, Received};

/// Where the table of descriptors fills, so many are left for other things.
const DESCRIPTORS_KEPT: usize = 64;
/// How long a receiver that has not taken up a batch lets the next one wait.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(100);
/// So many answers are remembered, in case one is asked for again; more batches never wait for theirs.
const ANSWERS_KEPT: usize = 16;

/// What was answered lately, by batch.
#[derive(Default)]
struct Answers {
    last: VecDeque<(u64, usize)>,
    greatest: u64,
}

impl Answers {
    fn of(&self, batch: u64) -> Option<usize> {
        self.last.iter().find(|(number, _)| *number == batch).map(|(_, count)| *count)
    }

    /// Nobody has taken what was never understood, and nobody will: what comes later with this number is declined.
    fn of_or_none(&mut self, batch: u64) -> usize {
        self.of(batch).unwrap_or_else(|| {
            self.note(batch, 0);
            0
        })
    }

    fn note(&mut self, batch: u64, count: usize) {
        self.greatest = self.greatest.max(batch);
        self.last.push_back((batch, count));
        if self.last.len() > ANSWERS_KEPT {
            self.last.pop_front();
        }
    }
}

impl Connections {
    /// Takes up what comes on a socket, until its other end closes.
    pub(crate) async fn receive(&self, channel: &Channel, drain: &Drain) {
        let mut answers = Answers::default();
        loop {
            match channel.receive().await {
                Ok(Heard::Message(received)) => self.understand(channel, drain, &mut answers, received),
                Ok(Heard::Unreadable(error)) => {
                    log::warn!("on the socket on which connections come: {error}; it was passed over");
                    tell(channel, &Message::Unreadable);
                }
                Ok(Heard::Closed) => return,
                Err(error) => return log::warn!("no more connections can come from an older generation: {error}"),
            }
            self.caught_up().await;
        }
    }

    /// Nothing is awaited here, so that no batch can be lost half-way.
    fn understand(&self, channel: &Channel, drain: &Drain, answers: &mut Answers, received: Received) {
        let Received { message, tail, fds, truncated } = received;
        let batch = match message {
            Message::Connections(batch) => batch,
            Message::Recount { batch } => {
                let count = answers.of_or_none(batch);
                tell(channel, &Message::Taken { batch, count });
                return;
            }
            other => {
                log::warn!("on the socket on which connections come: {}, which is not understood", other.kind());
                tell(channel, &Message::Unreadable);
                return;
            }
        };
        if batch.number <= answers.greatest {
            // It has been answered, and its connections have an owner.
            log::warn!("batch {} of connections came again, and was passed over", batch.number);
            return;
        }
        let (number, all, came) = (batch.number, batch.blobs.len(), fds.len());
        let connections = if drain.phase() == Phase::Over {
            // This process ends, and nobody would take them up.
            vec![]
        } else {
            self.unpack(&batch, &tail, fds, truncated, drain)
        };
        let count = connections.len();
        if count < all {
            log::warn!("of a batch of {all} connections {} were declined: {came} descriptors arrived", all - count);
        }
        answers.note(number, count);
        if let Err(error) = channel.try_send(&Message::Taken { batch: number, count }, &[]) {
            log::warn!("{count} connections stay with the process that sent them, or went with it: {error}");
            return;
        }
        for connection in connections {
            let _ = self.taken.0.try_send(connection);
        }
    }

    /// The first connections of a batch, as many as are understood and there is room for. Where the count of descriptors
    /// is wrong, nobody can tell whose is missing.
    fn unpack(&self, batch: &Batch, tail: &[u8], fds: Vec<OwnedFd>, truncated: bool, drain: &Drain) -> Vec<Connection> {
        let formats: Formats = batch.formats.iter().cloned().collect();
        let (Some(blobs), Some(each)) = (batch.split(tail), batch.descriptors(COMPANIONS_MAX)) else { return vec![] };
        if self.formats.is_empty() || !self.formats.cover(&formats) {
            return vec![];
        }
        let mut left = match fds.len() {
            came if came == each.iter().sum::<usize>() => came,
            // The table of descriptors is full, and must not stay so: there is more to do than to serve connections.
            came if truncated => came.saturating_sub(DESCRIPTORS_KEPT),
            _ => 0,
        };
        let mut fds = fds.into_iter();
        let mut connections = Vec::new();
        for (blob, count) in blobs.into_iter().zip(each) {
            let mut own = fds.by_ref().take(count);
            let (true, Some(fd)) = (count <= left, own.next()) else { break };
            left -= count;
            let companions = own.collect();
            let (formats, guard) = (formats.clone(), drain.guard());
            connections.push(Connection { fd, companions, formats, blob: blob.to_vec(), guard });
        }
        connections
    }

    /// Waits until the application has taken all that came, so that no more is acknowledged than it can take up. Not for
    /// long: an application that takes none must not leave the senders without an answer.
    pub(super) async fn caught_up(&self) {
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
}

/// Where there is no room, the sender asks again.
fn tell(channel: &Channel, message: &Message) {
    if let Err(error) = channel.try_send(message, &[]) {
        log::debug!("{error} on the socket on which connections come");
    }
}
