//! The record of one reload: who asked, how long each stage took, and why it failed; and the history of the last ones.
//!
//! It only notes; the words for people are made here, the decisions elsewhere.

use std::collections::VecDeque;
use std::io::Read;
use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime};

use async_channel::Sender;

use crate::control::{GenerationId, Outcome, Reply, Stages};
use crate::handover::{PastReload, Peer, Speaker};
use crate::lifecycle::Failure;
use crate::successor::describe;

/// One reload, from its trigger to its outcome.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) id: String,
    /// Whoever asked for it on the control socket.
    pub(super) asker: Option<Sender<Reply>>,
    begun: Instant,
    spawned: Option<Instant>,
    ready: Option<Instant>,
    probed: Option<Instant>,
    spawn_time: Duration,
    pid: Option<u32>,
    pub(super) peer: Option<Peer>,
    /// What went wrong, in the words of whoever noticed first.
    detail: Option<String>,
    pub(super) status: Option<ExitStatus>,
    /// It was killed by us: its exit status tells nothing.
    pub(super) killed: bool,
    /// The draining generation that was cut for it.
    pub(super) cut: Option<GenerationId>,
}

impl Record {
    /// `cut`: the draining generation that was cut for it.
    pub(super) fn new(id: String, asker: Option<Sender<Reply>>, cut: Option<GenerationId>) -> Record {
        Record {
            id,
            asker,
            begun: Instant::now(),
            spawned: None,
            ready: None,
            probed: None,
            spawn_time: Duration::ZERO,
            pid: None,
            peer: None,
            detail: None,
            status: None,
            killed: false,
            cut,
        }
    }

    pub(super) fn spawned(&mut self, pid: u32, spawn_time: Duration) {
        self.spawned = Some(Instant::now());
        self.spawn_time = spawn_time;
        self.pid = Some(pid);
    }

    /// Notes what went wrong. What goes wrong after that comes of it, and is not what people have to know.
    pub(super) fn failed(&mut self, detail: String) {
        self.detail.get_or_insert(detail);
    }

    pub(super) fn ready(&mut self) {
        self.ready = Some(Instant::now());
    }

    /// The probation and its ping are over.
    pub(super) fn probed(&mut self) {
        self.probed = Some(Instant::now());
    }

    /// The outcome as of now.
    pub(super) fn outcome(&self, from: GenerationId, failure: Option<String>) -> Outcome {
        let now = Instant::now();
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let between = |from: Option<Instant>, to: Option<Instant>| {
            from.map_or(Duration::ZERO, |from| to.unwrap_or(now).saturating_duration_since(from))
        };
        let stages = Stages {
            spawn_us: micros(self.spawn_time),
            ready_us: micros(between(self.spawned, self.ready)),
            probation_us: micros(between(self.ready, self.probed)),
            commit_us: micros(between(self.probed, None)),
            total_us: micros(now - self.begun),
        };
        let to = self.pid.map(|pid| GenerationId {
            generation: from.generation + 1,
            pid,
            version: self.peer.as_ref().map(|peer| peer.version.clone()).unwrap_or_default(),
        });
        Outcome { id: self.id.clone(), failure, from, to, stages, ended_unix_ms: unix_ms(), cut: self.cut.clone() }
    }

    /// How long the reload has been under way, in milliseconds.
    pub(super) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The successor's process, once it is started.
    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Why it failed, in one sentence without its full stop.
    pub(super) fn reason(&self, failure: Failure, limits: &Limits) -> String {
        let successor = self.pid.map_or("the successor".to_owned(), |pid| format!("the successor (pid {pid})"));
        let when = if self.ready.is_some() { "during its probation" } else { "before it was ready" };
        let detail = || self.detail.clone().unwrap_or_default();
        let ended = || match self.status {
            Some(status) => {
                format!("{successor} {} {when}; what it printed is {}", describe(status), stderr_place())
            }
            None => format!("{successor} ended {when}; what it printed is {}", stderr_place()),
        };
        match failure {
            Failure::Spawn | Failure::Announce => detail(),
            Failure::Exited => ended(),
            Failure::Reported => format!("{successor} cannot serve: {}", detail()),
            // Its own exit, not our kill, is the story where it left by itself.
            Failure::ChannelClosed if self.status.is_some() && !self.killed => ended(),
            Failure::ChannelClosed => {
                format!("{successor} closed its line {when}; what it printed is {}", stderr_place())
            }
            Failure::Protocol => format!("{successor} does not speak the handover's language: {}", detail()),
            Failure::ReadyDeadline if self.spawned.is_none() || self.spawn_time >= limits.ready_timeout => format!(
                "the successor's program did not begin to run within {:?} (the ready timeout): something holds its exec \
                 up, such as a virus scanner or a slow file system",
                limits.ready_timeout
            ),
            Failure::ReadyDeadline => format!(
                "{successor} was not ready within {:?} (the ready timeout) and was killed; what it printed is {}",
                limits.ready_timeout,
                stderr_place()
            ),
            Failure::PongDeadline => {
                format!(
                    "{successor} was ready, but hangs: neither its event loop nor its probe answered within {:?}",
                    limits.pong_timeout
                )
            }
            Failure::Stopped => "the service was told to stop meanwhile".to_owned(),
            Failure::DiedAfterCommit => format!("{successor} took over and then ended"),
        }
    }
}

