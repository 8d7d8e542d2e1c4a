//! One line of the log under construction, whatever its message holds: bounded, and without control characters.

use std::fmt;

use log::Level;

use super::queue::WRITE_BYTES_MAX;

/// What stands at the end of a line that was cut to [`WRITE_BYTES_MAX`].
pub(super) const CUT_MARK: &str = " [cut]\n";

/// A level as syslog numbers it.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// A line under construction: refuses what goes beyond its room, and never holds a control character.
pub(super) struct Line {
    text: String,
    room: usize,
}

impl Line {
    pub(super) fn new() -> Line {
        Line { text: String::with_capacity(128), room: WRITE_BYTES_MAX - CUT_MARK.len() }
    }

    /// Adds a control character of our own.
    pub(super) fn push(&mut self, control: char) -> fmt::Result {
        if self.text.len() + control.len_utf8() > self.room {
            return Err(fmt::Error);
        }
        self.text.push(control);
        Ok(())
    }

    /// The line with its end, which says where it was cut.
    pub(super) fn end(mut self, is_whole: bool) -> String {
        self.text.push_str(if is_whole { "\n" } else { CUT_MARK });
        self.text
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        for character in piece.chars() {
            let start = self.text.len();
            if character.is_control() && character != '\t' {
                self.text.extend(character.escape_default());
            } else {
                self.text.push(character);
            }
            if self.text.len() > self.room {
                self.text.truncate(start);
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}
