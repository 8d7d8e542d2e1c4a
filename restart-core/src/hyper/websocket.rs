//! WebSockets that outlive their process: between two messages, and in the middle of one.
//!
//! It needs the feature `websocket`. A program registers what a WebSocket does by a name ([`Moves::web_socket`]), and a
//! handler answers the request for one with [`switch`].
//!
//! ```no_run
//! use hyper::HeaderMap;
//! use restart_core::hyper::websocket::{self, WebSocket};
//! use restart_core::hyper::{Leave, Moves};
//!
//! fn moves() -> Moves {
//!     Moves::new().web_socket("echo/1", echo)
//! }
//!
//! fn handler(headers: &HeaderMap) -> hyper::Response<String> {
//!     websocket::switch(headers, "echo/1", b"0".to_vec())
//! }
//!
//! /// Answers each message with its number, which is the state.
//! async fn echo(mut socket: WebSocket, state: Vec<u8>) -> Leave {
//!     let mut number: u64 = std::str::from_utf8(&state).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
//!     while let Some(message) = socket.next().await {
//!         number += 1;
//!         let answer = format!("{number}: {}", message.text().unwrap_or("bytes"));
//!         if socket.send(answer).await.is_err() {
//!             break;
//!         }
//!     }
//!     socket.leave(number.to_string().into_bytes()).await
//! }
//! ```
//!
//! The frames are tungstenite's. It is given no more than one frame at a time, and what came since the end of the last
//! message is kept beside it: that travels, and is read again.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use ::tokio::io::{AsyncReadExt, AsyncWriteExt};
use futures_lite::future;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Response, StatusCode};
use tungstenite::Error;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::exchange::connection_says;
use super::moves;
use super::moves::Moves;
use super::upgrade::Upgraded;
use crate::address::Address;
use crate::frames::FrameBuffer;
use crate::moves::Leave;
use crate::shutdown::Shutdown;

/// A message may be this long; for one that is longer the client is told so, and the WebSocket ends.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// So much is read at a time.
const PIECE_BYTES: usize = 4096;

/// A message of data. Those of control are answered by the [`WebSocket`] itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

impl Message {
    /// The text, where it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Message::Text(text) => Some(text),
            Message::Binary(_) => None,
        }
    }
}

