//! The demonstration: the original program's handler, and what one needs to watch a reload from outside.
//!
//! `GET /` answers `cout` after `?delay=` and logs its start and its end, `/fast` and `/slow?ms=N` repeat the request's
//! `x-id`, `/echo` gives a body back while it still arrives, `/upgrade` gives back all that comes after a switch to the
//! protocol `echo`. What lasts has no end by itself: `/bytes?n=N` as long as N bytes take, `/events?ms=N` an event stream,
//! which the page `/live` shows, `/chat` a WebSocket. Every response says who answered. Waits are bounded, and what comes from the client into a header
//! or a log line is reduced to what is harmless there.

use std::borrow::Cow;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use http_types::headers::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http_types::{Method, Request, Response, StatusCode};
use smol::Timer;

use super::answer::{Identity, PathAndQuery, READABLE, text};
use super::page;
use crate::http::{Moves, Step, stream};

mod bytes;
mod chat;
mod conversation;
mod events;
mod handshake;
mod upgrades;

/// The longest wait that a client can ask for.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// Where the event stream is.
const EVENTS: &str = "/events";

/// The name under which an event stream moves; its state is as `events` has it.
const EVENTS_STREAM: &str = "demo-events/1";

/// The longest `x-id` that is repeated.
const ID_BYTES_MAX: usize = 128;

/// The most of a target that one log line shows.
const LOGGED_CHARS_MAX: usize = 256;

/// The demonstration of one process.
#[derive(Clone, Debug, Default)]
pub(super) struct Demo {
    room: bytes::Room,
}

/// What the demonstration has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Cout,
    Fast,
    Slow,
    Echo,
    Upgrade,
    Bytes,
    Events,
    Chat,
    Page,
}

impl Resource {
    /// What is at this path.
    pub(super) fn at(path: &str) -> Option<Self> {
        match path {
            "/" => Some(Self::Cout),
            "/fast" => Some(Self::Fast),
            "/slow" => Some(Self::Slow),
            "/echo" => Some(Self::Echo),
            "/upgrade" => Some(Self::Upgrade),
            "/bytes" => Some(Self::Bytes),
            EVENTS => Some(Self::Events),
            "/chat" => Some(Self::Chat),
            "/live" => Some(Self::Page),
            _ => None,
        }
    }

    pub(super) fn methods(self) -> &'static [Method] {
        match self {
            Self::Cout | Self::Fast | Self::Slow | Self::Upgrade | Self::Bytes | Self::Events | Self::Page => READABLE,
            Self::Chat => &[Method::Get, Method::Options],
            Self::Echo => &[Method::Post, Method::Options],
        }
    }
}

impl Demo {
    /// Answers a request for one of them.
    pub(super) async fn answer(
        &self,
        resource: Resource,
        request: &mut Request,
        target: &PathAndQuery,
        id: Option<&str>,
        identity: &Identity,
    ) -> Response {
        let outcome = match resource {
            Resource::Cout => cout(request, target, identity.pid).await,
            Resource::Fast => Ok(tagged(id, identity)),
            Resource::Slow => slow(target, id, identity).await,
            Resource::Echo => Ok(echo(request)),
            Resource::Upgrade => Ok(upgrades::echo(request).await),
            Resource::Bytes => self.bytes(target).await,
            Resource::Events => events(request, target),
            Resource::Chat => Ok(upgrades::chat(request)),
            Resource::Page => Ok(page::live(identity)),
        };
        outcome.unwrap_or_else(|message| text(StatusCode::BadRequest, message))
    }

    /// As many bytes as are asked for, from memory. They are made by a thread of the pool: it takes a while.
    async fn bytes(&self, target: &PathAndQuery) -> Result<Response, String> {
        let most = bytes::BYTES_MAX;
        let length = parameter(target, "n").and_then(|value| value.parse().ok()).filter(|length| *length <= most);
        let length =
            length.ok_or_else(|| format!("n must be a number of bytes, at most {most}; write /bytes?n=1000"))?;
        let room = self.room.clone();
        let Some(body) = smol::unblock(move || room.body(length)).await else {
            let message = format!("other clients have so many of these {most} bytes that there is no room; try again");
            let mut response = text(StatusCode::ServiceUnavailable, message);
            response.insert_header(RETRY_AFTER, "1");
            return Ok(response);
        };
        let mut response = Response::new(StatusCode::Ok);
        response.insert_header(CONTENT_TYPE, "application/octet-stream");
        response.set_body(body);
        Ok(response)
    }
}

