//! One connection from its start to its end:
//! `Idle -> Head -> Request -> Response -> Idle | Upgraded | HandedOver | Closed`.
//!
//! | state      | what of a request is held             | ends by                                       |
//! |------------|---------------------------------------|-----------------------------------------------|
//! | Idle       | nothing, at most half an empty line   | bytes, idle timeout, phase, the client's close |
//! | Head       | the bytes received of its head        | its last byte, head timeout, a refusal        |
//! | Request    | the request, while the handler runs   | the handler's answer, a client that is gone   |
//! | Response   | the response, while it is sent        | its last byte, write timeout, a broken body, a client that is gone |
//! | Upgraded   | nothing; the handler has the stream   | the handler's drop of the stream              |
//! | `HandedOver` | what Idle or Head hold              | `End::Parked`                                 |
//! | Closed     | nothing                               | `End::Server`, `End::Client`                  |
//!
//! In every state the drain's deadline ends the connection: `End::Server`.
//!
//! Between two messages nothing of a request is anywhere but in the connection's own buffer, so Idle is an exact point.
//! The bytes themselves are read and written by `wire`; this module decides when, and when to close.

use std::future::{Future, poll_fn};
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use event_listener::EventListener;
use futures_lite::FutureExt;
use futures_lite::future::{poll_once, yield_now};
use http_types::headers::RETRY_AFTER;
use http_types::upgrade::{Connection as Stream, Sender as StreamSender};
use http_types::{Method, Request, Response, StatusCode};
use restart_core::{Drain, Phase};

use super::capacity;
use super::observe::Account;
use super::upgrade::{self, Offer, Upgraded};
use super::wire::buffer;
use super::wire::deadline::Deadline;
use super::wire::encode::{self, Manner, Outbox, Source};
use super::wire::framing::Framing;
use super::wire::head::{self, Found};
use super::wire::inbound::{Body, Fault, Wire};
use super::wire::outbound::{Failure, Sending};
use super::wire::pace::{Over, Pace};
use super::wire::refusal::{Refusal, plain};
use super::wire::{body, decode};
use super::{Context, Decoration, End, Handler, Reason, Start};

/// How much of a request's body that nobody wants is read for the sake of keeping the connection.
const UNREAD_BYTES_MAX: u64 = 256 * 1024;

/// How long reading it may take.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a closed connection still listens to a client that sends nothing, so that its last response is not cut by a
/// reset: a client that was told of the end, and one that is still sending what nobody wants, or may be.
const LINGER_SILENCE: Duration = Duration::from_secs(1);
const LINGER_SILENCE_SENDING: Duration = Duration::from_secs(5);

/// How long it listens in all, and for how many bytes. A body, which its client may have to send to the end before it
/// reads, may take as many as one that is allowed.
const LINGER_TIMEOUT: Duration = Duration::from_secs(30);
const LINGER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How long a stop waits for the first request of a client that has connected.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// How many requests that were sent already are answered before a connection closes because the process is to end.
const PIPELINED_MAX: u32 = 1_000;

/// After so long without a wait others get their turn, before the next request. A turn costs a microsecond or two.
const TURN: Duration = Duration::from_micros(100);

/// The most bytes that a parked connection takes along; what carries them is bounded.
const READ_AHEAD_BYTES_MAX: usize = 48 * 1024;

/// Serves one connection until it ends.
pub async fn serve<H: Handler>(context: &Context<H>, start: Start) -> End {
    let mut connection = match Connection::new(context, start) {
        Ok(connection) => connection,
        Err((reason, requests)) => return End::Server { reason, requests },
    };
    loop {
        match connection.run().await {
            Some(end) => return end,
            None => match connection.park() {
                Ok(end) => return end,
                Err(back) => connection = *back,
            },
        }
    }
}

/// The state of a connection, with what it holds in each.
enum State {
    Idle,
    Head,
    Request(Box<Message>),
    Response(Box<Answer>),
    Upgraded(StreamSender),
    HandedOver,
    Closed(Closed),
}

/// Who closed, and how much care the closing takes.
enum Closed {
    /// The client did.
    ByClient,
    /// We do, at once: nothing that we sent can be lost.
    AtOnce(Reason),
    /// We do, after the client has had the time to read what we sent last.
    Lingering(Reason),
}

/// A request whose head has passed.
struct Message {
    request: Request,
    framing: Framing,
    expects_continue: bool,
    keep_alive: bool,
    manner: Manner,
    offer: Option<Offer>,
}

