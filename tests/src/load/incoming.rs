//! An answer as it arrives: its head, and then its body in pieces, for bodies that are too long to be kept, that have no
//! end, or that are read slowly. It checks the framing, and not what is in it.

use std::{io, time::Duration};

use super::{
    Answer, Fault, FaultKind, Limits, Target,
    answer::{excerpt, parse_head},
    connection::within,
    socket::Socket,
};

/// The kernel's buffer of a client that reads slowly: what does not fit into it is still the server's to send.
const RECEIVE_BYTES: usize = 64 * 1024;

/// The longest line of a chunk's size.
const CHUNK_LINE_BYTES_MAX: usize = 1024;

/// What is left of a body.
enum Framing {
    Length(u64),
    /// So many bytes of the present chunk. `is_first`: no line end stands before the next one's size.
    Chunks {
        left: u64,
        is_first: bool,
    },
    /// Whatever comes: another protocol.
    Stream,
    Over,
}

/// The connection and what of the answer is still to come.
pub(super) struct Incoming {
    socket: Socket,
    received: Vec<u8>,
    framing: Framing,
    limit: Duration,
}

impl Incoming {
    /// Connects, asks, and reads the head of the answer, which has to have this status.
    pub(super) async fn ask(
        target: &Target,
        request: &str,
        status: u16,
        limits: Limits,
    ) -> Result<(Self, Answer), Fault> {
        let connecting = Socket::connect_buffered(target, None, Some(RECEIVE_BYTES));
        let socket = match within(limits.connect, connecting).await {
            Some(Ok(socket)) => socket,
            Some(Err(error)) => return Err(Fault::new(FaultKind::Refused, format!("connect to {target}: {error}"))),
            None => return Err(Fault::new(FaultKind::Late, format!("connect to {target}: none in {limits:?}"))),
        };
        let mut incoming = Self { socket, received: Vec::new(), framing: Framing::Stream, limit: limits.answer };
        incoming.send(request.as_bytes()).await?;
        let answer = incoming.head().await?;
        if answer.status != status {
            let text = format!("status {}, not {status}: {}", answer.status, excerpt(&incoming.received));
            return Err(Fault::new(FaultKind::Refused, text));
        }
        if answer.announces_close() {
            return Err(Fault::new(FaultKind::Closed, "the answer announces a close"));
        }
        incoming.framing = framing(&answer)?;
        Ok((incoming, answer))
    }

    /// Sends bytes.
    pub(super) async fn send(&self, bytes: &[u8]) -> Result<(), Fault> {
        match within(self.limit, self.socket.send(bytes)).await {
            Some(sent) => sent.map_err(|error| Fault::new(FaultKind::Closed, format!("sending: {error}"))),
            None => Err(Fault::new(FaultKind::Late, "the server does not take what is sent")),
        }
    }

    /// The next bytes of the body, as many as have come; nothing at its end. A close before the end is a fault.
    pub(super) async fn piece(&mut self) -> Result<Vec<u8>, Fault> {
        loop {
            match self.framing {
                Framing::Over | Framing::Length(0) => return Ok(Vec::new()),
                Framing::Length(left) if !self.received.is_empty() => {
                    let piece = self.take(left);
                    self.framing = Framing::Length(left - piece.len() as u64);
                    return Ok(piece);
                }
                Framing::Chunks { left: 0, is_first } => match chunk_size(&self.received, is_first)? {
                    Some((used, 0)) => {
                        // The end of the trailers, which this server sends none of, comes with it or is not waited for.
                        self.received.drain(..used);
                        self.framing = Framing::Over;
                        return Ok(Vec::new());
                    }
                    Some((used, left)) => {
                        self.received.drain(..used);
                        self.framing = Framing::Chunks { left, is_first: false };
                        continue;
                    }
                    None => {}
                },
                Framing::Chunks { left, .. } if !self.received.is_empty() => {
                    let piece = self.take(left);
                    self.framing = Framing::Chunks { left: left - piece.len() as u64, is_first: false };
                    return Ok(piece);
                }
                Framing::Stream if !self.received.is_empty() => return Ok(std::mem::take(&mut self.received)),
                Framing::Length(_) | Framing::Chunks { .. } | Framing::Stream => {}
            }
            self.receive().await?;
        }
    }

