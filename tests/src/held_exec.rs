//! A program whose exec hangs for as long as a test wants, as it does under an on-access virus scanner or on a slow file
//! system: somebody holds a lease on the file (`fcntl(2)`, F_SETLEASE), and the kernel waits for it to be given back.
//!
//! The kernel takes the lease back after /proc/sys/fs/lease-break-time, 45 s: longer than a test waits for anything.

use std::{
    io::{BufRead as _, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

/// Takes a write lease, says so, says when somebody wants to open the file, and keeps it until its standard input ends.
/// F_SETLEASE is 1024, F_WRLCK is 1.
const HOLDER: &str = r#"
    $| = 1;
    $SIG{IO} = sub { print "wanted\n" };
    open(my $file, "<", $ARGV[0]) or die "open: $!";
    fcntl($file, 1024, 1) or die "lease: $!";
    print "held\n";
    1 while <STDIN>;
"#;

/// Holds up every exec of a file, until it is dropped.
#[derive(Debug)]
pub struct HeldExec {
    holder: Child,
    says: Lines<BufReader<ChildStdout>>,
}

impl HeldExec {
    /// Begins to. The file must be nobody else's: no process may have it open, or run it.
    #[track_caller]
    pub fn new(program: &Path) -> Self {
        let mut command = Command::new("perl");
        command.args(["-e", HOLDER]).arg(program).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().expect("perl can be started");
        let stdout = holder.stdout.take().expect("its output is a pipe");
        let mut held = Self { holder, says: BufReader::new(stdout).lines() };
        held.wait_for("held");
        held
    }

    /// Waits until an exec hangs.
    #[track_caller]
    pub fn wait_wanted(&mut self) {
        self.wait_for("wanted");
    }

    #[track_caller]
    fn wait_for(&mut self, what: &str) {
        let line = self.says.next().and_then(Result::ok);
        assert_eq!(line.as_deref(), Some(what), "the lease on the program");
    }
}

impl Drop for HeldExec {
    fn drop(&mut self) {
        // The end of its input is the end of its lease.
        drop(self.holder.stdin.take());
        let _is_over = self.holder.wait();
    }
}
