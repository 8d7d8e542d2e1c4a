//! A request's body while it is read: how much of it is left, and why it cannot be read to its end, if it cannot.
//!
//! It takes framing off bytes that others receive, and keeps the time in which its client has to send them. It never
//! receives, and does not know who reads.

use std::io;
use std::task::{Context, Poll};

use super::super::capacity::Capacity;
use super::super::deadline::Deadline;
use super::super::limits::Limits;
use super::super::message::chunked::{Chunked, Next};
use super::super::message::framing::Framing;
use super::super::message::refusal::Refusal;
use super::super::pace::{Over, Pace};
use super::super::transport::buffer::Buffer;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// After so many bytes of a body without a wait its reader gives way to other tasks.
const YIELD_BYTES: usize = 256 * 1024;

/// How a request's body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyState {
    /// The request has none, or is over.
    None,
    /// All of it was read.
    Complete,
    /// The client sends what is left, without being asked; so many bytes, where that is known.
    Coming {
        left: Option<u64>,
        /// Whether its reader was dropped: nobody will read what is left.
        abandoned: bool,
    },
    /// The client waits for a 100 that it has not got. It may never send the body.
    Withheld { abandoned: bool },
    /// It cannot be read to its end.
    Faulted(Fault),
}

/// Why a request's body cannot be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The client broke a rule or a limit.
    Refused(Refusal),
    /// The bytes came too slowly, or none for too long.
    Late,
    /// They came slowly, and others waited for room.
    Crowded,
    /// The client closed the connection within the body.
    Cut,
    /// The connection failed.
    Failed(io::ErrorKind),
}

impl BodyState {
    /// What made the body unreadable, if anything did.
    pub(crate) fn fault(self) -> Option<Fault> {
        if let BodyState::Faulted(fault) = self { Some(fault) } else { None }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> io::Error {
        match fault {
            Fault::Refused(refusal) => io::Error::new(io::ErrorKind::InvalidData, refusal.cause),
            Fault::Late | Fault::Crowded => io::Error::new(io::ErrorKind::TimedOut, "the body came too slowly"),
            Fault::Cut => io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed within the body"),
            Fault::Failed(kind) => kind.into(),
        }
    }
}

/// How the 100 that a client may wait for stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Continue {
    /// The client does not wait, or got its 100.
    Settled,
    /// The client waits; this much of the 100 is still to be sent.
    Wanted { left: &'static [u8] },
    /// The response began before the 100 was sent: it can't be sent any more, and the client may never send the body.
    TooLate,
}

/// A request's body while it is read.
#[derive(Debug)]
pub(super) struct RequestBody {
    decoder: Decoder,
    fault: Option<Fault>,
    interim: Continue,
    /// How much longer whoever reads it waits for bytes.
    pace: Pace,
    deadline: Deadline,
    /// How many bytes were read since the task last gave way to others.
    unyielded: usize,
    /// Whether the reader of the body was dropped: nobody will read what is left.
    abandoned: bool,
}

/// The trailers of a chunked body, raw.
pub(crate) type Trailers = Vec<u8>;

#[derive(Debug)]
enum Decoder {
    Length(u64),
    Chunked(Box<Chunked>),
    Complete,
}

impl RequestBody {
    /// A body that is about to be read. Nothing if the framing says that there is none.
    pub(super) fn new(framing: Framing, expects_continue: bool, limits: &Limits) -> Option<RequestBody> {
        let decoder = match framing {
            Framing::None => return None,
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::Chunked(Box::new(Chunked::new(limits.body_bytes))),
        };
        let interim = if expects_continue { Continue::Wanted { left: CONTINUE } } else { Continue::Settled };
        let (pace, deadline) = (Pace::new(limits.body_timeout), Deadline::default());
        Some(RequestBody { decoder, fault: None, interim, pace, deadline, unyielded: 0, abandoned: false })
    }

