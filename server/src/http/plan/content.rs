//! A body of bytes that are known: pieces of memory and of one file, in order, read as they are sent.
//!
//! What the kernel has in memory is read right into the buffer that is sent; for the rest a thread of the blocking pool
//! waits, one piece at a time, so that neither a large file nor a client that reads slowly takes memory. A file that
//! became shorter is an error, after which the connection closes: the length has been announced. What is left of a body
//! can be told at any point of it.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncBufRead, AsyncRead, FutureExt};
use http_types::{Body, Response};
use rustix::io::ReadWriteFlags;
use smol::Task;

use super::body_file::BodyFile;
use crate::http::attached::Attached;

/// What the pool reads at once where the kernel has nothing in memory.
const READ_BYTES: usize = 128 * 1024;

/// How much is read at a time for somebody who only wants to see it.
const SHOWN_BYTES: usize = 16 * 1024;

/// What the description of a piece takes beside its bytes, at the most.
const PIECE_BYTES: usize = 64;

/// A part of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    Memory(Vec<u8>),
    /// These bytes of the file, counted from its start.
    File(Range<u64>),
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(range) => range.end.saturating_sub(range.start),
        }
    }

    /// The piece without its first `count` bytes.
    fn skip(&self, count: u64) -> Piece {
        match self {
            Self::Memory(bytes) => {
                Self::Memory(bytes[usize::try_from(count).map_or(bytes.len(), |at| at.min(bytes.len()))..].to_vec())
            }
            Self::File(range) => Self::File((range.start + count).min(range.end)..range.end),
        }
    }
}

/// A body of known bytes. Given to a response with [`Content::attach`], it is sent from the file that was opened, at
/// whichever path another one may stand by now, and goes on in another process where the connection moves.
#[derive(Debug)]
pub struct Content {
    file: Option<Arc<BodyFile>>,
    pieces: Arc<[Piece]>,
    /// The piece that is read next, and how many bytes of it were read.
    at: usize,
    within: u64,
    left: u64,
    /// Whether the file system can tell what the kernel has in memory.
    tells: bool,
    /// What the pool is reading.
    reading: Option<Task<io::Result<Vec<u8>>>>,
    /// What it has read, of which `used` bytes were taken.
    read: Vec<u8>,
    used: usize,
}

impl Content {
    /// A body of these pieces, of which those of a file are of this one. Pieces of a file without one fail as they are
    /// read.
    pub fn new(file: Option<File>, pieces: impl Into<Vec<Piece>>) -> Content {
        Content::shared(file.map(|file| Arc::new(BodyFile { file, claim: None })), pieces)
    }

    pub(super) fn shared(file: Option<Arc<BodyFile>>, pieces: impl Into<Vec<Piece>>) -> Content {
        let pieces: Arc<[Piece]> = pieces.into().into();
        let left = pieces.iter().map(Piece::length).fold(0, u64::saturating_add);
        Content { file, pieces, at: 0, within: 0, left, tells: true, reading: None, read: Vec::new(), used: 0 }
    }

    /// How many bytes are still to come.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Makes it the body of a response, which is of a known length then. It fails where this machine cannot count so many
    /// bytes.
    pub fn attach(self, response: &mut Response) -> io::Result<()> {
        let length = usize::try_from(self.left).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let content = Attached::attach(response, self);
        response.set_body(Body::from_reader(Reader { content, shown: Vec::new(), used: 0 }, Some(length)));
        Ok(())
    }

    /// Reads into `into` what is next. Nothing is read at the end.
    pub(super) fn poll_read(&mut self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        while self.pieces.get(self.at).is_some_and(|piece| piece.length() == self.within) {
            (self.at, self.within) = (self.at + 1, 0);
        }
        let count = match self.pieces.get(self.at) {
            None => 0,
            Some(Piece::Memory(bytes)) => {
                let bytes = usize::try_from(self.within).map_or(&[][..], |within| &bytes[within..]);
                copy(bytes, into)
            }
            Some(Piece::File(range)) => {
                let range = range.start + self.within..range.end;
                ready!(self.poll_file(context, range, into))?
            }
        };
        self.within += count as u64;
        self.left -= count as u64;
        Poll::Ready(Ok(count))
    }

