//! The reload that is under way: the successor's process, what it has said of itself, and the record of it all; and what
//! became of the reloads before.
//!
//! It starts the process, meets it, and sees it off. What comes of that is reported to the driver; whether the reload goes
//! on is `lifecycle`'s matter.

use std::collections::BTreeSet;
use std::time::Duration;

use async_executor::Task;

use super::record::{Outcomes, Record};
use super::sources;
use super::tasks::Tasks;
use crate::control::Outcome;
use crate::environment::Environment;
use crate::handover::{Channel, Peer};
use crate::lifecycle::{ASKED_MAX, Event};
use crate::successor::{Handover, Spawned, Successor};

/// What is not answered is asked again after this time.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(500);
/// A successor has to answer the ping at the end of its probation within this time, and to have taken over after the
/// commit, or the reload is answered without its word.
pub(super) const PONG_TIMEOUT: Duration = ASK_AGAIN.saturating_mul(ASKED_MAX as u32);

/// The process that was started as the successor, or is being started, until the next one.
struct ActiveSuccessor {
    number: u64,
    /// There is none while it is being started.
    process: Option<Successor>,
    /// It is to be killed as soon as there is one.
    doomed: bool,
    /// The names of our sockets that it does not want.
    released: BTreeSet<String>,
    /// What reports its start, then its messages and its end.
    sources: Vec<Task<()>>,
}

pub(super) struct Reload {
    tasks: Tasks,
    /// It stays after the commit, and while the reload is answered it may have gone.
    successor: Option<ActiveSuccessor>,
    /// From the start of a reload to its answer.
    pub(super) record: Option<Record>,
    pub(super) history: Outcomes,
    /// The reload that made this generation, as its predecessor told of it.
    pub(super) own: Option<Outcome>,
}

impl Reload {
    pub(super) fn new(tasks: Tasks) -> Reload {
        Reload { tasks, successor: None, record: None, history: Outcomes::default(), own: None }
    }

    /// Starts the successor's process, for the reload that `record` is of; `word` stands in front of its arguments.
    pub(super) fn begin(
        &mut self,
        record: Record,
        (environment, word): (Environment, Option<String>),
        signals: Vec<i32>,
    ) {
        self.record = Some(record);
        let number = self.tasks.next_number();
        let spawned = Successor::spawn_aside(environment, word, signals);
        let sources = vec![self.tasks.spawn(sources::spawned(number, spawned, self.tasks.inputs()))];
        self.successor =
            Some(ActiveSuccessor { number, process: None, doomed: false, released: BTreeSet::new(), sources });
    }

    /// Whether what is reported under this number is of the present successor.
    pub(super) fn is_current(&self, number: u64) -> bool {
        self.successor.as_ref().is_some_and(|active| active.number == number)
    }

    /// The process exists, and is met, unless it is not wanted any more; or it will never exist. `handover`: makes what the
    /// successor of the reload of this name is given.
    pub(super) fn take_spawned(
        &mut self,
        number: u64,
        spawned: Spawned,
        handover: impl FnOnce(String) -> Handover,
    ) -> Option<Event> {
        let active = self.successor.take_if(|active| active.number == number);
        match (active, spawned) {
            (Some(active), Ok((process, bootstrap))) => {
                self.meet(active, process, bootstrap, handover);
                None
            }
            (Some(_), Err(error)) => {
                self.record.as_mut()?.failed(error.to_string());
                Some(Event::SpawnFailed)
            }
            (None, Ok((process, _))) => {
                log::info!("a successor (pid {}) that had been given up is killed: its start took long", process.pid());
                process.kill();
                self.tasks.spawn(process.reap_later()).detach();
                None
            }
            (None, Err(error)) => {
                log::debug!("of a successor that had been given up: {error}");
                None
            }
        }
    }

    fn meet(
        &mut self,
        mut active: ActiveSuccessor,
        process: Successor,
        bootstrap: Channel,
        handover: impl FnOnce(String) -> Handover,
    ) {
        if let Some(record) = &mut self.record {
            record.spawned(process.pid(), process.spawn_time);
        }
        let (talks, talking) = async_channel::bounded::<()>(1);
        let exit = sources::exit(active.number, process.pidfd(), talking, self.tasks.inputs());
        active.sources = vec![self.tasks.spawn(exit)];
        if active.doomed {
            process.kill();
        } else {
            let id = self.record.as_ref().map(|record| record.id.clone()).unwrap_or_default();
            let talk = sources::successor(active.number, bootstrap, handover(id), self.tasks.inputs());
            active.sources.push(self.tasks.spawn(async move {
                talk.await;
                drop(talks);
            }));
        }
        active.process = Some(process);
        self.successor = Some(active);
    }

    /// The successor's process, once it is started.
    pub(super) fn successor_pid(&self) -> Option<u32> {
        self.successor.as_ref()?.process.as_ref().map(Successor::pid)
    }

    /// Kills the successor, as soon as there is one.
    pub(super) fn kill(&mut self) {
        if let Some(active) = &mut self.successor {
            active.doomed = true;
            active.process.iter().for_each(Successor::kill);
        }
        if let Some(record) = &mut self.record {
            record.killed = true;
        }
    }

    /// Takes the exit status of the successor's process, where it is nobody else's to see.
    pub(super) fn reap(&mut self) {
        let status = self.successor.as_mut().and_then(|active| active.process.as_mut()?.reap());
        if let Some(record) = &mut self.record {
            record.status = status;
        }
    }

    /// The successor is out of the way. It is reaped, also where its process ends only after its end of the line, and
    /// where it begins only now.
    pub(super) fn see_off(&mut self) {
        let Some(ActiveSuccessor { process, sources, .. }) = self.successor.take() else { return };
        let Some(mut process) = process else { return sources.into_iter().for_each(Task::detach) };
        if process.reap().is_none() {
            self.tasks.spawn(process.reap_later()).detach();
        }
    }

    /// Nobody hears of this reload any more.
    pub(super) fn forget(&mut self) {
        self.record = None;
    }
}

/// What the successor says of itself.
impl Reload {
    pub(super) fn met(&mut self, peer: Peer) {
        if let Some(record) = &mut self.record {
            record.peer = Some(peer);
        }
    }

    /// Notes what went wrong.
    pub(super) fn failed(&mut self, detail: String) {
        if let Some(record) = &mut self.record {
            record.failed(detail);
        }
    }

    /// It does not want these sockets.
    pub(super) fn release(&mut self, names: Vec<String>) {
        if let Some(active) = &mut self.successor {
            active.released.extend(names);
        }
    }

    /// The names of our sockets that it does not want.
    pub(super) fn released(&self) -> Option<&BTreeSet<String>> {
        self.successor.as_ref().map(|active| &active.released)
    }
}
