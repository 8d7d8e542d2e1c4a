//! Bytes whose lengths are said elsewhere, taken one after another.

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
