//! What all parts of the application share: who answers, what was asked for, and the answers of one line.

use std::fmt::{self, Write};
use std::time::Instant;

use http_types::headers::{ALLOW, CONTENT_TYPE};
use http_types::{Body, Method, Request, Response, StatusCode};

use crate::http;

/// The methods of what is only read.
pub(super) const READABLE: &[Method] = &[Method::Get, Method::Head, Method::Options];

/// Hardly a line is longer.
const LINE_BYTES_USUAL: usize = 80;

/// Who answers: what `x-pid`, `x-generation` and the page say.
#[derive(Clone, Debug)]
pub struct Identity {
    /// This process.
    pub pid: u32,
    /// Its number in the chain of generations.
    pub generation: u64,
    /// The program's version.
    pub version: String,
    /// When this generation started.
    pub started: Instant,
}

/// What was asked for, as the client wrote it: not decoded, not normalised.
pub(super) struct PathAndQuery {
    pub(super) path: String,
    pub(super) query: Option<String>,
}

/// The target that the HTTP layer keeps beside the request, whose own URL is normalised.
pub(super) fn target(request: &Request) -> PathAndQuery {
    let (path, query) = match request.ext().get::<http::Target>() {
        Some(target) => (target.path(), target.query()),
        None => (request.url().path(), request.url().query()),
    };
    PathAndQuery { path: path.to_owned(), query: query.map(str::to_owned) }
}

/// A response of one line of text.
pub(super) fn text(status: StatusCode, message: impl fmt::Display) -> Response {
    let mut response = Response::new(status);
    // Before the body: one without a type would get another one first.
    response.insert_header(CONTENT_TYPE, "text/plain; charset=utf-8");
    let mut line = String::with_capacity(LINE_BYTES_USUAL);
    let _ = writeln!(line, "{message}");
    response.set_body(Body::from_string(line));
    response
}

pub(super) fn not_found() -> Response {
    text(StatusCode::NotFound, "not found")
}

/// The answer to a method that is not taken.
pub(super) fn refuse_method(allowed: &[Method]) -> Response {
    let names = names(allowed);
    let mut response = text(StatusCode::MethodNotAllowed, format_args!("this takes {names}"));
    response.insert_header(ALLOW, names);
    response
}

/// The answer to OPTIONS.
pub(super) fn options(allowed: &[Method]) -> Response {
    let mut response = Response::new(StatusCode::NoContent);
    response.insert_header(ALLOW, names(allowed));
    response
}

fn names(methods: &[Method]) -> String {
    methods.iter().map(Method::to_string).collect::<Vec<_>>().join(", ")
}
