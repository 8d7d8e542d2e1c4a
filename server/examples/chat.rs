//! A WebSocket chat that a reload does not end: what somebody is called and how much they have said goes on in the next
//! process, also in the middle of a message. Each text comes back behind its number and the name that `/nick NAME` gave.
//!
//!     cargo run --package server --example chat
//!     cargo run --package server --example chat -- reload

use std::io;
use std::pin::pin;
use std::process::ExitCode;

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use http_types::{Request, Response};
use server::Program;
use server::http::{FrameBuffer, Leave, Moves, Upgraded, switch};
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tungstenite::{Error, Message, WebSocket, handshake::derive_accept_key};

/// The protocol, and how its state is to be read: a count, and a nickname behind a space, if there is one. What is to be read
/// in another way gets another name.
const CHAT: &str = "chat/1";
/// A message may be this long.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

fn main() -> ExitCode {
    Program::new("chat").moves(Moves::new().protocol(CHAT, talk)).run(|_| Ok(answer))
}

async fn answer(request: Request) -> http_types::Result<Response> {
    let is = |name, value| request.header(name).is_some_and(|all| all.last().as_str().eq_ignore_ascii_case(value));
    let key = request.header("sec-websocket-key").filter(|_| is("sec-websocket-version", "13"));
    let Some(key) = key.filter(|_| is("upgrade", "websocket")) else {
        let mut refusal = Response::new(426);
        refusal.insert_header("upgrade", "websocket");
        return Ok(refusal);
    };
    let mut response = switch("websocket", CHAT, b"0".to_vec());
    response.insert_header("sec-websocket-accept", derive_accept_key(key.last().as_str().as_bytes()));
    Ok(response)
}

enum Event {
    Received(usize),
    Moves,
    Stops,
}

/// Serves a chat from this state until it is over, or is to go on in the next process.
async fn talk(mut stream: Upgraded, state: Vec<u8>) -> Leave {
    let Some((mut count, mut name)) = read(&state) else { return Leave::Close };
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
    let mut socket = WebSocket::from_raw_socket(FrameBuffer::default(), Role::Server, Some(config));
    let (shutdown, mut moves) = (stream.shutdown(), pin!(stream.moves()));
    let mut piece = [0; 4096];
    loop {
        let came = async { stream.read(&mut piece).await.map_or(Event::Received(0), Event::Received) };
        let moved = async { (moves.as_mut().await, Event::Moves).1 };
        let stopped = async { (shutdown.stopping().await, Event::Stops).1 };
        let goodbye = match stopped.or(moved).or(came).await {
            Event::Received(0) => return Leave::Close,
            Event::Received(length) => hear(&mut socket, &piece[..length], &mut count, &mut name).err(),
            Event::Moves => {
                let unread = socket.get_mut().take_unread();
                return Leave::Move { state: format!("{count}{name}").into_bytes(), unread };
            }
            Event::Stops => Some(CloseCode::Away),
        };
        if let Some(code) = goodbye {
            // Where the client has said goodbye before, there is nothing to add.
            let _ = socket.close(Some(CloseFrame { code, reason: "".into() }));
        }
        let output = socket.get_mut().take_output();
        if stream.write_all(&output).await.is_err() || goodbye.is_some() {
            return Leave::Close;
        }
    }
}

fn read(state: &[u8]) -> Option<(u64, String)> {
    let text = std::str::from_utf8(state).ok()?;
    let (count, name) = text.split_at(text.find(' ').unwrap_or(text.len()));
    Some((count.parse().ok()?, name.to_owned()))
}

/// Takes bytes from the client, cut anywhere, and answers each message that ends within them. An error is the code of the
/// goodbye.
fn hear(
    socket: &mut WebSocket<FrameBuffer>,
    bytes: &[u8],
    count: &mut u64,
    name: &mut String,
) -> Result<(), CloseCode> {
    socket.get_mut().receive(bytes);
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                socket.get_mut().message_ends();
                *count += 1;
                if let Some(new) = text.strip_prefix("/nick ") {
                    *name = format!(" {}", new.chars().take(20).collect::<String>());
                }
                socket.send(Message::text(format!("{count}{name}: {text}"))).map_err(|_| CloseCode::Error)?;
            }
            Ok(Message::Binary(_)) => socket.get_mut().message_ends(),
            Ok(_) => socket.get_mut().control_ends(),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(Error::Capacity(_)) => return Err(CloseCode::Size),
            Err(_) => return Err(CloseCode::Protocol),
        }
    }
    // A connection with more than is kept would stay.
    if socket.get_ref().can_be_kept() { Ok(()) } else { Err(CloseCode::Size) }
}
