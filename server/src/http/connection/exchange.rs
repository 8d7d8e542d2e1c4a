//! From a request to its answer: the handler, the response on its way, and what follows it.

use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use futures_lite::FutureExt;
use futures_lite::future::poll_once;
use http_types::headers::RETRY_AFTER;
use http_types::{Request, Response, StatusCode};
use restart_core::Shutdown;

use super::follow::{Facts, Follows, UNREAD_BYTES_MAX, follows, follows_failure, reason_of, refusal_of};
use super::state::{Answer, Closed, Connection, Message, State};
use crate::http::capacity::Entry;
use crate::http::ending::Ending;
use crate::http::handler::{Decoration, Handler, Proxied};
use crate::http::lifetime::{Reason, UnderWay, Unfinished};
use crate::http::message::encode::{self, Manner};
use crate::http::message::framing::Framing;
use crate::http::message::refusal::plain;
use crate::http::moves::{self, Moves};
use crate::http::pace::Pace;
use crate::http::plan::Plan;
use crate::http::plan::outbox::Outbox;
use crate::http::plan::rest::{DESCRIBED_BYTES_MAX, Rest};
use crate::http::plan::sending::{Failure, Sending, Sent};
use crate::http::request_body;
use crate::http::shutdown::is_to_move;
use crate::http::upgrade::{self, Offer, Switching};
use crate::http::wire::{BodyState, Fault};
use crate::waits::Kind;

/// How long reading the rest of a body that nobody wants may take.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(5);

/// So much may be described beside the plan of a response: of what was received, of the account, and of TLS.
const TRAVELLING_BYTES_MAX: usize = 44 * 1024;

/// So much leaves at once, whatever the network and the client are like (RFC 6928: ten segments).
const FIRST_FLIGHT_BYTES: u64 = 8 * 1024;

/// How many requests that were sent already are answered before a connection closes because the process is to end.
const PIPELINED_MAX: u32 = 1_000;

