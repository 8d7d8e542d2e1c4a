//! A supervisor for those who follow one pid: terminals, containers, runit, s6, supervisord.
//!
//! It is the service manager of its generations: their NOTIFY_SOCKET, which tells it who the main process is. It adopts
//! and reaps them, passes signals on to the main one, and ends with the last one's status. It never serves, never
//! decides about a reload, and does not start a service anew that has died: whoever follows its pid does.

use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use sd_notify::NotifyState;
use signal_hook::consts::signal::{SIGCHLD, SIGHUP, SIGINT, SIGIO, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::low_level::pipe;

use crate::environment::Environment;
use crate::error::Error;
use crate::signals::{self, HangUps, Wish};
use crate::sys;

/// A notification is no longer than this; systemd takes no longer ones either.
const DATAGRAM_BYTES_MAX: usize = 4096;
/// After the main process has died, a successor that takes over by itself gets this long to say so.
const SUCCESSION: Duration = Duration::from_secs(2);
/// What is passed on to the main process as it comes: all that may mean something to it. SIGCHLD is for the supervisor
/// itself, and what means nothing to a generation ends the supervisor no more than that.
const PASSED_ON: [i32; 9] = [SIGHUP, SIGINT, SIGTERM, SIGQUIT, libc::SIGPWR, SIGUSR1, SIGUSR2, SIGWINCH, SIGIO];

/// Starts this program again with `args`, and follows its generations until the last one has ended. Returns the exit
/// code to end with: that of the last main process, or 128 and the signal's number where a signal ended it.
///
/// `args` must make the program serve by itself. Inherited listeners (LISTEN_FDS) pass through to it. Where this process
/// has a NOTIFY_SOCKET of its own, what the generations say is passed on there, but for whose pid is the main one.
/// Blocks for as long as the service lives. Call it before any thread exists but one that writes a log. On failure
/// nothing is left running.
pub fn supervise(args: Vec<OsString>) -> Result<u8, Error> {
    let failed = |error: io::Error| Error::system("cannot supervise", error);
    let environment = Environment::read()?;
    let mut supervisor = Supervisor::new().map_err(failed)?;
    let mut command = Command::new(&environment.program);
    command.arg0(environment.arg0()).args(args).env("NOTIFY_SOCKET", &supervisor.path);
    for stale in ["LISTEN_PID", "LISTEN_PIDFDID", "WATCHDOG_PID"] {
        command.env_remove(stale);
    }
    let child = command
        .spawn()
        .map_err(|error| Error::system(format!("cannot start {}", environment.program.display()), error))?;
    supervisor.main = Some(Pid::from_child(&child));
    supervisor.follow().map_err(failed)
}

struct Supervisor {
    socket: UnixDatagram,
    path: PathBuf,
    wakes: UnixStream,
    flags: Vec<(i32, Arc<AtomicBool>)>,
    /// None where nohup(1) has its way.
    hang_ups: Option<HangUps>,
    main: Option<Pid>,
    /// Who said that it is ready while another process was the main one: it has noticed that one's end before we do.
    heir: Option<Pid>,
    /// How the last main process ended, and since when nobody has taken its place.
    ended: Option<(u8, Instant)>,
}

impl Supervisor {
    fn new() -> io::Result<Supervisor> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        sys::restore_sigchld()?;
        let (wakes, writer) = UnixStream::pair()?;
        wakes.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let (mut flags, mut hang_ups) = (Vec::new(), None);
        for number in PASSED_ON.into_iter().chain([SIGCHLD]) {
            if number == SIGHUP {
                // nohup(1) reaches the generations as well.
                if sys::is_ignored(number)? {
                    continue;
                }
                hang_ups = Some(HangUps::watch()?);
            }
            let flag = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register(number, Arc::clone(&flag))?;
            pipe::register(number, writer.try_clone()?)?;
            flags.push((number, flag));
        }
        signals::make_harmless()?;
        // Whoever started this process may have left some blocked, and the generations would inherit that.
        sys::unblock_all_signals()?;
        let (socket, path) = bind_notify_socket()?;
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        Ok(Supervisor { socket, path, wakes, flags, hang_ups, main: None, heir: None, ended: None })
    }

    fn follow(&mut self) -> io::Result<u8> {
        loop {
            self.wait()?;
            // What a process said before it died comes before its death.
            while self.take_notification()? {}
            self.take_signals();
            self.reap();
            if let Some((code, since)) = self.ended
                && (since.elapsed() >= SUCCESSION || !has_children())
            {
                return Ok(code);
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&self.wakes, PollFlags::IN)];
        let limit = self.ended.map(|_| Timespec { tv_sec: 0, tv_nsec: 100_000_000 });
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads one notification, if there is one. A barrier's descriptor is closed by being dropped.
    fn take_notification(&mut self) -> io::Result<bool> {
        let mut bytes = [0; DATAGRAM_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(16))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags);
        let length = match received {
            Ok(received) => received.bytes,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let (mut sender, mut fds) = (None, Vec::<OwnedFd>::new());
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmCredentials(credentials) => sender = Some(credentials.pid),
                RecvAncillaryMessage::ScmRights(rights) => fds.extend(rights),
                _ => {}
            }
        }
        if let Some(sender) = sender {
            self.heed(sender, &String::from_utf8_lossy(&bytes[..length]), &fds);
        }
        Ok(true)
    }

    /// Believes the main process, and, where that has died, whoever says that it is ready.
    fn heed(&mut self, sender: Pid, text: &str, fds: &[OwnedFd]) {
        if self.main != Some(sender) && text.lines().any(|line| line == "READY=1") {
            self.heir = Some(sender);
            self.succeed();
        }
        if self.main != Some(sender) {
            return;
        }
        let named = text.lines().find_map(|line| line.strip_prefix("MAINPID=")?.parse().ok()).and_then(Pid::from_raw);
        self.main = named.or(self.main);
        let own = |line: &&str| !["MAINPID", "BARRIER=", "FDSTORE"].iter().any(|key| line.starts_with(key));
        let passed_on: Vec<NotifyState<'_>> = text.lines().filter(own).map(NotifyState::Custom).collect();
        if !passed_on.is_empty() && fds.is_empty() {
            // A service manager that is not there, or reads nothing, is no reason to end.
            let _ = sd_notify::notify(&passed_on);
        }
    }

    fn take_signals(&mut self) {
        let mut bytes = [0; 256];
        while rustix::io::read(&self.wakes, &mut bytes).is_ok_and(|read| read > 0) {}
        let came = self.flags.iter().filter(|(_, flag)| flag.swap(false, Ordering::AcqRel)).map(|(number, _)| *number);
        let came: Vec<i32> = came.flat_map(|number| self.passed_on(number)).collect();
        for signal in came.into_iter().filter_map(Signal::from_named_raw) {
            if let Some(main) = self.main {
                let _ = rustix::process::kill_process(main, signal);
            }
        }
    }

    /// What a signal means to the main process. The hang-up of a terminal is nothing that can be sent on: it is a stop.
    fn passed_on(&self, number: i32) -> Vec<i32> {
        match (number, &self.hang_ups) {
            (SIGCHLD, _) => vec![],
            (SIGHUP, Some(hang_ups)) => {
                let signal_of = |wish| if wish == Wish::Stop { SIGTERM } else { SIGHUP };
                hang_ups.take().into_iter().map(signal_of).collect()
            }
            _ => vec![number],
        }
    }

    /// Reaps whoever has ended: generations, and orphans that they left.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if self.heir == Some(pid) {
                self.heir = None;
            }
            if self.main == Some(pid) {
                self.main = None;
                self.ended = Some((code_of(status), Instant::now()));
                self.succeed();
            }
        }
    }

    /// Where there is no main process, the one that has said so is it.
    fn succeed(&mut self) {
        if self.main.is_none() && self.heir.is_some() {
            self.main = self.heir.take();
            self.ended = None;
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether anybody is left who could take over.
fn has_children() -> bool {
    !matches!(
        rustix::process::waitid(
            rustix::process::WaitId::All,
            rustix::process::WaitIdOptions::EXITED
                | rustix::process::WaitIdOptions::NOHANG
                | rustix::process::WaitIdOptions::NOWAIT
        ),
        Err(Errno::CHILD)
    )
}

/// The exit code that tells how a process ended, as a shell does it.
fn code_of(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Binds the socket at the first place where that is possible; only its owner can send to it.
fn bind_notify_socket() -> io::Result<(UnixDatagram, PathBuf)> {
    let name = format!("reborn-notify-{}.sock", std::process::id());
    let runtime = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].into_iter().filter_map(std::env::var_os);
    let folders = runtime.map(PathBuf::from).chain(["/run", "/tmp", "/dev/shm"].map(PathBuf::from));
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for folder in folders {
        match bind_private(&folder.join(&name)) {
            Ok(bound) => return Ok(bound),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_private(path: &Path) -> io::Result<(UnixDatagram, PathBuf)> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
        None,
    )?;
    // The socket file is born with the socket's own mode.
    rustix::fs::fchmod(socket.as_fd(), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    match rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(path)?) {
        // A process of our number left it, and is dead.
        Err(Errno::ADDRINUSE) => {
            std::fs::remove_file(path)?;
            rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(path)?)?;
        }
        result => result?,
    }
    Ok((UnixDatagram::from(socket), path.to_owned()))
}
