//! The server under test: [`Reborn`] says how it is started, [`Server`] is the service while it runs, through all its
//! generations.
//!
//! Each server has a folder of its own with its program, which a test may replace, its control socket, its pid file
//! and its log; an address of its own; and a marker in its environment by which all its processes are found. Nothing
//! waits by sleeping: a condition is looked at until it holds, and one deadline prints the whole state. The two stand in one
//! long file because each start, reload and look at the log is a few lines on the state that they share.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, OpenOptions},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    CommandOutput, Ended, Process, Version, binary,
    load::{Answer, Connection, Limits, Load, Request, Target},
    notify::NotifySocket,
    procfs::Family,
    skip::{NOBODY, give_to_nobody},
    version::beside,
};

/// How long a test waits for something that happens within milliseconds on a machine that is not overloaded.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How long the description of a failure waits for the server's own.
const STATUS_MAX: Duration = Duration::from_secs(5);

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(2);

/// What the server keeps of the test's environment; everything else is the test's own business.
const ENVIRONMENT_KEPT: [&str; 6] = ["PATH", "HOME", "LANG", "TMPDIR", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"];

/// How a server is started.
#[derive(Debug)]
#[must_use = "no server runs before start()"]
pub struct Reborn {
    folder: TempDir,
    marker: String,
    address: SocketAddr,
    listens: bool,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    control: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    version: Version,
    release_link: bool,
    nobody: bool,
    prelude: Option<String>,
    launch: Option<Vec<OsString>>,
    stdin: Option<Stdio>,
    /// As `Command::process_group` takes it.
    process_group: Option<i32>,
    notify: Option<NotifySocket>,
}

impl Default for Reborn {
    fn default() -> Self {
        Self::new()
    }
}

impl Reborn {
    /// The binary under test, listening on a loopback address of its own under the name `http`, with a control socket
    /// and a pid file in its folder.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::Builder::new().prefix("reborn-test-").tempdir().expect("a temporary folder");
        let run = folder.path().join("run");
        fs::create_dir(&run).expect("a folder in the test's own");
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).expect("the test's own folder");
        Self {
            marker: format!("{}-{number}", process::id()),
            address: own_address(number),
            folder,
            listens: true,
            arguments: Vec::new(),
            environment: Vec::new(),
            control: Some(run.join("control")),
            pid_file: Some(run.join("pid")),
            version: Version::Current,
            release_link: false,
            nobody: false,
            prelude: None,
            launch: None,
            stdin: None,
            process_group: None,
            notify: None,
        }
    }

    /// `--demo`.
    pub fn demo(self) -> Self {
        self.arg("--demo")
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub fn args<T: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = T>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// A variable of its environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// One more `--listen [NAME=]ADDR`.
    pub fn listen(self, endpoint: &str) -> Self {
        self.arg("--listen").arg(endpoint)
    }

    /// Leaves out the address of its own.
    pub fn without_own_address(mut self) -> Self {
        self.listens = false;
        self
    }

    /// Leaves out `--control`: the socket then lies where `XDG_RUNTIME_DIR`, which is in the folder, leads to.
    pub fn default_control(mut self) -> Self {
        self.control = None;
        self
    }

    /// Leaves out `--pid-file`.
    pub fn without_pid_file(mut self) -> Self {
        self.pid_file = None;
        self
    }

    /// `--probation`, in milliseconds.
    pub fn probation_ms(self, ms: u64) -> Self {
        self.arg("--probation").arg(format!("{ms}ms"))
    }

    /// Starts another version than the binary under test.
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// Starts the program through the link `current` to a folder of releases, as many deployments do.
    pub fn through_release_link(mut self) -> Self {
        self.release_link = true;
        self
    }

    /// Runs the server, and the commands to it, as the user nobody: only for tests that run as root, see
    /// [`may_change_user`](super::skip::may_change_user).
    pub fn as_nobody(mut self) -> Self {
        self.nobody = true;
        self
    }

    /// Lets a shell run this first, in the process that becomes the server: `ulimit -n 64`, `trap '' HUP`,
    /// `exec 2>&-`, `exec 7</dev/null`.
    pub fn prelude(mut self, script: &str) -> Self {
        self.prelude = Some(script.to_owned());
        self
    }

    /// Starts the server with listening sockets, as the program `launch` reads its arguments.
    pub fn launch<T: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.launch = Some(arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect());
        self
    }

    /// What the server has as its standard input, instead of /dev/null.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = Some(stdin.into());
        self
    }

    /// Puts the server into a process group of its own, as a shell does with a job: see [`Server::signal_group`].
    pub fn own_group(mut self) -> Self {
        self.process_group = Some(0);
        self
    }

    /// Gives the server a notify socket: see [`Server::notify`].
    pub fn notify(mut self) -> Self {
        let socket = NotifySocket::bind(&self.folder.path().join("notify")).expect("a socket in the test's own folder");
        self = self.env("NOTIFY_SOCKET", socket.path());
        self.notify = Some(socket);
        self
    }

    /// The folder, for paths in arguments.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The address of its own.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the server and waits until it serves; panics with its log if it ends instead.
    #[track_caller]
    pub fn start(self) -> Server {
        let server = self.spawn();
        server.wait_ready();
        server
    }

    /// Starts the server and waits for nothing: for those that are not meant to come up.
    #[track_caller]
    pub fn spawn(mut self) -> Server {
        let folder = self.folder.path().to_owned();
        let program = if self.release_link {
            fs::create_dir_all(folder.join("releases/1")).expect("a folder in the test's own");
            std::os::unix::fs::symlink("releases/1", folder.join("current")).expect("a link in the test's own folder");
            folder.join("current/reborn")
        } else {
            folder.join("reborn")
        };
        self.version.put(&program);
        let open = |name: &str| {
            let file = OpenOptions::new().append(true).create(true).open(folder.join(name));
            file.expect("a file in the test's own folder")
        };
        let (stdout, stderr) = (open("stdout"), open("log"));
        if self.nobody {
            for path in [".", "run", "stdout", "log"] {
                give_to_nobody(&folder.join(path));
            }
        }
        let mut command = self.command(&program);
        let stdin = self.stdin.take().unwrap_or_else(Stdio::null);
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        let family = Family::new(&self.marker);
        let process = Process::spawn(&mut command).unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let first = process.pid();
        family.add(process);
        Server {
            folder: self.folder,
            program,
            address: self.address,
            listens: self.listens,
            control: self.control,
            nobody: self.nobody,
            notify: self.notify,
            family,
            first,
        }
    }

    /// The command line, from the outside in: a shell's prelude, the launcher, the server.
    fn command(&self, program: &Path) -> Command {
        let folder = self.folder.path();
        let mut words: Vec<OsString> = Vec::new();
        if let Some(script) = &self.prelude {
            words.extend(["sh".into(), "-c".into(), format!("{script}; exec \"$0\" \"$@\"").into()]);
        }
        if let Some(arguments) = &self.launch {
            words.push(binary::own("launch").into());
            words.extend(arguments.iter().cloned());
            words.push("--".into());
        }
        words.push(program.into());
        if self.listens {
            words.extend(["--listen".into(), format!("http={}", self.address).into()]);
        }
        if let Some(control) = &self.control {
            words.extend(["--control".into(), control.into()]);
        }
        if let Some(pid_file) = &self.pid_file {
            words.extend(["--pid-file".into(), pid_file.into()]);
        }
        words.extend(self.arguments.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(folder);
        clean(&mut command, folder);
        command.env(Family::VARIABLE, &self.marker).envs(self.environment.iter().cloned());
        if self.nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        if let Some(group) = self.process_group {
            command.process_group(group);
        }
        command
    }
}

