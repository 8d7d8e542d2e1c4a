//! How far a reload has come, while `reborn reload` waits for its outcome: one line on the terminal, written anew.
//!
//! It asks the server for its status beside the command itself. Without a terminal on standard error it does nothing.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use restart_core::control::Client;

use crate::program::overview;
use crate::program::package::Package;

/// How often the line is written anew.
const EVERY: Duration = Duration::from_millis(100);
/// Back to the line's beginning, and all of it erased.
const ERASE: &str = "\r\x1b[2K";

/// What a shell makes of the end by SIGINT.
const INTERRUPTED: i32 = 128 + 2;

/// Whether this is a terminal that knows escape codes.
pub(crate) fn takes_escapes(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_some_and(|terminal| !terminal.is_empty() && terminal != "dumb")
}

/// On Ctrl-C says this line before the process ends: what it waits for may not end with it.
pub(crate) fn say_if_interrupted(package: &Package, line: String) {
    let package = package.clone();
    let watch = move || -> io::Result<()> {
        let (mut interrupted, writer) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(signal_hook::consts::SIGINT, writer)?;
        thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
            if interrupted.read_exact(&mut [0]).is_ok() {
                say(&package, &line);
                std::process::exit(INTERRUPTED);
            }
        })?;
        Ok(())
    };
    // Without it Ctrl-C does what it always does.
    let _ = watch();
}

/// Says a line of its own on standard error.
pub(crate) fn say(package: &Package, line: &str) {
    let erase = if takes_escapes(&io::stderr()) { ERASE } else { "" };
    let _ = writeln!(io::stderr(), "{erase}{}: {line}", package.name);
}

/// Does `work`, which asks the server at `path` to reload, and shows how far it has come.
pub(crate) fn shown<T>(path: &Path, work: impl FnOnce() -> T) -> T {
    if !takes_escapes(&io::stderr()) {
        return work();
    }
    thread::scope(|scope| {
        let (done, over) = mpsc::channel::<()>();
        scope.spawn(move || {
            let mut written = false;
            while over.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let status = Client::connect(path).and_then(|mut client| client.status());
                if let Some(stage) = status.ok().as_ref().and_then(overview::stage) {
                    written = true;
                    let _ = write!(io::stderr(), "{ERASE}{stage}");
                }
            }
            if written {
                let _ = write!(io::stderr(), "{ERASE}");
            }
        });
        let result = work();
        drop(done);
        result
    })
}
