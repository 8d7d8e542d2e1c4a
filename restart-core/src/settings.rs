//! What the application wants of its generation for as long as the process lives: its deadlines, its bounds, and what it
//! is asked.
//!
//! The builder fills it in, the driver obeys it. Nothing here waits but for the application's own answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_io::Timer;
use futures_lite::future;

use crate::counters::Counts;
use crate::environment::HANDOVER_FLAG;
use crate::formats::Formats;
use crate::handover::Hello;
use crate::waiting::{self, Waiting};

/// A successor has to be ready within this time.
pub const READY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// A successor that is ready has to live for this time before it takes over.
pub const PROBATION_DEFAULT: Duration = Duration::from_secs(1);
/// A generation that has been replaced may finish what it has for this time.
pub const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10 * 60);
/// A service that was told to stop may finish what it has for this time, all its generations together.
pub const STOP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);
/// So many replaced generations may still be finishing what they have.
pub const MAX_DRAINING_DEFAULT: u8 = 16;
/// The longest time that a generation takes for anything, ten years; a longer one is cut to it. Sums of such times still
/// fit into every clock.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// The most replaced generations that may be finishing what they have; a larger number is cut to it. The channels to all
/// of them travel in one message, which may have 253 descriptors (`unix(7)`, SCM_MAX_FD).
pub const MAX_DRAINING_MAX: u8 = 64;

/// An application that is well says so within this time.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

type SaveState = Box<dyn FnMut() -> Vec<u8> + Send>;
type Describe = Box<dyn Fn() -> serde_json::Value + Send>;
type Waits = Box<dyn Fn() -> Vec<Waiting> + Send>;
type Count = Box<dyn Fn() -> Counts + Send>;
type Probe = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// What the driver has to know for as long as the process lives.
pub(crate) struct Settings {
    pub(crate) ready_timeout: Duration,
    pub(crate) probation: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) stop_timeout: Duration,
    pub(crate) stop_delay: Duration,
    pub(crate) max_draining: u8,
    pub(crate) version: String,
    /// What stands in front of a successor's arguments.
    pub(crate) handover_word: Option<String>,
    pub(crate) save_state: Option<(u32, SaveState)>,
    pub(crate) formats: Formats,
    pub(crate) report: Option<Describe>,
    pub(crate) waits: Option<Waits>,
    pub(crate) count: Option<Count>,
    pub(crate) probe: Option<Probe>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            ready_timeout: READY_TIMEOUT_DEFAULT,
            probation: PROBATION_DEFAULT,
            drain_timeout: DRAIN_TIMEOUT_DEFAULT,
            stop_timeout: STOP_TIMEOUT_DEFAULT,
            stop_delay: Duration::ZERO,
            max_draining: MAX_DRAINING_DEFAULT,
            version: String::new(),
            handover_word: Some(HANDOVER_FLAG.to_owned()),
            save_state: None,
            formats: Formats::default(),
            report: None,
            waits: None,
            count: None,
            probe: None,
        }
    }
}

impl Settings {
    /// What the application says of itself.
    pub(crate) fn application(&self) -> serde_json::Value {
        self.report.as_ref().map_or(serde_json::Value::Null, |report| report())
    }

    /// What the application still has to finish.
    pub(crate) fn waits(&self) -> Vec<Waiting> {
        waiting::harmless(self.waits.as_ref().map_or_else(Vec::new, |waits| waits()))
    }

    /// What the application has counted.
    pub(crate) fn counts(&self) -> Counts {
        self.count.as_ref().map_or_else(Counts::new, |count| count())
    }

    /// Whether the application is well: it says so, and in time. One without a probe is well.
    pub(crate) fn is_well(&self) -> impl Future<Output = bool> + Send + use<> {
        let probe = self.probe.clone();
        async move {
            let Some(probe) = probe else { return true };
            let late = async {
                Timer::after(PROBE_TIMEOUT).await;
                false
            };
            future::or(probe(), late).await
        }
    }

    /// What this generation says first, to its predecessor and to its successor.
    pub(crate) fn hello(&self, generation: u64) -> Hello {
        Hello::new(generation, &self.version, self.formats.to_set())
    }
}