impl<'a, H: Handler> Connection<'a, H> {
    /// Has a request answered whose head is there whole, so many bytes, and sends the answer. Request and response are not
    /// handed on: each stands where it is needed last.
    pub(super) async fn exchange(&mut self, length: usize) -> State {
        let mut place = None;
        let Message { request, keep_alive, framing, expects_continue, manner, may_upgrade, client } =
            match self.message(length, &mut place) {
                Ok(message) => message,
                Err(refusal) => return self.refuse(refusal),
            };
        self.client = client;
        let offer = may_upgrade.and_then(|may_upgrade| upgrade::offer(request, may_upgrade));
        let decoration = self.introduce(request, framing);
        request_body::attach(&self.wire, request, framing, expects_continue, &self.context.limits);
        let close = if keep_alive { None } else { Some(Reason::Asked) };
        let mut answer = Answer { response: None, manner, close, decoration, offer };
        let mut error = None;
        let handled = if let Some(_entry) = self.admit(request, &mut answer) {
            let (handler, wire) = (&self.context.handler, &self.wire);
            let mut answering = pin!(None);
            let mut poll = |context: &mut task::Context<'_>| {
                // It is called here, since that may panic as well.
                if let Some(request) = place.take() {
                    answering.set(Some(handler.answer(request)));
                }
                let Some(polled) = answering.as_mut().as_pin_mut() else { return Poll::Pending };
                match polled.poll(context) {
                    Poll::Ready(Ok(response)) => answer.response = Some(response),
                    Poll::Ready(Err(failed)) => error = Some(failed),
                    Poll::Pending => return Poll::Pending,
                }
                // It is dropped here, since that may panic, too.
                answering.set(None);
                Poll::Ready(())
            };
            poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| poll(context))) {
                Ok(Poll::Ready(())) => Poll::Ready(Handled::Answered),
                Ok(Poll::Pending) => wire.transport.poll_gone(context).map(|()| Handled::Gone),
                Err(_) => Poll::Ready(Handled::Panicked),
            })
            .await
        } else {
            // What the client sends of its body is treated as if a handler had left it unread.
            drop(place.take());
            Handled::Screened
        };
        if matches!(handled, Handled::Gone) {
            self.give_up_account();
            return State::Closed(Closed::ByClient);
        }
        self.requests += 1;
        if !matches!(handled, Handled::Screened) {
            let fault = self.wire.fault();
            if answer.response.is_none() {
                answer.response = Some(instead(error.take().as_ref(), fault));
            }
            answer.close = answer.close.or_else(|| fault.map(reason_of));
        }
        self.response(&mut answer).await
    }

    /// Tells a request whence it comes, and others of it. Returns the headers that its response gets.
    fn introduce(&mut self, request: &mut Request, framing: Framing) -> Decoration {
        request.set_peer_addr(self.client.as_deref().or(self.peer.as_deref()));
        request.ext_mut().insert(Shutdown::new(self.context.own_drain()));
        if let Some(tls) = &self.tls {
            request.ext_mut().insert(tls.clone());
        }
        if self.is_trusted {
            request.ext_mut().insert(Proxied { proxy: self.peer.clone() });
        }
        let kind = if framing == Framing::None { Kind::Request } else { Kind::Upload };
        self.enter(kind, request.url().path(), self.began);
        self.decoration(Some(request))
    }

    /// Lets a request be handled, as long as the entry lives, or answers it in the handler's place.
    fn admit(&mut self, request: &Request, answer: &mut Answer) -> Option<Entry<'a>> {
        let screened = self.context.screen.as_ref().and_then(|screen| screen(request));
        let entry = match screened {
            Some(response) => Err(response),
            None if !self.takes_place() => Err(client_has_too_many()),
            None => self.context.capacity.enter().ok_or_else(overloaded),
        };
        entry.map_err(|response| (answer.response, answer.offer) = (Some(response), None)).ok()
    }

    /// Counts the request for its client, where a proxy has told whose it is. Says whether it may be handled.
    fn takes_place(&mut self) -> bool {
        if let (Some(share), Some(client)) = (&self.context.share, &self.client) {
            self.place = share(client, false);
            return self.place.is_some();
        }
        true
    }

    /// Sends an answer, and decides what follows it.
    pub(super) async fn response(&mut self, answer: &mut Answer) -> State {
        let Answer { response: place, decoration, offer, .. } = answer;
        let (mut manner, mut close) = (answer.manner, answer.close);
        let response = place.as_mut().expect("an answer has its response until this has made its plan");
        check(response, offer.as_ref(), &self.context.moves);
        let switch = switch_of(response);
        if switch.is_none() {
            close = self.reason_to_close(close, response, manner).await;
        }
        manner.close = close.is_some();
        let may_move = switch.is_none();
        let mut plan = self.plan(response, decoration, manner);
        *place = None;
        let sent = match self.send(&mut plan, false, may_move).await {
            Err(Failure::Unsent(error)) => {
                let (mut substitute, reason) = self.substitute(&error);
                (manner.close, close) = (true, Some(reason));
                plan = self.plan(&mut substitute, decoration, manner);
                self.send(&mut plan, false, false).await
            }
            sent => sent,
        };
        match (sent, switch) {
            (Ok(None), Some(then)) => {
                self.close_account(true);
                then
            }
            (sent, _) => self.sent(sent, close).await,
        }
    }

    /// Sends what another process, or an earlier drain, has left of a response.
    pub(super) async fn finish(&mut self, unfinished: Unfinished) -> State {
        let Unfinished { rest, close, .. } = unfinished;
        let path = self.account.as_ref().map(|account| account.path()).unwrap_or_default();
        self.enter(Kind::Response, &path, Instant::now());
        (self.fresh, self.waited) = (false, Duration::ZERO);
        match Plan::resume(rest, &self.context.moves) {
            Ok(mut plan) => {
                let sent = self.send(&mut plan, true, true).await;
                self.sent(sent, close).await
            }
            Err(error) => {
                log::error!("a response cannot be finished here: {error}; it is cut");
                self.close_account(false);
                State::Closed(Closed::AtOnce(Reason::Failed))
            }
        }
    }

    /// Goes on after a response that was sent as far as it will be here, or failed.
    async fn sent(&mut self, sent: Result<Option<Rest>, Failure>, close: Option<Reason>) -> State {
        self.entry = None;
        let failure = match sent {
            Ok(Some(rest)) => {
                let account = self.account.take();
                self.under_way = UnderWay::Response(Box::new(Unfinished { rest, close, account }));
                return State::HandedOver;
            }
            Ok(None) => {
                self.close_account(true);
                return self.next(close).await;
            }
            Err(failure) => failure,
        };
        if self.ends_by_close {
            self.wire.transport.reset();
        }
        self.close_account(false);
        let fault = self.wire.fault();
        tell(&failure, fault.is_some());
        State::Closed(follows_failure(&failure, fault))
    }

    /// What is answered where a body failed before a byte of its response was sent, and why the connection closes then.
    fn substitute(&self, error: &io::Error) -> (Response, Reason) {
        if let Some(fault) = self.wire.fault() {
            return (refusal_of(fault).response(), reason_of(fault));
        }
        log::error!("the body of a response failed: {error}; 500 is answered");
        (plain(StatusCode::InternalServerError, "the request could not be answered"), Reason::Broken)
    }

    /// How a response is sent, whose body is taken from it.
    fn plan(&mut self, response: &mut Response, decoration: &Decoration, manner: Manner) -> Plan {
        let mut out = Outbox::default();
        let framing = encode::head(response, decoration, manner, &mut out);
        if let Some(account) = &mut self.account {
            (account.status, account.head_bytes) = (response.status().into(), out.filled().len() as u64);
        }
        Plan::new(response, framing, out, &self.context.moves)
    }

    /// Sends a plan, of which some was sent already if it has `begun`. Returns what is left of it where that is to be sent
    /// elsewhere.
    async fn send(&mut self, plan: &mut Plan, mut begun: bool, may_move: bool) -> Result<Option<Rest>, Failure> {
        self.ends_by_close = plan.ends_by_close();
        // What was sent of it elsewhere may wait here still.
        self.sent_bytes = if begun { FIRST_FLIGHT_BYTES } else { 0 };
        if matches!(self.wire.body_state(), BodyState::None | BodyState::Complete) {
            self.becomes(if plan.left().is_some() { Kind::Response } else { Kind::Stream });
        }
        loop {
            let pace = Pace::new(self.context.limits.write_timeout);
            let described = self.account.as_ref().map_or(0, |account| account.own_bytes());
            let (context, declined) = (self.context, self.declined);
            let (wire, deadline) = (&*self.wire, &mut self.deadline);
            let can_move = || {
                let is_time = is_to_move(&context.drain, may_move && context.parks, declined);
                // An upload that is still read stays, and so does what has too much to be told.
                let is_read = || matches!(wire.body_state(), BodyState::None | BodyState::Complete);
                let fits = || {
                    wire.received_bytes().max(described) <= DESCRIBED_BYTES_MAX
                        && wire.waiting_bytes() + described <= TRAVELLING_BYTES_MAX
                };
                is_time && is_read() && fits()
            };
            let mut uncounted = self.sent_bytes;
            let sent = self.account.as_mut().map_or(&mut uncounted, |account| &mut account.sent_bytes);
            let ending = Ending::new(&context.drain);
            let mut sending = Sending { wire, deadline, pace, begun, sent, may_move: &can_move, ending };
            let outcome = sending.run(plan).await;
            self.sent_bytes = self.account.as_ref().map_or(uncounted, |account| account.sent_bytes);
            if outcome? == Sent::Whole {
                self.ends_by_close = false;
                return Ok(None);
            }
            match Box::pin(std::mem::take(plan).into_rest()).await {
                Ok(rest) => return Ok(Some(rest)),
                Err((back, error)) => {
                    log::warn!("a response stays in this process: {error}");
                    self.declined = Some(self.context.drain.changes());
                    (*plan, begun) = (back, true);
                }
            }
        }
    }

    /// Why the connection has to be closed after this response, if it has to; what is known already is `close`.
    async fn reason_to_close(&mut self, close: Option<Reason>, response: &Response, manner: Manner) -> Option<Reason> {
        let by_handler =
            || encode::asks_to_close(response) || (manner.old && encode::ends_by_close(response, manner.method));
        let close = close.or_else(|| by_handler().then_some(Reason::Handler));
        if close.is_none()
            && let BodyState::Coming { abandoned: true, .. } = self.wire.body_state()
        {
            // What has arrived of a body that nobody wants costs little to drop.
            let _ = poll_once(self.wire.discard(UNREAD_BYTES_MAX)).await;
        }
        let mut facts = Facts {
            close,
            is_sent: false,
            phase: self.drain_phase(),
            may_park: self.may_park(),
            body: self.wire.body_state(),
            more: None,
        };
        loop {
            match follows(facts) {
                Follows::Request => return None,
                Follows::Close(reason) => return Some(reason),
                Follows::Look => facts.more = Some(self.more_was_sent()),
            }
        }
    }

    /// Whether the client has sent another request already, received or still in the socket: it counts on an answer, and
    /// may not dare to send it again. So many are waited for in all.
    fn more_was_sent(&mut self) -> bool {
        let is_read = matches!(self.wire.body_state(), BodyState::None | BodyState::Complete);
        if self.pipelined == PIPELINED_MAX || !is_read {
            return false;
        }
        self.used_all = false;
        // A head that is to be refused is more, too.
        let is_there = || self.wire.skip_empty_lines().unwrap_or(true);
        let more = is_there() || (self.wire.transport.receive().is_ok_and(|count| count > 0) && is_there());
        self.pipelined += u32::from(more);
        more
    }

    /// Goes on to what follows a response, past what was left unread of its request.
    async fn next(&mut self, close: Option<Reason>) -> State {
        (self.client, self.place) = (None, None);
        if close.is_none() && !matches!(self.wire.body_state(), BodyState::None | BodyState::Complete) {
            self.deadline.set(UNREAD_TIMEOUT);
            let (wire, deadline) = (&self.wire, &mut self.deadline);
            wire.discard(UNREAD_BYTES_MAX).or(poll_fn(|context| deadline.poll(context))).await;
        }
        let (phase, may_park, body) = (self.drain_phase(), self.may_park(), self.wire.body_state());
        match follows(Facts { close, is_sent: true, phase, may_park, body, more: None }) {
            // The client has said that it sends no more requests (RFC 9112 section 9.6), and nothing has come. What may come
            // all the same (of TLS a KeyUpdate or its close_notify) has the kernel reset the connection, and throw away what
            // has not left; a short response has. Where TLS has no room to say that this is the end, it
            // is waited for: without it, the client would take the response for a cut one.
            Follows::Close(Reason::Asked)
                if body == BodyState::None
                    && self.sent_bytes <= FIRST_FLIGHT_BYTES
                    && self.wire.transport.is_quiet()
                    && self.wire.transport.close() =>
            {
                State::Closed(Closed::AtOnce(Reason::Asked))
            }
            Follows::Close(reason) => State::Closed(Closed::Lingering(reason)),
            Follows::Request | Follows::Look => {
                if body != BodyState::None {
                    self.wire.end_message();
                }
                State::Idle
            }
        }
    }
}

