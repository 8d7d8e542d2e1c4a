//! Runs a command to its end and keeps what it wrote. Its output goes to files, not pipes, so that a grandchild which
//! holds them open can't keep the test waiting; it has one deadline, and is killed at it.

use std::{
    fmt,
    fs::File,
    io::{Read, Seek},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::procfs::{Ended, Process};

/// How long a command may take.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// How long the kernel may take to end a killed command.
const KILL_MAX: Duration = Duration::from_secs(10);

/// A command that has ended.
#[derive(Clone, Debug)]
pub struct CommandOutput {
    /// The command as typed.
    pub command: String,
    /// How it ended.
    pub ended: Ended,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
    /// When it began.
    pub started: Instant,
    /// How long it took.
    pub took: Duration,
}

impl CommandOutput {
    /// Runs the command, with nothing on its standard input.
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        Self::within(COMMAND_MAX, command)
    }

    /// Runs the command, killing it at a deadline of the caller's own.
    #[track_caller]
    pub fn within(deadline: Duration, command: &mut Command) -> Self {
        let output = Self::or_killed(deadline, command);
        let is_in_time = output.took < deadline;
        assert!(is_in_time, "the command took longer than {deadline:?}: {output}");
        output
    }

    /// The same, for a caller that takes a killed command for an answer.
    #[track_caller]
    pub(crate) fn or_killed(deadline: Duration, command: &mut Command) -> Self {
        let text = format!("{command:?}");
        let [mut stdout, mut stderr] = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file"));
        let copy = |file: &File| Stdio::from(file.try_clone().expect("a second handle of the file"));
        command.stdin(Stdio::null()).stdout(copy(&stdout)).stderr(copy(&stderr));
        let started = Instant::now();
        let process = Process::spawn(command).unwrap_or_else(|error| panic!("cannot start {text}: {error}"));
        let is_in_time = process.wait(deadline);
        let took = started.elapsed();
        if !is_in_time {
            process.signal(Signal::KILL);
            process.wait(KILL_MAX);
        }
        let ended = process.ended().expect("the command is this process's child and has ended");
        let (stdout, stderr) = (contents(&mut stdout), contents(&mut stderr));
        Self { command: text, ended, stdout, stderr, started, took }
    }

    /// Whether it exited with status 0.
    pub fn is_success(&self) -> bool {
        self.ended == Ended::Code(0)
    }

    /// Panics with everything unless it exited with status 0.
    #[track_caller]
    pub fn assert_success(&self) -> &Self {
        self.assert_code(0)
    }

    /// Panics with everything unless it exited with this status.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert!(self.ended == Ended::Code(code), "status {code} was expected: {self}");
        self
    }

    /// Panics with everything unless its standard error holds the text.
    #[track_caller]
    pub fn assert_stderr(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "{text:?} was expected on stderr: {self}");
        self
    }
}

impl fmt::Display for CommandOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, ended, stdout, stderr, took, .. } = self;
        write!(f, "{command} {ended} after {took:?}\nstdout: {stdout}\nstderr: {stderr}")
    }
}

fn contents(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("the file of the command's output can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::CommandOutput;

    #[test]
    fn a_command_is_over_although_a_grandchild_holds_its_output() {
        let output = CommandOutput::of(Command::new("sh").args(["-c", "sleep 20 & echo out; echo err >&2; exit 3"]));
        output.assert_code(3).assert_stderr("err\n");
        assert_eq!((output.stdout.as_str(), output.is_success()), ("out\n", false));
        assert!(output.took.as_secs() < 20);
    }
}
