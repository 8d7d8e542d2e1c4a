//! Where a site's paths have moved: `--redirect`, and the `[[redirect]]` tables of the file.
//!
//! A rule is a line as `_redirects` files have it, `FROM TO [STATUS]`. What a client wrote gets into a Location name by name,
//! decoded and encoded anew, so that nothing in it could be taken for another host (`//host`, `/\host`), for a separator or for
//! the end of a line: only who wrote the configuration can lead to another host. A path that could mean more than its names
//! is redirected nowhere.

use std::borrow::Cow;
use std::fmt::Write as _;

use ipnet::Ipv6Net;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::given::{Error, Given};

const ADVICE: &str = "write FROM TO [STATUS], such as /old/* /new/:splat 301";

/// What stands for the rest of a path.
const SPLAT: &str = "splat";

/// What is encoded of a name that a client wrote, in a query: all but the unreserved characters of RFC 3986, section 2.3.
const ENCODED_IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The same in a path, where a name may have more of them (section 3.3): people see `/@name` in their address bars, and other
/// servers write it so.
pub(crate) const ENCODED_IN_PATH: &AsciiSet = &ENCODED_IN_QUERY
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// A rule by which clients are sent elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    from: Vec<Name>,
    /// Whether more names may follow.
    has_splat: bool,
    to: Destination,
    status: u16,
}

/// A name in a path that is redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Literal(Vec<u8>),
    /// Any name, which is called so.
    Called(String),
}

/// Where a client is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Destination {
    /// Scheme and host, where they were configured.
    origin: String,
    /// Path and query.
    parts: Vec<Part>,
    has_query: bool,
    /// With its `#`.
    fragment: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Called(String),
}

/// The names in the path of a request, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names<'a> {
    names: Vec<Cow<'a, [u8]>>,
    /// Whether a slash is at its end.
    is_directory: bool,
}

impl<'a> Names<'a> {
    /// Reads a path as the client wrote it; nothing where a part of it is no plain name.
    pub fn parse(path: &'a str) -> Option<Names<'a>> {
        let path = path.strip_prefix('/')?;
        if path.is_empty() {
            return Some(Names { names: vec![], is_directory: true });
        }
        let (path, is_directory) = path.strip_suffix('/').map_or((path, false), |path| (path, true));
        let names = path.split('/').map(|name| decode(name).filter(|name| is_plain(name)));
        Some(Names { names: names.collect::<Option<_>>()?, is_directory })
    }
}

impl Redirect {
    pub(super) fn parse(given: &Given) -> Result<Redirect, Error> {
        let refuse = |cause: String| given.refuse(cause, ADVICE);
        let words: Vec<_> = given.text().split_whitespace().collect();
        let (from, to, status) = match words[..] {
            [from, to] => (from, to, "301"),
            [from, to, status] => (from, to, status),
            _ => return Err(refuse("is no rule of two or three words".to_owned())),
        };
        let status = match status {
            "301" => 301,
            "302" => 302,
            "303" => 303,
            "307" => 307,
            "308" => 308,
            _ => {
                return Err(
                    given.refuse(format!("{status:?} sends nobody elsewhere"), "write 301, 302, 303, 307 or 308")
                );
            }
        };
        let (from, has_splat) = source(from).map_err(refuse)?;
        let to = Destination::parse(to, |name| is_called(&from, has_splat, name)).map_err(refuse)?;
        Ok(Redirect { from, has_splat, to, status })
    }