    /// How it stands.
    pub(super) fn state(&self) -> BodyState {
        let abandoned = self.abandoned;
        match (self.fault, &self.decoder) {
            (Some(fault), _) => BodyState::Faulted(fault),
            (None, Decoder::Complete) => BodyState::Complete,
            (None, _) if self.interim != Continue::Settled => BodyState::Withheld { abandoned },
            (None, Decoder::Length(left)) => BodyState::Coming { left: Some(*left), abandoned },
            (None, Decoder::Chunked(_)) => BodyState::Coming { left: None, abandoned },
        }
    }

    /// What made it unreadable, if anything did.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// It cannot be read any more.
    pub(super) fn fail(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    /// Its reader was dropped.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
        self.unyielded = 0;
    }

    /// Whether so much was read without a wait that others should have their turn.
    pub(super) fn is_to_yield(&mut self) -> bool {
        let yields = self.unyielded > YIELD_BYTES;
        if yields {
            self.unyielded = 0;
        }
        yields
    }

    /// What is still to be sent of the 100 that the client waits for; nothing if it does not wait.
    pub(super) fn wanted_interim(&self) -> Option<&'static [u8]> {
        if let Continue::Wanted { left } = self.interim { Some(left) } else { None }
    }

    /// So many bytes of the 100 were sent.
    pub(super) fn sent_interim(&mut self, count: usize) {
        if let Continue::Wanted { left } = self.interim {
            let left = &left[count.min(left.len())..];
            self.interim = if left.is_empty() { Continue::Settled } else { Continue::Wanted { left } };
        }
    }

    /// Rules out a 100 from now on, because the response begins. Returns the rest of one that was partly sent.
    pub(super) fn response_begins(&mut self) -> &'static [u8] {
        match self.interim {
            Continue::Settled | Continue::TooLate => b"",
            Continue::Wanted { left } if left.len() < CONTINUE.len() => {
                self.interim = Continue::Settled;
                left
            }
            Continue::Wanted { .. } => {
                self.interim = Continue::TooLate;
                b""
            }
        }
    }

    /// Waits for the deadline of whoever waits for bytes.
    pub(super) fn poll_late(&mut self, room: &Capacity, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let over = self.pace.poll(&mut self.deadline, room, context);
        over.map(|over| Err(if over == Over::Late { Fault::Late } else { Fault::Crowded }))
    }

    /// Advances through framing at the start of `buffer`. Returns how many bytes of data come next, 0 at the end of the
    /// body, or nothing if more input is needed to know.
    pub(super) fn next_data(&mut self, buffer: &mut Buffer) -> Result<Option<u64>, Fault> {
        match &mut self.decoder {
            Decoder::Complete => Ok(Some(0)),
            Decoder::Length(left) => Ok(Some(*left)),
            Decoder::Chunked(chunked) => {
                let (used, next) = chunked.advance(buffer.filled()).map_err(Fault::Refused)?;
                buffer.consume(used);
                Ok(match next {
                    Next::Data(left) => Some(left),
                    Next::More => None,
                    Next::End => Some(0),
                })
            }
        }
    }

    /// The client sent so many bytes: it is waited for no longer.
    pub(super) fn came(&mut self, count: usize) {
        self.pace.moved(count);
    }

    /// Says that it ends here. Returns the raw trailers of a chunked body, once.
    pub(super) fn finish(&mut self) -> Option<Trailers> {
        match std::mem::replace(&mut self.decoder, Decoder::Complete) {
            Decoder::Chunked(chunked) => Some(chunked.into_trailers()),
            Decoder::Length(_) | Decoder::Complete => None,
        }
    }

    /// Says that `count` bytes of data were taken. The end of a body of known length is reached by taking them.
    pub(super) fn took(&mut self, count: usize) {
        self.unyielded += count;
        match &mut self.decoder {
            Decoder::Length(left) => {
                *left -= count as u64;
                if *left == 0 {
                    self.decoder = Decoder::Complete;
                }
            }
            Decoder::Chunked(chunked) => chunked.took(count as u64),
            Decoder::Complete => {}
        }
    }
}
