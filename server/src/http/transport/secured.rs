//! An established TLS connection between the socket and those above: what waits to be opened, and what waits to be sent.
//!
//! What was sealed is sent as it is, here or wherever the connection goes: it counts as taken from those above. So each
//! send begins with what is left of the one before, and whatever else is due (an answer to a KeyUpdate, an alert) leaves
//! by itself, also while somebody only waits for bytes. At most one piece is sealed ahead of the socket.

use std::io;
use std::ops::Range;
use std::task::{Context, Poll};

use rustix::net::Shutdown;

use super::buffer::{BUFFER_BYTES, Buffer};
use super::socket::Socket;
use super::tls::frozen::Frozen;
use super::tls::keys::DATA_BYTES_MAX;
use super::tls::records::{Opened, ROOM_BYTES_MIN, Records};

/// So many whole records are sealed at a time. What is sealed and not sent yet has to travel where the connection moves.
const RECORDS_AT_ONCE: usize = 2;

/// What of TLS goes on elsewhere: its records, which nobody can use meanwhile, and bytes as they are on the wire.
pub(crate) struct Sealed {
    pub(crate) frozen: Frozen,
    /// What was received and not opened.
    pub(crate) received: Vec<u8>,
    /// What was sealed and not sent.
    pub(crate) unsent: Vec<u8>,
}

/// The records of a connection, and the bytes before and behind them.
#[derive(Debug)]
pub(super) struct Secured {
    records: Records,
    /// What was received: the record that was opened, and what is to be opened after it.
    raw: Buffer,
    /// How long the record at the front is, if it was opened, and where the rest of its data lies.
    opened: Option<(usize, Range<usize>)>,
    /// What was sealed and not sent.
    unsent: Buffer,
    /// How many bytes left that nobody has asked for yet.
    left: usize,
    /// Whether nothing is sent behind what is sealed.
    is_last: bool,
}

/// What comes next of what the client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Data,
    End,
    /// Nothing, before more is received.
    More,
}

impl Secured {
    /// A connection whose handshake is over, and what was received behind it.
    pub(super) fn new(records: Records, received: Vec<u8>) -> Secured {
        Secured::with(records, received, Vec::new())
    }

    /// Goes on with a connection, of which whoever calls this is the only owner.
    pub(super) fn thaw(sealed: Sealed) -> Secured {
        let Sealed { frozen, received, unsent } = sealed;
        Secured::with(frozen.thaw(), received, unsent)
    }

    fn with(records: Records, received: Vec<u8>, unsent: Vec<u8>) -> Secured {
        let (raw, unsent) = (Buffer::with(received), Buffer::with(unsent));
        Secured { records, raw, opened: None, unsent, left: 0, is_last: false }
    }

    /// Takes it apart, to go on elsewhere: the data that was opened and not taken, and the rest.
    pub(super) fn freeze(mut self) -> (Vec<u8>, Sealed) {
        let mut data = Vec::new();
        if let Some((used, rest)) = self.opened.take() {
            data.extend_from_slice(&self.raw.filled()[rest]);
            self.raw.consume(used);
        }
        let (received, unsent) = (self.raw.take(), self.unsent.take());
        (data, Sealed { frozen: self.records.freeze(), received, unsent })
    }

    /// Gives back the memory that only the next records need.
    pub(super) fn rest(&mut self) {
        self.records.rest();
    }

