//! The counts of a running load: every client reports here, and a report can be drawn at any time.
//!
//! A request is near a reload if it was on its way at some moment of the 500 ms around the instant that was marked.
//! The mark comes when the reload has already begun, so the requests of the last 250 ms are kept until they are older.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::{
    Answer, Class, ClassReport, ClientReport, Close, Connection, Fault, FaultReport, Kind, Latency, Lost, LostRequest,
    PidReport, Report,
};

/// Half of the time around a reload whose requests are counted apart.
const NEAR: Duration = Duration::from_millis(250);

/// The longest latency that is told apart: ten minutes.
const LATENCY_MICROS_MAX: u64 = 600_000_000;

/// How many lost requests are kept in full; the others are only counted.
const LOST_KEPT_MAX: usize = 200;

/// How many requests are kept while it is open whether a reload will be marked near them.
const RECENT_MAX: usize = 100_000;

/// What a client knows of the connection on which it lost a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    pub(super) pid: Option<u32>,
    pub(super) answered: u64,
    pub(super) port: Option<u16>,
}

impl From<&Connection> for Origin {
    fn from(connection: &Connection) -> Self {
        Self { pid: connection.last_pid(), answered: connection.answered(), port: connection.port() }
    }
}

/// One kind of client.
struct Counts {
    report: ClientReport,
    latency: Histogram<u64>,
    near: Histogram<u64>,
}

impl Counts {
    fn new() -> Self {
        let histogram = || Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).expect("the bounds are in order");
        Self { report: ClientReport::default(), latency: histogram(), near: histogram() }
    }
}

/// An answered request that a mark may still turn out to be near of.
struct Recent {
    kind: Kind,
    ended: Instant,
    micros: u64,
}

/// Everything that the clients of one load have seen.
pub(super) struct Tally {
    started: Instant,
    counts: BTreeMap<Kind, Counts>,
    pids: BTreeMap<u32, PidReport>,
    recent: VecDeque<Recent>,
    marks: Vec<Instant>,
    lost: Vec<LostRequest>,
    classes: BTreeMap<Class, ClassReport>,
    faults: Vec<FaultReport>,
    went_back: u64,
    last_quick_answer: Instant,
    longest_silence: Duration,
}

