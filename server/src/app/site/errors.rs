//! What clients get in place of what is not there, or could not be opened: the pages of the site itself, where it has some.
//!
//! `/404.html` is read afresh each time, like any file, but no condition and no range applies to it: it is not what was asked
//! for. `/50x.html` is kept in memory, since the machine may have no descriptor left when it is needed; each generation reads
//! it anew. A fallback is a file as if it had been asked for, for navigations only: a script that asks for data that is
//! missing has to learn so.

use std::path::{Path, PathBuf};

use http_types::headers::{ACCEPT, CONTENT_TYPE, HeaderValue, VARY};
use http_types::{Body, Request, Response, StatusCode};

use crate::app::answer::not_found;
use crate::app::files::Files;

/// The page for what is not there.
const NOT_FOUND: &str = "404.html";

/// The page for what fails, and how long it may be.
const FAILED: &str = "50x.html";
const FAILED_BYTES_MAX: u64 = 256 * 1024;

#[derive(Debug)]
pub(super) struct Errors {
    fallback: Option<PathBuf>,
    failed: Option<Vec<u8>>,
}

impl Errors {
    /// Reads the page for what fails. Blocks while the disk is asked.
    pub(super) fn new(files: Option<&Files>, fallback: Option<PathBuf>) -> Errors {
        let failed = files.and_then(|files| files.read(Path::new(FAILED), FAILED_BYTES_MAX));
        Errors { fallback, failed }
    }

    /// The answer to a GET or HEAD of what is not there.
    pub(super) async fn missing(&self, files: &Files, request: &Request) -> Response {
        let mut response = match &self.fallback {
            Some(path) if is_navigation(request) => files.answer_with(request, path).await,
            _ => None,
        };
        if response.is_none() {
            response = files.page(request, Path::new(NOT_FOUND), StatusCode::NotFound).await;
        }
        let mut response = response.unwrap_or_else(not_found);
        if self.fallback.is_some() {
            response.append_header(VARY, "accept");
        }
        response
    }

    /// An answer with the page for what fails, if it is about a failure.
    pub(super) fn dressed(&self, mut response: Response) -> Response {
        if let Some(page) = self.failed.as_ref().filter(|_| response.status().is_server_error()) {
            response.set_body(Body::from_bytes(page.clone()));
            response.insert_header(CONTENT_TYPE, "text/html");
        }
        response
    }
}

/// Whether a browser goes to a page, and names HTML first of all that it takes: scripts and pictures take anything.
fn is_navigation(request: &Request) -> bool {
    let lines = request.header(ACCEPT).into_iter().flat_map(|lines| lines.iter().map(HeaderValue::as_str));
    lines.flat_map(|line| line.split(',')).any(accepts_html)
}

/// Whether it is HTML that a member of an Accept header speaks of, with any weight but zero.
fn accepts_html(member: &str) -> bool {
    let mut parts = member.split(';').map(str::trim);
    let is_html = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"));
    let is_nothing = |weight: &str| weight.trim_start_matches(['0', '.']).is_empty() && weight.starts_with('0');
    is_html && !parts.filter_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q="))).any(is_nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_navigation_is_what_takes_html_by_name() {
        let chromium = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
        for (accept, expected) in [
            (chromium, true),
            ("TEXT/HTML", true),
            ("application/json, text/html;q=0.1", true),
            ("text/html;level=1;q=0.5", true),
            ("text/html;q=0", false),
            ("text/html; q=0.000, */*", false),
            ("*/*", false),
            ("text/*", false),
            ("application/json", false),
            ("text/htmlx", false),
            ("", false),
        ] {
            let mut request = Request::get("http://localhost/");
            request.insert_header(ACCEPT, accept);
            assert_eq!(is_navigation(&request), expected, "{accept}");
        }
        assert!(!is_navigation(&Request::get("http://localhost/")));
    }
}