impl From<String> for Message {
    fn from(text: String) -> Message {
        Message::Text(text)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Message {
        Message::Text(text.to_owned())
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Message {
        Message::Binary(bytes)
    }
}

impl Moves {
    /// Registers what a WebSocket does, from a state; it is a [`protocol`](Moves::protocol) by this name. `serve` is called
    /// once after the switch, and again wherever the WebSocket goes on.
    #[must_use]
    pub fn web_socket<F>(self, name: &str, serve: impl Fn(WebSocket, Vec<u8>) -> F + Send + Sync + 'static) -> Moves
    where
        F: Future<Output = Leave> + Send + 'static,
    {
        self.protocol(name, move |stream, state| serve(WebSocket::new(stream), state))
    }
}

/// The response that switches to the WebSocket that is registered under this name, at this state. `headers` are the
/// request's; where they do not ask for a WebSocket of version 13, the answer is 426.
pub fn switch<B: Default>(headers: &HeaderMap, name: &str, state: Vec<u8>) -> Response<B> {
    let is = |name, value| headers.get(name).is_some_and(|line| line.as_bytes().eq_ignore_ascii_case(value));
    let is_asked_for =
        is(UPGRADE, b"websocket") && is(SEC_WEBSOCKET_VERSION, b"13") && connection_says(headers, "upgrade");
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_asked_for);
    let Some(accept) = key.and_then(|key| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()) else {
        let mut refusal = Response::new(B::default());
        *refusal.status_mut() = StatusCode::UPGRADE_REQUIRED;
        let required = [(UPGRADE, "websocket"), (CONNECTION, "upgrade"), (SEC_WEBSOCKET_VERSION, "13")];
        refusal.headers_mut().extend(required.map(|(name, value)| (name, HeaderValue::from_static(value))));
        return refusal;
    };
    let mut response = moves::switch("websocket", name, state);
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// Why [`WebSocket::next`] has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing more can be said.
    Closed,
    Moves,
    /// The client is to hear why.
    Goodbye(CloseCode),
}

/// A client's WebSocket. It answers pings by itself while it is read.
pub struct WebSocket {
    stream: Upgraded,
    frames: tungstenite::WebSocket<FrameBuffer>,
    shutdown: Shutdown,
    moves: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    end: Option<End>,
}

enum Event {
    Received(usize),
    Moves,
    Stops,
}

impl WebSocket {
    fn new(stream: Upgraded) -> WebSocket {
        let config = WebSocketConfig::default()
            .read_buffer_size(PIECE_BYTES)
            .max_frame_size(Some(MESSAGE_BYTES_MAX))
            .max_message_size(Some(MESSAGE_BYTES_MAX));
        let frames = tungstenite::WebSocket::from_raw_socket(FrameBuffer::default(), Role::Server, Some(config));
        let (shutdown, moves) = (stream.shutdown(), Box::pin(stream.moves()));
        WebSocket { stream, frames, shutdown, moves, end: None }
    }

    /// The other end's address.
    pub fn peer(&self) -> &Address {
        self.stream.peer()
    }

    /// Waits for the next message. There is none any more where the client has ended it, where it is to go on in the next
    /// process, and where this process stops: whoever holds it calls [`leave`](WebSocket::leave) then. It may be dropped
    /// while it waits, and nothing is lost.
    pub async fn next(&mut self) -> Option<Message> {
        while self.end.is_none() {
            match self.frames.read() {
                Ok(tungstenite::Message::Text(text)) => {
                    self.frames.get_mut().message_ends();
                    return Some(Message::Text(text.as_str().to_owned()));
                }
                Ok(tungstenite::Message::Binary(bytes)) => {
                    self.frames.get_mut().message_ends();
                    return Some(Message::Binary(bytes.to_vec()));
                }
                Ok(tungstenite::Message::Close(_)) => {
                    let _ = self.write_out().await;
                    self.end = Some(End::Closed);
                }
                Ok(_) => self.frames.get_mut().control_ends(),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => self.wait().await,
                Err(Error::Capacity(_)) => self.end = Some(End::Goodbye(CloseCode::Size)),
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => self.end = Some(End::Closed),
                Err(_) => self.end = Some(End::Goodbye(CloseCode::Protocol)),
            }
        }
        None
    }

    /// Waits for more of what the client says, or for an end.
    async fn wait(&mut self) {
        if self.write_out().await.is_err() {
            self.end = Some(End::Closed);
            return;
        }
        let WebSocket { stream, frames, shutdown, moves, end } = self;
        let may_move = frames.get_ref().can_be_kept();
        let mut piece = [0; PIECE_BYTES];
        let received = async { stream.read(&mut piece).await.map_or(Event::Received(0), Event::Received) };
        let moved = async {
            if !may_move {
                future::pending::<()>().await;
            }
            moves.as_mut().await;
            Event::Moves
        };
        let stopped = async {
            shutdown.stopping().await;
            Event::Stops
        };
        match future::or(stopped, future::or(moved, received)).await {
            Event::Received(0) => *end = Some(End::Closed),
            Event::Received(count) => frames.get_mut().receive(&piece[..count]),
            Event::Moves => *end = Some(End::Moves),
            Event::Stops => *end = Some(End::Goodbye(CloseCode::Away)),
        }
    }

    /// Sends a message, and waits until the kernel has it. Fails where the client has gone. Where it is dropped meanwhile,
    /// the rest is sent with what is sent or read next.
    pub async fn send(&mut self, message: impl Into<Message>) -> io::Result<()> {
        let message = match message.into() {
            Message::Text(text) => tungstenite::Message::text(text),
            Message::Binary(bytes) => tungstenite::Message::binary(bytes),
        };
        self.frames.write(message).map_err(io::Error::other)?;
        self.write_out().await
    }

    /// Leaves the WebSocket, with the state from which it goes on: what the function that serves it returns. Where it has
    /// come to its end, the client hears a goodbye.
    pub async fn leave(mut self, state: Vec<u8>) -> Leave {
        let code = match self.end {
            Some(End::Moves) => {
                if self.write_out().await.is_err() {
                    return Leave::Close;
                }
                return Leave::Move { state, unread: self.frames.get_mut().take_unread() };
            }
            Some(End::Goodbye(code)) => code,
            Some(End::Closed) => return Leave::Close,
            None => CloseCode::Normal,
        };
        // A client that has gone does not hear it.
        let _ = self.frames.close(Some(CloseFrame { code, reason: "".into() }));
        let _ = self.write_out().await;
        let _ = AsyncWriteExt::shutdown(&mut self.stream).await;
        Leave::Close
    }

    /// Sends what is to be sent. It may be dropped wherever it waits.
    async fn write_out(&mut self) -> io::Result<()> {
        match self.frames.flush() {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {}
            Err(error) => return Err(io::Error::other(error)),
        }
        let frames = self.frames.get_mut();
        while !frames.output().is_empty() {
            let count = self.stream.write(frames.output()).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            frames.sent(count);
        }
        Ok(())
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("WebSocket").field("stream", &self.stream).field("end", &self.end).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_request_that_asks_for_a_websocket_in_every_header_gets_one() {
        let asks = [
            (UPGRADE, "WebSocket"),
            (CONNECTION, "keep-alive, Upgrade"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let answer = |left_out: Option<usize>| {
            let asked = asks.iter().enumerate().filter(|(index, _)| Some(*index) != left_out);
            let headers = asked.map(|(_, (name, value))| (name.clone(), HeaderValue::from_static(value))).collect();
            switch::<String>(&headers, "chat/1", vec![])
        };
        let accepted = answer(None);
        assert_eq!(accepted.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(accepted.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for (left_out, header) in asks.iter().enumerate() {
            assert_eq!(answer(Some(left_out)).status(), StatusCode::UPGRADE_REQUIRED, "without {header:?}");
        }
    }
}
