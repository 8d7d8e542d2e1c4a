//! The demonstration: the original program's handler, and what one needs to watch a reload from outside.
//!
//! `GET /` answers `cout` after `?delay=` and logs its start and its end, `/fast` and `/slow?ms=N` repeat the request's
//! `x-id`, `/echo` gives a body back while it still arrives. Every response says who answered. Waits are bounded, and
//! what comes from the client into a header or a log line is reduced to what is harmless there.

use std::time::{Duration, Instant};

use http_types::headers::CONTENT_TYPE;
use http_types::{Method, Request, Response, StatusCode};
use smol::Timer;

use super::{Identity, READABLE, Target, text};

/// The longest wait that a client can ask for.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// The longest `x-id` that is repeated.
const ID_BYTES_MAX: usize = 128;

/// The most of a target that one log line shows.
const LOGGED_CHARS_MAX: usize = 256;

/// What the demonstration has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Cout,
    Fast,
    Slow,
    Echo,
}

impl Resource {
    /// What is at this path.
    pub(super) fn at(path: &str) -> Option<Self> {
        match path {
            "/" => Some(Self::Cout),
            "/fast" => Some(Self::Fast),
            "/slow" => Some(Self::Slow),
            "/echo" => Some(Self::Echo),
            _ => None,
        }
    }

    pub(super) fn methods(self) -> &'static [Method] {
        match self {
            Self::Cout | Self::Fast | Self::Slow => READABLE,
            Self::Echo => &[Method::Post, Method::Options],
        }
    }
}

/// Answers a request for one of them.
pub(super) async fn answer(
    resource: Resource,
    request: Request,
    target: &Target,
    id: Option<&str>,
    identity: &Identity,
) -> Response {
    let outcome = match resource {
        Resource::Cout => cout(&request, target, identity.pid).await,
        Resource::Fast => Ok(tagged(id, identity)),
        Resource::Slow => slow(target, id, identity).await,
        Resource::Echo => Ok(echo(request)),
    };
    outcome.unwrap_or_else(|message| text(StatusCode::BadRequest, message))
}

/// The request's `x-id`, as far as it can stand in a header.
pub(super) fn request_id(request: &Request) -> Option<String> {
    let sent = request.header("x-id")?.last().as_str();
    let id: String = sent.chars().filter(char::is_ascii_graphic).take(ID_BYTES_MAX).collect();
    (!id.is_empty()).then_some(id)
}

/// Writes into the response who answered, and which request.
pub(super) fn sign(response: &mut Response, identity: &Identity, id: Option<&str>) {
    response.insert_header("x-pid", identity.pid.to_string());
    response.insert_header("x-generation", identity.generation.to_string());
    if let Some(id) = id {
        response.insert_header("x-id", id);
    }
}

/// What the original program answered. It always slept for ten seconds; here the client says how long.
async fn cout(request: &Request, target: &Target, pid: u32) -> Result<Response, String> {
    let delay = wait_asked_for(target, "delay", "/?delay=2s")?.unwrap_or_default();
    let _logged = Logged::start(request, target, pid);
    Timer::after(delay).await;
    Ok(text(StatusCode::Ok, "cout"))
}

async fn slow(target: &Target, id: Option<&str>, identity: &Identity) -> Result<Response, String> {
    let example = "/slow?ms=250";
    let delay = wait_asked_for(target, "ms", example)?.ok_or_else(|| format!("ms is missing; write {example}"))?;
    Timer::after(delay).await;
    Ok(tagged(id, identity))
}

/// A body by which a client finds out whether this is the answer to its own request, and who gave it.
fn tagged(id: Option<&str>, identity: &Identity) -> Response {
    let Identity { pid, generation, .. } = identity;
    text(StatusCode::Ok, format_args!("id={} pid={pid} generation={generation}", id.unwrap_or("-")))
}

/// The request's body is the response's: it is read as it is sent, and a known length stays known.
fn echo(mut request: Request) -> Response {
    let mut response = Response::new(StatusCode::Ok);
    response.set_body(request.take_body());
    let kind = request.header(CONTENT_TYPE).map(|values| values.last().as_str());
    if let Some(kind) = kind.filter(|kind| kind.bytes().all(|byte| matches!(byte, b' '..=b'~'))) {
        response.insert_header(CONTENT_TYPE, kind);
    }
    response
}

/// Reads the wait from the query: a duration such as `2s`, or a plain number of milliseconds.
fn wait_asked_for(target: &Target, name: &str, example: &str) -> Result<Option<Duration>, String> {
    let query = target.query.as_deref().unwrap_or_default();
    let Some((_, value)) = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name) else {
        return Ok(None);
    };
    let wait = match value.parse() {
        Ok(milliseconds) => Some(Duration::from_millis(milliseconds)),
        Err(_) => humantime::parse_duration(&value).ok(),
    };
    wait.filter(|wait| *wait <= DELAY_MAX).map(Some).ok_or_else(|| {
        let most = humantime::format_duration(DELAY_MAX);
        format!("{name} must be a number of milliseconds or a duration, at most {most}; write {example}")
    })
}

/// The two log lines of a request: the second comes however it ends, also when the client is gone.
struct Logged {
    what: String,
    pid: u32,
    started: Instant,
}

impl Logged {
    fn start(request: &Request, target: &Target, pid: u32) -> Self {
        let Target { path, query } = target;
        let whole = query.as_ref().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        let shown: String = whole.chars().take(LOGGED_CHARS_MAX).collect();
        let what = format!("{} {shown} from {}", request.method(), request.peer_addr().unwrap_or("a local client"));
        log::info!("request start: {what}, pid {pid}");
        Self { what, pid, started: Instant::now() }
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let Self { what, pid, started } = self;
        log::info!("request done: {what}, pid {pid}, after {} ms", started.elapsed().as_millis());
    }
}
