//! The chat of one client over a WebSocket, as a machine without I/O: bytes in, bytes out, and a way to stop in its
//! middle and go on in another process.
//!
//! Frames are tungstenite's, over a buffer that gives it one at a time and keeps those of a message that has not come to its
//! end. They, and the half of a frame behind them, are what a chat that moves leaves unread: the next machine reads them
//! again.

use std::io;

use serde::{Deserialize, Serialize};
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Bytes, Error, Message, Utf8Bytes, WebSocket};

use crate::http::FrameBuffer;

/// The longest message that is taken.
pub(super) const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// What a client is told whose message is longer, or whose frames are more than are kept of one.
const TOO_LONG: &str = "a message has at most 32 KiB";

/// The longest nickname.
const NICKNAME_CHARS_MAX: usize = 32;

/// The most memory that tungstenite takes at once before there is anything to put into it.
const BUFFER_BYTES: usize = 1024;

/// What is known of a client besides its unread bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Person {
    /// What it wants to be called.
    #[serde(default)]
    nickname: Option<String>,
    /// How many messages it has sent.
    #[serde(default)]
    count: u64,
}

/// One client's chat.
pub(super) struct Chat {
    person: Person,
    socket: WebSocket<FrameBuffer>,
    /// Whether a close frame of our own was sent first.
    is_closing: bool,
    is_over: bool,
}

impl Chat {
    /// Goes on where [`Chat::park`] stopped, or begins where the state is empty. An error says why the state cannot be
    /// read.
    pub(super) fn new(state: &[u8]) -> Result<Self, String> {
        let person = match state {
            [] => Person::default(),
            state => serde_json::from_slice(state).map_err(|cause| format!("the state of a chat: {cause}"))?,
        };
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let socket = WebSocket::from_raw_socket(FrameBuffer::default(), Role::Server, Some(config));
        Ok(Self { person, socket, is_closing: false, is_over: false })
    }

