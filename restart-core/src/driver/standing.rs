//! How a generation that drains is doing, as it tells the newest one, twice a second and at its end.
//!
//! Each report holds all that was counted since the commit, so that a lost one is made good by the next.

use async_io::Timer;
use futures_lite::future;

use super::{Driver, LAST_REPORT_TIMEOUT};
use crate::control::DrainingReport;
use crate::counters::since;
use crate::handover::{Message, Report, Standing, Wait};
use crate::memory::resident_memory;
use crate::waiting::{Waiting, harmless};

impl Driver {
    fn report(&self) -> Message {
        let settings = &self.parts.settings;
        let before = self.counted_before.clone().unwrap_or_default();
        let standing = Standing {
            version: settings.version.clone(),
            uptime_ms: self.uptime_ms(),
            connections: self.parts.drain.live(),
            memory_bytes: resident_memory(),
            application: settings.application(),
            waits: settings.waits().into_iter().map(to_wire).collect(),
            left_ms: self.bounds.left_ms(),
        };
        let report = |standing| {
            Message::Report(Report {
                generation: self.parts.number,
                settled: self.lifecycle.is_settled(),
                stop: self.lifecycle.stop_wanted(),
                standing,
                added: since(&before, settings.counts()),
            })
        };
        // What the application says of itself may be too long; the rest is to arrive all the same.
        let whole = report(standing);
        if whole.encode(&[]).is_ok() { whole } else { report(Standing::default()) }
    }

    pub(super) fn send_report(&self) {
        self.pass_on(&self.report());
    }

    /// The last one is waited for, unless the newest generation reads nothing.
    pub(super) async fn send_last_report(&mut self) {
        let Some(channel) = self.chain.to_newest() else { return };
        let report = self.report();
        let late = async {
            Timer::after(LAST_REPORT_TIMEOUT).await;
            Ok(())
        };
        if let Err(error) = future::or(channel.send(&report, &[]), late).await {
            log::debug!("{error} to the newest generation");
        }
    }

    /// Keeps what a draining generation says; what comes to one that is not the newest any more goes on to that.
    pub(super) fn take_report(&mut self, report: Report) {
        if !self.lifecycle.is_main() {
            // To whoever reads it, it is not from the predecessor.
            self.pass_on(&Message::Report(Report { settled: false, ..report }));
            return;
        }
        let Report { generation, standing, added, .. } = report;
        self.parts.inherited.note(generation, &added);
        let Standing { version, uptime_ms, connections, memory_bytes, application, waits, left_ms } = standing;
        let waits = harmless(waits.into_iter().map(from_wire));
        let report = DrainingReport { version, uptime_ms, connections, memory_bytes, application, waits, left_ms };
        self.chain.keep_report(generation, report);
    }

    fn pass_on(&self, report: &Message) {
        if let Some(channel) = self.chain.to_newest()
            && let Err(error) = channel.try_send(report, &[])
        {
            log::debug!("{error} to the newest generation");
        }
    }
}

fn to_wire(Waiting { kind, count, oldest_ms, what }: Waiting) -> Wait {
    Wait { of: kind, count, oldest_ms, what }
}

fn from_wire(Wait { of, count, oldest_ms, what }: Wait) -> Waiting {
    Waiting { kind: of, count, oldest_ms, what }
}
