//! From a response to the bytes of its head: what a handler may not say is refused or left out, and what HTTP asks for
//! is put in.
//!
//! Heads of responses whose length is not known, and the chunks after them, are written by async-h1. It frames every
//! response as if it had a body, for HTTP/1.1, and copies each header three times, so all other heads are written here.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{SystemTime, UNIX_EPOCH};

use async_h1::server::Encoder;
use futures_lite::AsyncRead;
use http_types::headers::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use http_types::{Body, Method, Response, StatusCode};
use httpdate::HttpDate;

use super::buffer;
use super::head::is_token;

/// How messages and connections end is not the handler's to say.
const OURS: [&str; 5] = ["connection", "content-length", "keep-alive", "proxy-connection", "transfer-encoding"];

/// What of the request and the connection decides on how a response is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// The request's method: a HEAD has no body.
    pub(crate) method: Method,
    /// Whether the request was HTTP/1.0, which knows no chunks.
    pub(crate) old: bool,
    /// Whether the connection is going to be closed.
    pub(crate) close: bool,
}

/// Memory that fills with bytes to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    filled: usize,
}

impl Outbox {
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Room for more, after making sure that there is memory of the size asked for.
    pub(crate) fn room(&mut self, large: bool) -> &mut [u8] {
        let too_small = if large { self.bytes.len() < buffer::PIECE_BYTES } else { self.bytes.is_empty() };
        if too_small {
            self.replace(buffer::lend(large));
        }
        &mut self.bytes[self.filled..]
    }

    pub(crate) fn added(&mut self, count: usize) {
        self.filled += count;
    }

    pub(crate) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Gives the memory back while there is nothing in it.
    pub(crate) fn settle(&mut self) {
        if self.filled == 0 {
            buffer::give_back(std::mem::take(&mut self.bytes));
        }
    }

    fn replace(&mut self, mut bytes: Vec<u8>) {
        bytes[..self.filled].copy_from_slice(self.filled());
        buffer::give_back(std::mem::replace(&mut self.bytes, bytes));
    }

    /// Adds bytes, in larger memory if need be.
    fn extend(&mut self, bytes: &[u8]) {
        let end = self.filled + bytes.len();
        if end > self.bytes.len() {
            self.grow(end);
        }
        self.bytes[self.filled..end].copy_from_slice(bytes);
        self.filled = end;
    }

    /// Makes room for so many bytes in all.
    #[cold]
    fn grow(&mut self, end: usize) {
        self.room(false);
        if end > self.bytes.len() {
            self.replace(vec![0; end.next_power_of_two()]);
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        buffer::give_back(std::mem::take(&mut self.bytes));
    }
}

/// Where the bytes after the head come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// There are none.
    Empty,
    /// So many bytes of a body whose length was declared.
    Length { body: Body, left: u64 },
    /// Chunks, written by async-h1.
    Chunks(Box<Encoder>),
    /// A body that ends with the connection, for HTTP/1.0.
    Rest(Body),
}

/// Whether the handler asks, by `Connection: close`, for the connection to be closed.
pub(crate) fn asks_to_close(response: &Response) -> bool {
    // A look-up by name costs an allocation, and nearly no response has it.
    response.iter().filter(|(name, _)| **name == CONNECTION).any(|(_, values)| {
        values.iter().any(|value| value.as_str().split(',').any(|token| token.trim().eq_ignore_ascii_case("close")))
    })
}

/// Whether the body of this response to an HTTP/1.0 request can only be ended by closing the connection.
pub(crate) fn ends_by_close(response: &Response, method: Method) -> bool {
    response.len().is_none() && method != Method::Head && !is_bodiless(response.status())
}

/// What is wrong with a response that must not be sent, if anything is.
pub(crate) fn check(response: &Response) -> Result<(), &'static str> {
    for (name, values) in response {
        for value in values {
            check_header(name, value)?;
        }
    }
    Ok(())
}

/// What is wrong with a header that must not be sent, if anything is.
pub(crate) fn check_header(name: &HeaderName, value: &HeaderValue) -> Result<(), &'static str> {
    if name.as_str().is_empty() || !name.as_str().bytes().all(is_token) {
        return Err("a malformed header name");
    }
    if value.as_str().bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err("a control character in a header value");
    }
    Ok(())
}