    /// Takes bytes from the client, cut anywhere. What they bring about is put out at once, and may be several times as
    /// long: who takes them in pieces, with [`Chat::take_output`] between two, has the bound of a piece.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        if self.is_over {
            return;
        }
        self.socket.get_mut().receive(bytes);
        while !self.is_over {
            let outcome = match self.socket.read() {
                Ok(message) => {
                    let frames = self.socket.get_mut();
                    if matches!(message, Message::Text(_) | Message::Binary(_)) {
                        frames.message_ends();
                    } else {
                        frames.control_ends();
                    }
                    self.answer(message)
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => Err(error),
            };
            self.heed(&outcome);
        }
        if !self.is_over && !self.socket.get_ref().can_be_kept() {
            self.fail(CloseCode::Size, TOO_LONG);
        }
    }

    /// The bytes for the client since the last call.
    pub(super) fn take_output(&mut self) -> Vec<u8> {
        self.socket.get_mut().take_output()
    }

    /// Asks the client whether it is still there.
    pub(super) fn ping(&mut self) {
        if self.socket.can_write() {
            let outcome = self.socket.send(Message::Ping(Bytes::new()));
            self.heed(&outcome);
        }
    }

    /// Says goodbye because the server goes away (1001). The chat is over when the client has answered.
    pub(super) fn close(&mut self, reason: &'static str) {
        if self.socket.can_write() {
            self.is_closing = true;
            let outcome = self.socket.close(Some(frame(CloseCode::Away, reason)));
            self.heed(&outcome);
        }
    }

    /// Whether nothing more is to come: both sides have said goodbye, or the client broke the protocol and was told so.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether the chat can go on in another process: not while it ends.
    pub(super) fn can_park(&self) -> bool {
        !self.is_over && !self.is_closing && self.socket.get_ref().output().is_empty()
    }

    /// Stops here: the state for [`Chat::new`], at most 1 KiB, and the bytes that its [`Chat::receive`] has to get first,
    /// at most [`KEPT_BYTES_MAX`](crate::http::KEPT_BYTES_MAX). Panics unless [`Chat::can_park`].
    pub(super) fn park(mut self) -> (Vec<u8>, Vec<u8>) {
        assert!(self.can_park(), "a chat is parked that ends, or whose output was not taken");
        let state = serde_json::to_vec(&self.person).expect("a person is plain data");
        (state, self.socket.get_mut().take_unread())
    }

    /// Every message is counted and given back behind its number and its sender's nickname.
    fn answer(&mut self, message: Message) -> Result<(), Error> {
        let answer = match message {
            // Pings and goodbyes are answered by the machine; what the client says behind our goodbye is not.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => return Ok(()),
            Message::Text(_) | Message::Binary(_) if self.is_closing => return Ok(()),
            Message::Text(text) => {
                if let Some(name) = text.strip_prefix("/nick") {
                    self.person.nickname = nickname(name);
                }
                Message::text(format!("{}{text}", self.person.next_prefix()))
            }
            Message::Binary(bytes) => {
                let prefix = self.person.next_prefix();
                Message::binary([prefix.as_bytes(), &bytes].concat())
            }
        };
        self.socket.send(answer)
    }

    fn heed(&mut self, outcome: &Result<(), Error>) {
        match outcome {
            Ok(()) => {}
            Err(Error::Capacity(_)) => self.fail(CloseCode::Size, TOO_LONG),
            Err(Error::Utf8(_)) => self.fail(CloseCode::Invalid, "a text has to be UTF-8"),
            Err(Error::Protocol(_)) => self.fail(CloseCode::Protocol, "not the protocol"),
            // The rest is the end of a goodbye.
            Err(_) => self.is_over = true,
        }
    }

    /// Tells the client what it did wrong, and ends the chat (RFC 6455, section 7.1.7).
    fn fail(&mut self, code: CloseCode, reason: &'static str) {
        // Where our goodbye was said before, there is nothing to add.
        let _ = self.socket.close(Some(frame(code, reason)));
        self.is_over = true;
    }
}

impl Person {
    /// What stands before the next answer.
    fn next_prefix(&mut self) -> String {
        self.count = self.count.saturating_add(1);
        match &self.nickname {
            Some(name) => format!("{} {name}: ", self.count),
            None => format!("{}: ", self.count),
        }
    }
}

/// A name of letters that can be shown; none takes the nickname away.
fn nickname(asked: &str) -> Option<String> {
    let name: String = asked.trim().chars().filter(|char| !char.is_control()).take(NICKNAME_CHARS_MAX).collect();
    (!name.is_empty()).then_some(name)
}

