//! Reborn as a user builds it in: the answers that every peer gives, as a handler for `server::run`.
//!
//! `BENCH_BALLAST_MIB` is memory that the first process fills, for the cost of a reload of a large one.

use std::process::ExitCode;

use bench::answer::{Fixed, TEXT, fixed, tagged};
use futures_lite::io::Cursor;
use http_types::{Body, Request, Response, StatusCode};
use mimalloc::MiMalloc;
use server::http::Target;

/// As `reborn` itself has it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let is_first = !std::env::args().any(|argument| argument == "-g");
    let mebibytes = std::env::var("BENCH_BALLAST_MIB").ok().and_then(|text| text.parse::<usize>().ok());
    let ballast = vec![1_u8; mebibytes.filter(|_| is_first).unwrap_or(0) << 20];
    let code = server::run(|request: Request| async move { Ok(answer(&request)) });
    drop(ballast);
    code
}

fn answer(request: &Request) -> Response {
    let path = request.ext().get::<Target>().map_or("/", |target| target.path());
    let mut response = Response::new(StatusCode::Ok);
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
        Fixed::None => response.set_status(StatusCode::NotFound),
    }
    response.insert_header("content-type", TEXT);
    response
}
