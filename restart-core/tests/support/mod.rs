//! Real processes for the library's tests: the examples' binaries, started, spoken to and killed.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use restart_core::control::{Answer, Client, Outcome, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tempfile::TempDir;

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Says so, and fails in CI, so that no promise goes untested in silence.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "{reason}");
    eprintln!("SKIPPED: {reason}");
}

/// An example's binary, which cargo builds beside the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its path");
    let path = own.parent().and_then(Path::parent).expect("target/PROFILE/deps").join("examples").join(name);
    assert!(path.exists(), "{} is missing; cargo test builds it", path.display());
    path
}

/// A service: the process that was started, and all that came after it.
pub(crate) struct Service {
    pub(crate) folder: TempDir,
    pub(crate) child: Child,
    control: PathBuf,
}

/// A fixture's command with its control socket in a folder of its own.
pub(crate) fn fixture(arguments: &[&str], variables: &[(&str, &str)]) -> Service {
    let mut command = Command::new(example("fixture"));
    command.args(arguments).envs(variables.iter().copied());
    Service::start(command)
}

impl Service {
    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Service {
        command.stdin(Stdio::null());
        Service::start_with_stdin(command)
    }

    #[track_caller]
    pub(crate) fn start_with_stdin(mut command: Command) -> Service {
        let folder = tempfile::tempdir().expect("a temporary folder");
        command.env("FIXTURE_CONTROL", folder.path().join("control"));
        command.env("FIXTURE_FAIL", folder.path().join("fail"));
        command.env("FIXTURE_VERSION", folder.path().join("version"));
        command.env("FIXTURE_WORD", folder.path().join("word"));
        command.env("FIXTURE_UNWELL", folder.path().join("unwell"));
        command.env("FIXTURE_WAITS", folder.path().join("waits"));
        command.env("FIXTURE_GETS_READY", folder.path().join("gets ready"));
        if !command.get_envs().any(|(name, _)| name == "NOTIFY_SOCKET") {
            command.env_remove("NOTIFY_SOCKET");
        }
        let child = command.spawn().expect("the example starts");
        let control = folder.path().join("control");
        let service = Service { folder, child, control };
        service.client();
        service
    }

    /// An example that users read, on an address of its own choice, and with the name that it gives its control socket.
    #[track_caller]
    pub(crate) fn example(name: &str, control: &str) -> Service {
        Service::example_with(name, control, &[])
    }

    /// An example that takes more arguments than an address. It is started through a link in the service's
    /// folder, which [`Service::replace_program`] switches.
    #[track_caller]
    pub(crate) fn example_with(name: &str, control: &str, arguments: &[&str]) -> Service {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Service::example_in(folder, name, control, arguments, Stdio::inherit())
    }

    /// An example whose log goes to a file called `log` in the service's folder.
    #[track_caller]
    pub(crate) fn example_that_logs(name: &str, control: &str) -> Service {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = File::create(folder.path().join("log")).expect("a file in a folder of its own");
        Service::example_in(folder, name, control, &[], log.into())
    }

    #[track_caller]
    fn example_in(folder: TempDir, name: &str, control: &str, arguments: &[&str], log: Stdio) -> Service {
        let program = folder.path().join("program");
        symlink(example(name), &program).expect("a link in a folder of its own");
        let mut command = Command::new(program);
        command.arg("127.0.0.1:0").args(arguments).stdin(Stdio::null()).stderr(log);
        command.env("XDG_RUNTIME_DIR", folder.path()).env_remove("RUNTIME_DIRECTORY").env_remove("NOTIFY_SOCKET");
        let child = command.spawn().expect("the example starts");
        let control = folder.path().join(control).join("control.sock");
        let service = Service { folder, child, control };
        service.client();
        service
    }

    /// Has the next reload start another example.
    pub(crate) fn replace_program(&self, name: &str) {
        let (program, new) = (self.folder.path().join("program"), self.folder.path().join("program.new"));
        symlink(example(name), &new).expect("a link in a folder of its own");
        std::fs::rename(new, program).expect("a rename within one folder");
    }

    /// From now on the service is an example that gives its control socket this name. Waits until it answers there.
    #[track_caller]
    pub(crate) fn answers_at(&mut self, control: &str) {
        self.control = self.folder.path().join(control).join("control.sock");
        self.client();
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.control.clone()
    }

    /// Connects as soon as the service answers.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Ok(mut client) = Client::connect(&self.control())
                && client.status().is_ok()
            {
                return Client::connect(&self.control()).expect("it was there just now");
            }
            assert!(Instant::now() < end, "{} never answered", self.control().display());
            std::thread::yield_now();
        }
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        self.client().status().expect("a status")
    }

    #[track_caller]
    pub(crate) fn reload(&self) -> Outcome {
        match self.client().reload().expect("an answer") {
            Answer::Outcome(outcome) => *outcome,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn reload_well(&self) -> Outcome {
        let outcome = self.reload();
        assert_eq!(outcome.failure, None);
        outcome
    }

    /// The address of a listener, as text.
    #[track_caller]
    pub(crate) fn address(&self, name: &str) -> String {
        let status = self.status();
        let found = status.listeners.iter().find(|listener| listener.name == name);
        found.unwrap_or_else(|| panic!("no {name} in {status:?}")).address.clone()
    }
}

impl Drop for Service {
    /// Ends whatever of the service still lives.
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(&self.control()) {
            let _ = client.stop();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One line asked, one line answered, on a connection of its own.
pub(crate) fn ask(stream: impl std::io::Read + Write) -> std::io::Result<String> {
    ask_for(stream, "hello")
}

/// The same, of a line that may mean something to whoever answers.
pub(crate) fn ask_for(stream: impl std::io::Read + Write, what: &str) -> std::io::Result<String> {
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(format!("{what}\n").as_bytes())?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    Ok(line)
}

#[track_caller]
pub(crate) fn ask_tcp(address: &str) -> String {
    ask(connect_tcp(address)).expect("an answer")
}

#[track_caller]
pub(crate) fn connect_tcp(address: &str) -> TcpStream {
    let address: SocketAddr = address.parse().expect("an address");
    let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("somebody accepts");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

/// Waits until a process has ended.
#[track_caller]
pub(crate) fn wait_for_end(pid: u32, deadline: Duration) {
    let pid = Pid::from_raw(pid.try_into().expect("a pid")).expect("a pid");
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let timeout = Timespec::try_from(deadline).expect("a time");
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)).expect("a wait");
    assert_eq!(ended, 1, "process {pid:?} does not end within {deadline:?}");
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).expect("a pid"), signal).expect("a process that is ours");
}
