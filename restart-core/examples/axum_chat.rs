//! An axum server whose WebSockets and event streams live across reloads: what somebody is called and how much they have
//! said goes on in the next process, also in the middle of a message, and no event is left out.
//!
//!     cargo run -p restart-core --example axum_chat
//!     cargo run -p restart-core --example axum_chat -- reload

use std::{io, process, time::Duration};

use axum::http::{HeaderMap, header::CONTENT_TYPE};
use axum::{Router, body::Body, response::Response, routing::get};
use restart_core::axum::Program;
use restart_core::hyper::websocket::{self, WebSocket};
use restart_core::hyper::{Leave, Moves, Step, stream};

/// How a chat's state is to be read: a count, and a nickname behind a space, if there is one. What is to be read in
/// another way gets another name.
const CHAT: &str = "chat/1";
const EVENTS: &str = "events/1";

fn main() -> process::ExitCode {
    let moves = Moves::new().web_socket(CHAT, talk).endless_stream(EVENTS, event);
    Program::new("axum-chat").listen("http=127.0.0.1:8080").moves(moves).run(async |_| {
        let chat = async |headers: HeaderMap| -> Response { websocket::switch(&headers, CHAT, b"0".to_vec()) };
        let first = || stream::<Body>(EVENTS, 0_u64.to_le_bytes().to_vec());
        let events = async move || ([(CONTENT_TYPE, "text/event-stream")], first());
        Ok(Router::new().route("/chat", get(chat)).route("/events", get(events)))
    })
}

/// Gives each text back behind its number and the name that `/nick NAME` gave.
async fn talk(mut socket: WebSocket, state: Vec<u8>) -> Leave {
    let state = String::from_utf8_lossy(&state);
    let (count, name) = state.split_at(state.find(' ').unwrap_or(state.len()));
    let (mut count, mut name) = (count.parse().unwrap_or(0_u64), name.to_owned());
    while let Some(message) = socket.next().await {
        let text = message.text().unwrap_or("that was no text");
        count += 1;
        if let Some(new) = text.strip_prefix("/nick ") {
            name = format!(" {}", new.chars().take(20).collect::<String>());
        }
        if socket.send(format!("{count}{name}: {text}")).await.is_err() {
            break;
        }
    }
    socket.leave(format!("{count}{name}").into_bytes()).await
}

/// The next event of a stream with this state, which is the id of the last one.
async fn event(state: Vec<u8>) -> io::Result<Option<Step>> {
    let id = u64::from_le_bytes(state.try_into().map_err(|_| io::ErrorKind::InvalidData)?) + 1;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let bytes = format!("id: {id}\ndata: pid {}\n\n", process::id()).into_bytes();
    Ok(Some(Step::new(bytes, id.to_le_bytes().to_vec())))
}
