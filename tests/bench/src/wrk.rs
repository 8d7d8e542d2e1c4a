//! Runs wrk, and reads what it found. Any error that it reports ends the benchmark: its figures would be of errors.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use tests::secured::SUITE;

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
    ask(Command::new("wrk"), &format!("http://{address}"), asking)
}

/// The same over TLS 1.3 with one suite, so that all servers have the same to do. Files go into `folder`.
pub fn wrk_secured(address: SocketAddr, folder: &Path, asking: Asking<'_>) -> Asked {
    let configuration = folder.join("openssl.cnf");
    let text = format!(
        "openssl_conf=a\n[a]\nssl_conf=b\n[b]\nsystem_default=c\n[c]\nMinProtocol=TLSv1.3\nCiphersuites={SUITE}\n"
    );
    fs::write(&configuration, text).expect("the folder is ours");
    let mut command = Command::new("wrk");
    command.env("OPENSSL_CONF", configuration);
    ask(command, &format!("https://{address}"), asking)
}

fn ask(mut command: Command, server: &str, asking: Asking<'_>) -> Asked {
    command.args([
        &format!("-t{}", (threads() / 2).max(1)),
        &format!("-c{}", asking.connections),
        &format!("-d{}s", asking.seconds),
    ]);
    for header in asking.headers {
        command.args(["-H", header]);
    }
    command.arg(format!("{server}{}", asking.path));
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
