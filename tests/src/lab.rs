//! A private, real systemd for tests: [`Lab`] boots one in namespaces of its own (`tests/systemd/lab` has the how),
//! runs commands in it, reaches its files and its network, and takes it down when dropped.
//!
//! It needs root and namespaces. Where it is not permitted, [`Lab::boot`] says so on standard error and gives `None`, and
//! the test returns; with `CI=true` in the environment it fails the test instead. A lab is a test's own: tests run side
//! by side and share nothing. `REBORN_LAB_ROOT` names another root file system to boot, with its own systemd.

mod service;

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    load::{CROWD_BYTES, Connection, Limits, Target, pattern},
    network,
    skip::skip,
};

pub use service::{PROGRAM, Service, UNIT, install};

/// The exit status with which the script says that the machine does not permit a lab.
const NOT_PERMITTED: i32 = 77;
/// The longest that anything in a lab is waited for, unless a test says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Where systemd looks for units, inside.
const UNITS: &str = "/etc/systemd/system";

/// A running instance.
#[derive(Debug)]
#[must_use = "the instance ends when this is dropped"]
pub struct Lab {
    /// The script: it ends the instance when its standard input closes.
    holder: Child,
    /// The instance's PID 1, as the host sees it.
    init: u32,
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, without white space at the end.
    pub stdout: String,
    /// Its standard error, without white space at the end.
    pub stderr: String,
}