/// The request's `x-id`, as far as it can stand in a header.
pub(super) fn request_id(request: &Request) -> Option<String> {
    // To look at all names takes less than to look up one that http-types does not know.
    let sent = request.iter().find(|(name, _)| name.as_str() == "x-id")?.1.last().as_str();
    let id: String = sent.chars().filter(char::is_ascii_graphic).take(ID_BYTES_MAX).collect();
    (!id.is_empty()).then_some(id)
}

/// Who answers, and which request, as headers.
pub(super) fn signature(identity: &Identity, request: Option<&Request>) -> Vec<(HeaderName, HeaderValue)> {
    let headers = [
        ("x-pid", Some(identity.pid.to_string())),
        ("x-generation", Some(identity.generation.to_string())),
        ("x-id", request.and_then(request_id)),
    ];
    let pairs = headers.into_iter().filter_map(|(name, value)| Some((name, value?)));
    pairs.filter_map(|(name, value)| Some((name.into(), HeaderValue::from_bytes(value.into_bytes()).ok()?))).collect()
}

/// What the original program answered. It always slept for ten seconds; here the client says how long.
async fn cout(request: &Request, target: &PathAndQuery, pid: u32) -> Result<Response, String> {
    let delay = wait_asked_for(target, "delay", "/?delay=2s")?.unwrap_or_default();
    let _logged = Logged::start(request, target, pid);
    Timer::after(delay).await;
    Ok(text(StatusCode::Ok, "cout"))
}

async fn slow(target: &PathAndQuery, id: Option<&str>, identity: &Identity) -> Result<Response, String> {
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
fn echo(request: &mut Request) -> Response {
    let mut response = Response::new(StatusCode::Ok);
    response.set_body(request.take_body());
    let kind = request.header(CONTENT_TYPE).map(|values| values.last().as_str());
    if let Some(kind) = kind.filter(|kind| kind.bytes().all(|byte| matches!(byte, b' '..=b'~'))) {
        response.insert_header(CONTENT_TYPE, kind);
    }
    response
}

/// An event every so often, with an id that counts them.
fn events(request: &Request, target: &PathAndQuery) -> Result<Response, String> {
    let interval = match parameter(target, "ms") {
        None => Some(events::INTERVAL_MS_DEFAULT),
        Some(value) => value.parse().ok().filter(|ms| events::INTERVAL_MS.contains(ms)),
    };
    let interval = interval.ok_or_else(|| {
        let (least, most) = events::INTERVAL_MS.into_inner();
        format!("ms must be a number of milliseconds, {least} to {most}; write {EVENTS}?ms=1000")
    })?;
    let last = request.header("last-event-id").map(|values| values.last().as_str());
    let state = events::begin(interval, last, SystemTime::now());
    let mut response = Response::new(StatusCode::Ok);
    stream(&mut response, EVENTS_STREAM, state);
    response.insert_header(CONTENT_TYPE, "text/event-stream");
    response.insert_header(CACHE_CONTROL, "no-store");
    Ok(response)
}

/// What of the demonstration goes on in another process; `identity` is known by the time that one serves.
pub(super) fn moves(identity: &Arc<OnceLock<Identity>>) -> Moves {
    let identity = Arc::clone(identity);
    let next = move |state| next_event(state, Arc::clone(&identity));
    Moves::new().endless_stream(EVENTS_STREAM, next).protocol(upgrades::CHAT, upgrades::talk)
}

/// Waits for the next event of a stream with this state, which says that it is this process that sends it.
async fn next_event(state: Vec<u8>, identity: Arc<OnceLock<Identity>>) -> io::Result<Option<Step>> {
    let identity = identity.get().ok_or_else(|| io::Error::other("an event before this process serves"))?;
    let events::Step { wait, event, next } =
        events::step(&state, identity, SystemTime::now()).map_err(io::Error::other)?;
    Timer::after(wait).await;
    Ok(Some(Step::new(event, next)))
}

/// Reads the wait from the query: a duration such as `2s`, or a plain number of milliseconds.
fn wait_asked_for(target: &PathAndQuery, name: &str, example: &str) -> Result<Option<Duration>, String> {
    let Some(value) = parameter(target, name) else { return Ok(None) };
    let wait = match value.parse() {
        Ok(milliseconds) => Some(Duration::from_millis(milliseconds)),
        Err(_) => humantime::parse_duration(&value).ok(),
    };
    wait.filter(|wait| *wait <= DELAY_MAX).map(Some).ok_or_else(|| {
        let most = humantime::format_duration(DELAY_MAX);
        format!("{name} must be a number of milliseconds or a duration, at most {most}; write {example}")
    })
}

/// A parameter of the query, decoded.
fn parameter<'a>(target: &'a PathAndQuery, name: &str) -> Option<Cow<'a, str>> {
    let query = target.query.as_deref().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).find_map(|(key, value)| (key == name).then_some(value))
}

