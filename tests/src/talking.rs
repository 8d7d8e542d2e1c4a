//! A client that is a program of its own, and is told what to do line by line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A client. Dropped, it is killed.
#[derive(Debug)]
pub struct Talking {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Talking {
    /// Starts it.
    pub fn start(command: &mut Command) -> Talking {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it can be started");
        let (to, from) =
            (process.stdin.take().expect("it is a pipe"), BufReader::new(process.stdout.take().expect("it is a pipe")));
        Talking { process, to, from }
    }

    /// Tells it something.
    pub fn say(&mut self, line: &str) {
        writeln!(self.to, "{line}").expect("it listens");
    }

    /// The next line that has `what`. Its own deadlines end a client that waits in vain.
    #[track_caller]
    pub fn hears(&mut self, what: &str) -> String {
        let mut all = String::new();
        loop {
            let before = all.len();
            assert!(self.from.read_line(&mut all).expect("it speaks text") > 0, "no {what:?} in {all}");
            if all[before..].contains(what) {
                return all[before..].trim().to_owned();
            }
        }
    }

    /// Tells it something, and what it says to that.
    #[track_caller]
    pub fn answers(&mut self, command: &str, expected: &str) {
        self.say(command);
        assert_eq!(self.hears(""), expected);
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
