//! From a checked head to a request: the one place where async-h1 reads.
//!
//! `async_h1::server::decode` gets one checked head from memory, never a connection. A head that would mean something
//! else to it than to us is written anew: framing and Expect are left out (bodies are read by this crate, and its own
//! 100-continue would start a second runtime), the version is 1.1, the target is in origin form, values are ASCII. What
//! was left out is put into the request afterwards, so that the application sees all header lines.

use std::borrow::Cow;
use std::fmt::Write;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_lite::{AsyncRead, AsyncWrite};
use http_types::{Request, Version};

use super::head::Head;
use super::refusal::Refusal;

/// async-h1 takes heads of less than 8 KiB; longer ones are split here.
const DECODED_BYTES_MAX: usize = 8 * 1024 - 256;

/// async-h1 takes 128 header lines.
const DECODED_FIELDS_MAX: usize = 120;

/// The longest target that travels through async-h1; a longer one is set afterwards.
const DECODED_TARGET_BYTES_MAX: usize = 4 * 1024;

/// What stands in the URL instead of a host that its library does not take. It is nobody's name (RFC 6761, section 6.4).
const UNKNOWN_HOST: &str = "host.invalid";

const REFUSED: Refusal = Refusal::bad("a Host or target that makes no URL");

/// Makes the request of a checked head. `bytes` are the head as received. The body is not set.
pub(crate) fn request(head: &Head<'_>, bytes: &[u8]) -> Result<Request, Refusal> {
    let refused = match request_for(head, bytes, None) {
        Ok(request) => return Ok(request),
        Err(refused) => refused,
    };
    // A name may be one without being one of the internet's, whose rules the library of URLs goes by: `web.1`, `xn--a`.
    let host = head.host.filter(|host| !host.starts_with('[')).ok_or(refused)?;
    let port = host.find(':').map_or("", |at| &host[at..]);
    let mut request = request_for(head, bytes, Some(&format!("{UNKNOWN_HOST}{port}")))?;
    request.insert_header("host", host);
    Ok(request)
}

/// Says that a request came over TLS.
pub(crate) fn over_tls(request: &mut Request) {
    // Port 80 is no scheme's own any more, and was left out as that of http.
    let is_port_80 = request.header("host").is_some_and(|host| host.last().as_str().ends_with(":80"));
    let url = request.url_mut();
    // Both are schemes of the web, between which a URL can change.
    let _ = url.set_scheme("https");
    if is_port_80 && url.port().is_none() {
        let _ = url.set_port(Some(80));
    }
}

/// Makes the request as one for another host, if there is to be another.
fn request_for(head: &Head<'_>, bytes: &[u8], other: Option<&str>) -> Result<Request, Refusal> {
    let mut rest = &head.fields[head.fields.len()..];
    let is_taken_as_it_is = head.plain && bytes.len() < DECODED_BYTES_MAX && head.fields.len() <= DECODED_FIELDS_MAX;
    let mut request = if is_taken_as_it_is && other.is_none() {
        decode(bytes)?
    } else {
        let (rewritten, taken) = rewrite(head, other.or(head.host).unwrap_or("localhost"));
        rest = &head.fields[taken..];
        let mut request = decode(rewritten.as_bytes())?;
        if long(head) {
            request.url_mut().set_path(head.target.path());
            request.url_mut().set_query(head.target.query());
        }
        for (name, value) in head.fields[..taken].iter().filter(|(name, _)| withheld(name)) {
            request.append_header(*name, ascii(value).as_ref());
        }
        request
    };
    for (name, value) in rest.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        request.append_header(*name, ascii(value).as_ref());
    }
    if head.old {
        request.set_version(Some(Version::Http1_0));
        if head.host.is_none() {
            request.remove_header("host");
        }
    }
    request.ext_mut().insert(head.target.clone());
    Ok(request)
}

/// A header value as `http_types` takes it: bytes beyond ASCII percent-encoded, since it panics on them.
pub(crate) fn ascii(value: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(value) {
        Ok(text) if text.is_ascii() => Cow::Borrowed(text),
        _ => value
            .iter()
            .fold(String::with_capacity(value.len() * 2), |mut text, byte| {
                if byte.is_ascii() {
                    text.push(char::from(*byte));
                } else {
                    let _ = write!(text, "%{byte:02X}");
                }
                text
            })
            .into(),
    }
}

/// The header lines that async-h1 must not see, because it would act on them.
fn withheld(name: &str) -> bool {
    ["content-length", "transfer-encoding", "expect"].iter().any(|other| name.eq_ignore_ascii_case(other))
}

fn long(head: &Head<'_>) -> bool {
    head.target.as_str().len() > DECODED_TARGET_BYTES_MAX
}

/// Writes the head anew. Returns it, and how many of the header lines it accounts for.
fn rewrite(head: &Head<'_>, host: &str) -> (String, usize) {
    let target = if head.target.path() == "*" || long(head) { "/" } else { head.target.as_str() };
    let mut text = format!("{} {target} HTTP/1.1\r\nhost: {host}\r\n", head.method);
    let mut taken = 0;
    for (name, value) in &head.fields {
        if !withheld(name) && !name.eq_ignore_ascii_case("host") {
            let value = ascii(value);
            if text.len() + name.len() + value.len() > DECODED_BYTES_MAX || taken == DECODED_FIELDS_MAX {
                break;
            }
            for part in [name, ": ", value.as_ref(), "\r\n"] {
                text.push_str(part);
            }
        }
        taken += 1;
    }
    text.push_str("\r\n");
    (text, taken)
}

