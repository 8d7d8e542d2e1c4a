//! What is said on the control socket: a request is one JSON object on a line, and so is each reply.
//!
//! Readers skip what they do not know. Pure: no socket, no clock.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::waiting::Waiting;

/// The version of the protocol: it grows where a client has to know that a server understands something. Fields and
/// kinds that are added do not need it, since readers skip those that they do not know.
pub(crate) const VERSION: u32 = 2;
/// From this version on a server knows `cut_oldest`, which one before it would pass over.
pub(crate) const CUTS_OLDEST: u32 = 2;
/// A request is no longer than this, its line feed included.
pub(crate) const REQUEST_BYTES_MAX: usize = 4096;
/// A reply is no longer than this; a status with thousands of listeners fits.
pub(crate) const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Request {
    /// How things are.
    Status,
    /// Replace the running generation. The client makes up the id, by which it can ask again. `cut_oldest`: where as many
    /// generations drain as may, the oldest of them ends at once, and the reload comes then.
    Reload {
        id: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cut_oldest: bool,
    },
    /// What became of a reload.
    Outcome { id: String },
    /// End the service.
    Stop,
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub(crate) enum Reply {
    /// The answer to `status`.
    Status(Box<Status>),
    /// How a reload ended.
    Outcome(Outcome),
    /// The work goes on; said every few seconds, so that a client can tell it from a hung server.
    Pending,
    /// There is no reload, and why.
    Refused { reason: String },
    /// The service is stopping; the server closes the connection when it has.
    Stopping,
    /// The request makes no sense.
    Error { reason: String },
    /// What this version does not know.
    #[serde(other)]
    Unknown,
}

/// One generation of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GenerationId {
    /// Its number, from 1.
    pub generation: u64,
    /// Its process.
    pub pid: u32,
    /// The program's version.
    pub version: String,
}

impl fmt::Display for GenerationId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "generation {} (pid {})", self.generation, self.pid)
    }
}

/// How long each stage of a reload took, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stages {
    /// Starting the successor's process, until its program was loaded.
    pub spawn_us: u64,
    /// From then until it said Ready.
    pub ready_us: u64,
    /// Its probation, and the ping at the end.
    pub probation_us: u64,
    /// Telling the service manager and the successor, until it served as the main process.
    pub commit_us: u64,
    /// All of it, from the trigger on.
    pub total_us: u64,
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The id under which it was asked for.
    pub id: String,
    /// Why it failed; nothing where it succeeded.
    pub failure: Option<String>,
    /// Who was replaced, or, after a failure, who still serves.
    pub from: GenerationId,
    /// Who replaced it, or should have.
    pub to: Option<GenerationId>,
    /// How long it took.
    pub stages: Stages,
    /// When it ended, in milliseconds since 1970; 0 where an older version did not say.
    #[serde(default)]
    pub ended_unix_ms: u64,
    /// The draining generation that was cut for it, where it was asked to cut one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<GenerationId>,
}

impl fmt::Display for Outcome {
    /// One line for people.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| us.div_ceil(1000);
        let cut = |out: &mut fmt::Formatter<'_>| match &self.cut {
            Some(cut) => write!(out, "; {cut} was cut for it"),
            None => Ok(()),
        };
        if let Some(reason) = &self.failure {
            write!(out, "reload failed: {reason}; {} still serves", self.from)?;
            return cut(out);
        }
        let Stages { spawn_us, ready_us, probation_us, commit_us, total_us } = self.stages;
        write!(out, "reloaded: {} -> ", self.from)?;
        if let Some(to) = &self.to {
            write!(out, "{to}")?;
        }
        write!(
            out,
            " in {} ms (spawn {}, ready {}, probation {}, commit {})",
            ms(total_us),
            ms(spawn_us),
            ms(ready_us),
            ms(probation_us),
            ms(commit_us)
        )?;
        cut(out)
    }
}

/// How a running service is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// The generation that answers: the main one.
    #[serde(flatten)]
    pub id: GenerationId,
    /// What it is doing: `serving`, `reloading`, `rolling back`, `stopping`.
    pub state: String,
    /// How long it has existed, in milliseconds.
    pub uptime_ms: u64,
    /// Live connections.
    pub connections: usize,
    /// Whether a service manager follows it.
    pub managed: bool,
    /// What it serves on.
    pub listeners: Vec<ListenerStatus>,
    /// Older generations that still finish what they have, oldest first.
    pub draining: Vec<DrainingGeneration>,
    /// The last reload, if there was one.
    pub last_reload: Option<Outcome>,
    /// The last reloads of the service, by whichever generation, oldest first: at most 10.
    #[serde(default)]
    pub reloads: Vec<Outcome>,
    /// The reload that is under way.
    #[serde(default)]
    pub reloading: Option<Reloading>,
    /// Resident memory of the process; 0 where an older version did not say.
    #[serde(default)]
    pub memory_bytes: u64,
    /// The version of the control protocol that the server speaks; 0 where it did not say.
    #[serde(default)]
    pub control_version: u32,
    /// What the application adds; null where it adds nothing.
    #[serde(default)]
    pub application: serde_json::Value,
    /// What the main process has under way, and waits for when it stops.
    #[serde(default)]
    pub waits: Vec<Waiting>,
}