fn frame(code: CloseCode, reason: &'static str) -> CloseFrame {
    CloseFrame { code, reason: Utf8Bytes::from_static(reason) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tungstenite::protocol::frame::Frame;
    use tungstenite::protocol::frame::coding::{Data, OpCode};

    use super::*;
    use crate::http::KEPT_BYTES_MAX;

    /// A client's machine, which masks what it says and understands what comes.
    struct Client(WebSocket<FrameBuffer>);

    impl Client {
        fn new() -> Self {
            Self(WebSocket::from_raw_socket(FrameBuffer::default(), Role::Client, None))
        }

        /// The bytes of a message.
        fn say(&mut self, message: Message) -> Vec<u8> {
            self.0.send(message).unwrap();
            self.0.get_mut().take_output()
        }

        /// The bytes of one frame.
        fn frame(&mut self, opcode: Data, text: &str, is_final: bool) -> Vec<u8> {
            self.say(Message::Frame(Frame::message(text.to_owned(), OpCode::Data(opcode), is_final)))
        }

        /// All that the server has said.
        fn hear(&mut self, bytes: &[u8]) -> Vec<Message> {
            self.0.get_mut().receive(bytes);
            std::iter::from_fn(|| self.0.read().ok()).collect()
        }

        fn hear_texts(&mut self, bytes: &[u8]) -> Vec<String> {
            self.hear(bytes).into_iter().map(|message| message.into_text().unwrap().to_string()).collect()
        }
    }

    /// The same chat, as another process goes on with it.
    fn moved(chat: Chat) -> Chat {
        let (state, unread) = chat.park();
        assert!(state.len() <= 1024 && unread.len() <= KEPT_BYTES_MAX);
        let mut chat = Chat::new(&state).unwrap();
        chat.receive(&unread);
        chat
    }

    fn code_of(bytes: &[u8]) -> CloseCode {
        let messages = Client::new().hear(bytes);
        let Some(Message::Close(Some(frame))) = messages.last() else { panic!("{messages:?}") };
        frame.code
    }

    #[test]
    fn every_message_is_given_back_behind_its_number() {
        let (mut client, mut chat) = (Client::new(), Chat::new(b"").unwrap());
        for (text, answer) in
            [("hello", "1: hello"), ("", "2: "), ("/nick Ada\n", "3 Ada: /nick Ada\n"), ("x", "4 Ada: x")]
        {
            chat.receive(&client.say(Message::text(text)));
            assert_eq!(client.hear_texts(&chat.take_output()), [answer]);
        }
        chat.receive(&client.say(Message::text("/nick ")));
        chat.receive(&client.say(Message::binary(vec![0xff])));
        assert_eq!(client.hear(&chat.take_output())[1], Message::binary(b"6: \xff".to_vec()));
    }

    proptest! {
        #[test]
        fn a_chat_that_moves_after_any_byte_says_what_one_says_that_stays(
            texts in proptest::collection::vec(proptest::collection::vec("[a-zäß🦀]{0,30}", 1..4), 1..6),
            moves in proptest::collection::btree_set(0..600_usize, 0..12),
        ) {
            let mut client = Client::new();
            let mut bytes = client.say(Message::text("/nick Ada"));
            for fragments in &texts {
                for (number, text) in fragments.iter().enumerate() {
                    let opcode = if number == 0 { Data::Text } else { Data::Continue };
                    bytes.extend(client.frame(opcode, text, number + 1 == fragments.len()));
                    bytes.extend(client.say(Message::Ping(Bytes::from_static(b"there?"))));
                }
            }
            let mut staying = Chat::new(b"").unwrap();
            staying.receive(&bytes);
            let (mut chat, mut output) = (Chat::new(b"").unwrap(), Vec::new());
            for (at, byte) in bytes.iter().enumerate() {
                if moves.contains(&at) {
                    chat = moved(chat);
                }
                chat.receive(&[*byte]);
                output.extend(chat.take_output());
            }
            prop_assert_eq!(&output, &staying.take_output());
            let texts: Vec<String> = texts.iter().zip(2..).map(|(f, k)| format!("{k} Ada: {}", f.concat())).collect();
            let heard = Client::new().hear(&output).into_iter().filter(Message::is_text).map(|m| m.to_string());
            prop_assert_eq!(heard.skip(1).collect::<Vec<_>>(), texts);
        }

        #[test]
        fn any_bytes_end_in_an_answer_or_are_kept_within_the_bound(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20),
        ) {
            let mut chat = Chat::new(b"").unwrap();
            for piece in pieces {
                chat.receive(&piece);
                let _ = chat.take_output();
                if !chat.can_park() {
                    break;
                }
                chat = moved(chat);
            }
        }
    }

    #[test]
    fn a_message_beyond_the_bound_is_refused_however_it_is_cut() {
        let whole = Client::new().say(Message::binary(vec![7; MESSAGE_BYTES_MAX + 1]));
        let mut client = Client::new();
        let pieces: Vec<u8> = (0..3)
            .flat_map(|n| client.frame(if n == 0 { Data::Text } else { Data::Continue }, &"x".repeat(16_000), false))
            .collect();
        let mut client = Client::new();
        let empty: Vec<u8> = (0..20_000)
            .flat_map(|n| client.frame(if n == 0 { Data::Text } else { Data::Continue }, "", false))
            .collect();
        let announced = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0].to_vec();
        for bytes in [whole, pieces, empty, announced] {
            let mut chat = Chat::new(b"").unwrap();
            chat.receive(&bytes);
            assert!(chat.is_over());
            assert_eq!(code_of(&chat.take_output()), CloseCode::Size);
        }
        let mut chat = Chat::new(b"").unwrap();
        let largest = Client::new().say(Message::binary(vec![7; MESSAGE_BYTES_MAX]));
        chat.receive(&largest[..largest.len() - 1]);
        let mut chat = moved(chat);
        chat.receive(&largest[largest.len() - 1..]);
        assert!(!chat.is_over() && chat.take_output().len() > MESSAGE_BYTES_MAX);
    }

    #[test]
    fn what_is_not_the_protocol_is_answered_with_its_code_and_ends_the_chat() {
        let unmasked = b"\x81\x01a".to_vec();
        let reserved = b"\x83\x80\0\0\0\0".to_vec();
        let continued = Client::new().frame(Data::Continue, "a", true);
        let long_ping = [b"\x89\xfe\x01\x00\0\0\0\0".to_vec(), vec![0; 256]].concat();
        let no_text = b"\x81\x81\0\0\0\0\xff".to_vec();
        for (bytes, code) in [
            (unmasked, CloseCode::Protocol),
            (reserved, CloseCode::Protocol),
            (continued, CloseCode::Protocol),
            (long_ping, CloseCode::Protocol),
            (no_text, CloseCode::Invalid),
        ] {
            let mut chat = Chat::new(b"").unwrap();
            chat.receive(&bytes);
            assert!(chat.is_over() && code_of(&chat.take_output()) == code, "{bytes:?}");
            chat.receive(b"more");
            assert!(chat.take_output().is_empty());
        }
        assert!(Chat::new(b"{").is_err_and(|message| message.contains("state of a chat")));
    }

    #[test]
    fn a_goodbye_of_the_client_is_answered_and_one_of_ours_is_waited_for() {
        let (mut client, mut chat) = (Client::new(), Chat::new(b"").unwrap());
        chat.receive(&client.say(Message::Close(Some(frame(CloseCode::Normal, "")))));
        assert!(chat.is_over());
        assert_eq!(code_of(&chat.take_output()), CloseCode::Normal);

        let (mut client, mut chat) = (Client::new(), Chat::new(b"").unwrap());
        chat.close("the server stops");
        let goodbye = chat.take_output();
        assert!(!chat.is_over() && !chat.can_park());
        chat.receive(&client.say(Message::text("not yet read")));
        assert!(chat.take_output().is_empty());
        let Some(Message::Close(Some(said))) = client.hear(&goodbye).pop() else { panic!("no goodbye") };
        assert_eq!((said.code, said.reason.as_str()), (CloseCode::Away, "the server stops"));
        let answer = client.0.get_mut().take_output();
        chat.receive(&answer);
        assert!(chat.is_over() && chat.take_output().is_empty());
    }

    #[test]
    fn a_ping_is_answered_once_also_in_the_middle_of_a_message() {
        let (mut client, mut chat) = (Client::new(), Chat::new(b"").unwrap());
        chat.receive(&client.frame(Data::Text, "one ", false));
        chat.receive(&client.say(Message::Ping(Bytes::from_static(b"?"))));
        assert_eq!(client.hear(&chat.take_output()), [Message::Pong(Bytes::from_static(b"?"))]);
        let mut chat = moved(chat);
        assert!(chat.take_output().is_empty());
        chat.receive(&client.frame(Data::Continue, "two", true));
        assert_eq!(client.hear_texts(&chat.take_output()), ["1: one two"]);
        chat.ping();
        assert!(matches!(client.hear(&chat.take_output())[..], [Message::Ping(_)]));
    }
}