/// Writes the head of a checked response into `out`. Returns where its body comes from.
pub(crate) fn head(mut response: Response, manner: Manner, out: &mut Outbox) -> io::Result<Source> {
    let status = response.status();
    let bodiless = manner.method == Method::Head || is_bodiless(status);
    let length = if status == StatusCode::ResetContent { Some(0) } else { response.len() };
    if length.is_none() && !bodiless && !manner.old {
        return chunked(response, manner, out);
    }
    let declared = write_head(&response, manner, out);
    // What a GET would have had, as the handler of a HEAD may say it; 304 likewise.
    let shown = declared.filter(|_| bodiless && length.is_none_or(|length| length == 0)).or(length);
    match shown {
        _ if matches!(status, StatusCode::SwitchingProtocols | StatusCode::NoContent) => {}
        _ if status == StatusCode::NotModified && declared.is_none() => {}
        Some(length) => write_line(out, "content-length", itoa::Buffer::new().format(length).as_bytes()),
        None if !manner.old => write_line(out, "transfer-encoding", b"chunked"),
        None => {}
    }
    out.extend(b"\r\n");
    Ok(match length {
        _ if bodiless => Source::Empty,
        Some(0) if status == StatusCode::ResetContent => Source::Empty,
        Some(length) => Source::Length { body: response.take_body(), left: length as u64 },
        None => Source::Rest(response.take_body()),
    })
}

/// Writes all of a head but its framing and its end. Returns the length that the handler declared.
fn write_head(response: &Response, manner: Manner, out: &mut Outbox) -> Option<usize> {
    let status = response.status();
    // http-types has another word for 304.
    let reason = if status == StatusCode::NotModified { "Not Modified" } else { status.canonical_reason() };
    for part in ["HTTP/1.1 ", itoa::Buffer::new().format(u16::from(status)), " ", reason, "\r\n"] {
        out.extend(part.as_bytes());
    }
    let (mut declared, mut dated, mut upgrades) = (None, false, false);
    // In an order of their own: that of http-types is another one each time.
    let mut lines: Vec<_> = response.iter().map(|(name, values)| (name.as_str(), values)).collect();
    lines.sort_unstable_by_key(|(name, _)| *name);
    for (name, values) in lines {
        if name == "content-length" {
            declared = values.last().as_str().parse().ok();
        }
        if OURS.contains(&name) {
            continue;
        }
        dated |= name == "date";
        upgrades |= name == "upgrade";
        for value in values {
            write_line(out, name, value.as_str().as_bytes());
        }
    }
    if !dated {
        write_line(out, "date", &now());
    }
    if let Some(options) = connection_options(upgrades, manner) {
        write_line(out, "connection", options.as_bytes());
    }
    declared
}

fn write_line(out: &mut Outbox, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend(part);
    }
}

/// The present time as HTTP writes it (RFC 9110 section 5.6.7). It is made once a second for each thread.
fn now() -> [u8; 29] {
    thread_local! {
        static LAST: Cell<(u64, [u8; 29])> = const { Cell::new((0, *b"Thu, 01 Jan 1970 00:00:00 GMT")) };
    }
    let time = SystemTime::now();
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (mut last, mut text) = LAST.get();
    if last != seconds {
        last = seconds;
        text.copy_from_slice(HttpDate::from(time).to_string().as_bytes());
        LAST.set((last, text));
    }
    text
}

/// Has async-h1 write the head of a response whose length is not known, and afterwards the chunks.
fn chunked(mut response: Response, manner: Manner, out: &mut Outbox) -> io::Result<Source> {
    // A look-up by name costs an allocation, and nearly no response has these.
    let ours: Vec<_> = response.header_names().filter(|name| OURS.contains(&name.as_str())).cloned().collect();
    for name in ours {
        response.remove_header(name);
    }
    let upgrades = response.header(UPGRADE).is_some();
    if let Some(options) = connection_options(upgrades, manner) {
        response.insert_header(CONNECTION, options);
    }
    let mut encoder = Box::new(Encoder::new(response, manner.method));
    read_head(&mut encoder, out)?;
    Ok(Source::Chunks(encoder))
}

/// What the Connection header says, if there has to be one: how it goes on, and that Upgrade concerns this connection.
fn connection_options(upgrades: bool, manner: Manner) -> Option<&'static str> {
    match (manner.close, manner.old, upgrades) {
        (true, _, false) => Some("close"),
        (true, _, true) => Some("close, upgrade"),
        (false, true, false) => Some("keep-alive"),
        (false, true, true) => Some("keep-alive, upgrade"),
        (false, false, true) => Some("upgrade"),
        (false, false, false) => None,
    }
}

/// Statuses whose responses have no body, whatever the request.
fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::SwitchingProtocols | StatusCode::NoContent | StatusCode::NotModified)
}

