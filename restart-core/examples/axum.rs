//! An axum server that is replaced while it serves: run it, change it, build it, `reload` it, and nobody notices.
//!
//!     cargo run -p restart-core --example axum
//!     cargo run -p restart-core --example axum -- reload

use axum::{Router, routing::get};
use restart_core::axum::Program;

fn main() -> std::process::ExitCode {
    Program::new("axum-example").listen("http=127.0.0.1:8080").run(async |generation| {
        let number = generation.number();
        Ok(Router::new().route("/", get(async move || format!("generation {number}\n"))))
    })
}
