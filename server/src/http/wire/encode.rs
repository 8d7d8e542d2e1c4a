//! From a response to the bytes of its head: what a handler may not say is refused or taken out, what HTTP asks for is
//! put in, and async-h1 writes it down.
//!
//! async-h1's encoder writes header values as they are and frames every response as if it had a body. So the response
//! is checked before it gets there, and the few heads that it writes wrongly (101, 204, 304, HTTP/1.0) are corrected after.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use async_h1::server::Encoder;
use futures_lite::AsyncRead;
use http_types::headers::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http_types::{Body, Method, Response, StatusCode};

use super::buffer;
use super::head::is_token;

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

    /// Takes out the lines for which `drop` says so (their names are lower case), and sets the status line.
    fn rewrite(&mut self, status_line: Option<&[u8]>, drop: &[&[u8]]) {
        let mut rewritten = Vec::with_capacity(self.filled);
        for (number, line) in self.filled().split_inclusive(|byte| *byte == b'\n').enumerate() {
            match status_line {
                Some(status_line) if number == 0 => rewritten.extend_from_slice(status_line),
                _ if drop.iter().any(|name| line.starts_with(name)) => {}
                _ => rewritten.extend_from_slice(line),
            }
        }
        if rewritten.len() > self.bytes.len() {
            self.bytes.resize(rewritten.len(), 0);
        }
        self.bytes[..rewritten.len()].copy_from_slice(&rewritten);
        self.filled = rewritten.len();
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
    response.header(CONNECTION).is_some_and(|values| {
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
    let declared = take_framing(&mut response);
    if let Some(options) = connection_options(&response, manner) {
        response.insert_header(CONNECTION, options);
    }
    if status == StatusCode::ResetContent {
        replace_body(&mut response, Body::empty());
    }
    let bodiless = manner.method == Method::Head || is_bodiless(status);
    if bodiless && declared.is_some() && response.len().is_none_or(|length| length == 0) {
        // What a GET would have had, as the handler of a HEAD may say it; 304 likewise.
        replace_body(&mut response, Body::from_reader(futures_lite::io::empty(), declared));
    }
    let length = response.len();
    if length.is_none() && !bodiless && !manner.old {
        let mut encoder = Box::new(Encoder::new(response, manner.method));
        read_head(&mut encoder, out)?;
        return Ok(Source::Chunks(encoder));
    }
    let body = replace_body(&mut response, Body::from_reader(futures_lite::io::empty(), length));
    read_head(&mut Encoder::new(response, Method::Head), out)?;
    correct(status, manner, declared.is_some(), length.is_none(), out);
    Ok(match length {
        _ if bodiless => Source::Empty,
        Some(length) => Source::Length { body, left: length as u64 },
        None => Source::Rest(body),
    })
}

/// What the Connection header says, if there has to be one: how it goes on, and that Upgrade concerns this connection.
fn connection_options(response: &Response, manner: Manner) -> Option<&'static str> {
    match (manner.close, manner.old, response.header(UPGRADE).is_some()) {
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

/// Takes out the headers that say how messages and connections end: they are not the handler's to set. Returns the
/// length that it declared.
fn take_framing(response: &mut Response) -> Option<usize> {
    for name in [CONNECTION, TRANSFER_ENCODING] {
        response.remove_header(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        // A look-up by name costs an allocation, and nearly no response has these.
        if response.header_names().any(|other| other.as_str() == name) {
            response.remove_header(HeaderName::from(name));
        }
    }
    response.remove_header(CONTENT_LENGTH).and_then(|values| values.last().as_str().parse().ok())
}

/// Replaces the body without the side effect that `http_types` has: a made-up Content-Type.
fn replace_body(response: &mut Response, body: Body) -> Body {
    let typed = response.header(CONTENT_TYPE).is_some();
    let before = response.replace_body(body);
    if !typed {
        response.remove_header(CONTENT_TYPE);
    }
    before
}

/// Has async-h1 write the head. It is in memory: no wait, and nothing of the body is read yet.
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

/// Corrects the heads that async-h1 writes wrongly.
fn correct(status: StatusCode, manner: Manner, declared: bool, unknown: bool, out: &mut Outbox) {
    const LENGTH: &[u8] = b"content-length:";
    const ENCODING: &[u8] = b"transfer-encoding:";
    match status {
        StatusCode::SwitchingProtocols | StatusCode::NoContent => out.rewrite(None, &[LENGTH, ENCODING]),
        StatusCode::NotModified if declared => out.rewrite(Some(b"HTTP/1.1 304 Not Modified\r\n"), &[ENCODING]),
        StatusCode::NotModified => out.rewrite(Some(b"HTTP/1.1 304 Not Modified\r\n"), &[LENGTH, ENCODING]),
        _ if manner.old && unknown => out.rewrite(None, &[ENCODING]),
        _ => {}
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
