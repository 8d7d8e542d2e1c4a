//! From the path of a request to the names below the root that it stands for, and back.
//!
//! Pure. A path is decoded once, name by name, and refused where a name could mean more than a name: an encoded slash
//! separates nothing, `..` and NUL are no names. Names need not be text. Hidden files, whose names begin with a dot, do
//! not exist for clients (`.git`, `.env`, `.htpasswd`), but for `/.well-known/` (RFC 8615).

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::config::ENCODED_IN_PATH;

/// What a directory shows.
pub(super) const INDEX: &str = "index.html";

/// The one name with a dot in front that clients may use, and only as the first.
const WELL_KNOWN: &[u8] = b".well-known";

/// What is encoded in a link relative to a directory, where a colon would end a scheme: all but the unreserved characters
/// of RFC 3986, section 2.3.
pub(super) const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where a path leads below the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// Relative to the root, of names only; empty for the root itself.
    pub(super) path: PathBuf,
    /// Whether the path says, by a slash at its end, that this is a directory.
    pub(super) is_directory: bool,
}

/// Why a path leads nowhere before anything is opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// Its percent-encoding is broken.
    Encoding,
    /// A part of it is not the name of a file that is served.
    Name,
}

impl Location {
    /// Decodes a path as the client wrote it.
    pub(super) fn parse(path: &str) -> Result<Self, Malformed> {
        let names = path.strip_prefix('/').ok_or(Malformed::Name)?;
        let (names, is_directory) = match names.strip_suffix('/') {
            _ if names.is_empty() => return Ok(Self { path: PathBuf::new(), is_directory: true }),
            Some(names) => (names, true),
            None => (names, false),
        };
        let mut path = PathBuf::new();
        for (position, name) in names.split('/').enumerate() {
            let name = decode(name).ok_or(Malformed::Encoding)?;
            if name.is_empty() || is_hidden(&name, position) || name.contains(&b'/') || name.contains(&0) {
                return Err(Malformed::Name);
            }
            path.push(OsStr::from_bytes(&name));
        }
        Ok(Self { path, is_directory })
    }

    /// A path whose name says what kind of a file is there.
    pub(super) fn file(&self) -> &Path {
        if self.is_directory { Path::new(INDEX) } else { &self.path }
    }

    /// This location as the path of a directory. It is encoded anew from its names, so that nothing that a client wrote
    /// could be taken for another host (`//host`, `/\host`).
    pub(super) fn as_directory(&self) -> String {
        let names = self.path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        });
        names.fold(String::from("/"), |mut path, name| {
            // Writing to a String cannot fail.
            _ = write!(path, "{}/", percent_encode(name, ENCODED_IN_PATH));
            path
        })
    }
}

/// Whether a name, so many names below the root, does not exist for clients.
pub(super) fn is_hidden(name: &[u8], position: usize) -> bool {
    name.starts_with(b".") && !(position == 0 && name == WELL_KNOWN)
}

/// Percent-decodes one name; nothing where a `%` is not followed by two hexadecimal digits.
fn decode(name: &str) -> Option<Vec<u8>> {
    let encoded = |rest: &str| rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    let valid = name.split('%').skip(1).all(encoded);
    valid.then(|| percent_decode_str(name).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn assert_leads(path: &str, to: &[u8], is_directory: bool) {
        let expected = Location { path: OsStr::from_bytes(to).into(), is_directory };
        assert_eq!(Location::parse(path), Ok(expected), "{path}");
    }

    #[test]
    fn a_path_is_decoded_once() {
        assert_leads("/", b"", true);
        assert_leads("/a.txt", b"a.txt", false);
        assert_leads("/dir/", b"dir", true);
        assert_leads("/dir/deep/b", b"dir/deep/b", false);
        assert_leads("/with%20space%20%C3%A9", "with space é".as_bytes(), false);
        assert_leads("/%ff", b"\xff", false);
        assert_leads("/%61", b"a", false);
        assert_leads("/100%25", b"100%", false);
        assert_leads("/%252e%252e", b"%2e%2e", false);
        assert_leads("/a..b/c.", b"a..b/c.", false);
        assert_leads("/a\\..\\b", b"a\\..\\b", false);
        assert_leads("/.well-known/acme", b".well-known/acme", false);
        assert_leads("/.well-known/", b".well-known", true);
    }

    #[test]
    fn what_is_no_name_leads_nowhere() {
        for path in [
            "",
            "*",
            "a",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/./a",
            "/../a",
            "/a/..",
            "/a/../b",
            "/%2e%2e/a",
            "/%2E%2e/a",
            "/.%2e/a",
            "/..%2fa",
            "/%2e%2e%2fa",
            "/a%2fb",
            "/%2f",
            "/%00",
            "/a%00",
            "/a%00.html",
        ] {
            assert_eq!(Location::parse(path), Err(Malformed::Name), "{path}");
        }
        for path in ["/%", "/a%2", "/%zz", "/a/%%32%65", "/100%.txt", "/%u002e"] {
            assert_eq!(Location::parse(path), Err(Malformed::Encoding), "{path}");
        }
    }

    #[test]
    fn hidden_files_lead_nowhere_but_below_well_known_at_the_top() {
        for path in [
            "/.git/config",
            "/.env",
            "/a/.htpasswd",
            "/%2egit/config",
            "/..hidden",
            "/.well-known/.secret",
            "/a/.well-known/b",
            "/.well-known2",
            "/.Well-Known/a",
        ] {
            assert_eq!(Location::parse(path), Err(Malformed::Name), "{path}");
        }
    }

    #[test]
    fn the_path_of_a_directory_stays_on_this_host() {
        for (path, directory) in [
            ("/dir", "/dir/"),
            ("/a/b%20c", "/a/b%20c/"),
            ("/\\evil.example", "/%5Cevil.example/"),
            ("/%5cevil.example", "/%5Cevil.example/"),
            ("/a%0d%0ab", "/a%0D%0Ab/"),
            ("/%ff?", "/%FF%3F/"),
            ("/@name/a:b,(c);d", "/@name/a:b,(c);d/"),
        ] {
            assert_eq!(Location::parse(path).unwrap().as_directory(), directory, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_location_has_nothing_but_names(path in "(/|%2f|\\.|%2e|%|%00|a|[ -~]|\\PC){0,12}") {
            if let Ok(location) = Location::parse(&path) {
                let normal = location.path.components().all(|part| matches!(part, Component::Normal(_)));
                prop_assert!(normal && location.path.is_relative());
                prop_assert!(!location.path.as_os_str().as_bytes().contains(&0));
            }
        }

        #[test]
        fn the_path_of_a_directory_leads_back_to_it(names in prop::collection::vec("[^/\0.][^/\0]{0,8}", 1..4)) {
            let location = Location { path: names.iter().collect(), is_directory: true };
            let path = location.as_directory();
            prop_assert!(!path.starts_with("//") && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'));
            prop_assert_eq!(Location::parse(&path), Ok(location));
        }
    }
}
