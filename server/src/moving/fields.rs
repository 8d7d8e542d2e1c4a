//! What descriptions are made of: lengths of bytes that stand behind them, and times.

use std::time::Duration;

/// Bytes whose lengths are said elsewhere, taken one after another.
pub(super) struct Sections<'a>(&'a [u8]);

impl<'a> Sections<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Sections<'a> {
        Sections(bytes)
    }

    /// The next so many bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("its bytes are fewer than it says")?;
        self.0 = rest;
        Ok(taken)
    }

    /// What is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Adds `more` to `bytes`. Returns how many they are.
pub(super) fn append(bytes: &mut Vec<u8>, more: &[u8]) -> usize {
    bytes.extend_from_slice(more);
    more.len()
}

/// Whole milliseconds.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
