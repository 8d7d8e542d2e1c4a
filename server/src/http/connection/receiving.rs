//! The states in which a connection waits for its client: for a request to begin, and for the rest of its head.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use event_listener::EventListener;
use http_types::{Method, Request, StatusCode};
use restart_core::Phase;

use super::state::{Answer, Closed, Connection, Message, State};
use crate::http::capacity;
use crate::http::handler::{Context, Handler};
use crate::http::lifetime::Reason;
use crate::http::message::decode;
use crate::http::message::encode::Manner;
use crate::http::message::forwarded::{self, Forwarded};
use crate::http::message::framing::Framing;
use crate::http::message::head::{self, HeadEnd};
use crate::http::message::refusal::Refusal;
use crate::http::shutdown::FIRST_REQUEST_GRACE;

/// The most bytes that a parked connection takes along; what carries them is bounded.
const READ_AHEAD_BYTES_MAX: usize = 48 * 1024;

/// What ended a wait.
enum Wake {
    Readable,
    Late,
    Phase,
    /// Other clients wait for room.
    Crowded,
}

impl<H: Handler> Connection<'_, H> {
    /// Waits for a request to begin.
    pub(super) async fn idle(&mut self) -> State {
        let timeout = self.context.limits.idle_timeout;
        self.begin_wait(timeout.min(capacity::IDLE_MIN), self.fresh);
        let (mut stopping, mut crowded) = (false, false);
        let mut call = None;
        let nothing_came = std::mem::take(&mut self.used_all);
        let mut begun = if nothing_came { Ok(false) } else { self.wire.skip_empty_lines() };
        loop {
            if self.is_to_park() {
                return State::HandedOver;
            }
            match std::mem::replace(&mut begun, Ok(false)) {
                Ok(true) => return State::Head,
                Ok(false) => {}
                Err(refusal) => return self.refuse(refusal),
            }
            let noticed = !stopping && self.drain_phase() == Phase::Stopping;
            // A client that has just connected has sent its first request; others are waited for.
            let attempt = (std::mem::take(&mut self.fresh) && self.requests == 0) || noticed || crowded;
            let wake = if attempt { Wake::Readable } else { self.wait(call.as_mut()).await };
            match wake {
                Wake::Readable => match self.wire.receive_and_skip() {
                    Ok(Some(found)) => begun = found,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // That was the last look: no request has reached us, so none is lost. Only a client that has
                        // just connected has its first one on the way for certain.
                        if crowded {
                            return State::Closed(Closed::AtOnce(Reason::Crowded));
                        } else if noticed && self.requests > 0 {
                            return State::Closed(Closed::AtOnce(Reason::Stopping));
                        } else if noticed {
                            stopping = true;
                            self.deadline.set(self.context.limits.idle_timeout.min(FIRST_REQUEST_GRACE));
                        }
                    }
                    Ok(None) | Err(_) => return State::Closed(Closed::ByClient),
                },
                Wake::Late if stopping => return State::Closed(Closed::AtOnce(Reason::Stopping)),
                Wake::Late if call.is_none() && timeout > capacity::IDLE_MIN => {
                    call = Some(self.may_be_called(timeout));
                    self.wire.transport.rest();
                }
                Wake::Late => return State::Closed(Closed::AtOnce(Reason::IdleTimeout)),
                Wake::Crowded => crowded = true,
                Wake::Phase => {}
            }
        }
    }

    /// Receives the rest of a head of which some bytes are there. Returns how many it has, or what follows where it does not
    /// come to an exchange.
    pub(super) async fn head(&mut self) -> Result<usize, State> {
        let timeout = self.context.limits.head_timeout;
        let (mut scanned, mut timed, mut call) = (0, false, None);
        // With what was read elsewhere, its head's time began there, too.
        let moved = std::mem::take(&mut self.fresh);
        self.open_account(if moved { self.waited } else { Duration::ZERO });
        loop {
            let found = head::find(self.wire.transport.received().filled(), scanned, &self.context.limits);
            match found {
                Ok(HeadEnd::Complete(length)) => return Ok(length),
                Ok(HeadEnd::Partial { scanned: more }) => scanned = more,
                Err(refusal) => return Err(self.refuse(refusal)),
            }
            if !std::mem::replace(&mut timed, true) {
                self.begin_wait(timeout.min(capacity::HEAD_MIN), moved);
            }
            if self.is_to_park() {
                return Err(State::HandedOver);
            }
            self.wire.settle();
            match self.wait(call.as_mut()).await {
                Wake::Readable => match self.wire.transport.receive() {
                    Ok(0) => return Err(self.refuse(Refusal::bad("the connection was closed within the head"))),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => {
                        self.give_up_account();
                        return Err(State::Closed(Closed::ByClient));
                    }
                },
                Wake::Late if call.is_none() && timeout > capacity::HEAD_MIN => {
                    call = Some(self.may_be_called(timeout));
                }
                Wake::Late => {
                    return Err(self.refuse(Refusal::new(StatusCode::RequestTimeout, "the head took too long")));
                }
                Wake::Crowded => {
                    self.give_up_account();
                    return Err(State::Closed(Closed::AtOnce(Reason::Crowded)));
                }
                Wake::Phase => {}
            }
        }
    }

    /// Lets a head of so many bytes pass, or refuses it. Its request is made in the `place`.
    pub(super) fn message<'p>(
        &mut self,
        length: usize,
        place: &'p mut Option<Request>,
    ) -> Result<Message<'p>, Refusal> {
        let limits = &self.context.limits;
        let buffer = &mut self.wire.transport.received();
        let mut head = head::check(&buffer.filled()[..length], limits)?;
        let told = match &self.context.trust {
            Some(trust) if self.is_trusted => forwarded::read(&head, trust)?,
            _ => Forwarded::default(),
        };
        head.host = told.host.or(head.host);
        if let Some(account) = &mut self.account {
            account.take_head(&head);
        }
        let manner = Manner { method: head.method, old: head.old, close: false };
        let (keep_alive, framing, expects_continue) = (head.keep_alive, head.framing, head.expects_continue);
        let may_upgrade = head.upgrade.then(|| head.may_upgrade());
        let request = decode::request(head, told.https.unwrap_or(self.tls.is_some()), place)?;
        let client = told.client;
        buffer.consume(length);
        if framing == Framing::None {
            // A handler may take long; without a body to read, no memory waits with it.
            buffer.settle();
            self.used_all = buffer.is_empty();
        }
        Ok(Message { request, framing, expects_continue, keep_alive, manner, may_upgrade, client })
    }

    /// Sets the deadline of a wait; one that has `moved` here goes on with what it had left.
    fn begin_wait(&mut self, timeout: Duration, moved: bool) {
        if !moved {
            self.waited = Duration::ZERO;
        }
        self.waits_since = Instant::now();
        self.deadline.set_from(self.waits_since, timeout.saturating_sub(self.waited));
    }

    /// From now on the wait has to make room when it is called to, after those that have lasted longer.
    fn may_be_called(&mut self, timeout: Duration) -> EventListener {
        self.deadline.set(timeout.saturating_sub(self.waited + self.waits_since.elapsed()));
        self.context.capacity.call()
    }

    /// Answers what could not be served.
    pub(super) fn refuse(&mut self, refusal: Refusal) -> State {
        if self.account.is_none() {
            self.open_account(Duration::ZERO);
        }
        self.take_unchecked();
        // The head did not pass, but a HEAD is told from its first bytes, and never gets a body.
        let is_head = self.wire.transport.received().filled().starts_with(b"HEAD ");
        let manner = Manner { method: if is_head { Method::Head } else { Method::Get }, old: false, close: true };
        let close = Some(Reason::Refused(refusal.status.into()));
        State::Response(Box::new(Answer {
            response: Some(refusal.response()),
            manner,
            close,
            decoration: self.decoration(None),
            offer: None,
        }))
    }

    /// Waits for bytes, for a call for room, for the deadline, or for a change of phase, whichever comes first.
    async fn wait(&mut self, mut call: Option<&mut EventListener>) -> Wake {
        let Connection { wire, phase_seen, deadline, context: Context { drain, .. }, .. } = self;
        poll_fn(|task| {
            // `Watch` wakes this task for it.
            let changes = drain.changes();
            match phase_seen.replace(changes) {
                Some(before) if before != changes => return Poll::Ready(Wake::Phase),
                None if drain.phase() != Phase::Serving => return Poll::Ready(Wake::Phase),
                Some(_) | None => {}
            }
            if wire.transport.poll_readable(task).is_ready() {
                return Poll::Ready(Wake::Readable);
            }
            if call.as_mut().is_some_and(|call| Pin::new(call).poll(task).is_ready()) {
                return Poll::Ready(Wake::Crowded);
            }
            deadline.poll(task).map(|()| Wake::Late)
        })
        .await
    }

    /// Whether the connection, idle or with half a head, should now go to where the service has gone.
    pub(super) fn is_to_park(&self) -> bool {
        self.is_to_move() && self.wire.waiting_bytes() <= READ_AHEAD_BYTES_MAX
    }
}
