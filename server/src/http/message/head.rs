//! The gate for request heads: where a head ends, and whether it may pass.
//!
//! [`find`] looks for the end of a head under a hard cap that needs no line feed, [`check`] reads it with httparse and
//! applies the rules that httparse does not have. What passes is a [`Head`]; async-h1 never sees anything else. Both are
//! pure functions over the bytes received.

use std::mem::MaybeUninit;
use std::str::FromStr;
use std::sync::LazyLock;

use http_types::{Method, StatusCode};
use memchr::memmem::Finder;

use super::super::limits::Limits;
use super::framing::{Framing, Lines};
use super::refusal::Refusal;
use super::target::{self, Target};

/// The most header lines that can be configured.
pub(crate) const HEADERS_MAX: usize = 256;

/// How many empty lines before a request are skipped; some old clients send one after a body.
const EMPTY_LINES_MAX: usize = 4;

/// What a head ends with: the LF of its last line, and the empty line. Where each LF has its CR before it, its first two bytes
/// stand together nowhere else.
const END: &[u8] = b"\n\r\n";
static END_FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(END));

/// A head that passed: what the connection has to know of it, and its lines.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent facts about one head")]
pub(crate) struct Head<'a> {
    /// The method.
    pub(crate) method: Method,
    /// The request target as it was sent, without the authority of an absolute form.
    pub(crate) target: Target,
    /// The second part of the request line: the target with its authority, if it has one.
    pub(crate) line_target: &'a str,
    /// The host that the request is for: of the target, else of the Host header. HTTP/1.0 may name none.
    pub(crate) host: Option<&'a str>,
    /// Whether the target is an https URL, which only a connection with TLS may be asked for.
    pub(crate) is_for_tls: bool,
    /// Whether it is an HTTP/1.0 request.
    pub(crate) old: bool,
    /// How the body is framed.
    pub(crate) framing: Framing,
    /// Whether the client would have the connection kept.
    pub(crate) keep_alive: bool,
    /// Whether the client waits for a 100 before it sends the body.
    pub(crate) expects_continue: bool,
    /// Whether there is nothing beyond ASCII in it.
    pub(crate) is_ascii: bool,
    /// Whether there is an Upgrade header.
    pub(crate) upgrade: bool,
    /// Whether Connection names it, without which it concerns somebody else.
    pub(crate) names_upgrade: bool,
    /// The header lines, in order.
    pub(crate) fields: Vec<(&'a str, &'a [u8])>,
}

impl Head<'_> {
    /// Whether the request may be answered by a switch of protocols (RFC 9110 section 7.8): HTTP/1.0 has none, and after
    /// a body or before a close there is nothing to be gained by one.
    pub(crate) fn may_upgrade(&self) -> bool {
        self.upgrade && self.names_upgrade && !self.old && self.keep_alive && self.framing == Framing::None
    }
}

/// What a look for the end of a head found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadEnd {
    /// The head ends before this offset.
    Complete(usize),
    /// More bytes are needed; the first `scanned` need not be looked at again.
    Partial { scanned: usize },
}

/// The number of bytes before a request that are to be skipped: empty lines.
pub(crate) fn empty_lines(bytes: &[u8]) -> Result<usize, Refusal> {
    let lines = bytes.chunks_exact(2).take_while(|pair| pair == b"\r\n").count();
    if lines > EMPTY_LINES_MAX { Err(Refusal::bad("too many empty lines before a request")) } else { Ok(lines * 2) }
}

/// Whether these bytes may still become an empty line, so that no request has begun.
pub(crate) fn is_half_an_empty_line(bytes: &[u8]) -> bool {
    bytes == b"\r"
}

