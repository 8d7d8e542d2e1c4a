//! Sends a plan: head and small body in one write, large bodies in large pieces.
//!
//! What a body has in memory is sent from there. Whatever else it gives without waiting is gathered; when it has to be
//! waited for, what was gathered leaves first, so that a stream reaches the client as it is made. A client that takes too
//! little is given up. A body that is not what its head said is an error, after which the connection cannot be kept.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use futures_lite::future::{poll_once, yield_now};

use super::super::deadline::Deadline;
use super::super::ending::Ending;
use super::super::pace::{Over, Pace};
use super::super::transport::buffer::BUFFER_BYTES;
use super::super::wire::Wire;
use super::source::Plan;

/// A body that has so many bytes at hand, or all that are left of it, is not copied before it is sent.
const AT_HAND_BYTES_MIN: usize = 64 * 1024;

/// After so many bytes others get their turn.
const TURN_BYTES: usize = 1024 * 1024;

/// With less room than this the gathered bytes leave before more are asked for.
const ROOM_BYTES_MIN: usize = 1024;

/// Why a response did not reach its proper end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The body failed, panicked or ended too early before a byte was sent: something else can be answered.
    Unsent(io::Error),
    /// The body failed, panicked or ended too early within the response.
    Broken(io::Error),
    /// The body went on after the length that was declared. It was cut there.
    Long,
    /// The client took too little for too long, or little while others waited for room.
    Over(Over),
    /// The connection failed.
    Failed(io::Error),
}

/// What became of a response that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All of it was sent.
    Whole,
    /// The rest of it is to be sent elsewhere.
    Moves,
}

/// The sending of one response.
pub(crate) struct Sending<'a> {
    pub(crate) wire: &'a Wire,
    pub(crate) deadline: &'a mut Deadline,
    pub(crate) pace: Pace,
    /// Whether bytes of it were sent.
    pub(crate) begun: bool,
    /// Counts the bytes of the response that were sent.
    pub(crate) sent: &'a mut u64,
    /// Whether the process drains, and what waits for the client may go on elsewhere. The task is woken when that changes.
    pub(crate) may_move: &'a (dyn Fn() -> bool + Sync),
    /// When the response ends here, if it is a stream that would go on for ever.
    pub(crate) ending: Ending<'a>,
}

/// What ended a wait.
enum Wake {
    Done,
    Over(Over),
    Gone,
    /// The rest is to be sent elsewhere.
    Moves,
    /// A stream has come to its end here.
    End,
}

/// A step of sending: it is done, or the response has come to its end here.
type Outcome = Result<(), Stopped>;

/// Why sending goes no further.
enum Stopped {
    Moves,
    Failed(Failure),
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Stopped {
        Stopped::Failed(failure)
    }
}

