//! The file that a body is sent from, and the memory that such files take up where they are none on a disk.
//!
//! A body in memory is copied where it moves, once for each client, also where all clients had the same bytes. So the sum is
//! bounded: where it is spent, a response stays in its process and is finished there.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

/// So many bytes may be in files in memory, of this process's connections. What comes from another process counts, and is
/// not refused: it is there already.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

static TAKEN: AtomicU64 = AtomicU64::new(0);

/// A file that a body is sent from.
#[derive(Debug)]
pub(crate) struct BodyFile {
    pub(crate) file: File,
    /// What it takes up, if it is one in memory.
    pub(crate) claim: Option<Claim>,
}

/// So many bytes of memory in a file, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim(u64);

impl Claim {
    /// Whether so many bytes could be taken now.
    pub(super) fn is_free(bytes: u64) -> bool {
        TAKEN.load(Ordering::Relaxed).saturating_add(bytes) <= BYTES_MAX
    }

    /// Takes so many bytes, if they can be had.
    pub(super) fn take(bytes: u64) -> Option<Claim> {
        let claim = Claim::of_received(bytes);
        (TAKEN.load(Ordering::Relaxed) <= BYTES_MAX).then_some(claim)
    }

    /// The claim of a file that came from another process.
    pub(crate) fn of_received(bytes: u64) -> Claim {
        TAKEN.fetch_add(bytes, Ordering::Relaxed);
        Claim(bytes)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_memory_is_taken_than_there_may_be_and_it_comes_back() {
        assert!(Claim::take(BYTES_MAX + 1).is_none());
        let received = Claim::of_received(BYTES_MAX);
        assert!(!Claim::is_free(1) && Claim::take(1).is_none(), "what came counts");
        drop(received);
        assert!(Claim::is_free(1));
    }
}