/// Looks for the end of the head that `bytes` begin with; the first `scanned` of them were looked at before.
pub(crate) fn find(bytes: &[u8], scanned: usize, limits: &Limits) -> Result<HeadEnd, Refusal> {
    // A head that begins with anything but a method is not HTTP; TLS on a plain port gets its answer at once. Empty lines
    // were skipped before: httparse would skip them, too, and what follows would be another line than the first.
    if bytes.first().is_some_and(|byte| !is_token(*byte)) {
        return Err(Refusal::bad("what was sent is not an HTTP request"));
    }
    let from = scanned.saturating_sub(END.len() - 1);
    let end = END_FINDER.find(&bytes[from..]).map(|at| from + at + END.len());
    if has_bare_line_feed(&bytes[scanned.saturating_sub(1)..end.unwrap_or(bytes.len())]) {
        return Err(Refusal::bad("a line that ends in LF without CR"));
    }
    match end {
        Some(end) if end <= limits.head_bytes => Ok(HeadEnd::Complete(end)),
        None if bytes.len() < limits.head_bytes => Ok(HeadEnd::Partial { scanned: bytes.len() }),
        Some(_) | None => Err(too_large(bytes, limits)),
    }
}

/// Whether an LF stands behind anything but a CR; the first byte is none.
fn has_bare_line_feed(bytes: &[u8]) -> bool {
    let pairs = bytes.iter().zip(bytes.get(1..).unwrap_or_default());
    // No byte ends the look, so that many are looked at at a time.
    pairs.fold(0, |found, (before, byte)| found | u8::from(*byte == b'\n' && *before != b'\r')) != 0
}

fn too_large(bytes: &[u8], limits: &Limits) -> Refusal {
    if bytes.iter().take(limits.head_bytes).any(|byte| *byte == b'\n') {
        Refusal::new(StatusCode::RequestHeaderFieldsTooLarge, "the head of the request is too large")
    } else {
        Refusal::new(StatusCode::UriTooLong, "the request line is too long")
    }
}

/// Checks a complete head: everything up to and with the empty line.
pub(crate) fn check<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Head<'a>, Refusal> {
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let count_max = limits.headers.min(HEADERS_MAX);
    match parsed.parse_with_uninit_headers(bytes, &mut lines[..count_max]) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(Refusal::bad("a malformed head")),
        Err(error) => return Err(malformed(error, bytes)),
    }
    let (Some(method), Some(path), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Refusal::bad("a malformed request line"));
    };
    let method = known_method(method)?;
    let (target, origin) = target::parse(method, path)?;
    let mut fields = Fields { old: version == 0, ..Fields::default() };
    for line in parsed.headers.iter() {
        fields.take(line.name, line.value)?;
    }
    let host = fields.host()?;
    let old = fields.old;
    Ok(Head {
        method,
        target,
        line_target: path,
        host: origin.map(|origin| origin.authority).or(host),
        is_for_tls: origin.is_some_and(|origin| origin.secured),
        old,
        framing: fields.framing.decide(old, limits.body_bytes)?,
        keep_alive: if old { fields.keep_alive && !fields.close } else { !fields.close },
        expects_continue: fields.expects_continue && !old,
        is_ascii: bytes.is_ascii(),
        upgrade: fields.upgrade,
        names_upgrade: fields.names_upgrade,
        fields: parsed.headers.iter().map(|line| (line.name, line.value)).collect(),
    })
}

/// The method, if it is one that `http_types` knows. Methods are case-sensitive.
fn known_method(name: &str) -> Result<Method, Refusal> {
    const UNKNOWN: Refusal = Refusal::new(StatusCode::NotImplemented, "the method is not implemented");
    if name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(UNKNOWN);
    }
    match name {
        "GET" => Ok(Method::Get),
        "POST" => Ok(Method::Post),
        _ => Method::from_str(name).map_err(|_| UNKNOWN),
    }
}

/// What httparse refuses, in our words.
fn malformed(error: httparse::Error, bytes: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => {
            Refusal::new(StatusCode::RequestHeaderFieldsTooLarge, "too many header lines")
        }
        httparse::Error::Version if names_a_version(bytes) => {
            Refusal::new(StatusCode::HttpVersionNotSupported, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        }
        httparse::Error::HeaderName => Refusal::bad("a malformed header name"),
        httparse::Error::HeaderValue => Refusal::bad("a malformed header value"),
        _ => Refusal::bad("a malformed request line"),
    }
}

/// Whether the request line ends in a well-formed HTTP version (of those that httparse did not take).
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or(bytes);
    let mut parts = line.split(|byte| *byte == b' ');
    let version = parts.nth(2).unwrap_or_default();
    parts.next().is_none()
        && matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// What is gathered from the header lines.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent facts about one head")]
