//! The `reborn` program: the server with its default application.

use std::process::ExitCode;

use server::Allocator;

/// A request makes some forty small allocations, nearly all of them in `http-types`.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    server::run_default()
}
