//! The records of an established connection, on the server's side: data sealed and opened, KeyUpdates, alerts, the end.
//!
//! [`Records::open`] takes what was received, a record at a time and in place; [`Records::seal`] is the only method that
//! makes bytes to be sent: whatever else is due (an alert, an answer) goes along or before. It owns no buffer and does no
//! I/O. Here stands what may come when; what a record is made of is `keys`' to know.

use std::fmt;
use std::ops::Range;

use rustls::AlertDescription;

use super::failure::Failure;
use super::keys::{DATA_BYTES_MAX, Direction, HEADER_BYTES, Kind, Material, OVERHEAD_BYTES_MAX, Suite, Version};

/// How many records in a row may bring nothing, without data of ours between them.
const FRUITLESS_MAX: u8 = 32;

/// A room in which there is place for whatever is due first, or for some data.
pub(crate) const ROOM_BYTES_MIN: usize = OVERHEAD_BYTES_MAX + KEY_UPDATE.len() + 1;

/// The message by which a key is replaced, without its last byte, which says whether ours should be, too.
pub(super) const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];
/// The handshake message that asks for a renegotiation.
const CLIENT_HELLO: u8 = 1;
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// The records of one connection. Not `Clone`: whoever holds it is the only one that may seal.
pub(crate) struct Records {
    suite: Suite,
    receiving: Direction,
    sending: Direction,
    state: State,
}

/// Where a connection stands, apart from its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    /// The client asked for new keys: a KeyUpdate is due, before any data.
    pub(super) update_due: bool,
    /// The client asked for a renegotiation, and has to be told that there is none.
    pub(super) refusal_due: bool,
    /// How much of a [`KEY_UPDATE`] has come.
    pub(super) partial: u8,
    /// Records in a row that brought nothing.
    pub(super) fruitless: u8,
}

/// What may still come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inbound {
    Open,
    /// close_notify came.
    Ended,
    Failed,
}

/// What may still be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outbound {
    Open,
    /// This alert, and then nothing.
    Due(AlertDescription),
    Ended,
}

/// What the front of the received bytes was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Less than a record; nothing was touched.
    Partial,
    /// The first `used` bytes were a record and are spent. Its data lies in place, at `data` among them; where that is
    /// empty, the record was not meant for the application.
    Record { used: usize, data: Range<usize> },
    /// The client ended its direction in order. What lies behind is to be ignored.
    Ended,
}

/// What was sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// So many bytes of the data, from its front.
    pub(crate) taken: usize,
    /// So many bytes to be sent, at the front of the room.
    pub(crate) written: usize,
}

impl Records {
    /// An established connection. `receiving` is what the client's keys are made of, `sending` ours.
    pub(super) fn new(suite: Suite, receiving: Material, sending: Material) -> Records {
        let state = State {
            inbound: Inbound::Open,
            outbound: Outbound::Open,
            update_due: false,
            refusal_due: false,
            partial: 0,
            fruitless: 0,
        };
        Records::with_state(suite, receiving, sending, state)
    }

    pub(super) fn with_state(suite: Suite, receiving: Material, sending: Material, state: State) -> Records {
        let (receiving, sending) = (Direction::new(suite, receiving), Direction::new(suite, sending));
        Records { suite, receiving, sending, state }
    }

    /// The version and the cipher.
    pub(crate) fn suite(&self) -> Suite {
        self.suite
    }

    /// What a record is longer than its data.
    pub(crate) fn overhead_bytes(&self) -> usize {
        self.suite.overhead_bytes()
    }

    /// Gives back the memory that only the next records need.
    pub(crate) fn rest(&mut self) {
        self.receiving.rest();
        self.sending.rest();
    }

    /// Takes it apart: the client's keys, ours, and the rest. It can seal no more.
    pub(super) fn into_parts(self) -> (Suite, Material, Material, State) {
        (self.suite, self.receiving.into_material(), self.sending.into_material(), self.state)
    }

    /// Whether the client has ended its direction by close_notify. The end of the stream without it is a truncation.
    pub(crate) fn is_ended(&self) -> bool {
        self.state.inbound == Inbound::Ended
    }

    /// Whether data can still be sent: nothing failed, and nobody called [`close`](Records::close).
    pub(crate) fn is_open(&self) -> bool {
        self.state.outbound == Outbound::Open
    }

    /// Whether [`seal`](Records::seal) has something to send even without data: an alert, or the answer to a KeyUpdate.
    pub(crate) fn is_due(&self) -> bool {
        match self.state.outbound {
            Outbound::Open => self.state.update_due || self.state.refusal_due,
            Outbound::Due(_) => true,
            Outbound::Ended => false,
        }
    }

    /// Ends our direction: the next [`seal`](Records::seal) sends close_notify. What the client sends can still be opened.
    pub(crate) fn close(&mut self) {
        if self.is_open() {
            self.state.outbound = Outbound::Due(AlertDescription::CloseNotify);
        }
    }