impl Lab {
    /// Boots an instance; `None` where that is not permitted, after saying why (a test then has nothing to do).
    ///
    /// # Panics
    /// If the boot fails, or if it is not permitted and `CI=true`.
    pub fn boot() -> Option<Self> {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/lab"));
        if let Some(root) = env::var_os("REBORN_LAB_ROOT") {
            command.arg("--root").arg(root);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().expect("the lab's script can be started");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("its output is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("its output is text");
        if let Some(init) = line.strip_prefix("ready ") {
            let init = init.trim().parse().expect("a pid follows");
            return Some(Self { holder, init });
        }
        let mut why = String::new();
        holder.stderr.take().expect("its errors are a pipe").read_to_string(&mut why).expect("its errors are text");
        let status = holder.wait().expect("it was started here");
        let not_permitted = status.code() == Some(NOT_PERMITTED);
        assert!(not_permitted, "no systemd could be booted ({status}):\n{why}");
        skip(why.trim());
        None
    }

    /// The same file as the host reaches it.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        Path::new(&format!("/proc/{}/root", self.init)).join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// Writes a file, its folders included.
    pub fn write(&self, inside: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("folders can be made");
        fs::write(&path, contents).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Writes the file that a [`Crowd`](crate::load::Crowd) downloads, its folders included.
    pub fn write_pattern(&self, inside: impl AsRef<Path>) {
        self.write(&inside, "");
        pattern::write_file(&self.path(inside), CROWD_BYTES).expect("a file that was just made");
    }

    /// Puts an executable script at a path by rename, as a package manager replaces a program that runs. A child writes
    /// it: another test's child could otherwise hold it open for writing at the moment in which it is executed.
    pub fn place(&self, script: &str, inside: &str) {
        let write = "cat >\"$0.new\" && chmod 755 \"$0.new\" && mv \"$0.new\" \"$0\"";
        let mut writer =
            self.command(["sh", "-c", write, inside]).stdin(Stdio::piped()).spawn().expect("nsenter starts");
        let mut stdin = writer.stdin.take().expect("its input is a pipe");
        stdin.write_all(script.as_bytes()).expect("it reads its input");
        drop(stdin);
        assert!(writer.wait().expect("it was started here").success(), "cannot write {inside}");
    }

    /// Installs the units (sockets and services) of one of the repository's folders, and makes the group that they have.
    pub fn units(&self, folder: impl AsRef<Path>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("the folder can be read").path();
            if path.extension().is_some_and(|extension| extension == "service" || extension == "socket") {
                let name = path.file_name().expect("a file has a name");
                self.write(Path::new(UNITS).join(name), fs::read(&path).expect("a unit can be read"));
            }
        }
        if let Ok(groups) = fs::read(folder.join("sysusers.conf")) {
            self.write("/usr/lib/sysusers.d/reborn.conf", groups);
            self.sh("systemd-sysusers reborn.conf");
        }
        self.systemctl(["daemon-reload"]);
    }

    /// Writes a unit of the test's own.
    pub fn unit(&self, name: &str, text: &str) {
        self.write(Path::new(UNITS).join(name), text);
        self.systemctl(["daemon-reload"]);
    }

    /// Changes a unit by a drop-in, as `systemctl edit` does. The name tells several of them apart.
    pub fn edit(&self, unit: &str, name: &str, text: &str) {
        self.write(Path::new(UNITS).join(format!("{unit}.d/{name}.conf")), text);
        self.systemctl(["daemon-reload"]);
    }

    /// A command in all of the instance's namespaces, as root, with a clean environment; to be started by the caller.
    pub fn command(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--mount", "--pid", "--uts", "--ipc", "--net", "--wd", "--"]);
        command.args(words).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LANG", "C.UTF-8").env("HOME", "/root").env("SYSTEMD_PAGER", "");
        command
    }

    /// Runs a command to its end, however it ends.
    pub fn exec(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Said {
        Said::from(self.command(words).output().expect("nsenter can be started"))
    }

    /// Runs a command line as it would be typed, which must succeed, and gives what it printed.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        let said = self.exec(["sh", "-c", line]);
        assert!(said.status.success(), "{line}: {said:#?}\n{}", self.state());
        said.stdout
    }

    /// Starts a command and leaves it running; its output is piped.
    pub fn spawn(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Child {
        let mut command = self.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nsenter can be started")
    }

    /// Runs `systemctl`, which must succeed, and gives what it printed.
    #[track_caller]
    pub fn systemctl(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
        let words: Vec<OsString> =
            std::iter::once("systemctl".into()).chain(words.into_iter().map(|word| word.as_ref().into())).collect();
        let said = self.exec(&words);
        assert!(said.status.success(), "{words:?}: {said:#?}\n{}", self.state());
        said.stdout
    }

    /// The version of the instance's systemd.
    pub fn systemd_version(&self) -> u32 {
        let said = self.systemctl(["--version"]);
        said.split_whitespace().nth(1).and_then(|version| version.parse().ok()).expect("`systemd 252 (252.38-1)`")
    }

    /// One property of a unit, as `systemctl show` prints it.
    #[track_caller]
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.systemctl(["show", "--property", property, "--value", unit])
    }

    /// What the journal has of a unit, systemd's own lines about it included.
    pub fn journal(&self, unit: &str) -> String {
        self.exec(["journalctl", "--sync"]);
        self.exec(["journalctl", "--unit", unit, "--output", "short-precise", "--no-pager"]).stdout
    }

    /// Waits until a condition holds.
    ///
    /// # Panics
    /// When the deadline passes, with the instance's state and journal.
    #[track_caller]
    pub fn wait_until(&self, what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}\n{}", self.state());
            // A look every few milliseconds: systemd announces none of what is waited for here on a descriptor.
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Calls a function in the instance's network. Threads that it starts, and their sockets, are inside too; all else
    /// (files, pids) is the host's.
    pub fn inside<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        network::inside(self.init, function)
    }

    /// One GET from inside, on a connection of its own: the body of the answer, or nothing where none came.
    pub fn get(&self, target: &Target, path: &str) -> Option<String> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let exchange = || {
            smol::block_on(async {
                let limits = Limits { answer: DEADLINE, ..Limits::default() };
                let mut connection = Connection::open(target, limits).await.ok()?;
                connection.send(request.as_bytes()).await.ok()?;
                connection.answer().await.ok()
            })
        };
        self.inside(exchange).map(|answer| answer.text().trim_end().to_owned())
    }

    /// Everything that helps to understand a failure: what runs, and the journal.
    pub fn state(&self) -> String {
        let mut text = String::new();
        for words in [
            &["systemctl", "status", "--no-pager", "--full"][..],
            &["systemctl", "list-jobs", "--no-pager"],
            &["ps", "-A", "-o", "pid,ppid,stat,wchan:20,args"],
            &["journalctl", "--no-pager", "--output", "short-precise", "--lines", "200"],
        ] {
            let said = self.exec(words);
            write!(text, "---- {}\n{}{}\n", words.join(" "), said.stdout, said.stderr).expect("a String takes it");
        }
        text
    }

    /// The instance's PID 1, as the host sees it.
    pub fn init(&self) -> u32 {
        self.init
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let mut why = String::new();
        if let Some(mut stderr) = self.holder.stderr.take() {
            // It ends when the script does; what it says matters only if it failed.
            let _ = stderr.read_to_string(&mut why);
        }
        let status = self.holder.wait().expect("it was started here");
        if !thread::panicking() {
            assert!(status.success(), "the lab left something behind ({status}): {why}");
        }
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
        Self { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}
