//! How the relay comes between two generations: what the program `relay` does in its three parts.
//!
//! Started at the path of the server's program, it starts a process that relays between its own standard input, which is the
//! handover socket, and one end of a pair; puts the real binary in its own place; and becomes that one, with the other
//! end as its standard input: same pid, same path. The relaying process is an orphan, so that no generation has a child
//! that it did not start, and holds nothing but those two sockets.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::stdio::{dup2_stdin, dup2_stdout, stdin, stdout};

use super::{
    Order,
    line::pair,
    lines::{Lines, Parties},
    packet::carries_packets,
};
use crate::{procfs::Family, version::beside};

/// What tells a generation that its predecessor is on its standard input.
const HANDOVER_FLAG: &str = "-g";

/// The part of the process that starts the relaying one and ends: both are told the program's path and the successor's pid.
const PART_DETACH: &str = "relay-detach";

/// The part of the relaying process.
const PART_BETWEEN: &str = "relay-between";

/// The program's three parts.
#[derive(Debug)]
pub struct Post {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Post {
    /// The part that this process was started for, from its arguments.
    pub fn of_this_process() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let program = arguments.next().ok_or(io::ErrorKind::NotFound)?.into();
        Ok(Self { program, arguments: arguments.collect() })
    }

    /// Plays it. Returns only in the processes that are no server.
    pub fn play(self) -> io::Result<()> {
        let part = self.arguments.first().and_then(|first| first.to_str()).unwrap_or_default();
        match (part, &self.arguments[..]) {
            (PART_DETACH, [_, path, pid]) => start(PART_BETWEEN, path, pid)?.spawn().map(drop),
            (PART_BETWEEN, [_, path, pid]) => {
                let pid = pid.to_str().and_then(|pid| pid.parse().ok()).ok_or(io::ErrorKind::InvalidInput)?;
                relay(Path::new(path), pid)
            }
            _ => Err(self.become_the_server()),
        }
    }

    fn become_the_server(self) -> io::Error {
        let Self { program, arguments } = self;
        let stdin = if arguments.iter().any(|argument| argument == HANDOVER_FLAG) && carries_packets(stdin()) {
            match stand_between(&program) {
                Ok(end) => Stdio::from(end),
                Err(error) => return error,
            }
        } else {
            Stdio::inherit()
        };
        // The path by which a program was run is the one that it runs at its own reload.
        if let Err(error) = fs::rename(beside(&program, "real"), &program) {
            return error;
        }
        Command::new(&program).arg0(&program).args(arguments).stdin(stdin).exec()
    }
}

/// Starts the relaying process; the end of the pair that is left for the successor.
fn stand_between(program: &Path) -> io::Result<OwnedFd> {
    let (ours, successors) = pair()?;
    let pid = std::process::id().to_string();
    let mut command = start(PART_DETACH, program.as_os_str(), pid.as_ref())?;
    let status = command.stdout(ours).status()?;
    if status.success() { Ok(successors) } else { Err(io::Error::other(format!("the relay did not start: {status}"))) }
}

fn start(part: &str, program: &std::ffi::OsStr, pid: &std::ffi::OsStr) -> io::Result<Command> {
    // Another file may be at the path by now.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("relay").arg(part).arg(std::path::absolute(program)?).arg(pid).env(Family::HELPER_VARIABLE, "relay");
    Ok(command)
}

/// Relays between the sockets on standard input, the predecessor's, and on standard output, the successor's.
fn relay(program: &Path, successor: u32) -> io::Result<()> {
    let orders: Vec<Order> = serde_json::from_slice(&fs::read(beside(program, "orders"))?)?;
    let seen = OpenOptions::new().append(true).create(true).open(beside(program, "seen"))?;
    let [older, newer] = [stdin().as_fd(), stdout().as_fd()].map(|fd| fd.try_clone_to_owned());
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    let parties = Parties::of(older.as_ref().map_err(|error| io::Error::from(error.kind()))?, successor);
    Lines::new(older?, newer?, parties, orders, seen).run()
}