    /// Its status: 301, 302, 303, 307 or 308.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Where it sends a request for this path, with its query; nothing where it is about another path.
    pub fn location(&self, path: &Names<'_>, query: Option<&str>) -> Option<String> {
        let rest = path.names.get(self.from.len()..)?;
        let is_it = |(name, given): (&Name, &Cow<'_, [u8]>)| match name {
            Name::Literal(literal) => *literal == **given,
            Name::Called(_) => true,
        };
        if !(self.has_splat || rest.is_empty()) || !self.from.iter().zip(&path.names).all(is_it) {
            return None;
        }
        let mut location = self.to.origin.clone();
        let mut foreign = ENCODED_IN_PATH;
        for part in &self.to.parts {
            if matches!(part, Part::Literal(text) if text.contains('?')) {
                foreign = ENCODED_IN_QUERY;
            }
            match part {
                // Where the rest was empty, two slashes would be the beginning of another host.
                Part::Literal(text) if location.ends_with('/') => location.push_str(text.trim_start_matches('/')),
                Part::Literal(text) => location.push_str(text),
                Part::Called(name) if name == SPLAT => push_rest(&mut location, rest, path.is_directory, foreign),
                Part::Called(name) => {
                    let at = self.from.iter().position(|from| *from == Name::Called(name.clone()));
                    push(&mut location, at.map_or(&[][..], |at| &path.names[at]), foreign);
                }
            }
        }
        if let Some(query) = query.filter(|query| !query.is_empty()) {
            location.push(if self.to.has_query { '&' } else { '?' });
            location.push_str(query);
        }
        location.push_str(&self.to.fragment);
        Some(location)
    }

    /// A path that it is about.
    fn sample(&self) -> String {
        let mut path = String::new();
        for name in &self.from {
            path.push('/');
            match name {
                Name::Literal(name) => push(&mut path, name, ENCODED_IN_PATH),
                Name::Called(_) => path.push('x'),
            }
        }
        match (self.has_splat, path.is_empty()) {
            (true, _) => path + "/x",
            (false, true) => "/".to_owned(),
            (false, false) => path,
        }
    }
}

/// The first rule by which a client would be sent around without end.
pub(super) fn circular(rules: &[Redirect]) -> Option<usize> {
    let step = |path: &str| {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let names = Names::parse(path)?;
        rules.iter().find_map(|rule| rule.location(&names, None))
    };
    let goes_on = |rule: &Redirect| (0..=rules.len()).try_fold(rule.sample(), |path, _| step(&path)).is_some();
    rules.iter().position(goes_on)
}

/// The names of a path that is redirected, and whether more may follow.
fn source(path: &str) -> Result<(Vec<Name>, bool), String> {
    let refuse = |cause: &str| Err(format!("{path:?} {cause}"));
    let Some(names) = path.strip_prefix('/') else { return refuse("is no path, which begins with a slash") };
    if path.contains(['?', '#']) {
        return refuse("has a query or a fragment, and only paths are redirected");
    }
    let (names, has_splat) = match names.strip_suffix('*') {
        Some(names) if names.is_empty() || names.ends_with('/') => (names, true),
        _ => (names, false),
    };
    if names.contains('*') {
        return refuse("has an asterisk elsewhere than for all that follows a slash");
    }
    let mut read = vec![];
    for name in names.strip_suffix('/').unwrap_or(names).split('/').filter(|_| !names.is_empty()) {
        let name = match name.strip_prefix(':') {
            Some(called) if !is_identifier(called) || called == SPLAT || is_called(&read, false, called) => {
                return refuse("has a placeholder without a name of its own");
            }
            Some(called) => Name::Called(called.to_owned()),
            None => match decode(name).filter(|name| is_plain(name)) {
                Some(name) => Name::Literal(name.into_owned()),
                None => return refuse("has a part that is no plain name"),
            },
        };
        read.push(name);
    }
    Ok((read, has_splat))
}

impl Destination {
    /// Reads where clients are sent. `is_called` says whether a name is one of the path's placeholders.
    fn parse(text: &str, is_called: impl Fn(&str) -> bool) -> Result<Destination, String> {
        let refuse = |cause: &str| Err(format!("{text:?} {cause}"));
        if text.chars().any(char::is_control) {
            return refuse("has a control character");
        }
        let (origin, rest) = split_origin(text).unwrap_or(("", text));
        if origin.is_empty() && (!rest.starts_with('/') || rest[1..].starts_with(['/', '\\'])) {
            return refuse("is neither a path of this site nor an http or https URL with a host");
        }
        let (rest, fragment) = rest.find('#').map_or((rest, ""), |at| rest.split_at(at));
        let (path, query) = rest.find('?').map_or((rest, ""), |at| rest.split_at(at));
        if path.contains('*') {
            return refuse("has an asterisk: what it stood for is called :splat");
        }
        let mut parts = vec![];
        let mut literal = encoded(if path.is_empty() { "/" } else { "" });
        let text = [path, query].concat();
        let mut left = text.as_str();
        while let Some((before, after)) = left.split_once(':') {
            literal += &encoded(before);
            let end = after.find(|character: char| !is_identifier_part(character)).unwrap_or(after.len());
            let name = &after[..end];
            if is_called(name) {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
                parts.push(Part::Called(name.to_owned()));
                left = &after[end..];
            } else if before.ends_with('/') && is_identifier(name) {
                return Err(format!("{text:?} has a placeholder :{name} that the path before it does not have"));
            } else {
                literal.push(':');
                left = after;
            }
        }
        parts.push(Part::Literal(literal + &encoded(left)));
        let parts = parts.into_iter().filter(|part| *part != Part::Literal(String::new())).collect();
        let (origin, fragment) = (origin.to_owned(), encoded(fragment));
        Ok(Destination { origin, parts, has_query: !query.is_empty(), fragment })
    }
}

/// The scheme and the host of a URL, and what follows them.
fn split_origin(text: &str) -> Option<(&str, &str)> {
    let scheme = ["https://", "http://"].into_iter().find(|scheme| text.starts_with(scheme))?;
    let end = text[scheme.len()..].find(['/', '?', '#']).map_or(text.len(), |at| scheme.len() + at);
    is_host(&text[scheme.len()..end]).then(|| text.split_at(end))
}

/// Whether this is `HOST[:PORT]`: a `:splat` that lacks the slash in front is none.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    address.map_or_else(
        || host.strip_suffix('.').unwrap_or(host).split('.').all(is_label),
        |address| format!("{address}/128").parse::<Ipv6Net>().is_ok(),
    ) && port.is_none_or(is_port)
}