/// A listener of a running service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Where it comes from: `bound` or `activated`.
    pub origin: String,
}

/// A reload that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reloading {
    /// What it waits for: `ready`, `probation`, `pong`, `commit` or `rollback`.
    pub stage: String,
    /// How long it has been under way, in milliseconds.
    pub elapsed_ms: u64,
    /// The successor's process, once it is started.
    pub successor: Option<u32>,
}

/// A generation that drains. What it says of itself comes twice a second; nothing has come from one that was replaced
/// just now, or by an older version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DrainingGeneration {
    /// Its number.
    pub generation: u64,
    /// Its process.
    pub pid: u32,
    /// What it said last.
    #[serde(flatten)]
    pub report: Option<DrainingReport>,
}

/// What a draining generation says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DrainingReport {
    /// The program's version.
    pub version: String,
    /// How long it has existed, in milliseconds.
    pub uptime_ms: u64,
    /// Live connections.
    pub connections: usize,
    /// Resident memory.
    pub memory_bytes: u64,
    /// What the application adds.
    #[serde(default)]
    pub application: serde_json::Value,
    /// What it still has to finish; nothing where an older version did not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<Waiting>,
    /// How long it may still take, in milliseconds, where it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// The reload ended like this; look at [`Outcome::failure`].
    Outcome(Box<Outcome>),
    /// No reload was started, for this reason.
    Refused(String),
    /// The service is stopping, so there is nothing to reload any more.
    Stopping,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each released version of the protocol says. Nothing here is changed but by adding lines.
    const GOLDEN: [&str; 2] = [include_str!("golden/v1.jsonl"), include_str!("golden/v2.jsonl")];

    #[test]
    fn what_released_versions_say_is_read_for_ever() {
        for line in GOLDEN.iter().flat_map(|file| file.lines()) {
            let said: serde_json::Value = serde_json::from_str(line).unwrap();
            let again = if said.get("command").is_some() {
                serde_json::to_value(serde_json::from_str::<Request>(line).unwrap()).unwrap()
            } else {
                let reply: Reply = serde_json::from_str(line).unwrap();
                assert_ne!(reply, Reply::Unknown, "{line}");
                serde_json::to_value(reply).unwrap()
            };
            for (field, value) in said.as_object().unwrap() {
                assert_eq!(again[field], *value, "{field} of {line}");
            }
        }
    }

    #[test]
    fn a_reply_of_a_newer_version_is_read() {
        assert_eq!(serde_json::from_str::<Reply>(r#"{"reply":"song","text":"la"}"#).unwrap(), Reply::Unknown);
        assert_eq!(serde_json::from_str::<Request>(r#"{"command":"status","deep":1}"#).unwrap(), Request::Status);
    }

    #[test]
    fn a_failure_reads_as_one_sentence() {
        let from = GenerationId { generation: 7, pid: 41, version: String::new() };
        let failure = Some("it exited with status 78 before it was ready".to_owned());
        let stages = Stages::default();
        let outcome = Outcome { id: String::new(), failure, from, to: None, stages, ended_unix_ms: 0, cut: None };
        assert_eq!(
            outcome.to_string(),
            "reload failed: it exited with status 78 before it was ready; generation 7 (pid 41) still serves"
        );
        let cut = Some(GenerationId { generation: 3, pid: 9, version: String::new() });
        let text = Outcome { cut, ..outcome }.to_string();
        assert!(text.ends_with("generation 7 (pid 41) still serves; generation 3 (pid 9) was cut for it"), "{text}");
    }

    #[test]
    fn a_reload_that_cuts_nobody_is_said_as_it_ever_was() {
        let said = |cut_oldest| serde_json::to_string(&Request::Reload { id: "a".to_owned(), cut_oldest }).unwrap();
        assert_eq!(said(false), r#"{"command":"reload","id":"a"}"#);
        assert_eq!(said(true), r#"{"command":"reload","id":"a","cut_oldest":true}"#);
    }
}
