//! What this generation counts: requests, their latency, and connections, under names that every generation understands.
//!
//! Counting is a few atomic additions a request, to what its team has for itself; whoever shows them sums over the teams. What other generations have counted comes on top where metrics are
//! shown: see `admin`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use restart_core::Counts;

use crate::http::{Capacity, Handshakes, Served};
use crate::per_team::PerTeam;
use crate::service::ledger::Ledger;
use crate::waits::Waits;

/// Methods that are counted by name; the last stands for all others, which a client could make up without end.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "other"];
const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The upper bounds of the latency histogram's buckets, in microseconds; what took longer is in one more.
pub(crate) const BUCKETS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// What the names of handshakes' counters begin with; their outcome follows.
pub(crate) const HANDSHAKES: &str = "handshakes/";

/// What one generation has counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) ledger: Arc<Ledger>,
    /// Knows how many requests are being handled.
    pub(crate) capacity: Arc<Capacity>,
    /// Knows how many TLS handshakes there were.
    pub(crate) handshakes: Arc<Handshakes>,
    /// What is under way.
    pub(crate) waits: Arc<Waits>,
    requests: PerTeam<Requests>,
}

/// The requests of one team.
#[derive(Debug, Default)]
struct Requests {
    over: [[AtomicU64; CLASSES.len()]; METHODS.len()],
    /// Those of them that a deadline cut.
    cut: AtomicU64,
    /// Responses that had begun and did not leave whole.
    incomplete: AtomicU64,
    sent_bytes: AtomicU64,
    latency: [AtomicU64; BUCKETS_US.len() + 1],
    latency_us: AtomicU64,
}

impl Metrics {
    /// Nothing counted yet, by a server of so many teams and of this capacity, with these bounds on handshakes.
    pub(crate) fn new(teams: usize, capacity: Capacity, handshakes: Handshakes) -> Metrics {
        Metrics {
            ledger: Arc::new(Ledger::new(teams)),
            capacity: Arc::new(capacity),
            handshakes: Arc::new(handshakes),
            waits: Arc::new(Waits::new(teams)),
            requests: PerTeam::new(teams, Requests::default),
        }
    }

    /// Counts a request that is over.
    pub(crate) fn observe(&self, served: &Served<'_>) {
        let name = served.line.split(|&byte| byte == b' ').next().unwrap_or_default();
        let method = METHODS.iter().position(|method| method.as_bytes() == name).unwrap_or(METHODS.len() - 1);
        let class = usize::from(served.status.unwrap_or(0) / 100);
        let class = if class < CLASSES.len() { class } else { 0 };
        let own = self.requests.own();
        own.over[method][class].fetch_add(1, Ordering::Relaxed);
        if served.cut {
            own.cut.fetch_add(1, Ordering::Relaxed);
        }
        if !served.complete && served.status.is_some() {
            own.incomplete.fetch_add(1, Ordering::Relaxed);
        }
        own.sent_bytes.fetch_add(served.sent_bytes, Ordering::Relaxed);
        let us = u64::try_from(served.duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|&bound| bound < us);
        own.latency[bucket].fetch_add(1, Ordering::Relaxed);
        own.latency_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Requests that the handler has not answered yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.capacity.requests()
    }

    /// All counters that are not zero.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        let mut put = |name: String, count: u64| {
            if count > 0 {
                counts.insert(name, count);
            }
        };
        for (method, name) in METHODS.iter().enumerate() {
            for (class, class_name) in CLASSES.iter().enumerate() {
                put(format!("requests/{name}/{class_name}"), self.sum(|own| &own.over[method][class]));
            }
        }
        for index in 0..=BUCKETS_US.len() {
            put(bucket_name(index), self.sum(|own| &own.latency[index]));
        }
        put("requests_cut".to_owned(), self.sum(|own| &own.cut));
        put("responses_incomplete".to_owned(), self.sum(|own| &own.incomplete));
        put("sent_bytes".to_owned(), self.sum(|own| &own.sent_bytes));
        put("latency_us".to_owned(), self.sum(|own| &own.latency_us));
        let books = self.ledger.balance();
        put("connections/accepted".to_owned(), books.accepted);
        put("connections/received".to_owned(), books.received);
        put("connections/handed_over".to_owned(), books.handed_over);
        for (kind, count) in books.moved.by_kind() {
            put(format!("connections/moved/{kind}"), count);
        }
        put("connections/closed/client/".to_owned(), books.closed_by_client);
        for (reason, count) in books.closed_by_us {
            put(format!("connections/closed/server/{reason}"), count);
        }
        for (outcome, count) in self.handshakes.counts() {
            put(format!("{HANDSHAKES}{outcome}"), count);
        }
        counts
    }

    /// One of the counters, of all teams.
    fn sum(&self, counter: impl Fn(&Requests) -> &AtomicU64) -> u64 {
        self.requests.iter().map(|own| counter(own).load(Ordering::Relaxed)).sum()
    }
}

/// What the bucket with this index is called among the counters.
pub(crate) fn bucket_name(index: usize) -> String {
    let mut name = "latency/".to_owned();
    match BUCKETS_US.get(index) {
        // Writing to a String cannot fail.
        Some(bound) => _ = write!(name, "{bound}"),
        None => name.push_str("more"),
    }
    name
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::moving::Kind;

    fn served(line: &str, status: impl Into<Option<u16>>, duration: Duration) -> Served<'_> {
        Served {
            listener: None,
            peer: None,
            proxy: None,
            host: None,
            tls: None,
            line: line.as_bytes(),
            referer: None,
            user_agent: None,
            status: status.into(),
            sent_bytes: 0,
            body_bytes: 0,
            complete: true,
            cut: false,
            duration,
        }
    }

    #[test]
    fn a_request_is_counted_by_method_class_and_latency() {
        let metrics = Metrics::default();
        metrics.observe(&served("GET / HTTP/1.1", 200, Duration::from_micros(500)));
        metrics.observe(&served("GET / HTTP/1.1", 200, Duration::from_micros(501)));
        metrics.observe(&served("\u{1}\u{2}", 400, Duration::from_secs(60)));
        metrics.observe(&Served { cut: true, ..served("GET / HTTP/1.1", None, Duration::from_micros(500)) });
        metrics.ledger.accepted();
        metrics.ledger.handed_over(Kind::Stream);
        let expected = [
            ("connections/accepted", 1),
            ("connections/handed_over", 1),
            ("connections/moved/streams", 1),
            ("latency/1000", 1),
            ("latency/500", 2),
            ("latency/more", 1),
            ("latency_us", 60_001_501),
            ("requests/GET/2xx", 2),
            ("requests/GET/other", 1),
            ("requests/other/4xx", 1),
            ("requests_cut", 1),
        ];
        assert_eq!(metrics.counts(), expected.map(|(name, count)| (name.to_owned(), count)).into());
    }
}