    /// Reads some bytes of this range of the file, which is not empty.
    fn poll_file(&mut self, context: &mut Context<'_>, range: Range<u64>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let length = range.end - range.start;
        let Some(file) = &self.file else {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::NotFound, "a piece of a file, and no file")));
        };
        let is_read = self.used < self.read.len();
        if self.tells && self.reading.is_none() && !is_read {
            let most = usize::try_from(length).map_or(into.len(), |left| left.min(into.len()));
            let mut buffers = [IoSliceMut::new(&mut into[..most])];
            match rustix::io::preadv2(&file.file, &mut buffers, range.start, ReadWriteFlags::NOWAIT) {
                Ok(0) if most > 0 => return Poll::Ready(Err(became_shorter())),
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(cause) => self.tells = cause == rustix::io::Errno::AGAIN,
            }
        }
        if !is_read {
            let reading = self.reading.get_or_insert_with(|| {
                let (file, most) =
                    (Arc::clone(file), usize::try_from(length).map_or(READ_BYTES, |l| l.min(READ_BYTES)));
                // The memory is made by the thread that will free it, or one like it: what a thread of the pool allocates
                // and another one frees stays with that thread, unused, for as long as it rests.
                let bytes = vec![0; most];
                smol::unblock(move || read_at(&file.file, range.start, bytes))
            });
            let bytes = ready!(reading.poll(context));
            self.reading = None;
            (self.read, self.used) = (bytes?, 0);
        }
        let count = copy(&self.read[self.used..], into);
        self.used += count;
        if self.used == self.read.len() {
            // The memory goes with what was in it: a slow client may take long to ask for more.
            (self.read, self.used) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(count))
    }

    /// Goes back by the last `unsent` bytes that were read: they are read again when they can be sent. What the pool reads
    /// meanwhile is nobody's.
    pub(super) fn put_back(&mut self, unsent: u64) {
        (self.reading, self.read, self.used) = (None, Vec::new(), 0);
        (self.at, self.within) = self.back(unsent);
        self.left += unsent;
    }

    /// Waits until nobody reads from the file any more on its behalf. What was read and not taken is read again.
    pub(super) async fn stop_reading(&mut self) {
        if let Some(reading) = self.reading.take() {
            reading.cancel().await;
        }
    }

    /// How many bytes it takes to describe what is left, together with the last `unsent` bytes that were read: those of its
    /// pieces of memory, and a few for each piece. It may say more.
    pub(super) fn described_bytes(&self, unsent: u64) -> usize {
        let (at, within) = self.back(unsent);
        let bytes = |(index, piece): (usize, &Piece)| match piece {
            Piece::Memory(bytes) if index == 0 => {
                PIECE_BYTES + bytes.len().saturating_sub(usize::try_from(within).unwrap_or(0))
            }
            Piece::Memory(bytes) => PIECE_BYTES + bytes.len(),
            Piece::File(_) => PIECE_BYTES,
        };
        self.pieces[at..].iter().enumerate().map(bytes).sum()
    }

    /// The piece, and the place in it, so many bytes before the one that is read next.
    fn back(&self, unsent: u64) -> (usize, u64) {
        let (mut at, mut within, mut back) = (self.at, self.within, unsent);
        while back > within && at > 0 {
            back -= within;
            at -= 1;
            within = self.pieces[at].length();
        }
        (at, within.saturating_sub(back))
    }

    /// The file, and the pieces of what is left, together with the last `unsent` bytes that were read.
    pub(super) fn rest(&self, unsent: u64) -> (Option<Arc<BodyFile>>, Vec<Piece>) {
        let (at, within) = self.back(unsent);
        let pieces = self.pieces[at..].iter().enumerate();
        let pieces = pieces.map(|(index, piece)| piece.skip(if index == 0 { within } else { 0 }));
        (self.file.clone(), pieces.filter(|piece| piece.length() > 0).collect())
    }
}

/// Copies as much as there is room for. Returns how much that is.
fn copy(bytes: &[u8], into: &mut [u8]) -> usize {
    let count = bytes.len().min(into.len());
    into[..count].copy_from_slice(&bytes[..count]);
    count
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

/// Takes the content out of a response, if it is its body still.
pub(super) fn take(response: &Response) -> Option<Content> {
    Attached::<Content>::of(response)?.value().take()
}

/// The content as the body of a response, for whoever reads that.
struct Reader {
    content: Attached<Content>,
    /// What was shown of it, of which `used` bytes were taken.
    shown: Vec<u8>,
    used: usize,
}

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.used < self.shown.len() {
            let count = copy(&self.shown[self.used..], into);
            self.used += count;
            return Poll::Ready(Ok(count));
        }
        let mut content = self.content.value();
        content.as_mut().map_or(Poll::Ready(Ok(0)), |content| content.poll_read(context, into))
    }
}

