//! A supervisor for those who follow one pid: terminals, containers, runit, s6, supervisord.
//!
//! It is the service manager of its generations: their NOTIFY_SOCKET, which tells it who the main process is. It adopts
//! and reaps them, passes signals on to the main one, and ends with the last one's status. It never serves, never
//! decides about a reload, and does not start a service anew that has died: whoever follows its pid does.
//!
//! Neither leaves the other behind. Generations whose supervisor has ended stop in order (`signals`); when it ends itself,
//! those that could have taken over and did not are killed. What it needs on disk, a folder with the socket, has a name
//! that nobody else has, and is removed by the next supervisor if this one is killed.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
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
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open};
use sd_notify::NotifyState;
use signal_hook::consts::signal::{SIGCHLD, SIGHUP, SIGINT, SIGIO, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::low_level::pipe;

use crate::environment::{Environment, HANDOVER_FLAG, HANDOVER_VARIABLE, SUPERVISOR_VARIABLE};
use crate::error::Error;
use crate::signals::{self, HangUps, Wish};
use crate::sys;

/// A notification is no longer than this; systemd takes no longer ones either.
const DATAGRAM_BYTES_MAX: usize = 4096;
/// After the main process has died, a successor that takes over by itself gets this long to say so.
const SUCCESSION: Duration = Duration::from_secs(2);
/// The same for one that is stopped (SIGSTOP, a debugger) and may be continued.
const SUCCESSION_OF_STOPPED: Duration = Duration::from_secs(60);
/// What the names of the supervisors' folders begin with, and how their socket is called.
const FOLDER_PREFIX: &str = "reborn-supervisor-";
const SOCKET_NAME: &str = "notify";
/// What is passed on to the main process as it comes: all that may mean something to it. SIGCHLD is for the supervisor
/// itself, and what means nothing to a generation ends the supervisor no more than that.
const PASSED_ON: [i32; 9] = [SIGHUP, SIGINT, SIGTERM, SIGQUIT, libc::SIGPWR, SIGUSR1, SIGUSR2, SIGWINCH, SIGIO];

/// Starts this program again with `args`, and follows its generations until the last one has ended. Returns the exit
/// code to end with: that of the last main process, or 128 and the signal's number where a signal ended it.
///
/// `args` must make the program serve by itself. Inherited listeners (LISTEN_FDS) pass through to it. Where this process
/// has a NOTIFY_SOCKET of its own, what the generations say is passed on there, but for whose pid is the main one.
/// The generations find its pid in RESTART_CORE_SUPERVISOR; when it has ended, they stop in order, so that whoever starts
/// the service anew finds its addresses free.
///
/// Blocks for as long as the service lives. Call it before any thread exists but one that writes a log. On failure
/// nothing is left running.
pub fn supervise(args: Vec<OsString>) -> Result<u8, Error> {
    let failed = |error: io::Error| Error::system("cannot supervise", error);
    let environment = Environment::read()?;
    let mut supervisor = Supervisor::new().map_err(failed)?;
    let mut command = Command::new(&environment.program);
    command.arg0(environment.arg0()).args(args).env("NOTIFY_SOCKET", &supervisor.socket.path);
    command.env(SUPERVISOR_VARIABLE, std::process::id().to_string());
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
    socket: NotifySocket,
    wakes: UnixStream,
    flags: Vec<(i32, Arc<AtomicBool>)>,
    /// None where nohup(1) has its way.
    hang_ups: Option<HangUps>,
    main: Option<Pid>,
    /// Who said that it is ready while another process was the main one: it has noticed that one's end before we do.
    heir: Option<Pid>,
    /// How the last main process ended; nobody has taken its place.
    ended: Option<Ended>,
    /// What came for the main process while there was none.
    pending: Vec<Signal>,
}

#[derive(Clone, Copy)]
struct Ended {
    code: u8,
    at: Instant,
    /// Since when all who could take its place are free to do so.
    free: Instant,
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
        let socket = NotifySocket::bind()?;
        Ok(Supervisor { socket, wakes, flags, hang_ups, main: None, heir: None, ended: None, pending: vec![] })
    }

    fn follow(&mut self) -> io::Result<u8> {
        loop {
            self.wait()?;
            // What a process said before it died comes before its death.
            while self.take_notification()? {}
            self.lose_dead_main();
            self.take_signals();
            self.reap();
            if let Some(ended) = &mut self.ended
                && (!has_children() || ended.is_succession_over())
            {
                end_generations();
                return Ok(ended.code);
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let main = self.disputed_main();
        let mut fds = vec![PollFd::new(&self.socket.socket, PollFlags::IN), PollFd::new(&self.wakes, PollFlags::IN)];
        fds.extend(main.iter().map(|main| PollFd::new(main, PollFlags::IN)));
        let limit = self.ended.map(|_| Timespec { tv_sec: 0, tv_nsec: 100_000_000 });
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The main process, where somebody else says to serve in its place. It has ended, or ends at this moment, and whose
    /// child it is reaps it in its own time, if that is not this process.
    fn disputed_main(&self) -> Option<OwnedFd> {
        pidfd_open(self.heir.and(self.main)?, PidfdFlags::empty()).ok()
    }

    /// Where the main process has ended, and another one has said that it takes its place, it is followed.
    fn lose_dead_main(&mut self) {
        if self.heir.is_none() || self.main.is_none() {
            return;
        }
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let lives = |main: OwnedFd| poll(&mut [PollFd::new(&main, PollFlags::IN)], Some(&now)) == Ok(0);
        if !self.disputed_main().is_some_and(lives) {
            self.main = None;
            self.succeed();
        }
    }

    /// Reads one notification, if there is one. A barrier's descriptor is closed by being dropped.
    fn take_notification(&mut self) -> io::Result<bool> {
        let mut bytes = [0; DATAGRAM_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(16))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received =
            rustix::net::recvmsg(&self.socket.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags);
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
        self.heir = self.heir.filter(|heir| Some(*heir) != self.main);
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
            match self.main {
                Some(main) => _ = rustix::process::kill_process(main, signal),
                None => self.pending.push(signal),
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
                let now = Instant::now();
                self.ended = Some(Ended { code: code_of(status), at: now, free: now });
                self.succeed();
            }
        }
    }

    /// Where there is no main process, the one that has said so is it.
    fn succeed(&mut self) {
        if self.main.is_none() && self.heir.is_some() {
            self.main = self.heir.take();
            self.ended = None;
            for signal in std::mem::take(&mut self.pending) {
                let _ = self.main.map(|main| rustix::process::kill_process(main, signal));
            }
        }
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

impl Ended {
    /// Whether nobody is to be waited for any more who could take the dead main process's place.
    fn is_succession_over(&mut self) -> bool {
        if self.free.elapsed() < SUCCESSION {
            return false;
        }
        if successors().iter().any(|(_, is_stopped)| *is_stopped) {
            self.free = Instant::now();
        }
        self.free.elapsed() >= SUCCESSION || self.at.elapsed() >= SUCCESSION_OF_STOPPED
    }
}

/// Ends those that did not take over: nobody would follow them, and they hold the addresses.
fn end_generations() {
    let left = successors();
    if !left.is_empty() {
        let pids: Vec<String> = left.iter().map(|(pid, _)| pid.to_string()).collect();
        log::warn!("the main process has ended, and nobody took its place: killing pid {}", pids.join(", "));
    }
    for (pid, _) in left {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// The children that a generation has started to take over, and whether each is stopped.
fn successors() -> Vec<(Pid, bool)> {
    let this = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let successor = |pid: Pid| -> Option<(Pid, bool)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before it may hold anything.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let (state, parent) = (fields.next()?, fields.next()?);
        // An older version says it by its first argument alone, behind an interpreter where the program is a script.
        let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = command_line.split(|byte| *byte == 0).skip(1).take(2);
        // A generation takes the variable out of the environment of what it starts.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let named = format!("{HANDOVER_VARIABLE}=");
        let mut variables = environment.split(|byte| *byte == 0);
        let is_successor = variables.any(|variable| variable.starts_with(named.as_bytes()))
            || words.any(|word| word == HANDOVER_FLAG.as_bytes());
        (parent == this && is_successor).then_some((pid, ["T", "t"].contains(&state)))
    };
    pids.filter_map(successor).collect()
}

/// The generations' NOTIFY_SOCKET, in a folder of its own. Dropped, both are removed.
struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl NotifySocket {
    /// Binds it at the first place where that is possible; only its owner can send to it.
    fn bind() -> io::Result<NotifySocket> {
        let runtime = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].into_iter().filter_map(std::env::var_os);
        let folders = runtime.map(PathBuf::from).chain(["/run", "/tmp", "/dev/shm"].map(PathBuf::from));
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for folder in folders {
            remove_stale(&folder);
            match NotifySocket::bind_in(&folder) {
                Ok(bound) => return Ok(bound),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn bind_in(folder: &Path) -> io::Result<NotifySocket> {
        // The pid alone would do for one pid namespace; several may share the folder.
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
        let own = folder.join(format!("{FOLDER_PREFIX}{random:016x}"));
        DirBuilder::new().mode(0o700).create(&own)?;
        let socket = NotifySocket { socket: UnixDatagram::unbound()?, path: own.join(SOCKET_NAME) };
        rustix::net::bind(&socket.socket, &rustix::net::SocketAddrUnix::new(&socket.path)?)?;
        socket.socket.set_nonblocking(true)?;
        rustix::net::sockopt::set_socket_passcred(&socket.socket, true)?;
        Ok(socket)
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = self.path.parent().map(std::fs::remove_dir);
    }
}

/// Removes what supervisors left that were killed: folders whose socket nobody holds.
fn remove_stale(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_named = entry.file_name().to_str().is_some_and(|name| name.starts_with(FOLDER_PREFIX));
        // Anybody may put anything into /tmp.
        let own = rustix::process::geteuid().as_raw();
        let is_own = || entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own);
        let socket = entry.path().join(SOCKET_NAME);
        let is_dead = || {
            let connected = UnixDatagram::unbound().and_then(|probe| probe.connect(&socket));
            connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        };
        if is_named && is_own() && is_dead() {
            let _ = std::fs::remove_file(&socket);
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};

    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::*;

    const LONG: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

    /// Runs one of the children below in a process of its own.
    fn words(name: &str) -> Vec<OsString> {
        let name = format!("supervisor::tests::{name}");
        ["--exact", &name, "--ignored", "--nocapture"].map(OsString::from).to_vec()
    }

    fn is_child() -> bool {
        std::env::var_os("TEST_CHILD").is_some()
    }

    #[test]
    #[ignore = "another test runs it in a process of its own"]
    fn child_that_supervises() {
        if is_child() {
            let code = supervise(words("child_that_serves_again")).unwrap();
            std::process::exit(i32::from(code));
        }
    }

    /// A generation that names its successor, sees it die, leaves it unburied, and serves again until it is told to stop.
    #[test]
    #[ignore = "another test runs it in a process of its own"]
    fn child_that_serves_again() {
        if !is_child() {
            return;
        }
        let (mut told, writer) = UnixStream::pair().unwrap();
        pipe::register(SIGTERM, writer).unwrap();
        let mut successor = Command::new("sleep").arg("1000").spawn().unwrap();
        sd_notify::notify(&[NotifyState::MainPid(successor.id()), NotifyState::Ready]).unwrap();
        successor.kill().unwrap();
        let zombie = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_child(&successor)), zombie).unwrap();
        sd_notify::notify(&[NotifyState::Ready]).unwrap();
        println!("\nSERVES");
        told.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        told.read_exact(&mut [0]).unwrap();
        std::process::exit(7);
    }

    #[test]
    fn a_generation_that_serves_again_is_followed_before_its_dead_successor_is_buried() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(words("child_that_supervises")).env("TEST_CHILD", "1").stdout(Stdio::piped());
        let mut supervisor = command.spawn().unwrap();
        let mut lines = BufReader::new(supervisor.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "SERVES"));
        rustix::process::kill_process(Pid::from_child(&supervisor), Signal::TERM).unwrap();
        let pidfd = pidfd_open(Pid::from_child(&supervisor), PidfdFlags::empty()).unwrap();
        let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&LONG)).unwrap() == 1;
        if !ended {
            supervisor.kill().unwrap();
        }
        assert_eq!((ended, supervisor.wait().unwrap().code()), (true, Some(7)));
    }
}
