//! What a request takes from the allocator: a number that depends on no clock.

mod http_support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use http_support::{DEADLINE, Server};
use server::http::Start;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const REQUESTS: u64 = 1_000;

/// There are 33, nearly all of them made by `http-types` and async-h1, and up to two for the executor's queue.
const ALLOCATIONS_MAX: u64 = 35;

#[test]
fn a_request_on_a_kept_connection_makes_no_more_allocations_than_before() {
    let server = Server::new();
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_read_timeout(Some(DEADLINE)).expect("a socket");
    server.resume(Start::new(theirs, None));
    let mut answer = [0; 1024];
    let mut ask = |count: u64| {
        for _ in 0..count {
            ours.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
            let mut received = 0;
            while !answer[..received].ends_with(b"\r\n\r\nhello") {
                received += ours.read(&mut answer[received..]).expect("received");
            }
        }
    };
    ask(10);
    let _counting = dhat::Profiler::builder().testing().build();
    ask(REQUESTS);
    let counted = dhat::HeapStats::get().total_blocks.div_ceil(REQUESTS);
    println!("{counted} allocations a request");
    assert!(counted > 1, "{counted}: they are not counted at all");
    assert!(counted <= ALLOCATIONS_MAX, "{counted} allocations a request; at most {ALLOCATIONS_MAX} were meant to be");
}