/// Runs async-h1's decoder over a head in memory. It never waits, so that none of its state outlives this call.
fn decode(head: &[u8]) -> Result<Request, Refusal> {
    let decoding = pin!(async_h1::server::decode(Memory { bytes: Arc::from(head), at: 0 }));
    match decoding.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(Some((request, _)))) => Ok(request),
        Poll::Ready(Ok(None) | Err(_)) | Poll::Pending => Err(REFUSED),
    }
}

/// A connection as async-h1 sees it: the bytes of one head, then its end.
#[derive(Clone, Debug)]
struct Memory {
    bytes: Arc<[u8]>,
    at: usize,
}

impl AsyncRead for Memory {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = into.len().min(self.bytes.len() - self.at);
        into[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(count))
    }
}

/// async-h1 asks for a stream that can be written to, and would write only its own 100-continue.
impl AsyncWrite for Memory {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::head;
    use super::super::target::Target;
    use super::*;
    use crate::http::Limits;

    fn decoded(bytes: &[u8]) -> Request {
        let head = head::check(bytes, &Limits::default()).expect("a valid head");
        request(&head, bytes).expect("a request")
    }

    fn values(request: &Request, name: &str) -> Vec<String> {
        request.header(name).map(|values| values.iter().map(ToString::to_string).collect()).unwrap_or_default()
    }

    #[test]
    fn the_application_sees_every_header_line_in_order() {
        let request = decoded(
            b"POST /x/../y?z HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nA: 1\r\nExpect: 100-continue\r\nA: 2\r\n\r\n",
        );
        assert_eq!(values(&request, "a"), ["1", "2"]);
        assert_eq!(values(&request, "content-length"), ["3"]);
        assert_eq!(values(&request, "expect"), ["100-continue"]);
        assert_eq!(values(&request, "host"), ["a"]);
        assert_eq!(request.ext().get::<Target>().expect("a target").as_str(), "/x/../y?z");
        assert_eq!(request.url().path(), "/y", "which is why applications route on the target");
    }

    #[test]
    fn values_beyond_ascii_arrive_percent_encoded_instead_of_a_panic() {
        let request = decoded(b"GET / HTTP/1.1\r\nHost: a\r\nA: x\xe9\xff\r\n\r\n");
        assert_eq!(values(&request, "a"), ["x%E9%FF"]);
    }

    #[test]
    fn old_and_absolute_requests_get_through() {
        let request = decoded(b"GET / HTTP/1.0\r\n\r\n");
        assert_eq!(request.version(), Some(Version::Http1_0));
        assert_eq!(values(&request, "host"), [""; 0]);
        let request = decoded(b"GET http://real/p HTTP/1.1\r\nHost: other\r\n\r\n");
        assert_eq!(values(&request, "host"), ["real"]);
        assert_eq!(request.url().as_str(), "http://real/p");
        let request = decoded(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(request.ext().get::<Target>().expect("a target").path(), "*");
    }

    #[test]
    fn heads_beyond_the_limits_of_async_h1_get_through_whole() {
        let mut head = format!("GET /{} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n", "p".repeat(5000));
        for n in 0..90 {
            let _ = write!(head, "X-{n}: {}\r\n", "v".repeat(100));
        }
        head.push_str("\r\n");
        let request = decoded(head.as_bytes());
        assert_eq!(request.url().path().len(), 5001);
        assert_eq!(request.header_names().count(), 92);
        assert_eq!(values(&request, "x-89"), ["v".repeat(100)]);
        let many: Vec<String> = (0..200).map(|n| format!("X-{n}: v\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", many.concat());
        let limits = Limits { headers: 256, ..Limits::default() };
        let checked = head::check(head.as_bytes(), &limits).expect("a valid head");
        let request = super::request(&checked, head.as_bytes()).expect("a request");
        assert_eq!(request.header_names().count(), 201);
    }

    #[test]
    fn a_host_that_the_library_of_urls_does_not_know_is_served_all_the_same() {
        let long = "v".repeat(DECODED_BYTES_MAX);
        for host in ["web.1", "node-1.2:8080", "xn--a", "1.2.3.4.5", "256.1.1.1:80", "a%20b", "%7f"] {
            for (target, lines) in [("/p?q", ""), ("http://HOST/p?q", ""), ("/p?q", long.as_str())] {
                let target = target.replace("HOST", host);
                let request =
                    decoded(format!("GET {target} HTTP/1.1\r\nA: {lines}\r\nHost: {host}\r\n\r\n").as_bytes());
                assert_eq!(values(&request, "host"), [host]);
                assert_eq!(values(&request, "a"), [lines]);
                let url = request.url();
                assert_eq!((url.host_str(), url.path(), url.query()), (Some(UNKNOWN_HOST), "/p", Some("q")), "{host}");
                let port = host.split_once(':').and_then(|(_, port)| port.parse().ok()).filter(|port| *port != 80);
                assert_eq!(url.port(), port);
            }
        }
        assert_eq!(decoded(b"GET / HTTP/1.1\r\nHost: web.x\r\n\r\n").url().host_str(), Some("web.x"));
    }

    #[test]
    fn a_host_that_makes_no_url_is_refused() {
        for host in ["a:99999", "web.1:99999", "[:::]"] {
            let bytes = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let head = head::check(bytes.as_bytes(), &Limits::default()).expect("a valid head");
            assert!(request(&head, bytes.as_bytes()).is_err(), "{host}");
        }
    }
}
