//! A program of one's own: a name, a version, flags, and a state that goes on across reloads.
//!
//!     cargo run --package server --example shop -- --greeting hello
//!     cargo run --package server --example shop -- reload
//!
//! Each customer is greeted and told how many there were, no matter how many generations have served them.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_types::{Request, Response};
use server::{Program, Startup};

/// What a shop is told on its command line.
#[derive(clap::Args)]
struct Flags {
    /// How a customer is greeted
    #[arg(long, value_name = "TEXT", default_value = "welcome")]
    greeting: String,

    /// The first customer's number
    #[arg(long, value_name = "N")]
    first: u64,

    /// Serve no customer
    #[arg(long)]
    closed: bool,
}

/// How the state is written: the number of customers, in decimal.
const STATE_FORMAT: u32 = 1;

fn main() -> ExitCode {
    let customers = Arc::new(AtomicU64::new(0));
    let saved = Arc::clone(&customers);
    Program::new("shop")
        .version("1.4.0")
        .about("Greets customers, and counts them")
        .flags::<Flags>()
        .check(
            |flags| {
                if flags.first == 0 { Err("--first 0: customers count from 1; write 1".to_owned()) } else { Ok(()) }
            },
        )
        .save_state(STATE_FORMAT, move || saved.load(Ordering::Relaxed).to_string().into_bytes())
        .run(|startup: Startup<Flags>| {
            let Flags { greeting, first, closed } = startup.flags;
            // A state of another format is another version's, whose customers nobody knows.
            if let Some(state) = startup.state.filter(|state| state.format == STATE_FORMAT) {
                customers.store(counted(&state.bytes)?, Ordering::Relaxed);
            }
            let (greeting, generation): (Arc<str>, u64) = (greeting.into(), startup.generation);
            Ok(move |_: Request| {
                let number = first + customers.fetch_add(1, Ordering::Relaxed);
                let greeting = if closed { "sorry".into() } else { Arc::clone(&greeting) };
                async move { Ok(Response::from(format!("{greeting}, customer {number} of generation {generation}\n"))) }
            })
        })
}

fn counted(bytes: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
    text.parse().map_err(|error| io::Error::other(format!("{text:?} is no number of customers: {error}")))
}