/// The two log lines of a request: the second comes however it ends, also when the client is gone.
struct Logged {
    what: String,
    pid: u32,
    started: Instant,
}

impl Logged {
    fn start(request: &Request, target: &PathAndQuery, pid: u32) -> Self {
        let PathAndQuery { path, query } = target;
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

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, OnceLock};

    use futures_lite::future::poll_once;
    use http_types::Body;
    use http_types::headers::UPGRADE;

    use super::*;
    use crate::app::tests::{identity, request, signed};
    use crate::app::{App, AppConfig};

    fn app() -> App {
        App::new(AppConfig { sites: vec![], demo: true, identity: identity() }).unwrap()
    }

    fn respond(request: Request) -> (Response, String) {
        smol::block_on(async {
            let mut response = signed(&app(), request).await;
            let body = response.body_string().await.unwrap();
            (response, body)
        })
    }

    /// The log lines of this process that hold a text; other tests log too.
    fn logged(text: &str) -> Vec<String> {
        struct Kept(Mutex<Vec<String>>);
        impl log::Log for Kept {
            fn enabled(&self, _: &log::Metadata<'_>) -> bool {
                true
            }
            fn log(&self, record: &log::Record<'_>) {
                self.0.lock().unwrap().push(record.args().to_string());
            }
            fn flush(&self) {}
        }
        static KEPT: OnceLock<&'static Kept> = OnceLock::new();
        let kept = KEPT.get_or_init(|| {
            let kept: &'static Kept = Box::leak(Box::new(Kept(Mutex::default())));
            log::set_logger(kept).unwrap();
            log::set_max_level(log::LevelFilter::Info);
            kept
        });
        kept.0.lock().unwrap().iter().filter(|line| line.contains(text)).cloned().collect()
    }

    #[test]
    fn the_root_answers_as_the_original_did() {
        let (response, body) = respond(request(Method::Get, "/"));
        assert_eq!((response.status(), body.as_str()), (StatusCode::Ok, "cout\n"));
    }

    #[test]
    fn the_root_answers_after_the_delay_that_was_asked_for() {
        for delay in ["20", "20ms", "20000us"] {
            let started = Instant::now();
            let (_, body) = respond(request(Method::Get, &format!("/?x=1&delay={delay}")));
            assert!(started.elapsed() >= Duration::from_millis(20) && body == "cout\n", "{delay}");
        }
    }

    #[test]
    fn start_and_end_are_logged_with_pid_and_peer() {
        logged("");
        let mut request = request(Method::Get, "/?case=whole");
        request.set_peer_addr(Some("192.0.2.1:5"));
        respond(request);
        let [start, done] = &logged("case=whole")[..] else { panic!("two lines") };
        assert_eq!(start, "request start: GET /?case=whole from 192.0.2.1:5, pid 4121");
        assert!(done.starts_with("request done: GET /?case=whole from 192.0.2.1:5, pid 4121, after "), "{done}");
    }

    #[test]
    fn the_end_is_logged_also_when_the_client_is_gone() {
        logged("");
        smol::block_on(async {
            let app = app();
            let mut response = Box::pin(app.respond(request(Method::Get, "/?delay=60s&case=gone")));
            assert!(poll_once(&mut response).await.is_none());
            assert_eq!(logged("case=gone").len(), 1);
        });
        assert!(logged("case=gone")[1].starts_with("request done"));
    }