/// A running service. Dropped, all its processes are killed.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    program: PathBuf,
    address: SocketAddr,
    listens: bool,
    control: Option<PathBuf>,
    nobody: bool,
    notify: Option<NotifySocket>,
    family: Family,
    first: u32,
}

impl Server {
    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The path of its program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The path of its control socket, where it was given one.
    pub fn control(&self) -> Option<&Path> {
        self.control.as_deref()
    }

    /// The path of its pid file.
    pub fn pid_file(&self) -> PathBuf {
        self.folder().join("run/pid")
    }

    /// The address of its own.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The pid of the process that the test started.
    pub fn first_pid(&self) -> u32 {
        self.first
    }

    /// The notify socket that it was started with.
    #[track_caller]
    pub fn notify(&self) -> &NotifySocket {
        self.notify.as_ref().expect("the server was built with notify()")
    }

    /// What it wrote to its standard error so far, all generations together.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder().join("log")).unwrap_or_default()).into_owned()
    }

    /// Panics if a generation has found an error of its own, such as a ledger that does not balance.
    #[track_caller]
    pub fn assert_no_error(&self) {
        let log = self.log();
        assert!(!log.contains(" ERROR ") && !log.contains("does not balance"), "{log}");
    }

    /// A number of the ledger that a process wrote when it ended (`--log debug`): of `handed over`, `accepted`; 0 for a
    /// reason to close that did not occur.
    #[track_caller]
    pub fn booked(&self, pid: u32, what: &str) -> u64 {
        let log = self.log();
        let ledger = log.lines().find_map(|line| line.split_once(&format!("[{pid}] connections: ")));
        let (_, ledger) = ledger.unwrap_or_else(|| panic!("pid {pid} left no ledger\n{log}"));
        let entry = ledger.split(['+', '=']).find_map(|entry| entry.trim().strip_suffix(what));
        entry.map_or(0, |number| number.trim().parse().expect("a number stands before each entry"))
    }

    /// What it wrote to its standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder().join("stdout")).unwrap_or_default()).into_owned()
    }

    /// Waits until it accepts connections and answers commands.
    #[track_caller]
    pub fn wait_ready(&self) {
        self.wait_until("the server is ready", |server| {
            if let Some(ended) = server.ended(server.first) {
                panic!("the server {ended} before it was ready\n{}", server.state());
            }
            let accepts = !server.listens || TcpStream::connect(server.address).is_ok();
            accepts && server.command(["status", "--json"]).is_success()
        });
    }

    /// Looks at a condition until it holds; panics with the whole state when it takes too long.
    #[track_caller]
    pub fn wait_until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !condition(self) {
            assert!(Instant::now() < end, "waited {DEADLINE:?} until {what}\n{}", self.state());
            thread::sleep(STEP);
        }
    }

    /// Runs `reborn` as a client of this server: the binary under test, whatever now lies at the server's path.
    #[track_caller]
    pub fn command<T: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = T>) -> CommandOutput {
        CommandOutput::of(&mut self.client(arguments))
    }

    fn client<T: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = T>) -> Command {
        let mut command = Command::new(binary::reborn());
        command.args(arguments).current_dir(self.folder());
        clean(&mut command, self.folder());
        if let Some(control) = &self.control {
            command.arg("--control").arg(control);
        }
        if self.nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// `reborn reload`, to its end.
    #[track_caller]
    pub fn reload(&self) -> CommandOutput {
        let output = self.command(["reload"]);
        // A look at the new process makes its end known later.
        self.family.alive();
        output
    }

    /// `reborn reload`, which must succeed; the pid of the new generation.
    #[track_caller]
    pub fn reload_ok(&self) -> u32 {
        self.reload().assert_success();
        self.pid()
    }

    /// Sends a signal to the newest generation and waits until another one has taken over: its pid.
    #[track_caller]
    pub fn reload_by(&self, signal: Signal) -> u32 {
        let old = self.pid();
        self.signal(signal);
        self.wait_until("another generation has taken over", |server| server.try_pid().is_some_and(|pid| pid != old));
        self.pid()
    }

    /// `reborn status --json`, which must succeed.
    #[track_caller]
    pub fn status(&self) -> Value {
        let output = self.command(["status", "--json"]);
        output.assert_success();
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("status is no JSON ({error}): {output}"))
    }

    /// `reborn stop`, then waits until no process is left.
    #[track_caller]
    pub fn stop(&self) -> CommandOutput {
        let output = self.command(["stop"]);
        self.wait_gone();
        output
    }

    /// The pid of the newest generation, as its status tells it.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let status = self.status();
        let pid = status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.unwrap_or_else(|| panic!("the status names no pid: {status}"))
    }

    /// The number of the newest generation, as its status tells it.
    #[track_caller]
    pub fn generation(&self) -> u64 {
        let status = self.status();
        status["generation"].as_u64().unwrap_or_else(|| panic!("the status names no generation: {status}"))
    }

    fn try_pid(&self) -> Option<u32> {
        let output = self.command(["status", "--json"]);
        let status: Value = serde_json::from_str(&output.stdout).ok()?;
        u32::try_from(status["pid"].as_u64()?).ok()
    }

    /// Sends a signal to the newest generation.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        self.signal_to(self.pid(), signal);
    }

    /// Sends a signal to one of this server's processes.
    #[track_caller]
    pub fn signal_to(&self, pid: u32, signal: Signal) {
        // In the instant of an exec a process has no environment to be known by.
        self.wait_until(&format!("pid {pid} is one of this server's"), |server| server.generations().contains(&pid));
        let is_sent = Process::open(pid).is_some_and(|process| process.signal(signal));
        assert!(is_sent, "pid {pid} ended before signal {signal:?}\n{}", self.state());
    }

    /// Sends a signal to all its processes at once, as a terminal does: for a server in a group of its own.
    #[track_caller]
    pub fn signal_group(&self, signal: Signal) {
        let group = i32::try_from(self.first).ok().and_then(Pid::from_raw).expect("a pid");
        let is_sent = kill_process_group(group, signal);
        assert!(is_sent.is_ok(), "no process of group {} is left: {is_sent:?}\n{}", self.first, self.state());
    }

    /// Runs `reborn reload` in a thread of its own, for tests that do something meanwhile.
    pub fn reload_in_background(&self) -> thread::JoinHandle<CommandOutput> {
        let mut command = self.client(["reload"]);
        thread::spawn(move || CommandOutput::of(&mut command))
    }

    /// Runs `reborn stop` in a thread of its own.
    pub fn stop_in_background(&self) -> thread::JoinHandle<CommandOutput> {
        let mut command = self.client(["stop"]);
        thread::spawn(move || CommandOutput::of(&mut command))
    }

    /// The pid in the pid file, if there is one.
    pub fn pid_in_file(&self) -> Option<u32> {
        fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()
    }

    /// Waits until no process is left, and panics unless its pid file and its control socket are gone with it.
    #[track_caller]
    pub fn wait_nothing_left(&self) {
        self.wait_gone();
        let left: Vec<_> = [Some(self.pid_file()), self.control.clone()].into_iter().flatten().collect();
        let left: Vec<_> = left.into_iter().filter(|path| path.symlink_metadata().is_ok()).collect();
        assert!(left.is_empty(), "{left:?} are left\n{}", self.state());
    }

    /// The pids of all its living processes.
    pub fn generations(&self) -> Vec<u32> {
        self.family.alive()
    }

    /// All processes that carry this server's marker, and how those ended that have.
    pub fn family(&self) -> &Family {
        &self.family
    }

    /// How a process ended, if it has and was ever looked at.
    pub fn ended(&self, pid: u32) -> Option<Ended> {
        self.family.ended(pid)
    }

    /// Waits for the end of a process.
    #[track_caller]
    pub fn wait_end(&self, pid: u32) -> Ended {
        self.wait_until(&format!("pid {pid} has ended"), |server| server.ended(pid).is_some());
        self.ended(pid).expect("it has just been seen to have ended")
    }

    /// Waits until one process is left, and says which.
    #[track_caller]
    pub fn wait_single(&self) -> u32 {
        self.wait_until("one process is left", |server| server.generations().len() == 1);
        self.generations()[0]
    }

    /// Waits until no process is left.
    #[track_caller]
    pub fn wait_gone(&self) {
        self.wait_until("no process is left", |server| server.generations().is_empty());
    }

    /// Puts another version at the path of its program, by rename.
    #[track_caller]
    pub fn replace_binary(&self, with: &Version) {
        with.put(&self.program);
    }

    /// Puts a version into a new release folder and switches the link to it, in one step.
    #[track_caller]
    pub fn switch_release(&self, name: &str, version: &Version) {
        let (release, new) = (self.folder().join("releases").join(name), self.folder().join("current.new"));
        fs::create_dir_all(&release).expect("a folder in the test's own");
        version.put(&release.join("reborn"));
        std::os::unix::fs::symlink(Path::new("releases").join(name), &new).expect("a link in the test's own folder");
        fs::rename(&new, self.folder().join("current")).expect("a rename within one folder");
    }

    /// Lets the successor that waits at the gate become the binary under test.
    #[track_caller]
    pub fn open_gate(&self) {
        self.replace_binary(&Version::Current);
        fs::write(beside(&self.program, "gate"), "").expect("a file in the test's own folder");
    }

    /// The pids of all broken versions that were started, in order.
    pub fn broken_pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(beside(&self.program, "started")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Waits until a broken version has been started once more than `before` times, and says its pid.
    #[track_caller]
    pub fn wait_broken(&self, before: usize) -> u32 {
        self.wait_until("the broken version is started", |server| server.broken_pids().len() > before);
        self.broken_pids()[before]
    }

    /// A load on its own address.
    pub fn load(&self) -> Load {
        Load::new(self.address)
    }

    /// A client connection to its own address.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        let target = Target::Tcp(self.address);
        let connection = smol::block_on(Connection::open(&target, Limits::default()));
        connection.unwrap_or_else(|lost| panic!("{lost:?}\n{}", self.state()))
    }

    /// One checked request on a connection of its own.
    #[track_caller]
    pub fn ask(&self) -> Answer {
        let answer = smol::block_on(self.connect().exchange(&Request::fast("ask").last()));
        answer.unwrap_or_else(|lost| panic!("{lost:?}\n{}", self.state()))
    }

    /// Everything that helps to understand a failure.
    pub fn state(&self) -> String {
        let log = self.log();
        let tail = log.len().saturating_sub(16 * 1024);
        let tail = (tail..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
        let (log, processes) = (&log[tail..], self.family.describe());
        let status = CommandOutput::or_killed(STATUS_MAX, &mut self.client(["status", "--json"]));
        let notifications = self.notify.as_ref().map(NotifySocket::messages);
        format!("processes:\n{processes}log:\n{log}\nstatus: {status}\nnotifications: {notifications:#?}\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the server when its test failed:\n{}log:\n{}", self.family.describe(), self.log());
        }
        self.family.kill(DEADLINE);
    }
}

