//! What `reborn status` shows a person: the generations, the listeners and the last reloads, as tables.
//!
//! It formats a [`Status`] and knows nothing else.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use restart_core::Waiting;
use restart_core::control::{Outcome, Stages, Status};
use serde_json::Value;

use crate::service::ledger::MOVED_KINDS;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The status as text. `now` is the time at which it is shown.
pub(crate) struct Overview<'a> {
    pub(crate) status: &'a Status,
    pub(crate) now: SystemTime,
}

impl fmt::Display for Overview<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status { id, state, managed, reloading, .. } = self.status;
        let managed = if *managed { ", under a service manager" } else { "" };
        let version = if id.version.is_empty() { String::new() } else { format!(", version {}", id.version) };
        writeln!(out, "{id}{version}: {state}{managed}")?;
        if let Some(reloading) = reloading {
            writeln!(out, "a reload is under way: {}", stage(self.status).unwrap_or(reloading.stage.clone()))?;
        }
        writeln!(out, "\n{}", self.generations())?;
        let waits = self.waits();
        if !waits.is_empty() {
            writeln!(out, "{}", table(["GENERATION", "WAITS FOR", "COUNT", "OLDEST", "", "LEFT"], waits))?;
        }
        let listeners =
            self.status.listeners.iter().map(|one| [one.name.clone(), one.address.clone(), one.origin.clone()]);
        writeln!(out, "{}", table(["LISTENER", "ADDRESS", "FROM"], listeners))?;
        if let Some(tls) = self.tls() {
            writeln!(out, "{tls}\n")?;
        }
        if self.status.reloads.is_empty() {
            return writeln!(out, "no reload yet");
        }
        let reloads = self.status.reloads.iter().rev().map(|outcome| self.reload(outcome));
        write!(out, "{}", table(["RELOADED", "GENERATIONS", "OUTCOME", ""], reloads))
    }
}

impl Overview<'_> {
    fn generations(&self) -> String {
        let Status { id, state, uptime_ms, connections, draining, memory_bytes, application, .. } = self.status;
        let (number, pid) = (id.generation.to_string(), id.pid.to_string());
        let numbers = (*uptime_ms, *connections, *memory_bytes);
        let newest = row(&number, &pid, &id.version, state, numbers, application);
        let older = draining.iter().rev().map(|older| {
            let (number, pid) = (older.generation.to_string(), older.pid.to_string());
            match &older.report {
                Some(said) => {
                    let numbers = (said.uptime_ms, said.connections, said.memory_bytes);
                    row(&number, &pid, &said.version, "draining", numbers, &said.application)
                }
                None => [&number, &pid, "", "", "draining", "", "", "", ""].map(str::to_owned),
            }
        });
        let heads =
            ["GENERATION", "PID", "VERSION", "AGE", "STATE", "CONNECTIONS", "IN FLIGHT", "HANDED OVER", "MEMORY"];
        table(heads, [newest].into_iter().chain(older))
    }

    /// What those that are to end still have to finish.
    fn waits(&self) -> Vec<[String; 6]> {
        let Status { id, state, draining, waits, .. } = self.status;
        let stopping = (state == "stopping").then_some((id.generation, waits, None));
        let older = draining.iter().rev().filter_map(|older| {
            let said = older.report.as_ref()?;
            Some((older.generation, &said.waits, said.left_ms))
        });
        let words = |ms: u64| age(Duration::from_millis(ms));
        let mut rows = vec![];
        for (generation, waits, left_ms) in stopping.into_iter().chain(older) {
            rows.extend(waits.iter().map(|Waiting { kind, count, oldest_ms, what, .. }| {
                let oldest = if *oldest_ms == 0 { String::new() } else { words(*oldest_ms) };
                let what = what.clone().unwrap_or_default();
                let left = left_ms.map(words).unwrap_or_default();
                [generation.to_string(), kind.clone(), count.to_string(), oldest, what, left]
            }));
        }
        rows
    }

    /// How many handshakes this process has held, and how long the certificates are good for.
    fn tls(&self) -> Option<String> {
        let tls = self.status.application.get("tls")?;
        let counts = tls["handshakes"].as_object()?;
        let count = |name: &str| counts.get(name).and_then(Value::as_u64).unwrap_or_default();
        let mut text = format!("TLS: {} handshakes ({} resumed)", count("done") + count("resumed"), count("resumed"));
        for name in counts.keys().filter(|name| !matches!(name.as_str(), "done" | "resumed") && count(name) > 0) {
            // Writing to a String cannot fail.
            _ = write!(text, ", {} {name}", count(name));
        }
        let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(tls["certificate_not_after_unix"].as_u64()?);
        let validity = match not_after.duration_since(self.now) {
            Ok(left) if left < DAY => "the first certificate expires within a day".to_owned(),
            Ok(left) => format!("the first certificate expires in {} days", left.as_secs() / DAY.as_secs()),
            Err(_) => "a certificate has expired".to_owned(),
        };
        Some(format!("{text}; {validity}"))
    }

    fn reload(&self, outcome: &Outcome) -> [String; 4] {
        let Outcome { failure, from, to, stages, ended_unix_ms, cut, .. } = outcome;
        let now = self.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ago = now.saturating_sub(Duration::from_millis(*ended_unix_ms));
        let generations = match to {
            Some(to) => format!("{} -> {}", from.generation, to.generation),
            None => format!("{} ->", from.generation),
        };
        let (verdict, mut detail) = match failure {
            Some(reason) => ("failed", reason.clone()),
            None => ("done", durations(stages)),
        };
        if let Some(cut) = cut {
            // Writing to a String cannot fail.
            _ = write!(detail, "; {cut} was cut for it");
        }
        let when = if *ended_unix_ms == 0 { String::new() } else { format!("{} ago", age(ago)) };
        [when, generations, verdict.to_owned(), detail]
    }
}