impl Tally {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            counts: BTreeMap::new(),
            pids: BTreeMap::new(),
            recent: VecDeque::new(),
            marks: Vec::new(),
            lost: Vec::new(),
            classes: BTreeMap::new(),
            faults: Vec::new(),
            went_back: 0,
            last_quick_answer: started,
            longest_silence: Duration::ZERO,
        }
    }

    /// Counts a connection that was opened, again if its client had one that it would have kept.
    pub(super) fn opened(&mut self, kind: Kind, is_again: bool) {
        let report = &mut self.of(kind).report;
        report.opened += 1;
        report.reopened += u64::from(is_again);
    }

    /// Counts an answered request; true if its process answers for the first time.
    pub(super) fn answered(&mut self, kind: Kind, started: Instant, ended: Instant, answer: &Answer) -> bool {
        let micros = u64::try_from((ended - started).as_micros()).unwrap_or(u64::MAX);
        let is_near = self.marks.iter().rev().any(|mark| started <= *mark + NEAR && ended + NEAR >= *mark);
        let counts = self.of(kind);
        counts.report.answered += 1;
        counts.latency.saturating_record(micros);
        if is_near {
            counts.near.saturating_record(micros);
        } else {
            self.keep(Recent { kind, ended, micros });
        }
        if kind.is_quick() {
            self.longest_silence = self.longest_silence.max(ended - self.last_quick_answer);
            self.last_quick_answer = ended;
        }
        let since_start = ended - self.started;
        let Some(pid) = answer.pid() else { return false };
        let of_pid = self.pids.entry(pid).or_default();
        let is_first = of_pid.answers == 0;
        of_pid.answers += 1;
        of_pid.generation = answer.generation();
        of_pid.last = since_start;
        if is_first {
            of_pid.first = since_start;
        }
        is_first
    }

    pub(super) fn lost(&mut self, kind: Kind, id: &str, lost: Lost, origin: &Origin) {
        *self.of(kind).report.failures.entry(lost.failure).or_default() += 1;
        if let Some(pid) = origin.pid {
            self.pids.entry(pid).or_default().failures += 1;
        }
        if self.lost.len() < LOST_KEPT_MAX {
            self.lost.push(LostRequest {
                at: self.started.elapsed(),
                client: kind,
                failure: lost.failure,
                id: id.to_owned(),
                pid: origin.pid,
                answered_before: origin.answered,
                port: origin.port,
                detail: lost.detail,
            });
        }
    }

    pub(super) fn closed(&mut self, kind: Kind, close: Close, pid: Option<u32>) {
        *self.of(kind).report.closed.entry(close).or_default() += 1;
        if let Some(pid) = pid {
            self.pids.entry(pid).or_default().closed += 1;
        }
    }

    pub(super) fn went_back(&mut self) {
        self.went_back += 1;
    }

    /// A connection that lasts begins; the marks before it, for [`Self::lasted`].
    pub(super) fn begun(&mut self, class: Class) -> usize {
        self.classes.entry(class).or_default().begun += 1;
        self.marks.len()
    }

    /// One that began behind so many marks has come to its end, its own or that of the load, or to a fault.
    pub(super) fn lasted(&mut self, class: Class, marks: usize, outcome: Result<bool, Fault>) {
        let counts = self.classes.entry(class).or_default();
        match outcome {
            Ok(is_finished) => {
                counts.finished += u64::from(is_finished);
                counts.went_on += u64::from(self.marks.len() > marks);
            }
            Err(Fault { kind, detail }) => {
                *counts.faults.entry(kind).or_default() += 1;
                if self.faults.len() < LOST_KEPT_MAX {
                    self.faults.push(FaultReport { at: self.started.elapsed(), class, fault: kind, detail });
                }
            }
        }
    }

    /// Marks an instant as a reload's.
    pub(super) fn mark(&mut self, now: Instant) {
        self.marks.push(now);
        for recent in std::mem::take(&mut self.recent) {
            if recent.ended + NEAR >= now {
                self.of(recent.kind).near.saturating_record(recent.micros);
            }
        }
    }

    pub(super) fn pid(&self, pid: u32) -> Option<&PidReport> {
        self.pids.get(&pid).filter(|of_pid| of_pid.answers > 0)
    }

    pub(super) fn report(&self) -> Report {
        let mut report = Report {
            time: self.started.elapsed(),
            marks: self.marks.len(),
            pids: self.pids.clone(),
            lost: self.lost.clone(),
            classes: self.classes.clone(),
            faults: self.faults.clone(),
            went_back: self.went_back,
            longest_silence: self.longest_silence,
            ..Report::default()
        };
        let mut quick = Counts::new();
        for (kind, counts) in &self.counts {
            let latency = Latency::from(&counts.latency);
            let latency_near_reloads = Latency::from(&counts.near);
            let client = ClientReport { latency, latency_near_reloads, ..counts.report.clone() };
            if kind.is_quick() {
                quick.latency.add(&counts.latency).expect("all histograms have the same bounds");
                quick.near.add(&counts.near).expect("all histograms have the same bounds");
            }
            report.answered += client.answered;
            report.opened += client.opened;
            report.reopened += client.reopened;
            for (failure, n) in &client.failures {
                *report.failures.entry(*failure).or_default() += n;
            }
            for (close, n) in &client.closed {
                *report.closed.entry(*close).or_default() += n;
            }
            report.clients.insert(*kind, client);
        }
        report.latency = Latency::from(&quick.latency);
        report.latency_near_reloads = Latency::from(&quick.near);
        quick.latency.subtract(&quick.near).expect("what is near a reload is part of all");
        report.latency_away_from_reloads = Latency::from(&quick.latency);
        report.failed = report.failures.values().sum();
        report.requests = report.answered + report.failed;
        report
    }

    fn of(&mut self, kind: Kind) -> &mut Counts {
        self.counts.entry(kind).or_insert_with(Counts::new)
    }

    fn keep(&mut self, recent: Recent) {
        while self.recent.len() >= RECENT_MAX || self.recent.front().is_some_and(|r| r.ended + NEAR < recent.ended) {
            self.recent.pop_front();
        }
        self.recent.push_back(recent);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Answer, Kind, NEAR, Tally};

    fn answer() -> Answer {
        Answer { status: 200, headers: vec![("x-pid".into(), "7".into())], body: vec![] }
    }

    #[test]
    fn requests_before_and_after_a_mark_are_near_it_and_older_ones_are_not() {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        let answered = |tally: &mut Tally, at| tally.answered(Kind::Paced, start + at, start + at, &answer());
        assert!(answered(&mut tally, NEAR));
        assert!(!answered(&mut tally, NEAR));
        answered(&mut tally, NEAR * 5 / 2);
        tally.mark(start + NEAR * 3);
        answered(&mut tally, NEAR * 7 / 2);
        answered(&mut tally, NEAR * 5);
        let report = tally.report();
        assert_eq!((report.latency.count, report.latency_near_reloads.count), (5, 2));
        assert_eq!((report.answered, report.requests, report.pids[&7].answers), (5, 5, 5));
        assert!(report.time < Duration::from_secs(30));
    }
}
