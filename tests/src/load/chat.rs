//! A client of `/chat`: a WebSocket whose messages are given back behind their number, and behind the nickname that the
//! client gave itself. The frames are tungstenite's, over memory, so that a test decides where they are cut on their way.

use std::{
    io::{self, Cursor, Read, Write},
    time::Duration,
};

use smol::Timer;
use tungstenite::{
    Error, Message, WebSocket,
    handshake::{client::generate_key, derive_accept_key},
    protocol::Role,
};

use super::{Fault, FaultKind, Limits, Target, incoming::Incoming};

/// A chat.
pub struct Chat {
    incoming: Incoming,
    socket: WebSocket<Memory>,
    said: u64,
    nickname: Option<String>,
}

/// The second half of a message.
#[must_use = "the server waits for it"]
#[derive(Debug)]
pub struct SecondHalf {
    frame: Vec<u8>,
    text: String,
}

impl Chat {
    /// Opens it.
    pub async fn open(target: &Target, limits: Limits) -> Result<Self, Fault> {
        let key = generate_key();
        let request = format!(
            "GET /chat HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n"
        );
        let (incoming, answer) = Incoming::ask(target, &request, 101, limits).await?;
        let accepted = answer.header("sec-websocket-accept");
        if accepted != Some(&derive_accept_key(key.as_bytes())) {
            return Err(Fault::new(FaultKind::Wrong, format!("sec-websocket-accept {accepted:?}")));
        }
        let socket = WebSocket::from_raw_socket(Memory::default(), Role::Client, None);
        Ok(Self { incoming, socket, said: 0, nickname: None })
    }

    /// Says something, and waits for it to come back behind the number of this connection's messages.
    pub async fn say(&mut self, text: &str) -> Result<(), Fault> {
        let frame = self.frame(text)?;
        self.incoming.send(&frame).await?;
        self.hear(text).await
    }

    /// The same, with a pause in the middle of the frame.
    pub async fn say_in_halves(&mut self, text: &str, pause: Duration) -> Result<(), Fault> {
        let second = self.begin(text).await?;
        Timer::after(pause).await;
        self.end(second).await
    }

    /// Says the first half of something, up to the middle of the frame.
    pub async fn begin(&mut self, text: &str) -> Result<SecondHalf, Fault> {
        let mut first = self.frame(text)?;
        let frame = first.split_off(first.len() / 2);
        self.incoming.send(&first).await?;
        Ok(SecondHalf { frame, text: text.to_owned() })
    }

    /// Says the second half, and waits for the whole to come back.
    pub async fn end(&mut self, second: SecondHalf) -> Result<(), Fault> {
        self.incoming.send(&second.frame).await?;
        self.hear(&second.text).await
    }

    /// Takes a nickname, which stands before each answer from now on.
    pub async fn call_me(&mut self, nickname: &str) -> Result<(), Fault> {
        self.nickname = Some(nickname.to_owned());
        self.say(&format!("/nick {nickname}")).await
    }

    /// How many messages have come back.
    pub fn said(&self) -> u64 {
        self.said
    }

    /// The bytes of a message.
    fn frame(&mut self, text: &str) -> Result<Vec<u8>, Fault> {
        self.socket.send(Message::text(text)).map_err(|error| fault(&error))?;
        Ok(std::mem::take(&mut self.socket.get_mut().output))
    }

    async fn hear(&mut self, text: &str) -> Result<(), Fault> {
        let heard = loop {
            match self.socket.read() {
                Ok(Message::Text(heard)) => break heard,
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(frame)) => {
                    return Err(Fault::new(FaultKind::Closed, format!("the server says goodbye: {frame:?}")));
                }
                Ok(other) => return Err(Fault::new(FaultKind::Wrong, format!("{other:?}"))),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    let answers = std::mem::take(&mut self.socket.get_mut().output);
                    self.incoming.send(&answers).await?;
                    self.socket.get_mut().input = Cursor::new(self.incoming.piece().await?);
                }
                Err(error) => return Err(fault(&error)),
            }
        };
        self.said += 1;
        let name = self.nickname.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        if heard.as_str() == format!("{}{name}: {text}", self.said) {
            return Ok(());
        }
        let number = heard.split([':', ' ']).next().and_then(|number| number.parse::<u64>().ok());
        let kind = if number == Some(self.said) { FaultKind::Wrong } else { FaultKind::Gap };
        Err(Fault::new(kind, format!("{heard:?} for message {}, {text:?}", self.said)))
    }
}

fn fault(error: &Error) -> Fault {
    Fault::new(FaultKind::Wrong, error.to_string())
}

/// A stream in memory.
#[derive(Default)]
struct Memory {
    input: Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl Read for Memory {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.input.read(into)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
