//! A response on its way: the bytes of it that are gathered, and where those after them come from.
//!
//! Gathers what leaves next, frames it, and keeps account of what the transport took. It never sends.

use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::thread;

use futures_lite::{AsyncBufRead, AsyncRead};
use http_types::{Body, Response};
use restart_core::moves::Steps;

use super::content::{self, Content};
use super::outbox::Outbox;
use super::stream::{self, Streaming};
use crate::http::message::encode::Framing;
use crate::http::moves::Moves;

/// The most that stands before a chunk's bytes: five digits and the end of their line. And the least that stands behind.
const CHUNK_HEAD_BYTES_MAX: usize = 7;
const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Of what was gathered so many bytes stay while a client is waited for: whether it takes any is seen by sending them.
const KEPT_BYTES: usize = 4 * 1024;

/// A body of up to so many bytes leaves with its head if it is at hand.
const SMALL_BYTES_MAX: u64 = 8 * 1024;

/// Fewer bytes than these are not read twice.
const PUT_BACK_BYTES_MIN: usize = 12 * 1024;

/// A response on its way: what of it is gathered, and where the rest comes from.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Bytes that leave next.
    pub(super) out: Outbox,
    /// How many of them, the first ones, were not read from the source: those of the head.
    pub(super) ours: usize,
    pub(super) source: Source,
    /// Whether only the connection's end says where the response ends.
    pub(super) ends_by_close: bool,
    /// Whether the body had more than was declared.
    pub(super) is_long: bool,
}

/// Where the bytes after those gathered come from.
#[derive(Debug, Default)]
pub(super) enum Source {
    /// There are none.
    #[default]
    Empty,
    /// So many bytes of pieces that are known.
    Content(Box<Content>),
    /// So many bytes of a body whose length was declared.
    Length { body: Body, left: u64 },
    /// A registered stream. In chunks, or else it ends with the connection, for HTTP/1.0.
    Stream { stream: Steps, chunked: bool },
    /// A body whose length is not known. In chunks, or else it ends with the connection, for HTTP/1.0.
    Unknown { body: Body, chunked: bool },
    /// A body that has failed at the first look.
    Failed(io::Error),
}

impl Plan {
    /// The plan of a response whose head, which is in `out`, announces `framing`. A stream has to be one of `moves`.
    pub(crate) fn new(response: &mut Response, framing: Framing, mut out: Outbox, moves: &Moves) -> Plan {
        let (ours, mut is_long) = (out.filled().len(), false);
        let source = match framing {
            Framing::None => Source::Empty,
            Framing::Length(left) => match content::take(response) {
                Some(content) => Source::Content(Box::new(content)),
                None => match gather_at_hand(response, left, &mut out) {
                    Ok(true) => {
                        is_long = goes_on(response);
                        Source::Empty
                    }
                    Ok(false) => Source::Length { body: response.take_body(), left },
                    Err(error) => Source::Failed(error),
                },
            },
            Framing::Chunked | Framing::Close => {
                let chunked = framing == Framing::Chunked;
                match take_stream(response, moves) {
                    Some(stream) => Source::Stream { stream, chunked },
                    None => Source::Unknown { body: response.take_body(), chunked },
                }
            }
        };
        let ends_by_close = framing == Framing::Close;
        Plan { out, ours, source, ends_by_close, is_long }
    }

    /// Whether only the connection's end says where the response ends.
    pub(crate) fn ends_by_close(&self) -> bool {
        self.ends_by_close
    }