    /// Takes what has come, at most so many bytes.
    fn take(&mut self, most: u64) -> Vec<u8> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if most >= self.received.len() {
            return std::mem::take(&mut self.received);
        }
        self.received.drain(..most).collect()
    }

    async fn head(&mut self) -> Result<Answer, Fault> {
        loop {
            match parse_head(&self.received) {
                Ok(Some((answer, used))) => {
                    self.received.drain(..used);
                    return Ok(answer);
                }
                Ok(None) => self.receive().await?,
                Err(reason) => return Err(Fault::new(FaultKind::Wrong, reason)),
            }
        }
    }

    /// Waits for more.
    async fn receive(&mut self) -> Result<(), Fault> {
        match within(self.limit, self.socket.receive(&mut self.received)).await {
            Some(Ok(0)) => Err(Fault::new(FaultKind::Closed, "end of stream before the end of the answer")),
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(closed(&error)),
            None => Err(Fault::new(FaultKind::Late, format!("nothing came within {:?}", self.limit))),
        }
    }
}

fn closed(error: &io::Error) -> Fault {
    // TLS that cannot be read is no close.
    let kind = if error.kind() == io::ErrorKind::InvalidData { FaultKind::Wrong } else { FaultKind::Closed };
    Fault::new(kind, error.to_string())
}

fn framing(answer: &Answer) -> Result<Framing, Fault> {
    if answer.status == 101 {
        return Ok(Framing::Stream);
    }
    let length = answer.header("content-length").and_then(|length| length.parse().ok());
    match (length, answer.header("transfer-encoding")) {
        (Some(length), None) => Ok(Framing::Length(length)),
        (None, Some("chunked")) => Ok(Framing::Chunks { left: 0, is_first: true }),
        _ => Err(Fault::new(FaultKind::Wrong, format!("no framing that this client takes: {:?}", answer.headers))),
    }
}

/// The size of the chunk that begins here, and the bytes of its line; with the end of the line before, but for the first.
fn chunk_size(bytes: &[u8], is_first: bool) -> Result<Option<(usize, u64)>, Fault> {
    let before = if is_first { 0 } else { 2 };
    let Some(line) = bytes.get(before..) else { return Ok(None) };
    if !b"\r\n".starts_with(&bytes[..before]) {
        return Err(Fault::new(FaultKind::Wrong, format!("a chunk ends in {}", excerpt(bytes))));
    }
    match httparse::parse_chunk_size(line) {
        Ok(httparse::Status::Complete((used, size))) => Ok(Some((before + used, size))),
        Ok(httparse::Status::Partial) if line.len() <= CHUNK_LINE_BYTES_MAX => Ok(None),
        _ => Err(Fault::new(FaultKind::Wrong, format!("a malformed chunk size: {}", excerpt(line)))),
    }
}

#[cfg(test)]
mod tests {
    use super::chunk_size;

    #[test]
    fn a_chunks_line_is_whole_or_waited_for_or_malformed() {
        for (bytes, is_first, expected) in [
            (&b"1f\r\nrest"[..], true, Some((4, 31))),
            (b"\r\n0\r\n", false, Some((5, 0))),
            (b"", true, None),
            (b"\r", false, None),
            (b"\r\n1", false, None),
        ] {
            assert_eq!(chunk_size(bytes, is_first), Ok(expected), "{bytes:?}");
        }
        for (bytes, is_first) in [(&b"xx\r\n"[..], true), (b"ab1\r\n", false)] {
            assert!(chunk_size(bytes, is_first).is_err(), "{bytes:?}");
        }
    }
}
