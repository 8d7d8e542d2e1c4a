//! The headers that a site gives to answers or takes from them: `--headers`, and the `[[headers]]` tables of the file.
//!
//! A rule is a line as `_headers` files have it, `PATH NAME: VALUE` or `PATH ! NAME`. What says how messages are framed, or
//! what only the server knows of an answer, is refused here: set wrongly it would cut answers, or open a way to smuggle some.

use globset::{Glob, GlobBuilder, GlobSetBuilder};
use percent_encoding::percent_decode_str;

use super::files::is_token;
use super::given::{Error, Given};

const ADVICE: &str =
    "write PATH NAME: VALUE, or PATH ! NAME to remove one, such as /assets/* Cache-Control: max-age=60";

/// What no rule may set or remove, and why.
const OURS: [(&str, &str); 11] = [
    ("connection", FRAMES),
    ("content-length", FRAMES),
    ("keep-alive", FRAMES),
    ("proxy-connection", FRAMES),
    ("te", FRAMES),
    ("trailer", FRAMES),
    ("transfer-encoding", FRAMES),
    ("upgrade", FRAMES),
    ("content-range", "it says which part of a file follows, and only the server knows that"),
    ("accept-ranges", "it says whether parts of a file can be had, and only the server knows that"),
    ("date", "it is the time of each answer, and the server's to say"),
];
const FRAMES: &str = "it says how messages are framed on a connection, and is the server's to say";

/// A header that the answers for some paths get or lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRule {
    /// The paths, decoded. An asterisk stands for any characters, slashes included.
    pub path: Glob,
    /// The header's name, in lower case.
    pub name: String,
    /// What it is set to; without it the header is removed.
    pub value: Option<String>,
}

impl HeaderRule {
    pub(super) fn parse(given: &Given) -> Result<HeaderRule, Error> {
        let refuse = |cause: String| given.refuse(cause, ADVICE);
        let line = given.text().trim();
        let (path, rest) =
            line.split_once([' ', '\t']).ok_or_else(|| refuse("has no header behind the path".to_owned()))?;
        let rest = rest.trim();
        let (name, value) = match (rest.strip_prefix('!'), rest.split_once(':')) {
            (Some(name), _) => (name.trim(), None),
            (None, Some((name, value))) => (name.trim_end(), Some(value.trim().to_owned())),
            (None, None) => return Err(refuse("has no : behind the header's name".to_owned())),
        };
        if !is_token(name) {
            return Err(refuse(format!("{name:?} is no name of a header")));
        }
        let name = name.to_ascii_lowercase();
        if let Some((_, why)) = OURS.iter().find(|(ours, _)| *ours == name) {
            return Err(given.refuse(format!("{name} cannot be set or removed: {why}"), "leave it out"));
        }
        let is_fit =
            |value: &String| !value.is_empty() && value.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        if let Some(value) = value.as_ref().filter(|value| !is_fit(value)) {
            return Err(refuse(format!("{value:?} is no value of a header, which is of visible ASCII")));
        }
        Ok(HeaderRule { path: paths(path).map_err(refuse)?, name, value })
    }
}

/// The paths that a pattern stands for, which may be written as in a URL.
fn paths(pattern: &str) -> Result<Glob, String> {
    if !pattern.starts_with(['/', '*']) {
        return Err(format!("{pattern:?} is no path, which begins with a slash"));
    }
    let decoded = percent_decode_str(pattern).decode_utf8().map_err(|_| format!("{pattern:?} is no text"))?;
    let glob = GlobBuilder::new(&decoded).literal_separator(false).empty_alternates(true).build();
    // One that is read may still be too large to be looked for.
    let checked = glob.and_then(|glob| GlobSetBuilder::new().add(glob.clone()).build().map(|_| glob));
    checked.map_err(|error| format!("{pattern:?} is no pattern ({})", one_line(&error.kind().to_string())))
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// A rule as it is typed, for tests of what obeys it.
#[cfg(test)]
pub(crate) fn header_rule(text: &str) -> HeaderRule {
    use super::given::{ValueSource, given};
    HeaderRule::parse(&given(ValueSource::Flag, "headers", text)).expect("it is one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::given::{ValueSource, given};

    fn parse(text: &str) -> Result<HeaderRule, String> {
        HeaderRule::parse(&given(ValueSource::Flag, "headers", text)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_rule_names_paths_a_header_and_its_value_or_that_it_goes() {
        let rule = parse("/assets/* Cache-Control: public, max-age=31536000, immutable").unwrap();
        assert_eq!(
            (rule.path.glob(), rule.name.as_str(), rule.value.as_deref()),
            ("/assets/*", "cache-control", Some("public, max-age=31536000, immutable"))
        );
        let rule = parse("/a%20b\t!  X-Powered-By ").unwrap();
        assert_eq!((rule.path.glob(), rule.name.as_str(), rule.value), ("/a b", "x-powered-by", None));
        assert_eq!(parse("**/*.{js,css} Link: <https://a/>; rel=x").unwrap().value.unwrap(), "<https://a/>; rel=x");
    }

    #[test]
    fn what_frames_messages_is_refused_with_the_reason() {
        for (name, why) in OURS {
            for text in [format!("/* {}: x", name.to_uppercase()), format!("/* ! {name}")] {
                let error = parse(&text).unwrap_err();
                assert!(error.contains(&format!("{name} cannot be set or removed: {why}; leave it out")), "{error}");
            }
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_with_how_one_is_written() {
        for (text, cause) in [
            ("", "has no header behind the path"),
            ("/a", "has no header behind the path"),
            ("/a x", "has no : behind the header's name"),
            ("/a : x", "\"\" is no name of a header"),
            ("/a b c: x", "\"b c\" is no name of a header"),
            ("/a !", "\"\" is no name of a header"),
            ("/a b:", "\"\" is no value of a header"),
            ("/a b: x\r\ny: z", "is no value of a header"),
            ("/a b: \u{e9}", "is no value of a header"),
            ("a b: c", "\"a\" is no path, which begins with a slash"),
            ("/[a b: c", "\"/[a\" is no pattern ("),
            ("/%ff b: c", "\"/%ff\" is no text"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(cause) && error.contains("; write PATH NAME: VALUE"), "{error}");
        }
    }
}
