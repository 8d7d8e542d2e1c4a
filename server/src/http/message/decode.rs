//! From a checked head to a request: the one place where async-h1 reads.
//!
//! `async_h1::server::decode` gets one head from memory, never a connection, and no more of it than makes the request:
//! method, host and, unless that is plain, the URL, in absolute form, which says the scheme as well. All other header lines
//! were checked before and go into the request right away, and so does a plain URL. So it never sees what it would act on
//! (framing and Expect: bodies are read by this crate, and its own 100-continue would start a second runtime), nothing is
//! parsed twice, and its bounds on heads are not ours.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::io;
use std::mem;
use std::option;
use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use futures_lite::{AsyncRead, AsyncWrite};
use http_types::headers::{self, HeaderName, HeaderValue, Headers, ToHeaderValues};
use http_types::{Method, Request, StatusCode, Trailers, Version};

use super::head::Head;
use super::refusal::Refusal;
use super::url;

/// The longest target that travels through async-h1, whose heads have less than 8 KiB; a longer one is set afterwards, as a
/// plain one is.
const DECODED_TARGET_BYTES_MAX: usize = 4 * 1024;

/// What async-h1 parses where the URL is made here: no other takes it less time.
const PLACEHOLDER: &str = "http://a/";

/// What stands in the URL instead of a host that its library does not take. It is nobody's name (RFC 6761, section 6.4).
const UNKNOWN_HOST: &str = "host.invalid";

/// A request of more fields gets room for all that browsers send.
const FIELDS_FEW: usize = 7;

/// Host, without a value, and room for 27 more headers.
static ROOM: LazyLock<Headers> = LazyLock::new(|| {
    let mut roomy = Trailers::new();
    let names = || (0..15).map(|number| format!("x-{number}"));
    for name in names() {
        roomy.insert(name.as_str(), "");
    }
    roomy.insert(headers::HOST, &[][..]);
    for name in names() {
        roomy.remove(name.as_str());
    }
    Headers::clone(&roomy)
});

const REFUSED: Refusal = Refusal::bad("a Host or target that makes no URL");
const WITHOUT_TLS: Refusal = Refusal::new(StatusCode::MisdirectedRequest, "an https URL on a connection without TLS");

/// Makes the request of a checked head, which came over TLS if it is `secured`, in its `place`: it is large, and is not
/// handed on through the results of all these. The body is not set.
pub(crate) fn request<'a>(
    head: Head<'_>,
    secured: bool,
    place: &'a mut Option<Request>,
) -> Result<&'a mut Request, Refusal> {
    if head.is_for_tls && !secured {
        return Err(WITHOUT_TLS);
    }
    let host = head.host.unwrap_or("localhost");
    if let Err(refused) = request_for(&head, host, secured, place) {
        // A name may be one without being one of the internet's, whose rules the library of URLs goes by: `web.1`, `xn--a`.
        let host = head.host.filter(|host| !host.starts_with('[')).ok_or(refused)?;
        let port = host.find(':').map_or("", |at| &host[at..]);
        request_for(&head, &format!("{UNKNOWN_HOST}{port}"), secured, place)?.insert_header(headers::HOST, host);
    }
    // It is there now, in whichever way it was made.
    let request = place.as_mut().ok_or(REFUSED)?;
    if head.fields.len() > FIELDS_FEW {
        make_room(request);
    }
    if head.host.is_none() {
        request.remove_header(headers::HOST);
    }
    take_fields(request, &head.fields, head.is_ascii);
    if head.old {
        request.set_version(Some(Version::Http1_0));
    }
    request.ext_mut().insert(head.target);
    Ok(request)
}

/// Makes the request for a host, without other header lines.
fn request_for<'a>(
    head: &Head<'_>,
    host: &str,
    secured: bool,
    place: &'a mut Option<Request>,
) -> Result<&'a mut Request, Refusal> {
    if let Some(url) = url::plain(secured, host, &head.target) {
        let request = decode(head.method, [PLACEHOLDER, "", ""], host, place)?;
        *request.url_mut() = url;
        return Ok(request);
    }
    let scheme = if secured { "https://" } else { "http://" };
    let is_long = head.target.as_str().len() > DECODED_TARGET_BYTES_MAX;
    let target = if head.target.path() == "*" || is_long { "/" } else { head.target.as_str() };
    let request = decode(head.method, [scheme, host, target], host, place)?;
    if is_long {
        request.url_mut().set_path(head.target.path());
        request.url_mut().set_query(head.target.query());
    }
    Ok(request)
}

/// Gives a request's headers, of which Host is the only one, room at once. As they grow, all names are hashed anew each time;
/// a clone keeps the room of what it is of, and http-types has no other way to ask for some. The clone has a Host already, so
/// that only its value changes places.
fn make_room(request: &mut Request) {
    let headers: &mut Headers = request.as_mut();
    let before = mem::replace(headers, ROOM.clone());
    for ((_, place), (_, values)) in headers.iter_mut().zip(before) {
        *place = values;
    }
}

/// Puts all header lines but Host into the request, in their order.
fn take_fields(request: &mut Request, fields: &[(&str, &[u8])], is_ascii: bool) {
    let mut fields = fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host"));
    for (name, value) in fields.by_ref() {
        if let Some(before) = request.insert_header(header_name(name), Value::of(value, is_ascii)) {
            // A name has come again. Nearly no request has such lines, and to insert is half the work.
            request.insert_header(*name, &before);
            request.append_header(*name, Value::of(value, is_ascii));
            break;
        }
    }
    for (name, value) in fields {
        request.append_header(header_name(name), Value::of(value, is_ascii));
    }
}

