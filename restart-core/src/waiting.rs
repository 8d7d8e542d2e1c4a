//! What a generation still has to finish, as its application tells it: how many of which kind, and the oldest of them.
//!
//! It is shown to people in answers, tables and logs, and comes from other processes, whose clients have had their say in
//! it: here it is bounded, and made harmless, before anybody keeps it. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// So many kinds are kept of one generation.
const KINDS_MAX: usize = 12;
/// Of a kind's name so much is kept, and so much of what the oldest is.
const KIND_CHARS_MAX: usize = 24;
const WHAT_CHARS_MAX: usize = 96;

/// What a generation still has to finish, of one kind: for [`Builder::waits`](crate::Builder::waits).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Waiting {
    /// What they are, in one word: `request`, `upload`.
    pub kind: String,
    /// How many there are.
    pub count: u64,
    /// How long the oldest has been under way, in milliseconds; 0 where nobody knows.
    #[serde(default)]
    pub oldest_ms: u64,
    /// What the oldest is, such as a path. Whatever is no visible character of ASCII is shown as `?`, and what is long is
    /// cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
}

impl Waiting {
    /// So many of a kind, of which nothing else is known.
    pub fn new(kind: impl Into<String>, count: u64) -> Waiting {
        Waiting { kind: kind.into(), count, oldest_ms: 0, what: None }
    }

    /// The same, where it is known how long the oldest has been under way, in milliseconds, and maybe what it is.
    #[must_use]
    pub fn with_oldest(self, oldest_ms: u64, what: Option<String>) -> Waiting {
        Waiting { oldest_ms, what, ..self }
    }
}

impl fmt::Display for Waiting {
    /// A few words: `request 3 (the oldest for 4m 12s: /slow)`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Waiting { kind, count, oldest_ms, what } = self;
        write!(out, "{kind} {count}")?;
        if *oldest_ms == 0 && what.is_none() {
            return Ok(());
        }
        let oldest = if *count > 1 { "the oldest for" } else { "for" };
        write!(out, " ({oldest} {}", Age(*oldest_ms))?;
        match what {
            Some(what) => write!(out, ": {what})"),
            None => write!(out, ")"),
        }
    }
}

/// What may be kept and shown of what was told.
pub(crate) fn harmless(told: impl IntoIterator<Item = Waiting>) -> Vec<Waiting> {
    let visible = |text: &str, chars_max: usize| -> String {
        text.chars().take(chars_max).map(|char| if char.is_ascii_graphic() { char } else { '?' }).collect()
    };
    let kept = told.into_iter().filter(|waiting| waiting.count > 0).take(KINDS_MAX);
    kept.map(|waiting| Waiting {
        kind: visible(&waiting.kind, KIND_CHARS_MAX),
        what: waiting.what.map(|what| visible(&what, WHAT_CHARS_MAX)),
        ..waiting
    })
    .collect()
}

/// A time in milliseconds, for people: its two greatest units.
pub(crate) struct Age(pub(crate) u64);

impl fmt::Display for Age {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        match () {
            () if days > 0 => write!(out, "{days}d {}h", hours % 24),
            () if hours > 0 => write!(out, "{hours}h {}m", minutes % 60),
            () if minutes > 0 => write!(out, "{minutes}m {}s", seconds % 60),
            () => write!(out, "{seconds}s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(kind: &str, count: u64, what: Option<&str>) -> Waiting {
        Waiting { kind: kind.to_owned(), count, oldest_ms: 252_900, what: what.map(str::to_owned) }
    }

    #[test]
    fn it_reads_as_a_few_words() {
        assert_eq!(waiting("request", 3, Some("/slow")).to_string(), "request 3 (the oldest for 4m 12s: /slow)");
        assert_eq!(waiting("upload", 1, None).to_string(), "upload 1 (for 4m 12s)");
        let unknown = Waiting { oldest_ms: 0, ..waiting("connection", 2, None) };
        assert_eq!(unknown.to_string(), "connection 2");
        for (ms, words) in [(999, "0s"), (3_600_000, "1h 0m"), (90_061_000, "1d 1h"), (u64::MAX, "213503982334d 14h")] {
            assert_eq!(Age(ms).to_string(), words);
        }
    }

    #[test]
    fn nothing_that_a_client_sent_reaches_a_terminal_as_it_is_and_nothing_grows_without_bound() {
        let kept = harmless([waiting("\u{1b}[2Jkind", 1, Some("/a b\n\u{7f}ä"))]);
        assert_eq!(kept, [waiting("?[2Jkind", 1, Some("/a?b???"))]);
        let long = "x".repeat(10_000);
        let kept = harmless((0..1000).map(|_| waiting(&long, 1, Some(&long))));
        assert!(kept.len() == KINDS_MAX && kept.iter().all(|one| one.to_string().len() < 200), "{kept:?}");
        assert_eq!(harmless([waiting("none", 0, None)]), []);
    }
}
