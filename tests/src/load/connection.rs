//! One client connection: a request goes out, its answer is read and held against the request, and a failure gets the
//! one name that fits what the socket saw. It reopens nothing and counts nothing: that is the client's part.

use std::{io, net::IpAddr, time::Duration};

use smol::{Timer, future};

use super::{
    Answer, Failure, Look, Target,
    answer::{Parsed, excerpt, parse},
    socket::{Socket, is_refused, is_reset},
};

/// How long a client waits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the handshake.
    pub connect: Duration,
    /// For the answer, from the first byte sent to the last byte received, beyond what the request itself asks for.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), answer: Duration::from_secs(10) }
    }
}

/// A request without its answer: why, and in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Its name in the counts.
    pub failure: Failure,
    /// What the socket said.
    pub detail: String,
}

impl Lost {
    fn new(failure: Failure, detail: impl Into<String>) -> Self {
        Self { failure, detail: detail.into() }
    }
}

/// One request to the demo application, with an id of its own.
#[derive(Clone, Debug)]
pub struct Request {
    id: String,
    head: String,
    body: Vec<u8>,
    pieces: usize,
    over: Duration,
    asks_for: Duration,
    is_last: bool,
}

impl Request {
    /// `GET /fast`.
    pub fn fast(id: impl Into<String>) -> Self {
        Self::get(id, "/fast")
    }

    /// `GET /slow?ms=N`; the answer's deadline is that much later.
    pub fn slow(id: impl Into<String>, pause: Duration) -> Self {
        let request = Self::get(id, &format!("/slow?ms={}", pause.as_millis()));
        Self { asks_for: pause, ..request }
    }

    /// `POST /echo` of this body, in so many pieces spread evenly over the given time.
    pub fn echo(id: impl Into<String>, body: Vec<u8>, pieces: usize, over: Duration) -> Self {
        let id = id.into();
        let head =
            format!("POST /echo HTTP/1.1\r\nhost: localhost\r\nx-id: {id}\r\ncontent-length: {}\r\n", body.len());
        Self { id, head, body, pieces: pieces.max(1), over, asks_for: over, is_last: false }
    }

    /// Asks the server to close the connection after the answer.
    #[must_use]
    pub fn last(mut self) -> Self {
        self.is_last = true;
        self
    }

    fn get(id: impl Into<String>, path: &str) -> Self {
        let id = id.into();
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nx-id: {id}\r\n");
        Self { id, head, body: vec![], pieces: 1, over: Duration::ZERO, asks_for: Duration::ZERO, is_last: false }
    }

    /// The request's id, as in its `x-id`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The head as sent, with its empty line.
    pub fn head(&self) -> String {
        format!("{}{}\r\n", self.head, if self.is_last { "connection: close\r\n" } else { "" })
    }

    /// Holds an answer against this request.
    pub fn check(&self, answer: &Answer) -> Result<(), Lost> {
        let id = answer.header("x-id");
        let wrong = |what: &str| {
            let body = excerpt(&answer.body);
            Err(Lost::new(Failure::WrongAnswer, format!("{what}: asked with {:?}, x-id {id:?}, body {body}", self.id)))
        };
        if answer.status != 200 {
            let detail = format!("status {}, x-id {id:?}, body {}", answer.status, excerpt(&answer.body));
            return Err(Lost::new(Failure::BadStatus, detail));
        }
        if id != Some(&self.id) {
            return wrong("the answer's id is another one");
        }
        if self.head.starts_with("POST") {
            if answer.body != self.body {
                return wrong(&difference(&self.body, &answer.body));
            }
        } else if !answer.text().contains(&format!("id={} ", self.id)) {
            return wrong("the body does not hold the id");
        }
        Ok(())
    }
}

/// A client's connection to the server, with what has been received and not yet used.
pub struct Connection {
    socket: Socket,
    received: Vec<u8>,
    limits: Limits,
    answered: u64,
    last_id: Option<String>,
    last_pid: Option<u32>,
    last_generation: Option<u64>,
    went_back: bool,
}

impl Connection {
    /// Connects within the deadline.
    pub async fn open(target: &Target, limits: Limits) -> Result<Self, Lost> {
        Self::open_from(target, None, limits).await
    }

