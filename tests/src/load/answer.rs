//! Reads one HTTP/1.1 answer out of the bytes received so far: pure, without a socket.
//!
//! The head is httparse's; the framing is decided here, and strictly, since the load tool exists to notice what a
//! lenient client forgives. Nothing is kept between two calls, so half an answer is read again when more has come:
//! the body is only copied once it is whole.

use std::ops::Range;

use httparse::Status;

/// The largest head that an answer may have.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The largest body that an answer may have.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The most header fields that an answer may have.
const HEADERS_MAX: usize = 64;

/// One whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header fields as they came, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first value of a header field, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The process that answered, by its `x-pid`.
    pub fn pid(&self) -> Option<u32> {
        self.header("x-pid")?.parse().ok()
    }

    /// The generation that answered, by its `x-generation`.
    pub fn generation(&self) -> Option<u64> {
        self.header("x-generation")?.parse().ok()
    }

    /// Whether the server says that it will close the connection.
    pub fn announces_close(&self) -> bool {
        let mut tokens = self.headers.iter().filter(|(n, _)| n == "connection").flat_map(|(_, value)| value.split(','));
        tokens.any(|token| token.trim().eq_ignore_ascii_case("close"))
    }

    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What the bytes received so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A whole answer, made of this many bytes.
    Whole(Box<Answer>, usize),
    /// The beginning of one.
    Partial,
    /// No HTTP, or an answer beyond the bounds.
    Malformed(String),
}

/// The framing of a body, or why there is none to be had.
enum Body {
    Length(usize),
    Chunked,
    UntilEnd,
}

/// Reads an answer; `ended` says that no more bytes will come. Interim answers (1xx) are skipped.
pub(super) fn parse(bytes: &[u8], ended: bool) -> Parsed {
    let mut start = 0;
    loop {
        match parse_one(&bytes[start..], ended) {
            Parsed::Whole(answer, used) if (100..200).contains(&answer.status) && answer.status != 101 => {
                start += used;
            }
            Parsed::Whole(answer, used) => return Parsed::Whole(answer, start + used),
            other => return other,
        }
    }
}

/// Reads the head of an answer: its bodiless form and the bytes of the head, None while some are missing, or why it is
/// malformed.
pub(super) fn parse_head(bytes: &[u8]) -> Result<Option<(Answer, usize)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let head_bytes = match head.parse(bytes) {
        Ok(Status::Complete(n)) => n,
        Ok(Status::Partial) if bytes.len() > HEAD_BYTES_MAX => return Err("the head is too long".into()),
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("the head is no HTTP ({error}): {}", excerpt(bytes))),
    };
    let mut answer = Answer { status: head.code.unwrap_or(0), headers: Vec::new(), body: Vec::new() };
    for field in head.headers.iter() {
        let value = String::from_utf8_lossy(field.value).into_owned();
        answer.headers.push((field.name.to_ascii_lowercase(), value));
    }
    Ok(Some((answer, head_bytes)))
}

fn parse_one(bytes: &[u8], ended: bool) -> Parsed {
    let (mut answer, head_bytes) = match parse_head(bytes) {
        Ok(Some(head)) => head,
        Ok(None) => return Parsed::Partial,
        Err(reason) => return Parsed::Malformed(reason),
    };
    let framing = match framing(&answer) {
        Ok(framing) => framing,
        Err(reason) => return Parsed::Malformed(reason),
    };
    let rest = &bytes[head_bytes..];
    let body_bytes = match framing {
        Body::Length(n) if rest.len() < n => return Parsed::Partial,
        Body::Length(n) => {
            answer.body = rest[..n].to_vec();
            n
        }
        Body::Chunked => match chunks(rest) {
            Ok(Some((ranges, n))) => {
                answer.body = ranges.into_iter().flat_map(|range| &rest[range]).copied().collect();
                n
            }
            Ok(None) => return Parsed::Partial,
            Err(reason) => return Parsed::Malformed(reason),
        },
        Body::UntilEnd if ended => {
            answer.body = rest.to_vec();
            rest.len()
        }
        Body::UntilEnd => return Parsed::Partial,
    };
    Parsed::Whole(Box::new(answer), head_bytes + body_bytes)
}