/// What became of a request.
enum Handled {
    /// The handler has given a response, or has failed.
    Answered,
    Panicked,
    /// It was answered in the handler's place.
    Screened,
    /// The client was gone before there was an answer.
    Gone,
}

/// What is answered where the handler gave no response: it failed, for which the request's body may be to blame, or panicked.
fn instead(error: Option<&http_types::Error>, fault: Option<Fault>) -> Response {
    match (error, fault) {
        (Some(_), Some(fault)) => refusal_of(fault).response(),
        (Some(error), None) => failed(error),
        (None, _) => {
            log::error!("the handler panicked; 500 is answered");
            plain(StatusCode::InternalServerError, "the request could not be answered")
        }
    }
}

/// To what a response switches, if it does.
fn switch_of(response: &mut Response) -> Option<State> {
    if response.status() != StatusCode::SwitchingProtocols {
        return None;
    }
    let registered = response.ext_mut().remove::<Switching>();
    Some(
        registered
            .map_or_else(|| State::Upgraded(response.send_upgrade()), |switching| State::Protocol(Box::new(switching))),
    )
}

/// Says what went wrong with a response, whose request's body may have `failed` as well.
fn tell(failure: &Failure, failed: bool) {
    match failure {
        Failure::Unsent(error) | Failure::Broken(error) if failed => {
            log::debug!("the body of a response failed with that of its request: {error}; the response is cut");
        }
        Failure::Unsent(error) | Failure::Broken(error) => {
            log::error!("the body of a response failed: {error}; the response is cut");
        }
        Failure::Long => log::error!("the body of a response is longer than it declared; the rest is dropped"),
        Failure::Failed(error) => log::debug!("a response could not be sent: {error}"),
        Failure::Over(_) => {}
    }
}

/// Puts 500 in the place of a response that would break the protocol.
fn check(response: &mut Response, offer: Option<&Offer>, moves: &Moves) {
    let checked = encode::check(response)
        .and_then(|()| upgrade::check(response, offer))
        .and_then(|()| moves::check(moves, response));
    if let Err(cause) = checked {
        log::error!("the handler made a response with {cause}; 500 is answered");
        *response = plain(StatusCode::InternalServerError, "the request could not be answered");
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

/// What is answered where the client that a proxy names has as many requests as one may have.
fn client_has_too_many() -> Response {
    let mut response = plain(StatusCode::TooManyRequests, "too many requests of this client are being answered");
    response.insert_header(RETRY_AFTER, "1");
    response
}

/// The answer to a request that finds no room.
fn overloaded() -> Response {
    let mut response = plain(StatusCode::ServiceUnavailable, "too many requests are being answered");
    response.insert_header(RETRY_AFTER, "1");
    response
}