/// What a reload that is under way waits for, and for how long it has been under way.
pub(crate) fn stage(status: &Status) -> Option<String> {
    let reloading = status.reloading.as_ref()?;
    let what = match reloading.stage.as_str() {
        "ready" => "the new version starts",
        "probation" => "the new version is ready, its probation runs",
        "pong" => "the new version is asked for a sign of life",
        "commit" => "the new version takes over",
        "rollback" => "the new version has failed and is removed",
        other => other,
    };
    let seconds = Duration::from_millis(reloading.elapsed_ms).as_secs_f64();
    let pid = reloading.successor.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    Some(format!("{what}{pid}, {seconds:.1} s"))
}

fn row(
    number: &str,
    pid: &str,
    version: &str,
    state: &str,
    (uptime_ms, connections, memory_bytes): (u64, usize, u64),
    application: &Value,
) -> [String; 9] {
    let count = |name: &str| application[name].as_u64().map(|count| count.to_string()).unwrap_or_default();
    let age = age(Duration::from_millis(uptime_ms));
    let (busy, moved, memory) = (count("in_flight"), moved(application), mebibytes(memory_bytes));
    [number, pid, version, &age, state, &connections.to_string(), &busy, &moved, &memory].map(str::to_owned)
}

/// How many connections were handed over, and of which kinds where something was under way on some of them.
fn moved(application: &Value) -> String {
    let Some(total) = application["handed_over"].as_u64() else { return String::new() };
    let by_kind: Vec<_> = MOVED_KINDS
        .into_iter()
        .filter_map(|kind| Some((kind, application["moved"][kind].as_u64().filter(|count| *count > 0)?)))
        .collect();
    if by_kind.iter().all(|(kind, _)| *kind == MOVED_KINDS[0]) {
        return total.to_string();
    }
    let by_kind: Vec<_> = by_kind.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    format!("{total} ({})", by_kind.join(", "))
}