/// Leaves a command only what it needs of the test's environment, and a runtime folder of its own.
fn clean(command: &mut Command, folder: &Path) {
    command.env_clear();
    for name in ENVIRONMENT_KEPT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // How many threads serve, where the test does not say it (`just test-teams`).
    if let Some(threads) = std::env::var_os("REBORN_TEST_THREADS") {
        command.env("REBORN_THREADS", threads);
    }
    command.env("XDG_RUNTIME_DIR", folder.join("run"));
}

/// A loopback address that no other test uses: all of 127/8 is this machine, so the pid fits into it, and the port is
/// below those that the kernel gives out by itself.
fn own_address(number: u32) -> SocketAddr {
    let pid = process::id();
    let octet = |shift: u32, mask: u32| u8::try_from(pid >> shift & mask).unwrap_or(0);
    let host = Ipv4Addr::new(127, 1 + octet(16, 0x3f), octet(8, 0xff), octet(0, 0xff));
    let port = u16::try_from(20_000 + number % 10_000).unwrap_or(20_000);
    (host, port).into()
}

#[cfg(test)]
mod tests {
    use super::own_address;

    #[test]
    fn each_server_has_an_address_of_its_own_on_loopback() {
        let (one, other) = (own_address(1), own_address(2));
        assert!(one.ip().is_loopback() && one != other && one.port() < 32_768);
    }
}
