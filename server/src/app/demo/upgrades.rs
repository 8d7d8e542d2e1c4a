//! What the demonstration does on a connection that is no longer HTTP: the WebSocket of `/chat`, and the protocol `echo`
//! of `/upgrade`, which gives back what comes.

use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use http_types::headers::UPGRADE;
use http_types::upgrade::Connection;
use http_types::{Request, Response, StatusCode};
use smol::Timer;

use super::{conversation, handshake};
use crate::app::text;
use crate::http::{Drain, Phase};

/// The protocol that `/upgrade` switches to.
const ECHO: &str = "echo";

/// How long a client of it may say nothing, or take nothing.
const ECHO_IDLE_MAX: Duration = Duration::from_secs(300);

/// Switches to a WebSocket, if the client asks for one.
pub(super) async fn chat(request: &Request) -> Response {
    let (name, key) = match handshake::accept(request) {
        Ok(accepted) => accepted,
        Err(refusal) => return *refusal,
    };
    let converse = |mut stream: Connection, drain: Drain| async move {
        let never = std::future::pending();
        conversation::converse(&mut stream, b"", never, stopping(drain)).await;
    };
    match switch(request, "websocket", converse).await {
        Some(mut response) => {
            response.insert_header(name, key);
            response
        }
        None => text(StatusCode::UpgradeRequired, "ask with `Connection: upgrade` and `Upgrade: websocket`"),
    }
}

/// Switches to the protocol `echo`, if the client asks for it.
pub(super) async fn echo(request: &Request) -> Response {
    let switched =
        if handshake::offers(request, ECHO) { switch(request, ECHO, echo_until_stopped).await } else { None };
    switched.unwrap_or_else(|| {
        let message = format!("ask with `Connection: upgrade` and `Upgrade: {ECHO}`");
        let mut response = text(StatusCode::UpgradeRequired, message);
        response.insert_header(UPGRADE, ECHO);
        response
    })
}

/// A response that switches to a protocol, and what then has the connection. Nothing for a request that may not have one.
async fn switch<F: Future<Output = ()> + Send + 'static>(
    request: &Request,
    protocol: &str,
    speak: impl FnOnce(Connection, Drain) -> F + Send + 'static,
) -> Option<Response> {
    let drain = request.ext().get::<Drain>()?.clone();
    let mut response = Response::new(StatusCode::SwitchingProtocols);
    response.insert_header(UPGRADE, protocol);
    let stream = response.recv_upgrade().await;
    let task = async move {
        if let Some(stream) = stream.await {
            speak(stream, drain).await;
        }
    };
    smol::spawn(task).detach();
    Some(response)
}

/// Waits until the service stops.
async fn stopping(drain: Drain) {
    let mut phase = drain.phase();
    while phase != Phase::Stopping {
        phase = drain.changed(phase).await;
    }
}

/// Gives back what comes, through a drain as well, until its deadline ends the stream. A stop ends it at once.
async fn echo_until_stopped(mut stream: Connection, drain: Drain) {
    let mut bytes = [0; 4096];
    let echo = async {
        loop {
            let turn = async {
                let count = stream.read(&mut bytes).await.unwrap_or(0);
                count > 0 && stream.write_all(&bytes[..count]).await.is_ok()
            };
            let idle = async {
                Timer::after(ECHO_IDLE_MAX).await;
                false
            };
            if !turn.or(idle).await {
                return;
            }
        }
    };
    echo.or(stopping(drain)).await;
}