    /// Connects from a source address of the caller's choice, for more connections than one address has ports.
    pub async fn open_from(target: &Target, source: Option<IpAddr>, limits: Limits) -> Result<Self, Lost> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection within the deadline");
        let socket = within(limits.connect, Socket::connect(target, source)).await.unwrap_or_else(|| Err(late()));
        match socket {
            Ok(socket) => Ok(Self {
                socket,
                received: Vec::new(),
                limits,
                answered: 0,
                last_id: None,
                last_pid: None,
                last_generation: None,
                went_back: false,
            }),
            Err(error) => {
                let failure = match error.kind() {
                    io::ErrorKind::TimedOut => Failure::ConnectTimeout,
                    _ if is_refused(&error) => Failure::ConnectRefused,
                    _ => Failure::Local,
                };
                Err(Lost::new(failure, format!("connect to {target}: {error}")))
            }
        }
    }

    /// Sends a request and reads its answer, which is checked.
    ///
    /// Sending and receiving go on side by side, so that a server which echoes as it receives can't block either.
    pub async fn exchange(&mut self, request: &Request) -> Result<Answer, Lost> {
        let Self { socket, received, .. } = self;
        let answer = future::zip(send_request(socket, request), receive_answer(socket, received));
        let deadline = self.limits.answer + request.asks_for;
        let Some((sent, answer)) = within(deadline, answer).await else {
            return Err(self.timeout(deadline));
        };
        let answer = answer.map_err(|lost| match sent {
            Err(error) => Lost { detail: format!("{}; sending: {error}", lost.detail), ..lost },
            Ok(()) => lost,
        })?;
        if let Err(lost) = request.check(&answer) {
            let is_the_last_again = self.last_id.is_some() && answer.header("x-id") == self.last_id.as_deref();
            return Err(match lost.failure {
                Failure::WrongAnswer if is_the_last_again => Lost { failure: Failure::DuplicateAnswer, ..lost },
                _ => lost,
            });
        }
        self.note(&answer, &request.id);
        Ok(answer)
    }

    /// Sends bytes of the caller's own making.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send(bytes).await
    }

    /// Reads the next answer within the deadline, unchecked: the other half of [`Self::send`].
    pub async fn answer(&mut self) -> Result<Answer, Lost> {
        let deadline = self.limits.answer;
        match within(deadline, receive_answer(&self.socket, &mut self.received)).await {
            Some(Ok(answer)) => {
                let id = answer.header("x-id").unwrap_or_default().to_owned();
                self.note(&answer, &id);
                Ok(answer)
            }
            Some(Err(lost)) => Err(lost),
            None => Err(self.timeout(deadline)),
        }
    }

    /// Waits for the server's end of the stream: how it ended, or what came instead, or None at the deadline.
    pub async fn end(&mut self) -> Option<Look> {
        if !self.received.is_empty() {
            return Some(Look::Bytes(self.received.len()));
        }
        let outcome = within(self.limits.answer, self.socket.receive(&mut self.received)).await?;
        Some(match outcome {
            Ok(0) => Look::Fin,
            Ok(n) => Look::Bytes(n),
            Err(_) => Look::Reset,
        })
    }

    /// What has happened to the connection while no request was on its way, without waiting.
    pub fn look(&self) -> Look {
        if self.received.is_empty() { self.socket.look() } else { Look::Bytes(self.received.len()) }
    }

    /// Waits until a look shows more than an open connection.
    pub async fn changed(&self) -> Look {
        loop {
            let look = self.look();
            if look != Look::Open || self.socket.readable().await.is_err() {
                return look;
            }
        }
    }

    /// Says that the client sends no more; answers can still be read.
    pub fn finish(&self) -> io::Result<()> {
        self.socket.finish()
    }

    /// Closes the connection with a reset.
    pub fn reset(self) -> io::Result<()> {
        self.socket.reset_at_close()
    }

    /// The answers read so far.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// The process that sent the last answer.
    pub fn last_pid(&self) -> Option<u32> {
        self.last_pid
    }

    /// The generation that sent the last answer.
    pub fn last_generation(&self) -> Option<u64> {
        self.last_generation
    }

    /// Whether an answer came from an older generation than the one before it.
    pub fn went_back(&self) -> bool {
        self.went_back
    }

    /// The client's own TCP port.
    pub fn port(&self) -> Option<u16> {
        self.socket.port()
    }

    fn note(&mut self, answer: &Answer, id: &str) {
        self.answered += 1;
        self.last_id = Some(id.to_owned());
        self.last_pid = answer.pid();
        self.went_back |= answer.generation() < self.last_generation && answer.generation().is_some();
        self.last_generation = answer.generation();
    }

    fn timeout(&self, deadline: Duration) -> Lost {
        let received = excerpt(&self.received);
        Lost::new(Failure::Timeout, format!("no whole answer within {deadline:?}; received {received}"))
    }
}