fn durations(stages: &Stages) -> String {
    let ms = |us: u64| us.div_ceil(1000);
    let Stages { spawn_us, ready_us, probation_us, commit_us, total_us, .. } = *stages;
    format!(
        "{} ms (spawn {}, ready {}, probation {}, commit {})",
        ms(total_us),
        ms(spawn_us),
        ms(ready_us),
        ms(probation_us),
        ms(commit_us)
    )
}

/// The two greatest units of a duration, from seconds on.
pub(crate) fn age(duration: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn mebibytes(bytes: u64) -> String {
    let tenths = bytes * 10 / (1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// Columns as wide as their widest cell, two spaces apart.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let rows: Vec<_> = [heads.map(str::to_owned)].into_iter().chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            // Writing to a String cannot fail.
            _ = write!(line, "{cell:<0$}  ", width(column));
        }
        _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reads_as_tables() {
        let status = serde_json::json!({
            "generation": 3, "pid": 33, "version": "1.2", "state": "serving", "uptime_ms": 61_000, "connections": 20,
            "managed": true, "memory_bytes": 9_000_000,
            "listeners": [{"name": "http", "address": "127.0.0.1:80", "origin": "bound"}],
            "draining": [
                {"generation": 1, "pid": 11},
                {"generation": 2, "pid": 22, "version": "1.1", "uptime_ms": 3_600_000, "connections": 1,
                 "memory_bytes": 1_048_576, "application": {"in_flight": 1, "handed_over": 200,
                   "moved": {"idle": 195, "responses": 3, "streams": 0, "upgraded": 2}}, "left_ms": 540_000,
                 "waits": [{"kind": "request", "count": 2, "oldest_ms": 61_500, "what": "/slow"},
                           {"kind": "connection", "count": 1, "oldest_ms": 0}]},
            ],
            "last_reload": null,
            "reloads": [
                {"id": "a", "failure": "it died", "from": {"generation": 2, "pid": 22, "version": ""}, "to": null,
                 "stages": Stages::default(), "ended_unix_ms": 1_000,
                 "cut": {"generation": 0, "pid": 10, "version": ""}},
            ],
            "application": {"in_flight": 3, "handed_over": 0, "tls": {"certificate_not_after_unix": 8_726_400,
                "handshakes": {"done": 9, "resumed": 3, "failed": 2, "timed out": 0, "plain HTTP": 1}}},
        });
        let status: Status = serde_json::from_value(status).unwrap();
        let shown = Overview { status: &status, now: SystemTime::UNIX_EPOCH + Duration::from_secs(61) }.to_string();
        let expected = "\
generation 3 (pid 33), version 1.2: serving, under a service manager

GENERATION  PID  VERSION  AGE    STATE     CONNECTIONS  IN FLIGHT  HANDED OVER                              MEMORY
3           33   1.2      1m 1s  serving   20           3          0                                        8.5 MiB
2           22   1.1      1h     draining  1            1          200 (195 idle, 3 responses, 2 upgraded)  1.0 MiB
1           11                   draining

GENERATION  WAITS FOR   COUNT  OLDEST         LEFT
2           request     2      1m 1s   /slow  9m
2           connection  1                     9m

LISTENER  ADDRESS       FROM
http      127.0.0.1:80  bound

TLS: 12 handshakes (3 resumed), 2 failed, 1 plain HTTP; the first certificate expires in 100 days

RELOADED  GENERATIONS  OUTCOME
1m ago    2 ->         failed   it died; generation 0 (pid 10) was cut for it
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_status_of_an_older_version_is_shown_as_well() {
        let status = serde_json::json!({
            "generation": 1, "pid": 1, "version": "0", "state": "serving", "uptime_ms": 1, "connections": 0,
            "managed": false, "listeners": [], "draining": [], "last_reload": null,
        });
        let status: Status = serde_json::from_value(status).unwrap();
        assert!(Overview { status: &status, now: SystemTime::now() }.to_string().contains("no reload yet"));
    }
}
