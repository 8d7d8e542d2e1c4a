//! A new version that fails: it stands at the path of the server's program and behaves as the file beside it says.
//! Each start leaves its pid in another file beside it, so that a test knows who it was.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use restart_core::Builder;
use rustix::{
    net::SendFlags,
    process::{Signal, getpid, kill_process},
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
            Builder::new().start().map_err(io::Error::other)?.fail(&reason);
            Ok(ExitCode::FAILURE)
        }
        Mode::DiesReady { code, ms } => {
            let generation = Builder::new().start().map_err(io::Error::other)?;
            let die = async {
                Timer::after(Duration::from_millis(ms)).await;
            };
            // The generation is polled first, and says Ready at that.
            smol::block_on(future::or(async { drop(Box::pin(generation.run()).await) }, die));
            Ok(ExitCode::from(code))
        }
        Mode::Speaks(words) => {
            rustix::net::send(io::stdin(), words.as_bytes(), SendFlags::NOSIGNAL)?;
            hang()
        }
        Mode::StartsAChild => {
            let _generation = Builder::new().start().map_err(io::Error::other)?;
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

fn hang() -> ! {
    loop {
        thread::park();
    }
}
