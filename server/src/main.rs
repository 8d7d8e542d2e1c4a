//! The `reborn` program: the server with its default application.

use std::process::ExitCode;

use server::Allocator;

/// A request makes some forty small allocations, nearly all of them in `http-types`.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    // Beside mimalloc, glibc's heaps serve hardly more than its own start of each thread.
    server::share_c_heap();
    server::run_default()
}
