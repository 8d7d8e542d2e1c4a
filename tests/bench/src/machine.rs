//! What the figures were measured on: the machine and the programs, as they name themselves.

use std::{collections::BTreeMap, fs, process::Command};

use crate::peer::{NEW_NGINX, Peer};

/// Everything by name.
pub fn describe() -> BTreeMap<String, String> {
    let cpu = file("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or_else(String::new, |(_, name)| name.to_owned());
    let memory = file("/proc/meminfo").lines().next().unwrap_or_default().replace("MemTotal:", "").trim().to_owned();
    let cores = std::thread::available_parallelism().map_or_else(|_| "?".to_owned(), |count| count.to_string());
    [
        ("processor", format!("{cores} cores, {cpu}")),
        ("memory", memory),
        ("kernel", file("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("reborn", first_line("git", &["describe", "--always", "--dirty", "--abbrev=12"])),
        ("rustc", first_line("rustc", &["--version"])),
        ("Go", first_line("go", &["version"])),
        ("nginx", first_line("nginx", &["-v"])),
        (Peer::NewNginx.name(), first_line(NEW_NGINX, &["-v"])),
        ("HAProxy", first_line("haproxy", &["-v"])),
        ("wrk", first_line("wrk", &["-v"])),
        ("hyper, tokio, ecdysis", locked(include_str!("../Cargo.lock"), &["hyper", "tokio", "ecdysis"])),
        ("pingora", locked(include_str!("../peers/pingora/Cargo.lock"), &["pingora-core"])),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn file(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The first line that a command prints, on whichever of its outputs.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else { return "missing".to_owned() };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
}

/// The versions of some crates in a lockfile.
fn locked(lock: &str, names: &[&str]) -> String {
    let version = |name: &&str| {
        let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        Some(rest.split('"').next()?.to_owned())
    };
    names.iter().filter_map(version).collect::<Vec<_>>().join(", ")
}