    /// Whether all that is left of it is gathered.
    pub(super) fn is_gathered(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Content(content) => content.left() == 0,
            _ => false,
        }
    }

    /// Forgets most of what was gathered and can be read again, and keeps no room for more: a client that has to be waited
    /// for takes no memory but that in which the kernel has what is on its way. Returns whether there may be more to gather
    /// when it has made room.
    pub(super) fn put_back(&mut self) -> bool {
        let Source::Content(content) = &mut self.source else { return false };
        let gathered = self.out.filled().len();
        let mut again = gathered.saturating_sub(self.ours.max(KEPT_BYTES));
        if again < PUT_BACK_BYTES_MIN {
            again = 0;
        } else {
            content.put_back(again as u64);
        }
        self.out.shorten(gathered - again);
        true
    }

    /// How many bytes are to come after those gathered, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match &self.source {
            Source::Empty | Source::Failed(_) => Some(0),
            Source::Content(content) => Some(content.left()),
            Source::Length { left, .. } => Some(*left),
            Source::Stream { .. } | Source::Unknown { .. } => None,
        }
    }

    /// Gathers more of what is to come, as much as there is room for. While nothing is gathered and nothing comes, no
    /// memory is held.
    pub(super) fn poll_gather(&mut self, context: &mut Context<'_>, large: bool) -> Poll<io::Result<()>> {
        if let Source::Stream { .. } = self.source {
            return self.poll_stream(context);
        }
        let Plan { out, source, .. } = self;
        let room = out.room(large);
        let polled = catch_unwind(AssertUnwindSafe(|| source.poll_read(context, room)));
        let polled = polled.unwrap_or_else(|_| Poll::Ready(Err(panicked())));
        if polled.is_pending() {
            self.out.settle();
        }
        let count = ready!(polled)?;
        self.out.added(count);
        let is_over = match &mut self.source {
            Source::Empty | Source::Stream { .. } | Source::Failed(_) => true,
            // It says itself what is left, and stays: the last of it may have to be read again.
            Source::Content(_) => false,
            Source::Length { left, .. } if count == 0 && *left > 0 => {
                return Poll::Ready(Err(io::Error::other("it is shorter than it declared")));
            }
            Source::Length { left, .. } => {
                *left -= count as u64;
                *left == 0
            }
            Source::Unknown { chunked: true, .. } => {
                self.out.filled().ends_with(LAST_CHUNK) && count == LAST_CHUNK.len()
            }
            Source::Unknown { chunked: false, .. } => count == 0,
        };
        if is_over {
            self.finish();
        }
        Poll::Ready(Ok(()))
    }

    /// Gathers the next step of a stream, whole.
    fn poll_stream(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Source::Stream { stream, chunked } = &mut self.source else { return Poll::Ready(Ok(())) };
        let chunked = *chunked;
        let polled = catch_unwind(AssertUnwindSafe(|| stream.poll_step(context)));
        let polled = polled.unwrap_or_else(|_| Poll::Ready(Err(panicked())));
        if polled.is_pending() {
            self.out.settle();
        }
        match ready!(polled)? {
            None => self.end_stream(),
            Some(bytes) if bytes.is_empty() => {}
            Some(bytes) if chunked => {
                let head = format!("{:X}\r\n", bytes.len());
                for part in [head.as_bytes(), &bytes, CHUNK_END] {
                    self.out.extend(part);
                }
            }
            Some(bytes) => self.out.extend(&bytes),
        }
        Poll::Ready(Ok(()))
    }

    /// Whether it is a registered stream.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.source, Source::Stream { .. })
    }

    /// Whether it is one that can be ended between any two steps.
    pub(super) fn is_endless(&self) -> bool {
        matches!(&self.source, Source::Stream { stream, .. } if stream.is_endless())
    }

    /// Ends a registered stream where it stands, in order.
    pub(super) fn end_stream(&mut self) {
        if let Source::Stream { chunked: true, .. } = self.source {
            self.out.extend(LAST_CHUNK);
        }
        self.source = Source::Empty;
    }

    /// What a body of known length has in memory, as it is.
    pub(super) fn at_hand(source: &mut Source) -> io::Result<&[u8]> {
        let Source::Length { body, left } = source else { return Ok(&[]) };
        match peek(body).unwrap_or_else(|_| Poll::Ready(Err(panicked()))) {
            Poll::Ready(Ok(bytes)) => {
                let most = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                Ok(&bytes[..most])
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(&[]),
        }
    }

    /// Says that the transport took `count` bytes: of those gathered, and then of those at hand.
    pub(super) fn took(&mut self, count: usize) {
        let of_gathered = count.min(self.out.filled().len());
        self.out.consume(of_gathered);
        self.ours = self.ours.saturating_sub(of_gathered);
        let of_hand = count - of_gathered;
        if let Source::Length { body, left } = &mut self.source
            && of_hand > 0
        {
            Pin::new(body).consume(of_hand);
            *left -= of_hand as u64;
            if *left == 0 {
                self.finish();
            }
        }
    }

    /// Nothing more is to come.
    fn finish(&mut self) {
        if let Source::Length { body, .. } = &mut self.source {
            self.is_long = goes_on(body);
        }
        self.source = Source::Empty;
    }
}