/// A response that is to be sent.
struct Answer {
    response: Response,
    manner: Manner,
    /// Why the connection closes after it, if that is known already.
    close: Option<Reason>,
    decoration: Decoration,
    offer: Option<Offer>,
}

/// What ended a wait.
enum Wake {
    Readable,
    Late,
    Phase,
    /// Other clients wait for room.
    Crowded,
}

struct Connection<'a, H> {
    context: &'a Context<H>,
    wire: Arc<Wire>,
    peer: Option<String>,
    listener: Option<Arc<str>>,
    /// What will be told of the request that is being served, if somebody wants to know.
    account: Option<Box<Account>>,
    requests: u64,
    /// How often the phase had been set when it was last heeded; never, at first.
    heeded: Option<usize>,
    deadline: Deadline,
    /// Whether nothing was received here yet.
    fresh: bool,
    /// How long the wait that goes on here has lasted elsewhere.
    waited: Duration,
    /// Since when it is idle, or its head under way; less `waited`.
    waits_since: Instant,
    /// The drain in which nobody took it.
    declined: Option<usize>,
    /// How many requests were answered without a close although the process is to end, because more had been sent.
    pipelined: u32,
    /// Whether the client takes the end of the connection for that of its response. Before it is there, only a reset tells
    /// that it was cut.
    ends_by_close: bool,
}

impl<'a, H: Handler> Connection<'a, H> {
    fn new(context: &'a Context<H>, start: Start) -> Result<Self, (Reason, u64)> {
        let Start { stream, peer, listener, read_ahead, requests, waited, declined } = start;
        // Only clients on a Unix socket have no address.
        let wire = Wire::new(stream, peer.is_none(), read_ahead, &context.capacity).map_err(|error| {
            log::warn!("cannot watch an accepted connection: {error}; it is closed");
            (Reason::Failed, requests)
        })?;
        Ok(Connection {
            context,
            wire: Arc::new(wire),
            peer,
            listener,
            account: None,
            requests,
            heeded: None,
            deadline: Deadline::default(),
            fresh: true,
            waited,
            waits_since: Instant::now(),
            declined,
            pipelined: 0,
            ends_by_close: false,
        })
    }

    /// Serves until the connection has ended, or is to be served elsewhere: then nothing is returned.
    async fn run(&mut self) -> Option<End> {
        let drain = &self.context.drain;
        let (mut state, mut watch) = (State::Idle, Watch::new(drain));
        loop {
            let over = match &state {
                State::Closed(Closed::ByClient) => return Some(End::Client { requests: self.requests }),
                State::Closed(Closed::AtOnce(reason)) => return Some(self.ended(*reason)),
                State::HandedOver => return None,
                State::Closed(Closed::Lingering(reason)) => *reason,
                State::Upgraded(_) => Reason::Upgraded,
                State::Idle | State::Head | State::Request(_) | State::Response(_) => Reason::DrainDeadline,
            };
            if matches!(state, State::Head) {
                watch.take_turns().await;
            }
            let Some(next) = watch.until_over(drain, pin!(self.step(state))).await else {
                if self.ends_by_close {
                    self.wire.reset();
                } else {
                    self.wire.shut_down();
                }
                self.cut_account();
                return Some(self.ended(over));
            };
            state = next;
        }
    }

    fn ended(&self, reason: Reason) -> End {
        End::Server { reason, requests: self.requests }
    }

    /// Goes from one state to the next, from a request right through its response. What serves them is boxed, so that an
    /// idle connection is small.
    async fn step(&mut self, state: State) -> State {
        match state {
            State::Idle => self.idle().await,
            State::Head => self.head().await,
            State::Request(message) => {
                Box::pin(async {
                    if let Some(answer) = self.request(*message).await {
                        return self.response(answer).await;
                    }
                    self.cut_account();
                    State::Closed(Closed::ByClient)
                })
                .await
            }
            State::Response(answer) => Box::pin(self.response(*answer)).await,
            State::Upgraded(sender) => Box::pin(self.upgraded(sender)).await,
            State::Closed(Closed::Lingering(reason)) => {
                self.linger(reason).await;
                State::Closed(Closed::AtOnce(reason))
            }
            last @ (State::HandedOver | State::Closed(_)) => last,
        }
    }