    /// How many bytes wait here, to be taken or to be sent.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.raw.filled().len() + self.unsent.filled().len()
    }

    /// How many bytes have left since this was asked last.
    pub(super) fn left(&mut self) -> usize {
        std::mem::take(&mut self.left)
    }

    /// Waits until a receive is worth a try. What is sealed leaves meanwhile.
    pub(super) fn poll_readable(&mut self, socket: &Socket, context: &mut Context<'_>) -> Poll<()> {
        if !matches!(self.next(socket), Ok(Next::More)) {
            return Poll::Ready(());
        }
        // Whatever is waited for, it may be long.
        self.raw.settle();
        while !self.is_flushed() && socket.poll_writable(context).is_ready() {
            // Where nothing can be sent any more, nothing waits for it.
            let _ = self.flush(socket);
        }
        socket.poll_readable(context)
    }

    /// Receives data, 0 at the end that the client has announced. An end that it has not is an error, since anybody can
    /// make one.
    pub(super) fn receive(&mut self, socket: &Socket, room: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.next(socket)? {
                Next::Data => return Ok(self.take(room)),
                Next::End => return Ok(0),
                Next::More => {}
            }
            match socket.receive(self.raw.room()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.raw.added(count),
                Err(error) => {
                    self.raw.settle();
                    return Err(error);
                }
            }
        }
    }

    /// Takes of the data that was opened.
    fn take(&mut self, room: &mut [u8]) -> usize {
        let Some((used, data)) = &mut self.opened else { return 0 };
        let count = room.len().min(data.len());
        room[..count].copy_from_slice(&self.raw.filled()[data.start..data.start + count]);
        data.start += count;
        if data.start == data.end {
            self.raw.consume(*used);
            self.opened = None;
        }
        count
    }

    /// Opens records until one brings something.
    fn next(&mut self, socket: &Socket) -> io::Result<Next> {
        loop {
            if self.opened.is_some() {
                return Ok(Next::Data);
            }
            match self.records.open(self.raw.filled_mut()) {
                Ok(Opened::Partial) => return Ok(Next::More),
                Ok(Opened::Ended) => return Ok(Next::End),
                Ok(Opened::Record { used, data }) if data.is_empty() => self.raw.consume(used),
                Ok(Opened::Record { used, data }) => self.opened = Some((used, data)),
                Err(failure) => {
                    log::debug!("{failure}");
                    let _ = self.flush(socket);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, failure));
                }
            }
            if self.records.is_due() {
                // What cannot leave now does so before anything else.
                let _ = self.flush(socket);
            }
        }
    }

    /// Sends, of the first bytes and then of the second. What is sealed is taken, whether or not it has left.
    pub(super) fn send(&mut self, socket: &Socket, parts: [&[u8]; 2]) -> io::Result<usize> {
        self.flush(socket)?;
        let length = parts[0].len() + parts[1].len();
        if length == 0 {
            return Ok(0);
        }
        let room = if length > BUFFER_BYTES / 2 {
            let most = RECORDS_AT_ONCE * (DATA_BYTES_MAX + self.records.overhead_bytes());
            &mut self.unsent.large_room()[..most]
        } else {
            self.unsent.room()
        };
        let sealed =
            self.records.seal(parts, room).map_err(|failure| io::Error::new(io::ErrorKind::BrokenPipe, failure))?;
        self.unsent.added(sealed.written);
        match self.flush(socket) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Ok(()) | Err(_) if sealed.taken > 0 => Ok(sealed.taken),
            // There was room for any data; what was sealed is an alert.
            Ok(()) | Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Sends what is sealed, and what is due by itself.
    pub(super) fn flush(&mut self, socket: &Socket) -> io::Result<()> {
        loop {
            while !self.unsent.is_empty() {
                match socket.send([self.unsent.filled(), b""]) {
                    Ok(count) => {
                        self.unsent.consume(count);
                        self.left += count;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.unsent.settle();
                        return Err(error);
                    }
                    Err(error) => {
                        self.unsent = Buffer::default();
                        return Err(error);
                    }
                }
            }
            if !self.records.is_due() {
                break;
            }
            // Only where nothing waits, so that a client which takes nothing cannot have answers heaped up.
            let room = self.unsent.room();
            debug_assert!(room.len() >= ROOM_BYTES_MIN, "what is due finds room");
            let sealed = self.records.seal([b"", b""], room).unwrap_or_default();
            self.unsent.added(sealed.written);
        }
        self.unsent.settle();
        if std::mem::take(&mut self.is_last) {
            socket.shut_down(Shutdown::Write);
        }
        Ok(())
    }

    /// Says that nothing more will be sent. The socket is told when the last byte has left.
    pub(super) fn shut_down_sending(&mut self, socket: &Socket) {
        self.is_last = true;
        self.close(socket);
    }

    /// Ends our direction in order, as far as there is room for that. Returns whether nothing is left to be told: it was,
    /// or nobody is there. Else it leaves with the next flush.
    pub(super) fn close(&mut self, socket: &Socket) -> bool {
        self.records.close();
        !self.flush(socket).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn is_flushed(&self) -> bool {
        self.unsent.is_empty() && !self.records.is_due()
    }
}