impl Source {
    fn poll_read(&mut self, context: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Source::Empty | Source::Stream { .. } | Source::Length { left: 0, .. } => Poll::Ready(Ok(0)),
            Source::Failed(error) => Poll::Ready(Err(mem::replace(error, io::ErrorKind::Other.into()))),
            Source::Content(content) => content.poll_read(context, room),
            Source::Length { body, left } => {
                let most = usize::try_from(*left).map_or(room.len(), |left| left.min(room.len()));
                Pin::new(body).poll_read(context, &mut room[..most])
            }
            Source::Unknown { body, chunked: false } => Pin::new(body).poll_read(context, room),
            Source::Unknown { body, chunked: true } => {
                let most = room.len() - CHUNK_HEAD_BYTES_MAX - LAST_CHUNK.len();
                let into = &mut room[CHUNK_HEAD_BYTES_MAX..CHUNK_HEAD_BYTES_MAX + most];
                let count = ready!(Pin::new(body).poll_read(context, into))?;
                Poll::Ready(Ok(frame(room, count)))
            }
        }
    }
}

/// Takes the stream out of a response, if one is its body still.
fn take_stream(response: &Response, moves: &Moves) -> Option<Steps> {
    let Streaming { name, state } = stream::streaming(response)?.value().take()?;
    moves.steps(&name, state)
}

/// Frames `count` bytes, which stand behind the room for a chunk's head, as a chunk at the start of `room`. Returns its
/// length. None is the last chunk (RFC 9112 section 7.1).
fn frame(room: &mut [u8], count: usize) -> usize {
    if count == 0 {
        room[..LAST_CHUNK.len()].copy_from_slice(LAST_CHUNK);
        return LAST_CHUNK.len();
    }
    let head = format!("{count:X}\r\n");
    let end = head.len() + count;
    room.copy_within(CHUNK_HEAD_BYTES_MAX..CHUNK_HEAD_BYTES_MAX + count, head.len());
    room[..head.len()].copy_from_slice(head.as_bytes());
    room[end..end + CHUNK_END.len()].copy_from_slice(CHUNK_END);
    end + CHUNK_END.len()
}

/// Adds the body of a response, of so many bytes, to what leaves next, if it is small and all of it is at hand; whether it is.
/// To take it would cost more than a small body itself: http-types looks for its type among the headers.
fn gather_at_hand(response: &mut Response, length: u64, out: &mut Outbox) -> io::Result<bool> {
    if length > SMALL_BYTES_MAX {
        return Ok(false);
    }
    let Poll::Ready(bytes) = peek(response).unwrap_or_else(|_| Poll::Ready(Err(panicked()))) else { return Ok(false) };
    let bytes = bytes?;
    let Some(bytes) = usize::try_from(length).ok().and_then(|length| bytes.get(..length)) else { return Ok(false) };
    out.extend(bytes);
    let length = bytes.len();
    Pin::new(response).consume(length);
    Ok(true)
}

/// What a body has at hand, without waiting. An error if it panics.
fn peek(body: &mut (impl AsyncBufRead + Unpin)) -> thread::Result<Poll<io::Result<&[u8]>>> {
    let mut context = Context::from_waker(Waker::noop());
    catch_unwind(AssertUnwindSafe(move || Pin::new(body).poll_fill_buf(&mut context)))
}

/// Whether a body has more to give right now. One that panics cannot be trusted to have ended.
fn goes_on(body: &mut (impl AsyncBufRead + Unpin)) -> bool {
    peek(body).map_or(true, |peeked| matches!(peeked, Poll::Ready(Ok(more)) if !more.is_empty()))
}

