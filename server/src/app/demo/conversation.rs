//! A chat over a stream: reads for the machine, writes what it says, and looks after the clock, until the client goes, the
//! server stops, or the chat is to go on in another process.

use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt};
use smol::Timer;

use super::chat::Chat;

/// How long a client may say nothing before it is asked whether it is there, and once more until it is given up.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// How long a client may take for what it is told.
const TAKE_MAX: Duration = Duration::from_secs(60);

/// How long a client may take to answer a goodbye.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// How much is read at once: the bound of what the machine puts out at once.
const PIECE_BYTES: usize = 4096;

/// How a conversation ended here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The connection is to be closed.
    Closed,
    /// It goes on in another process, which begins with this state and reads these bytes before all others.
    Moves {
        /// The state for the next [`converse`].
        state: Vec<u8>,
        /// What was read of the stream, and belongs to no message yet.
        unread: Vec<u8>,
    },
}

/// What happens next.
enum Event {
    Came(usize),
    Quiet,
    IsToMove,
    Stops,
}

/// Talks with the client until one of the two goes. `to_move` and `stops` are ready when the process wants that; the first
/// leaves the chat's own bytes taken by the stream.
pub(super) async fn converse(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    state: &[u8],
    to_move: impl Future<Output = ()>,
    stops: impl Future<Output = ()>,
) -> Ended {
    let mut chat = match Chat::new(state) {
        Ok(chat) => chat,
        Err(message) => {
            log::warn!("cannot go on with what another generation began: {message}; the connection is closed");
            return Ended::Closed;
        }
    };
    let (mut to_move, mut stops) = (Some(pin!(to_move)), Some(pin!(stops)));
    let mut piece = [0; PIECE_BYTES];
    let (mut deadline, mut was_asked) = (Instant::now() + QUIET_MAX, false);
    loop {
        if !put_out(stream, &chat.take_output()).await || chat.is_over() {
            return Ended::Closed;
        }
        let came = async { stream.read(&mut piece).await.map_or(Event::Came(0), Event::Came) };
        let quiet = async {
            Timer::at(deadline).await;
            Event::Quiet
        };
        let asked = once(&mut to_move, Event::IsToMove).or(once(&mut stops, Event::Stops));
        match asked.or(came).or(quiet).await {
            Event::Came(0) => return Ended::Closed,
            Event::Came(count) => {
                chat.receive(&piece[..count]);
                // A client that is only slow to say goodbye gets no more time by talking.
                if stops.is_some() {
                    (deadline, was_asked) = (Instant::now() + QUIET_MAX, false);
                }
            }
            Event::Quiet if was_asked || stops.is_none() => return Ended::Closed,
            Event::Quiet => {
                chat.ping();
                (deadline, was_asked) = (Instant::now() + QUIET_MAX, true);
            }
            Event::IsToMove => {
                to_move = None;
                if chat.can_park() {
                    let (state, unread) = chat.park();
                    return Ended::Moves { state, unread };
                }
            }
            Event::Stops => {
                stops = None;
                chat.close("the server stops");
                deadline = Instant::now() + GOODBYE_MAX;
            }
        }
    }
}

/// Waits for what happens at most once.
async fn once(what: &mut Option<Pin<&mut impl Future<Output = ()>>>, event: Event) -> Event {
    match what {
        Some(what) => what.as_mut().await,
        None => std::future::pending().await,
    }
    event
}

/// Writes all of it; false where the client is gone or takes it too slowly.
async fn put_out(stream: &mut (impl AsyncWrite + Unpin), output: &[u8]) -> bool {
    if output.is_empty() {
        return true;
    }
    let written = async { stream.write_all(output).await.is_ok() && stream.flush().await.is_ok() };
    let late = async {
        Timer::after(TAKE_MAX).await;
        false
    };
    written.or(late).await
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use smol::net::unix::UnixStream;
    use tungstenite::protocol::Role;
    use tungstenite::{Message, WebSocket};

    use super::*;

    fn mask(message: Message) -> Vec<u8> {
        let mut client = WebSocket::from_raw_socket(std::io::Cursor::new(Vec::new()), Role::Client, None);
        client.send(message).unwrap();
        client.into_inner().into_inner()
    }

    /// What an unmasked text frame of less than 126 bytes looks like.
    async fn hear(client: &mut UnixStream) -> String {
        let mut head = [0; 2];
        client.read_exact(&mut head).await.unwrap();
        let mut text = vec![0; usize::from(head[1])];
        client.read_exact(&mut text).await.unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    #[test]
    fn a_conversation_goes_on_in_the_next_process_in_the_middle_of_a_frame() {
        smol::block_on(async {
            let (mut client, mut server) = UnixStream::pair().unwrap();
            let (one, two) = (mask(Message::text("one")), mask(Message::text("two")));
            client.write_all(&one).await.unwrap();
            client.write_all(&two[..4]).await.unwrap();
            let to_move = async {
                // The first answer is out, and the half of the second frame has come with the first.
                assert_eq!(hear(&mut client).await, "1: one");
            };
            let Ended::Moves { state, unread } = converse(&mut server, b"", to_move, pending()).await else {
                panic!("it is to move")
            };
            assert_eq!(unread, two[..4]);
            client.write_all(&two[4..]).await.unwrap();
            let mut next = (unread.as_slice()).chain(server.clone());
            let mut both = Both { read: &mut next, write: &mut server };
            let to_move = async { assert_eq!(hear(&mut client).await, "2: two") };
            assert!(matches!(converse(&mut both, &state, to_move, pending()).await, Ended::Moves { .. }));
        });
    }

    /// A stream whose reader is another one than its writer.
    struct Both<'a, R, W> {
        read: &'a mut R,
        write: &'a mut W,
    }

    impl<R: AsyncRead + Unpin, W: Unpin> AsyncRead for Both<'_, R, W> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
            into: &mut [u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            Pin::new(&mut *self.read).poll_read(context, into)
        }
    }

    impl<R: Unpin, W: AsyncWrite + Unpin> AsyncWrite for Both<'_, R, W> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
            bytes: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            Pin::new(&mut *self.write).poll_write(context, bytes)
        }

        fn poll_flush(
            mut self: Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            Pin::new(&mut *self.write).poll_flush(context)
        }

        fn poll_close(
            mut self: Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            Pin::new(&mut *self.write).poll_close(context)
        }
    }

    #[test]
    fn a_stop_says_goodbye_and_waits_for_the_answer_but_not_for_ever() {
        smol::block_on(async {
            let (mut client, mut server) = UnixStream::pair().unwrap();
            let started = Instant::now();
            assert_eq!(converse(&mut server, b"", pending(), async {}).await, Ended::Closed);
            assert!(started.elapsed() >= GOODBYE_MAX, "the client said nothing");
            assert!(hear(&mut client).await.ends_with("the server stops"));

            let (mut client, mut server) = UnixStream::pair().unwrap();
            client.write_all(&mask(Message::Close(None))).await.unwrap();
            let started = Instant::now();
            assert_eq!(converse(&mut server, b"", pending(), async {}).await, Ended::Closed);
            assert!(started.elapsed() < GOODBYE_MAX);
        });
    }

    #[test]
    fn a_client_that_is_gone_ends_it() {
        smol::block_on(async {
            let (client, mut server) = UnixStream::pair().unwrap();
            drop(client);
            assert_eq!(converse(&mut server, b"", pending(), pending()).await, Ended::Closed);
            assert_eq!(converse(&mut server, b"garbage", pending(), pending()).await, Ended::Closed);
        });
    }
}