    #[test]
    fn a_long_target_makes_no_long_line() {
        logged("");
        respond(request(Method::Get, &format!("/?case=long&{}", "x".repeat(10_000))));
        assert!(logged("case=long").iter().all(|line| line.len() < 400));
    }

    #[test]
    fn fast_and_slow_repeat_the_id_and_tell_who_answered() {
        for target in ["/fast", "/slow?ms=1", "/slow?ms=1ms", "/slow?ms=0"] {
            let mut request = request(Method::Get, target);
            request.insert_header("x-id", "a-17");
            let (response, body) = respond(request);
            assert_eq!(response.status(), StatusCode::Ok);
            assert_eq!(body, "id=a-17 pid=4121 generation=7\n");
            for (header, value) in [("x-pid", "4121"), ("x-generation", "7"), ("x-id", "a-17")] {
                assert_eq!(response.header(header).unwrap().as_str(), value, "{target}");
            }
        }
    }

    #[test]
    fn every_response_tells_who_answered() {
        for (method, target) in [
            (Method::Get, "/"),
            (Method::Head, "/fast"),
            (Method::Get, "/missing"),
            (Method::Post, "/fast"),
            (Method::Options, "/echo"),
            (Method::Get, "/slow"),
        ] {
            let mut request = request(method, target);
            request.insert_header("x-id", "3");
            let response = smol::block_on(signed(&app(), request));
            assert_eq!(response.header("x-pid").unwrap().as_str(), "4121", "{method} {target}");
            assert_eq!(response.header("x-id").unwrap().as_str(), "3", "{method} {target}");
        }
        let (response, body) = respond(request(Method::Get, "/fast"));
        assert!(response.header("x-id").is_none() && body.starts_with("id=- "), "{body}");
    }

    #[test]
    fn an_id_cannot_bring_a_header_or_grow_without_bound() {
        let cases = [
            ("a\r\nx-evil: 1".to_owned(), Some("ax-evil:1".to_owned())),
            (" \t\r\n".to_owned(), None),
            ("x".repeat(5_000), Some("x".repeat(ID_BYTES_MAX))),
        ];
        for (sent, expected) in cases {
            let mut request = request(Method::Get, "/fast");
            request.insert_header("x-id", sent);
            let (response, _) = respond(request);
            assert_eq!(response.header("x-id").map(|values| values.as_str().to_owned()), expected);
            assert!(response.header("x-evil").is_none());
        }
    }

    #[test]
    fn bad_parameters_are_answered_with_what_would_be_right() {
        for (target, name, example) in [
            ("/?delay=", "delay", "/?delay=2s"),
            ("/?delay=soon", "delay", "/?delay=2s"),
            ("/?delay=61s", "at most 1m", "/?delay=2s"),
            ("/?delay=-1", "delay", "/?delay=2s"),
            ("/?delay=99999999999999999999", "delay", "/?delay=2s"),
            ("/slow", "ms is missing", "/slow?ms=250"),
            ("/slow?ms=x", "ms", "/slow?ms=250"),
            ("/slow?ms=60001", "ms", "/slow?ms=250"),
            ("/bytes", "n must be", "/bytes?n=1000"),
            ("/bytes?n=268435457", "at most 268435456", "/bytes?n=1000"),
            ("/bytes?n=-1", "n must be", "/bytes?n=1000"),
            ("/events?ms=9", "10 to 60000", "/events?ms=1000"),
            ("/events?ms=60001", "ms must be", "/events?ms=1000"),
        ] {
            let (response, body) = respond(request(Method::Get, target));
            assert_eq!(response.status(), StatusCode::BadRequest, "{target}");
            assert!(body.contains(name) && body.contains(example), "{target}: {body}");
        }
    }

    #[test]
    fn bytes_have_the_length_that_was_asked_for_and_wait_for_room() {
        let app = app();
        let ask = |target: &str| smol::block_on(app.respond(request(Method::Get, target)));
        let mut response = ask("/bytes?n=1003");
        assert_eq!((response.status(), response.len()), (StatusCode::Ok, Some(1003)));
        let refused = ask("/bytes?n=268435456");
        assert_eq!(refused.status(), StatusCode::ServiceUnavailable, "the first one is still held");
        assert_eq!(refused.header(RETRY_AFTER).unwrap().as_str(), "1");
        assert_eq!(smol::block_on(response.body_bytes()).unwrap().len(), 1003);
    }

