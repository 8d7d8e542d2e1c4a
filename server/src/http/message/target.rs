//! What a request asks for, as the client wrote it: the request target, and the host that it is meant for.
//!
//! `http_types` normalises a URL (`..` and `%2e%2e` disappear) and async-h1 builds it from the Host header, so that a
//! crafted Host changes the path. Applications therefore route on the [`Target`]. The functions here are pure; they
//! accept the four forms of RFC 9112 section 3.2 and refuse all else.

use http_types::{Method, StatusCode};
use memchr::memchr_iter;

use super::refusal::Refusal;

/// The request target as it was sent: in each request's `ext`, and what applications route on.
///
/// Nothing in it is decoded or normalised. Of a target in absolute form (`GET http://host/path HTTP/1.1`) it holds path
/// and query; the authority is in the request's URL and its Host header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    raw: String,
    query_at: Option<usize>,
    is_plain: bool,
}

impl Target {
    /// The path, raw: `/a%2fb/../c`. It begins with `/`, or it is the `*` of `OPTIONS *`.
    pub fn path(&self) -> &str {
        &self.raw[..self.query_at.unwrap_or(self.raw.len())]
    }

    /// What follows the first `?`, raw and without it, if there is one.
    pub fn query(&self) -> Option<&str> {
        self.query_at.map(|at| &self.raw[at + 1..])
    }

    /// Path and query as they were sent.
    pub fn as_str(&self) -> &str {
        &self.raw
    }

    /// Whether it begins with `/`, and a URL has path and query as they are here.
    pub(crate) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Where the `?` is, if there is one.
    pub(crate) fn query_at(&self) -> Option<usize> {
        self.query_at
    }
}

/// It must not be sent raw: no visible ASCII, or the `#` of a fragment.
const NOWHERE: u8 = 1;
/// The strictest servers refuse it in a path.
const NOT_IN_PATH: u8 = 1 << 1;
/// They refuse it in a query.
const NOT_IN_QUERY: u8 = 1 << 2;
/// In the path of a URL it is written otherwise.
const CHANGED_IN_PATH: u8 = 1 << 3;
/// In the query of a URL it is written otherwise.
const CHANGED_IN_QUERY: u8 = 1 << 4;
/// What a segment begins with that may be no name but a step: `.`, `..` or one of them encoded.
const STEP: u8 = 1 << 5;
/// The slash before a segment: the bit above [`STEP`], so that the one before a byte meets the other in it.
const SLASH: u8 = STEP << 1;
/// It may stand in the name of a host.
const IN_NAME: u8 = 1 << 7;

/// What is known of each byte.
const KINDS: [u8; 256] = {
    let (mut kinds, mut byte) = ([NOWHERE; 256], 0_u8);
    while byte.is_ascii() {
        kinds[byte as usize] = kind(byte);
        byte += 1;
    }
    kinds
};

const fn kind(byte: u8) -> u8 {
    match byte {
        b'/' => SLASH,
        b'.' | b'%' => STEP | IN_NAME,
        b'\'' => CHANGED_IN_QUERY | IN_NAME,
        b'-' | b'_' | b'~' | b'!' | b'$' | b'&' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => IN_NAME,
        b':' | b'@' | b'?' => 0,
        b'<' | b'>' => NOT_IN_PATH | NOT_IN_QUERY,
        b'`' => NOT_IN_PATH | CHANGED_IN_QUERY,
        b'"' => CHANGED_IN_PATH | NOT_IN_QUERY,
        b'#' => NOWHERE,
        _ if byte.is_ascii_alphanumeric() => IN_NAME,
        _ if byte.is_ascii_graphic() => CHANGED_IN_PATH | CHANGED_IN_QUERY,
        _ => NOWHERE,
    }
}

/// What stands before the path of a target in absolute form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin<'a> {
    /// Whether it is asked for over TLS: `https://`.
    pub(crate) secured: bool,
    /// The host, with a port if it has one.
    pub(crate) authority: &'a str,
}

/// Reads a request target. Returns with it what stands before its path, if it is in absolute form.
pub(crate) fn parse(method: Method, raw: &str) -> Result<(Target, Option<Origin<'_>>), Refusal> {
    if method == Method::Connect {
        return Err(Refusal::new(StatusCode::NotImplemented, "CONNECT is not implemented"));
    }
    if raw.starts_with('/') {
        return checked(raw.to_owned()).map(|target| (target, None));
    }
    if raw == "*" {
        return match method {
            Method::Options => checked("*".to_owned()).map(|target| (target, None)),
            _ => Err(Refusal::bad("the request target * with a method other than OPTIONS")),
        };
    }
    let of = |secured, scheme| after_scheme(raw, scheme).map(|rest| (secured, rest));
    let (secured, rest) = of(true, "https://")
        .or_else(|| of(false, "http://"))
        .ok_or(Refusal::bad("a request target that is neither a path nor an http URL"))?;
    let path_at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(path_at);
    if !valid_host(authority.as_bytes()) {
        return Err(Refusal::bad("a request target whose host is malformed"));
    }
    let path = match path {
        "" if method == Method::Options => "*".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    checked(path).map(|target| (target, Some(Origin { secured, authority })))
}

/// What follows the scheme of a URL, if it has this one.
fn after_scheme<'a>(raw: &'a str, scheme: &str) -> Option<&'a str> {
    let (start, rest) = raw.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// Looks at each byte once: refuses what a client must never send raw and what the strictest servers refuse (`<`, `>` and