/// The value of a header line, for whoever asks first. To take it as text, http-types would have it read three times.
struct Value(Cell<Option<HeaderValue>>);

impl Value {
    fn of(bytes: &[u8], is_ascii: bool) -> Value {
        let value = if is_ascii { HeaderValue::from_bytes(bytes.to_vec()) } else { ascii(bytes).parse() };
        Value(Cell::new(value.ok()))
    }
}

impl ToHeaderValues for Value {
    type Iter = option::IntoIter<HeaderValue>;

    fn to_header_values(&self) -> http_types::Result<Self::Iter> {
        Ok(self.0.take().into_iter())
    }
}

/// A header's name, without memory of its own if it is one that clients send often.
fn header_name(name: &str) -> HeaderName {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 if is("te") => headers::TE,
        3 if is("via") => headers::VIA,
        6 if is("accept") => headers::ACCEPT,
        6 if is("cookie") => headers::COOKIE,
        6 if is("origin") => headers::ORIGIN,
        6 if is("pragma") => headers::PRAGMA,
        6 if is("expect") => headers::EXPECT,
        7 if is("referer") => headers::REFERER,
        7 if is("upgrade") => headers::UPGRADE,
        8 if is("if-match") => headers::IF_MATCH,
        8 if is("if-range") => headers::IF_RANGE,
        9 if is("forwarded") => headers::FORWARDED,
        10 if is("user-agent") => headers::USER_AGENT,
        10 if is("connection") => headers::CONNECTION,
        11 if is("traceparent") => headers::TRACEPARENT,
        12 if is("content-type") => headers::CONTENT_TYPE,
        13 if is("cache-control") => headers::CACHE_CONTROL,
        13 if is("if-none-match") => headers::IF_NONE_MATCH,
        13 if is("authorization") => headers::AUTHORIZATION,
        14 if is("content-length") => headers::CONTENT_LENGTH,
        15 if is("accept-encoding") => headers::ACCEPT_ENCODING,
        15 if is("accept-language") => headers::ACCEPT_LANGUAGE,
        16 if is("content-encoding") => headers::CONTENT_ENCODING,
        17 if is("if-modified-since") => headers::IF_MODIFIED_SINCE,
        17 if is("transfer-encoding") => headers::TRANSFER_ENCODING,
        _ => name.into(),
    }
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

/// Runs async-h1's decoder over a head of these. It never waits, so that none of its state outlives this call.
fn decode<'a>(
    method: Method,
    [scheme, authority, target]: [&str; 3],
    host: &str,
    place: &'a mut Option<Request>,
) -> Result<&'a mut Request, Refusal> {
    HEAD.with_borrow_mut(|bytes| {
        bytes.clear();
        let end = " HTTP/1.1\r\nhost: ";
        for part in [method.as_ref(), " ", scheme, authority, target, end, host, "\r\n\r\n"] {
            bytes.extend_from_slice(part.as_bytes());
        }
    });
    let decoding = pin!(async_h1::server::decode(Memory { at: 0 }));
    match decoding.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(Some((request, _)))) => Ok(place.insert(request)),
        Poll::Ready(Ok(None) | Err(_)) | Poll::Pending => Err(REFUSED),
    }
}

thread_local! {
    /// The head that this thread has decoded. async-h1 takes only what it may keep, and so no head that is borrowed.
    static HEAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection as async-h1 sees it: the bytes of [`HEAD`], then its end.
#[derive(Clone, Debug)]
struct Memory {
    at: usize,
}

impl AsyncRead for Memory {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        HEAD.with_borrow(|bytes| {
            let count = into.len().min(bytes.len() - self.at);
            into[..count].copy_from_slice(&bytes[self.at..self.at + count]);
            self.at += count;
            Poll::Ready(Ok(count))
        })
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
        made(bytes, &Limits::default(), false).expect("a request")
    }

    fn made(bytes: &[u8], limits: &Limits, secured: bool) -> Result<Request, Refusal> {
        let mut place = None;
        request(head::check(bytes, limits).expect("a valid head"), secured, &mut place)?;
        Ok(place.expect("it is there"))
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
    fn an_https_url_is_asked_for_over_tls_and_over_nothing_else() {
        let ask = |secured| {
            let bytes = b"GET https://real:8443/p?q HTTP/1.1\r\nHost: other\r\n\r\n";
            made(bytes, &Limits::default(), secured)
        };
        let request = ask(true).expect("a request");
        assert_eq!(request.url().as_str(), "https://real:8443/p?q");
        assert_eq!(values(&request, "host"), ["real:8443"]);
        assert_eq!(ask(false).expect_err("refused").status, StatusCode::MisdirectedRequest);
    }

    #[test]
    fn heads_beyond_the_limits_of_async_h1_get_through_whole() {
        // What a URL writes in another way is not plain.
        for changed in ["", "{"] {
            let head = format!("GET /{}{changed}?{}' HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(5000), "q".repeat(2000));
            let request = decoded(head.as_bytes());
            assert_eq!(request.url().path().strip_suffix("%7B").map_or(5001, str::len), 5001);
            assert_eq!(request.url().query().map(str::len), Some(2003));
            assert_eq!(request.ext().get::<Target>().expect("a target").path().len(), 5001 + changed.len());
        }
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
        let request = made(head.as_bytes(), &limits, false).expect("a request");
        assert_eq!(request.header_names().count(), 201);
    }

    #[test]
    fn a_host_that_the_library_of_urls_does_not_know_is_served_all_the_same() {
        let long = "v".repeat(8 * 1024);
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
            assert!(made(bytes.as_bytes(), &Limits::default(), false).is_err(), "{host}");
        }
    }
}