fn panicked() -> io::Error {
    io::Error::other("the body of the response panicked")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use futures_lite::future::{block_on, poll_fn};
    use proptest::prelude::*;

    use super::super::content::Piece;
    use super::*;

    const FILE_BYTES: u64 = 400_000;

    fn bytes() -> Vec<u8> {
        (0..FILE_BYTES / 4).flat_map(|number| u32::try_from(number).unwrap().to_be_bytes()).collect()
    }

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes(), 0).unwrap();
        file
    }

    /// What can happen to a response on its way.
    #[derive(Clone, Debug)]
    enum Event {
        Gathered { large: bool },
        Sent { most: usize },
        PutBack,
        Moved,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => any::<bool>().prop_map(|large| Event::Gathered { large }),
            3 => (1_usize..70_000).prop_map(|most| Event::Sent { most }),
            2 => Just(Event::PutBack),
            1 => Just(Event::Moved),
        ]
    }

    /// Where a part of the file begins, how long it is, and the text before it.
    fn part() -> impl Strategy<Value = (u64, u64, Vec<u8>)> {
        (0..FILE_BYTES, 0_u64..100_000, prop::collection::vec(any::<u8>(), 0..3_000))
    }

    fn gather(plan: &mut Plan, large: bool) {
        block_on(poll_fn(|context| plan.poll_gather(context, large))).unwrap();
    }

    fn send(plan: &mut Plan, most: usize) -> Vec<u8> {
        let count = most.min(plan.out.filled().len());
        let sent = plan.out.filled()[..count].to_vec();
        plan.took(count);
        sent
    }

    /// The plan of a response whose head is `head `, with a body that declares four bytes.
    fn plan_of_four(body: impl AsyncBufRead + Unpin + Send + Sync + 'static) -> Plan {
        let mut response = Response::new(200);
        response.set_body(Body::from_reader(body, None));
        let mut out = Outbox::default();
        out.extend(b"head ");
        Plan::new(&mut response, Framing::Length(4), out, &Moves::default())
    }

    #[test]
    fn a_small_body_leaves_with_its_head_if_all_of_it_is_at_hand() {
        for (bytes, gathered, is_long) in
            [(&b"body"[..], true, false), (b"body and more", true, true), (b"bo", false, false)]
        {
            let plan = plan_of_four(bytes);
            assert_eq!((plan.is_gathered(), plan.is_long), (gathered, is_long));
            assert_eq!(plan.out.filled(), if gathered { &b"head body"[..] } else { b"head " });
        }
    }

    #[test]
    fn a_small_body_that_fails_or_panics_is_not_asked_again() {
        /// What it says at the first look, and `late` afterwards.
        struct Once(Option<fn() -> io::Error>);

        impl AsyncRead for Once {
            fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
                panic!("it is looked at first");
            }
        }

        impl AsyncBufRead for Once {
            fn poll_fill_buf(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
                Poll::Ready(self.0.take().map_or(Ok(b"late"), |fails| Err(fails())))
            }

            fn consume(self: Pin<&mut Self>, _: usize) {}
        }

        let fails: [(fn() -> io::Error, _); 2] =
            [(|| io::Error::other("the disk is gone"), "the disk is gone"), (|| panic!("on purpose"), "panicked")];
        for (fails, told) in fails {
            let mut plan = plan_of_four(Once(Some(fails)));
            let mut task = Context::from_waker(Waker::noop());
            let Poll::Ready(Err(error)) = plan.poll_gather(&mut task, false) else { panic!("it is given") };
            assert!(error.to_string().contains(told) && plan.out.filled() == b"head ", "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn each_byte_is_sent_once_and_in_order_however_often_it_is_put_back_or_moves(
            head in prop::collection::vec(any::<u8>(), 1..6_000),
            parts in prop::collection::vec(part(), 0..5),
            events in prop::collection::vec(event(), 0..80),
        ) {
            let all = bytes();
            let (mut pieces, mut expected) = (Vec::new(), head.clone());
            for (start, length, text) in parts {
                let end = (start + length).min(FILE_BYTES);
                expected.extend_from_slice(&text);
                expected.extend_from_slice(&all[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()]);
                pieces.extend([Piece::Memory(text), Piece::File(start..end)]);
            }
            let source = Source::Content(Box::new(Content::new(Some(file()), pieces)));
            let mut plan = Plan { source, ..Plan::default() };
            plan.out.extend(&head);
            plan.ours = head.len();
            let mut sent = Vec::new();
            for event in events {
                match event {
                    Event::Gathered { large } if !plan.is_gathered() => gather(&mut plan, large),
                    Event::Sent { most } => sent.extend(send(&mut plan, most)),
                    Event::PutBack => {
                        plan.put_back();
                        let kept = plan.out.filled().len();
                        prop_assert!(kept < plan.ours.max(KEPT_BYTES) + PUT_BACK_BYTES_MIN);
                    }
                    Event::Moved if plan.can_move() => {
                        let rest = block_on(std::mem::take(&mut plan).into_rest()).map_err(|(_, error)| error).unwrap();
                        plan = Plan::resume(rest, &Moves::default()).unwrap();
                    }
                    Event::Gathered { .. } | Event::Moved => {}
                }
            }
            while !(plan.is_gathered() && plan.out.filled().is_empty()) {
                gather(&mut plan, true);
                sent.extend(send(&mut plan, usize::MAX));
            }
            prop_assert!(sent == expected);
        }
    }
}