fn framing(answer: &Answer) -> Result<Body, String> {
    if answer.status < 200 || answer.status == 204 || answer.status == 304 {
        return Ok(Body::Length(0));
    }
    let lengths: Vec<&str> =
        answer.headers.iter().filter(|(n, _)| n == "content-length").map(|(_, value)| value.as_str()).collect();
    match (answer.header("transfer-encoding"), lengths.as_slice()) {
        (Some(coding), []) if coding.eq_ignore_ascii_case("chunked") => Ok(Body::Chunked),
        (Some(coding), _) => Err(format!("transfer-encoding {coding:?} beside content-length {lengths:?}")),
        (None, []) if answer.announces_close() => Ok(Body::UntilEnd),
        (None, []) => Err("a body without a length on a connection that stays".into()),
        (None, [length]) => match length.parse() {
            Ok(n) if n <= BODY_BYTES_MAX && length.bytes().all(|b| b.is_ascii_digit()) => Ok(Body::Length(n)),
            _ => Err(format!("content-length {length:?}")),
        },
        (None, _) => Err(format!("more than one content-length: {lengths:?}")),
    }
}

/// Where the chunks of a whole body lie, and the bytes that they take with their framing.
type Chunks = (Vec<Range<usize>>, usize);

/// Finds the chunks of a whole body; None while some are missing.
fn chunks(bytes: &[u8]) -> Result<Option<Chunks>, String> {
    let mut at = 0;
    let mut ranges = Vec::new();
    loop {
        let size = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(Status::Complete((used, size))) => {
                at += used;
                usize::try_from(size).ok().filter(|n| *n <= BODY_BYTES_MAX).ok_or("a chunk beyond the bound")?
            }
            Ok(Status::Partial) => return Ok(None),
            Err(_) => return Err(format!("a malformed chunk size: {}", excerpt(&bytes[at..]))),
        };
        if size == 0 {
            break;
        }
        let end = at + size;
        match bytes.get(end..end + 2) {
            Some(b"\r\n") => ranges.push(at..end),
            Some(other) => return Err(format!("a chunk ends in {other:?}")),
            None => return Ok(None),
        }
        at = end + 2;
    }
    // The trailer section: fields up to an empty line.
    loop {
        let Some(line) = bytes[at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        at += line + 2;
        if line == 0 {
            return Ok(Some((ranges, at)));
        }
    }
}

/// The beginning of some bytes, for a message.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(80)];
    format!("\"{}\"{}", shown.escape_ascii(), if shown.len() < bytes.len() { "…" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::{Parsed, parse};

    fn whole(bytes: &[u8]) -> (super::Answer, usize) {
        match parse(bytes, false) {
            Parsed::Whole(answer, used) => (*answer, used),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_is_whole_at_its_last_byte_and_not_before() {
        let length = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-pid: 7\r\nX-Generation: 3\r\n\r\nhello";
        let chunked =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: a\r\n\r\n";
        for text in [length, chunked] {
            for end in 0..text.len() {
                assert_eq!(parse(&text.as_bytes()[..end], false), Parsed::Partial, "{end} bytes of {text}");
            }
            let (answer, used) = whole(format!("{text}HTTP").as_bytes());
            assert_eq!((answer.body.as_slice(), used), (&b"hello"[..], text.len()));
        }
        let (answer, _) = whole(length.as_bytes());
        assert_eq!((answer.pid(), answer.generation(), answer.announces_close()), (Some(7), Some(3), false));
    }

    #[test]
    fn interim_answers_are_skipped_and_a_body_without_length_ends_with_the_stream() {
        let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nConnection: close\r\n\r\nabc";
        assert_eq!(parse(text, false), Parsed::Partial);
        let Parsed::Whole(answer, used) = parse(text, true) else { panic!("not whole") };
        assert_eq!((answer.status, answer.text().as_str(), used), (404, "abc", text.len()));
        assert!(answer.announces_close());
    }

    #[test]
    fn what_a_lenient_client_forgives_is_malformed() {
        for text in [
            "nonsense\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
            "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\na",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffff\r\n",
        ] {
            assert!(matches!(parse(text.as_bytes(), false), Parsed::Malformed(_)), "{text}");
        }
    }
}
