//! The headers that a site gives to its answers, or takes from them: by the path of the request, decoded once.
//!
//! What describes a file belongs to answers that have one (2xx, and 304 in their place), and how long an answer may be kept to
//! those and to redirects: an error that was kept for a year would be worse than none. All other headers go with every answer.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use globset::{GlobSet, GlobSetBuilder};
use http_types::headers::{CONTENT_TYPE, HeaderName, HeaderValue, VARY};
use http_types::{Response, StatusCode};
use percent_encoding::percent_decode_str;

use crate::config::HeaderRule;

/// What is said of a file: it does not hold for an answer without one.
const OF_FILES: [&str; 7] = [
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-location",
    "content-type",
    "etag",
    "last-modified",
];

/// How long an answer may be kept.
const LIFETIMES: [&str; 5] = ["cache-control", "cdn-cache-control", "expires", "pragma", "surrogate-control"];

#[derive(Debug)]
pub(super) struct Headers {
    /// The paths of the rules, in their order.
    paths: GlobSet,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    name: HeaderName,
    /// Without one the header goes.
    value: Option<HeaderValue>,
    scope: Scope,
}

/// Which answers a header is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Files,
    FilesAndRedirects,
    All,
}

impl Scope {
    fn of(name: &str) -> Scope {
        match name {
            name if OF_FILES.contains(&name) => Scope::Files,
            name if LIFETIMES.contains(&name) => Scope::FilesAndRedirects,
            _ => Scope::All,
        }
    }

    fn holds_for(self, status: StatusCode) -> bool {
        match self {
            Scope::Files => status.is_success() || status == StatusCode::NotModified,
            Scope::FilesAndRedirects => status.is_success() || status.is_redirection(),
            Scope::All => true,
        }
    }
}

impl Headers {
    /// It is an error that the patterns together are too much.
    pub(super) fn new(rules: &[HeaderRule]) -> io::Result<Headers> {
        let mut paths = GlobSetBuilder::new();
        for rule in rules {
            paths.add(rule.path.clone());
        }
        let paths = paths.build().map_err(|error| io::Error::other(format!("headers: the patterns: {error}")))?;
        let rules = rules.iter().map(Rule::new).collect::<io::Result<_>>()?;
        Ok(Headers { paths, rules })
    }

    /// Changes an answer to a request for this path, rule by rule.
    pub(super) fn apply(&self, path: &str, response: &mut Response) {
        if self.rules.is_empty() {
            return;
        }
        let path: Cow<'_, [u8]> = percent_decode_str(path).into();
        let status = response.status();
        for index in self.paths.matches(OsStr::from_bytes(&path)) {
            let rule = &self.rules[index];
            if rule.scope.holds_for(status) {
                rule.apply(response);
            }
        }
    }
}

impl Rule {
    fn new(rule: &HeaderRule) -> io::Result<Rule> {
        let fails = |error: http_types::Error| io::Error::other(format!("headers: {}: {error}", rule.name));
        let name = HeaderName::from_bytes(rule.name.clone().into_bytes()).map_err(fails)?;
        let value = rule.value.as_ref().map(|value| HeaderValue::from_bytes(value.clone().into_bytes()));
        Ok(Rule { name, value: value.transpose().map_err(fails)?, scope: Scope::of(&rule.name) })
    }

    fn apply(&self, response: &mut Response) {
        match &self.value {
            // Its boundary says where the parts end.
            _ if self.name == CONTENT_TYPE && is_multipart(response) => {}
            None => _ = response.remove_header(&self.name),
            // What caches are told by the server itself stays true.
            Some(value) if self.name == VARY && response.header(VARY).is_some() => {
                response.append_header(VARY, value.clone());
            }
            Some(value) => _ = response.insert_header(self.name.clone(), value.clone()),
        }
    }
}

fn is_multipart(response: &Response) -> bool {
    response.status() == StatusCode::PartialContent
        && response.header(CONTENT_TYPE).is_some_and(|kind| kind.last().as_str().starts_with("multipart/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::header_rule;

    fn applied(rules: &[&str], path: &str, status: u16) -> Vec<String> {
        let rules: Vec<_> = rules.iter().map(|rule| header_rule(rule)).collect();
        let mut response = Response::new(status);
        response.insert_header("x-content-type-options", "nosniff");
        response.insert_header("vary", "accept-encoding");
        Headers::new(&rules).unwrap().apply(path, &mut response);
        let shown = |(name, values): (&HeaderName, &http_types::headers::HeaderValues)| {
            let values: Vec<_> = values.iter().map(HeaderValue::as_str).collect();
            format!("{name}: {}", values.join(", "))
        };
        let mut lines: Vec<_> = response.iter().map(shown).collect();
        lines.retain(|line| !["x-content-type-options: nosniff", "vary: accept-encoding"].contains(&line.as_str()));
        lines.sort();
        lines
    }

    #[test]
    fn rules_hold_for_the_paths_of_their_pattern() {
        for (pattern, path, expected) in [
            ("/assets/*", "/assets/a.css", true),
            ("/assets/*", "/assets/deep/a.css", true),
            ("/assets/*", "/assets", false),
            ("/assets/*", "/other/assets/a", false),
            ("/*", "/", true),
            ("/*", "/a/b/", true),
            ("/", "/", true),
            ("/", "/a", false),
            ("/*.css", "/a/b.css", true),
            ("*.css", "/a/b.css", true),
            ("**/*.{css,js}", "/a/b.js", true),
            ("**/*.{css,js}", "/a/b.jsx", false),
            ("/a?c", "/abc", true),
            ("/a b", "/a%20b", true),
            ("/é/*", "/%C3%A9/x", true),
            ("/a*", "/a%2fb", true),
            ("/%2a", "/*", true),
        ] {
            let rule = format!("{} x: y", pattern.replace(' ', "%20"));
            assert_eq!(applied(&[&rule], path, 200) == ["x: y"], expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_first_rule_comes_first_and_later_ones_change_what_it_did() {
        let rules = ["/* x: 1", "/a/* x: 2", "/a/b ! x", "/* y: 3"];
        assert_eq!(applied(&rules, "/", 200), ["x: 1", "y: 3"]);
        assert_eq!(applied(&rules, "/a/c", 200), ["x: 2", "y: 3"]);
        assert_eq!(applied(&rules, "/a/b", 200), ["y: 3"]);
        assert_eq!(applied(&["/* Vary: origin"], "/", 200), ["vary: accept-encoding, origin"]);
    }

    #[test]
    fn what_is_said_of_a_file_is_not_said_of_an_error_or_a_redirect() {
        let rules = ["/* Cache-Control: immutable", "/* Content-Language: de", "/* X-Frame-Options: deny"];
        let [lifetime, language, all] = ["cache-control: immutable", "content-language: de", "x-frame-options: deny"];
        for (status, expected) in [
            (200, &[lifetime, language, all][..]),
            (206, &[lifetime, language, all]),
            (304, &[lifetime, language, all]),
            (301, &[lifetime, all]),
            (404, &[all]),
            (503, &[all]),
        ] {
            assert_eq!(applied(&rules, "/", status), expected, "{status}");
        }
    }
}
