//! The command line of a service of one's own: `reload`, `status` and `stop` of the running one, and the place of its
//! control socket.
//!
//! It speaks to people and ends processes, which nothing else here does; what it does to a running service is
//! [`control::Client`]'s. A service with a command line of its own does without it.
//!
//! ```no_run
//! use restart_core::{Builder, Endpoint, Error, Exit, cli};
//!
//! fn main() -> Result<Exit, Error> {
//!     let serve = cli::obey("shop"); // ends the process here where it is `shop reload`, `shop status` or `shop stop`
//!     let address = serve.arguments.first().map_or("127.0.0.1:8080", String::as_str);
//!     let builder = Builder::new().listen(Endpoint::parse(address, "http")?).control(serve.control);
//!     let (generation, driver) = builder.start()?;
//!     # generation.listeners().iter().for_each(restart_core::Listener::leave_unserved);
//!     Ok(smol::block_on(driver.run_with(generation.ready())))
//! }
//! ```
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | success |
//! | 1 | the reload failed or was refused; the old version serves on |
//! | 2 | the command line cannot be understood |
//! | 3 | no running service was found |

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use crate::control::{self, Answer, Client, Place, Status};
use crate::environment::arguments;
use crate::error::Error;
use crate::waiting::Age;

pub(crate) const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
const NOT_RUNNING: u8 = 3;

/// A command line that asks for the service itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Serve {
    /// Where its control socket is to lie: `--control PATH`, else the usual place of the name.
    pub control: Place,
    /// The other arguments, without the program's name and the word of a reload; what is no UTF-8 is shown so.
    pub arguments: Vec<String>,
}

/// Does what the command line says to the running service of this name, and ends the process; returns where it asks for
/// the service itself. Call it first in `main`.
///
/// ```text
/// PROGRAM [--control PATH] [ARGUMENT...]
/// PROGRAM reload|stop [--control PATH]
/// PROGRAM status [--json] [--control PATH]
/// ```
///
/// Where it returns and no logger is installed, it installs one that writes to standard error, from `Info` on: without
/// any, nobody would hear why a reload failed. To have another one, install it before.
pub fn obey(name: &str) -> Serve {
    match command(name) {
        Ok(serve) => {
            if log::set_logger(&STDERR).is_ok() {
                log::set_max_level(log::LevelFilter::Info);
            }
            serve
        }
        Err(code) => std::process::exit(code.into()),
    }
}

/// The same for a program that ends itself and has a logger of its own: the code to exit with is the error, where the
/// command line was a command, or could not be understood.
pub fn command(name: &str) -> Result<Serve, u8> {
    let given = arguments().iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    match read(given, name) {
        Ok((None, serve)) => Ok(serve),
        Ok((Some(command), serve)) => Err(carry_out(command, &serve.control, name)),
        Err(reason) => {
            complain(name, &reason);
            Err(USAGE)
        }
    }
}

/// What can be done to a running service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Reload,
    Status { json: bool },
    Stop,
}

fn read(given: Vec<String>, name: &str) -> Result<(Option<Command>, Serve), String> {
    let mut serve = Serve { control: Place::Named(name.to_owned()), arguments: vec![] };
    let mut given = given.into_iter();
    while let Some(argument) = given.next() {
        let path = match argument.strip_prefix("--control") {
            Some("") => Some(given.next().ok_or("--control: a path is missing behind it")?),
            Some(rest) => rest.strip_prefix('=').map(str::to_owned),
            None => None,
        };
        match path {
            Some(path) => serve.control = Place::Path(PathBuf::from(path)),
            None => serve.arguments.push(argument),
        }
    }
    let words: Vec<&str> = serve.arguments.iter().map(String::as_str).collect();
    let command = match words.as_slice() {
        ["reload"] => Some(Command::Reload),
        ["stop"] => Some(Command::Stop),
        ["status"] => Some(Command::Status { json: false }),
        ["status", "--json"] => Some(Command::Status { json: true }),
        [command @ ("reload" | "stop" | "status"), other, ..] => {
            return Err(format!("{command}: {other:?} is not understood; write `{name} {command} [--control PATH]`"));
        }
        _ => None,
    };
    Ok((command, serve))
}

fn carry_out(command: Command, place: &Place, name: &str) -> u8 {
    let path = match place {
        Place::Path(path) => control::find(Some(path), name),
        _ => control::find(None, name),
    };
    let done = path.and_then(|path| Client::connect(&path)).and_then(|mut client| match command {
        Command::Reload => reload(&mut client, name),
        Command::Status { json } => status(&mut client, json),
        Command::Stop => client.stop().map(|()| 0),
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            complain(name, &error);
            if error.is_not_running() { NOT_RUNNING } else { FAILED }
        }
    }
}

