//! How to write handlers whose work outlives their process: event streams, WebSockets, and what cannot move.
//!
//! This module is documentation only; what is shown in it is compiled.
//!
//! # What moves by itself
//!
//! At a reload the connections of the old process go on in the new one. No handler has to do anything for one that is idle, nor
//! for a response whose rest is known: a body in memory (`Body::from_bytes`, `from_string`), or a [`Content`] of memory and
//! ranges of a file. It goes on at the byte that the kernel has taken.
//!
//! What a handler makes while it is sent cannot be known to anybody else, unless the handler says how it goes on: by a
//! **name** and a **state** in bytes. The program registers what the name means, in [`Moves`]. The new process is the same
//! program, or a newer version of it, and has registered it as well.
//!
//! # An event stream
//!
//! A stream is a function from a state to the next bytes and the next state. [`stream`] makes it the body of a response.
//!
//! ```no_run
//! use std::io;
//! use std::time::Duration;
//!
//! use http_types::{Request, Response};
//! use server::Program;
//! use server::http::{Moves, Step, stream};
//!
//! fn main() -> std::process::ExitCode {
//!     Program::new("ticker").moves(Moves::new().endless_stream("ticks/1", tick)).run(|_| Ok(answer))
//! }
//!
//! async fn answer(request: Request) -> http_types::Result<Response> {
//!     // A client that comes back says which event was its last.
//!     let last = request.header("last-event-id").and_then(|id| id.last().as_str().parse().ok());
//!     let mut response = Response::new(200);
//!     response.insert_header("content-type", "text/event-stream");
//!     response.insert_header("cache-control", "no-store");
//!     stream(&mut response, "ticks/1", last.unwrap_or(0_u64).to_le_bytes().to_vec());
//!     Ok(response)
//! }
//!
//! /// The next event of a stream with this state, which is the id of the last one.
//! async fn tick(state: Vec<u8>) -> io::Result<Option<Step>> {
//!     let id = u64::from_le_bytes(state.try_into().map_err(|_| io::ErrorKind::InvalidData)?) + 1;
//!     smol::Timer::after(Duration::from_secs(1)).await;
//!     Ok(Some(Step::new(format!("id: {id}\ndata: tick\n\n").into_bytes(), id.to_le_bytes().to_vec())))
//! }
//! ```
//!
//! A step that is waited for when the process is replaced is dropped, and made anew from the same state: here the second
//! begins again. Where that matters, the time at which the event is due belongs into the state. `None` ends the stream in order,
//! an error cuts it. At a stop an [`endless_stream`] ends in order as well; one that has an end of its own, such as an export,
//! is a [`stream`](crate::http::Moves::stream), and is cut then, so that nobody takes a part for the whole. Behind a proxy, `X-Accel-Buffering: no` keeps nginx from holding events back.
//!
//! # A protocol of one's own, and a WebSocket
//!
//! A handler answers an `Upgrade` with [`switch`], and the registered function serves the connection from then on. It decides
//! where it leaves: when [`Upgraded::moves`] is ready, it returns [`Leave::Move`] with its state and the bytes that it has read
//! and not used. They are the first that are read in the next process. This one numbers lines:
//!
//! ```no_run
//! use std::pin::pin;
//!
//! use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
//! use http_types::{Request, Response};
//! use server::Program;
//! use server::http::{Leave, Moves, Upgraded, switch};
//!
//! fn main() -> std::process::ExitCode {
//!     Program::new("lines").moves(Moves::new().protocol("lines/1", serve)).run(|_| Ok(answer))
//! }
//!
//! async fn answer(request: Request) -> http_types::Result<Response> {
//!     // One that cannot be followed does not reach the handler.
//!     let is_asked_for = request.header("upgrade").is_some_and(|all| all.last().as_str() == "lines");
//!     Ok(if is_asked_for { switch("lines", "lines/1", b"0".to_vec()) } else { Response::new(426) })
//! }
//!
//! async fn serve(mut stream: Upgraded, state: Vec<u8>) -> Leave {
//!     let Some(mut number) = String::from_utf8(state).ok().and_then(|text| text.parse::<u64>().ok()) else {
//!         return Leave::Close;
//!     };
//!     let (shutdown, mut moves) = (stream.shutdown(), pin!(stream.moves()));
//!     let (mut unread, mut piece) = (Vec::new(), [0; 1024]);
//!     loop {
//!         let stops = async { (shutdown.stopping().await, Next::Stop).1 };
//!         let moved = async { (moves.as_mut().await, Next::Move).1 };
//!         let read = async { stream.read(&mut piece).await.map_or(Next::Read(0), Next::Read) };
//!         match stops.or(moved).or(read).await {
//!             Next::Move => return Leave::Move { state: number.to_string().into_bytes(), unread },
//!             Next::Read(0) => return Leave::Close,
//!             Next::Read(count) => unread.extend_from_slice(&piece[..count]),
//!             Next::Stop => {
//!                 // A goodbye; a client that has gone does not hear it.
//!                 let _ = stream.write_all(b"bye\n").await;
//!                 return Leave::Close;
//!             }
//!         }
//!         while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
//!             number += 1;
//!             unread.drain(..=end);
//!             if stream.write_all(format!("{number}\n").as_bytes()).await.is_err() {
//!                 return Leave::Close;
//!             }
//!         }
//!         if unread.len() > 8 * 1024 {
//!             return Leave::Close;
//!         }
//!     }
//! }
//!
//! enum Next {
//!     Move,
//!     Read(usize),
//!     Stop,
//! }
//! ```
//!
//! A WebSocket is the same with a library of frames between, which must not keep bytes to itself:
//! [`FrameBuffer`](crate::http::FrameBuffer) gives it one frame at a time, and keeps what the next process reads again.
//! `examples/chat.rs` is a chat over tungstenite that goes on in the middle of a client's frame. Write out what you have to
//! say before you leave: only what was read may be left over.
//!
//! # States and names
//!
//! A name stands for how its state is read. A version that writes it in another way gives it another name, and registers both
//! for as long as processes of the older one may live: a connection moves only to a process that has its name, and otherwise
//! stays where it is until it ends or the drain's deadline comes. So an older version, to which you have gone back, never
//! misreads a newer state. A state has at most 16 KiB, and so have the bytes that are left unread; more keeps the connection
//! where it is. States are for the process's own use, and travel between processes of one user only.
//!
//! # What stays, and how it learns of the end
//!
//! A handler that is running, and a body that comes from a reader, stay in the old process until they are done
//! (`--drain-timeout`, 10 min). Each request has a [`Shutdown`] in its `ext`:
//!
//! ```
//! use http_types::{Request, Response};
//! use server::http::Shutdown;
//!
//! async fn poll(request: Request) -> http_types::Result<Response> {
//!     let shutdown = request.ext().get::<Shutdown>().cloned();
//!     let news = async { Ok(Response::from("news")) };
//!     let Some(shutdown) = shutdown else { return news.await };
//!     // Whoever polls asks again, and is answered by the new process.
//!     let replaced = async { (shutdown.draining().await, Ok(Response::new(204))).1 };
//!     futures_lite::future::or(news, replaced).await
//! }
//! ```
//!
//! [`Shutdown::draining`] is ready when a newer process has taken over, or the service stops; [`Shutdown::stopping`] when it
//! stops, and shortly before the deadline of a drain, for each connection at another time, so that not all clients come back
//! at once. A stream that is got by `Response::recv_upgrade` stays as well, and ends at the deadline.
//!
//! # Try it
//!
//! Connect, `shop reload` (with your program's name), and look: the connection goes on, `shop status` shows one generation
//! only. One that stays is shown with what it waits for. A test does the same from outside, with a reload in the middle of a
//! message; `tests/tests/own_chat.rs` in this repository is one.
//!
//! [`Content`]: crate::http::Content
//! [`Leave::Move`]: crate::http::Leave::Move
//! [`Moves`]: crate::http::Moves
//! [`Shutdown`]: crate::http::Shutdown
//! [`Shutdown::draining`]: crate::http::Shutdown::draining
//! [`Shutdown::stopping`]: crate::http::Shutdown::stopping
//! [`endless_stream`]: crate::http::Moves::endless_stream
//! [`Upgraded::moves`]: crate::http::Upgraded::moves
//! [`stream`]: crate::http::stream()
//! [`switch`]: crate::http::switch