/// Reads the head from async-h1. It is in memory: no wait, and nothing of the body is read yet.
fn read_head(encoder: &mut Encoder, out: &mut Outbox) -> io::Result<()> {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if out.room(false).is_empty() {
            let larger = vec![0; out.bytes.len() * 2];
            out.replace(larger);
        }
        match Pin::new(&mut *encoder).poll_read(&mut context, out.room(false)) {
            Poll::Ready(Ok(0)) | Poll::Pending => return Err(io::ErrorKind::InvalidData.into()),
            Poll::Ready(count) => out.added(count?),
        }
        if out.filled().ends_with(b"\r\n\r\n") {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Manner = Manner { method: Method::Get, old: false, close: false };

    fn written(response: Response, manner: Manner) -> (String, Source) {
        let mut out = Outbox::default();
        let source = head(response, manner, &mut out).expect("a head");
        (String::from_utf8(out.filled().to_vec()).expect("text"), source)
    }

    fn has(head: &str, line: &str) -> bool {
        head.split("\r\n").any(|other| other == line)
    }

    #[test]
    fn framing_is_ours_and_not_the_handlers() {
        let mut response = Response::new(200);
        response.set_body("abc");
        for (name, value) in [
            ("Transfer-Encoding", "chunked"),
            ("Content-Length", "99"),
            ("Connection", "x"),
            ("Keep-Alive", "timeout=5"),
        ] {
            response.insert_header(name, value);
        }
        let (head, source) = written(response, GET);
        assert!(has(&head, "content-length: 3"), "{head}");
        assert!(!head.contains("transfer-encoding") && !head.contains("connection") && !head.contains("keep-alive"));
        assert!(head.contains("\r\ndate: "));
        assert!(matches!(source, Source::Length { left: 3, .. }));
    }

    #[test]
    fn the_same_response_is_written_the_same_way_each_time() {
        let mut response = Response::new(200);
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        names.iter().rev().for_each(|name| drop(response.insert_header(*name, "x")));
        let (head, _) = written(response, GET);
        assert!(head.contains(&names.map(|name| format!("{name}: x\r\n")).concat()), "{head}");
    }

    #[test]
    fn statuses_without_a_body_have_no_framing_either() {
        for status in [StatusCode::NoContent, StatusCode::NotModified] {
            let mut response = Response::new(status);
            response.set_body("abc");
            let (head, source) = written(response, GET);
            assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
            assert!(matches!(source, Source::Empty));
        }
        let (head, _) = written(Response::new(304), GET);
        assert!(head.starts_with("HTTP/1.1 304 Not Modified\r\n"), "{head}");
        let mut response = Response::new(304);
        response.insert_header("Content-Length", "7");
        assert!(has(&written(response, GET).0, "content-length: 7"));
        let mut response = Response::new(205);
        response.set_body("abc");
        assert!(has(&written(response, GET).0, "content-length: 0"));
    }

    #[test]
    fn a_switch_of_protocols_says_so_and_has_no_framing() {
        let mut response = Response::new(StatusCode::SwitchingProtocols);
        response.insert_header("Upgrade", "echo");
        let (head, source) = written(response, GET);
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
        assert!(has(&head, "connection: upgrade") && has(&head, "upgrade: echo"), "{head}");
        assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
        assert!(matches!(source, Source::Empty));
        let mut response = Response::new(StatusCode::UpgradeRequired);
        response.insert_header("Upgrade", "echo");
        let (head, _) = written(response, Manner { close: true, ..GET });
        assert!(has(&head, "connection: close, upgrade") && has(&head, "content-length: 0"), "{head}");
    }

    #[test]
    fn a_head_answer_says_what_a_get_would_have_had() {
        let manner = Manner { method: Method::Head, ..GET };
        let mut response = Response::new(200);
        response.set_body("abc");
        let (head, source) = written(response, manner);
        assert!(has(&head, "content-length: 3") && matches!(source, Source::Empty));
        let mut response = Response::new(200);
        response.insert_header("Content-Length", "7");
        assert!(has(&written(response, manner).0, "content-length: 7"));
    }

    #[test]
    fn an_old_client_gets_no_chunks() {
        let unknown = || {
            let mut response = Response::new(200);
            response.set_body(Body::from_reader(&b"abc"[..], None));
            response
        };
        let (head, source) = written(unknown(), GET);
        assert!(has(&head, "transfer-encoding: chunked") && matches!(source, Source::Chunks(_)));
        let (head, source) = written(unknown(), Manner { old: true, close: true, ..GET });
        assert!(!head.contains("transfer-encoding") && has(&head, "connection: close"), "{head}");
        assert!(matches!(source, Source::Rest(_)));
        let (head, _) = written(Response::new(200), Manner { old: true, ..GET });
        assert!(has(&head, "connection: keep-alive"));
    }

    #[test]
    fn a_response_that_would_split_is_refused() {
        let with = |name: &str, value: &str| {
            let mut response = Response::new(200);
            response.insert_header(name, value);
            check(&response)
        };
        assert!(with("x", "a\tb").is_ok());
        for (name, value) in
            [("x", "a\r\nb: c"), ("x", "a\nb"), ("x", "a\rb"), ("x", "\0"), ("x y", "a"), ("x:", "a"), ("x\r\n", "a")]
        {
            assert!(with(name, value).is_err(), "{name:?}: {value:?}");
        }
    }

    #[test]
    fn a_head_larger_than_a_buffer_is_written_whole() {
        let mut response = Response::new(200);
        response.insert_header("x", "y".repeat(100_000));
        let (head, _) = written(response, GET);
        assert!(head.len() > 100_000 && head.ends_with("\r\n\r\n"));
    }
}
