//! The frames of a WebSocket between its connection and the library that understands them, for one that is to go on in
//! another process in the middle of a message.
//!
//! It knows of a frame only how long it is (RFC 6455, section 5.2); what is in it is the library's matter. It does no I/O:
//! what it reads was received by its owner, and what it writes is its owner's to send.

use std::io::{self, Read, Write};

/// So much of a message that has not come to its end is kept, heads of frames included; while it is longer, it cannot
/// travel.
pub const KEPT_BYTES_MAX: usize = 40 * 1024;

/// What a library of frames, such as tungstenite, reads and writes in the place of a connection. It never waits
/// ([`WouldBlock`](io::ErrorKind::WouldBlock)), and gives no more than one frame at a time, so that the library never has
/// bytes of the next message. What came since the end of the last message is kept: another process reads it again.
///
/// Its owner says when the library has come to the end of a message.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    /// What came since the end of the last message, but for messages of control.
    unread: Vec<u8>,
    /// How many bytes of it the library has.
    taken: usize,
    /// Where the frame begins that the library reads, and how much of it is still to come.
    frame: usize,
    frame_left: u64,
    /// The beginning of the message is not kept any more.
    is_cut: bool,
    output: Vec<u8>,
}

impl FrameBuffer {
    /// More has come.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// Whether what is unread can travel: it is all there, and at most [`KEPT_BYTES_MAX`].
    pub fn can_be_kept(&self) -> bool {
        !self.is_cut && self.unread.len() <= KEPT_BYTES_MAX
    }

    /// The library has come to the end of a message of data: nobody has to read it again.
    pub fn message_ends(&mut self) {
        self.unread.drain(..self.taken);
        (self.taken, self.frame, self.is_cut) = (0, 0, false);
    }

    /// The library has come to the end of a message of control, which may stand between the parts of one of data.
    pub fn control_ends(&mut self) {
        self.unread.drain(self.frame..self.taken);
        self.taken = self.frame;
    }

    /// What is to be read again, as the first that another one [`receive`](FrameBuffer::receive)s. Nothing is to be read of
    /// this one any more.
    pub fn take_unread(&mut self) -> Vec<u8> {
        let output = self.take_output();
        std::mem::replace(self, FrameBuffer { output, ..FrameBuffer::default() }).unread
    }

    /// What the library has written, and nobody has sent.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// So many bytes of the output have been sent. Panics where there are not so many.
    pub fn sent(&mut self, count: usize) {
        self.output.drain(..count);
    }

    /// The output, to be sent as a whole.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Finds out how long the frame is that begins here. Nothing as long as that cannot be told.
    fn begin_frame(&mut self) -> Option<u64> {
        let head = &self.unread[self.taken..];
        let second = *head.get(1)?;
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let length = head.get(2..2 + extended)?.iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
        let length = if extended == 0 { u64::from(second & 0x7f) } else { length };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        Some(length.saturating_add(2 + extended as u64 + mask))
    }
}

impl Read for FrameBuffer {
    /// Bytes of one frame at the most: so the library has never more than the message that it gives.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.frame_left == 0 {
            self.frame_left = self.begin_frame().ok_or(io::ErrorKind::WouldBlock)?;
            self.frame = self.taken;
        }
        let there = &self.unread[self.taken..];
        let left = usize::try_from(self.frame_left).unwrap_or(usize::MAX);
        let count = into.len().min(there.len()).min(left);
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        into[..count].copy_from_slice(&there[..count]);
        self.taken += count;
        self.frame_left -= count as u64;
        if self.taken > KEPT_BYTES_MAX {
            self.unread.drain(..self.taken);
            (self.taken, self.frame, self.is_cut) = (0, 0, true);
        }
        Ok(count)
    }
}

impl Write for FrameBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(memory: &mut FrameBuffer) -> Vec<Vec<u8>> {
        let mut pieces = vec![];
        let mut into = [0; 4096];
        while let Ok(count) = memory.read(&mut into) {
            pieces.push(into[..count].to_vec());
        }
        pieces
    }

    #[test]
    fn the_library_never_has_more_than_one_frame_and_what_is_not_over_is_kept() {
        let mut memory = FrameBuffer::default();
        let (text, ping) = ([&[0x01, 0x82, 1, 2, 3, 4][..], b"ab"].concat(), [0x89, 0x80, 9, 9, 9, 9]);
        memory.receive(&text);
        memory.receive(&ping[..1]);
        assert_eq!(read_all(&mut memory).concat(), text, "the next one's length is not known");
        memory.receive(&ping[1..]);
        assert_eq!(read_all(&mut memory), [ping.to_vec()]);
        memory.control_ends();
        memory.receive(b"\x80");
        assert!(memory.can_be_kept());
        assert_eq!(memory.take_unread(), [&text[..], b"\x80"].concat(), "without the ping, which was answered");
    }

    #[test]
    fn an_end_that_is_said_twice_takes_nothing_of_what_is_to_be_read() {
        let mut memory = FrameBuffer::default();
        let (first, last) = ([0x01, 0x80, 1, 2, 3, 4], [0x80, 0x80, 1, 2, 3, 4]);
        memory.receive(&[first, last].concat());
        read_all(&mut memory);
        memory.receive(b"\x81");
        for end in [FrameBuffer::message_ends, FrameBuffer::control_ends, FrameBuffer::message_ends] {
            end(&mut memory);
        }
        assert_eq!(memory.take_unread(), b"\x81");
    }

    #[test]
    fn a_message_that_is_too_long_to_be_kept_is_read_all_the_same() {
        let mut memory = FrameBuffer::default();
        let length = KEPT_BYTES_MAX + 10;
        memory.receive(&[&[0x82, 0xff][..], &(length as u64).to_be_bytes(), &[0; 4]].concat());
        let mut read = 0;
        while read < length + 14 {
            memory.receive(&[7; 1000][..(length + 14).saturating_sub(read).min(1000)]);
            read += read_all(&mut memory).concat().len();
        }
        assert!(!memory.can_be_kept() && memory.unread.len() <= KEPT_BYTES_MAX);
        memory.message_ends();
        memory.receive(b"\x81");
        assert!(memory.can_be_kept());
    }
}