    /// Opens the record at the front of what was received. Called again until it says [`Opened::Partial`]; a socket that
    /// has nothing more says nothing of what lies here. After a failure the alert is due, and nothing else can be done.
    pub(crate) fn open(&mut self, received: &mut [u8]) -> Result<Opened, Failure> {
        match self.state.inbound {
            Inbound::Ended => return Ok(Opened::Ended),
            Inbound::Failed => return Err(Failure::silent("the connection has failed before")),
            Inbound::Open => {}
        }
        let opened = self.open_record(received);
        if let Err(failure) = opened {
            self.fail(failure);
        }
        opened
    }

    fn open_record(&mut self, received: &mut [u8]) -> Result<Opened, Failure> {
        let Some(header) = received.first_chunk::<HEADER_BYTES>() else { return Ok(Opened::Partial) };
        let used = self.suite.record_bytes(*header)?;
        let Some(record) = received.get_mut(..used) else { return Ok(Opened::Partial) };
        let (kind, content) = self.receiving.open(record)?;
        let is_data = kind == Kind::Data && !content.is_empty();
        if is_data && self.state.partial == 0 {
            self.state.fruitless = 0;
            return Ok(Opened::Record { used, data: content });
        }
        self.take_in(kind, &record[content])?;
        Ok(if self.is_ended() { Opened::Ended } else { Opened::Record { used, data: 0..0 } })
    }

    /// Takes in a record that is not for the application.
    fn take_in(&mut self, kind: Kind, content: &[u8]) -> Result<(), Failure> {
        self.state.fruitless = self.state.fruitless.saturating_add(1);
        if self.state.fruitless > FRUITLESS_MAX {
            return Err(Failure::told(AlertDescription::UnexpectedMessage, "too many records in a row without data"));
        }
        match (kind, self.suite.version) {
            (Kind::Data, _) if self.state.partial > 0 => {
                Err(Failure::told(AlertDescription::UnexpectedMessage, "data within a handshake message"))
            }
            (Kind::Data, _) => Ok(()),
            (Kind::Alert, _) => self.take_alert(content),
            (Kind::Handshake, Version::Tls13) => self.take_handshake(content),
            (Kind::Handshake, Version::Tls12) if content.first() == Some(&CLIENT_HELLO) => {
                self.state.refusal_due = true;
                Ok(())
            }
            (Kind::Handshake, Version::Tls12) => {
                Err(Failure::told(AlertDescription::UnexpectedMessage, "a handshake message after the handshake"))
            }
            (Kind::ChangeCipherSpec, _) => {
                Err(Failure::told(AlertDescription::UnexpectedMessage, "a change of ciphers after the handshake"))
            }
        }
    }

    fn take_alert(&mut self, content: &[u8]) -> Result<(), Failure> {
        let &[level, code] = content else {
            return Err(match content {
                [] => Failure::told(AlertDescription::UnexpectedMessage, "an empty alert"),
                _ => Failure::told(AlertDescription::DecodeError, "an alert of another length"),
            });
        };
        match (AlertDescription::from(code), level, self.suite.version) {
            (AlertDescription::CloseNotify, ..) => {
                self.state.inbound = Inbound::Ended;
                Ok(())
            }
            // In TLS 1.3 an alert's level says nothing, and only these two are no errors (RFC 8446, 6).
            (AlertDescription::UserCanceled, ..) | (_, WARNING, Version::Tls12) => Ok(()),
            (_, FATAL, Version::Tls12) | (_, _, Version::Tls13) => {
                Err(Failure::silent("the client ended the connection by a fatal alert"))
            }
            (_, _, Version::Tls12) => {
                Err(Failure::told(AlertDescription::IllegalParameter, "an alert of no known level"))
            }
        }
    }

    /// Takes in a handshake message of TLS 1.3, or a part of one. There is one that a client may send: KeyUpdate, with
    /// nothing behind it in its record, since what follows is sealed with the next key.
    fn take_handshake(&mut self, content: &[u8]) -> Result<(), Failure> {
        let have = usize::from(self.state.partial);
        let expected = &KEY_UPDATE[have..];
        let fits = content.iter().zip(expected).take_while(|(came, expected)| came == expected).count();
        match content.get(fits..) {
            _ if content.is_empty() => {
                Err(Failure::told(AlertDescription::UnexpectedMessage, "an empty record of the handshake"))
            }
            Some([]) => {
                self.state.partial += u8::try_from(fits).expect("at most four");
                Ok(())
            }
            Some(&[request @ (0 | 1)]) if fits == expected.len() => {
                self.state.partial = 0;
                self.receiving.update();
                self.state.update_due |= request == 1;
                Ok(())
            }
            Some([_]) if fits == expected.len() => {
                Err(Failure::told(AlertDescription::IllegalParameter, "a KeyUpdate of no known kind"))
            }
            Some(_) if fits < expected.len() && have + fits > 0 => {
                Err(Failure::told(AlertDescription::DecodeError, "a KeyUpdate of another length"))
            }
            _ => Err(Failure::told(
                AlertDescription::UnexpectedMessage,
                "a handshake message that is no KeyUpdate alone",
            )),
        }
    }

