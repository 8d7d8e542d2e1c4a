//! A new version that fails: it stands at the path of the server's program and behaves as the file beside it says.
//! Each start leaves its pid in another file beside it, so that a test knows who it was.

use std::{
    fs::OpenOptions,
    io::{self, IoSlice, Write},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use restart_core::{Builder, Listener};
use rustix::{
    net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType},
    process::{PidfdFlags, Signal, getpid, kill_process, pidfd_open},
};
use smol::{Timer, future};
use tests::{Mode, version::beside};

/// How often the gate is looked at.
const GATE_STEP: Duration = Duration::from_millis(2);

fn main() -> io::Result<ExitCode> {
    let mut arguments = std::env::args_os();
    let program = arguments.next().ok_or(io::ErrorKind::NotFound)?;
    let path = Path::new(&program);
    let mode = serde_json::from_slice(&std::fs::read(beside(path, "mode"))?)?;
    let mut started = OpenOptions::new().append(true).create(true).open(beside(path, "started"))?;
    writeln!(started, "{}", std::process::id())?;
    match mode {
        Mode::Exits { code, words } => {
            if !words.is_empty() {
                eprintln!("{words}");
            }
            Ok(ExitCode::from(code))
        }
        Mode::KilledBy(number) => {
            let signal = Signal::from_named_raw(number).ok_or(io::ErrorKind::InvalidInput)?;
            kill_process(getpid(), signal)?;
            hang()
        }
        Mode::Hangs => hang(),
        Mode::LeavesAChild => {
            Command::new("sleep").arg("1000").spawn()?;
            Ok(ExitCode::FAILURE)
        }
        Mode::Fails(reason) => {
            Builder::new().start().map_err(io::Error::other)?.0.fail(&reason);
            Ok(ExitCode::FAILURE)
        }
        Mode::DiesReady { code, ms } => {
            let (generation, driver) = Builder::new().start().map_err(io::Error::other)?;
            generation.listeners().iter().for_each(Listener::leave_unserved);
            let die = async {
                Timer::after(Duration::from_millis(ms)).await;
            };
            smol::block_on(future::or(async { drop(driver.run_with(generation.ready()).await) }, die));
            Ok(ExitCode::from(code))
        }
        Mode::Speaks(words) => {
            speak(&words)?;
            hang()
        }
        Mode::StartsAChild => {
            let _started = Builder::new().start().map_err(io::Error::other)?;
            Command::new("sleep").arg("1000").spawn()?;
            hang()
        }
        Mode::WaitsAtGate => {
            while !beside(path, "gate").exists() {
                thread::sleep(GATE_STEP);
            }
            Err(Command::new(path).arg0(&program).args(arguments).exec())
        }
    }
}

/// Says it on the handover socket, with what comes with a Hello: a pidfd, and a line on which nobody listens.
fn speak(words: &str) -> io::Result<()> {
    let (line, ours) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty())?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [pidfd.as_fd(), line.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(io::stdin(), &[IoSlice::new(words.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
    // It stays open for as long as the process lives.
    std::mem::forget(ours);
    Ok(())
}

fn hang() -> ! {
    loop {
        thread::park();
    }
}
