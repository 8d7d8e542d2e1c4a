//! The `reborn` program: the server with its default application.

use std::process::ExitCode;

fn main() -> ExitCode {
    server::run_default()
}