    /// Seals what is due, and then of the first piece of data and the second as much as `out` has room for, in records of
    /// up to 16 KiB. [`ROOM_BYTES_MIN`] are enough for something. Fails where nothing can be sent any more; what was
    /// written before has to be sent in any case.
    pub(crate) fn seal(&mut self, data: [&[u8]; 2], out: &mut [u8]) -> Result<Sealed, Failure> {
        let mut sealed = Sealed::default();
        let mut rest = data;
        while self.is_open() && (self.state.update_due || rest != [&[] as &[u8]; 2]) {
            match self.seal_next(rest, &mut out[sealed.written..]) {
                Ok(Sealed { written: 0, .. }) => return Ok(sealed),
                Ok(next) => {
                    rest = split(rest, next.taken).1;
                    sealed.taken += next.taken;
                    sealed.written += next.written;
                }
                Err(failure) => self.fail(failure),
            }
        }
        sealed.written += self.seal_due(&mut out[sealed.written..]);
        let is_in_vain = sealed == Sealed::default() && rest != [&[] as &[u8]; 2];
        if is_in_vain && self.state.outbound == Outbound::Ended {
            return Err(Failure::silent("nothing can be sent any more"));
        }
        Ok(sealed)
    }

    /// Seals one record: a KeyUpdate where one has to go first, or data.
    fn seal_next(&mut self, data: [&[u8]; 2], out: &mut [u8]) -> Result<Sealed, Failure> {
        let room = out.len().saturating_sub(self.suite.overhead_bytes()).min(DATA_BYTES_MAX);
        match (self.state.update_due || self.sending.is_used_up(), self.suite.version) {
            (true, Version::Tls12) => Err(Failure::told(AlertDescription::CloseNotify, "a key of TLS 1.2 is used up")),
            (true, Version::Tls13) if room > KEY_UPDATE.len() => {
                let written = self.sending.seal(Kind::Handshake, [&KEY_UPDATE, &[0]], out)?;
                self.sending.update();
                self.state.update_due = false;
                Ok(Sealed { taken: 0, written })
            }
            (false, _) if room > 0 => {
                let piece = split(data, room).0;
                let written = self.sending.seal(Kind::Data, piece, out)?;
                self.state.fruitless = 0;
                Ok(Sealed { taken: piece[0].len() + piece[1].len(), written })
            }
            (true | false, _) => Ok(Sealed::default()),
        }
    }

    /// Seals the alerts that are due and for which there is room.
    fn seal_due(&mut self, out: &mut [u8]) -> usize {
        let mut written = 0;
        let alert_bytes = self.suite.overhead_bytes() + 2;
        if self.state.refusal_due && self.state.outbound != Outbound::Ended && out.len() >= alert_bytes {
            self.state.refusal_due = false;
            written += self.seal_alert(AlertDescription::NoRenegotiation, out);
        }
        if let Outbound::Due(alert) = self.state.outbound
            && out.len() - written >= alert_bytes
        {
            self.state.outbound = Outbound::Ended;
            written += self.seal_alert(alert, &mut out[written..]);
        }
        written
    }

    /// Seals an alert, or nothing where not even that can be done.
    fn seal_alert(&mut self, alert: AlertDescription, out: &mut [u8]) -> usize {
        let is_warning = matches!(alert, AlertDescription::CloseNotify | AlertDescription::NoRenegotiation);
        let content = [if is_warning { WARNING } else { FATAL }, u8::from(alert)];
        self.sending.seal(Kind::Alert, [&content, &[]], out).unwrap_or(0)
    }

    fn fail(&mut self, failure: Failure) {
        self.state.inbound = Inbound::Failed;
        self.state.refusal_due = false;
        self.state.outbound = match (failure.alert, self.state.outbound) {
            (_, Outbound::Ended) | (None, _) => Outbound::Ended,
            (Some(alert), Outbound::Open | Outbound::Due(_)) => Outbound::Due(alert),
        };
    }
}

/// What only a test may do.
#[cfg(test)]
impl Records {
    pub(super) fn limit_to(&mut self, limit: u64) {
        self.sending.limit_to(limit);
    }

    pub(super) fn skip_to(&mut self, sequence: u64) {
        self.sending.skip_to(sequence);
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("suite", &self.suite).field("state", &self.state).finish_non_exhaustive()
    }
}

/// The first `count` bytes of two pieces, and the rest.
fn split([first, second]: [&[u8]; 2], count: usize) -> ([&[u8]; 2], [&[u8]; 2]) {
    let (first, first_rest) = first.split_at(count.min(first.len()));
    let (second, second_rest) = second.split_at((count - first.len()).min(second.len()));
    ([first, second], [first_rest, second_rest])
}