    /// Takes the connection apart, to be served elsewhere.
    fn park(self) -> Result<End, Box<Self>> {
        match self.wire.into_parts() {
            Ok(Ok((stream, read_ahead))) => {
                let waited = self.waited + self.waits_since.elapsed();
                let Connection { peer, listener, requests, .. } = self;
                Ok(End::Parked(Start { stream, peer, listener, read_ahead, requests, waited, declined: None }))
            }
            Ok(Err(_)) => Ok(End::Server { reason: Reason::Failed, requests: self.requests }),
            // Somebody reads a body of a request that is over, this very moment. Stay, and close later.
            Err(wire) => {
                let declined = Some(self.context.drain.changes());
                Err(Box::new(Connection { wire, declined, ..self }))
            }
        }
    }

    /// Waits for a request to begin.
    async fn idle(&mut self) -> State {
        let timeout = self.context.limits.idle_timeout;
        self.begin_wait(timeout.min(capacity::IDLE_MIN), self.fresh);
        let (mut stopping, mut crowded) = (false, false);
        let mut call = None;
        loop {
            if self.is_to_park() {
                return State::HandedOver;
            }
            match self.skip_empty_lines() {
                Ok(true) => return State::Head,
                Ok(false) => {}
                Err(refusal) => return self.refuse(refusal),
            }
            let noticed = !stopping && self.drain_phase() == Phase::Stopping;
            // A client that has just connected has sent its first request; others are waited for.
            let attempt = (std::mem::take(&mut self.fresh) && self.requests == 0) || noticed || crowded;
            let wake = if attempt { Wake::Readable } else { self.wait(call.as_mut()).await };
            match wake {
                Wake::Readable => match self.wire.receive() {
                    Ok(0) => return State::Closed(Closed::ByClient),
                    Ok(_) => {}
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
                    Err(_) => return State::Closed(Closed::ByClient),
                },
                Wake::Late if stopping => return State::Closed(Closed::AtOnce(Reason::Stopping)),
                Wake::Late if call.is_none() && timeout > capacity::IDLE_MIN => {
                    call = Some(self.may_be_called(timeout));
                }
                Wake::Late => return State::Closed(Closed::AtOnce(Reason::IdleTimeout)),
                Wake::Crowded => crowded = true,
                Wake::Phase => {}
            }
        }
    }

    /// Sets the deadline of a wait; one that has `moved` here goes on with what it had left.
    fn begin_wait(&mut self, timeout: Duration, moved: bool) {
        if !moved {
            self.waited = Duration::ZERO;
        }
        self.waits_since = Instant::now();
        self.deadline.set(timeout.saturating_sub(self.waited));
    }

    /// From now on the wait has to make room when it is called to, after those that have lasted longer.
    fn may_be_called(&mut self, timeout: Duration) -> EventListener {
        self.deadline.set(timeout.saturating_sub(self.waited + self.waits_since.elapsed()));
        self.context.capacity.call()
    }

    /// Skips what may stand before a request. Returns whether bytes of one are there.
    fn skip_empty_lines(&self) -> Result<bool, Refusal> {
        let buffer = &mut self.wire.inbound().buffer;
        let skipped = head::empty_lines(buffer.filled())?;
        buffer.consume(skipped);
        let begun = !buffer.is_empty() && !head::is_half_an_empty_line(buffer.filled());
        if !begun {
            buffer.settle();
        }
        Ok(begun)
    }

    /// Receives the rest of a head of which some bytes are there.
    async fn head(&mut self) -> State {
        let timeout = self.context.limits.head_timeout;
        let (mut scanned, mut timed, mut call) = (0, false, None);
        // With what was read elsewhere, its head's time began there, too.
        let moved = std::mem::take(&mut self.fresh);
        self.open_account(if moved { self.waited } else { Duration::ZERO });
        loop {
            match self.examine(scanned) {
                Ok(Examined::Passed(message)) => return State::Request(message),
                Ok(Examined::Partial(more)) => scanned = more,
                Err(refusal) => return self.refuse(refusal),
            }
            if !std::mem::replace(&mut timed, true) {
                self.begin_wait(timeout.min(capacity::HEAD_MIN), moved);
            }
            if self.is_to_park() {
                return State::HandedOver;
            }
            self.wire.inbound().buffer.settle();
            match self.wait(call.as_mut()).await {
                Wake::Readable => match self.wire.receive() {
                    Ok(0) => return self.refuse(Refusal::bad("the connection was closed within the head")),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => {
                        self.cut_account();
                        return State::Closed(Closed::ByClient);
                    }
                },
                Wake::Late if call.is_none() && timeout > capacity::HEAD_MIN => {
                    call = Some(self.may_be_called(timeout));
                }
                Wake::Late => {
                    return self.refuse(Refusal::new(StatusCode::RequestTimeout, "the head took too long"));
                }
                Wake::Crowded => {
                    self.cut_account();
                    return State::Closed(Closed::AtOnce(Reason::Crowded));
                }
                Wake::Phase => {}
            }
        }
    }

