//! What a connection is in: its states with what each holds, and what stays with it from one to the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_types::upgrade::Sender as StreamSender;
use http_types::{Request, Response};
use restart_core::Phase;
use rustls::ServerConfig;

use crate::http::deadline::Deadline;
use crate::http::handler::{Context, Decoration, Place};
use crate::http::lifetime::{End, Reason, Start, UnderWay, Unfinished};
use crate::http::message::encode::Manner;
use crate::http::message::framing::Framing;
use crate::http::observe::Account;
use crate::http::security::{Security, Tls};
use crate::http::shutdown::is_to_move;
use crate::http::upgrade::{Offer, Switching};
use crate::http::wire::Wire;
use crate::waits::{Entry, Kind};

/// The state of a connection, with what it holds in each.
pub(super) enum State {
    Handshake(Arc<ServerConfig>),
    Idle,
    /// Some bytes of a head are there. It includes the exchange that the head leads to.
    Head,
    Response(Box<Answer>),
    Rest(Box<Unfinished>),
    Upgraded(StreamSender),
    Protocol(Box<Switching>),
    HandedOver,
    Closed(Closed),
}

/// Who closed, and how much care the closing takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// The client did.
    ByClient,
    /// We do, at once: nothing that we sent can be lost.
    AtOnce(Reason),
    /// We do, after the client has had the time to read what we sent last.
    Lingering(Reason),
}

/// A request whose head has passed: the request, in its place, and what else the head says.
pub(super) struct Message<'a> {
    pub(super) request: &'a mut Request,
    pub(super) framing: Framing,
    pub(super) expects_continue: bool,
    pub(super) keep_alive: bool,
    pub(super) manner: Manner,
    /// Whether it may switch to the protocol that it asks for, if it asks for one.
    pub(super) may_upgrade: Option<bool>,
    /// The client's address, where a trusted proxy has said it.
    pub(super) client: Option<String>,
}

/// A response that is to be sent.
pub(super) struct Answer {
    /// Nothing once its plan is made: what the plan does not need is not kept while it is sent.
    pub(super) response: Option<Response>,
    pub(super) manner: Manner,
    /// Why the connection closes after it, if that is known already.
    pub(super) close: Option<Reason>,
    pub(super) decoration: Decoration,
    pub(super) offer: Option<Offer>,
}

#[expect(clippy::struct_excessive_bools, reason = "they are independent facts about one connection")]
pub(super) struct Connection<'a, H> {
    pub(super) context: &'a Context<H>,
    pub(super) wire: Arc<Wire>,
    pub(super) peer: Option<String>,
    pub(super) local: bool,
    /// Whether the other end is a proxy whose word counts.
    pub(super) is_trusted: bool,
    /// Whose request is under way, where that proxy has told, and its place among those of that client.
    pub(super) client: Option<String>,
    pub(super) place: Option<Place>,
    pub(super) listener: Option<Arc<str>>,
    /// What the handshake that comes first is held with.
    pub(super) handshake: Option<Arc<ServerConfig>>,
    /// How TLS is spoken, once it is.
    pub(super) tls: Option<Tls>,
    /// What will be told of the request that is being served, if somebody wants to know.
    pub(super) account: Option<Box<Account>>,
    /// What is under way, told to whoever asks.
    pub(super) entry: Option<Entry<'a>>,
    pub(super) requests: u64,
    /// How often the phase had been set when it was last looked at; never, at first.
    pub(super) phase_seen: Option<usize>,
    pub(super) deadline: Deadline,
    /// Whether nothing was received here yet.
    pub(super) fresh: bool,
    /// Whether the last request was all that had been received: then nobody has to look for the next one.
    pub(super) used_all: bool,
    /// When the head that is being read was first looked at.
    pub(super) began: Instant,
    /// How long the wait that goes on here has lasted elsewhere.
    pub(super) waited: Duration,
    /// Since when it is idle, or its head under way; less `waited`.
    pub(super) waits_since: Instant,
    /// What was under way when it was parked, until it goes on.
    pub(super) under_way: UnderWay,
    /// The drain in which nobody took it.
    pub(super) declined: Option<usize>,
    /// How many requests were answered without a close although the process is to end, because more had been sent.
    pub(super) pipelined: u32,
    /// How many bytes of the last response were sent here.
    pub(super) sent_bytes: u64,
    /// Whether the client takes the end of the connection for that of its response. Before it is there, only a reset tells
    /// that it was cut.
    pub(super) ends_by_close: bool,
}

impl<'a, H> Connection<'a, H> {
    pub(super) fn new(context: &'a Context<H>, start: Start) -> Result<Self, (Reason, u64)> {
        let Start { stream, peer, local, client, listener, security, .. } = start;
        let Start { read_ahead, requests, waited, under_way, declined, .. } = start;
        let (handshake, tls, sealed) = match security {
            Security::Plain => (None, None, None),
            Security::Handshake(config) => (Some(config), None, None),
            Security::Established(established) => (None, Some(established.tls), Some(established.sealed)),
        };
        let wire = Wire::new(stream, local, (read_ahead, sealed), &context.capacity).map_err(|error| {
            log::warn!("cannot watch an accepted connection: {error}; it is closed");
            (Reason::Failed, requests)
        })?;
        let is_trusted = context.trust.as_ref().is_some_and(|trust| trust.has_peer(peer.as_deref()));
        let share = context.share.as_ref();
        let place = client.as_ref().and_then(|client| share.and_then(|share| share(client, true)));
        let now = Instant::now();
        Ok(Connection {
            context,
            wire: Arc::new(wire),
            peer,
            local,
            is_trusted,
            client,
            place,
            listener,
            handshake,
            tls,
            account: None,
            entry: None,
            requests,
            phase_seen: None,
            deadline: Deadline::default(),
            fresh: true,
            used_all: false,
            waited,
            began: now,
            waits_since: now,
            under_way,
            declined,
            pipelined: 0,
            sent_bytes: 0,
            ends_by_close: false,
        })
    }

    pub(super) fn ended(&self, reason: Reason) -> End {
        End::Server { reason, requests: self.requests }
    }

    /// Something of this kind is under way from now on.
    pub(super) fn enter(&mut self, kind: Kind, path: &str, since: Instant) {
        self.entry = self.context.waits.as_ref().map(|waits| waits.enter(kind, path, since));
    }

    /// What is under way has come further.
    pub(super) fn becomes(&mut self, kind: Kind) {
        if let Some(entry) = &mut self.entry {
            entry.becomes(kind);
        }
    }

    pub(super) fn drain_phase(&self) -> Phase {
        self.context.drain.phase()
    }

    /// Whether it may park in the present drain, if there is one. Whom nobody took in an earlier drain, which was called
    /// off, may be taken in the next.
    pub(super) fn may_park(&self) -> bool {
        self.context.parks && self.declined != Some(self.context.drain.changes())
    }

    /// Whether it is to be served elsewhere now, if it can be told.
    pub(super) fn is_to_move(&self) -> bool {
        is_to_move(&self.context.drain, self.context.parks, self.declined)
    }
}
