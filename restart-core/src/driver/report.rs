//! What people and clients are told: status, outcomes, refusals.

use std::fmt::Write as _;

use async_channel::Sender;

use super::Driver;
use super::record::from_wire;
use super::record::{Limits, unix_ms};
use super::reload::PONG_TIMEOUT;
use crate::control::{
    CONTROL_VERSION, DrainingGeneration, GenerationId, ListenerStatus, Outcome, Reloading, Reply, Stages, Status,
};
use crate::handover::PastReload;
use crate::lifecycle::{Failure, Refusal, Stage, State};
use crate::listeners::Origin;
use crate::lock::lock;
use crate::memory::resident_memory;

impl Driver {
    /// This generation.
    pub(super) fn id(&self) -> GenerationId {
        let version = self.parts.settings.version.clone();
        GenerationId { generation: self.parts.number, pid: std::process::id(), version }
    }

    /// Who serves what.
    pub(super) fn serves(&self) -> String {
        let listeners: Vec<String> =
            self.listeners.iter().map(|listener| format!("{} on {}", listener.name(), listener.address())).collect();
        format!("{} serves {}", self.id(), listeners.join(", "))
    }

    /// What the service manager shows of a process that serves.
    pub(super) fn status_line(&self) -> String {
        let mut line = format!("{}; connections: {}", self.serves(), self.parts.drain.live());
        let draining: Vec<String> = self.chain.draining().map(|older| older.id.generation.to_string()).collect();
        // Writing to a String cannot fail.
        if !draining.is_empty() {
            _ = write!(line, "; generations that drain: {}", draining.join(", "));
        }
        match self.reload.history.last() {
            Some(Outcome { failure: Some(reason), .. }) => _ = write!(line, "; the last reload failed: {reason}"),
            Some(Outcome { from, .. }) => _ = write!(line, "; it took over from {from}"),
            None => {}
        }
        line
    }

    pub(super) fn status(&self) -> Status {
        let state = match self.lifecycle.state() {
            State::Starting { .. } => "starting",
            State::Standby => "standby",
            State::Withdrawing => "withdrawing",
            State::Serving { .. } => "serving",
            State::Reloading(_) => "reloading",
            State::RollingBack { .. } => "rolling back",
            State::Draining { .. } | State::Abandoning => "draining",
            State::Stopping { .. } | State::Exited => "stopping",
        };
        let sockets = lock(&self.parts.sockets);
        let listeners = sockets.iter().map(|socket| ListenerStatus {
            name: socket.name.clone(),
            address: socket.address.to_string(),
            origin: match socket.origin {
                Origin::Bound => "bound".to_owned(),
                Origin::Activated => "activated".to_owned(),
            },
        });
        let draining = self.chain.draining().map(|older| DrainingGeneration {
            generation: older.id.generation,
            pid: older.id.pid,
            report: older.report.clone(),
        });
        Status {
            id: self.id(),
            state: state.to_owned(),
            uptime_ms: self.uptime_ms(),
            connections: self.parts.drain.live(),
            managed: self.main.is_managed(),
            listeners: listeners.collect(),
            draining: draining.collect(),
            last_reload: self.reload.history.last().cloned(),
            reloads: self.reload.history.all(),
            reloading: self.reloading(),
            memory_bytes: resident_memory(),
            control_version: CONTROL_VERSION,
            application: self.parts.settings.application(),
            waits: self.parts.settings.waits(),
        }
    }

    pub(super) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.parts.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn reloading(&self) -> Option<Reloading> {
        let stage = match self.lifecycle.state() {
            State::Reloading(Stage::AwaitReady) => "ready",
            State::Reloading(Stage::Probation) => "probation",
            State::Reloading(Stage::AwaitPong) => "pong",
            State::Reloading(Stage::Announcing) => "commit",
            State::RollingBack { .. } => "rollback",
            _ => return None,
        };
        let record = self.reload.record.as_ref()?;
        let (elapsed_ms, successor) = (record.elapsed_ms(), record.pid());
        Some(Reloading { stage: stage.to_owned(), elapsed_ms, successor })
    }

    /// Answers a client that was cut off and asks what became of its reload.
    pub(super) fn tell_outcome(&mut self, id: &str, reply: Sender<Reply>) {
        if let Some(record) = self.reload.record.as_mut().filter(|record| record.id == id) {
            record.requester = Some(reply);
            return;
        }
        let answer = match self.reload.history.find(id) {
            Some(outcome) => Reply::Outcome(outcome.clone()),
            None => {
                Reply::Error { reason: format!("generation {} knows nothing of the reload {id}", self.parts.number) }
            }
        };
        let _ = reply.try_send(answer);
    }