/// `` ` `` in a path, `"`, `<` and `>` in a query), and finds out whether a URL would change anything.
fn checked(raw: String) -> Result<Target, Refusal> {
    let query_at = raw.find('?');
    let (path, query) = raw.as_bytes().split_at(query_at.unwrap_or(raw.len()));
    let (mut in_path, mut steps, mut before) = (0, 0, 0);
    for kind in path.iter().map(|byte| KINDS[usize::from(*byte)]) {
        in_path |= kind;
        steps |= before >> 1 & kind & STEP;
        before = kind;
    }
    let in_query = query.iter().fold(0, |kinds, byte| kinds | KINDS[usize::from(*byte)]);
    if in_path & (NOWHERE | NOT_IN_PATH) != 0 || in_query & (NOWHERE | NOT_IN_QUERY) != 0 {
        return Err(Refusal::bad("a byte in the request target that has to be percent-encoded"));
    }
    let is_plain = path.first() == Some(&b'/') && steps | in_path & CHANGED_IN_PATH | in_query & CHANGED_IN_QUERY == 0;
    Ok(Target { raw, query_at, is_plain })
}

/// Whether a Host value is a host with an optional port: nothing that could reach into the URL built from it.
pub(crate) fn valid_host(value: &[u8]) -> bool {
    let (host, port) = match value.first() {
        None | Some(b':') => return false,
        Some(b'[') => {
            let Some(end) = value.iter().position(|byte| *byte == b']') else { return false };
            let address = &value[1..end];
            if address.is_empty() || !address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
            {
                return false;
            }
            (&value[..0], &value[end + 1..])
        }
        Some(_) => {
            let end = value.iter().position(|byte| KINDS[usize::from(*byte)] & IN_NAME == 0);
            value.split_at(end.unwrap_or(value.len()))
        }
    };
    let port_is_valid = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    port_is_valid
        && memchr_iter(b'%', host)
            .all(|at| matches!(host[at + 1..], [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(raw: &str) -> Result<(String, Option<String>, Option<String>), u16> {
        parse(Method::Get, raw)
            .map(|(target, origin)| {
                let authority = origin.map(|origin| origin.authority.to_owned());
                (target.path().to_owned(), target.query().map(str::to_owned), authority)
            })
            .map_err(|refusal| refusal.status.into())
    }

    #[test]
    fn paths_stay_as_they_were_sent() {
        for path in ["/", "/a/../b", "/%2e%2e/%2F", "//host/x", "/a\\b", "/a;b=1,{}|^", "/\"q\""] {
            assert_eq!(get(path), Ok((path.to_owned(), None, None)));
        }
        assert_eq!(get("/a?b=c?d"), Ok(("/a".into(), Some("b=c?d".into()), None)));
        assert_eq!(get("/?"), Ok(("/".into(), Some(String::new()), None)));
    }

    #[test]
    fn absolute_form_gives_path_and_authority() {
        assert_eq!(get("http://a:80/b?c"), Ok(("/b".into(), Some("c".into()), Some("a:80".into()))));
        assert_eq!(get("HTTP://[::1]"), Ok(("/".into(), None, Some("[::1]".into()))));
        let origin = |raw| parse(Method::Get, raw).expect("valid").1;
        assert_eq!(origin("HTTPS://a:443/"), Some(Origin { secured: true, authority: "a:443" }));
        assert_eq!(origin("http://a:443/"), Some(Origin { secured: false, authority: "a:443" }));
        assert_eq!(get("http://a?x"), Ok(("/".into(), Some("x".into()), Some("a".into()))));
        assert_eq!(parse(Method::Options, "http://a").expect("valid").0.path(), "*");
    }

    #[test]
    fn other_targets_are_refused() {
        for raw in
            ["", "*", "a", "a:80", "ftp://a/", "http:///b", "https://u@a/b", "http://", "/a#b", "/<a>", "/`", "/?\""]
        {
            assert_eq!(get(raw), Err(400), "{raw}");
        }
        assert_eq!(get("/\u{e9}"), Err(400));
        assert_eq!(parse(Method::Connect, "a:80").expect_err("refused").status, StatusCode::NotImplemented);
        assert_eq!(parse(Method::Options, "*").expect("valid").0.path(), "*");
    }

    #[test]
    fn a_host_that_could_reach_into_the_url_is_refused() {
        for host in ["a", "a.b:80", "127.0.0.1:8080", "[::1]", "[::1]:80", "a:", "a_b", "xn--a", "web.1", "a%20"] {
            assert!(valid_host(host.as_bytes()), "{host}");
        }
        for host in [
            "", ":80", "a/b", "a/admin?", "a?b", "a#b", "u@a", "a b", "a\\b", "[::1", "[]", "[::1]x", "a:8x",
            "a:123456", "a:1:2", "\u{e9}", "a\"b", "a%", "a%2", "a%2g",
        ] {
            assert!(!valid_host(host.as_bytes()), "{host}");
        }
    }
}
