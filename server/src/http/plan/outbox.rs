//! Memory that fills with bytes to be sent, and empties as they are.

use crate::http::transport::buffer;

/// Bytes that are to be sent, in memory of the thread's pool.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Outbox {
    /// The bytes that were not sent yet.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Room for more, after making sure that there is memory of the size asked for.
    pub(crate) fn room(&mut self, large: bool) -> &mut [u8] {
        let too_small = if large { self.bytes.len() < buffer::PIECE_BYTES } else { self.bytes.is_empty() };
        if too_small {
            self.replace(buffer::lend(large));
        }
        &mut self.bytes[self.end..]
    }

    /// Says that the first `count` bytes of the room have been filled.
    pub(crate) fn added(&mut self, count: usize) {
        self.end += count;
    }

    /// Says that the first `count` bytes were sent.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Forgets all but the first `count` bytes that were not sent yet, and keeps no more memory than those take.
    pub(crate) fn shorten(&mut self, count: usize) {
        self.end = self.start + count;
        if count < self.bytes.len() {
            self.replace(vec![0; count]);
        }
    }

    /// Gives the memory back while there is nothing in it.
    pub(crate) fn settle(&mut self) {
        if self.start == self.end {
            buffer::give_back(std::mem::take(&mut self.bytes));
        }
    }

    /// Adds bytes, in larger memory if need be.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        let end = self.end + bytes.len();
        if end > self.bytes.len() {
            self.grow(self.filled().len() + bytes.len());
        }
        let end = self.end + bytes.len();
        self.bytes[self.end..end].copy_from_slice(bytes);
        self.end = end;
    }

    /// Makes room for so many bytes in all.
    #[cold]
    fn grow(&mut self, length: usize) {
        self.room(false);
        if length + self.start > self.bytes.len() {
            let larger = length.max(self.bytes.len()).next_power_of_two();
            self.replace(vec![0; larger]);
        }
    }

    fn replace(&mut self, mut bytes: Vec<u8>) {
        let filled = self.filled();
        bytes[..filled.len()].copy_from_slice(filled);
        (self.start, self.end) = (0, filled.len());
        buffer::give_back(std::mem::replace(&mut self.bytes, bytes));
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        buffer::give_back(std::mem::take(&mut self.bytes));
    }
}