/// So many reloads are remembered.
const HISTORY_MAX: usize = 10;
/// Of a failure's reason so much is passed on to the next generations; ten of them fit into a message.
const PASSED_REASON_CHARS_MAX: usize = 500;

/// The last reloads of the service, oldest first.
#[derive(Debug, Default)]
pub(super) struct Outcomes(VecDeque<Outcome>);

impl Outcomes {
    /// Takes what the predecessor has told of, instead of what was told before.
    pub(super) fn replace(&mut self, outcomes: impl IntoIterator<Item = Outcome>) {
        self.0.clear();
        outcomes.into_iter().for_each(|outcome| self.push(outcome));
    }

    pub(super) fn push(&mut self, outcome: Outcome) {
        self.0.push_back(outcome);
        if self.0.len() > HISTORY_MAX {
            self.0.pop_front();
        }
    }

    pub(super) fn last(&self) -> Option<&Outcome> {
        self.0.back()
    }

    pub(super) fn find(&self, id: &str) -> Option<&Outcome> {
        self.0.iter().find(|outcome| outcome.id == id)
    }

    pub(super) fn all(&self) -> Vec<Outcome> {
        self.0.iter().cloned().collect()
    }

    /// What the next generation is told of it.
    pub(super) fn passed_on(&self) -> Vec<Outcome> {
        let mut reloads = self.all();
        for reason in reloads.iter_mut().filter_map(|outcome| outcome.failure.as_mut()) {
            if let Some((end, _)) = reason.char_indices().nth(PASSED_REASON_CHARS_MAX) {
                reason.truncate(end);
            }
        }
        reloads
    }
}

/// Another generation, as people and clients of the control socket know it.
pub(super) fn id_of(peer: &Peer) -> GenerationId {
    GenerationId { generation: peer.id.generation, pid: peer.id.pid, version: peer.version.clone() }
}

/// A reload as it is told to the next generation.
pub(super) fn to_wire(outcome: Outcome) -> PastReload {
    let Outcome { id, failure, from, to, stages, ended_unix_ms, cut } = outcome;
    let speaker = |GenerationId { generation, pid, version }| Speaker { generation, pid, version };
    let Stages { spawn_us, ready_us, probation_us, commit_us, total_us } = stages;
    let stages_us = [spawn_us, ready_us, probation_us, commit_us, total_us];
    let cut = cut.map(speaker);
    PastReload { id, failure, from: speaker(from), to: to.map(speaker), stages_us, ended_unix_ms, cut }
}

/// A reload as the predecessor has told of it.
pub(super) fn from_wire(reload: PastReload) -> Outcome {
    let PastReload { id, failure, from, to, stages_us, ended_unix_ms, cut } = reload;
    let known = |Speaker { generation, pid, version }| GenerationId { generation, pid, version };
    let [spawn_us, ready_us, probation_us, commit_us, total_us] = stages_us;
    let stages = Stages { spawn_us, ready_us, probation_us, commit_us, total_us };
    let cut = cut.map(known);
    Outcome { id, failure, from: known(from), to: to.map(known), stages, ended_unix_ms, cut }
}

pub(super) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// The deadlines that reasons name.
pub(super) struct Limits {
    pub(super) ready_timeout: Duration,
    pub(super) pong_timeout: Duration,
}

/// Where a person finds what a successor wrote to its standard error, which is this process's.
fn stderr_place() -> String {
    let target = std::fs::read_link("/proc/self/fd/2").map(|path| path.display().to_string()).unwrap_or_default();
    if std::env::var_os("JOURNAL_STREAM").is_some() && target.starts_with("socket:") {
        return "in the journal".to_owned();
    }
    match target.as_str() {
        "/dev/null" => "lost, as standard error is /dev/null".to_owned(),
        target if target.starts_with("/dev/") => format!("on {target}"),
        target if target.starts_with('/') => format!("in {target}"),
        _ => "where this server's standard error goes".to_owned(),
    }
}

/// A name for a reload that nobody on the control socket asked for.
pub(super) fn signal_id() -> String {
    let mut bytes = [0; 8];
    // Without randomness the process's number and the time do; the name only has to differ from the last few.
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    match read {
        Ok(()) => format!("signal-{:016x}", u64::from_ne_bytes(bytes)),
        Err(_) => format!("signal-{}-{:?}", std::process::id(), Instant::now()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_of_a_failed_reload_is_the_one_that_people_are_told() {
        let mut record = Record::new("a".to_owned(), None, None);
        record.failed("the service manager reads no messages".to_owned());
        record.failed("it said Ready".to_owned());
        let limits = Limits { ready_timeout: Duration::ZERO, pong_timeout: Duration::ZERO };
        assert_eq!(record.reason(Failure::Announce, &limits), "the service manager reads no messages");
    }
}