async fn send_request(socket: &Socket, request: &Request) -> io::Result<()> {
    let head = request.head().into_bytes();
    if request.body.is_empty() {
        return socket.send(&head).await;
    }
    socket.send(&head).await?;
    let pieces = u32::try_from(request.pieces).unwrap_or(u32::MAX);
    let piece_bytes = request.body.len().div_ceil(request.pieces);
    for piece in request.body.chunks(piece_bytes.max(1)) {
        if !request.over.is_zero() {
            Timer::after(request.over / pieces).await;
        }
        socket.send(piece).await?;
    }
    Ok(())
}

async fn receive_answer(socket: &Socket, received: &mut Vec<u8>) -> Result<Answer, Lost> {
    let mut ended = false;
    loop {
        match parse(received, ended) {
            Parsed::Whole(answer, used) => {
                received.drain(..used);
                return Ok(*answer);
            }
            Parsed::Malformed(reason) => return Err(Lost::new(Failure::WrongAnswer, reason)),
            Parsed::Partial if ended && received.is_empty() => {
                return Err(Lost::new(Failure::ClosedBeforeAnswer, "end of stream before the answer"));
            }
            Parsed::Partial if ended => {
                return Err(Lost::new(Failure::Truncated, format!("the answer ends after {}", excerpt(received))));
            }
            Parsed::Partial => {}
        }
        match socket.receive(received).await {
            Ok(0) => ended = true,
            Ok(_) => {}
            Err(error) if !received.is_empty() && error.kind() != io::ErrorKind::InvalidData => {
                let detail = format!("the answer ends in {error} after {}", excerpt(received));
                return Err(Lost::new(Failure::Truncated, detail));
            }
            Err(error) if is_reset(&error) => return Err(Lost::new(Failure::ResetBeforeAnswer, error.to_string())),
            // TLS that cannot be read.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Lost::new(Failure::WrongAnswer, error.to_string()));
            }
            Err(error) => return Err(Lost::new(Failure::Local, error.to_string())),
        }
    }
}

/// Where two bodies begin to differ, for a message.
fn difference(sent: &[u8], received: &[u8]) -> String {
    let at = sent.iter().zip(received).position(|(a, b)| a != b).unwrap_or(sent.len().min(received.len()));
    format!("the body differs at byte {at} of {} (received {})", sent.len(), received.len())
}

/// What the future yields, or None when the time has passed.
pub(super) async fn within<T>(time: Duration, what: impl Future<Output = T>) -> Option<T> {
    future::or(async { Some(what.await) }, async {
        Timer::after(time).await;
        None
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Answer, Failure, Request};

    fn answer(status: u16, id: &str, body: &[u8]) -> Answer {
        Answer { status, headers: vec![("x-id".into(), id.into())], body: body.to_vec() }
    }

    #[test]
    fn only_the_requests_own_answer_passes_its_check() {
        let fast = Request::fast("a1");
        let failure = |answer: Answer| fast.check(&answer).map_err(|lost| lost.failure);
        assert_eq!(failure(answer(200, "a1", b"id=a1 \n")), Ok(()));
        assert_eq!(failure(answer(200, "a1", b"id=a12 \n")), Err(Failure::WrongAnswer));
        assert_eq!(failure(answer(200, "a12", b"id=a1 \n")), Err(Failure::WrongAnswer));
        assert_eq!(failure(answer(503, "a1", b"id=a1 \n")), Err(Failure::BadStatus));

        let echo = Request::echo("b", vec![1, 2, 3], 2, Duration::ZERO);
        assert!(echo.check(&answer(200, "b", &[1, 2, 3])).is_ok());
        let lost = echo.check(&answer(200, "b", &[1, 2])).unwrap_err();
        assert_eq!(lost.failure, Failure::WrongAnswer);
        assert!(lost.detail.contains("differs at byte 2 of 3 (received 2)"), "{}", lost.detail);
    }
}