    pub(super) fn answer_done(&mut self) {
        let Some(mut record) = self.reload.record.take() else { return };
        let outcome = record.outcome(self.id(), None);
        log::info!(reload_outcome = "success"; "{outcome}");
        self.answer(record.requester.take(), outcome);
    }

    pub(super) fn answer_failed(&mut self, failure: Failure) {
        let limits = Limits { ready_timeout: self.parts.settings.ready_timeout, pong_timeout: PONG_TIMEOUT };
        let Some(mut record) = self.reload.record.take() else { return };
        let outcome = record.outcome(self.id(), Some(record.reason(failure, &limits)));
        if failure == Failure::Stopped {
            log::info!(reload_outcome = "given up"; "the reload is given up: the service stops");
            if let Some(requester) = record.requester.take() {
                let _ = requester.try_send(Reply::Stopping);
            }
            self.reload.history.push(outcome);
            return;
        }
        log::error!(reload_outcome = "failure"; "{outcome}");
        self.parts.inherited.add("reloads/failure", 1);
        self.answer(record.requester.take(), outcome);
        // RELOADING=1 without a READY=1 afterwards would leave the unit reloading for ever.
        if self.lifecycle.is_main() {
            self.main.say_ready(self.status_line());
        }
    }

    fn answer(&mut self, requester: Option<Sender<Reply>>, outcome: Outcome) {
        if let Some(requester) = requester {
            let _ = requester.try_send(Reply::Outcome(outcome.clone()));
        }
        self.reload.history.push(outcome);
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.requested_id = None;
        let Some(requester) = self.requester.take() else { return };
        let reason = match refusal {
            Refusal::Stopping => {
                let _ = requester.try_send(Reply::Stopping);
                return;
            }
            Refusal::InProgress => "a reload is already in progress; ask again when it is over".to_owned(),
            Refusal::TooManyDraining => self.too_many_drain(),
            Refusal::Unsettled => {
                "the service manager has not read the last reload's messages yet; ask again".to_owned()
            }
            Refusal::NotReady => {
                format!("generation {} is not ready yet; ask again when it serves", self.parts.number)
            }
            Refusal::NotMain => format!("generation {} is not the main one; ask again", self.parts.number),
        };
        let _ = requester.try_send(Reply::Refused { reason });
    }

    /// The first line says it; each further one, what one of the generations waits for. Those change all the time.
    fn too_many_drain(&self) -> String {
        let (older, max) = (self.lifecycle.older(), self.parts.settings.max_draining);
        let mut reason = format!(
            "{older} generations still finish what they have, and {max} may (the most that may drain); ask again when \
             one has ended"
        );
        for older in self.chain.draining() {
            // Writing to a String cannot fail.
            _ = write!(reason, "\n{}", older.standing());
        }
        reason
    }

    /// Keeps the outcome of the reload that made this generation the main one.
    pub(super) fn note_success(&mut self, outcome: Outcome) {
        let Stages { spawn_us, ready_us, probation_us, commit_us, .. } = outcome.stages;
        let counts = [
            ("reloads/success", 1),
            ("stages/spawn", spawn_us),
            ("stages/ready", ready_us),
            ("stages/probation", probation_us),
            ("stages/commit", commit_us),
        ];
        for (name, count) in counts {
            self.parts.inherited.add(name, count);
        }
        self.reload.history.push(outcome);
    }

    /// Keeps what the predecessor tells of the reloads until then, and of the one that made this generation.
    pub(super) fn take_history(&mut self, reloads: Vec<PastReload>) {
        let Some(predecessor) = self.chain.predecessor() else { return };
        let (own, before): (Vec<Outcome>, Vec<Outcome>) =
            reloads.into_iter().map(from_wire).partition(|outcome| outcome.id == predecessor.mark.id);
        self.reload.history.replace(before);
        self.reload.own = own.into_iter().next();
    }

    /// Notes the reload that made this generation the main process. One whose predecessor vanished, or could not be
    /// understood, knows of it only what it was given.
    pub(super) fn note_own_commit(&mut self) {
        let Some(predecessor) = self.chain.predecessor() else { return };
        let mark = &predecessor.mark;
        if self.reload.history.find(&mark.id).is_some() {
            return;
        }
        let outcome = self.reload.own.take().unwrap_or_else(|| Outcome {
            id: mark.id.clone(),
            failure: None,
            from: GenerationId {
                generation: mark.generation,
                pid: mark.pid,
                version: predecessor.line.peer.version.clone(),
            },
            to: Some(self.id()),
            stages: Stages::default(),
            ended_unix_ms: unix_ms(),
            cut: None,
        });
        self.note_success(outcome);
    }
}
