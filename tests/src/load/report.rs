//! What a load saw: plain data, written as JSON for programs and as a table for people.

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use super::{Class, Close, Failure, FaultKind, Kind};

/// The result of a load.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How long the load ran.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub time: Duration,
    /// Requests that came to an end, `answered + failed`; an answer too many counts as a failed request.
    pub requests: u64,
    /// Requests with the right answer.
    pub answered: u64,
    /// Requests without it.
    pub failed: u64,
    /// The failed ones, by kind.
    pub failures: BTreeMap<Failure, u64>,
    /// Connections that the server closed although the client would have used them again, by kind.
    pub closed: BTreeMap<Close, u64>,
    /// Connections opened.
    pub opened: u64,
    /// Those of them whose client had one before that it would have kept.
    pub reopened: u64,
    /// Connections on which an older generation answered after a newer one.
    pub went_back: u64,
    /// Instants of reloads that were marked.
    pub marks: usize,
    /// The longest time in which no quick request was answered.
    #[serde(rename = "longest_silence_s", serialize_with = "seconds")]
    pub longest_silence: Duration,
    /// Latency of the quick requests: all but the slow ones, the uploads, and the holders of idle connections.
    pub latency: Latency,
    /// The same, of those on their way at some moment of the 500 ms around a reload.
    pub latency_near_reloads: Latency,
    /// The same, of all others.
    pub latency_away_from_reloads: Latency,
    /// Each kind of client by itself.
    pub clients: BTreeMap<Kind, ClientReport>,
    /// Each process that answered, by its `x-pid`.
    pub pids: BTreeMap<u32, PidReport>,
    /// The first lost requests, in full.
    pub lost: Vec<LostRequest>,
    /// Each class of connections that last.
    pub classes: BTreeMap<Class, ClassReport>,
    /// The first of their faults, in full.
    pub faults: Vec<FaultReport>,
}

/// One class of connections that last.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ClassReport {
    /// Connections begun.
    pub begun: u64,
    /// Downloads that came to their end, each byte right.
    pub finished: u64,
    /// Connections that were there at a reload, and went on to their own end or that of the load.
    pub went_on: u64,
    /// Connections that ended in a fault, by kind.
    pub faults: BTreeMap<FaultKind, u64>,
}

/// One connection that ended in a fault.
#[derive(Clone, Debug, Serialize)]
pub struct FaultReport {
    /// When, since the load began.
    #[serde(rename = "at_s", serialize_with = "seconds")]
    pub at: Duration,
    /// What kind of connection it was.
    pub class: Class,
    /// What went wrong.
    pub fault: FaultKind,
    /// What was seen.
    pub detail: String,
}

/// One kind of client.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ClientReport {
    /// Requests with the right answer.
    pub answered: u64,
    /// Requests without it, by kind.
    pub failures: BTreeMap<Failure, u64>,
    /// Connections that the server closed, by kind.
    pub closed: BTreeMap<Close, u64>,
    /// Connections opened.
    pub opened: u64,
    /// Those of them whose client had one before that it would have kept.
    pub reopened: u64,
    /// Latency overall.
    pub latency: Latency,
    /// Latency around reloads.
    pub latency_near_reloads: Latency,
}

/// One process that answered.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PidReport {
    /// Its generation.
    pub generation: Option<u64>,
    /// Its answers.
    pub answers: u64,
    /// Its first answer, since the load began.
    #[serde(rename = "first_s", serialize_with = "seconds")]
    pub first: Duration,
    /// Its last answer, since the load began.
    #[serde(rename = "last_s", serialize_with = "seconds")]
    pub last: Duration,
    /// Requests lost on connections whose last answer was from this process.
    pub failures: u64,
    /// Connections closed by the server whose last answer was from this process.
    pub closed: u64,
}

/// One lost request.
#[derive(Clone, Debug, Serialize)]
pub struct LostRequest {
    /// When, since the load began.
    #[serde(rename = "at_s", serialize_with = "seconds")]
    pub at: Duration,
    /// Whose it was.
    pub client: Kind,
    /// Why it counts as failed.
    pub failure: Failure,
    /// Its id.
    pub id: String,
    /// The process that sent the last answer on this connection, if there was one.
    pub pid: Option<u32>,
    /// The answers on this connection before.
    pub answered_before: u64,
    /// The client's TCP port.
    pub port: Option<u16>,
    /// What the socket said.
    pub detail: String,
}

/// A distribution of latencies, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Requests measured.
    pub count: u64,
    /// The median.
    pub p50_us: u64,
    /// The 90th percentile.
    pub p90_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
    /// The 99.9th percentile.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        }
    }
}

impl Report {
    /// The failures of one kind.
    pub fn failed_by(&self, failure: Failure) -> u64 {
        self.failures.get(&failure).copied().unwrap_or(0)
    }

    /// The connections that the server closed, of all kinds.
    pub fn closed_connections(&self) -> u64 {
        self.closed.values().sum()
    }

    /// The requests lost on connections whose last answer was from this process.
    pub fn failed_of(&self, pid: u32) -> u64 {
        self.pids.get(&pid).map_or(0, |of_pid| of_pid.failures)
    }

    /// The requests lost on connections that never had an answer: which process had accepted them is not known.
    pub fn failed_of_nobody(&self) -> u64 {
        self.failed - self.pids.values().map(|of_pid| of_pid.failures).sum::<u64>()
    }

