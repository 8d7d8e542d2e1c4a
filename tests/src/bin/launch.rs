//! Starts a program as a service manager does: with listening sockets on fd 3 and above and the `LISTEN_*` variables
//! that describe them, or without the variables, as `systemfd --no-pid` and a bare `-g` know it.

use std::{
    ffi::OsString,
    io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{net::UnixListener, process::CommandExt},
    },
    process::Command,
};

use clap::Parser;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

/// The first fd of socket activation.
const FIRST_FD: i32 = 3;

/// Start a program with listening sockets
#[derive(Parser, Debug)]
struct Arguments {
    /// A socket to pass: a TCP address or a Unix path; repeat it for more
    #[arg(long, value_name = "ADDR")]
    socket: Vec<String>,

    /// `LISTEN_PID`: self, none, or a number
    #[arg(long, default_value = "self")]
    listen_pid: String,

    /// `LISTEN_FDS`: the number of the sockets, or none
    #[arg(long, default_value = "")]
    listen_fds: String,

    /// `LISTEN_FDNAMES`
    #[arg(long)]
    names: Option<String>,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true)]
    program: Vec<OsString>,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let sockets = arguments.socket.iter().map(|text| listen(text)).collect::<io::Result<Vec<_>>>()?;
    // Placed beyond the range first, so that none of them is in the way of another.
    let count = i32::try_from(sockets.len()).map_err(io::Error::other)?;
    let beyond = |fd: OwnedFd| Ok(fcntl_dupfd_cloexec(fd, FIRST_FD + 2 * count)?);
    let sockets = sockets.into_iter().map(beyond).collect::<io::Result<Vec<OwnedFd>>>()?;
    let mut placed = Vec::new();
    for (fd, number) in sockets.iter().zip(FIRST_FD..) {
        let copy = fcntl_dupfd_cloexec(fd.as_fd(), number)?;
        if copy.as_raw_fd() != number {
            return Err(io::Error::other(format!("fd {number} is taken: start this program with no fd above 2")));
        }
        fcntl_setfd(&copy, FdFlags::empty())?;
        placed.push(copy);
    }
    let (program, rest) = arguments.program.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(rest);
    match arguments.listen_pid.as_str() {
        "self" => command.env("LISTEN_PID", std::process::id().to_string()),
        "none" => command.env_remove("LISTEN_PID"),
        number => command.env("LISTEN_PID", number),
    };
    match arguments.listen_fds.as_str() {
        "" => command.env("LISTEN_FDS", placed.len().to_string()),
        "none" => command.env_remove("LISTEN_FDS"),
        number => command.env("LISTEN_FDS", number),
    };
    if let Some(names) = arguments.names {
        command.env("LISTEN_FDNAMES", names);
    }
    Err(command.exec())
}

fn listen(text: &str) -> io::Result<OwnedFd> {
    match text.parse::<SocketAddr>() {
        Ok(address) => Ok(TcpListener::bind(address)?.into()),
        Err(_) => Ok(UnixListener::bind(text)?.into()),
    }
}