    #[test]
    fn an_event_stream_begins_behind_what_the_client_has_and_has_no_end() {
        let mut request = request(Method::Get, "/events?ms=10");
        request.insert_header("last-event-id", "41");
        let response = smol::block_on(signed(&app(), request));
        assert_eq!(response.header(CONTENT_TYPE).unwrap().as_str(), "text/event-stream");
        assert_eq!((response.len(), response.header(CACHE_CONTROL).unwrap().as_str()), (None, "no-store"));
        let identity = Arc::new(OnceLock::from(identity()));
        let mut state = events::begin(10, Some("41"), SystemTime::now());
        for id in [42, 43] {
            let step = smol::block_on(next_event(state, Arc::clone(&identity))).unwrap().unwrap();
            assert_eq!(step.bytes, format!("id: {id}\ndata: generation=7 pid=4121\n\n").into_bytes());
            state = step.state;
        }
        assert!(smol::block_on(next_event(b"{".to_vec(), identity)).is_err());
    }

    #[test]
    fn the_chat_switches_for_whom_it_may_and_tells_the_others_how() {
        let headers = [("upgrade", "websocket"), ("sec-websocket-version", "13")];
        for (key, status) in
            [("dGhlIHNhbXBsZSBub25jZQ==", StatusCode::SwitchingProtocols), ("none", StatusCode::BadRequest)]
        {
            let mut request = request(Method::Get, "/chat");
            for (name, value) in headers.into_iter().chain([("sec-websocket-key", key)]) {
                request.insert_header(name, value);
            }
            let response = smol::block_on(signed(&app(), request));
            assert_eq!(response.status(), status);
            let accepted = response.header("sec-websocket-accept").map(|values| values.as_str().to_owned());
            assert_eq!(accepted.is_some(), status == StatusCode::SwitchingProtocols);
        }
        let (response, _) = respond(request(Method::Get, "/chat"));
        assert_eq!(response.status(), StatusCode::UpgradeRequired);
        assert_eq!(response.header(UPGRADE).unwrap().as_str(), "websocket");
    }

    #[test]
    fn the_page_shows_the_event_stream() {
        let (response, body) = respond(request(Method::Get, "/live"));
        assert_eq!(response.content_type().unwrap().essence(), "text/html");
        assert!(body.contains(&format!("EventSource(\"{EVENTS}?")), "{body}");
    }

    #[test]
    fn echo_gives_back_body_type_and_known_length() {
        let mut request = request(Method::Post, "/echo");
        request.set_body(Body::from_bytes(vec![7; 100_000]));
        request.insert_header(CONTENT_TYPE, "image/x-own; a=b");
        let mut response = smol::block_on(signed(&app(), request));
        assert_eq!(response.len(), Some(100_000));
        assert_eq!(response.header(CONTENT_TYPE).unwrap().as_str(), "image/x-own; a=b");
        assert_eq!(smol::block_on(response.body_bytes()).unwrap(), vec![7; 100_000]);
    }

    #[test]
    fn echo_answers_before_it_has_read_the_body() {
        let (sender, receiver) = smol::channel::unbounded::<std::io::Result<Vec<u8>>>();
        let mut request = request(Method::Post, "/echo");
        let reader = futures_lite::io::BufReader::new(Pieces { receiver: Box::pin(receiver) });
        request.set_body(Body::from_reader(reader, None));
        smol::block_on(async {
            let mut response = app().respond(request).await;
            assert_eq!(response.len(), None);
            sender.send(Ok(b"one ".to_vec())).await.unwrap();
            sender.send(Ok(b"two".to_vec())).await.unwrap();
            drop(sender);
            assert_eq!(response.body_string().await.unwrap(), "one two");
        });
    }

    /// A body whose pieces the test sends.
    struct Pieces {
        receiver: std::pin::Pin<Box<smol::channel::Receiver<std::io::Result<Vec<u8>>>>>,
    }

    impl futures_lite::AsyncRead for Pieces {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
            buffer: &mut [u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            use futures_lite::Stream;
            self.receiver.as_mut().poll_next(context).map(|piece| {
                let piece = piece.transpose()?.unwrap_or_default();
                buffer[..piece.len()].copy_from_slice(&piece);
                Ok(piece.len())
            })
        }
    }
}