/// A text as it may stand in a URL: what is encoded already stays.
fn encoded(text: &str) -> String {
    const FOREIGN: &AsciiSet = &percent_encoding::CONTROLS
        .add(b' ')
        .add(b'"')
        .add(b'<')
        .add(b'>')
        .add(b'\\')
        .add(b'^')
        .add(b'`')
        .add(b'{')
        .add(b'|')
        .add(b'}');
    percent_encoding::utf8_percent_encode(text, FOREIGN).to_string()
}

fn is_called(from: &[Name], has_splat: bool, name: &str) -> bool {
    (has_splat && name == SPLAT) || from.iter().any(|from| matches!(from, Name::Called(called) if called == name))
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') && text.chars().all(is_identifier_part)
}

fn is_identifier_part(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// Percent-decodes one name; nothing where a `%` is not followed by two hexadecimal digits.
fn decode(name: &str) -> Option<Cow<'_, [u8]>> {
    let encoded = |rest: &str| rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    name.split('%').skip(1).all(encoded).then(|| percent_decode_str(name).into())
}

/// Whether it can be nothing but a name.
fn is_plain(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

fn push(location: &mut String, name: &[u8], foreign: &'static AsciiSet) {
    // Writing to a String cannot fail.
    _ = write!(location, "{}", percent_encode(name, foreign));
}

fn push_rest(location: &mut String, names: &[Cow<'_, [u8]>], is_directory: bool, foreign: &'static AsciiSet) {
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            location.push('/');
        }
        push(location, name, foreign);
    }
    if is_directory && !names.is_empty() {
        location.push('/');
    }
}