    /// The connections of all classes that ended in this fault.
    pub fn faults_of(&self, kind: FaultKind) -> u64 {
        self.classes.values().filter_map(|class| class.faults.get(&kind)).sum()
    }

    /// Panics with the whole report if a connection that lasts ended in a fault.
    #[track_caller]
    pub fn assert_no_fault(&self) -> &Self {
        assert!(self.classes.values().all(|class| class.faults.is_empty()), "connections were cut\n{self}");
        self
    }

    /// Panics with the whole report unless requests were made and every one had its answer.
    #[track_caller]
    pub fn assert_no_failure(&self) -> &Self {
        assert!(self.answered > 0, "the load made no request\n{self}");
        assert!(self.failed == 0 && self.went_back == 0, "requests failed\n{self}");
        self
    }

    /// Panics with the whole report if the server closed a connection that its client would have used again.
    #[track_caller]
    pub fn assert_no_close(&self) -> &Self {
        assert!(self.closed_connections() == 0, "connections were closed\n{self}");
        self
    }
}

/// Microseconds as milliseconds, for the table.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:02}", self.0 / 1000, self.0 % 1000 / 10))
    }
}

fn write_latency(f: &mut fmt::Formatter<'_>, name: &str, latency: &Latency) -> fmt::Result {
    let Latency { count, p50_us, p90_us, p99_us, p999_us, max_us } = *latency;
    let [p50, p90, p99, p999, max] = [p50_us, p90_us, p99_us, p999_us, max_us].map(Millis);
    writeln!(f, "  {name:<22}{count:>9}{p50:>10}{p90:>10}{p99:>10}{p999:>10}{max:>10}")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, failed, opened, reopened, marks, went_back, .. } = self;
        let closed = self.closed_connections();
        writeln!(f, "{requests} requests in {:.1?}, {failed} failed; {marks} instants of reloads marked", self.time)?;
        writeln!(
            f,
            "{opened} connections opened ({reopened} again), {closed} closed by the server, {went_back} went back a \
             generation"
        )?;
        writeln!(f, "longest time without an answer: {:.1?}", self.longest_silence)?;
        for (name, n) in self.failures.iter().map(|(k, n)| (k.name(), n)) {
            writeln!(f, "  failed: {name:<28}{n:>9}")?;
        }
        for (name, n) in self.closed.iter().map(|(k, n)| (k.name(), n)) {
            writeln!(f, "  closed: {name:<28}{n:>9}")?;
        }
        writeln!(f, "{:<24}{:>9}{:>9}{:>9}{:>9}", "clients", "answered", "failed", "closed", "opened")?;
        for (kind, client) in &self.clients {
            let (failed, closed): (u64, u64) = (client.failures.values().sum(), client.closed.values().sum());
            writeln!(f, "  {kind:<22}{:>9}{failed:>9}{closed:>9}{:>9}", client.answered, client.opened)?;
        }
        self.write_classes(f)?;
        writeln!(
            f,
            "{:<24}{:>9}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "latency, ms", "count", "p50", "p90", "p99", "p99.9", "max"
        )?;
        write_latency(f, "quick requests", &self.latency)?;
        write_latency(f, "  around reloads", &self.latency_near_reloads)?;
        write_latency(f, "  away from reloads", &self.latency_away_from_reloads)?;
        for (kind, client) in &self.clients {
            write_latency(f, kind.name(), &client.latency)?;
        }
        writeln!(f, "answered by")?;
        for (pid, of_pid) in &self.pids {
            let PidReport { generation, answers, first, last, failures, closed } = of_pid;
            let generation = generation.map_or("?".to_owned(), |g| g.to_string());
            write!(f, "  pid {pid}, generation {generation}: {answers} answers, {first:.2?} to {last:.2?}")?;
            writeln!(f, ", {failures} lost, {closed} closed after")?;
        }
        for FaultReport { at, class, fault, detail } in &self.faults {
            writeln!(f, "  cut at {at:.3?}: {fault}, {class}: {detail}")?;
        }
        for lost in &self.lost {
            let LostRequest { at, client, failure, id, pid, answered_before, port, detail } = lost;
            write!(f, "  lost at {at:.3?}: {failure}, {client}, id {id}, after {answered_before} answers")?;
            writeln!(f, ", the last from pid {pid:?}, port {port:?}: {detail}")?;
        }
        Ok(())
    }
}

impl Report {
    fn write_classes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KINDS: [FaultKind; 5] =
            [FaultKind::Closed, FaultKind::Wrong, FaultKind::Gap, FaultKind::Late, FaultKind::Refused];
        if self.classes.is_empty() {
            return Ok(());
        }
        let titles = KINDS.map(|kind| format!("{kind:>9}")).concat();
        writeln!(f, "{:<24}{:>9}{:>9}{:>9}{titles}", "what lasts", "begun", "finished", "went on")?;
        for (class, ClassReport { begun, finished, went_on, faults }) in &self.classes {
            let faults = KINDS.map(|kind| format!("{:>9}", faults.get(&kind).unwrap_or(&0))).concat();
            writeln!(f, "  {class:<22}{begun:>9}{finished:>9}{went_on:>9}{faults}")?;
        }
        Ok(())
    }
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
