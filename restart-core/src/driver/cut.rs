//! `--cut-oldest`: where as many generations drain as may, a reload may ask for the oldest of them to end at once.
//!
//! Nothing here is the lifecycle's: to the one that is cut it is its deadline, which passes now, and the reload comes as any
//! other does once it has gone. One that does not go is left to a person, and the reload refused.

use std::time::Duration;

use async_channel::{Receiver, Sender};
use async_executor::Task;
use async_io::Timer as IoTimer;
use futures_lite::future;

use super::Driver;
use super::chain::Older;
use super::sources::Input;
use crate::control::{Command, GenerationId, Reply, Request};
use crate::handover::{CUT, Message};
use crate::waiting::Age;

/// One that is cut ends its connections, tells its last figures and sees its clients off, each of which has a second.
const GONE_TIMEOUT: Duration = Duration::from_secs(5);

/// A generation that was told to end, for a reload.
pub(super) struct Cut {
    /// The reload's id.
    id: String,
    who: GenerationId,
    /// The number of its line, until that closes.
    line: Option<u64>,
    /// The reload waits until this is closed.
    waits: Sender<()>,
    _waiter: Task<()>,
}

impl Driver {
    /// A reload was asked for that may cut. Gives it back where that is not called for: it is one as any other.
    pub(super) fn cut_oldest(&mut self, id: String, reply: Sender<Reply>) -> Option<(String, Sender<Reply>)> {
        if !self.lifecycle.is_full() {
            return Some((id, reply));
        }
        if let Err(reason) = self.try_cut(&id, &reply) {
            let _ = reply.try_send(Reply::Refused { reason });
        }
        None
    }

    fn try_cut(&mut self, id: &str, reply: &Sender<Reply>) -> Result<(), String> {
        if let Some(Cut { who, line: Some(_), .. }) = &self.cut {
            return Err(format!("{who} is being cut for a reload already; ask again when that is over"));
        }
        let Some(oldest) = self.chain.draining().next() else {
            return Err("no generation that drains is known; ask again".to_owned());
        };
        let (who, standing, line) = (oldest.who(), oldest.standing(), oldest.number());
        if !oldest.knows(CUT) {
            return Err(format!(
                "the oldest, {who}, has not said that it can be cut: its version may not know how. Ask again, or end it \
                 with `kill -9 {}`",
                who.pid
            ));
        }
        oldest.say(&Message::Cut).map_err(|error| format!("{who} cannot be told to end: {error}; ask again"))?;
        log::warn!("cut, so that a reload can begin (--cut-oldest): {standing}");
        let (waits, gone) = async_channel::bounded(1);
        let request = Request::Reload { id: id.to_owned(), cut_oldest: false };
        let command = Command { request, reply: reply.clone() };
        let waiter = self.executor.spawn(reload_then(gone, command, self.inputs.clone()));
        self.cut = Some(Cut { id: id.to_owned(), who, line: Some(line), waits, _waiter: waiter });
        Ok(())
    }

    /// A line has closed; where it is that of the generation that was cut, the reload comes now.
    pub(super) fn note_gone(&mut self, line: u64) {
        if let Some(cut) = self.cut.as_mut().filter(|cut| cut.line == Some(line)) {
            cut.line = None;
            cut.waits.close();
        }
    }

    /// The generation that was cut for this reload.
    pub(super) fn cut_for(&self, id: &str) -> Option<GenerationId> {
        self.cut.as_ref().filter(|cut| cut.id == id).map(|cut| cut.who.clone())
    }

    /// The newest generation has this one end: its deadline passes now.
    pub(super) fn be_cut(&self) {
        log::warn!("generation {} is cut: a reload was asked for that cuts the oldest", self.parts.number);
    }
}

/// Asks for the reload when the generation that was cut has gone, or has had its time.
async fn reload_then(gone: Receiver<()>, command: Command, inputs: Sender<Input>) {
    let gone = async {
        let _ = gone.recv().await;
    };
    let late = async {
        IoTimer::after(GONE_TIMEOUT).await;
    };
    future::or(gone, late).await;
    let _ = inputs.send(Input::Command(command)).await;
}

impl Older {
    /// Its names.
    pub(super) fn who(&self) -> GenerationId {
        let version = self.report.as_ref().map(|report| report.version.clone()).unwrap_or_default();
        GenerationId { generation: self.id.generation, pid: self.id.pid, version }
    }

    /// One line for people: how old it is and what it waits for, as it said last.
    pub(super) fn standing(&self) -> String {
        let who = self.who();
        let Some(report) = &self.report else { return format!("{who} has not said yet what it waits for") };
        let mut waits: Vec<String> = report.waits.iter().map(ToString::to_string).collect();
        if waits.is_empty() {
            waits.push(format!("{} connections", report.connections));
        }
        let left = report.left_ms.map(|ms| format!(", ends within {}", Age(ms))).unwrap_or_default();
        format!("{who}, {} old{left}, waits for: {}", Age(report.uptime_ms), waits.join(", "))
    }
}