struct Fields<'a> {
    old: bool,
    host: Option<&'a [u8]>,
    doubled_host: bool,
    framing: Lines<'a>,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    upgrade: bool,
    names_upgrade: bool,
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &str, value: &'a [u8]) -> Result<(), Refusal> {
        // The lengths of the names of interest sort out nearly all others without a comparison.
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                self.doubled_host |= self.host.replace(value).is_some();
            }
            6 if name.eq_ignore_ascii_case("expect") => self.expect(value)?,
            7 if name.eq_ignore_ascii_case("upgrade") => self.upgrade = true,
            10 if name.eq_ignore_ascii_case("connection") => self.connection(value),
            14 if name.eq_ignore_ascii_case("content-length") => self.framing.content_length(value),
            17 if name.eq_ignore_ascii_case("transfer-encoding") => self.framing.transfer_encoding(value),
            _ => {}
        }
        Ok(())
    }

    fn expect(&mut self, value: &[u8]) -> Result<(), Refusal> {
        for expectation in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if expectation.eq_ignore_ascii_case(b"100-continue") {
                self.expects_continue = true;
            } else if !self.old && !expectation.is_empty() {
                return Err(Refusal::new(StatusCode::ExpectationFailed, "an expectation other than 100-continue"));
            }
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.close |= token.eq_ignore_ascii_case(b"close");
            self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
            self.names_upgrade |= token.eq_ignore_ascii_case(b"upgrade");
        }
    }

    fn host(&self) -> Result<Option<&'a str>, Refusal> {
        match self.host {
            _ if self.doubled_host => Err(Refusal::bad("more than one Host")),
            None if self.old => Ok(None),
            None => Err(Refusal::bad("no Host")),
            Some(value) if target::valid_host(value) => Ok(str::from_utf8(value).ok()),
            Some(_) => Err(Refusal::bad("a malformed Host")),
        }
    }
}

