//! From a response to the bytes of its head: what a handler may not say is refused or left out, and what HTTP asks for
//! is put in.
//!
//! async-h1's own encoder is not used: it frames every response as if it had a body, for HTTP/1.1, copies each header three
//! times, and cannot say where in a body it stands.

use std::cell::Cell;
use std::time::{Duration, UNIX_EPOCH};

use http_types::headers::{CONNECTION, HeaderName, HeaderValue};
use http_types::{Method, Response, StatusCode};
use httpdate::HttpDate;
use rustix::time::{ClockId, clock_gettime};

use super::super::handler::Decoration;
use super::super::plan::outbox::Outbox;
use super::head::is_token;

/// How messages and connections end is not the handler's to say.
const OURS: [&str; 5] = ["connection", "content-length", "keep-alive", "proxy-connection", "transfer-encoding"];

/// Hardly a response has more header lines.
const LINES_USUAL: usize = 16;

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

/// How the bytes behind a head are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There are none.
    None,
    /// So many of them.
    Length(u64),
    /// In chunks.
    Chunked,
    /// They end with the connection, for HTTP/1.0.
    Close,
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
    // No byte ends the look, so that many are looked at at a time.
    let is_control = |byte: u8| byte.is_ascii_control() && byte != b'\t';
    if value.as_str().bytes().fold(0, |found, byte| found | u8::from(is_control(byte))) != 0 {
        return Err("a control character in a header value");
    }
    Ok(())
}

/// Writes the head of a checked response into `out`. Returns how its body is framed.
/// Headers of the `decoration` take the place of the response's own.
pub(crate) fn head(response: &Response, decoration: &Decoration, manner: Manner, out: &mut Outbox) -> Framing {
    let status = response.status();
    let bodiless = manner.method == Method::Head || is_bodiless(status);
    let length = if status == StatusCode::ResetContent { Some(0) } else { response.len() };
    let declared = write_head(response, decoration, manner, out);
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
    match length {
        _ if bodiless => Framing::None,
        Some(0) if status == StatusCode::ResetContent => Framing::None,
        Some(length) => Framing::Length(length as u64),
        None if manner.old => Framing::Close,
        None => Framing::Chunked,
    }
}

/// Writes all of a head but its framing and its end. Returns the length that the handler declared.
fn write_head(response: &Response, decoration: &Decoration, manner: Manner, out: &mut Outbox) -> Option<usize> {
    let status = response.status();
    // http-types has another word for 304.
    let reason = if status == StatusCode::NotModified { "Not Modified" } else { status.canonical_reason() };
    for part in ["HTTP/1.1 ", itoa::Buffer::new().format(u16::from(status)), " ", reason, "\r\n"] {
        out.extend(part.as_bytes());
    }
    let (mut declared, mut dated, mut upgrades) = (None, false, false);
    for (name, value) in lines(response, decoration) {
        if name == "content-length" {
            declared = value.parse().ok();
        }
        if OURS.contains(&name) {
            continue;
        }
        dated |= name == "date";
        upgrades |= name == "upgrade";
        write_line(out, name, value.as_bytes());
    }
    if !dated {
        write_line(out, "date", &now());
    }
    if let Some(options) = connection_options(upgrades, manner) {
        write_line(out, "connection", options.as_bytes());
    }
    declared
}

/// The header lines of a response in an order of their own: that of http-types is another one each time. To write those of
/// the decoration beside the others is less than half the work of inserting them.
fn lines<'a>(response: &'a Response, decoration: &'a Decoration) -> Vec<(&'a str, &'a str)> {
    let mut lines = Vec::with_capacity(LINES_USUAL);
    for (name, values) in response {
        if decoration.iter().all(|(other, _)| other != name) {
            lines.extend(values.iter().map(|value| (name.as_str(), value.as_str())));
        }
    }
    for (index, (name, value)) in decoration.iter().enumerate() {
        if decoration[index + 1..].iter().all(|(other, _)| other != name) {
            lines.push((name.as_str(), value.as_str()));
        }
    }
    // It keeps the order of those that have one name.
    lines.sort_by_key(|(name, _)| *name);
    lines
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
    // A clock that goes by ticks, of 10 ms at the most, is read in a fifth of the time.
    let seconds = clock_gettime(ClockId::RealtimeCoarse).tv_sec.try_into().unwrap_or(0);
    let (mut last, mut text) = LAST.get();
    if last != seconds {
        last = seconds;
        text.copy_from_slice(HttpDate::from(UNIX_EPOCH + Duration::from_secs(seconds)).to_string().as_bytes());
        LAST.set((last, text));
    }
    text
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

