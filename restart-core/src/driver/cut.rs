//! `--cut-oldest`: where as many generations drain as may, a reload may ask for the oldest of them to end at once.
//!
//! Nothing here is the lifecycle's: to the one that is cut it is its deadline, which passes now, and the reload comes as any
//! other does once it has gone. One that does not go is left to a person, and the reload refused.

use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use async_executor::Task;
use async_io::Timer as IoTimer;
use futures_lite::future;

use super::chain::Older;
use super::sources::Input;
use crate::control::{Command, GenerationId};
use crate::waiting::Age;

/// One that is cut ends its connections, tells its last figures and sees its clients off, each of which has a second.
pub(super) const GONE_TIMEOUT: Duration = Duration::from_secs(5);

/// A generation that was told to end, for a reload.
pub(super) struct Cut {
    /// The reload's id.
    pub(super) id: String,
    pub(super) who: GenerationId,
    /// The number of its line, until that closes.
    pub(super) line: Option<u64>,
    /// When it was told.
    pub(super) told: Instant,
    /// The reload waits until this is closed.
    pub(super) waits: Sender<()>,
    pub(super) _waiter: Task<()>,
}

/// Asks for the reload when the generation that was cut has gone, or has had its time.
pub(super) async fn reload_then(gone: Receiver<()>, command: Command, inputs: Sender<Input>) {
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