/// The characters of a token (RFC 9110 section 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let (mut table, others) = ([false; 256], b"!#$%&'*+-.^_`|~");
        let mut byte = 0_u8;
        while byte < u8::MAX {
            table[byte as usize] = byte.is_ascii_alphanumeric();
            byte += 1;
        }
        let mut at = 0;
        while at < others.len() {
            table[others[at] as usize] = true;
            at += 1;
        }
        table
    };
    TOKEN[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status(head: &str) -> u16 {
        let limits = Limits::default();
        let outcome = match find(head.as_bytes(), 0, &limits) {
            Ok(HeadEnd::Complete(end)) => check(&head.as_bytes()[..end], &limits).map(|_| ()),
            Ok(HeadEnd::Partial { .. }) => return 0,
            Err(refusal) => Err(refusal),
        };
        outcome.map_or_else(|refusal| refusal.status.into(), |()| 200)
    }

    fn passes(head: &str) -> Head<'_> {
        check(head.as_bytes(), &Limits::default()).expect("a valid head")
    }

    #[test]
    fn malformed_heads_are_refused() {
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            ("GET / HTTP/1.0\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nHost: a\r\n", 0),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a/admin?\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: a\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n X: b\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX y: b\r\n\r\n", 400),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("GET\r\n\r\n", 400),
            (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("\u{16}\u{3}\u{1}", 400),
            ("\n", 400),
            ("GET / http/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            ("PRI * HTTP/2.0\r\n\r\n", 505),
            ("get / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("Get / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-CONTINUE\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect: , 100-continue,\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, tea\r\n\r\n", 417),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413),
            ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ] {
            assert_eq!(status(head), expected, "{head:?}");
        }
    }

    #[test]
    fn a_head_over_the_limits_is_refused_with_the_status_that_says_which() {
        let limits = Limits { head_bytes: 100, headers: 2, ..Limits::default() };
        let status = |head: &str| match find(head.as_bytes(), 0, &limits) {
            Ok(HeadEnd::Complete(_)) => {
                check(head.as_bytes(), &limits).map_or_else(|refusal| refusal.status.into(), |_| 200)
            }
            Ok(HeadEnd::Partial { .. }) => 0,
            Err(refusal) => u16::from(refusal.status),
        };
        assert_eq!(status(&"A".repeat(99)), 0);
        assert_eq!(status(&"A".repeat(100)), 414, "the cap needs no line feed");
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(81))), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "a".repeat(81))), 431);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n"), 200);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nA: b\r\n\r\n"), 431);
    }

    #[test]
    fn connection_is_a_list_over_all_its_lines() {
        let keeps = |version: &str, lines: &str| {
            let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n");
            check(head.as_bytes(), &Limits::default()).expect("a valid head").keep_alive
        };
        assert!(keeps("1.1", ""));
        assert!(keeps("1.1", "Connection: upgrade\r\n"));
        assert!(!keeps("1.1", "Connection: upgrade, CLOSE\r\n"));
        assert!(!keeps("1.1", "Connection: keep-alive\r\nConnection: x ,close\r\n"));
        assert!(!keeps("1.0", ""));
        assert!(keeps("1.0", "Connection: x, Keep-Alive\r\n"));
        assert!(!keeps("1.0", "Connection: keep-alive, close\r\n"));
    }

    #[test]
    fn an_absolute_target_decides_the_host() {
        let head = passes("GET http://real/x?y HTTP/1.1\r\nHost: other\r\n\r\n");
        assert_eq!((head.host, head.target.as_str()), (Some("real"), "/x?y"));
    }

    #[test]
    fn empty_lines_before_a_request_are_skipped_up_to_a_bound() {
        assert_eq!(empty_lines(b"\r\n\r\nGET"), Ok(4));
        assert_eq!(empty_lines(b"GET\r\n"), Ok(0));
        assert_eq!(empty_lines(b"\r"), Ok(0));
        assert!(empty_lines(&b"\r\n".repeat(5)).is_err());
    }

    /// What is found of a head that is read line by line; nothing where it is refused.
    fn found_by_lines(bytes: &[u8], limits: &Limits) -> Option<HeadEnd> {
        let mut at = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            at += line.len();
            match line {
                [first, ..] if at == line.len() && !is_token(*first) => return None,
                b"\r\n" => return (at <= limits.head_bytes).then_some(HeadEnd::Complete(at)),
                [.., b'\r', b'\n'] => {}
                [.., b'\n'] => return None,
                _ => {}
            }
        }
        (bytes.len() < limits.head_bytes).then_some(HeadEnd::Partial { scanned: bytes.len() })
    }

    proptest! {
        #[test]
        fn any_split_of_any_head_gives_the_same_result(
            parts in proptest::collection::vec(prop_oneof![
                Just("GET / HTTP/1.1\r\n".to_owned()), Just("Host: a\r\n".to_owned()), Just("\r\n".to_owned()),
                Just("Content-Length: 5\r\n".to_owned()), Just("\n".to_owned()), Just("\r".to_owned()), "\\PC{0,8}",
            ], 0..8),
            cuts in proptest::collection::vec(any::<usize>(), 0..10),
        ) {
            let limits = Limits { head_bytes: 80, ..Limits::default() };
            let input = parts.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(input.len());
            let mut scanned = 0;
            let mut result = Ok(HeadEnd::Partial { scanned: 0 });
            for cut in cuts {
                result = find(&input[..cut], scanned, &limits);
                match result {
                    Ok(HeadEnd::Partial { scanned: more }) => scanned = more,
                    _ => break,
                }
            }
            let whole = find(&input, 0, &limits);
            prop_assert_eq!(whole.ok(), found_by_lines(&input, &limits));
            match (result, whole) {
                (Ok(HeadEnd::Complete(end)), Ok(HeadEnd::Complete(same))) => {
                    prop_assert_eq!(end, same);
                    let _ = check(&input[..end], &limits);
                }
                (Ok(_), Ok(_)) => prop_assert_eq!(result, whole),
                // Which of two faults is met first may depend on the split; that there is one may not.
                (split, whole) => prop_assert_eq!(split.is_err(), whole.is_err()),
            }
        }

        #[test]
        fn no_head_makes_the_check_panic(head in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check(&head, &Limits::default());
        }
    }
}