    /// Looks whether the head is complete, and lets it pass or refuses it.
    fn examine(&mut self, scanned: usize) -> Result<Examined, Refusal> {
        let limits = &self.context.limits;
        let buffer = &mut self.wire.inbound().buffer;
        let length = match head::find(buffer.filled(), scanned, limits)? {
            Found::Partial { scanned } => return Ok(Examined::Partial(scanned)),
            Found::Complete(length) => length,
        };
        let bytes = &buffer.filled()[..length];
        let head = head::check(bytes, limits)?;
        if let Some(account) = &mut self.account {
            account.take_head(&head);
        }
        let mut request = decode::request(&head, bytes)?;
        let offer = if head.upgrade { upgrade::offer(&mut request, head.may_upgrade()) } else { None };
        let manner = Manner { method: head.method, old: head.old, close: false };
        let (keep_alive, framing, expects_continue) = (head.keep_alive, head.framing, head.expects_continue);
        buffer.consume(length);
        Ok(Examined::Passed(Box::new(Message { request, framing, expects_continue, keep_alive, manner, offer })))
    }

    /// Has the handler answer. Nothing is returned if the client is gone before it does.
    async fn request(&mut self, message: Message) -> Option<Answer> {
        let Message { mut request, keep_alive, framing, expects_continue, manner, offer } = message;
        request.set_peer_addr(self.peer.as_deref());
        if offer.is_some() {
            request.ext_mut().insert(self.context.drain.clone());
        }
        let decoration = self.decoration(Some(&request));
        body::attach(&self.wire, &mut request, framing, expects_continue, &self.context.limits);
        if self.wire.inbound().body.is_none() {
            // A handler may take long; without a body to read, no memory waits with it.
            self.wire.inbound().buffer.settle();
        }
        let Some(entry) = self.context.capacity.enter() else {
            // What the client sends of its body is treated as if a handler had left it unread.
            drop(request);
            self.requests += 1;
            let close = if keep_alive { None } else { Some(Reason::Asked) };
            return Some(Answer { response: overloaded(), manner, close, decoration, offer: None });
        };
        let handler = &self.context.handler;
        let answered = {
            let mut answering = pin!(AssertUnwindSafe(async { handler.answer(request).await }).catch_unwind());
            let wire = &self.wire;
            poll_fn(|context| match answering.as_mut().poll(context) {
                Poll::Ready(answered) => Poll::Ready(Some(answered)),
                Poll::Pending => wire.poll_gone(context).map(|()| None),
            })
            .await?
        };
        drop(entry);
        self.requests += 1;
        let fault = self.fault();
        let response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => match fault {
                Some(fault) => refusal_of(fault).response(),
                None => failed(&error),
            },
            Err(_) => {
                log::error!("the handler panicked; 500 is answered");
                plain(StatusCode::InternalServerError, "the request could not be answered")
            }
        };
        let close = if keep_alive { fault.map(reason_of) } else { Some(Reason::Asked) };
        Some(Answer { response, manner, close, decoration, offer })
    }

    /// Sends an answer, and decides whether another request may follow.
    async fn response(&mut self, answer: Answer) -> State {
        let Answer { response, mut manner, mut close, decoration, offer } = answer;
        let mut response = checked(response, offer.as_ref());
        let switches = response.status() == StatusCode::SwitchingProtocols;
        let stream = switches.then(|| response.send_upgrade());
        if close.is_none() && stream.is_none() {
            close = self.reason_to_close(&response, manner).await;
        }
        manner.close = close.is_some();
        let sent = match self.send(response, &decoration, manner).await {
            Err(Failure::Unsent(error)) => {
                let substitute = if let Some(fault) = self.fault() {
                    refusal_of(fault).response()
                } else {
                    log::error!("the body of a response failed: {error}; 500 is answered");
                    plain(StatusCode::InternalServerError, "the request could not be answered")
                };
                let reason = self.fault().map_or(Reason::Broken, reason_of);
                manner.close = true;
                close = Some(reason);
                self.send(substitute, &decoration, manner).await
            }
            sent => sent,
        };
        if sent.is_err() && self.ends_by_close {
            self.wire.reset();
        }
        self.close_account(sent.is_ok());
        match (sent, stream, close) {
            (Err(failure), ..) => closed_by(&failure, self.fault()),
            (Ok(()), Some(stream), _) => State::Upgraded(stream),
            (Ok(()), None, Some(reason)) => State::Closed(Closed::Lingering(reason)),
            (Ok(()), None, None) => self.next().await,
        }
    }

    /// Leaves the connection to whoever receives it as a stream, until the stream is dropped.
    async fn upgraded(&mut self, receiver: StreamSender) -> State {
        let (held, dropped) = smol::channel::bounded(1);
        receiver.send(Stream::new(Upgraded::new(Arc::clone(&self.wire), held))).await;
        // Nothing is ever sent: it ends with the stream.
        let _ = dropped.recv().await;
        match self.wire.receive() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(count) if count > 0 => {}
            Ok(_) | Err(_) => return State::Closed(Closed::ByClient),
        }
        State::Closed(Closed::Lingering(Reason::Handler))
    }

    async fn send(&mut self, mut response: Response, decoration: &Decoration, manner: Manner) -> Result<(), Failure> {
        for (name, value) in decoration {
            response.insert_header(name, value.clone());
        }
        let status = response.status();
        let mut out = Outbox::default();
        let source = encode::head(response, manner, &mut out).map_err(Failure::Unsent)?;
        self.ends_by_close = matches!(source, Source::Rest(_));
        let mut uncounted = 0;
        let sent = match &mut self.account {
            Some(account) => {
                (account.status, account.head_bytes) = (status.into(), out.filled().len() as u64);
                &mut account.sent_bytes
            }
            None => &mut uncounted,
        };
        let pace = Pace::new(self.context.limits.write_timeout);
        let (wire, deadline) = (&*self.wire, &mut self.deadline);
        Sending { wire, deadline, pace, out, source, begun: false, sent, long: false }.run().await?;
        self.ends_by_close = false;
        Ok(())
    }

    /// Why the connection has to be closed after this response, if it has to.
    async fn reason_to_close(&mut self, response: &Response, manner: Manner) -> Option<Reason> {
        if encode::asks_to_close(response) || (manner.old && encode::ends_by_close(response, manner.method)) {
            return Some(Reason::Handler);
        }
        let unread = |body: &Option<Body>| body.as_ref().is_some_and(|body| body.abandoned && !body.is_complete());
        let is_unread = unread(&self.wire.inbound().body);
        if is_unread {
            // What has arrived of a body that nobody wants costs little to drop.
            let _ = poll_once(discard(&self.wire)).await;
        }
        let leaves = match self.drain_phase() {
            Phase::Stopping => Some(Reason::Stopping),
            Phase::Over => return Some(Reason::DrainDeadline),
            Phase::Draining if !self.may_park() => Some(Reason::Draining),
            Phase::Draining | Phase::Serving => None,
        };
        if leaves.is_some() && !self.more_was_sent() {
            return leaves;
        }
        if !is_unread {
            return None;
        }
        let inbound = self.wire.inbound();
        let body = inbound.body.as_ref()?;
        let comes_soon = body.is_coming() && body.left().is_some_and(|left| left <= UNREAD_BYTES_MAX);
        if comes_soon { None } else { Some(body.fault().map_or(Reason::Unread, reason_of)) }
    }

    /// Whether the client has sent another request already, received or still in the socket: it counts on an answer, and
    /// may not dare to send it again. So many are waited for in all.
    fn more_was_sent(&mut self) -> bool {
        if self.pipelined == PIPELINED_MAX || self.wire.inbound().body.as_ref().is_some_and(|body| !body.is_complete())
        {
            return false;
        }
        // A head that is to be refused is more, too.
        let is_there = |connection: &Self| connection.skip_empty_lines().unwrap_or(true);
        let more = is_there(self) || (self.wire.receive().is_ok_and(|count| count > 0) && is_there(self));
        self.pipelined += u32::from(more);
        more
    }

    /// Goes on to the next request, past what was left unread of this one.
    async fn next(&mut self) -> State {
        if self.wire.inbound().body.is_some() {
            if !self.wire.inbound().body.as_ref().is_some_and(Body::is_complete) {
                self.deadline.set(UNREAD_TIMEOUT);
                let deadline = &mut self.deadline;
                discard(&self.wire).or(poll_fn(|context| deadline.poll(context))).await;
            }
            let body = { self.wire.inbound().body.take() };
            self.wire.inbound().begin(None);
            if let Some(body) = body.filter(|body| !body.is_complete() || body.fault().is_some()) {
                return State::Closed(Closed::Lingering(body.fault().map_or(Reason::Unread, reason_of)));
            }
        }
        State::Idle
    }

    /// Answers what could not be served.
    fn refuse(&mut self, refusal: Refusal) -> State {
        if self.account.is_none() {
            self.open_account(Duration::ZERO);
        }
        self.take_unchecked();
        // The head did not pass, but a HEAD is told from its first bytes, and never gets a body.
        let is_head = self.wire.inbound().buffer.filled().starts_with(b"HEAD ");
        let manner = Manner { method: if is_head { Method::Head } else { Method::Get }, old: false, close: true };
        let close = Some(Reason::Refused(refusal.status.into()));
        State::Response(Box::new(Answer {
            response: refusal.response(),
            manner,
            close,
            decoration: self.decoration(None),
            offer: None,
        }))
    }

    /// Begins the account of a request whose first byte came so long ago, if somebody wants to be told of it.
    fn open_account(&mut self, ago: Duration) {
        if !self.context.observers.is_empty() {
            let now = Instant::now();
            self.account = Some(Box::new(Account::begun(now.checked_sub(ago).unwrap_or(now))));
        }
    }

    /// Takes down what has come of a head that did not pass, or did not come whole.
    fn take_unchecked(&mut self) {
        if let Some(account) = &mut self.account {
            account.take_unchecked(self.wire.inbound().buffer.filled());
        }
    }

    /// Tells the observers of a request that was cut, if there is one: within its head, before its answer, or within that.
    fn cut_account(&mut self) {
        self.take_unchecked();
        self.close_account(false);
    }

    /// Tells the observers of a request that is over, its response `complete` or not.
    fn close_account(&mut self, complete: bool) {
        if let Some(account) = self.account.take() {
            let served = account.served(self.listener.as_deref(), self.peer.as_deref(), complete);
            self.context.observers.iter().for_each(|observe| observe(&served));
        }
    }

    /// The headers that every response gets.
    fn decoration(&self, request: Option<&Request>) -> Decoration {
        let Some(decorate) = &self.context.decorate else { return Decoration::new() };
        let mut decoration = decorate(request);
        decoration.retain(|(name, value)| encode::check_header(name, value).is_ok());
        decoration
    }

    /// Closes so that the client can read what was sent last: bytes of its own that arrive meanwhile would else make
    /// the kernel reset the connection and throw away what the client has not read.
    async fn linger(&mut self, reason: Reason) {
        self.wire.shut_down_sending();
        let mut sends = matches!(reason, Reason::Refused(_) | Reason::Unread | Reason::Broken);
        let is_body = matches!(reason, Reason::Refused(413) | Reason::Unread);
        let most = if is_body { self.context.limits.body_bytes.max(LINGER_BYTES_MAX) } else { LINGER_BYTES_MAX };
        let (end, mut dropped) = (Instant::now() + LINGER_TIMEOUT, 0);
        loop {
            let mut scratch = buffer::lend(false);
            let received = self.wire.receive_into(&mut scratch);
            buffer::give_back(scratch);
            match received {
                Ok(count) if count > 0 => {
                    sends = true;
                    dropped += count as u64;
                    if Instant::now() > end || dropped > most {
                        return;
                    }
                    yield_now().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let silence = if sends { LINGER_SILENCE_SENDING } else { LINGER_SILENCE };
                    self.deadline.set(silence.min(end.saturating_duration_since(Instant::now())));
                    let (wire, deadline) = (&self.wire, &mut self.deadline);
                    let readable = poll_fn(|context| match wire.poll_readable(context) {
                        Poll::Ready(()) => Poll::Ready(true),
                        Poll::Pending => deadline.poll(context).map(|()| false),
                    });
                    if !readable.await {
                        return;
                    }
                }
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Waits for bytes, for a call for room, for the deadline, or for a change of phase, whichever comes first.
    async fn wait(&mut self, mut call: Option<&mut EventListener>) -> Wake {
        let Connection { wire, heeded, deadline, context: Context { drain, .. }, .. } = self;
        poll_fn(|task| {
            // `Watch` wakes this task for it.
            let changes = drain.changes();
            match heeded.replace(changes) {
                Some(before) if before != changes => return Poll::Ready(Wake::Phase),
                None if drain.phase() != Phase::Serving => return Poll::Ready(Wake::Phase),
                Some(_) | None => {}
            }
            if wire.poll_readable(task).is_ready() {
                return Poll::Ready(Wake::Readable);
            }
            if call.as_mut().is_some_and(|call| Pin::new(call).poll(task).is_ready()) {
                return Poll::Ready(Wake::Crowded);
            }
            deadline.poll(task).map(|()| Wake::Late)
        })
        .await
    }

    fn drain_phase(&self) -> Phase {
        self.context.drain.phase()
    }

    /// Whether the connection, idle or with half a head, should now go to where the service has gone.
    fn is_to_park(&self) -> bool {
        self.may_park()
            && self.drain_phase() == Phase::Draining
            && self.wire.inbound().buffer.filled().len() <= READ_AHEAD_BYTES_MAX
    }

    /// Whether it may park in the present drain, if there is one. Whom nobody took in an earlier drain, which was called
    /// off, may be taken in the next.
    fn may_park(&self) -> bool {
        self.context.parks && self.declined != Some(self.context.drain.changes())
    }

    fn fault(&self) -> Option<Fault> {
        self.wire.inbound().body.as_ref().and_then(Body::fault)
    }
}

/// Reads what is left of the current body, up to a bound, and drops it.
async fn discard(wire: &Wire) {
    let message = {
        let inbound = wire.inbound();
        if !inbound.body.as_ref().is_some_and(Body::is_coming) {
            return;
        }
        inbound.message()
    };
    let mut scratch = buffer::lend(false);
    let mut dropped = 0;
    while dropped <= UNREAD_BYTES_MAX {
        match poll_fn(|context| wire.poll_body(context, message, &mut scratch)).await {
            Ok((count, _)) if count > 0 => dropped += count as u64,
            Ok(_) | Err(_) => break,
        }
    }
    buffer::give_back(scratch);
}

/// What a look at the bytes of a head found.
enum Examined {
    Passed(Box<Message>),
    Partial(usize),
}

/// A response that may be sent: the handler's own, or 500 where its own would break the protocol.
fn checked(response: Response, offer: Option<&Offer>) -> Response {
    match encode::check(&response).and_then(|()| upgrade::check(&response, offer)) {
        Ok(()) => response,
        Err(cause) => {
            log::error!("the handler made a response with {cause}; 500 is answered");
            plain(StatusCode::InternalServerError, "the request could not be answered")
        }
    }
}

/// The answer to a request whose handler failed: the error's own status if it is one of failure, else 500.
fn failed(error: &http_types::Error) -> Response {
    let status = error.status();
    if status.is_client_error() {
        log::debug!("the handler refused a request: {error}");
        return plain(status, "the request could not be answered");
    }
    log::error!("the handler failed: {error}");
    let status = if status.is_server_error() { status } else { StatusCode::InternalServerError };
    plain(status, "the request could not be answered")
}

/// The answer to a request that finds no room.
fn overloaded() -> Response {
    let mut response = plain(StatusCode::ServiceUnavailable, "too many requests are being answered");
    response.insert_header(RETRY_AFTER, "1");
    response
}

/// What is answered when a request's body could not be read.
fn refusal_of(fault: Fault) -> Refusal {
    match fault {
        Fault::Refused(refusal) => refusal,
        Fault::Late | Fault::Crowded => Refusal::new(StatusCode::RequestTimeout, "the body came too slowly"),
        Fault::Cut | Fault::Failed(_) => Refusal::bad("the connection was closed within the body"),
    }
}

fn reason_of(fault: Fault) -> Reason {
    if fault == Fault::Crowded { Reason::Crowded } else { Reason::Refused(refusal_of(fault).status.into()) }
}

/// How a connection closes after a response that did not reach its proper end, which may be due to the request's body.
fn closed_by(failure: &Failure, fault: Option<Fault>) -> State {
    State::Closed(match failure {
        Failure::Unsent(error) | Failure::Broken(error) if fault.is_some() => {
            log::debug!("the body of a response failed with that of its request: {error}; the response is cut");
            match fault {
                Some(fault @ (Fault::Refused(_) | Fault::Late | Fault::Crowded)) => Closed::Lingering(reason_of(fault)),
                Some(Fault::Cut | Fault::Failed(_)) | None => Closed::ByClient,
            }
        }
        Failure::Unsent(error) | Failure::Broken(error) => {
            log::error!("the body of a response failed: {error}; the response is cut");
            Closed::Lingering(Reason::Broken)
        }
        Failure::Long => {
            log::error!("the body of a response is longer than it declared; the rest is dropped");
            Closed::Lingering(Reason::Broken)
        }
        Failure::Over(Over::Late) => Closed::AtOnce(Reason::WriteTimeout),
        Failure::Over(Over::Crowded) => Closed::AtOnce(Reason::Crowded),
        Failure::Failed(error) => {
            log::debug!("a response could not be sent: {error}");
            Closed::ByClient
        }
    })
}

/// Learns of changes of phase, at no cost per request: the listener stays registered from one wait to the next. It sees
/// each wait, and so knows for how long there was none.
struct Watch {
    /// Since when the task goes on without a wait, if somebody has asked.
    turn: Option<Instant>,
    /// How often the phase had been set at the last look.
    seen: usize,
    changed: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    waker: Option<Waker>,
}

impl Watch {
    fn new(drain: &Drain) -> Watch {
        Watch { turn: None, seen: drain.changes(), changed: None, waker: None }
    }

    /// Gives way to others if the task has gone on for long without a wait: a client that sends faster than it is
    /// answered must not keep them all waiting.
    async fn take_turns(&mut self) {
        let now = Instant::now();
        if now.duration_since(*self.turn.get_or_insert(now)) >= TURN {
            yield_now().await;
            self.turn = Some(Instant::now());
        }
    }

    /// Does `step`, unless the drain's deadline passes first, and has it look again whenever the phase has been set.
    async fn until_over<T>(&mut self, drain: &Drain, mut step: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        poll_fn(|task| {
            loop {
                if drain.phase() == Phase::Over {
                    return Poll::Ready(None);
                }
                if let Poll::Ready(done) = step.as_mut().poll(task) {
                    return Poll::Ready(Some(done));
                }
                if self.poll(task, drain).is_pending() {
                    self.turn = None;
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Ready when the phase has been set since the last look.
    fn poll(&mut self, task: &mut std::task::Context<'_>, drain: &Drain) -> Poll<()> {
        if self.seen != drain.changes() {
            *self = Watch::new(drain);
            return Poll::Ready(());
        }
        if self.waker.as_ref().is_some_and(|waker| waker.will_wake(task.waker())) {
            return Poll::Pending;
        }
        let changed = self.changed.get_or_insert_with(|| Box::pin(drain.next_change(self.seen)));
        match changed.as_mut().poll(task) {
            Poll::Pending => {
                self.waker = Some(task.waker().clone());
                Poll::Pending
            }
            Poll::Ready(()) => {
                *self = Watch::new(drain);
                Poll::Ready(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_phase_that_came_and_went_unseen_hides_no_later_one() {
        let drain = Drain::new();
        let mut watch = Watch::new(&drain);
        let woken = Arc::new(AtomicUsize::new(0));
        let waker = {
            struct Count(Arc<AtomicUsize>);
            impl std::task::Wake for Count {
                fn wake(self: Arc<Self>) {
                    self.0.fetch_add(1, Ordering::Relaxed);
                }
            }
            Waker::from(Arc::new(Count(Arc::clone(&woken))))
        };
        let mut task = std::task::Context::from_waker(&waker);
        assert!(watch.poll(&mut task, &drain).is_pending());
        drain.set_phase(Phase::Draining);
        drain.set_phase(Phase::Serving);
        assert!(watch.poll(&mut task, &drain).is_ready(), "somebody may have been declined in between");
        assert!(watch.poll(&mut task, &drain).is_pending());
        let before = woken.load(Ordering::Relaxed);
        drain.set_phase(Phase::Draining);
        assert!(woken.load(Ordering::Relaxed) > before);
        assert!(watch.poll(&mut task, &drain).is_ready());
    }

    #[test]
    fn a_client_that_pipelines_gives_way_to_others_when_its_turn_is_over() {
        let handled = AtomicUsize::new(0);
        let handler = |_| {
            handled.fetch_add(1, Ordering::Relaxed);
            let begun = Instant::now();
            while begun.elapsed() < TURN {}
            async { Ok(Response::new(200)) }
        };
        let context = Context::new(handler, Drain::new());
        let (stream, mut client) = UnixStream::pair().expect("a pair");
        client.write_all(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10)).expect("room");
        let mut serving = pin!(serve(&context, Start::new(stream, None)));
        let mut task = std::task::Context::from_waker(Waker::noop());
        for turn in 1..=10 {
            assert!(serving.as_mut().poll(&mut task).is_pending());
            assert_eq!(handled.load(Ordering::Relaxed), turn);
        }
    }

    #[test]
    fn an_idle_connection_is_small() {
        async fn answer(_: Request) -> http_types::Result<Response> {
            Ok(Response::new(200))
        }
        let context = Context::new(answer, Drain::new());
        let (stream, _) = UnixStream::pair().expect("a pair");
        let size = size_of_val(&serve(&context, Start::new(stream, None)));
        assert!(size <= 1024, "{size} bytes");
    }
}
