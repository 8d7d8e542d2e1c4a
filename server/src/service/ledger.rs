//! The ledger of connections: each that was accepted or received ends in exactly one way.
//!
//! accepted + received = closed by the client + closed by us, by reason + handed over + live. It only counts; whoever
//! serves connections books them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use serde::Serialize;

use crate::http::Reason;
use crate::lock::unpoisoned;
use crate::moving::Kind;
use crate::per_team::PerTeam;

/// The books of one generation, of which each team of threads keeps its own.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    books: PerTeam<Book>,
}

#[derive(Debug, Default)]
struct Book {
    accepted: AtomicU64,
    received: AtomicU64,
    closed_by_client: AtomicU64,
    /// In the order of `Kind`.
    handed_over: [AtomicU64; Kind::COUNT],
    requests: AtomicU64,
    closed_by_us: Mutex<BTreeMap<String, u64>>,
}

/// What the books say at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Balance {
    pub(crate) accepted: u64,
    pub(crate) received: u64,
    pub(crate) closed_by_client: u64,
    pub(crate) closed_by_us: BTreeMap<String, u64>,
    pub(crate) handed_over: u64,
    /// Those handed over, by what was under way on them.
    pub(crate) moved: Moved,
    /// What has come and not ended.
    pub(crate) live: u64,
    /// Requests answered on connections that have ended or moved.
    requests: u64,
}

/// Connections that were handed over, by what was under way on them. Serialized, it has the names of `MOVED_KINDS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Moved {
    pub(crate) idle: u64,
    pub(crate) responses: u64,
    pub(crate) streams: u64,
    pub(crate) upgraded: u64,
}

/// What the kinds of connections that move are called, wherever they are shown, in the order of `Kind`.
pub(crate) const MOVED_KINDS: [&str; 4] = ["idle", "responses", "streams", "upgraded"];

impl Moved {
    /// How many there were of each kind, by its name.
    pub(crate) fn by_kind(self) -> [(&'static str, u64); 4] {
        let Moved { idle, responses, streams, upgraded } = self;
        let [one, two, three, four] = MOVED_KINDS;
        [(one, idle), (two, responses), (three, streams), (four, upgraded)]
    }
}

impl Ledger {
    /// Nothing booked yet, by so many teams.
    pub(crate) fn new(teams: usize) -> Ledger {
        Ledger { books: PerTeam::new(teams, Book::default) }
    }

    pub(crate) fn accepted(&self) {
        self.books.own().accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn received(&self) {
        self.books.own().received.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn handed_over(&self, kind: Kind) {
        self.books.own().handed_over[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed_by_client(&self, requests: u64) {
        let own = self.books.own();
        own.closed_by_client.fetch_add(1, Ordering::Relaxed);
        own.requests.fetch_add(requests, Ordering::Relaxed);
    }

    pub(crate) fn closed_by_us(&self, reason: Reason, requests: u64) {
        let own = self.books.own();
        *own.reasons().entry(reason.to_string()).or_default() += 1;
        own.requests.fetch_add(requests, Ordering::Relaxed);
    }

    /// One of the counters, of all teams.
    fn sum(&self, counter: impl Fn(&Book) -> &AtomicU64) -> u64 {
        self.books.iter().map(|own| counter(own).load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn balance(&self) -> Balance {
        // What ends is read before what comes, so that a connection that ends meanwhile never makes it negative.
        let mut closed_by_us = BTreeMap::<String, u64>::new();
        for own in self.books.iter() {
            own.reasons().iter().for_each(|(reason, count)| *closed_by_us.entry(reason.clone()).or_default() += count);
        }
        let closed_by_client = self.sum(|own| &own.closed_by_client);
        let [idle, responses, streams, upgraded] = std::array::from_fn(|kind| self.sum(|own| &own.handed_over[kind]));
        let handed_over = idle + responses + streams + upgraded;
        let (accepted, received) = (self.sum(|own| &own.accepted), self.sum(|own| &own.received));
        let ended = closed_by_client + handed_over + closed_by_us.values().sum::<u64>();
        Balance {
            accepted,
            received,
            closed_by_client,
            closed_by_us,
            handed_over,
            moved: Moved { idle, responses, streams, upgraded },
            live: (accepted + received).saturating_sub(ended),
            requests: self.sum(|own| &own.requests),
        }
    }
}

impl Book {
    fn reasons(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        unpoisoned(self.closed_by_us.lock())
    }
}

impl Balance {
    /// Whether every connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.live == 0
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Balance { accepted, received, closed_by_client, closed_by_us, handed_over, live, .. } = self;
        write!(out, "{accepted} accepted + {received} received = {closed_by_client} closed by the client")?;
        for (reason, count) in closed_by_us {
            write!(out, " + {count} closed here ({reason})")?;
        }
        write!(out, " + {handed_over} handed over + {live} live")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_is_booked_once() {
        let ledger = Ledger::default();
        (0..4).for_each(|_| ledger.accepted());
        ledger.received();
        ledger.closed_by_client(3);
        ledger.closed_by_us(Reason::IdleTimeout, 2);
        ledger.handed_over(Kind::Response);
        let balance = ledger.balance();
        assert!(!balance.is_closed());
        assert_eq!((balance.live, balance.requests), (2, 5));
        assert_eq!(
            balance.to_string(),
            "4 accepted + 1 received = 1 closed by the client + 1 closed here (idle timeout) + 1 handed over + 2 live"
        );
        (0..2).for_each(|_| ledger.closed_by_us(Reason::DrainDeadline, 0));
        assert!(ledger.balance().is_closed());
    }
}
