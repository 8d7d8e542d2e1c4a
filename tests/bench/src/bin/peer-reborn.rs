//! Reborn as a user builds it in: the answers that every peer gives, as a handler for `server::Program`, and an event
//! stream that is registered, so that it goes on in the next process.
//!
//! `BENCH_BALLAST_MIB` is memory that the first process fills, for the cost of a reload of a large one.

use std::{io, process::ExitCode, time::Duration};

use bench::answer::{EVENTS, Fixed, TEXT, event, fixed, interval, tagged};
use futures_lite::io::Cursor;
use http_types::{Body, Request, Response, StatusCode, headers::CONTENT_TYPE};
use server::{
    Allocator, Program,
    http::{Moves, Step, Target, stream},
};

/// The name of the event streams' state: the last event's number and the milliseconds between two, eight bytes each.
const STATE: &str = "events/1";

/// As `reborn` itself has it, and its one heap beside.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    server::share_c_heap();
    let is_first = !std::env::args().any(|argument| argument == "-g");
    let mebibytes = std::env::var("BENCH_BALLAST_MIB").ok().and_then(|text| text.parse::<usize>().ok());
    let ballast = vec![1_u8; mebibytes.filter(|_| is_first).unwrap_or(0) << 20];
    let program = Program::new("reborn").moves(Moves::new().endless_stream(STATE, next_event));
    let code = program.run(|_| Ok(|request: Request| async move { Ok(answer(&request)) }));
    drop(ballast);
    code
}

fn answer(request: &Request) -> Response {
    let target = request.ext().get::<Target>();
    let path = target.map_or("/", Target::path);
    let mut response = Response::new(StatusCode::Ok);
    // Before the body, for which http-types would write down a type of its own.
    response.insert_header(CONTENT_TYPE, TEXT);
    match fixed(path) {
        Fixed::Bytes(bytes) => {
            response.set_body(Body::from_reader(Cursor::new(bytes), Some(bytes.len())));
        }
        Fixed::Tagged => {
            let id = request.header("x-id").map_or("-", |values| values.last().as_str());
            response.insert_header("x-id", id);
            response.insert_header("x-pid", std::process::id().to_string());
            response.set_body(tagged(id));
        }
        Fixed::Events => {
            let every = interval(target.and_then(Target::query));
            let milliseconds = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
            stream(&mut response, STATE, [0, milliseconds].map(u64::to_le_bytes).concat());
            response.insert_header(CONTENT_TYPE, EVENTS);
        }
        Fixed::None => response.set_status(StatusCode::NotFound),
    }
    response
}

async fn next_event(state: Vec<u8>) -> io::Result<Option<Step>> {
    let ([last, milliseconds], []) = state.as_chunks::<8>() else { return Err(io::ErrorKind::InvalidData.into()) };
    let (id, milliseconds) = (u64::from_le_bytes(*last) + 1, u64::from_le_bytes(*milliseconds));
    smol::Timer::after(Duration::from_millis(milliseconds)).await;
    let state = [id, milliseconds].map(u64::to_le_bytes).concat();
    Ok(Some(Step::new(event(id).into_bytes(), state)))
}