fn reload(client: &mut Client, name: &str) -> Result<u8, Error> {
    match client.reload()? {
        Answer::Outcome(outcome) if outcome.failure.is_none() => {
            print(&format!("{outcome}\n"));
            return Ok(0);
        }
        Answer::Outcome(outcome) => complain(name, &outcome),
        Answer::Refused(reason) => complain(name, &format!("no reload was started: {reason}")),
        Answer::Stopping => complain(name, &"no reload was started: the service stops"),
    }
    Ok(FAILED)
}

fn status(client: &mut Client, json: bool) -> Result<u8, Error> {
    let status = client.status()?;
    if json {
        let text = serde_json::to_string_pretty(&status).map_err(|error| Error::control(error.to_string()))?;
        print(&(text + "\n"));
    } else {
        print(&overview(&status));
    }
    Ok(0)
}

/// A status for people.
fn overview(status: &Status) -> String {
    let Status { id, state, uptime_ms, connections, listeners, draining, last_reload, .. } = status;
    let version = if id.version.is_empty() { String::new() } else { format!(", version {}", id.version) };
    let mut text = format!("{id}{version}: {state} for {}, connections: {connections}\n", Age(*uptime_ms));
    // Writing to a String cannot fail.
    for listener in listeners {
        _ = writeln!(text, "serves {} on {}", listener.name, listener.address);
    }
    for older in draining {
        _ = write!(text, "generation {} (pid {}) drains", older.generation, older.pid);
        if let Some(report) = &older.report {
            _ = write!(text, ", connections: {}", report.connections);
            report.waits.iter().for_each(|waiting| _ = write!(text, ", {waiting}"));
        }
        text.push('\n');
    }
    if let Some(outcome) = last_reload {
        _ = writeln!(text, "the last reload: {outcome}");
    }
    text
}

/// Standard output may be closed, or full: that is no reason to fail when all is done.
pub(crate) fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

pub(crate) fn complain(name: &str, reason: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{name}: {reason}");
}

/// The log of who has none.
struct Stderr;

static STDERR: Stderr = Stderr;

impl log::Log for Stderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            // One that is closed takes nothing, and nobody can be told.
            let _ = writeln!(std::io::stderr(), "{}: {}", record.level(), record.args());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<(Option<Command>, Serve), String> {
        super::read(words.iter().map(|word| (*word).to_owned()).collect(), "shop")
    }

    #[test]
    fn a_command_stands_alone_and_everything_else_is_the_services() {
        assert_eq!(read(&["reload"]).unwrap().0, Some(Command::Reload));
        assert_eq!(read(&["status", "--json"]).unwrap().0, Some(Command::Status { json: true }));
        let (command, serve) = read(&["--control=/a", "stop"]).unwrap();
        assert_eq!((command, serve.control), (Some(Command::Stop), Place::Path("/a".into())));
        let (command, serve) = read(&["127.0.0.1:80", "--control", "/b", "stop"]).unwrap();
        assert_eq!((command, serve.control), (None, Place::Path("/b".into())));
        assert_eq!(serve.arguments, ["127.0.0.1:80", "stop"]);
        assert_eq!(read(&[]).unwrap().1.control, Place::Named("shop".to_owned()));
        assert_eq!(read(&["--controls"]).unwrap().1.arguments, ["--controls"]);
    }

    #[test]
    fn what_is_not_understood_is_named_with_what_would_be() {
        assert!(read(&["reload", "now"]).unwrap_err().contains("\"now\" is not understood"));
        assert!(read(&["stop", "--control"]).unwrap_err().contains("a path is missing"));
    }

    #[test]
    fn a_status_without_a_version_says_none() {
        let status = serde_json::json!({
            "generation": 2, "pid": 7, "version": "", "state": "serving", "uptime_ms": 61_000, "connections": 3,
            "managed": false, "listeners": [{"name": "http", "address": "127.0.0.1:80", "origin": "bound"}],
            "draining": [{"generation": 1, "pid": 6}], "last_reload": null
        });
        let status: Status = serde_json::from_value(status).unwrap();
        let expected = "generation 2 (pid 7): serving for 1m 1s, connections: 3\nserves http on 127.0.0.1:80\n\
                        generation 1 (pid 6) drains\n";
        assert_eq!(overview(&status), expected);
    }
}