impl Sending<'_> {
    /// Sends all of the plan, or, where the client would have to be waited for and the rest can be sent elsewhere, a part.
    pub(crate) async fn run(&mut self, plan: &mut Plan) -> Result<Sent, Failure> {
        match self.send(plan).await {
            Ok(()) if plan.is_long => Err(Failure::Long),
            Ok(()) => Ok(Sent::Whole),
            Err(Stopped::Moves) => Ok(Sent::Moves),
            Err(Stopped::Failed(failure)) => Err(failure),
        }
    }

    async fn send(&mut self, plan: &mut Plan) -> Outcome {
        let mut large = plan.left().is_some_and(|left| left > BUFFER_BYTES as u64 / 2);
        if large {
            self.send_at_hand(plan).await?;
        }
        loop {
            self.gather(plan, &mut large).await?;
            self.flush(plan).await?;
            if plan.is_gathered() && plan.out.filled().is_empty() {
                return self.leave(plan).await;
            }
        }
    }

    /// Gathers all that is still to come, and sends what there is no room for.
    async fn gather(&mut self, plan: &mut Plan, large: &mut bool) -> Outcome {
        while !plan.is_gathered() {
            if plan.out.room(*large).len() < ROOM_BYTES_MIN && !plan.out.filled().is_empty() {
                self.flush(plan).await?;
                // A body that fills one buffer is likely to fill more; a fast client must not keep all others waiting.
                *large = true;
                plan.out.settle();
                yield_now().await;
            }
            let gathered = poll_once(poll_fn(|context| plan.poll_gather(context, *large))).await;
            let is_at_once = gathered.is_some();
            let outcome = if let Some(outcome) = gathered {
                outcome
            } else {
                self.flush(plan).await?;
                self.more(plan, *large).await?
            };
            outcome.map_err(|error| self.failed(error))?;
            if plan.is_stream() {
                // What a stream has made is not kept for its next step, and between two of them it can go on elsewhere.
                self.flush(plan).await?;
                match poll_fn(|context| Poll::Ready(self.look_ahead(context, plan))).await {
                    Some(Wake::Moves) => return Err(Stopped::Moves),
                    Some(_) => plan.end_stream(),
                    None => {}
                }
                if is_at_once {
                    // Steps may be ready without end, and may give nothing: neither others nor a client that has gone wait.
                    yield_now().await;
                    if poll_once(poll_fn(|context| self.wire.transport.poll_gone(context))).await.is_some() {
                        return Err(Failure::Failed(io::ErrorKind::ConnectionReset.into()).into());
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits until all that was taken has left, where the transport holds some of it back.
    async fn leave(&mut self, plan: &mut Plan) -> Outcome {
        let mut over = None;
        while let Err(error) = self.wire.transport.flush() {
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(Failure::Failed(error).into());
            }
            over = self.late(over, Some(plan)).await?;
        }
        Ok(())
    }

    /// Waits for room after a send that found none, unless the client took nothing although it was late.
    async fn late(&mut self, over: Option<Over>, plan: Option<&mut Plan>) -> Result<Option<Over>, Stopped> {
        match (self.wire.transport.left(0), over) {
            (0, Some(over)) => return Err(Failure::Over(over).into()),
            (0, None) => {}
            (left, _) => self.pace.moved(left),
        }
        self.room(plan).await
    }

    /// Waits for more of the body.
    async fn more(&mut self, plan: &mut Plan, large: bool) -> Result<io::Result<()>, Stopped> {
        let mut outcome = Ok(());
        let wake = poll_fn(|context| {
            if let Some(wake) = self.look_ahead(context, plan) {
                return Poll::Ready(wake);
            }
            match plan.poll_gather(context, large) {
                Poll::Ready(gathered) => {
                    outcome = gathered;
                    Poll::Ready(Wake::Done)
                }
                Poll::Pending => self.wire.transport.poll_gone(context).map(|()| Wake::Gone),
            }
        });
        match wake.await {
            Wake::Done | Wake::Over(_) => Ok(outcome),
            Wake::Moves => Err(Stopped::Moves),
            Wake::Gone => Err(Failure::Failed(io::ErrorKind::ConnectionReset.into()).into()),
            Wake::End => {
                plan.end_stream();
                Ok(Ok(()))
            }
        }
    }

    /// Whether a wait ends by what is ahead of the process.
    fn look_ahead(&mut self, context: &mut Context<'_>, plan: &mut Plan) -> Option<Wake> {
        if (self.may_move)() && plan.can_move() {
            return Some(Wake::Moves);
        }
        (plan.is_endless() && self.ending.poll(context).is_ready()).then_some(Wake::End)
    }

    /// Sends the body from where it is, after what was gathered, for as long as it has much at hand.
    async fn send_at_hand(&mut self, plan: &mut Plan) -> Outcome {
        let mut in_turn = 0;
        loop {
            let left = plan.left().unwrap_or(0);
            let at_hand = match Plan::at_hand(&mut plan.source) {
                Ok(bytes) => bytes.len(),
                Err(error) => return Err(self.failed(error).into()),
            };
            if at_hand == 0 || (at_hand < AT_HAND_BYTES_MIN && (at_hand as u64) < left) {
                return Ok(());
            }
            in_turn += self.send_some(plan, TURN_BYTES).await?;
            if in_turn >= TURN_BYTES {
                in_turn = 0;
                yield_now().await;
            }
        }
    }

    /// Sends what was gathered, or, where a client was waited for and most of it is to be gathered again, a part.
    async fn flush(&mut self, plan: &mut Plan) -> Outcome {
        while !plan.out.filled().is_empty() && self.send_some(plan, 0).await? > 0 {}
        Ok(())
    }

    /// Sends some bytes: of those gathered, and then up to `most` of those that the body has at hand. Returns how many: none
    /// where there is room now for more than was kept while a client was waited for. It gives up on a client that is slower
    /// than its pace.
    async fn send_some(&mut self, plan: &mut Plan, most: usize) -> Result<usize, Stopped> {
        if !self.begun {
            self.begin().await?;
        }
        let mut over = None;
        loop {
            let at_hand = if most > 0 { Plan::at_hand(&mut plan.source) } else { Ok(&[][..]) };
            let at_hand = at_hand.map_err(Failure::Broken)?;
            match self.wire.transport.send([plan.out.filled(), &at_hand[..at_hand.len().min(most)]]) {
                Ok(count) => {
                    self.pace.moved(self.wire.transport.left(count));
                    *self.sent += count as u64;
                    plan.took(count);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let put_back = plan.put_back();
                    over = self.late(over, Some(plan)).await?;
                    if put_back && over.is_none() {
                        return Ok(0);
                    }
                }
                Err(error) => return Err(Failure::Failed(error).into()),
            }
        }
    }

    /// Waits until the client has made room, or is too slow.
    async fn room(&mut self, mut plan: Option<&mut Plan>) -> Result<Option<Over>, Stopped> {
        // The kernel reports a socket as writable only when a third of its buffer is free, which a slow client may take
        // longer for than it has. What it did take is seen by sending once more when it is late.
        let wake = poll_fn(|context| {
            if let Some(plan) = plan.as_mut().filter(|_| (self.may_move)())
                && plan.can_move()
            {
                return Poll::Ready(Wake::Moves);
            }
            match self.wire.transport.poll_writable(context) {
                Poll::Ready(()) => Poll::Ready(Wake::Done),
                Poll::Pending => self.pace.poll(self.deadline, &self.wire.capacity, context).map(Wake::Over),
            }
        });
        match wake.await {
            Wake::Moves => Err(Stopped::Moves),
            Wake::Over(over) => Ok(Some(over)),
            Wake::Done | Wake::Gone | Wake::End => Ok(None),
        }
    }

    fn failed(&self, error: io::Error) -> Failure {
        if self.begun { Failure::Broken(error) } else { Failure::Unsent(error) }
    }

    /// Says that the response begins, which rules out a 100; one that was partly sent is completed.
    async fn begin(&mut self) -> Outcome {
        self.begun = true;
        let mut interim = self.wire.response_begins();
        let mut over = None;
        while !interim.is_empty() {
            match self.wire.transport.send([interim, b""]) {
                Ok(count) => {
                    self.pace.moved(self.wire.transport.left(count));
                    (interim, over) = (&interim[count..], None);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    over = self.late(over, None).await?;
                }
                Err(error) => return Err(Failure::Failed(error).into()),
            }
        }
        Ok(())
    }
}
