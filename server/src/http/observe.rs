//! What is told of each request once it is over: the one place from which an access log and metrics are fed.
//!
//! A connection keeps an [`Account`] while it serves a request, and shows it to the observers as [`Served`] when the last
//! byte of the response has been given to the kernel, or the response was given up. Nothing is formatted here, and
//! without observers nothing is kept.

use std::time::{Duration, Instant};

use super::message::head::Head;
use super::security::Tls;

/// A function that learns of each request that is over. It runs within the connection's task: it must not block.
pub type Observe = Box<dyn Fn(&Served<'_>) + Send + Sync>;

/// A request that is over: answered, refused, or cut before its answer or within it.
#[derive(Clone, Copy, Debug)]
pub struct Served<'a> {
    /// The listener that accepted the connection, in whichever process, as [`Start::listener`](super::Start::listener).
    pub listener: Option<&'a str>,
    /// The client's address: that of the other end, as [`Start::peer`](super::Start::peer), or what a trusted proxy there has
    /// said.
    pub peer: Option<&'a str>,
    /// The address of that proxy, where it is not the client's and is no Unix socket.
    pub proxy: Option<&'a str>,
    /// The host that the request is for, unless the head was refused or names none.
    pub host: Option<&'a str>,
    /// How it came over TLS; nothing if it came as plain HTTP.
    pub tls: Option<&'a Tls>,
    /// The request line as it was received, without its end. Of a request that was refused, or cut within its head, it is
    /// what had come of it, any bytes.
    pub line: &'a [u8],
    /// The `Referer` header as it was received, unless the head was refused.
    pub referer: Option<&'a [u8]>,
    /// The `User-Agent` header as it was received, unless the head was refused.
    pub user_agent: Option<&'a [u8]>,
    /// The status that was answered; nothing where the connection ended before any byte of an answer had left.
    pub status: Option<u16>,
    /// How many bytes were sent in all, the response's head included, before TLS.
    pub sent_bytes: u64,
    /// How many bytes after the response's head were sent, chunk framing included.
    pub body_bytes: u64,
    /// Whether all of the response was given to the kernel. It was not where the client left, or took too little, where
    /// the body failed, and where the drain's deadline passed.
    pub complete: bool,
    /// Whether this process cut it: it was under way, be it within its head, when the deadline of the drain or of the stop
    /// passed.
    pub cut: bool,
    /// From the first byte of the request to the last byte of the response.
    pub duration: Duration,
}

/// What a connection keeps of the request that it serves.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) began: Instant,
    pub(crate) line: Vec<u8>,
    pub(crate) host: Option<String>,
    pub(crate) referer: Option<Vec<u8>>,
    pub(crate) user_agent: Option<Vec<u8>>,
    /// The status of the response that is being sent.
    pub(crate) status: u16,
    /// How many bytes of the response were sent, and how many of them were its head.
    pub(crate) sent_bytes: u64,
    pub(crate) head_bytes: u64,
}

impl Account {
    /// The account of a request of which the first byte came at `began`.
    pub(super) fn begun(began: Instant) -> Account {
        Account {
            began,
            line: Vec::new(),
            host: None,
            referer: None,
            user_agent: None,
            status: 0,
            sent_bytes: 0,
            head_bytes: 0,
        }
    }

    /// Takes down what is told of a head that has passed. What is told is what was checked, and is served: bytes that are
    /// looked at a second time could look like something else.
    pub(super) fn take_head(&mut self, head: &Head<'_>) {
        let version = if head.old { " HTTP/1.0" } else { " HTTP/1.1" };
        self.line = [head.method.as_ref(), " ", head.line_target, version].concat().into_bytes();
        self.host = head.host.map(str::to_owned);
        for (name, value) in &head.fields {
            match name.len() {
                7 if name.eq_ignore_ascii_case("referer") => self.referer = Some(value.to_vec()),
                10 if name.eq_ignore_ascii_case("user-agent") => self.user_agent = Some(value.to_vec()),
                _ => {}
            }
        }
    }

    /// Takes down the first line of the `bytes` that have come of a head that is refused or cut. One that has passed stays.
    pub(super) fn take_unchecked(&mut self, bytes: &[u8]) {
        if self.line.is_empty() {
            let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next();
            self.line = line.unwrap_or_default().to_vec();
        }
    }

    /// The path of its request, as it was received.
    pub(super) fn path(&self) -> String {
        let target = self.line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        String::from_utf8_lossy(target).into_owned()
    }

    /// How many bytes of it are the client's own words.
    pub(super) fn own_bytes(&self) -> usize {
        let length = |text: &Option<Vec<u8>>| text.as_ref().map_or(0, Vec::len);
        let host = self.host.as_ref().map_or(0, String::len);
        self.line.len() + host + length(&self.referer) + length(&self.user_agent)
    }

    /// The account as observers see it, now that the request is over; not that it is complete, nor that it was cut. Beside
    /// the client's address stands that of the proxy that has told it.
    pub(super) fn served<'a>(
        &'a self,
        listener: Option<&'a str>,
        (peer, proxy): (Option<&'a str>, Option<&'a str>),
        tls: Option<&'a Tls>,
    ) -> Served<'a> {
        Served {
            listener,
            peer,
            proxy,
            host: self.host.as_deref(),
            tls,
            line: &self.line,
            referer: self.referer.as_deref(),
            user_agent: self.user_agent.as_deref(),
            status: if self.sent_bytes > 0 { Some(self.status) } else { None },
            sent_bytes: self.sent_bytes,
            body_bytes: self.sent_bytes.saturating_sub(self.head_bytes),
            complete: false,
            cut: false,
            duration: self.began.elapsed(),
        }
    }
}
