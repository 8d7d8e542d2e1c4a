//! A WebSocket chat that a reload does not end: what somebody is called and how much they have said goes on in the next
//! process, also in the middle of a message. Each text comes back behind its number and the name that `/nick NAME` gave.
//!
//!     cargo run --package server --example chat
//!     cargo run --package server --example chat -- reload

use std::io::{self, Read, Write};
use std::pin::pin;
use std::process::ExitCode;

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use http_types::{Request, Response};
use server::Program;
use server::http::{Leave, Moves, Upgraded, switch};
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tungstenite::{Error, Message, WebSocket, handshake::derive_accept_key};

/// The protocol, and how its state is to be read: a count, and a nickname behind a space, if there is one. What is to be read
/// in another way gets another name.
const CHAT: &str = "chat/1";
/// The most that is kept of a message that has not come to its end. A connection with more unread bytes would stay.
const UNREAD_BYTES_MAX: usize = 16 * 1024;

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
    let config = WebSocketConfig::default().read_buffer_size(1).max_frame_size(Some(UNREAD_BYTES_MAX));
    let mut socket = WebSocket::from_raw_socket(Memory::default(), Role::Server, Some(config));
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
                let unread = std::mem::take(&mut socket.get_mut().unread);
                return Leave::Move { state: format!("{count}{name}").into_bytes(), unread };
            }
            Event::Stops => Some(CloseCode::Away),
        };
        if let Some(code) = goodbye {
            // Where the client has said goodbye before, there is nothing to add.
            let _ = socket.close(Some(CloseFrame { code, reason: "".into() }));
        }
        let output = std::mem::take(&mut socket.get_mut().output);
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
fn hear(socket: &mut WebSocket<Memory>, bytes: &[u8], count: &mut u64, name: &mut String) -> Result<(), CloseCode> {
    socket.get_mut().unread.extend_from_slice(bytes);
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                *count += 1;
                if let Some(new) = text.strip_prefix("/nick ") {
                    *name = format!(" {}", new.chars().take(20).collect::<String>());
                }
                socket.send(Message::text(format!("{count}{name}: {text}"))).map_err(|_| CloseCode::Error)?;
                socket.get_mut().forget(true);
            }
            Ok(message) => socket.get_mut().forget(message.is_binary()),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(Error::Capacity(_)) => return Err(CloseCode::Size),
            Err(_) => return Err(CloseCode::Protocol),
        }
    }
    if socket.get_ref().unread.len() > UNREAD_BYTES_MAX { Err(CloseCode::Size) } else { Ok(()) }
}

/// The stream that the library of frames reads and writes, without a wait.
#[derive(Default)]
struct Memory {
    /// The bytes since the end of the last message: the next process reads them again.
    unread: Vec<u8>,
    /// How many of them the library has.
    taken: usize,
    output: Vec<u8>,
}

impl Memory {
    /// The library has come to the end of a message, of data or of control. One of control may stand between the parts of
    /// one of data, which has not ended then.
    fn forget(&mut self, is_data: bool) {
        let begins_with_control = self.unread.first().is_some_and(|first| first & 0x08 != 0);
        if is_data || begins_with_control {
            self.unread.drain(..self.taken);
            self.taken = 0;
        }
    }
}

impl Read for Memory {
    /// A byte at a time: so the library has never more than the message that it gives.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        into[0] = *self.unread.get(self.taken).ok_or(io::ErrorKind::WouldBlock)?;
        self.taken += 1;
        Ok(1)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
