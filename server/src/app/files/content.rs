//! The bytes of a response: pieces of a file, and text of our own between them, read as they are sent.
//!
//! What the kernel has in memory is read right into the buffer that is sent; for the rest a thread of the blocking pool
//! waits, one piece at a time, so that neither a large file nor a client that reads slowly takes memory. A file that
//! became shorter is an error, after which the connection closes: the length has been announced.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncBufRead, AsyncRead, FutureExt};
use http_types::Body;
use rustix::io::ReadWriteFlags;
use smol::Task;

/// What the pool reads at once where the kernel has nothing in memory.
const PIECE_BYTES: usize = 128 * 1024;

/// How much of what the kernel has in memory is shown at a time to somebody who only wants to see it.
const SHOWN_BYTES: usize = 16 * 1024;

/// A part of a body.
#[derive(Debug)]
pub(super) enum Piece {
    /// These bytes.
    Text(Vec<u8>),
    /// These of the file.
    File(Range<u64>),
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Self::Text(bytes) => bytes.len() as u64,
            Self::File(range) => range.end - range.start,
        }
    }
}

/// A body of such pieces of a file.
pub(super) fn body(file: File, pieces: impl Into<VecDeque<Piece>>) -> io::Result<Body> {
    let pieces = pieces.into();
    let length = pieces.iter().map(Piece::length).sum::<u64>();
    let length = usize::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let content = Content { file: Arc::new(file), pieces, in_memory: true, reading: None, read: Vec::new(), used: 0 };
    Ok(Body::from_reader(content, Some(length)))
}

struct Content {
    file: Arc<File>,
    /// What is still to come.
    pieces: VecDeque<Piece>,
    /// Whether the file system can tell what the kernel has in memory.
    in_memory: bool,
    /// What the pool is reading.
    reading: Option<Task<io::Result<Vec<u8>>>>,
    /// What it has read, or text, of which `used` bytes were taken.
    read: Vec<u8>,
    used: usize,
}

impl Content {
    /// The next piece that is not empty, where none is being read.
    fn next(&mut self) -> Option<&mut Piece> {
        while self.pieces.front().is_some_and(|piece| piece.length() == 0) {
            self.pieces.pop_front();
        }
        self.pieces.front_mut()
    }

    /// Reads into `into` what is in memory. Nothing where that is nothing, or where something was read before.
    fn read_at_once(&mut self, into: &mut [u8]) -> Option<io::Result<usize>> {
        if !self.in_memory || self.reading.is_some() || self.used < self.read.len() {
            return None;
        }
        let file = Arc::clone(&self.file);
        let Some(Piece::File(range)) = self.next() else { return None };
        let most = usize::try_from(range.end - range.start).map_or(into.len(), |left| left.min(into.len()));
        let mut buffers = [IoSliceMut::new(&mut into[..most])];
        match rustix::io::preadv2(&file, &mut buffers, range.start, ReadWriteFlags::NOWAIT) {
            Ok(0) if most > 0 => Some(Err(became_shorter())),
            Ok(count) => {
                range.start += count as u64;
                Some(Ok(count))
            }
            Err(cause) => {
                self.in_memory = cause == rustix::io::Errno::AGAIN;
                None
            }
        }
    }

