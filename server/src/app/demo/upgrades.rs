//! What the demonstration does on a connection that is no longer HTTP: the WebSocket of `/chat`, and the protocol `echo`
//! of `/upgrade`, which gives back what comes.

use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use http_types::headers::UPGRADE;
use http_types::upgrade::Connection;
use http_types::{Request, Response, StatusCode};
use smol::Timer;

use super::conversation::{Ended, converse};
use super::handshake;
use crate::app::answer::text;
use crate::http::{Leave, Shutdown, Upgraded, switch};

/// The protocol that `/upgrade` switches to.
const ECHO: &str = "echo";

/// The name under which the chat moves; its state and what is left unread are as `chat` has them.
pub(super) const CHAT: &str = "demo-chat/1";

/// How long a client of `/upgrade` may say nothing, or take nothing.
const ECHO_IDLE_MAX: Duration = Duration::from_secs(300);

/// Switches to a WebSocket, if the client asks for one.
pub(super) fn chat(request: &Request) -> Response {
    match handshake::accept(request) {
        Ok((name, key)) => {
            let mut response = switch("websocket", CHAT, Vec::new());
            response.insert_header(name, key);
            response
        }
        Err(refusal) => *refusal,
    }
}

/// Has the chat on a connection, from its state, until it ends or goes on in another process.
pub(super) async fn talk(mut stream: Upgraded, state: Vec<u8>) -> Leave {
    let (moves, shutdown) = (stream.moves(), stream.shutdown());
    match converse(&mut stream, &state, moves, shutdown.stopping()).await {
        Ended::Closed => Leave::Close,
        Ended::Moves { state, unread } => Leave::Move { state, unread },
    }
}

/// Switches to the protocol `echo`, if the client asks for it. Its connection stays in this process: nobody else can go on
/// with it.
pub(super) async fn echo(request: &Request) -> Response {
    let shutdown = request.ext().get::<Shutdown>().cloned();
    let Some(shutdown) = shutdown.filter(|_| handshake::offers(request, ECHO)) else {
        let message = format!("ask with `Connection: upgrade` and `Upgrade: {ECHO}`");
        let mut response = text(StatusCode::UpgradeRequired, message);
        response.insert_header(UPGRADE, ECHO);
        return response;
    };
    let mut response = Response::new(StatusCode::SwitchingProtocols);
    response.insert_header(UPGRADE, ECHO);
    let stream = response.recv_upgrade().await;
    let task = async move {
        if let Some(stream) = stream.await {
            echo_until_stopped(stream, shutdown).await;
        }
    };
    smol::spawn(task).detach();
    response
}

/// Gives back what comes, through a drain as well, until its deadline is near. A stop ends it at once.
async fn echo_until_stopped(mut stream: Connection, shutdown: Shutdown) {
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
    echo.or(shutdown.stopping()).await;
}
