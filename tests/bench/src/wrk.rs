//! Runs wrk, and reads what it found. Any error that it reports ends the benchmark: its figures would be of errors.

use std::{net::SocketAddr, process::Command};

use crate::peer::threads;

/// How wrk asks.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// What for.
    pub path: &'a str,
    /// On so many connections.
    pub connections: u32,
    /// For so many seconds.
    pub seconds: u32,
    /// Further header lines.
    pub headers: &'a [&'a str],
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Requests that were answered.
    pub requests: f64,
    /// Requests a second.
    pub rate: f64,
}

/// Loads a server with half as many threads as it has.
pub fn wrk(address: SocketAddr, asking: Asking<'_>) -> Asked {
    let mut command = Command::new("wrk");
    command.args([
        &format!("-t{}", (threads() / 2).max(1)),
        &format!("-c{}", asking.connections),
        &format!("-d{}s", asking.seconds),
    ]);
    for header in asking.headers {
        command.args(["-H", header]);
    }
    command.arg(format!("http://{address}{}", asking.path));
    let output = command.output().unwrap_or_else(|error| panic!("wrk (Debian's package of that name): {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_clean = output.status.success() && !text.contains("Socket errors") && !text.contains("Non-2xx");
    assert!(is_clean, "{command:?} found errors:\n{text}{}", String::from_utf8_lossy(&output.stderr));
    let number = |line: Option<&str>| line.and_then(|line| line.split_whitespace().find_map(|word| word.parse().ok()));
    let requests = number(text.lines().find(|line| line.contains(" requests in ")));
    let rate = number(text.lines().find(|line| line.starts_with("Requests/sec:")));
    let (Some(requests), Some(rate)) = (requests, rate) else { panic!("wrk printed something else:\n{text}") };
    Asked { requests, rate }
}
