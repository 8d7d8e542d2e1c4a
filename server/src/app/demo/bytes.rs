//! Bodies from memory, of a length that the client asks for, which it can check at any offset.
//!
//! Byte `i` is the byte `i % 8`, the lowest first, of the word `i / 8`; word `w` is `(w + 1) * 0x9E3779B97F4A7C15` in 64
//! bits, and that with its upper half added to its lower one by exclusive or. So no two places look alike, and a client
//! needs nothing but the offset to know what has to be there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_lite::io::Cursor;
use http_types::Body;

/// The most that all bodies of a process take at a time, and so the longest one.
pub(super) const BYTES_MAX: usize = 256 * 1024 * 1024;

/// What is taken of [`BYTES_MAX`].
#[derive(Clone, Debug, Default)]
pub(super) struct Room(Arc<AtomicUsize>);

/// The bytes of one body, and their room.
struct Held {
    bytes: Vec<u8>,
    _room: Taken,
}

struct Taken {
    room: Room,
    length: usize,
}

impl Room {
    /// A body of this length; none where there is no room for it at present. It takes 0.1 s for 100 MB: not for a thread
    /// that serves.
    pub(super) fn body(&self, length: usize) -> Option<Body> {
        let room = self.take(length)?;
        let held = Held { bytes: content(length), _room: room };
        Some(Body::from_reader(Cursor::new(held), Some(length)))
    }

    fn take(&self, length: usize) -> Option<Taken> {
        let take = |taken: usize| taken.checked_add(length).filter(|sum| *sum <= BYTES_MAX);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Taken { room: self.clone(), length })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.0.fetch_sub(self.length, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn content(length: usize) -> Vec<u8> {
    let words = length.div_ceil(8) as u64;
    let mut bytes = Vec::with_capacity(length.next_multiple_of(8));
    for word in 1..=words {
        let word = word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        bytes.extend_from_slice(&(word ^ word >> 32).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_known_by_its_offset() {
        assert_eq!(content(0), b"");
        let bytes = content(100_003);
        assert_eq!(bytes.len(), 100_003);
        assert_eq!(bytes[..8], (0x9E37_79B9_7F4A_7C15 ^ 0x9E37_79B9_u64).to_le_bytes());
        assert!(bytes.starts_with(&content(20_001)));
    }

    #[test]
    fn all_bodies_together_have_a_bound_and_give_their_room_back() {
        let room = Room::default();
        let body = room.body(1000).unwrap();
        assert_eq!(body.len(), Some(1000));
        assert!(room.take(BYTES_MAX).is_none() && room.take(usize::MAX).is_none());
        assert!(room.take(BYTES_MAX - 1000).is_some());
        drop(body);
        assert!(room.take(BYTES_MAX).is_some());
    }
}
