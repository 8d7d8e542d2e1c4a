//! Stops a process at one of the messages that it sends on a handover socket, exactly before or exactly after it, and
//! reads what it has said so far: strace does it, attached to the process's main thread.
//!
//! The server has to run with `--threads 1`, so that its main thread sends all messages. Nothing in the server knows of
//! this; a process that is let go of, by [`Tracer::release`] or by a drop, runs on as if nothing had been.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::NamedTempFile;

use super::{DEADLINE, Process};

/// How often strace's words are looked at.
const STEP: Duration = Duration::from_millis(1);

/// A side of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The kernel has not begun with it.
    Before,
    /// The kernel has done it, and the process has not gone on.
    After,
}

/// An strace that watches the messages of one process.
#[derive(Debug)]
pub struct Tracer {
    strace: Process,
    traced: u32,
    messages: NamedTempFile,
    stop: Option<(usize, Edge)>,
}

impl Tracer {
    /// Watches the messages that a process, which is idle now, sends from now on.
    #[track_caller]
    pub fn watch(pid: u32) -> Self {
        Self::attach(pid, None)
    }

    /// The same, and stops the process at the message of this number, counted from 0.
    #[track_caller]
    pub fn stop_at(pid: u32, message: usize, edge: Edge) -> Self {
        Self::attach(pid, Some((message, edge)))
    }

    #[track_caller]
    fn attach(pid: u32, stop: Option<(usize, Edge)>) -> Self {
        let [messages, words] = [(); 2].map(|()| NamedTempFile::new().expect("a temporary file"));
        let mut command = Command::new("strace");
        command.args(["-s", "64", "-e", "trace=sendmsg", "-p", &pid.to_string(), "-o"]).arg(messages.path());
        if let Some((message, edge)) = stop {
            let side = if edge == Edge::Before { "delay_enter" } else { "delay_exit" };
            // In microseconds: longer than any test.
            command.args(["-e", &format!("inject=sendmsg:{side}=3600000000:when={}", message + 1)]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(words.path()).expect("the same file"));
        let strace = Process::spawn(&mut command).expect("strace (Debian package strace) can be started");
        let tracer = Self { strace, traced: pid, messages, stop };
        let words = || fs::read_to_string(words.path()).unwrap_or_default();
        tracer.wait("strace has attached", || words().contains(" attached"), words);
        tracer
    }

    /// The kinds of the messages sent so far, and that of the one at which the process is stopped.
    pub fn kinds(&self) -> Vec<String> {
        self.calls().iter().map(|call| kind_of(call).to_owned()).collect()
    }

    /// Waits until the process is stopped.
    #[track_caller]
    pub fn wait_stopped(&self) {
        let (message, edge) = self.stop.expect("it is to stop somewhere");
        let stopped = || {
            let calls = self.calls();
            calls.get(message).is_some_and(|call| edge == Edge::Before || call.ends_with("(DELAYED)"))
        };
        self.wait("the process is stopped", stopped, || format!("{:#?}", self.calls()));
    }

    /// Waits until a message of this kind has been sent for the `count`th time.
    #[track_caller]
    pub fn wait_sent(&self, kind: &str, count: usize) {
        // A call that the kernel has not done yet has no result.
        let is_sent = |call: &&String| kind_of(call) == kind && call.contains(") = ");
        let sent = || self.calls().iter().filter(is_sent).count() >= count;
        self.wait(&format!("{kind} is sent"), sent, || format!("{:#?}", self.calls()));
    }

    /// Kills the process with -9 where it stands.
    #[track_caller]
    pub fn kill(&self) {
        let process = Process::open(self.traced).expect("it lives");
        assert!(process.signal(Signal::KILL), "it lives");
        // strace, which would show the end of a process, has first to wait for the end of its stop.
        self.strace.signal(Signal::KILL);
        assert!(process.wait(DEADLINE), "pid {} outlives SIGKILL", self.traced);
    }

    /// Lets the process run on, unwatched.
    pub fn release(&self) {
        // strace lets go of the process, and ends; it has ended already where the process has.
        self.strace.signal(Signal::TERM);
        self.strace.wait(DEADLINE);
        self.strace.ended();
    }

    /// One line for each call; the last one may have no end yet.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.messages.path()).expect("a file of this process's own");
        text.lines().filter(|line| line.starts_with("sendmsg(")).map(str::to_owned).collect()
    }

    #[track_caller]
    fn wait(&self, what: &str, mut holds: impl FnMut() -> bool, state: impl Fn() -> String) {
        let end = Instant::now() + DEADLINE;
        while !holds() {
            let traced = self.traced;
            assert!(Instant::now() < end, "waited {DEADLINE:?} until {what} (pid {traced}); strace: {}", state());
            thread::sleep(STEP);
        }
    }
}

/// The kind of the message that a call sends.
fn kind_of(call: &str) -> &str {
    let kind = call.split_once(r#"{\"kind\":\""#).and_then(|(_, rest)| rest.split_once('\\'));
    kind.map_or("", |(kind, _)| kind)
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.release();
    }
}
