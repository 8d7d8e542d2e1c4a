//! What clients get in place of what is not there, or could not be opened: the pages of the site itself, where it has some.
//!
//! `/404.html` is read afresh each time, like any file, but no condition and no range applies to it: it is not what was asked
//! for. `/50x.html` is kept in memory, since the machine may have no descriptor left when it is needed; each generation reads
//! it anew. A fallback is a file as if it had been asked for, for navigations only: a script that asks for data that is
//! missing has to learn so.

use std::path::{Path, PathBuf};

use http_types::headers::{CONTENT_TYPE, VARY};
use http_types::{Body, Request, Response, StatusCode};

use crate::app::accept;
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
            // A browser that goes to a page names it.
            Some(path) if accept::names(request, "text/html") => {
                files.answer_with(request, path).await.map(|response| self.dressed(response))
            }
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