/// A rule as it is typed, for tests of what obeys it.
#[cfg(test)]
pub(crate) fn redirect_rule(text: &str) -> Redirect {
    use super::given::{ValueSource, given};
    Redirect::parse(&given(ValueSource::Flag, "redirect", text)).expect("it is one")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::given::{ValueSource, given};

    fn parse(text: &str) -> Result<Redirect, String> {
        Redirect::parse(&given(ValueSource::Flag, "redirect", text)).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn location(rule: &str, target: &str) -> Option<String> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        parse(rule).unwrap().location(&Names::parse(path)?, query)
    }

    #[test]
    fn a_path_leads_where_its_rule_says_with_its_query() {
        for (rule, target, expected) in [
            ("/old /new", "/old", Some("/new")),
            ("/old /new", "/old/", Some("/new")),
            ("/old/ /new/", "/old", Some("/new/")),
            ("/old /new", "/old?a=b&c", Some("/new?a=b&c")),
            ("/old /new", "/old?", Some("/new")),
            ("/old /new", "/OLD", None),
            ("/old /new", "/old/a", None),
            ("/old /new", "/older", None),
            ("/old /new", "/%6fld", Some("/new")),
            ("/alt%20e /neu", "/alt%20e", Some("/neu")),
            ("/é /neu", "/%C3%A9", Some("/neu")),
            ("/old/* /new/:splat", "/old/a/b", Some("/new/a/b")),
            ("/old/* /new/:splat", "/old/a/b/", Some("/new/a/b/")),
            ("/old/* /new/:splat", "/old/", Some("/new/")),
            ("/old/* /new/:splat", "/old", Some("/new/")),
            ("/old/* /new/:splat", "/older", None),
            ("/old/* /:splat/new", "/old/", Some("/new")),
            ("/old/* /:splat/new", "/old/a/", Some("/a/new")),
            ("/* https://one.org/:splat", "/", Some("https://one.org/")),
            ("/* https://one.org/:splat", "/a?b", Some("https://one.org/a?b")),
            ("/* https://one.org:8443", "/a?b", Some("https://one.org:8443/?b")),
            ("/* http://[::1]:80/", "/a", Some("http://[::1]:80/")),
            ("/ /home", "/", Some("/home")),
            ("/ /home", "/a", None),
            ("/:year/:month/* /blog/:month-:year/:splat", "/2024/05/a", Some("/blog/05-2024/a")),
            ("/p/:id /show?id=:id", "/p/a&b?c=d", Some("/show?id=a%26b&c=d")),
            ("/p/* /:splat?id=:splat", "/p/a=b@c/d", Some("/a=b@c/d?id=a%3Db%40c/d")),
            ("/* https://one.org/:splat", "/@a/b:c,d;e=f/(g)!", Some("https://one.org/@a/b:c,d;e=f/(g)!")),
            ("/* https://one.org/:splat", "/a%3fb%23c%25%5c\"", Some("https://one.org/a%3Fb%23c%25%5C%22")),
            ("/a /b#c", "/a?d", Some("/b?d#c")),
            ("/a /b:c", "/a", Some("/b:c")),
            ("/a /ü", "/a", Some("/%C3%BC")),
            ("/.well-known/change-password /account", "/.well-known/change-password", Some("/account")),
        ] {
            assert_eq!(location(rule, target).as_deref(), expected, "{rule} for {target}");
        }
        assert_eq!(parse("/a /b").unwrap().status(), 301);
        assert_eq!(parse("/a /b 308").unwrap().status(), 308);
    }

    #[test]
    fn what_is_no_rule_is_refused_with_how_one_is_written() {
        for (rule, cause) in [
            ("", "is no rule of two or three words"),
            ("/a", "is no rule of two or three words"),
            ("/a /b 301 x", "is no rule of two or three words"),
            ("/a /b 200", "\"200\" sends nobody elsewhere"),
            ("a /b", "\"a\" is no path, which begins with a slash"),
            ("/a?b /c", "\"/a?b\" has a query or a fragment"),
            ("/a*b /c", "has an asterisk elsewhere"),
            ("/*/a /c", "has an asterisk elsewhere"),
            ("/a* /c", "has an asterisk elsewhere"),
            ("/a//b /c", "has a part that is no plain name"),
            ("/a/../b /c", "has a part that is no plain name"),
            ("/a%2fb /c", "has a part that is no plain name"),
            ("/a%2 /c", "has a part that is no plain name"),
            ("/: /c", "has a placeholder without a name of its own"),
            ("/:splat /c", "has a placeholder without a name of its own"),
            ("/:a/:a /c", "has a placeholder without a name of its own"),
            ("/a b", "\"b\" is neither a path of this site nor an http or https URL with a host"),
            ("/a //evil.org/", "is neither a path of this site"),
            ("/a /\\evil.org/", "is neither a path of this site"),
            ("/a ftp://b/", "is neither a path of this site"),
            ("/a https:///b", "is neither a path of this site"),
            ("/a https://u@b/", "is neither a path of this site"),
            ("/:a https://:a/", "is neither a path of this site"),
            ("/* https://one.org:splat", "is neither a path of this site"),
            ("/a https://one.org:65536/", "is neither a path of this site"),
            ("/a https://one..org/", "is neither a path of this site"),
            ("/a https://[::1/", "is neither a path of this site"),
            ("/a javascript:alert(1)", "is neither a path of this site"),
            ("/a/* /b/*", "what it stood for is called :splat"),
            ("/a /b/:splat", "has a placeholder :splat that the path before it does not have"),
        ] {
            let error = parse(rule).unwrap_err();
            assert!(error.contains(cause) && error.contains("; write "), "{error}");
        }
    }

    #[test]
    fn rules_that_lead_around_without_end_are_found() {
        for (rules, expected) in [
            (&["/a /b", "/b /c"][..], None),
            (&["/a /a"], Some(0)),
            (&["/docs/* /docs/v2/:splat"], Some(0)),
            (&["/docs/v2/* https://two.org/:splat", "/docs/* /docs/v2/:splat"], None),
            (&["/x /y", "/a /b", "/b /a?c"], Some(1)),
            (&["/* /"], Some(0)),
            (&["/ /home"], None),
            (&["/* https://one.org/:splat"], None),
        ] {
            let rules: Vec<_> = rules.iter().map(|rule| parse(rule).unwrap()).collect();
            assert_eq!(circular(&rules), expected, "{rules:?}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leads_to_another_host(
            path in prop_oneof![
                "(/|//|/\\\\|\\\\|%2f|%5c|%2e|\\.|\\.\\.|%0d%0a|%00|:|@|evil\\.org|a|%c3%a9|%ff|%09){0,8}",
                "[!-~]{0,30}",
            ],
            rule in prop_oneof![
                Just("/* /:splat"), Just("/:a /:a"), Just("/:a/* /:splat/:a"), Just("/:a/* /:splat//:a"), Just("/a/* /b:splat"),
                Just("/a/* /b?:splat"), Just("/* https://one.org/:splat"), Just("/:a/* https://one.org:8443/:a?:splat"),
            ],
            query in proptest::option::of("[!-~&&[^<>\"#]]{0,9}"),
        ) {
            let path = format!("/{path}");
            let Some(names) = Names::parse(&path) else { return Ok(()) };
            let Some(location) = parse(rule).unwrap().location(&names, query.as_deref()) else { return Ok(()) };
            prop_assert!(location.bytes().all(|byte| byte.is_ascii_graphic()), "{location}");
            let base = http_types::Url::parse("http://home.org/x/y").unwrap();
            let url = base.join(&location).unwrap();
            let expected = if rule.contains("one.org") { "one.org" } else { "home.org" };
            prop_assert_eq!(url.host_str(), Some(expected), "{}", location);
            if expected == "home.org" {
                prop_assert!(location.starts_with('/') && !location[1..].starts_with(['/', '\\']), "{location}");
            }
        }
    }
}
