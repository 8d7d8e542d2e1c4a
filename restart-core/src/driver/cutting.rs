//! Carries out `--cut-oldest`, and is cut by it.

use std::time::Instant;

use async_channel::Sender;

use super::Driver;
use super::cut::{Cut, GONE_TIMEOUT, reload_then};
use crate::control::{Command, GenerationId, Reply, Request};
use crate::handover::{CUT, Message};

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
        if let Some(Cut { who, line: Some(_), told, .. }) = &self.cut {
            let since = told.elapsed();
            if since > GONE_TIMEOUT {
                return Err(format!(
                    "{who} was told to end {} s ago, and has not: it hangs. End it with `kill -9 {}`, and ask again",
                    since.as_secs(),
                    who.pid
                ));
            }
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
        let waiter = self.tasks.spawn(reload_then(gone, command, self.tasks.inputs()));
        self.cut = Some(Cut { id: id.to_owned(), who, line: Some(line), told: Instant::now(), waits, _waiter: waiter });
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
