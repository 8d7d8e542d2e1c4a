//! What the text of a value means: numbers, sizes, durations, booleans, paths, a log filter.
//!
//! Each reads one [`Given`] and refuses it with the cause and with what would be right. Nothing here looks at the machine:
//! whether a path leads to what it should is another's question.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::{IntErrorKind, ParseIntError};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use log::LevelFilter;

use super::given::{Error, Given, non_empty};

/// The longest duration that is taken: what is longer is a typing error, and could overflow a clock.
const DURATION_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The shortest duration where zero makes no sense.
pub(super) const DURATION_MIN: Duration = Duration::from_millis(1);

/// The longest path of a Unix socket.
const SOCKET_PATH_BYTES_MAX: usize = 107;

pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;
pub(super) const GIB: u64 = 1024 * MIB;

/// Why a path is refused that leads to a directory.
pub(crate) const IS_A_DIRECTORY: (&str, &str) = ("a directory", "give the path of a file");

impl Given {
    pub(super) fn boolean(&self) -> Result<bool, Error> {
        match self.text().to_ascii_lowercase().as_str() {
            "" | "0" | "false" | "no" | "off" => Ok(false),
            "1" | "true" | "yes" | "on" => Ok(true),
            _ => Err(self.refuse("neither true nor false", "write true, false, 1 or 0")),
        }
    }

    pub(super) fn number<T: TryFrom<usize>>(&self, range: RangeInclusive<usize>) -> Result<T, Error> {
        let advice = format!("write a whole number from {} to {}", range.start(), range.end());
        match usize::from_str(self.text()) {
            Ok(number) => {
                let fitting = range.contains(&number).then(|| T::try_from(number).ok()).flatten();
                fitting.ok_or_else(|| self.refuse("out of range", advice))
            }
            Err(cause) => Err(self.refuse(not_a_number(&cause), advice)),
        }
    }

    pub(super) fn bytes<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>) -> Result<T, Error> {
        let (start, end) = (Bytes(*range.start()), Bytes(*range.end()));
        let advice = format!("write a number of bytes from {start} to {end}, such as 16384, 16KiB, 1MiB or 1GiB");
        let Bytes(bytes) = self.text().parse().map_err(|cause: String| self.refuse(cause, advice.as_str()))?;
        let fitting = range.contains(&bytes).then(|| T::try_from(bytes).ok()).flatten();
        fitting.ok_or_else(|| self.refuse("out of range", advice))
    }

    pub(super) fn duration(&self, least: Duration) -> Result<Duration, Error> {
        self.duration_within(least..=DURATION_MAX)
    }

    pub(super) fn duration_within(&self, range: RangeInclusive<Duration>) -> Result<Duration, Error> {
        let (shortest, longest) =
            (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
        let advice = format!("write a duration from {shortest} to {longest}, such as 300ms, 10s, 2m or 1m30s");
        match humantime::parse_duration(self.text()) {
            Ok(duration) if range.contains(&duration) => Ok(duration),
            Ok(_) => Err(self.refuse("out of range", advice)),
            Err(cause) => Err(self.refuse(format!("not a duration ({cause})"), advice)),
        }
    }

    /// `LEVEL`, or `MODULE=LEVEL`, or several with commas. A bare module's name is refused, although `env_logger`
    /// takes it: it is a level with a typing error nearly always.
    pub(super) fn log_filter(&self) -> Result<String, Error> {
        for directive in self.text().split(',') {
            let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
            if LevelFilter::from_str(level).is_err() {
                let advice = "write off, error, warn, info, debug or trace, or MODULE=LEVEL; several with commas";
                return Err(self.refuse(format!("{level:?} is no level"), advice));
            }
        }
        Ok(self.text().clone())
    }
}

impl Given<OsString> {
    /// The path of a file, where none is made yet.
    pub(super) fn file_path(&self) -> Result<PathBuf, Error> {
        let (cause, advice) = IS_A_DIRECTORY;
        if self.text().as_bytes().ends_with(b"/") {
            return Err(self.refuse(cause, advice));
        }
        Ok(self.text().into())
    }

    pub(super) fn socket_path(&self) -> Result<PathBuf, Error> {
        match self.text().len() {
            length if length > SOCKET_PATH_BYTES_MAX && !self.text().as_bytes().ends_with(b"/") => Err(self.refuse(
                format!("has {length} bytes, and the path of a Unix socket at most {SOCKET_PATH_BYTES_MAX}"),
                "give a shorter path",
            )),
            _ => self.file_path(),
        }
    }
}

/// What an optional value means, where one was given.
pub(super) fn optional<T: AsRef<OsStr>, V>(
    given: Option<&Given<T>>,
    read: impl FnOnce(&Given<T>) -> Result<V, Error>,
) -> Result<Option<V>, Error> {
    non_empty(given).map(read).transpose()
}

/// A number of bytes, read and shown as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bytes(u64);

const UNITS: [(&str, u64); 5] = [("", 1), ("B", 1), ("KiB", KIB), ("MiB", MIB), ("GiB", GIB)];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = (&text[..split], text[split..].trim_start());
        let number = u64::from_str(digits).map_err(|cause| not_a_number(&cause).to_owned())?;
        let known = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
        let (_, factor) = known.ok_or_else(|| format!("unknown unit {unit:?}"))?;
        number.checked_mul(*factor).map(Self).ok_or_else(|| "out of range".to_owned())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        let (unit, factor) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
        write!(formatter, "{}{unit}", self.0 / factor)
    }
}

fn not_a_number(cause: &ParseIntError) -> &'static str {
    match cause.kind() {
        IntErrorKind::PosOverflow => "out of range",
        _ => "not a whole number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        for text in ["1B", "1000B", "16KiB", "1MiB", "1536KiB", "1GiB", "0"] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }
    }
}