#[cfg(test)]
mod tests {
    use http_types::Body;

    use super::*;

    const GET: Manner = Manner { method: Method::Get, old: false, close: false };

    fn written(response: &Response, manner: Manner) -> (String, Framing) {
        let mut out = Outbox::default();
        let framing = head(response, &vec![], manner, &mut out);
        (String::from_utf8(out.filled().to_vec()).expect("text"), framing)
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
        let (head, framing) = written(&response, GET);
        assert!(has(&head, "content-length: 3"), "{head}");
        assert!(!head.contains("transfer-encoding") && !head.contains("connection") && !head.contains("keep-alive"));
        assert!(head.contains("\r\ndate: "));
        assert_eq!(framing, Framing::Length(3));
    }

    #[test]
    fn the_same_response_is_written_the_same_way_each_time() {
        let mut response = Response::new(200);
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        names.iter().rev().for_each(|name| drop(response.insert_header(*name, "x")));
        let (head, _) = written(&response, GET);
        assert!(head.contains(&names.map(|name| format!("{name}: x\r\n")).concat()), "{head}");
    }

    #[test]
    fn a_decoration_takes_the_place_of_headers_of_its_names() {
        let mut response = Response::new(200);
        response.append_header("b", "1");
        response.append_header("b", "2");
        response.insert_header("d", "own");
        let header = |name: &str, value: &str| (name.into(), value.parse().expect("a value"));
        let decoration = vec![header("d", "first"), header("d", "last"), header("a", "x"), header("connection", "x")];
        let mut out = Outbox::default();
        head(&response, &decoration, GET, &mut out);
        let head = String::from_utf8(out.filled().to_vec()).expect("text");
        assert!(head.contains("a: x\r\nb: 1\r\nb: 2\r\n") && has(&head, "d: last"), "{head}");
        assert!(!head.contains("own") && !head.contains("first") && !head.contains("connection"), "{head}");
    }

    #[test]
    fn statuses_without_a_body_have_no_framing_either() {
        for status in [StatusCode::NoContent, StatusCode::NotModified] {
            let mut response = Response::new(status);
            response.set_body("abc");
            let (head, framing) = written(&response, GET);
            assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
            assert_eq!(framing, Framing::None);
        }
        let (head, _) = written(&Response::new(304), GET);
        assert!(head.starts_with("HTTP/1.1 304 Not Modified\r\n"), "{head}");
        let mut response = Response::new(304);
        response.insert_header("Content-Length", "7");
        assert!(has(&written(&response, GET).0, "content-length: 7"));
        let mut response = Response::new(205);
        response.set_body("abc");
        assert!(has(&written(&response, GET).0, "content-length: 0"));
    }

    #[test]
    fn a_switch_of_protocols_says_so_and_has_no_framing() {
        let mut response = Response::new(StatusCode::SwitchingProtocols);
        response.insert_header("Upgrade", "echo");
        let (head, framing) = written(&response, GET);
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
        assert!(has(&head, "connection: upgrade") && has(&head, "upgrade: echo"), "{head}");
        assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
        assert_eq!(framing, Framing::None);
        let mut response = Response::new(StatusCode::UpgradeRequired);
        response.insert_header("Upgrade", "echo");
        let (head, _) = written(&response, Manner { close: true, ..GET });
        assert!(has(&head, "connection: close, upgrade") && has(&head, "content-length: 0"), "{head}");
    }

    #[test]
    fn a_head_answer_says_what_a_get_would_have_had() {
        let manner = Manner { method: Method::Head, ..GET };
        let mut response = Response::new(200);
        response.set_body("abc");
        let (head, framing) = written(&response, manner);
        assert!(has(&head, "content-length: 3") && framing == Framing::None);
        let mut response = Response::new(200);
        response.insert_header("Content-Length", "7");
        assert!(has(&written(&response, manner).0, "content-length: 7"));
    }

    #[test]
    fn an_old_client_gets_no_chunks() {
        let unknown = || {
            let mut response = Response::new(200);
            response.set_body(Body::from_reader(&b"abc"[..], None));
            response
        };
        let (head, framing) = written(&unknown(), GET);
        assert!(has(&head, "transfer-encoding: chunked") && framing == Framing::Chunked);
        let (head, framing) = written(&unknown(), Manner { old: true, close: true, ..GET });
        assert!(!head.contains("transfer-encoding") && has(&head, "connection: close"), "{head}");
        assert_eq!(framing, Framing::Close);
        let (head, _) = written(&Response::new(200), Manner { old: true, ..GET });
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
        let (head, _) = written(&response, GET);
        assert!(head.len() > 100_000 && head.ends_with("\r\n\r\n"));
    }
}
