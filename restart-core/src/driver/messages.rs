//! What comes over the lines, as events: which part of the driver keeps what a message brings, and what it means to the
//! lifecycle that it came.
//!
//! What is not the other side's to say is no event but a broken successor, or passed over.

use super::Driver;
use super::sources::{FromNewer, FromOlder};
use crate::handover::{Commit, Counters, History, Message, Received};
use crate::lifecycle::{Event, State, Trigger};

/// The older generations' side.
impl Driver {
    pub(super) fn take_older(&mut self, number: u64, what: FromOlder) -> Option<Event> {
        match what {
            // What was read before this generation let go of the line counts all the same.
            FromOlder::Message(received) => self.take_older_message(number, *received),
            FromOlder::Closed => {
                let predecessor = self.chain.close_older(number)?;
                self.note_gone(number);
                if predecessor && self.lifecycle.is_main() {
                    self.chain.forget_predecessor();
                }
                self.refresh_status();
                Some(Event::OlderClosed { predecessor })
            }
        }
    }

    fn take_older_message(&mut self, number: u64, received: Received) -> Option<Event> {
        let predecessor = self.chain.is_predecessor(number);
        let Received { message, fds, .. } = received;
        match message {
            Message::Ping if predecessor => Some(Event::Ping),
            Message::Settled if predecessor => Some(Event::Settled),
            Message::Commit(Commit { settled, reload }) if predecessor => Some(Event::Commit { settled, reload }),
            Message::Counters(Counters { total, added }) if predecessor => {
                // All of it, once: what is told again is the same.
                self.parts.inherited.inherit(&total, added);
                None
            }
            Message::History(History { reloads }) if predecessor => {
                self.take_history(reloads);
                None
            }
            Message::Withdraw { stop, within_ms, .. } if predecessor => {
                self.bounds.tell(within_ms);
                self.chain.keep_way_back(fds);
                Some(Event::Withdraw { stop })
            }
            Message::Greeted(hello) => {
                self.chain.take_answer(number, hello);
                None
            }
            Message::Report(report) => {
                let (settled, stop) = (report.settled, report.stop);
                self.take_report(report);
                Some(Event::OlderReported { predecessor, settled, stop })
            }
            Message::Reload => Some(Event::Reload(Trigger::Signal)),
            Message::Stop => Some(Event::Stop(Trigger::Signal)),
            Message::Unknown => None,
            other => {
                log::warn!("an older generation said {}, which is not its to say; it was passed over", other.kind());
                None
            }
        }
    }
}

/// The newer generations' side.
impl Driver {
    pub(super) fn take_newer(&mut self, what: FromNewer) -> Option<Event> {
        match what {
            FromNewer::Met(line, pidfd) => {
                self.reload.met(line.peer.clone());
                self.chain.meet_successor(line, pidfd);
                None
            }
            FromNewer::Message(received) => self.take_newer_message(*received),
            FromNewer::Unreadable(error) => {
                log::warn!("the successor's line: {error}");
                Some(self.broke(error.to_string()))
            }
            FromNewer::Broke(error) => Some(self.broke(error.to_string())),
            FromNewer::Closed => Some(Event::NewerClosed),
            FromNewer::Exited => Some(Event::SuccessorExited),
        }
    }

    fn take_newer_message(&mut self, received: Received) -> Option<Event> {
        let Received { message, fds, .. } = received;
        match message {
            Message::Failed { reason } => {
                self.reload.record.as_mut()?.failed(reason);
                Some(Event::SuccessorFailed)
            }
            Message::Released { names } => {
                self.reload.release(names);
                None
            }
            Message::Ready { released } => {
                let named = self.reload.released()?.len();
                if named != released {
                    return Some(self.broke(format!("it releases {released} listeners and has named {named}")));
                }
                self.reload.record.as_mut()?.ready();
                let withdraws = self.chain.withdraws()?;
                Some(Event::SuccessorReady { withdraws })
            }
            Message::Pong => {
                self.reload.record.as_mut()?.probed();
                Some(Event::SuccessorPong)
            }
            Message::Committed => Some(Event::SuccessorCommitted),
            Message::Stop => Some(Event::SuccessorStop),
            Message::Stopping { within_ms } => {
                self.bounds.tell(within_ms);
                Some(Event::NewestStops)
            }
            Message::Cut if matches!(self.lifecycle.state(), State::Draining { .. }) => {
                self.be_cut();
                Some(Event::DrainDeadline)
            }
            Message::Greeting(hello) => {
                let ahead = self.chain.take_greeting(hello, fds)?;
                Some(Event::NewestIntroduced { ahead })
            }
            Message::Unknown => None,
            other => {
                log::warn!("the successor said {}, which is not its to say", other.kind());
                Some(self.broke(format!("it said {}", other.kind())))
            }
        }
    }

    fn broke(&mut self, what: String) -> Event {
        self.reload.failed(what);
        Event::SuccessorBroke
    }
}