    /// Makes `read` hold something that was not taken yet, but at the end.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.used == self.read.len() {
            let Some(reading) = &mut self.reading else {
                let file = Arc::clone(&self.file);
                match self.next() {
                    None => break,
                    Some(Piece::Text(bytes)) => (self.read, self.used) = (std::mem::take(bytes), 0),
                    Some(Piece::File(range)) => {
                        let start = range.start;
                        let length =
                            usize::try_from(range.end - start).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
                        // Made by the thread that will free it, or one like it: what a thread of the pool allocates and
                        // another one frees stays with that thread, unused, for as long as it rests.
                        let bytes = vec![0; length];
                        self.reading = Some(smol::unblock(move || read_at(&file, start, bytes)));
                    }
                }
                continue;
            };
            let bytes = ready!(reading.poll(context));
            self.reading = None;
            (self.read, self.used) = (bytes?, 0);
            if let Some(Piece::File(range)) = self.pieces.front_mut() {
                range.start += self.read.len() as u64;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Blocks while the disk is asked.
fn read_at(file: &File, start: u64, mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let count = file.read_at(&mut bytes, start)?;
    if count == 0 {
        return Err(became_shorter());
    }
    bytes.truncate(count);
    Ok(bytes)
}

fn became_shorter() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was sent")
}

impl AsyncRead for Content {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(outcome) = self.read_at_once(into) {
            return Poll::Ready(outcome);
        }
        ready!(self.poll_more(context))?;
        let bytes = &self.read[self.used..];
        let count = bytes.len().min(into.len());
        into[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Poll::Ready(Ok(count))
    }
}

impl AsyncBufRead for Content {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let content = self.get_mut();
        if content.used == content.read.len() && matches!(content.next(), Some(Piece::File(_))) {
            let mut room = vec![0; SHOWN_BYTES];
            if let Some(count) = content.read_at_once(&mut room).transpose()? {
                room.truncate(count);
                (content.read, content.used) = (room, 0);
            }
        }
        ready!(content.poll_more(context))?;
        Poll::Ready(Ok(&content.read[content.used..]))
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        self.used += count;
        if self.used == self.read.len() {
            // The memory goes with what was in it: a slow client may take long to ask for more.
            (self.read, self.used) = (Vec::new(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::AsyncReadExt;
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> Vec<u8> {
        (0..=250).cycle().take(400_000).collect()
    }

    fn content(pieces: impl Into<VecDeque<Piece>>, in_memory: bool) -> Content {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes(), 0).unwrap();
        let (file, pieces) = (Arc::new(file), pieces.into());
        Content { file, pieces, in_memory, reading: None, read: Vec::new(), used: 0 }
    }

    fn read(mut content: Content, step: usize) -> Vec<u8> {
        smol::block_on(async {
            let (mut all, mut buffer) = (Vec::new(), vec![0; step]);
            loop {
                match content.read(&mut buffer).await.unwrap() {
                    0 => return all,
                    count => all.extend_from_slice(&buffer[..count]),
                }
            }
        })
    }

    #[test]
    fn a_body_has_the_length_of_its_pieces() {
        let pieces = [Piece::Text(b"abc".to_vec()), Piece::File(5..9), Piece::File(0..0)];
        assert_eq!(body(tempfile::tempfile().unwrap(), pieces).unwrap().len(), Some(7));
    }

    #[test]
    fn a_reader_that_takes_little_holds_one_piece_at_the_most() {
        for in_memory in [true, false] {
            let mut content = content([Piece::File(0..400_000)], in_memory);
            let mut byte = [0];
            for _ in 0..1000 {
                smol::block_on(content.read_exact(&mut byte)).unwrap();
                assert!(content.read.capacity() <= PIECE_BYTES);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn pieces_are_sent_in_order_wherever_the_kernel_has_them(
            parts in prop::collection::vec((0_u64..400_000, 0_u64..200_000, prop::collection::vec(any::<u8>(), 0..9)), 0..5),
            step in 500_usize..100_000,
        ) {
            let all = bytes();
            let (mut pieces, mut expected) = (Vec::new(), Vec::new());
            for (start, length, text) in parts {
                let end = (start + length).min(400_000);
                expected.extend_from_slice(&text);
                expected.extend_from_slice(&all[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()]);
                pieces.push((text, start..end));
            }
            for in_memory in [true, false] {
                let pieces = pieces.iter().cloned().flat_map(|(text, range)| [Piece::Text(text), Piece::File(range)]);
                prop_assert!(read(content(pieces.collect::<VecDeque<_>>(), in_memory), step) == expected);
            }
        }
    }
}