impl AsyncBufRead for Reader {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let reader = self.get_mut();
        if reader.used == reader.shown.len() {
            let mut shown = vec![0; SHOWN_BYTES];
            let count = ready!(Pin::new(&mut *reader).poll_read(context, &mut shown))?;
            shown.truncate(count);
            (reader.shown, reader.used) = (shown, 0);
        }
        Poll::Ready(Ok(&reader.shown[reader.used..]))
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        self.used = (self.used + count).min(self.shown.len());
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_fn};
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> Vec<u8> {
        (0..=250).cycle().take(400_000).collect()
    }

    fn content(pieces: impl Into<Vec<Piece>>, tells: bool) -> Content {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes(), 0).unwrap();
        Content { tells, ..Content::new(Some(file), pieces) }
    }

    /// Reads up to `most` bytes, in steps.
    fn read(content: &mut Content, step: usize, most: usize) -> Vec<u8> {
        let (mut all, mut buffer) = (Vec::new(), vec![0; step]);
        while all.len() < most {
            match block_on(poll_fn(|context| content.poll_read(context, &mut buffer))).unwrap() {
                0 => break,
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
        all
    }

    #[test]
    fn a_body_has_the_length_of_its_pieces_and_is_read_like_any_other() {
        let mut response = Response::new(200);
        content([Piece::Memory(b"abc".to_vec()), Piece::File(5..9), Piece::File(0..0)], true)
            .attach(&mut response)
            .unwrap();
        assert_eq!(response.len(), Some(7));
        let read = smol::block_on(response.body_bytes()).unwrap();
        assert_eq!(read, [b"abc", &bytes()[5..9]].concat());
    }

    #[test]
    fn a_content_that_was_replaced_as_the_body_is_not_sent() {
        let mut response = Response::new(200);
        content([Piece::File(0..9)], true).attach(&mut response).unwrap();
        response.set_body("another");
        assert!(take(&response).is_none());
        content([Piece::File(0..9)], true).attach(&mut response).unwrap();
        assert!(take(&response).is_some());
    }

    #[test]
    fn a_reader_that_takes_little_holds_one_piece_at_the_most() {
        for tells in [true, false] {
            let mut content = content([Piece::File(0..400_000)], tells);
            for _ in 0..1000 {
                assert_eq!(read(&mut content, 1, 1).len(), 1);
                assert!(content.read.capacity() <= READ_BYTES);
            }
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error() {
        for tells in [true, false] {
            let mut content = content([Piece::File(399_999..400_001)], tells);
            let mut room = [0; 9];
            assert_eq!(block_on(poll_fn(|context| content.poll_read(context, &mut room))).unwrap(), 1);
            let error = block_on(poll_fn(|context| content.poll_read(context, &mut room))).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn pieces_are_sent_in_order_wherever_the_kernel_has_them_and_whoever_goes_on(
            parts in prop::collection::vec((0_u64..400_000, 0_u64..200_000, prop::collection::vec(any::<u8>(), 0..9)), 0..5),
            step in 500_usize..100_000, at in 0_usize..500_000, unsent in 0_usize..500_000,
        ) {
            let all = bytes();
            let (mut pieces, mut expected) = (Vec::new(), Vec::new());
            for (start, length, text) in parts {
                let end = (start + length).min(400_000);
                expected.extend_from_slice(&text);
                expected.extend_from_slice(&all[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()]);
                pieces.extend([Piece::Memory(text), Piece::File(start..end)]);
            }
            for tells in [true, false] {
                let mut first = content(pieces.clone(), tells);
                let mut sent = read(&mut first, step, at);
                let unsent = unsent.min(sent.len());
                sent.truncate(sent.len() - unsent);
                let (file, rest) = first.rest(unsent as u64);
                let mut second = Content { tells, ..Content::shared(file, rest) };
                sent.extend(read(&mut second, step, usize::MAX));
                prop_assert!(sent == expected);
            }
        }
    }
}
