//! The bytes that were received and not yet used, and the memory that they stand in.
//!
//! A connection owns one [`Buffer`]. It takes its memory from a small pool of the thread when bytes are about to arrive,
//! and gives it back when nothing is left in it, so that an idle connection holds none. It never reads from anywhere
//! itself and it does not know what the bytes mean.

use std::cell::RefCell;

/// The size of a buffer as the pool has it: more than most heads, and a good piece of a body.
pub(crate) const BUFFER_BYTES: usize = 16 * 1024;

/// The size of the pieces in which a large response leaves.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;

/// How many free buffers of each size a thread keeps.
const POOLED_MAX: usize = 16;

/// The least room that is offered to a read; smaller reads would only cost more of them.
const ROOM_BYTES_MIN: usize = 2 * 1024;

thread_local! {
    static SMALL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static LARGE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Takes initialised memory of `BUFFER_BYTES` or `PIECE_BYTES` from the thread's pool.
pub(crate) fn lend(large: bool) -> Vec<u8> {
    let (pool, size) = if large { (&LARGE, PIECE_BYTES) } else { (&SMALL, BUFFER_BYTES) };
    pool.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; size])
}

/// Gives memory back. What has not one of the pool's sizes is freed.
pub(crate) fn give_back(bytes: Vec<u8>) {
    let pool = match bytes.len() {
        BUFFER_BYTES => &SMALL,
        PIECE_BYTES => &LARGE,
        _ => return,
    };
    // While a thread ends its pool may be gone already; then the memory is simply freed.
    let _ = pool.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < POOLED_MAX {
            pool.push(bytes);
        }
    });
}

/// Bytes received and not yet used: `bytes[start..end]`. All of `bytes` is initialised.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// A buffer that begins with `bytes`.
    pub(crate) fn with(bytes: Vec<u8>) -> Buffer {
        Buffer { end: bytes.len(), bytes, start: 0 }
    }

    /// The bytes not yet used.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The bytes not yet used, for whoever changes them in place.
    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Whether no byte waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Marks the first `count` bytes as used.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room for the next read, after the bytes not yet used. Takes or enlarges memory as needed; the caller bounds what
    /// it lets accumulate.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.bytes.len() - self.end < ROOM_BYTES_MIN {
            self.make_room();
        }
        &mut self.bytes[self.end..]
    }

    /// Room for a large piece, in a buffer in which nothing waits.
    pub(crate) fn large_room(&mut self) -> &mut [u8] {
        if self.bytes.len() < PIECE_BYTES {
            give_back(std::mem::replace(&mut self.bytes, lend(true)));
        }
        (self.start, self.end) = (0, 0);
        &mut self.bytes
    }

    /// Says that the first `count` bytes of the room have been filled.
    pub(crate) fn added(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// Keeps only the memory that the waiting bytes need. Called before every wait, since a client may let us wait long.
    pub(crate) fn settle(&mut self) {
        let filled = self.end - self.start;
        if filled == 0 {
            give_back(std::mem::take(&mut self.bytes));
            (self.start, self.end) = (0, 0);
        } else if filled * 2 <= self.bytes.len() {
            let tight = self.filled().to_vec();
            give_back(std::mem::replace(&mut self.bytes, tight));
            (self.start, self.end) = (0, filled);
        }
    }

    /// Puts bytes in front of those not yet used.
    pub(crate) fn put_back(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            *self = Buffer::with([bytes, self.filled()].concat());
        }
    }

    /// Takes the waiting bytes out, for another process to go on with.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let waiting = self.filled().to_vec();
        self.consume(waiting.len());
        self.settle();
        waiting
    }

    fn make_room(&mut self) {
        let filled = self.end - self.start;
        if filled + ROOM_BYTES_MIN > self.bytes.len() {
            let mut larger = lend(false);
            if filled + ROOM_BYTES_MIN > larger.len() {
                give_back(larger);
                larger = vec![0; (filled + ROOM_BYTES_MIN).next_power_of_two()];
            }
            larger[..filled].copy_from_slice(self.filled());
            give_back(std::mem::replace(&mut self.bytes, larger));
        } else {
            self.bytes.copy_within(self.start..self.end, 0);
        }
        (self.start, self.end) = (0, filled);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(buffer: &mut Buffer, bytes: &[u8]) {
        for piece in bytes.chunks(1000) {
            buffer.room()[..piece.len()].copy_from_slice(piece);
            buffer.added(piece.len());
        }
    }

    #[test]
    fn bytes_come_out_as_they_went_in_through_growth_and_settling() {
        let sent: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut buffer = Buffer::default();
        let (mut put, mut got) = (0, Vec::new());
        while got.len() < sent.len() {
            let next = (put + 7_001).min(sent.len());
            fill(&mut buffer, &sent[put..next]);
            put = next;
            let some = buffer.filled().len().min(5_003);
            got.extend_from_slice(&buffer.filled()[..some]);
            buffer.consume(some);
            buffer.settle();
        }
        assert_eq!(got, sent);
        assert!(buffer.is_empty());
    }

    #[test]
    fn an_empty_buffer_holds_no_memory() {
        let mut buffer = Buffer::default();
        fill(&mut buffer, b"GET");
        buffer.settle();
        assert_eq!(buffer.bytes.len(), 3, "half a head keeps no more than it needs");
        buffer.consume(3);
        buffer.settle();
        assert_eq!(buffer.bytes.capacity(), 0);
    }
}
